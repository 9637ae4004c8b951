"""A run as a GuideLLM report (JSON, version 2 of its schema).

Distributions are over requests, by that tool's words: its `time_per_output_token_ms` includes TTFT and its
`inter_token_latency_ms` is a mean per request, weighed by its tokens. Its series over time (rates, concurrency) and
text statistics are left empty.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from uuid import UUID

import numpy as np

if TYPE_CHECKING:
    from headway.types import BoolColumn, FloatColumn
    from headway.workload.writer_rows import RunAbout, SentRows

_PERCENTILES = {
    "p001": 0.001, "p01": 0.01, "p05": 0.05, "p10": 0.1, "p25": 0.25, "p50": 0.5,
    "p75": 0.75, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p999": 0.999,
}  # fmt: skip
#: What that tool calls a request that the end of the run cut off; all else that failed is `errored`.
_INCOMPLETE = ("cancelled", "interrupted", "not-sent", "unfinished")


#: What that tool counts by kind of content, and how; of all that, nothing is known here.
_KINDS = {
    "text": ("tokens", "words", "characters"),
    "image": ("tokens", "images", "pixels", "bytes"),
    "video": ("tokens", "frames", "seconds", "bytes"),
    "audio": ("tokens", "samples", "seconds", "bytes"),
    "tool_call": ("tokens", "mixed_tokens", "count"),
}
_FLOWS = [f"{side}{of}" for side in ("input", "output", "total") for of in ("", "_per_second", "_concurrency")]
#: Its report must name the data: synthetic texts, of lengths that stand with each request.
_DATA = {"kind": "synthetic_text", "prompt_tokens": 1, "output_tokens": 1}


def guidellm(rows: SentRows, about: RunAbout) -> str:
    """Return a run as a report with one benchmark."""
    ends = [_end(word) for word in rows.errors]
    spec = {"backend": _backend(about), "profile": _profile(about), "data": [_DATA]}
    config = {"metadata": {"labels": {}}, "spec": spec}
    metadata = {"version": 2, "guidellm_version": "", "python_version": "", "platform": ""}
    report = {"metadata": metadata, "config": config, "benchmarks": [_benchmark(rows, about, ends)]}
    return json.dumps(report) + "\n"


def _end(word: str) -> str:
    return "successful" if not word else "incomplete" if word in _INCOMPLETE else "errored"


def _benchmark(rows: SentRows, about: RunAbout, ends: list[str]) -> dict[str, Any]:
    counts = {end: ends.count(end) for end in ("successful", "errored", "incomplete")} | {"total": len(ends)}
    start_s, end_s = about.started_s + float(rows.start_s.min()), about.started_s + float(rows.end_s.max())
    requests = {
        end: [_request(rows, about, row) for row in range(len(rows)) if ends[row] == end]
        for end in ("successful", "errored", "incomplete")
    }
    return {
        "type_": "generative_benchmark",
        "config": _config(about),
        "scheduler_state": {
            "start_time": start_s,
            "end_time": end_s,
            "created_requests": len(rows),
            "processed_requests": len(rows),
            "successful_requests": counts["successful"],
            "errored_requests": counts["errored"],
            "cancelled_requests": counts["incomplete"],
        },
        "scheduler_metrics": _scheduler(rows, counts, start_s, end_s),
        "metrics": _metrics(rows, counts),
        "requests": {**requests, "total": None},
        "start_time": start_s,
        "end_time": end_s,
        "duration": end_s - start_s,
        "warmup_duration": 0.0,
        "cooldown_duration": 0.0,
    }


def _config(about: RunAbout) -> dict[str, Any]:
    closed = about.concurrency is not None
    return {
        "id_": str(UUID(int=0)),
        "run_id": str(UUID(int=0)),
        "run_index": 0,
        "strategy": {"type_": "concurrent", "streams": about.concurrency} if closed else {"type_": "trace"},
        "constraints": {},
        "profile": _profile(about),
        "requests": {},
        "backend": _backend(about),
        "environment": {},
    }


def _backend(about: RunAbout) -> dict[str, Any]:
    return {"kind": "openai_http", "target": about.url, "model": about.model}


def _profile(about: RunAbout) -> dict[str, Any]:
    return {"kind": "replay"} if about.concurrency is None else {"kind": "concurrent", "streams": [about.concurrency]}


def _scheduler(rows: SentRows, counts: dict[str, int], start_s: float, end_s: float) -> dict[str, Any]:
    late_s = float(rows.late_s.mean())
    zero = ("queued_time_avg", "resolve_start_delay_avg", "request_start_delay_avg", "resolve_end_delay_avg",
            "finalized_delay_avg", "processed_delay_avg")  # fmt: skip
    served_s = float(rows.e2e_s[rows.answered].mean()) if rows.answered.any() else 0.0
    return {
        "start_time": start_s,
        "request_start_time": start_s,
        "measure_start_time": start_s,
        "measure_end_time": end_s,
        "request_end_time": end_s,
        "end_time": end_s,
        "requests_made": counts,
        **dict.fromkeys(zero, 0.0),
        "resolve_targeted_start_delay_avg": late_s,
        "request_targeted_start_delay_avg": late_s,
        "request_time_avg": served_s,
        "resolve_time_avg": served_s,
    }


def _request(rows: SentRows, about: RunAbout, row: int) -> dict[str, Any]:
    start_s = about.started_s + float(rows.start_s[row])
    ttft_s, e2e_s = float(rows.ttft_s[row]), float(rows.e2e_s[row])
    isl, osl, done = int(rows.isl_tokens[row]), int(rows.osl_tokens[row]), bool(rows.answered[row])
    cached = None if rows.cached_tokens is None or rows.cached_tokens[row] < 0 else int(rows.cached_tokens[row])
    session = row if rows.session_id is None else int(rows.session_id[row])
    body = {"stream": True, "max_tokens": int(rows.asked_tokens[row]), "ignore_eos": True}
    timings = {
        "targeted_start": start_s - float(rows.late_s[row]),
        "resolve_start": start_s,
        "request_start": start_s,
        "first_token_iteration": start_s + ttft_s if done else None,
        "first_output_token_iteration": start_s + ttft_s if done else None,
        "last_token_iteration": start_s + e2e_s if done else None,
        "token_iterations": len(rows.gaps_s[row]) + 1 if done else 0,
        "request_end": start_s + e2e_s,
        "resolve_end": start_s + e2e_s,
    }
    status = {"successful": "completed", "errored": "errored", "incomplete": "cancelled"}[_end(rows.errors[row])]
    return {
        "type_": "generative_request_stats",
        "request_id": f"{row:08d}",
        "request_args": json.dumps({"body": body}),
        "info": {
            "request_id": f"{row:08d}",
            "conversation_id": f"{session:08d}",
            "status": status,
            "timings": timings,
            "error": rows.errors[row] or None,
        },
        "input_metrics": {"text_tokens": isl, "cached_tokens": cached, "total_tokens": isl},
        "output_metrics": {"text_tokens": osl, "total_tokens": osl},
        "request_start_time": start_s,
        "request_end_time": start_s + e2e_s,
        "request_latency": e2e_s if done else None,
        "request_dispatch_delay": float(rows.late_s[row]),
        "prompt_tokens": isl,
        "cached_tokens": cached,
        "output_tokens": osl,
        "total_tokens": isl + osl,
        "time_to_first_token_ms": ttft_s * 1e3 if done else None,
        "inter_token_latency_ms": (e2e_s - ttft_s) / (osl - 1) * 1e3 if done and osl > 1 else None,
    }


def _metrics(rows: SentRows, counts: dict[str, int]) -> dict[str, Any]:
    done = rows.answered
    several = done & (rows.osl_tokens > 1)
    osl, isl = rows.osl_tokens.astype(np.float64), rows.isl_tokens.astype(np.float64)
    chunks = np.array([len(one) + 1 for one in rows.gaps_s], dtype=np.float64)
    full = {
        "request_latency": _spread(rows.e2e_s, done),
        "request_streaming_iterations_count": _spread(chunks, done),
        "prompt_token_count": _spread(isl, done),
        "output_token_count": _spread(osl, done),
        "total_token_count": _spread(isl + osl, done),
        "time_to_first_token_ms": _spread(rows.ttft_s * 1e3, done),
        "time_to_first_output_token_ms": _spread(rows.ttft_s * 1e3, done),
        "time_per_output_token_ms": _spread(rows.e2e_s * 1e3 / np.maximum(osl, 1), done, weights=osl),
        "inter_token_latency_ms": _spread(
            (rows.e2e_s - rows.ttft_s) * 1e3 / np.maximum(osl - 1, 1), several, weights=osl - 1
        ),
    }
    empty = (
        "requests_per_second", "request_concurrency", "time_to_last_round_trip_ms", "avg_round_trip_time_ms",
        "prompt_tokens_per_second", "output_tokens_per_second", "tokens_per_second", "output_tokens_per_iteration",
        "iter_tokens_per_iteration",
    )  # fmt: skip
    nothing = _spread(np.zeros(0), np.zeros(0, dtype=bool))
    return {
        "request_totals": counts,
        **dict.fromkeys(empty, nothing),
        **full,
        **{kind: dict.fromkeys(parts, dict.fromkeys(_FLOWS)) for kind, parts in _KINDS.items()},
    }


def _spread(values: FloatColumn, rows: BoolColumn, *, weights: FloatColumn | None = None) -> dict[str, Any]:
    """Return one distribution over the answered requests, each counted as often as its weight."""
    taken = values[rows]
    weight = np.ones(len(taken)) if weights is None else weights[rows]
    order = np.argsort(taken)
    taken, weight = taken[order], weight[order]
    summary = _summary(taken, weight) if weight.sum() > 0 else _NONE
    return {"successful": summary, "errored": _NONE, "incomplete": _NONE, "total": summary}


def _summary(ordered: FloatColumn, weight: FloatColumn) -> dict[str, Any]:
    total = weight.sum()
    mean = float((ordered * weight).sum() / total)
    variance = float((np.square(ordered - mean) * weight).sum() / total)
    share = np.cumsum(weight) / total
    ranks = {
        name: min(int(np.searchsorted(share, frac, side="right")), len(ordered) - 1)
        for name, frac in _PERCENTILES.items()
    }
    quantiles = {name: float(ordered[rank]) for name, rank in ranks.items()}
    distinct, which = np.unique(ordered, return_inverse=True)
    return {
        "mean": mean,
        "median": quantiles["p50"],
        "mode": float(distinct[np.argmax(np.bincount(which, weights=weight))]),
        "variance": variance,
        "std_dev": variance**0.5,
        "min": float(ordered[0]),
        "max": float(ordered[-1]),
        "count": round(total),
        "total_sum": float((ordered * weight).sum()),
        "percentiles": quantiles,
    }


#: What that tool writes of no request at all.
_NONE = _summary(np.zeros(1), np.ones(1)) | {"count": 0}
