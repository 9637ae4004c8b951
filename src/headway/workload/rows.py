"""The one way from a reader's rows to `Requests`: every check of values and every treatment stands here.

A reader turns its format into `Rows`: a frame in the names of headway's columnar form, and how to name a place in the
file. What is refused, dropped, counted or sorted is then the same for all formats.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from headway.types import Requests
from headway.workload.codes import word_codes
from headway.workload.prefixes import MAX_ID, offsets_of, ragged_index, take_runs, unchained_request
from headway.workload.trace import Measured, Trace, Treatment

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from headway.types import FloatColumn, IntColumn, PrefixRuns
    from headway.workload.source import Source
    from headway.workload.trace import ReadOptions

#: A token count beyond 32 bits is a mistake: no engine's counters hold it, and sums over 10⁷ rows stay exact below it.
MAX_TOKENS = 2**31 - 1
#: A time beyond 317 years is a mistake, and below it a double tells 2 µs apart.
MAX_TIME_S = 1e10
CODES = ("session_id", "adapter_id", "tenant_id", "class_id", "priority")
#: What was measured, as numbers: times from 0 on, a time that may lie before the arrival, and counts of tokens.
LATENCIES = ("ttft_s", "e2e_s")
MEASURED_TIMES = (*LATENCIES, "sent_s")
MEASURED_COUNTS = ("input_tokens", "output_tokens", "cached_tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """What a reader gives.

    Args:
        frame: `arrive_s`, `isl_tokens`, `osl_tokens` as numbers, and any of `CODES` (Int64), `MEASURED_TIMES` and
            `abort_s` (Float64), `MEASURED_COUNTS` and `max_tokens`, and `error` (String; nothing: answered in full).
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
    limits = {name: column[index] for name, column in _limits(rows, source, start_s).items()}
    measured, errors = _measured(rows, source, index)
    requests = Requests(
        arrive_s=arrive_s[index] - start_s,
        isl_tokens=isl_tokens[index],
        osl_tokens=osl_tokens[index],
        prefix=take_runs(rows.prefix, index) if rows.prefix else None,
        **codes,
        **limits,
    )
    return Trace(
        requests=requests,
        format=format_name,
        file=str(source.path),
        treatments=tuple(treatments),
        measured=measured,
        names={**rows.names, **errors},
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


def _limits(rows: Rows, source: Source, start_s: float) -> dict[str, Any]:
    """Return what ends a request before its time: the tokens allowed, and when its client hangs up."""
    found: dict[str, Any] = {}
    if "max_tokens" in rows.frame.columns:
        found["max_tokens"] = _tokens(rows, source, "max_tokens")
        _refuse(rows, source, found["max_tokens"] < 1, "max_tokens", "at least one token")
    if "abort_s" in rows.frame.columns:
        found["abort_s"] = _latency(rows, source, "abort_s") - start_s
    return found


def _measured(rows: Rows, source: Source, index: IntColumn) -> tuple[Measured | None, dict[str, tuple[str, ...]]]:
    """Return what was measured of the rows taken, and what the codes of its errors stand for."""
    have = rows.frame.columns
    columns: dict[str, Any] = {name: _latency(rows, source, name)[index] for name in LATENCIES if name in have}
    if "sent_s" in have:
        columns["sent_s"] = _finite(rows, source, "sent_s")[index]
    columns |= {name: _counts(rows, source, name)[index] for name in MEASURED_COUNTS if name in have}
    names: dict[str, tuple[str, ...]] = {}
    if "error" in have:
        codes, words = word_codes(rows.frame["error"][index].replace("", None))
        columns["error"], names["error"] = codes.to_numpy() + 1, ("", *words)
    if rows.itl is not None:
        gaps, columns["itl_offsets"] = ragged_index(rows.itl[1], index)
        columns["itl_s"] = _gaps(rows, source)[gaps]
    return (Measured(**columns) if columns else None), names


def _counts(rows: Rows, source: Source, name: str) -> IntColumn:
    """Return counts of tokens; −1 where there is none."""
    column = rows.frame[name]
    filled = Rows(frame=rows.frame.with_columns(column.fill_null(0)), place=rows.place, columns=rows.columns)
    return np.where(column.is_not_null().to_numpy(), _tokens(filled, source, name), -1)


def _finite(rows: Rows, source: Source, name: str) -> FloatColumn:
    times_s = _floats(rows, name)
    _refuse(rows, source, np.isinf(times_s), name, "a finite time, or nothing")
    return times_s


def _latency(rows: Rows, source: Source, name: str) -> FloatColumn:
    latency_s = _floats(rows, name)
    _refuse(rows, source, np.isinf(latency_s) | (latency_s < 0), name, "a finite time from 0 on, or nothing")
    return latency_s


def ragged(lists: pl.Series) -> tuple[FloatColumn, IntColumn]:
    """Return a column of lists of numbers as values and offsets; a missing list is an empty one."""
    lengths = lists.list.len().fill_null(0).to_numpy().astype(np.int64)
    values = lists.filter(lengths > 0).explode().cast(pl.Float64).to_numpy()
    return values, offsets_of(lengths)


def _gaps(rows: Rows, source: Source) -> FloatColumn:
    assert rows.itl is not None
    gaps_s, offsets = rows.itl
    bad = ~(np.isfinite(gaps_s) & (gaps_s >= 0))
    if bad.any():
        row = int(np.searchsorted(offsets, int(np.argmax(bad)), side="right")) - 1
        source.fail(
            "expected gaps as finite times from 0 on", f"{rows.place(row)}, {rows.columns.get('itl_s', 'itl_s')}"
        )
    return gaps_s
