"""One call: requests in, what happened to them out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from headway.errors import InputError
from headway.simulator.checks import LONGEST_PS, check_clients, check_run
from headway.simulator.dispatch import jumpable
from headway.simulator.itl import Gaps
from headway.simulator.jumped import Jumped
from headway.simulator.loading import load
from headway.simulator.prefixes import engine_runs
from headway.simulator.routers import choices, run_labels
from headway.simulator.simulation import FAILED, UNFINISHED, Counters, Series, Simulation
from headway.simulator.stepped import Stepped

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from headway.simulator.prefixes import EngineRuns
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
    concurrency: int | None = None,
    turnaround_s: float = 0.0,
) -> Simulation:
    """Run requests through equal replicas of an engine's scheduler.

    The policy is that of `settings.engine` and its version (`POLICIES`). Where the jump engine knows all that is asked
    for (`dispatch.jumpable`) it runs; otherwise the general engine does, iteration by iteration. Both are exact.

    Same seed, same bytes: all times are integer picoseconds. At one instant requests arrive first, then steps end,
    then the next are scheduled.

    With `concurrency` the loop is closed, as by benchmark clients that keep so many requests in flight: each request,
    in the order of the rows, is sent by the client that comes free first, and not before its `arrive_s`. A client is
    free from the start, and again `turnaround_s` after its request ended: with its last token, refused, or, where it
    hung up, once the engine let go of it (`abort_s` − `arrive_s` is its patience, counted from when it sends). Clients
    are alike, so which of several free ones sends does not matter. A request whose client comes free by an end at this
    very instant arrives after the ends and before anybody schedules. Such a run is the open loop of the times at which
    it sent, `Simulation.arrive_ps`, from which TTFT and E2E are measured.

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
        concurrency: how many clients there are; None: requests are sent at their arrival, whatever is in flight.
        turnaround_s: how long a client takes from an end to its next request.

    Raises:
        InputError: something given cannot be run; it names the column or the field.
    """
    check_run(requests, replica)
    if replicas < 1:
        raise InputError("expected at least 1", file="simulate", place="replicas")
    if record_series < 0:
        raise InputError("expected a number of windows ≥ 0", file="simulate", place="record_series")
    check_clients(requests, concurrency, turnaround_s)
    if concurrency is not None and record_series and until_s is None:
        raise InputError(
            "a closed loop has no last arrival to divide by; give until_s", file="simulate", place="record_series"
        )
    until_ps = _until_ps(until_s)
    choice = choices(requests, replicas, router, seed)
    jumps = jumpable(replica.settings, requests, replica) is None
    run = (Jumped if jumps else Stepped)(requests, replica, replicas=replicas, until_ps=until_ps)
    columns = run.columns
    window_ps = _window_ps(columns["arrive_ps"], record_series, until_s)
    samples = np.zeros((record_series, 4), np.int64)
    where = np.zeros(len(requests), np.int32) if choice is None else choice
    prefixes = _prefixes(requests, replica) if router == "prefix-affinity" else None
    fleet = load("fleet").Fleet(run.engines, columns, window_ps, samples, prefixes)
    due_ps = columns["arrive_ps"]
    if concurrency is None:
        fleet.run(where, until_ps, choice is None)
    else:
        due_ps = due_ps.copy()
        clients = load("server").Clients(min(concurrency, len(requests)), round(turnaround_s * _PS_PER_S))
        abort_ps = columns.get("abort_ps", np.empty(0, np.int64))
        sent = fleet.run_closed(where, until_ps, choice is None, clients, due_ps, abort_ps)
        columns["arrive_ps"][sent:] = where[sent:] = -1
    if until_s is None:
        _check_all_over(columns)
    np.maximum(columns["cached_tokens"], 0, out=columns["cached_tokens"])  # never admitted: nothing cached
    where[(columns["state"] == FAILED) | (columns["arrive_ps"] > until_ps)] = -1
    return Simulation(
        **{name: columns[name] for name in _KEPT},
        due_ps=due_ps,
        replica=where,
        gaps=Gaps(run.gaps()),
        counters=_counters(run.engines, columns["cached_tokens"]),
        series=_series(samples, window_ps) if record_series else None,
        end_ps=until_ps if until_s is not None else int(columns["last_ps"].max(initial=0)),
    )


_KEPT = ("arrive_ps", "output_tokens", "first_ps", "last_ps", "state", "cached_tokens", "preemptions")


def _prefixes(requests: Requests, replica: Replica) -> tuple[EngineRuns, NDArray[np.int32], int]:
    """Return the runs the router looks at, their labels and the tokens of a block."""
    block_size = replica.settings.block_size
    runs = engine_runs(requests.prefix, block_size) if requests.prefix is not None else None
    labels = run_labels(runs)
    assert runs is not None
    return runs, labels, block_size


def _check_all_over(columns: dict[str, NDArray[Any]]) -> None:
    left = int((columns["state"] == UNFINISHED).sum())
    if left and int(columns["last_ps"].max()) < LONGEST_PS // 2:
        raise InputError(f"{left} requests can never be scheduled under these settings", file="simulate")
    if left:
        raise InputError("the run would last longer than 53 days, the range of the clock", file="simulate")


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
