"""A replay by hand: one step time, so that every figure can be worked out."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from headway.errors import InfeasibleError, InputError
from headway.simulator import simulate
from headway.types import EngineSettings, Replica, StepTable
from headway.validation.executing import execute
from headway.validation.figures import answers, figures, summary
from headway.validation.loads import LEAST_ROUNDS, MOST_TOKENS, Lengths, Load, seed_of, share
from headway.validation.regions import occupancy, region

STEP_PS = 10**10  # 10 ms
SEATS = 8


def replica(*, blocks: int = 10_000, seats: int = SEATS, slope_ps: int = 0) -> Replica:
    settings = EngineSettings(
        max_num_seqs=seats, max_num_batched_tokens=2048, max_model_len=4096, gpu_memory_utilization=0.9
    )
    decode = STEP_PS + slope_ps * np.arange(seats + 1)
    mixed = np.full(2049, STEP_PS)
    step = StepTable(decode_ps=decode, mixed_ps=mixed, context_ps_per_token=0, prefill_ps_per_pair=0)
    return Replica(settings=settings, step=step, num_gpu_blocks=blocks, frontend_s=0.003)


def load(**changes: object) -> Load:
    one = Load(
        arrivals="closed",
        isl_tokens=Lengths(low=100, high=100),
        osl_tokens=Lengths(low=11, high=11),
        concurrency=4,
        requests=40,
    )
    return dataclasses.replace(one, **changes)


def run(asked: Load, one: Replica, replicas: int = 1):  # noqa: ANN201 - what the tests take apart
    drawn = share(asked, replicas, one.settings.max_num_seqs, seed=1)
    found = simulate(drawn.requests, one, concurrency=drawn.clients)
    became = answers(drawn, found, one)
    return drawn, found, became, figures(became, drawn, found, replicas)


# --- loads ------------------------------------------------------------------------------------------------


def test_a_replica_gets_its_share_of_clients_and_requests() -> None:
    drawn = share(load(concurrency=32, requests=320), 4, SEATS, seed=1)
    assert (drawn.clients, drawn.whole, len(drawn.requests)) == (8, 80, 80)


def test_fewer_clients_than_replicas_leave_one_each() -> None:
    assert share(load(concurrency=2), 8, SEATS, seed=1).clients == 1


def test_a_stream_is_thinned_and_has_no_clients() -> None:
    drawn = share(load(arrivals="poisson", rate_per_s=8.0, concurrency=None, requests=40_000), 4, SEATS, seed=1)
    assert drawn.clients is None
    assert np.diff(drawn.requests.arrive_s).mean() == pytest.approx(0.5, rel=0.05)


def test_all_at_once_is_at_zero() -> None:
    drawn = share(load(arrivals="batch", concurrency=None), 1, SEATS, seed=1)
    assert drawn.clients is None and not drawn.requests.arrive_s.any()


def test_too_many_tokens_are_a_part_that_stands_for_the_whole() -> None:
    asked = load(osl_tokens=Lengths(low=1000, high=1000), requests=100_000)
    drawn = share(asked, 1, SEATS, seed=1)
    assert drawn.whole == 100_000
    assert MOST_TOKENS * 0.9 < len(drawn.requests) * 1000 <= MOST_TOKENS


def test_a_closed_loop_has_its_rounds_whatever_they_cost() -> None:
    drawn = share(load(osl_tokens=Lengths(low=1000, high=1000), concurrency=4096, requests=None), 1, SEATS, seed=1)
    assert len(drawn.requests) == LEAST_ROUNDS["closed"] * 4096


def test_lengths_are_drawn_evenly_and_alike_for_a_row() -> None:
    asked = load(isl_tokens=Lengths(low=80, high=120), requests=4000)
    one, again = (share(asked, 1, SEATS, seed_of("T1")).requests.isl_tokens for _ in range(2))
    assert (one == again).all()
    assert one.min() == 80 and one.max() == 120 and one.mean() == pytest.approx(100, abs=1)
    assert seed_of("T1") != seed_of("T2")


def test_a_prefix_is_shared_by_all_prompts_as_far_as_they_reach() -> None:
    prefix = share(load(prefix_tokens=64, isl_tokens=Lengths(low=50, high=100)), 1, SEATS, seed=1).requests.prefix
    assert prefix is not None
    assert set(prefix.first_ids.tolist()) == {0} and prefix.counts.max() == 64 and prefix.counts.min() < 64


# --- figures ----------------------------------------------------------------------------------------------


def test_figures_of_a_closed_loop_worked_out_by_hand() -> None:
    drawn, _, became, found = run(load(), replica())
    # each request: one step with its prompt, ten of decode; the next client's request joins the step after
    assert found["tpot_s"]["p50"] == pytest.approx(0.010)
    assert found["ttft_s"]["mean"] == pytest.approx(0.013)
    assert found["e2e_s"]["p99"] == pytest.approx(0.113)
    assert found["itl_s"]["p50"] == pytest.approx(0.010)
    assert became.span_s == pytest.approx(10 * 0.11)
    assert found["requests_per_s"]["mean"] == pytest.approx(40 / 1.1)
    assert found["output_tokens_per_s"]["mean"] == pytest.approx(40 * 11 / 1.1)
    assert found["total_tokens_per_s"]["mean"] == pytest.approx(40 * 111 / 1.1)
    assert drawn.whole == 40


def test_replicas_serve_as_many_times_the_tokens_at_the_same_latency() -> None:
    *_, one = run(load(), replica())
    *_, four = run(load(concurrency=16, requests=160), replica(), replicas=4)
    assert four["tpot_s"] == one["tpot_s"]
    assert four["output_tokens_per_s"]["mean"] == pytest.approx(4 * one["output_tokens_per_s"]["mean"])


def test_a_part_gives_the_figures_of_the_whole() -> None:
    lengths = {"isl_tokens": Lengths(low=50, high=150), "osl_tokens": Lengths(low=20, high=60)}
    asked, one = load(**lengths, concurrency=8, requests=4000), replica(slope_ps=STEP_PS // 20)
    drawn, _, _, whole = run(asked, one)
    assert len(drawn.requests) == drawn.whole
    part = dataclasses.replace(drawn, requests=share(dataclasses.replace(asked, requests=400), 1, SEATS, 1).requests)
    found = simulate(part.requests, one, concurrency=8)
    fewer = figures(answers(part, found, one), part, found, 1)
    for metric in ("ttft_s", "tpot_s", "e2e_s", "output_tokens_per_s"):
        assert fewer[metric]["mean"] == pytest.approx(whole[metric]["mean"], rel=0.02), metric


def test_requests_nobody_could_serve_are_no_figures() -> None:
    with pytest.raises(InfeasibleError, match="no request could be served"):
        run(load(isl_tokens=Lengths(low=5000, high=5000)), replica())


def test_percentiles_are_of_values_as_often_as_they_weigh() -> None:
    found = summary(np.array([3.0, 1.0, np.nan, 2.0]), np.array([1.0, 8.0, 9.0, 1.0]))
    assert (found["p50"], found["p90"], found["p99"]) == (1.0, 2.0, 3.0)
    assert found["mean"] == pytest.approx(1.3)
    assert np.isnan(summary(np.array([np.nan]), np.array([1.0]))["p50"])


# --- regions ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "one", "expected"),
    [
        (load(concurrency=1), replica(), "low batch"),
        (load(concurrency=4), replica(), "low batch"),
        (load(concurrency=4), replica(slope_ps=STEP_PS // 8), "middle"),
        (load(concurrency=8, requests=400), replica(), "saturated"),  # as many clients as seats
        (load(concurrency=6, requests=400), replica(blocks=7 * 6), "saturated"),  # KV for six
        (load(arrivals="batch", concurrency=None, requests=400), replica(), "saturated"),
        (load(arrivals="poisson", concurrency=None, rate_per_s=1.0), replica(), "low batch"),
        (load(arrivals="poisson", concurrency=None, rate_per_s=500.0, requests=400), replica(), "saturated"),
    ],
)
def test_regions(asked: Load, one: Replica, expected: str) -> None:
    _, found, became, _ = run(asked, one)
    assert region(occupancy(became, asked, found, one), one.step) == expected


# --- executors --------------------------------------------------------------------------------------------


def test_the_order_is_kept_whoever_works() -> None:
    counted: list[int] = []
    items = list(range(-40, 40))
    expected = [abs(item) for item in items]
    assert execute(abs, items, workers=1, progress=counted.append) == expected
    assert sum(counted) == len(items)
    assert execute(abs, items, workers=2) == expected
    assert execute(abs, []) == []


@pytest.mark.parametrize(
    ("options", "problem"),
    [({"executor": "dask"}, "unknown executor 'dask'"), ({"workers": 0}, "expected at least 1, got 0")],
)
def test_what_cannot_execute_is_refused(options: dict[str, object], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        execute(abs, [1], **options)


def test_ray_is_asked_for_by_name_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(InputError, match=r"ray is not installed \(pip install 'headway\[ray\]'\)"):
        execute(abs, [1], executor="ray")
