"""Laws of rows: any row can be replayed, groups never split, reading loses nothing."""

from __future__ import annotations

import csv
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from headway.catalog import load
from headway.perf import memory
from headway.validation.checks import findings_of, read_floor_s
from headway.validation.configuration import configure
from headway.validation.measurements import FOLDS, MODES, Measurement, Tokens, source_family
from headway.validation.reader import read_table

CATALOG = load()
MODELS = (
    "llama-3.1-8b",
    "llama-3.1-405b",
    "deepseek-r1",
    "gpt-oss-120b",
    "qwen3.5-397b-a17b",
    "bloom-176b",
    "a-7b",
    "?",
)
HARDWARE = (
    "H100-SXM",
    "B200",
    "GB200",
    "MI300X",
    "TPU-v6e",
    "Ascend910B",
    "3070 8GB",
    "M2 Ultra 76-Core GPU 192GB",
    "",
)
ENGINES = ("vLLM", "SGLang", "TensorRT-LLM", "TGI", "llama.cpp", "MindIE", "own")
VERSIONS = ("", "nan", "0.6.3", "v0.11.0", "2024-11", "0.8.1.post2", "TensorRT 10.8, CUDA 12.8", "nightly-dev", "main")
FEATURES = (
    "",
    "aggregated",
    "disagg",
    "static batch profile",
    "spec:mtp",
    "multi-LoRA n=5",
    "prefill only",
    "single stream",
)
few = st.none() | st.integers(0, 72)
lengths = st.none() | st.tuples(st.integers(1, 9000), st.integers(0, 900)).map(
    lambda pair: Tokens(low=pair[0], high=sum(pair))
)


@st.composite
def rows(draw: st.DrawFn) -> Measurement:
    return Measurement(
        row="r",
        line=2,
        model=draw(st.sampled_from(MODELS)),
        hardware=draw(st.sampled_from(HARDWARE)),
        engine=draw(st.sampled_from(ENGINES)),
        engine_version=draw(st.sampled_from(VERSIONS)),
        gpus=draw(few),
        tp=draw(few),
        pp=draw(st.none() | st.integers(0, 8)),
        ep=draw(few),
        dp=draw(few),
        weight_dtype=draw(st.sampled_from(("", "fp8", "fp4", "bf16", "int4", "q4_k_m", "odd"))),
        isl_tokens=draw(lengths),
        osl_tokens=draw(lengths),
        mode=draw(st.sampled_from(MODES)),
        concurrency=draw(st.none() | st.integers(0, 5000)),
        request_rate_per_s=draw(st.none() | st.floats(0.1, 500)),
        measured={"tpot_s": {"p50": draw(st.floats(1e-4, 1.0))}},
        features=draw(st.sampled_from(FEATURES)),
        source=draw(
            st.sampled_from(
                ("x", "gpustack/gpustack:a.md", "aiconfigurator_core==0.12.0 systems/silicon_sample.csv id=1")
            )
        ),
        quality=draw(st.sampled_from(("A-dump", "A-dump-nv", ""))),
        note=draw(
            st.sampled_from(("", "prefill ? workers x (tp4,dp1,ep4); decode 2 x (tp16,dp1,ep4); measured 2026-02-12"))
        ),
    )


@settings(max_examples=150, deadline=None)
@given(row=rows())
def test_any_row_becomes_something_that_fits_and_is_asked_for_something(row: Measurement) -> None:
    found = configure(row, CATALOG)
    assert [pool.role for pool in found.pools] in (["mixed"], ["prefill", "decode"])
    for pool in found.pools:
        assert memory(pool).num_gpu_blocks > 0
        assert pool.replicas >= 1
        assert pool.settings.max_model_len >= found.load.isl_tokens.high + found.load.osl_tokens.high
    assert 1 <= found.load.isl_tokens.low <= found.load.isl_tokens.high
    assert found.load.arrivals != "poisson" or (found.load.rate_per_s or 0) > 0
    assert found.load.arrivals != "closed" or (found.load.concurrency or 0) >= 1
    assert configure(row, CATALOG) == found
    floored = row.measured["tpot_s"]["p50"] < read_floor_s(found)
    assert ("below_weight_reads" in {finding.code for finding in findings_of(row, found)}) is floored


@given(
    owner=st.from_regex(r"[A-Za-z][\w-]{1,12}/[A-Za-z][\w-]{1,12}", fullmatch=True),
    places=st.lists(st.from_regex(r"[:#@][\w/.-]{1,20}", fullmatch=True), min_size=2, max_size=2),
)
def test_places_in_one_publication_share_its_family_and_fold(owner: str, places: list[str]) -> None:
    assert {source_family(owner + place) for place in places} == {owner}
    one, other = (
        Measurement(row=str(i), line=i, model="m", hardware="h", engine="e", measured={}, source=owner + place)
        for i, place in enumerate(places)
    )
    assert one.group == other.group
    assert one.fold == other.fold in range(FOLDS)


cells = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), max_size=12)


@settings(deadline=None)
@given(lines=st.lists(st.tuples(cells, cells, cells, cells), min_size=1, max_size=8))
def test_every_row_is_read_or_has_a_finding(lines: list[tuple[str, str, str, str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.csv"
        with path.open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file)
            table.writerow(("model", "hardware", "engine", "tpot_ms_p50", "id"))
            table.writerows((*line, "id") for line in lines)
        found = read_table(path)
    assert found.rows == len(lines)
    assert len(found.measurements) + len(found.findings) == found.rows
