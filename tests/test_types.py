"""What a type checker sees: stubs that are the modules', a client that passes mypy --strict, mistakes that do not."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.package

HERE = Path(__file__).resolve().parent

# Each line is one mistake; with Any in the place of a type, mypy would see none in it.
MISTAKES = """
fo.Memory()
fo.Memory(6)
fo.Memory(fo.X86_64, boot=1.5)
fo.Memory(fo.X86_64, rules=6.12)
fo.parse_size(None)
fo.load(3)
fo.export_sysfs("mem", "there")
fo.X86_64.page_shift = 3
fo.LINUX_6_12.aligned.upper()
mem.max_pfn = 3
mem.add_memory(1.0, 1)
mem.mark_pages_onlined(1.0)
mem.mark_pages_onlined(1, order="3")
mem.mark_pages_onlined(1).upper()
mem.mark_pfns_onlined("123")
mem.mark_pfns_onlined(np.zeros(3))
mem.mark_pfns_onlined(3)
mem.alloc_pages(zone=3)
mem.alloc_pages_bulk(3).upper()
mem.free_pages()
mem.offline_page(3)
mem.flags["PG_reserved"].upper()
mem.page_states(0, 3).upper()
mem.page_flags(3) + 3
mem.zones[3]
mem.zones["Normal"].free
mem.zones["Normal"].free_pages = 3
mem.zones["Normal"].nr_free.sort()
mem.nodes[0].zones["Normal"]
mem.sections.present_section_nr("3")
mem.blocks["3"]
mem.blocks[3].online(3)
mem.blocks[3].state.online
mem.stats()["merge"]
mem.stats().merge.upper()
mem.stats()["merges"].upper()
mem.notifiers.register(lambda action: None)
mem.notifiers.register(lambda action, notice: "no")
mem.set_online_page_callback(lambda pfn: None)
mem.events.listen(3)
mem.resources.conflict("0", 3)
mem.buddyinfo().free
mem.copy().alloc_page()
mem.save(mem)
fo.MovablePages(mem).give("3")
fo.Capture.load("here").machine(engine=3)
fo.Capture.load("here").geometry.page
fo.Recording.load("here").replay(3)
next(fo.Recording.load("here").replay()).error
Host(None)
Host("4G").take("3", 1)
Domain("4G")
Domain(host).populate_physmap([3])
Domain(host).p2m.upper()
XenBalloon(mem, host)
XenBalloon(mem, Domain(host), behaviour="6.18")
XenBalloon(mem, Domain(host)).set_target(None)
XenBalloon(mem, Domain(host)).hotplug_pages.upper()
HvBalloon(mem, Domain(host)).hot_add(1, "3")
Cmm2(mem, Domain(host))
Cmm2(mem, HintedDomain(host)).use_cache().upper()
run([mem], 3.0)
run_series("xen", ["1G"], fo.X86_64, fo.LINUX_6_12, "1G", "4G")
profile(engines=3)
profile()[3]
profile().rows[0].medians
""".strip().splitlines()
PROLOGUE = """
import numpy as np
import fastonline as fo
from fastonline.cost.profile import profile
from fastonline.drivers.cmm import Cmm2, HintedDomain
from fastonline.drivers.driver import run
from fastonline.drivers.hyperv import HvBalloon
from fastonline.drivers.hypervisor import Domain, Host
from fastonline.drivers.series import run_series
from fastonline.drivers.xen import XenBalloon
mem = fo.Memory(fo.X86_64)
host = Host("4G")
""".strip().splitlines()


@pytest.fixture(scope="module")
def checker(tmp_path_factory):
    """checker(module, *arguments): run a part of mypy on the fastonline that this process has imported."""
    pytest.importorskip("mypy", reason="mypy is not installed")
    path = os.pathsep.join(entry for entry in sys.path if entry)
    directory = tmp_path_factory.mktemp("mypy")
    (directory / "mypy.ini").write_text(
        "[mypy]\n[mypy-matplotlib.*,tqdm.*,distributed.*,argcomplete.*]\nignore_missing_imports = True\nfollow_imports = skip\n"
    )  # extras, whether they are there or not

    def run(module, *arguments):
        return subprocess.run(
            [sys.executable, "-m", module, *arguments], cwd=directory, env={**os.environ, "PYTHONPATH": path},
            capture_output=True, text=True,
        )

    return run


def test_stubs_are_what_the_modules_are(checker):
    done = checker("mypy.stubtest", "fastonline", "--mypy-config-file", "mypy.ini")
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_compiled_module_has_a_stub():
    import fastonline

    package = Path(fastonline.__file__).parent
    compiled = {path.with_name(path.name.partition(".")[0]) for path in package.rglob("*.so")}
    assert compiled and compiled == {path.with_suffix("") for path in package.rglob("*.pyi")}
    assert (package / "py.typed").exists()


def test_a_client_passes_strict(checker):
    done = checker("mypy", "--strict", str(HERE / "typed_client.py"))
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_client_runs(tmp_path):
    import typed_client

    typed_client.main(tmp_path, HERE / "data" / "recordings" / "S1.json", HERE / "data" / "linux-6.18-24g")


def test_mistakes_are_seen(checker, tmp_path):
    (tmp_path / "mistakes.py").write_text("\n".join(PROLOGUE + MISTAKES) + "\n")
    done = checker("mypy", "--strict", str(tmp_path / "mistakes.py"))
    seen = {int(nr) for nr in re.findall(r"mistakes\.py:(\d+): error", done.stdout, re.MULTILINE)}
    passed = [line for nr, line in enumerate(MISTAKES, len(PROLOGUE) + 1) if nr not in seen]
    assert not passed, f"mypy has no objection to {passed}"
    assert min(seen) > len(PROLOGUE), done.stdout
