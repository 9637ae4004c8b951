"""Dense matrices: efficiency over (n, k, m) against `perf.gemm.matrix_roofline_s`.

What the collectors time, and what is made of it here:

* An engine's linear layer whose input is in bf16, so kernels that quantise it are part of the time. Engines fuse these
  into the norm or gate before, so the curves are of the multiply alone: the shortest kernel takes as long as the same
  engine's shortest in bf16, and one pass over the input at the memory's full rate, the least it can take, goes too.
  TensorRT-LLM's fp8 layer was given no input scale and finds one in two more kernels; all three were timed by
  themselves too, and are subtracted.
* All run inside a CUDA graph except vLLM's block-scaled fp8 layers, whose times are those of launching (60 to 300 µs
  whatever the shape): left out. So is TensorRT-LLM's nvfp4 layer, timed outside of the tuner that picks its kernels as
  the engine starts (up to twice as long as the same shapes in the other engines).
* A graph passes over several copies of the weights in turn (six; TensorRT-LLM up to five, by the size of the L2 cache;
  vLLM's nvfp4 layer one). Copies that fit twice in L2 hardly come from memory, as a model's weights do on every step.
  Such a row bounds the time from below; it is raised to what streaming the weights takes at the rate of the rows that
  do come from memory.
* A row more than a tile holds (m = 65, 129, 257, 513) takes a whole tile more: decodes come padded, mostly on the lower
  side, so both sides are grid points. Beyond 513 rows on and beyond a boundary are as many, and the curve goes between
  the two, as prompts of any length do. The saw teeth are most of its error.
* Left out: matrices with a side below 128; integer formats (kernels of TensorRT engines that no current engine runs);
  the Arc B60 (outside a graph: 33 µs of launching each kernel); all but the newest version of an engine.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from tools.derive_curves.reduction import Rows, by_engine, fixed_s
from tools.derive_curves.tables import L2_BYTES, accelerator, newest, tables

from headway.perf.formats import WEIGHT_BYTES
from headway.perf.gemm import matrix_roofline_s

if TYPE_CHECKING:
    from pathlib import Path

    from headway.perf.curves import Curve
    from headway.types import Accelerator, Dtype

GRID = {
    "n": [256, 1024, 4096, 16384, 65536],
    "k": [256, 1024, 4096, 16384, 51200],
    "m": [1, 16, 32, 64, 65, 128, 129, 256, 257, 512, 513, 1024, 2048, 4096, 8192, 32768],
}
FORMATS: dict[str, Dtype] = {"bfloat16": "bf16", "fp8": "fp8", "fp8_block": "fp8_block", "nvfp4": "nvfp4"}
LEFT_OUT = {("vllm", "fp8_block"), ("tensorrt-llm", "nvfp4")}
LEAST_SIDE = 128
COPIES = 6
_MS = 1e-3


def curves(root: Path) -> dict[str, dict[str, Curve]]:
    """Return one curve for each accelerator and format, and where engines differ, one for each of them too."""
    found: dict[str, Curve] = {}
    for (name, dtype), engines in sorted(_rows(root).items()):
        found |= by_engine(f"gemm/{name}/{dtype}", engines, GRID)
    return {"gemm": found}


def _rows(root: Path) -> dict[tuple[str, Dtype], dict[str, Rows]]:
    """Return rows by (accelerator, format), then engine, as if every weight came from memory."""
    found: dict[tuple[str, Dtype], dict[str, Rows]] = {}
    quantising = _quantising(root)
    for name, engine, table in newest(tables(root, "gemm", "gemm_perf")):
        kept = table.filter((pl.min_horizontal("n", "k") >= LEAST_SIDE) & (pl.col("latency") > 0))
        plain = kept.filter(pl.col("gemm_dtype") == "bfloat16")["latency"]
        for their, dtype in FORMATS.items():
            part = kept.filter(pl.col("gemm_dtype") == their)
            if len(part) and (engine, dtype) == ("tensorrt-llm", "fp8"):
                part = _less_quantising(part, quantising[name])
            if len(part) and (engine, dtype) not in LEFT_OUT and name != "arc-b60":
                rows = _multiplies(accelerator(name), dtype, part, _shortest(plain))
                found.setdefault((name, dtype), {})[engine] = _from_memory(accelerator(name), engine, dtype, rows)
    return found


def _quantising(root: Path) -> dict[str, pl.DataFrame]:
    """Return how long TensorRT-LLM's three kernels take together, by accelerator: columns m, k, quantise (ms)."""
    found: dict[str, pl.DataFrame] = {}
    for file in ("computescale_perf", "scale_matrix_perf"):
        for name, engine, table in newest(tables(root, "quantize", file)):
            if engine == "tensorrt-llm":
                part = table.select("m", "k", pl.col("latency").alias("quantise"))
                found[name] = pl.concat([found.get(name, part.clear()), part])
    return {name: table.group_by("m", "k").sum() for name, table in found.items()}


def _less_quantising(table: pl.DataFrame, quantising: pl.DataFrame) -> pl.DataFrame:
    left = table.join(quantising, on=["m", "k"], maintain_order="left")
    return left.with_columns(latency=pl.col("latency") - pl.col("quantise"))


def _multiplies(on: Accelerator, dtype: Dtype, table: pl.DataFrame, plain_s: float) -> Rows:
    """Return the rows less what quantising takes where it is not yet; `plain_s` is the engine's shortest in bf16."""
    n, k, m = (table[axis].to_numpy().astype(float) for axis in ("n", "k", "m"))
    time_s = _MS * table["latency"].to_numpy()
    if dtype != "bf16" and "quantise" not in table.columns:
        passed_s = (2 + WEIGHT_BYTES[dtype]) * m * k / on.hbm_bytes_per_s
        time_s = time_s - (_shortest(table["latency"]) - plain_s) - passed_s
    roofline_s = np.maximum(*matrix_roofline_s(on, dtype, n, k, m))
    group = (n * 7 + k * 11).astype(np.int64) // LEAST_SIDE
    return Rows(axes={"n": n, "k": k, "m": m}, roofline_s=roofline_s, time_s=np.maximum(time_s, plain_s), group=group)


def _shortest(latency: pl.Series) -> float:
    return _MS * float(np.quantile(latency.to_numpy(), 0.001))


def _from_memory(on: Accelerator, engine: str, dtype: Dtype, rows: Rows) -> Rows:
    """Return the rows with no weights served by L2."""
    n, k, m = rows.axes.values()
    compute_s, memory_s = matrix_roofline_s(on, dtype, n, k, m)
    weight_bytes = WEIGHT_BYTES[dtype] * n * k
    warm = _copies(engine, dtype, weight_bytes, L2_BYTES[on.name]) * weight_bytes < 2 * L2_BYTES[on.name]
    launch_s, streaming = fixed_s(rows), ~warm & (memory_s > 2 * compute_s)
    rate = np.median(memory_s[streaming] / (rows.time_s[streaming] - launch_s))
    least_s = np.where(warm, launch_s + weight_bytes / on.hbm_bytes_per_s / rate, 0.0)
    return replace(rows, time_s=np.maximum(rows.time_s, least_s))


def _copies(engine: str, dtype: Dtype, weight_bytes: np.ndarray, l2_bytes: float) -> np.ndarray:
    if engine == "tensorrt-llm":
        return np.clip(np.ceil(l2_bytes / weight_bytes), 1, 5)
    return np.full(len(weight_bytes), 1 if (engine, dtype) == ("vllm", "nvfp4") else COPIES)
