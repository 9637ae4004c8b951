"""Laws of error bands: they cover what they say; less knowledge, more load or more confidence never narrow them."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headway.catalog import load
from headway.errors import EvidenceError, InputError
from headway.perf import bands
from headway.perf.bands import LIKENESSES, band, band_fold, figure_of, kind_of, likeness_of, unsafe_frac
from headway.perf.corrections import group_name
from headway.perf.regions import REGIONS
from headway.types import EngineSettings, Parallelism, Pool

CATALOG = load()
METRICS = ("ttft", "tpot", "itl", "e2e", "output_tokens_per_s", "requests_per_s", "total_tokens_per_s")
LAWS = settings(max_examples=100, deadline=None)


def pool(accelerator: str = "h100-sxm", engine: str = "vllm", model: str = "meta-llama/Llama-3.1-8B-Instruct") -> Pool:
    return Pool(
        name="main",
        model=CATALOG.model(model),
        accelerator=CATALOG.accelerator(accelerator),
        engine=engine,
        engine_version="0.33.0",
        settings=EngineSettings(
            max_model_len=8192, max_num_seqs=256, max_num_batched_tokens=8192, gpu_memory_utilization=0.9
        ),
        parallelism=Parallelism(tp=1),
        weight_dtype="bf16",
        kv_dtype="bf16",
        replicas=1,
    )


pools = st.builds(
    pool,
    st.sampled_from(["h100-sxm", "mi300x", "l40s", "b200", "gaudi3"]),
    st.sampled_from(["vllm", "sglang", "of nobody"]),
    st.sampled_from(["meta-llama/Llama-3.1-8B-Instruct", "openai/gpt-oss-20b"]),
)
metrics, regions = st.sampled_from(METRICS), st.sampled_from([None, *REGIONS])
percentiles = st.sampled_from([None, 0.5, 0.9, 0.99])
confidences = st.floats(0.01, 0.95)


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "tools"))
    import fit_bands

    return fit_bands


# --- as stored -------------------------------------------------------------------------------------------


@LAWS
@given(metric=metrics, one=pools, at=percentiles, region=regions, shares=st.tuples(confidences, confidences))
def test_more_confidence_never_narrows_a_band(
    metric: str, one: Pool, at: float | None, region: bands.Region | None, shares: tuple[float, float]
) -> None:
    less, more = (
        band(metric, one, percentile_frac=at, region=region, confidence_frac=share) for share in sorted(shares)
    )
    assert more.low_frac <= less.low_frac <= 0 <= less.high_frac <= more.high_frac
    assert less.low_frac > -1
    assert less.source


@LAWS
@given(metric=metrics, one=pools, at=percentiles)
def test_more_load_never_narrows_a_band(metric: str, one: Pool, at: float | None) -> None:
    found = [band(metric, one, percentile_frac=at, region=region) for region in REGIONS]
    assert [b.high_frac for b in found] == sorted(b.high_frac for b in found)
    assert [b.low_frac for b in found] == sorted((b.low_frac for b in found), reverse=True)


@LAWS
@given(metric=metrics, at=percentiles, region=regions, fold=st.sampled_from([None, 0, 1, 2, 3, 4]))
def test_the_less_was_measured_alike_the_wider(
    metric: str, at: float | None, region: bands.Region | None, fold: int | None
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        found = []
        for likeness in LIKENESSES:
            patch.setattr(bands, "likeness_of", lambda *_, likeness=likeness: likeness)
            found.append(band(metric, pool(), percentile_frac=at, region=region, fold=fold))
    assert [b.high_frac for b in found] == sorted(b.high_frac for b in found)
    assert [b.low_frac for b in found] == sorted((b.low_frac for b in found), reverse=True)


@LAWS
@given(metric=metrics, one=pools, region=regions)
def test_a_tail_is_no_narrower_than_its_metric(metric: str, one: Pool, region: bands.Region | None) -> None:
    body, tail = band(metric, one, region=region), band(metric, one, percentile_frac=0.99, region=region)
    assert tail.low_frac <= body.low_frac
    assert tail.high_frac >= body.high_frac


@LAWS
@given(one=pools, region=st.sampled_from(REGIONS), shares=st.tuples(*[st.floats(0.5, 0.975)] * 2))
def test_the_safe_side_grows_with_confidence_from_the_prediction(
    one: Pool, region: bands.Region, shares: tuple[float, float]
) -> None:
    less, more = (unsafe_frac("ttft", one, c, percentile_frac=0.95, region=region) for c in sorted(shares))
    assert 0 <= less <= more
    assert unsafe_frac("ttft", one, 0.5, percentile_frac=0.95, region=region) == 0
    two_sided = band("ttft", one, percentile_frac=0.95, region=region, confidence_frac=0.9)
    assert unsafe_frac("ttft", one, 0.95, percentile_frac=0.95, region=region) == pytest.approx(two_sided.high_frac)


def test_likeness_names_what_was_measured() -> None:
    assert likeness_of(pool("h100-sxm", "vllm")) == "this deployment"
    assert likeness_of(pool("h100-sxm", "of nobody")) == "accelerator"
    assert likeness_of(pool("gaudi3", "of nobody")) in LIKENESSES[2:]


def test_what_cannot_be_asked_is_refused() -> None:
    with pytest.raises(EvidenceError, match="did you mean 'tpot'"):
        band("tpott", pool())
    with pytest.raises(InputError, match=r"no band of 99\.5 % on one side"):
        band("tpot", pool(), confidence_frac=0.99)


@pytest.mark.parametrize(
    ("name", "metric", "percentile", "kind"),
    [
        ("ttft_s", "ttft", None, "ttft"),
        ("ttft_p99_s", "ttft", 0.99, "ttft tail"),
        ("tpot_p90_s", "tpot", 0.9, "tpot tail"),
        ("e2e_p75_s", "e2e", 0.75, "e2e"),
        ("output_tokens_per_s", "output_tokens_per_s", None, "output_tokens_per_s"),
    ],
)
def test_figures_are_named_as_a_scorecard_names_them(
    name: str, metric: str, percentile: float | None, kind: str
) -> None:
    assert figure_of(name) == (metric, percentile)
    assert kind_of(metric, percentile) == kind


# --- as fitted -------------------------------------------------------------------------------------------


def residuals(tool: ModuleType, seed: int, groups: int, scale: float = 0.2) -> list[object]:
    """Draw groups of rows with an error each and one of their own: exchangeable by group."""
    rng = np.random.default_rng(seed)
    found = []
    for group in range(groups):
        shared = rng.normal(0.0, scale)
        found += [
            tool.Residual(
                metric="tpot",
                log=shared + rng.standard_t(4) * scale / 2,
                likeness=LIKENESSES[group % 4],
                region=REGIONS[group % 3],
                serving="together",
                group=str(group),
                fold=group % 5,
                axes={},
            )
            for _ in range(int(rng.integers(2, 120)))
        ]
    return found


@pytest.mark.parametrize("seed", range(5))
def test_bands_cover_groups_they_never_saw(tool: ModuleType, seed: int) -> None:
    seen, unseen = residuals(tool, seed, 120), residuals(tool, 100 + seed, 120)
    at = tool.CONFIDENCES.index(0.9)
    edges = tool.fit(seen)["tpot"][2:]
    low, high = edges[at], edges[at + len(tool.CONFIDENCES)]
    assert 0.85 <= np.mean([low <= r.log <= high for r in unseen]) <= 0.95  # type: ignore[attr-defined]


def test_one_large_group_does_not_decide(tool: ModuleType) -> None:
    many = residuals(tool, 0, 60)
    template = many[0]
    large = [replace(template, group="large", log=5.0) for _ in range(20_000)]  # type: ignore[type-var]
    alone, beside = tool.fit(many)["tpot"], tool.fit([*many, *large])["tpot"]
    at = 2 + len(tool.CONFIDENCES) + tool.CONFIDENCES.index(0.8)
    assert beside[at] == pytest.approx(alone[at], abs=0.15)


def test_few_residuals_say_nothing_of_their_own(tool: ModuleType) -> None:
    few = residuals(tool, 0, tool.LEAST_GROUPS - 1)
    assert list(tool.fit(few)) == ["tpot"]
    assert tool.upper_edge(np.zeros(18), np.ones(18), 0.95) == math.inf
    assert tool.upper_edge(np.arange(19.0), np.ones(19), 0.95) == 18.0


def test_the_document_is_the_same_bytes_again(tool: ModuleType) -> None:
    rows = residuals(tool, 3, 20)
    texts = [
        tool.text_of(tool.document(one, {"a": "01"}, {"g": 1}, table="t.csv", as_of="2026-01-01"))
        for one in (rows, list(reversed(rows)))
    ]
    assert texts[0] == texts[1]
    assert json.loads(texts[0])["sets"]["all"]["tpot"][0] == len(rows)


def test_a_fold_is_fitted_without_its_groups(tool: ModuleType) -> None:
    rows = residuals(tool, 1, 40)
    found = tool.document(rows, {}, {}, table="t.csv", as_of="2026-01-01")["sets"]
    for fold in range(tool.FOLDS):
        without = [r for r in rows if r.fold != fold]  # type: ignore[attr-defined]
        assert found[str(fold)] == tool.fit(without)
        assert found[str(fold)]["tpot"][0] < found["all"]["tpot"][0]


def test_a_group_no_band_saw_has_no_fold() -> None:
    assert band_fold(("nobody", "h100", "vllm", "9.9")) is None
    folds = set(bands.stored()["groups"].values())
    assert folds <= set(range(5))
    assert group_name(("nobody", "h100", "vllm", "9.9")) not in bands.stored()["groups"]
