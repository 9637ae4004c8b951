"""`describe`: what a workload looks like, before anyone trusts it.

Quantiles are nearest ranks (`metrics.rank_of`): values that occurred. Every figure is over all requests.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from headway.errors import InputError
from headway.metrics import rank_of
from headway.workload.prefixes import hit_tokens, maximal_runs, take_runs
from headway.workload.trace import Measured, Trace

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headway.types import FloatColumn, IntColumn, PrefixRuns, Requests

PERCENTILES_FRAC = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999)
#: Where the joint table is cut, on both axes.
JOINT_FRAC = (0.25, 0.5, 0.75, 0.9, 0.99)
#: Windows that burstiness is looked at in; one is used where it fits at least `LEAST_WINDOWS` times.
BURST_WINDOWS_S = (1.0, 10.0, 60.0, 600.0, 3600.0)
LEAST_WINDOWS = 10
#: Windows a series over time may have, from which the shortest is taken that gives at most `MOST_POINTS` points.
SERIES_WINDOWS_S = (1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0, 1800.0, 3600.0, 21600.0, 86400.0)
MOST_POINTS = 240
TOP_FRAC = (0.01, 0.05)
LONG_PROMPT_TOKENS = (8192, 32768, 131072)
#: Histogram bins per doubling of the length.
BINS_PER_DOUBLING = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """How a quantity spreads, in the unit of the field that holds this."""

    samples: int
    mean: float
    least: float
    most: float
    quantiles: Mapping[float, float]  # by fraction


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """How many requests have a length from one edge to before the next; bins widen with the length."""

    edges_tokens: tuple[int, ...]  # (n + 1,)
    requests: tuple[int, ...]  # (n,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Joint:
    """Share of requests by class of input length (rows) and output length (columns); all shares sum to 1.

    Class k has lengths above edge k − 1 up to edge k; the edges are the quantiles at `JOINT_FRAC`.
    """

    isl_edges_tokens: tuple[int, ...]
    osl_edges_tokens: tuple[int, ...]
    share_frac: tuple[tuple[float, ...], ...]
    rank_correlation: float | None  # Spearman's, of ISL and OSL; None where one of them is constant


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """What arrived in each window of `window_s`, from the first arrival on; the last window may be cut short."""

    window_s: float
    start_s: tuple[float, ...]
    requests: tuple[int, ...]
    input_tokens: tuple[int, ...]
    output_tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Burstiness:
    """How uneven arrivals are: 1 everywhere for a Poisson process.

    `fano` is variance ÷ mean of the requests per window (Fano 1947), `peak` the fullest window ÷ the mean one; both by
    window in seconds, over the whole windows from the first arrival on.
    """

    gap_cv: float | None  # standard deviation ÷ mean of the gaps between arrivals; None below three requests
    fano: Mapping[float, float]
    peak: Mapping[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixShare:
    """What an infinite prefix cache would find, every earlier request's blocks being in it."""

    block_tokens: int
    share_frac: float  # of all prompt tokens
    requests_frac: float  # requests that find at least one block
    hit_tokens: Spread  # found per request
    hit_histogram: Histogram  # of the requests that find some
    distinct_tokens: int  # what such a cache would hold in the end


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionShape:
    """What sessions look like. From turn to turn figures are None where no session has two."""

    sessions: int
    turns: Spread  # requests per session
    length_s: Spread  # first to last arrival
    first_isl_tokens: Spread
    growth_tokens: Spread | None  # ISL of a turn − ISL of the turn before
    turn_gap_s: Spread | None  # arrival − arrival of the turn before
    think_s: Spread | None  # arrival − end of the turn before, where that was measured and is not negative


@dataclass(frozen=True, slots=True, kw_only=True)
class Tail:
    """How much the longest requests weigh."""

    input_share_frac: Mapping[float, float]  # of all input tokens in that share of the requests, the longest by ISL
    output_share_frac: Mapping[float, float]  # likewise by OSL
    prompts_over_frac: Mapping[int, float]  # share of prompts longer than so many tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """A workload in figures."""

    requests: int
    duration_s: float  # first to last arrival
    requests_per_s: float | None  # gaps ÷ duration; None where all arrive at once
    input_tokens_per_s: float | None
    output_tokens_per_s: float | None
    isl_tokens: Spread
    osl_tokens: Spread
    isl_histogram: Histogram
    osl_histogram: Histogram
    joint: Joint
    series: Series
    burstiness: Burstiness
    tail: Tail
    prefix: PrefixShare | None
    sessions: SessionShape | None

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain dictionaries and tuples, for JSON."""
        return dataclasses.asdict(self)


def describe(given: Requests | Trace, *, series_window_s: float | None = None) -> Description:
    """Describe a workload.

    Args:
        given: requests in order of arrival, or a trace (whose measured E2E then gives think times).
        series_window_s: window of the series over time; None: the shortest of `SERIES_WINDOWS_S` that gives at most
            `MOST_POINTS` points.

    Raises:
        InputError: there is no request, or the window is not above 0.
    """
    requests, measured = (given.requests, given.measured) if isinstance(given, Trace) else (given, None)
    if not len(requests):
        raise InputError("there is no request to describe")
    isl_tokens, osl_tokens = requests.isl_tokens, requests.osl_tokens
    duration_s = float(requests.arrive_s[-1] - requests.arrive_s[0])
    per_s = (len(requests) - 1) / duration_s if duration_s > 0 else None
    return Description(
        requests=len(requests),
        duration_s=duration_s,
        requests_per_s=per_s,
        input_tokens_per_s=None if per_s is None else per_s * float(isl_tokens.mean()),
        output_tokens_per_s=None if per_s is None else per_s * float(osl_tokens.mean()),
        isl_tokens=spread(isl_tokens),
        osl_tokens=spread(osl_tokens),
        isl_histogram=histogram(isl_tokens),
        osl_histogram=histogram(osl_tokens),
        joint=_joint(isl_tokens, osl_tokens),
        series=_series(requests, duration_s, series_window_s),
        burstiness=_burstiness(requests.arrive_s, duration_s),
        tail=_tail(isl_tokens, osl_tokens),
        prefix=None if requests.prefix is None else _prefix(requests, requests.prefix),
        sessions=None if requests.session_id is None else _sessions(requests, requests.session_id, measured),
    )


# --- lengths -------------------------------------------------------------------------------------------


def spread(values: IntColumn | FloatColumn) -> Spread:
    """Summarise at least one value."""
    ordered = np.sort(values)
    n = len(ordered)
    return Spread(
        samples=n,
        mean=float(ordered.mean()),
        least=ordered[0].item(),
        most=ordered[-1].item(),
        quantiles={frac: ordered[rank_of(frac, n)].item() for frac in PERCENTILES_FRAC},
    )


def _spread_or_none(values: IntColumn | FloatColumn) -> Spread | None:
    return spread(values) if len(values) else None


def histogram(tokens: IntColumn) -> Histogram:
    """Count lengths ≥ 1 in bins of equal ratio."""
    doublings = math.log2(max(int(tokens.max(initial=1)), 1)) + 1
    exact = 2.0 ** (np.arange(math.ceil(doublings * BINS_PER_DOUBLING) + 1) / BINS_PER_DOUBLING)
    edges = np.unique(np.round(exact).astype(np.int64))
    counts = np.histogram(tokens, edges)[0]
    return Histogram(edges_tokens=tuple(edges.tolist()), requests=tuple(counts.tolist()))


def _joint(isl_tokens: IntColumn, osl_tokens: IntColumn) -> Joint:
    isl_edges, osl_edges = _edges(isl_tokens), _edges(osl_tokens)
    classes = len(JOINT_FRAC) + 1
    cell = np.searchsorted(isl_edges, isl_tokens) * classes + np.searchsorted(osl_edges, osl_tokens)
    share = np.bincount(cell, minlength=classes**2).reshape(classes, classes) / len(isl_tokens)
    return Joint(
        isl_edges_tokens=tuple(isl_edges.tolist()),
        osl_edges_tokens=tuple(osl_edges.tolist()),
        share_frac=tuple(tuple(row) for row in share.tolist()),
        rank_correlation=_rank_correlation(isl_tokens, osl_tokens),
    )


def _edges(tokens: IntColumn) -> IntColumn:
    ordered = np.sort(tokens)
    return ordered[[rank_of(frac, len(ordered)) for frac in JOINT_FRAC]]


def _rank_correlation(first: IntColumn, second: IntColumn) -> float | None:
    if first.min() == first.max() or second.min() == second.max():
        return None
    return float(np.corrcoef(_mean_ranks(first), _mean_ranks(second))[0, 1])


def _mean_ranks(values: IntColumn) -> FloatColumn:
    """Return ranks from 0; equal values share the mean of theirs."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: FloatColumn = (np.cumsum(counts) - (counts + 1) / 2)[which]
    return ranks


def _tail(isl_tokens: IntColumn, osl_tokens: IntColumn) -> Tail:
    return Tail(
        input_share_frac=_top_shares(isl_tokens),
        output_share_frac=_top_shares(osl_tokens),
        prompts_over_frac={tokens: float((isl_tokens > tokens).mean()) for tokens in LONG_PROMPT_TOKENS},
    )


def _top_shares(tokens: IntColumn) -> dict[float, float]:
    summed = np.cumsum(np.sort(tokens)[::-1])
    return {frac: float(summed[math.ceil(frac * len(tokens)) - 1] / summed[-1]) for frac in TOP_FRAC}


# --- time ----------------------------------------------------------------------------------------------


def _series(requests: Requests, duration_s: float, window_s: float | None) -> Series:
    if window_s is None:
        fitting = (one for one in SERIES_WINDOWS_S if duration_s < MOST_POINTS * one)
        window_s = next(fitting, duration_s / (MOST_POINTS - 1))
    elif not (window_s > 0 and duration_s / window_s < 1e7):
        raise InputError(f"expected a window above 0 and no shorter than a 10⁻⁷th of the trace, got {window_s}")
    which = ((requests.arrive_s - requests.arrive_s[0]) // window_s).astype(np.int64)
    start_s = float(requests.arrive_s[0]) + window_s * np.arange(which[-1] + 1)

    def summed(weights: IntColumn) -> tuple[int, ...]:
        return tuple(np.bincount(which, weights=weights).astype(np.int64).tolist())

    return Series(
        window_s=window_s,
        start_s=tuple(start_s.tolist()),
        requests=tuple(np.bincount(which).tolist()),
        input_tokens=summed(requests.isl_tokens),
        output_tokens=summed(requests.osl_tokens),
    )


def _burstiness(arrive_s: FloatColumn, duration_s: float) -> Burstiness:
    gaps_s = np.diff(arrive_s)
    known = len(gaps_s) >= 2 and duration_s > 0
    fano: dict[float, float] = {}
    peak: dict[float, float] = {}
    for window_s in BURST_WINDOWS_S:
        windows = int(duration_s // window_s)
        if windows >= LEAST_WINDOWS:
            which = (arrive_s - arrive_s[0]) // window_s
            _, counts = np.unique(which[which < windows], return_counts=True)  # windows without arrivals are not listed
            mean = counts.sum() / windows
            fano[window_s] = float((np.square(counts).sum() / windows - mean**2) / mean)
            peak[window_s] = float(counts.max() / mean)
    return Burstiness(gap_cv=float(gaps_s.std() / gaps_s.mean()) if known else None, fano=fano, peak=peak)


# --- prefixes and sessions -----------------------------------------------------------------------------


def _prefix(requests: Requests, prefix: PrefixRuns) -> PrefixShare:
    # of requests at one instant, the shorter come first: the figures do not hang on how a file lists them
    order = np.lexsort((requests.osl_tokens, requests.isl_tokens, requests.arrive_s))
    isl_tokens = requests.isl_tokens[order]
    hits = hit_tokens(take_runs(prefix, order), isl_tokens)
    return PrefixShare(
        block_tokens=prefix.block_tokens,
        share_frac=float(hits.sum() / isl_tokens.sum()),
        requests_frac=float((hits > 0).mean()),
        hit_tokens=spread(hits),
        hit_histogram=histogram(hits[hits > 0]),
        distinct_tokens=_distinct_blocks(prefix) * prefix.block_tokens,
    )


def _distinct_blocks(prefix: PrefixRuns) -> int:
    """Count distinct ids: of runs that start alike, the longest has all."""
    runs = maximal_runs(prefix)
    order = np.lexsort((runs.counts, runs.first_ids))
    last = np.ones(len(order), dtype=bool)
    last[:-1] = runs.first_ids[order][1:] != runs.first_ids[order][:-1]
    return int(runs.counts[order][last].sum())


def _sessions(requests: Requests, session_id: IntColumn, measured: Measured | None) -> SessionShape:
    order = np.lexsort((requests.osl_tokens, requests.isl_tokens, requests.arrive_s, session_id))
    session, arrive_s, isl_tokens = session_id[order], requests.arrive_s[order], requests.isl_tokens[order]
    later = np.flatnonzero(session[1:] == session[:-1]) + 1  # turns that have one before them
    first = np.flatnonzero(np.concatenate(([True], session[1:] != session[:-1])))
    last = np.concatenate((first[1:], [len(order)])) - 1
    gaps_s = arrive_s[later] - arrive_s[later - 1]
    think_s = gaps_s[:0]
    if measured is not None and measured.e2e_s is not None:
        think_s = gaps_s - measured.e2e_s[order][later - 1]
    return SessionShape(
        sessions=len(first),
        turns=spread(last - first + 1),
        length_s=spread(arrive_s[last] - arrive_s[first]),
        first_isl_tokens=spread(isl_tokens[first]),
        growth_tokens=_spread_or_none(isl_tokens[later] - isl_tokens[later - 1]),
        turn_gap_s=_spread_or_none(gaps_s),
        think_s=_spread_or_none(think_s[think_s >= 0]),  # NaN, not measured, is not ≥ 0 either
    )
