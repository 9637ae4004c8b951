"""Random mixes of the scheduler's features, as scenarios for tools/record_vllm.py.

    python tools/scenario_mixes.py FOLDER NUMBER...

A scenario is drawn from its number alone. Sizes are small, so that every rule is met within a few hundred steps: pools
that hold little more than one request of the longest length, budgets of a few blocks, requests that arrive together.
"""

from __future__ import annotations

import argparse
import gzip
import json
from math import ceil
from pathlib import Path
from random import Random
from typing import Any

Row = dict[str, Any]
COST_NS = {"a": 6_000_000, "b": 18_000, "c": 40, "d": 10_000}
SPECULATION = {
    "ngram": {"method": "ngram", "prompt_lookup_max": 3},
    "eagle": {"method": "eagle", "model": "models/eagle"},
    "draft_model": {"method": "draft_model", "model": "models/llama8b"},
}


def scenario(number: int) -> list[Row]:
    """Draw a scenario: its meta row and its requests."""
    draw = Random(number)
    arguments = _arguments(draw)
    meta = {
        "type": "meta",
        "format": 1,
        "name": f"mix_{number:05}",
        "description": "random mix of features",
        "engine_args": arguments,
        "num_gpu_blocks": 0,
        "cost_ns": COST_NS,
        "stop": draw.choice(("length", "eos")),
        "accept_pattern": None,
        "kv_groups": _groups(draw, arguments) if draw.random() < 0.25 else None,
        "kv_transfer": None,
        "steps_mode": "full",
    }
    _speculate(draw, meta)
    _transfer(draw, meta)
    meta["num_gpu_blocks"] = _blocks(draw, meta)
    requests = _requests(draw, meta)
    _mark(draw, meta, requests)
    return [meta, *requests]


def _arguments(draw: Random) -> Row:
    """Engine arguments but for speculation and transfers."""
    seqs = draw.choice((1, 2, 3, 4, 8, 8, 16, 48))
    block_size = draw.choice((16, 16, 16, 32, 64, 128))
    arguments: Row = {
        "max_model_len": draw.choice((256, 512, 512, 1024)) if block_size < 128 else draw.choice((512, 1024)),
        "block_size": block_size,
        "max_num_seqs": seqs,
        "max_num_batched_tokens": max(seqs, draw.choice((16, 24, 32, 48, 64, 96, 128, 256, 512, 1024))),
        "enable_prefix_caching": draw.random() < 0.8,
        "async_scheduling": draw.random() < 0.5,
    }
    some: dict[str, tuple[float, Any]] = {
        "scheduling_policy": (0.35, "priority"),
        "scheduler_reserve_full_isl": (0.3, False),
        "watermark": (0.2, draw.choice((0.01, 0.05, 0.1, 0.3))),
        "max_num_active_seqs": (0.15, draw.randint(1, seqs)),
        "long_prefill_token_threshold": (0.3, draw.choice((4, 16, 40, 64, 100, 200))),
        "prefill_schedule_interval": (0.2, draw.choice((2, 3, 4, 8))),
        "pipeline_parallel_size": (0.2, draw.choice((2, 2, 3, 4))),
        "max_num_scheduled_tokens": (0.08, draw.randint(8, arguments["max_num_batched_tokens"])),
    }
    arguments |= {name: value for name, (chance, value) in some.items() if draw.random() < chance}
    if "long_prefill_token_threshold" in arguments:
        arguments["long_prefill_token_threshold_adaptive"] = draw.random() < 0.4
    if draw.random() < 0.25:
        arguments |= {"enable_lora": True, "max_loras": draw.choice((1, 1, 2, 3)), "max_lora_rank": 16}
    if draw.random() < 0.08:
        arguments["enable_chunked_prefill"] = False
        arguments["max_num_batched_tokens"] = draw.choice((1, 1, 2)) * arguments["max_model_len"]
        arguments.pop("max_num_scheduled_tokens", None)
    return arguments


def _groups(draw: Random, arguments: Row) -> list[list[Any]]:
    """KV groups of one to three layer sets of equal size, at most one of full attention."""
    windows = draw.sample((24, 33, 64, 100, 128, 200, 256), 2)
    windows = [min(window, arguments["max_model_len"] - 1) for window in windows]
    full, one, other = ["full", 2], ["swa", 2, windows[0]], ["swa", 2, windows[1]]
    return draw.choice(([full, one], [full, one], [one], [full, one, other], [one, other]))


def _speculate(draw: Random, meta: Row) -> None:
    arguments = meta["engine_args"]
    pipeline = "pipeline_parallel_size" in arguments and not arguments["async_scheduling"]
    if draw.random() > 0.35 or pipeline:  # drafts would be asked for before the batch has run
        return
    method, count = draw.choice(list(SPECULATION)), draw.choice((1, 1, 2, 3, 4, 5, 7))
    arguments["speculative_config"] = SPECULATION[method] | {"num_speculative_tokens": count}
    least = arguments["max_num_seqs"] * (2 + count)
    arguments["max_num_batched_tokens"] = max(arguments["max_num_batched_tokens"], least)
    meta["accept_pattern"] = [draw.randint(0, count) for _ in range(draw.choice((1, 5, 7)))]


def _transfer(draw: Random, meta: Row) -> None:
    eagle = meta["engine_args"].get("speculative_config", {}).get("method") == "eagle"
    if draw.random() > 0.25 or (eagle and meta["kv_groups"]):  # such hits drop a block per group: not simulated
        return
    role = draw.choice(("kv_consumer", "kv_consumer", "kv_producer", "kv_both"))
    meta["engine_args"]["kv_transfer_config"] = {"kv_connector": "Transfers", "kv_role": role}
    meta["kv_transfer"] = {
        "base_ns": draw.choice((0, 2_000_000, 9_000_000, 40_000_000)),
        "ns_per_token": draw.choice((0, 3_000, 50_000)),
    }


def _blocks(draw: Random, meta: Row) -> int:
    """Blocks of the pool: at least what one request of the longest length takes."""
    arguments = meta["engine_args"]
    each = ceil(arguments["max_model_len"] / arguments["block_size"]) + 2
    least = each * len(meta["kv_groups"] or [None]) + 1
    return least + draw.choice((0, 1, 2, 5, each // 2, each, 2 * each, 4 * each, 20 * each))


def _requests(draw: Random, meta: Row) -> list[Row]:
    """Requests with shared documents, conversations, equal arrivals."""
    arguments = meta["engine_args"]
    longest = arguments["max_model_len"] - 1
    if not arguments.get("enable_chunked_prefill", True):
        longest = min(longest, arguments["max_num_batched_tokens"] - 8)
    count, gap = draw.randint(4, 32), draw.choice((0, 200_000, 3_000_000, 20_000_000, 60_000_000))
    documents = [draw.randint(1, longest // 2) for _ in range(3)]
    typical, outputs = draw.choice((20, 60, 150, 400)), draw.choice((1, 4, 12, 40, 90))
    rows: list[Row] = []
    now = 0
    for number in range(count):
        if draw.random() > 0.3:
            now += round(draw.expovariate(1) * gap)
        prompt = _prompt(draw, rows, documents, number, min(longest, max(1, round(draw.expovariate(1 / typical)))))
        prompt = _cut(prompt, longest)
        plen = sum(piece[2] for piece in prompt)
        out = 1 + round(draw.expovariate(1) * (outputs - 1))
        if draw.random() > 0.1:  # the others run into max_model_len
            out = min(out, arguments["max_model_len"] - plen)
        rows.append({"type": "req", "id": str(number), "arr": now, "prompt": prompt, "plen": plen, "out": max(out, 1)})
    if draw.random() < 0.2:
        draw.shuffle(rows)
    return rows


def _prompt(draw: Random, rows: list[Row], documents: list[int], number: int, length: int) -> list[list[Any]]:
    """A prompt: fresh, a document and something fresh, or a conversation that goes on."""
    kind = draw.random()
    if kind < 0.35:
        return [[f"u{number}", 0, length]]
    if kind < 0.75 or not rows:
        document = draw.randrange(len(documents))
        shared = documents[document] if draw.random() < 0.6 else draw.randint(1, documents[document])
        return [[f"d{document}", 0, shared], *([[f"u{number}", 0, length]] if draw.random() < 0.8 else [])]
    last = draw.choice(rows)
    return [*last["prompt"], [f"o:{last['id']}", 0, last["out"]], [f"u{number}", 0, min(length, 60)]]


def _cut(prompt: list[list[Any]], longest: int) -> list[list[Any]]:
    """Its first tokens."""
    pieces, left = [], longest
    for stream, start, count in prompt:
        if left:
            pieces.append([stream, start, min(count, left)])
        left -= min(count, left)
    return pieces


def _mark(draw: Random, meta: Row, rows: list[Row]) -> None:
    """Priorities, adapters, salts, hang-ups, transfers."""
    arguments = meta["engine_args"]
    aborting = draw.choice((0, 0, 0.3))
    salted = draw.choice((0, 0, 0, 0.5))
    for row in rows:
        if "scheduling_policy" in arguments and draw.random() < 0.7:
            row["prio"] = draw.randint(0, 3)
        if "enable_lora" in arguments and draw.random() < 0.8:
            row["lora"] = draw.randint(1, 4)
        if draw.random() < salted:
            row["salt"] = draw.choice(("a", "b"))
        if draw.random() < aborting:
            row["abort"] = row["arr"] + round(draw.expovariate(1) * draw.choice((1, 5, 30, 200)) * 1_000_000)
        if meta["kv_transfer"]:
            _move(draw, arguments["kv_transfer_config"]["kv_role"], row)


def _move(draw: Random, role: str, row: Row) -> None:
    """Where a request's KV comes from or goes to."""
    if role != "kv_producer" and draw.random() < 0.7:
        row["kv"] = {"do_remote_prefill": True}
    elif role != "kv_consumer" and draw.random() < 0.8:
        row["kv"] = {"do_remote_decode": True, "hold_ns": draw.choice((0, 1_000_000, 20_000_000, 90_000_000))}
        if draw.random() < 0.7:
            row["out"] = 1


def main() -> None:
    """Write scenarios into a folder."""
    parser = argparse.ArgumentParser(description="write scenarios for tools/record_vllm.py")
    parser.add_argument("folder", type=Path)
    parser.add_argument("number", type=int, nargs="+")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    for number in given.number:
        rows = scenario(number)
        text = "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows)
        (given.folder / f"{rows[0]['name']}.jsonl.gz").write_bytes(gzip.compress(text.encode(), mtime=0))


if __name__ == "__main__":
    main()
