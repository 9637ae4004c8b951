"""Reads a table of measurements: CSV or Parquet, this project's columns, as many of them as there are.

Only `model`, `hardware`, `engine`, one column of what was asked (`isl`, `osl`) and one of what was measured have to be
there. A row that cannot be understood is put aside with a finding; only a table that cannot be read is refused.
"""

from __future__ import annotations

import csv
import math
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from headway.errors import InputError, nearest
from headway.validation.measurements import MODES, Aside, Finding, Measurement, Table, Tokens

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_LATENCIES = ("ttft", "tpot", "itl", "e2e")
_STATISTICS = ("mean", "p50", "p90", "p95", "p99")
_S_PER_MS = 1e-3
#: column -> (metric, statistic, what turns it into base units)
_MEASURED: dict[str, tuple[str, str, float]] = {
    f"{name}_ms_{statistic}": (f"{name}_s", statistic, _S_PER_MS) for name in _LATENCIES for statistic in _STATISTICS
} | {
    "output_tok_s_total": ("output_tokens_per_s", "mean", 1.0),
    "total_tok_s": ("total_tokens_per_s", "mean", 1.0),
    "req_s": ("requests_per_s", "mean", 1.0),
}
_COUNTS = ("gpus", "tp", "pp", "ep", "dp", "concurrency")
_TEXTS = ("engine_version", "weight_dtype", "kv_dtype", "features", "quality", "source", "note")
#: what a row is about, and the column that goes before where it is there too: a key others join by
_NAMES = {"model": "model_key", "hardware": "hw_key", "engine": "engine"}
_KNOWN = {
    "id",
    "params",
    "isl",
    "osl",
    "mode",
    "request_rate",
    *_COUNTS,
    *_TEXTS,
    *_NAMES,
    *_NAMES.values(),
} | _MEASURED.keys()
_EMPTY = ("", "nan", "none", "null", "n/a", "-")
_RANGE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(?:-|–|\.\.|to)\s*(\d+(?:\.\d+)?)\b")


#: What no deployment of today comes near: a slip of the pen, and more than can be replayed.
_MOST = {
    **dict.fromkeys(("gpus", "tp", "pp", "ep", "dp"), 100_000),
    **dict.fromkeys(("isl", "osl"), 100_000_000),
    "concurrency": 200_000,
}


class _Problem(Exception):  # noqa: N818 - not an error: it becomes a finding
    """Why a row is put aside."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code, self.reason = code, reason


def read_table(path: str | Path) -> Table:
    """Read a table of measurements.

    Args:
        path: CSV with a header line, or Parquet (`.parquet`).

    Raises:
        InputError: the file cannot be read, has no rows, or lacks a column without which no row means anything.
    """
    file = Path(path)
    rows = list(_parquet(file) if file.suffix.casefold() == ".parquet" else _csv(file))
    if not rows:
        raise InputError("the table has no rows", file=file)
    columns = list(rows[0][1])
    _check_columns(file, columns)
    findings = [_stray(column) for column in columns if column not in _KNOWN]
    measurements, aside = [], []
    for line, fields in rows:
        try:
            measurements.append(_measurement(line, fields))
        except _Problem as problem:
            row = fields.get("id") or f"line {line}"
            found = Finding(row=row, line=line, code=problem.code, reason=problem.reason)
            aside.append(Aside(finding=found, measured=_legible(fields)))
    findings += [one.finding for one in aside]
    return Table(
        file=str(file),
        rows=len(rows),
        measurements=tuple(measurements),
        findings=tuple(findings),
        aside=tuple(aside),
    )


def _csv(file: Path) -> Iterator[tuple[int, dict[str, str]]]:
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.reader(lines, strict=True)
            header = [name.strip() for name in next(reader, [])]
            _check_header(file, header)
            start = reader.line_num + 1
            for values in reader:
                if any(values):
                    yield start, _fields(file, start, header, values)
                start = reader.line_num + 1
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8 text (byte {error.start})", file=file) from None
    except csv.Error as error:
        raise InputError(f"not valid CSV: {error}", file=file, place=f"line {reader.line_num}") from None
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", file=file) from None


def _check_header(file: Path, header: list[str]) -> None:
    if not header:
        raise InputError("the file is empty", file=file, hint="expected a header line with the names of columns")
    if twice := next((name for name in header if header.count(name) > 1), None):
        raise InputError(f"the column {twice!r} stands twice", file=file, place="line 1")


def _fields(file: Path, line: int, header: list[str], values: list[str]) -> dict[str, str]:
    if len(values) != len(header):
        problem = f"expected {len(header)} fields, got {len(values)}"
        raise InputError(problem, file=file, place=f"line {line}", hint="a comma inside a field needs quotes around it")
    return {name: _plain(value) for name, value in zip(header, values, strict=True)}


def _parquet(file: Path) -> Iterator[tuple[int, dict[str, str]]]:
    import polars as pl

    try:
        frame = pl.read_parquet(file)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise InputError(f"not a readable Parquet file: {str(error).splitlines()[0]}", file=file) from None
    for line, row in enumerate(frame.iter_rows(named=True), start=2):
        yield line, {name: _plain("" if value is None else str(value)) for name, value in row.items()}


def _plain(value: str) -> str:
    text = value.strip()
    return "" if text.casefold() in _EMPTY else text


def _check_columns(file: Path, columns: list[str]) -> None:
    for name, key in _NAMES.items():
        if name not in columns and key not in columns:
            raise InputError(f"the column {name!r} is missing", file=file, place="line 1", hint=nearest(name, columns))
    if not _MEASURED.keys() & set(columns):
        hint = f"expected one of {', '.join(sorted(_MEASURED))}"
        raise InputError("no column says what was measured", file=file, place="line 1", hint=hint)


def _stray(column: str) -> Finding:
    hint = nearest(column, _KNOWN)
    return Finding(row="", line=1, code="unknown_column", reason=f"the column {column!r} is not read ({hint})")


def _measurement(line: int, fields: Mapping[str, str]) -> Measurement:
    mode = fields.get("mode") or _mode(fields)
    if mode not in MODES:
        raise _Problem("unknown_mode", f"mode {mode!r}: {nearest(mode, MODES)}")
    measured = _measured(fields)
    if not measured:
        raise _Problem("missing_field", "nothing was measured")
    return Measurement(
        row=fields.get("id") or f"line {line}",
        line=line,
        model=_name(fields, "model"),
        hardware=_name(fields, "hardware", needed=False),
        engine=_name(fields, "engine"),
        isl_tokens=_tokens(fields, "isl"),
        osl_tokens=_tokens(fields, "osl"),
        mode=mode,
        request_rate_per_s=_rate(fields),
        measured=measured,
        gpus=_count(fields, "gpus"),
        tp=_count(fields, "tp"),
        pp=_count(fields, "pp"),
        ep=_count(fields, "ep"),
        dp=_count(fields, "dp"),
        concurrency=_count(fields, "concurrency"),
        engine_version=fields.get("engine_version", ""),
        params=fields.get("params", ""),
        weight_dtype=fields.get("weight_dtype", ""),
        kv_dtype=fields.get("kv_dtype", ""),
        features=fields.get("features", ""),
        quality=fields.get("quality", ""),
        source=fields.get("source", ""),
        note=fields.get("note", ""),
    )


def _mode(fields: Mapping[str, str]) -> str:
    """A table without modes says by what it fills: a rate, a concurrency, or neither (all at once)."""
    if fields.get("request_rate"):
        return "rate"
    return "concurrency" if fields.get("concurrency") else "offline"


def _name(fields: Mapping[str, str], name: str, *, needed: bool = True) -> str:
    found = fields.get(_NAMES[name]) or fields.get(name, "")
    if needed and not found:
        raise _Problem("missing_field", f"no {name}")
    return found


def _measured(fields: Mapping[str, str]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for column, (metric, statistic, unit) in _MEASURED.items():
        if text := fields.get(column):
            found.setdefault(metric, {})[statistic] = _number(column, text) * unit
    return found


def _legible(fields: Mapping[str, str]) -> dict[str, dict[str, float]]:
    """Return what a row measured as far as it can be read."""
    found: dict[str, dict[str, float]] = {}
    for column, (metric, statistic, unit) in _MEASURED.items():
        with suppress(_Problem):
            if text := fields.get(column):
                found.setdefault(metric, {})[statistic] = _number(column, text) * unit
    return found


def _number(column: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise _Problem("not_a_number", f"{column} is {text!r}; expected a number from zero")
    return value


def _count(fields: Mapping[str, str], column: str) -> int | None:
    text = fields.get(column, "")
    if not text:
        return None
    value = _number(column, text)
    if value != int(value):
        raise _Problem("not_a_number", f"{column} is {text!r}; expected a whole number")
    return int(_at_most(column, value, _MOST[column]))


def _at_most(column: str, value: float, most: int) -> float:
    if value > most:
        raise _Problem("too_large", f"{column} is {value:g}; expected at most {most:,}")
    return value


def _bounds(text: str, one: Callable[[str], float]) -> tuple[float, float]:
    if span := _RANGE.match(text):
        return float(span[1]), float(span[2])
    return one(text), one(text)


def _tokens(fields: Mapping[str, str], column: str) -> Tokens | None:
    """Lengths as a number or a range; words ("as in that data set") say nothing that can be sampled."""
    text = fields.get(column, "")
    if not any(sign.isdigit() for sign in text):
        return None
    low, high = _bounds(text, lambda word: _number(column, word))
    _at_most(column, high, _MOST[column])
    return Tokens(low=low, high=high) if high > 0 else None


def _rate(fields: Mapping[str, str]) -> float | None:
    """A rate; of a ladder of rates its middle."""
    text = fields.get("request_rate", "")
    if not text:
        return None
    low, high = _bounds(text, lambda word: _number("request_rate", word))
    return (low + high) / 2 or None
