"""linux/recording.py: runs of real kernels, replayed and compared, and files that are no recordings."""

import copy
import json
import random
from pathlib import Path

import pytest
from test_fuzz import mutated_json

import fastonline as fo
from fastonline.cli import main
from fastonline.linux.compare import NOISE
from fastonline.linux.ops import run
from fastonline.linux.recording import Recording, RecordingError

DIRECTORY = Path(__file__).parent / "data" / "recordings"
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


def test_predictions_do_not_look_at_what_was_recorded(engine):
    """Expect the same predictions from a recording whose states, uevents, log and errors are all false."""
    recording = Recording.load(DIRECTORY / "S1m_movable_first.json")
    false = copy.deepcopy(recording)
    for step in false.steps:
        step["uevents"], step["kmsg"], step["errno"] = ["nonsense"], [], "EIO"
        for zone in (step["state"] or {}).get("zones", {}).values():
            zone.update(min=1, managed=7, free=9)
    true, other = list(recording.replay(engine)), list(false.replay(engine))
    assert [(s.predicted, s.errno, s.uevents, s.kmsg) for s in true] == [
        (s.predicted, s.errno, s.uevents, s.kmsg) for s in other
    ]
    assert all(step.differences for step in other)


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


def test_pages_on_lists_are_remarked(engine):
    """A kernel zone has 100 pages less free than in S1m's second step, all of them on per-CPU lists; or only 30 of them. Expect
    a remark, and a difference."""
    recording = Recording.load(DIRECTORY / "S1m_movable_first.json")
    del recording.steps[1]["reread"]
    zone = recording.steps[1]["state"]["zones"]["0/DMA32"]
    zone.update(free=zone["free"] - 100, pcp_count=zone["pcp_count"] + 100)
    step = list(recording.replay(engine))[1]
    assert [name for name, _, _ in step.remarks] == ["0/DMA32"] and not step.differences
    zone.update(pcp_count=zone["pcp_count"] - 70)
    step = list(recording.replay(engine))[1]
    assert [what for what, _, _ in step.differences] == ["0/DMA32 free (within 64)"] and not step.remarks


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
            _dimm(32, 2), _write(32, "online_movable"), _write(33, "online_movable"),
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
        assert run(guest, _write(33, "offline")) == "EINTR"
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
    steps = _replayed(tmp_path, name, [
        _dimm(32, 2), _write(32, "online_movable"), _write(33, "online_movable"),
        {"op": "alloc", "region": 0, "bytes": 1000 << 12}, {"op": "pin", "region": 0}, _write(32, "offline"),
        {"op": "unpin", "region": 0}, _write(32, "offline"),
    ], engine)
    assert [steps[i].errno for i in (5, 7)] == ["EINTR", 0]
    tried = [abs(first - i) for i in range(10)]
    assert steps[5].kmsg == [line for i in tried for line in (
        f"migrating pfn {0x100000 + i:x} failed ret:16", f"page: refcount:3 mapcount:1 pfn:{0x100000 + i:#x}",
        "page dumped because: migration failure")]


def test_machine_is_that_of_the_start(engine):
    recording = Recording.load(DIRECTORY / "S1.json")
    mem = recording.machine(engine)
    mem.validate()
    zone = recording.data["initial"]["zones"]["0/DMA32"]
    assert list(mem.zones["DMA32"].nr_free) == zone["nr_free"]
    assert mem.zones["DMA32"].managed_pages == zone["managed"] and mem.zones["DMA32"].present_pages == zone["present"]
    assert mem.min_free_kbytes == recording.data["initial"]["min_free_kbytes"]


def test_machine_stays_valid_all_the_way():
    recording = Recording.load(DIRECTORY / "S6m_movable.json")
    guest = recording.guest()
    bus = guest.virtio_mem.devices["virtio0"]
    guest.mem.auto_online_blocks = "online_movable"
    for size in ("2M", "68M", "130M", "128M", "70M", "0"):
        assert bus.request(fo.parse_size(size)) == fo.parse_size(size)
        guest.mem.validate()


def test_what_the_command_prints(capsys):
    """Expect a line a step, the table and what is not compared; with -q only the table; with --json a line of JSON a step."""
    path = str(DIRECTORY / "S1m_movable_first.json")
    assert main(["replay", path]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "S1m_movable_first step 0 add_memory: ok" and "Not compared:" in lines
    assert main(["replay", "-q", path, path]) == 0
    table = capsys.readouterr().out.splitlines()
    assert lines[9] == table[0] and lines[10] == table[1] == table[2] and len(table) == 4
    assert table[1].split()[:2] == ["S1m_movable_first", "9"] and table[3].split()[:3] == ["all", "2", "18"]
    assert main(["replay", "--json", path]) == 0
    steps = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [step["step"] for step in steps] == list(range(9)) and not any(step["differences"] for step in steps)


def test_the_table_says_what_differences_concern(tmp_path, capsys):
    def change(data):
        data["steps"][1]["uevents"] = []
        data["steps"][1]["state"]["zones"]["0/DMA32"].update(min=1, low=2)
    assert main(["replay", "-q", str(_changed(tmp_path, change))]) == 1
    assert capsys.readouterr().out.splitlines()[1].split(None, 4)[3:] == ["3", "watermarks 2, uevents 1"]


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
        return [_dimm(32), _write(32, "online_kernel"), *({**_write(32, "offline"), "errno": answer} for answer in answers)]
    for ops, states in ((steps(0), ["offline"]), (steps("EBUSY", 0), ["online", "offline"]), (steps("EBUSY"), ["online"])):
        done = _observed(tmp_path, "S1", ops, engine)
        assert [step.predicted["blocks"]["32"]["state"] for step in done[2:]] == states
        assert not any(step.differences for step in done[2:])
    # nobody looks: no slab is needed, and the block goes offline at once
    done = _replayed(tmp_path, "S1", steps(0), engine)
    assert done[2].errno == 0 and not done[2].remarks
    done = _replayed(tmp_path, "S1", steps("EBUSY"), engine)
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


def test_soft_offline_page(tmp_path, engine):
    """6.12: a free page, a program's, one that a pipe holds, the kernel's, one of an offline block. Expect the first two taken
    away, the program's page moved, and the last two refused, with a line for the kernel's."""
    def soft(pfn):
        return {"op": "write_file", "path": "soft_offline_page", "text": hex(pfn << 12)}
    at = 32 << 15
    steps = _replayed(
        tmp_path,
        "S1_k612",
        [
            _dimm(32, 2),
            _write(32, "online_movable"),
            {"op": "alloc", "region": 0, "bytes": 100 << 12},
            soft(at + 30000),
            soft(at + 50),
            {"op": "pin", "region": 0, "held": 2},
            soft(at),
            soft(33 << 15),
        ],
        engine,
    )
    assert [step.errno for step in steps[3:5]] == [0, 0] and not steps[6].replayed and steps[7].errno == "EIO"
    free = [step.predicted["zones"]["0/Movable"]["free"] + step.predicted["zones"]["0/Movable"]["pcp_count"] for step in steps]
    assert free[3] == free[2] - 1 and free[4] == free[3] - 1
    kernel = _replayed(tmp_path, "S1_k612", [soft(4096)], engine)[0]
    assert kernel.errno in ("EIO", 0) and bool(kernel.kmsg) == (kernel.errno == "EIO")


def test_huge_pages_of_a_program(engine):
    """R612_thp3: regions are faulted in by pageblocks. Expect a THP head, its tails, and single pages for the rest."""
    recording = Recording.load(DIRECTORY / "R612_thp3.json")
    guest = recording.guest(engine)
    assert run(guest, {"op": "alloc", "region": 0, "bytes": 1100 << 12}) == 0
    pfns, flags = guest.regions[0].flags()
    assert sum(flags & (1 << 22) != 0) == 1024 and sum(flags & (1 << 15) != 0) == 2 and len(pfns) == 1100
    assert all(pfn % 512 == 0 for pfn in pfns[flags & (1 << 15) != 0])
    run(guest, {"op": "free", "region": 0})
    guest.mem.validate()


def _changed(tmp_path, change):
    data = json.loads((DIRECTORY / "S1.json").read_text())
    change(data)
    path = tmp_path / "changed.json"
    path.write_text(json.dumps(data))
    return path


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "1", '{"format": "memory-hotplug-recording/2"}', '{"format": "memory-hotplug-recording/1"}']
)
def test_no_recording(tmp_path, text):
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(RecordingError, match="bad.json") as error:
        Recording.load(path)
    assert "\n" not in str(error.value)


def test_truncated(tmp_path):
    path = tmp_path / "short.json"
    path.write_bytes((DIRECTORY / "S1.json").read_bytes()[:5000])
    with pytest.raises(RecordingError, match="short.json"):
        Recording.load(path)


@pytest.mark.parametrize("op", [
    {"op": "no_such_op"}, {"op": None}, {"op": "write_state"}, {"op": "write_state", "block": "32", "word": "online"},
    {"op": "alloc", "region": 0, "bytes": "many"}, {"op": "add_memory", "start": 1.5, "size": 1, "nid": 0}, {"op": ["read"]},
    {"op": {}}, {"ops": []}, {"ops": [7]}, {"ops": {}}, {"op": "write_state", "block": True, "word": "online"},
])
def test_bad_ops_are_named(tmp_path, op):
    def change(data):
        data["steps"][3] = {"errno": 0, "uevents": [], "kmsg": [], "state": None} | op
    with pytest.raises(RecordingError, match=r"changed\.json: step 3: "):
        Recording.load(_changed(tmp_path, change))


@pytest.mark.parametrize("op", [
    {"op": "alloc", "region": 0, "bytes": 1 << 50}, {"op": "free", "region": 9}, {"op": "other", "text": "a cosmic ray"},
    {"op": "virtio_mem", "device": "virtio7", "requested_size": 0}, {"op": "load", "text": "something"},
    {"op": "load", "text": "a large file", "bytes": 1 << 40}, {"op": "balloon", "inflate_pages": 1 << 30},
    {"op": "sysctl", "name": "vm.swappiness", "value": "60"}, {"op": "add_memory", "size": 1 << 27, "nid": 0},
])
def test_what_cannot_be_replayed_says_so(tmp_path, op):
    def change(data):
        data["steps"] = [{"errno": 0, "uevents": [], "kmsg": [], "state": None} | op]
    step, = Recording.load(_changed(tmp_path, change)).replay()
    assert not step.replayed and step.reason


@pytest.mark.parametrize(
    ("path", "text", "answer"),
    [
        ("soft_offline_page", "0x100000000", "EIO"),
        ("soft_offline_page", "4294967296\n", "EIO"),
        ("soft_offline_page", "x", "EINVAL"),
        ("soft_offline_page", "0x8000000000", "ENXIO"),
        ("soft_offline_page", "09", "EINVAL"),
        ("soft_offline_page", "", 0),
        ("soft_offline_page", "-0x1", "EINVAL"),
        ("hard_offline_page", "0x2000", "EBUSY"),
        ("hard_offline_page", "-1", "EINVAL"),
        ("hard_offline_page", "1" * 30, "EINVAL"),
        ("memory32/valid_zones", "Movable", "EACCES"),
        ("memory32/state", "online_movable\n", 0),
        ("memory99/state", "online", "ENOENT"),
        ("memory32/uevent", "bogus", "EINVAL"),
        ("memory32/uevent", "change\n", 0),
        ("probe", "0x100000000", "ENOENT"),
        ("block_size_bytes", "8", "EACCES"),
        ("auto_online_blocks", "online_kernel", 0),
        ("memory32/online", "Y", 0),
        ("memory32/online", "maybe", "EINVAL"),
        ("auto_online_blocks", "", 0),
        ("memory32/uevent", "", 0),
        ("memory32/online", "", 0),
        ("memory32/state", "", 0),
        ("memory32/valid_zones", "", "EACCES"),
        ("valid_zones", "x", "ENOENT"),
        ("memory32/block_size_bytes", "x", "ENOENT"),
        ("memory032/state", "online", "ENOENT"),
    ],
)
def test_writing_files(tmp_path, path, text, answer):
    """KERNEL.md 7.7, with memory32 there and offline, on 6.12. Expect the kernel's answer; 6.1 was built without the first
    two."""
    add = json.loads((DIRECTORY / "S1.json").read_text())["steps"][0]
    op = {"op": "write_file", "path": path, "text": text, "errno": answer, "uevents": None, "kmsg": None, "state": None}
    for kernel, expected in (("6.12.115", answer), ("6.1.192", "ENOENT" if "_offline_page" in path else answer)):
        changed = _changed(tmp_path, lambda data: data.update(kernel=kernel, steps=[add, op | {"errno": expected}]))
        assert list(Recording.load(changed).replay())[1].differences == []


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
    done = list(Recording.load(_changed(tmp_path, lambda data: data.update(steps=ops))).replay(engine))
    assert [step.replayed for step in done] == [True, True, True, True, False]


def test_a_guest_without_free_memory(tmp_path, engine):
    """The balloon takes everything, then blocks come and go. Expect every step done."""
    op = {"errno": 0, "uevents": None, "kmsg": None, "state": None}
    steps = json.loads((DIRECTORY / "S1.json").read_text())["steps"][:3]
    changed = _changed(tmp_path, lambda data: data.update(steps=[
        {"op": "balloon", "inflate_pages": 200000} | op, *steps[:2], {"op": "balloon", "inflate_pages": 200000} | op,
        {"op": "idle"} | op, {"op": "write_state", "block": 32, "word": "offline"} | op, steps[2],
    ]))
    done = list(Recording.load(changed).replay(engine))
    assert [step.replayed for step in done] == [False, True, True, False, True, True, True]


def _replayed(tmp_path, name, steps, engine="struct_page"):
    """The steps of a recording that begins as `name` and goes on with these ops, nothing recorded of what followed."""
    data = json.loads((DIRECTORY / f"{name}.json").read_text())
    nothing = {"errno": None, "uevents": None, "kmsg": None, "state": None}
    data["steps"] = [nothing | step for step in steps]
    path = tmp_path / f"{name}_other.json"
    path.write_text(json.dumps(data))
    return list(Recording.load(path).replay(engine))


def _observed(tmp_path, name, steps, engine):
    """_replayed, of steps whose uevents somebody looked at."""
    data = json.loads((DIRECTORY / f"{name}.json").read_text())
    data["steps"] = [{"errno": None, "uevents": None, "kmsg": None, "state": {"partial": True}} | step for step in steps]
    path = tmp_path / f"{name}_observed.json"
    path.write_text(json.dumps(data))
    return list(Recording.load(path).replay(engine))


def _dimm(block, nr=1, **more):
    return {"op": "add_memory", "dimm": f"d{block}", "start": block << 27, "size": nr << 27, "nid": 0} | more


def _write(block, word):
    return {"op": "write_state", "block": block, "word": word}


def test_pinned_pages(tmp_path, engine):
    """A region is pinned, by a step of its own, and freed; the block is offlined before and after the pipe lets go (KERNEL.md
    7). Expect EINTR until it does: the pages of a pipe outlive the mapping. A pin's `pages` is a number, no page map."""
    steps = _replayed(
        tmp_path,
        "S1",
        [
            _dimm(32, 2),
            _write(32, "online_movable"),
            {"op": "alloc", "region": "a", "bytes": 1000 << 12},
            {"op": "pin", "region": "a", "pages": 10, "pages_range": [32 << 15, 33 << 15]},
            _write(32, "offline"),
            {"op": "free", "region": "a"},
            _write(32, "offline"),
            {"op": "unpin", "region": "a", "pages": 10},
            _write(32, "offline"),
            {"op": "unpin", "region": "a"},
        ],
        engine,
    )
    assert [step.errno for step in steps[4:9]] == ["EINTR", 0, "EINTR", 0, 0]
    assert [step.replayed for step in steps] == [True] * 9 + [False]


@pytest.mark.parametrize(("name", "again"), [("S1", []), ("S1_k612", [0])])
def test_refused_dimms_are_tried_again(tmp_path, name, again):
    """A DIMM of 64 MiB is refused, then a good one comes, a bad one again, and the first one goes. Expect 6.12 to repeat what
    it said of those refused before (tests/data/recordings/README.md, rule 4), and a DIMM without a driver to go."""
    bad, worse = _dimm(36, size=64 << 20), _dimm(40, size=192 << 20)
    steps = _replayed(tmp_path, name, [bad, _dimm(32), worse, bad | {"op": "remove_memory"}, _dimm(33)])
    lines = [
        f"Block size [0x8000000] unaligned hotplug range: start {op['start']:#x}, size {op['size']:#x}" for op in (bad, worse)
    ]
    said = [[0], again, [*again, 1], [], again and [1]]
    assert [step.kmsg for step in steps] == [[lines[i] for i in which] for which in said]
    assert [step.errno for step in steps] == ["EINVAL", 0, "EINVAL", 0, 0]


def test_a_dimm_that_is_taken_at_last(tmp_path, engine):
    """4 GiB for node 1 find no room for their memmap; memory is freed, and another DIMM comes for node 0. Expect 6.12 to take
    the first one on its retry, on its own node, and to remove its blocks like any others."""
    big = _dimm(32, 32, nid=1)
    steps = _replayed(tmp_path, "S1_k612", [
        {"op": "alloc", "region": "a", "bytes": 85000 << 12}, big, {"op": "free", "region": "a"}, _dimm(80),
        big | {"op": "remove_memory"},
    ], engine)
    assert steps[1].errno == "ENOMEM" and "add@memory63" in steps[3].uevents and "add@node1" in steps[3].uevents
    assert steps[3].predicted["blocks"]["32"]["node"] == 1 and steps[3].predicted["blocks"]["80"]["node"] == 0
    assert steps[4].uevents == [*(f"remove@memory{nr}" for nr in range(32, 64)), "remove@node1"]


def test_what_the_machine_refused(tmp_path):
    """A DIMM is not removed: the machine refused. Expect it there, and no errno of the kernel's."""
    steps = _replayed(tmp_path, "S1", [_dimm(32), _dimm(32, op="remove_memory", rejected="busy"), _write(32, "online")])
    assert [step.errno for step in steps] == [0, None, 0] and steps[1].uevents == []


def test_a_synthetic_uevent_says_nothing(tmp_path, engine):
    """Words are written to uevent files. Expect the events, and everything else as without them."""
    def steps(words):
        ops = [{"op": "write_file", "path": f"memory{nr}/uevent", "text": word} for nr, word in words]
        return _replayed(tmp_path, "S1", [
            _dimm(32, 2), _write(32, "online_movable"), _write(33, "online_movable"), *ops,
            {"op": "alloc", "region": 0, "bytes": 5000 << 12}, _write(33, "offline"),
        ], engine)
    plain, told = steps([]), steps([(32, "online"), (32, "remove\n"), (33, "offline")])
    assert [step.uevents for step in told[3:6]] == [["online@memory32"], ["remove@memory32"], ["offline@memory33"]]
    assert [step.predicted for step in told[-2:]] == [step.predicted for step in plain[-2:]]


def test_sizes_between_sub_blocks(tmp_path):
    """A region of 300 MiB whose device has blocks of 1 MiB. Expect only whole sub-blocks of 2 MiB in whole memory blocks to
    come and go."""
    data = json.loads((DIRECTORY / "S6m_movable.json").read_text())
    data["machine"]["virtio_mem"][0].update(max_size=300 << 20, block_size=1 << 20)
    data["steps"] = [{"errno": 0, "uevents": None, "kmsg": None, "state": None} | {
        "op": "virtio_mem", "device": "virtio0", "requested_size": size << 20, "plugged_size": plugged << 20
    } for size, plugged in ((3, 2), (300, 256), (255, 256), (253, 254), (1, 2), (0, 0))]
    path = tmp_path / "sizes.json"
    path.write_text(json.dumps(data))
    for step in Recording.load(path).replay():
        assert step.replayed and not step.differences


def test_a_device_goes_on_when_others_have_onlined(tmp_path, engine):
    """1.5 GiB are asked of a device of 2 GiB, nothing goes online by itself. Expect it to stop with 1 GiB added, and to go on
    when half of that is online (KERNEL.md 5.6), without another word of what was requested."""
    data = json.loads((DIRECTORY / "S6m_movable.json").read_text())
    data["machine"]["virtio_mem"][0]["max_size"] = 2 << 30
    data["steps"] = [{"errno": 0, "uevents": None, "kmsg": None, "state": None} | op for op in [
        {"op": "virtio_mem", "device": "virtio0", "requested_size": 3 << 29, "plugged_size": 1 << 30},
        *(_write(block, "online_movable") for block in (32, 33, 34, 35, 36)),
    ]]
    path = tmp_path / "threshold.json"
    path.write_text(json.dumps(data))
    steps = list(Recording.load(path).replay(engine))
    assert [[text for text in step.uevents if text.startswith("add@")] for step in steps[1:]] == [
        [], [], [], [f"add@memory{nr}" for nr in (40, 41, 42, 43)], []]
    assert not any(step.differences or [line for line in step.kmsg if "requested" in line] for step in steps[1:])
    assert not steps[0].differences


@pytest.mark.parametrize("name", ["S1", "S1_k612"])
def test_parts_of_states(tmp_path, name, engine):
    """Partial states that leave out what others have, keys that are null, pages past the end of memory. Expect what is there to
    be compared."""
    steps = json.loads((DIRECTORY / f"{name}.json").read_text())["steps"][:2]
    zones = steps[1]["state"]["zones"]
    steps[1]["state"] = {"partial": True, "blocks": {"32": {"state": "offline"}}, "blocks_range": [32, 32], "zones": {
        "0/DMA32": {"present": 1, "free": zones["0/DMA32"]["free"] + 999}, "0/Movable": {"free": zones["0/Movable"]["free"]}}}
    steps[1] |= {"covers_from": None, "counters": None, "pages": [[1 << 40, 32768, "NOPAGE"]],
                 "pages_range": [1 << 40, (1 << 40) + 32768]}
    last = _replayed(tmp_path, name, steps, engine)[1]
    assert [what for what, _, _ in last.differences] == ["0/DMA32 present", "0/DMA32 free (within 64)", "memory32"]
    assert last.compared > 5


def test_the_first_error_of_several_ops(tmp_path):
    """One DIMM is added, one refused by the machine. Expect no error: the kernel saw none; and none known where it saw
    nothing."""
    rejected = _dimm(40, rejected="no free slots available", errno=None)
    done = _replayed(
        tmp_path, "S1", [{"ops": [_dimm(32), rejected]}, {"ops": [rejected]}, {"ops": [_write(32, "x"), rejected]}]
    )
    assert [step.errno for step in done] == [0, None, "EINVAL"]


@pytest.mark.parametrize(("name", "value", "key", "expected"), [
    ("min_free_kbytes", "0x1000", "min_free_kbytes", 4096), ("min_free_kbytes", "010000", "min_free_kbytes", 4096),
    ("lowmem_reserve_ratio", "-5 0x10 32 0 0 9", "lowmem_reserve_ratio", [0, 16, 32, 0, 0]),
])
def test_sysctls_as_the_kernel_reads_numbers(tmp_path, name, value, key, expected):
    step, = _replayed(tmp_path, "S1", [{"op": "sysctl", "name": f"vm.{name}", "value": value}])
    assert step.errno == 0 and step.predicted[key] == expected


@pytest.mark.parametrize("value", ["-1", "", "x", "2147483648", "1 x", "08", str(1 << 70), "9" * 5000])
def test_sysctls_that_are_none(tmp_path, value):
    op = {"op": "sysctl", "name": "vm.min_free_kbytes", "value": value, "errno": "EINVAL"}
    step = op | {"uevents": [], "kmsg": [], "state": None}
    step, = Recording.load(_changed(tmp_path, lambda data: data.update(steps=[step]))).replay()
    assert not step.differences and step.predicted["min_free_kbytes"] == 2545


def test_a_kernel_without_memory_blocks(tmp_path):
    """A 32-bit kernel without CONFIG_MEMORY_HOTPLUG. Expect every step counted and named, none replayed."""
    recording = Recording.load(_changed(tmp_path, lambda data: data.pop("block_size")))
    steps = list(recording.replay())
    assert [step.index for step in steps] == list(range(9)) and steps[0].op == "add_memory"
    assert not any(step.replayed or step.compared for step in steps) and "no memory blocks" in steps[0].reason
    with pytest.raises(RecordingError, match="no memory blocks"):
        recording.machine()


@pytest.mark.parametrize("change", [
    lambda data: data["initial"].pop("zones"),
    lambda data: data["initial"]["zones"]["0/DMA32"].update(managed=10**9),
    lambda data: data["initial"]["zones"]["0/DMA32"].update(nr_free=[0] * 10 + [10**6]),
    lambda data: data["initial"].update(iomem=["nonsense"]),
    lambda data: data.update(kernel="2.4.18"),
    lambda data: data.update(block_size=12345),
])
def test_bad_starts_are_named(tmp_path, change):
    with pytest.raises(RecordingError, match=r"changed\.json"):
        Recording.load(_changed(tmp_path, change)).machine()


@pytest.mark.parametrize("change", [
    lambda data: data["steps"][3].update(uevents=7),
    lambda data: data["steps"][3].update(kmsg=[7]),
    lambda data: data["steps"][3].update(state=[]),
    lambda data: data["steps"][3].update(state={"zones": []}),
    lambda data: data["steps"][3].update(pages=[[0, -1, "BUDDY"]]),
    lambda data: data["steps"][3].update(pages=[[1048576, 32768, None]]),
    lambda data: data["steps"][3].update(pages_range=[1048576, 1 << 63]),
    lambda data: data["steps"][3].update(covers_from=99),
    lambda data: data["steps"][3]["state"]["zones"]["0/DMA32"].update(free="many"),
    lambda data: data["steps"][3]["state"]["blocks"].update({"32": 7}),
])
def test_bad_steps_are_named(tmp_path, change, engine):
    with pytest.raises(RecordingError, match=r"changed\.json: step 3: [^\n]*$"):
        list(Recording.load(_changed(tmp_path, change)).replay(engine))


@pytest.mark.parametrize("change", [
    lambda data: data["machine"].update(cpus=1 << 63),
    lambda data: data["machine"].update(virtio_mem=[{"device": "virtio0"}]),
    lambda data: data["initial"]["zones"]["0/DMA32"].update(pcp_count=1 << 40),
    lambda data: data["initial"]["zones"]["0/DMA32"].update(pcp_count=-1),
    lambda data: data["initial"]["zones"].update({"no zone": {}}),
    lambda data: data["initial"]["iomem"].append("0x0-0xffffffffffffffffffff System RAM"),
    lambda data: data["initial"]["blocks"].update({"x": {}}),
])
def test_bad_guests_are_named(tmp_path, change):
    with pytest.raises(RecordingError, match=r"changed\.json: initial: [^\n]*$"):
        Recording.load(_changed(tmp_path, change)).guest()


@pytest.mark.parametrize("size", [1 << 27, 1 << 62, 1 << 200, 0, -1])
def test_removing_what_is_not_there(tmp_path, size):
    """Any number of bytes. Expect EINVAL, at once, and nothing removed."""
    op = {"op": "remove_memory", "start": 64 << 27, "size": size, "errno": "EINVAL", "uevents": [], "kmsg": [], "state": None}
    step, = Recording.load(_changed(tmp_path, lambda data: data.update(steps=[op]))).replay()
    assert not step.differences


def test_hurt_recordings(tmp_path):
    """Recordings with values replaced, dropped or nested deep. Expect them replayed, or one line that names the file and
    where."""
    sources = [json.loads((DIRECTORY / f"{name}.json").read_text()) for name in ("S8", "S6m_movable", "S10_numa", "S1_k612")]
    path, refused = tmp_path / "hurt.json", 0
    for seed in range(60):
        rng = random.Random(seed)
        tree = rng.choice(sources)
        at = rng.randrange(len(tree["steps"]))
        step = mutated_json(rng, mutated_json(rng, tree["steps"][at]))
        tree = tree | {"steps": [*tree["steps"][:at], step, *tree["steps"][at + 1 :]]}
        path.write_text(json.dumps(tree if seed % 2 else mutated_json(rng, tree)))
        try:
            list(Recording.load(path).replay(rng.choice(["bitmap", "struct_page"])))
        except RecordingError as e:
            refused += 1
            assert str(e).startswith(f"{path}: ") and "\n" not in str(e) and len(str(e)) < 500 + len(str(path))
    assert refused > 20


def test_the_command_line_says_it_in_one_line(tmp_path, capsys):
    path = _changed(tmp_path, lambda data: data["steps"][3]["state"]["zones"]["0/DMA32"].update(free="many"))
    assert main(["replay", str(path)]) == 2
    out, err = capsys.readouterr()
    assert out.count("\n") == 3 and err.count("\n") == 1 and f"{path}: step 3: " in err


@pytest.mark.parametrize(("kind", "zone"), [("kernel", "0/DMA32"), ("page cache", "0/Movable")])
def test_loads(tmp_path, engine, kind, zone):
    """16 MiB of kernel memory, or of page cache, with Movable memory there. Expect it to come from a kernel zone and stay, or
    from Movable until the caches are dropped, which the log tells."""
    steps = _replayed(
        tmp_path,
        "S1",
        [
            _dimm(32),
            _write(32, "online_movable"),
            {"op": "load", "text": "a load", "bytes": 4096 << 12, "kind": kind},
            {"op": "drop_caches"},
        ],
        engine,
    )
    free = [{z: step.predicted["zones"][z]["free"] + step.predicted["zones"][z]["pcp_count"] for z in ("0/DMA32", "0/Movable")}
            for step in steps]
    for name in free[0]:
        assert abs(free[1][name] - free[2][name] - 4096 * (name == zone)) < 32
    assert (free[3][zone] - free[2][zone] > 4000) == (kind == "page cache")
    assert steps[3].kmsg == ["init (1): drop_caches: 3"]


def test_free_blocks_after_an_offline_that_failed(engine):
    """S3d's fifth step: pages that were freed while their pageblocks were isolated, per-CPU lists drained. Expect the free
    blocks of Movable that the kernel had."""
    recording = Recording.load(DIRECTORY / "S3d_pin_and_no_room_k612.json")
    for step in recording.replay(engine):
        if step.index in (5, 6, 7):
            zone = step.recorded["state"]["zones"]["0/Movable"]
            assert step.predicted["zones"]["0/Movable"]["nr_free"] == zone["nr_free"]
            assert step.predicted["zones"]["0/Movable"]["pcp_count"] == zone["pcp_count"] == 0


def test_a_watermark_boost_is_taken_over(tmp_path):
    """A state shows watermarks that are boosted; then a block goes online. Expect min_free_kbytes from the high marks with the
    boost (high_wmark_pages), and the watermarks themselves compared without it."""
    data = json.loads((DIRECTORY / "S1_k612.json").read_text())
    plain = data["steps"][:2]
    zone = plain[0]["state"]["zones"]["0/DMA32"]
    zone.update(boost=958, min=zone["min"] + 958, low=zone["low"] + 958, high=zone["high"] + 958)
    path = tmp_path / "boost.json"
    path.write_text(json.dumps(data | {"steps": plain}))
    first, second = Recording.load(path).replay()
    assert not [what for what, _, _ in first.differences if "min" in what or "high" in what]
    kb = plain[1]["state"]["min_free_kbytes"]
    assert kb - 15 < second.predicted["min_free_kbytes"] < kb
