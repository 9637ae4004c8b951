"""Runs one replica and writes down every step of its scheduler."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from headway.simulator.prefixes import engine_runs
from headway.simulator.profiles import profile_of
from headway.simulator.records import Ending, Record, Step, Transfer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headway.types import Replica, Requests

NEVER = 1 << 62
REASONS = ("", "length", "stop", "abort")


class Recorder:
    """What the engine tells while it runs."""

    def __init__(self, count: int) -> None:
        self.steps: list[Step] = []
        self.transfers: list[Transfer] = []
        self.delivered: list[list[int]] = [[] for _ in range(count)]
        self.first: dict[int, tuple[int, int]] = {}
        self.number = 0

    def launched(self, engine: Any, batch: Any) -> None:
        """A batch has been formed."""
        entries = batch.entries()
        if not entries and not batch.preempted:
            batch.row = None
            return
        batch.row = {
            "k": self.number,
            "t_ps": batch.scheduled,
            "b_ps": batch.begin,
            "e_ps": batch.end,
            "tokens": batch.total,
            "context": batch.context,
            "running": engine.running,
            "waiting": engine.waiting,
            "free": engine.free_blocks(),
            "scheduled": tuple((request, tokens) for request, tokens, _ in entries),
            "admitted": tuple(batch.admitted),
            "preempted": tuple(batch.preempted),
            "drafts": tuple((request, drafts) for request, _, drafts in entries if drafts),
        }
        self.number += 1
        for request, _, _ in entries:
            self.first.setdefault(request, (batch.scheduled, batch.begin))

    def popped(self, engine: Any, batch: Any) -> None:
        """The outputs of a batch have been processed."""
        if batch.row is not None:
            self.steps.append(Step(**batch.row, free_after=engine.free_blocks(), finished=tuple(batch.finished)))

    def told(self, request: int, now: int) -> None:
        """A token was delivered."""
        self.delivered[request].append(now)

    def transferred(self, request: int, kind: str, start: int, end: int, tokens: int) -> None:
        """A KV transfer has begun."""
        self.transfers.append(Transfer(request=request, kind=kind, start_ps=start, end_ps=end, tokens=tokens))


def given_columns(requests: Requests, ids: Sequence[str] | None) -> dict[str, Any]:
    """Return what the engine's table is given; times in picoseconds."""
    count = len(requests)
    isl = np.ascontiguousarray(requests.isl_tokens, np.int64)
    osl = np.ascontiguousarray(requests.osl_tokens, np.int32)
    allowed = osl if requests.max_tokens is None else requests.max_tokens
    rank = np.arange(count, dtype=np.int32)
    if ids is not None:
        rank[np.argsort(np.array(ids, dtype=str), kind="stable")] = np.arange(count, dtype=np.int32)

    def times(column: Any, missing: int) -> Any:
        if column is None:
            return np.full(count, missing, np.int64)
        return np.where(np.isnan(column), missing, np.rint(np.nan_to_num(column) * 1e12)).astype(np.int64)

    def ints(column: Any, missing: int, dtype: Any = np.int32) -> Any:
        return np.full(count, missing, dtype) if column is None else np.ascontiguousarray(column, dtype)

    return {
        "arrive": np.rint(requests.arrive_s * 1e12).astype(np.int64),
        "isl": isl,
        "osl": osl,
        "most": isl + allowed,
        "priority": ints(requests.priority, 0),
        "rank": rank,
        "adapter": ints(requests.adapter_id, -1),
        "remote": ints(requests.remote_prefill, 0, np.int8),
        "abort": times(requests.abort_s, NEVER),
        "hold": times(requests.hold_s, -1),
    }


def found_columns(count: int) -> dict[str, Any]:
    """Return the columns that the engine's table fills in."""
    return {
        "first_ps": np.full(count, -1, np.int64),
        "last_ps": np.full(count, -1, np.int64),
        "state": np.zeros(count, np.int8),
        "cached_tokens": np.full(count, -1, np.int32),
        "preemptions": np.zeros(count, np.int32),
        "reason": np.zeros(count, np.int8),
        "delivered": np.zeros(count, np.int32),
    }


def record(requests: Requests, replica: Replica, ids: Sequence[str] | None = None) -> Record:
    """Run one replica and return its schedule, step by step.

    Args:
        requests: what arrives.
        replica: the engine.
        ids: names of the requests, by which equals are ordered under the priority policy; None: their rows.
    """
    from headway.simulator.stepping import Table
    from headway.simulator.vllm import Vllm

    given, found = given_columns(requests, ids), found_columns(len(requests))
    table, recorder = Table(given, found), Recorder(len(requests))
    runs = engine_runs(requests.prefix, replica.settings.block_size) if requests.prefix is not None else None
    engine = Vllm(replica, runs, table, recorder, profile_of(replica.settings.version))
    engine.run_all(given["arrive"])
    endings = tuple(
        Ending(
            request=row,
            arrive_ps=int(given["arrive"][row]),
            scheduled_ps=recorder.first.get(row, (-1, -1))[0],
            start_ps=recorder.first.get(row, (-1, -1))[1],
            cached=int(found["cached_tokens"][row]),
            reason=REASONS[found["reason"][row]],
            preemptions=int(found["preemptions"][row]),
            delivered_ps=tuple(recorder.delivered[row]),
            end_ps=int(found["last_ps"][row]),
        )
        for row in range(len(requests))
    )
    return Record(steps=tuple(recorder.steps), transfers=tuple(recorder.transfers), endings=endings)
