"""A real engine's schedule on a logical clock, as the rows of a schedule file.

Real steps take as long as they take, and no simulator could know. What a scheduler decides depends on the order of
events alone, so every batch lasts one TICK here, and a request arrives at the moment of the first call of the
scheduler that saw it. On that clock the simulator must decide the same.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from prompts import told_apart

from headway.simulator import record
from headway.simulator.records import Ending, Record
from headway.simulator.schedules import Rows, Schedule, differences, side_by_side, written
from headway.simulator.schedules.replicas import TICK_PS, replica_of
from headway.types import Requests

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headway.simulator.records import Step

#: How long a step takes, in the nanoseconds of schedule files.
TICK = 1_000_000


@dataclass(slots=True, kw_only=True)
class Seen:
    """A request, as an engine saw it; times in nanoseconds of the logical clock, −1: not yet.

    Attributes:
        prompt: its tokens.
        out: output tokens it asked for.
        arrive: when the scheduler first saw it.
        cached: tokens computed when it was first admitted.
        scheduled: when it was first scheduled.
        begun: when that batch began.
        preemptions: how often it was thrown back.
        tokens: that came.
        delivered: when each came.
        ended: when the last came.
        reason: length or stop.
        extra: more fields of its row in the file.
    """

    prompt: list[int] = field(default_factory=list)
    out: int = 0
    arrive: int = -1
    cached: int = -1
    scheduled: int = -1
    begun: int = -1
    preemptions: int = 0
    tokens: list[int] = field(default_factory=list)
    delivered: list[int] = field(default_factory=list)
    ended: int = -1
    reason: str = ""
    extra: dict[str, Any] = field(default_factory=dict)


def rows_of(
    names: Sequence[str], seen: Sequence[Seen], steps: Sequence[Step], effective: dict[str, Any], **meta: str
) -> Rows:
    """Return a schedule as the rows of a file.

    Args:
        names: of the requests, in the order the scheduler got them.
        seen: the requests.
        steps: of the scheduler.
        effective: the engine's settings, in the words of the format.
        meta: more of the first row: name, description, vllm (the version), engine.

    Raises:
        ValueError: two outputs cannot be told apart, or some requests ended by a stop token and some by length.
    """
    first = _meta(effective, stop=_stop(seen), **meta)
    pieces = told_apart(names, [one.prompt for one in seen], [one.tokens for one in seen])
    requests = tuple(_request(*each) for each in zip(names, seen, pieces, strict=True))
    schedule = Schedule(
        name=first["name"],
        ids=tuple(names),
        requests=Requests(
            arrive_s=np.array([one.arrive for one in seen]) * 1e-9,
            isl_tokens=np.array([len(one.prompt) for one in seen], np.int64),
            osl_tokens=np.array([one.out for one in seen], np.int64),
        ),
        replica=replica_of(first, first["name"]),
        rows=Rows(meta=first, requests=requests, steps=(), transfers=(), results=()),
    )
    endings = tuple(_ending(row, one) for row, one in enumerate(seen))
    return written(schedule, Record(steps=tuple(steps), transfers=(), endings=endings))


def judged(schedule: Schedule) -> tuple[str, str]:
    """Simulate a schedule's requests; return the first difference in one line and at length, both empty where none."""
    found = written(schedule, record(schedule.requests, schedule.replica, schedule.ids))
    first = next(differences(schedule.rows, found), None)
    return (str(first), side_by_side(schedule.rows, found)) if first else ("", "")


def _stop(seen: Sequence[Seen]) -> str:
    """How all requests ended, in the words of the format; one that a stop token ended has no other limit there."""
    reasons = {one.reason for one in seen}
    if reasons == {"stop"}:
        for one in seen:
            one.out = len(one.tokens)
        return "eos"
    if reasons != {"length"}:
        raise ValueError(f"requests ended by {sorted(reasons)}; a file says one way for all")
    return "length"


def _request(name: str, one: Seen, pieces: list[tuple[str, int, int]]) -> dict[str, Any]:
    return {
        "type": "req",
        "id": name,
        "arr": one.arrive,
        "prompt": [list(piece) for piece in pieces],
        "plen": len(one.prompt),
        "out": one.out,
        **one.extra,
    }


def _meta(effective: dict[str, Any], *, stop: str, **given: str) -> dict[str, Any]:
    return {
        "type": "meta",
        "format": 1,
        **given,
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


def _ending(row: int, one: Seen) -> Ending:
    return Ending(
        request=row,
        arrive_ps=one.arrive * TICK_PS,
        scheduled_ps=one.scheduled * TICK_PS,
        start_ps=one.begun * TICK_PS,
        cached=one.cached,
        reason=one.reason,
        preemptions=one.preemptions,
        delivered_ps=tuple(time * TICK_PS for time in one.delivered),
        end_ps=one.ended * TICK_PS,
    )
