"""How far off the figures are: each row's figures beside what was measured, summed up over slices of the table.

A row is scored for every figure it gives. `ttft_s` is its median TTFT, or its mean where no median is given, against
the same statistic of the replay; TPOT, ITL and E2E likewise. Other percentiles are metrics of their own:
`ttft_p99_s`. The error is predicted / measured − 1.

A slice is named by what its rows have in common: `engine=vllm`, `accelerator=h200-sxm,engine=vllm,…`. `all` comes
first, then each axis by itself, then the full cross of `CROSS`, where at least `LEAST_ROWS` rows are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from headway.types import FloatColumn
    from headway.validation.measurements import Finding

#: Axes a scorecard is cut by, in the order shown.
AXES = ("mode", "region", "engine", "accelerator", "family", "precision", "source")
#: Axes of the full cross.
CROSS = ("accelerator", "engine", "family", "precision", "region")
#: Rows a slice of the full cross has at least: a p90 of fewer says nothing.
LEAST_ROWS = 10
#: Metrics in the order shown; others follow by name.
METRICS = (
    "ttft_s",
    "tpot_s",
    "output_tokens_per_s",
    "itl_s",
    "e2e_s",
    "requests_per_s",
    "total_tokens_per_s",
    "ttft_p90_s",
    "ttft_p99_s",
    "tpot_p90_s",
    "tpot_p99_s",
)
#: Statistics that stand for a metric by its bare name, the first that is given.
_USUAL = ("p50", "mean")


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One figure of one row: predicted beside measured."""

    metric: str
    statistic: str  # mean or p50, p90, …
    measured: float
    predicted: float | None  # None: it could not be predicted
    low: float | None = None  # the band's edges, in the unit of the figure
    high: float | None = None

    @property
    def error_frac(self) -> float | None:
        """Predicted / measured − 1; None where there is no prediction."""
        return None if self.predicted is None else self.predicted / self.measured - 1

    @property
    def inside(self) -> bool | None:
        """Whether the band holds what was measured; None where there is no band."""
        return None if self.low is None or self.high is None else self.low <= self.measured <= self.high


@dataclass(frozen=True, slots=True, kw_only=True)
class RowScore:
    """One row of the table, replayed."""

    row: str  # its id, or the line it stands on
    line: int
    group: str  # what a fit may only have whole: publication, hardware, engine and version
    fold: int | None  # it is predicted with constants fitted without this fold; None: no fit ever saw its group
    gpus: int | None  # as the row says
    axes: Mapping[str, str]  # what it is counted under
    comparisons: tuple[Comparison, ...]
    refused: str = ""  # why it could not be predicted
    assumed: tuple[str, ...] = ()  # what the row does not say
    codes: tuple[str, ...] = field(default=(), metadata={"document": False})  # of what is assumed, to be counted
    findings: tuple[Finding, ...] = ()  # what is wrong with it
    predicted: Mapping[str, Mapping[str, float]] = field(
        default_factory=dict, metadata={"document": False}
    )  # every figure, compared or not

    def error_frac(self, metric: str) -> float | None:
        """Return the error of one metric, None where it is not given or not predicted."""
        return next((c.error_frac for c in self.comparisons if c.metric == metric), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricScore:
    """The errors of one metric over one slice; None where no row has a prediction (or a band)."""

    n_rows: int  # rows that give this metric
    coverage_frac: float  # share of them that could be predicted
    ape_median_frac: float | None  # of |predicted / measured − 1|
    ape_p90_frac: float | None
    bias_frac: float | None  # median of predicted / measured − 1
    band_coverage_frac: float | None  # share of the predicted rows whose band holds what was measured


def compare(
    measured: Mapping[str, Mapping[str, float]],
    predicted: Mapping[str, Mapping[str, float]],
    bands: Callable[[str], tuple[float, float] | None],
) -> tuple[Comparison, ...]:
    """Set a row's figures beside the replay's, each statistic beside its own.

    Args:
        measured: metric -> statistic -> value.
        predicted: the same; what lacks or is not finite could not be predicted.
        bands: the edges of a figure's band by its name, as fractions of the prediction; None where it has none.
    """
    found = []
    for metric, statistics in measured.items():
        for name, statistic in _scored(metric, statistics):
            value = predicted.get(metric, {}).get(statistic, math.nan)
            known = value if math.isfinite(value) else None
            edges = bands(name) if known is not None else None
            found.append(_compared(name, statistic, statistics[statistic], known, edges))
    return tuple(sorted(found, key=lambda c: _place(c.metric)))


def _scored(metric: str, statistics: Mapping[str, float]) -> list[tuple[str, str]]:
    """The names a row's statistics are scored under; zero was not measured: nothing can be a share of it."""
    given = [name for name, value in statistics.items() if value > 0]
    usual = next((name for name in _USUAL if name in given), None)
    others = [(metric.removesuffix("_s") + f"_{name}_s", name) for name in given if name not in _USUAL]
    return [(metric, usual), *others] if usual else others


def _compared(
    metric: str, statistic: str, measured: float, predicted: float | None, edges: tuple[float, float] | None
) -> Comparison:
    low, high = (None, None) if predicted is None or edges is None else (predicted * (1 + edge) for edge in edges)
    return Comparison(metric=metric, statistic=statistic, measured=measured, predicted=predicted, low=low, high=high)


def _place(metric: str) -> tuple[int, str]:
    return (METRICS.index(metric) if metric in METRICS else len(METRICS), metric)


# --- slices ---------------------------------------------------------------------------------------------


def score(rows: Sequence[RowScore]) -> dict[str, dict[str, MetricScore]]:
    """Score every slice: slice -> metric -> score, `all` first."""
    return {name: _metrics(members) for name, members in _slices(rows).items()}


def _slices(rows: Sequence[RowScore]) -> dict[str, list[RowScore]]:
    slices = {"all": list(rows)}
    for axis in AXES:
        slices |= _cut(rows, (axis,))
    cross = _cut(rows, CROSS)
    return slices | {name: members for name, members in cross.items() if len(members) >= LEAST_ROWS}


def _cut(rows: Iterable[RowScore], axes: tuple[str, ...]) -> dict[str, list[RowScore]]:
    """Rows by their values on some axes, the largest slice first; rows that lack one are in none."""
    found: dict[str, list[RowScore]] = {}
    for row in rows:
        if all(axis in row.axes for axis in axes):
            found.setdefault(",".join(f"{axis}={row.axes[axis]}" for axis in axes), []).append(row)
    return dict(sorted(found.items(), key=lambda item: (-len(item[1]), item[0])))


def _metrics(rows: Iterable[RowScore]) -> dict[str, MetricScore]:
    found: dict[str, list[Comparison]] = {}
    for row in rows:
        for comparison in row.comparisons:
            found.setdefault(comparison.metric, []).append(comparison)
    return {metric: metric_score(found[metric]) for metric in sorted(found, key=_place)}


def metric_score(comparisons: Sequence[Comparison]) -> MetricScore:
    """Sum up the comparisons of one metric."""
    import numpy as np

    errors: FloatColumn = np.array([c.error_frac for c in comparisons if c.error_frac is not None])
    inside = [c.inside for c in comparisons if c.inside is not None]
    known = len(errors) > 0
    return MetricScore(
        n_rows=len(comparisons),
        coverage_frac=len(errors) / len(comparisons),
        ape_median_frac=float(np.median(np.abs(errors))) if known else None,
        ape_p90_frac=float(np.quantile(np.abs(errors), 0.9)) if known else None,
        bias_frac=float(np.median(errors)) if known else None,
        band_coverage_frac=sum(inside) / len(inside) if inside else None,
    )
