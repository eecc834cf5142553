"""The benchmarks run, each contender does the whole work, and the rates are there. No time is looked at."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("pytest_benchmark")

pytestmark = pytest.mark.package

BENCH = Path(__file__).parent.parent / "bench"
CONTENDERS = {"bitmap", "struct_page", "numpy_only", "plain_python"}


SEVERAL = """
import pytest, sys
for line in sys.stdin:
    print("status", int(pytest.main(eval(line))), flush=True)
"""


def run_bench(*runs):
    """Run pytest on bench/ once for each list of arguments. Returns what each printed, with its status as the last word."""
    # not a worker of pytest-xdist: there pytest-benchmark measures nothing
    environ = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    lines = [f"{['-q', '-p', 'no:cacheprovider', *args, str(BENCH)]}\n" for args in runs]
    program = [sys.executable, "-P", "-c", SEVERAL]
    done = subprocess.run(program, input="".join(lines), capture_output=True, text=True, cwd=BENCH.parent, env=environ)
    assert done.returncode == 0, done.stderr
    printed = re.split(r"(?<=^status \d)\n", done.stdout, flags=re.M)
    assert len(printed) == len(runs) + 1 and not printed.pop()
    return printed


def test_every_file_runs():
    (printed,) = run_bench(["--benchmark-disable", "-k", "not 1Mi and not 4Mi"])
    assert printed.endswith("status 0"), printed
    assert " passed" in printed
    assert " failed" not in printed


def test_groups_contenders_and_rates(tmp_path):
    """One workload in every group's place: the JSON holds the rates, and each group its contenders."""
    which = "(eight_sections or calls or alloc or bench_batches) and not random"
    (printed,) = run_bench(["--benchmark-json", str(tmp_path / "b.json"), "-k", which])
    assert printed.endswith("status 0"), printed
    found = json.loads((tmp_path / "b.json").read_text())["benchmarks"]
    for group in ("eight sections", "batch", "call", "alloc"):
        names = {name for item in found if item["group"] == group for name in CONTENDERS if name in item["name"]}
        assert names == CONTENDERS, group
    for item in found:
        info = item["extra_info"]
        assert info["ns_per_page"]["min"] == pytest.approx(item["stats"]["min"] * 1e9 / info["pages"])
        assert info["ns_per_page"]["median"] == pytest.approx(item["stats"]["median"] * 1e9 / info["pages"])
        assert info["pages_per_second"] == pytest.approx(info["pages"] / item["stats"]["min"])
        assert (info["geometry"], info["rules"], info["seed"]) == ("X86_64", "6.12", 2008)
        assert {"fastonline", "commit", "compiler", "variant", "cpu", "kernel", "huge_pages", "date"} <= set(info)


def test_large_sizes_are_asked_for():
    there, *runs = run_bench(["--collect-only", "--large"], *(["--benchmark-disable", *asked, "-k", sizes] for asked, sizes in [
        ([], "16Mi or 64Mi or 1Gi"), (["--large"], "64Mi or 128Mi or 1Gi"), (["--most", "27"], "1Gi")]))
    assert there.endswith("status 0"), there
    assert "1Gi" in there
    for printed in runs:
        assert printed.endswith(("status 0", "status 5")), printed
        assert "passed" not in printed
        assert "skipped" in printed


def test_rows_of_a_profile_by_name(tmp_path):
    """bench_profile.py has every row of `profile` but the one that is too short, and says whose geometry and rules it ran."""
    from fastonline.cost.profile import C_API, LIFECYCLE, LISTENER, WORKLOADS

    (printed,) = run_bench(["--benchmark-json", str(tmp_path / "b.json"), "-k", "bench_workload and ARM64_64K and bitmap"])
    assert printed.endswith("status 0"), printed
    found = json.loads((tmp_path / "b.json").read_text())["benchmarks"]
    rows = {"whole, order 13", *WORKLOADS, LISTENER, *LIFECYCLE} - {C_API}
    assert {item["group"] for item in found} == {f"profile: ARM64_64K, 6.12, {row}" for row in rows}
    for item in found:
        info = item["extra_info"]
        assert (info["geometry"], info["rules"]) == ("ARM64_64K", "6.12")
        assert info["pages"] == (2048 if item["group"].endswith("listener") else 8192)


@pytest.mark.parametrize("module", ["numpy_only", "plain_python"])
def test_comparisons_agree_with_the_engine(module, monkeypatch):
    """The other contenders give the counts that Memory gives, for pages in any order and allocation in between."""
    import numpy as np

    monkeypatch.syspath_prepend(BENCH)
    from fastonline_engines import FastOnline
    from numpy_only import NumpyOnly
    from plain_python import PlainPython

    nr_pages = 1 << 15
    other = {"numpy_only": NumpyOnly, "plain_python": PlainPython}[module](nr_pages)
    engine = FastOnline("bitmap", nr_pages)
    order = np.random.default_rng(7).permutation(nr_pages)
    for part in np.split(order, [100, 4000, 20000]):
        assert other.online_pfns(other.pfns(part)) == engine.online_pfns(engine.pfns(part + engine.first)) == part.size
        assert other.nr_free() == engine.nr_free()
        assert other.nr_merges() == engine.nr_merges()
    again = order[:10]
    assert other.online_pfns(other.pfns(again)) == engine.online_pfns(engine.pfns(again + engine.first)) == 0
    for contender in (other, engine):
        contender.reset()
        assert contender.nr_free() == [0] * 11
        for pfn in order[:500].tolist():
            assert contender.online_page(contender.first + pfn) == 1
    assert other.nr_free() == engine.nr_free()
    assert other.nr_merges() == engine.nr_merges()
    for contender in (other, engine):
        contender.reset()
        assert contender.online_range(contender.first, nr_pages) == nr_pages
        taken = contender.alloc(1000)
        assert len(set(map(int, taken))) == 1000
        contender.free(taken)
        assert contender.nr_free() == [0] * 10 + [nr_pages >> 10]
