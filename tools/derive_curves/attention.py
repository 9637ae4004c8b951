"""Reduces attention kernels to rates that are linear in what a batch sums to, as the simulator needs them.

One layer on one GPU, n decodes with contexts summing to S and prompts of m new tokens each:

    decode   fixed_s + n · 64 tokens of KV / (HBM · sequence) + S tokens of KV / (HBM · decode)
    prefill  fixed_s + Σ m tokens of Q, K, V and output / (HBM · token) + causal FLOPs / (bf16 peak · prefill)

`sequence`, `decode`, `token` and `prefill` are the efficiencies of four curves; those of a decode lie over head_dim
and query heads per KV head, those of a prompt over head_dim, those of MLA over its heads on one GPU. Both terms of a
line and its fixed time are one fit of the relative error without negative terms (least squares, outliers weighted
down), so each says what the other leaves: 64 tokens, half a tile of 128, is a unit, not a claim.

Which rows: the newest version of an engine and, of its kernels at one head_dim and KV format, the one with most rows;
contexts of 256 to 32,768 tokens at up to 1,024 decodes, prompts of 128 to 16,384 tokens. A timing loop reads the same
KV again and again, a model reads another layer's every time: rows whose KV fits the L2 cache twice over are left out
where reading it takes over a tenth of the time. A prompt of fewer than four heads is left out: no deployment has it.

vLLM's MLA is timed as a module with its projections, so only what grows with contexts and pairs is taken from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import nnls
from tools.derive_curves.tables import ORIGIN

from headway.perf.curves import Curve

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray


    Column = NDArray[np.float64]
    Parts = dict[str, Curve]

#: L2 cache: NVIDIA's architecture whitepapers; B200 and B300 as their device queries report.
L2_BYTES = {
    "a100-80-sxm": 40e6,
    "h100-sxm": 50e6,
    "h200-sxm": 50e6,
    "b200": 126e6,
    "b300": 126e6,
    "gb200": 126e6,
    "gb300": 126e6,
    "l40s": 96e6,
    "rtx-pro-6000": 128e6,
    "arc-b60": 18e6,
}
UNIT_TOKENS = 64
DECODE_GRID = {"head_dim": (64, 128, 256), "group": (1, 2, 4, 8, 16, 32)}
PREFILL_GRID = {"head_dim": (64, 128, 256)}
MLA_GRID = {"heads": (4, 8, 16, 32, 64, 128)}
LATENT, ROPE, NOPE, VALUE = 512, 64, 128, 128  # the one MLA shape timed: DeepSeek-V3's
LEAST_ROWS = 12
WORST_MEDIAN_FRAC = 0.15  # a reduction that leaves more is no reduction: it inherits
ENGINES_DIFFER_FRAC = 0.05
_BF16_BYTES = 2
_MOST = 10.0  # efficiency that stands for a term the fit found to be nothing
_FORMATS = {"bfloat16": "bf16", "fp8": "fp8"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """Timed kernels: shapes by axis and, row by row, the roofline seconds of both terms and the time."""

    axes: Mapping[str, Column]
    work_s: Column  # rows × 2
    time_s: Column

    @property
    def held(self) -> NDArray[np.bool_]:
        """Every fifth row, by its place among the times: scored, never fitted."""
        return np.arange(len(self.time_s)) % 5 == 0

    def take(self, kept: NDArray[np.bool_]) -> Timed:
        """Return some of the rows."""
        axes = {name: values[kept] for name, values in self.axes.items()}
        return Timed(axes=axes, work_s=self.work_s[kept], time_s=self.time_s[kept])


def curves(root: Path) -> dict[str, Parts]:
    """Return the curves by operator and name."""
    plain = _family(_decode_tables(root), _prefill_tables(root), "attention")
    return {"attention": plain, "mla": _family(_latent_decode(root), _latent_prefill(root), "mla")}


# --- fits ----------------------------------------------------------------------------------------------------------


def fit(design: Column, time_s: Column) -> Column:
    """Return the terms, none below zero, that reproduce the times with the least relative error."""
    weight, found = 1 / time_s, np.zeros(design.shape[1])
    for _ in range(8):
        found, _ = nnls(design * weight[:, None], time_s * weight)
        error = design @ found / time_s - 1
        weight = 1 / time_s / np.sqrt(1 + (error / 0.1) ** 2)
    return found


def reduce_timed(
    rows: Timed, grid: Mapping[str, Sequence[float]], names: tuple[str, str], fixed_s: float | None = None
) -> Parts:
    """Fit both terms at every grid point and one fixed time for all; empty where the rows do not say."""
    fitted, points = rows.take(~rows.held), list(product(*grid.values()))
    cells = {point: cell for point in points if (cell := _cell(fitted, dict(zip(grid, point, strict=True)))) is not None}
    if not cells:
        return {}
    if fixed_s is None:
        free = {point: fit(np.column_stack([np.ones(len(c.time_s)), c.work_s]), c.time_s)[0] for point, c in cells.items()}
        fixed_s = float(np.median(np.repeat(list(free.values()), [len(c.time_s) for c in cells.values()])))
    terms = {point: _terms(cell, fixed_s) for point, cell in cells.items()}
    kept = {axis: [v for i, v in enumerate(values) if axis != "head_dim" or any(p[i] == v for p in terms)]
            for axis, values in grid.items()}  # fmt: skip
    kept = {axis: [value for value in values if axis != "head_dim" or any(value in point for point in terms)]
            for axis, values in grid.items()}  # fmt: skip
    full = [terms[_nearest(point, list(terms))] for point in product(*kept.values())]
    shape = tuple(len(values) for values in kept.values())
    found = {
        name: Curve(
            axes=tuple(kept),
            grid=tuple(np.array(values, dtype=float) for values in kept.values()),
            table=np.array([pair[k] for pair in full]).reshape(shape),
            fixed_s=fixed_s if k else 0.0,
            provenance=ORIGIN,
        )
        for k, name in enumerate(names)
    }
    return _scored(found, rows)
