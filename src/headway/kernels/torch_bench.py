"""Kernels of PyTorch on one device, timed: the only module of the room that touches torch, and only when asked to.

On a GPU a kernel runs from a CUDA graph between two CUDA events, so that neither launches nor Python are timed; on a
CPU a monotonic clock is read around the calls. Operands are random normal numbers: a GPU that multiplies zeros draws
less power and runs at higher clocks than one that serves. Where a model streams operands from memory (the weights and
the KV of one layer after another), copies are taken in turn that together exceed the last-level cache.
"""

from __future__ import annotations

import itertools
import math
import platform
import shutil
import subprocess
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from headway.errors import InputError
from headway.kernels.ops import Copy, Decode, Gemm, Prefill

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from headway.kernels.ops import Shape
    from headway.types import Dtype

    Call = Callable[[], object]

#: A CPU's last-level cache, which torch does not tell: larger than most cores' share of it.
_CPU_CACHE_BYTES = 32 * 2**20
_CACHES = 2  # copies together are this many times the cache
_MOST_COPIES = 64
#: A sample lasts at least so long: events resolve about half a microsecond, Python takes a few between two calls.
_SAMPLE_S = 1e-3
_MOST_CALLS = 128
_MS_PER_S = 1e3
#: First compute capability with fp8 tensor cores (Ada; NVIDIA, CUDA C++ Programming Guide, compute capabilities).
_FP8_CAPABILITY = (8, 9)


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """What was measured on."""

    name: str  # as the driver tells it
    kind: str  # cuda or cpu
    count: int  # of this kind on the machine; a CPU counts once
    memory_bytes: float
    driver: str
    torch_version: str
    formats: tuple[Dtype, ...]  # it multiplies in, of those recorded


def load_torch() -> Any:
    """Return torch.

    Raises:
        InputError: it is not installed.
    """
    try:
        import torch
    except ModuleNotFoundError:
        raise InputError(
            "PyTorch is not installed", place="torch", hint="pip install 'headway[torch]', or run where an engine runs"
        ) from None
    return torch


class TorchBench:
    """One device, ready to time kernels.

    Args:
        kind: cuda or cpu; a GPU where there is one if None.

    Raises:
        InputError: torch is not installed, or sees no such device.
    """

    def __init__(self, kind: str | None = None) -> None:
        self._torch = load_torch()
        cuda = self._torch.cuda.is_available()
        if kind == "cuda" and not cuda:
            raise InputError(
                f"torch {self._torch.__version__} sees no GPU", place="--device", hint="--device cpu records the CPU"
            )
        self._kind = kind or ("cuda" if cuda else "cpu")
        self._torch.manual_seed(0)
        self.device = self._gpu() if self._kind == "cuda" else self._cpu()
        self._cache_bytes = self._cache()

    def sampler(self, shape: Shape) -> Callable[[], float]:
        """Prepare a kernel, run it warm, and return what times one run of it in seconds."""
        calls = self._calls(shape)
        return graphed(self._torch, calls) if self._kind == "cuda" else clocked(calls)

    # -- the device ---------------------------------------------------------------------------------
    def _gpu(self) -> Device:
        torch = self._torch
        found = torch.cuda.get_device_properties(0)
        fp8 = torch.version.hip is None and torch.cuda.get_device_capability(0) >= _FP8_CAPABILITY
        return Device(
            name=found.name,
            kind="cuda",
            count=torch.cuda.device_count(),
            memory_bytes=float(found.total_memory),
            driver=driver_version() or f"CUDA {torch.version.cuda or torch.version.hip}",
            torch_version=str(torch.__version__),
            formats=("bf16", "fp8") if fp8 else ("bf16",),
        )

    def _cpu(self) -> Device:
        torch = self._torch
        told: dict[str, str] = getattr(torch.cpu, "get_capabilities", dict)()  # newer versions alone
        return Device(
            name=f"{told.get('cpu_name') or platform.machine()}, {torch.get_num_threads()} threads",
            kind="cpu",
            count=1,
            memory_bytes=_machine_bytes(),
            driver="",
            torch_version=str(torch.__version__),
            formats=("bf16",),
        )

    def _cache(self) -> int:
        if self._kind == "cpu":
            return _CPU_CACHE_BYTES
        return int(self._torch.cuda.get_device_properties(0).L2_cache_size)

    # -- kernels ------------------------------------------------------------------------------------
    def _calls(self, shape: Shape) -> list[Call]:
        if isinstance(shape, Gemm):
            return self._matmuls(shape)
        if isinstance(shape, Decode):
            return self._decodes(shape)
        if isinstance(shape, Prefill):
            return self._prefills(shape)
        return self._copies(shape)

    def _random(self, *sizes: int) -> Any:
        return self._torch.randn(*sizes, dtype=self._torch.bfloat16, device=self._kind)

    def _turns(self, operand: Any, shape: Shape) -> list[Any]:
        """Return copies of an operand; few where the others, which are not copied, fill the cache themselves."""
        count = min(max(math.ceil(_CACHES * self._cache_bytes / shape.moved_bytes), 1), _MOST_COPIES)
        return [operand, *(operand.clone() for _ in range(count - 1))]

    def _matmuls(self, shape: Gemm) -> list[Call]:
        rows, weight = self._random(shape.m, shape.k), self._random(shape.n, shape.k)
        if shape.dtype == "fp8":
            narrow = weight.to(self._torch.float8_e4m3fn)
            return [self._scaled_matmul(rows, one) for one in self._turns(narrow, shape)]
        linear = self._torch.nn.functional.linear
        return [partial(linear, rows, one) for one in self._turns(weight, shape)]

    def _scaled_matmul(self, rows: Any, weight: Any) -> Call:
        torch, one = self._torch, self._torch.ones((), device=self._kind)
        scaled = torch._scaled_mm  # noqa: SLF001 - torch has no public name for it in every version supported
        narrow = rows.to(torch.float8_e4m3fn)
        return partial(scaled, narrow, weight.t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16)

    def _decodes(self, shape: Decode) -> list[Call]:
        query = self._random(shape.batch, shape.heads, 1, shape.head_dim)
        sizes = (shape.batch, shape.kv_heads, shape.context, shape.head_dim)
        keys, values = (self._turns(self._random(*sizes), shape) for _ in range(2))
        return [self._attention(query, *pair, causal=False) for pair in zip(keys, values, strict=True)]

    def _prefills(self, shape: Prefill) -> list[Call]:
        query = self._random(shape.batch, shape.heads, shape.tokens, shape.head_dim)
        sizes = (shape.batch, shape.kv_heads, shape.tokens, shape.head_dim)
        return [self._attention(query, self._random(*sizes), self._random(*sizes), causal=True)]

    def _attention(self, query: Any, keys: Any, values: Any, *, causal: bool) -> Call:
        attend = self._torch.nn.functional.scaled_dot_product_attention
        return partial(attend, query, keys, values, is_causal=causal, enable_gqa=True)

    def _copies(self, shape: Copy) -> list[Call]:
        count = int(shape.size_bytes) // 2  # bf16
        source = self._random(count)
        return [partial(source.clone().copy_, source)]


def clocked(calls: Sequence[Call], count: int | None = None, wait: Call = lambda: None) -> Callable[[], float]:
    """Run a call warm, and return what times one by the clock; each sample goes on where the last one ended.

    Args:
        calls: taken in turn.
        count: how many a sample takes; as many as fill it if None.
        wait: returns when what was called is done.
    """
    turns = itertools.cycle(calls)

    def sample(count: int = 1) -> float:
        start_s = time.perf_counter()
        for call in itertools.islice(turns, count):
            call()
        wait()
        return (time.perf_counter() - start_s) / count

    sample()
    return partial(sample, count or _filling(sample()))


def graphed(torch: Any, calls: Sequence[Call], count: int | None = None) -> Callable[[], float]:
    """Capture calls in a CUDA graph, replay it once, and return what times one call of a replay.

    Args:
        torch: the library.
        calls: taken in turn.
        count: how many the graph takes; all, and as many as fill a sample, if None.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # a capture needs its libraries initialised, which a first run does
        once_s = clocked(calls, 1, torch.cuda.synchronize)()
    torch.cuda.current_stream().wait_stream(side)
    taken = count or max(len(calls), _filling(once_s))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in itertools.islice(itertools.cycle(calls), taken):
            call()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def sample() -> float:
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / _MS_PER_S / taken

    sample()
    return sample


def _filling(once_s: float) -> int:
    return min(math.ceil(_SAMPLE_S / once_s), _MOST_CALLS)


def driver_version() -> str:
    """Return the version of NVIDIA's driver, empty where there is none to ask."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ""
    query = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, check=False, timeout=30)  # noqa: S603 - fixed words
    return done.stdout.splitlines()[0].strip() if done.returncode == 0 and done.stdout.strip() else ""


def _machine_bytes() -> float:
    import os

    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
