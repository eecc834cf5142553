"""Fixtures of the benchmarks: the contenders, the pages, and the rates that go into extra_info."""

import numpy as np
import pytest
from fastonline_engines import FastOnline
from numpy_only import NumpyOnly
from plain_python import PlainPython

CONTENDERS = ("bitmap", "struct_page", "numpy_only", "plain_python")
SECTION = (512 << 20) >> 12
MAX_ORDER = 10


def pytest_addoption(parser):
    parser.addoption("--large", action="store_true", help="run the large sizes too: 16 Mi pages and more (some GiB of memory)")


def pytest_configure(config):
    config.addinivalue_line("markers", "large: a size that runs only with --large")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--large"):
        for item in items:
            if item.get_closest_marker("large"):
                item.add_marker(pytest.mark.skip(reason="needs --large"))


def make(name, nr_pages):
    """A contender by name, with so many pages waiting."""
    if name == "numpy_only":
        return NumpyOnly(nr_pages)
    if name == "plain_python":
        return PlainPython(nr_pages)
    return FastOnline(name, nr_pages)


@pytest.fixture(params=CONTENDERS)
def name(request):
    """The name of each contender in turn."""
    return request.param


@pytest.fixture
def section(name):
    """A contender with one 512 MiB section waiting."""
    return make(name, SECTION)


@pytest.fixture(params=["ascending", "random"])
def order(request):
    """The order in which single pages come."""
    return request.param


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


@pytest.fixture
def measure(benchmark):
    """``measure(run, nr_pages, reset, rounds)``: each round is reset(), untimed, then run(); per-page rates go to extra_info."""
    def measured(run, nr_pages, reset=None, rounds=20):
        result = benchmark.pedantic(run, setup=reset, rounds=rounds, warmup_rounds=1)
        benchmark.extra_info["pages"] = nr_pages
        if benchmark.stats is not None:
            stats = benchmark.stats.stats
            benchmark.extra_info["ns_per_page"] = {"min": stats.min / nr_pages * 1e9, "median": stats.median / nr_pages * 1e9}
            benchmark.extra_info["pages_per_second"] = nr_pages / stats.min
        return result
    return measured


def rounds(name, fast=30):
    """Rounds that keep the whole run short: the slow contenders get fewer."""
    return {"numpy_only": 5, "plain_python": 3}.get(name, fast)
