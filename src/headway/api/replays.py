"""`replay`: traffic sent to a real endpoint, and what came of it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from headway.errors import EvidenceError, InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from headway.api.forecasts import Forecast, Foretold
    from headway.api.paces import Pace, Traffic
    from headway.api.replay_figures import ErrorCount, LoadSummary, RunSeries, ServerSide
    from headway.api.replay_runs import Came
    from headway.probe.client import Progress
    from headway.probe.fidelity import Fidelity
    from headway.probe.keys import Key
    from headway.probe.knee import Knee, Stage
    from headway.probe.limits import Limits
    from headway.probe.nouns import ClientReport, Endpoint, Scrape
    from headway.types import FloatColumn, Latency, Metric, Outcome, Slo
    from headway.workload.trace import Trace, Treatment


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """Traffic sent to a real endpoint, and what came of it."""

    endpoint: Endpoint
    workload: str
    load: LoadSummary
    treatments: tuple[Treatment, ...]  # what was done to requests before they were sent
    started: str  # ISO 8601, UTC
    slo: Slo
    outcome: Outcome
    answered_latency: Mapping[Metric, Latency]  # as the outcome's, over the answered requests alone
    missed: Mapping[str, float]  # objectives missed, by value ÷ limit − 1; NaN: not known to be met
    completed_per_s: float  # requests answered in full while others were still due, per second
    output_tokens_per_s: float  # received in that time
    whole: Stage | None  # an open loop as one stage, from first to last arrival; None: a closed one, or all at once
    predicted: Foretold | None  # None: no calibration was given
    errors: tuple[ErrorCount, ...]
    cut_off: int  # requests of a closed loop in flight when its time was up: left out, no fault of theirs
    unsent: int  # requests whose time never came, because the run ended: left out
    client: ClientReport
    fidelity: Fidelity | None  # None: nothing was sent
    server: ServerSide | None  # None: it exposes nothing, or nobody looked
    stages: tuple[Stage, ...]
    knee: Knee | None
    series: RunSeries
    warnings: tuple[str, ...]
    trace: Trace = field(repr=False, metadata={"document": False})  # every request, with what was measured
    scrape: Scrape | None = field(repr=False, metadata={"document": False})
    latencies_s: Mapping[Metric, FloatColumn] = field(repr=False, metadata={"document": False})  # of those scored
    due_s: FloatColumn = field(repr=False, metadata={"document": False})  # when each of them was due

    @property
    def answered(self) -> int:
        """Requests answered in full."""
        return len(self.trace.requests) - sum(error.requests for error in self.errors)


def replay(
    source: str | Path,
    url: str,
    pace: Pace | None = None,
    *,
    model: str | None = None,
    api: Literal["completions", "chat"] = "completions",
    engine: str | None = None,
    settings: Mapping[str, object] = MappingProxyType({}),
    key: Key | None = None,
    limits: Limits | None = None,
    requests: int | None = None,
    window_s: tuple[float, float] | None = None,
    isl_frac: float = 1.0,
    osl_frac: float = 1.0,
    cancel_frac: float = 0.0,
    cancel_after_s: float = 1.0,
    calibration: str | Path | None = None,
    scrape_interval_s: float | None = 1.0,
    seed: int = 0,
    progress: Callable[[Progress], None] | None = None,
) -> Replayed:
    """Send traffic to an OpenAI-compatible endpoint, time every token, and score it as a simulation is scored.

    Args:
        source: a scenario (traffic and SLO), a trace of any known format, or `profile:NAME` (traffic alone).
        url: where the endpoint is, with or without `/v1`.
        pace: when requests are sent; their own times if None.
        model: which of its models; the only one if None.
        api: `completions` (prompts as token ids where it takes them) or `chat`.
        engine: where it does not tell.
        settings: of its engine, that it does not tell, by the engine's names.
        key: sent as a bearer token; never shown or stored.
        limits: budgets and patience.
        requests: the first so many; a trace's own number, or 200, if None.
        window_s: of a trace: only what arrives within.
        isl_frac: lengths of prompts are multiplied by it,
        osl_frac: and those of outputs.
        cancel_frac: share of the clients that hang up,
        cancel_after_s: so long after their request was due.
        calibration: name or file; by it the load is predicted before anything of it is sent.
        scrape_interval_s: between two looks at the server's metrics; None: nobody looks.
        seed: of everything drawn.
        progress: told how far it is, about twice a second.

    Raises:
        InputError: something given is wrong, nobody answers there, the address is public and not allowed, or the
            calibration is of another engine.
        EvidenceError: no request can be sent.
    """
    from headway.api.forecasts import calibration_for, forecast
    from headway.api.paces import Pace, traffic_of
    from headway.api.replay_runs import Sender
    from headway.probe.address import checked_address
    from headway.probe.endpoint import discover
    from headway.probe.limits import Limits
    from headway.probe.scrape import check_interval

    pace, limits = pace or Pace(), limits or Limits()
    live()
    if scrape_interval_s is not None:
        check_interval(scrape_interval_s)
    checked_address(url, allow_public=limits.allow_public)
    known = None if calibration is None else calibration_for(calibration, pace)
    wanted = traffic_of(source, pace, requests=requests, window_s=window_s, seed=seed, most=limits.requests)
    if cancel_frac:
        wanted = _cancelling(wanted, cancel_frac, cancel_after_s, seed)
    endpoint = discover(url, model=model, key=key, engine=engine, overrides=settings)
    sendable = _sendable(_rescaled(wanted, isl_frac, osl_frac), endpoint, api, key)
    sender = Sender(endpoint, pace, limits, api, key, scrape_interval_s, seed, progress)
    foreseen = None if known is None else forecast(known, sender.load(sendable), endpoint)
    return _told(sendable, pace, sender.of(sendable), foreseen=foreseen)


def live() -> None:
    """Make sure that what speaks to endpoints is installed.

    Raises:
        InputError: it is not.
    """
    from importlib.util import find_spec

    missing = [name for name in ("aiohttp", "prometheus_client", "scipy") if find_spec(name) is None]
    if missing:
        raise InputError(f"{', '.join(missing)} not installed", hint="pip install 'headway[live]'")


# --- what is sent --------------------------------------------------------------------------------------


def _cancelling(wanted: Traffic, share_frac: float, after_s: float, seed: int) -> Traffic:
    from headway.probe.loads import with_cancelled

    drawn = with_cancelled(wanted.requests, share_frac=share_frac, after_s=after_s, seed=seed)
    return dataclasses.replace(wanted, requests=drawn)


def _rescaled(wanted: Traffic, isl_frac: float, osl_frac: float) -> Traffic:
    from headway.probe.loads import scaled_lengths
    from headway.workload.trace import Treatment

    count = len(wanted.requests)
    done = tuple(
        Treatment(rows=count, text=f"{what} scaled by {frac:g}")
        for what, frac in (("prompt", isl_frac), ("output", osl_frac))
        if frac != 1.0
    )
    if not done:
        return wanted
    scaled = scaled_lengths(wanted.requests, isl_frac=isl_frac, osl_frac=osl_frac)
    return dataclasses.replace(wanted, requests=scaled, treatments=(*wanted.treatments, *done))


def _sendable(wanted: Traffic, endpoint: Endpoint, api: Literal["completions", "chat"], key: Key | None) -> Traffic:
    """Leave out what the endpoint cannot serve."""
    import numpy as np

    from headway.probe.prompts import fitting, least_tokens
    from headway.workload import take

    least = least_tokens(endpoint, api=api, key=key)
    kept, left_out = fitting(endpoint, wanted.requests, least_tokens=least)
    if not kept.any():
        why = "; ".join(str(one) for one in left_out)
        raise EvidenceError(f"none of the requests can be served there: {why}; --scale-isl changes their length")
    return dataclasses.replace(
        wanted,
        requests=take(wanted.requests, np.flatnonzero(kept)),
        treatments=(*wanted.treatments, *left_out),
    )


# --- what came of it -----------------------------------------------------------------------------------


def _told(wanted: Traffic, pace: Pace, came: Came, *, foreseen: Forecast | None = None) -> Replayed:
    from headway.api.replay_figures import (
        answered_latency,
        errors_of,
        fidelity_of,
        scored,
        series_of,
        server_side,
        stages_and_knee,
        summary,
        while_offered,
    )
    from headway.metrics import outcome, request_latencies, violations
    from headway.probe.knee import measured_of, whole
    from headway.workload import served_of

    sent = came.sent
    scoring, unsent = scored(sent)
    counted = scoring.trace
    became = served_of(counted.requests, measured_of(counted), counted.names["error"])
    result = outcome(counted.requests, became, wanted.slo, "measured")
    found, knee = stages_and_knee(scoring, pace, came.bounds_s, wanted.slo)
    completed_per_s, tokens_per_s = while_offered(counted)
    return Replayed(
        endpoint=sent.endpoint,
        workload=wanted.name,
        load=summary(sent, pace),
        treatments=wanted.treatments,
        started=sent.started,
        slo=wanted.slo,
        outcome=result,
        answered_latency=answered_latency(counted.requests, became, result),
        missed=violations(result.latency, wanted.slo, result.served_frac),
        completed_per_s=completed_per_s,
        output_tokens_per_s=tokens_per_s,
        whole=None if pace.closed else whole(counted, wanted.slo),
        predicted=None if foreseen is None else foreseen.beside(sent),
        errors=errors_of(sent.trace),
        cut_off=came.cut_off,
        unsent=unsent,
        client=sent.client,
        fidelity=fidelity_of(sent, closed=pace.closed),
        server=server_side(sent),
        stages=found,
        knee=knee,
        series=series_of(came.whole),
        warnings=(*sent.client.warnings, *came.notes),
        trace=sent.trace,
        scrape=sent.scrape,
        latencies_s=request_latencies(counted.requests, became),
        due_s=counted.requests.arrive_s,
    )
