"""The naive twin: vLLM's V1 scheduler and a fleet of its replicas in plain Python, an oracle.

Written from the rules alone and for reading, not for speed. It shares no code with headway.simulator but the nouns of
its interface. From the bottom: `naive_rows` (a request), `naive_pool` (KV blocks and prefix cache), `naive_rules`
(versions), `naive_scheduler` (one call of the scheduler, one batch of outputs), `naive_engine` (the loop around it, the
model, transfers), and here the fleet: a router, the clock of all replicas, and what is to be found out.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from clients import Clients
from naive_engine import NaiveEngine
from naive_rows import Row, make_rows

from headway.simulator.records import Ending, Record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headway.types import Replica, Requests


class NaiveRouter:
    def __init__(self, name: str, choice: list[int] | None, block_size: int) -> None:
        self.name, self.choice, self.block_size = name, choice, block_size
        self.sent: dict[int, tuple[int, int]] = {}  # first id of a run -> replica, blocks of the run

    def pick(self, row: Row, runs: list[tuple[int, int]], engines: list[NaiveEngine]) -> int:
        if self.choice is not None:
            return self.choice[row.number]
        loads = [engine.outstanding for engine in engines]
        least = loads.index(min(loads))
        if self.name == "least-outstanding":
            return least
        picked = least
        if not (max(loads) - min(loads) > 64 and max(loads) > 1.5 * min(loads)):
            before = 0
            for first, blocks in runs:
                if first in self.sent:
                    replica, length = self.sent[first]
                    shared = min((before + min(length, blocks)) * self.block_size, row.isl)
                    if shared > 0.3 * row.isl:
                        picked = replica
                before += blocks
        for first, blocks in runs:
            self.sent[first] = (picked, blocks)
        return picked


@dataclass(eq=False)
class NaiveResult:
    rows: list[Row]
    engines: list[NaiveEngine]
    samples: list[tuple[int, int, int, int]]

    @property
    def gaps(self) -> Counter[int]:
        return Counter(after - before for row in self.rows for before, after in pairwise(row.delivered_ps))


@dataclass(eq=False)
class NaiveFleet:
    engines: list[NaiveEngine]
    router: NaiveRouter
    clients: Clients
    stride: int  # of the ids of an engine's blocks

    def next_ps(self) -> int | None:
        times = [engine.sleep.until_ps for engine in self.engines] + [self.clients.next_ps()]
        return min((time for time in times if time is not None), default=None)

    def live(self, now_ps: int) -> None:
        """One instant: arrivals; ends of steps, and arrivals for which they free a client; calls of the schedulers."""
        clients, engines = self.clients, self.engines
        while clients.sends(now_ps, before_ends=True):
            self.send(now_ps)
        while any(engine.has_to_do(now_ps) for engine in engines) or clients.sends(now_ps, before_ends=False):
            for engine in engines:
                if engine.has_to_do(now_ps):
                    engine.wake(now_ps)
            while clients.sends(now_ps, before_ends=False):
                self.send(now_ps)
        for engine in engines:
            if engine.sleep.is_halfway:
                engine.wake(now_ps)

    def send(self, now_ps: int) -> None:
        row = self.clients.send(now_ps)
        if row.failed:
            self.clients.refused(now_ps)
            return
        self.clients.sent(row)
        row.replica = self.router.pick(row, runs_of(row.ids, self.stride), self.engines)
        self.engines[row.replica].arrivals.rows.append(row)


def runs_of(keys: list[int], stride: int) -> list[tuple[int, int]]:
    runs: list[list[int]] = []
    for key in keys:
        if runs and key == runs[-1][0] + runs[-1][1] * stride:
            runs[-1][1] += 1
        else:
            runs.append([key, 1])
    return [(first, blocks) for first, blocks in runs]


def naive(
    requests: Requests,
    replica: Replica,
    *,
    replicas: int = 1,
    router: str = "least-outstanding",
    choice: list[int] | None = None,
    windows: tuple[int, int] | None = None,
    until_ps: int | None = None,
    names: Sequence[str] | None = None,
    concurrency: int | None = None,
    turnaround_ps: int = 0,
) -> NaiveResult:
    """Simulate; `choice` is given for the routers that look at no load; `windows` = (window_ps, how many)."""
    settings = replica.settings
    rows = make_rows(requests, replica, names)
    stride = 1 if requests.prefix is None else max(1, settings.block_size // requests.prefix.block_tokens)
    fleet = NaiveFleet(
        engines=[NaiveEngine(replica) for _ in range(replicas)],
        router=NaiveRouter(router, choice, settings.block_size),
        clients=Clients(rows, concurrency, turnaround_ps),
        stride=stride,
    )
    window_ps, number = windows or (0, 0)
    boundaries = deque((i + 1) * window_ps for i in range(number))
    samples: list[tuple[int, int, int, int]] = []
    while True:
        now_ps = fleet.next_ps()
        while boundaries and (now_ps is None or boundaries[0] < now_ps):
            samples.append(sample(fleet.engines, boundaries.popleft()))
        if now_ps is None or (until_ps is not None and now_ps > until_ps):
            for row in fleet.clients.rows if concurrency is not None else ():
                row.arrive_ps = -1
            return NaiveResult(rows, fleet.engines, samples)
        fleet.live(now_ps)


def record(requests: Requests, replica: Replica, names: Sequence[str] | None = None) -> Record:
    """Write down the schedule of one replica; `names` break ties of priority and arrival."""
    return recorded(naive(requests, replica, choice=[0] * len(requests), names=names))


def recorded(result: NaiveResult) -> Record:
    engine = result.engines[0]
    return Record(
        steps=tuple(engine.steps_seen),
        transfers=tuple(engine.transfers),
        endings=tuple(ending(row) for row in result.rows),
    )


def ending(row: Row) -> Ending:
    return Ending(
        request=row.number,
        arrive_ps=row.arrive_ps,
        scheduled_ps=row.scheduled_ps,
        start_ps=row.start_ps,
        cached=row.cached if row.admitted_before else -1,
        reason=row.reason,
        preemptions=row.preemptions,
        delivered_ps=tuple(row.delivered_ps),
        end_ps=row.end_ps,
    )


def sample(engines: list[NaiveEngine], at_ps: int) -> tuple[int, int, int, int]:
    """Queue, running, referenced blocks, and busy time so far."""
    schedulers = [engine.scheduler for engine in engines]
    return (
        sum(len(engine.arrivals.rows) + engine.scheduler.waits for engine in engines),
        sum(len(scheduler.running) for scheduler in schedulers),
        sum(scheduler.pool.total - len(scheduler.pool.free) for scheduler in schedulers),
        sum(engine.busy_until(at_ps) for engine in engines),
    )
