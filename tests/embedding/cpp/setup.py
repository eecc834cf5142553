from setuptools import Extension, setup

import fastonline

setup(
    name="simulator",
    ext_modules=[Extension("simulator", ["simulator.cpp"], include_dirs=[fastonline.get_include()], language="c++")],
)
