"""The one way from a reader's rows to `Requests`: every check of values and every treatment stands here.

A reader turns its format into `Rows`: a frame in the names of headway's columnar form, and how to name a place in the
file. What is refused, dropped, counted or sorted is then the same for all formats.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from headway.types import Requests
from headway.workload.prefixes import MAX_ID, ragged_index, take_runs, unchained_request
from headway.workload.trace import Measured, Trace, Treatment

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import polars as pl

    from headway.types import FloatColumn, IntColumn, PrefixRuns
    from headway.workload.source import Source
    from headway.workload.trace import ReadOptions

#: A token count beyond 32 bits is a mistake: no engine's counters hold it, and sums over 10⁷ rows stay exact below it.
MAX_TOKENS = 2**31 - 1
#: A time beyond 317 years is a mistake, and below it a double tells 2 µs apart.
MAX_TIME_S = 1e10
CODES = ("session_id", "adapter_id", "tenant_id", "class_id", "priority")
LATENCIES = ("ttft_s", "e2e_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """What a reader gives.

    Args:
        frame: `arrive_s`, `isl_tokens`, `osl_tokens` as numbers, and any of `CODES` (Int64), `LATENCIES` (Float64) and
            `cached_tokens`.
        place: names the place of a row of the frame in the file.
        columns: what the file calls a column, for messages; the column's own name where it is not listed.
        prefix: runs of each row.
        itl: gaps of each row in seconds, and the offsets of the rows in them.
        names: what codes stand for.
        treatments: what the reader itself did to rows.
    """

    frame: pl.DataFrame
    place: Callable[[int], str]
    columns: Mapping[str, str] = field(default_factory=dict)
    prefix: PrefixRuns | None = None
    itl: tuple[FloatColumn, IntColumn] | None = None
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    treatments: tuple[Treatment, ...] = ()


def finish(rows: Rows, source: Source, format_name: str, options: ReadOptions) -> Trace:
    """Check the rows, treat what has a documented treatment, and make the trace.

    Raises:
        InputError: a value that has no treatment, or no request is left; the place is named.
    """
    if not rows.frame.height:
        source.fail("the trace is empty: it has no request")
    arrive_s = _times(rows, source)
    isl_tokens, osl_tokens = (_tokens(rows, source, name) for name in ("isl_tokens", "osl_tokens"))
    _check_prefix(rows, source)
    treatments = [*rows.treatments]
    keep = isl_tokens > 0
    _count(treatments, ~keep, "request without a prompt: left out")
    osl_tokens, kept = _treat_empty_outputs(rows, source, osl_tokens, keep, options, treatments)
    keep &= kept
    start_s, end_s = options.window
    inside = (arrive_s >= start_s) & (arrive_s < end_s)
    _count(treatments, keep & ~inside, "request outside the window asked for: left out")
    index = np.flatnonzero(keep & inside)
    if not len(index):
        source.fail("no request is left: " + "; ".join(str(one) for one in treatments))
    index = _in_order(rows, source, arrive_s, index, options, treatments)
    codes: dict[str, Any] = {name: _codes(rows, source, name)[index] for name in CODES if name in rows.frame.columns}
    requests = Requests(
        arrive_s=arrive_s[index] - start_s,
        isl_tokens=isl_tokens[index],
        osl_tokens=osl_tokens[index],
        prefix=take_runs(rows.prefix, index) if rows.prefix else None,
        **codes,
    )
    return Trace(
        requests=requests,
        format=format_name,
        file=str(source.path),
        treatments=tuple(treatments),
        measured=_measured(rows, source, index),
        names=rows.names,
    )


# --- values --------------------------------------------------------------------------------------------


def _refuse(rows: Rows, source: Source, bad: np.ndarray, name: str, expected: str) -> None:
    """Refuse the first bad row, if there is one."""
    if not bad.any():
        return
    row = int(np.argmax(bad))
    value = rows.frame[name][row]
    got = "nothing" if value is None else repr(value)
    source.fail(f"expected {expected}, got {got}", f"{rows.place(row)}, {rows.columns.get(name, name)}")


def _floats(rows: Rows, name: str) -> FloatColumn:
    column: FloatColumn = rows.frame[name].cast(float).to_numpy()  # null becomes NaN
    return column


def _times(rows: Rows, source: Source) -> FloatColumn:
    arrive_s = _floats(rows, "arrive_s")
    bad = ~((arrive_s >= 0) & (arrive_s <= MAX_TIME_S))
    _refuse(rows, source, bad, "arrive_s", f"a time from 0 to {MAX_TIME_S:g} s")
    return arrive_s + 0.0  # -0.0 becomes 0.0


def _tokens(rows: Rows, source: Source, name: str) -> IntColumn:
    raw = _floats(rows, name)
    bad = ~((raw >= 0) & (raw <= MAX_TOKENS) & (raw == np.floor(raw)))
    _refuse(rows, source, bad, name, f"a whole number of tokens from 0 to {MAX_TOKENS:,}")
    return raw.astype(np.int64)


def _codes(rows: Rows, source: Source, name: str) -> IntColumn:
    column = rows.frame[name]
    _refuse(rows, source, column.is_null().to_numpy(), name, "a whole number")
    return column.to_numpy().astype(np.int64)


def _check_prefix(rows: Rows, source: Source) -> None:
    prefix = rows.prefix
    if prefix is None:
        return
    bad = (prefix.first_ids < 0) | (prefix.first_ids >= MAX_ID) | (prefix.counts < 1) | (prefix.counts > MAX_TOKENS)
    if bad.any():
        run = int(np.argmax(bad))
        row = int(np.searchsorted(prefix.offsets, run, side="right")) - 1
        source.fail(
            f"expected block ids from 0 to {MAX_ID - 1:,} in runs of at least one, "
            f"got {int(prefix.counts[run])} from {int(prefix.first_ids[run])}",
            rows.place(row),
        )
    unchained = unchained_request(prefix)
    if unchained is not None:
        source.fail(
            "a block id here follows another block than elsewhere",
            rows.place(unchained),
            "an id must stand for its block and everything before it",
        )


# --- treatments ----------------------------------------------------------------------------------------


def _count(treatments: list[Treatment], which: np.ndarray, text: str) -> None:
    if which.any():
        treatments.append(Treatment(rows=int(which.sum()), text=text))


def _treat_empty_outputs(
    rows: Rows,
    source: Source,
    osl_tokens: IntColumn,
    keep: np.ndarray,
    options: ReadOptions,
    treatments: list[Treatment],
) -> tuple[IntColumn, np.ndarray]:
    """Return the output lengths, and which rows stay."""
    empty = keep & (osl_tokens == 0)
    if options.empty_output == "refuse":
        _refuse(rows, source, empty, "osl_tokens", "at least one output token")
    if options.empty_output == "drop":
        _count(treatments, empty, "request without output: left out")
        return osl_tokens, ~empty
    _count(treatments, empty, "request without output: counted as one token")
    return np.where(empty, 1, osl_tokens), np.ones_like(empty)


def _in_order(
    rows: Rows,
    source: Source,
    arrive_s: FloatColumn,
    index: IntColumn,
    options: ReadOptions,
    treatments: list[Treatment],
) -> IntColumn:
    times_s = arrive_s[index]
    late = times_s < np.maximum.accumulate(times_s)
    if not late.any():
        return index
    if options.order == "refuse":
        place = f"{rows.place(int(index[np.argmax(late)]))}, {rows.columns.get('arrive_s', 'arrive_s')}"
        source.fail("earlier than a row before it", place, "order='sort' sorts and counts such rows")
    _count(treatments, late, "request out of order of time: sorted in")
    return index[np.argsort(times_s, kind="stable")]


def _measured(rows: Rows, source: Source, index: IntColumn) -> Measured | None:
    have = rows.frame.columns
    columns = {name: _latency(rows, source, name)[index] for name in LATENCIES if name in have}
    cached = None
    if "cached_tokens" in have:
        filled = Rows(frame=rows.frame.with_columns(rows.frame["cached_tokens"].fill_null(0)), place=rows.place)
        known = rows.frame["cached_tokens"].is_not_null().to_numpy()
        cached = np.where(known, _tokens(filled, source, "cached_tokens"), -1)[index]
    if not columns and cached is None and rows.itl is None:
        return None
    gaps, offsets = (None, None) if rows.itl is None else ragged_index(rows.itl[1], index)
    return Measured(
        ttft_s=columns.get("ttft_s"),
        e2e_s=columns.get("e2e_s"),
        cached_tokens=cached,
        itl_s=None if rows.itl is None else rows.itl[0][gaps],
        itl_offsets=offsets,
    )


def _latency(rows: Rows, source: Source, name: str) -> FloatColumn:
    latency_s = _floats(rows, name)
    _refuse(rows, source, np.isinf(latency_s) | (latency_s < 0), name, "a finite time from 0 on, or nothing")
    return latency_s
