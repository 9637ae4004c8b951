"""Laws of the planner: bounds below the simulated truth, costs that only rise, the same plan again."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headway.catalog import load
from headway.errors import InfeasibleError
from headway.perf import lower, memory, replica
from headway.perf.corrections import Correction
from headway.planner import plan
from headway.planner.demand import Demand, Due
from headway.planner.fleet import Fleets, figure_s, least_that, missed
from headway.planner.floors import Floors
from headway.planner.price import choose_prices
from headway.planner.space import Option, Space
from headway.planner.study import Study
from headway.scenario import Scenario, read_scenario
from headway.simulator import FINISHED, simulate

CATALOG = load()
MODELS = ("meta-llama/Llama-3.1-8B-Instruct", "Qwen/Qwen3-30B-A3B", "openai/gpt-oss-20b", "mistralai/Mistral-7B-v0.3")
LAWS = settings(max_examples=100, deadline=None)


def scenario(
    *,
    model: str = MODELS[0],
    profile: str = "azure-conv",
    rate: float = 10.0,
    ttft_ms: float = 500.0,
    tpot_ms: float = 45.0,
    accelerators: str = "l40s, h100-sxm",
    tp: str = "1, 2",
    tokens: str = "2048, 8192",
    seqs: str = "64, 256",
    precisions: str = "published",
    more: str = "policy: {confidence: none}",
) -> Scenario:
    text = f"""
headway: 1
model: {model}
workload: {{profile: {profile}, rate: {rate:.6g} req/s}}
slo: {{ttft: {{p90: {ttft_ms:.9g} ms}}, tpot: {{p95: {tpot_ms:.9g} ms}}, success: 80 %}}
allow: {{accelerators: [{accelerators}], tp: [{tp}], max_num_batched_tokens: [{tokens}], max_num_seqs: [{seqs}],
        precisions: [{precisions}], kv_precisions: [bf16, fp8]}}
prices: {{region: any}}
{more}
"""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "scenario.yaml"
        file.write_text(text, encoding="utf-8")
        return read_scenario(file, catalog=CATALOG)


def options(known: Scenario, fleets: Fleets) -> list[list[Option]]:
    drawn = fleets.traffic(fleets.design_factor)
    longest = int((drawn.isl_tokens + drawn.osl_tokens).max())
    space = Space(known, choose_prices(known), longest_tokens=longest, context_tokens=fleets.context_tokens)
    return [found for shape in space.shapes() if (found := space.options(shape))]


some_scenarios = st.builds(
    scenario,
    model=st.sampled_from(MODELS),
    profile=st.sampled_from(["azure-conv", "azure-code", "mooncake-conversation", "servegen-reasoning"]),
    rate=st.floats(0.3, 30.0),
    ttft_ms=st.floats(200.0, 20_000.0),
    tpot_ms=st.floats(8.0, 200.0),
    accelerators=st.sampled_from(["l40s", "h100-sxm", "b200", "mi300x", "a100-80-sxm"]),
    tp=st.sampled_from(["1", "2", "4"]),
)


# --- bounds ----------------------------------------------------------------------------------------------


@LAWS
@given(known=some_scenarios, pick=st.integers(0, 10**6))
def test_floors_lie_below_the_tables_the_simulator_steps_by(known: Scenario, pick: int) -> None:
    groups = options(known, Fleets(known))
    if not groups:
        return
    group = groups[pick % len(groups)]
    floors, pool = Floors(group), group[pick % len(group)].pool
    table = lower(pool)
    slack_ps = 2  # rounding to picoseconds
    head_ps = table.mixed_ps[1:] + table.sequence_ps  # one sequence at the least
    tokens = np.arange(1, len(table.mixed_ps))
    grid = floors._tokens
    below_ps = 1e12 * floors.mixed_s[np.searchsorted(grid, tokens, side="right") - 1]
    assert (below_ps <= head_ps + slack_ps).all()
    assert (1e12 * floors.decode_s[: len(table.decode_ps) - 1] <= table.decode_ps[1:] + slack_ps).all()
    assert 1e12 * floors.least_s <= min(table.decode_ps[1:].min(), head_ps.min()) + slack_ps
    assert memory(pool).sequence_blocks(500) <= group[0].blocks * 1.5  # `blocks` is of the leanest settings


logs = st.floats(-1.0, 1.0)


@settings(max_examples=30, deadline=None)
@given(base=logs, batch=logs, prefill=logs)
def test_floors_lie_below_the_tables_whatever_the_correction(base: float, batch: float, prefill: float) -> None:
    found = Correction(base_log=base, batch_log=batch, prefill_log=prefill)
    with patch("headway.perf.applied.correction", lambda *_: found):
        known = scenario()
        for group in options(known, Fleets(known)):
            floors, table = Floors(group), lower(group[0].pool)
            assert (1e12 * floors.decode_s[: len(table.decode_ps) - 1] <= table.decode_ps[1:] + 2).all()
            steps_ps = table.mixed_ps[floors._tokens[floors._tokens < len(table.mixed_ps)]] + table.sequence_ps
            assert (1e12 * floors.mixed_s[: len(steps_ps)] <= steps_ps + 2).all()
            assert 1e12 * floors.context_s <= table.context_ps_per_token + 1
            assert 1e12 * floors.pair_s <= table.prefill_ps_per_pair + 1


@LAWS
@given(known=some_scenarios, pick=st.integers(0, 10**6), replicas=st.integers(1, 6))
def test_no_simulated_fleet_does_better_than_its_floors(known: Scenario, pick: int, replicas: int) -> None:
    """Percentiles lie above the floors, and a fleet that meets the SLO is no smaller than the bound."""
    fleets = Fleets(known)
    groups = options(known, fleets)
    if not groups:
        return
    group = groups[pick % len(groups)]
    option = group[pick % len(group)]
    demand = Demand(fleets.traffic(fleets.design_factor), known.slo, caching=True)
    floors, outcome = Floors(group), fleets.run(option, replicas)
    budget = option.pool.settings.max_num_batched_tokens
    for objective in known.slo.objectives:
        assert floors.floor_s(budget, demand, objective) <= figure_s(outcome, objective) * (1 + 1e-9)
    if not missed(outcome, known.slo):
        assert floors.missed(option, demand) is None
        assert floors.least_replicas(option, demand, demand.due(option.shape.max_model_len)) <= replicas


@LAWS
@given(known=some_scenarios, pick=st.integers(0, 10**6))
def test_work_bounds_lie_below_the_time_replicas_were_stepping(known: Scenario, pick: int) -> None:
    fleets = Fleets(known)
    groups = options(known, fleets)
    if not groups:
        return
    group = groups[pick % len(groups)]
    option = group[pick % len(group)]
    requests = fleets.traffic(fleets.design_factor, coarse=True)
    one = replica(option.pool, context_tokens=fleets.context_tokens)
    done = simulate(requests, one, replicas=2, until_s=None)
    demand = Demand(requests, replace(known.slo, objectives=()), caching=True)
    fits = (done.state == FINISHED) & (requests.isl_tokens + requests.osl_tokens <= option.shape.max_model_len)
    row = demand._sums(fits, 0, 1.0, prefill_only=False)
    due = Due(**dict(zip(Due.__dataclass_fields__, np.array([row]).T, strict=True)))
    shared = demand.shared
    kv_tokens = np.inf if shared else float(option.blocks * option.pool.settings.block_size)
    needed_s = Floors(group).replica_seconds(option, due, kv_tokens)[0]
    assert needed_s <= done.counters.busy_ps.sum() / 1e12 * (1 + 1e-9)


# --- plans -----------------------------------------------------------------------------------------------


def cost_of(known: Scenario) -> float:
    try:
        cost = plan(known).chosen.cost
    except InfeasibleError:
        return float("inf")
    assert cost is not None
    return cost.usd_per_hour


@pytest.mark.parametrize("profile", ["azure-conv", "azure-code"])
@pytest.mark.parametrize("rate", [4.0, 40.0])
def test_the_choice_meets_the_slo_when_simulated_again(profile: str, rate: float) -> None:
    known = scenario(profile=profile, rate=rate, ttft_ms=2000)
    chosen = plan(known).chosen
    pool = chosen.deployment.pools[0]
    again = Fleets(known)
    same = [o for group in options(known, again) for o in group if o.pool == replace(pool, replicas=1)]
    outcome = again.run(same[0], pool.replicas - chosen.spare_replicas)
    assert outcome.meets_slo
    assert chosen.outcome is not None
    assert outcome.goodput_per_s == chosen.outcome.goodput_per_s


def test_one_replica_fewer_would_not_do() -> None:
    known = scenario(rate=40.0)
    study = Study(known)
    study.rated()
    chosen = plan(known).chosen
    pool = chosen.deployment.pools[0]
    assert pool.replicas > 1
    same = [o for group in options(known, study.fleets) for o in group if o.pool == replace(pool, replicas=1)]
    assert missed(study.fleets.run(same[0], pool.replicas - 1), known.slo)


@pytest.mark.parametrize("metric", ["ttft_ms", "tpot_ms"])
def test_a_wider_limit_never_costs_more(metric: str) -> None:
    limits = {"ttft_ms": [150.0, 300.0, 600.0, 2400.0], "tpot_ms": [12.0, 25.0, 50.0, 200.0]}[metric]
    costs = [cost_of(scenario(rate=24.0, **{metric: limit})) for limit in limits]
    assert costs == sorted(costs, reverse=True)


def test_more_choice_never_costs_more() -> None:
    few = cost_of(scenario(rate=20.0, accelerators="h100-sxm"))
    more = cost_of(scenario(rate=20.0, accelerators="h100-sxm, l40s, a100-80-sxm"))
    formats = cost_of(scenario(rate=20.0, accelerators="h100-sxm, l40s, a100-80-sxm", precisions="published, fp8"))
    assert formats <= more <= few


def test_more_traffic_headroom_or_safety_never_costs_less() -> None:
    costs = [cost_of(scenario(rate=rate)) for rate in (5.0, 20.0, 80.0)]
    assert costs == sorted(costs)
    for policy in ("headroom: 10 %", "growth: 2", "burst: 3", "survive: 1 node"):
        assert cost_of(scenario(rate=20.0, more=f"policy: {{confidence: none, {policy}}}")) >= cost_of(
            scenario(rate=20.0, more="policy: {confidence: none, headroom: 0 %}")
        )


def test_the_same_scenario_gives_the_same_plan() -> None:
    known = scenario(rate=20.0)
    one, two = plan(known), plan(scenario(rate=20.0))
    assert one.chosen == two.chosen
    assert repr(one) == repr(two)  # a NaN equals none, but its text does


# --- searching -------------------------------------------------------------------------------------------


@given(answer=st.integers(1, 300), above=st.integers(0, 20), start=st.integers(1, 400), stride=st.integers(1, 9))
def test_the_least_that_passes_is_found_to_a_stride(answer: int, above: int, start: int, stride: int) -> None:
    above = min(above, answer - 1)
    start = max(start, above + 1)
    most = max(start, 400)
    asked = []

    def test(number: int) -> bool:
        asked.append(number)
        return number >= answer

    found = least_that(test, above=above, start=start, most=most, stride=stride)
    assert found is not None
    assert answer <= found < answer + stride
    assert found in asked
    assert len(asked) == len(set(asked))


def test_the_fleet_does_not_hang_on_the_seed(tmp_path: Path) -> None:
    example = (Path(__file__).parents[2] / "examples" / "chat-70b.yaml").read_text(encoding="utf-8")
    example = example.replace("policy:\n", "policy:\n  confidence: none\n")  # bands of another kind of card decide else
    fleets = set()
    for seed in range(3):
        file = tmp_path / "chat.yaml"
        file.write_text(example.replace("seed: 0", f"seed: {seed}"), encoding="utf-8")
        found = plan(read_scenario(file, catalog=CATALOG))
        outcome = found.chosen.outcome
        assert outcome is not None
        assert outcome.requests_per_s == pytest.approx(found.design_rate_per_s, rel=0.1)
        fleets.add(found.chosen.deployment.pools[0].replicas)
    assert max(fleets) - min(fleets) <= 1
