"""Compiles the simulator where a C compiler is at hand; without one the same source runs interpreted."""

import os
import sys

from setuptools import Extension, setup

COMPILED = ("server", "core", "stepping", "fleet", "vllm", "radix", "sglang", "tensorrt_llm", "tgi", "llama_cpp")


def extensions() -> list[Extension]:
    if os.environ.get("HEADWAY_NO_COMPILE"):
        return []
    try:
        from Cython.Build import cythonize
    except ImportError:
        sys.stderr.write("headway: Cython is absent; the simulator will run interpreted (slow)\n")
        return []
    # optional: a missing compiler must not stop the installation
    modules = [
        Extension(
            f"headway.simulator.{name}",
            [f"src/headway/simulator/{name}.py"],
            extra_compile_args=["-O3"],
            optional=True,
        )
        for name in COMPILED
    ]
    return cythonize(modules, language_level=3, annotate=False, build_dir="build", include_path=["src"])


setup(ext_modules=extensions())
