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
]


class cython_build_ext(build_ext):
    """Cythonize when extensions are built and not before: an sdist then carries the .pyx and not the generated C."""

    def finalize_options(self):
        self.distribution.ext_modules = cythonize(self.distribution.ext_modules, compiler_directives=DIRECTIVES)
        super().finalize_options()
        self.parallel = self.parallel or os.cpu_count()


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
