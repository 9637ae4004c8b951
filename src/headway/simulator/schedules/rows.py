"""The rows of a schedule file, read and checked one by one, so that whatever is wrong is named with its line."""

from __future__ import annotations

import gzip
import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from headway.errors import InputError, nearest
from headway.simulator.schedules.fields import EFFECTIVE, FIELDS, META, TOTALS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from headway.simulator.schedules.fields import Field

Row = dict[str, Any]

#: The kinds of rows, in the order they stand in a file.
KINDS = ("meta", "req", "step", "kv", "res")
#: Of what a file asks for, more may be said than is known here; of what came of it, all is compared.
_OPEN = ("req",)
_GZIP = b"\x1f\x8b"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """A schedule file, row by row, as JSON objects.

    Attributes:
        meta: settings, counts and totals.
        requests: in the order they were given; they stand on line 2 and following.
        steps: in the order their outputs were processed.
        transfers: KV loaded or held.
        results: what became of each request, in order of delivery.
    """

    meta: Row
    requests: tuple[Row, ...]
    steps: tuple[Row, ...]
    transfers: tuple[Row, ...]
    results: tuple[Row, ...]


def read_rows(path: str | Path) -> Rows:
    """Read a schedule file, plain or gzip-compressed, and check every field; `unread` names those unknown here.

    Raises:
        InputError: naming the file, the line and the field.
    """
    found: dict[str, list[Row]] = {kind: [] for kind in KINDS}
    latest = 0
    for number, line in enumerate(_content(path).removesuffix(b"\n").split(b"\n"), 1):
        row = _parsed(line, path, number)
        kind = KINDS.index(row["type"])
        if kind < latest or (number == 1) != (kind == 0):
            _fail(path, number, "type", f"a row {row['type']!r} here; expected the order {', '.join(KINDS)}, meta once")
        latest = kind
        _check(row, path, number)
        found[row["type"]].append(row)
    rows = Rows(
        meta=found["meta"][0],
        requests=tuple(found["req"]),
        steps=tuple(found["step"]),
        transfers=tuple(found["kv"]),
        results=tuple(found["res"]),
    )
    _check_counts(rows, path)
    _check_ids(rows, path)
    return rows


def _content(path: str | Path) -> bytes:
    try:
        content = Path(path).read_bytes()
        if content.startswith(_GZIP):
            content = gzip.decompress(content)
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raise InputError("the gzip stream is damaged or cut short", file=path) from None
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", file=path) from None
    if not content:
        raise InputError("the file is empty; expected a row of type 'meta' first", file=path)
    return content


def _parsed(line: bytes, path: str | Path, number: int) -> Row:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        raise InputError("not a JSON object", file=path, place=f"line {number}") from None
    if not isinstance(row, dict) or "type" not in row:
        raise InputError('expected a JSON object with a "type"', file=path, place=f"line {number}")
    if row["type"] not in KINDS:
        _fail(path, number, "type", f"unknown type {row['type']!r}", nearest(str(row["type"]), KINDS))
    return row


def _check(row: Row, path: str | Path, number: int) -> None:
    if row["type"] == "meta":
        _check_fields(row, META, path, number, "")
        _check_fields(row["effective"], EFFECTIVE, path, number, "effective.")
        _check_fields(row["totals"], TOTALS, path, number, "totals.")
        return
    fields = FIELDS[row["type"]]
    _check_fields(row, fields, path, number, "")
    if row["type"] not in _OPEN and not row.keys() <= fields.keys():
        unknown = next(name for name in row if name not in fields)
        _fail(path, number, unknown, "unknown field", nearest(unknown, fields))


def _check_fields(row: Mapping[str, Any], fields: Mapping[str, Field], path: str | Path, number: int, at: str) -> None:
    for name, field in fields.items():
        if name not in row:
            if not field.optional:
                _fail(path, number, at + name, f"missing; expected {field.expected}")
        elif not field.fits(row[name]):
            _fail(path, number, at + name, f"expected {field.expected}, got {_short(row[name])}")


def unread(rows: Rows) -> tuple[str, ...]:
    """Return the fields that nothing here knows: of the settings, of the totals, of requests."""
    asked = dict.fromkeys(name for row in rows.requests for name in row)
    parts = (
        ("effective", rows.meta["effective"], EFFECTIVE),
        ("totals", rows.meta.get("totals", {}), TOTALS),
        ("req", asked, FIELDS["req"]),
    )
    return tuple(f"{part}.{name}" for part, row, known in parts for name in row if name not in known)


def _check_counts(rows: Rows, path: str | Path) -> None:
    for name, counted, kind in (
        ("n_requests", rows.requests, "req"),
        ("n_steps", rows.steps, "step"),
        ("n_requests", rows.results, "res"),
    ):
        if rows.meta[name] != len(counted):
            _fail(path, 1, name, f"{rows.meta[name]}, but the file has {len(counted)} rows of type {kind!r}")


def _check_ids(rows: Rows, path: str | Path) -> None:
    first: dict[str, int] = {}
    for number, row in enumerate(rows.requests, 2):
        if first.setdefault(row["id"], number) != number:
            _fail(path, number, "id", f"{row['id']!r} stands on line {first[row['id']]} already")
    after = 2 + len(rows.requests) + len(rows.steps)
    for number, row in enumerate(rows.transfers + rows.results, after):
        if row["id"] not in first:
            _fail(path, number, "id", f"no request {row['id']!r}", nearest(row["id"], first))
    for number, row in enumerate(rows.requests, 2):
        for stream, _, _ in row["prompt"]:
            if stream.startswith("o:") and stream[2:] not in first:
                _fail(
                    path, number, "prompt", f"stream {stream!r}: no request {stream[2:]!r}", nearest(stream[2:], first)
                )


def _fail(path: str | Path, number: int, field: str, problem: str, hint: str = "") -> NoReturn:
    raise InputError(problem, file=path, place=f"line {number}, {field}", hint=hint)


def _short(value: object, longest: int = 60) -> str:
    text = json.dumps(value)
    return text if len(text) <= longest else f"{text[:longest]}…"


def lines_of(rows: Rows) -> Iterable[str]:
    """Return the file's lines, in order, each with its end."""
    every = (rows.meta, *rows.requests, *rows.steps, *rows.transfers, *rows.results)
    return (json.dumps(row, separators=(",", ":"), ensure_ascii=False) + "\n" for row in every)
