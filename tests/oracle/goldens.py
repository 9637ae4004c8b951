"""Recorded schedules of the real vLLM scheduler (../shared/goldens), as requests and replicas of the jump core."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from headway.types import EngineSettings, PrefixRuns, Replica, Requests, StepTable

if TYPE_CHECKING:
    from pathlib import Path

#: what of a recording the jump core has no notion of, and the value at which it needs none
OTHERWISE = {
    "long_prefill_token_threshold": 0,
    "long_prefill_token_threshold_adaptive": False,
    "prefill_schedule_interval": 1,
    "pipeline_parallel_size": 1,
    "num_spec_tokens": 0,
}


def read_golden(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, Any]]:
    """Return meta, requests in order of arrival, and results by id."""
    with gzip.open(path, "rt") as lines:
        records = [json.loads(line) for line in lines]
    meta = records[0]
    rows = sorted((r for r in records if r["type"] == "req"), key=lambda r: r["arr"])  # stable: input order
    results = {r["id"]: r for r in records if r["type"] == "res"}
    return meta, rows, results


def why_outside(meta: dict[str, Any], rows: list[dict[str, Any]]) -> str | None:
    """Say what the jump core does not cover in a recording, None where it covers all."""
    effective = meta["effective"]
    for name, value in OTHERWISE.items():
        if effective[name] != value:
            return f"{name} {effective[name]}"
    if meta["kv_groups"] or meta["kv_transfer"]:
        return "KV groups or transfers"
    if effective["max_loras"] and any(row.get("lora") for row in rows):
        return "max_loras"
    return "aborts" if any(row.get("abort") for row in rows) else None


def as_replica(meta: dict[str, Any]) -> Replica:
    effective, cost = meta["effective"], meta["cost_ns"]
    names = (
        "max_num_seqs",
        "max_num_active_seqs",
        "max_num_batched_tokens",
        "max_num_scheduled_tokens",
        "max_model_len",
        "block_size",
        "async_scheduling",
        "watermark",
    )
    settings = EngineSettings(
        **{name: effective[name] for name in names},
        gpu_memory_utilization=0.9,
        enable_prefix_caching=effective["enable_prefix_caching"],
        enable_chunked_prefill=effective["enable_chunked_prefill"],
        scheduler_reserve_full_isl=effective["scheduler_reserve_full_isl"],
        scheduling_policy=effective["policy"],
    )
    a, b, c, d = (1000 * cost[name] for name in "abcd")
    step = StepTable(
        decode_ps=a + (b + d) * np.arange(effective["max_num_seqs"] + 1),
        mixed_ps=a + b * np.arange(effective["max_num_batched_tokens"] + 1),
        sequence_ps=d,
        context_ps_per_token=c,
        prefill_context_ps_per_token=c,
        prefill_ps_per_pair=0,
    )
    return Replica(settings=settings, step=step, num_gpu_blocks=effective["num_gpu_blocks"] - 1)


def as_requests(meta: dict[str, Any], rows: list[dict[str, Any]]) -> Requests:
    return Requests(
        arrive_s=np.array([row["arr"] for row in rows]) * 1e-9,
        isl_tokens=np.array([row["plen"] for row in rows], np.int64),
        osl_tokens=np.array([row["out"] for row in rows], np.int64),
        prefix=number_blocks(rows, meta["effective"]["block_size"]),
        priority=np.array([row.get("prio", 0) for row in rows]),
        max_tokens=np.array([row["out"] if meta["stop"] == "length" else 1 << 20 for row in rows]),
    )


def number_blocks(rows: list[dict[str, Any]], block_size: int) -> PrefixRuns:
    """Give each distinct block (its tokens and everything before it) an id, consecutive along a prompt."""
    numbers: dict[object, int] = {}
    offsets, first, counts = [0], [], []
    for row in rows:
        tokens = [(stream, start + i) for stream, start, n in row["prompt"] for i in range(n)]
        tokens += [(f"o:{row['id']}", j) for j in range(row["out"])]
        parent: object = ("salt", row.get("salt"))
        for i in range(0, len(tokens) - block_size + 1, block_size):
            one = numbers.setdefault((parent, tuple(tokens[i : i + block_size])), len(numbers))
            if len(counts) > offsets[-1] and first[-1] + counts[-1] == one:
                counts[-1] += 1
            else:
                first.append(one)
                counts.append(1)
            parent = one
        offsets.append(len(first))
    columns = {"offsets": offsets, "first_ids": first, "counts": counts}
    return PrefixRuns(block_tokens=block_size, **{name: np.array(c, np.int64) for name, c in columns.items()})


def expected(rows: list[dict[str, Any]], results: dict[str, Any]) -> dict[str, list[int]]:
    """The columns a simulation must show: first and last token in ps, cached tokens, preemptions."""
    found = [results[row["id"]] for row in rows]
    return {
        "first_ps": [1000 * r["first"] for r in found],
        "last_ps": [1000 * r["fin"] for r in found],
        "cached_tokens": [r["cached"] for r in found],
        "preemptions": [r["npre"] for r in found],
    }
