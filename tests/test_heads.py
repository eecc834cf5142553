"""linux/heads.py: page maps of kernels before 4.6, which mark the first page of a free block only."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from test_capture import write_kernel
from test_live import x86_64  # noqa: F401

import fastonline as fo
from fastonline.linux.capture import matches_kernel

INPUT = Path(__file__).parent / "data" / "inputs" / "c01_heads_only_capture"
BUDDY = np.uint64(1 << 10)


def test_blocks_that_the_flags_alone_determine(engine):
    """Four blocks of order 10, four marked pages. Expect 4096 free pages, not 4."""
    capture = fo.Capture.load(INPUT)
    mem = capture.machine(engine)
    assert mem.zones["DMA32"].nr_free == (0,) * 10 + (4,)
    assert all(matches_kernel(mem, capture).values())


def copied(tmp_path):
    """The input, to be changed."""
    return shutil.copytree(INPUT, tmp_path / "capture")


def test_refused_where_they_do_not_determine_them(tmp_path):
    """buddyinfo has smaller blocks than the runs without flags have room for. Expect one line."""
    path = copied(tmp_path)
    text = (path / "buddyinfo").read_text()
    (path / "buddyinfo").write_text(text.replace("      0      4 \n", "      1      3 \n"))
    with pytest.raises(ValueError, match=rf"^{path}: not a capture: the page map marks only the first page .* kpagecount$"):
        fo.Capture.load(path)


def test_free_pages_in_a_row(tmp_path):
    """Three free blocks of one page beside each other: two of them would be one. A map may claim any number of them."""
    path = copied(tmp_path)
    arrays = dict(np.load(path / "pages.npz"))
    arrays["length"][np.flatnonzero(arrays["flags"] & BUDDY)[0]] = 3
    arrays["start"] = np.append(0, np.cumsum(arrays["length"])[:-1]).astype(arrays["start"].dtype)
    np.savez(path / "pages.npz", **arrays)
    with pytest.raises(ValueError, match=rf"^{path}: not a capture: .*three free blocks of one page in a row"):
        fo.Capture.load(path)


def heads_only(kpf, mem):
    """The flags with BUDDY left on the first page of each free block."""
    kpf = kpf.copy()
    free = (kpf & BUDDY) != 0
    for zone in mem.zones.values():
        at = zone.start_pfn
        while at < zone.start_pfn + zone.spanned_pages:
            order = 0
            if free[at]:
                order = next(k for k in range(10, -1, -1) if at % (1 << k) == 0 and free[at : at + (1 << k)].all())
                kpf[at + 1 : at + (1 << order)] = 0
            at += 1 << order
    return kpf


def used(engine="bitmap"):
    """A machine whose pages in use nobody can tell from free ones by their flags."""
    mem = fo.Memory(fo.X86_64, boot="128M", engine=engine)
    pages = mem.alloc_pages_bulk(3000)
    mem.free_pfns(pages[::3])
    return mem


def test_rebuilt_from_kpagecount(x86_64, tmp_path, engine):  # noqa: F811
    """A running kernel of 4.4. Expect the free blocks of its buddyinfo; without kpagecount, one line."""
    mem = used()
    write_kernel(tmp_path, mem)
    kpf = mem.kpageflags(0, 1 << 15)
    in_use = kpf == 0
    (tmp_path / "proc/kpageflags").write_bytes(heads_only(kpf, mem).tobytes())
    (tmp_path / "proc/kpagecount").write_bytes(in_use.astype(np.uint64).tobytes())
    capture = fo.Capture.live(root=tmp_path)
    assert capture.machine(engine).buddyinfo() == mem.buddyinfo()
    capture.save(tmp_path / "capture")
    assert fo.Capture.load(tmp_path / "capture").machine(engine).buddyinfo() == mem.buddyinfo()
    (tmp_path / "proc/kpagecount").unlink()
    with pytest.raises(OSError):
        fo.Capture.live(root=tmp_path)


def test_kpagecount_beside_a_capture(tmp_path):
    """The choice that the flags leave is made by what is mapped."""
    path = copied(tmp_path)
    text = (path / "buddyinfo").read_text()
    (path / "buddyinfo").write_text(text.replace("      0      4 \n", "      1      3 \n"))
    with np.load(path / "pages.npz") as pages:
        first = int(pages["start"][np.flatnonzero(pages["flags"] & BUDDY)[0]])
    count = np.zeros(1 << 15, np.uint64)
    count[first + 512] = 1      # the first block ends there
    (path / "kpagecount").write_bytes(count.tobytes())
    assert fo.Capture.load(path).machine().zones["DMA32"].nr_free == (0,) * 9 + (1, 3)
