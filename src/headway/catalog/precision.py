"""The number format of a checkpoint's weights, from its `quantization_config`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
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


def weight_dtype(config: Words) -> Dtype:
    """Return the format most weights are published in; 16-bit (and 32-bit) floats count as `bf16`.

    Raises:
        InputError: a quantisation that is not known.
    """
    if not config.has("quantization_config"):
        return "bf16"
    quantisation = config.section("quantization_config")
    method = quantisation.text("quant_method").lower()
    algorithm = quantisation.text("quant_algo").upper() or method.upper()
    reader = "modelopt" if "NVFP4" in algorithm else _FAMILY.get(method, "")
    match reader:
        case "modelopt":
            return _modelopt(quantisation, algorithm)
        case "groups":
            return _compressed_tensors(quantisation)
        case "fp8":
            return "fp8_block" if quantisation.items("weight_block_size") else "fp8"
        case "mxfp4":
            return "mxfp4"
        case "bits":
            return _bits(quantisation)
    return quantisation.fail("quant_method", f"{method[:40]!r} is not known here; known: {', '.join(_FAMILY)}")


def _bits(quantisation: Words) -> Dtype:
    wide = 8 if quantisation.get("load_in_8bit", "_load_in_8bit") is True else 4
    bits = quantisation.integer("bits", "w_bit", default=wide)
    if bits not in (4, 8):
        quantisation.fail("bits", f"expected 4 or 8, got {bits}")
    return "int4" if bits == 4 else "int8"


def _modelopt(quantisation: Words, algorithm: str) -> Dtype:
    """NVIDIA's ModelOpt; a mixed checkpoint counts as the narrowest format its groups have."""
    if "NVFP4" in algorithm:
        return "nvfp4"
    if "FP8" in algorithm:
        return "fp8_block" if "BLOCK" in algorithm or "PB" in algorithm else "fp8"
    if "AWQ" in algorithm or "INT4" in algorithm:
        return "int4"
    return "int8" if "INT8" in algorithm else _by_groups(quantisation)


def _compressed_tensors(quantisation: Words) -> Dtype:
    form = quantisation.text("format")
    if form.startswith(("nvfp4", "mxfp4")):
        return "nvfp4" if form.startswith("nvfp4") else "mxfp4"
    return _by_groups(quantisation)


def _by_groups(quantisation: Words) -> Dtype:
    """Go by the bits and type of the groups' weights, the narrowest first."""
    groups = quantisation.section("config_groups")
    found = [_group(groups.section(name)) for name in groups.words]
    for dtype in ("nvfp4", "mxfp4", "int4", "fp8_block", "fp8", "int8"):
        if dtype in found:
            return dtype
    return quantisation.fail("config_groups", "no group says num_bits and type of its weights")


def _group(group: Words) -> str:
    weights, form = group.section("weights"), group.text("format")
    if form.startswith("mxfp4"):
        return "mxfp4"
    bits, floats = weights.get("num_bits"), weights.text("type") == "float"
    if bits == 4:
        return ("mxfp4" if weights.get("group_size") == 32 else "nvfp4") if floats else "int4"
    if bits == 8 and floats:
        return "fp8_block" if weights.text("strategy") == "block" else "fp8"
    return "int8" if bits == 8 else ""
