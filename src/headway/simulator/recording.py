"""Runs one replica and writes down every step of its scheduler."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headway.simulator.checks import check_run
from headway.simulator.records import Ending, Record, Step, Transfer
from headway.simulator.stepped import Stepped

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headway.types import Replica, Requests

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


def record(requests: Requests, replica: Replica, ids: Sequence[str] | None = None) -> Record:
    """Run one replica on the general engine and return its schedule, step by step.

    Args:
        requests: what arrives.
        replica: the engine.
        ids: names of the requests, by which equals are ordered under the priority policy; None: their rows.

    Raises:
        InputError: something given cannot be run; it names the column or the field.
    """
    check_run(requests, replica)
    recorder = Recorder(len(requests))
    run = Stepped(requests, replica, ids=ids, recorder=recorder)
    run.engines[0].run_all(run.columns["arrive_ps"], run.columns["state"])
    found = {name: column.tolist() for name, column in run.columns.items()}
    endings = (
        Ending(
            request=row,
            arrive_ps=found["arrive_ps"][row],
            scheduled_ps=recorder.first.get(row, (-1, -1))[0],
            start_ps=recorder.first.get(row, (-1, -1))[1],
            cached=found["cached_tokens"][row],
            reason=REASONS[found["reason"][row]],
            preemptions=found["preemptions"][row],
            delivered_ps=tuple(recorder.delivered[row]),
            end_ps=found["end_ps"][row],
        )
        for row in range(len(requests))
    )
    return Record(steps=tuple(recorder.steps), transfers=tuple(recorder.transfers), endings=tuple(endings))
