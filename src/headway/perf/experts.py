"""The time of routed experts: from measured curves where there are any for the accelerator, else from constants.

A curve's efficiency is against the roofline of balanced routing at datasheet peaks, the longer of multiplying and
moving. What routing really does to a batch (popular experts, part-filled tiles, the fullest of `ep` ranks) is in the
efficiency: the kernels were timed under skewed routing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from headway.perf.curves import curve_for, rising
from headway.perf.formats import WEIGHT_BYTES, compute_format
from headway.perf.gemm import overlap

if TYPE_CHECKING:
    from headway.perf.constants import Calibration
    from headway.perf.curves import Curve
    from headway.perf.gemm import Column
    from headway.perf.shapes import Experts
    from headway.types import Accelerator, Dtype, FloatColumn

#: The formats whose kernels are most alike, asked in turn where a format was not timed on an accelerator.
_ALIKE: dict[Dtype, tuple[Dtype, ...]] = {
    "bf16": ("bf16",),
    "fp8": ("fp8", "fp8_block", "bf16"),
    "fp8_block": ("fp8_block", "fp8", "bf16"),
    "int8": ("fp8", "fp8_block", "bf16"),
    "int4": ("int4", "mxfp4", "bf16"),
    "mxfp4": ("mxfp4", "nvfp4", "int4", "bf16"),
    "nvfp4": ("nvfp4", "mxfp4", "int4", "bf16"),
}
#: Engines whose kernels were timed: one that was not, or not in a format, takes the first one's that was.
_ENGINES = ("vllm", "sglang", "tensorrt-llm")
#: Tokens at which a curve is evaluated, four to an octave; linear between them.
_KNOTS = np.unique(np.round(np.geomspace(1, 65536, 65)))
_TILE = 16  # rows of the smallest tile of grouped GEMMs, the tensor core's own
_BF16_BYTES = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertTime:
    """One layer's routed experts on one GPU: work, and seconds."""

    flops: Column
    moved_bytes: Column
    compute_s: Column
    memory_s: Column
    fixed_s: float
    time_s: Column


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertWork:
    """What balanced routing asks of one layer's experts on one GPU; every field may be a column."""

    reached: Column  # experts with at least one token
    routed: Column  # rows multiplied: a token counts once for each expert here that it is sent to
    moved_bytes: Column


def expert_work(held: Experts, hidden: Column, tokens: Column) -> ExpertWork:
    """Return the work of `tokens`, those of all data-parallel ranks.

    Under balanced routing a token misses one expert with probability 1 − K/E, so m tokens reach E (1 − (1 − K/E)^m)
    experts. Their weights are read once; each row is gathered, widened, narrowed and returned, and each token's rows
    are added up, all in bf16.
    """
    share = np.minimum(held.per_token / np.asarray(held.total), 1 - 1e-12)
    reached = held.local * -np.expm1(np.asarray(tokens) * np.log1p(-share))
    routed = tokens * share * held.local
    activations = routed * (2 * hidden + 3 * held.width) + 2 * tokens * hidden
    moved = WEIGHT_BYTES[held.dtype] * held.params_each * reached + _BF16_BYTES * activations
    return ExpertWork(reached=reached, routed=routed, moved_bytes=moved)


def expert_roofline_s(accelerator: Accelerator, held: Experts, work: ExpertWork) -> tuple[Column, Column]:
    """Return (compute, memory) seconds of one layer at datasheet peaks."""
    return _roofline_s(*_peaks(accelerator, held), held, work)


def _peaks(accelerator: Accelerator, held: Experts) -> tuple[float, float]:
    return accelerator.peak_flops_per_s[compute_format(held.dtype, accelerator)], accelerator.hbm_bytes_per_s


def _roofline_s(flops_per_s: float, bytes_per_s: float, held: Experts, work: ExpertWork) -> tuple[Column, Column]:
    return 2 * held.params_each * work.routed / flops_per_s, work.moved_bytes / bytes_per_s


def expert_axes(held: Experts, tokens: Column, roofline_s: Column) -> dict[str, Column]:
    """Return where work lies on the axes of a curve.

    rows: a token's mean rows per expert; roofline_us: how much there is to fill the GPU with; width: columns of one
    expert's slice; ranks: over how many GPUs the experts are spread.
    """
    return {
        "rows": tokens * held.per_token / np.asarray(held.total),
        "roofline_us": 1e6 * roofline_s,
        "width": held.width,
        "ranks": held.total / held.local,
    }


def expert_curve(accelerator: Accelerator, engine: str, dtype: Dtype, constants: Calibration) -> Curve | None:
    """Return the curve of the accelerator (`curve_for`), else of a like format (`_ALIKE`), else of another engine.

    The format goes before the engine: engines share kernels more than formats do. None: constants stand in.
    """
    for like in _ALIKE[dtype]:
        for timed in dict.fromkeys((engine, *_ENGINES)):
            found = curve_for(accelerator, "experts", like, timed, extra=constants.curves)
            if found:
                return found
    return None


def expert_time(
    accelerator: Accelerator, engine: str, constants: Calibration, held: Experts, hidden: int, tokens: Column
) -> ExpertTime:
    """Time one layer's routed experts, for one number of tokens or a column of them."""
    work = expert_work(held, hidden, tokens)
    measured = expert_curve(accelerator, engine, held.dtype, constants)
    if measured is None:
        return _from_constants(accelerator, constants, held, work)
    peaks = _peaks(accelerator, held)
    compute_s, memory_s = _roofline_s(*peaks, held, work)
    time_s = rising(_KNOTS, _line_s(measured, *peaks, held, hidden), tokens)
    slowdown = (time_s - measured.fixed_s) / np.maximum(np.maximum(compute_s, memory_s), 1e-12)  # no tokens do no work
    return ExpertTime(
        flops=2 * held.params_each * work.routed,
        moved_bytes=work.moved_bytes,
        compute_s=compute_s * slowdown,
        memory_s=memory_s * slowdown,
        fixed_s=measured.fixed_s,
        time_s=time_s,
    )


@lru_cache(maxsize=1024)
def _line_s(measured: Curve, flops_per_s: float, bytes_per_s: float, held: Experts, hidden: int) -> FloatColumn:
    """Return seconds at all knots, for one layer's experts."""
    roofline_s = np.maximum(*_roofline_s(flops_per_s, bytes_per_s, held, expert_work(held, hidden, _KNOTS)))
    return measured.time_s(roofline_s, **expert_axes(held, _KNOTS, roofline_s))


def _from_constants(accelerator: Accelerator, constants: Calibration, held: Experts, work: ExpertWork) -> ExpertTime:
    """Return times at achieved fractions of the peaks; each expert's rows fill whole tiles."""
    tiled = replace(work, routed=np.maximum(work.routed, _TILE * work.reached))
    tiled_s, moved_s = expert_roofline_s(accelerator, held, tiled)
    compute_s, memory_s = tiled_s / constants.expert_compute_frac, moved_s / constants.expert_memory_frac
    return ExpertTime(
        flops=2 * held.params_each * work.routed,
        moved_bytes=work.moved_bytes,
        compute_s=compute_s,
        memory_s=memory_s,
        fixed_s=constants.expert_fixed_s,
        time_s=constants.expert_fixed_s + overlap(compute_s, memory_s),
    )
