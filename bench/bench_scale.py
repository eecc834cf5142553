"""From one section to many: is a page as cheap when there are more of them?

With --most 30 up to 2^30 pages (4 TiB) as far as a contender's state fits into a few GiB.
"""

import pytest
from contenders import all_free, all_merges, make, pages, rounds

from fastonline.geometry import format_size

# log2 of the most pages each contender gets; sets of Python ints take some 70 bytes a page
MOST_WHOLE = {"bitmap": 30, "struct_page": 24, "numpy_only": 27, "plain_python": 24}
MOST_RANDOM = {"bitmap": 26, "struct_page": 24, "numpy_only": 24, "plain_python": 20}


def sizes(*default, large):
    """Parameters of 2^n pages each; those in `large` run with --most n only."""
    def param(n, *marks):
        return pytest.param(1 << n, id=format_size(1 << n) + "i", marks=marks)
    return [param(n) for n in default] + [param(n, pytest.mark.large(n)) for n in large]


def few(nr_pages):
    """Rounds: the large sizes take seconds each."""
    return 5 if nr_pages < 1 << 24 else 3


def contender_of(name, nr_pages, most):
    if nr_pages > 1 << most[name]:
        pytest.skip(f"too large for {name}")
    return make(name, nr_pages)


@pytest.mark.benchmark(group="scale, whole")
@pytest.mark.parametrize("nr_pages", sizes(17, 20, 22, large=(24, 27, 30)))
def bench_whole(measure, name, nr_pages):
    contender = contender_of(name, nr_pages, MOST_WHOLE)
    assert (
        measure(lambda: contender.online_range(contender.first, nr_pages), nr_pages, contender.reset, few(nr_pages)) == nr_pages
    )
    assert contender.nr_free() == all_free(nr_pages)


@pytest.mark.benchmark(group="scale, random")
@pytest.mark.parametrize("nr_pages", sizes(17, 20, 22, large=(24, 26)))
def bench_random(measure, name, nr_pages):
    contender = contender_of(name, nr_pages, MOST_RANDOM)
    pfns = pages(contender, "random")
    assert measure(lambda: contender.online_pfns(pfns), nr_pages, contender.reset, min(few(nr_pages), rounds(name))) == nr_pages
    assert contender.nr_free() == all_free(nr_pages)
    assert contender.nr_merges() == all_merges(nr_pages)


@pytest.mark.benchmark(group="scale, page by page")
@pytest.mark.parametrize("nr_pages", sizes(17, 20, 22, large=(24,)))
@pytest.mark.parametrize("name", ["bitmap", "struct_page"])
def bench_random_pages(measure, name, nr_pages):
    contender = contender_of(name, nr_pages, MOST_RANDOM)
    pfns = pages(contender, "random")
    assert measure(lambda: contender.online_each(pfns), nr_pages, contender.reset, few(nr_pages)) == nr_pages
    assert contender.nr_merges() == all_merges(nr_pages)
