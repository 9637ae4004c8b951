"""From rows to loads: lengths, arrivals, counts, drafts, adapters; what the harness is known to do."""

from __future__ import annotations

import dataclasses

import pytest

from headway.catalog import Catalog, load
from headway.validation.configuration import configure
from headway.validation.measurements import Measurement, Tokens
from headway.validation.sources import harness_of

SAMPLE = "aiconfigurator_core==0.12.0 systems/silicon_sample.csv id=x"


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


def test_inferencex_draws_lengths_from_four_fifths_to_the_whole(catalog: Catalog) -> None:
    found = configure(row(source=SAMPLE, quality="A-dump"), catalog)
    assert (found.load.isl_tokens.low, found.load.isl_tokens.high) == (800, 1000)
    assert (found.load.requests, found.harness.name) == (80, "inferencex")
    assert configure(row(source=SAMPLE, quality="A-dump-nv"), catalog).load.isl_tokens.low == 1000


def test_trtllm_bench_sends_so_many_requests_by_lengths(catalog: Catalog) -> None:
    bench = {"source": "NVIDIA/TensorRT-LLM:x.md", "mode": "offline", "concurrency": None, "engine": "TensorRT-LLM"}
    short = row(isl_tokens=tokens(128), osl_tokens=tokens(128), **bench)
    assert configure(short, catalog).load.requests == 30000
    odd = configure(row(isl_tokens=tokens(77), **bench), catalog).load
    assert (odd.requests, odd.arrivals, odd.concurrency) == (1500, "batch", None)


@pytest.mark.parametrize(
    ("changes", "arrivals", "requests"),
    [
        ({"mode": "rate", "request_rate_per_s": 4.0, "note": "duration=120s"}, "poisson", 480),
        ({"mode": "offline", "note": "1,000 requests, burst submit"}, "batch", 1000),
        ({"features": "static batch profile"}, "batch", 8),
        ({"mode": "server", "request_rate_per_s": 4.0}, "poisson", 1000),
        ({"mode": "server"}, "closed", 80),
    ],
)
def test_how_requests_arrive(catalog: Catalog, changes: dict[str, object], arrivals: str, requests: int) -> None:
    found = configure(row(**changes), catalog).load
    assert (found.arrivals, found.requests) == (arrivals, requests)


def test_what_a_row_leaves_out_is_assumed_and_said(catalog: Catalog) -> None:
    mlperf = {"source": "mlcommons/inference_results_v5.1:x", "model": "llama-3.1-405b", "tp": 8}
    found = configure(row(mode="server", isl_tokens=None, request_rate_per_s=2.0, concurrency=None, **mlperf), catalog)
    assert found.load.isl_tokens.mean == pytest.approx(9428, rel=1e-3)
    assert "isl_unknown" in {said.code for said in found.assumptions}
    nothing = configure(row(isl_tokens=None, osl_tokens=None, concurrency=None), catalog)
    assert {"isl_unknown", "osl_unknown", "concurrency_unknown"} <= {said.code for said in nothing.assumptions}
    served = {"requests_per_s": {"mean": 3.0}, "e2e_s": {"mean": 4.0}}
    assert configure(row(concurrency=None, measured=served), catalog).load.concurrency == 12  # Little's law
    assert configure(row(mode="rate", concurrency=None, measured=served), catalog).load.rate_per_s == 3


def test_drafts_adapters_and_figures_of_one_gpu(catalog: Catalog) -> None:
    drafted = configure(row(features="spec:MTP k=1"), catalog).speculation
    assert drafted is not None
    assert (drafted.method, drafted.num_speculative_tokens) == ("mtp", 1)
    assert sum(drafted.accepted) / len(drafted.accepted) == pytest.approx(0.85)
    assert configure(row(features="multi-LoRA n=32"), catalog).adapters == 32
    assert configure(row(note="TGS per GPU (value is PER GPU, not node total)"), catalog).per_gpu
    assert not configure(row(note="published per GPU, multiplied by GPU count"), catalog).per_gpu


def test_every_harness_says_its_source() -> None:
    for source in ("x", SAMPLE, "gpustack/gpustack:a", "S-LoRA/S-LoRA:b", "mlcommons/inference_results_v4.1:c"):
        harness = harness_of(row(source=source))
        assert harness.source
        assert 0 <= harness.isl[0] <= harness.isl[1]
