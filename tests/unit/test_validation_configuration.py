"""From rows to deployments and loads: names, versions, formats, spreads, settings, harnesses."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from headway.catalog import Catalog, load
from headway.perf import memory
from headway.types import Parallelism
from headway.validation.configuration import Configured, configure
from headway.validation.flags import attention_dp, flags, kv_dtype
from headway.validation.measurements import Measurement, Tokens
from headway.validation.reader import read_table
from headway.validation.recipes import side, stated_workers

SAMPLE = "aiconfigurator_core==0.12.0 systems/silicon_sample.csv id=x"
WORKERS = "prefill ? workers x (tp4,dp1,ep1); decode ? x (tp4,dp1,ep1); gemm nvfp4, moe nvfp4; measured 2026-04-02"


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return load()


def tokens(number: float) -> Tokens:
    return Tokens(low=number, high=number)


def row(**changes: object) -> Measurement:
    one = Measurement(
        row="r",
        line=2,
        model="llama-3.1-8b",
        hardware="H100-SXM",
        engine="vLLM",
        engine_version="0.15.1",
        tp=1,
        weight_dtype="bf16",
        isl_tokens=tokens(1000),
        osl_tokens=tokens(200),
        concurrency=8,
        measured={"tpot_s": {"p50": 0.01}},
    )
    return dataclasses.replace(one, **changes)


def codes(configured: Configured) -> set[str]:
    return {said.code for said in configured.assumptions}


def test_a_plain_row_needs_no_assumption(catalog: Catalog) -> None:
    found = configure(row(), catalog)
    assert found.assumptions == ()
    assert found.pool.model.name == "llama-3.1-8b"
    assert found.pool.accelerator.name == "h100-sxm"
    assert (found.pool.engine, found.pool.engine_version, found.gpus) == ("vllm", "0.15.1", 1)
    assert (found.load.arrivals, found.load.concurrency, found.load.requests) == ("closed", 8, 80)
    assert (found.load.isl_tokens.low, found.load.isl_tokens.high) == (1000, 1000)


# --- names ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("llama-7b", "llama-7b"),
        ("bloom-176b", "bloom-176b"),
        ("codellama-34b", "codellama/CodeLlama-34b-Instruct-hf"),
        ("kimi-k3", "moonshotai/Kimi-K3"),
        ("deepseek-v3.1", "nvidia/DeepSeek-V3.1-NVFP4"),
    ],
)
def test_tables_have_names_of_their_own(catalog: Catalog, model: str, name: str) -> None:
    assert configure(row(model=model, tp=8), catalog).pool.model.name == name


@pytest.mark.parametrize(
    ("model", "params", "moe", "billions"),
    [("frontier-70b", "", False, 70.6), ("sparse", "235B-A22B", True, 235.1), ("nobody-knows", "", False, 8.03)],
)
def test_an_unknown_model_is_replayed_as_one_of_its_size(
    catalog: Catalog, model: str, params: str, moe: bool, billions: float
) -> None:
    found = configure(row(model=model, params=params, tp=8), catalog)
    assert "unknown_model" in codes(found)
    assert found.pool.model.is_moe is moe
    assert found.pool.model.params / 1e9 == pytest.approx(billions, rel=0.03)
    assert found.pool.model.name.startswith(model)


def test_an_unknown_accelerator_keeps_the_memory_it_names(catalog: Catalog) -> None:
    found = configure(row(hardware="Wonder 9000 48GB"), catalog)
    assert "unknown_accelerator" in codes(found)
    assert found.pool.accelerator.hbm_bytes == 48 << 30


@pytest.mark.parametrize(
    ("hardware", "name"),
    [
        ("NVIDIA H200 SXM", "h100-sxm"),
        ("NVIDIA L40S", "l40s"),
        ("RTXPRO6000", "rtx-pro-6000"),
        ("Ascend910B", "ascend-910b"),
        ("M2 Ultra 76-Core GPU 192GB", "apple-m2-ultra-76"),
        ("mixed MI300X/MI325X", "mi300x"),
    ],
)
def test_hardware_by_any_of_its_names(catalog: Catalog, hardware: str, name: str) -> None:
    assert configure(row(hardware=hardware), catalog).pool.accelerator.name == name


@pytest.mark.parametrize(
    ("engine", "version", "note", "policy", "number"),
    [
        ("vLLM", "v0.11.0", "", "vllm", "0.11.0"),
        ("vLLM", "0.6.3.dev116 ROCm", "", "vllm", "0.6.3"),
        ("vLLM", "vLLM 0.10.0, RHEL 9.6", "", "vllm", "0.10.0"),
        ("vLLM", "2026-01", "", "vllm", "0.14.0"),
        ("vLLM", "nightly-dev", "measured 2026-03-28", "vllm", "0.17.0"),
        ("SGLang", "0.5.8.post1", "", "sglang", "0.5.8"),
        ("TensorRT-LLM", "v1.0 docs (commit 00f37686)", "", "tensorrt-llm", "1.0"),
        ("TensorRT-LLM", "0.8.1.post2", "measured 2026-02-12", "tensorrt-llm", "1.2"),  # Dynamo's number
        ("TensorRT-LLM", "TensorRT 10.2.0, CUDA 12.4", "", "tensorrt-llm", "0.12"),
        ("TensorRT-LLM", "TensorRT 10.11, CUDA 12.9", "", "tensorrt-llm", "0.20"),
        ("CUDA 12.2", "CUDA 12.2", "", "tensorrt-llm", "1.0.0"),
        ("llama.cpp", "2024-05", "", "llama.cpp", "server"),
        ("S-LoRA", "paper (2023-11), slora/slora", "", "vllm", "0.2"),
        ("Mango LLMBoost AI Enterprise Platform", "ROCm 6", "", "vllm", "0.9.0"),
        ("somebody's own", "7", "", "vllm", "0.33.0"),
    ],
)
def test_whose_policy_in_which_version(
    catalog: Catalog, engine: str, version: str, note: str, policy: str, number: str
) -> None:
    found = configure(row(engine=engine, engine_version=version, note=note), catalog).pool
    assert (found.engine, found.engine_version) == (policy, number)
    assert (found.settings.engine, found.settings.version) == (policy, number)


@pytest.mark.parametrize(
    ("model", "stated", "note", "dtype"),
    [
        ("llama-3.1-8b", "fp16", "", "bf16"),
        ("llama-3.1-8b", "fp8", "", "fp8"),
        ("llama-3.1-8b", "q4_k_m", "", "int4"),
        ("llama-3.1-8b", "fp3", "", "bf16"),
        ("deepseek-r1", "fp8", "", "fp8_block"),
        ("deepseek-r1", "fp4", "", "nvfp4"),
        ("deepseek-r1", "bf16/native", "", "fp8_block"),
        ("gpt-oss-120b", "fp4", "", "mxfp4"),
        ("gpt-oss-120b", "", "", "mxfp4"),
        ("qwen3-32b", "fp8", "", "fp8_block"),
        ("qwen3-32b", "fp8", "gemm fp8, moe fp8", "fp8"),
        ("qwen3-32b", "fp8", "gemm fp8_block, moe fp8_block", "fp8_block"),
    ],
)
def test_formats_by_maker_and_kernel(catalog: Catalog, model: str, stated: str, note: str, dtype: str) -> None:
    assert configure(row(model=model, weight_dtype=stated, note=note, tp=8), catalog).pool.weight_dtype == dtype


def test_kv_in_fp8_where_it_is_usual(catalog: Catalog) -> None:
    quantised = row(weight_dtype="fp8", source=SAMPLE, quality="A-dump")
    assert configure(quantised, catalog).pool.kv_dtype == "fp8"
    assert configure(dataclasses.replace(quantised, weight_dtype="bf16"), catalog).pool.kv_dtype == "bf16"
    assert configure(row(weight_dtype="fp8"), catalog).pool.kv_dtype == "bf16"
    assert configure(row(kv_dtype="fp8 skip-sliding-window"), catalog).pool.kv_dtype == "fp8"
    assert configure(row(weight_dtype="fp8", engine="TensorRT-LLM"), catalog).pool.kv_dtype == "fp8"


# --- spreads ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "spread", "replicas", "code"),
    [
        ({"tp": 4, "gpus": 4}, Parallelism(tp=4), 1, ""),
        ({"tp": 2, "gpus": 8}, Parallelism(tp=2), 4, "data_parallel_replicas"),
        ({"tp": None, "gpus": 8, "model": "llama-3.1-70b"}, Parallelism(tp=2), 4, "tp_smallest_that_fits"),
        ({"tp": None, "gpus": None, "model": "llama-3.1-405b"}, Parallelism(tp=8), 1, "tp_smallest_that_fits"),
        ({"tp": 3, "gpus": 8}, Parallelism(tp=1, dp=3), 2, "gpus_contradict"),
        ({"tp": 8, "dp": 8, "gpus": 8, "model": "deepseek-r1"}, Parallelism(tp=1, dp=8), 1, ""),
        ({"tp": None, "dp": 8, "ep": 8, "gpus": 8, "model": "deepseek-r1"}, Parallelism(tp=1, dp=8, ep=8), 1, ""),
        (
            {"tp": None, "dp": 2, "ep": 2, "pp": 2, "gpus": 4, "model": "qwen3-30b-a3b"},
            Parallelism(dp=2, ep=2, pp=2),
            1,
            "",
        ),
        ({"tp": 4, "ep": 0, "gpus": 4, "model": "qwen3-30b-a3b"}, Parallelism(tp=4), 1, ""),
        ({"tp": 8, "ep": 3, "gpus": 8, "model": "deepseek-r1"}, Parallelism(tp=8, ep=2), 1, ""),
    ],
)
def test_how_gpus_are_spread(
    catalog: Catalog, changes: dict[str, object], spread: Parallelism, replicas: int, code: str
) -> None:
    found = configure(row(**{"weight_dtype": "fp8", **changes}), catalog)
    assert (found.pool.parallelism, found.pool.replicas) == (spread, replicas)
    assert code in codes(found) or not code


def test_a_command_may_spread_attention_over_ranks(catalog: Catalog) -> None:
    note = "python3 -m sglang.launch_server --tp-size 8 --enable-dp-attention"
    assert attention_dp(note)
    found = configure(row(model="deepseek-r1", tp=8, gpus=8, weight_dtype="fp8", note=note), catalog)
    assert found.pool.parallelism == Parallelism(tp=1, dp=8)


def test_gpus_counted_as_tp_times_ep_are_as_many_as_a_node_has(catalog: Catalog) -> None:
    assert [side(n) for n in (4, 8, 16, 64, 20)] == [4, 8, 4, 8, 20]
    counted = {"gpus": 16, "tp": 16, "ep": 4, "weight_dtype": "fp8", "features": "aggregated"}
    found = configure(row(model="qwen3.5-397b-a17b", hardware="B200", **counted), catalog)
    assert found.pool.parallelism == Parallelism(tp=4, ep=4)
    assert found.pool.replicas == 1
    assert "gpus_squared" in codes(found)


def test_workers_as_the_row_states_them(catalog: Catalog) -> None:
    note = WORKERS.replace("prefill ?", "prefill 2").replace("decode ? x (tp4,dp1,ep1)", "decode 3 x (tp1,dp8,ep8)")
    assert stated_workers(note) == ((2, 4, 1, 1), (3, 1, 8, 8))
    found = configure(row(model="deepseek-r1", tp=None, hardware="B200", weight_dtype="fp4", note=note), catalog)
    assert [(pool.role, pool.replicas, pool.parallelism) for pool in found.pools] == [
        ("prefill", 2, Parallelism(tp=4)),
        ("decode", 3, Parallelism(dp=8, ep=8)),
    ]
    assert found.gpus == 2 * 4 + 3 * 8


def test_workers_nobody_counted(catalog: Catalog) -> None:
    apart = {"model": "deepseek-r1", "hardware": "GB200", "weight_dtype": "fp4", "note": WORKERS, "tp": 4}
    one = configure(row(**apart), catalog)
    assert [pool.replicas for pool in one.pools] == [1, 1]
    assert [pool.replicas for pool in configure(row(gpus=20, **apart), catalog).pools] == [4, 1]
    assert "workers_unknown" in codes(one)


def test_a_total_that_stands_for_both_roles_is_split(catalog: Catalog) -> None:
    note = WORKERS.replace("tp4", "tp36")
    for features in ("disagg", "aggregated"):
        whole = row(model="deepseek-r1", hardware="GB200", weight_dtype="fp4", tp=36, gpus=36, features=features)
        found = configure(dataclasses.replace(whole, note=note if features == "disagg" else ""), catalog)
        assert found.gpus == 36
        assert [pool.role for pool in found.pools] == ["prefill", "decode"]
        assert "halves" in codes(found)


def test_what_inferencex_listed_that_day_spreads_its_rows(catalog: Catalog) -> None:
    """dsr1-fp8-gb200-dynamo-sglang: two prefill workers of 8 GPUs, one decode worker of 32, at 4,096 clients."""
    note = WORKERS.replace("tp4", "tp1").replace("2026-04-02", "2025-12-21")
    listed = row(
        model="deepseek-r1",
        hardware="GB200",
        engine="SGLang",
        weight_dtype="fp8",
        isl_tokens=tokens(1024),
        osl_tokens=tokens(1024),
        features="disagg",
        source=SAMPLE,
        quality="A-dump",
        tp=1,
        concurrency=4096,
        note=note,
    )
    found = configure(listed, catalog)
    assert "recipe" in codes(found)
    assert [pool.parallelism.dp for pool in found.pools] == [8, 32]
    assert found.speculation is None
    assert "recipe" not in codes(configure(dataclasses.replace(listed, concurrency=4095), catalog))


# --- settings ---------------------------------------------------------------------------------------------


def test_flags_of_a_quoted_command() -> None:
    note = "vllm serve M --max-num-batched-tokens 8192 --max_num_seqs=512 --async-scheduling --kv-cache-dtype fp8_e4m3"
    assert flags(note) == {"max_num_batched_tokens": 8192, "max_num_seqs": 512, "async_scheduling": True}
    assert kv_dtype(note) == "fp8_e4m3"
    assert flags("1000 ShareGPT prompts, max_num_batched_tokens 512, max_num_seqs 512") == {
        "max_num_batched_tokens": 512,
        "max_num_seqs": 512,
    }
    assert flags("3. Async scheduling in vLLM, enable prefix cache | max-batch-size unknown") == {}


def test_the_command_goes_before_the_harness_and_that_before_the_engine(catalog: Catalog) -> None:
    sample = {"source": SAMPLE, "quality": "A-dump"}
    assert configure(row(), catalog).pool.settings.enable_prefix_caching
    assert not configure(row(**sample), catalog).pool.settings.enable_prefix_caching
    assert configure(row(note="x --enable-prefix-caching", **sample), catalog).pool.settings.enable_prefix_caching


@pytest.mark.parametrize(
    ("version", "asynchronous", "chunked", "seqs"),
    [
        ("0.6.4", False, False, 256),
        ("0.9.1", False, True, 1024),
        ("0.13.0", False, True, 1024),
        ("0.15.1", True, True, 1024),
    ],
)
def test_vllm_by_era(catalog: Catalog, version: str, asynchronous: bool, chunked: bool, seqs: int) -> None:
    settings = configure(row(engine_version=version), catalog).pool.settings
    assert (settings.async_scheduling, settings.enable_chunked_prefill) == (asynchronous, chunked)
    assert settings.max_num_seqs == seqs


@pytest.mark.parametrize("engine", ["vLLM", "SGLang", "TensorRT-LLM", "TGI", "llama.cpp"])
def test_a_server_takes_what_was_sent(catalog: Catalog, engine: str) -> None:
    settings = configure(row(engine=engine, isl_tokens=tokens(20000), osl_tokens=tokens(2000)), catalog).pool.settings
    assert settings.max_model_len >= 22000
    assert settings.enable_chunked_prefill or settings.max_num_batched_tokens >= 20000


@pytest.mark.parametrize(("clients", "seats"), [(100, 2048), (5000, 5000), (99999, 8 * 2048)])
def test_each_rank_has_a_limit_of_its_own(catalog: Catalog, clients: int, seats: int) -> None:
    ranks = {"model": "deepseek-r1", "tp": None, "dp": 8, "gpus": 8, "hardware": "B200", "weight_dtype": "fp4"}
    found = configure(row(engine="TensorRT-LLM", concurrency=clients, **ranks), catalog)
    assert found.pool.settings.max_num_seqs == seats


def test_what_does_not_fit_is_made_to(catalog: Catalog) -> None:
    tight = configure(row(model="qwen2.5-72b", tp=2), catalog)
    assert "made_to_fit" in codes(tight)
    assert tight.pool.accelerator == catalog.accelerator("h100-sxm")
    memory(tight.pool)
    never = configure(row(model="llama-3.1-405b", hardware="L40S"), catalog)
    assert "does_not_fit" in codes(never)


# --- the published table ------------------------------------------------------------------------------------


def test_every_row_of_the_published_table_can_be_replayed(catalog: Catalog) -> None:
    path = Path(__file__).parents[2].parent / "shared/measurements/measurements.csv"
    if not path.exists():
        pytest.skip("needs ../shared/measurements/measurements.csv")
    table = read_table(path)
    assert table.rows - len(table.measurements) == sum(table.counts().values()) <= 3
    for measurement in table.measurements[::7]:
        for pool in configure(measurement, catalog).pools:
            memory(pool)
