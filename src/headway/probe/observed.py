"""What a server's own metrics say of a window: means, rates, quantiles with bounds, beside the client's figures."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from headway.errors import EvidenceError
from headway.metrics import PERCENTILES_FRAC, rank_of
from headway.probe.signals import table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headway.probe.nouns import Scrape
    from headway.types import FloatColumn
    from headway.workload.trace import Measured

#: A counter may fall by so much of itself through rounding (llama-server prints six digits).
_ROUNDING_FRAC = 1e-4


class Bounds(NamedTuple):
    """A quantile from buckets: the truth lies in (low, high]; `value` is interpolated, as PromQL does."""

    low: float
    value: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """A histogram's samples within a window, in base units."""

    samples: int
    mean: float
    quantiles: Mapping[float, Bounds]
    bounds: FloatColumn
    counts: FloatColumn  # by bucket, the one beyond the last bound at the end


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """A window of a scrape.

    Attributes:
        start_s: the first scrape within the window.
        end_s: the last.
        scrapes: how many it holds.
        restarted_s: when the server was found restarted; what it counted since the scrape before is lost.
        increases: by counter.
        means: by gauge, over time.
        changes: by gauge, from the first scrape to the last.
        distributions: by histogram.
    """

    start_s: float
    end_s: float
    scrapes: int
    restarted_s: tuple[float, ...]
    increases: Mapping[str, float]
    means: Mapping[str, float]
    changes: Mapping[str, float]
    distributions: Mapping[str, Distribution]

    def per_s(self, counter: str) -> float:
        """Return a counter's rate, NaN where the engine has none."""
        return self.increases.get(counter, math.nan) / (self.end_s - self.start_s)

    @property
    def prefix_hit_frac(self) -> float:
        """Of prompt tokens, found in a cache; NaN where the engine does not count them."""
        prompt = self.increases.get("prompt_tokens", 0.0)
        if prompt and "cached_tokens" in self.increases:
            return self.increases["cached_tokens"] / prompt
        return self.means.get("prefix_hit_frac", math.nan)

    @property
    def tokens_per_step(self) -> float:
        """Mean over the engine's steps; NaN where it counts none."""
        if "step_tokens" in self.distributions:
            return self.distributions["step_tokens"].mean
        increases = self.increases
        computed = sum(increases.get(name, math.nan) for name in ("prompt_tokens", "generation_tokens"))
        steps = increases.get("steps", 0.0)
        return (computed - increases.get("cached_tokens", 0.0)) / steps if steps else math.nan


def observed(scrape: Scrape, start_s: float = -math.inf, end_s: float = math.inf) -> Observed:
    """Return what the server says of the time between two moments: from the first scrape within to the last.

    Raises:
        EvidenceError: fewer than two scrapes within.
    """
    inside = np.flatnonzero((scrape.time_s >= start_s) & (scrape.time_s <= end_s))
    if len(inside) < 2:
        raise EvidenceError(f"two scrapes at least are needed within a window, there are {len(inside)}")
    part = slice(int(inside[0]), int(inside[-1]) + 1)
    time_s = scrape.time_s[part]
    kinds = {name: table().signals[name].kind for name in scrape.values}
    gauges = {n: v for n, v in scrape.values.items() if kinds[n] == "gauge" and n != "started"}
    return Observed(
        start_s=float(time_s[0]),
        end_s=float(time_s[-1]),
        scrapes=len(time_s),
        restarted_s=tuple(t for t in restarted_s(scrape) if time_s[0] < t <= time_s[-1]),
        increases={n: float(increase(v[part])) for n, v in scrape.values.items() if kinds[n] == "counter"},
        means={n: _mean(time_s, v[part]) for n, v in gauges.items()},
        changes={
            n: float(known[-1] - known[0]) for n, v in gauges.items() if len(known := v[part][~np.isnan(v[part])])
        },
        distributions={
            n: distribution(bounds, increase(counts[part]), float(increase(totals[part])))
            for n, (bounds, counts, totals) in scrape.histograms.items()
        },
    )


def restarted_s(scrape: Scrape) -> tuple[float, ...]:
    """Return when the server was found restarted: its process began anew, or its counters fell."""
    moved = [_changed(v) for n, v in scrape.values.items() if n == "started"]
    moved += [_fell(v) for n, v in scrape.values.items() if table().signals[n].kind == "counter"]
    moved += [_fell(counts[:, -1]) for _, counts, _ in scrape.histograms.values()]
    return tuple(float(scrape.time_s[at]) for at in sorted(set().union(*moved)))


def _changed(values: FloatColumn) -> set[int]:
    known = np.flatnonzero(~np.isnan(values))
    return {int(at) for at in known[1:][np.diff(values[known]) != 0]}


def _fell(values: FloatColumn) -> set[int]:
    known = np.flatnonzero(~np.isnan(values))
    before, after = values[known][:-1], values[known][1:]
    return {int(at) for at in known[1:][after < before * (1 - _ROUNDING_FRAC)]}


def increase(values: FloatColumn) -> FloatColumn:
    """Return how far counters rose along the first axis.

    One that appears later began at 0 (it was never counted up before); one that falls began anew at 0. All columns of a
    histogram begin anew together: with the last, which counts all.
    """
    known = ~np.isnan(values if values.ndim == 1 else values[:, -1])
    rows = values[known]
    if not len(rows):
        return np.zeros(values.shape[1:])
    if not known[0]:
        rows = np.concatenate([np.zeros_like(rows[:1]), rows])
    count = rows if rows.ndim == 1 else rows[:, -1]
    anew = np.flatnonzero(count[1:] < count[:-1] * (1 - _ROUNDING_FRAC)) + 1
    risen: FloatColumn = rows[-1] - rows[0] + rows[anew - 1].sum(axis=0)
    return np.maximum(risen, 0.0)


def _mean(time_s: FloatColumn, values: FloatColumn) -> float:
    known = ~np.isnan(values)
    if known.sum() < 2:
        return float(values[known].mean()) if known.any() else math.nan
    levels, lengths_s = values[known], np.diff(time_s[known])
    return float(((levels[1:] + levels[:-1]) / 2 * lengths_s).sum() / lengths_s.sum())


def distribution(bounds: FloatColumn, cumulative: FloatColumn, total: float) -> Distribution:
    """Return samples counted in buckets, with quantiles as metrics.py ranks them.

    What a recording rule or a downsampled store makes of counts need be neither whole nor rise from bucket to bucket.
    """
    cumulative = np.maximum.accumulate(cumulative)
    samples = round(float(cumulative[-1]))
    return Distribution(
        samples=samples,
        mean=total / samples if samples else math.nan,
        quantiles={p: quantile(bounds, cumulative, p) for p in PERCENTILES_FRAC} if samples else {},
        bounds=bounds,
        counts=np.diff(cumulative, prepend=0.0),
    )


def quantile(bounds: FloatColumn, cumulative: FloatColumn, frac: float) -> Bounds:
    """Return the quantile at a fraction of samples ≥ 0: the edges of its bucket, and the straight line between.

    In the bucket beyond the last bound there is no upper edge: the value is the lower one, as PromQL has it.
    """
    rank = min(rank_of(frac, round(float(cumulative[-1]))) + 1, float(cumulative[-1]))
    at = int(np.searchsorted(cumulative, rank))
    low = float(bounds[at - 1]) if at else 0.0
    if at == len(bounds):
        return Bounds(low, low, math.inf)
    below = float(cumulative[at - 1]) if at else 0.0
    high = float(bounds[at])
    share = (rank - below) / (float(cumulative[at]) - below)
    return Bounds(low, min(low + (high - low) * share, high), high)


class Beside(NamedTuple):
    """A mean as the client has it and as the server has it, in seconds."""

    client_s: float
    server_s: float

    @property
    def difference_s(self) -> float:
        """What lies between: the network, and what the front end does before and after the engine."""
        return self.client_s - self.server_s


def beside_client(seen: Observed, measured: Measured) -> dict[str, Beside]:
    """Compare means over the same requests: the window must hold the run, and the run all the traffic.

    The client's times count from when a request was written, as the server's do, not from when it was due.
    """
    late_s = measured.sent_s if measured.sent_s is not None else np.zeros(())
    clients = {"ttft_s": measured.ttft_s, "e2e_s": measured.e2e_s}
    means = {name: values - late_s for name, values in clients.items() if values is not None}
    if measured.itl_s is not None:
        means["itl_s"] = measured.itl_s
    return {
        name: Beside(float(np.nanmean(values)), seen.distributions[name].mean)
        for name, values in means.items()
        if name in seen.distributions and seen.distributions[name].samples and np.isfinite(values).any()
    }
