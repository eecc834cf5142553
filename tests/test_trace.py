"""linux/trace.py: traces of ftrace and perf script, replayed against the allocator."""

from pathlib import Path

import pytest

import fastonline as fo
from fastonline.lines import TextError
from fastonline.linux.trace import read_events, replay_trace

TRACE = Path(__file__).parent / "data" / "texts" / "trace.txt"


def test_events_of_ftrace_and_perf():
    """pfn in decimal and hexadecimal, an allocation that failed, comments between."""
    events = [(event.alloc, event.pfn, event.order) for event in read_events(TRACE)]
    assert events == [(True, 0x1000, 3), (False, 0x2000, 0), (True, 5000, 2), (False, 8192, 0), (False, 4096, 3),
                      (True, None, 9), (False, 4096, 3)]


def test_replay(engine):
    """A page that is freed first was in use before. The batched free is the same as the one before it; the last frees free
    pages: the trace has lost what came between."""
    replayed = replay_trace(TRACE, engine=engine)
    assert (replayed.allocations[2], replayed.allocations[3], sum(replayed.allocations)) == (1, 1, 2)
    assert (replayed.frees[0], replayed.frees[3], sum(replayed.frees)) == (1, 1, 2)
    assert (replayed.failed, replayed.unknown, replayed.first_unknown) == (1, 1, 10)
    assert (replayed.in_use, replayed.peak) == (4, 12)
    for mem in (replayed.kernel, replayed.own):
        mem.validate()
        assert mem.totalram_pages - sum(zone.free_pages for zone in mem.zones.values()) == 4
    assert replayed.kernel.page_flags(5000) == replayed.kernel.page_flags(5003) == "PG_prepared"
    assert str(TRACE) in str(replayed) and "events that contradict those before: 1, the first on line 10" in str(replayed)


def traced(tmp_path, mem, orders):
    """The trace of a machine's own allocations and frees."""
    lines, held = [], []
    for i, order in enumerate(orders):
        if order is None:
            pfn, size = held.pop(len(held) // 2)
            mem.free_pages(pfn, size)
            lines.append(f" sh-1 [000] ..... {i}.000000: mm_page_free: page=0000000000000001 pfn=0x{pfn:x} order={size}")
        else:
            pfn = mem.alloc_pages(order)
            held.append((pfn, order))
            lines.append(f" sh-1 [000] ..... {i}.000000: mm_page_alloc: page=0000000000000001 pfn=0x{pfn:x} order={order} "
                         "migratetype=0 gfp_flags=GFP_KERNEL")
    path = tmp_path / "trace"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_trace_of_our_own_is_found_again(engine, tmp_path):
    """Expect both machines to end as the traced one did, which began with all pages free."""
    mem = fo.Memory(fo.X86_64, boot="128M", engine=engine)
    path = traced(tmp_path, mem, [0, 3, 0, None, 9, 2, None, 0, 0, None, 10, None, 5])
    replayed = replay_trace(path, engine=engine)
    assert replayed.unknown == 0
    assert replayed.kernel.buddyinfo() == replayed.own.buddyinfo() == mem.buddyinfo()


def test_page_frames_with_zeros_in_front(tmp_path):
    """Decimal, as without zeros."""
    (tmp_path / "trace").write_text(TRACE.read_text().replace("pfn=8192", "pfn=008192"))
    assert [event.pfn for event in read_events(tmp_path / "trace")] == [event.pfn for event in read_events(TRACE)]


def test_a_batched_free_is_told_twice(engine, tmp_path):
    """mm_page_free_batched before mm_page_free (free_hot_cold_page_list, 3.3), behind it (free_unref_page_list, 4.15), or alone
    (mm_pagevec_free, 2.6.32). Expect one free each time, and the last one, of a page that is free, as a contradiction."""
    alloc, free, batched = (f"sh-1 [000] 1.0: {name}: page=1 pfn=4096 order=0\n"
                            for name in ("mm_page_alloc", "mm_page_free", "mm_page_free_batched"))
    pagevec = "sh-1 [000] 1.0: mm_pagevec_free: page=1 pfn=4096 order=0 cold=0\n"
    (tmp_path / "trace").write_text(
        alloc + batched + free + alloc + free + batched + alloc + pagevec + alloc + batched + free + free
    )
    replayed = replay_trace(tmp_path / "trace", engine=engine)
    assert (replayed.allocations[0], replayed.frees[0], replayed.unknown, replayed.first_unknown) == (4, 4, 1, 12)


def test_a_cut_last_line_is_left_out(tmp_path):
    text = TRACE.read_text()
    (tmp_path / "trace").write_text(text[: text.rindex("order=3")])
    assert replay_trace(tmp_path / "trace").unknown == 0


@pytest.mark.parametrize("edit, message", [
    (lambda text: "nothing\n", ":1: no mm_page_alloc or mm_page_free found"),
    (lambda text: text.replace("pfn=0x2000 order=0", "pfn=0x2000"), ":5: mm_page_free without its order"),
    (lambda text: text.replace("pfn=0x1000", "pfn=0x1001"), ":4: no block of order 3 at page 0x1001"),
    (lambda text: text.replace("order=2", "order=11"), ":6: no block of order 11 at page 0x1388"),
    (lambda text: text.replace("pfn=0x2000", "pfn=0xffffffffffffffff"), ":5: invalid page 0xffffffffffffffff"),
])
def test_errors_name_the_line(tmp_path, edit, message):
    path = tmp_path / "trace"
    path.write_text(edit(TRACE.read_text()))
    with pytest.raises(TextError, match=message):
        replay_trace(path)
