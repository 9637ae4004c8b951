"""Which compiler for the hot loop: the same kernel in C, Cython, Numba and plain Python.

    python benchmarks/compilers.py

Prints ns of CPU per request (the best of several runs of one process) and what a user waits on first use: the time
from a cold interpreter to the first answer, after installation. Cython and C are compiled at install; that time is
shown beside it. Numba is measured with an empty and with a warm cache. All answers must be equal.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).parent
BLOCK_SIZE, PROMPT = 16, 2000
REQUESTS = {"C": 300_000, "Cython": 300_000, "Numba": 300_000, "Python": 10_000}


def inputs(count: int) -> tuple[Any, ...]:
    """Some tens of requests in flight: steps of 6 ms and more, 150 to 450 output tokens, 9 arrivals per second."""
    rng = np.random.default_rng(0)
    arrive = np.cumsum(rng.exponential(1e9 / 9, count)).astype(np.int64)
    return arrive, rng.integers(150, 450, count), np.zeros(4096, np.int64), np.zeros(BLOCK_SIZE, np.int64)


def load(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location("kernel", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load_c(folder: Path) -> Callable[..., int]:
    library = ctypes.CDLL(str(folder / "kernel_c.so"))
    library.kernel.restype = ctypes.c_int64

    def call(arrive: Any, outputs: Any, heap: Any, phases: Any, prompt: int) -> int:
        pointer = [column.ctypes.data_as(ctypes.POINTER(ctypes.c_int64)) for column in (arrive, outputs, heap, phases)]
        sizes = [ctypes.c_int64(value) for value in (len(arrive), len(phases), prompt)]
        return int(library.kernel(pointer[0], sizes[0], *pointer[1:], *sizes[1:]))

    return call


def load_cython(folder: Path) -> Callable[..., int]:
    return load(next(folder.glob("kernel*.cpython*")) if os.name != "nt" else next(folder.glob("kernel*.pyd"))).kernel


def load_numba(folder: Path) -> Callable[..., int]:
    import numba

    return numba.njit(cache=True)(load(folder / "kernel.py").kernel)


def load_python(folder: Path) -> Callable[..., int]:
    kernel = load(folder / "kernel.py").kernel
    return lambda *columns: kernel(*map(memoryview, columns[:-1]), columns[-1])


LOADERS = {"C": load_c, "Cython": load_cython, "Numba": load_numba, "Python": load_python}


def build(folder: Path) -> dict[str, float]:
    """Compile what is compiled at install; return the seconds it takes."""
    shutil.copy(HERE / "kernel.py", folder)
    took_s = {}
    start = time.perf_counter()
    source = str(HERE / "kernel.c")
    subprocess.run(
        ["gcc", "-O3", "-fwrapv", "-shared", "-fPIC", source, "-o", f"{folder}/kernel_c.so", "-lm"], check=True
    )
    took_s["C"] = time.perf_counter() - start
    start = time.perf_counter()
    script = (
        "from setuptools import Extension, setup; from Cython.Build import cythonize; "
        "kernel = Extension('kernel', ['kernel.py'], extra_compile_args=['-O3']); "
        "setup(ext_modules=cythonize([kernel], language_level=3, quiet=True), "
        "script_args=['-q', 'build_ext', '--inplace'])"
    )
    subprocess.run([sys.executable, "-c", script], cwd=folder, check=True, capture_output=True)
    took_s["Cython"] = time.perf_counter() - start
    return took_s


def first_use_s(compiler: str, folder: Path) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, __file__, compiler, str(folder)], check=True, capture_output=True)
    return time.perf_counter() - start


def ns_per_request(kernel: Callable[..., int], count: int) -> tuple[float, int]:
    best, answer = float("inf"), 0
    for _ in range(5):
        columns = inputs(count)
        start = time.process_time()
        answer = kernel(*columns, PROMPT)
        best = min(best, time.process_time() - start)
    return 1e9 * best / count, answer


def main() -> None:
    if len(sys.argv) == 3:  # one cold first use
        LOADERS[sys.argv[1]](Path(sys.argv[2]))(*inputs(100), PROMPT)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        took_s = build(folder)
        print(f"{'':10}{'ns/request':>12}{'first use s':>13}{'then s':>9}{'compiled at install s':>24}")
        answers: dict[str, set[int]] = {}
        for compiler, loader in LOADERS.items():
            if compiler == "Numba" and importlib.util.find_spec("numba") is None:
                print("Numba     not installed")
                continue
            cold = first_use_s(compiler, folder)
            warm = min(first_use_s(compiler, folder) for _ in range(3))
            kernel = loader(folder)
            answers.setdefault("small", set()).add(int(kernel(*inputs(1000), PROMPT)))
            speed, _ = ns_per_request(kernel, REQUESTS[compiler])
            install = f"{took_s[compiler]:24.2f}" if compiler in took_s else f"{'—':>24}"
            print(f"{compiler:10}{speed:12.0f}{cold:13.2f}{warm:9.2f}{install}")
        assert len(answers["small"]) == 1, f"the kernels disagree: {answers}"


if __name__ == "__main__":
    main()
