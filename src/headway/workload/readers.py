"""`read_trace`: any of the formats headway knows, recognised by what the file holds.

To add a format: write a function from `Source` and `ReadOptions` to `Rows`, and give it one line in `FORMATS`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from headway.errors import nearest
from headway.workload.columnar import is_parquet, read_columnar_csv, read_columnar_parquet
from headway.workload.reader_aiperf import read_aiperf
from headway.workload.reader_logs import OPENAI_TIMES, read_azure, read_mooncake, read_openai_log
from headway.workload.reader_results import read_guidellm, read_vllm_bench
from headway.workload.reader_servegen import is_archive, read_servegen
from headway.workload.reader_sessions import read_sessions
from headway.workload.rows import Rows, finish
from headway.workload.source import Source, parse_json
from headway.workload.trace import EmptyOutput, Order, ReadOptions, Trace

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One format: what it is, how a file of it is recognised, how it is read."""

    title: str
    recognises: Callable[[Head], bool]
    read: Callable[[Source, ReadOptions], Rows]


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What the beginning of a file shows."""

    keys: frozenset[str]  # of the first JSON object; empty where there is none
    header: frozenset[str]  # names of the first line read as CSV
    magic: bytes  # the first 512 bytes, unpacked


FORMATS: dict[str, Format] = {
    "azure": Format(
        title="Azure LLM inference trace, CSV",
        recognises=lambda head: {"TIMESTAMP", "ContextTokens", "GeneratedTokens"} <= head.header,
        read=read_azure,
    ),
    "mooncake": Format(
        title="Mooncake trace, JSON lines",
        recognises=lambda head: {"timestamp", "input_length", "output_length"} <= head.keys,
        read=read_mooncake,
    ),
    "sessions": Format(
        title="agentic coding sessions of kv-cache-tester, JSON lines",
        recognises=lambda head: {"requests", "block_size"} <= head.keys,
        read=read_sessions,
    ),
    "servegen": Format(
        title="ServeGen clients, tar archive",
        recognises=lambda head: is_archive(head.magic),
        read=read_servegen,
    ),
    "vllm-bench": Format(
        title="result of vllm bench serve --save-result --save-detailed, JSON",
        recognises=lambda head: {"num_prompts", "completed"} <= head.keys or {"input_lens", "itls"} <= head.keys,
        read=read_vllm_bench,
    ),
    "guidellm": Format(
        title="GuideLLM report, JSON",
        recognises=lambda head: "benchmarks" in head.keys,
        read=read_guidellm,
    ),
    "aiperf": Format(
        title="AIPerf records (profile_export.jsonl), JSON lines",
        recognises=lambda head: {"metadata", "metrics"} <= head.keys,
        read=read_aiperf,
    ),
    "openai-log": Format(
        title="log of an OpenAI-compatible server, JSON lines",
        recognises=lambda head: bool(head.keys & OPENAI_TIMES) and bool(head.keys & {"usage", "prompt_tokens"}),
        read=read_openai_log,
    ),
    "headway-csv": Format(
        title="headway's columns, CSV",
        recognises=lambda head: {"arrive_s", "isl_tokens", "osl_tokens"} <= head.header,
        read=read_columnar_csv,
    ),
    "headway-parquet": Format(
        title="headway's columns, Parquet",
        recognises=lambda head: is_parquet(head.magic),
        read=read_columnar_parquet,
    ),
}

#: Files people have beside a trace: what they are, and what to give in their place.
_NOT_TRACES: tuple[tuple[Callable[[Head], bool], str], ...] = (
    (lambda head: "Run Info" in head.header, "a GuideLLM summary has no requests: give its JSON report"),
    (lambda head: {"Metric", "avg"} <= head.header, "an AIPerf summary has no requests: give profile_export.jsonl"),
    (lambda head: "request_throughput" in head.keys, "an AIPerf summary has no requests: give profile_export.jsonl"),
    (lambda head: "num_prefill_tokens" in head.header, "lengths without arrival times are no trace"),
)


def read_trace(
    path: str | Path,
    *,
    format: str | None = None,  # noqa: A002 - the word people look for
    order: Order = "sort",
    empty_output: EmptyOutput = "one",
    window_s: tuple[float, float] | None = None,
    block_tokens: int | None = None,
    sessions_per_s: float | None = None,
    part: int | None = None,
    seed: int = 0,
    result: bool = False,
) -> Trace:
    """Read a trace file as requests.

    Text formats may be gzip'd. Times start at the first request where the file has clock times, and stay as written
    where it has times since a start. Requests without a prompt are left out; that and every other treatment is
    counted in `Trace.treatments`.

    Args:
        path: the file.
        format: a key of `FORMATS`; None: recognised from the file's content.
        order: rows out of order of time are sorted in and counted (real logs are often written at completion), or
            refused.
        empty_output: requests that gave no token count as one token, are left out, or are refused.
        window_s: only requests that arrive from the start to before the end, in seconds; time 0 becomes that start.
        block_tokens: tokens of one prefix block where the format does not say (Mooncake; 512 if not given).
        sessions_per_s: how many sessions start per second, as a Poisson process, where a format has sessions without a
            common clock (agentic). None: as many as spreads all of them over the length of the longest one. `math.inf`:
            all start at 0.
        part: which of several benchmarks in one result file, from 1.
        seed: of what has to be drawn (session starts; requests of a ServeGen archive).
        result: read what a load generator wrote as the result of its run, not as traffic to send again: requests that
            failed there stay, with `Measured.error`, and output lengths are what was asked for, where the file says.
            headway's own form has both either way.

    Raises:
        InputError: the file cannot be read, is of no known format, or has a value that no treatment covers; the file,
            the line and the column are named.
    """
    options = ReadOptions(
        order=order,
        empty_output=empty_output,
        window_s=window_s,
        block_tokens=block_tokens,
        sessions_per_s=sessions_per_s,
        part=part,
        seed=seed,
        result=result,
    )
    source = Source.open(path)
    name = recognise(source) if format is None else format
    if name not in FORMATS:
        source.fail(f"no trace format is called {name!r}", hint=nearest(name, FORMATS))
    return finish(FORMATS[name].read(source, options), source, name, options)


def recognise(source: Source) -> str:
    """Return the format of a file, by its content.

    Raises:
        InputError: none of the known ones.
    """
    head = look(source)
    name = next((name for name, form in FORMATS.items() if form.recognises(head)), None)
    if name is None:
        for matches, problem in _NOT_TRACES:
            if matches(head):
                source.fail(problem)
        source.fail("of no known trace format", hint=f"known: {', '.join(FORMATS)}")
    return name


def look(source: Source) -> Head:
    """Return what the beginning of a file shows."""
    line = source.head()
    return Head(keys=_keys(source, line), header=frozenset(source.header()), magic=line[:512])


def _keys(source: Source, line: bytes) -> frozenset[str]:
    """Return the keys of the first JSON object, which may stand in one line or be spread over the whole file."""
    if not line.lstrip().startswith(b"{"):
        return frozenset()
    try:
        value = parse_json(line)
    except ValueError as error:
        value = source.json(otherwise=f"the first line is no JSON object ({error}), nor is the whole file")
    return frozenset(value) if isinstance(value, dict) else frozenset()
