"""A recording of vLLM's own scheduler (recording_scheduler.py) as a schedule file of the simulator.

Real steps take as long as they take, so times are put on a logical clock: every batch lasts one TICK. A request
arrives at the moment of the first call of the scheduler that saw it. What the scheduler decides depends on the order
of these events alone, so the simulator must decide the same.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
from prompts import Pieces, told_apart

from headway.simulator.records import Ending, Record, Step
from headway.simulator.schedules import Rows, Schedule, written
from headway.simulator.schedules.replicas import TICK_PS, replica_of
from headway.types import Requests

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

#: How long a step takes on the logical clock, in the nanoseconds of schedule files.
TICK = 1_000_000
#: Settings that vLLM 0.32 does not have, as the format says them.
_ABSENT = {
    "max_num_active_seqs": None,
    "long_prefill_token_threshold_adaptive": False,
    "watermark": 0.0,
    "prefill_schedule_interval": 1,
    "pipeline_parallel_size": 1,
    "spec_method": None,
    "max_loras": None,
}


@dataclass(slots=True)
class Seen:
    """A request, as the scheduler saw it."""

    prompt: list[int]
    out: int
    priority: int
    arrival_s: float
    salt: str | None
    arrive: int
    woke: bool  # an engine that had nothing to do
    cached: int = -1
    scheduled: int = -1
    begun: int = -1
    preemptions: int = 0
    tokens: list[int] = field(default_factory=list)
    delivered: list[int] = field(default_factory=list)
    ended: int = -1
    reason: str = ""


@dataclass(slots=True)
class Walk:
    """Goes through a recording's events and keeps the logical clock."""

    seen: dict[str, Seen] = field(default_factory=dict)  # by the engine's id, in order of arrival
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
        self.config = event

    def _add(self, event: dict[str, Any]) -> None:
        idle = not self.flying and all(one.ended >= 0 for one in self.seen.values())
        if idle:
            self.now += TICK  # the engine had nothing to do; some time passed
        elif self.called_at == self.now:
            raise ValueError(
                f"request {len(self.seen)} arrived between two calls of the scheduler that are one moment "
                "on the logical clock: record again"
            )
        self.seen[event["id"]] = Seen(
            prompt=event["prompt"],
            out=event["max_tokens"],
            priority=event["priority"],
            arrival_s=event["arrival_s"],
            salt=event["salt"],
            arrive=self.now,
            woke=idle,
        )

    def _schedule(self, event: dict[str, Any]) -> None:
        self.called_at = self.now
        event["t"] = self.now
        self.flying[event["call"]] = event
        if not event["scheduled"]:
            event["b"] = event["e"] = self.now
        else:
            event["b"] = max(self.now, self.free_at)
            event["e"] = self.free_at = event["b"] + TICK
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
    return walk


def as_rows(walk: Walk, *, name: str, description: str, version: str) -> Rows:
    """Return a recording as the rows of a schedule file.

    Raises:
        ValueError: two outputs cannot be told apart.
    """
    seen = list(walk.seen.values())
    _set_apart(seen, ranked=walk.config["policy"] == "priority")
    stop = _stop(seen)
    names = [f"r{row:03}" for row in range(len(seen))]
    prompts = told_apart(names, [one.prompt for one in seen], [one.tokens for one in seen])
    requests = tuple(_request(*each) for each in zip(names, seen, prompts, strict=True))
    meta = _meta(walk.config, stop=stop, name=name, description=description, version=version)
    replica = replica_of(meta, name)
    schedule = Schedule(
        name=name,
        ids=tuple(names),
        requests=_columns(seen),
        replica=replica,
        rows=Rows(meta=meta, requests=requests, steps=(), transfers=(), results=()),
    )
    endings = tuple(_ending(row, one) for row, one in enumerate(seen))
    return written(schedule, Record(steps=tuple(walk.steps), transfers=(), endings=endings))


def _set_apart(seen: list[Seen], *, ranked: bool) -> None:
    """Let requests that the same call saw first arrive one nanosecond after the other, the last one at that moment.

    Among equals the priority policy prefers who arrived first by the engine's own clock.

    Raises:
        ValueError: that clock saw them in another order than the scheduler got them, or they woke an idle engine
            together, so that they must have arrived at one moment.
    """
    for _, same in groupby(seen, key=lambda one: one.arrive):
        group = list(same)
        if ranked and (group[0].woke and len(group) > 1 or group != sorted(group, key=lambda one: one.arrival_s)):
            raise ValueError("requests that a priority cannot tell apart arrived together: record again")
        if not group[0].woke:
            for later, one in enumerate(reversed(group)):
                one.arrive -= later


def _request(name: str, one: Seen, pieces: Pieces) -> dict[str, Any]:
    row = {
        "type": "req",
        "id": name,
        "arr": one.arrive,
        "prompt": [list(piece) for piece in pieces],
        "plen": len(one.prompt),
        "out": one.out,
    }
    return row | ({"prio": one.priority} if one.priority else {}) | ({"salt": one.salt} if one.salt else {})


def _stop(seen: list[Seen]) -> str:
    """How all requests ended, in the words of the format; one that a stop token ended has no other limit there.

    Raises:
        ValueError: some ended by a stop token, some by length.
    """
    reasons = {one.reason for one in seen}
    if reasons == {"stop"}:
        for one in seen:
            one.out = len(one.tokens)
        return "eos"
    if reasons != {"length"}:
        raise ValueError(f"requests ended by {sorted(reasons)}; a file says one way for all")
    return "length"


def _meta(config: dict[str, Any], *, stop: str, name: str, description: str, version: str) -> dict[str, Any]:
    given = {key: value for key, value in config.items() if key != "at_ns"}
    asynchronous = given["async_scheduling"]
    effective = (
        given
        | _ABSENT
        | {
            "num_lookahead_tokens": 0,
            "num_hash_lookahead_tokens": 0,
            "draft_slots": 0,
            "batch_queue_size": 1 + asynchronous,
        }
    )
    return {
        "type": "meta",
        "format": 1,
        "name": name,
        "description": description,
        "vllm": version,
        "engine_args": {},
        "effective": effective,
        "num_gpu_blocks": effective["num_gpu_blocks"],
        "cost_ns": {"a": TICK, "b": 0, "c": 0, "d": 0},
        "stop": stop,
        "accept_pattern": None,
        "kv_groups": None,
        "kv_transfer": None,
        "steps_mode": "full",
    }


def _columns(seen: list[Seen]) -> Requests:
    return Requests(
        arrive_s=np.array([one.arrive for one in seen]) * 1e-9,
        isl_tokens=np.array([len(one.prompt) for one in seen], np.int64),
        osl_tokens=np.array([one.out for one in seen], np.int64),
    )


def _ending(row: int, one: Seen) -> Ending:
    return Ending(
        request=row,
        arrive_ps=one.arrive * TICK_PS,
        scheduled_ps=one.scheduled * TICK_PS if one.scheduled >= 0 else -1,
        start_ps=one.begun * TICK_PS if one.begun >= 0 else -1,
        cached=one.cached,
        reason=one.reason,
        preemptions=one.preemptions,
        delivered_ps=tuple(time * TICK_PS for time in one.delivered),
        end_ps=one.ended * TICK_PS if one.ended >= 0 else -1,
    )
