"""A client that mypy --strict must accept, and that runs: test_types.py does both. It calls most of what is public once."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import fastonline as fo
from fastonline.cost.profile import profile
from fastonline.cost.report import profile_text
from fastonline.drivers.cmm import Cmm1, Cmm2, HintedDomain
from fastonline.drivers.consumers import Container, Ehea, Udev
from fastonline.drivers.driver import Driver, run
from fastonline.drivers.hyperv import HvBalloon
from fastonline.drivers.hypervisor import Domain, Host, ResidentDomain
from fastonline.drivers.series import Series, parse_targets, run_series
from fastonline.drivers.virtio_balloon import VirtioBalloon
from fastonline.drivers.virtio_mem import VirtioMem, VirtioMemBus
from fastonline.drivers.xen import XEN_6_18, XEN_THREAD, XenBalloon
from fastonline.hotplug.notifier import NotifierChain
from fastonline.hotplug.zones import Node, Zone
from fastonline.linux.capture import matches_kernel, predict_online
from fastonline.linux.compare import Step


def onlining(directory: Path) -> fo.Memory:
    geometry: fo.Geometry = dataclasses.replace(fo.X86_32_PAE, name="mine")
    rules: fo.Rules = dataclasses.replace(fo.LINUX_2_6_25, name="mine")
    mem = fo.Memory(geometry, boot="1G", rules=rules, engine="struct_page", max_memory=4 << 30)
    told: list[tuple[int, int]] = []

    @mem.notifiers.register
    def guard(action: int, notice: fo.MemoryNotify) -> int | None:
        told.append((action, notice.start_pfn + notice.nr_pages - notice.onlined + notice.status_change_nid))
        return fo.NOTIFY_BAD if action == fo.MEM_GOING_ONLINE and notice.start_pfn >= 0x60000 else None

    chain: NotifierChain = mem.notifiers
    chain.register(lambda action, notice: fo.NOTIFY_OK, priority=3, actions=fo.MEM_ONLINE)
    mem.events.listen(lambda kind, text: print(kind, text))
    mem.add_memory(0x40000, np.int64(0x20000))
    mem.prepare_online_pages(0x40000, 0x20000)
    onlined: int = mem.mark_pages_onlined(0x40000) + mem.mark_pages_onlined(0x40000, 512, order=3)
    onlined += mem.mark_pfns_onlined(np.arange(0x40200, 0x40400)) + mem.mark_pfns_onlined([0x40400, 0x40401])
    onlined += mem.mark_pfns_onlined(range(0x40402, 0x40404))
    onlined += mem.mark_pages_onlined(0x40000, 0x20000)
    mem.add_memory(0x60000, 0x20000, nid=0, name="System RAM", merge=True, threads=2)
    try:
        onlined += mem.online_pages(0x60000, 0x20000, fo.MMOP_ONLINE)
    except fo.HotplugError as e:
        code: int = e.errno
        print(code, e.strerror)
    chain.unregister(guard)
    mem.remove_memory(0x60000, 0x20000)
    mem.save(directory / "machine")
    return fo.load(directory / "machine")


def looking(mem: fo.Memory) -> str:
    zone: Zone = mem.zones["HighMem"]
    same: Zone | None = mem.zone_of(0x40000)
    node: Node = mem.nodes[0]
    counts: tuple[int, ...] = zone.nr_free
    pages: int = zone.start_pfn + zone.spanned_pages + zone.present_pages + zone.managed_pages + zone.free_pages + counts[3]
    pages += zone.min + zone.low + zone.high + sum(zone.protection) + node.present_pages + node.zones[0].pcp_batch
    pages += mem.totalram_pages + mem.totalhigh_pages + mem.max_pfn + mem.sections.pages_per_section
    merges: list[int] = mem.stats()["merges"]
    written: int = mem.stats()["bytes_touched"]
    for (nid, name), other in mem.zones.items():
        pages += nid + len(name) + other.nr
    states: NDArray[np.uint8] = mem.page_states(0x40000, 64)
    plane: NDArray[np.uint64] = mem.flags["PG_reserved"]
    kernel: NDArray[np.uint64] = mem.kpageflags(0x40000, 64)
    if same is not None:
        print(same.name, mem.page_flags(0x40000), states.sum(), plane.sum(), kernel.sum(), merges, written, pages)
    for start, end in mem.resources:
        print(mem.resources.within(start, end - start), mem.resources.text())
    mem.validate()
    return mem.buddyinfo() + mem.zoneinfo() + mem.pagetypeinfo() + mem.lsmem()


def allocating(mem: fo.Memory) -> None:
    zone = mem.zones[0, "HighMem"]
    first: int = mem.alloc_pages(3, zone)
    many: NDArray[np.int64] = mem.alloc_pages_bulk(100, zone="HighMem")
    mem.free_pages(first, 3)
    mem.free_pfns(many[::-1])
    mine = fo.MovablePages(mem, lambda old, new: print(old, new))
    mine.alloc(10)
    taken: NDArray[np.int64] = mine.give(3)
    mem.free_pfns(taken)
    mine.free()
    copied = mem.copy()
    copied.min_free_kbytes = 4096
    copied.auto_online_blocks = "online"
    copied.policy = "auto-movable"


def blocks(directory: Path) -> None:
    mem = fo.Memory(fo.X86_64, boot="256M", memory_block_size="128M")
    mem.blocks.add(65536, 32768)
    block = mem.blocks[2]
    onlined: int = block.online("online_movable")
    written: int = block.write_state("offline")
    print(block.state, block.valid_zones, block.phys_index, block.removable, onlined + written)
    with mem.set_online_page_callback(lambda pfn, order: mem.generic_online_page(pfn, order)):
        mem.blocks[2].online()
    tree: str = fo.export_sysfs(mem, str(directory / "there"))
    print(tree, fo.parse_size("1.5G"))


def drivers() -> Sequence[Driver]:
    made: list[Driver] = []
    host = Host("4G", scattered=True, seed=3, call_ns={"populate_physmap": 100})
    xen = XenBalloon(fo.Memory(fo.X86_64, boot="512M"), Domain(host, boot="512M", max_memory="1G"), XEN_6_18, batch=64)
    xen.set_target("640M")
    run([xen], until=60.0)
    made.append(xen)
    thread = XenBalloon(
        fo.Memory(fo.X86_32_PAE, boot="512M", rules=fo.LINUX_2_6_25), Domain(host, "512M"), behaviour=XEN_THREAD
    )
    thread.watch_target(256 << 10)
    thread.work(0.0)
    listed: NDArray[np.int64] = thread.balloon_list()
    print(listed.size, thread.counts()["balloon"], thread.domain.p2m[:3], thread.domain.calls)
    made.append(thread)
    hyperv = HvBalloon(fo.Memory(fo.X86_64, boot="256M"), Domain(host, "256M"))
    got: int = hyperv.hot_add(65536, 1000)
    covered: int = hyperv.regions[0].covered_end_pfn
    print(got, covered)
    made.append(hyperv)
    resident = ResidentDomain(host, limit="256M")
    faults: int = resident.touch(np.arange(10))
    made.append(Cmm1(fo.Memory(fo.S390X, boot="256M"), resident))
    hinted = HintedDomain(host)
    guest = Cmm2(fo.Memory(fo.S390X, boot="256M"), hinted)
    cached: NDArray[np.int64] = guest.cache_pages(10)
    words: list[str] = hinted.states(cached)
    print(faults, words, guest.use_cache())
    made.append(guest)
    return made


def listeners() -> None:
    mem = fo.Memory(fo.X86_64, boot="256M")
    adapter = Ehea(mem, max_sections=8)
    udev = Udev(mem, delay=0.5, check=lambda block: block.nr % 2 == 0)
    Container(mem, 1, [(65536, 32768)]).add(udev, now=1.0)
    run([udev], until=3.0)
    print(adapter.onlined, [(event.time, event.device) for event in udev.events])
    balloon = VirtioBalloon(mem)
    balloon.set_target(100)
    bus = VirtioMemBus(mem)
    bus.add(VirtioMem(mem, 4 << 30, 1 << 30, 2 << 20))
    print(len(balloon), bus.devices["virtio0"].request(256 << 20))


def replaying(recording: Path, capture: Path) -> None:
    for step in fo.Recording.load(recording).replay():
        one: Step = step
        print(one.op, one.errno, one.differences)
        break
    kernel = fo.Capture.load(capture)
    machine: fo.Memory = kernel.machine()
    zones: dict[tuple[int, str], bool] = matches_kernel(machine, kernel)
    print(zones, predict_online(kernel).totalram_pages, kernel.geometry.max_pfn)


def costs() -> str:
    ran: Series = run_series("xen", parse_targets("512M,1G"), fo.X86_64, fo.LINUX_6_12, "512M", "2G", order=0)
    print(ran, [sample.actual for sample in ran.samples])
    return profile_text(profile(fo.X86_64, "128M", engines=["bitmap"], repeat=1))


def main(directory: Path, recording: Path, capture: Path) -> None:
    """All of it once."""
    mem = onlining(directory)
    print(looking(mem))
    allocating(mem)
    blocks(directory)
    for driver in drivers():
        driver.validate()
    listeners()
    replaying(recording, capture)
    print(costs())
