"""Reads the traces as published, for `derive_profiles.py`."""

from __future__ import annotations

import ast
import gzip
import json
import tarfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl

TRACES = Path(__file__).parents[2] / "shared" / "traces"


@cache
def azure(kind: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Seconds since the epoch, ISL, OSL."""
    frame = pl.read_csv(TRACES / "azure" / f"AzureLLMInferenceTrace_{kind}.csv", try_parse_dates=True).sort("TIMESTAMP")
    times_s = frame["TIMESTAMP"].to_numpy().astype("datetime64[ns]").astype(np.int64) / 1e9
    return times_s, frame["ContextTokens"].to_numpy(), frame["GeneratedTokens"].to_numpy()


@cache
def mooncake() -> list[dict]:
    """The rows of the conversation trace."""
    return [json.loads(line) for line in (TRACES / "mooncake" / "conversation_trace.jsonl").open()]


def mooncake_chains() -> tuple[list[int | None], np.ndarray, float]:
    """The earlier request each one goes on from, the blocks seen before, and the share of prompt tokens seen before.

    A request goes on from another when it repeats all of that one's blocks but the last (which was not full), more than
    the one block that all requests share.
    """
    latest: dict[int, int] = {}
    parents: list[int | None] = []
    depths: list[int] = []
    shared = 0
    rows = mooncake()
    for index, row in enumerate(rows):
        ids = row["hash_ids"]
        depth = next((k for k, block in enumerate(ids) if block not in latest), len(ids))
        shared += min(depth * 512, row["input_length"])
        depths.append(depth)
        before = latest[ids[depth - 1]] if depth > 1 else None
        parents.append(before if before is not None and depth >= len(rows[before]["hash_ids"]) - 1 else None)
        latest.update(dict.fromkeys(ids, index))
    return parents, np.array(depths), shared / sum(row["input_length"] for row in rows)


def beginnings(parents: list[int | None], depths: np.ndarray) -> list[dict[str, str]]:
    """What first requests share: the block all share, or, for those that share more, the mean of what they do."""
    first = np.array([parent is None for parent in parents])
    more = depths[first & (depths > 1)]
    share = len(more) / first.sum()
    return [
        {"tokens": "512 tokens", "share": f"{100 * (1 - share):.2f} %"},
        {"tokens": f"{512 * more.mean():.0f} tokens", "share": f"{100 * share:.2f} %"},
    ]


@dataclass
class ServeGen:
    """An archive's clients with length histograms, drawn together."""

    isl: np.ndarray
    osl: np.ndarray
    rate_by_hour: np.ndarray
    cv: float
    clients: int
    kept_frac: float  # of all requests


@cache
def servegen(name: str) -> ServeGen:
    """500,000 joint lengths drawn from the clients' histograms by their rates, and how the clients arrive together."""
    windows: dict[int, np.ndarray] = {}
    histograms: dict[int, dict[str, dict[str, str]]] = {}
    with tarfile.open(TRACES / "servegen" / f"servegen_{name}.tar.gz") as archive:
        for member in archive:
            chunk = int(member.name.rsplit("chunk-", 1)[1].split("-")[0])
            content = archive.extractfile(member).read().decode()
            if member.name.endswith(".json"):
                histograms[chunk] = json.loads(content)
            else:
                rows = (line.split(",")[:3] for line in content.splitlines())
                windows[chunk] = np.array([(float(start), float(rate), float(cv)) for start, rate, cv in rows])
    kept = np.concatenate([rows for chunk, rows in windows.items() if chunk in histograms])
    isl, osl = _draw(windows, histograms)
    return ServeGen(
        isl=isl, osl=osl, rate_by_hour=_by_hour(kept), clients=len(histograms),
        cv=float(np.sqrt((kept[:, 1] * kept[:, 2] ** 2).sum() / kept[:, 1].sum())),
        kept_frac=float(kept[:, 1].sum() / sum(rows[:, 1].sum() for rows in windows.values())),
    )  # fmt: skip


def _by_hour(windows: np.ndarray) -> np.ndarray:
    """Mean rate of all clients together by hour of the period's days; columns start, rate, CV."""
    hour = (windows[:, 0] // 3600).astype(int) % 24
    spans = np.bincount((np.unique(windows[:, 0]) // 3600).astype(int) % 24)
    return np.bincount(hour, weights=windows[:, 1]) / spans


def _draw(windows: dict, histograms: dict) -> tuple[np.ndarray, np.ndarray]:
    chance = np.random.default_rng(0)
    cells = []
    for chunk, spans in histograms.items():
        starts = np.array(sorted(float(start) for start in spans))
        weights = np.zeros(len(starts))
        for start, rate, _ in windows[chunk]:
            weights[max(np.searchsorted(starts, start, side="right") - 1, 0)] += rate
        for start, weight in zip(starts, weights, strict=True):
            span = spans[str(int(start))]
            tables = [ast.literal_eval(span[key]) for key in ("input_tokens", "output_tokens")]
            if weight > 0 and all(tables):
                cells.append((weight, *tables))
    weights = np.array([cell[0] for cell in cells])
    counts = chance.multinomial(500_000, weights / weights.sum())
    drawn = [[_sample(table, count, chance) for table in cell[1:]] for cell, count in zip(cells, counts, strict=True)]
    return np.concatenate([d[0] for d in drawn]), np.concatenate([d[1] for d in drawn])


def _sample(table: dict[int, float], count: int, chance: np.random.Generator) -> np.ndarray:
    weights = np.fromiter(table.values(), float)
    return chance.choice(np.maximum(np.fromiter(table, np.int64), 1), count, p=weights / weights.sum())


# --- agents -------------------------------------------------------------------------------------------


@cache
def agent_logs() -> list[dict]:
    """Sessions, each with the requests of its main agent."""
    with gzip.open(TRACES / "agentic" / "kvct_sessions.jsonl.gz", "rt") as lines:
        logs = [json.loads(line) for line in lines]
    return [log | {"requests": [row for row in log["requests"] if "in" in row]} for log in logs]


def agent_shared_frac() -> float:
    """Share of prompt tokens in blocks the session has had before."""
    shared = total = 0
    for log in agent_logs():
        seen: dict[int, int] = {}
        for row in log["requests"]:
            shared += min(64 * _leading(row["hash_rle"], seen), row["in"])
            total += row["in"]
    return shared / total


def _leading(runs: list[list[int]], seen: dict[int, int]) -> int:
    """Leading blocks among those seen; then all of these count as seen."""
    ids = np.concatenate([np.arange(first, first + count) for first, count in runs])
    new = [index for index, block in enumerate(ids.tolist()) if block not in seen]
    seen.update(dict.fromkeys(ids.tolist(), 1))
    return new[0] if new else len(ids)
