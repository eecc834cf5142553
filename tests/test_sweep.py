"""Sweeps: the same rows whoever runs them, and none lost or doubled whatever ends them."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor

import pytest

import fastonline
from fastonline.cli import main
from fastonline.cost import sweep as module
from fastonline.cost.pool import Pool, dask_executor
from fastonline.cost.scenario import Scenario
from fastonline.cost.sweep import SUMMARY, Mean, grid, summary, sweep

TINY = Scenario.from_dict({
    "name": "tiny", "boot": "256M", "maximum": "384M", "host": "512M", "steps": [[10, "384M"], [20, "256M"]], "end": 30,
    "workload": {"in_use": 0.5}, "costs": {"table": "free"},
})
SETS = {"host": ["384M", "512M"], "workload.in_use": [0.25, 0.5]}
TINY_TOML = """
boot = "256M"
maximum = "384M"
host = "512M"
steps = [[10, "384M"], [20, "256M"]]
end = 30
[workload]
in_use = 0.5
"""


def points(seeds=2):
    return grid(TINY, SETS, ["split", "kvm"], seeds)


def lines(path):
    return sorted(path.read_bytes().splitlines())


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    path = tmp_path_factory.mktemp("sweep") / "runs.jsonl"
    assert sweep(points(), None, path) == 16
    return lines(path)


# -- grids

def test_sets_strategies_and_seeds_multiply(expected):
    rows = [json.loads(line) for line in expected]
    assert len({row["key"] for row in rows}) == 16 == len(points())
    assert {row["index"] for row in rows} == set(range(16))
    assert "host=384M,workload.in_use=0.25,strategy=split,seed=1" in {row["key"] for row in rows}
    assert all(row["grown_bytes"] >= 0 and "samples" not in row and "error" not in row for row in rows)


@pytest.mark.parametrize("given, says", [
    ({"strategies": ["splt"]}, "did you mean 'split'"),
    ({"strategies": ["split", "split"]}, "'split' is given twice"),
    ({"strategies": []}, "0 points"),
    ({"seeds": 0}, "0 points"),
    ({"sets": {"host": []}}, "0 points"),
    ({"sets": {"hots": ["1G", "2G"]}}, "did you mean 'host'"),
    ({"sets": {"host": ["512M"]}}, "no effect"),
    ({"sets": {"host": ["1G", "1024M"]}}, "no effect"),
    ({"sets": {"workload.period": [1, 2]}}, "sawtooth"),
    ({"sets": {"workload.in_use": [0.5, 1.5]}}, "not a share"),
    ({"sets": {"seed": [1, 2]}}, "--seeds"),
    ({"sets": {"host": ["1G", "2G"]}, "seeds": 10**7}, "--yes"),
])
def test_a_grid_that_makes_no_sense_is_refused(given, says):
    with pytest.raises(ValueError, match=says):
        grid(TINY, **given)


def test_a_grid_of_many_points_can_be_meant():
    assert len(grid(TINY, {"host": ["1G", "2G"]}, ["split"], 10**7, many=True)) == 2 * 10**7


# -- executors


def test_rows_do_not_depend_on_the_executor(expected, tmp_path):
    with ThreadPoolExecutor(2) as threads:
        sweep(points(), threads, tmp_path / "threads", 2)
    with ProcessPoolExecutor(2) as processes:
        sweep(points(), processes, tmp_path / "processes", 2)
    pool = Pool(2)
    sweep(points(), pool, tmp_path / "pool", 2)
    pool.close()
    for name in ("threads", "processes", "pool"):
        assert lines(tmp_path / name) == expected, name


def test_rows_do_not_depend_on_a_dask_cluster(expected, tmp_path):
    distributed = pytest.importorskip("distributed")
    with (distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
          dask_executor(cluster.scheduler_address) as (executor, workers)):
        assert workers == 2
        sweep(points(), executor, tmp_path / "dask", workers)
    assert lines(tmp_path / "dask") == expected


class Cluster:
    """A distributed.Client of one worker, of which `answer` comes back."""

    answer = None

    def __init__(self, address, **given):
        self.address = address

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def run(self, fn, *args, on_error):
        return {} if self.answer is None else {"tcp://w:1": self.answer}


@pytest.mark.parametrize("answer, says", [
    (ModuleNotFoundError("No module named 'fastonline'"), "worker tcp://w:1 has no fastonline"),
    ("0.0.1", f"worker tcp://w:1 has fastonline 0.0.1, not {fastonline.__version__}"),
    (None, "has no workers"),
])
def test_a_worker_that_cannot_serve_is_named(monkeypatch, answer, says):
    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr(Cluster, "answer", answer)
    monkeypatch.setattr(distributed, "Client", Cluster)
    with pytest.raises(ValueError, match=says), dask_executor("tcp://s:1"):
        pass


def test_a_run_that_raises_becomes_a_row(tmp_path, monkeypatch):
    def fail(scenario, strategy):
        raise ZeroDivisionError(f"{strategy} divides")
    monkeypatch.setattr(module, "run_one", fail)
    sweep(points(1), None, tmp_path / "runs")
    rows = [json.loads(line) for line in lines(tmp_path / "runs")]
    assert len(rows) == 8 and all(row["error"] == f"ZeroDivisionError: {row['strategy']} divides" for row in rows)


def test_an_executor_needs_submit(tmp_path):
    with pytest.raises(TypeError, match="needs a submit method"):
        sweep(points(), object(), tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_a_worker_of_another_version_ends_the_sweep(tmp_path):
    class Other:
        def submit(self, fn, tasks, version):
            future = Future()
            try:
                future.set_result(fn(tasks, version + "x"))
            except Exception as e:
                future.set_exception(e)
            return future
    with pytest.raises(module.VersionError, match=fastonline.__version__):
        sweep(points(), Other(), tmp_path / "runs")


# -- the file

def test_a_sweep_goes_on_where_it_was_torn(expected, tmp_path):
    path = tmp_path / "runs"
    for kept in (0, 1, 7, 16):
        for torn in (b"", b'{"key": "host', b"\xff" if kept else b"{"):
            path.write_bytes(b"".join(line + b"\n" for line in expected[:kept]) + torn)
            assert sweep(points(), None, path) == 16 - kept
            assert lines(path) == expected
    path.write_bytes(b"\n".join(expected))      # the last line whole, but for its end
    assert sweep(points(), None, path) == 1 and lines(path) == expected


def test_rows_of_something_else_are_refused(expected, tmp_path):
    path = tmp_path / "runs"
    row = json.loads(expected[0])
    other_grid = expected[0].replace(row["grid"].encode(), b"other-123")
    other_version = expected[0].replace(b'"version": "', b'"version": "9')
    for content, says in [(other_grid, "row of another grid .other-123, this is tiny-"),
                          (other_version, f"fastonline 9{fastonline.__version__}, this is"),
                          (b"hello", "line 1: not a row"), (b"[]", "line 1: not a row"), (b'{"index": 1}', "not a row")]:
        path.write_bytes(content + b"\n")
        with pytest.raises(ValueError, match=says):
            sweep(points(), None, path)
        assert path.read_bytes() == content + b"\n"
    for content in (b"no newline", b'{"boot": "1G"}', b'{"boot": '):      # which are no torn rows either
        path.write_bytes(content)
        with pytest.raises(ValueError, match="line 1: not a row"):
            sweep(points(), None, path)
        assert path.read_bytes() == content
    with pytest.raises(ValueError, match="this is tiny-"):
        path.write_bytes(expected[0] + b"\n")
        sweep(points(3), None, path)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_a_full_disk_is_said(tmp_path):
    os.symlink("/dev/full", tmp_path / "runs")
    with pytest.raises(OSError) as e:
        sweep(points(), None, tmp_path / "runs")
    assert e.value.filename == str(tmp_path / "runs")


# -- the summary

def test_mean_and_interval_are_students():
    mean = Mean()
    for x in (1.0, 2.0, 4.0):
        mean.add(x)
    assert mean.mean == pytest.approx(7 / 3) and mean.interval == pytest.approx(4.303 * (7 / 3 / 3) ** 0.5)


def test_a_summary_says_where_all_are_equal(expected, tmp_path):
    path = tmp_path / "runs"
    path.write_bytes(b"\n".join(expected) + b"\n")
    table = summary(path)
    assert table[0]["key"] == "host=384M,workload.in_use=0.25,strategy=split" and table[1]["key"].endswith("strategy=kvm")
    assert all(line["n"] == 2 and line["errors"] == 0 for line in table) and len(table) == 8
    assert table[0]["grown_bytes"] == (128 << 20, 0.0, True)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="no rows"):
        summary(path)
    for content in (b"x", b"7", b"[" * 100000, b'{"key": 1, "index": 2}', b'{"key": "a", "index": "2"}', b"\xff"):
        path.write_bytes(content + b"\n")
        with pytest.raises(ValueError, match="line 1: not a row"):
            summary(path)
    path.write_bytes(b'{"key": "a", "index": 1, "peak_bytes": 1' + b"0" * 400 + b"}\n")
    assert "peak_bytes" not in summary(path)[0]
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(OSError, match="not a regular file"):
        summary(path)


# -- the command line

@pytest.fixture
def tiny(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.toml").write_text(TINY_TOML)
    return tmp_path


ARGS = ["sweep", "tiny.toml", "--set", "host=384M,1G", "--set", "workload.in_use=0.25,0.75", "--strategies", "split,kvm",
        "--seeds", "2", "--out", "runs.jsonl"]


def test_sweep_and_its_summary(tiny, capsys):
    assert main(ARGS) == 0 and capsys.readouterr().out == "runs.jsonl: 16 runs, 16 rows\n"
    assert main(ARGS) == 0 and capsys.readouterr().out == "runs.jsonl: 0 runs, 16 rows\n"
    assert main(["sweep", "--summary", "runs.jsonl"]) == 0
    out = capsys.readouterr().out
    assert main(["sweep", "tiny.toml"]) == 2 and main(["sweep", "--out", "x"]) == 2
    err = capsys.readouterr().err.splitlines()
    assert err[0].startswith("fastonline: no --out FILE given") and err[1].startswith("fastonline: no scenario given")
    assert "all equal" in out and max(map(len, out.splitlines())) <= 80
    pytest.importorskip("matplotlib")
    assert main(["sweep", "--summary", "runs.jsonl", "--plot", "map.png"]) == 0
    assert (tiny / "map.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("columns", [80, 120])
def test_a_summary_of_long_keys_fits(tiny, capsys, monkeypatch, columns):
    """Three settings, large numbers with intervals, a strategy that was not run and one that failed. Expect whole keys, and no
    line longer than the terminal."""
    monkeypatch.setenv("COLUMNS", str(columns))
    key = "workload.free_order=random,memory_block_size=134217728,host=1536M,strategy="
    rows = [{"key": f"{key}{name},seed={seed}", "index": 3 * seed + i, "n": 1, **values}
            for seed in range(3) for i, (name, values) in enumerate({
                "virtio-mem-huge": dict.fromkeys(SUMMARY, 123456789123 * (seed + 1)), "hyperv": {"reason": "it needs " * 15},
                "split": {"error": "ValueError: no"}}.items())]
    (tiny / "runs").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["sweep", "--summary", "runs"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= columns
    assert all(part in " ".join(out.split()) for part in ("±", "was not run: it needs", "3 failed"))
    assert all(part in out for part in (*key.split(",")[:3], "strategy=virtio-mem-huge"))


@pytest.mark.parametrize("change, says", [
    (["--set", "hots=1,2"], "did you mean 'host'"),
    (["--set", "host"], "KEY=VALUE"),
    (["--set", "host=1G,,2G"], "KEY=VALUE"),
    (["--set", "user_delay=0.1"], "no effect"),
    (["--strategies", "splt"], "did you mean 'split'"),
    (["--out", "."], "directory"),
    (["--out", "no/such/runs"], "No such file"),
    (["--jobs", "0"], "whole number"),
    (["--dask", "tcp://127.0.0.1:1", "--jobs", "2"], "exclude"),
    (["--seeds", "10000000"], "--yes"),
])
def test_bad_input_is_one_line(tiny, capsys, change, says):
    try:
        status = main([*ARGS, *change])
    except SystemExit as e:
        status = e.code
    out, err = capsys.readouterr()
    assert status == 2 and out == "" and err.count("\n") == 1 and says in err
    assert os.listdir(tiny) == ["tiny.toml"]


def test_a_scheduler_that_is_not_there_is_said(tiny, capsys, monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr("fastonline.cost.pool.DASK_TIMEOUT", 0.5)
    assert main([*ARGS, "--dask", "tcp://127.0.0.1:1"]) == 2
    out, err = capsys.readouterr()
    assert err.count("\n") == 1 and "no Dask scheduler at tcp://127.0.0.1:1" in err and os.listdir(tiny) == ["tiny.toml"]


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGKILL])
def test_what_was_interrupted_goes_on(tiny, capsys, by, jobs):
    """Expect the end by SIGINT after Ctrl-C, no worker left behind, and the rows of an undisturbed sweep in the end."""
    args = [*ARGS[:-1], "other.jsonl", "--seeds", "12"]
    assert main([*ARGS[:-1], "runs.jsonl", "--seeds", "12"]) == 0
    child = subprocess.Popen([sys.executable, "-m", "fastonline", *args, "--jobs", str(jobs)], stdout=subprocess.DEVNULL,
                             stderr=subprocess.PIPE, start_new_session=True)
    other = tiny / "other.jsonl"
    while child.poll() is None and not (other.exists() and other.stat().st_size > 8000):
        time.sleep(0.01)
    os.kill(child.pid, by)
    err = child.communicate()[1]
    if by == signal.SIGINT:
        assert child.returncode in (-signal.SIGINT, 0) and err == b""
    for _ in range(500):
        try:
            os.killpg(child.pid, 0)
        except ProcessLookupError:
            break
        time.sleep(0.02)
    else:
        pytest.fail("a worker outlives the sweep")
    assert main([*args, "--jobs", str(jobs)]) == 0
    assert lines(other) == lines(tiny / "runs.jsonl")
