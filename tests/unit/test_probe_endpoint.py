"""What is made of an endpoint's own words: settings by engine, requests it cannot serve, errors."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headway.errors import InputError
from headway.probe.endpoint import discover
from headway.probe.nouns import Endpoint
from headway.probe.prompts import fitting
from headway.probe.settings import DEFAULTS, Ledger, read, settings
from headway.simulator.policies import POLICIES
from headway.types import EngineSettings, Requests

SAMPLES = Path(__file__).parents[2].parent / "shared" / "samples"


@dataclass
class Pages:
    """What a server was seen to say, by route."""

    pages: dict[str, dict[str, Any]]

    def told(self, route: str) -> dict[str, Any]:
        return self.pages.get(route, {})


def read_of(
    engine: str, pages: dict[str, Any], metrics: str = "", **overrides: object
) -> tuple[Ledger, EngineSettings]:
    ledger = read(engine, Pages(pages), {"max_model_len": None}, metrics, overrides)  # type: ignore[arg-type]
    built = settings(engine, "1.0", ledger)
    assert built is not None
    return ledger, built


def test_every_engine_has_a_policy_with_its_own_settings() -> None:
    for defaults in DEFAULTS.values():
        assert POLICIES[defaults.policy].own is defaults.own


def test_vllm_tells_its_cache_in_a_metric() -> None:
    sample = SAMPLES / "vllm-lora-spec-preempt-metrics.txt"
    if not sample.exists():
        pytest.skip("needs ../shared/samples")
    ledger, built = read_of("vllm", {}, sample.read_text(), max_model_len=1024, max_num_seqs="16")
    assert (built.block_size, built.gpu_memory_utilization, built.enable_prefix_caching) == (32, 0.92, True)
    assert ledger.values["num_gpu_blocks"] == 40
    assert (built.max_num_seqs, ledger.told["max_num_seqs"]) == (16, "given")
    assert ledger.told["block_size"] == "/metrics"
    switches = {"async_scheduling", "enable_chunked_prefill", "scheduler_reserve_full_isl"}
    assert set(ledger.assumed) == {"max_num_batched_tokens"} | switches


def test_vllm_in_development_mode_tells_its_scheduler() -> None:
    scheduler = {"max_num_seqs": 7, "max_num_batched_tokens": 99, "async_scheduling": False}
    page = {"/server_info?config_format=json": {"vllm_config": {"scheduler_config": scheduler}}}
    ledger, built = read_of("vllm", page, max_model_len=64)
    assert (built.max_num_seqs, built.max_num_batched_tokens, built.async_scheduling) == (7, 99, False)
    assert ledger.told["max_num_seqs"] == "/server_info"


def test_sglang_tells_its_arguments() -> None:
    said = {
        "page_size": 4,
        "context_length": None,
        "max_running_requests": None,
        "disable_radix_cache": True,
        "disable_overlap_schedule": False,
        "chunked_prefill_size": 2048,
        "max_total_num_tokens": 4003,
        "internal_states": [{"effective_max_running_requests_per_dp": 48}],
    }
    ledger, built = read_of("sglang", {"/get_server_info": said}, max_model_len=4096)
    assert (built.max_num_seqs, built.block_size, built.enable_prefix_caching) == (48, 4, False)
    assert built.async_scheduling and ledger.values["num_gpu_blocks"] == 1000
    assert built.own is not None and built.own.chunked_prefill_size == 2048  # type: ignore[union-attr]


def test_tgi_tells_its_limits() -> None:
    said = {
        "max_total_tokens": 2048,
        "max_batch_total_tokens": 32000,
        "waiting_served_ratio": 1.2,
        "max_batch_size": None,
    }
    ledger, built = read_of("tgi", {"/info": said})
    assert (built.max_model_len, ledger.values["num_gpu_blocks"], built.async_scheduling) == (2048, 31999, False)
    assert "max_num_seqs" in ledger.assumed
    assert built.own is not None and built.own.waiting_served_ratio == 1.2  # type: ignore[union-attr]


def test_llama_cpp_tells_its_slots_and_what_is_given_goes_first() -> None:
    said = {"total_slots": 4, "default_generation_settings": {"n_ctx": 1024}}
    ledger, built = read_of("llama-cpp", {"/props": said}, n_batch=512)
    assert (built.max_num_seqs, built.max_model_len, built.max_num_batched_tokens) == (4, 1024, 512)
    assert ledger.values["num_gpu_blocks"] == 4096
    assert "kv-unified" in ledger.assumed["num_gpu_blocks"]


def test_without_a_length_there_are_no_settings() -> None:
    ledger = read("vllm", Pages({}), {}, "", {})  # type: ignore[arg-type]
    assert settings("vllm", "", ledger) is None


@pytest.mark.parametrize(("name", "value"), [("max_num_sex", 1), ("max_num_seqs", [1]), ("max_num_seqs", -3)])
def test_what_is_given_is_checked(name: str, value: object) -> None:
    with pytest.raises(InputError, match="max_num"):
        read("vllm", Pages({}), {}, "", {name: value})  # type: ignore[arg-type]


def test_nobody_answers() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(InputError, match="nobody answers"):
            discover(f"http://127.0.0.1:{taken.getsockname()[1]}")


def test_an_unknown_engine_is_refused_before_anybody_is_asked() -> None:
    with pytest.raises(InputError, match="llama-cpp"):
        discover("http://127.0.0.1:9", engine="llamacpp")


def test_requests_that_cannot_be_served_are_left_out_and_counted() -> None:
    built = EngineSettings(max_num_seqs=1, max_num_batched_tokens=64, max_model_len=50, gpu_memory_utilization=1.0)
    endpoint = Endpoint(
        url="", engine="vllm", version="", model="m", settings=built, num_gpu_blocks=0, tokenizer="ids", metrics=False
    )
    requests = Requests(
        arrive_s=np.arange(5.0),
        isl_tokens=np.array([10, 45, 3, 20, 10]),
        osl_tokens=np.array([10, 10, 10, 10, 40]),
        session_id=np.array([0, 1, 2, 1, 0]),
    )
    kept, treatments = fitting(endpoint, requests, least_tokens=5)
    assert kept.tolist() == [True, False, False, False, True]
    assert [each.rows for each in treatments] == [1, 1, 1]
