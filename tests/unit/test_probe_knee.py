"""The knee of servers whose capacity is known, because a few lines are the server."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from headway.errors import InputError
from headway.probe import knee, loads
from headway.probe.nouns import ERRORS
from headway.types import Objective, Requests, Slo
from headway.workload.trace import Measured, Trace

NO_SLO = Slo(objectives=())


def requests(count: int, seed: int) -> Requests:
    chance = np.random.default_rng(seed)
    return Requests(
        arrive_s=np.cumsum(chance.exponential(1.0, count)),
        isl_tokens=chance.integers(20, 200, count),
        osl_tokens=chance.integers(5, 40, count),
    )


def one_server(sent: Requests, token_s: float) -> Trace:
    """One after the other, each token of output takes as long: capacity is 1 / (mean OSL · token_s)."""
    first_s, last_s, free_s = [], [], 0.0
    for due_s, osl in zip(sent.arrive_s, sent.osl_tokens, strict=True):
        start_s = max(due_s, free_s)
        free_s = start_s + osl * token_s
        first_s.append(start_s + token_s)
        last_s.append(free_s)
    gaps = np.concatenate([np.full(osl - 1, token_s) for osl in sent.osl_tokens])
    measured = Measured(
        ttft_s=np.array(first_s) - sent.arrive_s,
        e2e_s=np.array(last_s) - sent.arrive_s,
        itl_s=gaps,
        itl_offsets=np.concatenate(([0], np.cumsum(sent.osl_tokens - 1))),
        output_tokens=sent.osl_tokens,
        error=np.zeros(len(sent), dtype=np.int64),
    )
    return Trace(requests=sent, format="replay", file="", measured=measured, names={"error": ERRORS})


def stages_of(trace: Trace, load: loads.Load, rates: list[float], step_s: float, slo: Slo = NO_SLO) -> list[knee.Stage]:
    assert load.stage is not None
    edges_s = np.arange(len(rates) + 1) * step_s
    return knee.stages(trace, load.stage, rates, np.column_stack([edges_s[:-1], edges_s[1:]]), slo)


#: of a server that gives 100 tokens/s: mean OSL is 22, so 4.5 requests/s
RATES = [1.0, 2.0, 3.0, 6.0, 9.0]


@pytest.mark.parametrize("seed", range(8))
def test_the_knee_lies_where_the_capacity_is(seed: int) -> None:
    load = loads.steps("x", requests(4000, seed), RATES, step_s=100.0)
    found = stages_of(one_server(load.requests, 0.01), load, RATES, 100.0)
    capacity = 100 / load.requests.osl_tokens.mean()
    at = knee.open_knee(found)
    assert (at.low, at.high, at.unit) == (3.0, 6.0, "req/s")
    assert at.at == pytest.approx(capacity, rel=0.1)
    assert [stage.keeps_up for stage in found] == [True, True, True, False, False]
    assert found[-1].output_tokens_per_s == pytest.approx(100, rel=0.01)
    assert found[-1].completed_per_s == pytest.approx(capacity, rel=0.1)
    assert found[0].output_tokens_per_s == pytest.approx(22, rel=0.3)


def test_without_a_stage_beyond_there_is_no_estimate() -> None:
    load = loads.steps("x", requests(900, 1), RATES[:3], step_s=100.0)
    at = knee.open_knee(stages_of(one_server(load.requests, 0.01), load, RATES[:3], 100.0))
    assert (at.at, at.low, at.high) == (None, 3.0, None)


def test_short_stages_are_not_sure() -> None:
    load = loads.steps("x", requests(100, 1), [1.0, 2.0], step_s=6.0)
    found = stages_of(one_server(load.requests, 0.01), load, [1.0, 2.0], 6.0)
    assert [stage.delay_growth_frac for stage in found] == [None, None]
    assert not any(stage.sure for stage in found)
    assert knee.open_knee(found).low is None


def test_a_stage_that_fails_does_not_keep_up() -> None:
    load = loads.steps("x", requests(900, 2), RATES[:2], step_s=100.0)
    trace = one_server(load.requests, 0.01)
    assert load.stage is not None and trace.measured is not None
    error = np.where((load.stage == 1) & (np.arange(len(load.requests)) % 10 == 0), ERRORS.index("status-503"), 0)
    e2e_s = np.where(error, np.nan, trace.measured.e2e_s)
    broken = dataclasses.replace(trace, measured=dataclasses.replace(trace.measured, error=error, e2e_s=e2e_s))
    found = stages_of(broken, load, RATES[:2], 100.0)
    assert [(stage.keeps_up, stage.failed > 0) for stage in found] == [(True, False), (False, True)]


def cut_at(trace: Trace, end_s: float) -> Trace:
    """The same run, ended by somebody: what had not ended is unfinished."""
    measured = trace.measured
    assert measured is not None and measured.e2e_s is not None
    due_s = trace.requests.arrive_s
    e2e_s = np.where(due_s + measured.e2e_s <= end_s, measured.e2e_s, np.nan)
    error = np.zeros(len(due_s), dtype=np.int64)
    cut = dataclasses.replace(trace, measured=dataclasses.replace(measured, e2e_s=e2e_s, error=error))
    return knee.taken(cut, np.flatnonzero(due_s <= end_s))


def test_a_server_that_keeps_up_does_so_too_where_the_run_is_ended() -> None:
    load = loads.steps("x", requests(900, 4), RATES[:2], step_s=100.0)
    assert load.stage is not None
    trace = cut_at(one_server(load.requests, 0.01), 180.0)
    bounds_s = np.array([[0.0, 100.0], [100.0, 200.0]])
    found = knee.stages(trace, load.stage[: len(trace.requests)], RATES[:2], bounds_s, NO_SLO)
    assert [(stage.keeps_up, stage.failed) for stage in found] == [(True, 0)] * 2
    assert knee.open_knee(found).at is None


def test_a_server_that_answers_a_quarter_until_the_run_is_ended_does_not_keep_up() -> None:
    """Requests of one second each, four a second: by the end 25 of 100 ended, all of them due in the first third."""
    n = 100
    asked = Requests(arrive_s=np.arange(n) / 4, isl_tokens=np.full(n, 9), osl_tokens=np.full(n, 10))
    whole = knee.whole(cut_at(one_server(asked, 0.1), 25.0), NO_SLO)
    assert whole is not None and whole.completed_frac == pytest.approx(0.25)
    assert whole.keeps_up is False and whole.sure and whole.falls_behind
    assert whole.failed == 0, "nothing failed: the run ended"
    few = knee.whole(cut_at(one_server(asked, 0.1), 5.0), NO_SLO)
    assert few is not None and few.keeps_up is None and not few.sure, "five ended: nobody knows"


def test_too_few_tell_nothing() -> None:
    load = loads.steps("x", requests(100, 1), [1.0, 2.0], step_s=6.0)
    found = stages_of(one_server(load.requests, 0.01), load, [1.0, 2.0], 6.0)
    assert [stage.keeps_up for stage in found] == [None, None]
    at = knee.open_knee(found)
    assert (at.at, at.low, at.high) == (None, None, None)


def test_who_hangs_up_did_not_fail() -> None:
    trace = one_server(requests(60, 2), 0.001)
    assert trace.measured is not None and trace.measured.e2e_s is not None
    error = np.where(np.arange(60) % 2, ERRORS.index("cancelled"), 0)
    measured = dataclasses.replace(trace.measured, error=error, e2e_s=np.where(error, np.nan, trace.measured.e2e_s))
    whole = knee.whole(dataclasses.replace(trace, measured=measured, names={"error": ERRORS}), NO_SLO)
    assert whole is not None and whole.failed == 0 and whole.keeps_up


def test_the_slo_holds_up_to_a_stage() -> None:
    slo = Slo(objectives=(Objective(metric="ttft", percentile_frac=0.9, limit_s=1.0),))
    load = loads.steps("x", requests(4000, 3), RATES, step_s=100.0)
    at = knee.open_knee(stages_of(one_server(load.requests, 0.01), load, RATES, 100.0, slo))
    assert at.meets_slo_to is not None and at.misses_slo_at is not None
    assert at.meets_slo_to <= 3.0 < at.misses_slo_at <= 6.0


def test_the_knee_of_clients_is_where_the_asymptotes_meet() -> None:
    """A server of four slots: a fifth client gains nothing."""
    parts = []
    for clients in (1, 2, 4, 8, 16):
        output = 10.0 * min(clients, 4)
        parts.append(stage(clients, output))
    at = knee.closed_knee(parts)
    assert at.unit == "clients"
    assert at.at == pytest.approx(4.0)
    assert at.low is not None and at.high is not None and at.low < 4 < at.high
    assert knee.closed_knee(parts[:2]).at is None


def stage(clients: float, output_tokens_per_s: float) -> knee.Stage:
    return knee.Stage(
        offered=clients,
        start_s=0.0,
        end_s=10.0,
        requests=400,
        failed=0,
        completed_per_s=1.0,
        output_tokens_per_s=output_tokens_per_s,
        latency={},
        delay_growth_frac=None,
        delay_growth_sd_frac=None,
        keeps_up=True,
        sure=False,
        meets_slo=None,
    )


@pytest.mark.parametrize("seed", range(20))
def test_a_slope_is_found_with_its_error(seed: int) -> None:
    chance = np.random.default_rng(seed)
    x, length = np.sort(chance.uniform(0, 100, 300)), chance.uniform(10, 100, 300)
    value, sd = knee.slope(x, 0.05 * x + 0.3 * length + chance.normal(0, 2, 300), length, np.full(300, 7.0))
    assert abs(value - 0.05) < 4.5 * sd
    assert sd == pytest.approx(2 / np.sqrt(300) / (100 / np.sqrt(12)), rel=0.5)


def test_tokens_stand_where_they_came() -> None:
    trace = one_server(requests(50, 4), 0.01)
    times_s, tokens = knee.token_times(trace)
    assert tokens.sum() == trace.requests.osl_tokens.sum()
    assert times_s.max() == pytest.approx((trace.requests.arrive_s + trace.measured.e2e_s).max())  # type: ignore[union-attr]
    assert np.diff(np.sort(times_s)).min() == pytest.approx(0.01, rel=1e-3)


def test_without_gaps_the_tokens_come_with_the_first_and_the_last() -> None:
    trace = one_server(requests(50, 4), 0.01)
    assert trace.measured is not None
    coarse = dataclasses.replace(trace, measured=dataclasses.replace(trace.measured, itl_s=None, itl_offsets=None))
    times_s, tokens = knee.token_times(coarse)
    assert len(times_s) == 100
    assert tokens.sum() == pytest.approx(trace.requests.osl_tokens.sum())


def test_a_trace_that_is_no_result_is_refused() -> None:
    with pytest.raises(InputError, match="a result was expected"):
        knee.measured_of(Trace(requests=requests(3, 0), format="azure", file="day.csv"))
