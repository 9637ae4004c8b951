"""Clients that hang up, and how long a replica was busy."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.api.simulations import _trace
from headway.metrics import outcome
from headway.planner.fleet import served
from headway.simulator import ABORTED, FINISHED, record, simulate
from headway.types import EngineSettings, Objective, Replica, Requests, Slo, StepTable
from headway.workload import served_of

SETTINGS = EngineSettings(
    max_num_seqs=1, max_num_batched_tokens=16, max_model_len=64, gpu_memory_utilization=0.9, async_scheduling=False
)
#: a prompt takes 2 s, a decode 1 s
STEP = StepTable(
    decode_ps=np.full(2, 10**12), mixed_ps=np.full(17, 2 * 10**12), context_ps_per_token=0, prefill_ps_per_pair=0
)
REPLICA = Replica(settings=SETTINGS, step=STEP, num_gpu_blocks=10)
#: served; hung up during its third token; hung up while it waits; served after all
REQUESTS = Requests(
    arrive_s=np.array([0.0, 1.0, 1.0, 2.0]),
    isl_tokens=np.full(4, 4),
    osl_tokens=np.array([3, 9, 9, 1]),
    abort_s=np.array([99.0, 7.5, 5.0, np.nan]),
)


def test_what_an_aborted_request_got_is_what_was_delivered() -> None:
    found = simulate(REQUESTS, REPLICA)
    assert found.state.tolist() == [FINISHED, ABORTED, ABORTED, FINISHED]
    assert (found.finished, found.aborted, found.failed, found.unfinished) == (2, 2, 0, 0)
    assert found.output_tokens.tolist() == [3, 3, 0, 1]
    assert found.first_ps.tolist() == [2 * 10**12, 6 * 10**12, -1, 10 * 10**12]
    assert found.last_ps.tolist() == [4 * 10**12, 8 * 10**12, -1, 10 * 10**12]


def test_the_schedule_says_when_the_client_hung_up() -> None:
    aborted = record(REQUESTS, REPLICA).endings[1:3]
    assert [ending.reason for ending in aborted] == ["abort", "abort"]
    assert [len(ending.delivered_ps) for ending in aborted] == [3, 0]
    assert [ending.end_ps for ending in aborted] == [8 * 10**12, 6 * 10**12]  # with the step that was running


def test_an_aborted_request_is_no_failure() -> None:
    slo = Slo(objectives=(Objective(metric="ttft", percentile_frac=0.5, limit_s=60.0),), success_frac=1.0)
    found = outcome(REQUESTS, served(REQUESTS, simulate(REQUESTS, REPLICA), REPLICA, 1), slo, "simulated")
    assert (found.arrived, found.finished, found.failed, found.cancelled, found.unfinished) == (4, 2, 0, 2, 0)
    assert found.slo_attainment_frac == found.served_frac == 1.0 and found.meets_slo
    assert found.latency["ttft"].samples == 3, "one had its first token before its client hung up"
    assert found.latency["ttft"].max_s == pytest.approx(8.0)
    assert found.latency["e2e"].samples == 2 and found.latency["e2e"].max_s == pytest.approx(8.0)


@given(st.lists(st.sampled_from([0.5, 3.0, 7.0, 30.0, np.nan]), min_size=1, max_size=8), st.integers(1, 3))
def test_a_simulation_scores_the_same_as_its_trace_read_as_a_measurement(patience_s: list[float], batch: int) -> None:
    n = len(patience_s)
    arrive_s = np.arange(n) * 1.5
    requests = Requests(
        arrive_s=arrive_s, isl_tokens=np.full(n, 4), osl_tokens=np.full(n, 5), abort_s=arrive_s + np.array(patience_s)
    )
    step = dataclasses.replace(STEP, decode_ps=np.full(batch + 1, 10**12))
    settings = dataclasses.replace(SETTINGS, max_num_seqs=batch)
    replica = dataclasses.replace(REPLICA, step=step, settings=settings)
    slo = Slo(objectives=(Objective(metric="ttft", percentile_frac=0.5, limit_s=4.0),), success_frac=0.9)
    simulation = simulate(requests, replica)
    became = served(requests, simulation, replica, 1, itl_percentiles_frac=())
    trace = _trace(requests, simulation, became, "x")
    assert trace.measured is not None
    read = served_of(requests, trace.measured, trace.names["error"])
    kept = ("arrived", "finished", "failed", "cancelled", "unfinished", "slo_attainment_frac", "meets_slo")
    one, other = (outcome(requests, each, slo, "simulated") for each in (became, read))
    assert [getattr(one, name) for name in kept] == [getattr(other, name) for name in kept]
    for metric in ("ttft", "tpot", "e2e"):
        assert one.latency[metric].samples == other.latency[metric].samples
        np.testing.assert_allclose(
            list(one.latency[metric].quantiles_s.values()), list(other.latency[metric].quantiles_s.values())
        )


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(1, 20), st.integers(1, 9)), min_size=1, max_size=6),
    st.integers(1, 4),
    st.booleans(),
)
def test_busy_is_the_time_in_which_any_batch_is_executed(
    lengths: list[tuple[int, int, int]], stages: int, asynchronous: bool
) -> None:
    arrive, isl, osl = np.array(sorted(lengths)).T
    requests = Requests(arrive_s=arrive * 1.5, isl_tokens=isl, osl_tokens=osl)
    settings = dataclasses.replace(SETTINGS, pipeline_parallel_size=stages, async_scheduling=asynchronous)
    replica = dataclasses.replace(REPLICA, settings=settings)
    steps = record(requests, replica).steps
    half_ps = 10**12 // 2
    halves = {half for step in steps for half in range(step.b_ps // half_ps, step.e_ps // half_ps)}
    assert simulate(requests, replica).counters.busy_ps.tolist() == [len(halves) * half_ps]
    series = simulate(requests, replica, record_series=6, until_s=60.0).series
    assert series is not None
    expected = [sum(half // 20 == window for half in halves) * half_ps for window in range(6)]
    assert series.busy_ps.tolist() == expected
