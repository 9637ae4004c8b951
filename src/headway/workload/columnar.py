"""headway's own form of a trace: one row per request, as Parquet or CSV (which may be gzip'd).

Columns, of which the first three are needed:

- `arrive_s` (number ≥ 0), `isl_tokens`, `osl_tokens` (whole numbers);
- `prefix_block_tokens` (the same in every row) with `prefix_first_ids` and `prefix_counts` (lists of equal length: the
  runs of `types.PrefixRuns`), or with `prefix_ids` (a list with every id);
- `session_id`, `adapter_id`, `tenant_id`, `class_id`, `priority` (whole numbers; −1: none);
- `max_tokens` (a whole number) and `abort_s` (a number; nothing: never), what ends a request before its time;
- what was measured, as `trace.Measured` has it: `ttft_s`, `e2e_s`, `sent_s` (numbers; nothing: there is none),
  `input_tokens`, `output_tokens`, `cached_tokens` (whole numbers; nothing: not known), `itl_s` (a list of numbers),
  `error` (a word; nothing: answered in full).

A list stands in CSV as numbers with blanks between. Columns of other names are left alone and mentioned.
"""

from __future__ import annotations

import gzip
import io
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from headway.errors import InputError, nearest
from headway.types import PrefixRuns
from headway.workload.prefixes import maximal_runs, offsets_of
from headway.workload.reader_logs import csv_line, runs_of_lists
from headway.workload.rows import CODES, MAX_TOKENS, MEASURED_COUNTS, MEASURED_TIMES, Rows, ragged
from headway.workload.trace import Trace, Treatment

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from headway.types import FloatColumn, IntColumn, Requests
    from headway.workload.source import Source
    from headway.workload.trace import Measured, ReadOptions

_NUMBERS = ("arrive_s", "isl_tokens", "osl_tokens", "abort_s", *MEASURED_TIMES, *MEASURED_COUNTS)
_LISTS = ("prefix_first_ids", "prefix_counts", "prefix_ids")
_GAPS = "itl_s"
COLUMNS = (*_NUMBERS[:3], *CODES, "max_tokens", *_NUMBERS[3:], "prefix_block_tokens", *_LISTS, _GAPS, "error")
_REQUIRED = COLUMNS[:3]


def is_parquet(magic: bytes) -> bool:
    """Whether a file begins as Parquet does."""
    return magic.startswith(b"PAR1")


# --- reading -------------------------------------------------------------------------------------------


def read_columnar_csv(source: Source, _options: ReadOptions) -> Rows:
    """Read the columnar form from CSV."""
    have = source.header()
    known = [name for name in COLUMNS if name in have or name in _REQUIRED]
    types = {name: pl.String if isinstance(_type(name), pl.List) else _type(name) for name in known}
    frame = source.csv(types)
    lists = [name for name in known if isinstance(_type(name), pl.List)]
    return _rows(source, frame.with_columns(_split(source, frame[name]) for name in lists), have, csv_line)


def _type(name: str) -> pl.DataType:
    """The type a column of that name is read as."""
    if name in _LISTS or name == _GAPS:
        return pl.List(pl.Float64() if name == _GAPS else pl.Int64())
    if name == "error":
        return pl.String()
    return pl.Float64() if name in _NUMBERS else pl.Int64()


def _split(source: Source, texts: pl.Series) -> pl.Series:
    """Return numbers with blanks between as lists."""
    words = texts.fill_null("").str.strip_chars().str.split(" ")
    inner = pl.Float64 if texts.name == _GAPS else pl.Int64
    lists = words.list.eval(pl.element().filter(pl.element() != "").cast(inner, strict=False))
    bad = lists.list.eval(pl.element().is_null().any()).list.first().fill_null(value=False)
    if bad.any():
        row = int(bad.arg_true()[0])
        got = texts[row]
        expected = "numbers" if texts.name == _GAPS else "whole numbers"
        source.fail(f"expected {expected} with blanks between, got {got[:40]!r}", f"{csv_line(row)}, {texts.name}")
    return lists


def read_columnar_parquet(source: Source, _options: ReadOptions) -> Rows:
    """Read the columnar form from Parquet."""
    if source.gzipped:
        source.fail("a gzip'd Parquet file", hint="Parquet compresses by itself: unpack it")
    try:
        scan = pl.scan_parquet(source.path)
        have = scan.collect_schema().names()
        frame = scan.select([name for name in COLUMNS if name in have]).collect()
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        return source.fail(f"not readable as Parquet: {str(error).splitlines()[0]}")
    for name in _REQUIRED:
        if name not in have:
            source.fail(f"the column {name!r} is missing", hint=f"found: {', '.join(have[:8])}")
    return _rows(source, _typed(source, frame), have, lambda row: f"row {row + 1}")


def _typed(source: Source, frame: pl.DataFrame) -> pl.DataFrame:
    for name, dtype in frame.schema.items():
        if not _fits(dtype, _type(name), whole=name not in _NUMBERS):
            source.fail(f"expected {_expected(name)}, got {dtype}", name)
    wide = {name: _type(name) for name in frame.columns if name not in _NUMBERS}
    try:
        return frame.cast(wide)  # type: ignore[arg-type]
    except pl.exceptions.PolarsError as error:
        return source.fail(f"a whole number leaves 64 bits: {str(error).splitlines()[0]}")


def _fits(dtype: pl.DataType, wanted: pl.DataType, *, whole: bool) -> bool:
    """Whether a column's type holds what is wanted; a column with nothing in it holds anything."""
    if dtype == pl.Null:
        return True
    if isinstance(wanted, pl.List) or isinstance(dtype, pl.List):
        both = isinstance(wanted, pl.List) and isinstance(dtype, pl.List)
        return both and _fits(dtype.inner, wanted.inner, whole=wanted.inner == pl.Int64)  # type: ignore[attr-defined]
    if pl.String in (wanted, dtype):
        return dtype == wanted
    return dtype.is_integer() if whole else dtype.is_numeric()


def _expected(name: str) -> str:
    if name == "error":
        return "words"
    if name == _GAPS:
        return "lists of numbers"
    return "lists of whole numbers" if name in _LISTS else "numbers" if name in _NUMBERS else "whole numbers"


def _rows(source: Source, frame: pl.DataFrame, have: list[str], place: Callable[[int], str]) -> Rows:
    other = [name for name in have if name not in COLUMNS]
    notes = tuple(
        Treatment(rows=frame.height, text=f"value of the column {name!r}, which is not known: ignored ({hint})")
        for name in other
        for hint in [nearest(name, COLUMNS)]
    )
    prefix = _prefix(source, frame, place) if frame.height else None
    return Rows(
        frame=frame.drop(*_LISTS, _GAPS, strict=False),
        place=place,
        prefix=prefix,
        itl=ragged(frame[_GAPS]) if _GAPS in frame.columns else None,
        treatments=notes,
    )


def _prefix(source: Source, frame: pl.DataFrame, place: Callable[[int], str]) -> PrefixRuns | None:
    have = set(frame.columns)
    if not have & set(_LISTS):
        return None
    block_tokens = _block_tokens(source, frame)
    if "prefix_ids" in have:
        return runs_of_lists(source, frame["prefix_ids"], block_tokens, place, "prefix_ids")
    if {"prefix_first_ids", "prefix_counts"} - have:
        source.fail("expected both prefix_first_ids and prefix_counts")
    first_ids, counts = frame["prefix_first_ids"], frame["prefix_counts"]
    lengths = _lengths(first_ids)
    uneven = lengths != _lengths(counts)
    if uneven.any():
        row = int(np.argmax(uneven))
        source.fail("expected lists of equal length", f"{place(row)}, prefix_first_ids and prefix_counts")
    return maximal_runs(
        PrefixRuns(
            block_tokens=block_tokens,
            offsets=offsets_of(lengths),
            first_ids=_flat(source, first_ids),
            counts=_flat(source, counts),
        )
    )


def _lengths(lists: pl.Series) -> IntColumn:
    return lists.list.len().fill_null(0).to_numpy().astype(np.int64)


def _flat(source: Source, lists: pl.Series) -> IntColumn:
    flat = lists.filter(lists.list.len() > 0).explode()
    if flat.null_count():
        source.fail("expected whole numbers, got nothing inside a list", lists.name)
    return flat.to_numpy().astype(np.int64)


def _block_tokens(source: Source, frame: pl.DataFrame) -> int:
    if "prefix_block_tokens" not in frame.columns:
        source.fail("the column 'prefix_block_tokens' is missing: how many tokens a block has")
    sizes = frame["prefix_block_tokens"].unique().to_list()
    if len(sizes) != 1 or sizes[0] is None or not 1 <= sizes[0] <= MAX_TOKENS:
        shown = ", ".join(map(str, sizes[:4]))
        source.fail(f"expected one whole number of tokens from 1 in all rows, got {shown}", "prefix_block_tokens")
    return int(sizes[0])


# --- writing -------------------------------------------------------------------------------------------


def write_trace(given: Requests | Trace, path: str | Path) -> None:
    """Write requests in the columnar form; reading the file gives them back (runs joined where they continue).

    Args:
        given: what to write; of a trace, what was measured too.
        path: ends in `.parquet`, `.csv` or `.csv.gz`. The file appears whole or not at all.

    Raises:
        InputError: another ending, or the file cannot be written.
    """
    path = Path(path)
    kind = next((end for end in (".parquet", ".csv", ".csv.gz") if path.name.endswith(end)), None)
    if kind is None:
        raise InputError("expected a name that ends in .parquet, .csv or .csv.gz", file=path)
    frame = _frame(given)
    content = _parquet(frame) if kind == ".parquet" else _csv(frame)
    # no time inside: the same requests, the same bytes
    write_whole(path, gzip.compress(content, mtime=0) if kind == ".csv.gz" else content)


def parquet_bytes(given: Requests | Trace) -> bytes:
    """Return what `write_trace` writes as Parquet."""
    return _parquet(_frame(given))


def write_whole(path: Path, content: bytes) -> None:
    """Write a file under another name first; it becomes the file's own once all is written.

    Raises:
        InputError: it cannot be written.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror or error}", file=path) from None
    finally:
        part.unlink(missing_ok=True)


def _parquet(frame: pl.DataFrame) -> bytes:
    packed = io.BytesIO()
    frame.write_parquet(packed)
    return packed.getvalue()


def _csv(frame: pl.DataFrame) -> bytes:
    lists = [name for name, dtype in frame.schema.items() if isinstance(dtype, pl.List)]
    text = io.BytesIO()
    frame.with_columns(pl.col(name).cast(pl.List(pl.String)).list.join(" ") for name in lists).write_csv(text)
    return text.getvalue()


def _frame(given: Requests | Trace) -> pl.DataFrame:
    requests = given.requests if isinstance(given, Trace) else given
    names = [*_REQUIRED, *(name for name in (*CODES, "max_tokens") if getattr(requests, name) is not None)]
    columns = [pl.Series(name, getattr(requests, name)) for name in names]
    if requests.abort_s is not None:
        columns.append(pl.Series("abort_s", requests.abort_s, nan_to_null=True))
    prefix = requests.prefix
    if prefix is not None:
        columns += [
            pl.repeat(prefix.block_tokens, len(requests), dtype=pl.Int64, eager=True).alias("prefix_block_tokens"),
            _as_lists("prefix_first_ids", prefix.first_ids, prefix.offsets),
            _as_lists("prefix_counts", prefix.counts, prefix.offsets),
        ]
    if isinstance(given, Trace) and given.measured is not None:
        columns += _measured(given.measured, given.names)
    return pl.DataFrame(columns)


def _measured(measured: Measured, names: Mapping[str, tuple[str, ...]]) -> list[pl.Series]:
    """Return the measured columns that there are, with nothing where a value is not known."""
    times = [(name, column) for name in MEASURED_TIMES if (column := getattr(measured, name)) is not None]
    counts = [(name, column) for name in MEASURED_COUNTS if (column := getattr(measured, name)) is not None]
    columns = [pl.Series(name, column, nan_to_null=True) for name, column in times]
    columns += [pl.Series(name, column).replace(-1, None) for name, column in counts]
    if measured.itl_s is not None and measured.itl_offsets is not None:
        columns.append(_as_lists(_GAPS, measured.itl_s, measured.itl_offsets))
    if measured.error is not None:
        words = names["error"]
        columns.append(pl.Series("error", [words[code] or None for code in measured.error.tolist()], dtype=pl.String))
    return columns


def _as_lists(name: str, values: IntColumn | FloatColumn, offsets: IntColumn) -> pl.Series:
    """Return ragged rows as a column of lists; null where a row is empty."""
    rows = np.arange(len(offsets) - 1)
    groups = pl.DataFrame({"row": np.repeat(rows, np.diff(offsets)), name: values}).group_by("row").agg(name)
    return pl.DataFrame({"row": rows}).join(groups, on="row", how="left", maintain_order="left")[name]
