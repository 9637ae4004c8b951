"""Engines and the defaults they resolve."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from headway.catalog import accepts, engine_settings, load
from headway.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from headway.types import EngineSettings


def settings(
    accelerator: str, version: str | None = None, max_model_len: int = 8192, **overrides: Any
) -> EngineSettings:
    catalog = load()
    engine, device = catalog.engine("vllm", version), catalog.accelerator(accelerator)
    return engine_settings(engine, device, max_model_len=max_model_len, overrides=overrides)


@pytest.mark.parametrize(
    ("accelerator", "version", "seqs", "tokens"),
    [
        ("b200", "0.33.0", 1024, 16384),
        ("mi300x", "0.33.0", 1024, 16384),
        ("b200", "0.20.0", 1024, 8192),  # the tier of 160 GiB came later
        ("h100-sxm", "0.33.0", 1024, 8192),
        ("h100-sxm", "0.11.0", 1024, 8192),
        ("h200-sxm", "0.33.0", 1024, 8192),
        ("a100-80-sxm", "0.33.0", 256, 2048),
        ("l4", "0.33.0", 256, 2048),
        ("a10g", "0.11.0", 256, 2048),
        ("cpu", "0.33.0", 128, 2048),
    ],
)
def test_tiers_by_memory(accelerator: str, version: str, seqs: int, tokens: int) -> None:
    got = settings(accelerator, version)
    assert (got.max_num_seqs, got.max_num_batched_tokens) == (seqs, tokens)


def test_defaults_of_each_version() -> None:
    newest, first = settings("h100"), settings("h100", "0.11.0")
    assert newest.gpu_memory_utilization == 0.92
    assert first.gpu_memory_utilization == 0.9
    assert newest.async_scheduling
    assert newest.scheduler_reserve_full_isl
    assert not first.async_scheduling
    assert not first.scheduler_reserve_full_isl
    assert newest.block_size == first.block_size == 16
    assert newest.enable_prefix_caching
    assert newest.enable_chunked_prefill


def test_h100_captures_51_sizes_up_to_512() -> None:
    sizes = settings("h100").cuda_graph_sizes
    assert len(sizes) == 51
    assert sizes[:5] == (1, 2, 4, 8, 16)
    assert sizes[-3:] == (480, 496, 512)
    assert {248, 256, 272} <= set(sizes)
    assert 264 not in sizes


def test_capture_sizes_follow_the_limits() -> None:
    assert settings("b200").cuda_graph_sizes[-1] == 1024
    assert settings("h100", max_num_seqs=50).cuda_graph_sizes[-1] == 96  # every 8 up to 2 x 50
    assert 50 in settings("h100", max_num_seqs=50).cuda_graph_sizes
    assert settings("h100", max_num_seqs=64, max_num_batched_tokens=100).cuda_graph_sizes[-1] == 100
    assert settings("h100", enforce_eager=True).cuda_graph_sizes == ()
    assert settings("cpu").cuda_graph_sizes == ()
    assert settings("h100", cuda_graph_sizes=[8, 1, 8]).cuda_graph_sizes == (1, 8)


def test_limits_not_set_are_lowered_until_they_agree() -> None:
    few = settings("h100", max_num_seqs=4, max_model_len=100)
    assert (few.max_num_seqs, few.max_num_batched_tokens) == (4, 400)
    small = settings("h100", max_num_batched_tokens=512)
    assert (small.max_num_seqs, small.max_num_batched_tokens) == (512, 512)


def test_without_chunked_prefill_a_whole_prompt_must_fit() -> None:
    assert settings("h100", enable_chunked_prefill=False, max_model_len=20000).max_num_batched_tokens == 20000
    with pytest.raises(InputError, match="below max_model_len 20000"):
        settings("h100", enable_chunked_prefill=False, max_model_len=20000, max_num_batched_tokens=8192)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"max_num_seq": 3}, "unknown engine setting 'max_num_seq'.*did you mean 'max_num_seqs'"),
        ({"pipeline_parallel_size": 2}, "unknown engine setting 'pipeline_parallel_size'"),
        ({"max_num_seqs": 0}, "max_num_seqs: expected a whole number above zero, got 0"),
        ({"max_num_seqs": True}, "expected a whole number above zero, got True"),
        ({"gpu_memory_utilization": 1.5}, "expected a fraction above 0, at most 1"),
        ({"async_scheduling": "no"}, "expected true or false"),
        ({"cuda_graph_sizes": [0]}, "expected a list of whole numbers"),
        ({"max_num_seqs": 64, "max_num_batched_tokens": 32}, "max_num_batched_tokens: 32 is below max_num_seqs 64"),
    ],
)
def test_settings_that_cannot_be_are_refused(overrides: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        settings("h100", **overrides)


def test_engines_without_sourced_defaults_say_so() -> None:
    catalog = load()
    for name in ("sglang", "tensorrt-llm", "tgi", "llama.cpp"):
        with pytest.raises(InputError, match=f"no source says what .*{name}"):
            engine_settings(catalog.engine(name), catalog.accelerator("h100"), max_model_len=8192)
    with pytest.raises(InputError, match="resolves on tpu-v5e"):
        engine_settings(catalog.engine("vllm"), catalog.accelerator("tpu-v5e"), max_model_len=8192)


def test_versions_are_ordered_by_number() -> None:
    catalog = load()
    assert catalog.engine("vLLM").version == "0.33.0"
    with pytest.raises(InputError, match=r"unknown version '0.12' of vllm"):
        catalog.engine("vllm", "0.12")
    with pytest.raises(InputError, match=r"unknown engine 'vlm'.*did you mean 'vllm'"):
        catalog.engine("vlm")


@pytest.mark.parametrize(
    ("engine", "accelerator", "dtype", "why"),
    [
        ("vllm", "h100", "fp8", ""),
        ("vllm", "a100", "fp8", ""),  # weight-only
        ("vllm", "t4", "fp8", ""),  # weight-only
        ("vllm 0.20.0", "t4", "fp8", "fp8 needs compute capability 8.0, t4 has 7.5"),
        ("vllm", "t4", "mxfp4", "mxfp4 needs compute capability 8.0, t4 has 7.5"),
        ("vllm", "v100", "bf16", "bf16 needs compute capability 7.5, v100-sxm-32 has 7.0"),
        ("vllm 0.11.0", "v100", "bf16", ""),  # as FP16
        ("vllm", "mi300x", "nvfp4", "takes no nvfp4 weights on amd"),
        ("vllm", "b200", "nvfp4", ""),
        ("vllm", "gaudi3", "bf16", "does not run on intel"),
        ("vllm", "cpu", "fp8", "takes no fp8 weights on cpu"),
        ("sglang", "mi300x", "int8", ""),
        ("sglang", "h100", "nvfp4", "nvfp4 needs compute capability 10.0, h100-sxm has 9.0"),
        ("tensorrt-llm", "h100", "mxfp4", "mxfp4 needs compute capability 10.0, h100-sxm has 9.0"),
        ("tensorrt-llm", "h100", "int8", "takes no int8 weights on nvidia"),
        ("tgi", "t4", "bf16", ""),
        ("tgi", "t4", "fp8", "fp8 needs compute capability 8.0, t4 has 7.5"),
        ("llama.cpp", "cpu", "int4", ""),
    ],
)
def test_what_an_engine_takes_where(engine: str, accelerator: str, dtype: str, why: str) -> None:
    catalog = load()
    name, _, version = engine.partition(" ")
    got = accepts(catalog.engine(name, version or None), catalog.accelerator(accelerator), dtype)
    assert got.endswith(why)
    assert bool(got) == bool(why)


def test_a_user_adds_a_version_of_an_engine(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "sources:\n  mine: {title: my fork, as_of: 2026-01-02}\nengines:\n"
        "  vllm-9.9: {like: vllm-0.33.0, source: mine, version: '9.9', block_size: 32,\n"
        "    tiers: [{least_hbm_bytes: 0 GiB, max_num_seqs: 7, max_num_batched_tokens: 70, vendors: [nvidia]}]}\n",
        encoding="utf-8",
    )
    catalog = load(path)
    engine = catalog.engine("vllm")
    assert engine.version == "9.9"
    got = engine_settings(engine, catalog.accelerator("h100"), max_model_len=4096)
    assert (got.max_num_seqs, got.max_num_batched_tokens, got.block_size) == (7, 70, 32)
    assert engine.provenance["block_size"].source == "my fork"
    assert engine.provenance["async_scheduling"].source != "my fork"


def test_a_tier_that_lacks_a_figure_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "sources:\n  mine: {title: my fork, as_of: 2026-01-02}\nengines:\n"
        "  vllm-9.9: {like: vllm-0.33.0, source: mine, version: '9.9', tiers: [{least_hbm_bytes: 0 GiB}]}\n",
        encoding="utf-8",
    )
    with pytest.raises(InputError, match=r"tiers\[0\]: this tier has no 'max_num_seqs'"):
        load(path)
