"""What a number format costs: bytes per weight with its scales, bytes per KV element, and the format it computes in."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from headway.types import Accelerator, Dtype

#: Bytes of one weight with the scales stored beside it. fp8_block: one fp32 scale per 128×128 block; int4: AWQ/GPTQ
#: groups of 128 with an fp16 scale and a 4-bit zero; nvfp4: an fp8 scale per 16; mxfp4: an 8-bit exponent per 32
#: (OCP Microscaling 1.0). Scales per tensor or per channel (fp8, int8) are below 0.1 % and left out.
WEIGHT_BYTES: dict[Dtype, float] = {
    "bf16": 2.0,
    "fp8": 1.0,
    "fp8_block": 1.0 + 4.0 / (128 * 128),
    "int8": 1.0,
    "int4": 0.5 + 2.5 / 128,
    "nvfp4": 0.5 + 1.0 / 16,
    "mxfp4": 0.5 + 1.0 / 32,
}

#: Bytes of one KV element.
KV_BYTES: dict[Dtype, float] = {"bf16": 2.0, "fp8": 1.0}

_NATIVE: dict[Dtype, str] = {
    "bf16": "bf16",
    "fp8": "fp8",
    "fp8_block": "fp8",
    "int8": "int8",
    "int4": "bf16",  # W4A16: weights are widened before the multiply
    "nvfp4": "fp4",
    "mxfp4": "fp4",
}


def compute_format(dtype: Dtype, accelerator: Accelerator) -> str:
    """Return the format the multiply runs in: the weights' own where the accelerator has it, bf16 otherwise.

    A format the hardware lacks is weight-only: it saves bytes, and computes at the bf16 rate.
    """
    native = _NATIVE[dtype]
    return native if accelerator.peak_flops_per_s.get(native) else "bf16"


def dense_dtype(dtype: Dtype, *, is_moe: bool) -> Dtype:
    """Return the format of attention and dense layers: mxfp4 checkpoints of MoE models pack only the experts.

    Source: the `modules_to_not_convert` of openai/gpt-oss-120b's config.json (attention, router, embeddings, head).
    """
    return "bf16" if is_moe and dtype == "mxfp4" else dtype
