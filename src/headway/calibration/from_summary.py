"""A run of which only a load generator's summary is left."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from headway.calibration.drawing import FRACS, LEAST_LOG_SD, METRICS, Arrivals, Lengths, draws_of, stated_run, unsaid
from headway.calibration.runs import LEAST_REQUESTS, MOST_FAILED_FRAC, Run, Stated, StatedFigure
from headway.errors import EvidenceError, InputError

if TYPE_CHECKING:
    from headway.types import Latency, Metric
    from headway.workload.summary import Summary

#: Mean in flight as a share of the cap of an open loop: below the first nobody met it, above the second it ruled.
_UNMET_FRAC, _RULED_FRAC = 0.6, 0.9


def run_of_summary(summary: Summary, max_model_len: int, sha256: str = "") -> Run:
    """Return the run of a load generator's summary.

    Raises:
        InputError: it does not say how requests were sent, how long they were, or any latency.
        EvidenceError: too few requests were answered, or too many failed.
    """
    name = Path(summary.file).stem
    answered = summary.requests - summary.failed
    if answered < LEAST_REQUESTS:
        raise EvidenceError(f"{name}: {answered} answered requests; at least {LEAST_REQUESTS} are needed")
    if summary.failed > MOST_FAILED_FRAC * summary.requests:
        raise EvidenceError(
            f"{name}: {summary.failed} of {summary.requests} requests failed, and a summary does not say which; "
            "a file with every request would do"
        )
    figures = tuple(
        figure
        for metric in METRICS
        if metric in summary.latency and (metric != "tpot" or summary.osl_tokens > 1)
        for figure in _summed(metric, summary.latency[metric], weighed=metric == "tpot" and summary.weighed)
    )
    isl, osl = (
        _lengths(summary, *one)
        for one in (
            ("input", summary.isl_tokens, summary.isl_sd_tokens),
            ("output", summary.osl_tokens, summary.osl_sd_tokens),
        )
    )
    if not figures:
        raise InputError("no latencies in it: mean or median of TTFT, TPOT or E2E are needed", file=summary.file)
    arrivals = _sent(summary)
    notes = unsaid(isl, osl)
    if arrivals.concurrency is None and not arrivals.evenly and math.isfinite(arrivals.rate_per_s):
        notes.append("requests came as a Poisson process")
    stated = Stated(
        evidence="summary",
        requests=answered,
        figures=figures,
        draws=draws_of(name, arrivals.most(summary.requests), arrivals, isl, osl, max_model_len),
        notes=tuple(notes),
    )
    return stated_run(name, stated, arrivals, sha256=sha256, failed=summary.failed)


def _summed(metric: Metric, latency: Latency, *, weighed: bool) -> list[StatedFigure]:
    values = [(None, latency.mean_s), *((frac, latency.quantiles_s.get(frac, math.nan)) for frac in FRACS)]
    return [
        StatedFigure(metric=metric, frac=frac, value_s=value_s, log_sd=LEAST_LOG_SD, weighed=weighed)
        for frac, value_s in values
        if value_s > 0
    ]


def _lengths(summary: Summary, which: str, mean: float, sd: float) -> Lengths:
    if not mean >= 1:
        raise InputError(f"the mean {which} length is not in it", file=summary.file, hint="give a file with requests")
    return Lengths(mean=mean, sd=sd)


def _sent(summary: Summary) -> Arrivals:
    """Return how the requests of a summary were sent; where a cap held an open loop back, its clients."""
    rate_per_s, cap = summary.rate_per_s, summary.concurrency
    if rate_per_s is None and cap is None:
        raise InputError(
            "neither a concurrency nor a rate is in it: how requests were sent is not known",
            file=summary.file,
            hint="AIPerf's CSV has neither, its JSON has; or give a file with requests",
        )
    if rate_per_s is None or (cap is not None and math.isinf(rate_per_s)):
        return Arrivals(concurrency=cap)
    if cap is not None:
        inside = summary.requests_per_s * summary.latency["e2e"].mean_s if "e2e" in summary.latency else math.nan
        if inside > _RULED_FRAC * cap:
            return Arrivals(concurrency=cap)
        if not inside < _UNMET_FRAC * cap:
            raise InputError(
                f"an open loop that a cap of {cap} in flight held back now and then: no load that can be simulated",
                file=summary.file,
                hint="give a file with requests",
            )
    return Arrivals(rate_per_s=rate_per_s, evenly=summary.evenly)
