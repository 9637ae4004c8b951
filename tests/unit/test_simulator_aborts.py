"""Clients that hang up, and how long a replica was busy."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.metrics import outcome
from headway.planner.fleet import served
from headway.simulator import ABORTED, FINISHED, record, simulate
from headway.types import EngineSettings, Objective, Replica, Requests, Slo, StepTable

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


def test_an_aborted_request_counts_as_failed() -> None:
    slo = Slo(objectives=(Objective(metric="ttft", percentile_frac=0.5, limit_s=60.0),))
    found = outcome(REQUESTS, served(REQUESTS, simulate(REQUESTS, REPLICA), REPLICA, 1), slo, "simulated")
    assert (found.arrived, found.finished, found.failed, found.unfinished) == (4, 2, 2, 0)
    assert found.slo_attainment_frac == pytest.approx(0.5)


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
