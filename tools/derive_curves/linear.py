"""Reduces the kernels of linear attention: gated delta nets, whose recurrence and convolution are timed one by one.

One layer on one GPU, n sequences that decode, or M tokens of prompts:

    decode   fixed_s + n · state read and written / (HBM · decode)
    prefill  fixed_s + M · a sixty-fourth of the state / (HBM · prefill)

A token's queries, keys, values and outputs are about that share of a state of 128 × 128 float32 a head; it is a unit
and no claim. The kernels of a shape are added up. The axis is the state of one sequence in one layer on one GPU, as
`Model.linear_state_bytes` counts it: it tells how many heads there are. Where the states timed fit the L2 cache twice
over, rows in which reading them takes over a tenth of the time are left out (see `attention`). Chunks of a prompt
follow each other, only prompts and heads run in parallel: rows of up to four prompts count, as steps have them.
TensorRT-LLM's few rows read states faster than memory can, and are left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from tools.derive_curves.reduction import Rows, by_engine
from tools.derive_curves.tables import L2_BYTES, accelerator, newest, tables

from headway.perf.linear import STATE_FRAC_PER_TOKEN

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from headway.perf.curves import Curve

GRID: Mapping[str, tuple[float, ...]] = {"state_bytes": tuple(65536.0 * heads for heads in (2, 4, 8, 16, 32, 64))}
PHASES = {"decode": "generation", "prefill": "context"}
KERNELS = 2  # the recurrence, or its form over chunks, and the convolution
LEAST_TOKENS, MOST_TOKENS, MOST_PROMPTS = 256, 65536, 4
ENGINES = ("vllm", "sglang")
_SHAPE = ("batch_size", "num_tokens", "num_k_heads", "num_v_heads")
_CONVOLVED = 3  # inputs the convolution of width 4 keeps of each channel, in 16 bit


def curves(root: Path) -> dict[str, Curve]:
    """Return the curves by name."""
    phases = {phase: _by_accelerator(root, theirs) for phase, theirs in PHASES.items()}
    found: dict[str, Curve] = {}
    for name in sorted(set.intersection(*(set(places) for places in phases.values()))):
        for phase, places in phases.items():
            found |= by_engine(f"linear/{name}/{phase}", places[name], GRID)
    return found


def _by_accelerator(root: Path, phase: str) -> dict[str, dict[str, Rows]]:
    places: dict[str, dict[str, Rows]] = {}
    for name, engine, rows in _timed(root, phase):
        places.setdefault(name, {})[engine] = rows
    return places


def _timed(root: Path, phase: str) -> Iterator[tuple[str, str, Rows]]:
    for name, engine, frame in newest(tables(root, "linear_attention", "gdn_perf")):
        kernels = frame.filter((pl.col("phase") == phase) & (pl.col("latency") > 0))
        once = kernels.group_by(*_SHAPE, "kernel_source").agg(pl.col("latency").median())
        both = once.group_by(_SHAPE).agg(pl.col("latency").sum() * 1e-3, pl.len().alias("kernels"))
        rows = _rows(name, both.filter(pl.col("kernels") == KERNELS).sort(_SHAPE), decode=phase == "generation")
        if len(rows.time_s) and engine in ENGINES:
            yield name, engine, rows


def _rows(name: str, table: pl.DataFrame, *, decode: bool) -> Rows:
    sequences, tokens, key_heads, heads = (table[axis].to_numpy().astype(float) for axis in _SHAPE)
    state_bytes = heads * 128 * 128 * 4 + (2 * key_heads + heads) * 128 * _CONVOLVED * 2
    moved = 2 * state_bytes * sequences if decode else STATE_FRAC_PER_TOKEN * state_bytes * tokens
    found = Rows(
        axes={"state_bytes": state_bytes},
        roofline_s=moved / accelerator(name).hbm_bytes_per_s,
        time_s=table["latency"].to_numpy(),
        group=np.arange(len(table)),
    )
    if not decode:
        few = (sequences <= MOST_PROMPTS) & (tokens <= MOST_TOKENS) & (tokens >= LEAST_TOKENS * sequences)
        return found.take(few)
    return found.take((sequences * state_bytes > 2 * L2_BYTES[name]) | (found.roofline_s < 0.1 * found.time_s))
