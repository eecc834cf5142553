"""The host's frames: in order and scattered, as single ones and as large extents."""

import numpy as np
import pytest
from drivers_common import check_refused

from fastonline.drivers.host import Host
from fastonline.drivers.hypervisor import Domain


def test_contiguous_and_scattered_frames():
    host = Host("1M")
    domain = Domain(host, "64K")
    assert domain.p2m.tolist() == list(range(16))
    assert Host("1M", scattered=True, seed=3).free_list().tolist() == Host("1M", scattered=True, seed=3).free_list().tolist()
    assert Host("1M", scattered=True, seed=3).free_list().tolist() != Host("1M", scattered=True, seed=4).free_list().tolist()
    scattered = Domain(Host("1M", scattered=True, seed=3), "64K")
    assert scattered.p2m.tolist() != list(range(16))
    assert scattered.p2m.dtype == np.uint64 and not scattered.p2m.flags.writeable


def test_large_extents_are_aligned_and_leave_the_pool_whole():
    host = Host("4M", scattered=True, seed=1)
    domain = Domain(host, "4K")
    heads = domain.populate_physmap(np.array([512, 1024, 1536]), order=9)
    assert heads.size == 1 and int(heads[0]) % 512 == 0      # the other half holds the boot page
    assert domain.tot_pages == 513 and domain.refused["host"] == 1024
    domain.set_phys_to_machine(np.arange(512, 1024), heads[0] + np.arange(512))
    host.validate()
    assert domain.decrease_reservation(heads, order=9) == 1
    assert host.free_frames == 1023


@pytest.mark.parametrize("scattered", [False, True])
def test_extents_and_frames_share_the_pool(scattered):
    """Large extents are taken out of the middle of the pool, given back, and lent as frames. Expect each frame lent once."""
    host = Host("8M", scattered=scattered, seed=2)
    one, two = Domain(host), Domain(host)
    one.back(np.arange(700))
    heads = two.populate_physmap(np.array([0, 512]), order=9)
    two.set_phys_to_machine(np.arange(heads.size << 9), (heads[:, None] + np.arange(512)).ravel())
    host.validate()
    one.unback(np.arange(100))
    two.unback(np.arange(heads.size << 9))
    host.validate()
    assert one.back(np.arange(100)) == 100 and two.back(np.arange(2048)) == 2048 - 700
    host.validate()
    assert host.free_frames == 0 and host.free_list().size == 0 and host.take(1, two.domid, 9).size == 0


def test_every_frame_of_a_scattered_host_is_lent_once():
    host = Host(1000 * 4096, scattered=True, seed=9)
    order = host.free_list()
    domain = Domain(host, 1000 * 4096)
    assert sorted(order.tolist()) == list(range(1000)) and np.array_equal(domain.p2m, order)


def test_a_host_with_more_domains_than_fit_16_bits():
    host = Host("1M")
    first = Domain(host, "64K")
    for _ in range(1 << 16):
        Domain(host).destroy()
    last = Domain(host, "64K")
    assert last.domid == (1 << 16) + 1
    assert host.owner[:32].tolist() == 16 * [first.domid] + 16 * [last.domid] and (host.owner[32:] == -1).all()
    host.validate()


@pytest.mark.parametrize("call", [
    lambda host, domain: host.take(1.5, 0), lambda host, domain: host.take(-1, 0), lambda host, domain: host.take(1, 0, 2**31),
    lambda host, domain: host.take(1, 0, -1), lambda host, domain: domain.populate_physmap([1], 2**32),
    lambda host, domain: domain.decrease_reservation([1], 2**32), lambda host, domain: domain.decrease_reservation([1], 0.5),
])
def test_numbers_that_no_host_has(call):
    check_refused(call)


def test_the_host_takes_back_only_what_was_lent():
    host = Host("64M")
    domain = Domain(host, boot="16M")
    free = int(host.free_list()[0])
    for mfns in (free, [0, 0], [host.nr_frames], [-1], True, np.zeros((2, 2), int)):
        with pytest.raises((TypeError, ValueError)):
            host.give(mfns)
    with pytest.raises(ValueError, match="no such domain"):
        host.take(1, domain.domid + 1)
    host.validate()
