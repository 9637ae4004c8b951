"""Readers of what load generators write per request: `vllm bench serve`, GuideLLM; AIPerf is in `reader_aiperf`.

They give the requests that were answered and, as `Measured`, what was measured of them. Read as traffic, requests that
failed are left out and counted: their output length is not known. Read as a result (`ReadOptions.result`), they stay
with their error, and `osl_tokens` is what was asked for where the file says so; where it does not, what was received
(one token of a failed request).

These tools time from when they sent. headway times from when a request was due: where a file of an open loop says by
how much a client was late, arrivals are moved back and latencies grow by it (`sent_s`). In closed loops a request is
due when a client is free to send it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import polars as pl

from headway.workload.codes import session_codes
from headway.workload.rows import LATENCIES, MEASURED_TIMES, Rows, ragged
from headway.workload.source import parse_json
from headway.workload.trace import Treatment

if TYPE_CHECKING:
    from headway.workload.source import Source
    from headway.workload.trace import ReadOptions


def left_out(count: int) -> tuple[Treatment, ...]:
    """Say how many requests that failed were left out."""
    return (Treatment(rows=count, text="failed request: left out"),) if count else ()


def _column(source: Source, values: list[Any], dtype: pl.DataType | type[pl.DataType], place: str) -> pl.Series:
    """Return values of a JSON document as a typed column.

    Raises:
        InputError: a value has another type; its place in the list is named.
    """
    for index, value in enumerate(values):
        numbers = value if isinstance(value, list) and dtype == pl.List else [value]
        if not all(one is None or (isinstance(one, int | float) and not isinstance(one, bool)) for one in numbers):
            source.fail(f"expected numbers, got {str(value)[:40]!r}", f"{place}[{index}]")
    try:
        return pl.Series(values, dtype=dtype, strict=False)
    except (pl.exceptions.PolarsError, OverflowError, TypeError) as error:
        return source.fail(f"expected numbers: {str(error).splitlines()[0]}", place)


# --- vLLM ----------------------------------------------------------------------------------------------

VLLM_COLUMNS = {
    "arrive_s": "start_times",
    "isl_tokens": "input_lens",
    "osl_tokens": "output_lens",
    "ttft_s": "ttfts",
    "e2e_s": "latencies",
    "sent_s": "queue_times",
    "itl_s": "itls",
}


def read_vllm_bench(source: Source, options: ReadOptions) -> Rows:
    """Read a result of `vllm bench serve --save-result --save-detailed`.

    Per request: `start_times` (a request rate of infinity needs none), `input_lens`, `output_lens`, `ttfts`, `itls`,
    `latencies`, `queue_times`, `errors`. ITL has one gap per chunk of the stream; without `latencies`, E2E is TTFT plus
    all gaps. `queue_times` are how long the client's own cap on concurrency held a request back: at a finite request
    rate they count as waiting. The lengths asked for are in files that headway wrote only. A file that
    `--append-result` grew holds one result per line: `part` says which.
    """
    result = vllm_result(source, options)
    if "input_lens" not in result:
        source.fail("no requests in it, only their summary", hint="run vllm bench serve with --save-detailed")
    lists = {key: _list(source, result, key, optional=key not in {"input_lens", "output_lens"}) for key in _VLLM_LISTS}
    _check_lengths(source, lists)
    n = len(lists["input_lens"] or [])
    gaps = [one if isinstance(one, list) else [] for one in lists["itls"] or [[]] * n]
    errors = pl.Series("error", [str(one) if one else None for one in lists["errors"] or [None] * n], dtype=pl.String)
    frame = _vllm_frame(source, result, lists).with_columns(
        _column(source, gaps, pl.List(pl.Float64), "itls").alias("itl_s"), errors, row=pl.int_range(n)
    )
    frame = _vllm_times(frame, result, lists)
    answered = frame.filter(pl.col("error").is_null())
    kept = asked_for(frame, lists["asked_output_lens"]) if options.result else answered
    rows = kept["row"].to_list()
    return Rows(
        frame=kept.drop("itl_s", "row", *([] if options.result else ["error"])),
        place=lambda row: f"request {rows[row] + 1}",
        columns=VLLM_COLUMNS,
        itl=None if lists["itls"] is None else ragged(kept["itl_s"]),
        treatments=left_out(n - kept.height),
    )


def _vllm_times(frame: pl.DataFrame, result: dict[str, Any], lists: dict[str, list[Any] | None]) -> pl.DataFrame:
    """Return latencies from when a request was due; a failed request has none."""
    if "e2e_s" not in frame.columns and lists["itls"] is not None and "ttft_s" in frame.columns:
        frame = frame.with_columns(e2e_s=pl.col("ttft_s") + pl.col("itl_s").list.sum())
    frame = frame.with_columns(
        pl.when(pl.col("error").is_null()).then(pl.col(name)) for name in LATENCIES if name in frame.columns
    )
    if "sent_s" not in frame.columns or result.get("request_rate") == "inf":
        return frame.drop("sent_s", strict=False)
    return due(frame.with_columns(pl.col("arrive_s") - pl.col("sent_s")))


def due(frame: pl.DataFrame) -> pl.DataFrame:
    """Return latencies counted from the arrival, of those counted from when a request was sent; first arrival at 0."""
    late = (pl.col(name) + pl.col("sent_s").fill_null(0.0) for name in LATENCIES if name in frame.columns)
    return frame.with_columns(pl.col("arrive_s") - pl.col("arrive_s").min(), *late)


def asked_for(frame: pl.DataFrame, asked: list[Any] | None) -> pl.DataFrame:
    """Return the rows of a result: lengths asked for beside those received.

    A prompt of unknown length, of a request that failed, counts as one token: a failed request must not disappear.
    """
    received = pl.col("osl_tokens")
    answered = pl.col("error").is_null()
    isl = pl.col("isl_tokens")
    wanted = frame["osl_tokens"] if asked is None else pl.Series("osl_tokens", asked, dtype=pl.Float64, strict=False)
    return frame.with_columns(
        isl_tokens=pl.when(answered).then(isl).otherwise(pl.max_horizontal(isl.fill_null(0), 1)),
        output_tokens=pl.when(answered | (received > 0)).then(received),
        osl_tokens=pl.when(wanted > 0).then(wanted).otherwise(pl.max_horizontal(received, 1)),
    )


_VLLM_LISTS = (
    "input_lens",
    "output_lens",
    "start_times",
    "ttfts",
    "latencies",
    "queue_times",
    "itls",
    "errors",
    "asked_output_lens",
)


def vllm_result(source: Source, options: ReadOptions) -> dict[str, Any]:
    """Return the result asked for, of a file with one JSON object or one per line.

    Raises:
        InputError: there is none, or it is no object.
    """
    try:
        results = [(parse_json(line), f"line {number}") for number, line in source.lines()]
    except ValueError:
        results = [(source.json(), "")]
    result = pick(source, results, options, "results")[0]
    if not isinstance(result, dict):
        source.fail("expected a JSON object")
    return result


def _list(source: Source, result: dict[str, Any], key: str, *, optional: bool) -> list[Any] | None:
    value = result.get(key)
    if value is None and optional:
        return None
    if not isinstance(value, list):
        source.fail("expected a list with one entry per request", key)
    return value


def _check_lengths(source: Source, lists: dict[str, list[Any] | None]) -> None:
    n = len(lists["input_lens"] or [])
    for key, values in lists.items():
        if values is not None and len(values) != n:
            source.fail(f"expected {n} entries, as input_lens has, got {len(values)}", key)


def _vllm_frame(source: Source, result: dict[str, Any], lists: dict[str, list[Any] | None]) -> pl.DataFrame:
    starts = lists["start_times"]
    if starts is None:
        if result.get("request_rate") != "inf" or result.get("max_concurrency") is not None:
            source.fail("no start_times: when each request arrived is not known", hint="save with a newer vLLM")
        starts = [0.0] * len(lists["input_lens"] or [])
    columns = {"arrive_s": starts, "isl_tokens": lists["input_lens"], "osl_tokens": lists["output_lens"]}
    columns |= {name: lists[VLLM_COLUMNS[name]] for name in MEASURED_TIMES if lists[VLLM_COLUMNS[name]] is not None}
    frame = pl.DataFrame(
        {name: _column(source, values or [], pl.Float64, VLLM_COLUMNS[name]) for name, values in columns.items()}
    )
    return frame.with_columns(pl.col("arrive_s") - pl.col("arrive_s").min())


def pick(source: Source, parts: list[Any], options: ReadOptions, what: str) -> Any:
    """Return the part asked for, or the only one.

    Raises:
        InputError: several and none asked for, or no such part.
    """
    if options.part is None and len(parts) != 1:
        source.fail(f"{len(parts)} {what} in one file", hint=f"say which with part=1 … {len(parts)}")
    if (options.part or 1) > len(parts):
        source.fail(f"there is no part {options.part}: {len(parts)} {what} in the file")
    return parts[(options.part or 1) - 1]


# --- GuideLLM ------------------------------------------------------------------------------------------

GUIDELLM_COLUMNS = {
    "arrive_s": "request_start_time",
    "isl_tokens": "prompt_tokens",
    "osl_tokens": "output_tokens",
    "ttft_s": "time_to_first_token_ms",
    "e2e_s": "request_latency",
    "cached_tokens": "cached_tokens",
}
#: Strategies that send at times of their own; the others wait for answers, or send all at once.
_GUIDELLM_OPEN = ("constant", "poisson", "trace")
#: Lists of a report's requests, and what went wrong where the report does not say it better.
_GUIDELLM_ENDS = {"successful": "", "errored": "errored", "incomplete": "interrupted"}


def read_guidellm(source: Source, options: ReadOptions) -> Rows:
    """Read a GuideLLM report (JSON): `benchmarks[·].requests`.

    Its TTFT is in milliseconds, its `request_latency` in seconds; its "time per output token" includes TTFT, and no
    gaps are kept: TPOT follows from TTFT and E2E. Of the strategies that send at times of their own (constant, poisson,
    trace), a request is due at `targeted_start`. The length asked for is `max_tokens` in `request_args`, where
    `ignore_eos` goes with it. Of a sweep, `part` says which benchmark. Its CSV has no requests, only summaries.
    """
    benchmarks = source.json().get("benchmarks")
    if not isinstance(benchmarks, list):
        source.fail("expected a list", "benchmarks")
    benchmark = pick(source, benchmarks, options, "benchmarks")
    ends = {end: _guidellm_list(source, benchmark, end) for end in _GUIDELLM_ENDS}
    kept = [(end, row, one) for end, ones in ends.items() if end == "successful" or options.result
            for row, one in enumerate(ones)]  # fmt: skip
    frame = _guidellm_frame(source, [one for _, _, one in kept])
    frame = _guidellm_due(source, frame, benchmark, [one for _, _, one in kept])
    if options.result:
        frame = _guidellm_result(frame, kept)
    return Rows(
        frame=frame,
        place=lambda row: f"requests.{kept[row][0]}[{kept[row][1]}]",
        columns=GUIDELLM_COLUMNS,
        treatments=left_out(sum(map(len, ends.values())) - len(kept)),
    )


def _guidellm_list(source: Source, benchmark: Any, end: str) -> list[dict[str, Any]]:
    ones = _dig(benchmark, "requests", end)
    if ones is None and end != "successful":
        return []
    if not isinstance(ones, list) or not all(isinstance(one, dict) for one in ones):
        source.fail("expected a list of requests", f"benchmarks, requests.{end}")
    return ones


def _guidellm_frame(source: Source, ones: list[dict[str, Any]]) -> pl.DataFrame:
    frame = pl.DataFrame(
        {
            name: _column(source, [one.get(key) for one in ones], pl.Float64, f"requests.{key}")
            for name, key in GUIDELLM_COLUMNS.items()
        }
    )
    conversations = [_dig(one, "info", "conversation_id") for one in ones]
    sessions = session_codes(pl.Series([_text(one) for one in conversations], dtype=pl.String))
    return frame.with_columns(pl.col("ttft_s") / 1e3, session_id=sessions)


def _guidellm_due(source: Source, frame: pl.DataFrame, benchmark: Any, ones: list[dict[str, Any]]) -> pl.DataFrame:
    """Return the rows timed from when they were due, where the strategy was an open loop and says so."""
    strategy = _dig(benchmark, "config", "strategy", "type_")
    targets = [_dig(one, "info", "timings", "targeted_start") for one in ones]
    if strategy not in _GUIDELLM_OPEN or not any(one is not None for one in targets):
        return frame.with_columns(pl.col("arrive_s") - pl.col("arrive_s").min())
    target = _column(source, targets, pl.Float64, "info.timings.targeted_start").fill_null(frame["arrive_s"])
    return due(frame.with_columns(arrive_s=target, sent_s=pl.col("arrive_s") - target))


def _guidellm_result(frame: pl.DataFrame, kept: list[tuple[str, int, dict[str, Any]]]) -> pl.DataFrame:
    errors = [_text(_dig(one, "info", "error")) or _GUIDELLM_ENDS[end] if end != "successful" else None
              for end, _, one in kept]  # fmt: skip
    frame = frame.with_columns(
        pl.Series("error", errors, dtype=pl.String),
        pl.col("osl_tokens").fill_null(0),
        pl.col("isl_tokens").fill_null(0),
    )
    frame = frame.with_columns(pl.when(pl.col("error").is_null()).then(pl.col(name)) for name in LATENCIES)
    return asked_for(frame, [_guidellm_asked(one) for _, _, one in kept])


def _guidellm_asked(one: dict[str, Any]) -> int | None:
    """Return the output length asked for; None where a stop token may have ended the answer before."""
    try:
        body = _dig(json.loads(one.get("request_args") or "null"), "body")
    except (TypeError, ValueError):
        return None
    if not _dig(body, "ignore_eos"):
        return None
    asked = _dig(body, "max_completion_tokens") or _dig(body, "max_tokens")
    return asked if isinstance(asked, int) and asked > 0 else None


def _dig(value: Any, *keys: str) -> Any:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
