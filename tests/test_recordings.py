"""The recordings of tests/data/recordings: runs of real kernels, replayed and compared."""

import json

import pytest
from recordings_common import DIRECTORY, dimm, replayed, write

import fastonline as fo
from fastonline.linux.compare import NOISE
from fastonline.linux.ops import run
from fastonline.linux.recording import Recording

FILES = sorted(DIRECTORY.glob("*.json"))


def test_all_are_there():
    names = [path.stem for path in FILES]
    assert len(names) == 25 and {"S1_k612", "S3d_pin_and_no_room_k612", "S6k_kernel_zone_k612", "R61_numa2"} <= set(names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_replay(path, engine):
    """Expect every step replayed, or named as not, and what is predicted to be what the kernel showed. What is remarked of a
    kernel zone is another number of free pages, not of those and the ones on per-CPU lists."""
    recording = Recording.load(path)
    steps = list(recording.replay(engine))
    assert [step.index for step in steps] == list(range(len(recording.steps)))
    for step in steps:
        assert step.replayed or step.reason
        assert step.differences == []
        for name, ours, real in step.remarks:
            if name == "the page in the way":
                continue
            loose = NOISE + (63 << 5) if name.startswith("0/") and recording.kernel.startswith("6.12") else NOISE
            assert not name.endswith("/Movable") and abs(ours["free"] - real["free"]) > NOISE
            assert abs(sum(ours.values()) - sum(real.values())) <= loose
    assert sum(step.compared for step in steps) > 30 * len(steps) or path.stem == "S4b_movable_errors"
    assert sum(not step.replayed for step in steps) == (path.stem == "S3b_offline_in_use")


def _zone(name, **values):
    return lambda step: step["state"]["zones"][name].update(values)


@pytest.mark.parametrize("change, what", [
    (_zone("0/DMA32", min=470), "0/DMA32 min"),
    (_zone("0/Movable", nr_free=[2] + [0] * 8 + [1, 31]), "0/Movable nr_free"),
    (_zone("0/Movable", free=32768 - 5), "0/Movable free (within 4)"),
    (_zone("0/Movable", stat_threshold=5), "0/Movable stat_threshold"),
    (_zone("0/Movable", pcp_high=190), "0/Movable pcp_high"),
    (_zone("0/DMA32", free=89943 + 100), "0/DMA32 free (within 64)"),
    (lambda step: step.update(pages=[[1048576, 5, "NONE"], [1048581, 32763, "BUDDY"]]), "memory32 pages"),
    (lambda step: step["uevents"].append("online@memory32"), "uevents"),
    (lambda step: step["kmsg"].reverse(), "kmsg"),
    (lambda step: step["state"]["iomem"].pop(), "iomem"),
    (lambda step: step["state"]["blocks"]["32"].update(valid_zones="Normal"), "memory32"),
    (lambda step: step.update(errno="EBUSY"), "errno"),
])
def test_a_change_of_the_kernel_is_seen(change, what, engine):
    """One thing that the kernel showed after the first block went online is another one. Expect that one difference, named,
    with what it may be off by."""
    recording = Recording.load(DIRECTORY / "S1m_movable_first.json")
    del recording.steps[1]["reread"]
    change(recording.steps[1])
    assert [[name for name, _, _ in step.differences] for step in recording.replay(engine)][1] == [what]


def test_counts_of_pages_are_compared():
    """S5 has only totals of its page map. Expect the balloon's pages among them."""
    recording = Recording.load(DIRECTORY / "S5.json")
    assert recording.steps[0]["page_counts"]["OFFLINE"] == 16384
    recording.steps[0]["page_counts"]["OFFLINE"] -= 1
    assert next(iter(recording.replay())).differences == [("pages OFFLINE", 16384, 16383)]


def test_where_memory_landed_is_compared():
    recording = Recording.load(DIRECTORY / "S2m_movable_out_of_order.json")
    recording.steps[9]["landed"]["per_block"] = {"35": 16383, "36": 1}
    assert list(recording.replay())[9].differences == [("landed in memory35", 16384, 16383), ("landed in memory36", 0, 1)]


@pytest.mark.parametrize(("at", "change", "what"), [
    (1, {"threads": ["kswapd0"]}, "threads"), (3, {"node1_blocks": ["32"]}, "node1_blocks"), (9, {"online": "0"}, "online"),
    (9, {"nodes": ["node0"]}, "nodes"), (3, {"has_memory": "0"}, "has_memory"),
])
def test_what_was_read_is_compared(at, change, what):
    """S10's reads of the nodes' directories and threads, each with one thing that is false. Expect that difference."""
    recording = Recording.load(DIRECTORY / "S10_numa.json")
    recording.steps[at]["value"] |= change
    assert [[name for name, _, _ in step.differences] for step in recording.replay()][at] == [what]


def test_where_pages_of_a_program_are_read_is_compared():
    recording = Recording.load(DIRECTORY / "S3.json")
    recording.steps[13]["value"] |= {"35": 23808 - 1, "37": 32512 - 1}
    found = list(recording.replay())[13].differences
    assert found == [("region 0 in memory37", 32512, 32511)]      # Movable; memory35 is in Normal


def test_the_last_page_moves_first(tmp_path, engine):
    """Two blocks are online in Movable, the memory of one is nearly all in use, the other's is to move and does not all fit.
    Expect 6.1 to have emptied the block's beginning, 6.12 its end (isolate_folio_to_list puts pages at the list's head)."""
    left = {}
    for name in ("S1", "S1_k612"):
        data = json.loads((DIRECTORY / f"{name}.json").read_text())
        nothing = {"errno": None, "uevents": None, "kmsg": None, "state": None}
        data["steps"] = [nothing | op for op in [
            dimm(32, 2), write(32, "online_movable"), write(33, "online_movable"),
            {"op": "alloc", "region": 0, "bytes": 30000 << 12}, {"op": "alloc", "region": 1, "bytes": 115000 << 12},
        ]]
        path = tmp_path / "room.json"
        path.write_text(json.dumps(data))
        recording = Recording.load(path)
        guest = recording.guest(engine)
        for step in recording.steps:
            run(guest, step)
        lines = []
        guest.mem.events.listen(lambda kind, text, lines=lines: lines.append(text))
        assert run(guest, write(33, "offline")) == "EINTR"
        assert lines == [
            "page allocation failure: order:0, mode:0x144cca(GFP_HIGHUSER_MOVABLE|__GFP_RETRY_MAYFAIL|__GFP_COMP), nodemask=0"
        ]
        pages = guest.regions[1].pages.pfns
        left[name] = pages[pages >= 33 << 15] - (33 << 15)
    assert left["S1"].max() > 32000 and left["S1"].min() > 100
    assert left["S1_k612"].min() == 0 and left["S1_k612"].max() < 32000


@pytest.mark.parametrize(("name", "first"), [("S1", 0), ("S1_k612", 15)])
def test_what_is_logged_of_pages_that_are_held(tmp_path, engine, name, first):
    """A pipe holds sixteen pages of a region, whose other pages move when the block is offlined. Expect the log to name ten of
    them, in the order in which they are tried, and to go back to none when the pipe lets go."""
    steps = replayed(tmp_path, name, [
        dimm(32, 2), write(32, "online_movable"), write(33, "online_movable"),
        {"op": "alloc", "region": 0, "bytes": 1000 << 12}, {"op": "pin", "region": 0}, write(32, "offline"),
        {"op": "unpin", "region": 0}, write(32, "offline"),
    ], engine)
    assert [steps[i].errno for i in (5, 7)] == ["EINTR", 0]
    tried = [abs(first - i) for i in range(10)]
    assert steps[5].kmsg == [line for i in tried for line in (
        f"migrating pfn {0x100000 + i:x} failed ret:16", f"page: refcount:3 mapcount:1 pfn:{0x100000 + i:#x}",
        "page dumped because: migration failure")]


def test_machine_stays_valid_all_the_way():
    recording = Recording.load(DIRECTORY / "S6m_movable.json")
    guest = recording.guest()
    bus = guest.virtio_mem.devices["virtio0"]
    guest.mem.auto_online_blocks = "online_movable"
    for size in ("2M", "68M", "130M", "128M", "70M", "0"):
        assert bus.request(fo.parse_size(size)) == fo.parse_size(size)
        guest.mem.validate()


@pytest.mark.parametrize(("change", "what"), [
    (lambda step: step["reread"]["zones"]["0/DMA"].update(protection=[0, 1, 2, 3, 4]), "reread 0/DMA protection"),
    (lambda step: step["reread"].update(min_free_kbytes=7), "reread min_free_kbytes"),
    (lambda step: step["state"]["zones"]["0/Movable"]["pageblocks"].update(Unmovable=1), "0/Movable pageblocks"),
    (lambda step: step["kmsg"].append("page dumped because: migration failure"), "kmsg"),
    (lambda step: step.update(counters={"pgmigrate_fail": 3}), "pgmigrate_fail"),
    (lambda step: step["pages"].__setitem__(0, [1048576, 32768, "DIRTY|OFFLINE"]), "memory32 pages"),
    (lambda step: step["state"]["zones"]["0/DMA32"]["nr_free"].__setitem__(5, 99), "0/DMA32 nr_free[5] (within 16)"),
])
def test_what_was_left_out_is_compared(change, what, engine):
    """One more thing of S1m's second step is another one. Expect that one difference."""
    recording = Recording.load(DIRECTORY / "S1m_movable_first.json")
    step = recording.steps[1]
    step.setdefault("reread", {}).setdefault("zones", {}).setdefault("0/DMA", {})
    step["state"]["zones"]["0/Movable"].setdefault("pageblocks", {"Movable": 64})
    change(step)
    assert [name for name, _, _ in list(recording.replay(engine))[1].differences] == [what]


