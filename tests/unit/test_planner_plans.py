"""Whole plans: what they hold, what is refused, and that the examples run."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from headway.catalog import load
from headway.errors import InfeasibleError, InputError
from headway.planner import Plan, plan
from headway.scenario import Scenario, read_scenario, with_trace

CATALOG = load()
EXAMPLES = Path(__file__).parents[2] / "examples"
TEXT = """
headway: 1
model: meta-llama/Llama-3.1-8B-Instruct
workload: {profile: azure-conv, rate: 20 req/s}
slo: {ttft: {p95: 400 ms}, tpot: {p95: 40 ms}}
allow: {accelerators: [l40s, h100-sxm], precisions: [bf16, fp8], tp: [1, 2],
        max_num_batched_tokens: [2048, 8192], max_num_seqs: [64, 256]}
policy: {survive: 1 replica, confidence: none}
prices: {region: any}
"""


def scenario(folder: Path, text: str = TEXT) -> Scenario:
    file = folder / "scenario.yaml"
    file.write_text(text, encoding="utf-8")
    return read_scenario(file, catalog=CATALOG)


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Scenario:
    return scenario(tmp_path_factory.mktemp("plan"))


@pytest.fixture(scope="module")
def found(known: Scenario) -> Plan:
    return plan(known)


@pytest.fixture
def shared() -> Path:
    folder = Path(__file__).parents[2].parent / "shared"
    if not folder.exists():
        pytest.skip("needs ../shared/traces")
    return folder


def test_the_choice_meets_the_slo_without_its_spares_and_is_paid_with_them(found: Plan) -> None:
    chosen = found.chosen
    assert chosen.outcome is not None
    assert chosen.cost is not None
    assert chosen.everyday is not None
    assert chosen.outcome.meets_slo
    assert chosen.everyday.meets_slo
    assert chosen.spare_replicas == 1
    assert chosen.cost.gpus == chosen.deployment.gpus
    assert chosen.cost.usd_per_hour == pytest.approx(chosen.deployment.gpus * chosen.cost.price.usd_per_gpu_hour)
    assert chosen.binds in {str(o) for o in found.slo.objectives}
    assert all(latency.band is not None for latency in chosen.outcome.latency.values())
    assert sorted(chosen.everyday.busy_frac) == [0.1, 0.5, 0.95]


def test_tokens_and_requests_share_the_whole_cost(found: Plan) -> None:
    cost, everyday = found.chosen.cost, found.chosen.everyday
    assert cost is not None
    assert everyday is not None
    tokens = cost.usd_per_m_input_tokens * everyday.input_tokens_per_s
    tokens += cost.usd_per_m_output_tokens * everyday.output_tokens_per_s
    assert tokens / 1e6 * 3600 == pytest.approx(cost.usd_per_hour)
    assert cost.usd_per_request * everyday.requests_per_s * 3600 == pytest.approx(cost.usd_per_hour)
    assert cost.usd_per_good_request >= cost.usd_per_request


def test_candidates_begin_with_the_choice_and_none_is_cheaper(found: Plan) -> None:
    assert found.candidates[0] is found.chosen
    costs = [c.cost.usd_per_hour for c in found.candidates if c.cost]
    assert costs == sorted(costs)
    assert all(c.outcome is not None and c.outcome.meets_slo for c in found.candidates)


def test_no_point_of_the_front_is_beaten(found: Plan) -> None:
    points = [
        (p.candidate.cost.usd_per_hour, p.tail_s, p.candidate.cost.gpus, p.lost_with_a_node_frac)
        for p in found.front
        if p.candidate.cost
    ]
    assert any(p.candidate is found.chosen for p in found.front)
    for one in points:
        assert not any(other != one and all(a <= b for a, b in zip(other, one, strict=True)) for other in points)


def test_the_six_steps_follow_from_one_another(found: Plan) -> None:
    names = [step.name for step in found.steps]
    assert len(names) == 6
    minimum, burst, headroom, bottleneck = (step.figure for step in found.steps[2:])
    assert burst == pytest.approx(2.5 * minimum)
    assert headroom == pytest.approx(burst / 0.7)
    gpus = found.chosen.deployment.pools[0].parallelism.gpus
    assert bottleneck == math.ceil(headroom) * gpus
    assert all(step.belief == "estimated" for step in found.steps)


def test_at_least_five_levers_are_priced_and_every_kind_is_there(found: Plan) -> None:
    names = " | ".join(lever.name for lever in found.levers)
    assert sum(lever.candidate is not None for lever in found.levers) >= 5
    for kind in (
        "weights",
        "KV",
        "TP",
        "max_num_batched_tokens",
        "max_num_seqs",
        "prefix caching",
        "router",
        "+20 %",
        "spot",
        "on ",
    ):
        assert kind in names
    chosen = found.chosen.cost
    assert chosen is not None
    for lever in found.levers:
        if lever.candidate is None:
            assert lever.why_not
        else:
            assert lever.candidate.cost is not None
            assert lever.usd_per_hour == pytest.approx(lever.candidate.cost.usd_per_hour - chosen.usd_per_hour)


def test_relaxing_what_binds_never_costs_more(found: Plan) -> None:
    lever = next(lever for lever in found.levers if "+20 %" in lever.name)
    assert found.chosen.binds in lever.name
    assert lever.gpus <= 0


def test_what_breaks_first_lies_above_the_design_rate(found: Plan) -> None:
    breaking = found.breaking
    assert breaking.breaks_factor == pytest.approx(1.06 * breaking.holds_factor)
    assert breaking.holds_factor >= found.design_rate_per_s / found.base_rate_per_s / 1.06
    assert [s.factor for s in found.stress] == [3.0, 10.0]
    for stress in found.stress:
        assert stress.holds == (not stress.breaks)
        assert stress.cost is not None
        assert stress.gpus is not None
        assert stress.gpus >= found.chosen.deployment.gpus


def test_the_search_says_what_it_did(found: Plan) -> None:
    search = found.search
    refused = sum(r.candidates for r in search.refused)
    assert search.enumerated == 2 * 2 * 2 * 4
    assert refused + search.bounded <= search.enumerated
    assert 0 < search.simulated <= search.simulations
    assert search.simulated_requests > search.requests >= 5_000


def test_assumptions_name_their_sources(found: Plan, known: Scenario) -> None:
    names = {a.name for a in found.assumptions}
    assert {a.name for a in known.assumptions} < names
    assert {"price", "max_model_len", "fidelity", "billing", "scheduler"} < names
    assert all(a.source for a in found.assumptions)


def test_by_the_prediction_itself_certainty_is_not_paid_for(found: Plan) -> None:
    sure = found.certainty
    assert (sure.confidence_frac, sure.asked_frac) == (0.5, 0.5)
    assert set(sure.over_frac) == {str(o) for o in found.slo.objectives}
    assert not any(sure.over_frac.values())
    assert (sure.point, sure.gpus, sure.usd_per_hour) == (None, 0, 0.0)


INFEASIBLE = {
    "tpot": ("tpot: {p95: 40 ms}", "tpot: {p95: 1 ms}", "tpot p95", "tpot p95 ≤"),
    "ttft": ("ttft: {p95: 400 ms}", "ttft: {p95: 5 ms}", "ttft p95", "ttft p95 ≤"),
    "memory": ("Llama-3.1-8B", "Llama-3.1-405B", "does not fit in memory", ""),
    "context": ("policy:", "settings: {max_model_len: 512}\npolicy:", "max_model_len", "max_model_len "),
}


@pytest.mark.parametrize("case", INFEASIBLE, ids=str)
def test_where_nothing_will_do_the_nearest_change_is_said(tmp_path: Path, case: str) -> None:
    old, new, binds, relaxation = INFEASIBLE[case]
    with pytest.raises(InfeasibleError) as caught:
        plan(scenario(tmp_path, TEXT.replace(old, new)))
    assert binds in caught.value.binding
    assert caught.value.relaxation.startswith(relaxation)
    assert "\n" not in str(caught.value)


def test_the_relaxation_said_is_feasible(tmp_path: Path) -> None:
    with pytest.raises(InfeasibleError) as caught:
        plan(scenario(tmp_path, TEXT.replace("tpot: {p95: 40 ms}", "tpot: {p95: 1 ms}")))
    limit = caught.value.relaxation.removeprefix("tpot p95 ≤ ").split(" instead")[0]
    chosen = plan(scenario(tmp_path, TEXT.replace("tpot: {p95: 40 ms}", f"tpot: {{p95: {limit}}}"))).chosen
    assert chosen.outcome is not None
    assert chosen.outcome.meets_slo


def test_a_region_without_prices_is_refused_with_those_that_have_some(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"prices: no price is known for l40s, h100-sxm .*us-east-11.*us-east-1"):
        plan(scenario(tmp_path, TEXT.replace("region: any", "region: us-east-11")))


def test_an_accelerator_without_a_price_is_listed(tmp_path: Path) -> None:
    found = plan(scenario(tmp_path, TEXT.replace("[l40s, h100-sxm]", "[l40s, gaudi3]")))
    assert {r.reason for r in found.search.refused} == {"no allowed price for gaudi3"}


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_example_has_a_plan(example: Path) -> None:
    chosen = plan(read_scenario(example)).chosen
    assert chosen.outcome is not None
    assert chosen.outcome.meets_slo


def test_the_example_of_the_readme_searches_at_least_1500_candidates() -> None:
    assert plan(read_scenario(EXAMPLES / "chat-70b.yaml")).search.enumerated >= 1500


TRACES = {
    "azure-conv": "azure/AzureLLMInferenceTrace_conv.csv",
    "azure-code": "azure/AzureLLMInferenceTrace_code.csv",
    "mooncake": "mooncake/conversation_trace.jsonl",
    "agentic": "agentic/kvct_sessions.jsonl.gz",
}


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.parametrize("name", TRACES)
def test_every_recorded_trace_has_a_plan(name: str, shared: Path) -> None:
    known = with_trace(read_scenario(EXAMPLES / f"{name}.yaml"), shared / "traces" / TRACES[name])
    chosen = plan(known).chosen
    assert chosen.outcome is not None
    assert chosen.outcome.meets_slo
