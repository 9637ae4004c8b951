"""What load generators say of a whole run, where they kept no requests: summary files as figures to fit to.

`vllm bench serve` (JSON without `--save-detailed`), AIPerf (`profile_export_aiperf.json` or `.csv`), GuideLLM (JSON or
CSV). Metrics are given under headway's words, whatever the tool calls them; what cannot be told by figure alone stands
in `Summary.notes`.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

from headway.workload.reader_results import vllm_result
from headway.workload.readers import look
from headway.workload.source import Source
from headway.workload.summaries_guidellm import guidellm_csv, guidellm_json
from headway.workload.summary import (
    NAN,
    Summary,
    count,
    counted,
    csv_rows,
    latency_of,
    needed,
    notes_of,
    number,
    part,
)
from headway.workload.trace import ReadOptions

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from headway.types import Latency, Metric


def holds_no_requests(path: str | Path) -> bool:
    """Return whether a file is a summary alone: of a known tool, and without what was measured of each request."""
    source = Source.open(path)
    head = look(source)
    if "benchmarks" in head.keys:
        benchmarks = source.json().get("benchmarks")
        ones = benchmarks if isinstance(benchmarks, list) else []
        return not any(part(one, "requests").get("successful") for one in ones)
    if {"num_prompts", "completed"} <= head.keys:
        return "input_lens" not in head.keys
    return bool(head.keys & {"time_to_first_token", "request_throughput"}) or bool(
        {"Run Info"} <= head.header or {"Metric", "avg"} <= head.header
    )


def read_summary(path: str | Path, *, part: int | None = None) -> Summary:
    """Read the summary of a benchmark run.

    Args:
        path: the file.
        part: which of several benchmarks in it, from 1.

    Raises:
        InputError: the file cannot be read, is of no known tool, or lacks what a summary needs.
    """
    source, options = Source.open(path), ReadOptions(part=part)
    head = look(source)
    found: Callable[[Source, ReadOptions], Summary] | None = None
    if "benchmarks" in head.keys:
        found = guidellm_json
    elif {"num_prompts", "completed"} <= head.keys:
        found = _vllm
    elif "time_to_first_token" in head.keys or "request_throughput" in head.keys:
        found = _aiperf_json
    elif "Run Info" in head.header:
        found = guidellm_csv
    elif {"Metric", "avg"} <= head.header:
        found = _aiperf_csv
    if found is None:
        source.fail(
            "of no known summary", hint="known: vllm bench serve JSON, AIPerf JSON or CSV, GuideLLM JSON or CSV"
        )
    return found(source, options)


# --- vLLM ----------------------------------------------------------------------------------------------

_VLLM_METRICS: dict[str, Metric] = {"ttft": "ttft", "tpot": "tpot", "itl": "itl", "e2el": "e2e"}
_VLLM_QUANTILE = re.compile(r"p(\d+(?:\.\d+)?)_(ttft|tpot|itl|e2el)_ms")


def _vllm(source: Source, options: ReadOptions) -> Summary:
    result = vllm_result(source, options)
    asked = counted(source, result.get("num_prompts"), "num_prompts")
    done = counted(source, result.get("completed"), "completed")
    rate = result.get("request_rate")
    rate_per_s = math.inf if rate == "inf" else None if rate is None else needed(source, rate, "request_rate")
    concurrency = count(source, result.get("max_concurrency"), "max_concurrency")
    latency = {m: found for key, m in _VLLM_METRICS.items() if (found := _vllm_latency(source, result, key, done))}
    failed = count(source, result.get("failed"), "failed")
    each = max(done, 1)
    return Summary(
        tool="vllm-bench",
        file=str(source.path),
        requests=asked,
        failed=max(asked - done, 0) if failed is None else failed,
        concurrency=concurrency,
        rate_per_s=rate_per_s,
        isl_tokens=number(source, result.get("total_input_tokens"), "total_input_tokens") / each,
        osl_tokens=number(source, result.get("total_output_tokens"), "total_output_tokens") / each,
        duration_s=number(source, result.get("duration"), "duration"),
        requests_per_s=number(source, result.get("request_throughput"), "request_throughput"),
        output_tokens_per_s=number(source, result.get("output_throughput"), "output_throughput"),
        latency=latency,
        notes=tuple(notes_of(latency, concurrency, rate_per_s)),
    )


def _vllm_latency(source: Source, result: dict[str, Any], name: str, samples: int) -> Latency | None:
    mean = number(source, result.get(f"mean_{name}_ms"), f"mean_{name}_ms")
    if math.isnan(mean):
        return None
    quantiles = {0.5: number(source, result.get(f"median_{name}_ms"), f"median_{name}_ms")}
    for key, value in result.items():
        match = _VLLM_QUANTILE.fullmatch(key)
        if match and match[2] == name and float(match[1]) <= 100:
            quantiles[float(match[1]) / 100] = number(source, value, key)
    return latency_of(samples, mean, NAN, quantiles, 1e-3)


# --- AIPerf --------------------------------------------------------------------------------------------

#: headway's metric -> AIPerf's tag and title. Its "inter token latency" is one figure per request: headway's TPOT.
_AIPERF_METRICS: dict[Metric, tuple[str, str]] = {
    "ttft": ("time_to_first_token", "Time to First Token"),
    "tpot": ("inter_token_latency", "Inter Token Latency"),
    "itl": ("inter_chunk_latency", "Inter Chunk Latency"),
    "e2e": ("request_latency", "Request Latency"),
}
_AIPERF_OTHERS = {
    "answered": ("request_count", "Request Count"),
    "failed": ("error_request_count", "Error Request Count"),
    "isl": ("input_sequence_length", "Input Sequence Length"),
    "osl": ("output_sequence_length", "Output Sequence Length"),
    "duration": ("benchmark_duration", "Benchmark Duration"),
    "requests": ("request_throughput", "Request Throughput"),
    "tokens": ("output_token_throughput", "Output Token Throughput"),
}
_UNIT_S = {"ms": 1e-3, "s": 1.0, "sec": 1.0, "us": 1e-6, "ns": 1e-9}
_AIPERF_QUANTILE = re.compile(r"p(\d+(?:\.\d+)?)")


def _aiperf_json(source: Source, _options: ReadOptions) -> Summary:
    document = source.json()
    tables = {key: value for key, value in document.items() if isinstance(value, dict) and "avg" in value}
    known = {tag for tag, _ in (*_AIPERF_METRICS.values(), *_AIPERF_OTHERS.values())}
    config = document.get("input_config")
    load = _aiperf_load(source, config if isinstance(config, dict) else {})
    return _aiperf(source, {key: tables[key] for key in known & set(tables)}, load)


def _aiperf_load(source: Source, config: dict[str, Any]) -> tuple[int | None, float | None, bool]:
    """Return clients, rate, and whether its gaps are equal: of the profiling phase, or (older files) of `loadgen`."""
    phases = config.get("phases")
    phases = [one for one in phases if isinstance(one, dict)] if isinstance(phases, list) else []
    load = next((one for one in phases if one.get("kind") == "profiling"), config.get("loadgen"))
    load = load if isinstance(load, dict) else {}
    clients = count(source, load.get("concurrency"), "input_config, concurrency")
    rate = number(source, load.get("rate", load.get("request_rate")), "input_config, rate")
    evenly = "constant" in (load.get("type"), load.get("request_rate_mode"))
    return clients, None if math.isnan(rate) else rate, evenly


def _aiperf_csv(source: Source, _options: ReadOptions) -> Summary:
    """Its CSV is two tables, of distributions and of single values, with units in the names; it says no load."""
    titles = {title: tag for tag, title in (*_AIPERF_METRICS.values(), *_AIPERF_OTHERS.values())}
    tables: dict[str, dict[str, Any]] = {}
    header: list[str] = []
    for row in csv_rows(source):
        if row and row[0] == "Metric":
            header = ["avg" if name == "Value" else name for name in row]
        elif row and len(row) == len(header):
            title, _, unit = row[0].partition(" (")
            if title in titles:
                tables[titles[title]] = {**dict(zip(header, row, strict=True)), "unit": unit.rstrip(")")}
    return _aiperf(source, tables, (None, None, False))


def _aiperf(source: Source, tables: dict[str, dict[str, Any]], load: tuple[int | None, float | None, bool]) -> Summary:
    concurrency, rate_per_s, evenly = load
    sds = {
        name: number(source, tables.get(_AIPERF_OTHERS[name][0], {}).get("std"), f"{name}, std")
        for name in ("isl", "osl")
    }
    said = {name: (tables.get(tag, {}).get("avg"), f"{tag}, avg") for name, (tag, _) in _AIPERF_OTHERS.items()}
    answered, failed = counted(source, *said.pop("answered")), count(source, *said.pop("failed")) or 0
    values = {name: number(source, *one) for name, one in said.items()}
    latency = {
        metric: _aiperf_latency(source, tables[tag], tag, answered)
        for metric, (tag, _) in _AIPERF_METRICS.items()
        if tag in tables
    }
    return Summary(
        tool="aiperf",
        file=str(source.path),
        requests=answered + failed,
        failed=failed,
        concurrency=concurrency,
        rate_per_s=rate_per_s,
        isl_tokens=values["isl"],
        osl_tokens=values["osl"],
        duration_s=values["duration"],
        requests_per_s=values["requests"],
        output_tokens_per_s=values["tokens"],
        latency=latency,
        notes=tuple(notes_of(latency, concurrency, rate_per_s)),
        isl_sd_tokens=sds["isl"],
        osl_sd_tokens=sds["osl"],
        evenly=evenly,
    )


def _aiperf_latency(source: Source, table: dict[str, Any], tag: str, answered: int) -> Latency:
    unit = str(table.get("unit"))
    if unit not in _UNIT_S:
        source.fail(f"expected a time in {', '.join(_UNIT_S)}, got {unit!r}", f"{tag}, unit")
    matches = ((_AIPERF_QUANTILE.fullmatch(key), key) for key in table)
    found = ((float(match[1]) / 100, key) for match, key in matches if match)
    quantiles = {frac: number(source, table[key], f"{tag}, {key}") for frac, key in found if frac <= 1}
    samples = count(source, table.get("count"), f"{tag}, count")
    mean, most = (number(source, table.get(key), f"{tag}, {key}") for key in ("avg", "max"))
    return latency_of(answered if samples is None else samples, mean, most, quantiles, _UNIT_S[unit])
