"""The extension modules; everything else about the package is in pyproject.toml.

FASTONLINE_CHECKED=1 builds the checked variant: bounds and overflow checks on, assertions kept.
"""

import os

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

CHECKED = os.environ.get("FASTONLINE_CHECKED", "") not in ("", "0")
# CFLAGS with an -O of its own wins.
OPTIMIZE = [] if "-O" in os.environ.get("CFLAGS", "") else ["-O1" if CHECKED else "-O3"]

DIRECTIVES = {
    "language_level": 3,
    "boundscheck": CHECKED,
    "overflowcheck": CHECKED,
    "initializedcheck": CHECKED,
    "wraparound": False,
    "cdivision": True,
    "embedsignature": True,
    "binding": True,
}

MODULES = [
    "fastonline.core.lock",
    "fastonline.core.bitmap",
    "fastonline.core.pageflags",
    "fastonline.core.sections",
    "fastonline.core.buddy",
    "fastonline.core.engine",
    "fastonline.core.bitmap_engine",
    "fastonline.core.structpage",
    "fastonline.hotplug.zones",
    "fastonline.hotplug.watermarks",
    "fastonline.hotplug.memory",
    "fastonline.cost.phases",
    "fastonline.cost.counters",
]


class cython_build_ext(build_ext):
    """Cython runs first, over all modules at once, and only when something is built: an sdist then lists .pyx, not .c."""

    def run(self):
        cythonized = {ext.name: ext for ext in cythonize(self.extensions, compiler_directives=DIRECTIVES)}
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
            extra_compile_args=OPTIMIZE,
            undef_macros=["NDEBUG"] if CHECKED else [],
        )
        for name in MODULES
    ],
)
