"""Predicted against measured: figures, verdicts and the table; nothing here knows a server."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

GROWTH = "queue_growth_per_s"
#: How far a prediction may be off, as a share of what is measured, below saturation …
TARGETS_FRAC = {
    "ttft.p50": 0.10,
    "ttft.p95": 0.20,
    "tpot.p50": 0.10,
    "tpot.p95": 0.20,
    "e2e.p50": 0.10,
    "e2e.p95": 0.20,
    "output_tokens_per_s": 0.07,
}
#: … and at saturation, where latencies grow for as long as the load lasts and are no property of the server.
SATURATED_FRAC = {GROWTH: 0.20, "output_tokens_per_s": 0.07}
SUMMARY = ("figure", "points", "within target", "in band", "median error", "largest error", "between rounds")
COLUMNS = ("load point", "figure", "predicted", "90 % band", "measured", "error", "target", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One figure of one load point, in the unit of its name (latencies in seconds).

    Attributes:
        point: the load point.
        name: of the figure.
        predicted: before it was measured; with the band `low` … `high` of 90 %.
        rounds: measured afterwards, each time the load was sent.
        target_frac: how far off the prediction may be, as a share of what was measured.
    """

    point: str
    name: str
    predicted: float
    low: float
    high: float
    rounds: tuple[float, ...]
    target_frac: float

    @property
    def measured(self) -> float:
        """The mean of the rounds: a machine whose speed moves is met more than once."""
        return statistics.fmean(self.rounds)

    @property
    def between_rounds_frac(self) -> float:
        """The largest difference between rounds, as a share of their mean: what no prediction can know."""
        if not math.isfinite(self.measured) or self.measured == 0:
            return math.nan
        return (max(self.rounds) - min(self.rounds)) / abs(self.measured)

    @property
    def error_frac(self) -> float:
        """Predicted over measured, less one; of a growth, the difference as a share of what was measured."""
        if not math.isfinite(self.measured) or self.measured == 0:
            return math.nan
        return (self.predicted - self.measured) / abs(self.measured)

    @property
    def within_target(self) -> bool:
        """Whether it is as near as it should be."""
        return abs(self.error_frac) <= self.target_frac

    @property
    def within_band(self) -> bool:
        """Whether the band holds what was measured."""
        return self.low <= self.measured <= self.high

    @property
    def right_way(self) -> bool:
        """Whether a growth has the sign that was predicted: a band that holds both directions excuses neither."""
        return self.name != GROWTH or self.predicted * self.measured > 0

    @property
    def missed(self) -> bool:
        """Whether the target is missed by more than the band, or a queue went the other way."""
        return not (self.right_way and (self.within_target or self.within_band))

    @property
    def verdict(self) -> str:
        """Say it in a word or two."""
        if self.within_target:
            return "within target" if self.within_band else "within target, out of band"
        if self.within_band:
            return "in band" if self.right_way else "MISSED, the other way"
        return "MISSED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What came of all points."""

    figures: tuple[Figure, ...]

    @property
    def within(self) -> int:
        """Figures within their target."""
        return sum(figure.within_target for figure in self.figures)

    @property
    def held(self) -> int:
        """Figures whose band held."""
        return sum(figure.within_band for figure in self.figures)

    @property
    def exit_code(self) -> int:
        """1 where a target is missed by more than the band, or there is no figure at all."""
        return int(not self.figures or any(figure.missed for figure in self.figures))

    @property
    def last_line(self) -> str:
        """Sum up."""
        every, missed = len(self.figures), sum(figure.missed for figure in self.figures)
        return (
            f"{self.within} of {every} within target "
            f"(the 90 % band held {self.held} of {every}; {missed} missed by more than the band)"
        )


def figures_of(
    point: str,
    predicted: Mapping[str, tuple[float, float, float]],
    rounds: Sequence[Mapping[str, float]],
    *,
    saturated: bool,
) -> list[Figure]:
    """Put a prediction and a measurement side by side.

    Args:
        point: the load point.
        predicted: figure -> value, low, high.
        rounds: figure -> value, for each time it was measured.
        saturated: whether it is beyond what the server can do.
    """
    targets = SATURATED_FRAC if saturated else TARGETS_FRAC
    return [
        Figure(
            point=point,
            name=name,
            predicted=predicted[name][0],
            low=predicted[name][1],
            high=predicted[name][2],
            rounds=tuple(measured[name] for measured in rounds),
            target_frac=target_frac,
        )
        for name, target_frac in targets.items()
    ]


def by_figure(figures: Iterable[Figure]) -> list[tuple[str, ...]]:
    """Return the rows of the summary, under `SUMMARY`: one for each figure's name."""
    rows = []
    named: dict[str, list[Figure]] = {}
    for figure in figures:
        named.setdefault(figure.name, []).append(figure)
    for name, group in named.items():
        errors = [_known(abs(figure.error_frac)) for figure in group]
        between = statistics.median(_known(figure.between_rounds_frac) for figure in group)
        rows.append(
            (
                name,
                str(len(group)),
                str(sum(figure.within_target for figure in group)),
                str(sum(figure.within_band for figure in group)),
                percent(statistics.median(errors), sign=""),
                percent(max(errors), sign=""),
                percent(between, sign=""),
            )
        )
    return rows


def _known(frac: float) -> float:
    """What could not be measured is as bad as can be."""
    return math.inf if math.isnan(frac) else frac


def rows_of(figures: Sequence[Figure]) -> list[tuple[str, ...]]:
    """Return the table's rows, under `COLUMNS`; a point is named once."""
    rows = []
    for before, figure in zip((None, *figures), figures, strict=False):
        rows.append(
            (
                figure.point if before is None or before.point != figure.point else "",
                figure.name,
                shown(figure.name, figure.predicted),
                f"{shown(figure.name, figure.low)} … {shown(figure.name, figure.high)}",
                shown(figure.name, figure.measured),
                percent(figure.error_frac),
                f"± {100 * figure.target_frac:.0f} %",
                figure.verdict,
            )
        )
    return rows


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as columns of text, the first two to the left, figures to the right, the verdict to the left."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lefts = {0, 1, len(widths) - 1}
    return "\n".join(
        "  ".join(
            f"{cell:<{width}}" if column in lefts else f"{cell:>{width}}"
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def shown(name: str, value: float) -> str:
    """Return a figure with its unit."""
    if not math.isfinite(value):
        return "–"
    if name == GROWTH:
        return f"{value:+.2f} /s"
    if name == "output_tokens_per_s":
        return f"{value:.1f} tok/s"
    return f"{value:.2f} s" if value >= 1 else f"{1e3 * value:.1f} ms"


def percent(frac: float, sign: str = "+") -> str:
    """Return a share in percent."""
    return f"{100 * frac:{sign}.1f} %" if math.isfinite(frac) else "–"
