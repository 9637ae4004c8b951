"""Collectives: efficiency over (GPUs, bytes each sends) against the datasheet's link, as `perf.links` counts them.

What the collectors time, and what is made of it here:

* All-reduce is each engine's own, of bf16: one-shot, two-shot or NCCL as the engine chooses by size. vLLM's and
  SGLang's are timed in a CUDA graph and outside of one (15 to 100 µs of launching); the graph's are taken, since a
  decode step is one. Message sizes are in elements.
* All-gather and reduce-scatter are nccl-tests on one node, whose size is the whole result or input.
* Dispatch and combine are DeepEP's as SGLang calls it, fp8 there and bf16 back, of at least 4 experts a token and 64 in
  all: the low-latency kernels up to 256 tokens a GPU, for which engines size their buffers at most, the normal ones
  beyond, with their default of 20 multiprocessors and the notification before each. Those
  that vLLM and TensorRT-LLM are timed with run outside a graph (60 to 250 µs whatever the shape) and are left out; for
  TensorRT-LLM on GB200 its two-sided exchange over NVLink is taken, the preparation before it counted with dispatch.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from tools.derive_curves.reduction import Rows, by_engine
from tools.derive_curves.tables import accelerator, newest, tables

from headway.perf.links import link_bytes_per_s, ranks_reached

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from headway.perf.curves import Curve

    #: (accelerator, collective, engine or library), and the columns below.
    Part = tuple[tuple[str, str, str], pl.DataFrame]

COLUMNS = ["gpus", "sent", "time_s", "group"]  # sent: bytes of each GPU; rows of a group are held out together
BYTES = [float(2**power) for power in range(8, 31)]
WIDTHS = {"nvfp4": 0.5 + 1 / 16, "fp8": 1.0, "bfloat16": 2.0}
SMS = 20
LOW_LATENCY_TOKENS = 256
LEAST_PER_TOKEN, LEAST_EXPERTS = 4, 64
TRAY_GPUS = {"gb200": 4, "gb300": 4}  # of a node as it was timed; 8 elsewhere
WIDE = {"dispatch": pl.lit(1.0), "combine": pl.lit(2.0)}  # bytes of an element
_US, _MS = 1e-6, 1e-3


def curves(root: Path) -> dict[str, dict[str, Curve]]:
    """Return one curve for each accelerator and collective, and where engines differ, one for each of them too."""
    parts: dict[str, dict[str, Rows]] = defaultdict(dict)
    for (name, collective, engine), table in [*_reductions(root), *_gathers(root), *_deepep(root), *_two_sided(root)]:
        if len(table):
            parts[f"collectives/{name}/{collective}"][engine] = _rows(name, table)
    found: dict[str, Curve] = {}
    for key, engines in sorted(parts.items()):
        gpus = sorted({float(g) for rows in engines.values() for g in rows.axes["gpus"]})
        found |= by_engine(key, engines, {"gpus": gpus, "bytes": BYTES})
    return {"collectives": found}


def _rows(name: str, table: pl.DataFrame) -> Rows:
    gpus, sent = (table[column].to_numpy().astype(float) for column in ("gpus", "sent"))
    link = np.array([link_bytes_per_s(accelerator(name), int(g)) for g in gpus])
    return Rows(
        axes={"gpus": gpus, "bytes": sent},
        roofline_s=sent / link,
        time_s=table["time_s"].to_numpy(),
        group=table["group"].to_numpy().astype(np.int64),
    )


def _reductions(root: Path) -> Iterator[Part]:
    share = 2 * (pl.col("num_gpus") - 1) / pl.col("num_gpus")
    for name, engine, table in newest(tables(root, "comm", "custom_allreduce_perf")):
        graph = table.filter(~pl.col("kernel_source").str.ends_with("eager"))
        yield (name, "all_reduce", engine), _timed(graph, 2 * pl.col("message_size") * share, _MS * pl.col("latency"))


def _gathers(root: Path) -> Iterator[Part]:
    share = (pl.col("num_gpus") - 1) / pl.col("num_gpus")
    for name, library, table in newest(tables(root, "comm", "nccl_perf")):
        for collective in ("all_gather", "reduce_scatter") if library == "nccl" else ():
            part = table.filter((pl.col("op_name") == collective) & (pl.col("nccl_dtype") == "half"))
            yield (name, collective, library), _timed(part, 2 * pl.col("message_size") * share, _MS * pl.col("latency"))


def _timed(table: pl.DataFrame, sent: pl.Expr, time_s: pl.Expr) -> pl.DataFrame:
    size = sent.log(2).round().cast(pl.Int64).alias("group")
    return table.select(pl.col("num_gpus").alias("gpus"), sent.alias("sent"), time_s.alias("time_s"), size)


def _deepep(root: Path) -> Iterator[Part]:
    """Return both directions, over all versions: the older ones span nodes."""
    shape = ["node_num", "hidden_size", "num_token", "num_topk", "num_experts"]
    found: dict[str, list[pl.DataFrame]] = defaultdict(list)
    for name, _, _, table in tables(root, "comm", "wideep_deepep_ll_perf"):
        times = [pl.col(f"{side}_avg_t_us").alias(side) for side in WIDE]
        found[name].append(table.filter(pl.col("num_token") <= LOW_LATENCY_TOKENS).select(*shape, *times))
    for name, _, _, table in tables(root, "comm", "wideep_deepep_normal_perf"):
        usual = [(pl.col(f"{side}_sms") == SMS) for side in WIDE]
        times = [(pl.col(f"{side}_transmit_us") + pl.col(f"{side}_notify_us")).alias(side) for side in WIDE]
        found[name].append(table.filter(pl.col("num_token") > LOW_LATENCY_TOKENS, *usual).select(*shape, *times))
    for name, parts in found.items():
        usual = (pl.col("num_topk") >= LEAST_PER_TOKEN) & (pl.col("num_experts") >= LEAST_EXPERTS)
        table, gpus = pl.concat(parts).filter(usual), pl.col("node_num") * TRAY_GPUS.get(name, 8)
        for side, width in WIDE.items():
            yield (name, side, "sglang"), _exchanged(table, gpus, "num_token", "num_topk", width, _US * pl.col(side))


def _two_sided(root: Path) -> Iterator[Part]:
    shape = ["moe_ep_size", "hidden_size", "num_tokens", "topk", "num_experts", "moe_dtype"]
    for name, engine, table in newest(tables(root, "comm", "trtllm_alltoall_perf")):
        part = table.filter(pl.col("kernel_source") == "NVLinkTwoSided")
        wide = part.pivot(on="op_name", index=shape, values="latency", aggregate_function="median").sort(shape)
        there = _MS * (pl.col("alltoall_prepare") + pl.col("alltoall_dispatch"))
        back = _MS * pl.col("alltoall_combine")
        width = pl.col("moe_dtype").replace_strict(WIDTHS)
        for side, bytes_each, time_s in (("dispatch", width, there), ("combine", pl.lit(2.0), back)):
            found = _exchanged(wide, pl.col("moe_ep_size"), "num_tokens", "topk", bytes_each, time_s)
            yield (name, side, engine), found


def _exchanged(
    table: pl.DataFrame, gpus: pl.Expr, tokens: str, per_token: str, width: pl.Expr, time_s: pl.Expr
) -> pl.DataFrame:
    """Return what each GPU sends to the distinct ranks its tokens reach, one element `width` bytes wide."""
    part = table.with_columns(gpus.alias("gpus"), time_s.alias("time_s"))
    reached = [ranks_reached(ranks, k) for ranks, k in part.select("gpus", per_token).rows()]
    sent = pl.col(tokens) * pl.col("hidden_size") * width * pl.Series(reached)
    group = pl.col("hidden_size") // 512 + 7 * pl.col(per_token) + pl.col(tokens)
    return part.with_columns(sent.alias("sent"), group.alias("group")).select(COLUMNS).drop_nulls()
