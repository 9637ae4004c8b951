"""Readers of request logs: the Azure trace, the Mooncake trace, and logs of OpenAI-compatible servers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from headway.workload.codes import session_codes, word_codes
from headway.workload.prefixes import encode_ids, offsets_of
from headway.workload.rows import Rows
from headway.workload.timestamps import clock_s, divided
from headway.workload.trace import Treatment

if TYPE_CHECKING:
    from collections.abc import Callable

    from polars.datatypes import DataTypeClass

    from headway.types import PrefixRuns
    from headway.workload.source import Source
    from headway.workload.trace import ReadOptions

#: Blocks of the published Mooncake traces (FAST '25 release, README of kvcache-ai/Mooncake): 512 tokens.
MOONCAKE_BLOCK_TOKENS = 512

_NO_TIME = "expected a time such as '2023-11-16 18:17:03.97'"

AZURE_COLUMNS = {"arrive_s": "TIMESTAMP", "isl_tokens": "ContextTokens", "osl_tokens": "GeneratedTokens"}
MOONCAKE_COLUMNS = {"arrive_s": "timestamp", "isl_tokens": "input_length", "osl_tokens": "output_length"}


def csv_line(row: int) -> str:
    """Name a row of a CSV by its line."""
    return f"line {row + 2}"


def jsonl_line(source: Source) -> Callable[[int], str]:
    """Return how a record of JSON lines is named by its line (blank lines are none)."""

    def place(row: int) -> str:
        for record, (number, _) in enumerate(source.lines()):
            if record == row:
                return f"line {number}"
        return f"record {row + 1}"

    return place


# --- Azure ---------------------------------------------------------------------------------------------


def read_azure(source: Source, _options: ReadOptions) -> Rows:
    """Read the Azure LLM inference trace of 2023 or the week-long one of 2024.

    Columns: `TIMESTAMP`, `ContextTokens`, `GeneratedTokens`. Arrivals count from the earliest row.
    """
    frame = source.csv({"TIMESTAMP": pl.String, "ContextTokens": pl.Float64, "GeneratedTokens": pl.Float64})
    times_s = clock_s(frame["TIMESTAMP"], lambda row: source.fail(_NO_TIME, f"{csv_line(row)}, TIMESTAMP"))
    frame = frame.select(arrive_s=times_s, isl_tokens=pl.col("ContextTokens"), osl_tokens=pl.col("GeneratedTokens"))
    return Rows(frame=frame, place=csv_line, columns=AZURE_COLUMNS)


# --- Mooncake ------------------------------------------------------------------------------------------


def read_mooncake(source: Source, options: ReadOptions) -> Rows:
    """Read a Mooncake trace: JSON lines of `timestamp` in ms, `input_length`, `output_length` and `hash_ids`.

    A hash id stands for a block of 512 tokens (`block_tokens` says otherwise) and all before it; the last block may be
    filled in part. Times stay as they are written; where many requests share an instant (the published trace
    has steps of 3 s) that is counted, since it makes arrivals burstier than they were.
    """
    frame = source.jsonl(
        {
            "timestamp": pl.Float64,
            "input_length": pl.Float64,
            "output_length": pl.Float64,
            "hash_ids": pl.List(pl.Int64),
        }
    )
    place = jsonl_line(source)
    prefix = None
    if frame["hash_ids"].null_count() < frame.height:
        prefix = runs_of_lists(
            source, frame["hash_ids"], options.block_tokens or MOONCAKE_BLOCK_TOKENS, place, "hash_ids"
        )
    names = {"timestamp": "arrive_s", "input_length": "isl_tokens", "output_length": "osl_tokens"}
    frame = frame.drop("hash_ids").rename(names).with_columns(arrive_s=divided(frame["timestamp"], 1e3))
    return Rows(frame=frame, place=place, columns=MOONCAKE_COLUMNS, prefix=prefix, treatments=_shared_instants(frame))


def _shared_instants(frame: pl.DataFrame) -> tuple[Treatment, ...]:
    shared = frame.height - frame["arrive_s"].n_unique()
    text = "request at the very instant of another (a coarse clock): kept as written"
    return (Treatment(rows=shared, text=text),) if shared else ()


def runs_of_lists(
    source: Source, lists: pl.Series, block_tokens: int, place: Callable[[int], str], column: str
) -> PrefixRuns:
    """Code a column of lists of ids as runs; a row without a list shares nothing.

    Raises:
        InputError: an id is missing inside a list.
    """
    holes = lists.list.eval(pl.element().is_null().any()).list.first().fill_null(value=False)
    if holes.any():
        source.fail(
            "expected whole numbers, got nothing inside the list", f"{place(int(holes.arg_true()[0]))}, {column}"
        )
    lengths = lists.list.len().fill_null(0).to_numpy().astype(np.int64)
    ids = lists.filter(lengths > 0).explode().to_numpy().astype(np.int64)
    return encode_ids(ids, offsets_of(lengths), block_tokens)


# --- OpenAI-compatible servers -------------------------------------------------------------------------

#: Keys a time may stand under, in the order they are looked for.
OPENAI_TIMES = frozenset(_TIMES := ("timestamp", "ts", "time", "start_time", "created_at", "created"))
_DETAILS = pl.Struct({"cached_tokens": pl.Float64})
_COUNTS: dict[str, pl.DataType | DataTypeClass] = {
    "prompt_tokens": pl.Float64,
    "completion_tokens": pl.Float64,
    "prompt_tokens_details": _DETAILS,
}
_USAGE = pl.Struct(
    {**_COUNTS, "input_tokens": pl.Float64, "output_tokens": pl.Float64, "input_tokens_details": _DETAILS}
)
_WORDS = ("model", "user", "session_id", "conversation_id")


def read_openai_log(source: Source, _options: ReadOptions) -> Rows:
    """Read a log of an OpenAI-compatible server: JSON lines, one request each.

    Keys, the first present of each row of them is taken and all others are left alone:

    - time: `timestamp`, `ts`, `time`, `start_time`, `created_at`, `created`: ISO 8601, or a number since 1970 in s, ms,
      µs or ns;
    - lengths: `usage.prompt_tokens` and `usage.completion_tokens` (chat and text completions), `usage.input_tokens` and
      `usage.output_tokens` (responses), or `prompt_tokens` and `completion_tokens` beside the time;
    - cached prompt tokens: `cached_tokens` in `prompt_tokens_details` or `input_tokens_details`, where the lengths are;
    - `session_id`, `conversation_id`: the session; `user`: the tenant; `model`: the class.

    Rows without a length (failed, or streamed without `include_usage`) are left out and counted.
    """
    words: dict[str, pl.DataType | DataTypeClass] = dict.fromkeys((*_TIMES, *_WORDS), pl.String())
    records = source.jsonl({**words, "usage": _USAGE, **_COUNTS}).with_row_index("row")
    session = pl.coalesce("session_id", "conversation_id").alias("session")
    time = pl.coalesce(_TIMES).alias("time")
    kept = records.select("row", "user", "model", session, time, *_openai_lengths())
    kept = kept.filter(pl.col("isl_tokens").is_not_null() & pl.col("osl_tokens").is_not_null())
    if not kept.height:
        source.fail("no row has lengths: expected usage.prompt_tokens and usage.completion_tokens")
    place, rows = jsonl_line(source), kept["row"].to_list()
    tenants, users = word_codes(kept["user"])
    classes, models = word_codes(kept["model"])
    optional = {
        "cached_tokens": kept["cached_tokens"],
        "session_id": session_codes(kept["session"]),
        "tenant_id": tenants,
        "class_id": classes,
    }
    said = {"cached_tokens": "cached_tokens", "session_id": "session", "tenant_id": "user", "class_id": "model"}
    frame = kept.select("isl_tokens", "osl_tokens").with_columns(
        arrive_s=clock_s(kept["time"], lambda row: source.fail(_NO_TIME, f"{place(rows[row])}, time")),
        **{name: column for name, column in optional.items() if kept[said[name]].null_count() < kept.height},
    )
    return Rows(
        frame=frame,
        place=lambda row: place(rows[row]),
        columns={"arrive_s": "time", "isl_tokens": "prompt_tokens", "osl_tokens": "completion_tokens"},
        names={"tenant_id": users, "class_id": models},
        treatments=_without_lengths(records.height - kept.height),
    )


def _openai_lengths() -> tuple[pl.Expr, ...]:
    usage = pl.col("usage").struct

    def cached(details: pl.Expr) -> pl.Expr:
        return details.struct.field("cached_tokens")

    return (
        pl.coalesce(usage.field("prompt_tokens"), usage.field("input_tokens"), "prompt_tokens").alias("isl_tokens"),
        pl.coalesce(usage.field("completion_tokens"), usage.field("output_tokens"), "completion_tokens").alias(
            "osl_tokens"
        ),
        pl.coalesce(
            cached(usage.field("prompt_tokens_details")),
            cached(usage.field("input_tokens_details")),
            cached(pl.col("prompt_tokens_details")),
        ).alias("cached_tokens"),
    )


def _without_lengths(count: int) -> tuple[Treatment, ...]:
    return (Treatment(rows=count, text="row without lengths (failed, or no usage): left out"),) if count else ()
