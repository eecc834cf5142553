"""What every test file needs: both engines, small machines, and the recordings that may or may not lie beside the project."""

import gc
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# their asserts hold under python -O too
pytest.register_assert_rewrite("drivers_common", "in_process")

import fastonline as fo
from fastonline.cli import main
from fastonline.cost.profile import profile
from fastonline.hotplug.memory import ENGINES
from fastonline.testing.geometries import SMALL_64, SMALL_64K, SMALL_ORDER_7, SMALL_PAE

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # a shell's background job: tests that interrupt a call, or a child, would wait for good
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The suite's answer depends on the code alone: each test has examples of its own, the same in each run.
# `pytest --hypothesis-profile=random` draws others each time.
settings.register_profile(
    "random", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
settings.register_profile("fastonline", settings.get_profile("random"), derandomize=True)
settings.load_profile("fastonline")


@pytest.hookimpl(tryfirst=True, optionalhook=True)
def pytest_cmdline_main(config):
    """The whole suite runs in two processes where pytest-xdist is installed; `pytest -n 0` keeps it in one."""
    option = config.option
    whole = config.args_source is not config.ArgsSource.ARGS and not option.collectonly and not option.usepdb
    worker = hasattr(config, "workerinput")     # it must not start workers of its own
    if whole and not worker and getattr(option, "numprocesses", 0) is None:
        option.numprocesses, option.dist = 2, "loadgroup"


ONE_BUILD = ("test_embedding.py", "test_install.py", "test_no_python_in_loops.py", "test_packaging.py")
"""Files whose tests share one build of the package, and so one process."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """With --dist loadgroup, send each test to the next free worker, but those of ONE_BUILD all to one. An xdist_group mark
    does not do that: pytest-xdist 3.8 loses it under pytest 9.2, and when --dist is not on the command line."""
    if config.option.dist != "loadgroup":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file = nodeid.partition("::")[0]
            return "one build" if file.endswith(ONE_BUILD) else nodeid

        def mark_test_complete(self, node, item_index, duration=0):
            super().mark_test_complete(node, item_index, duration)
            # what is done would be counted again after each test: a time that grows with the square of their number
            done = [scope for scope, tests in self.assigned_work[node].items() if all(tests.values())]
            for scope in done:
                del self.assigned_work[node][scope]

    return Scheduling(config, log)


def pytest_collection_finish():
    """Modules and tests live to the end: keep the garbage collector away from them. Hypothesis runs it in each test."""
    gc.collect()
    gc.freeze()


ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session", params=ENGINES)
def engine(request):
    """The name of one engine; a test or a fixture that takes it runs on both."""
    return request.param


@pytest.fixture
def make_machine(engine):
    """make_machine(geometry=SMALL_64, boot="1M", **): a Memory on this test's engine."""
    def make(geometry=SMALL_64, boot="1M", **given):
        return fo.Memory(geometry, boot=boot, engine=engine, **given)

    return make


@pytest.fixture
def prepared(make_machine):
    """One section without boot memory, prepared."""
    mem = make_machine(boot=None)
    mem.add_memory(0, 256)
    mem.prepare_online_pages(0, 256)
    return mem


@pytest.fixture
def online(make_machine):
    """Two sections without boot memory, online."""
    mem = make_machine(boot=None)
    mem.add_memory(0, 512)
    mem.online_pages(0, 512)
    return mem


@pytest.fixture
def varied(make_machine):
    """Two nodes with pages in every state, and a setting that was changed."""
    mem = make_machine(boot="3M", rules=fo.LINUX_6_1)
    mem.add_memory(1024, 512, 1)
    mem.prepare_online_pages(1024, 256, fo.MMOP_ONLINE_MOVABLE)
    mem.mark_pages_onlined(1024, 100)
    mem.alloc_pages_bulk(9)
    mem.set_page_offline(mem.alloc_pages(0, "DMA32"))
    mem.min_free_kbytes = 300
    return mem


@pytest.fixture
def in_memory(tmp_path):
    """A directory in memory, where there is one: on a disk, to write a file anew may take a millisecond."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else tmp_path) as path:
        yield Path(path)


@pytest.fixture
def small(tmp_path):
    """A scenario file: a guest of 256 MiB that grows by a block and shrinks back."""
    path = tmp_path / "small.toml"
    path.write_text('boot = "256M"\nhost = "1G"\nsteps = [[10, "384M"], [20, "256M"]]\n')
    return path


def snapshot(mem):
    """All that a refused call must leave as it was: states, counters, texts, sections."""
    spans = mem.sections.spans()
    return {
        "states": [mem.page_states(start, nr).tobytes() for start, nr in spans],
        "spans": spans,
        "online": [mem.sections.online_section_nr(nr) for first, n in mem.sections.runs() for nr in range(first, first + n)],
        "buddyinfo": mem.buddyinfo(),
        "zoneinfo": mem.zoneinfo(),
        "nodes": [(nid, node.start_pfn, node.spanned_pages) for nid, node in mem.nodes.items()],
        "resources": mem.resources.tree(),
        "memmaps": dict(mem.memmaps),
        "groups": list(mem.groups),
        "stats": {k: v for k, v in mem.stats().items() if k != "notifications"},
        "min_free_kbytes": mem.min_free_kbytes,
        "totals": (mem.totalram_pages, mem.totalhigh_pages),
    }


def shared(*parts):
    """A path under the ``shared`` directory beside the project; the test is skipped where there is none."""
    path = Path(__file__).resolve().parents[2].joinpath("shared", *parts)
    if not path.exists():
        pytest.skip(f"{Path('..', 'shared', *parts)} is not beside the project")
    return path


@pytest.fixture(name="run")
def run_fastonline(capfd):
    """``run(*args)`` -> (exit status, standard output, standard error) of the command line, as a shell would see them."""
    def run(*args):
        try:
            status = main([str(arg) for arg in args])
        except SystemExit as e:     # argparse
            status = e.code
        return status, *capfd.readouterr()

    return run


@pytest.fixture(scope="session", name="result")
def profiled():
    """A profile of both engines."""
    return profile(repeat=2, orders=(10, 3, 0))


def by_zone(mem):
    """{name: Zone} of node 0."""
    return {zone.name: zone for zone in mem.nodes[0].zones}


# -- the package as a user has it

def environment(home):
    """What a command sees: no modules, no settings, and ccache where there is one: several tests compile the same C."""
    # -O0: what is packed is looked at, not how fast it is. The compiler compares capi.pyx with fastonline.h.
    flags = "-O0 -Werror=incompatible-pointer-types"
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(home), "PIP_DISABLE_PIP_VERSION_CHECK": "1", "CFLAGS": flags,
               "PIP_COMPILE": "0"}      # most of what the extra brings is never imported
    if shutil.which("ccache", path=environ["PATH"]):
        cache = os.environ.get("CCACHE_DIR", f"{Path.home()}/.cache/ccache")
        # each virtual environment has an -I of its own, without headers
        environ |= {"CC": "ccache gcc", "CXX": "ccache g++", "CCACHE_DIR": cache, "CCACHE_IGNOREOPTIONS": "-I*"}
    return environ


def run(*command, cwd, path=None):
    """What a command prints, in an environment of its own but for `path`, where modules are found first."""
    environ = environment(cwd)
    if path:
        environ["PYTHONPATH"] = str(path)
    done = subprocess.run(command, cwd=cwd, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def copy_sources(tree, tests=False):
    """Copy into `tree` what a clean checkout has: nothing compiled."""
    if not (ROOT / "setup.py").exists():
        pytest.skip("the tests are run without the sources")
    for path in ROOT.glob("*.*"):
        if path.is_file():
            shutil.copy2(path, tree)
    shutil.copy2(ROOT / "LICENSE", tree)
    for name in ("fastonline", *(("tests", "bench") if tests else ())):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("*.so", "*.c", "*.html", "__pycache__"))
    return tree


@pytest.fixture(scope="session")
def sources(tmp_path_factory):
    """A copy of what a clean checkout has."""
    pytest.importorskip("Cython", reason="Cython is not installed")
    pytest.importorskip("setuptools", reason="setuptools is not installed")
    return copy_sources(tmp_path_factory.mktemp("sources"))


@pytest.fixture(scope="session")
def sdist(sources):
    """The sdist, as setuptools' own backend makes it."""
    run(sys.executable, "-c", "import setuptools.build_meta as b; b.build_sdist('dist')", cwd=sources)
    (archive,) = (sources / "dist").glob("*.tar.gz")
    return archive


@pytest.fixture(scope="session")
def built(sdist, tmp_path_factory):
    """The unpacked sdist, in which a wheel was built, so that it is shown to build, with Cython's annotations; and what the
    build printed."""
    tree = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(tree, filter="data")
    (unpacked,) = tree.iterdir()
    code = "import os; os.dup2(1, 2); from Cython.Compiler import Options; Options.annotate = True; "
    code += "import setuptools.build_meta as b; b.build_wheel('wheels')"
    return unpacked, run(sys.executable, "-c", code, cwd=unpacked)


@pytest.fixture(scope="session")
def wheel(built):
    """The wheel, as setuptools' own backend makes it."""
    (archive,) = (built[0] / "wheels").glob("*.whl")
    return archive


@pytest.fixture(scope="session")
def installed(wheel, tmp_path_factory):
    """The directory that the wheel was installed into."""
    target = tmp_path_factory.mktemp("installed")
    run(sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", str(target), str(wheel), cwd=target)
    return target
