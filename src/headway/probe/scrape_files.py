"""A scrape beside the requests it belongs to (`metrics.parquet`), or as Prometheus answers."""

from __future__ import annotations

import io
import json
import os
import urllib.error
import urllib.parse
import urllib.request
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import polars as pl

from headway.errors import EvidenceError, InputError
from headway.probe.address import checked_address
from headway.probe.asking import opened
from headway.probe.nouns import Scrape
from headway.probe.scrape import rows_of, scrape_of
from headway.probe.signals import Sample, all_spellings, plain_name, table
from headway.workload.columnar import is_parquet
from headway.workload.readers import look
from headway.workload.source import Source

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from headway.probe.keys import Key
    from headway.types import FloatColumn

T = TypeVar("T")

#: Columns of the file; see `scrape.rows_of`.
SCHEMA = {"time_s": pl.Float64, "signal": pl.String, "le": pl.Float64, "value": pl.Float64, "name": pl.String}
_PATIENCE_S = 30.0
#: What an answer of another shape, or with figures beyond all bounds, raises where it is read.
_NO_SERIES = (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError)


def write_scrape(scrape: Scrape, path: Path) -> None:
    """Write a scrape as Parquet, long form; the file appears whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(scrape_bytes(scrape))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def scrape_bytes(scrape: Scrape) -> bytes:
    """Return what `write_scrape` writes."""
    packed = io.BytesIO()
    pl.DataFrame(rows_of(scrape), schema=SCHEMA).write_parquet(packed)
    written: bytes = packed.getvalue()
    return written


def read_scrape(path: Path) -> Scrape:
    """Read what `write_scrape` wrote (`failed` is not kept: 0).

    Raises:
        InputError: it cannot be read, or is another file.
    """
    frame = _parquet(pl.read_parquet, path)
    if dict(frame.schema) != SCHEMA:
        raise InputError(f"expected the columns {', '.join(SCHEMA)}", file=path, hint="`headway replay` writes it")
    unknown = set(frame["signal"].str.strip_suffix(".sum").unique()) - table().signals.keys()
    if unknown:
        raise InputError(f"the signal {min(unknown)!r} is not known", file=path)
    times_s = np.sort(frame["time_s"].unique().to_numpy())
    names = dict(frame.select(pl.col("signal").str.strip_suffix(".sum"), "name").unique().iter_rows())
    parts = {key[0]: part for key, part in frame.group_by("signal", maintain_order=True)}
    histograms = {name for name in names if table().signals[name].kind == "histogram"}
    return Scrape(
        time_s=times_s,
        values={name: _column(parts[name], times_s) for name in names if name not in histograms},
        histograms={
            name: _histogram(parts[name], _column(parts[f"{name}.sum"], times_s), times_s) for name in histograms
        },
        names=names,
        failed=0,
    )


def _parquet(read: Callable[[Path], T], path: Path) -> T:
    try:
        return read(path)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise InputError(f"not readable as Parquet: {str(error).splitlines()[0]}", file=path) from None


def is_scrape(path: Path) -> bool:
    """Return whether a file is what `write_scrape` writes, or a saved answer of Prometheus to a query.

    Raises:
        InputError: it cannot be read.
    """
    source = Source.open(path)
    if is_parquet(source.head()):
        return set(_parquet(pl.read_parquet_schema, path)) == set(SCHEMA)
    return {"status", "data"} <= look(source).keys


def read_metrics(path: Path) -> Scrape:
    """Read either of them.

    Raises:
        InputError: it cannot be read, or has no engine's metrics.
    """
    return read_scrape(path) if is_parquet(Source.open(path).head()) else read_range(path)


def _column(part: pl.DataFrame, times_s: FloatColumn) -> FloatColumn:
    column = np.full(len(times_s), np.nan)
    column[np.searchsorted(times_s, part["time_s"].to_numpy())] = part["value"].to_numpy()
    return column


def _histogram(
    part: pl.DataFrame, totals: FloatColumn, times_s: FloatColumn
) -> tuple[FloatColumn, FloatColumn, FloatColumn]:
    bounds = np.sort(part["le"].unique().to_numpy())
    counts = np.column_stack([_column(part.filter(pl.col("le") == bound), times_s) for bound in bounds])
    return bounds[:-1], counts, totals


# --- a Prometheus server ------------------------------------------------------------------------------------------


def from_prometheus(
    url: str,
    start_s: float,
    end_s: float,
    step_s: float,
    *,
    selector: str = "",
    key: Key | None = None,
    engine: str = "",
    allow_public: bool = False,
) -> Scrape:
    """Ask a Prometheus server for what it scraped; times count from `start_s`.

    Args:
        url: of the server, without `/api/v1`.
        start_s: Unix time in seconds.
        end_s: likewise.
        step_s: between two points; no finer than its own scrape interval, or points repeat.
        selector: label matchers in PromQL that pick one deployment: `job="llm", namespace="prod"`.
        key: sent as a bearer token.
        engine: whose names to read; empty: the one whose names occur.
        allow_public: whether an address that is neither loopback nor private may be asked.

    Raises:
        InputError: no Prometheus server answers there, it refuses the query, or the address is not allowed.
        EvidenceError: it has no engine's metrics in that time.
    """
    names = "|".join(sorted(all_spellings()))
    query = f'{{__name__=~"{names}"{", " + selector if selector else ""}}}'
    base = checked_address(url, allow_public=allow_public).url
    series = _query_range(base, {"query": query, "start": start_s, "end": end_s, "step": step_s}, key)
    try:
        found = _scrape_of_series(series, start_s, engine)
    except _NO_SERIES as error:
        raise InputError(f"no series of Prometheus: {type(error).__name__}", file=base) from None
    if found is None:
        raise EvidenceError(f"{url} has no metrics of {', '.join(table().engines)} in that time")
    return found


def read_range(path: Path) -> Scrape:
    """Read a saved answer to `/api/v1/query_range`; times count from its first point.

    Raises:
        InputError: it is none, or has no engine's metrics.
    """
    source = Source.open(path)
    data = source.json().get("data")
    kind = data.get("resultType") if isinstance(data, dict) else None
    if not isinstance(data, dict) or kind != "matrix":
        source.fail(f"expected a matrix, got {kind!r}", "data.resultType", "save an answer of /api/v1/query_range")
    try:
        start_s = min((float(one["values"][0][0]) for one in data["result"] if one["values"]), default=0.0)
        found = _scrape_of_series(data["result"], start_s, "")
    except _NO_SERIES as error:
        source.fail(f"no series of Prometheus: {type(error).__name__}", "data.result")
    if found is None:
        source.fail(
            f"no metrics of {', '.join(table().engines)}",
            "data.result",
            """ask for them: query={__name__=~"vllm:.*"}""",
        )
    return found


def _scrape_of_series(series: list[dict[str, Any]], start_s: float, engine: str) -> Scrape | None:
    by_time: dict[float, list[Sample]] = {}
    for one in series:
        labels = dict(one["metric"])
        name = plain_name(labels.pop("__name__"))
        for time_s, value in one["values"]:
            by_time.setdefault(float(time_s) - start_s, []).append(Sample(name, labels, float(value)))
    return scrape_of(sorted(by_time.items(), key=lambda page: page[0]), engine=engine)


def _query_range(base: str, fields: dict[str, Any], key: Key | None) -> list[dict[str, Any]]:
    body = urllib.parse.urlencode(fields).encode()
    asked = urllib.request.Request(f"{base}/api/v1/query_range", body)  # noqa: S310 - the scheme was checked
    try:
        return list(json.loads(opened(asked, key, _PATIENCE_S))["data"]["result"])
    except urllib.error.HTTPError as error:
        raise InputError(f"the Prometheus server answers {error.code}", file=base, hint="check the selector") from None
    except (*_NO_SERIES, RecursionError) as error:
        raise InputError(f"no Prometheus server answers there: {type(error).__name__}", file=base) from None
