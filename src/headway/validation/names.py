"""What a table calls a model, an accelerator, an engine, a number format; and what stands in for what nobody knows."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

from headway.catalog import load
from headway.catalog.words import plain_mapping
from headway.errors import InputError
from headway.reading import read_yaml
from headway.types import Dtype

if TYPE_CHECKING:
    from headway.catalog import Catalog
    from headway.types import Accelerator, Model
    from headway.validation.measurements import Measurement

DATA = Path(__file__).parent / "data"
_DTYPES: tuple[Dtype, ...] = get_args(Dtype)
_NATIVE = ("", "native", "bf16/native", "auto", "default")
_SIZE = re.compile(
    r"(?<![\w.])(\d+(?:\.\d+)?)\s*x?\s*(?:(\d+(?:\.\d+)?)\s*)?b(?:[-_ ]*a(\d+(?:\.\d+)?)b)?", re.IGNORECASE
)
_MEMORY = re.compile(r"(\d+)\s*GB", re.IGNORECASE)
_GIB = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumption:
    """What a row does not say and its replay takes for granted; `code` is counted, `text` is read."""

    code: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineName:
    """Whose scheduling policy, in which version (a number such as 0.15.1; empty: the newest known)."""

    policy: str
    version: str


@cache
def names() -> dict[str, Any]:
    """Return the table of names."""
    return plain_mapping(read_yaml(DATA / "names.yaml"))


@cache
def others() -> Catalog:
    """Return the catalogue with what tables of measurements name beyond it."""
    return load(DATA / "others.yaml")


def model_of(row: Measurement, catalog: Catalog, said: list[Assumption]) -> Model:
    """Return the row's model, or one of the same size."""
    known = _called("models", row.model)
    try:
        model = catalog.model(known.get("is", row.model))
    except InputError:
        try:
            model = others().model(known.get("is", row.model))
        except InputError:
            return _of_size(row, catalog, said)
    if "note" in known:
        said.append(Assumption(code="model_stand_in", text=f"{row.model}: {model.name}, {known['note']}"))
    return model


def _called(kind: str, name: str) -> dict[str, str]:
    found = {key.casefold(): value for key, value in names()[kind].items()}
    return dict(found.get(name.strip().casefold(), {}))


def _of_size(row: Measurement, catalog: Catalog, said: list[Assumption]) -> Model:
    """Return the catalogue's model nearest in size, mixtures for mixtures; an 8B where the name has no size."""
    total, active = _sizes(row)
    moe = active < 0.9 * total

    def distance(model: Model) -> float:
        return abs(math.log(model.params / total)) + abs(math.log(model.params_active / active)) + (model.is_moe != moe)

    model = min(catalog.models, key=distance)
    why = f"{row.model} is not known; {model.name} stands for {total / 1e9:.3g}B ({active / 1e9:.3g}B active)"
    said.append(Assumption(code="unknown_model", text=why))
    return replace(model, name=f"{row.model} (as {model.name})")


def _sizes(row: Measurement) -> tuple[float, float]:
    for text in (row.params, row.model):
        if found := _SIZE.search(text):
            total = float(found[1]) * float(found[2] or 1)
            return total * 1e9, float(found[3] or total) * 1e9
    return 8e9, 8e9


def accelerator_of(row: Measurement, catalog: Catalog, said: list[Assumption]) -> Accelerator:
    """Return the row's accelerator, or one that stands for it."""
    known = _called("accelerators", row.hardware)
    name = known.get("is", row.hardware)
    for source in (catalog, others()):
        for spelling in (name, re.sub(r"^(NVIDIA|AMD Instinct|AMD|Intel|Google)\s+", "", name, flags=re.IGNORECASE)):
            try:
                found = source.accelerator(spelling)
            except InputError:
                continue
            if "note" in known:
                said.append(
                    Assumption(code="accelerator_stand_in", text=f"{row.hardware}: {found.name}, {known['note']}")
                )
            return found
    return _any_accelerator(row, catalog, said)


def _any_accelerator(row: Measurement, catalog: Catalog, said: list[Assumption]) -> Accelerator:
    """An H100, with the memory the name states: the accelerator most measurements are of."""
    found = catalog.accelerator("h100-sxm")
    named = row.hardware or "the row names no hardware"
    said.append(Assumption(code="unknown_accelerator", text=f"{named}: {found.name} stands for it"))
    if memory := _MEMORY.search(row.hardware):
        found = replace(found, hbm_bytes=float(memory[1]) * _GIB)
    return found


def engine_of(row: Measurement, said: list[Assumption]) -> EngineName:
    """Return the policy and version a replay follows."""
    known = _called("engines", row.engine) or _framework(row.engine)
    if not known:
        said.append(Assumption(code="unknown_engine", text=f"{row.engine}: vLLM's policy stands for it"))
        known = {"is": "vllm"}
    elif "note" in known:
        said.append(
            Assumption(code="engine_stand_in", text=f"{row.engine}: the policy of {known['is']}, {known['note']}")
        )
    return EngineName(policy=known["is"], version=known.get("version") or _version(row, known["is"], said))


def _framework(engine: str) -> dict[str, str]:
    word = engine.casefold().split()[0]
    return dict(names()["frameworks"].get(word, {}))


_NUMBER = re.compile(r"(?<![\d.])v?(\d+\.\d+(?:\.\d+)?)")
_VLLM_BUILD = re.compile(r"vllm[- ](\d+\.\d+\.\d+)", re.IGNORECASE)
_TENSORRT = re.compile(r"TensorRT (\d+)\.(\d+)")
_DATE = re.compile(r"(20\d\d)(-\d\d)?")
_MEASURED_ON = re.compile(r"measured (20\d\d)(-\d\d)")


def _version(row: Measurement, policy: str, said: list[Assumption]) -> str:
    """Return the engine's own version number; a date stands for the newest release before it.

    TensorRT-LLM counts 1.x since 2025: smaller numbers are Dynamo's releases, TensorRT's and CUDA's are others again.
    """
    text = row.engine_version
    if build := _VLLM_BUILD.search(text):
        return build[1]
    dated, number = _DATE.match(text), _NUMBER.search(text)
    own = number and not (policy == "tensorrt-llm" and (not number[1].startswith("1.") or "TensorRT" in text))
    if own and not dated and number:
        return number[1]
    if tensorrt := _TENSORRT.search(text):  # 10.8 is of 2025-01
        return _newest(policy, "2025-06" if int(tensorrt[1]) * 100 + int(tensorrt[2]) >= 1008 else "2024-07", said)
    if dated := dated or _MEASURED_ON.search(row.note):
        return _newest(policy, dated[1] + (dated[2] or "-06"), said)
    said.append(
        Assumption(code="version_unknown", text=f"{row.engine} {text or 'of no stated version'}: the newest known")
    )
    return ""


def _newest(policy: str, month: str, said: list[Assumption]) -> str:
    """Return the newest release of that month, `2025-06`."""
    releases = names()["releases"].get(policy, {})
    version = next((number for day, number in reversed(releases.items()) if day <= month), "")
    if version:
        said.append(Assumption(code="version_by_date", text=f"{policy} {version}, the newest of {month}"))
    return str(version)


def weight_dtype_of(row: Measurement, model: Model, said: list[Assumption]) -> Dtype:
    """Return the weights' format; as published where the row does not say."""
    word = row.weight_dtype.strip().casefold()
    if word in _NATIVE:
        if not word:
            said.append(Assumption(code="weights_as_published", text=f"weights as published: {model.weight_dtype}"))
        return model.weight_dtype
    found = names()["formats"].get(word)
    if found not in _DTYPES:
        said.append(Assumption(code="unknown_format", text=f"{row.weight_dtype!r}: as published, {model.weight_dtype}"))
        return model.weight_dtype
    family = row.model.casefold()
    if found == "fp8" and _in_blocks(row, model, family):
        return "fp8_block"
    if found == "nvfp4" and any(family.startswith(maker) for maker in names()["mxfp4_makers"]):
        return "mxfp4"
    return cast("Dtype", found)


def _in_blocks(row: Measurement, model: Model, family: str) -> bool:
    """Go by the kernels where the row names them, then by how the model is published, then by its maker."""
    if model.weight_dtype == "fp8_block" or "fp8_block" in row.note:
        return True
    return "gemm fp8" not in row.note and any(family.startswith(maker) for maker in names()["fp8_blocks"])


def kv_dtype_of(row: Measurement, flags_kv: str, usual: str) -> Dtype:
    """Return the KV cache's format: the row's own, its command's, else what the harness usually sets."""
    word = (row.kv_dtype or flags_kv or usual).casefold()
    return "fp8" if "fp8" in word or "e4m3" in word or "e5m2" in word else "bf16"
