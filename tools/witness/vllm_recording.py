"""What the recording scheduler (recording_scheduler.py) wrote of a real vLLM, as a schedule file of the simulator."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any

from logical import TICK, Seen, rows_of

from headway.simulator.records import Step
from headway.simulator.schedules.replicas import TICK_PS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from headway.simulator.schedules import Rows

#: Settings of what these scenarios leave alone.
_NONE = {
    "pipeline_parallel_size": 1,
    "spec_method": None,
    "num_lookahead_tokens": 0,
    "num_hash_lookahead_tokens": 0,
    "draft_slots": 0,
}


@dataclass(slots=True, kw_only=True)
class Asked(Seen):
    """A request, with what only vLLM says of it."""

    arrival_s: float  # by the engine's own clock, which the priority policy goes by
    woke: bool  # an engine that had nothing to do


@dataclass(slots=True)
class Walk:
    """Goes through a recording's events and keeps the logical clock."""

    seen: dict[str, Asked] = field(default_factory=dict)  # by the engine's id, in the order the scheduler got them
    new: list[Asked] = field(default_factory=list)  # since the last call of the scheduler
    steps: list[Step] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    now: int = 0
    free_at: int = 0  # when the last batch ends
    called_at: int = -1  # the clock at the last call of the scheduler
    numbers: int = 0
    flying: dict[int, dict[str, Any]] = field(default_factory=dict)  # batches by call

    def take(self, event: dict[str, Any]) -> None:
        """Take in the next event."""
        getattr(self, f"_{event.pop('event')}")(event)

    def _config(self, event: dict[str, Any]) -> None:
        self.config = {name: value for name, value in event.items() if name != "at_ns"}

    def _add(self, event: dict[str, Any]) -> None:
        idle = not self.flying and all(one.ended >= 0 for one in self.seen.values())
        told = {"prio": event["priority"], "lora": event["adapter"]}
        self.seen[event["id"]] = one = Asked(
            prompt=event["prompt"],
            out=event["max_tokens"],
            arrival_s=event["arrival_s"],
            woke=idle,
            extra={field: value for field, value in told.items() if value},
        )
        self.new.append(one)

    def _arrive(self) -> None:
        """The scheduler is called and sees those that came since the last call."""
        if self.new and self.new[0].woke:
            self.now += TICK  # the engine had nothing to do; some time passed
        elif self.new and self.called_at == self.now:
            raise ValueError(
                f"a request arrived between two calls of the scheduler that are one moment, {self.now} ns, "
                "on the logical clock: record again"
            )
        for one in self.new:
            one.arrive = self.now
        self.new = []

    def _schedule(self, event: dict[str, Any]) -> None:
        self._arrive()
        self.called_at = event["t"] = self.now
        self.flying[event["call"]] = event
        event["b"] = max(self.now, self.free_at)
        event["e"] = self.free_at = event["b"] + (TICK if event["scheduled"] else 0)
        if event["scheduled"] or event["preempted"]:
            event["k"], self.numbers = self.numbers, self.numbers + 1
        for name in event["preempted"]:
            self.seen[name].preemptions += 1
        for name, computed in event["admitted"]:
            one = self.seen[name]
            if one.cached < 0:
                one.cached, one.scheduled, one.begun = computed, event["t"], event["b"]

    def _update(self, event: dict[str, Any]) -> None:
        batch = self.flying.pop(event["call"])
        self.now = max(self.now, batch["e"])
        for name, new in event["new"].items():
            self.seen[name].tokens += new
            self.seen[name].delivered += [self.now] * len(new)
        for name, reason in event["finished"]:
            self.seen[name].ended, self.seen[name].reason = self.now, reason
        if "k" in batch:
            self.steps.append(self._step(batch, event))

    def _abort(self, event: dict[str, Any]) -> None:
        if event["ids"]:
            raise ValueError(f"{len(event['ids'])} requests were aborted from outside: no part of these scenarios")

    def _step(self, batch: dict[str, Any], after: dict[str, Any]) -> Step:
        rows = {name: row for row, name in enumerate(self.seen)}
        return Step(
            k=batch["k"],
            t_ps=batch["t"] * TICK_PS,
            b_ps=batch["b"] * TICK_PS,
            e_ps=batch["e"] * TICK_PS,
            tokens=sum(count for _, count in batch["scheduled"]),
            context=batch["context"],
            running=batch["running"],
            waiting=batch["waiting"],
            free=batch["free"],
            free_after=after["free"],
            scheduled=tuple((rows[name], count) for name, count in batch["scheduled"]),
            admitted=tuple((rows[name], count) for name, count in batch["admitted"]),
            preempted=tuple(rows[name] for name in batch["preempted"]),
            finished=tuple(rows[name] for name, _ in after["finished"]),
        )


def read_recording(lines: Iterable[str]) -> Walk:
    """Read what the recording scheduler wrote.

    Raises:
        ValueError: the events cannot be put on the logical clock.
    """
    walk = Walk()
    for line in lines:
        walk.take(json.loads(line))
    _set_apart(list(walk.seen.values()), ranked=walk.config["policy"] == "priority")
    return walk


def _set_apart(seen: list[Asked], *, ranked: bool) -> None:
    """Let requests that the same call saw first arrive one nanosecond after the other, the last one at that moment.

    Among equals the priority policy prefers who arrived first by the engine's own clock.
    """
    for _, same in groupby(seen, key=lambda one: one.arrive):
        group = list(same)
        in_order = group == sorted(group, key=lambda one: one.arrival_s)
        if ranked and (not in_order or (group[0].woke and len(group) > 1)):
            raise ValueError("requests that a priority cannot tell apart arrived together: record again")
        if not group[0].woke:
            for later, one in enumerate(reversed(group)):
                one.arrive -= later


def as_rows(walk: Walk, *, name: str, description: str, version: str) -> Rows:
    """Return a recording as the rows of a schedule file.

    Raises:
        ValueError: two outputs cannot be told apart, or some requests ended by a stop token and some by length.
    """
    effective = walk.config | _NONE | {"batch_queue_size": 1 + walk.config["async_scheduling"]}
    names = [f"r{row:03}" for row in range(len(walk.seen))]
    seen = list(walk.seen.values())
    return rows_of(names, seen, walk.steps, effective, name=name, description=description, vllm=version)
