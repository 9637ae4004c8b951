"""Summaries of GuideLLM: its report (JSON), and its CSV."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from headway.workload.reader_results import pick
from headway.workload.source import parse_json
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

if TYPE_CHECKING:
    from headway.types import Latency, Metric
    from headway.workload.source import Source
    from headway.workload.trace import ReadOptions

_WEIGHED = "TPOT quantiles are over tokens, each with its request's mean gap; ITL is not told"
#: headway's metric -> GuideLLM's name, the group of its CSV's columns, and its unit in seconds. Its "time per output
#: token" includes TTFT and is left out; its "inter token latency" is one mean per request: TPOT.
_METRICS: dict[Metric, tuple[str, str, float]] = {
    "ttft": ("time_to_first_token_ms", "Time to First Token", 1e-3),
    "tpot": ("inter_token_latency_ms", "Inter Token Latency", 1e-3),
    "e2e": ("request_latency", "Request Latency", 1.0),
}
_QUANTILES = {
    "p001": 0.001, "p01": 0.01, "p05": 0.05, "p10": 0.1, "p25": 0.25, "p50": 0.5,
    "p75": 0.75, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p999": 0.999,
}  # fmt: skip
#: What the cell "Percentiles" of its CSV lists (0.8.1, benchmark/outputs/csv.py): no median, and no p99.9.
_CELL = ("min", "p001", "p01", "p05", "p10", "p25", "p75", "p90", "p95", "p99", "max")


def guidellm_json(source: Source, options: ReadOptions) -> Summary:
    """Its report has every distribution in full."""
    benchmarks = source.json().get("benchmarks")
    if not isinstance(benchmarks, list):
        source.fail("expected a list", "benchmarks")
    one = pick(source, benchmarks, options, "benchmarks")
    metrics = part(one, "metrics")
    strategy = part(one, "config", "strategy")
    kind = str(strategy.get("type_"))
    spreads = {metric: part(metrics, name, "successful") for metric, (name, _, _) in _METRICS.items()}
    counts = part(metrics, "request_totals")
    tokens = {key: part(metrics, f"{key}_token_count", "successful") for key in ("prompt", "output")}
    lengths = {key: (one.get("mean"), one.get("std_dev")) for key, one in tokens.items()}
    return _summary(source, (kind, strategy.get("streams"), strategy.get("rate"), strategy.get("max_concurrency")),
                     counts, lengths, part(one).get("duration"), spreads)  # fmt: skip


def guidellm_csv(source: Source, options: ReadOptions) -> Summary:
    """Its CSV has three rows of headings and one row per benchmark; percentiles stand in one cell."""
    rows = [row for row in csv_rows(source) if row]
    if len(rows) < 4 or len({len(row) for row in rows}) != 1:
        source.fail("expected three rows of headings and a row per benchmark, all of one length")
    headings = list(zip(*rows[:3], strict=True))
    cells = dict(zip(headings, pick(source, rows[3:], options, "benchmarks"), strict=True))
    kind, _, amount = cells.get(("Benchmark", "Strategy", ""), "").partition("@")
    spreads = {}
    for metric, (_, group, unit_s) in _METRICS.items():
        unit = "Successful Sec" if unit_s == 1.0 else "Successful ms"
        values = dict(zip(_CELL, _list(cells.get((group, unit, "Percentiles"), "")), strict=False))
        values["p50"] = cells.get((group, unit, "Median"))
        spreads[metric] = {
            "mean": cells.get((group, unit, "Mean")),
            "max": values.get("max"),
            "percentiles": values,
        }
    counts = {key.lower(): cells.get(("Request Counts", key, "")) for key in ("Successful", "Errored", "Incomplete")}
    groups = {"prompt": "Successful Input Tokens", "output": "Successful Output Tokens"}
    lengths = {key: tuple(cells.get(("Token Metrics", group, name)) for name in ("Mean", "Std Dev"))
               for key, group in groups.items()}  # fmt: skip
    return _summary(source, (kind, amount, amount, None), counts, lengths,
                     cells.get(("Timings", "Duration", "Sec")), spreads)  # fmt: skip


def _summary(
    source: Source,
    strategy: tuple[str, Any, Any, Any],
    counts: dict[str, Any],
    lengths: dict[str, tuple[Any, ...]],
    duration: Any,
    spreads: dict[Metric, dict[str, Any]],
) -> Summary:
    concurrency, rate_per_s = _load(source, *strategy)
    done = counted(source, counts.get("successful"), "request_totals, successful")
    failed = sum(counted(source, counts.get(key) or 0, f"request_totals, {key}") for key in ("errored", "incomplete"))
    duration_s = number(source, duration, "duration")
    isl, isl_sd, osl, osl_sd = (
        number(source, one, f"{key}_token_count") for key in ("prompt", "output") for one in lengths[key]
    )
    latency = {metric: _latency(source, metric, spread, done) for metric, spread in spreads.items()}
    return Summary(
        tool="guidellm",
        file=str(source.path),
        requests=done + failed,
        failed=failed,
        concurrency=concurrency,
        rate_per_s=rate_per_s,
        isl_tokens=isl,
        osl_tokens=osl,
        duration_s=duration_s,
        requests_per_s=number(source, done / duration_s, "duration") if duration_s > 0 else NAN,
        output_tokens_per_s=number(source, osl * done / duration_s, "duration") if duration_s > 0 else NAN,
        latency=latency,
        notes=(*notes_of(latency, concurrency, rate_per_s), _WEIGHED),
        isl_sd_tokens=isl_sd,
        osl_sd_tokens=osl_sd,
        evenly=strategy[0] == "constant",
        weighed=True,
    )


def _load(source: Source, kind: str, streams: Any, rate: Any, cap: Any) -> tuple[int | None, float | None]:
    if kind == "synchronous":
        return 1, None
    if kind == "concurrent":
        return counted(source, streams, "strategy, streams"), None
    if kind == "throughput":
        return count(source, cap, "strategy, max_concurrency"), math.inf
    if kind in ("constant", "poisson"):
        return None, needed(source, rate, "strategy, rate")
    return None, None


def _latency(source: Source, metric: Metric, spread: dict[str, Any], done: int) -> Latency:
    name, _, unit_s = _METRICS[metric]
    percentiles = part(spread, "percentiles")
    quantiles = {frac: number(source, percentiles.get(key), f"{name}, {key}") for key, frac in _QUANTILES.items()}
    mean, most = (number(source, spread.get(key), f"{name}, {key}") for key in ("mean", "max"))
    return latency_of(done, mean, most, quantiles, unit_s)


def _list(text: str) -> list[Any]:
    try:
        value = parse_json(text.encode())
    except ValueError:
        return []
    return value if isinstance(value, list) else []
