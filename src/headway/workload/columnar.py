"""headway's own form of a trace: one row per request, as Parquet or CSV (which may be gzip'd).

Columns, of which the first three are needed:

- `arrive_s` (number ≥ 0), `isl_tokens`, `osl_tokens` (whole numbers);
- `prefix_block_tokens` (the same in every row) with `prefix_first_ids` and `prefix_counts` (lists of equal length: the
  runs of `types.PrefixRuns`), or with `prefix_ids` (a list with every id);
- `session_id`, `adapter_id`, `tenant_id`, `class_id`, `priority` (whole numbers; −1: none);
- `ttft_s`, `e2e_s`, `cached_tokens`, where they were measured (read, not written).

A list stands in CSV as numbers with blanks between. Columns of other names are left alone and mentioned.
"""

from __future__ import annotations

import contextlib
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
from headway.workload.rows import CODES, LATENCIES, MAX_TOKENS, Rows
from headway.workload.trace import Treatment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from headway.types import IntColumn, Requests
    from headway.workload.source import Source
    from headway.workload.trace import ReadOptions

_NUMBERS = ("arrive_s", "isl_tokens", "osl_tokens", *LATENCIES, "cached_tokens")
_LISTS = ("prefix_first_ids", "prefix_counts", "prefix_ids")
COLUMNS = (*_NUMBERS, *CODES, "prefix_block_tokens", *_LISTS)
_REQUIRED = COLUMNS[:3]


def is_parquet(magic: bytes) -> bool:
    """Whether a file begins as Parquet does."""
    return magic.startswith(b"PAR1")


# --- reading -------------------------------------------------------------------------------------------


def read_columnar_csv(source: Source, _options: ReadOptions) -> Rows:
    """Read the columnar form from CSV."""
    have = source.header()
    known = [name for name in COLUMNS if name in have or name in _REQUIRED]
    types = {name: pl.Float64 if name in _NUMBERS else pl.String if name in _LISTS else pl.Int64 for name in known}
    frame = source.csv(types)
    return _rows(
        source, frame.with_columns(_split(source, frame[name]) for name in known if name in _LISTS), have, csv_line
    )


def _split(source: Source, texts: pl.Series) -> pl.Series:
    """Return numbers with blanks between as lists."""
    words = texts.fill_null("").str.strip_chars().str.split(" ")
    lists = words.list.eval(pl.element().filter(pl.element() != "").cast(pl.Int64, strict=False))
    bad = lists.list.eval(pl.element().is_null().any()).list.first().fill_null(value=False)
    if bad.any():
        row = int(bad.arg_true()[0])
        got = texts[row]
        source.fail(f"expected whole numbers with blanks between, got {got[:40]!r}", f"{csv_line(row)}, {texts.name}")
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
        inner = dtype.inner if isinstance(dtype, pl.List) else dtype
        sound = inner.is_numeric() if name in _NUMBERS else inner.is_integer()
        if not sound or isinstance(dtype, pl.List) != (name in _LISTS):
            expected = (
                "lists of whole numbers" if name in _LISTS else "numbers" if name in _NUMBERS else "whole numbers"
            )
            source.fail(f"expected {expected}, got {dtype}", name)
    wide = {name: pl.List(pl.Int64) if name in _LISTS else pl.Int64 for name in frame.columns if name not in _NUMBERS}
    try:
        return frame.cast(wide)  # type: ignore[arg-type]
    except pl.exceptions.PolarsError as error:
        return source.fail(f"a whole number leaves 64 bits: {str(error).splitlines()[0]}")


def _rows(source: Source, frame: pl.DataFrame, have: list[str], place: Callable[[int], str]) -> Rows:
    other = [name for name in have if name not in COLUMNS]
    notes = tuple(
        Treatment(rows=frame.height, text=f"value of the column {name!r}, which is not known: ignored ({hint})")
        for name in other
        for hint in [nearest(name, COLUMNS)]
    )
    prefix = _prefix(source, frame, place) if frame.height else None
    return Rows(frame=frame.drop(*_LISTS, strict=False), place=place, prefix=prefix, treatments=notes)


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


def write_trace(requests: Requests, path: str | Path) -> None:
    """Write requests in the columnar form; reading the file gives them back (runs joined where they continue).

    Args:
        requests: what to write.
        path: ends in `.parquet`, `.csv` or `.csv.gz`. The file appears whole or not at all.

    Raises:
        InputError: another ending, or the file cannot be written.
    """
    path = Path(path)
    kind = next((end for end in (".parquet", ".csv", ".csv.gz") if path.name.endswith(end)), None)
    if kind is None:
        raise InputError("expected a name that ends in .parquet, .csv or .csv.gz", file=path)
    frame = _frame(requests)
    with _appearing(path) as part:
        if kind == ".parquet":
            frame.write_parquet(part)
        else:
            _write_csv(frame, part, packed=kind == ".csv.gz")


@contextlib.contextmanager
def _appearing(path: Path) -> Iterator[Path]:
    """Give a name to write under; it becomes the file's own once all is written."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        part.replace(path)
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror or error}", file=path) from None
    finally:
        part.unlink(missing_ok=True)


def _write_csv(frame: pl.DataFrame, path: Path, *, packed: bool) -> None:
    lists = [name for name in _LISTS if name in frame.columns]
    frame = frame.with_columns(pl.col(name).cast(pl.List(pl.String)).list.join(" ") for name in lists)
    if not packed:
        frame.write_csv(path)
        return
    text = io.BytesIO()
    frame.write_csv(text)
    path.write_bytes(gzip.compress(text.getvalue(), mtime=0))  # no time inside: the same requests, the same bytes


def _frame(requests: Requests) -> pl.DataFrame:
    names = [*_REQUIRED, *(name for name in CODES if getattr(requests, name) is not None)]
    frame = pl.DataFrame({name: getattr(requests, name) for name in names})
    prefix = requests.prefix
    if prefix is None:
        return frame
    return frame.with_columns(
        pl.lit(prefix.block_tokens, dtype=pl.Int64).alias("prefix_block_tokens"),
        _as_lists("prefix_first_ids", prefix.first_ids, prefix.offsets),
        _as_lists("prefix_counts", prefix.counts, prefix.offsets),
    )


def _as_lists(name: str, values: IntColumn, offsets: IntColumn) -> pl.Series:
    """Return ragged rows as a column of lists; null where a row is empty."""
    rows = np.arange(len(offsets) - 1)
    groups = pl.DataFrame({"row": np.repeat(rows, np.diff(offsets)), name: values}).group_by("row").agg(name)
    return pl.DataFrame({"row": rows}).join(groups, on="row", how="left", maintain_order="left")[name]
