"""Runs of which only the server's own metrics are left: the windows of steady load in a scrape."""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from headway.calibration.drawing import FRACS, LEAST_LOG_SD, METRICS, Arrivals, Lengths, draws_of, stated_run, unsaid
from headway.calibration.levels import in_flight
from headway.calibration.runs import LEAST_REQUESTS, Run, Stated, StatedFigure
from headway.calibration.watching import drawn_lengths, traffic_of
from headway.errors import EvidenceError, InputError
from headway.probe.observed import observed
from headway.probe.settings import DEFAULTS
from headway.probe.signals import engine_of_names

if TYPE_CHECKING:
    from headway.calibration.watching import Traffic
    from headway.probe.nouns import Scrape
    from headway.probe.observed import Distribution, Observed
    from headway.types import Metric

#: Windows a scrape is cut into at most, and the fewest scrapes and requests one should have.
_MOST_WINDOWS, _LEAST_SCRAPES, _ENOUGH_REQUESTS = 4, 12, 100
#: What differs between a window's halves by more than so many standard deviations of counts is no chance.
_STEADY_SD = 3.0
#: Variance ÷ mean of the requests in flight: 1 and more of Poisson arrivals, next to 0 where clients wait for answers.
_CLOSED_DISPERSION, _LEAST_LOOKS = 0.1, 8


def check_engine(scrape: Scrape, engine: str, whose: str, *, file: object = None, place: str = "", hint: str) -> None:
    """Make sure that metrics are an engine's.

    Args:
        scrape: the metrics; names that no engine has are anybody's.
        engine: as `EngineSettings.engine` names it.
        whose: what it is that is of this engine, in the words of an error.
        file: where the metrics stand,
        place: or what was given that is of another engine.
        hint: what to do.

    Raises:
        InputError: they are another's.
    """
    found = engine_of_names(scrape.names.values())
    if found and DEFAULTS[found].policy != engine:
        problem = f"these are the metrics of {DEFAULTS[found].policy}, and {whose} is of {engine}"
        raise InputError(problem, file=file, place=place, hint=hint)


def runs_of_scrape(
    name: str,
    scrape: Scrape,
    max_model_len: int,
    sha256: str = "",
    *,
    osl_tokens: float | None = None,
    group: str = "",
) -> list[Run]:
    """Return the windows of steady load in a scrape, each a run, and all of one group.

    Raises:
        InputError: the engine counts no requests and no output length was given.
        EvidenceError: there is no such window, or it says nothing of latencies.
    """
    windows = _windows(scrape, osl_tokens)
    runs, refused = [], list[str]()
    for k, (start_s, end_s) in enumerate(windows):
        label = name if len(windows) == 1 else f"{name} {k + 1}/{len(windows)}"
        seen = observed(scrape, start_s, end_s)
        why = _unsteady(scrape, seen, osl_tokens)
        if why:
            refused.append(f"{start_s:.0f}…{end_s:.0f} s: {why}")
        else:
            run = _window_run(label, scrape, seen, max_model_len, sha256, osl_tokens)
            runs.append(replace(run, group=group or name))
    if not runs:
        raise EvidenceError(f"{name}: no window of steady load in these metrics: {'; '.join(refused)}")
    return runs


def _windows(scrape: Scrape, osl_tokens: float | None) -> list[tuple[float, float]]:
    """Cut a scrape into windows of equal length, each with scrapes and requests enough."""
    whole = traffic_of(observed(scrape), osl_tokens)
    most = min(_MOST_WINDOWS, len(scrape.time_s) // _LEAST_SCRAPES, whole.requests // _ENOUGH_REQUESTS)
    edges = scrape.time_s[np.linspace(0, len(scrape.time_s) - 1, max(most, 1) + 1).astype(int)]
    return list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))


def _unsteady(scrape: Scrape, seen: Observed, osl_tokens: float | None) -> str:
    """Say why a window's load is none to simulate; empty: it is steady."""
    if seen.restarted_s:
        return "the server was restarted"
    traffic = traffic_of(seen, osl_tokens)
    if traffic.ended < LEAST_REQUESTS:
        return f"{traffic.ended} requests ended; at least {LEAST_REQUESTS} are needed"
    grown = sum(seen.changes.get(name, 0.0) for name in ("running", "waiting"))
    inside = sum(seen.means.get(name, 0.0) for name in ("running", "waiting"))
    if abs(grown) > _STEADY_SD * math.sqrt(max(inside, 1.0)) + 0.1 * traffic.requests:
        return f"requests in flight changed by {grown:+.0f}"
    middle_s = float(scrape.time_s[np.searchsorted(scrape.time_s, (seen.start_s + seen.end_s) / 2)])
    if not seen.start_s < middle_s < seen.end_s:
        return ""
    early, late = (
        traffic_of(observed(scrape, *ends), osl_tokens) for ends in ((seen.start_s, middle_s), (middle_s, seen.end_s))
    )
    expected = traffic.requests * early.window_s / traffic.window_s
    if abs(early.requests - expected) > _STEADY_SD * math.sqrt(traffic.requests) / 2 + 0.1 * expected:
        return f"{early.per_s:.3g} requests/s came in its first half, {late.per_s:.3g} in its second"
    return ""


def _window_run(
    name: str, scrape: Scrape, seen: Observed, max_model_len: int, sha256: str, osl_tokens: float | None
) -> Run:
    traffic = traffic_of(seen, osl_tokens)
    figures = _observed_figures(scrape, seen, traffic)
    if not figures:
        raise EvidenceError(f"{name}: these metrics hold no latency and no requests in flight")
    computed = 1 - traffic.cached_frac
    isl = _seen_lengths(seen.distributions.get("isl_tokens"), traffic.isl_tokens * computed)
    osl = _seen_lengths(seen.distributions.get("osl_tokens"), traffic.osl_tokens)
    arrivals = _arrivals(scrape, seen, traffic)
    count = arrivals.most(traffic.requests)
    notes = unsaid(isl, osl)
    notes += [] if arrivals.concurrency else ["requests came as a Poisson process"]
    notes += ["cached tokens of prompts cost nothing"] if traffic.cached_frac else []
    stated = Stated(
        evidence="metrics",
        requests=traffic.ended,
        figures=figures,
        draws=draws_of(name, 2 * count, arrivals, isl, osl, max_model_len),
        skipped=count,
        notes=tuple(notes),
    )
    e2e_s = next((one.value_s for one in figures if one.metric == "e2e" and one.frac is None), math.inf)
    pause_s = max(arrivals.concurrency / traffic.per_s - e2e_s, 0.0) if arrivals.concurrency else 0.0  # Little's law
    return stated_run(name, stated, arrivals, turnaround_s=pause_s, sha256=sha256)


def _seen_lengths(spread: Distribution | None, mean: float) -> Lengths:
    if spread is None or not spread.samples:
        return Lengths(mean=max(mean, 1.0))
    return Lengths(mean=mean, draw=functools.partial(drawn_lengths, spread, max(mean, 1.0)))


def _arrivals(scrape: Scrape, seen: Observed, traffic: Traffic) -> Arrivals:
    """Return a closed loop where the number in flight hardly moves, else arrivals at the window's rate."""
    inside = in_flight(scrape, seen)[1:-1]  # the first and the last look may be outside the load
    if len(inside) >= _LEAST_LOOKS and inside.max() >= 1 and inside.var() < _CLOSED_DISPERSION * inside.mean():
        return Arrivals(concurrency=round(float(inside.max())))
    return Arrivals(rate_per_s=traffic.per_s)


def _observed_figures(scrape: Scrape, seen: Observed, traffic: Traffic) -> tuple[StatedFigure, ...]:
    """Return means, which histograms have exactly, and quantiles, as far as the width of their bucket tells them."""
    found = [figure for metric in METRICS for figure in _spread(metric, seen.distributions.get(f"{metric}_s"))]
    known = {figure.metric for figure in found}
    gap_s = _mean_gap_s(seen, traffic)
    if "tpot" not in known and gap_s > 0:
        found.append(StatedFigure(metric="tpot", frac=None, value_s=gap_s, log_sd=LEAST_LOG_SD, weighed=True))
    inside = in_flight(scrape, seen)
    if "e2e" not in known and len(inside) > 1 and inside.mean() > 0 and traffic.per_s > 0:
        error = math.hypot(LEAST_LOG_SD, float(inside.std() / math.sqrt(len(inside)) / inside.mean()))
        mean_s = float(inside.mean()) / traffic.per_s  # Little's law
        found.append(StatedFigure(metric="e2e", frac=None, value_s=mean_s, log_sd=error))
    return tuple(found)


def _mean_gap_s(seen: Observed, traffic: Traffic) -> float:
    """Return the mean time between two tokens; NaN where nobody counts it."""
    if (spread := seen.distributions.get("itl_s")) is not None and spread.samples:
        return spread.mean
    gaps = seen.increases.get("generation_tokens", 0.0) - traffic.ended
    return seen.increases.get("decode_busy_s", math.nan) / gaps if gaps > 0 else math.nan


def _spread(metric: Metric, spread: Distribution | None) -> list[StatedFigure]:
    if spread is None or not spread.samples or not spread.mean > 0:
        return []
    found = [StatedFigure(metric=metric, frac=None, value_s=spread.mean, log_sd=LEAST_LOG_SD)]
    for frac in FRACS:
        low, value, high = spread.quantiles[frac]
        if low > 0 and math.isfinite(high):
            width = math.log(high / low) / math.sqrt(12)  # anywhere in its bucket: the deviation of an even spread
            log_sd = math.hypot(LEAST_LOG_SD, width)
            found.append(StatedFigure(metric=metric, frac=frac, value_s=value, log_sd=log_sd))
    return found
