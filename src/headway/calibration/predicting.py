"""What a load will do to a calibrated endpoint, with bands; and the same figures of what it did.

The very requests are simulated, at their very times: what chance there is in traffic is not in the bands. In the bands
are the terms (drawn from their covariance), the machine's speed on the day (`drift`, which moves every step and is
amplified by queueing like anything else), and what the model misses beyond both (`misfit_log_sd`). With few runs
behind them, drift and misfit are drawn from Student's t with as many degrees of freedom as runs less one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from headway import metrics
from headway.perf.endpoint_steps import DRIFT, replica_of, terms_at
from headway.planner.fleet import served
from headway.simulator import simulate
from headway.types import Slo

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headway.perf.endpoint import EndpointCalibration
    from headway.probe.nouns import Load, Sent
    from headway.simulator import Simulation
    from headway.types import FloatColumn, Replica, Requests

DRAWS = 100
#: Share on either side of the band that is left out: 90 % lies within.
_TAIL_FRAC = 0.05
_METRICS = ("ttft", "tpot", "e2e")
_QUANTILES = ((0.5, "p50"), (0.95, "p95"))
#: The figures that are predicted.
FIGURES = (*(f"{metric}.{name}" for metric in _METRICS for _, name in _QUANTILES), "output_tokens_per_s")
#: Requests in the system more, for each second of arrivals: it has its own sign, so no ratio is taken of it.
GROWTH = "queue_growth_per_s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One predicted figure, in the unit of its name (latencies in seconds), and the 90 % band around it."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a load will do.

    Attributes:
        load: its name.
        requests: how many.
        figures: name (`FIGURES`, `GROWTH`) -> what is expected.
        saturated_frac: share of the draws in which the queue grows until the arrivals end.
        outside: what of the load lies beyond what was calibrated on, in words; empty: nothing.
    """

    load: str
    requests: int
    figures: Mapping[str, Figure]
    saturated_frac: float
    outside: tuple[str, ...] = ()

    @property
    def saturated(self) -> bool:
        """Whether the queue is expected to grow: in at least half of the draws."""
        return self.saturated_frac >= 0.5


def predict(calibration: EndpointCalibration, load: Load, *, draws: int = DRAWS, seed: int = 0) -> Prediction:
    """Predict what a load will do.

    Args:
        calibration: of the endpoint.
        load: what will be sent, and when.
        draws: simulations that make the bands.
        seed: of the draws.

    Raises:
        InputError: the load cannot be run under the calibrated settings.
    """
    expected = simulated_figures(load, replica_of(calibration))
    drawn = [simulated_figures(load, one) for one in _replicas(calibration, draws, seed)]
    rng = np.random.default_rng([seed, 1])
    freedom = max(len(calibration.runs) - 1, 1)
    figures = {}
    for name in FIGURES:
        beyond = calibration.uncertainty.misfit_log_sd.get(name, 0.0)
        values = np.array([one[name] for one in drawn]) * np.exp(beyond * rng.standard_t(freedom, draws))
        figures[name] = _figure(expected[name], values)
    figures[GROWTH] = _figure(expected[GROWTH], np.array([one[GROWTH] for one in drawn]))
    saturated = [grows(one[GROWTH], load.requests, calibration.settings.max_num_seqs) for one in drawn]
    return Prediction(
        load=load.name,
        requests=len(load.requests),
        figures=figures,
        saturated_frac=float(np.mean(saturated)) if load.concurrency is None else 0.0,
        outside=_outside(calibration, load),
    )


def _figure(value: float, values: FloatColumn) -> Figure:
    known = values[np.isfinite(values)]
    if not len(known) or not math.isfinite(value):
        return Figure(value=value, low=math.nan, high=math.nan)
    low, high = np.quantile(known, [_TAIL_FRAC, 1 - _TAIL_FRAC])
    return Figure(value=value, low=min(float(low), value), high=max(float(high), value))


def _replicas(calibration: EndpointCalibration, draws: int, seed: int) -> list[Replica]:
    """Return replicas with terms drawn from what is known of them."""
    known = calibration.uncertainty
    rng = np.random.default_rng([seed, 0])
    freedom = max(len(calibration.runs) - 1, 1)
    drifts = known.drift_log_sd * rng.standard_t(freedom, draws)
    covariance = np.array(known.covariance).reshape(len(known.terms), len(known.terms))
    offsets = rng.multivariate_normal(np.zeros(len(known.terms)), covariance, draws, method="eigh")
    found = []
    for offset, drift in zip(offsets, drifts, strict=True):
        moved = dict(zip(known.terms, map(float, offset), strict=True)) | {DRIFT: float(np.clip(drift, -1.0, 1.0))}
        found.append(replica_of(replace(calibration, terms=terms_at(calibration, moved))))
    return found


def _outside(calibration: EndpointCalibration, load: Load) -> tuple[str, ...]:
    """Say what of a load lies beyond what was measured."""
    requests, valid = load.requests, calibration.valid
    longest = int((requests.isl_tokens + requests.osl_tokens).max())
    found = []
    if "context" in valid and longest > valid["context"][1]:
        found.append(f"contexts of {longest:,} tokens: calibrated up to {valid['context'][1]:,.0f}")
    if "batch" in valid and (batch := most_running(load, replica_of(calibration))) > valid["batch"][1]:
        found.append(f"{batch} at once: calibrated up to {valid['batch'][1]:,.0f}")
    return tuple(found)


def most_running(load: Load, replica: Replica) -> int:
    """Return how many requests of a load are in flight at once, as far as there are seats for them."""
    found = _simulated(load, replica)
    done = found.last_ps >= 0
    events_ps = np.concatenate([found.last_ps[done], found.arrive_ps[done]])
    steps = np.repeat([-1, 1], done.sum())[np.argsort(events_ps, kind="stable")]  # at one instant, ends first
    return min(int(np.cumsum(steps).max(initial=0)), replica.settings.max_num_seqs)


# --- the figures of a run -------------------------------------------------------------------------------


def simulated_figures(load: Load, replica: Replica) -> dict[str, float]:
    """Return the figures of a load on one replica."""
    found = _simulated(load, replica)
    sent = replace(load.requests, arrive_s=np.maximum(found.arrive_ps, 0) / 1e12)
    order = np.argsort(sent.arrive_s, kind="stable")
    became = served(sent, found, replica, 1, itl_percentiles_frac=())
    return _figures(sent, became, order)


def _simulated(load: Load, replica: Replica) -> Simulation:
    turnaround_s = 0.0 if load.concurrency is None else load.turnaround_s + replica.frontend_s
    return simulate(load.requests, replica, concurrency=load.concurrency, turnaround_s=turnaround_s)


def measured_figures(sent: Sent) -> dict[str, float]:
    """Return the figures of what was sent.

    Raises:
        InputError: no end of any request was measured.
    """
    from headway.workload.served import served_of

    trace = sent.trace
    assert trace.measured is not None  # the client always measures
    became = served_of(trace.requests, trace.measured, trace.names.get("error", ()))
    return _figures(trace.requests, became, np.argsort(trace.requests.arrive_s, kind="stable"))


def _figures(requests: Requests, became: metrics.Served, order: np.ndarray) -> dict[str, float]:
    ordered = replace(requests, arrive_s=requests.arrive_s[order], isl_tokens=requests.isl_tokens[order])
    ordered = replace(ordered, osl_tokens=requests.osl_tokens[order])
    columns = {
        name: getattr(became, name)[order]
        for name in ("first_s", "last_s", "failed", "input_tokens", "output_tokens", "cached_tokens")
        if getattr(became, name) is not None
    }
    whole = metrics.outcome(ordered, replace(became, **columns), Slo(objectives=()), "simulated")
    found = {f"{m}.{name}": whole.latency[m].at(frac) for m in _METRICS for frac, name in _QUANTILES}  # type: ignore[index]
    last_s = columns["last_s"]
    done = np.isfinite(last_s) & (np.asarray(columns["failed"]) == 0)
    tokens = columns.get("output_tokens", ordered.osl_tokens)
    span_s = float(last_s[done].max() - ordered.arrive_s[0]) if done.any() else math.nan
    found["output_tokens_per_s"] = float(tokens[done].sum()) / span_s if done.any() else 0.0
    found[GROWTH] = growth_per_s(ordered.arrive_s, last_s)
    return found


def growth_per_s(arrive_s: FloatColumn, last_s: FloatColumn) -> float:
    """Return by how many requests a second the number in the system grows, over the last two thirds of the arrivals.

    The least-squares slope of arrived less ended, at the arrivals. What never ended stays in the system.
    """
    ends_s = np.sort(last_s[np.isfinite(last_s)])
    inside = np.arange(1, len(arrive_s) + 1) - np.searchsorted(ends_s, arrive_s, side="right")
    late = slice(len(arrive_s) // 3, None)
    times_s = arrive_s[late]
    if len(times_s) < 3 or times_s[-1] <= times_s[0]:
        return 0.0
    return float(np.polyfit(times_s, inside[late], 1)[0])


def grows(growth: float, requests: Requests, max_num_seqs: int) -> bool:
    """Return whether a growth is one of a queue: over the whole run it fills more than the seats of the engine."""
    return growth * float(requests.arrive_s[-1] - requests.arrive_s[0]) > max_num_seqs
