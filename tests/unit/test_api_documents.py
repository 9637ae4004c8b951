"""Documents: what JSON cannot say is said beside it, and the same result gives the same text."""

from __future__ import annotations

import datetime as dt
import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway import __version__
from headway.api.documents import document, dumps
from headway.types import Accelerator, Engine, Provenance


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    content: object
    hidden: object = field(default=None, metadata={"document": False})


def at(data: object, pointer: str) -> object:
    """Follow a JSON pointer (RFC 6901)."""
    for part in pointer.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        data = data[int(key)] if isinstance(data, list) else data[key]  # type: ignore[index]
    return data


def tpu(name: str = "tpu-x") -> Accelerator:
    return Accelerator(
        name=name,
        title="X",
        vendor="google",
        hbm_bytes=1e10,
        hbm_bytes_per_s=1e12,
        peak_flops_per_s={"bf16": 1e14},
        scale_up_gpus=4,
        scale_up_bytes_per_s=1e11,
        scale_out_bytes_per_s=1e10,
        gpus_per_node=4,
        board_power_w=math.nan,
        provenance={"hbm_bytes": Provenance(source="a", as_of="2026-01-01")},
    )


def test_a_document_says_its_version_and_schema() -> None:
    made = document("catalog show", Box(content=1))
    assert made == {"headway": __version__, "schema": "catalog-show/1", "content": 1, "not_finite": {}}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float64(0.5), 0.5),
        (np.int64(7), 7),
        (np.bool_(True), True),
        (np.arange(3), [0, 1, 2]),
        ((1, "a", None, True), [1, "a", None, True]),
        ({0.95: 1.0, 0.999: 2.0, 1: 3}, {"0.95": 1.0, "0.999": 2.0, "1": 3}),
        (Path("a/b"), "a/b"),
        (dt.date(2026, 11, 21), "2026-11-21"),
    ],
    ids=str,
)
def test_values_have_one_form(value: object, expected: object) -> None:
    found = document("plan", Box(content=value))["content"]
    assert found == expected
    assert type(found) is type(expected)


@given(st.recursive(st.floats() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)))
def test_a_document_is_json_and_every_figure_comes_back(value: object) -> None:
    made = json.loads(dumps("plan", Box(content=value)))
    for pointer, figure in made["not_finite"].items():
        assert at(made, pointer) is None
        assert not math.isfinite(float(figure))
    assert restored(made["content"], made["not_finite"], "/content") == plain(value)


def restored(data: object, lost: dict[str, str], pointer: str) -> object:
    if pointer in lost:
        return lost[pointer]
    if isinstance(data, list):
        return [restored(item, lost, f"{pointer}/{i}") for i, item in enumerate(data)]
    if isinstance(data, dict):
        return {k: restored(v, lost, f"{pointer}/{k.replace('~', '~0').replace('/', '~1')}") for k, v in data.items()}
    return data


def plain(value: object) -> object:
    """The value with figures that are not finite as text, so that NaN equals itself."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return repr(value) if isinstance(value, float) and not math.isfinite(value) else value


def test_a_named_noun_stands_once_with_its_provenance() -> None:
    made = document("plan", Box(content=[tpu(), tpu(), tpu("tpu-y")]))
    assert made["content"] == ["tpu-x", "tpu-x", "tpu-y"]
    assert set(made["facts"]["accelerators"]) == {"tpu-x", "tpu-y"}
    assert made["facts"]["accelerators"]["tpu-x"]["provenance"]["hbm_bytes"]["as_of"] == "2026-01-01"
    assert set(made["not_finite"]) == {
        "/facts/accelerators/tpu-x/board_power_w",
        "/facts/accelerators/tpu-y/board_power_w",
    }


def test_an_engine_is_named_with_its_version() -> None:
    flags = dict.fromkeys(
        ("enable_prefix_caching", "enable_chunked_prefill", "scheduler_reserve_full_isl", "async_scheduling"), True
    )
    engine = Engine(
        name="vllm",
        version="1.0",
        title="",
        simulated=True,
        vendors=(),
        weight_dtypes={},
        least_compute_capability={},
        gpu_memory_utilization=0.9,
        block_size=16,
        **flags,
    )
    assert document("plan", Box(content=engine))["content"] == "vllm 1.0"


def test_a_field_that_says_so_is_left_out() -> None:
    assert "hidden" not in document("plan", Box(content=1, hidden=np.zeros(10**6)))


def test_what_has_no_form_is_refused_by_its_place() -> None:
    with pytest.raises(TypeError, match="/content/a/1"):
        document("plan", Box(content={"a": [1, object()]}))
