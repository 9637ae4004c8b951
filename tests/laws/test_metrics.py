"""Laws of the metrics: definitions, nearest ranks, nothing dropped."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.metrics import (
    CANCELLED,
    COOL_DOWN_FRAC,
    WARM_UP_FRAC,
    Served,
    latency_of,
    outcome,
    request_latencies,
    violations,
    window_of,
)
from headway.types import Objective, Requests, Slo

FRACTIONS = st.floats(0.01, 1.0)
VALUES = st.lists(st.floats(0, 1e6), min_size=1, max_size=60)


def requests_of(arrive_s: list[float], osl: list[int]) -> Requests:
    n = len(arrive_s)
    return Requests(
        arrive_s=np.sort(np.asarray(arrive_s, dtype=np.float64)),
        isl_tokens=np.full(n, 10, dtype=np.int64),
        osl_tokens=np.asarray(osl, dtype=np.int64),
    )


def served_of(requests: Requests, wait_s: float, gap_s: float, failed: np.ndarray) -> Served:
    first = requests.arrive_s + wait_s
    return Served(first_s=first, last_s=first + gap_s * (requests.osl_tokens - 1), failed=failed)


@given(VALUES, FRACTIONS)
def test_a_quantile_is_the_nearest_rank(values: list[float], p: float) -> None:
    got = latency_of(np.asarray(values), (p,)).at(p)
    assert got in values
    at_or_below = sum(v <= got for v in values)
    below = sum(v < got for v in values)
    assert at_or_below >= p * len(values) - 1e-6
    assert below < p * len(values) + 1e-6


@given(VALUES, st.integers(1, 20))
def test_requests_that_never_finish_push_the_tail_to_infinity(values: list[float], lost: int) -> None:
    latency = latency_of(np.asarray([*values, *[math.inf] * lost]), (0.5, 1.0))
    assert latency.max_s == math.inf
    assert latency.at(1.0) == math.inf
    assert latency.samples == len(values) + lost
    assert latency.mean_s == pytest.approx(float(np.mean(values)))


def test_no_samples_give_no_figures() -> None:
    latency = latency_of(np.empty(0), (0.5,))
    assert latency.samples == 0
    assert math.isnan(latency.at(0.5))


@given(st.lists(st.floats(0, 1e5), min_size=1, max_size=50), st.floats(0, 100), st.floats(0, 10), st.data())
def test_ttft_tpot_and_e2e_are_what_they_are_defined_as(
    arrive_s: list[float], wait_s: float, gap_s: float, data: st.DataObject
) -> None:
    n = len(arrive_s)
    requests = requests_of(arrive_s, data.draw(st.lists(st.integers(1, 50), min_size=n, max_size=n)))
    got = request_latencies(requests, served_of(requests, wait_s, gap_s, np.zeros(n)))
    assert got["ttft"] == pytest.approx(np.full(n, wait_s), abs=1e-9)
    assert got["e2e"] == pytest.approx(wait_s + gap_s * (requests.osl_tokens - 1), abs=1e-6)
    first_s = requests.arrive_s + wait_s
    many = first_s + gap_s * (requests.osl_tokens - 1) > first_s
    assert got["tpot"][many] == pytest.approx(np.full(int(many.sum()), gap_s), abs=1e-6)
    assert np.isnan(got["tpot"][~many]).all(), "of one token, or all at once"


@given(st.integers(1, 400), st.data())
def test_every_arrival_of_the_window_is_accounted_for(n: int, data: st.DataObject) -> None:
    fates = np.asarray(data.draw(st.lists(st.sampled_from([0, 1, 2]), min_size=n, max_size=n)))
    requests = requests_of(list(range(n)), [2] * n)
    served = served_of(requests, 0.5, 0.1, (fates == 1).astype(np.int64))
    served = Served(first_s=served.first_s, last_s=np.where(fates == 2, np.nan, served.last_s), failed=served.failed)
    got = outcome(requests, served, Slo(objectives=()), "simulated")
    start_s, end_s = window_of(requests.arrive_s)
    assert got.arrived == ((requests.arrive_s >= start_s) & (requests.arrive_s <= end_s)).sum()
    assert got.arrived == got.finished + got.failed + got.unfinished
    assert got.goodput_per_s == pytest.approx(got.requests_per_s)


SLO = Slo(
    objectives=(
        Objective(metric="ttft", percentile_frac=0.5, limit_s=0.6),
        Objective(metric="tpot", percentile_frac=0.95, limit_s=0.2),
    ),
    success_frac=0.5,
)


@given(st.lists(st.tuples(st.sampled_from([0, 1, CANCELLED]), st.booleans()), min_size=2, max_size=60))
def test_who_hangs_up_is_no_failure_and_spoils_nothing(fates: list[tuple[int, bool]]) -> None:
    failed, began = np.array([fate for fate, _ in fates]), np.array([begun for _, begun in fates])
    n = len(fates)
    requests = requests_of(list(range(n)), [3] * n)
    whole = served_of(requests, 0.5, 0.1, failed)
    assert whole.first_s is not None
    served = replace(whole, first_s=np.where(began | (failed == 0), whole.first_s, np.nan))
    got = outcome(requests, served, SLO, "measured")
    gone = failed == CANCELLED
    assert (got.arrived, got.cancelled, got.failed, got.unfinished) == (n, gone.sum(), (failed == 1).sum(), 0)
    assert got.latency["e2e"].samples == got.latency["tpot"].samples == n - gone.sum()
    assert got.latency["ttft"].samples == n - (gone & ~began).sum()
    assert got.latency["tpot"].unknown == 0
    without = requests_of(np.flatnonzero(~gone).tolist(), [3] * int((~gone).sum()))
    if len(without):
        alone = outcome(without, served_of(without, 0.5, 0.1, failed[~gone]), SLO, "measured")
        for metric in ("tpot", "e2e"):
            assert got.latency[metric].quantiles_s == pytest.approx(alone.latency[metric].quantiles_s)  # type: ignore[index]
        assert (got.served_frac, got.slo_attainment_frac) == (alone.served_frac, alone.slo_attainment_frac)
    assert got.served_frac == (1.0 if gone.all() else (failed == 0).sum() / (~gone).sum())


@given(st.lists(st.tuples(st.integers(1, 4), st.booleans()), min_size=1, max_size=60))
def test_an_answer_that_came_all_at_once_is_no_sample_of_tpot_and_meets_no_limit(
    answers: list[tuple[int, bool]],
) -> None:
    osl, gathered = [tokens for tokens, _ in answers], np.array([at_once for _, at_once in answers])
    requests = requests_of(list(range(len(osl))), osl)
    served = served_of(requests, 0.5, 0.1, np.zeros(len(osl)))
    assert served.first_s is not None
    got = outcome(requests, replace(served, last_s=np.where(gathered, served.first_s, served.last_s)), SLO, "measured")
    several = requests.osl_tokens > 1
    untold, told = int((several & gathered).sum()), int((several & ~gathered).sum())
    assert (got.latency["tpot"].samples, got.latency["tpot"].unknown) == (told, untold)
    assert got.latency["ttft"].samples == got.latency["e2e"].samples == len(osl)
    assert got.slo_attainment_frac == pytest.approx(1 - untold / len(osl))
    missed = violations(got.latency, SLO, got.served_frac)
    assert got.meets_slo is (not missed)
    assert list(missed) == (["tpot p95"] if untold and not told else [])
    assert all(math.isnan(over) for over in missed.values()), "not known to be met, and by nothing missed"


@given(st.lists(st.integers(-1, 10), min_size=1, max_size=40), st.booleans())
def test_what_was_in_the_cache_is_a_share_of_the_prompts_of_which_somebody_told(counts: list[int], told: bool) -> None:
    requests = requests_of(list(range(len(counts))), [3] * len(counts))
    cached = np.array(counts) if told else None
    served = replace(served_of(requests, 0.5, 0.1, np.zeros(len(counts))), cached_tokens=cached)
    got = outcome(requests, served, Slo(objectives=()), "measured").prefix_hit_frac
    known = [count for count in counts if count >= 0]
    if told and known:
        assert got == pytest.approx(sum(known) / (10 * len(known)))
    else:
        assert math.isnan(got) or (told and got == 0)


def test_the_window_cuts_the_stated_shares() -> None:
    start_s, end_s = window_of(np.arange(1000, dtype=np.float64))
    assert (start_s, end_s) == (1000 * WARM_UP_FRAC, 1000 * (1 - COOL_DOWN_FRAC) - 1)
    assert window_of(np.arange(99, dtype=np.float64)) == (0.0, 98.0)


@pytest.mark.parametrize(("limit_s", "meets"), [(0.5, True), (0.49, False)])
def test_an_objective_holds_up_to_its_limit(limit_s: float, meets: bool) -> None:
    requests = requests_of([0.0, 1.0, 2.0], [5, 5, 5])
    slo = Slo(objectives=(Objective(metric="ttft", percentile_frac=0.95, limit_s=limit_s),))
    got = outcome(requests, served_of(requests, 0.5, 0.1, np.zeros(3)), slo, "simulated")
    assert got.meets_slo is meets
    assert got.slo_attainment_frac == (1.0 if meets else 0.0)


def test_a_share_of_failures_breaks_the_success_objective() -> None:
    requests = requests_of([0.0, 1.0, 2.0, 3.0], [5] * 4)
    served = served_of(requests, 0.5, 0.1, np.asarray([0, 0, 0, 1]))
    assert outcome(requests, served, Slo(objectives=(), success_frac=0.75), "simulated").meets_slo
    assert not outcome(requests, served, Slo(objectives=(), success_frac=0.76), "simulated").meets_slo
