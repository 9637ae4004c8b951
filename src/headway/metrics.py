"""The one definition of TTFT, TPOT, ITL, E2E and goodput, for simulated, replayed and observed requests alike.

* **TTFT** first output token − arrival.
* **TPOT** (last token − first token) / (OSL − 1), one per request; a request of one token has none.
* **ITL** one sample per gap between two tokens of a request.
* **E2E** last output token − arrival.

* **goodput** requests per second that met every per-request limit of the SLO.

OSL counts the tokens received where they were counted, else those asked for. Where a stream had several tokens in one
chunk, ITL has one sample per gap between chunks. An answer of several tokens that all came at the same time (something
on the way gathered the stream) has a TPOT which nobody can tell: it is no sample and not 0, is counted, and meets no
limit.

Figures are over the requests that *arrived* within a window; warm-up and cool-down are cut by `window_of`. A request
that failed or did not finish is counted as infinitely late, never dropped: a percentile that falls on one is infinite.

A request whose client hung up before its end is *cancelled*: no failure of the server, and no success. It keeps its
TTFT if it had one by then, has no other latency, is counted on its own, and is in no share of requests.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from headway.types import Latency, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from headway.types import Belief, BoolColumn, FloatColumn, IntColumn, Metric, Requests, Slo

#: Percentiles every outcome carries, besides those its objectives ask for.
PERCENTILES_FRAC = (0.5, 0.9, 0.95, 0.99)

#: In `Served.failed`: the client hung up before the end.
CANCELLED = -1

#: Shares of the arrivals cut from either end: the first find an empty fleet, the last find it draining.
WARM_UP_FRAC, COOL_DOWN_FRAC = 0.1, 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What became of each request, as columns in order of arrival; times are NaN where they never happened.

    `failed` is 0 where the request did not fail, `CANCELLED` where its client hung up, anything else where it was
    refused or given up. `first_s` is None where nobody looked: then there is no TTFT and no TPOT. `input_tokens` and
    `output_tokens` are what was really read and given, where that may differ from what the requests say.
    `cached_tokens` is −1 where nobody told, None where nobody told of any.

    `itl_quantile_s` answers the ITL quantile at a fraction, where gaps were recorded; `itl_mean_s` and `itl_max_s` and
    `itl_samples` go with it.
    """

    first_s: FloatColumn | None
    last_s: FloatColumn
    failed: FloatColumn | IntColumn
    input_tokens: IntColumn | None = None
    output_tokens: IntColumn | None = None
    cached_tokens: IntColumn | None = None
    preemptions: int = 0
    itl_quantile_s: Callable[[float], float] | None = None
    itl_mean_s: float = 0.0
    itl_max_s: float = 0.0
    itl_samples: int = 0
    busy_frac: Mapping[float, float] | None = None
    kv_used_frac: Mapping[float, float] | None = None
    mfu_frac: float | None = None


def window_of(arrive_s: FloatColumn) -> tuple[float, float]:
    """Return the arrival times between which requests are counted.

    The first 10 % and the last 5 % of the *requests* are cut; a set of fewer than 100 is kept whole, and so is one
    whose requests all arrive within the same instant.
    """
    n = len(arrive_s)
    if n < 100 or arrive_s[-1] <= arrive_s[0]:
        return (float(arrive_s[0]), float(arrive_s[-1])) if n else (0.0, 0.0)
    return float(arrive_s[int(n * WARM_UP_FRAC)]), float(arrive_s[int(n * (1 - COOL_DOWN_FRAC)) - 1])


def rank_of(percentile_frac: float, samples: int) -> int:
    """Return the 0-based nearest rank: the smallest with at least that share of the samples at or below it.

    A nearest rank names a value that occurred, and stays right where some values are infinite. The 1e-9 keeps
    0.95 · 100 from becoming rank 96 through binary rounding.
    """
    return min(max(math.ceil(percentile_frac * samples - 1e-9) - 1, 0), samples - 1)


def latency_of(values_s: FloatColumn, percentiles_frac: tuple[float, ...]) -> Latency:
    """Summarise one latency; infinite values stand for requests that never got there.

    The mean is over the finite values; all figures are NaN where there are no samples.
    """
    n = len(values_s)
    if n == 0:
        nan = float("nan")
        return Latency(samples=0, mean_s=nan, max_s=nan, quantiles_s=dict.fromkeys(percentiles_frac, nan))
    ranks = {p: rank_of(p, n) for p in percentiles_frac}
    ordered = np.partition(values_s, sorted({*ranks.values(), n - 1}))
    served = values_s[np.isfinite(values_s)]
    return Latency(
        samples=n,
        mean_s=float(served.mean()) if len(served) else float("inf"),
        max_s=float(ordered[-1]),
        quantiles_s={p: float(ordered[rank]) for p, rank in ranks.items()},
    )


def request_latencies(requests: Requests, served: Served) -> dict[Metric, FloatColumn]:
    """Return TTFT, TPOT and E2E of every request, in seconds.

    Infinite where the request failed or did not get that far; NaN where it was cancelled before. TPOT is NaN, too, for
    a request of one token, and for one whose tokens all came at the same time. TTFT and TPOT are not there where
    nobody looked for first tokens.
    """
    fate = np.asarray(served.failed)
    else_s = np.where(fate == CANCELLED, np.nan, np.inf)
    done = np.isfinite(served.last_s) & (fate == 0)
    e2e_s = np.where(done, served.last_s, else_s) - requests.arrive_s
    if served.first_s is None:
        return {"e2e": e2e_s}
    began = np.isfinite(served.first_s) & ((fate == 0) | (fate == CANCELLED))
    ttft_s = np.where(began, served.first_s, else_s) - requests.arrive_s
    gaps = _osl_tokens(requests, served) - 1
    with np.errstate(invalid="ignore", divide="ignore"):
        tpot_s = np.where(done, (served.last_s - served.first_s) / gaps, else_s)
    return {"ttft": ttft_s, "tpot": np.where((gaps > 0) & (tpot_s > 0), tpot_s, np.nan), "e2e": e2e_s}


def _osl_tokens(requests: Requests, served: Served) -> IntColumn:
    return requests.osl_tokens if served.output_tokens is None else served.output_tokens


def _percentiles(slo: Slo, metric: Metric) -> tuple[float, ...]:
    wanted = {o.percentile_frac for o in slo.objectives if o.metric == metric}
    return tuple(sorted({*PERCENTILES_FRAC, *wanted}))


def _itl(served: Served, slo: Slo) -> Latency | None:
    if served.itl_quantile_s is None or served.itl_samples == 0:
        return None
    return Latency(
        samples=served.itl_samples,
        mean_s=served.itl_mean_s,
        max_s=served.itl_max_s,
        quantiles_s={p: served.itl_quantile_s(p) for p in _percentiles(slo, "itl")},
    )


def _good(latencies_s: Mapping[Metric, FloatColumn], slo: Slo, single: BoolColumn) -> FloatColumn:
    """Which requests met every limit: a request is held to the strictest limit of each metric that has one.

    ITL has no value per request and binds the whole window only; the TPOT that a request of one token (`single`) does
    not have is met.
    """
    good = np.isfinite(latencies_s["e2e"])
    for metric, values_s in latencies_s.items():
        limits_s = [o.limit_s for o in slo.objectives if o.metric == metric]
        if limits_s:
            good &= (values_s <= min(limits_s)) | (np.isnan(values_s) & single)
    return good.astype(np.float64)


def violations(latency: Mapping[Metric, Latency], slo: Slo, served_frac: float) -> dict[str, float]:
    """Return by how much each objective is missed: value / limit − 1, for those that are; `success` likewise.

    NaN where nobody can tell the value of any request that must have one: the objective is not shown to be met.
    """
    missed = {
        str(o): one.at(o.percentile_frac) / o.limit_s - 1
        for o in slo.objectives
        if (one := latency.get(o.metric)) is not None
        and (one.samples or one.unknown)
        and not one.at(o.percentile_frac) <= o.limit_s
    }
    if served_frac < slo.success_frac:
        missed["success"] = slo.success_frac - served_frac
    return missed


def outcome(requests: Requests, served: Served, slo: Slo, belief: Belief) -> Outcome:
    """Turn what became of each request into an `Outcome`, over the requests that arrived within `window_of`.

    Rates are per second of that window. ITL, preemptions, busy and KV shares are over the whole run.
    """
    start_s, end_s = window_of(requests.arrive_s)
    inside = (requests.arrive_s >= start_s) & (requests.arrive_s <= end_s)
    latencies_s = {m: v[inside] for m, v in request_latencies(requests, served).items()}
    latency = {m: latency_of(v[~np.isnan(v)], _percentiles(slo, m)) for m, v in latencies_s.items()}
    itl = _itl(served, slo)
    if itl is not None:
        latency["itl"] = itl
    fate = np.asarray(served.failed)[inside]
    arrived, cancelled = int(inside.sum()), int((fate == CANCELLED).sum())
    failed = int((fate != 0).sum()) - cancelled
    done = np.isfinite(latencies_s["e2e"])
    finished = int(done.sum())
    isl = (requests.isl_tokens if served.input_tokens is None else served.input_tokens)[inside]
    osl = _osl_tokens(requests, served)[inside]
    if "tpot" in latency:
        unknown = int((done & (osl > 1) & np.isnan(latencies_s["tpot"])).sum())
        latency["tpot"] = replace(latency["tpot"], unknown=unknown)
    good = float(_good(latencies_s, slo, osl == 1).sum())
    window_s = max(end_s - start_s, 1e-12)
    found = Outcome(
        source=belief,
        latency=latency,
        window_s=window_s,
        arrived=arrived,
        finished=finished,
        failed=failed,
        cancelled=cancelled,
        unfinished=arrived - finished - failed - cancelled,
        requests_per_s=finished / window_s,
        input_tokens_per_s=float(isl[done].sum()) / window_s,
        output_tokens_per_s=float(osl[done].sum()) / window_s,
        goodput_per_s=good / window_s,
        slo_attainment_frac=good / (arrived - cancelled) if arrived > cancelled else 1.0,
        meets_slo=True,
        preemptions=served.preemptions,
        prefix_hit_frac=_prefix_hit_frac(served.cached_tokens, isl, inside),
        busy_frac=dict(served.busy_frac or {}),
        kv_used_frac=dict(served.kv_used_frac or {}),
        mfu_frac=served.mfu_frac,
    )
    return replace(found, meets_slo=not violations(latency, slo, found.served_frac))


def _prefix_hit_frac(cached_tokens: IntColumn | None, isl: IntColumn, inside: BoolColumn) -> float:
    """Share of the prompt tokens found in the prefix cache, over the prompts of which somebody told; NaN: of none."""
    if cached_tokens is None:
        return math.nan
    cached = cached_tokens[inside]
    told = cached >= 0
    return float(cached[told].sum()) / max(int(isl[told].sum()), 1)
