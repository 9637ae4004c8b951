"""Readers of what load generators write per request: `vllm bench serve`, GuideLLM, AIPerf.

They give the requests that were answered and, as `Measured`, what was measured of them. Requests that failed are left
out and counted: their output length is not known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl

from headway.workload.codes import session_codes
from headway.workload.reader_logs import jsonl_line
from headway.workload.rows import Rows, ragged
from headway.workload.source import parse_json
from headway.workload.timestamps import from_first
from headway.workload.trace import Treatment

if TYPE_CHECKING:
    from headway.workload.source import Source
    from headway.workload.trace import ReadOptions


def _failed(count: int) -> tuple[Treatment, ...]:
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
    "e2e_s": "itls",
}


def read_vllm_bench(source: Source, options: ReadOptions) -> Rows:
    """Read a result of `vllm bench serve --save-result --save-detailed`.

    Per request: `start_times` (a request rate of infinity needs none), `input_lens`, `output_lens`, `ttfts`, `itls`,
    `errors`. ITL has one gap per chunk of the stream; E2E is TTFT plus all gaps. A file that `--append-result`
    grew holds one result per line: `part` says which.
    """
    result = _vllm_result(source, options)
    if "input_lens" not in result:
        source.fail("no requests in it, only their summary", hint="run vllm bench serve with --save-detailed")
    lists = {key: _list(source, result, key, optional=key not in {"input_lens", "output_lens"}) for key in _VLLM_LISTS}
    _check_lengths(source, lists)
    gaps = [one if isinstance(one, list) else [] for one in lists["itls"] or [[]] * len(lists["input_lens"] or [])]
    answered = pl.Series([not error for error in lists["errors"] or [None] * len(gaps)], dtype=pl.Boolean)
    itl = _column(source, gaps, pl.List(pl.Float64), "itls")
    frame = _vllm_frame(source, result, lists).with_columns(itl_s=itl, row=pl.int_range(len(gaps))).filter(answered)
    if lists["itls"] is not None and "ttft_s" in frame.columns:
        frame = frame.with_columns(e2e_s=pl.col("ttft_s") + pl.col("itl_s").list.sum())
    rows = frame["row"].to_list()
    return Rows(
        frame=frame.drop("itl_s", "row"),
        place=lambda row: f"request {rows[row] + 1}",
        columns=VLLM_COLUMNS,
        itl=None if lists["itls"] is None else ragged(frame["itl_s"]),
        treatments=_failed(len(gaps) - frame.height),
    )


_VLLM_LISTS = ("input_lens", "output_lens", "start_times", "ttfts", "itls", "errors")


def _vllm_result(source: Source, options: ReadOptions) -> dict[str, Any]:
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
    columns |= {} if lists["ttfts"] is None else {"ttft_s": lists["ttfts"]}
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


def read_guidellm(source: Source, options: ReadOptions) -> Rows:
    """Read a GuideLLM report (JSON): `benchmarks[·].requests.successful`.

    Of a sweep, `part` says which benchmark. Its CSV has no requests, only summaries.
    """
    benchmarks = source.json().get("benchmarks")
    if not isinstance(benchmarks, list):
        source.fail("expected a list", "benchmarks")
    requests = _dig(pick(source, benchmarks, options, "benchmarks"), "requests")
    done = _dig(requests, "successful")
    if not isinstance(done, list) or not all(isinstance(one, dict) for one in done):
        source.fail("expected a list of requests", "benchmarks, requests.successful")
    frame = pl.DataFrame(
        {
            name: _column(source, [one.get(key) for one in done], pl.Float64, f"requests.successful.{key}")
            for name, key in GUIDELLM_COLUMNS.items()
        }
    )
    conversations = [_dig(one, "info", "conversation_id") for one in done]
    frame = frame.with_columns(
        pl.col("arrive_s") - pl.col("arrive_s").min(),
        pl.col("ttft_s") / 1e3,
        session_id=session_codes(pl.Series([_text(one) for one in conversations], dtype=pl.String)),
    )
    failed = sum(len(other) for key in ("errored", "incomplete") if isinstance(other := _dig(requests, key), list))
    return Rows(
        frame=frame,
        place=lambda row: f"requests.successful[{row}]",
        columns=GUIDELLM_COLUMNS,
        treatments=_failed(failed),
    )


def _dig(value: Any, *keys: str) -> Any:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


# --- AIPerf --------------------------------------------------------------------------------------------

AIPERF_COLUMNS = {
    "arrive_s": "metadata.request_start_ns",
    "isl_tokens": "metrics.input_sequence_length",
    "osl_tokens": "metrics.output_sequence_length",
    "ttft_s": "metrics.time_to_first_token",
    "e2e_s": "metrics.request_latency",
    "cached_tokens": "metrics.usage_prompt_cache_read_tokens",
}

_VALUE = pl.Struct({"value": pl.Float64})
_AIPERF = {
    "metadata": pl.Struct(
        {
            "request_start_ns": pl.Int64,
            "conversation_id": pl.String,
            "benchmark_phase": pl.String,
            "was_cancelled": pl.Boolean,
        }
    ),
    "metrics": pl.Struct(
        {
            "input_sequence_length": _VALUE,
            "output_sequence_length": _VALUE,
            "time_to_first_token": _VALUE,
            "request_latency": _VALUE,
            "usage_prompt_cache_read_tokens": _VALUE,
            "inter_chunk_latency": pl.Struct({"value": pl.List(pl.Float64)}),
        }
    ),
}


def read_aiperf(source: Source, _options: ReadOptions) -> Rows:
    """Read AIPerf's records (`profile_export.jsonl`); its JSON and CSV exports have summaries only.

    Latencies in them are milliseconds. Records of warm-up are left out and counted, and so are cancelled and failed
    ones.
    """
    records = source.jsonl(_AIPERF).with_row_index("row").unnest("metadata", "metrics")
    warm_up = pl.col("benchmark_phase").fill_null("profiling") != "profiling"
    failed = pl.col("was_cancelled").fill_null(value=False) | pl.col("output_sequence_length").is_null()
    measured = records.filter(~warm_up)
    kept = measured.filter(~failed)
    place, rows = jsonl_line(source), kept["row"].to_list()
    return Rows(
        frame=_aiperf_frame(kept),
        place=lambda row: place(rows[row]),
        columns=AIPERF_COLUMNS,
        itl=ragged(kept["inter_chunk_latency"].struct.field("value").list.eval(pl.element() / 1e3)),
        treatments=_warm_up(records.height - measured.height) + _failed(measured.height - kept.height),
    )


def _warm_up(count: int) -> tuple[Treatment, ...]:
    return (Treatment(rows=count, text="request of the warm-up: left out"),) if count else ()


def _aiperf_frame(records: pl.DataFrame) -> pl.DataFrame:
    def value(name: str) -> pl.Expr:
        return pl.col(name).struct.field("value")

    return records.select(
        arrive_s=from_first(records["request_start_ns"]),
        isl_tokens=value("input_sequence_length"),
        osl_tokens=value("output_sequence_length"),
        ttft_s=value("time_to_first_token") / 1e3,
        e2e_s=value("request_latency") / 1e3,
        cached_tokens=value("usage_prompt_cache_read_tokens"),
        session_id=session_codes(records["conversation_id"]),
    )
