"""One trace file as a source: plain or gzip'd, read through Polars, with every refusal naming the line."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn, cast

import polars as pl

from headway.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from polars.datatypes import DataTypeClass

    AnyType = pl.DataType | DataTypeClass
    Schema = Mapping[str, AnyType]

_GZIP = b"\x1f\x8b"
_BOM = b"\xef\xbb\xbf"
#: How much of the first line is looked at to recognise a format (a session of an agentic trace is one long line).
_FIRST_LINE_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Source:
    """A file that is there, is not empty, and is plain or gzip'd."""

    path: Path
    gzipped: bool

    @classmethod
    def open(cls, path: str | Path) -> Source:
        """Look at a file.

        Raises:
            InputError: it is missing, a directory, unreadable or empty.
        """
        path = Path(path)
        with _readable(path), path.open("rb") as stream:
            magic = stream.read(2)
        if not magic:
            raise InputError("the file is empty", file=path)
        return cls(path, magic == _GZIP)

    def fail(self, problem: str, place: str = "", hint: str = "") -> NoReturn:
        """Refuse a place in this file.

        Raises:
            InputError: always.
        """
        raise InputError(problem, file=self.path, place=place, hint=hint)

    @contextlib.contextmanager
    def stream(self) -> Iterator[IO[bytes]]:
        """Open the unpacked bytes; what goes wrong while they are read becomes an `InputError`."""
        with _readable(self.path), gzip.open(self.path) if self.gzipped else self.path.open("rb") as stream:
            yield cast("IO[bytes]", stream)

    def read(self) -> bytes:
        """Return all bytes, unpacked, without a byte-order mark.

        Raises:
            InputError: unreadable, or a truncated or damaged gzip.
        """
        with self.stream() as stream:
            return stream.read().removeprefix(_BOM)

    def head(self) -> bytes:
        """Return the first line that is not blank (all of the file where it has one line), unpacked."""
        with self.stream() as stream:
            line = b""
            while not line.strip():
                line = stream.readline(_FIRST_LINE_BYTES).removeprefix(_BOM)
                if not line:
                    self.fail("the file has nothing but blank lines")
            return line

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """Walk the lines that are not blank, with their numbers from 1."""
        with self.stream() as stream:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    yield number, line.removeprefix(_BOM) if number == 1 else line

    def _for_polars(self) -> Path | io.BytesIO:
        if self.gzipped:
            return io.BytesIO(self.read())
        with self.path.open("rb") as stream:
            bom = stream.read(3) == _BOM
        return io.BytesIO(self.read()) if bom else self.path

    # -- the three engines' doors ---------------------------------------------------------------------
    def csv(self, columns: Schema) -> pl.DataFrame:
        """Read columns of a CSV with a header, typed; columns not asked for are left alone.

        Raises:
            InputError: no such column, a cell of another type, ragged rows, or not UTF-8.
        """
        have = self.header()
        for name in columns:
            if name not in have:
                self.fail(f"the column {name!r} is missing", "line 1", f"found: {', '.join(sorted(have)[:8])}")
        wanted = list(columns)

        def read() -> pl.DataFrame:
            source = self._for_polars()
            if isinstance(source, Path):  # lazy: columns not asked for are never parsed
                return pl.scan_csv(source, schema_overrides=columns).select(wanted).collect()
            return pl.read_csv(source, schema_overrides=columns, columns=wanted).select(wanted)

        return self._guarded(read, lambda: self._blame_csv(columns))

    def header(self) -> list[str]:
        """Return the names in the first line, read as CSV; none where that is no text."""
        try:
            return next(csv.reader([self.head().decode()]), [])
        except (UnicodeDecodeError, csv.Error):
            return []

    def jsonl(self, schema: Schema) -> pl.DataFrame:
        """Read keys of JSON lines, typed; an absent key is null, keys not asked for are left alone.

        Raises:
            InputError: a line is no JSON object, a value has another type, or not UTF-8.
        """
        return self._guarded(
            lambda: pl.read_ndjson(self._for_polars(), schema=dict(schema)), lambda: self._blame_jsonl(schema)
        )

    def json(self, otherwise: str = "not one JSON object") -> dict[str, Any]:
        """Read a file that is one JSON object.

        Args:
            otherwise: what to say where it is none.

        Raises:
            InputError: it is not.
        """
        try:
            document = parse_json(self.read())
        except ValueError as error:
            self.fail(f"{otherwise}: {error}")
        if not isinstance(document, dict):
            self.fail(f"{otherwise}: got {_kind(document)}")
        return document

    # -- refusing -------------------------------------------------------------------------------------
    def _guarded(self, read: Callable[[], pl.DataFrame], blame: Callable[[], None]) -> pl.DataFrame:
        try:
            return read()
        except pl.exceptions.NoDataError:
            problem = "it has no rows"
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
            problem = str(error).split("\n", maxsplit=1)[0]
        blame()
        return self.fail(f"cannot be read: {problem}")

    def _blame_csv(self, columns: Schema) -> None:
        """Find the cell that stopped a typed read, and refuse it."""
        self._blame_encoding()
        try:
            text = pl.read_csv(io.BytesIO(self.read()), infer_schema=False)
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
            self.fail(f"not a rectangular CSV: {str(error).split(chr(10), maxsplit=1)[0]}")
        for name, dtype in columns.items():
            if name in text.columns:
                bad = text[name].is_not_null() & text[name].cast(dtype, strict=False).is_null()
                if bad.any():
                    row = bad.arg_true()[0]
                    self.fail(f"expected a number, got {text[name][row]!r}", f"line {row + 2}, {name}")

    def _blame_jsonl(self, schema: Schema) -> None:
        """Find the line that stopped a typed read, and refuse it."""
        for number, line in self.lines():
            try:
                value = parse_json(line)
            except ValueError as error:
                self.fail(f"not valid JSON: {error}", f"line {number}")
            if not isinstance(value, dict):
                self.fail(f"expected a JSON object, got {_kind(value)}", f"line {number}")
            _check_types(self, value, schema, f"line {number}")

    def _blame_encoding(self) -> None:
        for number, line in self.lines():
            try:
                line.decode()
            except UnicodeDecodeError as error:
                self.fail(f"not UTF-8 text (byte {error.start} of the line)", f"line {number}")


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"the gzip is truncated or damaged: {error}", file=path) from None
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}", file=path) from None
    except ValueError as error:  # a name with a zero byte
        raise InputError(f"cannot be read: {error}", file=path) from None


def parse_json(text: bytes) -> Any:
    """Parse JSON strictly.

    Raises:
        ValueError: not UTF-8, not JSON, nested too deeply, or with NaN or Infinity, which JSON does not have; the
            message is one line.
    """
    try:
        return json.loads(text.decode(), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 text (byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg} at column {error.colno}") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _refuse_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON number")


def _check_types(source: Source, value: dict[str, Any], schema: Schema, place: str) -> None:
    for key, dtype in schema.items():
        if not _fits(value.get(key), dtype):
            source.fail(f"expected {_expected(dtype)}, got {_kind(value[key])}", f"{place}, {key}")


def _fits(value: Any, dtype: AnyType) -> bool:
    if value is None or dtype == pl.String:
        return True
    if isinstance(dtype, pl.List):
        return isinstance(value, list) and all(_fits(one, dtype.inner) for one in value)
    if isinstance(dtype, pl.Struct):
        return isinstance(value, dict) and all(_fits(value.get(f.name), f.dtype) for f in dtype.fields)
    if dtype == pl.Boolean or isinstance(value, bool):
        return isinstance(value, bool) and dtype == pl.Boolean
    if dtype == pl.Int64:
        return isinstance(value, int) and -(2**63) <= value < 2**63
    return isinstance(value, int | float)


def _expected(dtype: AnyType) -> str:
    if isinstance(dtype, pl.List):
        return f"a list, each {_expected(dtype.inner)}"
    if isinstance(dtype, pl.Struct):
        return "an object with " + ", ".join(f"{field.name}: {_expected(field.dtype)}" for field in dtype.fields)
    if dtype == pl.Boolean:
        return "true or false"
    return "a whole number of 64 bits" if dtype == pl.Int64 else "a number"


def _kind(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}…"
