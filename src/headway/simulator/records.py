"""A schedule, written down step by step: what every call of the scheduler decided, and what came of it.

Requests are named by their row in `Requests`; times are picoseconds, −1 where something never happened.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A batch that scheduled tokens or preempted somebody.

    Attributes:
        k: its number in the order of scheduling, from 0; batches that scheduled nothing count too.
        t_ps: when it was scheduled.
        b_ps: when its execution began.
        e_ps: when it ended, and its tokens were delivered.
        tokens: scheduled in all.
        context: sum over the scheduled requests of the tokens computed before, as the scheduler believed.
        running: requests running right after scheduling.
        waiting: requests waiting right after scheduling, those whose KV is being loaded included.
        free: free blocks right after scheduling.
        free_after: free blocks right after the outputs of this batch were processed.
        scheduled: (request, tokens), in the order of scheduling.
        admitted: (request, computed tokens at admission).
        preempted: requests preempted by this call, in order.
        finished: requests that ended when the outputs were processed, in order.
        drafts: (request, draft tokens scheduled).
    """

    k: int
    t_ps: int
    b_ps: int
    e_ps: int
    tokens: int
    context: int
    running: int
    waiting: int
    free: int
    free_after: int
    scheduled: tuple[tuple[int, int], ...]
    admitted: tuple[tuple[int, int], ...] = ()
    preempted: tuple[int, ...] = ()
    finished: tuple[int, ...] = ()
    drafts: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """KV on its way: `kind` "recv" is loaded by a decode replica, "send" is held by a prefill replica."""

    request: int
    kind: str
    start_ps: int
    end_ps: int
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """What became of a request.

    Attributes:
        scheduled_ps: when it was first scheduled.
        start_ps: when the execution of that batch began.
        cached: computed tokens at its first admission, −1: never admitted.
        reason: "length", "stop", "abort", or "" where it has not ended.
        preemptions: how often it was thrown back.
        delivered_ps: when each output token was delivered.
        end_ps: when it ended.
    """

    request: int
    arrive_ps: int
    scheduled_ps: int
    start_ps: int
    cached: int
    reason: str
    preemptions: int
    delivered_ps: tuple[int, ...]
    end_ps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """The whole schedule of one replica: steps in order of output processing, requests in order of arrival."""

    steps: tuple[Step, ...]
    transfers: tuple[Transfer, ...]
    endings: tuple[Ending, ...]
