"""The charts of one run: latency CDF with its limits, and the fleet over time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from headway.pictures import charts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.figure import Figure

    from headway.types import FloatColumn, Metric, Outcome, Slo


class FleetSeries(Protocol):
    """Columns over time, as `charts.timeline` takes them."""

    @property
    def time_s(self) -> FloatColumn:
        """When each sample was taken."""

    @property
    def running(self) -> FloatColumn:
        """Requests in the batches."""

    @property
    def waiting(self) -> FloatColumn:
        """Requests queued."""

    @property
    def kv_used_frac(self) -> FloatColumn:
        """Share of the KV blocks in use."""


def run_figures(
    latencies_s: Mapping[Metric, FloatColumn], outcome: Outcome, slo: Slo, series: FleetSeries, title: str
) -> dict[str, Figure]:
    """Draw a run.

    Args:
        latencies_s: each request's latencies.
        outcome: what came of them; says what is believed, and the bands.
        slo: the limits marked.
        series: the fleet over time.
        title: what was run.
    """
    bands = {metric: one.band for metric, one in outcome.latency.items() if one.band}
    return {
        "latency": charts.latency_cdf(latencies_s, slo.objectives, outcome.source, title=title, bands=bands),
        "timeline": charts.timeline(
            series.time_s,
            running=series.running,
            waiting=series.waiting,
            kv_used_frac=series.kv_used_frac,
            belief=outcome.source,
            title=title,
        ),
    }
