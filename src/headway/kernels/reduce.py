"""From timings to curves: the form `headway.perf.curves` reads, against the rooflines it is read with.

Matrices and collectives keep every timing: the efficiency at a grid point is roofline over time there. Attention is
what a step is summed from, so its efficiencies are the terms of a line (`perf.attention`), fitted at each head size:

    decode   fixed_s + n · 64 tokens of KV / (HBM · sequence) + S tokens of KV / (HBM · decode)
    prefill  fixed_s + Σ m tokens of Q, K, V and output / (HBM · token) + causal FLOPs / (bf16 peak · prefill)
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from headway.errors import EvidenceError
from headway.kernels import ops
from headway.perf.attention import UNIT_TOKENS
from headway.perf.curves import Curve
from headway.perf.gemm import matrix_roofline_s
from headway.perf.links import link_bytes_per_s

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from headway.kernels.ops import Decode, Gemm, Prefill
    from headway.types import Accelerator, Provenance

    Floats = NDArray[np.float64]
    Point = tuple[int, ...]

#: The efficiency of a term the fit found to be nothing.
_MOST = 10.0
_HELD_OUT = 5  # every fifth shape is left out of the fit and scored
_BF16_BYTES = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """Timings at one point of the grid of an attention curve."""

    small_s: Floats  # roofline of what grows with sequences or tokens
    main_s: Floats  # of what grows with contexts or pairs
    time_s: Floats

    def take(self, kept: NDArray[np.bool_]) -> Cell:
        """Return some of them."""
        return Cell(small_s=self.small_s[kept], main_s=self.main_s[kept], time_s=self.time_s[kept])

    def relative_errors(self, fixed_s: float, small: float, main: float) -> Floats:
        """Return |line / time − 1|."""
        errors: Floats = np.abs((fixed_s + small * self.small_s + main * self.main_s) / self.time_s - 1)
        return errors


def gemm_curve(
    accelerator: Accelerator,
    axes: Mapping[str, Sequence[int]],
    timed: Sequence[tuple[Gemm, float]],
    checks: Sequence[tuple[Gemm, float]],
    origin: Provenance,
) -> Curve:
    """Return the efficiencies of a grid of matrices, scored on shapes between its points.

    Args:
        accelerator: whose datasheet the efficiencies are of.
        axes: n, k and m of the grid.
        timed: its shapes, the last axis fastest, with their seconds.
        checks: shapes off the grid with theirs.
        origin: who timed them.
    """
    efficiency = [_roofline_s(accelerator, shape) / time_s for shape, time_s in timed]
    found = Curve(
        axes=tuple(axes),
        grid=tuple(np.array(values, dtype=float) for values in axes.values()),
        table=np.array(efficiency).reshape([len(values) for values in axes.values()]),
        rows=len(timed),
        provenance=origin,
    )
    if not checks:
        return found
    predicted = [
        float(found.time_s(_roofline_s(accelerator, shape), n=shape.n, k=shape.k, m=shape.m)) for shape, _ in checks
    ]
    return _scored(found, np.abs(np.array(predicted) / [time_s for _, time_s in checks] - 1))


def _roofline_s(accelerator: Accelerator, shape: Gemm) -> float:
    return float(max(matrix_roofline_s(accelerator, shape.dtype, shape.n, shape.k, shape.m)))


def attention_curves(
    accelerator: Accelerator,
    decodes: Sequence[tuple[Decode, float]],
    prefills: Sequence[tuple[Prefill, float]],
    origin: Provenance,
) -> dict[str, Curve]:
    """Return the four curves of attention over a bf16 cache, by name.

    Raises:
        EvidenceError: too few shapes were timed at every head size.
    """
    generation = _cells((shape.point, *_decode_work(accelerator, shape), time_s) for shape, time_s in decodes)
    context = _cells((shape.point, *_prefill_work(accelerator, shape), time_s) for shape, time_s in prefills)
    fixed_s = float(np.median([fit(_columns(cell), cell.time_s)[0] for cell in generation.values()]))
    name = f"attention/{accelerator.name}"
    return _lines(f"{name}/sequence", f"{name}/decode", ("head_dim", "group"), generation, fixed_s, origin) | _lines(
        f"{name}/token", f"{name}/prefill", ("head_dim",), context, fixed_s, origin
    )


def _decode_work(accelerator: Accelerator, shape: Decode) -> tuple[float, float]:
    main_s = shape.kv_bytes / accelerator.hbm_bytes_per_s
    return main_s * UNIT_TOKENS / shape.context, main_s


def _prefill_work(accelerator: Accelerator, shape: Prefill) -> tuple[float, float]:
    return shape.moved_bytes / accelerator.hbm_bytes_per_s, shape.flops / accelerator.peak_flops_per_s["bf16"]


def _cells(timed: Iterable[tuple[Point, float, float, float]]) -> dict[Point, Cell]:
    """Return the timings by point of the grid, of the head sizes that have enough at every point."""
    points: dict[Point, list[tuple[float, float, float]]] = {}
    for point, small_s, main_s, time_s in timed:
        points.setdefault(point, []).append((small_s, main_s, time_s))
    lacking = {point[0] for point, rows in points.items() if len(rows) < ops.LEAST_SHAPES}
    columns = {point: np.array(rows).T for point, rows in sorted(points.items()) if point[0] not in lacking}
    if not columns:
        raise EvidenceError("too few shapes of attention were timed: give it more time, or a larger device")
    return {point: Cell(small_s=small, main_s=main, time_s=time) for point, (small, main, time) in columns.items()}


def _lines(
    small_name: str,
    main_name: str,
    axes: tuple[str, ...],
    cells: Mapping[Point, Cell],
    fixed_s: float,
    origin: Provenance,
) -> dict[str, Curve]:
    factors, errors = [], []
    for cell in cells.values():
        held = np.arange(len(cell.time_s)) % _HELD_OUT == _HELD_OUT - 1
        kept = cell.take(~held)
        small, main = fit(_columns(kept)[:, 1:], np.maximum(kept.time_s - fixed_s, 0.0), kept.time_s)
        errors.append(cell.take(held).relative_errors(fixed_s, small, main))
        factors.append((small, main))
    efficiency = 1 / np.maximum(np.array(factors), 1 / _MOST)
    grid = tuple(np.unique([float(point[axis]) for point in cells]) for axis in range(len(axes)))
    shape = [len(values) for values in grid]
    rows = sum(len(cell.time_s) for cell in cells.values())
    small_curve, main_curve = (
        _scored(
            Curve(axes=axes, grid=grid, table=column.reshape(shape), rows=rows, provenance=origin),
            np.concatenate(errors),
        )
        for column in efficiency.T
    )
    return {f"{small_name}/bf16": small_curve, f"{main_name}/bf16": replace(main_curve, fixed_s=fixed_s)}


def _columns(cell: Cell) -> Floats:
    return np.stack([np.ones_like(cell.time_s), cell.small_s, cell.main_s], axis=1)


def fit(columns: Floats, target_s: Floats, scale_s: Floats | None = None) -> Floats:
    """Return the factors of a few columns, none below zero, that leave the least squared error relative to a scale.

    Args:
        columns: one row per timing.
        target_s: what they should sum to.
        scale_s: what an error is relative to; the target itself if None.

    With so few columns every choice of those that are not zero is tried.
    """
    weight = 1 / (target_s if scale_s is None else scale_s)
    left, right = columns * weight[:, None], target_s * weight
    best, least = np.zeros(columns.shape[1]), float(right @ right)
    for count in range(1, columns.shape[1] + 1):
        for chosen in map(list, itertools.combinations(range(columns.shape[1]), count)):
            found = np.linalg.lstsq(left[:, chosen], right, rcond=None)[0]
            rest = left[:, chosen] @ found - right
            if (found >= 0).all() and rest @ rest < least:
                best, least = np.zeros(columns.shape[1]), float(rest @ rest)
                best[chosen] = found
    return best


def all_reduce_curve(
    accelerator: Accelerator, times_s: Mapping[int, Sequence[tuple[int, float]]], origin: Provenance
) -> Curve:
    """Return the efficiencies of all-reduce over GPUs and the bytes each sends.

    Args:
        accelerator: whose link they are of.
        times_s: by GPUs, (message bytes, seconds) for the sizes of `ops.messages`.
        origin: who timed them.
    """
    table = [
        [ops.sent_bytes(gpus, size) / link_bytes_per_s(accelerator, gpus) / time_s for size, time_s in timed]
        for gpus, timed in sorted(times_s.items())
    ]
    return Curve(
        axes=("gpus", "bytes"),
        grid=(np.array(sorted(times_s), dtype=float), np.array(ops.SENT_BYTES, dtype=float)),
        table=np.array(table),
        rows=sum(map(len, table)),
        provenance=origin,
    )


def _scored(curve: Curve, errors: Floats) -> Curve:
    if not len(errors):
        return curve
    median, p90 = np.quantile(errors, [0.5, 0.9])
    return replace(curve, error_median_frac=float(median), error_p90_frac=float(p90))
