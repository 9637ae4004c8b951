"""Laws of the catalogue: what is written reads back the same, and nothing that is read brings it down."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from headway.catalog import accepts, engine_settings, load, read_config_json
from headway.catalog.engines import graph_sizes
from headway.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from headway.types import Engine

CATALOG = load()
FRESH = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
NAMES = {kind: sorted(CATALOG.entries(kind)) for kind in ("links", "accelerators", "models", "engines")}
NOUN = {"links": CATALOG.link, "accelerators": CATALOG.accelerator, "models": CATALOG.model}


@settings(FRESH, max_examples=60)
@given(data=st.data())
def test_an_entry_written_and_read_as_the_users_own_is_the_same(tmp_path: Path, data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(sorted(NAMES)))
    name = data.draw(st.sampled_from(NAMES[kind]))
    path = tmp_path / "mine.yaml"
    path.write_text(CATALOG.yaml(kind, name), encoding="utf-8")
    again = load(path)
    if kind == "engines":
        entry = CATALOG.entry(kind, name)
        named = entry.text("engine"), entry.text("version")
        assert again.engine(*named) == CATALOG.engine(*named)
    else:
        assert getattr(again, kind.removesuffix("s"))(name) == NOUN[kind](name)
    assert again.entry(kind, name).provenance() == CATALOG.entry(kind, name).provenance()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
WORDS = sorted(
    {word for entry in CATALOG.entries("models").values() for word in entry.group("config")}
    | {"text_config", "linear_attn_config", "n_layer", "moe_layers", "attn_type_list", "layer_types", "no_rope_layers"}
)


def only_input_errors(path: Path) -> None:
    try:
        model = read_config_json(path)
    except InputError:
        return
    assert model.params >= model.params_active > 0
    assert model.num_hidden_layers > 0


@FRESH
@given(text=st.binary(max_size=200))
@example(text=b"\xff\xfe{}")
@example(text=b'{"a": NaN}')
def test_any_bytes_as_config_are_read_or_refused(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(text)
    only_input_errors(path)


@settings(FRESH, max_examples=400)
@given(
    name=st.sampled_from(NAMES["models"]),
    changes=st.dictionaries(st.sampled_from(WORDS), JSON | st.integers(-1, 300), max_size=3),
    dropped=st.sets(st.sampled_from(WORDS), max_size=2),
)
def test_any_change_to_a_real_config_is_read_or_refused(
    tmp_path: Path, name: str, changes: dict[str, Any], dropped: set[str]
) -> None:
    from headway.catalog.words import plain

    words = {key: plain(node) for key, node in CATALOG.entry("models", name).group("config").items()}
    words = {key: value for key, value in (words | changes).items() if key not in dropped}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(words), encoding="utf-8")
    only_input_errors(path)


def load_or_refuse(path: Path) -> None:
    try:
        load(path)
    except InputError as error:
        assert str(path) in str(error) or "headway" in str(error)


@FRESH
@given(text=st.binary(max_size=200), suffix=st.sampled_from(["yaml", "csv"]))
def test_any_bytes_as_a_users_file_are_read_or_refused(tmp_path: Path, text: bytes, suffix: str) -> None:
    path = tmp_path / f"mine.{suffix}"
    path.write_bytes(text)
    load_or_refuse(path)


@settings(FRESH, max_examples=300)
@given(data=st.data())
def test_any_change_to_a_shipped_entry_is_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(sorted(NAMES)))
    text = CATALOG.yaml(kind, data.draw(st.sampled_from(NAMES[kind])))
    start = data.draw(st.integers(0, len(text)))
    end = min(len(text), start + data.draw(st.integers(0, 20)))
    piece = data.draw(st.text(max_size=5) | st.sampled_from(["&a *a", "{", "]", "0", "-1", ": ", "!!x", "null"]))
    path = tmp_path / "mine.yaml"
    path.write_text(text[:start] + piece + text[end:], encoding="utf-8", errors="replace")
    load_or_refuse(path)


HEADERS = (
    "provider,region,zone,instance,accelerator,gpus,term,usd_per_hour,as_of,source",
    "ProviderName,RegionId,PricingCategory,PricingQuantity,PricingUnit,EffectiveCost,ChargePeriodStart,SkuPriceDetails",
)
CELL = st.text(max_size=6) | st.sampled_from(
    ["h100", "8", "1e999", "on-demand", "Standard", "Hours", '"p5.48xlarge"', "-3"]
)


@settings(FRESH, max_examples=200)
@given(header=st.sampled_from(HEADERS), rows=st.lists(st.lists(CELL, max_size=11), max_size=4))
def test_any_cells_as_prices_are_read_or_refused(tmp_path: Path, header: str, rows: list[list[str]]) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("\n".join([header, *(",".join(row) for row in rows)]), encoding="utf-8", errors="replace")
    load_or_refuse(path)


@given(
    accelerator=st.sampled_from([a for a in CATALOG.accelerators if a.vendor in ("nvidia", "amd", "cpu")]),
    version=st.sampled_from(["0.11.0", "0.20.0", "0.32.0", "0.33.0"]),
    max_model_len=st.integers(1, 200_000),
    seqs=st.none() | st.integers(1, 4096),
    tokens=st.none() | st.integers(1, 65536),
)
def test_settings_resolved_agree_with_each_other(
    accelerator: Any, version: str, max_model_len: int, seqs: int | None, tokens: int | None
) -> None:
    given_ = {k: v for k, v in {"max_num_seqs": seqs, "max_num_batched_tokens": tokens}.items() if v is not None}
    try:
        got = engine_settings(
            CATALOG.engine("vllm", version), accelerator, max_model_len=max_model_len, overrides=given_
        )
    except InputError:
        assert seqs is not None
        assert (tokens or max_model_len * seqs) < seqs or tokens is None
        return
    assert got.max_num_seqs <= got.max_num_batched_tokens
    assert all(getattr(got, name) == value for name, value in given_.items())
    assert list(got.cuda_graph_sizes) == sorted(set(got.cuda_graph_sizes))
    assert max(got.cuda_graph_sizes, default=0) <= got.max_num_batched_tokens
    if seqs is None and tokens is None:
        assert got.max_num_batched_tokens <= got.max_num_seqs * max_model_len or got.max_num_batched_tokens == 1


@given(limit=st.integers(0, 2048), seqs=st.integers(1, 2048), tokens=st.integers(1, 20000))
def test_every_batch_up_to_the_largest_capture_is_padded_by_less_than_16(limit: int, seqs: int, tokens: int) -> None:
    sizes = graph_sizes(limit, seqs, tokens)
    assert all(0 < size <= limit for size in sizes)
    assert all(after - before <= 16 for before, after in itertools.pairwise(sizes))
    if sizes:
        assert min(2 * seqs, limit, tokens) - sizes[-1] < 16


@pytest.mark.parametrize("engine", CATALOG.engines, ids=lambda engine: f"{engine.name}-{engine.version}")
@pytest.mark.parametrize("dtype", ["bf16", "fp8", "fp8_block", "int8", "int4", "nvfp4", "mxfp4"])
def test_more_capability_never_takes_less(engine: Engine, dtype: str) -> None:
    cards = sorted((a for a in CATALOG.accelerators if a.vendor == "nvidia"), key=lambda a: float(a.compute_capability))
    taken = [not accepts(engine, card, dtype) for card in cards]
    assert taken == sorted(taken)
    assert taken[-1] == (dtype in engine.weight_dtypes["nvidia"])
