"""`simulate`: what one deployment does under the traffic of a scenario."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from headway.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from headway.api.pools import Choice
    from headway.metrics import Served
    from headway.scenario import Scenario
    from headway.simulator import Simulation
    from headway.types import (
        Cost,
        Deployment,
        FloatColumn,
        Metric,
        Outcome,
        Pool,
        Replica,
        Requests,
        Slo,
        StepTable,
    )
    from headway.workload import Trace

#: Requests drawn where the workload is no trace and nobody says how many.
REQUESTS = 20_000
#: Windows of the series over time.
WINDOWS = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeSeries:
    """The fleet over time: sums over its replicas at the end of equal windows."""

    time_s: FloatColumn
    running: FloatColumn
    waiting: FloatColumn
    kv_used_frac: FloatColumn  # of all KV blocks
    busy_frac: FloatColumn  # of all replicas' time in the window


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulated:
    """One deployment under one traffic."""

    deployment: Deployment
    workload: str
    rate_per_s: float  # mean, rate factor included
    rate_factor: float
    requests: int
    seed: int
    slo: Slo
    outcome: Outcome
    missed: Mapping[str, float]  # objectives missed, by value ÷ limit − 1
    cost: Cost | None  # at the scenario's prices, for this traffic; None where there is no price
    num_gpu_blocks: int  # KV blocks of one replica
    steps: int  # engine steps, all replicas
    series: TimeSeries
    latencies_s: Mapping[Metric, FloatColumn] = field(
        repr=False, metadata={"document": False}
    )  # by request of the window, for pictures
    beyond: tuple[str, ...]  # where it left what a calibration was measured on; empty without one
    trace: Trace = field(repr=False, metadata={"document": False})  # every request and what became of it


def simulate(
    scenario: str | Path | Scenario,
    choice: Choice | None = None,
    *,
    replicas: int = 1,
    router: str | None = None,
    trace: str | Path | None = None,
    rate_factor: float = 1.0,
    requests: int | None = None,
    seed: int | None = None,
    record: str | Path | None = None,
) -> Simulated:
    """Simulate one deployment under a scenario's traffic, against its objectives.

    Args:
        scenario: model, workload, objectives and prices; a file, or what was read of one.
        choice: what a replica is made of; what it leaves open is taken from the scenario, where that allows one.
        replicas: how many.
        router: the scenario's first if None.
        trace: recorded traffic in place of the scenario's.
        rate_factor: multiplies the mean rate.
        requests: how many arrive; a trace's own number, or 20,000, if None.
        seed: the scenario's if None.
        record: write the schedule of the first replica to this file, every step of its scheduler; compressed where
            the name ends in `.gz`.

    Raises:
        InputError: something given is wrong or left open.
        InfeasibleError: the model does not fit; what is missing is said.
    """
    from headway.api.pools import Choice

    if not 0 < rate_factor < math.inf:
        raise InputError(f"expected a factor above zero, got {rate_factor!r}", place="rate_factor")
    known = read(scenario, trace=trace, calibration=choice.calibration if choice else None)
    seed = known.seed if seed is None else seed
    arriving = traffic(known, requests=requests, rate_factor=rate_factor, seed=seed)
    deployment = _deployment(known, choice or Choice(), arriving, replicas, router or known.allow.routers[0])
    return run(known, deployment, arriving, rate_factor=rate_factor, seed=seed, record=record)


def read(
    scenario: str | Path | Scenario,
    *,
    trace: str | Path | None = None,
    rate_per_s: float | None = None,
    calibration: str | None = None,
) -> Scenario:
    """Return a scenario, from its file unless it has been read, under recorded traffic where a trace is given.

    Raises:
        InputError: the scenario or the trace is wrong, or the rate is not above zero.
    """
    from headway.scenario import read_scenario, with_trace

    if rate_per_s is not None and not 0 < rate_per_s < math.inf:
        raise InputError(f"expected a rate above zero, got {rate_per_s!r}", place="rate")
    endpoints = () if calibration is None else (calibration,)
    if isinstance(scenario, (str, Path)):
        known = read_scenario(scenario, endpoints=endpoints)
    else:
        known = read_scenario(scenario.file, endpoints=endpoints) if endpoints else scenario
    if trace is not None:
        return with_trace(known, trace, rate_per_s=rate_per_s)
    return known if rate_per_s is None else known.with_workload(known.workload.at_rate(rate_per_s))


def traffic(scenario: Scenario, *, requests: int | None, rate_factor: float, seed: int) -> Requests:
    """Draw the scenario's traffic: a recorded trace once through, anything else `REQUESTS` long."""
    from headway.types import Requests
    from headway.workload import generate

    content = scenario.workload.content
    usual = len(content) if isinstance(content, Requests) else REQUESTS
    count = usual if requests is None else requests
    arriving: Requests = generate(scenario.workload, requests=count, seed=seed, rate_factor=rate_factor)
    return arriving


def _deployment(scenario: Scenario, choice: Choice, arriving: Requests, replicas: int, router: str) -> Deployment:
    from headway.api.pools import build_pool, chosen_model
    from headway.planner.space import context_length
    from headway.types import Deployment

    model = chosen_model(choice, scenario.catalog, scenario)
    longest_tokens = int((arriving.isl_tokens + arriving.osl_tokens).max())
    length = context_length(scenario, model, longest_tokens)
    pool = build_pool(choice, catalog=scenario.catalog, scenario=scenario, max_model_len=length, replicas=replicas)
    return Deployment(pools=(pool,), router=router)


def run(
    scenario: Scenario,
    deployment: Deployment,
    arriving: Requests,
    *,
    rate_factor: float,
    seed: int,
    record: str | Path | None = None,
) -> Simulated:
    """Simulate a deployment of one pool; `record` is a file for the schedule of its first replica.

    Raises:
        InputError: the schedule cannot be written.
        InfeasibleError: the model does not fit; what is missing is said.
    """
    from headway.metrics import outcome, request_latencies, violations
    from headway.perf import replica
    from headway.planner.fleet import served
    from headway.planner.safety import region_in, with_bands
    from headway.simulator import simulate as simulated

    pool = deployment.pools[0]
    one = replica(pool, context_tokens=max(int(arriving.isl_tokens.mean() + arriving.osl_tokens.mean() / 2), 1))
    found = simulated(arriving, one, replicas=pool.replicas, router=deployment.router, seed=seed, record_series=WINDOWS)
    if record is not None:
        write_first(record, arriving, found.replica, one, scenario.workload.name)
    series = _series(found, pool.replicas, one.num_gpu_blocks)
    became = served(arriving, found, one, pool.replicas)
    plain = outcome(arriving, became, scenario.slo, "simulated")
    result = with_bands(plain, pool, region_in(plain, one, pool.replicas))
    return Simulated(
        deployment=deployment,
        workload=scenario.workload.name,
        rate_per_s=scenario.rate_per_s * rate_factor,
        rate_factor=rate_factor,
        requests=len(arriving),
        seed=seed,
        slo=scenario.slo,
        outcome=result,
        missed=violations(result.latency, scenario.slo, result.served_frac),
        cost=_cost(scenario, deployment, arriving, result, series, one.step),
        num_gpu_blocks=one.num_gpu_blocks,
        steps=found.counters.steps,
        series=series,
        latencies_s=_inside(arriving, request_latencies(arriving, became)),
        beyond=_beyond(pool, arriving, series),
        trace=_trace(arriving, found, became, scenario.workload.name),
    )


def _beyond(pool: Pool, arriving: Requests, series: TimeSeries) -> tuple[str, ...]:
    """Say where a simulation left what the pool's calibration was measured on."""
    from headway.perf import endpoint_of, leaves

    endpoint = endpoint_of(pool)
    if endpoint is None:
        return ()
    served = arriving.isl_tokens + arriving.osl_tokens
    longest = float(served[served <= pool.settings.max_model_len].max(initial=0))
    batch = float(series.running.max(initial=0.0)) / pool.replicas
    return tuple(leaves(endpoint, batch=batch, context_tokens=longest))


#: Why a simulated request was not answered in full; the codes of `Measured.error`.
_REJECTED, _CANCELLED, _UNFINISHED = 1, 2, 3
ERRORS = ("", "rejected", "cancelled", "unfinished")


def _trace(arriving: Requests, found: Simulation, became: Served, name: str) -> Trace:
    """Return the requests with what became of each; gaps between tokens are kept by batch, not by request."""
    import numpy as np

    from headway.simulator import ABORTED
    from headway.workload import Measured, Trace

    assert became.first_s is not None  # the simulator always knows
    answered = (np.asarray(became.failed) == 0) & np.isfinite(became.last_s)
    refused = np.where(found.state == ABORTED, _CANCELLED, np.where(became.failed, _REJECTED, _UNFINISHED))
    measured = Measured(
        ttft_s=became.first_s - arriving.arrive_s,
        e2e_s=np.where(answered, became.last_s - arriving.arrive_s, np.nan),
        cached_tokens=became.cached_tokens,
        output_tokens=np.where(answered, found.output_tokens, -1).astype(np.int64),
        error=np.where(answered, 0, refused).astype(np.int64),
    )
    return Trace(requests=arriving, format="simulated", file=name, measured=measured, names={"error": ERRORS})


def write_first(path: str | Path, arriving: Requests, where: NDArray[np.int32], one: Replica, name: str) -> None:
    """Write the schedule of the first replica: the requests routed to it, run through its scheduler step by step.

    Raises:
        InputError: the traffic has what the format cannot say, or the file cannot be written.
    """
    import numpy as np

    from headway.simulator import record
    from headway.simulator.schedules import schedule_of, write_schedule
    from headway.workload import take

    rows = np.flatnonzero(where == 0)
    about = f"{len(rows)} of {len(arriving)} requests, replica 0"
    schedule = schedule_of(take(arriving, rows), one, name=name, description=about)
    try:
        write_schedule(schedule, record(schedule.requests, one, schedule.ids), path)
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror}", file=path) from None


def _inside(arriving: Requests, latencies_s: Mapping[Metric, FloatColumn]) -> dict[Metric, FloatColumn]:
    """Those of the requests the outcome is over: arrived after warm-up and before cool-down."""
    from headway.metrics import window_of

    start_s, end_s = window_of(arriving.arrive_s)
    inside = (arriving.arrive_s >= start_s) & (arriving.arrive_s <= end_s)
    return {metric: column[inside] for metric, column in latencies_s.items()}


def _series(found: Simulation, replicas: int, num_gpu_blocks: int) -> TimeSeries:
    import numpy as np

    recorded = found.series
    assert recorded is not None  # `run` asks for it
    return TimeSeries(
        time_s=recorded.time_s,
        running=recorded.running.astype(np.float64),
        waiting=recorded.queue.astype(np.float64),
        kv_used_frac=recorded.kv_blocks / (num_gpu_blocks * replicas),
        busy_frac=recorded.busy_ps / (recorded.window_ps * replicas),
    )


def _cost(
    scenario: Scenario, deployment: Deployment, arriving: Requests, result: Outcome, series: TimeSeries, step: StepTable
) -> Cost | None:
    """What the deployment costs for this very traffic."""
    from headway.planner.price import choose_price, input_share, price

    pool = deployment.pools[0]
    at = choose_price(scenario, pool.accelerator)
    if at is None:
        return None
    share = input_share(
        step,
        isl_tokens=max(float(arriving.isl_tokens.mean()) * (1 - result.prefix_hit_frac), 1.0),
        osl_tokens=float(arriving.osl_tokens.mean()),
        batch=float(series.running.mean()) / pool.replicas,
    )
    return price(deployment, at, everyday=result, input_share_frac=share, busy_frac=float(series.busy_frac.mean()))
