from Cython.Build import cythonize
from setuptools import setup

setup(name="simulator", ext_modules=cythonize("simulator.pyx", language_level=3))
