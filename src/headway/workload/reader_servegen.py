"""Reader of ServeGen archives: requests drawn from what each client of a service did through a day.

An archive (tar, gzip'd or not, of alibaba/ServeGen's data folder) describes clients, it lists no requests. Per client
there are `chunk-N-trace.csv`: time in s, requests/s, CV of inter-arrival times, and the family fitted to them (Gamma or
Weibull) with shape and scale, per window of 10 minutes; and `chunk-N-dataset.json`: histograms of input and output
lengths per window of 6 hours. Requests are drawn so:

- A window of a client has rate × length requests. The gaps between them have the family and shape fitted, stretched to
  fill the window, as ServeGen's own generator does (servegen/construct.py); drawing one gap more than requests makes
  exponential gaps the Poisson process with that count.
- Lengths come from the histograms in force. These are marginals: input and output are drawn independently of each other
  within a client, so the two correlate across clients only.
- The client becomes the tenant.

Windows have seeds of their own, so a part of the day is the same requests as in the whole day.
"""

from __future__ import annotations

import csv
import io
import itertools
import math
import re
import tarfile
import zlib
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import polars as pl

from headway.workload.rows import MAX_TIME_S, MAX_TOKENS, Rows
from headway.workload.source import parse_json
from headway.workload.trace import Treatment

if TYPE_CHECKING:
    from collections.abc import Iterator

    from headway.types import FloatColumn, IntColumn
    from headway.workload.source import Source
    from headway.workload.trace import ReadOptions

_MEMBER = re.compile(r"chunk-(\d{1,9})-(trace\.csv|dataset\.json)$")
#: Families of gaps, and the least shape each is drawn with: a Weibull gap of a smaller one leaves the doubles.
_LEAST_SHAPE = {"Gamma": 1e-6, "Weibull": 0.01}
#: One archive is at most this many requests: beyond it a rate is a mistake, or a window must be asked for.
_MOST_REQUESTS = 50_000_000


class _Window(NamedTuple):
    """What one client did in one window."""

    client: int
    start_s: float
    end_s: float
    rate_per_s: float
    family: str
    shape: float


class _Histogram(NamedTuple):
    """Lengths and the running sum of their shares."""

    tokens: IntColumn
    cumulative: FloatColumn


class _Lengths(NamedTuple):
    """Histograms in force from a time on."""

    since_s: float
    isl: _Histogram
    osl: _Histogram


def is_archive(magic: bytes) -> bool:
    """Whether the first block of a file is a tar header."""
    return magic[257:262] == b"ustar"


def read_servegen(source: Source, options: ReadOptions) -> Rows:
    """Draw the requests of an archive; `window_s` limits them to a part of the day (which has a million or more)."""
    windows, lengths = _members(source)
    start_s, end_s = options.window
    active = [one for one in windows if one.rate_per_s > 0 and one.start_s < end_s and one.end_s > start_s]
    known = [one for one in active if _in_force(lengths, one)]
    total = sum(_requests_in(one) for one in known)
    if total > _MOST_REQUESTS:
        source.fail(f"{total:.4g} requests are too many", hint="ask for a part of the time with window_s")
    drawn = [_draw(one, _in_force(lengths, one), options.seed) for one in known]
    inside = (pl.col("arrive_s") >= start_s) & (pl.col("arrive_s") < end_s)
    frame = pl.concat(drawn).filter(inside).sort("arrive_s", maintain_order=True) if drawn else pl.DataFrame()
    if not frame.height:
        source.fail("no client has requests in the time asked for")
    left_out = sum(_requests_in(one) for one in active) - total
    return Rows(frame=frame, place=lambda row: f"request {row + 1} drawn", treatments=_notes(frame.height, left_out))


def _notes(drawn: int, left_out: int) -> tuple[Treatment, ...]:
    notes = [Treatment(rows=drawn, text="request drawn from its client's rates and length histograms")]
    if left_out:
        notes.append(Treatment(rows=left_out, text="request of a client without length histograms: left out"))
    return tuple(notes)


# --- drawing -------------------------------------------------------------------------------------------


def _requests_in(window: _Window) -> int:
    return round(window.rate_per_s * (window.end_s - window.start_s))


def _in_force(lengths: dict[int, list[_Lengths]], window: _Window) -> _Lengths | None:
    return next((one for one in reversed(lengths.get(window.client, [])) if one.since_s <= window.start_s), None)


def _draw(window: _Window, lengths: _Lengths | None, seed: int) -> pl.DataFrame:
    assert lengths is not None
    chance = np.random.default_rng([seed, window.client, int(window.start_s)])
    n = _requests_in(window)
    ends_s = np.cumsum(_gaps(window, n + 1, chance))
    span_s = window.end_s - window.start_s
    return pl.DataFrame(
        {
            "arrive_s": window.start_s + span_s * (ends_s[:-1] / ends_s[-1]),
            "isl_tokens": _lengths(lengths.isl, n, chance),
            "osl_tokens": _lengths(lengths.osl, n, chance),
            "tenant_id": np.full(n, window.client, dtype=np.int64),
        }
    )


def _gaps(window: _Window, n: int, chance: np.random.Generator) -> FloatColumn:
    """Draw gaps of the window's family, of scale 1: they are stretched later."""
    if window.family == "Weibull":
        return chance.weibull(window.shape, n)
    gaps = chance.standard_gamma(window.shape, n)
    if not gaps.any():  # all underflow at a tiny shape, whose limit is that one gap outlasts all others
        gaps[chance.integers(n)] = 1.0
    return gaps


def _lengths(histogram: _Histogram, n: int, chance: np.random.Generator) -> IntColumn:
    at = np.searchsorted(histogram.cumulative, chance.random(n) * histogram.cumulative[-1], side="right")
    tokens: IntColumn = histogram.tokens[np.minimum(at, len(histogram.tokens) - 1)]
    return tokens


# --- the archive ---------------------------------------------------------------------------------------


def _members(source: Source) -> tuple[list[_Window], dict[int, list[_Lengths]]]:
    windows: list[_Window] = []
    lengths: dict[int, list[_Lengths]] = {}
    for name, client, data in _files(source):
        if name.endswith(".csv"):
            windows += _windows(source, name, client, data)
        else:
            lengths[client] = list(_histograms(source, name, data))
    if not windows:
        source.fail("no client has requests: expected chunk-N-trace.csv with rates above 0")
    return sorted(windows), lengths


def _files(source: Source) -> Iterator[tuple[str, int, bytes]]:
    """Walk the archive's files of clients."""
    try:
        with tarfile.open(fileobj=io.BytesIO(source.read())) as archive:
            for member in archive:
                match = _MEMBER.search(member.name)
                stream = archive.extractfile(member) if match and member.isfile() else None
                if match and stream:
                    yield member.name, int(match.group(1)), stream.read()
    except (tarfile.TarError, EOFError, zlib.error, OSError, ValueError) as error:
        source.fail(f"the archive is truncated or damaged: {error}")


def _windows(source: Source, name: str, client: int, data: bytes) -> Iterator[_Window]:
    try:
        rows = [row for row in csv.reader(data.decode().splitlines()) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        source.fail(f"not readable as CSV: {error}", name)
    for line, (row, (start_s, end_s)) in enumerate(zip(rows, _spans(source, name, rows), strict=True), start=1):
        place = f"{name}, line {line}"
        rate_per_s = _number(source, row, 1, place)
        if rate_per_s == 0 or not row[3:4] or not row[3]:
            continue  # the client was silent
        shape = _number(source, row, 4, place)
        if shape < _LEAST_SHAPE.get(row[3], np.inf):
            expected = " or ".join(f"{family} with a shape from {least:g}" for family, least in _LEAST_SHAPE.items())
            source.fail(f"expected {expected}, got {row[3][:40]!r} with {shape:g}", place)
        yield _Window(client, start_s, end_s, rate_per_s, row[3], shape)


def _spans(source: Source, name: str, rows: list[list[str]]) -> list[tuple[float, float]]:
    """Return from when to when each window lasts; the last is as long as the one before it."""
    starts_s = [_number(source, row, 0, f"{name}, line {line}") for line, row in enumerate(rows, start=1)]
    if len(starts_s) < 2:
        source.fail("expected at least two windows: how long they are is not known", name)
    for line, (start_s, next_s) in enumerate(itertools.pairwise(starts_s), start=2):
        if not start_s < next_s <= MAX_TIME_S:
            source.fail(f"expected a later time than {start_s:g}, got {next_s:g}", f"{name}, line {line}")
    return [*itertools.pairwise(starts_s), (starts_s[-1], 2 * starts_s[-1] - starts_s[-2])]


def _number(source: Source, row: list[str], column: int, place: str) -> float:
    try:
        value = float(row[column])
    except (IndexError, ValueError):
        value = math.nan
    if not 0 <= value < math.inf:
        got = repr(row[column][:40]) if column < len(row) else "nothing"
        source.fail(f"expected a finite number from 0 in column {column + 1}, got {got}", place)
    return value


def _histograms(source: Source, name: str, data: bytes) -> Iterator[_Lengths]:
    try:
        document = parse_json(data)
    except ValueError as error:
        source.fail(f"not valid JSON: {error}", name)
    if not isinstance(document, dict):
        source.fail("expected an object of histograms by time", name)
    found = []
    for since, fields in document.items():
        place = f"{name}, {since[:20]}"
        isl, osl = (_histogram(source, fields, key, place) for key in ("input_tokens", "output_tokens"))
        if isl and osl:
            found.append(_Lengths(_number(source, [since], 0, place), isl, osl))
    return iter(sorted(found, key=lambda one: one.since_s))


def _histogram(source: Source, fields: object, key: str, place: str) -> _Histogram | None:
    """Read a histogram, written as a text: `{50: 0.04, 51: 0.08}`; None where it is empty."""
    text = fields.get(key) if isinstance(fields, dict) else None
    if not isinstance(text, str):
        source.fail("expected a histogram as text", f"{place}, {key}")
    cells = text.strip().strip("{}").replace(":", ",")
    if not cells.strip():
        return None
    try:
        pairs = np.array(cells.split(","), dtype=np.float64).reshape(-1, 2)
    except ValueError:
        source.fail("expected a histogram such as '{50: 0.4, 51: 0.6}'", f"{place}, {key}")
    tokens, share = pairs[:, 0], pairs[:, 1]
    sound = (tokens >= 0) & (tokens <= MAX_TOKENS) & (tokens == np.floor(tokens)) & (share >= 0) & np.isfinite(share)
    if not sound.all() or not share.sum() > 0:
        source.fail("expected whole token counts and shares from 0", f"{place}, {key}")
    return _Histogram(tokens.astype(np.int64), np.cumsum(share))
