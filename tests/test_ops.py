"""linux/ops.py: the ops of a recording, one by one."""

import json
from functools import partial

import pytest
from recordings_common import DIRECTORY, dimm, replayed, with_change, write

from fastonline.linux.recording import Recording, RecordingError


def test_soft_offline_page(tmp_path, engine):
    """6.12: a free page, a program's, one that a pipe holds, the kernel's, one of an offline block. Expect the first two taken
    away, the program's page moved, and the last two refused, with a line for the kernel's."""
    def soft(pfn):
        return {"op": "write_file", "path": "soft_offline_page", "text": hex(pfn << 12)}
    at = 32 << 15
    steps = replayed(
        tmp_path,
        "S1_k612",
        [
            dimm(32, 2),
            write(32, "online_movable"),
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
    kernel = replayed(tmp_path, "S1_k612", [soft(4096)], engine)[0]
    assert kernel.errno in ("EIO", 0) and bool(kernel.kmsg) == (kernel.errno == "EIO")


@pytest.mark.parametrize("op", [
    {"op": "no_such_op"}, {"op": None}, {"op": "write_state"}, {"op": "write_state", "block": "32", "word": "online"},
    {"op": "alloc", "region": 0, "bytes": "many"}, {"op": "add_memory", "start": 1.5, "size": 1, "nid": 0}, {"op": ["read"]},
    {"op": {}}, {"ops": []}, {"ops": [7]}, {"ops": {}}, {"op": "write_state", "block": True, "word": "online"},
])
def test_bad_ops_are_named(tmp_path, op):
    def change(data):
        data["steps"][3] = {"errno": 0, "uevents": [], "kmsg": [], "state": None} | op
    with pytest.raises(RecordingError, match=r"changed\.json: step 3: "):
        Recording.load(with_change(tmp_path, change))


@pytest.mark.parametrize("op", [
    {"op": "alloc", "region": 0, "bytes": 1 << 50}, {"op": "free", "region": 9}, {"op": "other", "text": "a cosmic ray"},
    {"op": "virtio_mem", "device": "virtio7", "requested_size": 0}, {"op": "load", "text": "something"},
    {"op": "load", "text": "a large file", "bytes": 1 << 40}, {"op": "balloon", "inflate_pages": 1 << 30},
    {"op": "sysctl", "name": "vm.swappiness", "value": "60"}, {"op": "add_memory", "size": 1 << 27, "nid": 0},
])
def test_what_cannot_be_replayed_says_so(tmp_path, op):
    def change(data):
        data["steps"] = [{"errno": 0, "uevents": [], "kmsg": [], "state": None} | op]
    step, = Recording.load(with_change(tmp_path, change)).replay()
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
        steps = {"kernel": kernel, "steps": [add, op | {"errno": expected}]}
        changed = with_change(tmp_path, partial(dict.update, **steps))
        assert list(Recording.load(changed).replay())[1].differences == []


@pytest.mark.parametrize(("name", "again"), [("S1", []), ("S1_k612", [0])])
def test_refused_dimms_are_tried_again(tmp_path, name, again):
    """A DIMM of 64 MiB is refused, then a good one comes, a bad one again, and the first one goes. Expect 6.12 to repeat what
    it said of those refused before (tests/data/recordings/README.md, rule 4), and a DIMM without a driver to go."""
    bad, worse = dimm(36, size=64 << 20), dimm(40, size=192 << 20)
    steps = replayed(tmp_path, name, [bad, dimm(32), worse, bad | {"op": "remove_memory"}, dimm(33)])
    lines = [
        f"Block size [0x8000000] unaligned hotplug range: start {op['start']:#x}, size {op['size']:#x}" for op in (bad, worse)
    ]
    said = [[0], again, [*again, 1], [], again and [1]]
    assert [step.kmsg for step in steps] == [[lines[i] for i in which] for which in said]
    assert [step.errno for step in steps] == ["EINVAL", 0, "EINVAL", 0, 0]


def test_a_dimm_that_is_taken_at_last(tmp_path, engine):
    """4 GiB for node 1 find no room for their memmap; memory is freed, and another DIMM comes for node 0. Expect 6.12 to take
    the first one on its retry, on its own node, and to remove its blocks like any others."""
    big = dimm(32, 32, nid=1)
    steps = replayed(tmp_path, "S1_k612", [
        {"op": "alloc", "region": "a", "bytes": 85000 << 12}, big, {"op": "free", "region": "a"}, dimm(80),
        big | {"op": "remove_memory"},
    ], engine)
    assert steps[1].errno == "ENOMEM" and "add@memory63" in steps[3].uevents and "add@node1" in steps[3].uevents
    assert steps[3].predicted["blocks"]["32"]["node"] == 1 and steps[3].predicted["blocks"]["80"]["node"] == 0
    assert steps[4].uevents == [*(f"remove@memory{nr}" for nr in range(32, 64)), "remove@node1"]


def test_what_the_machine_refused(tmp_path):
    """A DIMM is not removed: the machine refused. Expect it there, and no errno of the kernel's."""
    steps = replayed(tmp_path, "S1", [dimm(32), dimm(32, op="remove_memory", rejected="busy"), write(32, "online")])
    assert [step.errno for step in steps] == [0, None, 0] and steps[1].uevents == []


def test_a_synthetic_uevent_says_nothing(tmp_path, engine):
    """Words are written to uevent files. Expect the events, and everything else as without them."""
    def steps(words):
        ops = [{"op": "write_file", "path": f"memory{nr}/uevent", "text": word} for nr, word in words]
        return replayed(tmp_path, "S1", [
            dimm(32, 2), write(32, "online_movable"), write(33, "online_movable"), *ops,
            {"op": "alloc", "region": 0, "bytes": 5000 << 12}, write(33, "offline"),
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
    last = replayed(tmp_path, name, steps, engine)[1]
    assert [what for what, _, _ in last.differences] == ["0/DMA32 present", "0/DMA32 free (within 64)", "memory32"]
    assert last.compared > 5


def test_the_first_error_of_several_ops(tmp_path):
    """One DIMM is added, one refused by the machine. Expect no error: the kernel saw none; and none known where it saw
    nothing."""
    rejected = dimm(40, rejected="no free slots available", errno=None)
    done = replayed(
        tmp_path, "S1", [{"ops": [dimm(32), rejected]}, {"ops": [rejected]}, {"ops": [write(32, "x"), rejected]}]
    )
    assert [step.errno for step in done] == [0, None, "EINVAL"]


@pytest.mark.parametrize(("name", "value", "key", "expected"), [
    ("min_free_kbytes", "0x1000", "min_free_kbytes", 4096), ("min_free_kbytes", "010000", "min_free_kbytes", 4096),
    ("lowmem_reserve_ratio", "-5 0x10 32 0 0 9", "lowmem_reserve_ratio", [0, 16, 32, 0, 0]),
])
def test_sysctls_as_the_kernel_reads_numbers(tmp_path, name, value, key, expected):
    step, = replayed(tmp_path, "S1", [{"op": "sysctl", "name": f"vm.{name}", "value": value}])
    assert step.errno == 0 and step.predicted[key] == expected


@pytest.mark.parametrize("value", ["-1", "", "x", "2147483648", "1 x", "08", str(1 << 70), "9" * 5000])
def test_sysctls_that_are_none(tmp_path, value):
    op = {"op": "sysctl", "name": "vm.min_free_kbytes", "value": value, "errno": "EINVAL"}
    step = op | {"uevents": [], "kmsg": [], "state": None}
    step, = Recording.load(with_change(tmp_path, lambda data: data.update(steps=[step]))).replay()
    assert not step.differences and step.predicted["min_free_kbytes"] == 2545


@pytest.mark.parametrize("size", [1 << 27, 1 << 62, 1 << 200, 0, -1])
def test_removing_what_is_not_there(tmp_path, size):
    """Any number of bytes. Expect EINVAL, at once, and nothing removed."""
    op = {"op": "remove_memory", "start": 64 << 27, "size": size, "errno": "EINVAL", "uevents": [], "kmsg": [], "state": None}
    step, = Recording.load(with_change(tmp_path, lambda data: data.update(steps=[op]))).replay()
    assert not step.differences


@pytest.mark.parametrize(("kind", "zone"), [("kernel", "0/DMA32"), ("page cache", "0/Movable")])
def test_loads(tmp_path, engine, kind, zone):
    """16 MiB of kernel memory, or of page cache, with Movable memory there. Expect it to come from a kernel zone and stay, or
    from Movable until the caches are dropped, which the log tells."""
    steps = replayed(
        tmp_path,
        "S1",
        [
            dimm(32),
            write(32, "online_movable"),
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
