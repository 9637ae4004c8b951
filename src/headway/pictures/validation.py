"""Charts of a scorecard: predicted against measured, and where the errors lie."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from headway.pictures.files import BLUE, FAINT, GREEN, INK, ORANGE, PURPLE, SKY, VERMILION, drawing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from headway.validation.scoring import RowScore

#: metric -> its name and unit on an axis, and what turns base units into it
_SHOWN: dict[str, tuple[str, str, float]] = {
    "ttft_s": ("TTFT", "ms", 1e3),
    "tpot_s": ("TPOT", "ms", 1e3),
    "output_tokens_per_s": ("output tokens/s", "", 1.0),
}
_COLOURS = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY, INK, FAINT)
#: Axes whose slices are shown, and how many of each: the largest.
_AXES, _SLICES = ("mode", "region", "engine", "accelerator", "family", "precision"), 9


def validation_figures(rows: Sequence[RowScore]) -> dict[str, Figure]:
    """Draw a scorecard: `scatter`, a panel per metric, and `residuals`, errors by slice.

    Args:
        rows: the rows replayed.
    """
    return {"scatter": _scatter(rows), "residuals": _residuals(rows)}


def _scatter(rows: Sequence[RowScore]) -> Figure:
    from matplotlib.figure import Figure

    shown = [metric for metric in _SHOWN if _points(rows, metric)]
    engines = _largest([row.axes.get("engine", "") for row in rows], len(_COLOURS))
    with drawing():
        figure = Figure(figsize=(4.2 * max(len(shown), 1), 5.0))
        figure.suptitle(
            "Predicted by constants that never saw the row, against measured", x=0.01, ha="left", fontsize=12
        )
        for index, metric in enumerate(shown):
            axes = figure.add_subplot(1, len(shown), index + 1)
            _panel(axes, _points(rows, metric), metric, engines)
        if shown:
            handles, labels = figure.axes[0].get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside lower center", ncols=4, markerscale=2)
    return figure


def _points(rows: Sequence[RowScore], metric: str) -> list[tuple[str, float, float]]:
    """Engine, measured and predicted of each row that has both, in the unit shown."""
    unit = _SHOWN[metric][2]
    return [
        (row.axes.get("engine", ""), one.measured * unit, one.predicted * unit)
        for row in rows
        for one in row.comparisons
        if one.metric == metric and one.predicted
    ]


def _panel(axes: Axes, points: Sequence[tuple[str, float, float]], metric: str, engines: Sequence[str]) -> None:
    name, unit, _ = _SHOWN[metric]
    values = np.array([one[1:] for one in points])
    low, high = float(values.min()) / 1.5, float(values.max()) * 1.5
    line = np.array([low, high])
    axes.fill_between(line, line / 1.25, line * 1.25, color=FAINT, alpha=0.25, lw=0)
    axes.plot(line, line, color=INK, lw=0.8)
    for engine, colour in zip(engines, _COLOURS, strict=False):
        mine = np.array([one[1:] for one in points if one[0] == engine]).reshape(-1, 2)
        axes.scatter(mine[:, 0], mine[:, 1], s=5, color=colour, alpha=0.45, lw=0, label=engine, rasterized=True)
    axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high))
    axes.set_title(f"{name}: {len(points):,} rows")
    axes.set_xlabel(f"measured ({unit})" if unit else "measured")
    axes.set_ylabel(f"predicted ({unit})" if unit else "predicted")


def _largest(names: Sequence[str], most: int) -> list[str]:
    """The commonest names, the commonest first."""
    counts = {name: names.count(name) for name in dict.fromkeys(names) if name}
    return sorted(counts, key=lambda name: (-counts[name], name))[:most]


def _residuals(rows: Sequence[RowScore]) -> Figure:
    from matplotlib.figure import Figure

    groups = _groups(rows)
    metrics = [metric for metric in _SHOWN if _points(rows, metric)]
    with drawing():
        figure = Figure(figsize=(3.6 * max(len(metrics), 1) + 1.6, 0.19 * len(groups) + 1.4))
        figure.suptitle("Error by slice: median, and from p10 to p90", x=0.01, ha="left", fontsize=12)
        panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0] if metrics else []
        for axes, metric in zip(panels, metrics, strict=True):
            _ladder(axes, groups, metric)
    return figure


def _groups(rows: Sequence[RowScore]) -> dict[str, list[RowScore]]:
    found = {"all": list(rows)}
    for axis in _AXES:
        for name in _largest([row.axes.get(axis, "") for row in rows], _SLICES):
            found[f"{axis} {name}"] = [row for row in rows if row.axes.get(axis) == name]
    return found


def _ladder(axes: Axes, groups: Mapping[str, Sequence[RowScore]], metric: str) -> None:
    axes.axvline(1.0, color=INK, lw=0.8)
    for place, members in enumerate(groups.values()):
        errors = [error for row in members if (error := row.error_frac(metric)) is not None]
        if not errors:
            continue
        low, middle, high = np.quantile(errors, (0.1, 0.5, 0.9)) + 1
        axes.plot([max(low, 1e-3), high], [place, place], color=BLUE, lw=2.2, alpha=0.5, solid_capstyle="butt")
        axes.plot([middle], [place], "o", color=BLUE, ms=3.5)
    axes.set(xscale="log", ylim=(len(groups) - 0.5, -0.5))
    axes.set_xlim(0.2, 5.0)
    ticks = (0.25, 0.5, 1.0, 2.0, 4.0)
    axes.set_xticks(ticks, [f"{tick:g}×" for tick in ticks])
    axes.minorticks_off()
    axes.set_yticks(range(len(groups)), list(groups), fontsize=8)
    axes.set_title(_SHOWN[metric][0])
    axes.set_xlabel("predicted ÷ measured")
