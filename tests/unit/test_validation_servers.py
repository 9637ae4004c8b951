"""What InferenceX's servers were started with, checked against their scripts read by hand, and its laws."""

from __future__ import annotations

from dataclasses import replace

import pytest

from headway.catalog import load
from headway.types import SglangSettings, TensorRtLlmSettings
from headway.validation.configuration import configure
from headway.validation.flags import flags, kv_dtype
from headway.validation.measurements import Measurement, Tokens
from headway.validation.servers import _servers, server_of

CATALOG = load()
DUMP = "aiconfigurator_core==0.12.0 systems/silicon_sample.csv id=1"


def row(model: str, engine: str, day: str, **words: object) -> Measurement:
    """A row of the dump: 1024 in, 1024 out on eight B200 in FP8 unless said otherwise."""
    usual: dict[str, object] = {"hardware": "B200", "gpus": 8, "tp": 8, "ep": 1, "weight_dtype": "fp8"}
    tokens = Tokens(low=1024, high=1024)
    usual |= {"isl_tokens": tokens, "osl_tokens": tokens, "concurrency": 64, "mode": "concurrency"}
    usual |= {"row": "dump_1", "line": 2, "quality": "A-dump", "source": DUMP, "engine_version": ""}
    usual |= {"measured": {"tpot_s": {"mean": 0.01}}}
    return Measurement(**(usual | {"model": model, "engine": engine, "note": f"measured {day};"} | words))  # type: ignore[arg-type]


def options(one: Measurement) -> str:
    """What its server was started with, by the script's own name."""
    engine = {"SGLang": "sglang", "TensorRT-LLM": "tensorrt-llm", "vLLM": "vllm"}[one.engine]
    found = server_of(
        one, CATALOG.accelerator({"B200": "b200-sxm", "H200-SXM": "h200-sxm"}[one.hardware]), engine, None
    )
    return found.options if found else ""


@pytest.mark.parametrize(("clients", "steps"), [(4, 10), (15, 10), (16, 30), (64, 30)])
def test_sglang_looks_for_requests_as_its_script_of_the_day_says(clients: int, steps: int) -> None:
    # benchmarks/single_node/dsr1_fp8_b200.sh@626932a
    one = options(row("deepseek-r1", "SGLang", "2026-04-02", concurrency=clients))
    found = flags(one)
    assert found["scheduler_recv_interval"] == steps
    assert (found["max_num_batched_tokens"], found["max_prefill_tokens"], found["max_num_seqs"]) == (32768, 32768, 128)
    assert (found["gpu_memory_utilization"], kv_dtype(one)) == (0.82, "fp8_e4m3")


def test_on_four_gpus_the_same_script_has_smaller_chunks() -> None:
    found = flags(options(row("deepseek-r1", "SGLang", "2026-04-02", tp=4, gpus=4)))
    assert (found["max_num_batched_tokens"], found["scheduler_recv_interval"]) == (8192, 10)


@pytest.mark.parametrize("hardware", ["B200", "H200-SXM"])
def test_trtllm_of_llama_waits_for_a_batch_on_fewer_than_eight_gpus(hardware: str) -> None:
    # benchmarks/70b_fp8_{b200,h200}_trt_slurm.sh@1b563c8: only 1024/1024
    four = row("llama-3.1-70b", "TensorRT-LLM", "2025-10-29", hardware=hardware, tp=4, gpus=4)
    found = flags(options(four))
    assert (found["batch_wait_timeout_iters"], found["batch_wait_max_tokens_ratio"]) == (20, 0.9)
    longer = replace(four, osl_tokens=Tokens(low=8192, high=8192))
    for other in (replace(four, tp=8, gpus=8), longer):
        assert "batch_wait_timeout_iters" not in flags(options(other))
        assert flags(options(other))["max_num_batched_tokens"] == 16384


def test_a_day_without_a_script_takes_the_nearest() -> None:
    early, late = (
        options(row("llama-3.1-70b", "vLLM", day, hardware="H200-SXM")) for day in ("2025-01-01", "2026-11-01")
    )
    assert early == late != ""


def test_the_settings_reach_the_engine() -> None:
    sglang = configure(row("deepseek-r1", "SGLang", "2026-04-02", engine_version="0.5.9"), CATALOG).pool.settings
    assert isinstance(sglang.own, SglangSettings)
    assert (sglang.own.scheduler_recv_interval, sglang.own.chunked_prefill_size) == (30, 32768)
    configured = configure(row("llama-3.1-70b", "TensorRT-LLM", "2025-10-29", tp=2, gpus=2), CATALOG)
    trtllm = configured.pool.settings
    assert isinstance(trtllm.own, TensorRtLlmSettings)
    assert (trtllm.own.batch_wait_timeout_iters, trtllm.own.batch_wait_max_tokens_ratio) == (20, 0.9)
    assert trtllm.max_num_batched_tokens == 16384
    assert "server_script" in {one.code for one in configured.assumptions}


def test_what_the_note_quotes_goes_before_the_script() -> None:
    one = row("deepseek-r1", "SGLang", "2026-04-02")
    quoted = replace(one, note=one.note + " --chunked-prefill-size 4096")
    own = configure(quoted, CATALOG).pool.settings.own
    assert isinstance(own, SglangSettings)
    assert (own.chunked_prefill_size, own.scheduler_recv_interval) == (4096, 30)


def test_vllm_takes_a_seat_for_each_client() -> None:
    one = row("gpt-oss-120b", "vLLM", "2026-04-02", hardware="H200-SXM", weight_dtype="fp4", concurrency=32)
    assert configure(one, CATALOG).pool.settings.max_num_seqs == 32


def test_every_option_is_one_that_is_read() -> None:
    for servers in _servers().values():
        for one in servers:
            said = one.options.replace("=conc", "=8")
            names = {word.partition("=")[0] for word in said.split()} - {"--kv-cache-dtype"}
            assert len(flags(said)) == len(names - {"--async-scheduling"}) + ("--async-scheduling" in names)
            assert one.since < one.until
