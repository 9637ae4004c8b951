"""Scenario files: what is read, what is refused and where, what is taken by default."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from headway.catalog import load
from headway.errors import InputError
from headway.scenario import Scenario, new_scenario, read_scenario, with_trace
from headway.scenario.reader import ALLOW_KEYS, KEYS, POLICY_KEYS, PRICE_KEYS
from headway.scenario.sections import defaults
from headway.types import METRICS, Objective

Read = Callable[[str], Scenario]

CATALOG = load()
COMPLETE = """\
headway: 1
model: [meta-llama/Llama-3.1-8B-Instruct, meta-llama/Llama-3.1-70B-Instruct]
workload: {profile: azure-conv, rate: 40 req/s}
slo: {ttft: {p95: 500 ms, p99.9: 1.5 s}, tpot: {p50: 45 ms}, success: 99.9 %}
allow:
  accelerators: [H100, l40s]
  engines: [vllm@0.33.0]
  precisions: [bf16, fp8, bf16]
  kv_precisions: fp8
  max_gpus_per_replica: 4
  tp: [1, 2]
  routers: [round-robin]
policy: {growth: 1.5, burst: 2, headroom: 40 %, survive: 2 nodes, confidence: 90 %}
prices: {region: any, terms: [on-demand, spot], provider: aws}
settings: {gpu_memory_utilization: 0.9, max_model_len: 8192, async_scheduling: false}
seed: 7
"""
LEAST = """\
headway: 1
model: meta-llama/Llama-3.1-8B-Instruct
workload: {profile: azure-conv}
slo: {ttft: {p95: 500 ms}}
allow: {accelerators: [h100-sxm]}
"""


@pytest.fixture
def read(tmp_path: Path) -> Read:
    def reader(text: str) -> Scenario:
        file = tmp_path / "scenario.yaml"
        file.write_text(text, encoding="utf-8")
        return read_scenario(file, catalog=CATALOG)

    return reader


@pytest.fixture
def shared() -> Path:
    folder = Path(__file__).parents[2].parent / "shared"
    if not folder.exists():
        pytest.skip("needs ../shared/traces")
    return folder


def test_everything_that_can_be_said_is_read_in_base_units(read: Read) -> None:
    found = read(COMPLETE)
    assert [m.name for m in found.models] == ["meta-llama/Llama-3.1-8B-Instruct", "meta-llama/Llama-3.1-70B-Instruct"]
    assert found.rate_per_s == pytest.approx(40.0)
    assert found.slo.objectives == (
        Objective(metric="ttft", percentile_frac=0.95, limit_s=0.5),
        Objective(metric="ttft", percentile_frac=0.999, limit_s=1.5),
        Objective(metric="tpot", percentile_frac=0.5, limit_s=0.045),
    )
    assert found.slo.success_frac == pytest.approx(0.999)
    allow = found.allow
    assert [a.name for a in allow.accelerators] == ["h100-sxm", "l40s"]
    assert [(e.name, e.version) for e in allow.engines] == [("vllm", "0.33.0")]
    assert allow.precisions == ("bf16", "fp8")  # said twice, meant once
    assert allow.kv_precisions == ("fp8",)  # one word is a list of one
    assert (allow.tp, allow.pp, allow.routers, allow.max_gpus_per_replica) == ((1, 2), (1,), ("round-robin",), 4)
    assert found.policy.design_factor == pytest.approx(1.5 * 2 / 0.6)
    assert (found.policy.survive_count, found.policy.survive_what) == (2, "node")
    assert found.policy.confidence_frac == 0.9
    assert (found.prices.region, found.prices.terms, found.prices.provider) == (None, ("on-demand", "spot"), "aws")
    assert found.settings == {"gpu_memory_utilization": 0.9, "max_model_len": 8192, "async_scheduling": False}
    assert found.seed == 7


def test_every_default_taken_is_an_assumption_with_its_reason(read: Read) -> None:
    said, found = read(COMPLETE), read(LEAST)
    taken = {a.name: a for a in found.assumptions}
    assert set(taken) == set(defaults())
    assert taken["policy.headroom"].value == "30 %"
    assert all(a.source.startswith("default: ") and len(a.source) > 20 for a in found.assumptions)
    assert {a.name for a in said.assumptions} == {
        "allow.pp",
        "allow.dp",
        "allow.enable_expert_parallel",
        "allow.enable_prefix_caching",
        "allow.max_num_batched_tokens",
        "allow.max_num_seqs",
    }


def test_a_default_stands_for_a_key_that_can_be_written() -> None:
    known = {"": KEYS, "allow": ALLOW_KEYS, "policy": POLICY_KEYS, "prices": PRICE_KEYS, "slo": (*METRICS, "success")}
    for path in defaults():
        section, _, key = path.rpartition(".")
        assert key in known[section], path


def test_accelerators_left_out_are_those_with_a_price(read: Read) -> None:
    found = read(LEAST.replace("allow: {accelerators: [h100-sxm]}", "prices: {region: us-east-1}"))
    priced = {p.accelerator for p in CATALOG.prices(region="us-east-1", terms=["on-demand"])}
    assert {a.name for a in found.allow.accelerators} == priced
    assert any(a.name == "allow.accelerators" and "price" in a.source for a in found.assumptions)


REFUSED = {
    "unknown key": ("seed: 7", "sed: 7", "line 16, sed", "'seed'"),
    "unknown key inside": (
        "max_gpus_per_replica",
        "max_gpu_per_replica",
        "allow.max_gpu_per_replica",
        "max_gpus_per_replica",
    ),
    "format": ("headway: 1", "headway: 2", "line 1, headway", "format 2"),
    "model": ("Llama-3.1-70B-Instruct", "Llama-3.1-70B-Instrukt", "line 2, model[1]", "Llama-3.1-70B-Instruct"),
    "accelerator": ("H100", "H1000", "line 6, allow.accelerators[0]", "did you mean"),
    "engine version": ("vllm@0.33.0", "vllm@0.3.0", "allow.engines[0]", "version"),
    "engine": ("vllm@0.33.0", "vlm", "allow.engines[0]", "vllm"),
    "precision": ("[bf16, fp8, bf16]", "[bf61]", "allow.precisions[0]", "bf16"),
    "router": ("round-robin", "round-robbin", "allow.routers[0]", "round-robin"),
    "no unit": ("p95: 500 ms", "p95: 500", "line 4, slo.ttft.p95", "has no unit"),
    "wrong unit": ("p95: 500 ms", "p95: 500 GB", "slo.ttft.p95", "unknown unit"),
    "limit of nothing": ("p95: 500 ms", "p95: 0 ms", "slo.ttft.p95", "below the least"),
    "unknown metric": ("tpot: {p50", "tpo: {p50", "slo.tpo", "'tpot'"),
    "unknown percentile": ("p50: 45 ms", "q50: 45 ms", "slo.tpot.q50", "percentile"),
    "percentile of zero": ("p50: 45 ms", "p0: 45 ms", "slo.tpot.p0", "percentile"),
    "a limit without percentile": ("tpot: {p50: 45 ms}", "tpot: 45 ms", "slo.tpot", "{p95: 45 ms}"),
    "negative rate": ("rate: 40 req/s", "rate: -40 req/s", "workload.rate", "-40"),
    "rate without unit": ("rate: 40 req/s", "rate: 40", "workload.rate", "unit"),
    "profile": ("azure-conv", "azure-cnov", "workload.profile", "azure-conv"),
    "success": ("success: 99.9 %", "success: 120 %", "slo.success", "above the most"),
    "headroom": ("headroom: 40 %", "headroom: 100 %", "policy.headroom", "above the most"),
    "burst": ("burst: 2,", "burst: 0.5,", "policy.burst", "below the least"),
    "survive": ("survive: 2 nodes", "survive: two nodes", "policy.survive", "1 node"),
    "term": ("on-demand, spot", "on demand", "prices.terms[0]", "on-demand"),
    "setting": ("async_scheduling", "async_schedule", "settings.async_schedule", "async_scheduling"),
    "a swept setting": ("async_scheduling: false", "max_num_seqs: 8", "settings.max_num_seqs", "allow.max_num_seqs"),
    "type": ("async_scheduling: false", "async_scheduling: 3", "settings.async_scheduling", "true or false"),
    "whole number": ("max_model_len: 8192", "max_model_len: 8192.5", "settings.max_model_len", "whole number"),
    "seed": ("seed: 7", "seed: -7", "seed", "below the least"),
    "empty list": ("tp: [1, 2]", "tp: []", "allow.tp", "empty list"),
    "no GPUs": ("tp: [1, 2]", "tp: [0]", "allow.tp[0]", "below the least"),
    "twice": ("seed: 7", "seed: 7\nseed: 8", "seed", "twice"),
    "a list for a mapping": (
        "policy: {growth: 1.5, burst: 2, headroom: 40 %, survive: 2 nodes, confidence: 90 %}",
        "policy: [1]",
        "policy",
        "mapping",
    ),
}


@pytest.mark.parametrize("case", REFUSED, ids=str)
def test_what_is_wrong_is_refused_with_file_line_place_and_the_nearest_fix(read: Read, case: str) -> None:
    old, new, place, expected = REFUSED[case]
    assert COMPLETE.count(old) >= 1
    with pytest.raises(InputError) as caught:
        read(COMPLETE.replace(old, new, 1))
    text = str(caught.value)
    assert caught.value.file.endswith("scenario.yaml")
    assert place in text
    assert expected in text
    assert "\n" not in text


@pytest.mark.parametrize("key", ["headway", "model", "workload", "slo"])
def test_what_must_be_said_is_asked_for(read: Read, key: str) -> None:
    lines = [line for line in LEAST.splitlines() if not line.startswith(f"{key}:")]
    with pytest.raises(InputError, match=f"no '{key}'"):
        read("\n".join(lines))


def test_an_slo_needs_an_objective(read: Read) -> None:
    with pytest.raises(InputError, match="at least one objective"):
        read(LEAST.replace("{ttft: {p95: 500 ms}}", "{success: 99 %}"))


def test_paths_are_relative_to_the_scenario(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "sources: {me: {title: measured, as_of: 2026-11-01}}\n"
        "accelerators: {my-gpu: {like: h100-sxm, source: me, hbm_bytes: 60 GiB}}\n",
        encoding="utf-8",
    )
    (tmp_path / "prices.csv").write_text(
        "provider,region,zone,instance,accelerator,gpus,term,usd_per_hour,as_of,source\n"
        "Us,here,,box,my-gpu,8,on-demand,8.0,2026-11-01,contract\n",
        encoding="utf-8",
    )
    file = tmp_path / "scenario.yaml"
    file.write_text(
        LEAST.replace("h100-sxm", "my-gpu") + "catalog: [mine.yaml]\nprices: {region: here, file: prices.csv}\n",
        encoding="utf-8",
    )
    found = read_scenario(file)
    assert found.allow.accelerators[0].hbm_bytes == 60 * 1024**3
    assert found.catalog.prices("my-gpu", region="here")[0].usd_per_gpu_hour == pytest.approx(1.0)


def test_a_model_may_be_a_config_json_beside_the_scenario(tmp_path: Path, read: Read) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}', encoding="utf-8")
    with pytest.raises(InputError, match=r"config\.json"):  # too little in it: the reader of config.json says what
        read(LEAST.replace("meta-llama/Llama-3.1-8B-Instruct", "{config: config.json}"))
    with pytest.raises(InputError, match="line 2, model"):
        read(LEAST.replace("meta-llama/Llama-3.1-8B-Instruct", "{}"))


def test_a_missing_file_is_one_line() -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_scenario("no-such-scenario.yaml", catalog=CATALOG)


def test_a_new_scenario_reads_back_as_it_was_asked_for(read: Read) -> None:
    found = read(
        new_scenario(
            model="meta-llama/Llama-3.1-70B-Instruct",
            accelerators=("h200-sxm",),
            profile="azure-code",
            rate_per_s=2.5,
            ttft_s=1.25,
            tpot_s=0.03,
        )
    )
    assert found.models[0].name == "meta-llama/Llama-3.1-70B-Instruct"
    assert found.rate_per_s == pytest.approx(2.5)
    assert [o.limit_s for o in found.slo.objectives] == [1.25, 0.03]
    assert read(new_scenario()).allow.engines[0].name == "vllm"


def test_a_trace_replaces_the_workload_at_its_own_rate_or_another(read: Read, shared: Path) -> None:
    trace = shared / "traces" / "azure" / "AzureLLMInferenceTrace_conv.csv"
    recorded = with_trace(read(LEAST), trace)
    assert len(recorded.workload.content) == 19_366
    assert recorded.rate_per_s == pytest.approx(5.5, rel=0.02)
    assert with_trace(read(LEAST), trace, rate_per_s=40.0).rate_per_s == pytest.approx(40.0)


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
def test_a_trace_at_no_rate_is_refused(read: Read, rate: float) -> None:
    with pytest.raises(InputError, match="above zero"):
        with_trace(read(LEAST), "any.csv", rate_per_s=rate)
