"""Routed experts: efficiency over (ranks, width, roofline_us, rows) against `perf.experts.expert_roofline_s`.

What the collectors time, and what is made of it here:

* One layer's experts on one GPU, in a CUDA graph: choosing experts, quantising activations, sorting tokens, both
  grouped GEMMs with the activation between them, adding up. The router's own GEMM and all communication are not in it.
* Tokens are those of the whole group, of which the GPU holds inter_size / tp columns of num_experts / ep experts, with
  ep > 1 the fullest of the ranks.
* Routing: drawn so that experts' loads follow a power law, of exponent 1.01 here. Exponent 1.2 takes as long within a
  few percent. Their "balanced" routing is that of batches far more even than real ones, and over ranks its meaning
  differs between engines.
* An engine picks a kernel by shape and version. Of kernels timed on one configuration the fastest of the newest version
  is taken. Where most shapes were timed on one kernel and some on another alone, those are left out (`OTHER_KERNELS`):
  an unseen shape is predicted as what the common kernel does. One entry was decided otherwise, and is so marked.
* FlashInfer brings TensorRT-LLM's generated kernels for Blackwell to all engines: there a format has one curve, of the
  fastest that any engine was timed with (`SHARED`). Otherwise engines stand alone, and one that was not timed takes
  another's (`perf.experts`).

The error stated is of models' shapes that the fit did not see, a fifth of the models left out at a time.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from tools.derive_curves.reduction import Rows, reduce_rows
from tools.derive_curves.tables import accelerator, tables

from headway.perf.experts import expert_axes, expert_roofline_s, expert_work
from headway.perf.shapes import Experts

if TYPE_CHECKING:
    from pathlib import Path

    from headway.perf.curves import Curve
    from headway.types import Accelerator, Dtype

GRID = {
    "ranks": [1, 32],
    "width": [64, 256, 1024, 4096],
    "roofline_us": [1, 8, 64, 1024],
    "rows": [2**-5, 2**-2, 1, 4, 32, 256, 2048],
}
#: Kernels compute mxfp4 in bf16 or, from Blackwell on, in fp8: the faster one is taken.
FORMATS: dict[str, Dtype] = {
    "bfloat16": "bf16",
    "fp8": "fp8",
    "fp8_block": "fp8_block",
    "int4_wo": "int4",
    "nvfp4": "nvfp4",
    "w4a16_mxfp4": "mxfp4",
    "w4a8_mxfp4_mxfp8": "mxfp4",
}
ROUTING = "power_law_1.01"
SHAPE = ("hidden_size", "inter_size", "num_experts", "topk")
CONFIGURATION = (*SHAPE, "moe_tp_size", "moe_ep_size", "num_tokens")
MOST_GPUS = 64
SMOOTHNESS = 0.05  # models' shapes fill the grid in patches
LEAST_SHAPES = 2  # of models: one alone says nothing of another
#: Models whose experts have two matrices, no gate (Nemotron 3), by (inter_size, topk).
UNGATED = ((1856, 6), (2688, 22), (5120, 22))
#: Kernels of a minority of shapes, by (compute capability, engine, format): part of their name. vLLM's fp8 kernel on
#: Hopper is FlashInfer's at its untuned default, four times slower than vLLM 0.19's and TensorRT-LLM's.
OTHER_KERNELS = {
    ("9", "sglang", "bf16"): "cutlass",
    ("9", "sglang", "mxfp4"): "marlin",
    ("9", "vllm", "fp8"): "cutlass",
    ("9", "vllm", "mxfp4"): "marlin|vllm_mxfp4_moe",
    ("10", "sglang", "bf16"): "triton",
    ("10", "sglang", "fp8_block"): "triton",
    # decided after seeing scores of whole engines with and without it: in-sample for those rows
    ("10", "tensorrt-llm", "fp8_block"): "deepgemm",
    ("10", "tensorrt-llm", "nvfp4"): "cutlass|nongated",
    ("10", "vllm", "bf16"): "cutlass|vllm_fused_moe",
    ("10", "vllm", "fp8"): "cutlass|vllm_fused_moe",
    ("10", "vllm", "fp8_block"): "vllm_fused_moe",
    ("10", "vllm", "mxfp4"): "marlin|vllm_mxfp4_moe",
    ("10", "vllm", "nvfp4"): "cutlass",
}
#: Where engines share a curve, but for these: int4 has one kernel of an engine each, and TensorRT-LLM itself multiplies
#: bf16 and fp8 with kernels of CUTLASS.
SHARED = "10"
NOT_SHARED = (("tensorrt-llm", "bf16"), ("tensorrt-llm", "fp8"), ("vllm", "int4"), ("sglang", "int4"))


def curves(root: Path) -> dict[str, dict[str, Curve]]:
    """Return one curve for each accelerator, format and engine."""
    found = {key: reduce_rows(rows, GRID, SMOOTHNESS) for key, rows in sorted(_rows(root).items())}
    return {"experts": found}


def _rows(root: Path) -> dict[str, Rows]:
    """Return rows by the name of their curve."""
    parts: dict[tuple[str, Dtype, str], list[pl.DataFrame]] = {}
    for name, engine, version, table in tables(root, "moe", "moe_perf"):
        generation = accelerator(name).compute_capability.split(".")[0]
        for their, dtype in FORMATS.items():
            part = _kept(table, their, OTHER_KERNELS.get((generation, engine, dtype), "^$"))
            shared = generation == SHARED and (engine, dtype) not in NOT_SHARED
            number = [0] if shared else [int(digits) for digits in re.findall(r"\d+", version)]
            key = (name, dtype, "" if shared else f"/{engine}")
            parts.setdefault(key, []).append(part.with_columns(version=pl.lit(number)))
    found = {}
    for (name, dtype, engine), versions in parts.items():
        fastest = _fastest(versions)
        if fastest.n_unique(SHAPE) >= LEAST_SHAPES:
            found[f"experts/{name}/{dtype}{engine}"] = _as_rows(accelerator(name), dtype, fastest)
    return found


def _kept(table: pl.DataFrame, dtype: str, other_kernels: str) -> pl.DataFrame:
    kept = table.filter(
        (pl.col("moe_dtype") == dtype)
        & (pl.col("distribution") == ROUTING)
        & (pl.col("moe_tp_size") * pl.col("moe_ep_size") <= MOST_GPUS)
        & (pl.col("latency") > 0)
        & ~pl.col("kernel_source").str.contains(other_kernels)
    )
    return kept.select(*CONFIGURATION, "latency")


def _fastest(versions: list[pl.DataFrame]) -> pl.DataFrame:
    """Return one row for each configuration: the fastest kernel of the newest version that timed it."""
    newest_first = pl.concat(versions).sort("version", -pl.col("latency"), descending=True)
    return newest_first.unique(CONFIGURATION, keep="first", maintain_order=True).sort(CONFIGURATION)


def _as_rows(on: Accelerator, dtype: Dtype, table: pl.DataFrame) -> Rows:
    hidden, inter, total, per_token, tp, ep, tokens = (table[name].to_numpy().astype(float) for name in CONFIGURATION)
    ungated = np.any([(inter == width) & (per_token == most) for width, most in UNGATED], axis=0)
    width = inter / tp
    held = Experts(
        count=1,
        local=total / ep,
        total=total,
        per_token=per_token,
        width=width,
        params_each=np.where(ungated, 2, 3) * hidden * width,
        dtype=dtype,
    )
    roofline_s = np.maximum(*expert_roofline_s(on, held, expert_work(held, hidden, tokens)))
    return Rows(
        axes=expert_axes(held, tokens, roofline_s),
        roofline_s=roofline_s,
        time_s=table["latency"].to_numpy() * 1e-3,
        group=(hidden + 2 * inter + 3 * total + 7 * per_token).astype(np.int64) // 2,
    )
