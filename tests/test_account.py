"""drivers/account: prices of calls, the guest's clock, and the frames it holds over time."""

import numpy as np
import pytest

from fastonline.drivers.account import CALLS, check_prices
from fastonline.drivers.hypervisor import INVALID_P2M_ENTRY, Domain, Host, ResidentDomain


@pytest.mark.parametrize("prices, match", [
    (-1, "cost"), ({"hypercall": 1}, "unknown call 'hypercall'"), ({"touch": (1, 2)}, "touch cannot cost"),
    ({"touch": (1, 2, float("nan"))}, "touch cannot cost"), ({"touch": float("inf")}, "touch cannot cost"),
])
def test_bad_prices(prices, match):
    for refuses in (check_prices, lambda prices: Host("1M", call_ns=prices)):
        with pytest.raises(ValueError, match=match):
            refuses(prices)


def test_one_price_is_for_every_call():
    assert check_prices(5) == dict.fromkeys(CALLS, (5, 0, 0))
    assert check_prices({"touch": [1, 2, 3]})["touch"] == (1, 2, 3)


def test_prices_by_call_frame_and_touched_frame():
    """Expect a discard to cost 5 ns, 2 ns for each page named and 100 ns for each that had a frame; the clock shows the sum."""
    host = Host("1M", call_ns={"discard": (5, 2, 100), "touch": 7})
    guest = ResidentDomain(host)
    guest.touch(np.arange(10))
    assert guest.ns == 70
    assert guest.discard(np.arange(30), calls=3) == 10
    assert guest.ns == 70 + 3 * 5 + 30 * 2 + 10 * 100 and guest.frames["discard"] == 30
    assert guest.now == pytest.approx(guest.ns / 1e9)
    guest.wait_until(1.0)
    guest.wait_until(0.5)
    assert guest.now == 1.0


def test_peak_pages_counts_within_a_step():
    domain = Domain(Host("1M"), "64K")
    pfns = np.arange(16, 48)
    domain.back(pfns)
    domain.unback(pfns)
    assert domain.tot_pages == 16 and domain.reset_peak() == 48 and domain.peak_pages == 16
    domain.wait(2.0)
    assert domain.page_seconds == 32.0
    guest = ResidentDomain(Host("1M"), limit="32K")
    guest.touch(np.arange(20))
    assert guest.peak_pages == 8


def state_of(domain):
    """All that its calls change."""
    table = [(pfn, mfn) for pfn, mfn in enumerate(domain.p2m.tolist()) if mfn != INVALID_P2M_ENTRY]
    return (domain.calls, domain.frames, domain.ns, domain.now, domain.page_seconds, domain.tot_pages, domain.peak_pages, table,
            domain.host.free_list().tolist())


@pytest.mark.parametrize("nr, batch", [(64, 16), (70, 16), (16, 16), (5, 16), (7, 1)])
@pytest.mark.parametrize("mapped", [None, "some", "all"])
@pytest.mark.parametrize("ns", [0, 0.1], ids=["free", "priced"])
def test_batches_are_single_calls(nr, batch, mapped, ns):
    """Frames come and go in batches, pages are mapped and unmapped between them. Expect what single calls give, to the bit:
    frames, counts, clock, cost, integral and peak."""
    prices = {"populate_physmap": (1e6 * ns, 7e5 * ns, 0), "update_va_mapping": (3e5 * ns, 1e4 * ns, 0),
              "decrease_reservation": (2e6 * ns, 1e3 * ns, 5e5 * ns)}
    one, other = (Domain(Host("1M", scattered=True, call_ns=prices), "64K") for _ in range(2))
    which = None if mapped is None else np.arange(nr) % 3 == 0 if mapped == "some" else np.ones(nr, bool)
    pfns = np.arange(100, 100 + nr)
    mfns = one.populate_in_batches(nr, batch, which)
    one.set_phys_to_machine(pfns, mfns)
    for at in range(0, nr, batch):
        part = pfns[at : at + batch]
        got = other.populate_physmap(part)
        other.set_phys_to_machine(part, got)
        if which is not None:
            other.update_va_mapping(part[which[at : at + batch]], got[which[at : at + batch]])
    assert state_of(one) == state_of(other)
    one.set_phys_to_machine(pfns[::-1], INVALID_P2M_ENTRY)
    one.decrease_in_batches(mfns[::-1], batch, which)
    for at in range(0, nr, batch):
        if which is not None:
            other.update_va_mapping(pfns[at : at + batch][which[at : at + batch]], None)
        other.set_phys_to_machine(pfns[::-1][at : at + batch], INVALID_P2M_ENTRY)
        other.decrease_reservation(mfns[::-1][at : at + batch])
    assert state_of(one) == state_of(other) and one.tot_pages == 16
    one.host.validate()
