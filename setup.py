"""The extension modules; everything else about the package is in pyproject.toml.

FASTONLINE_CHECKED=1 builds the checked variant: bounds and overflow checks on, assertions kept.
"""

import os

from Cython.Build import cythonize
from setuptools import Extension, setup

CHECKED = os.environ.get("FASTONLINE_CHECKED", "") not in ("", "0")

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

setup(
    ext_modules=cythonize(
        [
            Extension(
                name,
                [name.replace(".", "/") + ".pyx"],
                extra_compile_args=["-O1" if CHECKED else "-O3"],
                undef_macros=["NDEBUG"] if CHECKED else [],
            )
            for name in MODULES
        ],
        compiler_directives=DIRECTIVES,
    )
)
