"""What the tests of the drivers have in common: small guests, and domains that fail half-way."""

import pytest

from fastonline import LINUX_2_6_25, LINUX_6_1
from fastonline.drivers.host import Host
from fastonline.drivers.hypervisor import Domain
from fastonline.testing.geometries import GUEST_64, GUEST_PAE

UNIT = GUEST_64.pages_per_section
OLD, NEW = (GUEST_PAE, LINUX_2_6_25), (GUEST_64, LINUX_6_1)


class HalfWay(Domain):
    """A domain whose next populate breaks off after so many extents, or raises before any."""

    stop_at = None
    dies = False

    def available(self, nr_pages):
        return 0 if self.dies or self.stop_at is not None else super().available(nr_pages)

    def _first(self, pfns):
        if self.dies:
            self.dies = False
            raise KeyboardInterrupt
        stop_at, self.stop_at = self.stop_at, None
        return pfns[:stop_at]

    def populate_physmap(self, pfns, order=0):
        return super().populate_physmap(self._first(pfns), order)

    def back(self, pfns):
        return super().back(self._first(pfns))


class Dying:
    """Of a ResidentDomain: it dies when it discards or touches, once that was done so many times."""

    dies_in = None

    def _count_down(self):
        if self.dies_in is not None:
            self.dies_in -= 1
            if self.dies_in < 0:
                self.dies_in = None
                raise KeyboardInterrupt

    def discard(self, pfns, calls=1, order=0):
        self._count_down()
        return super().discard(pfns, calls, order)

    def touch(self, pfns, *args, **options):
        self._count_down()
        return super().touch(pfns, *args, **options)


def check_refused(call):
    """call(host, domain) raises ValueError or TypeError, and both are still valid."""
    host = Host("1M")
    domain = Domain(host, "64K")
    with pytest.raises((ValueError, TypeError)):
        call(host, domain)
    host.validate()
    domain.validate()
