"""Bad traces: one line that names the file, the place and what was expected."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from typing import TYPE_CHECKING

import numpy as np
import pytest

from headway.errors import InputError
from headway.types import Requests
from headway.workload import describe, read_trace, write_trace
from headway.workload.readers import FORMATS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
OWN = "arrive_s,isl_tokens,osl_tokens"
T0 = "2023-11-16 18:17:03.97"


def refusal(path: Path, **options: object) -> str:
    """Return what is said of a file, without its name; it must be one line that begins with it."""
    with pytest.raises(InputError) as caught:
        read_trace(path, **options)  # type: ignore[arg-type]
    said = str(caught.value)
    assert said.startswith(f"{path}: ")
    assert "\n" not in said
    return said.removeprefix(f"{path}: ")


def text(tmp_path: Path, content: str | bytes) -> Path:
    path = tmp_path / "trace"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def lines(*records: object) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def mooncake(**other: object) -> dict[str, object]:
    return {"timestamp": 0, "input_length": 5, "output_length": 5, "hash_ids": [1]} | other


def session(**other: object) -> dict[str, object]:
    turn = {"t": 0, "type": "n", "in": 5, "out": 5, "hash_rle": [[1, 1]]}
    return {"block_size": 64, "requests": [turn | other]}


TOKENS = "expected a whole number of tokens from 0 to 2,147,483,647, got"

BAD: dict[str, tuple[str, str]] = {
    # CSV: the Azure form
    "missing column": ("TIMESTAMP,ContextTokens\n", "of no known trace format"),
    "empty trace": (AZURE, "the trace is empty: it has no request"),
    "blank": (" \n\n", "the file has nothing but blank lines"),
    "not a number": (f"{AZURE}{T0},5,5\n{T0},x,5\n", "line 3, ContextTokens: expected a number, got 'x'"),
    "nothing": (f"{AZURE}{T0},5,5\n{T0},5,\n", f"line 3, GeneratedTokens: {TOKENS} nothing"),
    "NaN": (f"{AZURE}{T0},NaN,5\n", f"line 2, ContextTokens: {TOKENS} nan"),
    "infinite": (f"{AZURE}{T0},inf,5\n", f"line 2, ContextTokens: {TOKENS} inf"),
    "negative": (f"{AZURE}{T0},-5,5\n", f"line 2, ContextTokens: {TOKENS} -5.0"),
    "a fraction": (f"{AZURE}{T0},5.5,5\n", f"line 2, ContextTokens: {TOKENS} 5.5"),
    "huge": (f"{AZURE}{T0},{10**30},5\n", f"line 2, ContextTokens: {TOKENS} 1e+30"),
    "no time": (
        f"{AZURE}{T0},5,5\nyesterday,5,5\n",
        "line 3, TIMESTAMP: expected a time such as '2023-11-16 18:17:03.97'",
    ),
    "time missing": (f"{AZURE}{T0},5,5\n,5,5\n", "line 3, TIMESTAMP: expected a time from 0 to 1e+10 s, got nothing"),
    "ragged": (f"{AZURE}{T0},5,5,5\n", "not a rectangular CSV"),
    # headway's own columns
    "negative time": (f"{OWN}\n-1,5,5\n", "line 2, arrive_s: expected a time from 0 to 1e+10 s, got -1.0"),
    "time NaN": (f"{OWN}\n0,5,5\nnan,5,5\n", "line 3, arrive_s: expected a time from 0 to 1e+10 s, got nan"),
    "time for ever": (f"{OWN}\n0,5,5\ninf,5,5\n", "line 3, arrive_s: expected a time from 0 to 1e+10 s, got inf"),
    "code missing": (f"{OWN},tenant_id\n0,5,5,1\n0,5,5,\n", "line 3, tenant_id: expected a whole number, got nothing"),
    "code a word": (f"{OWN},tenant_id\n0,5,5,me\n", "line 2, tenant_id: expected a number, got 'me'"),
    "only empty prompts": (f"{OWN}\n0,0,5\n", "no request is left: 1 × request without a prompt: left out"),
    "ids without size": (f"{OWN},prefix_ids\n0,5,5,1\n", "the column 'prefix_block_tokens' is missing"),
    "two sizes": (
        f"{OWN},prefix_ids,prefix_block_tokens\n0,5,5,1,16\n0,5,5,1,32\n",
        "prefix_block_tokens: expected one",
    ),
    "ids words": (
        f"{OWN},prefix_ids,prefix_block_tokens\n0,5,5,1 b,16\n",
        "line 2, prefix_ids: expected whole numbers with blanks between, got '1 b'",
    ),
    "uneven lists": (
        f"{OWN},prefix_first_ids,prefix_counts,prefix_block_tokens\n0,5,5,1 5,2,16\n",
        "line 2, prefix_first_ids and prefix_counts: expected lists of equal length",
    ),
    "counts only": (f"{OWN},prefix_counts,prefix_block_tokens\n0,5,5,1,16\n", "expected both"),
    "count of 0": (
        f"{OWN},prefix_first_ids,prefix_counts,prefix_block_tokens\n0,5,5,1,0,16\n",
        "line 2: expected block ids from 0 to 4,611,686,018,427,387,903 in runs of at least one, got 0 from 1",
    ),
    "latency infinite": (f"{OWN},ttft_s\n0,5,5,inf\n", "line 2, ttft_s: expected a finite time from 0 on, or nothing"),
    # Mooncake
    "broken line": (lines(mooncake()) + '{"timestamp": 1,\n', "line 2: not valid JSON: Expecting property name"),
    "first line broken": ('{"timestamp": 1,\n' + lines(mooncake()), "the first line is no JSON object"),
    "a list": (lines(mooncake()) + "[1, 2]\n", "line 2: expected a JSON object, got [1, 2]"),
    "a text": (lines(mooncake(), mooncake(input_length="7")), "line 2, input_length: expected a number, got '7'"),
    "true": (lines(mooncake(output_length=True)), "line 1, output_length: expected a number, got True"),
    "key missing": (lines(mooncake(), {"timestamp": 5, "input_length": 6}), f"line 2, output_length: {TOKENS} nothing"),
    "blank lines count": ("\n" + lines(mooncake()) + "\n" + lines(mooncake(input_length=-1)), "line 4, input_length"),
    "JSON NaN": (lines(mooncake(), mooncake(timestamp=float("nan"))), "line 2: not valid JSON: NaN is no JSON number"),
    "id a word": (
        lines(mooncake(hash_ids=["a"])),
        "line 1, hash_ids: expected a list, each a whole number of 64 bits, got ['a']",
    ),
    "id huge": (lines(mooncake(hash_ids=[2**70])), "line 1, hash_ids: expected a list, each a whole number of 64 bits"),
    "id nothing": (lines(mooncake(hash_ids=[1, None])), "line 1, hash_ids: expected whole numbers, got nothing inside"),
    "id negative": (lines(mooncake(hash_ids=[-1])), "line 1: expected block ids from 0"),
    "ids not chained": (
        lines(mooncake(hash_ids=[1, 2]), mooncake(hash_ids=[5, 2])),
        "line 2: a block id here follows another block than elsewhere",
    ),
    # sessions
    "turn without t": (lines(session(t=None)), "line 1, requests[0], t: expected a finite number, got 'None'"),
    "turn huge": (lines(session(**{"in": 10**400})), "line 1, requests[0], in: expected a finite number, got '1000"),
    "turn runs": (lines(session(hash_rle=[[1]])), "line 1, requests[0], hash_rle: expected runs of block ids"),
    "no block size": (lines(session() | {"block_size": None}), "line 1, block_size: expected a whole number of tokens"),
    "block sizes": (lines(session(), session() | {"block_size": 16}), "line 2, block_size: expected block_size 64"),
    "no turns": (lines({"block_size": 64, "requests": []}), "the trace is empty: it has no request"),
    "scopes": (lines(session(), session() | {"hash_id_scope": "global"}), "sessions of one file must agree"),
    # results
    "only a summary": (lines({"num_prompts": 2, "completed": 2}), "no requests in it, only their summary"),
    "lists of other lengths": (
        lines({"input_lens": [1, 2], "output_lens": [1], "itls": [[], []]}),
        "output_lens: expected 2 entries, as input_lens has, got 1",
    ),
    "no start times": (
        lines({"input_lens": [1], "output_lens": [1], "itls": [[]], "request_rate": 5.0}),
        "no start_times: when each request arrived is not known",
    ),
    "two results": (
        2 * lines({"input_lens": [1], "output_lens": [1], "itls": [[]], "request_rate": "inf"}),
        "2 results in one file (say which with part=1 … 2)",
    ),
    "GuideLLM without requests": (lines({"benchmarks": [{}]}), "benchmarks, requests.successful: expected a list"),
    "GuideLLM summary": ("Run Info,Run Info,Benchmark\n", "a GuideLLM summary has no requests: give its JSON report"),
    "AIPerf summary": ("Metric,avg,min\n", "an AIPerf summary has no requests: give profile_export.jsonl"),
    "log without lengths": (lines({"created": 5, "usage": None}), "no row has lengths: expected usage.prompt_tokens"),
    "log without time": (
        lines({"created": 5, "prompt_tokens": 1, "completion_tokens": 1}, {"prompt_tokens": 1, "completion_tokens": 1}),
        "line 2, time: expected a time from 0 to 1e+10 s, got nothing",
    ),
    "something else": ("hello\nworld\n", "of no known trace format (known: azure, mooncake,"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused_in_one_line(tmp_path: Path, name: str) -> None:
    content, said = BAD[name]
    assert refusal(text(tmp_path, content)).startswith(said)


@pytest.mark.parametrize("name", BAD)
def test_packed_bad_files_are_refused_alike(tmp_path: Path, name: str) -> None:
    content, said = BAD[name]
    assert refusal(text(tmp_path, gzip.compress(content.encode()))).startswith(said)


# --- files as such ---------------------------------------------------------------------------------------


def test_no_such_file(tmp_path: Path) -> None:
    assert refusal(tmp_path / "absent") == "cannot be read: No such file or directory"


def test_a_directory(tmp_path: Path) -> None:
    assert refusal(tmp_path) == "cannot be read: Is a directory"


def test_an_empty_file(tmp_path: Path) -> None:
    assert refusal(text(tmp_path, b"")) == "the file is empty"


@pytest.mark.parametrize("kept", [2, 12, 40, -1])
def test_a_truncated_gzip(tmp_path: Path, kept: int) -> None:
    rows = "".join(f"{T0},{row},5\n" for row in range(1, 400))
    packed = gzip.compress((AZURE + rows).encode())
    assert refusal(text(tmp_path, packed[:kept])).startswith("the gzip is truncated or damaged: ")


def test_a_damaged_gzip(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(AZURE.encode() * 50))
    packed[-6] ^= 0xFF  # the checksum
    assert "CRC check failed" in refusal(text(tmp_path, bytes(packed)))


def test_text_that_is_not_utf_8(tmp_path: Path) -> None:
    said = refusal(text(tmp_path, AZURE.encode() + f"{T0},5,5\n".encode() + b"\xff,5,5\n"))
    assert said == "line 3: not UTF-8 text (byte 0 of the line)"


def test_json_lines_that_are_not_utf_8(tmp_path: Path) -> None:
    said = refusal(text(tmp_path, lines(mooncake()).encode() + b'{"timestamp": "\xff"}\n'))
    assert said.startswith("line 2: not valid JSON: not UTF-8 text")


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_another_format_than_said_is_refused(tmp_path: Path, name: str) -> None:
    assert refusal(text(tmp_path, "hello,world\n1,2\n"), format=name)


def test_a_format_misspelt_has_the_nearest_offered(tmp_path: Path) -> None:
    assert refusal(text(tmp_path, AZURE), format="azur") == "no trace format is called 'azur' (did you mean 'azure'?)"


def test_empty_outputs_can_be_refused(tmp_path: Path) -> None:
    said = refusal(text(tmp_path, f"{OWN}\n0,5,1\n1,5,0\n"), empty_output="refuse")
    assert said == "line 3, osl_tokens: expected at least one output token, got 0.0"


def test_rows_out_of_order_can_be_refused(tmp_path: Path) -> None:
    said = refusal(text(tmp_path, f"{OWN}\n0,5,1\n2,5,1\n1,5,1\n"), order="refuse")
    assert said == "line 4, arrive_s: earlier than a row before it (order='sort' sorts and counts such rows)"


def test_parquet_columns_of_another_type(tmp_path: Path) -> None:
    import polars as pl

    path = tmp_path / "trace.parquet"
    pl.DataFrame({"arrive_s": [0.0], "isl_tokens": ["5"], "osl_tokens": [5]}).write_parquet(path)
    assert refusal(path) == "isl_tokens: expected numbers, got String"
    pl.DataFrame({"arrive_s": [0.0], "isl_tokens": [5]}).write_parquet(path)
    assert refusal(path).startswith("the column 'osl_tokens' is missing")
    pl.DataFrame({"arrive_s": [0.0, 1.0], "isl_tokens": [5, None], "osl_tokens": [5, 5]}).write_parquet(path)
    assert refusal(path) == f"row 2, isl_tokens: {TOKENS} nothing"
    path.write_bytes(path.read_bytes()[:-40])
    assert refusal(path).startswith("not readable as Parquet: ")


def archive(rates: str, lengths: object) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, content in (("chunk-0-trace.csv", rates), ("chunk-0-dataset.json", json.dumps(lengths))):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content.encode()))
    return packed.getvalue()


LENGTHS = {"0": {"input_tokens": "{5: 1.0}", "output_tokens": "{6: 1.0}"}}
QUIET = "600,0,0,,0,0\n"


@pytest.mark.parametrize(
    ("rates", "lengths", "said"),
    [
        ("0,1,1,Gamma,1,1\n", LENGTHS, "chunk-0-trace.csv: expected at least two windows"),
        ("900,1,1,Gamma,1,1\n" + QUIET, LENGTHS, "chunk-0-trace.csv, line 2: expected a later time than 900, got 600"),
        (
            "0,x,1,Gamma,1,1\n" + QUIET,
            LENGTHS,
            "chunk-0-trace.csv, line 1: expected a finite number from 0 in column 2",
        ),
        ("0,1,1,Pareto,1,1\n" + QUIET, LENGTHS, "chunk-0-trace.csv, line 1: expected Gamma with a shape from 1e-06"),
        ("0,1,1,Weibull,1e-4,1\n" + QUIET, LENGTHS, "chunk-0-trace.csv, line 1: expected Gamma with a shape"),
        ("0,1e300,1,Gamma,1,1\n" + QUIET, LENGTHS, "6e+302 requests are too many (ask for a part of the time"),
        (QUIET + "1200,0,0,,0,0\n", LENGTHS, "no client has requests: expected chunk-N-trace.csv with rates"),
        ("0,1,1,Gamma,1,1\n" + QUIET, {}, "no client has requests in the time asked for"),
        ("0,1,1,Gamma,1,1\n" + QUIET, [], "chunk-0-dataset.json: expected an object of histograms by time"),
        (
            "0,1,1,Gamma,1,1\n" + QUIET,
            {"0": {"input_tokens": 5}},
            "chunk-0-dataset.json, 0, input_tokens: expected a hi",
        ),
        (
            "0,1,1,Gamma,1,1\n" + QUIET,
            {"0": {"input_tokens": "{5: -1.0}", "output_tokens": "{6: 1.0}"}},
            "chunk-0-dataset.json, 0, input_tokens: expected whole token counts and shares from 0",
        ),
    ],
)
def test_bad_archives(tmp_path: Path, rates: str, lengths: object, said: str) -> None:
    assert refusal(text(tmp_path, archive(rates, lengths))).startswith(said)


def test_a_truncated_archive(tmp_path: Path) -> None:
    data = archive("0,1,1,Gamma,1,1\n" + QUIET, LENGTHS)
    assert refusal(text(tmp_path, data[:520])).startswith("the archive is truncated or damaged: ")


# --- options ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"order": "sorted"}, "order: 'sorted' is not known here (did you mean 'sort'?)"),
        ({"empty_output": "skip"}, "empty_output: 'skip' is not known here (known: drop, one, refuse)"),
        ({"window_s": (5, 5)}, "window_s: expected a start and a later end in seconds, got (5, 5)"),
        ({"window_s": (float("nan"), 5)}, "window_s: expected a start and a later end in seconds, got (nan, 5)"),
        ({"block_tokens": 0}, "block_tokens: expected at least 1, got 0"),
        ({"part": 0}, "part: expected at least 1, got 0"),
        ({"sessions_per_s": 0}, "sessions_per_s: expected a rate above 0, got 0"),
        ({"sessions_per_s": float("nan")}, "sessions_per_s: expected a rate above 0, got nan"),
        ({"seed": -1}, "seed: expected at least 0, got -1"),
    ],
)
def test_bad_options(tmp_path: Path, options: dict[str, object], said: str) -> None:
    with pytest.raises(InputError) as caught:
        read_trace(tmp_path, **options)  # type: ignore[arg-type]
    assert str(caught.value) == said


def test_a_part_that_is_not_there(tmp_path: Path) -> None:
    path = text(tmp_path, lines({"benchmarks": [{}]}))
    assert refusal(path, part=3) == "there is no part 3: 1 benchmarks in the file"


# --- writing ---------------------------------------------------------------------------------------------


@pytest.fixture
def one() -> Requests:
    return Requests(arrive_s=np.zeros(1), isl_tokens=np.ones(1, dtype=np.int64), osl_tokens=np.ones(1, dtype=np.int64))


@pytest.mark.parametrize("place", [lambda p: p / "trace.json", lambda p: p / "trace"])
def test_writing_under_another_ending(tmp_path: Path, one: Requests, place: Callable[[Path], Path]) -> None:
    with pytest.raises(InputError, match=r"expected a name that ends in \.parquet, \.csv or \.csv\.gz"):
        write_trace(one, place(tmp_path))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ending", ["parquet", "csv", "csv.gz"])
def test_writing_where_there_is_no_folder(tmp_path: Path, one: Requests, ending: str) -> None:
    with pytest.raises(InputError, match="cannot be written: No such file or directory"):
        write_trace(one, tmp_path / "absent" / f"trace.{ending}")


@pytest.mark.parametrize("ending", ["parquet", "csv", "csv.gz"])
def test_what_stops_halfway_leaves_the_old_file(tmp_path: Path, one: Requests, ending: str) -> None:
    path = tmp_path / f"trace.{ending}"
    path.mkdir()  # renaming a file onto a folder fails at the last step
    with pytest.raises(InputError, match="cannot be written"):
        write_trace(one, path)
    assert [found.name for found in tmp_path.iterdir()] == [path.name]


# --- describing ------------------------------------------------------------------------------------------


def test_describing_nothing(one: Requests) -> None:
    none = Requests(arrive_s=one.arrive_s[:0], isl_tokens=one.isl_tokens[:0], osl_tokens=one.osl_tokens[:0])
    with pytest.raises(InputError, match="there is no request to describe"):
        describe(none)


@pytest.mark.parametrize("window_s", [0.0, -1.0, float("nan")])
def test_describing_in_no_window(one: Requests, window_s: float) -> None:
    with pytest.raises(InputError, match="expected a window above 0"):
        describe(one, series_window_s=window_s)
