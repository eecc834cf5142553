"""Fixtures of the benchmarks: each contender in turn, and the measuring, whose rates go into extra_info."""

import pytest
from contenders import CONTENDERS, SECTION, make

import fastonline as fo
from fastonline.cost.profile import SEED
from fastonline.cost.provenance import provenance

ORIGIN = provenance(seed=SEED)


def pytest_addoption(parser):
    parser.addoption("--large", dest="most", action="store_const", const=24, default=22, help="sizes up to 2^24 pages too")
    parser.addoption("--most", dest="most", type=int, metavar="N", help="sizes up to 2^N pages too; 30 takes some GiB")


def pytest_configure(config):
    config.addinivalue_line("markers", "large(n): a size of about 2^n pages, which runs only with --most n or more")


def pytest_collection_modifyitems(config, items):
    for item in items:
        large = item.get_closest_marker("large")
        if large and large.args[0] > config.getoption("most"):
            item.add_marker(pytest.mark.skip(reason=f"needs --most {large.args[0]}"))


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


@pytest.fixture
def geometry():
    """The geometry of the machines, where a benchmark has no parameter of that name."""
    return fo.X86_64


@pytest.fixture
def rules():
    """Their rules, likewise."""
    return fo.LINUX_6_12


@pytest.fixture(autouse=True)
def origin(benchmark, geometry, rules):
    """Where a figure comes from goes into its extra_info."""
    benchmark.extra_info |= {"geometry": geometry.name, "rules": rules.name, **ORIGIN}


@pytest.fixture
def measure(benchmark):
    """``measure(run, nr_pages, reset, rounds)``: each round is reset(), untimed, then run(); per-page rates go to
    extra_info."""

    def measured(run, nr_pages, reset=None, rounds=20):
        result = benchmark.pedantic(run, setup=reset, rounds=rounds, warmup_rounds=1)
        benchmark.extra_info["pages"] = nr_pages
        if benchmark.stats is not None:
            stats = benchmark.stats.stats
            benchmark.extra_info["ns_per_page"] = {"min": stats.min / nr_pages * 1e9, "median": stats.median / nr_pages * 1e9}
            benchmark.extra_info["pages_per_second"] = nr_pages / stats.min
        return result
    return measured
