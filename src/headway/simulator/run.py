"""One call: requests in, what happened to them out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from headway.errors import InputError
from headway.simulator.checks import LONGEST_PS, check_range, check_replica, check_requests
from headway.simulator.itl import GapPart, Gaps
from headway.simulator.loading import core
from headway.simulator.prefixes import engine_runs
from headway.simulator.routers import choices, run_labels
from headway.simulator.simulation import FAILED, UNFINISHED, Counters, Series, Simulation

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from headway.types import IntColumn, Replica, Requests

_PS_PER_S = 1e12


def simulate(
    requests: Requests,
    replica: Replica,
    *,
    replicas: int = 1,
    router: str = "least-outstanding",
    seed: int = 0,
    record_series: int = 0,
    until_s: float | None = None,
) -> Simulation:
    """Run requests through equal replicas of vLLM's V1 scheduler (synchronous schedule, first come first served).

    Same seed, same bytes: all times are integer picoseconds. At one instant requests arrive first, then steps end,
    then the next are scheduled.

    Args:
        requests: what arrives; `prefix` is used where the replica caches prefixes.
        replica: settings, step times and KV blocks of one replica. `frontend_s` is not used here.
        replicas: how many there are.
        router: one of `ROUTERS`. prefix-affinity follows the cache-aware policy of the SGLang router (its defaults,
            docs of 2026-11): the replica last sent the longest prefix if that covers more than 30 % of the prompt;
            otherwise, and while loads differ by more than 64 requests and by more than a factor of 1.5, the replica
            with the fewest outstanding requests. A prefix counts as sent once a request with it was routed.
        seed: of the routers random and session-affinity.
        record_series: number of equal windows to record, from 0 to `until_s` or else to the last arrival.
        until_s: stop the clock there; steps that end later do not count.

    Raises:
        InputError: something given cannot be run; it names the column or the field.
    """
    check_requests(requests)
    check_replica(replica)
    check_range(requests, replica)
    if replicas < 1:
        raise InputError("expected at least 1", file="simulate", place="replicas")
    if record_series < 0:
        raise InputError("expected a number of windows ≥ 0", file="simulate", place="record_series")
    until_ps = _until_ps(until_s)
    choice = choices(requests, replicas, router, seed)
    runs = engine_runs(requests.prefix, replica.settings.block_size) if requests.prefix is not None else None
    labels = run_labels(runs) if router == "prefix-affinity" else None
    columns = _columns(requests, replica)
    shared, gaps = core.Columns(until_ps, *columns.values()), core.Gaps()
    engines = [core.Engine(replica, runs, shared, gaps) for _ in range(replicas)]
    window_ps = _window_ps(columns["arrive_ps"], record_series, until_s)
    samples = np.zeros((record_series, 4), np.int64)
    where = np.zeros(len(requests), np.int32) if choice is None else choice
    fleet = core.Fleet(engines, shared, window_ps, samples, (runs, labels))
    fleet.run(where, until_ps, choice is None)
    if until_s is None and (columns["state"] == UNFINISHED).any():
        raise InputError("the run would last longer than 53 days, the range of the clock", file="simulate")
    where[(columns["state"] == FAILED) | (columns["arrive_ps"] > until_ps)] = -1
    return Simulation(
        **{name: columns[name] for name in _KEPT},
        replica=where,
        gaps=Gaps(tuple(GapPart(*part) for part in gaps.columns())),
        counters=_counters(engines, columns["cached_tokens"]),
        series=_series(samples, window_ps) if record_series else None,
        end_ps=until_ps if until_s is not None else int(columns["last_ps"].max(initial=0)),
    )


_KEPT = ("arrive_ps", "output_tokens", "first_ps", "last_ps", "state", "cached_tokens", "preemptions")


def _columns(requests: Requests, replica: Replica) -> dict[str, NDArray[Any]]:
    """Return the core's columns, in its order."""
    count, settings = len(requests), replica.settings
    isl = np.ascontiguousarray(requests.isl_tokens, np.int64)
    outputs = np.minimum(requests.osl_tokens, settings.max_model_len - isl).astype(np.int32)
    if requests.max_tokens is not None:
        outputs = np.minimum(outputs, requests.max_tokens).astype(np.int32)
    # the last output token is never put into the KV cache
    most_tokens = replica.num_gpu_blocks * settings.block_size + 1
    failed = (outputs < 1) | (isl + outputs > most_tokens)
    outputs[failed] = 0
    arrive = requests.arrive_s * _PS_PER_S
    return {
        "arrive_ps": np.rint(arrive, out=arrive).astype(np.int64),
        "isl_tokens": isl,
        "output_tokens": outputs,
        "first_ps": np.full(count, -1, np.int64),
        "last_ps": np.full(count, -1, np.int64),
        "state": np.multiply(failed, FAILED, dtype=np.int8),
        "cached_tokens": np.zeros(count, np.int32),
        "preemptions": np.zeros(count, np.int32),
        "behind": np.empty(count, np.int32),
        "rank": _ranks(requests) if settings.scheduling_policy == "priority" else np.empty(0, np.int32),
        "stops": _stops(requests, outputs, settings.max_model_len),
    }


def _ranks(requests: Requests) -> NDArray[np.int32]:
    """Number the priorities, the soonest 0."""
    if requests.priority is None:
        return np.zeros(len(requests), np.int32)
    return np.unique(requests.priority, return_inverse=True)[1].astype(np.int32)


def _stops(requests: Requests, outputs: NDArray[np.int32], max_model_len: int) -> NDArray[np.int8]:
    """Return whether a stop token ends each request before a length does; empty where no length was allowed."""
    if requests.max_tokens is None:
        return np.empty(0, np.int8)
    return (outputs < np.minimum(requests.max_tokens, max_model_len - requests.isl_tokens)).astype(np.int8)


def _until_ps(until_s: float | None) -> int:
    if until_s is None:
        return LONGEST_PS - 1
    if not 0 <= until_s * _PS_PER_S < LONGEST_PS:
        raise InputError(f"{until_s} is not within 0 and 53 days", file="simulate", place="until_s")
    return round(until_s * _PS_PER_S)


def _window_ps(arrive_ps: IntColumn, windows: int, until_s: float | None) -> int:
    last_ps = int(arrive_ps[-1]) if len(arrive_ps) else 0
    span_ps = last_ps if until_s is None else _until_ps(until_s)
    return max(1, span_ps // max(1, windows))


def _counters(engines: list[Any], cached_tokens: NDArray[np.int32]) -> Counters:
    counts = np.array([engine.counts() for engine in engines], np.int64)
    steps, jumps, scheduled_tokens, preemptions, _ = counts.sum(axis=0).tolist()
    return Counters(
        steps=steps,
        jumps=jumps,
        scheduled_tokens=scheduled_tokens,
        preemptions=preemptions,
        prefix_hit_tokens=int(cached_tokens.sum(dtype=np.int64)),
        busy_ps=counts[:, 4],
    )


def _series(samples: NDArray[np.int64], window_ps: int) -> Series:
    queue, running, kv_blocks, busy_ps = samples.T
    return Series(
        window_ps=window_ps,
        queue=queue,
        running=running,
        kv_blocks=kv_blocks,
        busy_ps=np.diff(busy_ps, prepend=0),
    )
