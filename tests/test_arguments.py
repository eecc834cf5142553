"""hotplug/arguments.pyx: what bad input gets, as tables of {input, expected, description}, on both engines; nothing changes.

    pfn    0          1024           2048           3072           4096
           | section 0..3 |  4  |  5  |  6  |  7  |  8 .. 15      |
           | boot, online | add | pre | on  | --  |  never there  |

Expect the kernel's errno, or TypeError / ValueError / OverflowError for what is no pfn at all; the message names the value.
"""

import errno
import os

import numpy as np
import pytest
from conftest import SMALL_64, snapshot

import fastonline as fo

S = SMALL_64.pages_per_section      # 256
ADDED, PREPARED, ONLINE, ABSENT = 4 * S, 5 * S, 6 * S, 7 * S
END = SMALL_64.max_pfn
CALLS = ("add_memory", "remove_memory", "prepare_online_pages", "mark_pages_onlined", "online_pages", "offline_pages",
         "set_page_reserved", "set_page_offline", "clear_page_offline", "alloc_contig_range", "page_states", "kpageflags")


@pytest.fixture(params=[fo.LINUX_6_12, fo.LINUX_2_6_25], ids=lambda rules: rules.name)
def mem(request, make_machine):
    mem = make_machine(boot="4M", rules=request.param)
    for start in (ADDED, PREPARED, ONLINE):
        mem.add_memory(start, S)
    mem.prepare_online_pages(PREPARED, S)
    mem.online_pages(ONLINE, S)
    assert [mem.alloc_pages(order, "DMA") is not None for order in (0, 3)]
    return mem


def refused(mem, call, args, expected, named):
    """The call is refused with `expected` (an errno or an exception type), says `named`, and changes nothing."""
    before = snapshot(mem)
    kind = fo.HotplugError if isinstance(expected, int) else expected
    with pytest.raises(kind) as caught:
        getattr(mem, call)(*args)
    if isinstance(expected, int):
        assert caught.value.errno == expected
    assert named in str(caught.value)
    assert snapshot(mem) == before
    mem.validate()


NO_PFN = [
    {"input": -1, "expected": ValueError, "named": "-1", "description": "negative"},
    {"input": -(1 << 70), "expected": ValueError, "named": str(-(1 << 70)), "description": "negative and wide"},
    {"input": 1.0, "expected": TypeError, "named": "1.0", "description": "a float"},
    {"input": float("nan"), "expected": TypeError, "named": "nan", "description": "NaN"},
    {"input": np.float64(3), "expected": TypeError, "named": "3.0", "description": "a NumPy float"},
    {"input": "7", "expected": TypeError, "named": "'7'", "description": "text"},
    {"input": None, "expected": TypeError, "named": "None", "description": "None"},
    {"input": True, "expected": TypeError, "named": "True", "description": "a bool"},
    {"input": b"\1", "expected": TypeError, "named": "\\x01", "description": "bytes"},
    {"input": 1 << 64, "expected": OverflowError, "named": hex(1 << 64), "description": "one past 64 bits"},
    {"input": 1 << 200, "expected": OverflowError, "named": hex(1 << 200), "description": "over-wide"},
]


@pytest.mark.parametrize("case", NO_PFN, ids=lambda case: case["description"])
@pytest.mark.parametrize("call", CALLS)
def test_what_is_no_pfn_or_count(mem, call, case):
    refused(mem, call, (case["input"], 1), case["expected"], case["named"])
    refused(mem, call, (0, case["input"]), case["expected"], case["named"])


@pytest.mark.parametrize("case", NO_PFN, ids=lambda case: case["description"])
@pytest.mark.parametrize("call, args", [("free_pages", ()), ("page_flags", ()), ("alloc_pages", ()), ("alloc_pages_bulk", ()),
                                        ("generic_online_page", ()), ("mark_pages_onlined", ()), ("set_page_reserved", ())])
def test_what_is_no_pfn_or_count_alone(mem, call, args, case):
    refused(mem, call, (case["input"], *args), case["expected"], case["named"])


@pytest.mark.parametrize("case", NO_PFN, ids=lambda case: case["description"])
def test_what_is_no_order_or_node(mem, case):
    if case["input"] is not None:    # None is mark_pages_onlined's own default
        refused(mem, "mark_pages_onlined", (PREPARED, 1, case["input"]), case["expected"], case["named"])
    refused(mem, "free_pages", (0, case["input"]), case["expected"], case["named"])
    refused(mem, "add_memory", (ABSENT, S, case["input"]), case["expected"], case["named"])


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("case", [
    {"input": (END - 1, 2), "expected": errno.EINVAL, "named": hex(END), "description": "past the end of memory"},
    {"input": (END, 1), "expected": errno.EINVAL, "named": hex(END), "description": "beyond the end of memory"},
    {"input": ((1 << 64) - 1, 2), "expected": errno.EINVAL, "named": "0xffffffffffffffff", "description": "wraps around 2^64"},
    {"input": (1, (1 << 64) - 1), "expected": errno.EINVAL, "named": "0x1-", "description": "wraps to exactly 0"},
    {"input": (0, 0), "expected": errno.EINVAL, "named": "0x0", "description": "zero pages"},
    {"input": (S, 0), "expected": errno.EINVAL, "named": hex(S), "description": "zero pages in the middle"},
], ids=lambda case: case["description"])
def test_ranges_that_are_none(mem, call, case):
    refused(mem, call, case["input"], case["expected"], case["named"])


STATES = [
    {"input": ("add_memory", 0, S), "expected": errno.EEXIST, "named": "0x0-0xff", "description": "add over boot memory"},
    {"input": ("add_memory", ADDED, S), "expected": errno.EEXIST, "named": hex(ADDED), "description": "add twice"},
    {"input": ("add_memory", ONLINE, 2 * S), "expected": errno.EEXIST, "named": hex(ONLINE), "description": "add over a part"},
    {
        "input": ("mark_pages_onlined", ADDED, 1),
        "expected": errno.EINVAL,
        "named": hex(ADDED),
        "description": "mark what was not prepared",
    },
    {
        "input": ("mark_pages_onlined", ABSENT, 1),
        "expected": errno.EINVAL,
        "named": hex(ABSENT),
        "description": "mark what was not added",
    },
    {
        "input": ("mark_pages_onlined", PREPARED, 3 * S),
        "expected": errno.EINVAL,
        "named": hex(PREPARED),
        "description": "mark into absent memory",
    },
    {
        "input": ("mark_pages_onlined", ADDED, 2 * S),
        "expected": errno.EINVAL,
        "named": hex(ADDED),
        "description": "mark from unprepared memory on",
    },
    {
        "input": ("prepare_online_pages", ABSENT, S),
        "expected": errno.EINVAL,
        "named": hex(ABSENT),
        "description": "prepare what was not added",
    },
    {
        "input": ("online_pages", ABSENT, S),
        "expected": errno.EINVAL,
        "named": hex(ABSENT),
        "description": "online what was not added",
    },
    {
        "input": ("online_pages", ONLINE, 2 * S),
        "expected": errno.EINVAL,
        "named": hex(ONLINE),
        "description": "online into absent memory",
    },
    {
        "input": ("offline_pages", 0, S),
        "expected": errno.EINVAL,
        "named": "several zones",
        "description": "offline over two zones",
    },
    {
        "input": ("offline_pages", ADDED, S),
        "expected": errno.EINVAL,
        "named": hex(ADDED),
        "description": "offline what is not online",
    },
    {
        "input": ("offline_pages", ABSENT, S),
        "expected": errno.EINVAL,
        "named": hex(ABSENT),
        "description": "offline what is not there",
    },
    {
        "input": ("offline_pages", ONLINE + 1, S - 1),
        "expected": errno.EINVAL,
        "named": hex(ONLINE + 1),
        "description": "offline unaligned",
    },
    {
        "input": ("remove_memory", ONLINE, S),
        "expected": errno.EBUSY,
        "named": hex(ONLINE),
        "description": "remove what is online",
    },
    {
        "input": ("remove_memory", PREPARED, S),
        "expected": errno.EBUSY,
        "named": hex(PREPARED),
        "description": "remove what is prepared",
    },
    {
        "input": ("remove_memory", ABSENT, S),
        "expected": errno.EINVAL,
        "named": hex(ABSENT),
        "description": "remove what is not there",
    },
    {
        "input": ("remove_memory", ADDED + 1, S - 1),
        "expected": errno.EINVAL,
        "named": hex(ADDED + 1),
        "description": "remove half a section",
    },
    {
        "input": ("set_page_reserved", ABSENT, 1),
        "expected": errno.EINVAL,
        "named": hex(ABSENT),
        "description": "reserve what is not there",
    },
    {
        "input": ("set_page_offline", ONLINE, 1),
        "expected": ValueError,
        "named": hex(ONLINE),
        "description": "give a free page to the host",
    },
    {
        "input": ("clear_page_offline", ONLINE, 1),
        "expected": ValueError,
        "named": hex(ONLINE),
        "description": "take back a page that is here",
    },
    {
        "input": ("alloc_contig_range", PREPARED, 1),
        "expected": errno.EBUSY,
        "named": hex(PREPARED),
        "description": "take a page that is not free",
    },
    {
        "input": ("generic_online_page", PREPARED + 1, 1),
        "expected": ValueError,
        "named": hex(PREPARED + 1),
        "description": "an unaligned block",
    },
    {
        "input": ("mark_pages_onlined", PREPARED, 1, 7),
        "expected": ValueError,
        "named": "7",
        "description": "an order past the largest",
    },
    {"input": ("alloc_pages", 7), "expected": ValueError, "named": "7", "description": "an order past the largest, allocated"},
    {
        "input": ("alloc_pages", 0, "HighMem"),
        "expected": ValueError,
        "named": "HighMem",
        "description": "a zone that is not there",
    },
    {"input": ("alloc_pages", 0, "Movable"), "expected": MemoryError, "named": "Movable", "description": "an empty zone"},
    {"input": ("alloc_pages_bulk", END), "expected": MemoryError, "named": str(END), "description": "more than there is"},
    {"input": ("add_memory", ABSENT, S, 64), "expected": ValueError, "named": "64", "description": "a node past the last"},
]


@pytest.mark.parametrize("case", STATES, ids=lambda case: case["description"])
def test_calls_out_of_order(mem, case):
    call, *args = case["input"]
    refused(mem, call, args, case["expected"], case["named"])


@pytest.mark.parametrize("args", [(ABSENT + 1, S), (ABSENT, S + 1), (ABSENT, 1)], ids=["start", "length", "one page"])
def test_add_of_no_whole_block_in_6_1(make_machine, args):
    refused(make_machine(boot="4M"), "add_memory", args, errno.EINVAL, hex(args[0]))


def test_prepare_misaligned_or_twice_in_6_1(make_machine):
    mem = make_machine(boot="4M")
    mem.add_memory(ADDED, S)
    refused(mem, "prepare_online_pages", (ADDED + 1, S - 1), errno.EINVAL, hex(ADDED + 1))
    refused(mem, "prepare_online_pages", (ADDED, 32), errno.EINVAL, hex(ADDED))
    mem.prepare_online_pages(ADDED, S)
    refused(mem, "prepare_online_pages", (ADDED, S), errno.EINVAL, hex(ADDED))
    refused(mem, "online_pages", (ADDED, S), errno.EINVAL, hex(ADDED))


# (array, what it gets in mark_pfns_onlined, the value that is named, what it is)
ARRAYS = [
    ([1.0, 2.0], TypeError, "1.0", "floats"),
    ([PREPARED, float("nan")], TypeError, "nan", "a NaN"),
    (np.array([True, False]), TypeError, "bool", "bools"),
    (["7"], TypeError, "7", "text"),
    (np.array([PREPARED, "x"], object), TypeError, "x", "objects"),
    (np.zeros((2, 2), np.int64), ValueError, "2", "two dimensions"),
    (np.array(PREPARED), ValueError, "0", "no dimension"),
    ([PREPARED, -1], ValueError, "-1", "a negative pfn"),
    (np.array([PREPARED, -7], np.int32), ValueError, "-7", "a negative pfn, 32 bits"),
    ([PREPARED, END], ValueError, hex(END), "a pfn past the end"),
    (np.array([PREPARED, 1 << 63], np.uint64), ValueError, hex(1 << 63), "a pfn far past the end"),
    ([PREPARED, 1 << 64], OverflowError, hex(1 << 64), "a pfn of 65 bits"),
    ([PREPARED, PREPARED + 1, PREPARED], ValueError, hex(PREPARED), "a pfn twice"),
    (np.repeat(np.arange(PREPARED, PREPARED + 128), 2), ValueError, hex(PREPARED), "every pfn twice"),
    (np.array([PREPARED] * 2, np.uint32), ValueError, hex(PREPARED), "a pfn twice, 32 bits"),
    (np.array([1, 2, PREPARED, PREPARED])[2:], ValueError, f"pfns[1] = {PREPARED:#x}", "a pfn twice, in a part of an array"),
    (np.array([[1, 2], [PREPARED, PREPARED]])[1], ValueError, f"pfns[1] = {PREPARED:#x}", "a pfn twice, in a row"),
]


@pytest.mark.parametrize("pfns, expected, named, what", ARRAYS, ids=[case[3] for case in ARRAYS])
def test_arrays_of_pfns(mem, pfns, expected, named, what):
    refused(mem, "mark_pfns_onlined", (pfns,), expected, named)
    refused(mem, "free_pfns", (pfns,), expected, "")


@pytest.mark.parametrize("bad", [-7, 1 << 34])
@pytest.mark.parametrize("kind", [np.array, list])
def test_pages_past_the_room_made_so_far_and_past_the_end(engine, kind, bad):
    """Section 512 was never added, and a pfn behind it in the array cannot be. Expect the latter to be named, as it is."""
    mem = fo.Memory(fo.X86_64, boot="128M", engine=engine)
    shown = bad if bad < 0 else hex(bad)
    refused(mem, "mark_pfns_onlined", (kind([5, 1 << 24, bad]),), ValueError, f"pfns[2] = {shown} is out of range")
    refused(mem, "mark_pfns_onlined", (kind([5, 1 << 24]),), errno.EINVAL, "pfns[1] = 0x1000000")


@pytest.mark.parametrize(
    "bad, named", [(ADDED, hex(ADDED)), (ABSENT, hex(ABSENT)), (END - 1, hex(END - 1))], ids=["added", "absent", "far"]
)
@pytest.mark.parametrize("dense", [True, False])
def test_batches_with_an_unprepared_page(mem, bad, named, dense):
    """Expect the batch to be refused as a whole, its good pages included, whichever way the engine walks it."""
    good = list(range(PREPARED, PREPARED + (S if dense else 1)))
    refused(mem, "mark_pfns_onlined", ([*good, bad],), errno.EINVAL, named)
    assert mem.mark_pfns_onlined(good) == len(good)


def test_free_refuses_what_is_no_such_allocation(mem):
    """
        order-3 block   head tail tail tail tail tail tail tail   free ...
    Expect ValueError naming the page for a free, Reserved, absent, inner or unaligned page and for a wrong order.
    """
    block = next(p for p in range(0, 64, 8) if mem.page_flags(p + 1) == "PG_tail|PG_prepared")
    single = next(p for p in range(64) if mem.page_flags(p) == "PG_prepared" and mem.page_flags(p + 1) != "PG_tail|PG_prepared")
    for page, order, why in [
        (ONLINE, 0, "free"), (PREPARED, 0, "Reserved"), (ADDED, 0, "Reserved"), (ABSENT, 0, "no page"), (END - 1, 0, "no page"),
        (1 << 50, 0, "no page"), (block + 1, 0, "inside"), (block, 0, "order 3"), (block, 2, "order 3"), (block, 4, hex(block)),
        (block + 1, 1, "aligned"), (single, 1, hex(single)),
    ]:
        refused(mem, "free_pages", (page, order), ValueError, hex(page))
        refused(mem, "free_pages", (page, order), ValueError, why)
    for page in (ONLINE, PREPARED, ADDED, ABSENT, END - 1, block, block + 1):
        refused(mem, "free_pfns", ([single, page],), (ValueError, OSError), hex(page))
    mem.free_pages(block, 3)
    refused(mem, "free_pages", (block, 3), ValueError, "free")
    mem.free_pfns([single])
    refused(mem, "free_pfns", ([single],), ValueError, hex(single))


def test_offline_with_a_page_in_use(mem):
    mem.alloc_contig_range(ONLINE + 77, 1)
    refused(mem, "offline_pages", (ONLINE, S), errno.EBUSY, hex(ONLINE + 77))
    mem.free_pages(ONLINE + 77)
    mem.offline_pages(ONLINE, S)


@pytest.mark.parametrize("phase", ["prepare_online_pages", "online_pages"])
@pytest.mark.parametrize("veto, expected", [
    (lambda: fo.NOTIFY_BAD, errno.EPERM), (lambda: 0x8000 | 1 + errno.ENOMEM, errno.ENOMEM), (lambda: 1 / 0, ZeroDivisionError),
], ids=["NOTIFY_BAD", "ENOMEM", "an exception"])
def test_veto_of_onlining(mem, phase, veto, expected):
    """Expect MEM_CANCEL_ONLINE to the whole chain, also to the callback that was never asked, and nothing changed."""
    told = []
    mem.notifiers.register(lambda action, notice: told.append(("first", action)), priority=2)
    mem.notifiers.register(lambda action, notice: veto() if action == fo.MEM_GOING_ONLINE else None, priority=1)
    mem.notifiers.register(lambda action, notice: told.append(("last", action)))
    refused(mem, phase, (ADDED, S), expected, "vetoed" if isinstance(expected, int) else "zero")
    assert told == [("first", fo.MEM_GOING_ONLINE), ("first", fo.MEM_CANCEL_ONLINE), ("last", fo.MEM_CANCEL_ONLINE)]


def test_veto_of_offlining(mem):
    told = []
    mem.notifiers.register(lambda action, notice: fo.NOTIFY_BAD if action == fo.MEM_GOING_OFFLINE else told.append(action))
    refused(mem, "offline_pages", (ONLINE, S), errno.EPERM, hex(ONLINE))
    assert told == [fo.MEM_CANCEL_OFFLINE]


def test_callback_that_raises(mem):
    """Expect what the callback let go online before it raised to be waiting again, and MEM_CANCEL_ONLINE for a whole
    online_pages.

    Counts of frees and merges are of work that was done, and stay."""
    def only_two(pfn, order):
        if pfn >= given + 2 * (1 << order):
            raise RuntimeError("no more")
        mem.generic_online_page(pfn, order)

    told = []
    mem.notifiers.register(lambda action, notice: told.append(action))
    mem.set_online_page_callback(only_two)
    for call, given, args in [  # noqa: B007  (only_two reads it)
        ("online_pages", ADDED, (ADDED, S)), ("mark_pages_onlined", PREPARED, (PREPARED, S)),
                              ("mark_pfns_onlined", PREPARED, (list(range(PREPARED, PREPARED + 5)),))]:
        before = {k: v for k, v in snapshot(mem).items() if k != "stats"}
        with pytest.raises(RuntimeError):
            getattr(mem, call)(*args)
        assert {k: v for k, v in snapshot(mem).items() if k != "stats"} == before
        assert mem.stats()["pages_onlined"] == S
        mem.validate()
    assert told == [fo.MEM_GOING_ONLINE, fo.MEM_CANCEL_ONLINE]


@pytest.mark.parametrize(
    "call, args",
    [
        ("add_memory", (ABSENT, S)),
        ("remove_memory", (ADDED, S)),
        ("prepare_online_pages", (ADDED, S)),
        ("mark_pages_onlined", (PREPARED, S)),
        ("mark_pfns_onlined", ([PREPARED],)),
        ("online_pages", (ADDED, S)),
        ("offline_pages", (ONLINE, S)),
        ("set_page_reserved", (ONLINE, 1)),
    ],
)
def test_hotplug_from_inside_a_notifier(mem, call, args):
    """The kernel holds the hot-plug lock there. Expect EBUSY, and the outer call refused by the exception."""
    def nested(action, notice):
        if action == fo.MEM_GOING_ONLINE:
            getattr(mem, call)(*args)

    mem.notifiers.register(nested)
    refused(mem, "prepare_online_pages", (ADDED, S), errno.EBUSY, call.replace("online_pages", "").split("_")[0])


MACHINES = [
    ({"geometry": "VAX"}, ValueError, "invalid geometry 'VAX'"),
    ({"rules": "5.15"}, ValueError, "invalid rules '5.15'"),
    ({"engine": "fast"}, ValueError, "'fast'"),
    ({"boot": "1 GB?"}, ValueError, "1 GB?"),
    ({"boot": -4096}, ValueError, "-4096"),
    ({"boot": 1.5}, TypeError, "1.5"),
    ({"boot": 4097}, ValueError, "4097"),
    ({"boot": "32M"}, ValueError, "32M"),
    ({"max_memory": 0}, ValueError, "0"),
    ({"max_memory": "1P"}, ValueError, "1P"),
    ({"boot": "2M", "max_memory": "1M"}, ValueError, "2M"),
]


@pytest.mark.parametrize("given, expected, named", MACHINES, ids=[str(case[0]) for case in MACHINES])
def test_machines_that_cannot_be(given, expected, named):
    with pytest.raises(expected, match=None) as caught:
        fo.Memory(**{"geometry": SMALL_64} | given)
    assert named in str(caught.value)


@pytest.mark.parametrize(
    "value, expected", [(-1, ValueError), (1.5, TypeError), (1 << 31, OverflowError), (1 << 64, OverflowError)]
)
def test_min_free_kbytes_that_is_none(mem, value, expected):
    before = snapshot(mem)
    with pytest.raises(expected, match=str(value) if value < 1 << 64 else hex(value)):
        mem.min_free_kbytes = value
    assert snapshot(mem) == before


@pytest.mark.parametrize(
    "value, expected",
    [
        (0, ValueError),
        (-1, ValueError),
        (1.5, TypeError),
        (1 << 31, OverflowError),
        (1 << 63, OverflowError),
        (1 << 64, OverflowError),
    ],
)
def test_cpus_that_are_none(mem, value, expected):
    mem.nr_cpus = 3
    with pytest.raises(expected):
        mem.nr_cpus = value
    assert mem.nr_cpus == 3


def test_save_files_that_are_none(mem, tmp_path):
    """Expect one line that names the file, and no Memory."""
    good = tmp_path / "good"
    mem.save(good)
    data = good.read_bytes()
    middle = len(data) // 2
    for name, content in {
        "empty": b"", "foreign": b"PK\3\4" + data, "text": b"hello\n", "truncated": data[:-1], "half": data[:middle],
        "longer": data + b"\0", "altered": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :], "header": data[:21],
    }.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(ValueError, match=name) as caught:
            fo.load(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError):
        fo.load(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError) as caught:
        mem.save(tmp_path / "nowhere" / "file")
    assert caught.value.filename == str(tmp_path / "nowhere" / "file")
    assert sorted(os.listdir(tmp_path)) == sorted(
        ["good", "empty", "foreign", "text", "truncated", "half", "longer", "altered", "header"]
    )
