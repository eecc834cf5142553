"""linux/pagetypes.py: lists of page-types -l and -L."""

import numpy as np
import pytest

import fastonline as fo
from fastonline.lines import TextError
from fastonline.linux.pagetypes import read_page_types

LETTERS = {10: "B", 20: "n", 23: "o", 32: "r"}
SUMMARY = "\n\n             flags\tpage-count       MB  symbolic-flags\t\t\tlong-symbolic-flags\n0x0000000000000400\t1\t0\n"


def listed(kpf, every=False):
    """What page-types prints of an array of flags."""
    cuts = np.arange(len(kpf)) if every else np.flatnonzero(np.diff(kpf, prepend=kpf[0] + np.uint64(1)))
    lines = ["offset\tflags" if every else "offset\tlen\tflags"]
    for at, end in zip(cuts, np.append(cuts[1:], len(kpf)), strict=True):
        name = "".join(LETTERS.get(bit, "x") if int(kpf[at]) >> bit & 1 else "_" for bit in range(43))
        lines.append(f"{at:x}\t{name}" if every else f"{at:x}\t{end - at:x}\t{name}")
    return "\n".join(lines) + SUMMARY


@pytest.mark.parametrize("every", [False, True])
def test_a_machine_of_a_list(engine, tmp_path, every):
    """Expect the free blocks of the machine that was listed, and its zones."""
    mem = fo.Memory(fo.X86_64, boot="256M", engine=engine)
    mem.free_pfns(mem.alloc_pages_bulk(3000)[::3])
    (tmp_path / "list").write_text(listed(mem.kpageflags(0, 1 << 16), every))
    found = read_page_types(tmp_path / "list")
    again = found.machine(engine)
    again.validate()
    assert again.buddyinfo() == mem.buddyinfo()
    assert [(zone.present_pages, zone.managed_pages) for zone in again.zones.values()] \
        == [(zone.present_pages, zone.managed_pages) for zone in mem.zones.values()]
    assert again.min_free_kbytes == 2048
    assert len(found.assumptions) == 1


def test_pages_that_no_machine_has(engine, tmp_path):
    for run, message in (("0\tfffffffffff", "exceed the largest machine"), ("0\t5", "it lists no page frames")):
        (tmp_path / "list").write_text(f"offset\tlen\tflags\n{run}\t{'n' if run.endswith('5') else '_'}{'_' * 39}\n")
        with pytest.raises(ValueError, match=f"^{tmp_path}/list: .*{message}"):
            read_page_types(tmp_path / "list").machine(engine)


@pytest.mark.parametrize("content, message", [
    ("", ":1: no list of page-types"),
    ("offset\tlen\tflags\n", ":1: the list has no pages"),
    ("voffset\toffset\tlen\tflags\n", ":1: the list is of one process or file"),
    ("offset\tlen\tflags\n0\t1\t" + "_" * 40 + "\nzz\n", ":3: 'zz' is not a run of pages"),
    ("offset\tlen\tflags\n5\t1\t" + "_" * 40 + "\n5\t1\t" + "_" * 40 + "\n", ":3: page 0x5 is out of order"),
])
def test_errors_name_the_line(tmp_path, content, message):
    (tmp_path / "list").write_text(content)
    with pytest.raises(TextError, match=f"^{tmp_path}/list{message}"):
        read_page_types(tmp_path / "list")
