"""What load generators say of a whole run, where they kept no requests: summary files as figures to fit to.

`vllm bench serve` (JSON without `--save-detailed`), AIPerf (`profile_export_aiperf.json` or `.csv`), GuideLLM (JSON or
CSV). Metrics are given under headway's words, whatever the tool calls them; what cannot be told by figure alone stands
in `Summary.notes`.
"""

from __future__ import annotations

import csv
import io
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from headway.types import Latency
from headway.workload.reader_results import pick, vllm_result
from headway.workload.readers import look
from headway.workload.source import Source, parse_json
from headway.workload.trace import ReadOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from headway.types import Metric

_NAN = float("nan")
#: A median gap below this share of the mean: most chunks came together with the one before.
_COALESCED_FRAC = 0.02
_FROM_SENT = "latencies are from when a request was sent: a client that sends late hides that wait"
_CAPPED = "an open loop behind a cap on requests in flight: where the cap was reached, the load was a closed loop"
_COALESCED = (
    "the median gap between chunks is next to nothing: chunks came together (several tokens in one, or a client "
    "without processor time); ITL quantiles are not the server's"
)
_WEIGHED = "TPOT quantiles are over tokens, each with its request's mean gap; ITL is not told"


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """One run in figures, as its tool summed it up; NaN and None: it does not say.

    Attributes:
        tool: `vllm-bench`, `aiperf` or `guidellm`.
        file: where it stands.
        requests: sent.
        failed: of them, not answered.
        concurrency: clients of a closed loop, or the cap on requests in flight of an open one.
        rate_per_s: of an open loop, as asked for; infinite: all at once, or as fast as the cap lets.
        isl_tokens: mean, of answered requests.
        osl_tokens: mean received, likewise.
        duration_s: of the whole run.
        requests_per_s: answered.
        output_tokens_per_s: received.
        latency: of answered requests; samples are requests, and of ITL 0: not told.
        notes: what a reader of these figures must know, in whole sentences.
    """

    tool: str
    file: str
    requests: int
    failed: int
    concurrency: int | None
    rate_per_s: float | None
    isl_tokens: float
    osl_tokens: float
    duration_s: float
    requests_per_s: float
    output_tokens_per_s: float
    latency: Mapping[Metric, Latency]
    notes: tuple[str, ...]


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
        found = _guidellm_json
    elif {"num_prompts", "completed"} <= head.keys:
        found = _vllm
    elif "time_to_first_token" in head.keys or "request_throughput" in head.keys:
        found = _aiperf_json
    elif "Run Info" in head.header:
        found = _guidellm_csv
    elif {"Metric", "avg"} <= head.header:
        found = _aiperf_csv
    if found is None:
        source.fail(
            "of no known summary", hint="known: vllm bench serve JSON, AIPerf JSON or CSV, GuideLLM JSON or CSV"
        )
    return found(source, options)


def _number(source: Source, value: Any, place: str) -> float:
    """Return a number, NaN where there is none."""
    if value is None or value == "":
        return _NAN
    try:
        return float(value)
    except (TypeError, ValueError):
        source.fail(f"expected a number, got {str(value)[:40]!r}", place)


def _needed(source: Source, value: Any, place: str) -> float:
    number = _number(source, value, place)
    if not number >= 0:
        source.fail("expected a number from 0 on", place)
    return number


def _latency(samples: float, mean: float, most: float, quantiles: Mapping[float, float], unit_s: float) -> Latency:
    scaled = {frac: value * unit_s for frac, value in sorted(quantiles.items()) if not math.isnan(value)}
    return Latency(samples=int(samples), mean_s=mean * unit_s, max_s=most * unit_s, quantiles_s=scaled)


def _notes(latency: Mapping[Metric, Latency], concurrency: int | None, rate_per_s: float | None) -> list[str]:
    notes = [_FROM_SENT]
    if concurrency is not None and rate_per_s is not None and math.isfinite(rate_per_s):
        notes.append(_CAPPED)
    itl = latency.get("itl")
    if itl is not None and itl.quantiles_s.get(0.5, math.inf) < _COALESCED_FRAC * itl.mean_s:
        notes.append(_COALESCED)
    return notes


# --- vLLM ----------------------------------------------------------------------------------------------

_VLLM_METRICS: dict[str, Metric] = {"ttft": "ttft", "tpot": "tpot", "itl": "itl", "e2el": "e2e"}
_VLLM_QUANTILE = re.compile(r"p(\d+(?:\.\d+)?)_(ttft|tpot|itl|e2el)_ms")


def _vllm(source: Source, options: ReadOptions) -> Summary:
    result = vllm_result(source, options)
    asked = _needed(source, result.get("num_prompts"), "num_prompts")
    done = _needed(source, result.get("completed"), "completed")
    rate = result.get("request_rate")
    rate_per_s = math.inf if rate == "inf" else None if rate is None else _needed(source, rate, "request_rate")
    cap = result.get("max_concurrency")
    concurrency = None if cap is None else int(_needed(source, cap, "max_concurrency"))
    latency = {m: found for key, m in _VLLM_METRICS.items() if (found := _vllm_latency(source, result, key, done))}
    failed = _number(source, result.get("failed"), "failed")
    each = max(done, 1.0)
    return Summary(
        tool="vllm-bench",
        file=str(source.path),
        requests=int(asked),
        failed=int(asked - done if math.isnan(failed) else failed),
        concurrency=concurrency,
        rate_per_s=rate_per_s,
        isl_tokens=_number(source, result.get("total_input_tokens"), "total_input_tokens") / each,
        osl_tokens=_number(source, result.get("total_output_tokens"), "total_output_tokens") / each,
        duration_s=_number(source, result.get("duration"), "duration"),
        requests_per_s=_number(source, result.get("request_throughput"), "request_throughput"),
        output_tokens_per_s=_number(source, result.get("output_throughput"), "output_throughput"),
        latency=latency,
        notes=tuple(_notes(latency, concurrency, rate_per_s)),
    )


def _vllm_latency(source: Source, result: dict[str, Any], name: str, samples: float) -> Latency | None:
    mean = _number(source, result.get(f"mean_{name}_ms"), f"mean_{name}_ms")
    if math.isnan(mean):
        return None
    quantiles = {0.5: _number(source, result.get(f"median_{name}_ms"), f"median_{name}_ms")}
    for key, value in result.items():
        match = _VLLM_QUANTILE.fullmatch(key)
        if match and match[2] == name:
            quantiles[float(match[1]) / 100] = _number(source, value, key)
    return _latency(samples, mean, _NAN, quantiles, 1e-3)


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
    concurrency, rate_per_s = _aiperf_load(source, config if isinstance(config, dict) else {})
    return _aiperf(source, {key: tables[key] for key in known & set(tables)}, concurrency, rate_per_s)


def _aiperf_load(source: Source, config: dict[str, Any]) -> tuple[int | None, float | None]:
    """Return clients and rate: of the profiling phase, or (older files) of `loadgen`."""
    phases = config.get("phases")
    phases = [one for one in phases if isinstance(one, dict)] if isinstance(phases, list) else []
    load = next((one for one in phases if one.get("kind") == "profiling"), config.get("loadgen"))
    load = load if isinstance(load, dict) else {}
    clients = _number(source, load.get("concurrency"), "input_config, concurrency")
    rate = _number(source, load.get("rate", load.get("request_rate")), "input_config, rate")
    return None if math.isnan(clients) else int(clients), None if math.isnan(rate) else rate


def _aiperf_csv(source: Source, _options: ReadOptions) -> Summary:
    """Its CSV is two tables, of distributions and of single values, with units in the names; it says no load."""
    titles = {title: tag for tag, title in (*_AIPERF_METRICS.values(), *_AIPERF_OTHERS.values())}
    tables: dict[str, dict[str, Any]] = {}
    header: list[str] = []
    for row in _csv(source):
        if row and row[0] == "Metric":
            header = ["avg" if name == "Value" else name for name in row]
        elif row and len(row) == len(header):
            title, _, unit = row[0].partition(" (")
            if title in titles:
                tables[titles[title]] = {**dict(zip(header, row, strict=True)), "unit": unit.rstrip(")")}
    return _aiperf(source, tables, None, None)


def _aiperf(
    source: Source, tables: dict[str, dict[str, Any]], concurrency: int | None, rate_per_s: float | None
) -> Summary:
    values = {
        name: _number(source, tables.get(tag, {}).get("avg"), f"{tag}, avg")
        for name, (tag, _) in _AIPERF_OTHERS.items()
    }
    answered = _needed(source, values["answered"], "request_count")
    failed = 0 if math.isnan(values["failed"]) else int(values["failed"])
    latency = {
        metric: _aiperf_latency(source, tables[tag], tag, answered)
        for metric, (tag, _) in _AIPERF_METRICS.items()
        if tag in tables
    }
    return Summary(
        tool="aiperf",
        file=str(source.path),
        requests=int(answered) + failed,
        failed=failed,
        concurrency=concurrency,
        rate_per_s=rate_per_s,
        isl_tokens=values["isl"],
        osl_tokens=values["osl"],
        duration_s=values["duration"],
        requests_per_s=values["requests"],
        output_tokens_per_s=values["tokens"],
        latency=latency,
        notes=tuple(_notes(latency, concurrency, rate_per_s)),
    )


def _aiperf_latency(source: Source, table: dict[str, Any], tag: str, answered: float) -> Latency:
    unit = str(table.get("unit"))
    if unit not in _UNIT_S:
        source.fail(f"expected a time in {', '.join(_UNIT_S)}, got {unit!r}", f"{tag}, unit")
    matches = ((_AIPERF_QUANTILE.fullmatch(key), key) for key in table)
    quantiles = {float(match[1]) / 100: _number(source, table[key], f"{tag}, {key}") for match, key in matches if match}
    count = _number(source, table.get("count"), f"{tag}, count")
    mean, most = (_number(source, table.get(key), f"{tag}, {key}") for key in ("avg", "max"))
    return _latency(answered if math.isnan(count) else count, mean, most, quantiles, _UNIT_S[unit])


# --- GuideLLM ------------------------------------------------------------------------------------------

#: headway's metric -> GuideLLM's name, the group of its CSV's columns, and its unit in seconds. Its "time per output
#: token" includes TTFT and is left out; its "inter token latency" is one mean per request: TPOT.
_GUIDELLM_METRICS: dict[Metric, tuple[str, str, float]] = {
    "ttft": ("time_to_first_token_ms", "Time to First Token", 1e-3),
    "tpot": ("inter_token_latency_ms", "Inter Token Latency", 1e-3),
    "e2e": ("request_latency", "Request Latency", 1.0),
}
_GUIDELLM_QUANTILES = {
    "p001": 0.001, "p01": 0.01, "p05": 0.05, "p10": 0.1, "p25": 0.25, "p50": 0.5,
    "p75": 0.75, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p999": 0.999,
}  # fmt: skip
#: What the cell "Percentiles" of its CSV lists (0.8.1, benchmark/outputs/csv.py): no median, and no p99.9.
_GUIDELLM_CELL = ("min", "p001", "p01", "p05", "p10", "p25", "p75", "p90", "p95", "p99", "max")


def _guidellm_json(source: Source, options: ReadOptions) -> Summary:
    benchmarks = source.json().get("benchmarks")
    if not isinstance(benchmarks, list):
        source.fail("expected a list", "benchmarks")
    one = pick(source, benchmarks, options, "benchmarks")
    metrics = _part(one, "metrics")
    strategy = _part(one, "config", "strategy")
    kind = str(strategy.get("type_"))
    spreads = {metric: _part(metrics, name, "successful") for metric, (name, _, _) in _GUIDELLM_METRICS.items()}
    counts = _part(metrics, "request_totals")
    totals = {key: _part(metrics, f"{key}_token_count", "successful").get("total_sum") for key in ("prompt", "output")}
    return _guidellm(source, (kind, strategy.get("streams"), strategy.get("rate"), strategy.get("max_concurrency")),
                     counts, totals, _part(one).get("duration"), spreads)  # fmt: skip


def _guidellm_csv(source: Source, options: ReadOptions) -> Summary:
    """Its CSV has three rows of headings and one row per benchmark; percentiles stand in one cell."""
    rows = [row for row in _csv(source) if row]
    if len(rows) < 4 or len({len(row) for row in rows}) != 1:
        source.fail("expected three rows of headings and a row per benchmark, all of one length")
    headings = list(zip(*rows[:3], strict=True))
    cells = dict(zip(headings, pick(source, rows[3:], options, "benchmarks"), strict=True))
    kind, _, amount = cells.get(("Benchmark", "Strategy", ""), "").partition("@")
    spreads = {}
    for metric, (_, group, unit_s) in _GUIDELLM_METRICS.items():
        unit = "Successful Sec" if unit_s == 1.0 else "Successful ms"
        values = dict(zip(_GUIDELLM_CELL, _list(cells.get((group, unit, "Percentiles"), "")), strict=False))
        values["p50"] = cells.get((group, unit, "Median"))
        spreads[metric] = {
            "mean": cells.get((group, unit, "Mean")),
            "max": values.get("max"),
            "percentiles": values,
        }
    counts = {key.lower(): cells.get(("Request Counts", key, "")) for key in ("Successful", "Errored", "Incomplete")}
    done = _number(source, counts["successful"], "Request Counts")
    means = {key: _number(source, cells.get(("Token Metrics", f"Successful {key} Tokens", "Mean")), key)
             for key in ("Input", "Output")}  # fmt: skip
    totals = {"prompt": means["Input"] * done, "output": means["Output"] * done}
    return _guidellm(source, (kind, amount, amount, None), counts, totals,
                     cells.get(("Timings", "Duration", "Sec")), spreads)  # fmt: skip


def _guidellm(
    source: Source,
    strategy: tuple[str, Any, Any, Any],
    counts: dict[str, Any],
    totals: dict[str, Any],
    duration: Any,
    spreads: dict[Metric, dict[str, Any]],
) -> Summary:
    concurrency, rate_per_s = _guidellm_load(source, *strategy)
    done = _needed(source, counts.get("successful"), "request_totals, successful")
    failed = sum(_needed(source, counts.get(key) or 0, f"request_totals, {key}") for key in ("errored", "incomplete"))
    duration_s = _number(source, duration, "duration")
    read, given = (_number(source, totals[key], f"{key}_token_count") for key in ("prompt", "output"))
    latency = {metric: _guidellm_latency(source, metric, spread, done) for metric, spread in spreads.items()}
    return Summary(
        tool="guidellm",
        file=str(source.path),
        requests=int(done + failed),
        failed=int(failed),
        concurrency=concurrency,
        rate_per_s=rate_per_s,
        isl_tokens=read / max(done, 1.0),
        osl_tokens=given / max(done, 1.0),
        duration_s=duration_s,
        requests_per_s=done / duration_s if duration_s > 0 else _NAN,
        output_tokens_per_s=given / duration_s if duration_s > 0 else _NAN,
        latency=latency,
        notes=(*_notes(latency, concurrency, rate_per_s), _WEIGHED),
    )


def _guidellm_load(source: Source, kind: str, streams: Any, rate: Any, cap: Any) -> tuple[int | None, float | None]:
    if kind == "synchronous":
        return 1, None
    if kind == "concurrent":
        return int(_needed(source, streams, "strategy, streams")), None
    if kind == "throughput":
        clients = _number(source, cap, "strategy, max_concurrency")
        return None if math.isnan(clients) else int(clients), math.inf
    if kind in ("constant", "poisson"):
        return None, _needed(source, rate, "strategy, rate")
    return None, None


def _guidellm_latency(source: Source, metric: Metric, spread: dict[str, Any], done: float) -> Latency:
    name, _, unit_s = _GUIDELLM_METRICS[metric]
    percentiles = _part(spread, "percentiles")
    quantiles = {
        frac: _number(source, percentiles.get(key), f"{name}, {key}") for key, frac in _GUIDELLM_QUANTILES.items()
    }
    mean, most = (_number(source, spread.get(key), f"{name}, {key}") for key in ("mean", "max"))
    return _latency(done, mean, most, quantiles, unit_s)


def _part(value: Any, *keys: str) -> dict[str, Any]:
    """Return the object at those keys; an empty one where there is none."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


def _list(text: str) -> list[Any]:
    try:
        value = parse_json(text.encode())
    except ValueError:
        return []
    return value if isinstance(value, list) else []


def _csv(source: Source) -> list[list[str]]:
    try:
        return list(csv.reader(io.StringIO(source.read().decode())))
    except (UnicodeDecodeError, csv.Error) as error:
        source.fail(f"not readable as CSV: {error}")
