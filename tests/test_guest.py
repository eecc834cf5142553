"""linux/guest.py: what a guest's programs and kernel hold while a recording is replayed."""

import json

import pytest
from recordings_common import DIRECTORY, dimm, replayed, with_change, write

from fastonline.linux.ops import run
from fastonline.linux.recording import Recording


def test_failures_of_a_loop_come_in_rounds(tmp_path, engine):
    """Sixteen pages are held: every round of the loop fails with all of them, until a signal. Expect any number of rounds, and
    nothing else."""
    data = json.loads((DIRECTORY / "S3d_pin_and_no_room_k612.json").read_text())
    for count, differences in ((16, []), (11792, []), (11793, ["pgmigrate_fail"]), (0, ["pgmigrate_fail"])):
        data["steps"][5]["counters"]["pgmigrate_fail"] = count
        path = tmp_path / "rounds.json"
        path.write_text(json.dumps(data | {"steps": data["steps"][:6]}))
        assert [what for what, _, _ in list(Recording.load(path).replay(engine))[5].differences] == differences


def test_the_kernels_own_pages_decide_no_outcome(tmp_path, engine):
    """Whether the kernel has a page of its own in the only block of zone Normal is not recorded. Expect a remark, and the
    recording followed: a block that goes offline although the model has slabs in it, and one that stays although it has
    none."""
    def steps(*answers):
        return [dimm(32), write(32, "online_kernel"), *({**write(32, "offline"), "errno": answer} for answer in answers)]
    for ops, states in ((steps(0), ["offline"]), (steps("EBUSY", 0), ["online", "offline"]), (steps("EBUSY"), ["online"])):
        done = _observed(tmp_path, "S1", ops, engine)
        assert [step.predicted["blocks"]["32"]["state"] for step in done[2:]] == states
        assert not any(step.differences for step in done[2:])
    # nobody looks: no slab is needed, and the block goes offline at once
    done = replayed(tmp_path, "S1", steps(0), engine)
    assert done[2].errno == 0 and not done[2].remarks
    done = replayed(tmp_path, "S1", steps("EBUSY"), engine)
    assert [what for what, _, _ in done[2].remarks] == ["errno of write_state"] and done[2].errno == "EBUSY"
    assert done[2].predicted["blocks"]["32"]["state"] == "online"


@pytest.mark.parametrize("plugged", [2, 4, 30])
def test_how_far_a_device_shrinks_in_a_kernel_zone(tmp_path, engine, plugged):
    """A virtio-mem device in zone Normal is asked for nothing. Expect what the recording says to be reached, with a remark
    where the model stops elsewhere, and the size exact in Movable."""
    data = json.loads((DIRECTORY / "S6k_kernel_zone_k612.json").read_text())
    data["steps"] = data["steps"][:3]
    last = {"op": "virtio_mem", "device": "virtio0", "requested_size": 0, "plugged_size": plugged << 20, "errno": 0,
            "uevents": None, "kmsg": None, "state": None}
    path = tmp_path / "shrink.json"
    path.write_text(json.dumps(data | {"steps": [*data["steps"], last]}))
    recording = Recording.load(path)
    guest = recording.guest(engine)
    *_, step = recording.replay(engine)
    assert not step.differences and guest is not None
    assert step.predicted["zones"]["0/Normal"]["managed"] == plugged << 8
    assert bool(step.remarks) == (plugged != 2)


def test_huge_pages_of_a_program(engine):
    """R612_thp3: regions are faulted in by pageblocks. Expect a THP head, its tails, and single pages for the rest."""
    recording = Recording.load(DIRECTORY / "R612_thp3.json")
    guest = recording.guest(engine)
    assert run(guest, {"op": "alloc", "region": 0, "bytes": 1100 << 12}) == 0
    pfns, flags = guest.regions[0].flags()
    assert sum(flags & (1 << 22) != 0) == 1024 and sum(flags & (1 << 15) != 0) == 2 and len(pfns) == 1100
    assert sum(flags & (1 << 16) != 0) == 1022
    assert all(pfn % 512 == 0 for pfn in pfns[flags & (1 << 15) != 0])
    run(guest, {"op": "free", "region": 0})
    guest.mem.validate()


def test_a_node_without_memory(tmp_path, engine):
    """Node 1 is online from the start, its zones empty. Expect it to be there, and a DIMM added to it not to make it new."""
    source = json.loads((DIRECTORY / "S10_numa.json").read_text())
    empty = source["initial"]["zones"]["0/Normal"]
    for name in ("DMA", "DMA32", "Normal", "Movable", "Device"):
        source["initial"]["zones"][f"1/{name}"] = empty
    source["steps"] = source["steps"][:1]
    path = tmp_path / "nodes.json"
    path.write_text(json.dumps(source))
    step, = Recording.load(path).replay(engine)
    assert step.uevents == ["add@memory32", "add@memory33"] and step.predicted["nodes"]["online"] == "0-1"


def test_regions_of_no_pages(tmp_path, engine):
    """Nothing is allocated, and freed. A label that is in use means another region, which has the lowest free number. Expect
    all done but a second free."""
    op = {"bytes": 0, "errno": 0, "uevents": [], "kmsg": [], "state": None}
    ops = [{"op": name, "region": region} | op
           for name, region in (("alloc", 7), ("alloc", 7), ("free", 7), ("free", 0), ("free", 7))]
    done = list(Recording.load(with_change(tmp_path, lambda data: data.update(steps=ops))).replay(engine))
    assert [step.replayed for step in done] == [True, True, True, True, False]


def test_a_guest_without_free_memory(tmp_path, engine):
    """The balloon takes everything, then blocks come and go. Expect every step done."""
    op = {"errno": 0, "uevents": None, "kmsg": None, "state": None}
    steps = json.loads((DIRECTORY / "S1.json").read_text())["steps"][:3]
    changed = with_change(tmp_path, lambda data: data.update(steps=[
        {"op": "balloon", "inflate_pages": 200000} | op, *steps[:2], {"op": "balloon", "inflate_pages": 200000} | op,
        {"op": "idle"} | op, {"op": "write_state", "block": 32, "word": "offline"} | op, steps[2],
    ]))
    done = list(Recording.load(changed).replay(engine))
    assert [step.replayed for step in done] == [False, True, True, False, True, True, True]


def _observed(tmp_path, name, steps, engine):
    """replayed, of steps whose uevents somebody looked at."""
    data = json.loads((DIRECTORY / f"{name}.json").read_text())
    data["steps"] = [{"errno": None, "uevents": None, "kmsg": None, "state": {"partial": True}} | step for step in steps]
    path = tmp_path / f"{name}_observed.json"
    path.write_text(json.dumps(data))
    return list(Recording.load(path).replay(engine))


def test_pinned_pages(tmp_path, engine):
    """A region is pinned, by a step of its own, and freed; the block is offlined before and after the pipe lets go (KERNEL.md
    7). Expect EINTR until it does: the pages of a pipe outlive the mapping. A pin's `pages` is a number, no page map."""
    steps = replayed(
        tmp_path,
        "S1",
        [
            dimm(32, 2),
            write(32, "online_movable"),
            {"op": "alloc", "region": "a", "bytes": 1000 << 12},
            {"op": "pin", "region": "a", "pages": 10, "pages_range": [32 << 15, 33 << 15]},
            write(32, "offline"),
            {"op": "free", "region": "a"},
            write(32, "offline"),
            {"op": "unpin", "region": "a", "pages": 10},
            write(32, "offline"),
            {"op": "unpin", "region": "a"},
        ],
        engine,
    )
    assert [step.errno for step in steps[4:9]] == ["EINTR", 0, "EINTR", 0, 0]
    assert [step.replayed for step in steps] == [True] * 9 + [False]


def test_a_device_goes_on_when_others_have_onlined(tmp_path, engine):
    """1.5 GiB are asked of a device of 2 GiB, nothing goes online by itself. Expect it to stop with 1 GiB added, and to go on
    when half of that is online (KERNEL.md 5.6), without another word of what was requested."""
    data = json.loads((DIRECTORY / "S6m_movable.json").read_text())
    data["machine"]["virtio_mem"][0]["max_size"] = 2 << 30
    data["steps"] = [{"errno": 0, "uevents": None, "kmsg": None, "state": None} | op for op in [
        {"op": "virtio_mem", "device": "virtio0", "requested_size": 3 << 29, "plugged_size": 1 << 30},
        *(write(block, "online_movable") for block in (32, 33, 34, 35, 36)),
    ]]
    path = tmp_path / "threshold.json"
    path.write_text(json.dumps(data))
    steps = list(Recording.load(path).replay(engine))
    assert [[text for text in step.uevents if text.startswith("add@")] for step in steps[1:]] == [
        [], [], [], [f"add@memory{nr}" for nr in (40, 41, 42, 43)], []]
    assert not any(step.differences or [line for line in step.kmsg if "requested" in line] for step in steps[1:])
    assert not steps[0].differences


def test_free_blocks_after_an_offline_that_failed(engine):
    """S3d's fifth step: pages that were freed while their pageblocks were isolated, per-CPU lists drained. Expect the free
    blocks of Movable that the kernel had."""
    recording = Recording.load(DIRECTORY / "S3d_pin_and_no_room_k612.json")
    for step in recording.replay(engine):
        if step.index in (5, 6, 7):
            zone = step.recorded["state"]["zones"]["0/Movable"]
            assert step.predicted["zones"]["0/Movable"]["nr_free"] == zone["nr_free"]
            assert step.predicted["zones"]["0/Movable"]["pcp_count"] == zone["pcp_count"] == 0
