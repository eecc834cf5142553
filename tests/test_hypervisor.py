"""The domains that have a host's frames: Xen's view and KVM's."""

import errno

import numpy as np
import pytest
from drivers_common import check_refused
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from fastonline import HotplugError
from fastonline.drivers.extents import AT_ONCE, pages_of_extents
from fastonline.drivers.hypervisor import INVALID_P2M_ENTRY, Domain, Host, ResidentDomain


def test_populate_and_decrease_with_p2m():
    host = Host("1M")
    domain = Domain(host, "64K")
    pfns = np.arange(100, 110)
    mfns = domain.populate_physmap(pfns)
    assert mfns.size == 10 and domain.tot_pages == 26 and host.free_frames == 256 - 26
    with pytest.raises(AssertionError, match="26 frames and 16 pages"):
        host.validate()     # the guest has not entered them yet
    domain.set_phys_to_machine(pfns, mfns)
    host.validate()
    assert domain.p2m[105] == mfns[5] and domain.p2m[50] == INVALID_P2M_ENTRY
    domain.set_phys_to_machine(pfns, INVALID_P2M_ENTRY)
    assert domain.decrease_reservation(mfns) == 10
    host.validate()
    assert host.free_frames == 240
    assert np.array_equal(domain.populate_physmap(pfns[:1]), mfns[-1:])    # what came back last goes first


def test_partial_success_at_cap_and_host():
    host = Host("1M")
    capped = Domain(host, "64K", max_memory="96K", name="capped")
    assert capped.populate_physmap(np.arange(16, 32)).size == 8
    assert capped.refused == {"cap": 8, "host": 0}
    other = Domain(host)
    assert other.populate_physmap(np.arange(300)).size == 256 - 24
    assert other.refused == {"cap": 0, "host": 300 - 232}
    assert other.populate_physmap(np.arange(1)).size == 0
    assert other.tot_pages + capped.tot_pages == host.nr_frames


def test_decrease_stops_at_a_frame_of_somebody_else():
    host = Host("1M")
    one, two = Domain(host, "64K"), Domain(host, "64K")
    mfns = np.array([0, 1, 16, 2])      # the third is two's
    one.set_phys_to_machine(np.arange(3), INVALID_P2M_ENTRY)
    assert one.decrease_reservation(mfns) == 2
    assert one.tot_pages == 14 and two.tot_pages == 16
    assert one.decrease_reservation(np.array([-1])) == one.decrease_reservation(np.array([10**6])) == 0
    with pytest.raises(HotplugError) as e:
        one.update_va_mapping(np.array([5]), np.array([16]))
    assert e.value.errno == errno.EINVAL and "not its own" in str(e.value)


def test_calls_cost():
    host = Host("1M", call_ns={"populate_physmap": 700, "update_va_mapping": 50})
    domain = Domain(host)
    mfns = domain.populate_physmap(np.arange(10))
    domain.update_va_mapping(np.arange(10), mfns)
    domain.decrease_reservation(mfns)
    assert domain.ns == 700 + 10 * 50
    assert [domain.calls[name] for name in ("populate_physmap", "update_va_mapping", "decrease_reservation")] == [1, 10, 1]


def test_a_destroyed_domain_gives_all_back():
    host = Host("1M", scattered=True)
    one, two = Domain(host, "512K"), Domain(host, "512K")
    assert host.free_frames == 0
    one.destroy()
    host.validate()
    assert host.free_frames == 128 and list(host.domains) == [two.domid]
    assert Domain(host).domid == 2


@pytest.mark.parametrize("make, error, match", [
    (lambda: Host("0"), ValueError, "a host needs at least one frame"),
    (lambda: Host("5000"), ValueError, "multiple of 4K"),
    (lambda: Host("no size"), ValueError, "no size"),
    (lambda: Domain(Host("1M"), "1M", max_memory="512K"), ValueError, "more than the domain may have"),
    (lambda: Domain(Host("1M"), "2M"), HotplugError, "cannot be built"),
    (lambda: Domain(Host("1M"), 1.5), TypeError, "size"),
])
def test_bad_input(make, error, match):
    with pytest.raises(error, match=match):
        make()


def test_resident_pages_and_the_limit():
    host = Host("1M")
    guest = ResidentDomain(host, limit="64K")
    assert guest.touch(np.arange(16)) == 16 and guest.tot_pages == 16
    assert guest.touch(np.arange(16)) == 0
    assert guest.touch(np.arange(16, 20)) == 4      # the four longest resident are swapped out
    assert guest.swapped(np.arange(6)).tolist() == [True] * 4 + [False] * 2
    assert guest.touch(np.array([0])) == 1 and guest.swapped_in == 1
    guest.set_limit("32K")
    assert guest.tot_pages == 8
    assert guest.discard(np.arange(40)) == 8 and guest.tot_pages == 0
    assert not guest.swapped(np.arange(20)).any()
    host.validate()
    guest.set_limit(0)
    with pytest.raises(HotplugError) as e:
        guest.touch(np.array([1]))
    assert e.value.errno == errno.ENOMEM
    host.validate()


@pytest.mark.parametrize("scattered", [False, True])
def test_blocks_are_discarded_as_their_pages_are(scattered):
    """Some pages without a frame, more than are discarded at a time, 7 calls. Expect equal frames, calls, cost and integral."""
    twins = []
    for _ in range(2):
        domain = ResidentDomain(Host("1G", scattered=scattered, call_ns={"discard": (1000, 3, 20), "touch": 50}))
        domain.touch(np.arange(0, 3 * AT_ONCE, 3))
        domain.touch(np.arange(AT_ONCE, 2 * AT_ONCE))
        twins.append(domain)
    heads = np.arange(0, 2 * AT_ONCE + 1024, 512)
    one, other = twins
    assert one.discard(heads, 7, 9) == other.discard(pages_of_extents(heads, 9), 7) > AT_ONCE
    assert (one.calls, one.frames, one.ns, one.now) == (other.calls, other.frames, other.ns, other.now)
    assert one.page_seconds == other.page_seconds and np.array_equal(one.p2m, other.p2m)
    assert np.array_equal(one.host.free_list(), other.host.free_list())
    one.host.validate()


def test_successive_pages_and_others_get_the_same_frames():
    """Pages touched in one call and one by one, on a table that must grow. Expect one table."""
    whole, single = ResidentDomain(Host("16M")), ResidentDomain(Host("16M"))
    for pfns in (np.arange(100, 200), np.arange(1000, 1100), np.array([5, 7, 8]), np.arange(2000, 2001)):
        assert whole.touch(pfns) == sum(single.touch(pfns[i : i + 1]) for i in range(pfns.size)) == pfns.size
    assert np.array_equal(whole.p2m[:2001], single.p2m[:2001])
    assert whole.backed(np.arange(3000)).sum() == 204 and not whole.backed(np.arange(2001, 2100)).any()
    assert np.array_equal(whole.victims(300), single.victims(300))
    whole.host.validate()


class HostMachine(RuleBasedStateMachine):
    """Two Xen domains and a KVM guest on a host that is too small for them."""

    def __init__(self):
        super().__init__()
        self.host = Host("256K", scattered=True, seed=5)
        self.xen = [Domain(self.host, "32K"), Domain(self.host, max_memory="100K")]
        self.kvm = ResidentDomain(self.host, limit="80K")

    @rule(which=st.integers(0, 1), start=st.integers(0, 90), nr=st.integers(0, 60), order=st.sampled_from([0, 0, 2]))
    def populate(self, which, start, nr, order):
        domain = self.xen[which]
        heads = np.arange(start, start + nr) << order
        free = heads[~np.array([domain.backed(np.arange(h, h + (1 << order))).any() for h in heads], bool)]
        before = domain.tot_pages
        mfns = domain.populate_physmap(free, order)
        assert domain.tot_pages == before + (mfns.size << order)
        assert mfns.size == free.size or order or self.host.free_frames == 0 or domain.room(1) == 0
        for head, mfn in zip(free, mfns, strict=False):
            domain.set_phys_to_machine(head + np.arange(1 << order), mfn + np.arange(1 << order))

    @rule(which=st.integers(0, 1), seed=st.integers(0, 99), nr=st.integers(0, 60))
    def decrease(self, which, seed, nr):
        domain = self.xen[which]
        pfns = np.random.default_rng(seed).permutation(domain.backed_pfns())[:nr]
        domain.unback(pfns)
        assert not domain.backed(pfns).any()

    @rule(seed=st.integers(0, 99), nr=st.integers(0, 60))
    def touch(self, seed, nr):
        pfns = np.random.default_rng(seed).permutation(60)[:nr]
        try:
            self.kvm.touch(pfns)
        except HotplugError as e:
            assert e.errno == errno.ENOMEM and (self.host.free_frames == 0 or self.kvm.max_pages == 0)

    @rule(start=st.integers(0, 60), nr=st.integers(0, 20))
    def discard(self, start, nr):
        self.kvm.discard(np.arange(start, start + nr))

    @rule(pages=st.integers(0, 40))
    def limit(self, pages):
        self.kvm.set_limit(pages * 4096)
        assert self.kvm.tot_pages <= pages

    @invariant()
    def books_balance(self):
        self.host.validate()


TestHostMachine = HostMachine.TestCase
TestHostMachine.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)


@pytest.mark.parametrize("call", [
    lambda host, domain: host.owns("1", 0),
    lambda host, domain: domain.populate_in_batches(2, 0), lambda host, domain: domain.populate_in_batches(2, "1"),
    lambda host, domain: domain.populate_in_batches(2, 1, [True]), lambda host, domain: domain.populate_in_batches(2, 2**64),
    lambda host, domain: domain.populate_in_batches(2, 1, np.array([1, 0])),
    lambda host, domain: domain.populate_in_batches(-1, 1),
    lambda host, domain: domain.decrease_in_batches(domain.p2m_frames(np.arange(2)), 0),
    lambda host, domain: domain.decrease_in_batches(2, 0), lambda host, domain: domain.wait(-1.0),
    lambda host, domain: domain.wait(float("nan")), lambda host, domain: domain.__init__(host),
    lambda host, domain: Domain("1M"), lambda host, domain: Domain(domain),
    lambda host, domain: (domain.destroy(), domain.destroy()),
])
def test_calls_that_no_domain_makes(call):
    check_refused(call)


@pytest.mark.parametrize("given", [
    {"order": 1}, {"order": -1}, {"order": 40}, {"order": "1"}, {"calls": -1}, {"calls": "2"}, {"calls": None},
])
def test_discards_that_cannot_be(given):
    """Blocks of order 1 at pages 3 and 4 have page 4 in common: it must not be returned twice."""
    host = Host("1M")
    guest = ResidentDomain(host)
    guest.touch(np.arange(10))
    with pytest.raises(ValueError):
        guest.discard(np.array([3, 4]), **given)
    assert guest.tot_pages == 10
    host.validate()


def test_extents_larger_than_the_host():
    """As many as there are: none. An array of their pages would have 8 TiB."""
    host = Host("1M")
    domain = Domain(host)
    assert host.take(1, domain.domid, 40).size == 0
    host.validate()


def test_a_frame_is_returned_once():
    """Each array has a page or frame twice. Expect decrease_reservation to stop there, discard to count it once."""
    host = Host("1M")
    domain, guest = Domain(host, "64K"), ResidentDomain(host)
    mfns = domain.p2m_frames(np.arange(4))
    assert domain.decrease_reservation(np.append(mfns, mfns)) == 4
    domain.set_phys_to_machine(np.arange(4), INVALID_P2M_ENTRY)
    guest.touch(np.arange(10))
    assert guest.discard(np.array([3, 3, 5, 3])) == 2 and guest.tot_pages == 8
    host.validate()
    guest.validate()


@pytest.mark.parametrize("call, error", [
    (lambda domain: domain.set_phys_to_machine(np.array([3, -1]), INVALID_P2M_ENTRY), ValueError),
    (lambda domain: domain.set_phys_to_machine(-1, 5), ValueError),
    (lambda domain: domain.set_phys_to_machine(3, 256), ValueError),
    (lambda domain: domain.set_phys_to_machine(np.array([3, 4]), np.array([5, -2])), ValueError),
    (lambda domain: domain.populate_in_batches(241, 16), HotplugError),
    (lambda domain: domain.decrease_in_batches(np.array([3, 3]), 1), HotplugError),
    (lambda domain: domain.decrease_in_batches(np.array([3, 200]), 1), HotplugError),
    (lambda domain: setattr(domain, "tot_pages", 5), AttributeError),
    (lambda domain: setattr(domain, "peak_pages", 5), AttributeError),
    (lambda domain: setattr(domain, "max_pages", 5), AttributeError),
])
def test_a_refused_call_changes_nothing(call, error):
    domain = Domain(Host("1M"), "64K")
    before = domain.p2m.tolist(), domain.tot_pages, domain.calls.copy(), domain.host.free_list().tolist()
    with pytest.raises(error):
        call(domain)
    assert before == (domain.p2m.tolist(), domain.tot_pages, domain.calls, domain.host.free_list().tolist())
    domain.host.validate()


@pytest.mark.parametrize("call", [
    lambda guest: guest.set_phys_to_machine(3, 5), lambda guest: guest.set_phys_to_machine(np.arange(20), INVALID_P2M_ENTRY),
    lambda guest: guest.populate_physmap(np.arange(20)), lambda guest: guest.populate_in_batches(8, 4),
    lambda guest: guest.decrease_reservation(np.arange(4)), lambda guest: guest.decrease_in_batches(np.arange(4), 1),
    lambda guest: guest.update_va_mapping(3, None),
])
def test_a_guest_of_kvm_makes_no_hypercalls_of_xen(call):
    """Expect ENOSYS, and the host's table as it was: what they change would be in no order of resident pages."""
    guest = ResidentDomain(Host("1M"))
    guest.touch(np.arange(10))
    with pytest.raises(HotplugError) as e:
        call(guest)
    assert e.value.errno == errno.ENOSYS and guest.tot_pages == 10
    guest.host.validate()


def test_pages_far_up_and_pages_below_zero():
    """A table whose pfns need more than 31 bits. Expect each page resident once; a negative pfn is refused, or not there."""
    guest = ResidentDomain(Host("1M"))
    far = np.array([5, (1 << 31) - 1, 1 << 31, (1 << 31) + 7])
    assert guest.touch(far) == 4 and np.array_equal(guest.victims(9), far)
    for call in (guest.touch, guest.back, guest.discard):
        with pytest.raises(ValueError):
            call(np.array([-1, 5]))
    assert not guest.backed(np.array([-1])).any() and not guest.swapped(np.array([-1])).any()
    guest.set_limit("8K")
    assert guest.swapped(far).tolist() == [True, True, False, False] and guest.tot_pages == 2


BAD_PAGES = (True, 1.5, [0.5], "7", None, -1, [3, -1], 1 << 40, 1 << 52, 1 << 70, [5, 5], [[5]], np.zeros((2, 2), int), [])
"""What is not an array of different pages without a frame, or too far away; nothing to do is fine."""


@pytest.mark.parametrize("kind", [Domain, ResidentDomain])
@pytest.mark.parametrize(
    "call", ["back", "unback", "populate_physmap", "decrease_reservation", "update_va_mapping", "touch", "discard"]
)
def test_odd_pages_change_nothing_or_are_done_as_a_whole(kind, call):
    """Expect an exception or an answer, and frames that add up."""
    for bad in BAD_PAGES:
        host = Host("64M")
        domain = Domain(host, boot="16M") if kind is Domain else ResidentDomain(host)
        if kind is ResidentDomain:
            domain.touch(np.arange(4096))
        if not hasattr(domain, call):
            continue
        more = (None,) if call == "update_va_mapping" else ()
        try:
            got = getattr(domain, call)(bad, *more)
        except (TypeError, ValueError, OverflowError, MemoryError, HotplugError):
            got = None
        if call in ("populate_physmap", "decrease_reservation"):
            # the guest's table is the guest's business (Xen): the frames add up all the same
            assert host.free_frames + domain.tot_pages == host.nr_frames
        else:
            host.validate()
        assert got is None or call != "touch" or domain.backed(np.asarray(bad, int).ravel()).all()


def test_a_page_is_backed_once():
    host = Host("64M")
    domain = Domain(host, boot="16M")
    with pytest.raises(ValueError, match="page 0xfff has a frame"):
        domain.back([4096, 4095])
    with pytest.raises(ValueError, match="page 0x1000 has no frame"):
        domain.unback([4095, 4096])
    with pytest.raises(ValueError, match="given twice"):
        domain.back([5000, 5000])
    assert domain.back(4096) == 1 and domain.tot_pages == 4097
    host.validate()
    domain.unback([0, 4096])
    assert domain.tot_pages == 4095
    host.validate()


@pytest.mark.parametrize(
    "pages", [range(0), range(5), range(3, 9), range(250, 270), range(-2, 4), range(9, 2, -3), range(0, 9, 2), range(300, 302)]
)
def test_backed_by_a_range(pages):
    """A range of pages, also one that begins below 0 or ends past the table. Expect what an array of them gives."""
    domain = Domain(Host("4M"), "1M")
    domain.decrease_reservation(domain.p2m_frames(np.array([4, 7])))
    domain.set_phys_to_machine(np.array([4, 7]), INVALID_P2M_ENTRY)
    found = domain.backed(pages)
    assert found.dtype == np.bool_
    assert found.tolist() == [0 <= pfn < 256 and pfn not in (4, 7) for pfn in pages]
