"""Compiles the simulator's core where a C compiler is at hand; without one the same source runs interpreted."""

import os
import sys

from setuptools import Extension, setup

CORE = "src/headway/simulator/core.py"


def core_extension() -> list[Extension]:
    if os.environ.get("HEADWAY_NO_COMPILE"):
        return []
    try:
        from Cython.Build import cythonize
    except ImportError:
        sys.stderr.write("headway: Cython is absent; the simulator core will run interpreted (slow)\n")
        return []
    # optional: a missing compiler must not stop the installation
    extension = Extension("headway.simulator.core", [CORE], extra_compile_args=["-O3"], optional=True)
    return cythonize([extension], language_level=3, annotate=False, build_dir="build")


setup(ext_modules=core_extension())
