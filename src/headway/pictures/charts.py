"""Charts from plain arrays: latency CDF, timeline, Pareto front, workload; each says what is believed of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from headway.pictures.files import BLUE, FAINT, GREEN, INK, ORANGE, SKY, VERMILION, drawing
from headway.pictures.page import percentile, seconds

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from headway.types import Band, Belief, FloatColumn, IntColumn, Metric, Objective

#: Points a line is drawn with at most: more cannot be seen, and make the SVG large.
_POINTS = 800

#: Widths of the bins of a rate: the first that gives at most 240 of them.
_BINS_S = (0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0, 1800.0, 3600.0, 86400.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One deployment on the Pareto picture."""

    label: str
    usd_per_hour: float
    tail_s: float  # infinite where some request of the tail is never served: not drawn
    front: bool
    chosen: bool = False


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height))


def _log(axes: Axes, which: str) -> None:
    """Make an axis logarithmic, its ticks plain numbers: 0.2, 0.5, 1."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set(**{f"{which}scale": "log"})
    axis = getattr(axes, f"{which}axis")
    decades = np.ptp(np.log10(np.maximum(axis.get_view_interval(), 1e-12)))
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if decades < 3 else (1.0,)))
    axis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}")
    axis.set_minor_formatter(NullFormatter())


def _time_unit(most_s: float) -> tuple[float, str]:
    return (1.0, "s") if most_s >= 2.0 else (1e3, "ms")


# --- latency --------------------------------------------------------------------------------------------


def latency_cdf(
    values_s: Mapping[Metric, FloatColumn],
    objectives: Sequence[Objective],
    belief: Belief,
    *,
    title: str = "",
    bands: Mapping[Metric, Band] | None = None,
) -> Figure:
    """Draw how each latency is distributed over requests, with its limits.

    Args:
        values_s: each request's latency in seconds; infinite where it never got there, NaN where it has none.
        objectives: what is marked: the limit, and where the curve crosses its percentile.
        belief: estimated, simulated or measured; stands in the title.
        title: what the requests are of.
        bands: the error band of each latency, shaded.
    """
    with drawing():
        figure = _figure(4.1 * len(values_s), 3.8)
        figure.suptitle(f"Latency, {belief}" + f": {title}" * bool(title), x=0.01, ha="left", fontsize=12)
        for index, (metric, column) in enumerate(values_s.items()):
            axes = figure.add_subplot(1, len(values_s), index + 1)
            _cdf(
                axes,
                metric,
                column[~np.isnan(column)],
                [o for o in objectives if o.metric == metric],
                (bands or {}).get(metric),
            )
            axes.set_ylabel("share of requests" if index == 0 else "")
    return figure


def _cdf(axes: Axes, metric: Metric, column: FloatColumn, objectives: Sequence[Objective], band: Band | None) -> None:
    served = np.sort(column[np.isfinite(column)])
    limits_s = [o.limit_s for o in objectives]
    scale, unit = _time_unit(max([*limits_s, float(served[-1]) if len(served) else 0.0]))
    if len(served):
        at, share = _steps(served, len(column))
        _shade(axes, at * scale, share, band)
        axes.plot(at * scale, share, color=BLUE, lw=1.8, drawstyle="steps-post")
        if served[-1] > 30 * max(served[0], 1e-9):
            _log(axes, "x")
    for colour, objective in zip((VERMILION, ORANGE, GREEN), objectives, strict=False):
        _mark(axes, objective, np.sort(column), scale, unit, colour)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(loc="upper left", bbox_to_anchor=(0, -0.17), handlelength=1.6)  # below: a CDF has no free corner
    axes.set_title(metric.upper())
    axes.set_xlabel(f"{metric.upper()} ({unit})")
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.0f} %")


def _steps(ordered: FloatColumn, total: int) -> tuple[FloatColumn, FloatColumn]:
    """At most `_POINTS` points of a CDF, the tail kept; the share is of all requests, served or not."""
    n = len(ordered)
    ranks = np.unique(np.concatenate((np.linspace(0, n - 1, _POINTS), n - np.geomspace(1, n, 100))).astype(np.int64))
    return ordered[ranks], (ranks + 1) / total


def _shade(axes: Axes, at: FloatColumn, share: FloatColumn, band: Band | None) -> None:
    if band is not None:
        label = f"{100 * band.confidence_frac:g} % band"
        axes.fill_betweenx(
            share, at * (1 + band.low_frac), at * (1 + band.high_frac), color=SKY, alpha=0.3, lw=0, label=label
        )


def _mark(axes: Axes, objective: Objective, ordered: FloatColumn, scale: float, unit: str, colour: str) -> None:
    from headway.metrics import rank_of

    name, limit = percentile(objective.percentile_frac), objective.limit_s * scale
    value_s = float(ordered[rank_of(objective.percentile_frac, len(ordered))]) if len(ordered) else float("nan")
    met = "met" if value_s <= objective.limit_s else "missed"
    label = f"{name} {seconds(value_s)}, limit {limit:g} {unit}: {met}"
    axes.axvline(limit, color=colour, ls="--", lw=1.2, label=label)
    if np.isfinite(value_s):
        axes.plot([value_s * scale], [objective.percentile_frac], "o", color=colour, ms=5, zorder=5)


# --- timeline -------------------------------------------------------------------------------------------


def timeline(
    time_s: FloatColumn,
    *,
    running: FloatColumn,
    waiting: FloatColumn,
    kv_used_frac: FloatColumn,
    belief: Belief,
    title: str = "",
) -> Figure:
    """Draw requests running and waiting, and the KV cache in use, over time.

    Args:
        time_s: (n,) when each sample was taken, rising.
        running: (n,) requests in the batches of all replicas.
        waiting: (n,) requests queued at all replicas.
        kv_used_frac: (n,) KV blocks in use over those there are, all replicas together.
        belief: estimated, simulated or measured; stands in the title.
        title: what was run.
    """
    at, unit = (time_s / 60, "min") if len(time_s) and time_s[-1] >= 600 else (time_s, "s")
    with drawing():
        figure = _figure(9, 5.4)
        figure.suptitle(f"Timeline, {belief}" + f": {title}" * bool(title), x=0.01, ha="left", fontsize=12)
        top, middle, bottom = figure.subplots(3, 1, sharex=True)
        for axes, column, name, colour in (
            (top, running, "requests running", BLUE),
            (middle, waiting, "requests waiting", VERMILION),
            (bottom, 100 * kv_used_frac, "KV in use (%)", GREEN),
        ):
            axes.fill_between(at, column, step="post", color=colour, alpha=0.2, lw=0)
            axes.step(at, column, where="post", color=colour, lw=1.2)
            axes.set_ylabel(name)
            axes.margins(x=0)
            axes.set_ylim(0, max(float(np.max(column, initial=0.0)) * 1.1, 1.0))
        bottom.set_ylim(0, 102)
        bottom.set_xlabel(f"time since the first arrival ({unit})")
        figure.align_ylabels()
    return figure


# --- Pareto front ---------------------------------------------------------------------------------------


def pareto(points: Sequence[Point], belief: Belief, *, tail: str, title: str = "") -> Figure:
    """Draw cost against the tail: what is cheaper is to the left, what is quicker is below.

    Args:
        points: the candidates; the front's are named, and joined where they are best on cost and tail alone.
        belief: estimated, simulated or measured; stands in the title.
        tail: which percentile of which latency the tail is.
        title: what was planned.
    """
    finite = [p for p in points if np.isfinite(p.tail_s)]
    front = sorted((p for p in finite if p.front), key=lambda p: (p.usd_per_hour, p.tail_s))
    scale, unit = _time_unit(max((p.tail_s for p in finite), default=0.0))
    with drawing():
        figure = _figure(9, 5.2)
        axes = figure.add_subplot()
        axes.set_title(f"Cost and tail, {belief}" + f": {title}" * bool(title))
        _scatter(axes, [p for p in finite if not p.front], scale, color=FAINT, s=22, label="other candidates")
        best = [p for i, p in enumerate(front) if all(p.tail_s < q.tail_s for q in front[:i])]
        axes.plot([p.usd_per_hour for p in best], [p.tail_s * scale for p in best], color=BLUE, lw=1, alpha=0.6)
        _scatter(axes, [p for p in front if not p.chosen], scale, color=BLUE, s=36, label="Pareto front")
        _scatter(axes, [p for p in finite if p.chosen], scale, color=VERMILION, s=170, marker="*", label="chosen")
        axes.set(xlabel="cost ($/hour)", ylabel=f"{tail} ({unit})")
        axes.margins(x=0.15)
        # from nothing, so that a small difference looks small
        axes.set_ylim(0, 1.15 * scale * max((p.tail_s for p in finite), default=1.0))
        if len(finite) > 1 and _spread([p.usd_per_hour for p in finite]) > 8:
            _log(axes, "x")
        _name(axes, front, best, scale)
        if finite:
            axes.legend(loc="lower left", frameon=True, framealpha=0.9, edgecolor="none")
    return figure


def _spread(values: Sequence[float]) -> float:
    return max(values) / max(min(values), 1e-9)


def _scatter(axes: Axes, points: Sequence[Point], scale: float, **style: Any) -> None:
    if points:
        axes.scatter([p.usd_per_hour for p in points], [p.tail_s * scale for p in points], zorder=3, **style)


def _name(axes: Axes, front: Sequence[Point], best: Sequence[Point], scale: float) -> None:
    """Number the front, below the line of the best and above the others; the names stand beside the chart."""
    for number, point in enumerate(front, start=1):
        axes.annotate(
            str(number),
            (point.usd_per_hour, point.tail_s * scale),
            xytext=(-6, -16) if point in best else (0, 7),
            textcoords="offset points",
            ha="center",
            fontsize=9,
        )
    names = "\n".join(f"{n}  {p.label}, ${p.usd_per_hour:,.2f}" for n, p in enumerate(front, start=1))
    axes.text(1.02, 1.0, names, transform=axes.transAxes, va="top", fontsize=9, linespacing=1.6)


def workload(
    arrive_s: FloatColumn, isl_tokens: IntColumn, osl_tokens: IntColumn, belief: str, *, title: str = ""
) -> Figure:
    """Draw a workload: lengths jointly and each by itself, and the rate over time.

    Args:
        arrive_s: (n,) arrivals, rising.
        isl_tokens: (n,) prompt lengths.
        osl_tokens: (n,) output lengths.
        belief: how the requests came to be: measured (a trace) or synthesised.
        title: what traffic it is.
    """
    with drawing():
        figure = _figure(9.6, 6.2)
        figure.suptitle(f"Workload, {belief}" + f": {title}" * bool(title), x=0.01, ha="left", fontsize=12)
        grid = figure.add_gridspec(2, 2, height_ratios=(1.5, 1))
        _joint(figure, figure.add_subplot(grid[0, 0]), isl_tokens, osl_tokens)
        _lengths(figure.add_subplot(grid[0, 1]), isl_tokens, osl_tokens)
        _rate(figure.add_subplot(grid[1, :]), arrive_s)
    return figure


def _joint(figure: Figure, axes: Axes, isl: IntColumn, osl: IntColumn) -> None:
    shade = axes.hexbin(
        isl, osl, xscale="log", yscale="log", gridsize=34, bins="log", mincnt=1, cmap="cividis", linewidths=0
    )
    figure.colorbar(shade, ax=axes, label="requests per cell", pad=0.02)
    axes.set(title="Lengths together", xlabel="ISL (tokens)", ylabel="OSL (tokens)")


def _lengths(axes: Axes, isl: IntColumn, osl: IntColumn) -> None:
    for name, column, colour in (("ISL", isl, BLUE), ("OSL", osl, VERMILION)):
        at, share = _steps(np.sort(column).astype(np.float64), len(column))
        label = f"{name}: p50 {np.median(column):,.0f}, p99 {np.quantile(column, 0.99):,.0f}"
        axes.plot(at, share, color=colour, lw=1.8, drawstyle="steps-post", label=label)
    _log(axes, "x")
    axes.set(title="Lengths by themselves", xlabel="tokens", ylabel="share of requests", ylim=(0, 1.02))
    axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.0f} %")
    axes.legend(loc="lower right")


def _rate(axes: Axes, arrive_s: FloatColumn) -> None:
    span_s = max(float(arrive_s[-1] - arrive_s[0]), 1e-9)
    bin_s = next((b for b in _BINS_S if span_s / b <= 240), span_s / 240)
    counts, edges = np.histogram(arrive_s - arrive_s[0], bins=_whole_bins(span_s, bin_s))
    scale, unit = (60.0, "min") if span_s >= 600 else (1.0, "s")
    per_s = counts / np.diff(edges)
    axes.stairs(per_s, edges / scale, fill=True, color=BLUE, alpha=0.25)
    axes.stairs(per_s, edges / scale, color=BLUE, lw=1)
    mean = len(arrive_s) / span_s
    axes.axhline(mean, color=INK, ls="--", lw=1, label=f"mean {mean:.3g} req/s")
    axes.set(title=f"Rate, by {seconds(bin_s)}", xlabel=f"time ({unit})", ylabel="req/s", ylim=(0, None))
    axes.margins(x=0)
    axes.legend(loc="lower right", frameon=True, framealpha=0.9, edgecolor="none")


def _whole_bins(span_s: float, bin_s: float) -> FloatColumn:
    """Edges of the bins that fit whole: a bin cut short at the end would look like a lull."""
    return np.arange(max(int(span_s / bin_s), 1) + 1, dtype=np.float64) * bin_s
