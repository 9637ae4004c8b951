"""Predicted against measured as a picture: a panel for each figure, bands as bars."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from verdict import TARGETS_FRAC

from headway.pictures.files import BLUE, INK, VERMILION, drawing, png

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from verdict import Figure

_TITLES = {
    "ttft.p50": "TTFT p50, s",
    "ttft.p95": "TTFT p95, s",
    "tpot.p50": "TPOT p50, s",
    "tpot.p95": "TPOT p95, s",
    "e2e.p50": "E2E p50, s",
    "e2e.p95": "E2E p95, s",
    "output_tokens_per_s": "output tokens/s",
    "queue_growth_per_s": "queue growth, requests/s",
}


def drawn_figures(figures: Sequence[Figure], *, title: str) -> bytes:
    """Return a PNG."""
    from matplotlib.figure import Figure as Canvas

    with drawing():
        canvas = Canvas(figsize=(12.0, 6.4))
        for axes, (name, heading) in zip(canvas.subplots(2, 4).flat, _TITLES.items(), strict=True):
            _panel(axes, [figure for figure in figures if figure.name == name], name)
            axes.set_title(heading)
        canvas.suptitle(f"{title}. Bars: the 90 % band. Strip: the target.")
        canvas.supxlabel("measured")
        canvas.supylabel("predicted")
        return png(canvas)


def _panel(axes: Axes, group: Sequence[Figure], name: str) -> None:
    """Draw one figure over all points; what is neither within target nor band is red."""
    known = [one for one in group if np.isfinite([one.measured, one.predicted, one.low, one.high]).all()]
    if not known:
        axes.set_axis_off()
        return
    every = [value for one in known for value in (one.measured, one.low, one.high)]
    ends = np.array([min(every), max(every)])
    if ends[0] > 0:
        ends = np.geomspace(ends[0] / 1.15, ends[1] * 1.15, 64)
        _log(axes)
    target = TARGETS_FRAC.get(name, 0.20)
    axes.fill_between(ends, ends * (1 - target), ends * (1 + target), color=INK, alpha=0.12, linewidth=0)
    axes.plot(ends, ends, color=INK, linewidth=0.8)
    for one in known:
        colour = VERMILION if one.missed else BLUE
        axes.vlines(one.measured, one.low, one.high, color=colour, linewidth=1.2)
        axes.plot(one.measured, one.predicted, "o", color=colour, markersize=4)


def _log(axes: Axes) -> None:
    """Make both axes logarithmic, with few ticks and plain numbers."""
    from matplotlib.ticker import LogLocator, NullFormatter, NullLocator

    axes.set(xscale="log", yscale="log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.set_minor_locator(NullLocator())
        axis.set_minor_formatter(NullFormatter())
