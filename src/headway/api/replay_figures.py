"""The figures of a replay, from what was sent and what the server's metrics say."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from headway.errors import EvidenceError
from headway.metrics import latency_of, request_latencies, window_of
from headway.probe.knee import closed_knee, measured_of, open_knee, stages, taken, token_times
from headway.probe.loads import mean_rate_per_s
from headway.workload import take

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headway.api.paces import Pace
    from headway.metrics import Served
    from headway.probe.fidelity import Fidelity
    from headway.probe.knee import Knee, Stage
    from headway.probe.nouns import Scrape, Sent
    from headway.types import FloatColumn, Latency, Metric, Outcome, Requests, Slo
    from headway.workload.trace import Trace


#: Samples of the series over time.
SAMPLES = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadSummary:
    """What was asked for."""

    loop: Literal["open", "closed"]
    requests: int
    rate_per_s: float | None  # mean, of an open loop
    clients: int | None  # of a closed loop, at most
    turnaround_s: float
    isl_mean_tokens: float
    osl_mean_tokens: float
    sessions: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorCount:
    """Requests that were not answered in full, for one reason."""

    kind: str
    requests: int
    means: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanBeside:
    """One mean, from the first byte sent as the client has it, and as the server has it."""

    name: str
    client_s: float
    server_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSide:
    """What the server's own metrics say of the run; null where it does not expose it."""

    scrapes: int
    failed_scrapes: int
    running_mean: float | None
    running_most: float | None
    waiting_mean: float | None
    waiting_most: float | None
    kv_used_most_frac: float | None
    prompt_tokens_per_s: float | None
    output_tokens_per_s: float | None
    prefix_hit_frac: float | None
    preemptions: float | None
    beside: tuple[MeanBeside, ...]
    restarted_s: tuple[float, ...]  # when the server was found restarted


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSeries:
    """The run over time; `running`, `waiting` and `kv_used_frac` are the server's own, NaN where it has none."""

    time_s: FloatColumn
    in_flight: FloatColumn  # due and not answered, by the client
    running: FloatColumn
    waiting: FloatColumn
    kv_used_frac: FloatColumn


# --- requests ------------------------------------------------------------------------------------------


def words_of(trace: Trace) -> list[str]:
    """Return why each request was not answered in full; empty where it was."""
    error = measured_of(trace).error
    return [""] * len(trace.requests) if error is None else [trace.names["error"][code] for code in error.tolist()]


def scored(sent: Sent) -> tuple[Sent, int]:
    """Return what is to be scored, and how many requests were left out because the run ended before they were due.

    Those it ended in the middle of are unfinished: what came of them until then counts. A turn that was never sent
    because an earlier one failed is a failure.
    """
    trace, words = sent.trace, np.array(words_of(sent.trace))
    never = (words == "not-sent") & bool(sent.client.interrupted)
    kept = taken(trace, np.flatnonzero(~never))
    measured = measured_of(kept)
    if measured.error is not None:
        error = np.where(words[~never] == "interrupted", 0, measured.error)
        kept = dataclasses.replace(kept, measured=dataclasses.replace(measured, error=error))
    return dataclasses.replace(sent, trace=kept, rows=sent.rows[~never]), int(never.sum())


def answered_latency(requests: Requests, served: Served, found: Outcome) -> dict[Metric, Latency]:
    """Return the latencies of an outcome over the requests answered in full alone."""
    start_s, end_s = window_of(requests.arrive_s)
    latencies_s = request_latencies(requests, served)
    kept = np.isfinite(latencies_s["e2e"]) & (requests.arrive_s >= start_s) & (requests.arrive_s <= end_s)
    return {
        metric: latency_of(column[kept & ~np.isnan(column)], tuple(found.latency[metric].quantiles_s))
        for metric, column in latencies_s.items()
    }


def while_offered(trace: Trace) -> tuple[float, float]:
    """Return requests completed and tokens received per second, from the first arrival to the last."""
    arrive_s = trace.requests.arrive_s
    if len(arrive_s) < 2 or arrive_s[-1] <= arrive_s[0]:
        return 0.0, 0.0
    first_s, last_s = float(arrive_s[0]), float(arrive_s[-1])
    e2e_s = measured_of(trace).e2e_s
    assert e2e_s is not None
    times_s, tokens = token_times(trace)
    ended = int((arrive_s + e2e_s <= last_s).sum())
    return ended / (last_s - first_s), float(tokens[times_s <= last_s].sum()) / (last_s - first_s)


def errors_of(trace: Trace) -> tuple[ErrorCount, ...]:
    """Return failures by kind, the commonest first."""
    from headway.probe.faults import EXPLAINED

    words = [word for word in words_of(trace) if word]
    kinds = sorted(set(words), key=lambda word: (-words.count(word), word))
    return tuple(ErrorCount(kind=kind, requests=words.count(kind), means=EXPLAINED.get(kind, "")) for kind in kinds)


def fidelity_of(sent: Sent, *, closed: bool) -> Fidelity | None:
    """Return whether what was sent is what was asked for; None where nothing was sent."""
    from headway.probe.fidelity import compare

    sent_s = measured_of(sent.trace).sent_s
    if sent_s is None or not np.isfinite(sent_s).any():
        return None
    return compare(take(sent.load.requests, sent.rows), sent.trace, closed=closed)


def stages_and_knee(
    counted: Sent, pace: Pace, bounds_s: Sequence[tuple[float, float]], slo: Slo
) -> tuple[tuple[Stage, ...], Knee | None]:
    """Return the figures of each stage in which any request ended, and the knee."""
    if not bounds_s or counted.load.stage is None:
        return (), None
    stage, e2e_s = counted.load.stage[counted.rows], measured_of(counted.trace).e2e_s
    assert e2e_s is not None
    ended = np.isfinite(e2e_s) | np.array([word not in ("", "not-sent") for word in words_of(counted.trace)])
    reached = [k for k in range(len(bounds_s)) if (ended & (stage == k)).any()]
    last = max(reached, default=-1) + 1
    found = stages(counted.trace, stage, pace.stages()[:last], np.array(bounds_s[:last]), slo) if last else []
    if len(found) < 2:
        return tuple(found), None
    return tuple(found), closed_knee(found) if pace.closed else open_knee(found)


def summary(sent: Sent, pace: Pace) -> LoadSummary:
    """Return what was asked for."""
    asked = sent.load.requests
    rate_per_s = mean_rate_per_s(asked) if len(asked) > 1 else math.inf
    return LoadSummary(
        loop="closed" if pace.closed else "open",
        requests=len(asked),
        rate_per_s=None if pace.closed or math.isinf(rate_per_s) else rate_per_s,
        clients=max(pace.clients) if pace.closed else None,
        turnaround_s=pace.turnaround_s,
        isl_mean_tokens=float(asked.isl_tokens.mean()) if len(asked) else 0.0,
        osl_mean_tokens=float(asked.osl_tokens.mean()) if len(asked) else 0.0,
        sessions=None if asked.session_id is None else len(set(asked.session_id.tolist())),
    )


# --- over time, and the server's side ------------------------------------------------------------------


def series_of(sent: Sent) -> RunSeries:
    """Return requests in flight, and what the server says of itself, at equal steps."""
    measured = measured_of(sent.trace)
    over_s = measured.e2e_s if measured.over_s is None else measured.over_s
    assert over_s is not None
    ends_s = sent.trace.requests.arrive_s + over_s
    last_s = max(sent.client.duration_s, float(np.nanmax(ends_s, initial=0.0)), 1e-3)
    time_s = np.linspace(0.0, last_s, SAMPLES + 1)[1:]
    due_s = np.sort(sent.trace.requests.arrive_s[np.isfinite(ends_s)])
    gone_s = np.sort(ends_s[np.isfinite(ends_s)])
    in_flight = np.searchsorted(due_s, time_s, side="right") - np.searchsorted(gone_s, time_s, side="right")
    return RunSeries(
        time_s=time_s,
        in_flight=in_flight.astype(np.float64),
        running=_at(sent.scrape, "running", time_s),
        waiting=_at(sent.scrape, "waiting", time_s),
        kv_used_frac=_at(sent.scrape, "kv_used_frac", time_s),
    )


def _at(scrape: Scrape | None, signal: str, time_s: FloatColumn) -> FloatColumn:
    """A gauge at other times: the last value seen; NaN before the first."""
    if scrape is None or signal not in scrape.values or not len(scrape.time_s):
        return np.full(len(time_s), np.nan)
    place = np.searchsorted(scrape.time_s, time_s, side="right") - 1
    return np.where(place >= 0, scrape.values[signal][np.maximum(place, 0)], np.nan)


def server_side(sent: Sent) -> ServerSide | None:
    """Return what the server's own metrics say of the run."""
    from headway.probe.observed import beside_client, observed

    if sent.scrape is None:
        return None
    try:
        seen = observed(sent.scrape)
    except EvidenceError:
        return None
    measured = measured_of(sent.trace)
    values = sent.scrape.values

    def most(signal: str) -> float | None:
        column = values.get(signal)
        return None if column is None or np.isnan(column).all() else float(np.nanmax(column))

    def finite(value: float | None) -> float | None:
        return None if value is None or not np.isfinite(value) else float(value)

    return ServerSide(
        scrapes=seen.scrapes,
        failed_scrapes=sent.scrape.failed,
        running_mean=finite(seen.means.get("running")),
        running_most=most("running"),
        waiting_mean=finite(seen.means.get("waiting")),
        waiting_most=most("waiting"),
        kv_used_most_frac=most("kv_used_frac"),
        prompt_tokens_per_s=finite(seen.per_s("prompt_tokens")),
        output_tokens_per_s=finite(seen.per_s("generation_tokens")),
        prefix_hit_frac=finite(seen.prefix_hit_frac),
        preemptions=finite(seen.increases.get("preemptions")),
        beside=tuple(
            MeanBeside(name=name, client_s=one.client_s, server_s=one.server_s)
            for name, one in beside_client(seen, measured).items()
        ),
        restarted_s=seen.restarted_s,
    )
