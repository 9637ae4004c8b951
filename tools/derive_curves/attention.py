"""Reduces attention kernels to rates that are linear in what a batch sums to, as the simulator needs them.

One layer on one GPU, n decodes with contexts summing to S and prompts of m new tokens each:

    decode   fixed_s + n · 64 tokens of KV / (HBM · sequence) + S tokens of KV / (HBM · decode)
    prefill  fixed_s + Σ m tokens of Q, K, V and output / (HBM · token) + causal FLOPs / (bf16 peak · prefill)

`sequence`, `decode`, `token` and `prefill` are the efficiencies of four curves; those of a decode lie over head_dim
and query heads per KV head, those of a prompt over head_dim, those of MLA over its heads on one GPU. The terms of a
line are one fit of the relative error, none below zero, so each is what the others leave: 64 tokens, half a tile of
128, is a unit and no claim. Fixed times are shared: by all shapes of a kernel, and by its decodes and prompts.

Rows: the newest version of an engine and, of its kernels at one head_dim and KV format, the one with most rows;
contexts of 256 to 32,768 tokens at up to 1,024 decodes, prompts of 128 to 16,384 tokens at four heads and more. A
timing loop reads the same KV again and again, a model reads another layer's every time: rows whose KV fits the L2
cache twice over are left out where reading it takes over a tenth of the time, and shapes with nothing but such rows.

vLLM's MLA is timed as a module with its projections: only what grows with contexts and pairs is taken from it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from scipy.optimize import nnls
from tools.derive_curves import linear
from tools.derive_curves.tables import L2_BYTES, ORIGIN, accelerator, newest, tables

from headway.perf.attention import UNIT_TOKENS
from headway.perf.curves import Curve

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    Column = NDArray[np.float64]
    Grid = Mapping[str, Sequence[float]]
    Parts = dict[str, Curve]

DECODE_GRID: Grid = {"head_dim": (64, 128, 256), "group": (1, 2, 4, 8, 16, 32)}
PREFILL_GRID: Grid = {"head_dim": (64, 128, 256)}
MOST_GROUP = 32
MLA_GRID: Grid = {"heads": (4, 8, 16, 32, 64, 128)}
LATENT, ROPE, NOPE, VALUE = 512, 64, 128, 128  # the one MLA shape timed: DeepSeek-V3's
LEAST_ROWS, LEAST_COLD_ROWS = 12, 6
WORST_MEDIAN_FRAC = 0.15  # a reduction that leaves more is none: the engine inherits
MOST_MEMORY_FRAC = 1.1  # KV read faster than memory can was not read
ENGINES_DIFFER_FRAC = 0.05  # an engine nearer to the middle of all has no curve of its own
_BF16_BYTES = 2
_KV_BYTES = {"bfloat16": 2, "fp8": 1}
_FORMATS = {"bfloat16": "bf16", "fp8": "fp8"}
_MOST = 10.0  # the efficiency of a term the fit found to be nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """Timed kernels of one engine: shapes by axis, the roofline seconds of both terms and the time, row by row."""

    accelerator: str
    engine: str
    kv_dtype: str
    axes: Mapping[str, Column]
    work_s: Column  # rows × 2
    time_s: Column
    whole: bool = True  # the kernel alone, not a module around it

    def take(self, kept: NDArray[np.bool_]) -> Timed:
        """Return some of the rows."""
        axes = {name: values[kept] for name, values in self.axes.items()}
        return replace(self, axes=axes, work_s=self.work_s[kept], time_s=self.time_s[kept])

    def at(self, point: Mapping[str, float]) -> NDArray[np.bool_]:
        """Tell which rows have that very shape."""
        return np.logical_and.reduce([self.axes[axis] == value for axis, value in point.items()])


@dataclass(frozen=True, slots=True, kw_only=True)
class Reduced:
    """The curves of one line under one engine; none where its rows do not say."""

    rows: Timed
    parts: Parts


def curves(root: Path) -> dict[str, Parts]:
    """Return the curves by operator and name."""
    plain = _family("attention", (decodes(root), DECODE_GRID), (prompts(root), PREFILL_GRID))
    latent = _family("mla", (mla_decodes(root), MLA_GRID), (mla_prompts(root), MLA_GRID))
    return {"attention": plain, "mla": latent, "linear": linear.curves(root)}


def _family(operator: str, decoding: tuple[Iterable[Timed], Grid], prefilling: tuple[Iterable[Timed], Grid]) -> Parts:
    first = _by_engine([reduce_rows(rows, decoding[1], ("sequence", "decode")) for rows in decoding[0]])
    second = []
    for rows in prefilling[0]:
        place = (rows.accelerator, rows.kv_dtype)
        shared = first.get((*place, rows.engine)) or first.get((*place, ""))
        fixed_s = shared["decode"].fixed_s if shared else None
        second.append(reduce_rows(rows, prefilling[1], ("token", "prefill"), fixed_s))
    return {
        "/".join(word for word in (operator, name, phase, kv_dtype, engine) if word): found
        for reduced in (first, _by_engine(second))
        for (name, kv_dtype, engine), parts in reduced.items()
        for phase, found in parts.items()
    }


# --- fits ----------------------------------------------------------------------------------------------------------


def fit(design: Column, time_s: Column, fixed_s: float = 0.0) -> Column:
    """Return the factors of the columns, none below zero, that leave the least relative error; outliers weigh less."""
    weight, found = 1 / time_s, np.zeros(design.shape[1])
    for _ in range(8):
        found, _ = nnls(design * weight[:, None], (time_s - fixed_s) * weight)
        error = (design @ found + fixed_s) / time_s - 1
        weight = 1 / time_s / np.sqrt(1 + (error / 0.1) ** 2)
    return found


def reduce_rows(rows: Timed, grid: Grid, names: tuple[str, str], fixed_s: float | None = None) -> Reduced:
    """Fit both terms at every grid point; every fifth row is only scored.

    Args:
        rows: what was timed.
        grid: shapes at which the terms are fitted, by axis; those without rows take the terms of the nearest.
        names: of the curves, the smaller term first.
        fixed_s: fixed time of all shapes; None to fit it.
    """
    held = np.arange(len(rows.time_s)) % 5 == 0
    points = [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
    cells = {tuple(point.values()): rows.take(rows.at(point) & ~held) for point in points}
    cells = {point: cell for point, cell in cells.items() if len(cell.time_s) >= LEAST_ROWS}
    if not cells:
        return Reduced(rows=rows, parts={})
    free = {point: fit(np.insert(cell.work_s, 0, 1, axis=1), cell.time_s) for point, cell in cells.items()}
    if not rows.whole:
        return Reduced(rows=rows, parts={names[1]: _slope(rows, grid, free, held)})
    if fixed_s is None:
        fixed_s = float(np.median([free[point][0] for point, cell in cells.items() for _ in cell.time_s]))
    terms = {point: fit(cell.work_s, cell.time_s, fixed_s) for point, cell in cells.items()}
    parts = {
        names[0]: _curve(rows, grid, {point: found[0] for point, found in terms.items()}),
        names[1]: _curve(rows, grid, {point: found[1] for point, found in terms.items()}, fixed_s),
    }
    return Reduced(rows=rows, parts=_scored(parts, rows.take(held)))


def _curve(rows: Timed, grid: Grid, factors: Mapping[tuple[float, ...], float], fixed_s: float = 0.0) -> Curve:
    def nearest(point: tuple[float, ...]) -> float:
        return factors[min(factors, key=lambda other: float(np.abs(np.log(np.divide(other, point))).sum()))]

    table = [1 / max(nearest(point), 1 / _MOST) for point in product(*grid.values())]
    return Curve(
        axes=tuple(grid),
        grid=tuple(np.array(values, dtype=float) for values in grid.values()),
        table=np.array(table).reshape([len(values) for values in grid.values()]),
        fixed_s=fixed_s,
        rows=len(rows.time_s),
        provenance=ORIGIN if rows.whole else replace(ORIGIN, note="from modules that hold the projections too"),
    )


def _slope(rows: Timed, grid: Grid, terms: Mapping[tuple[float, ...], Column], held: NDArray[np.bool_]) -> Curve:
    """Return the larger term of a module alone; scored with all it was fitted with."""
    errors = []
    for point, found in terms.items():
        cell = rows.take(rows.at(dict(zip(grid, point, strict=True))) & held)
        errors.append(np.abs((found[0] + cell.work_s @ found[1:]) / cell.time_s - 1))
    line = _curve(rows, grid, {point: found[2] for point, found in terms.items()})
    return replace(line, **_scores(np.concatenate(errors)))


def _scores(errors: Column) -> dict[str, float]:
    return {"error_median_frac": float(np.median(errors)), "error_p90_frac": float(np.quantile(errors, 0.9))}


def _predicted_s(parts: Parts, rows: Timed) -> Column:
    axes = dict(rows.axes)
    return np.sum([part.time_s(rows.work_s[:, k], **axes) for k, part in enumerate(parts.values())], axis=0)


def _scored(parts: Parts, held: Timed) -> Parts:
    scores = _scores(np.abs(_predicted_s(parts, held) / held.time_s - 1))
    return {name: replace(part, **scores) for name, part in parts.items()}


# --- engines -------------------------------------------------------------------------------------------------------


def _by_engine(found: list[Reduced]) -> dict[tuple[str, str, str], Parts]:
    """Return curves by (accelerator, KV format, engine): the middle of all under "", and who differs from it."""
    places: dict[tuple[str, str], list[Reduced]] = {}
    for one in found:
        places.setdefault((one.rows.accelerator, one.rows.kv_dtype), []).append(one)
    reduced: dict[tuple[str, str, str], Parts] = {}
    for place, members in sorted(places.items()):
        usable = _usable(members)
        middle = _middle([one for one in usable if one.rows.whole])
        if not middle:
            continue
        reduced[*place, ""] = middle
        for one in usable:
            if one.rows.whole and _differs(one, middle):
                reduced[*place, one.rows.engine] = one.parts
            if not one.rows.whole:
                slope = replace(one.parts["decode"], fixed_s=middle["decode"].fixed_s)
                reduced[*place, one.rows.engine] = {"decode": slope}
    return reduced


def _usable(members: list[Reduced]) -> list[Reduced]:
    """Return the engines whose rows a line describes.

    One at less than half of the best efficiency did other work than what an engine runs: SGLang's MLA on Hopper was
    timed on prompts in the absorbed form, 3.4 times the FLOPs, and with fp8 KV on a cast of the whole cache.
    """
    typical = {one.rows.engine: float(np.median(_main(one).table)) for one in members if one.parts}
    return [
        one
        for one in members
        if one.parts
        and _main(one).error_median_frac <= WORST_MEDIAN_FRAC
        and typical[one.rows.engine] > max(typical.values()) / 2
        and ("decode" not in one.parts or _main(one).table.max() <= MOST_MEMORY_FRAC)
    ]


def _main(one: Reduced) -> Curve:
    return list(one.parts.values())[-1]


def _middle(members: list[Reduced]) -> Parts:
    """Return the medians of the engines' efficiencies and fixed times, scored on every engine's rows."""
    if not members:
        return {}
    parts = {
        name: replace(
            first,
            table=np.exp(np.median([np.log(one.parts[name].table) for one in members], axis=0)),
            fixed_s=float(np.median([one.parts[name].fixed_s for one in members])),
            rows=sum(one.parts[name].rows for one in members),
            provenance=replace(ORIGIN, note=f"middle of {', '.join(one.rows.engine for one in members)}"),
        )
        for name, first in members[0].parts.items()
    }
    every = [np.abs(_predicted_s(parts, one.rows) / one.rows.time_s - 1) for one in members]
    return {name: replace(part, **_scores(np.concatenate(every))) for name, part in parts.items()}


def _differs(one: Reduced, middle: Parts) -> bool:
    """Tell whether a quarter of an engine's rows lie further from the middle than it is worth."""
    ratio = _predicted_s(one.parts, one.rows) / _predicted_s(middle, one.rows)
    return bool(np.quantile(np.abs(np.log(ratio)), 0.75) > np.log1p(ENGINES_DIFFER_FRAC))


# --- rows ----------------------------------------------------------------------------------------------------------


def _newest(root: Path, operator: str, file: str) -> Iterator[tuple[str, str, pl.DataFrame]]:
    """Walk (accelerator, engine, rows without a window) of each engine's newest version."""
    for name, engine, frame in newest(tables(root, operator, file)):
        kept = pl.col("latency") > 0
        for column, value in (("window_size", 0), ("gemm_type", "bfloat16")):
            if column in frame.columns:
                kept &= pl.col(column) == value
        yield name, engine, frame.filter(kept)


def _timed(
    name: str, engine: str, frame: pl.DataFrame, axes: tuple[str, ...], *, whole: bool = True
) -> Iterator[Timed]:
    """Split rows that have `small_s` and `main_s` by KV format, keep one kernel each, join what was timed twice."""
    for kv_dtype, ours in _FORMATS.items():
        part = frame.filter(pl.col("kv_cache_dtype") == kv_dtype)
        shape = [axis for axis in ("head_dim",) if axis in axes]
        kernels = part.group_by(*shape, "kernel_source").len().sort("len", "kernel_source", descending=True)
        kept = kernels.unique(shape, keep="first", maintain_order=True) if shape else kernels.head(1)
        part = part.join(kept, on=[*shape, "kernel_source"], how="semi")
        part = part.group_by(*axes, "small_s", "main_s").agg(pl.col("latency").median() * 1e-3)
        part = part.sort(*axes, "small_s", "main_s")
        if part.height:
            yield Timed(
                accelerator=name,
                engine=engine,
                kv_dtype=ours,
                axes={axis: part[axis].to_numpy().astype(float) for axis in axes},
                work_s=part.select("small_s", "main_s").to_numpy(),
                time_s=part["latency"].to_numpy(),
                whole=whole,
            )


def _cold(name: str, frame: pl.DataFrame, token_bytes: pl.Expr, axes: tuple[str, ...]) -> pl.DataFrame:
    """Add both terms of decodes, and keep rows whose KV was read from memory, or took no time to speak of."""
    bytes_per_s = accelerator(name).hbm_bytes_per_s
    context = pl.col("step") + 1
    read = pl.col("batch_size") * context * token_bytes
    cold = read > 2 * L2_BYTES[name]
    frame = frame.filter((context >= 256) & (context <= 32768) & (pl.col("batch_size") <= 1024))
    frame = frame.with_columns(
        small_s=pl.col("batch_size") * UNIT_TOKENS * token_bytes / bytes_per_s, main_s=read / bytes_per_s, cold=cold
    )
    frame = frame.filter(pl.col("cold") | (pl.col("main_s") < 0.1e-3 * pl.col("latency")))
    return frame.filter(pl.col("cold").sum().over("kv_cache_dtype", *axes) >= LEAST_COLD_ROWS)


def _kv_bytes() -> pl.Expr:
    return pl.col("kv_cache_dtype").replace_strict(_KV_BYTES, default=None, return_dtype=pl.Float64)


def decodes(root: Path) -> Iterator[Timed]:
    """Walk decode attention: KV of one token is 2 · KV heads · head_dim elements."""
    axes, group = ("head_dim", "group"), pl.col("num_heads") / pl.col("num_key_value_heads")
    token_bytes = 2 * pl.col("num_key_value_heads") * pl.col("head_dim") * _kv_bytes()
    for name, engine, frame in _newest(root, "attention", "generation_attention_perf"):
        kept = pl.col("head_dim").is_in(DECODE_GRID["head_dim"]) & (group <= MOST_GROUP)
        rows = frame.filter(kept).with_columns(group=group)
        yield from _timed(name, engine, _cold(name, rows, token_bytes, axes), axes)


def _prompt(name: str, frame: pl.DataFrame, io_bytes: pl.Expr, pair_flops: pl.Expr) -> pl.DataFrame:
    """Add both terms of prompts."""
    on, tokens = accelerator(name), pl.col("batch_size") * pl.col("isl")
    frame = frame.filter((pl.col("isl") >= 128) & (pl.col("isl") <= 16384) & (tokens <= 65536))
    frame = frame.filter((pl.col("num_heads") >= 4) & (pl.col("step") == 0))
    return frame.with_columns(
        small_s=tokens * io_bytes / on.hbm_bytes_per_s,
        main_s=tokens * pl.col("isl") * pair_flops / on.peak_flops_per_s["bf16"],
    )


def prompts(root: Path) -> Iterator[Timed]:
    """Walk prefill attention; with fp8 KV its multiplies are in fp8 where the engine was timed so."""
    heads, width = pl.col("num_heads"), pl.col("head_dim") * _BF16_BYTES
    io_bytes = 2 * (heads + pl.col("num_key_value_heads")) * width
    narrow_kv, narrow = pl.col("kv_cache_dtype") == "fp8", pl.col("attn_dtype") == "fp8"
    for name, engine, frame in _newest(root, "attention", "context_attention_perf"):
        same = narrow_kv == narrow if frame.filter(narrow_kv & narrow).height else ~narrow
        rows = frame.filter(same & pl.col("head_dim").is_in(PREFILL_GRID["head_dim"]))
        yield from _timed(name, engine, _prompt(name, rows, io_bytes, 2 * heads * pl.col("head_dim")), ("head_dim",))


def mla_decodes(root: Path) -> Iterator[Timed]:
    """Walk absorbed MLA decode, modules where no kernel was timed: a token is one latent, whatever the heads."""
    timed = set()
    for file in ("generation_mla_perf", "mla_generation_module_perf"):
        for name, engine, frame in _newest(root, "mla", file):
            if (name, engine) not in timed:
                rows = frame.with_columns(heads=pl.col("num_heads"))
                cold = _cold(name, rows, (LATENT + ROPE) * _kv_bytes(), ("heads",))
                yield from _timed(name, engine, cold, ("heads",), whole=file == "generation_mla_perf")
            timed.add((name, engine))


def mla_prompts(root: Path) -> Iterator[Timed]:
    """Walk MLA prefill in its widened form; beside modules, whose projections speed up with tokens, nothing is left."""
    for name, engine, frame in _newest(root, "mla", "context_mla_perf"):
        rows = frame.with_columns(heads=pl.col("num_heads"))
        io_bytes = 2 * (NOPE + ROPE + VALUE) * _BF16_BYTES * pl.col("num_heads")
        prompt = _prompt(name, rows, io_bytes, (NOPE + ROPE + VALUE) * pl.col("num_heads"))
        yield from _timed(name, engine, prompt, ("heads",))
