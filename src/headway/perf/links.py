"""The time GPUs take to exchange bytes: from measured curves up to the group sizes measured, else α–β constants.

Collectives, all by the bytes that each GPU sends in one direction:

    all_reduce       a ring's two passes over a message: 2 (g − 1)/g of it
    all_gather       the other ranks' shares of the result: (g − 1)/g of it; reduce_scatter alike
    dispatch         tokens to the ranks whose experts they reach, combine their results back
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from headway.perf.curves import curve, rising

if TYPE_CHECKING:
    from headway.perf.constants import Calibration
    from headway.perf.curves import Curve
    from headway.perf.gemm import Column
    from headway.types import Accelerator, FloatColumn

#: Bytes at which a curve is evaluated, four to an octave; linear between them.
_KNOTS = np.geomspace(2**7, 2**30, 93)


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """One exchange, in seconds: what grows with the bytes, and what does not."""

    communication_s: Column
    fixed_s: float


def link_bytes_per_s(accelerator: Accelerator, gpus: int) -> float:
    """Return the datasheet's rate per GPU and direction of the path that so many GPUs share.

    Inside the scale-up domain (PCIe within a node where there is none) that link, beyond it the network.
    """
    if gpus <= _domain(accelerator):
        return accelerator.scale_up_bytes_per_s
    return accelerator.scale_out_bytes_per_s


def transfer(
    accelerator: Accelerator, engine: str, constants: Calibration, collective: str, gpus: int, sent: Column
) -> Transfer:
    """Time a collective of a group in which every GPU sends `sent` bytes; one not measured takes α–β constants."""
    measured = curve("collectives", accelerator.name, collective, engine, extra=constants.curves)
    bytes_per_s = link_bytes_per_s(accelerator, gpus)
    if measured is None or gpus > measured.grid[measured.axes.index("gpus")][-1]:
        inside = gpus <= _domain(accelerator)
        frac = constants.scale_up_frac if inside else constants.scale_out_frac
        fixed_s = constants.scale_up_fixed_s if inside else constants.scale_out_fixed_s
        return Transfer(communication_s=sent / (bytes_per_s * frac), fixed_s=fixed_s)
    time_s = rising(_KNOTS, _line(measured, gpus, bytes_per_s), sent)
    return Transfer(communication_s=time_s - measured.fixed_s, fixed_s=measured.fixed_s)


@lru_cache(maxsize=256)
def _line(measured: Curve, gpus: int, bytes_per_s: float) -> FloatColumn:
    return measured.at(gpus=gpus).time_s(_KNOTS / bytes_per_s, bytes=_KNOTS)


def _domain(accelerator: Accelerator) -> int:
    return accelerator.scale_up_gpus if accelerator.scale_up_gpus > 1 else accelerator.gpus_per_node


def ranks_reached(ranks: int, per_token: int) -> float:
    """Return the distinct remote ranks one token is sent to, its experts drawn evenly from all."""
    return ranks * (1 - (1 - 1 / ranks) ** per_token) * (ranks - 1) / ranks
