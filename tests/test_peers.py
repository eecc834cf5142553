"""bench/peers.py and bench/targets.py: who is compared, what is checked, what is written; never how long it took."""

import csv
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parent.parent / "bench"
WORKLOADS = ["W1", "W2", "W2 C API", "W3", "W3 C API", "W4", "W5"]
SMALL = 1 << 15

# a peer for the linux64 adapter: a byte a page, order 0 only
STAND_IN = r"""
#define MAXO 10
static struct { int32_t refc; int free; } *map;
static struct { uint64_t nr; } fa[MAXO + 1];
static uint64_t N;
static int setup(uint64_t n) { N = n; map = calloc(n, sizeof *map); return !map; }
static void reset(void) { for (uint64_t i = 0; i < N; i++) map[i].free = 0; fa[0].nr = 0; }
static void free_one(uint64_t pfn, int order) { if (!map[pfn].free) fa[0].nr++; map[pfn].free = 1; }
static int free_many(const uint32_t *a, uint64_t n) { for (uint64_t i = 0; i < n; i++) free_one(a[i], 0); return 0; }
static int w1(void) { for (uint64_t i = 0; i < N LIE; i++) free_one(i, 0); return 0; }
static uint64_t alloc_many(uint32_t *out, uint64_t n)
{
	uint64_t got = 0;
	for (uint64_t i = 0; i < N && got < n; i++)
		if (map[i].free) { map[i].free = 0; fa[0].nr--; out[got++] = i; }
	return got;
}
static int w5full(uint64_t start, uint64_t n) { reset(); return 0; }
static uint64_t sb(void) { return N * sizeof *map; }
"""


@pytest.fixture
def stand_in(tmp_path):
    """Makes the directory of a peer that does its work, or with `lie` less than that."""
    def make(lie=""):
        (tmp_path / "bench.h").write_text("#include <stdint.h>\n#include <stdlib.h>\n")
        (tmp_path / "p_linux.c").write_text(STAND_IN.replace("LIE", lie))
        return tmp_path
    return make


def run(program, *args, **variables):
    env = {name: value for name, value in os.environ.items() if not name.startswith("FASTONLINE_")} | variables
    return subprocess.run([sys.executable, str(BENCH / program), *args], capture_output=True, text=True, env=env)


def test_side_by_side(tmp_path):
    out = tmp_path / "rows.json"
    done = run("peers.py", "--pages", str(SMALL), "--repeat", "2", "--write", str(out))
    assert done.returncode == 0, done.stderr
    written = json.loads(out.read_text())
    found = [(row["workload"], row["contender"]) for row in written["rows"]]
    engines = ["bitmap", "struct_page"]
    assert found == [
        (workload, name) for workload in WORKLOADS
        for name in (engines if workload.endswith("C API") else [*engines, "numpy_only", "plain_python"])
    ]
    for row in written["rows"]:
        assert row["pages"] == SMALL
        assert row["rounds"] == 2
        assert 0 < row["ns_min"] <= row["ns_median"]
        assert row["ns_per_page_min"] * SMALL == pytest.approx(row["ns_min"])
        assert row.keys() >= {"seed", "python", "numpy", "machine", "cpu", "load", "fastonline", "clock_ns", "what"}
    assert written["missing"] == {
        f"linux64, {SMALL} pages": "FASTONLINE_BASELINE does not say where its sources are",
        f"llfree_c, {SMALL} pages": "FASTONLINE_LLFREE does not say where its sources are",
    }
    for name, why in written["missing"].items():
        assert f"not there: {name}: {why}" in done.stdout
    assert done.stdout.count("  bitmap ") == len(WORKLOADS)
    assert re.search(r"^  bitmap .* 1\.00x", done.stdout, re.M)


def test_csv_has_the_same_rows(tmp_path):
    out = tmp_path / "rows.csv"
    done = run("peers.py", "--pages", str(SMALL), "--repeat", "1", "--only", "bitmap", "--workload", "W1", "--write", str(out))
    assert done.returncode == 0, done.stderr
    with open(out, newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["contender"], row["workload"], row["pages"]) == ("bitmap", "W1", str(SMALL))


def test_peer_in_c(stand_in):
    """Compiled, called and checked; the C API is the engines' alone."""
    done = run("peers.py", "--pages", str(SMALL), "--repeat", "1", "--only", "linux64", FASTONLINE_BASELINE=str(stand_in()))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("  linux64 ") == 5
    assert "not there" not in done.stdout


def test_peer_that_does_less_is_found(stand_in):
    lazy = str(stand_in(lie="- 1"))
    done = run(
        "peers.py", "--pages", str(SMALL), "--repeat", "1", "--only", "linux64", "--workload", "W1", FASTONLINE_BASELINE=lazy
    )
    assert done.returncode != 0
    assert f"linux64, W1: {SMALL} pages done, {SMALL - 1} free of {SMALL}" in done.stderr


@pytest.mark.parametrize(("variable", "name", "why"), [
    ("FASTONLINE_LLFREE", "llfree_c", "no sources there"), ("FASTONLINE_BASELINE", "linux64", "does not compile: "),
])
def test_sources_that_are_not_there(variable, name, why, tmp_path):
    done = run("peers.py", "--pages", str(SMALL), "--only", name, "--workload", "W1", **{variable: str(tmp_path)})
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("not there: ")]
    assert why in line


@pytest.mark.parametrize(
    "args", [["--only", "slab"], ["--workload", "W9"], ["--pages", "100"], ["--pages", "0"], ["--repeat", "0"]]
)
def test_wrong_arguments(args, monkeypatch, capsys):
    monkeypatch.syspath_prepend(BENCH)
    from peers import main

    with pytest.raises(SystemExit) as ended:
        main(args)
    assert ended.value.code == 2
    assert "error: argument" in capsys.readouterr().err


def test_targets(tmp_path):
    """Every target is a line, measured or with the reason why not; large sizes only on request."""
    out = tmp_path / "targets.json"
    done = run("targets.py", "--repeat", "2", "--write", str(out))
    assert done.returncode == 0, done.stderr
    lines = {row["what"]: row for row in json.loads(out.read_text())["rows"]}
    not_measured = {what: row["note"] for what, row in lines.items() if row["measured"] is None}
    assert not_measured.pop("struct_page / kernel-shaped C, W2") == "FASTONLINE_BASELINE does not say where its sources are"
    assert sorted(not_measured) == [
        "random batch of 16 Mi pages, LLFree / bitmap",
        "random batch of 16 Mi pages, a page",
        "random batch of 16 Mi pages, struct_page / bitmap",
        *(f"struct_page / kernel-shaped C, {w}" for w in ("W1", "W3", "W4")),
    ]
    for row in lines.values():
        if row["measured"] is not None:
            assert row["measured"] > 0
            better = row["target"] / row["measured"] if row["most"] else row["measured"] / row["target"]
            assert row["ratio"] == pytest.approx(better)
        assert row["what"] in done.stdout
    assert {row["target"] for row in lines.values()} >= {1500, 2, 200, 1, 30, 10, 5, 80, 0.6, 1.1, 40, 3.5, 0.2, 150}


def test_readme_commands(tmp_path):
    """What the console block of bench/README.md shows runs."""
    (block,) = re.findall(r"^```console\n(.*?)^```$", (BENCH / "README.md").read_text(), re.M | re.S)
    commands = [shlex.split(line.removeprefix("$ ")) for line in block.splitlines()]
    assert len(commands) == 3
    for python, program, *args in commands:
        assert python == "python"
        done = subprocess.run(
            [sys.executable, str(BENCH.parent / program), *args], capture_output=True, text=True, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "w3.csv").exists()


def test_readme_names_every_file_and_peer(monkeypatch):
    monkeypatch.syspath_prepend(BENCH)
    from c_peers import PEERS

    text = (BENCH / "README.md").read_text()
    for name, (variable, *_) in PEERS.items():
        assert f"| `{name}` | `{variable}` |" in text
        assert (BENCH / f"peer_{name}.c").exists()
