"""One replica of the naive twin: the engine's loop, the model's batches in a pipeline, KV transfers, and the record.

The loop is "Clock and loop" of the format of recorded schedules, word for word; it is a generator that yields whenever
its time is to pass, so that a fleet can run many.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from naive_scheduler import Scheduler

from headway.simulator.records import Step, Transfer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from naive_batch import Batch, Item
    from naive_rows import Row

    from headway.types import Replica


@dataclass(eq=False)
class Flight:
    """A batch on its way through the pipeline."""

    batch: Batch
    step: dict[str, object]  # what was to be seen right after the scheduler's call
    end_ps: int


@dataclass(frozen=True)
class Sleep:
    """Nothing happens until then (None: for ever); an idle engine is woken by an arrival, a busy one is not.

    Half-way through an instant all that ends then has ended, and the scheduler has not been called.
    """

    until_ps: int | None
    is_idle: bool = False
    is_halfway: bool = False


@dataclass(eq=False)
class Arrivals:
    """Requests and hang-ups on their way to a replica."""

    rows: deque[Row] = field(default_factory=deque)
    aborts: list[Row] = field(default_factory=list)


class NaiveEngine:
    def __init__(self, replica: Replica) -> None:
        self.replica = replica
        self.scheduler = Scheduler(replica)
        self.arrivals = Arrivals()
        self.now_ps = 0
        self.flights: deque[Flight] = deque()
        self.stage_ends_ps = [0] * replica.settings.pipeline_parallel_size
        self.loading: list[tuple[int, int, Row]] = []  # (when its KV has come, batch it was asked for with, request)
        self.steps_seen: list[Step] = []
        self.transfers: list[Transfer] = []
        self.gaps: Counter[int] = Counter()
        self.steps = self.scheduled_tokens = self.preemptions = self.busy_ps = 0
        self.life = self.loop()
        self.sleep = next(self.life)

    @property
    def outstanding(self) -> int:
        return len(self.arrivals.rows) + self.scheduler.unfinished

    def busy_until(self, at_ps: int) -> int:
        """Time spent stepping, that of batches under way included."""
        return self.busy_ps + sum(max(0, at_ps - flight.step["b_ps"]) for flight in self.flights if flight.batch.items)

    def has_to_do(self, now_ps: int) -> bool:
        """Whether something ends or begins here now, and it has not been woken for it."""
        is_woken = self.sleep.is_idle and bool(self.arrivals.rows)
        return is_woken or (self.sleep.until_ps == now_ps and not self.sleep.is_halfway)

    def wake(self, now_ps: int) -> None:
        self.now_ps = now_ps
        self.sleep = next(self.life)

    # --- the loop -------------------------------------------------------------------------------------

    def loop(self) -> Iterator[Sleep]:
        idle_calls = 0
        while True:
            self.deliver()
            if not self.scheduler.has_requests and not self.flights:
                yield from self.pass_time(Sleep(None, is_idle=True))
                continue
            before_ps = self.now_ps
            did_something = yield from self.step()
            idle_calls = 0 if did_something or self.now_ps > before_ps else idle_calls + 1
            if idle_calls > 2 * self.scheduler.limits.in_flight + 2:
                idle_calls = 0
                yield from self.pass_time(Sleep(self.next_transfer_ps(), is_idle=True))

    def pass_time(self, sleep: Sleep) -> Iterator[Sleep]:
        yield sleep
        yield from self.hang_up()

    def deliver(self) -> None:
        arrivals = self.arrivals
        while arrivals.rows:
            row = arrivals.rows.popleft()
            self.scheduler.add(row)
            if row.abort_ps is not None:
                arrivals.aborts.append(row)

    def hang_up(self) -> Iterator[Sleep]:
        """After arrivals and ends of steps, in order; clients freed now may send before the scheduler is called."""
        self.deliver()
        due = [row for row in self.arrivals.aborts if row.abort_ps <= self.now_ps]
        for row in sorted(due, key=lambda row: (row.abort_ps, row.number)):
            self.arrivals.aborts.remove(row)
            if row.state != "ended":
                self.scheduler.end(row, "abort", self.now_ps)
        yield Sleep(self.now_ps, is_halfway=True)

    def step(self) -> Iterator[Sleep]:
        """Schedule unless enough is in flight; else wait for the oldest batch. Return whether anything was done."""
        scheduler, was_something = self.scheduler, False
        if scheduler.has_requests:
            flight = self.launch()
            was_something = bool(flight.batch.items or flight.batch.preempted or scheduler.started_loads)
            self.flights.append(flight)
            if len(self.flights) < scheduler.limits.in_flight and (flight.batch.items or scheduler.has_requests):
                return was_something
        if self.flights:
            flight = self.flights[0]
            if flight.end_ps > self.now_ps:
                yield Sleep(flight.end_ps)
            self.flights.popleft()
            self.finish(flight)
            yield from self.hang_up()
        return was_something

    # --- a batch --------------------------------------------------------------------------------------

    def launch(self) -> Flight:
        scheduler = self.scheduler
        batch = scheduler.schedule(self.now_ps)
        for row, tokens in scheduler.started_loads:
            self.start_load(row, tokens, batch.number)
        for item in batch.items:
            item.made, item.produced = item.row.made, self.tokens_of(item)
            item.row.made += item.produced
        begin_ps, end_ps = self.pass_stages(batch.items)
        for row, computed in batch.admitted:
            if not row.admitted_before:
                row.admitted_before, row.cached = True, computed
                row.scheduled_ps, row.start_ps = self.now_ps, begin_ps
        self.preemptions += len(batch.preempted)
        seen = {
            "t_ps": self.now_ps,
            "b_ps": begin_ps,
            "e_ps": end_ps,
            "tokens": sum(item.tokens for item in batch.items),
            "context": sum(item.context for item in batch.items),
            "running": len(scheduler.running),
            "waiting": scheduler.waits,
            "free": len(scheduler.pool.free),
            "scheduled": tuple((item.row.number, item.tokens) for item in batch.items),
            "admitted": tuple((row.number, computed) for row, computed in batch.admitted),
            "preempted": tuple(row.number for row in batch.preempted),
            "drafts": tuple((item.row.number, item.drafts) for item in batch.items if item.drafts),
        }
        return Flight(batch, seen, end_ps)

    def tokens_of(self, item: Item) -> int:
        """The model's answer: one token, and those drafts it accepts."""
        if not item.samples:
            return 0
        if not item.drafts or item.is_admission:  # drafts of an admission are padding
            return 1
        accepted = self.replica.speculation.accepted
        item.row.verified += 1
        return 1 + min(item.drafts, accepted[(item.row.verified - 1) % len(accepted)])

    def pass_stages(self, items: list[Item]) -> tuple[int, int]:
        """When the first stage begins and the last ends: each begins after the one before and after the batch before.

        An empty batch takes no time, but does not overtake; nobody waits for it.
        """
        duration_ps = self.duration(items) if items else 0
        ends_ps, end_ps = [], self.now_ps
        for stage_end_ps in self.stage_ends_ps:
            end_ps = max(end_ps, stage_end_ps) + duration_ps
            ends_ps.append(end_ps)
        if items:
            self.stage_ends_ps = ends_ps
        return ends_ps[0] - duration_ps, end_ps

    def duration(self, items: list[Item]) -> int:
        """As `StepTable` says; a request whose drafts are verified is a decode of several tokens in a mixed step."""
        step = self.replica.step
        contexts = [item.context for item in items if item.tokens == 1 or item.drafts]
        chunks = [(item.tokens, item.context) for item in items if item.tokens > 1 and not item.drafts]
        n, s, tokens = len(contexts), sum(contexts), sum(item.tokens for item in items)
        attention = step.context_ps_per_token * s + step.window_ps_per_token * min(s, n * step.window_tokens)
        if tokens == n:
            return int(step.decode_ps[n]) + attention
        return (
            int(step.mixed_ps[tokens])
            + step.sequence_ps * len(items)
            + attention
            + step.prefill_ps_per_pair * sum(m * (2 * x + m) for m, x in chunks)
            + step.prefill_context_ps_per_token * sum(x for _, x in chunks)
        )

    def finish(self, flight: Flight) -> None:
        """Process the output of a batch at its end; KV that has come by then is reported with it."""
        batch, scheduler = flight.batch, self.scheduler
        ended = scheduler.process(batch, self.now_ps)
        for until_ps, _, row in scheduler.held:
            if row in ended:
                self.transfers.append(self.transfer(row, "send", until_ps, 0))
        self.report(flight)
        if batch.items:
            self.steps += 1
            self.busy_ps += flight.step["e_ps"] - flight.step["b_ps"]
            self.scheduled_tokens += flight.step["tokens"]
        if batch.items or batch.preempted:
            free_after = len(scheduler.pool.free)
            finished = tuple(row.number for row in ended)
            step = Step(k=len(self.steps_seen), free_after=free_after, finished=finished, **flight.step)
            self.steps_seen.append(step)

    # --- KV transfers ---------------------------------------------------------------------------------

    def start_load(self, row: Row, tokens: int, batch: int) -> None:
        transfer = self.replica.kv_transfer
        end_ps = self.now_ps + transfer.base_ps + transfer.ps_per_token * tokens
        self.loading.append((end_ps, batch, row))
        self.transfers.append(self.transfer(row, "recv", end_ps, tokens))

    def transfer(self, row: Row, kind: str, end_ps: int, tokens: int) -> Transfer:
        return Transfer(request=row.number, kind=kind, start_ps=self.now_ps, end_ps=end_ps, tokens=tokens)

    def report(self, flight: Flight) -> None:
        """A transfer is reported by the first batch that ends after it, of those sent off since it began.

        A load begins with the batch being scheduled, so that batch may; a hold begins with an ending.
        """
        for load in list(self.loading):
            until_ps, number, row = load
            if until_ps <= flight.end_ps and number <= flight.batch.number:
                self.loading.remove(load)
                self.scheduler.loaded(row)
        for until_ps, number, row in list(self.scheduler.held):
            if until_ps <= flight.end_ps and number <= flight.batch.number:
                self.scheduler.sent(row)

    def next_transfer_ps(self) -> int | None:
        ends = [until for until, _, _ in self.loading] + [until for until, _, _ in self.scheduler.held]
        return min(ends, default=None)
