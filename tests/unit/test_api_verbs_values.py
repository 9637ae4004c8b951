"""The verbs' answers, checked against sums done here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import headway
from headway.api.pools import Choice, build_pool
from headway.catalog import load
from headway.errors import InfeasibleError, InputError

SCENARIO = """\
headway: 1
model: [meta-llama/Llama-3.1-8B-Instruct, Qwen/Qwen3-32B]
workload: {profile: azure-conv, rate: 5 req/s}
slo: {ttft: {p95: 2 s}}
allow: {accelerators: [h100-sxm, l40s]}
settings: {gpu_memory_utilization: 0.8}
policy: {headroom: 50 %}
"""


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    path = tmp_path / "s.yaml"
    path.write_text(SCENARIO)
    return path


LLAMA = "meta-llama/Llama-3.1-8B-Instruct"


# --- pools ----------------------------------------------------------------------------------------------


def test_a_pool_takes_the_engines_own_defaults() -> None:
    pool = build_pool(Choice(model=LLAMA, accelerator="H100", tp=2), catalog=load(), replicas=3)
    assert (pool.gpus, pool.engine, pool.weight_dtype, pool.kv_dtype) == (6, "vllm", "bf16", "bf16")
    assert pool.settings.max_model_len == pool.model.max_position_embeddings


def test_what_is_chosen_goes_before_the_scenario_and_that_before_the_engine(scenario: Path) -> None:
    from headway.scenario import read_scenario

    known = read_scenario(scenario)
    choice = Choice(model=LLAMA, accelerator="l40s", settings={"max_num_seqs": 33})
    pool = build_pool(choice, catalog=known.catalog, scenario=known, max_model_len=4096)
    assert (pool.settings.max_num_seqs, pool.settings.gpu_memory_utilization) == (33, 0.8)
    assert pool.settings.max_model_len == 4096
    changed = Choice(model=LLAMA, accelerator="l40s", settings={"gpu_memory_utilization": 0.7, "max_model_len": 99})
    pool = build_pool(changed, catalog=known.catalog, scenario=known, max_model_len=4096)
    assert (pool.settings.gpu_memory_utilization, pool.settings.max_model_len) == (0.7, 99)


def test_what_the_scenario_leaves_open_has_to_be_chosen(scenario: Path) -> None:
    with pytest.raises(InputError, match=r"model: the scenario allows several: .*--model"):
        headway.simulate(scenario)
    with pytest.raises(InputError, match=r"accelerator: the scenario allows several: h100-sxm, l40s .*--accelerator"):
        headway.simulate(scenario, Choice(model=LLAMA))


@pytest.mark.parametrize(
    ("choice", "place"),
    [
        (Choice(model=LLAMA, accelerator="h100", tp=0), "tp"),
        (Choice(model=LLAMA, accelerator="h100", dp=-1), "dp"),
        (Choice(model=LLAMA, accelerator="h100", weight_dtype="fp9"), "weight_dtype"),
        (Choice(model=LLAMA, accelerator="h100", kv_dtype="fp9"), "kv_dtype"),
        (Choice(model=LLAMA, accelerator="h100", settings={"max_model_len": 1}), "max_model_len"),
        (Choice(model=LLAMA, accelerator="mi300x", weight_dtype="nvfp4"), "weight_dtype"),
    ],
)
def test_a_wrong_choice_is_refused_at_its_place(choice: Choice, place: str) -> None:
    with pytest.raises(InputError) as refused:
        build_pool(choice, catalog=load())
    assert refused.value.place == place


def test_experts_are_spread_over_the_whole_replica() -> None:
    choice = Choice(model="Qwen/Qwen3-235B-A22B", accelerator="h200", tp=4, dp=2, expert_parallel=True)
    assert build_pool(choice, catalog=load()).parallelism.ep == 8


# --- estimate -------------------------------------------------------------------------------------------


def test_estimate_says_what_is_achieved_of_the_peaks() -> None:
    found = headway.estimate(choice=Choice(model=LLAMA, accelerator="h100"), decodes=8, context_tokens=100)
    assert found.source == "estimated"
    assert found.output_tokens_per_s == pytest.approx(8 / found.step.total_s)
    moved = sum(op.moved_bytes for op in found.step.operators)
    peak_bytes = found.pool.accelerator.hbm_bytes_per_s * found.step.total_s
    assert found.achieved_bytes_frac == pytest.approx(moved / peak_bytes)
    assert 0.3 < found.achieved_bytes_frac < 1.0, "a small decode batch is bound by memory"
    assert found.achieved_flops_frac < 0.1


def test_a_model_that_does_not_fit_says_what_is_missing() -> None:
    with pytest.raises(InfeasibleError) as refused:
        headway.estimate(choice=Choice(model="meta-llama/Llama-3.1-70B-Instruct", accelerator="l40s"))
    assert refused.value.binding == "hbm_bytes"
    assert refused.value.shortfall["missing_bytes"] > 0


@pytest.mark.parametrize("batch", [{"decodes": -1}, {"decodes": 0}, {"context_tokens": 0}, {"chunks": [(0, 5)]}])
def test_a_step_of_nothing_is_refused(batch: dict[str, object]) -> None:
    with pytest.raises(InputError, match="batch"):
        headway.estimate(choice=Choice(model=LLAMA, accelerator="h100"), **batch)  # type: ignore[arg-type]


# --- price ----------------------------------------------------------------------------------------------


def test_price_of_ones_own_file_goes_before(tmp_path: Path) -> None:
    own = tmp_path / "own.csv"
    own.write_text(
        "provider,region,zone,instance,accelerator,gpus,term,usd_per_hour,as_of,source\n"
        "Mine,here,,box,H100,8,on-demand,80,2026-11-01,contract\n"
    )
    quote = headway.price("h100", gpus=16, tokens_per_s=5000.0, files=[own])
    first = quote.offers[0]
    assert first.price.provider == "Mine"
    assert first.usd_per_hour == pytest.approx(160.0)
    assert first.usd_per_month == pytest.approx(160.0 * 8760 / 12)
    assert first.usd_per_m_tokens == pytest.approx(160.0 / (5000 * 3600 / 1e6))


def test_spot_is_spread_over_zones() -> None:
    quote = headway.price("h100", terms=["on-demand"])
    assert {offer.price.term for offer in quote.offers} == {"on-demand"}
    for spot in quote.spot:
        s = spot.spread
        assert s.least_usd_per_gpu_hour <= s.median_usd_per_gpu_hour <= s.most_usd_per_gpu_hour


# --- catalogue ------------------------------------------------------------------------------------------


def test_conditions_all_hold() -> None:
    every = headway.catalog_list("accelerators").entries
    wanted = ["vendor=NVIDIA", "hbm_bytes>=100 GB", "peak_flops_per_s.fp8>=1e15"]
    some = headway.catalog_list("accelerators", where=wanted).entries
    assert 0 < len(some) < len(every)
    by_hand = [
        a.name  # type: ignore[union-attr]
        for a in every
        if a.vendor == "nvidia" and a.hbm_bytes >= 100e9 and (a.peak_flops_per_s.get("fp8") or 0) >= 1e15  # type: ignore[union-attr]
    ]
    assert [a.name for a in some] == by_hand  # type: ignore[union-attr]


def test_a_member_of_a_list_is_found() -> None:
    (found,) = headway.catalog_list("accelerators", where=["aliases=h100"]).entries
    assert found.name == "h100-sxm"  # type: ignore[union-attr]


def test_every_entry_can_be_shown_with_a_source_for_every_figure() -> None:
    for kind in ("accelerators", "links", "engines", "profiles"):
        for entry in headway.catalog_list(kind).entries:
            name = f"{entry.name}-{entry.version}" if kind == "engines" else entry.name  # type: ignore[union-attr]
            sheet = headway.catalog_show(name, kind=kind)
            assert sheet.facts
            assert all(fact.source and fact.as_of for fact in sheet.facts), name


def test_an_entry_of_ones_own_is_shown(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text(
        "sources: {bench: {title: my bench, as_of: 2026-11-01}}\n"
        "accelerators: {h100-mine: {like: h100-sxm, source: bench, hbm_bytes_per_s: 3000 GB/s}}\n"
    )
    sheet = headway.catalog_show("h100-mine", files=[own])
    fact = next(fact for fact in sheet.facts if fact.name == "hbm_bytes_per_s")
    assert (fact.value, fact.source, fact.as_of) == ("3000 GB/s", "my bench", "2026-11-01")


# --- scenario, workload ---------------------------------------------------------------------------------


def test_a_check_resolves_names_and_rates(scenario: Path) -> None:
    found = headway.scenario_check(scenario)
    assert (found.base_rate_per_s, found.design_rate_per_s) == pytest.approx((5.0, 10.0))
    assert [m.name for m in found.models] == [LLAMA, "Qwen/Qwen3-32B"]
    assert {p.accelerator for p in found.prices} == {"h100-sxm", "l40s"}
    assert "policy.headroom" not in {a.name for a in found.assumptions}
    assert "policy.growth" in {a.name for a in found.assumptions}


def test_a_synthesised_trace_describes_as_what_was_drawn(tmp_path: Path) -> None:
    made = headway.workload_synthesize("profile:azure-code", tmp_path / "t.parquet", requests=500, rate_per_s=7.0)
    found = headway.workload_describe(made.file)
    assert (found.source, found.description.requests) == ("measured", 500)
    assert found.description.isl_tokens.mean * 500 == pytest.approx(made.input_tokens)
    assert found.requests.osl_tokens.sum() == made.output_tokens
    assert found.description.requests_per_s == pytest.approx(made.requests_per_s)


def test_a_simulation_counts_every_request_of_its_window(scenario: Path) -> None:
    found = headway.simulate(scenario, Choice(model=LLAMA, accelerator="h100"), requests=1000, rate_factor=2.0)
    o = found.outcome
    assert o.arrived == o.finished + o.failed + o.unfinished == len(found.latencies_s["ttft"])
    assert found.rate_per_s == pytest.approx(10.0)
    p95_s = np.sort(found.latencies_s["ttft"])[int(np.ceil(0.95 * o.arrived)) - 1]
    assert o.latency["ttft"].at(0.95) == p95_s, "what is drawn is what is said"
    assert all(latency.band is not None for latency in o.latency.values())
    assert (found.series.busy_frac <= 1 + 1e-9).all()
    assert (found.series.kv_used_frac <= 1).all()


def test_a_scenario_that_was_read_is_taken_as_well(scenario: Path) -> None:
    from headway.api.simulations import read

    choice = Choice(model=LLAMA, accelerator="h100")
    known = read(scenario, rate_per_s=3.0)
    assert headway.simulate(known, choice, requests=50).rate_per_s == pytest.approx(3.0)
