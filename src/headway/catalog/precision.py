"""The number format of a checkpoint's weights, from its `quantization_config`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from headway.catalog.words import Words
    from headway.types import Dtype

#: how each `quant_method` says its format
_FAMILY = {
    "modelopt": "modelopt",
    "compressed-tensors": "groups",
    "fp8": "fp8",
    "fbgemm_fp8": "fp8",
    "mxfp4": "mxfp4",
    "awq": "bits",
    "gptq": "bits",
    "auto-round": "bits",
    "bitsandbytes": "bits",
}


#: what ModelOpt's `quant_algo` contains, the more special first
_ALGORITHMS: dict[str, Dtype] = {
    "NVFP4": "nvfp4",
    "MXFP4": "mxfp4",
    "FP8_PB": "fp8_block",
    "FP8": "fp8",
    "AWQ": "int4",
    "INT4": "int4",
    "INT8": "int8",
}
_NARROWEST_FIRST: tuple[Dtype, ...] = ("nvfp4", "mxfp4", "int4", "fp8_block", "fp8", "int8")


def weight_dtype(config: Words) -> Dtype:
    """Return the format most weights are published in; 16-bit (and 32-bit) floats count as `bf16`.

    Raises:
        InputError: a quantisation that is not known.
    """
    if not config.has("quantization_config"):
        return "bf16"
    quantisation = config.section("quantization_config")
    method = quantisation.text("quant_method").lower()
    family = "modelopt" if quantisation.get("quant_algo") else _FAMILY.get(method)
    if family is None:
        quantisation.fail("quant_method", f"{method[:40]!r} is not known here; known: {', '.join(_FAMILY)}")
    return _READERS[family](quantisation)


def _fp8(quantisation: Words) -> Dtype:
    return "fp8_block" if quantisation.items("weight_block_size") else "fp8"


def _bits(quantisation: Words) -> Dtype:
    wide = 8 if quantisation.get("load_in_8bit", "_load_in_8bit") is True else 4
    bits = quantisation.integer("bits", "w_bit", default=wide)
    if bits not in (4, 8):
        quantisation.fail("bits", f"expected 4 or 8, got {bits}")
    return "int4" if bits == 4 else "int8"


def _modelopt(quantisation: Words) -> Dtype:
    """NVIDIA's ModelOpt names one algorithm, or one for each layer or group of layers."""
    algorithm = quantisation.text("quant_algo").upper()
    for word, dtype in _ALGORITHMS.items():
        if word in algorithm:
            return dtype
    layers = quantisation.section("quantized_layers")
    named = [layers.section(name).text("quant_algo").upper() for name in layers.words]
    found = [dtype for name in named for word, dtype in _ALGORITHMS.items() if word in name]
    return _narrowest(found) or _by_groups(quantisation)


def _by_groups(quantisation: Words) -> Dtype:
    """Go by the bits and type of the groups' weights (compressed-tensors)."""
    groups = quantisation.section("config_groups")
    found = [_group(groups.section(name), quantisation.text("format")) for name in groups.words]
    problem = "no group says num_bits and type of its weights"
    return _narrowest(found) or quantisation.fail("config_groups", problem)


def _narrowest(found: Collection[Dtype | None]) -> Dtype | None:
    """Return the format a mixed checkpoint counts as: its experts, most of it, have the narrowest."""
    return next((dtype for dtype in _NARROWEST_FIRST if dtype in found), None)


def _group(group: Words, whole: str) -> Dtype | None:
    weights, form = group.section("weights"), group.text("format") or whole
    bits, floats = weights.get("num_bits"), weights.text("type") == "float"
    if bits == 4 and floats:
        return "mxfp4" if form.startswith("mxfp4") or weights.get("group_size") == 32 else "nvfp4"
    if bits == 8 and floats:
        return "fp8_block" if weights.text("strategy") == "block" else "fp8"
    return {4: "int4", 8: "int8"}.get(bits) if isinstance(bits, int) else None  # type: ignore[return-value] # literals


_READERS: dict[str, Callable[[Words], Dtype]] = {
    "modelopt": _modelopt,
    "groups": _by_groups,
    "fp8": _fp8,
    "mxfp4": lambda _: "mxfp4",
    "bits": _bits,
}
