"""Dense matrices: efficiency over (n, k, m) against `perf.gemm.matrix_roofline_s`.

What the collectors time, and what is made of it here:

* An engine's linear layer with its activations in bf16: quantising them is part of the time. All run inside a CUDA
  graph except vLLM's block-scaled fp8 layers, whose times are those of launching (60 to 300 µs whatever the shape):
  left out. TensorRT-LLM's fp8 layer was given no input scale and quantises per tensor in three kernels more (7 to 8
  µs), which checkpoints with a static scale do not run: left out.
* A graph passes over several copies of the weights in turn (six; TensorRT-LLM up to five, by the size of the L2 cache;
  vLLM's nvfp4 layer one). Copies that fit twice in L2 hardly come from memory, as a model's weights do on every step.
  Such a row bounds the time from below; it is raised to what streaming the weights takes at the rate of the rows that
  do come from memory.
* Rows just beyond a tile's boundary (m = 129, 257 …) are as many as rows on it: the curve goes between the two, as
  prompts of any length do. The saw teeth are most of its error.
* Left out: matrices with a side below 128; integer formats (kernels of TensorRT engines that no current engine runs);
  the Arc B60 (not in a graph, 33 µs of launching a kernel); all but the newest version of an engine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from tools.derive_curves.reduction import Rows, join, reduce_rows
from tools.derive_curves.tables import L2_BYTES, ORIGIN, accelerator, newest, tables

from headway.perf.formats import WEIGHT_BYTES
from headway.perf.gemm import matrix_roofline_s

if TYPE_CHECKING:
    from pathlib import Path

    from headway.perf.curves import Curve
    from headway.types import Accelerator, Dtype

GRID = {
    "n": [256, 1024, 4096, 16384, 65536],
    "k": [256, 1024, 4096, 16384, 51200],
    "m": [1, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 32768],
}
FORMATS: dict[str, Dtype] = {"bfloat16": "bf16", "fp8": "fp8", "fp8_block": "fp8_block", "nvfp4": "nvfp4"}
LEFT_OUT = {("vllm", "fp8_block"), ("tensorrt-llm", "fp8")}
LEAST_SIDE = 128
COPIES = 6
FIXED_FRAC = 0.9  # of the shortest kernel: what of any time does not depend on the shape
ENGINES_DIFFER_FRAC = 0.05  # engines none of which is off the pooled curve by more, at the median, share it


def curves(root: Path) -> dict[str, dict[str, Curve]]:
    """Return one curve for each accelerator and format, and where engines differ, one for each of them too."""
    found = {}
    for (name, dtype), engines in sorted(_rows(root).items()):
        key, pooled = f"gemm/{name}/{dtype}", join(list(engines.values()))
        found[key] = reduce_rows(pooled, GRID, _fixed_s(pooled), ORIGIN)
        if any(_median_off(found[key], rows) > ENGINES_DIFFER_FRAC for rows in engines.values()):
            for engine, rows in engines.items():
                found[f"{key}/{engine}"] = reduce_rows(rows, GRID, _fixed_s(rows), ORIGIN)
    return {"gemm": found}


def _median_off(pooled: Curve, rows: Rows) -> float:
    off = rows.time_s / pooled.time_s(rows.roofline_s, **rows.axes)
    return abs(float(np.median(off)) - 1)


def _rows(root: Path) -> dict[tuple[str, Dtype], dict[str, Rows]]:
    """Return rows by (accelerator, format), then engine, as if every weight came from memory."""
    found: dict[tuple[str, Dtype], dict[str, Rows]] = {}
    for name, engine, table in newest(tables(root, "gemm", "gemm_perf")):
        for their, dtype in FORMATS.items():
            part = table.filter(
                (pl.col("gemm_dtype") == their) & (pl.min_horizontal("n", "k") >= LEAST_SIDE) & (pl.col("latency") > 0)
            )
            if len(part) and (engine, dtype) not in LEFT_OUT and name in L2_BYTES:
                found.setdefault((name, dtype), {})[engine] = _from_memory(accelerator(name), engine, dtype, part)
    return found


def _from_memory(on: Accelerator, engine: str, dtype: Dtype, table: pl.DataFrame) -> Rows:
    n, k, m = (table[axis].to_numpy().astype(float) for axis in ("n", "k", "m"))
    compute_s, memory_s = matrix_roofline_s(on, dtype, n, k, m)
    weight_bytes = WEIGHT_BYTES[dtype] * n * k
    warm = _copies(engine, dtype, weight_bytes, L2_BYTES[on.name]) * weight_bytes < 2 * L2_BYTES[on.name]
    rows = Rows(
        axes={"n": n, "k": k, "m": m},
        roofline_s=np.maximum(compute_s, memory_s),
        time_s=table["latency"].to_numpy() * 1e-3,
        group=(n * 7 + k * 11).astype(np.int64) // LEAST_SIDE,
    )
    fixed_s, streaming = _fixed_s(rows), ~warm & (memory_s > 2 * compute_s)
    rate = np.median(memory_s[streaming] / (rows.time_s[streaming] - fixed_s))
    least_s = np.where(warm, fixed_s + weight_bytes / on.hbm_bytes_per_s / rate, 0.0)
    return Rows(axes=rows.axes, roofline_s=rows.roofline_s, time_s=np.maximum(rows.time_s, least_s), group=rows.group)


def _copies(engine: str, dtype: Dtype, weight_bytes: np.ndarray, l2_bytes: float) -> np.ndarray:
    if engine == "tensorrt-llm":
        return np.clip(np.ceil(l2_bytes / weight_bytes), 1, 5)
    return np.full(len(weight_bytes), 1 if (engine, dtype) == ("vllm", "nvfp4") else COPIES)


def _fixed_s(rows: Rows) -> float:
    return FIXED_FRAC * float(np.quantile(rows.time_s, 0.001))
