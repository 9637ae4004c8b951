"""Reader of AIPerf's records per request (`profile_export.jsonl`); what results have in common: `reader_results`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from headway.workload.codes import session_codes
from headway.workload.reader_logs import jsonl_line
from headway.workload.reader_results import asked_for, due, left_out
from headway.workload.rows import LATENCIES, Rows, ragged
from headway.workload.timestamps import divided, from_first
from headway.workload.trace import Treatment

if TYPE_CHECKING:
    from headway.workload.source import Source
    from headway.workload.trace import ReadOptions

AIPERF_COLUMNS = {
    "arrive_s": "metadata.credit_issued_ns",
    "isl_tokens": "metrics.input_sequence_length",
    "osl_tokens": "metrics.output_sequence_length",
    "ttft_s": "metrics.time_to_first_token",
    "e2e_s": "metrics.request_latency",
    "input_tokens": "metrics.usage_prompt_tokens",
    "cached_tokens": "metrics.usage_prompt_cache_read_tokens",
    "itl_s": "metrics.inter_chunk_latency",
}

_VALUE = pl.Struct({"value": pl.Float64})
_AIPERF = {
    "metadata": pl.Struct(
        {
            "credit_issued_ns": pl.Int64,
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
            "usage_prompt_tokens": _VALUE,
            "usage_prompt_cache_read_tokens": _VALUE,
            "osl_mismatch_diff_pct": _VALUE,
            "inter_chunk_latency": pl.Struct({"value": pl.List(pl.Float64)}),
        }
    ),
    "error": pl.Struct({"type": pl.String, "message": pl.String}),
}


def read_aiperf(source: Source, options: ReadOptions) -> Rows:
    """Read AIPerf's records (`profile_export.jsonl`); its JSON and CSV exports have summaries only.

    Latencies in them are milliseconds from `request_start_ns`; a request is due when its credit was issued. The length
    asked for follows from `osl_mismatch_diff_pct`. Records of warm-up are left out and counted.
    """
    records = source.jsonl(_AIPERF).with_row_index("row").unnest("metadata", "metrics")
    warm_up = pl.col("benchmark_phase").fill_null("profiling") != "profiling"
    failed = pl.col("was_cancelled").fill_null(value=False) | pl.col("output_sequence_length").is_null()
    measured = records.filter(~warm_up).with_columns(failed=failed | pl.col("error").is_not_null())
    kept = measured if options.result else measured.filter(~pl.col("failed"))
    place, rows = jsonl_line(source), kept["row"].to_list()
    return Rows(
        frame=_aiperf_frame(kept, result=options.result),
        place=lambda row: place(rows[row]),
        columns=AIPERF_COLUMNS,
        itl=ragged(kept["inter_chunk_latency"].struct.field("value").list.eval(pl.element() / 1e3)),
        treatments=_warm_up(records.height - measured.height) + left_out(measured.height - kept.height),
    )


def _warm_up(count: int) -> tuple[Treatment, ...]:
    return (Treatment(rows=count, text="request of the warm-up: left out"),) if count else ()


def _aiperf_frame(records: pl.DataFrame, *, result: bool) -> pl.DataFrame:
    def value(name: str) -> pl.Expr:
        return pl.col(name).struct.field("value")

    issued = records["credit_issued_ns"].fill_null(records["request_start_ns"])
    frame = due(
        records.select(
            "failed",
            "error",
            "was_cancelled",
            arrive_s=from_first(issued),
            sent_s=divided(records["request_start_ns"] - issued, 1e9),
            isl_tokens=value("input_sequence_length"),
            osl_tokens=value("output_sequence_length"),
            ttft_s=value("time_to_first_token") / 1e3,
            e2e_s=value("request_latency") / 1e3,
            input_tokens=value("usage_prompt_tokens"),
            cached_tokens=value("usage_prompt_cache_read_tokens"),
            asked=value("output_sequence_length") / (1 + value("osl_mismatch_diff_pct") / 100),
            session_id=session_codes(records["conversation_id"]),
        )
    )
    return (_aiperf_result(frame) if result else frame.drop("error")).drop("failed", "was_cancelled", "asked")


def _aiperf_result(frame: pl.DataFrame) -> pl.DataFrame:
    said = pl.coalesce(pl.col("error").struct.field("type"), pl.col("error").struct.field("message"))
    why = pl.when(pl.col("was_cancelled").fill_null(value=False)).then(pl.lit("cancelled")).otherwise(said)
    frame = frame.with_columns(
        pl.col("osl_tokens").fill_null(0),
        error=pl.when("failed").then(why.fill_null("failed")),
    )
    frame = frame.with_columns(pl.when(pl.col("error").is_null()).then(pl.col(name)) for name in LATENCIES)
    return asked_for(frame, frame["asked"].round(0).to_list())
