"""The planner's arithmetic by hand: demand, floors, capacity method, prices, spares, search helpers."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from headway.catalog import load
from headway.planner.demand import Demand, work_of
from headway.planner.fleet import head, least_that
from headway.planner.front import beats
from headway.planner.heuristic import Load, Peaks, replicas_by_resource
from headway.planner.price import input_share, price, repriced
from headway.planner.search import spares
from headway.planner.space import Space, context_length
from headway.scenario import Policy, Scenario, read_scenario
from headway.types import (
    Deployment,
    Latency,
    Objective,
    Outcome,
    PrefixRuns,
    Price,
    Requests,
    Slo,
    StepTable,
)

CATALOG = load()
TEXT = """
headway: 1
model: meta-llama/Llama-3.1-8B-Instruct
workload: {profile: azure-conv, rate: 10 req/s}
slo: {ttft: {p95: 500 ms}, tpot: {p95: 45 ms}}
allow: {accelerators: [h100-sxm, tpu-v5e, mi300x], precisions: [bf16, fp8], tp: [1, 16]}
prices: {region: us-east-1, provider: aws}
"""


def scenario(folder: Path, text: str = TEXT) -> Scenario:
    file = folder / "scenario.yaml"
    file.write_text(text, encoding="utf-8")
    return read_scenario(file, catalog=CATALOG)


def requests(isl: list[int], osl: list[int], prefix: PrefixRuns | None = None) -> Requests:
    return Requests(
        arrive_s=np.arange(len(isl), dtype=np.float64),
        isl_tokens=np.array(isl, dtype=np.int64),
        osl_tokens=np.array(osl, dtype=np.int64),
        prefix=prefix,
    )


def step_table(**changed: object) -> StepTable:
    table = StepTable(
        decode_ps=np.array([0, 10, 10, 12, 16], dtype=np.int64),
        mixed_ps=np.arange(9, dtype=np.int64) * 4,
        context_ps_per_token=1,
        prefill_ps_per_pair=2,
    )
    return replace(table, **changed)


# --- demand -----------------------------------------------------------------------------------------------


def test_work_counts_what_an_engine_computes_at_least() -> None:
    work = work_of(requests([10, 4], [3, 1]), caching=True)
    assert work.prompt_tokens.tolist() == [10, 4]
    assert work.pairs.tolist() == [100, 16]
    assert work.decode_steps.tolist() == [2, 0]
    assert work.context_tokens.tolist() == [10 + 11, 0]


def test_an_endless_cache_leaves_at_least_the_last_token_to_compute() -> None:
    same = PrefixRuns(block_tokens=4, offsets=np.array([0, 1, 2]), first_ids=np.array([7, 7]), counts=np.array([2, 2]))
    twice = requests([8, 8], [2, 2], same)
    assert work_of(twice, caching=True).prompt_tokens.tolist() == [8, 1]
    assert work_of(twice, caching=True).pairs.tolist() == [64, 64 - 49]
    assert work_of(twice, caching=False).prompt_tokens.tolist() == [8, 8]


def test_what_is_due_leaves_out_who_may_be_late_and_who_is_refused() -> None:
    slo = Slo(objectives=(Objective(metric="ttft", percentile_frac=0.75, limit_s=1.0),))
    demand = Demand(requests([1, 2, 3, 4], [2, 2, 2, 2]), slo, caching=False)
    due = demand.due(max_model_len=100)
    assert due.prompt_tokens.max() == 1 + 2 + 3  # one of four may be late, the longest at best
    assert due.span_s.tolist() == pytest.approx([3.0, 2.5, 4.0])
    assert set(due.decode_steps) == {0.0}  # TTFT says nothing about when a request is done
    assert demand.due(max_model_len=5).prompt_tokens.max() == 1 + 2  # 3 + 2 fits, 4 + 2 does not; one of these is late
    assert demand.too_long_frac(5) == 0.25
    assert (demand.length_for(0.75), demand.length_for(1.0)) == (5, 6)


# --- the capacity method -------------------------------------------------------------------------------------


def test_each_resource_is_load_over_peak() -> None:
    load_ = Load(rate_per_s=10.0, isl_tokens=900.0, osl_tokens=200.0, residence_s=5.0)
    peaks = Peaks(compute_tokens_per_s=5_500.0, bandwidth_tokens_per_s=4_000.0, kv_tokens=25_000.0)
    assert replicas_by_resource(load_, peaks) == pytest.approx(
        {"compute": 2.0, "memory bandwidth": 0.5, "KV memory": 2.0}
    )


# --- prices -----------------------------------------------------------------------------------------------


def everyday(**rates: float) -> Outcome:
    return Outcome(
        source="simulated",
        latency={"ttft": Latency(samples=1, mean_s=0.1, max_s=0.1, quantiles_s={0.95: 0.1})},
        window_s=100.0,
        arrived=1000,
        finished=1000,
        failed=0,
        unfinished=0,
        **{
            "requests_per_s": 10.0,
            "input_tokens_per_s": 10_000.0,
            "output_tokens_per_s": 2_000.0,
            "goodput_per_s": 5.0,
            **rates,
        },
        slo_attainment_frac=0.5,
        meets_slo=True,
        preemptions=0,
        prefix_hit_frac=0.0,
        busy_frac={},
        kv_used_frac={},
    )


AT = Price(
    accelerator="h100-sxm",
    usd_per_gpu_hour=3.6,
    term="on-demand",
    provider="Us",
    region="here",
    instance="box",
    gpus_per_instance=8,
    as_of="2026-11-01",
    source="contract",
)


def fleet(folder: Path, replicas: int) -> Deployment:
    known = scenario(folder)
    space = Space(known, {"h100-sxm": AT}, longest_tokens=4096, context_tokens=1000)
    option = space.options(next(iter(space.shapes())))[0]
    return Deployment(pools=(replace(option.pool, replicas=replicas),))


def test_a_fleet_of_ten_at_a_tenth_of_a_cent_per_second_each(tmp_path: Path) -> None:
    cost = price(fleet(tmp_path, 10), AT, everyday=everyday(), input_share_frac=0.25, busy_frac=0.8)
    assert (cost.gpus, cost.usd_per_hour) == (10, pytest.approx(36.0))
    assert cost.usd_per_request == pytest.approx(0.001)
    assert cost.usd_per_good_request == pytest.approx(0.002)
    assert cost.usd_per_m_input_tokens == pytest.approx(0.25 * 0.01 / 10_000 * 1e6)
    assert cost.usd_per_m_output_tokens == pytest.approx(0.75 * 0.01 / 2_000 * 1e6)
    assert cost.idle_gpu_hours_per_hour == pytest.approx(2.0)
    half = repriced(cost, replace(AT, usd_per_gpu_hour=1.8, term="spot"))
    assert half.usd_per_hour == pytest.approx(18.0)
    assert half.usd_per_good_request == pytest.approx(0.001)
    assert (half.gpus, half.idle_gpu_hours_per_hour) == (10, cost.idle_gpu_hours_per_hour)


def test_a_request_that_never_came_costs_without_end(tmp_path: Path) -> None:
    cost = price(fleet(tmp_path, 1), AT, everyday=everyday(goodput_per_s=0.0), input_share_frac=0.5)
    assert math.isinf(cost.usd_per_good_request)


def test_input_bears_its_share_of_the_step_time() -> None:
    # prompt: 32/8 + 2·3 = 10 ps each, 3 of them; output: 10/2 + 1·(3 + 2/2) = 9 ps each, 2 of them
    assert input_share(step_table(), isl_tokens=3, osl_tokens=2, batch=2) == pytest.approx(30 / (30 + 18))
    with_window = step_table(window_ps_per_token=1, window_tokens=2)
    assert input_share(with_window, isl_tokens=3, osl_tokens=2, batch=2) == pytest.approx(30 / (30 + 22))


# --- failures ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "what", "gpus", "node", "expected"),
    [(0, "node", 4, 8, 0), (1, "node", 2, 8, 4), (2, "node", 8, 8, 2), (1, "node", 16, 8, 1), (3, "replica", 2, 8, 3)],
)
def test_spares_are_the_replicas_on_the_nodes_lost(count: int, what: str, gpus: int, node: int, expected: int) -> None:
    policy = Policy(growth=1, burst=1, headroom_frac=0, survive_count=count, survive_what=what)  # type: ignore[arg-type]
    assert spares(policy, gpus, node) == expected


# --- the space -----------------------------------------------------------------------------------------------


def test_what_cannot_run_is_counted_by_reason(tmp_path: Path) -> None:
    space = Space(scenario(tmp_path), {"h100-sxm": AT, "tpu-v5e": AT}, longest_tokens=4096, context_tokens=1000)
    found = [option for shape in space.shapes() for option in space.options(shape)]
    reasons = {r.reason: r.candidates for r in space.refusals.listed()}
    assert space.enumerated == 3 * 2 * 2 * 16
    assert reasons["no allowed price for mi300x"] == 64
    assert reasons["more GPUs than allow.max_gpus_per_replica"] == 64  # tp 16, on the two that have a price
    assert any("does not run on google" in reason for reason in reasons)
    assert len(found) + sum(reasons.values()) == space.enumerated
    assert {o.shape.accelerator.name for o in found} == {"h100-sxm"}


def test_the_context_is_the_longest_request_rounded_up_within_the_model(tmp_path: Path) -> None:
    known = scenario(tmp_path)
    model = known.models[0]
    assert context_length(known, model, 4097) == 5120
    assert context_length(known, model, 10**6) == model.max_position_embeddings
    fixed = scenario(tmp_path, TEXT + "settings: {max_model_len: 3000}\n")
    assert context_length(fixed, model, 4097) == 3000


# --- helpers ---------------------------------------------------------------------------------------------------


def test_the_head_of_requests_is_their_beginning_with_its_prefixes() -> None:
    runs = PrefixRuns(
        block_tokens=4, offsets=np.array([0, 2, 3]), first_ids=np.array([1, 9, 5]), counts=np.array([1, 1, 2])
    )
    cut = head(requests([8, 8], [1, 1], runs), 1)
    assert len(cut) == 1
    assert cut.prefix is not None
    assert (cut.prefix.offsets.tolist(), cut.prefix.first_ids.tolist()) == ([0, 2], [1, 9])
    assert len(head(requests([8, 8], [1, 1], runs), 5)) == 2


def test_looking_ends_where_it_was_told_to() -> None:
    assert least_that(lambda n: n >= 7, above=0, start=3, most=100) == 7
    assert least_that(lambda n: n >= 7, above=0, start=50, most=100) == 7
    assert least_that(lambda n: n >= 101, above=0, start=3, most=100) is None


def test_a_point_is_beaten_only_by_one_that_is_nowhere_worse() -> None:
    assert beats((1.0, 2.0), (1.0, 3.0))
    assert not beats((1.0, 2.0), (1.0, 2.0))
    assert not beats((1.0, 3.0), (2.0, 2.0))
