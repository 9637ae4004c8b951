"""Writes what was measured as other load generators write it, for whoever reads their files.

`vllm bench serve --save-result --save-detailed` (JSON), AIPerf's records (`profile_export.jsonl`) and GuideLLM's report
(JSON). Times in them are from when a request was sent, as these tools have it; what a client was late by stands where
each keeps that (`queue_times`, `credit_issued_ns`, `targeted_start`). Figures are by each tool's own definitions: over
answered requests only, quantiles interpolated.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from headway.errors import InputError, nearest
from headway.workload.columnar import write_whole
from headway.workload.writer_guidellm import guidellm
from headway.workload.writer_rows import RunAbout, SentRows, sent_rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from headway.types import FloatColumn
    from headway.workload.trace import Trace

_NS_PER_S = 1e9


# --- vLLM ----------------------------------------------------------------------------------------------


def vllm_bench(rows: SentRows, about: RunAbout) -> str:
    """Return a run as `vllm bench serve --save-result --save-detailed` has it.

    One key is headway's own: `asked_output_lens`, which that tool does not keep.
    """
    done = rows.answered
    duration_s = max(rows.duration_s, 1e-12)
    read, given = int(rows.isl_tokens[done].sum()), int(rows.osl_tokens[done].sum())
    gaps_s = np.array([gap for one, ok in zip(rows.gaps_s, done, strict=True) if ok for gap in one])
    per_s, most = _vllm_peaks(rows)
    result: dict[str, Any] = {
        "date": _date(about.started_s),
        "endpoint_type": "openai",
        "backend": "openai",
        "label": None,
        "model_id": about.model,
        "tokenizer_id": about.model,
        "num_prompts": len(rows),
        "request_rate": _vllm_rate(rows, about),
        "burstiness": 1.0,
        "max_concurrency": about.concurrency,
        "duration": duration_s,
        "completed": int(done.sum()),
        "failed": int((~done).sum()),
        "total_input_tokens": read,
        "total_output_tokens": given,
        "request_throughput": int(done.sum()) / duration_s,
        "request_goodput": None,
        "output_throughput": given / duration_s,
        "total_token_throughput": (read + given) / duration_s,
        "input_lens": rows.isl_tokens.tolist(),
        "output_lens": np.where(done, rows.osl_tokens, 0).tolist(),
        "asked_output_lens": rows.asked_tokens.tolist(),
        "ttfts": rows.ttft_s.tolist(),
        "itls": rows.gaps_s,
        "latencies": rows.e2e_s.tolist(),
        "start_times": rows.start_s.tolist(),
        "queue_times": rows.late_s.tolist(),
        "generated_texts": [""] * len(rows),
        "errors": rows.errors,
        "max_output_tokens_per_s": per_s,
        "max_concurrent_requests": most,
        "rtfx": 0.0,
    }
    result |= _vllm_figures("ttft", rows.ttft_s[done])
    result |= _vllm_figures("tpot", rows.tpot_s)
    result |= _vllm_figures("itl", gaps_s)
    result |= _vllm_figures("e2el", rows.e2e_s[done])
    return json.dumps(result) + "\n"


def _vllm_figures(name: str, values_s: FloatColumn) -> dict[str, float]:
    values_ms = (values_s if len(values_s) else np.zeros(1)) * 1e3
    return {
        f"mean_{name}_ms": float(values_ms.mean()),
        f"median_{name}_ms": float(np.median(values_ms)),
        f"std_{name}_ms": float(values_ms.std()),
        f"p99_{name}_ms": float(np.percentile(values_ms, 99)),
    }


def _vllm_rate(rows: SentRows, about: RunAbout) -> float | str:
    """The rate asked for; `inf` is how that tool says: all at once, or as clients are free."""
    due_s = rows.start_s - rows.late_s
    span_s = float(due_s[-1] - due_s[0])
    if about.concurrency is not None or (about.rate_per_s is None and span_s <= 0):
        return "inf"
    return about.rate_per_s or (len(rows) - 1) / span_s


def _vllm_peaks(rows: SentRows) -> tuple[float, int]:
    """Return the most chunks in a second, and the most requests under way in one, of seconds since the first sent."""
    done = rows.answered
    if not done.any():
        return 0.0, 0
    origin_s = float(rows.start_s[done].min())
    seconds = int(np.ceil(rows.end_s[done].max() - origin_s)) + 1
    chunks, live = np.zeros(seconds), np.zeros(seconds + 1, dtype=np.int64)
    for row in np.flatnonzero(done):
        times_s = rows.start_s[row] - origin_s + rows.ttft_s[row] + np.cumsum([0.0, *rows.gaps_s[row]])
        np.add.at(chunks, times_s[times_s < seconds].astype(np.int64), 1)
        live[int(rows.start_s[row] - origin_s)] += 1
        live[int(rows.end_s[row] - origin_s) + 1] -= 1
    return float(chunks.max()), int(np.cumsum(live).max())


def _date(started_s: float) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(started_s, UTC).strftime("%Y%m%d-%H%M%S")


# --- AIPerf --------------------------------------------------------------------------------------------


def aiperf(rows: SentRows, about: RunAbout) -> str:
    """Return a run as AIPerf's records, one JSON line per request."""
    return "".join(json.dumps(_aiperf_record(rows, about, row)) + "\n" for row in range(len(rows)))


def _aiperf_record(rows: SentRows, about: RunAbout, row: int) -> dict[str, Any]:
    # seconds since 1970 in a double are good to a microsecond, times of the run to a nanosecond: turned by themselves
    origin_ns = round(about.started_s * 1e6) * 1000
    issued_ns = origin_ns + round(float(rows.start_s[row] - rows.late_s[row]) * _NS_PER_S)
    start_ns = issued_ns + round(float(rows.late_s[row]) * _NS_PER_S)
    session = row if rows.session_id is None else int(rows.session_id[row])
    word = rows.errors[row]
    record: dict[str, Any] = {
        "metadata": {
            "session_num": row,
            "conversation_id": f"session_{session:06d}",
            "turn_index": 0,
            "credit_issued_ns": issued_ns,
            "request_start_ns": start_ns,
            "request_end_ns": start_ns + round(float(rows.e2e_s[row]) * _NS_PER_S),
            "worker_id": "headway",
            "record_processor_id": "headway",
            "benchmark_phase": "profiling",
            "was_cancelled": word == "cancelled",
        },
        "metrics": _aiperf_metrics(rows, row),
        "error": None if not word else {"code": None, "type": word, "message": word},
    }
    return record


def _aiperf_metrics(rows: SentRows, row: int) -> dict[str, Any]:
    isl, osl, asked = (int(one[row]) for one in (rows.isl_tokens, rows.osl_tokens, rows.asked_tokens))
    metrics: dict[str, Any] = {"input_sequence_length": _value(isl, "tokens")}
    if rows.answered[row] or osl > 0:
        metrics["output_sequence_length"] = _value(osl, "tokens")
        metrics["osl_mismatch_diff_pct"] = _value((osl / asked - 1) * 100, "%")
    if rows.cached_tokens is not None and rows.cached_tokens[row] >= 0:
        metrics["usage_prompt_cache_read_tokens"] = _value(int(rows.cached_tokens[row]), "tokens")
    if not rows.answered[row]:
        return metrics
    ttft_ms, e2e_ms = float(rows.ttft_s[row]) * 1e3, float(rows.e2e_s[row]) * 1e3
    metrics["time_to_first_token"] = _value(ttft_ms, "ms")
    metrics["request_latency"] = _value(e2e_ms, "ms")
    metrics["inter_chunk_latency"] = _value([gap * 1e3 for gap in rows.gaps_s[row]], "ms")
    if osl > 1:
        metrics["inter_token_latency"] = _value((e2e_ms - ttft_ms) / (osl - 1), "ms")
    return metrics


def _value(value: float | list[float], unit: str) -> dict[str, Any]:
    return {"value": value, "unit": unit}


# --- all -----------------------------------------------------------------------------------------------


#: How to write each form, by the name it has in `readers.FORMATS`.
WRITERS: dict[str, Callable[[SentRows, RunAbout], str]] = {
    "vllm-bench": vllm_bench,
    "aiperf": aiperf,
    "guidellm": guidellm,
}


def write_result(trace: Trace, path: str | Path, form: str, about: RunAbout | None = None) -> None:
    """Write a measured trace as another load generator's result, whole or not at all.

    Args:
        trace: the requests and what was measured; latencies of failed requests, sessions' turns and prefixes have no
            place in these files.
        path: the file.
        form: `vllm-bench`, `aiperf` or `guidellm`.
        about: what the file says of the run besides.

    Raises:
        InputError: no such form, nothing was measured, or the file cannot be written.
    """
    if form not in WRITERS:
        raise InputError(f"no result format is called {form!r}", hint=nearest(form, WRITERS))
    write_whole(Path(path), WRITERS[form](sent_rows(trace), about or RunAbout()).encode())
