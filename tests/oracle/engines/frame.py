"""What the four naive twins share: requests as rows, a clock, batches in flight, the record. Policies come on top.

Written from the rules in docs/concepts/policies.md, one iteration at a time, with lists and dictionaries, for reading.
It shares no code with headway.simulator but the nouns of its interface: what comes in, and the record that comes out.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from itertools import count

from clients import Clients

from headway.simulator.records import Ending, Record, Step
from headway.types import EngineSettings, Replica, Requests, StepTable


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


@dataclass(eq=False)
class Row:
    """A request. `computed`: tokens whose KV exists once all batches in flight are through."""

    number: int
    arrive_ps: int
    isl: int
    osl: int
    most: int  # tokens at which it ends by length
    ids: list[int]  # of its first blocks
    unit: int  # tokens of one id
    abort_ps: int | None = None
    emitted: int = 0
    computed: int = 0
    ahead: int = 0  # tokens that batches in flight will bring
    epoch: int = 0  # how often it was thrown back
    ended: bool = False
    # results
    scheduled_ps: int = -1
    start_ps: int = -1
    cached: int = -1
    reason: str = ""
    delivered_ps: list[int] = field(default_factory=list)
    end_ps: int = -1

    @property
    def known(self) -> int:
        return self.isl + self.emitted

    @property
    def declared(self) -> int:
        """Output tokens it asks for."""
        return self.most - self.isl

    def token(self, position: int) -> object:
        """What stands at a position: two tokens are the same where these are equal."""
        if position < len(self.ids) * self.unit:
            return self.ids[position // self.unit], position % self.unit
        return "private", self.number, position

    def tokens(self, length: int) -> list[object]:
        return [self.token(i) for i in range(length)]

    def block(self, index: int, size: int) -> object:
        """What its index-th block is called, everything before it included."""
        last = (index + 1) * size
        if last <= len(self.ids) * self.unit:
            return self.ids[(last - 1) // self.unit], last % self.unit
        return "private", self.number, index


@dataclass(eq=False)
class Flight:
    """A batch: (row, tokens, whether it brings a token, the row's epoch)."""

    k: int
    scheduled_ps: int
    entries: list[tuple[Row, int, bool, int]]
    begin_ps: int = 0
    end_ps: int = 0
    step: dict[str, object] = field(default_factory=dict)


def rows_of(requests: Requests) -> list[Row]:
    prefix, rows = requests.prefix, []
    for i in range(len(requests)):
        ids: list[int] = []
        if prefix is not None:
            for j in range(prefix.offsets[i], prefix.offsets[i + 1]):
                ids += range(prefix.first_ids[j], prefix.first_ids[j] + prefix.counts[j])
        isl, osl = int(requests.isl_tokens[i]), int(requests.osl_tokens[i])
        most = isl + int(requests.max_tokens[i] if requests.max_tokens is not None else osl)
        abort = requests.abort_s[i] if requests.abort_s is not None else math.nan
        row = Row(i, round(requests.arrive_s[i] * 1e12), isl, osl, most, ids, prefix.block_tokens if prefix else 1)
        row.abort_ps = None if math.isnan(abort) else round(abort * 1e12)
        rows.append(row)
    return rows


class Engine:
    """One replica. A twin says what `enter`, `schedule`, `settle` and `leave` do."""

    def __init__(self, requests: Requests, replica: Replica) -> None:
        self.settings: EngineSettings = replica.settings
        self.table: StepTable = replica.step
        self.replica = replica
        self.blocks = replica.num_gpu_blocks
        self.size = replica.settings.block_size
        self.rows = rows_of(requests)
        for row in self.rows:
            row.most = min(row.most, self.longest(row))
            row.ended = self.refuses(row)
        self.depth = 2 if self.settings.async_scheduling and self.overlaps else 1
        self.now = 0
        self.busy_until = 0
        self.flying: deque[Flight] = deque()
        self.steps: list[Step] = []
        self.numbers = count()
        self.preemptions = dict.fromkeys(range(len(self.rows)), 0)
        # of the batch being formed
        self.batch: list[tuple[Row, int]] = []
        self.admitted: list[tuple[int, int]] = []
        self.thrown: list[int] = []
        self.here: list[Row] = []
        self.unfinished = 0
        self.look_again = False  # somebody ended since the last look
        self.finished: list[int] = []

    #: whether the engine schedules the next batch while one runs
    overlaps = True

    def longest(self, row: Row) -> int:
        """Tokens at which any request ends."""
        return self.settings.max_model_len

    def refuses(self, row: Row) -> bool:
        raise NotImplementedError

    def enter(self, row: Row) -> None:
        raise NotImplementedError

    def schedule(self) -> None:
        """Fill `self.batch`."""
        raise NotImplementedError

    def settle(self, row: Row) -> None:
        """A token of a row that goes on has come."""

    def leave(self, row: Row) -> None:
        raise NotImplementedError

    def counts(self) -> tuple[int, int, int]:
        """Running, waiting, free blocks."""
        raise NotImplementedError

    # --- for the twins

    def run(self, row: Row, tokens: int) -> None:
        self.batch.append((row, tokens))

    def admit(self, row: Row, cached: int) -> None:
        row.computed = cached
        self.admitted.append((row.number, cached))
        if row.cached < 0:
            row.cached = cached

    def throw_back(self, row: Row) -> None:
        row.epoch += 1
        row.computed = row.ahead = 0
        self.preemptions[row.number] += 1
        self.thrown.append(row.number)

    # --- the loop

    def record(self, concurrency: int | None = None, turnaround_ps: int = 0) -> Record:
        clients = Clients(self.rows, concurrency, turnaround_ps)
        idle = 0  # looks in a row that found nothing to do
        while True:
            self.deliver(clients, self.now, before_ends=True)
            self.hang_up()
            self.deliver(clients, self.now, before_ends=False)
            if not self.unfinished and not self.flying and not self.look_again:
                if clients.next_ps() is None:
                    break
                self.now = clients.next_ps()
                continue
            idle = 0 if self.launch() else idle + 1
            if idle == 0 and len(self.flying) < self.depth:
                continue
            if self.flying:
                self.deliver(clients, self.flying[0].end_ps, before_ends=True)
                self.land(self.flying.popleft())
            elif idle > 2 and self.unfinished:
                assert clients.next_ps() is not None, "nothing can run, and nobody comes any more"
                self.now = clients.next_ps()
        return Record(steps=tuple(self.steps), transfers=(), endings=tuple(self.ending(row) for row in self.rows))

    def deliver(self, clients: Clients, until_ps: int, *, before_ends: bool) -> None:
        while (now_ps := clients.next_ps()) is not None and (
            now_ps < until_ps or clients.sends(until_ps, before_ends=before_ends)
        ):
            row = clients.send(now_ps)
            if row.ended:
                clients.refused(now_ps)
                continue
            clients.sent(row)
            self.here.append(row)
            self.unfinished += 1
            self.enter(row)

    def hang_up(self) -> None:
        due = [row for row in self.here if row.abort_ps is not None and row.abort_ps <= self.now and not row.ended]
        for row in sorted(due, key=lambda row: (row.abort_ps, row.number)):
            self.conclude(row, "abort")

    def launch(self) -> bool:
        """Schedule; tell whether anybody runs."""
        self.look_again = False
        self.batch, self.admitted, self.thrown = [], [], []
        k = next(self.numbers)
        self.schedule()
        if not self.batch and not self.thrown:
            return False
        context, entries, before = 0, [], []
        for row, tokens in self.batch:
            before.append(row.computed)
            context += row.computed
            row.computed += tokens
            brings = row.computed >= row.known + row.ahead
            row.ahead += brings
            entries.append((row, tokens, brings, row.epoch))
        flight = Flight(k, self.now, entries)
        flight.begin_ps = max(self.now, self.busy_until)
        flight.end_ps = flight.begin_ps + self.duration(entries, before)
        self.busy_until = flight.end_ps
        for row, *_ in entries:
            if row.scheduled_ps < 0:
                row.scheduled_ps, row.start_ps = self.now, flight.begin_ps
        running, waiting, free = self.counts()
        flight.step = {
            "tokens": sum(tokens for _, tokens, *_ in entries),
            "context": context,
            "running": running,
            "waiting": waiting,
            "free": free,
            "scheduled": tuple((row.number, tokens) for row, tokens, *_ in entries),
            "admitted": tuple(self.admitted),
            "preempted": tuple(self.thrown),
        }
        self.flying.append(flight)
        return True

    def duration(self, entries: list[tuple[Row, int, bool, int]], before: list[int]) -> int:
        table = self.table
        decodes = [x for (_, m, *_), x in zip(entries, before, strict=True) if m == 1]
        chunks = [(m, x) for (_, m, *_), x in zip(entries, before, strict=True) if m > 1]
        if not entries:
            return 0
        n, s = len(decodes), sum(decodes)
        attention = table.context_ps_per_token * s + table.window_ps_per_token * min(s, n * table.window_tokens)
        if not chunks and n < len(table.decode_ps):
            return int(table.decode_ps[n]) + attention
        return (
            int(table.mixed_ps[min(n + sum(m for m, _ in chunks), len(table.mixed_ps) - 1)])
            + table.sequence_ps * len(entries)
            + attention
            + table.prefill_ps_per_pair * sum(m * (2 * x + m) for m, x in chunks)
            + table.prefill_context_ps_per_token * sum(x for _, x in chunks)
        )

    def land(self, flight: Flight) -> None:
        self.now = max(self.now, flight.end_ps)
        self.finished = []
        for row, _, brings, epoch in self.outputs(flight):
            if row.ended or not brings or epoch != row.epoch:
                continue
            row.ahead -= 1
            row.emitted += 1
            row.delivered_ps.append(self.now)
            if row.emitted == row.osl and row.known < row.most:
                self.conclude(row, "stop")
            elif row.known >= row.most:
                self.conclude(row, "length")
            else:
                self.settle(row)
                continue
            self.finished.append(row.number)
        self.steps.append(
            Step(
                k=flight.k,
                t_ps=flight.scheduled_ps,
                b_ps=flight.begin_ps,
                e_ps=flight.end_ps,
                free_after=self.counts()[2],
                finished=tuple(self.finished),
                **flight.step,
            )
        )

    def outputs(self, flight: Flight) -> list[tuple[Row, int, bool, int]]:
        """The entries of a batch, in the order in which their outputs are processed."""
        return flight.entries

    def conclude(self, row: Row, reason: str) -> None:
        self.leave(row)
        row.ended, row.reason, row.end_ps = True, reason, self.now
        self.unfinished -= 1
        self.look_again = True

    def ending(self, row: Row) -> Ending:
        return Ending(
            request=row.number,
            arrive_ps=row.arrive_ps,
            scheduled_ps=row.scheduled_ps,
            start_ps=row.start_ps,
            cached=row.cached,
            reason=row.reason,
            preemptions=self.preemptions[row.number],
            delivered_ps=tuple(row.delivered_ps),
            end_ps=row.end_ps,
        )
