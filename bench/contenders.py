"""Who is compared, and what each must have done in the end."""

import numpy as np
from fastonline_engines import FastOnline
from numpy_only import NumpyOnly
from plain_python import PlainPython

CONTENDERS = ("bitmap", "struct_page", "numpy_only", "plain_python")
SECTION = (512 << 20) >> 12
MAX_ORDER = 10


def make(name, nr_pages):
    """A contender by name, with so many pages waiting."""
    if name == "numpy_only":
        return NumpyOnly(nr_pages)
    if name == "plain_python":
        return PlainPython(nr_pages)
    return FastOnline(name, nr_pages)


def pages(contender, order="ascending"):
    """Every pfn of the contender's range, in order."""
    pfns = contender.first + np.arange(contender.nr_pages)
    if order == "random":
        pfns = np.random.default_rng(2008).permutation(pfns)
    return contender.pfns(pfns)


def all_free(nr_pages):
    """nr_free by order when all pages are free."""
    return [0] * MAX_ORDER + [nr_pages >> MAX_ORDER]


def all_merges(nr_pages):
    """Merges by order when all pages were freed one by one."""
    return [nr_pages >> order + 1 for order in range(MAX_ORDER)] + [0]


def rounds(name, fast=30):
    """Rounds that keep the whole run short: the slow contenders get fewer."""
    return {"numpy_only": 5, "plain_python": 3}.get(name, fast)
