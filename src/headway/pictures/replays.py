"""The charts of a replay: latencies and limits, the run over time beside the server's metrics, its stages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from headway.pictures import charts
from headway.pictures.files import BLUE, FAINT, GREEN, INK, ORANGE, VERMILION, drawing
from headway.pictures.page import percentile
from headway.pictures.runs import FleetSeries
from headway.types import METRICS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from headway.probe.knee import Knee, Stage
    from headway.types import FloatColumn, Metric, Objective, Slo


class ReplaySeries(FleetSeries, Protocol):
    """Columns over time: of the server what a fleet has, NaN where it does not tell, and of the client."""

    @property
    def in_flight(self) -> FloatColumn:
        """Requests due and not answered, as the client has them."""


def replay_figures(
    latencies_s: Mapping[Metric, FloatColumn],
    due_s: FloatColumn,
    slo: Slo,
    series: ReplaySeries,
    stages: Sequence[Stage],
    knee: Knee | None,
    title: str,
) -> dict[str, Figure]:
    """Draw a replay.

    Args:
        latencies_s: each request's latencies; infinite where it failed.
        due_s: when each was due.
        slo: the limits marked.
        series: the run over time.
        stages: of a load in stages; none: no picture of them.
        knee: marked.
        title: what was replayed.
    """
    found = {
        "latency": charts.latency_cdf(latencies_s, slo.objectives, "measured", title=title),
        "timeline": _timeline(series, title),
        "over-time": _over_time(latencies_s, due_s, slo.objectives, title),
    }
    return found | ({"stages": _stages(stages, knee, title)} if len(stages) > 1 else {})


def _time(time_s: FloatColumn) -> tuple[float, str]:
    return (60.0, "min") if len(time_s) and float(np.max(time_s)) >= 600 else (1.0, "s")


def _titled(figure: Figure, what: str, title: str) -> None:
    figure.suptitle(f"{what}, measured: {title}", x=0.01, ha="left", fontsize=12)


def _timeline(series: ReplaySeries, title: str) -> Figure:
    """The client's view above, the server's below, on one clock."""
    from matplotlib.figure import Figure

    scale, unit = _time(series.time_s)
    rows = [
        ([("in flight (client)", series.in_flight, INK), ("running (server)", series.running, BLUE)], "requests"),
        ([("waiting (server)", series.waiting, VERMILION)], "requests"),
        ([("KV in use (server)", 100 * series.kv_used_frac, GREEN)], "KV (%)"),
    ]
    shown = [row for row in rows if any(np.isfinite(column).any() for _, column, _ in row[0])]
    with drawing():
        figure = Figure(figsize=(9, 1.0 + 1.9 * len(shown)))
        _titled(figure, "Timeline", title)
        panels = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
        for axes, (lines, label) in zip(panels, shown, strict=True):
            for name, column, colour in lines:
                _stepped(axes, series.time_s / scale, column, name, colour)
            axes.set_ylabel(label)
            axes.set_ylim(0, 1.3 * max(1.0, *(float(np.nanmax(column, initial=0.0)) for _, column, _ in lines)))
            axes.margins(x=0)
            axes.legend(loc="upper left", ncols=2, frameon=True, framealpha=0.85, edgecolor="none")
        panels[-1].set_xlabel(f"time since the first request was due ({unit})")
        figure.align_ylabels()
    return figure


def _stepped(axes: Axes, at: FloatColumn, column: FloatColumn, name: str, colour: str) -> None:
    if np.isfinite(column).any():
        axes.fill_between(at, column, step="pre", color=colour, alpha=0.12, lw=0)
        axes.step(at, column, where="pre", color=colour, lw=1.2, label=name)


def _over_time(
    latencies_s: Mapping[Metric, FloatColumn], due_s: FloatColumn, objectives: Sequence[Objective], title: str
) -> Figure:
    """Each request where it was due; what failed stands at the top."""
    from matplotlib.figure import Figure

    scale, unit = _time(due_s)
    metrics = [metric for metric in METRICS if metric in latencies_s]
    with drawing():
        figure = Figure(figsize=(9, 1.0 + 1.9 * len(metrics)))
        _titled(figure, "Each request", title)
        panels = figure.subplots(len(metrics), 1, sharex=True, squeeze=False)[:, 0]
        for axes, metric in zip(panels, metrics, strict=True):
            limits = [one for one in objectives if one.metric == metric]
            _dots(axes, due_s / scale, latencies_s[metric], metric, limits)
        panels[-1].set_xlabel(f"due at ({unit})")
        figure.align_ylabels()
    return figure


def _dots(axes: Axes, at: FloatColumn, values_s: FloatColumn, metric: str, limits: Sequence[Objective]) -> None:
    served = np.isfinite(values_s)
    most_s = max([float(np.max(values_s[served], initial=0.0)), *(one.limit_s for one in limits)])
    scale, unit = (1.0, "s") if most_s >= 2.0 else (1e3, "ms")
    axes.plot(at[served], values_s[served] * scale, "o", ms=3, alpha=0.6, color=BLUE, mew=0)
    lost = np.isinf(values_s)
    if lost.any():
        axes.plot(at[lost], np.full(lost.sum(), 1.05 * most_s * scale), "x", ms=5, color=VERMILION, label="never")
    for one in limits:
        label = f"{percentile(one.percentile_frac)} limit"
        axes.axhline(one.limit_s * scale, color=ORANGE, ls="--", lw=1.2, label=label)
    axes.set_ylabel(f"{metric.upper()} ({unit})")
    axes.set_ylim(0, max(1.12 * most_s * scale, 1e-3))
    if axes.get_legend_handles_labels()[1]:
        axes.legend(loc="upper left", frameon=True, framealpha=0.85, edgecolor="none")


def _stages(stages: Sequence[Stage], knee: Knee | None, title: str) -> Figure:
    """Output and latency over what was offered, the knee and its interval marked."""
    from matplotlib.figure import Figure

    offered = [stage.offered for stage in stages]
    unit = knee.unit if knee else "req/s"
    with drawing():
        figure = Figure(figsize=(9.6, 3.9))
        _titled(figure, "Stages", title)
        output, latency = figure.subplots(1, 2)
        output.plot(offered, [stage.output_tokens_per_s for stage in stages], color=BLUE, lw=1.4)
        verdicts = ((True, BLUE, "keeps up"), (False, VERMILION, "falls behind"), (None, FAINT, "not known"))
        for kept, colour, name in verdicts:
            mine = [stage for stage in stages if stage.keeps_up is kept]
            if mine:
                at = [stage.offered for stage in mine]
                label = name if unit == "req/s" else None
                output.plot(at, [stage.output_tokens_per_s for stage in mine], "o", color=colour, ms=6, label=label)
        output.set(title="Output", ylabel="output tokens/s", ylim=(0, None), xlim=(0, None))
        _percentiles(latency, stages, "ttft", VERMILION)
        _percentiles(latency, stages, "tpot", GREEN)
        latency.set(title="Latency: p50, and p95 dashed", ylabel="s", yscale="log", xlim=(0, None))
        for axes in (output, latency):
            _mark(axes, knee)
            axes.set_xlabel(f"offered ({unit})")
            axes.legend(loc="best", frameon=True, framealpha=0.85, edgecolor="none")
    return figure


def _percentiles(axes: Axes, stages: Sequence[Stage], metric: Metric, colour: str) -> None:
    for frac, style in ((0.5, "-"), (0.95, "--")):
        points = [
            (stage.offered, stage.latency[metric].at(frac))
            for stage in stages
            if metric in stage.latency and np.isfinite(stage.latency[metric].at(frac))
        ]
        if points:
            label = metric.upper() if frac == 0.5 else None
            axes.plot(*zip(*points, strict=True), f"o{style}", color=colour, ms=4, lw=1.3, label=label)


def _mark(axes: Axes, knee: Knee | None) -> None:
    if knee is None:
        return
    if knee.low is not None and knee.high is not None:
        axes.axvspan(knee.low, knee.high, color=FAINT, alpha=0.18, lw=0)
    if knee.at is not None:
        axes.axvline(knee.at, color=INK, ls=":", lw=1.2, label=f"knee {knee.at:.3g} {knee.unit}")
