"""Which kernels are timed: grids of shapes for each operator, cut to what a device can run in the time there is."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from headway.perf.formats import KV_BYTES, WEIGHT_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headway.types import Dtype

_BF16_BYTES = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Gemm:
    """(m × k) · (k × n): inputs arrive in the format of the weights, and count in bf16 as in `perf.gemm`."""

    dtype: Dtype
    m: int
    n: int
    k: int

    @property
    def weight_bytes(self) -> float:
        """Bytes of the weights."""
        return self.n * self.k * WEIGHT_BYTES[self.dtype]

    @property
    def flops(self) -> float:
        """Multiplications and additions."""
        return 2.0 * self.m * self.n * self.k

    @property
    def moved_bytes(self) -> float:
        """Bytes of weights, inputs and outputs."""
        return self.weight_bytes + self.m * (self.k + self.n) * _BF16_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Decode:
    """Attention of one new token of each sequence over its context."""

    batch: int
    context: int
    heads: int
    kv_heads: int
    head_dim: int

    @property
    def point(self) -> tuple[int, ...]:
        """Where it lies in a grid: head size, and query heads that share a KV head."""
        return self.head_dim, self.heads // self.kv_heads

    @property
    def kv_bytes(self) -> float:
        """Bytes of keys and values."""
        return 2.0 * self.batch * self.context * self.kv_heads * self.head_dim * KV_BYTES["bf16"]

    @property
    def flops(self) -> float:
        """Multiplications and additions."""
        return 4.0 * self.batch * self.context * self.heads * self.head_dim

    @property
    def moved_bytes(self) -> float:
        """Bytes of keys, values, queries and outputs."""
        return self.kv_bytes + 2 * self.batch * self.heads * self.head_dim * _BF16_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefill:
    """Causal attention of whole prompts on nothing cached."""

    batch: int
    tokens: int
    heads: int
    kv_heads: int
    head_dim: int

    @property
    def point(self) -> tuple[int, ...]:
        """Where it lies in a grid: head size."""
        return (self.head_dim,)

    @property
    def flops(self) -> float:
        """Multiplications and additions of the causal half."""
        return 2.0 * self.batch * self.tokens**2 * self.heads * self.head_dim

    @property
    def moved_bytes(self) -> float:
        """Bytes of queries, outputs, keys and values."""
        return 2.0 * self.batch * self.tokens * (self.heads + self.kv_heads) * self.head_dim * _BF16_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """A block of memory copied to another."""

    size_bytes: int

    @property
    def flops(self) -> float:
        """None."""
        return 0.0

    @property
    def moved_bytes(self) -> float:
        """Bytes read and written."""
        return 2.0 * self.size_bytes


Shape = Gemm | Decode | Prefill | Copy
Attention = TypeVar("Attention", Decode, Prefill)

#: Matrices: what tensor-parallel shards of models of 1 to 700 B parameters multiply by, and rows from one decode to a
#: full step of prefill.
GEMM_GRID: Mapping[str, tuple[int, ...]] = {
    "n": (256, 1024, 4096, 16384, 65536),
    "k": (256, 1024, 4096, 16384),
    "m": (1, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192),
}
#: Attention by head size, the most common first, and query heads that share a KV head.
HEAD_DIMS, GROUPS = (128, 64, 256), (1, 4, 8, 16)
DECODE_BATCHES, DECODE_CONTEXTS = (1, 8, 64, 256), (512, 2048, 8192, 32768)
PREFILL_BATCHES, PREFILL_TOKENS = (1, 4), (128, 512, 1024, 2048, 4096, 8192, 16384)
LEAST_SHAPES = 5  # of one head size and group: a line with three terms, and one shape to score it
_KV_HEADS, _MOST_HEADS = 8, 64
_PREFILL_GROUP = 4
#: Bytes a GPU sends in one all-reduce: from one decode of a small model to a step of prefill of a large one.
SENT_BYTES = tuple(2**power for power in range(10, 29, 2))
#: Shapes between the grid's, timed to say how far the curve is off there.
CHECKS = 12
_TILE = 16  # rows and columns of operands that tensor cores take in every format
_MEMORY_FRAC = 0.25  # of the device, for the operands of one kernel: copies and results need the rest
_RUNS = 8  # of a shape at least: what warms it up, and the least repeats


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """What a device can run: its measured ceilings, its memory, and the seconds there are."""

    flops_per_s: float
    bytes_per_s: float
    memory_bytes: float
    budget_s: float

    def seconds(self, shape: Shape) -> float:
        """Return what all runs of a shape take at least."""
        return _RUNS * max(shape.flops / self.flops_per_s, shape.moved_bytes / self.bytes_per_s)

    def holds(self, shape: Shape) -> bool:
        """Whether the operands fit."""
        return shape.moved_bytes <= _MEMORY_FRAC * self.memory_bytes


def gemms(dtype: Dtype, reach: Reach) -> tuple[dict[str, tuple[int, ...]], list[Gemm]]:
    """Return the grid of matrix products a device has time for, by axis, and its shapes, the last axis fastest.

    While they take too long, the axis that spans most loses its largest value.
    """
    axes = dict(GEMM_GRID)
    while (shapes := _products(dtype, axes)) and not _reached(shapes, reach):
        widest = max((name for name in axes if len(axes[name]) > 2), key=lambda name: _span(axes[name]), default=None)
        if widest is None:
            break
        axes[widest] = axes[widest][:-1]
    return axes, shapes


def _products(dtype: Dtype, axes: Mapping[str, tuple[int, ...]]) -> list[Gemm]:
    return [Gemm(dtype=dtype, **dict(zip(axes, values, strict=True))) for values in itertools.product(*axes.values())]


def _reached(shapes: list[Gemm], reach: Reach) -> bool:
    return reach.holds(shapes[-1]) and math.fsum(map(reach.seconds, shapes)) <= reach.budget_s


def _span(values: tuple[int, ...]) -> float:
    return values[-1] / values[0]


def gemm_checks(dtype: Dtype, axes: Mapping[str, tuple[int, ...]]) -> list[Gemm]:
    """Return shapes inside the grid but off its points, always the same ones."""
    chance = random.Random(0)  # noqa: S311 - a spread of shapes, no secret

    def between(name: str, step: int) -> int:
        low, high = math.log(axes[name][0]), math.log(axes[name][-1])
        return max(round(math.exp(chance.uniform(low, high)) / step), 1) * step

    return [Gemm(dtype=dtype, m=between("m", 1), n=between("n", _TILE), k=between("k", _TILE)) for _ in range(CHECKS)]


def decodes(reach: Reach) -> list[Decode]:
    """Return the decodes a device has memory for, in the order to time them until the time is spent."""
    every = itertools.product(HEAD_DIMS, GROUPS, DECODE_BATCHES, DECODE_CONTEXTS)
    return _in_turn([_decode(*values) for values in every], reach)


def _decode(head_dim: int, group: int, batch: int, context: int) -> Decode:
    kv_heads = max(min(_KV_HEADS, _MOST_HEADS // group), 1)
    return Decode(batch=batch, context=context, heads=kv_heads * group, kv_heads=kv_heads, head_dim=head_dim)


def prefills(reach: Reach) -> list[Prefill]:
    """Return the prompts a device has memory for, in the order to time them until the time is spent."""
    every = itertools.product(HEAD_DIMS, PREFILL_BATCHES, PREFILL_TOKENS)
    heads = _KV_HEADS * _PREFILL_GROUP
    shapes = [Prefill(batch=b, tokens=m, heads=heads, kv_heads=_KV_HEADS, head_dim=d) for d, b, m in every]
    return _in_turn(shapes, reach)


def _in_turn(shapes: list[Attention], reach: Reach) -> list[Attention]:
    """Order shapes so that wherever time runs out, every point of the grid begun has its quickest shapes timed.

    The least a line is fitted to comes first, head size by head size; then the rest.
    """
    places: dict[tuple[int, ...], int] = {}
    order = []
    for shape in sorted(filter(reach.holds, shapes), key=reach.seconds):
        rank = places[shape.point] = places.get(shape.point, 0) + 1
        order.append((rank > LEAST_SHAPES, HEAD_DIMS.index(shape.head_dim), rank, shape))
    return [shape for *_, shape in sorted(order, key=lambda entry: entry[:3])]


def groups(gpus: int) -> list[int]:
    """Return the sizes of groups whose collectives are timed: powers of two, and all."""
    return sorted({2**power for power in range(1, gpus.bit_length())} | {gpus})


def sent_bytes(gpus: int, message_bytes: float) -> float:
    """Return what each GPU of a ring sends to reduce a message: two passes over the others' shares of it."""
    return 2 * (gpus - 1) / gpus * message_bytes


def messages(gpus: int) -> list[int]:
    """Return the bytes of messages of which each GPU sends `SENT_BYTES`, in whole elements on every rank."""
    step = _TILE * gpus
    return [max(round(sent / sent_bytes(gpus, step)), 1) * step for sent in SENT_BYTES]
