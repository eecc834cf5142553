"""Small guests for the tests of the drivers: 16 MiB sections, so that a step of a state machine is cheap."""

from dataclasses import replace

import pytest

from fastonline import LINUX_2_6_25, LINUX_6_1, X86_32_PAE, X86_64
from fastonline.drivers.hypervisor import Domain

SMALL_64 = replace(X86_64, name="SMALL_64", section_size_bits=24)
SMALL_32 = replace(
    X86_32_PAE, name="SMALL_32", section_size_bits=24, sections_in_flags=False, flags_reserved=32,
    zone_limits=(("DMA", 4 << 20), ("Normal", 16 << 20), ("HighMem", None)),
)
UNIT = SMALL_64.pages_per_section
ENGINES = ("bitmap", "struct_page")
OLD, NEW = (SMALL_32, LINUX_2_6_25), (SMALL_64, LINUX_6_1)
NO_SIZES = pytest.mark.parametrize("size, error", [
    ("no size", ValueError), ("-1G", ValueError), (-1, ValueError), (None, TypeError), (1.5, TypeError),
])


class HalfWay(Domain):
    """A domain whose next populate breaks off after so many extents, or raises before any."""

    stop_at = None
    dies = False

    def populate_physmap(self, pfns, order=0):
        if self.dies:
            self.dies = False
            raise KeyboardInterrupt
        if self.stop_at is not None:
            pfns, self.stop_at = pfns[: self.stop_at], None
        return super().populate_physmap(pfns, order)


class Dying:
    """Of a ResidentDomain: it dies when it discards or touches, once that was done so many times."""

    dies_in = None

    def _count_down(self):
        if self.dies_in is not None:
            self.dies_in -= 1
            if self.dies_in < 0:
                self.dies_in = None
                raise KeyboardInterrupt

    def discard(self, pfns, calls=1):
        self._count_down()
        return super().discard(pfns, calls)

    def touch(self, pfns, *args, **options):
        self._count_down()
        return super().touch(pfns, *args, **options)
