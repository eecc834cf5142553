"""The extension modules. Everything else about the package is in pyproject.toml.

FASTONLINE_CHECKED=1 builds the checked variant: bounds and overflow checks are on, assertions are kept.
FASTONLINE_SANITIZE=address,undefined builds with gcc's sanitizers; the first finding ends the process. Run Python with
LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libstdc++.so.6)" ASAN_OPTIONS=detect_leaks=0 then.
"""

import gc
import hashlib
import os
import shlex
import shutil
import sys
import sysconfig
from pathlib import Path

from Cython import __version__ as cython_version
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

CHECKED = os.environ.get("FASTONLINE_CHECKED", "") not in ("", "0")
SANITIZE = os.environ.get("FASTONLINE_SANITIZE", "")
# CFLAGS with an -O of its own wins.
OPTIMIZE = [] if "-O" in os.environ.get("CFLAGS", "") else ["-O1" if CHECKED or SANITIZE else "-O2"]
OPTIMIZE_LOOPS = ["-O3"] if OPTIMIZE == ["-O2"] else OPTIMIZE
if SANITIZE:
    COMPILE, LINK = (
        [f"-fsanitize={SANITIZE}", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-g1"],
        [f"-fsanitize={SANITIZE}"],
    )
else:
    # no debugging information, no symbols but the exported ones: a third of the size
    # Where a loop of eight instructions begins decides on a tenth of its time.
    # No exception passes through C, so no function needs unwind tables; two segments are mapped faster than four.
    COMPILE, LINK = ["-g0", "-falign-loops=32", "-fno-asynchronous-unwind-tables"], ["-Wl,-s", "-Wl,-z,noseparate-code"]

DIRECTIVES = {
    "language_level": 3,
    "boundscheck": CHECKED,
    "overflowcheck": CHECKED,
    "initializedcheck": CHECKED,
    "wraparound": False,
    "cdivision": True,
    "embedsignature": True,
    "embedsignature.format": "clinic",
    # builtin functions are a seventh smaller than Cython's own, and 4 ns slower to call: hot modules say binding=True
    "binding": False,
    "auto_pickle": False,
}

MODULES = [".".join(path.with_suffix("").parts) for path in sorted(Path("fastonline").rglob("*.pyx"))]

# Modules with loops over pages, and what these call. Elsewhere -O2 is as fast as -O3 and an eighth smaller.
LOOPS = {
    "fastonline.core.threads",
    "fastonline.core.bitmap",
    "fastonline.core.aligned",
    "fastonline.core.borders",
    "fastonline.core.buddy",
    "fastonline.core.engine",
    "fastonline.core.bitmap_engine",
    "fastonline.core.structpage",
    "fastonline.core.audit",
    "fastonline.hotplug.page_alloc",
    "fastonline.hotplug.notices",
    "fastonline.hotplug.onlining",
    "fastonline.hotplug.page_ops",
    "fastonline.cost.phases",
    "fastonline.capi",
}

# A hash of how the extensions are built. The linker writes it into each, so that other flags or another Cython are noticed.
BUILD_ID = hashlib.sha256(repr((
    DIRECTIVES, OPTIMIZE_LOOPS, sorted(LOOPS), COMPILE, LINK, cython_version,
    [os.environ.get(name) for name in ("CC", "CFLAGS", "LDFLAGS")],
)).encode()).hexdigest()[:40]
LINK = [*LINK, f"-Wl,--build-id=0x{BUILD_ID}"]


def missing_tool():
    """What this machine lacks to compile an extension, in one line, or None."""
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    compiler = next((word for word in compiler if os.path.basename(word) != "ccache"), "cc")
    if shutil.which(compiler) is None:
        return (f"a C compiler is needed and {compiler!r} was not found: install gcc (Debian, Ubuntu: apt-get install gcc; "
                "Fedora: dnf install gcc; Alpine: apk add gcc musl-dev), or set CC")
    header = os.path.join(sysconfig.get_path("include"), "Python.h")
    if not os.path.exists(header):
        return (
            f"the headers of Python {sys.version_info.major}.{sys.version_info.minor} are needed and {header} was not found: "
            "install them (Debian, Ubuntu: apt-get install python3-dev; Fedora: dnf install python3-devel)"
        )
    return None


def built_in_place():
    """Return two bools: every extension is in place and newer than all sources; those in place have this BUILD_ID."""
    found = [Path(name.replace(".", "/") + sysconfig.get_config_var("EXT_SUFFIX")) for name in MODULES]
    found = [path for path in found if path.exists()]
    sources = [Path("setup.py"), *(path for path in Path("fastonline").rglob("*") if path.suffix in (".pyx", ".pxd", ".h"))]
    newest = max(path.stat().st_mtime for path in sources)
    newer = len(found) == len(MODULES) and min(path.stat().st_mtime for path in found) >= newest
    return newer, all(bytes.fromhex(BUILD_ID) in path.read_bytes() for path in found)


class cython_build_ext(build_ext):
    """Cython runs first, over all modules at once, and only when something is built: an sdist then lists .pyx, not .c."""

    def run(self):
        # pip builds an editable install in empty directories, with a Cython that is newer than any file here: it would build
        # everything again each time
        newer, same = built_in_place()
        if self.inplace and newer and same and not self.force:
            return
        self.force = self.force or not same
        lacking = missing_tool()
        if lacking:
            sys.exit(f"fastonline: {lacking}")
        gc.set_threshold(100_000, 50, 50)       # Cython makes large trees without cycles: a third of its time goes otherwise
        modules = cythonize(self.extensions, compiler_directives=DIRECTIVES, force=self.force or None)
        cythonized = {ext.name: ext for ext in modules}
        for ext in self.extensions:
            ext.sources, ext.depends = cythonized[ext.name].sources, cythonized[ext.name].depends
        self.parallel = self.parallel or os.cpu_count()
        super().run()


setup(
    cmdclass={"build_ext": cython_build_ext},
    ext_modules=[
        Extension(
            name,
            [name.replace(".", "/") + ".pyx"],
            include_dirs=["fastonline/include"],
            extra_compile_args=(OPTIMIZE_LOOPS if name in LOOPS else OPTIMIZE) + COMPILE,
            extra_link_args=LINK,
            undef_macros=["NDEBUG"] if CHECKED else [],
        )
        for name in MODULES
    ],
)
