"""Readers of request logs: the Azure trace, the Mooncake trace, and logs of OpenAI-compatible servers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from headway.workload.prefixes import encode_ids, offsets_of
from headway.workload.rows import Rows
from headway.workload.timestamps import clock_s
from headway.workload.trace import Treatment

if TYPE_CHECKING:
    from collections.abc import Callable

    from headway.types import PrefixRuns
    from headway.workload.source import Source
    from headway.workload.trace import ReadOptions

#: Blocks of the published Mooncake traces (FAST '25 release, README of kvcache-ai/Mooncake): 512 tokens.
MOONCAKE_BLOCK_TOKENS = 512

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
    times_s = clock_s(source, frame["TIMESTAMP"], "TIMESTAMP")
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
    frame = frame.drop("hash_ids").rename(names).with_columns(pl.col("arrive_s") / 1e3)
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
