"""The time of dense matrices: from measured curves where the accelerator has one for the format, else from constants.

A curve's efficiency is against the roofline at datasheet peaks, the longer of multiplying and moving; the constants are
achieved fractions of both peaks, whose times overlap imperfectly.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from headway.perf.curves import curve_for, rising
from headway.perf.formats import WEIGHT_BYTES, compute_format

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from headway.perf.constants import Calibration
    from headway.perf.curves import Curve
    from headway.perf.shapes import Matmul
    from headway.types import Accelerator, Dtype, FloatColumn

Column: TypeAlias = "NDArray[np.float64] | float"

#: Rows at which a curve is evaluated beside its own grid, four to an octave; linear between them.
_KNOTS = np.unique(np.round(np.geomspace(1, 32768, 61)))
_BF16_BYTES = 2.0
_TILE = 64  # rows of a GEMM tile: with constants alone, a multiply is paid for in whole tiles


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixTime:
    """One multiply of `rows` by a matrix, in seconds: the larger of the first two and the fixed part, or a bit more."""

    compute_s: Column
    memory_s: Column
    fixed_s: float
    time_s: Column


def matrix_roofline_s(
    accelerator: Accelerator, dtype: Dtype, n: Column, k: Column, rows: Column
) -> tuple[Column, Column]:
    """Return (compute, memory) seconds of (rows × k) · (k × n) at datasheet peaks.

    Weights are read once with their scales; inputs are read and outputs written in bf16.
    """
    flops_per_s = accelerator.peak_flops_per_s[compute_format(dtype, accelerator)]
    return _roofline_s(flops_per_s, accelerator.hbm_bytes_per_s, dtype, n, k, rows)


def _roofline_s(
    flops_per_s: float, bytes_per_s: float, dtype: Dtype, n: Column, k: Column, rows: Column
) -> tuple[Column, Column]:
    moved = WEIGHT_BYTES[dtype] * n * k + _BF16_BYTES * rows * (n + k)
    return 2 * rows * n * k / flops_per_s, moved / bytes_per_s


def matrix_time(
    accelerator: Accelerator, engine: str, constants: Calibration, matrix: Matmul, rows: Column
) -> MatrixTime:
    """Time one multiply by one layer's matrix, for one number of rows or a column of them."""
    measured = curve_for(accelerator, "gemm", matrix.dtype, engine, extra=constants.curves)
    if measured is None:
        return _from_constants(accelerator, constants, matrix, rows)
    peaks = accelerator.peak_flops_per_s[compute_format(matrix.dtype, accelerator)], accelerator.hbm_bytes_per_s
    compute_s, memory_s = _roofline_s(*peaks, matrix.dtype, matrix.n, matrix.k, rows)
    time_s = rising(*_line(measured, *peaks, matrix.dtype, matrix.n, matrix.k), rows)
    slowdown = (time_s - measured.fixed_s) / np.maximum(compute_s, memory_s)
    return MatrixTime(
        compute_s=compute_s * slowdown, memory_s=memory_s * slowdown, fixed_s=measured.fixed_s, time_s=time_s
    )


@lru_cache(maxsize=1024)
def _line(
    measured: Curve, flops_per_s: float, bytes_per_s: float, dtype: Dtype, n: float, k: float
) -> tuple[FloatColumn, FloatColumn]:
    """Return (rows, seconds) at all knots, for one matrix."""
    line = measured.at(n=n, k=k)
    knots = np.union1d(_KNOTS, line.grid[0])
    roofline_s = np.maximum(*_roofline_s(flops_per_s, bytes_per_s, dtype, n, k, knots))
    return knots, line.time_s(roofline_s, m=knots)


def _from_constants(accelerator: Accelerator, constants: Calibration, matrix: Matmul, rows: Column) -> MatrixTime:
    tiled = _TILE * np.ceil(np.asarray(rows) / _TILE)
    tiled_s, _ = matrix_roofline_s(accelerator, matrix.dtype, matrix.n, matrix.k, tiled)
    _, moved_s = matrix_roofline_s(accelerator, matrix.dtype, matrix.n, matrix.k, rows)
    compute_s = tiled_s / constants.gemm_compute_frac[compute_format(matrix.dtype, accelerator)]
    memory_s = moved_s / constants.gemm_memory_frac[matrix.dtype]
    fixed_s = constants.gemm_fixed_s
    return MatrixTime(
        compute_s=compute_s, memory_s=memory_s, fixed_s=fixed_s, time_s=fixed_s + overlap(compute_s, memory_s)
    )


def overlap(compute_s: Column, memory_s: Column) -> Column:
    """Return the time of compute and memory traffic that overlap imperfectly: at least the longer of the two.

    (a⁴ + b⁴)^¼: the exponent says how well compute hides memory traffic. ∞ is the textbook roofline, 1 no overlap at
    all. Fits to some 12,000 GEMM shapes on each of H100 and H200 gave 3.3 and 4.5; 4 lies between and needs square
    roots alone.
    """
    total: Column = np.square(np.square(compute_s)) + np.square(np.square(memory_s))
    overlapped: Column = np.sqrt(np.sqrt(total))
    return overlapped
