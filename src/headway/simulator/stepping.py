# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True, nonecheck=False
# mypy: disable-error-code="untyped-decorator,var-annotated,misc,has-type"
# (the types of attributes are in stepping.pxd)
"""The general engine: one replica, one iteration at a time, whatever the scheduling policy.

`Stepper` is what all engines share: a clock, batches in flight, tokens that come out, requests that end, KV transfers,
hang-ups, the record. A policy is a subclass; it says

    enter(request)    a request arrived (or its turn came again)
    form(batch)       who runs in the next batch: put entries with `batch.add`, move the queues
    settle(request)   the outputs of one of its batches have come
    leave(request)    it ended: free its memory and its place
    used_blocks()     blocks that requests hold

The loop is the engine core's: where one batch may be in flight, schedule, run, process; where several may, the next is
scheduled as soon as the oldest has been processed. Scheduling takes no time here: what the host takes is in the step
times. Times are int64 picoseconds. Compiled by Cython in pure-Python mode; the same file runs uncompiled.
"""

from __future__ import annotations

from typing import Any

import cython
import numpy as np

if cython.compiled:
    from cython.cimports.headway.simulator.server import Server
else:
    from headway.simulator.server import Server
from headway.simulator.arrays import grown, ints, view

COMPILED: bool = cython.compiled
NEVER = cython.declare(cython.longlong, 1 << 62)
# What has become of a request. Compiled, these are variables of C, which no other module can import: each declares
# those it uses, and a test holds them to each other.
WAITING = cython.declare(cython.schar, 0)
RUNNING = cython.declare(cython.schar, 1)
LOADING = cython.declare(cython.schar, 2)
LOADED = cython.declare(cython.schar, 3)
ENDED = cython.declare(cython.schar, 4)
# its state, as in `simulation`: FINISHED, FAILED, ABORTED
FINISHED = cython.declare(cython.schar, 1)
REFUSED = cython.declare(cython.schar, 2)
ABORTED = cython.declare(cython.schar, 3)
# why it ended
BY_LENGTH = cython.declare(cython.schar, 1)
BY_STOP = cython.declare(cython.schar, 2)
BY_ABORT = cython.declare(cython.schar, 3)


@cython.cclass
class Table:
    """What is known and found per request, shared by all replicas; rows are requests.

    Given: arrive, isl, osl, most (isl + max_tokens), priority, rank (order among equals), adapter, abort, remote, hold.
    State: known (prompt and delivered tokens), computed, placeholders (tokens the next schedule counts on), flying
    (tokens in flight), spec (drafts to verify), tries (verifications so far), epoch (times it was thrown back).
    """

    def __init__(self, given: dict[str, Any], found: dict[str, Any]) -> None:
        count = len(given["arrive"])
        self.arrive, self.isl, self.osl = view(given["arrive"]), view(given["isl"]), view(given["osl"])
        self.most, self.priority, self.rank = view(given["most"]), view(given["priority"]), view(given["rank"])
        self.adapter, self.remote = view(given["adapter"]), view(given["remote"])
        self.abort, self.hold = view(given["abort"]), view(given["hold"])
        self.first, self.last, self.state = view(found["first_ps"]), view(found["last_ps"]), view(found["state"])
        self.outputs, self.ended = view(found["output_tokens"]), view(found["end_ps"])
        self.cached, self.preempted = view(found["cached_tokens"]), view(found["preemptions"])
        self.reason, self.delivered = view(found["reason"]), view(found["delivered"])
        self.known = view(np.array(given["isl"], np.int64))
        self.computed = ints(count, 0, np.int64)
        self.placeholders, self.flying, self.spec = (ints(count) for _ in range(3))
        self.tries, self.epoch = ints(count), ints(count)
        self.eligible = ints(count, 0, np.int64)
        self.status = ints(count, 0, np.int8)
        self.chunk = ints(count, 0, np.int8)
        self.spoke = ints(count, -1, np.int64)
        self.older, self.newer = ints(count, -1), ints(count, -1)
        self.holder = ints(count, -1)


@cython.cclass
class Line:
    """A waiting line of requests: first come first served, or in the order of priority, arrival and rank."""

    def __init__(self, table: Table, ordered: Any) -> None:
        self.table, self.ordered = table, ordered
        self.head = self.tail = -1
        self.size = 0

    @cython.cfunc
    @cython.exceptval(check=False)
    def sooner(self, one: cython.int, other: cython.int) -> cython.bint:
        """Return whether one request goes before another where priorities count."""
        table: Table = self.table
        if table.priority[one] != table.priority[other]:
            return table.priority[one] < table.priority[other]
        if table.arrive[one] != table.arrive[other]:
            return table.arrive[one] < table.arrive[other]
        return table.rank[one] < table.rank[other]

    @cython.cfunc
    @cython.exceptval(check=False)
    def insert(self, request: cython.int, behind: cython.int) -> cython.int:
        """Put a request behind another (−1: at the head)."""
        after: cython.int = self.table.newer[behind] if behind >= 0 else self.head
        self.table.older[request] = behind
        self.table.newer[request] = after
        if behind < 0:
            self.head = request
        else:
            self.table.newer[behind] = request
        if after < 0:
            self.tail = request
        else:
            self.table.older[after] = request
        self.size += 1
        return 0

    @cython.cfunc
    @cython.exceptval(check=False)
    def push(self, request: cython.int) -> cython.int:
        """Let a request queue up."""
        behind: cython.int = self.tail
        if self.ordered:
            while behind >= 0 and self.sooner(request, behind):
                behind = self.table.older[behind]
        return self.insert(request, behind)

    @cython.cfunc
    @cython.exceptval(check=False)
    def push_back(self, request: cython.int) -> cython.int:
        """Let a request that was thrown back queue up: at the head, or where its priority puts it."""
        return self.push(request) if self.ordered else self.insert(request, -1)

    @cython.cfunc
    @cython.exceptval(check=False)
    def remove(self, request: cython.int) -> cython.int:
        """Let a request go."""
        behind: cython.int = self.table.older[request]
        after: cython.int = self.table.newer[request]
        if behind < 0:
            self.head = after
        else:
            self.table.newer[behind] = after
        if after < 0:
            self.tail = behind
        else:
            self.table.older[after] = behind
        self.size -= 1
        return 0


@cython.cclass
class Batch:
    """Who runs in one step, and with how many tokens."""

    def __init__(self) -> None:
        self.request, self.tokens, self.drafts, self.accepted = (ints(16) for _ in range(4))
        self.epoch, self.before = ints(16), ints(16, 0, np.int64)
        self.fresh, self.samples = ints(16, 0, np.int8), ints(16, 0, np.int8)
        self.clear()

    @cython.cfunc
    @cython.exceptval(-1)
    def clear(self) -> cython.int:
        """Empty it."""
        self.count = 0
        self.total = self.context = 0
        self.number = self.scheduled = self.begin = self.end = 0
        self.row = None
        self.admitted, self.preempted, self.finished = [], [], []
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def add(self, request: cython.int, tokens: cython.int, drafts: cython.int, fresh: cython.bint) -> cython.int:
        """Schedule so many tokens of a request, the drafts among them; `fresh`: it was admitted in this step."""
        i: cython.int = self.count
        if i == self.request.shape[0]:
            self.request, self.tokens = grown(self.request), grown(self.tokens)
            self.drafts, self.accepted = grown(self.drafts), grown(self.accepted)
            self.epoch, self.before = grown(self.epoch), grown(self.before)
            self.fresh, self.samples = grown(self.fresh), grown(self.samples)
        self.request[i] = request
        self.tokens[i] = tokens
        self.drafts[i] = drafts
        self.accepted[i] = 0
        self.fresh[i] = fresh
        self.count = i + 1
        return 0

    def entries(self) -> list[tuple[int, int, int]]:
        """Return (request, tokens, drafts), in the order of scheduling."""
        return [(self.request[i], self.tokens[i], self.drafts[i]) for i in range(self.count)]

    @cython.cfunc
    @cython.exceptval(-1)
    def strike(self, request: cython.int) -> cython.int:
        """Take a request out again; return where it was, −2 where it was not."""
        i: cython.int
        j: cython.int
        for i in range(self.count):
            if self.request[i] == request:
                for j in range(i, self.count - 1):
                    self.request[j] = self.request[j + 1]
                    self.tokens[j] = self.tokens[j + 1]
                    self.drafts[j] = self.drafts[j + 1]
                    self.fresh[j] = self.fresh[j + 1]
                self.count -= 1
                return i
        return -2


@cython.cclass
class Stepper(Server):
    """One replica. `end` is when something happens next: `commit` and `schedule` live through it."""

    def __init__(self, replica: Any, table: Table, record: Any) -> None:
        Server.__init__(self)
        settings, step, speculation = replica.settings, replica.step, replica.speculation
        self.table = table
        self.max_model_len = settings.max_model_len
        self.asynchronous = settings.async_scheduling
        self.stages = settings.pipeline_parallel_size
        self.depth = self.stages + (1 if settings.async_scheduling else 0)
        if self.stages > 1 and not settings.async_scheduling:
            self.depth = self.stages
        self.drafting = speculation.num_speculative_tokens if speculation is not None else 0
        self.accepts = view(np.array(speculation.accepted if speculation is not None else (0,), np.int32))
        self.decode, self.mixed = view(step.decode_ps), view(step.mixed_ps)
        self.context_ps, self.pair_ps = step.context_ps_per_token, step.prefill_ps_per_pair
        self.sequence_ps, self.prefill_context_ps = step.sequence_ps, step.prefill_context_ps_per_token
        self.window_ps, self.window = step.window_ps_per_token, step.window_tokens
        self.record = record
        self.now, self.busy_until, self.popping = 0, 0, False
        self.stage_end = ints(self.stages, 0, np.int64)
        self.ring = [Batch() for _ in range(self.depth + 1)]
        self.ring_head = self.ring_size = 0
        self.calls = self.processed = 0
        self.unfinished = 0
        self.flush = False
        self.steps = self.scheduled_tokens = self.preemptions = 0
        # KV on its way: (request, first batch that can tell, start, end, tokens), in order of start
        transfer = replica.kv_transfer
        self.base_ps = transfer.base_ps if transfer is not None else 0
        self.token_ps = transfer.ps_per_token if transfer is not None else 0
        self.connected = transfer is not None
        self.transfers = []
        self.held_back = 0
        self.drops_stale = False
        # hang-ups to come, (time, request), soonest last
        self.aborts = []
        self.next_abort = NEVER
        self.gap_a, self.gap_weight = -1, 0
        self.gaps = ([], [])

    # --- hooks

    @cython.cfunc
    @cython.exceptval(-1)
    def enter(self, request: cython.int) -> cython.int:
        """Let a request that has just arrived queue up."""
        raise NotImplementedError

    @cython.cfunc
    @cython.exceptval(-1)
    def form(self, batch: Batch) -> cython.int:
        """Decide who runs in the next batch."""
        raise NotImplementedError

    @cython.cfunc
    @cython.exceptval(-1)
    def settle(self, request: cython.int) -> cython.int:  # noqa: ARG002 - a hook
        """The outputs of a batch have come for a request that goes on."""
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def leave(self, request: cython.int) -> cython.int:
        """Free the memory and the place of a request that ended."""
        raise NotImplementedError

    @cython.cfunc
    @cython.exceptval(-1)
    def arrived(self, request: cython.int) -> cython.int:  # noqa: ARG002 - a hook
        """The KV of a request has been loaded (or, on the sending side, fetched)."""
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def done_with(self, number: cython.longlong) -> cython.int:  # noqa: ARG002 - a hook
        """All batches up to that one have been processed."""
        return 0

    @cython.ccall
    def free_blocks(self) -> cython.longlong:
        """Return how many blocks are free."""
        return 0

    @cython.ccall
    def used_blocks(self) -> cython.longlong:
        """Return how many blocks requests hold."""
        return 0

    # --- the loop

    @cython.cfunc
    @cython.exceptval(-1)
    def advance(self, until: cython.longlong) -> cython.int:
        """Live through all that happens before `until`."""
        while self.end < until:
            self.commit()
            self.schedule()
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def arrive(self, request: cython.int, now: cython.longlong) -> cython.int:
        """Take in a request; where the engine was idle, it schedules once all that arrives now is here."""
        self.unfinished += 1
        if self.table.abort[request] < NEVER:
            self.aborts.append((-self.table.abort[request], -request))
            self.aborts.sort()
            self.next_abort = -self.aborts[len(self.aborts) - 1][0]
        self.enter(request)
        if not self.popping and now < self.end:
            self.end = now
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def stop(self, now: cython.longlong) -> cython.int:
        """Let what ends later be."""
        self.advance(now + 1)
        self.end = NEVER
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def used(self, now: cython.longlong) -> cython.longlong:  # noqa: ARG002 - nothing changes between two turns
        """Return the blocks that requests hold."""
        return self.used_blocks()

    @cython.cfunc
    @cython.exceptval(-1)
    def busy_by(self, now: cython.longlong) -> cython.longlong:
        """Return for how long at least one batch was being executed by `now`: those of a pipeline overlap."""
        busy: cython.longlong = self.busy
        until: cython.longlong = self.busy_until
        i: cython.int
        for i in range(self.ring_size):
            batch: Batch = self.ring[(self.ring_head + i) % len(self.ring)]
            if batch.count > 0 and batch.begin < now:
                end: cython.longlong = min(now, batch.end)
                busy += end - max(batch.begin, until)
                until = end
        return busy

    def run_all(self, arrivals: Any, states: Any) -> None:
        """Take in all requests that are not refused, in order of arrival, and live to the end."""
        times: cython.longlong[::1] = view(arrivals)
        state: cython.schar[::1] = view(states)
        request: cython.int
        for request in range(times.shape[0]):
            if state[request] != REFUSED:
                self.advance(times[request])
                self.arrive(request, times[request])
        self.advance(NEVER)

    @cython.cfunc
    @cython.exceptval(-1)
    def commit(self) -> cython.int:
        """All that ends at `end`: a batch, and requests whose clients have hung up."""
        self.now = self.end
        if self.popping:
            self.pop()
        if self.next_abort <= self.now:
            self.hang_up()
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def schedule(self) -> cython.int:
        """Send off what may be in flight, then wait for the oldest batch; an idle engine looks about."""
        empty: cython.int = 0
        while True:
            busy: cython.bint = self.unfinished > 0 or self.flush or self.held_back > 0
            if not busy and self.ring_size == 0:
                return self.sleep(NEVER)
            if busy:
                batch: Batch = self.launch()
                empty = 0 if batch.count > 0 else empty + 1
                if empty > 2 * self.depth + 4:  # nothing will happen by itself
                    return self.sleep(self.next_transfer())
                if self.ring_size < self.depth and (batch.count > 0 or self.unfinished > 0 or self.held_back > 0):
                    continue
            oldest: Batch = self.ring[self.ring_head]
            if oldest.end > self.now:
                self.end = oldest.end
                self.popping = True
                return 0
            self.pop()

    @cython.cfunc
    @cython.exceptval(-1)
    def sleep(self, until: cython.longlong) -> cython.int:
        """Let time pass: only empty batches are in flight."""
        while self.ring_size > 0:
            self.pop()
        self.popping = False
        self.end = until
        return 0

    @cython.cfunc
    @cython.exceptval(check=False)
    def next_transfer(self) -> cython.longlong:
        """Return when the next KV transfer is complete."""
        soonest: cython.longlong = NEVER
        for transfer in self.transfers:
            end: cython.longlong = transfer[3]
            soonest = min(soonest, end)
        return soonest

    @cython.cfunc
    @cython.exceptval(-1)
    def hang_up(self) -> cython.int:
        """Let the clients go whose time has come."""
        while self.aborts and -self.aborts[len(self.aborts) - 1][0] <= self.now:
            request: cython.int = -self.aborts.pop()[1]
            if self.table.status[request] != ENDED:
                self.conclude(request, BY_ABORT)
        self.next_abort = -self.aborts[len(self.aborts) - 1][0] if self.aborts else NEVER
        return 0

    # --- a batch

    @cython.cfunc
    def launch(self) -> Batch:
        """Form a batch and send it off."""
        batch: Batch = self.ring[(self.ring_head + self.ring_size) % len(self.ring)]
        self.ring_size += 1
        batch.clear()
        self.calls += 1
        batch.number = self.calls
        batch.scheduled = self.now
        self.flush = False
        self.form(batch)
        self.charge(batch)
        duration: cython.longlong = self.duration(batch)
        end: cython.longlong = self.now
        stage: cython.int
        for stage in range(self.stages):
            start: cython.longlong = max(end, self.stage_end[stage])
            end = start + duration
            if stage == 0:
                batch.begin = start
            if batch.count > 0:
                self.stage_end[stage] = end
        batch.end = end
        if self.record is not None:
            self.record.launched(self, batch)
        return batch

    @cython.cfunc
    @cython.exceptval(-1)
    def charge(self, batch: Batch) -> cython.int:
        """Count the tokens of a batch as computed, as a scheduler does that looks no further."""
        table: Table = self.table
        i: cython.int
        for i in range(batch.count):
            request: cython.int = batch.request[i]
            tokens: cython.int = batch.tokens[i]
            drafts: cython.int = batch.drafts[i]
            batch.before[i] = table.computed[request]
            batch.epoch[i] = table.epoch[request]
            batch.context += table.computed[request]
            batch.total += tokens
            table.computed[request] += tokens
            table.flying[request] += tokens
            chunk: cython.bint = table.computed[request] < table.known[request] + table.placeholders[request]
            table.chunk[request] = chunk
            batch.samples[i] = not chunk
            if drafts > 0 and not chunk and not batch.fresh[i]:
                taken: cython.int = self.accepts[table.tries[request] % self.accepts.shape[0]]
                batch.accepted[i] = min(drafts, taken)
                table.tries[request] += 1
            if self.asynchronous and not chunk:
                table.placeholders[request] += 1 + drafts
                table.spec[request] = self.drafting
                table.eligible[request] = batch.number + self.stages
        return 0

    @cython.cfunc
    @cython.exceptval(check=False)
    def duration(self, batch: Batch) -> cython.longlong:
        """Return how long a batch takes (see StepTable; verified drafts count as new tokens, their KV is read once)."""
        if batch.count == 0:
            return 0
        n: cython.longlong = 0
        s: cython.longlong = 0
        pairs: cython.longlong = 0
        over: cython.longlong = 0
        i: cython.int
        for i in range(batch.count):
            tokens: cython.longlong = batch.tokens[i]
            if tokens == 1 or batch.drafts[i] > 0:
                n += 1
                s += batch.before[i]
            else:
                pairs += tokens * (2 * batch.before[i] + tokens)
                over += batch.before[i]
        time: cython.longlong = self.context_ps * s + self.window_ps * min(s, n * self.window)
        if batch.total == n and n < self.decode.shape[0]:
            return time + self.decode[n]
        time += self.mixed[min(batch.total, self.mixed.shape[0] - 1)] + self.sequence_ps * batch.count
        return time + self.pair_ps * pairs + self.prefill_context_ps * over

    @cython.cfunc
    @cython.exceptval(-1)
    def pop(self) -> cython.int:
        """Take in the outputs of the oldest batch."""
        batch: Batch = self.ring[self.ring_head]
        self.ring_head = (self.ring_head + 1) % len(self.ring)
        self.ring_size -= 1
        self.now = max(self.now, batch.end)
        self.processed = batch.number
        if batch.count > 0:
            self.steps += 1
            self.scheduled_tokens += batch.total
            self.busy += batch.end - max(batch.begin, self.busy_until)
            self.busy_until = batch.end
        self.done_with(batch.number)
        table: Table = self.table
        i: cython.int
        for i in range(batch.count):
            request: cython.int = batch.request[i]
            table.flying[request] -= batch.tokens[i]
            if table.status[request] != ENDED and batch.samples[i]:
                self.speak(batch, i, request)
        if self.connected:
            self.receive(batch)
        if self.record is not None:
            self.record.popped(self, batch)
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def speak(self, batch: Batch, i: cython.int, request: cython.int) -> cython.int:
        """Deliver the tokens of one request; those of one thrown back meanwhile count, too, but for `drops_stale`."""
        table: Table = self.table
        current: cython.bint = batch.epoch[i] == table.epoch[request]
        if not current and self.drops_stale:
            return 0
        accepted: cython.int = batch.accepted[i]
        if current:
            rejected: cython.int = batch.drafts[i] - accepted
            table.computed[request] -= rejected
            if self.asynchronous:
                table.placeholders[request] -= rejected + 1 + accepted
            elif self.drafting > 0:
                table.spec[request] = self.drafting
        left: cython.int
        for left in range(accepted, -1, -1):
            table.known[request] += 1
            table.delivered[request] += 1
            self.tell(request)
            reason: cython.int = self.reason_to_end(request)
            if reason > 0:
                batch.finished.append(request)
                if current:
                    table.computed[request] -= left  # what came after the end is not kept
                    self.settle(request)
                return self.conclude(request, reason)
        if current:
            return self.settle(request)
        return 0

    @cython.cfunc
    @cython.exceptval(check=False)
    def reason_to_end(self, request: cython.int) -> cython.int:
        """Return why a request ends with the token it just got, 0 where it goes on."""
        table: Table = self.table
        known: cython.longlong = table.known[request]
        if table.delivered[request] == table.osl[request] and known < table.most[request]:
            return BY_STOP
        return BY_LENGTH if known >= table.most[request] or known >= self.max_model_len else 0

    @cython.cfunc
    @cython.exceptval(-1)
    def tell(self, request: cython.int) -> cython.int:
        """Note when a token came."""
        table: Table = self.table
        if table.first[request] < 0:
            table.first[request] = self.now
        else:
            gap: cython.longlong = self.now - table.spoke[request]
            if gap != self.gap_a:
                self.note_gaps()
                self.gap_a = gap
            self.gap_weight += 1
        table.spoke[request] = self.now
        if self.record is not None:
            self.record.told(request, self.now)
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def note_gaps(self) -> cython.int:
        """Note the equal gaps counted so far."""
        if self.gap_weight > 0:
            self.gaps[0].append(self.gap_a)
            self.gaps[1].append(self.gap_weight)
            self.gap_weight = 0
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def conclude(self, request: cython.int, reason: cython.int) -> cython.int:
        """Let a request end: BY_LENGTH, BY_STOP (a stop token) or BY_ABORT (the client hung up)."""
        table: Table = self.table
        self.unfinished -= 1
        self.flush = True
        table.reason[request] = reason
        self.leave(request)
        table.status[request] = ENDED
        table.ended[request] = self.now
        table.last[request] = table.spoke[request]
        table.state[request] = ABORTED if reason == BY_ABORT else FINISHED
        if reason == BY_ABORT:
            table.outputs[request] = table.delivered[request]
        if self.clients is not None:
            self.clients.put(self.now)
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def receive(self, batch: Batch) -> cython.int:
        """Take in the KV transfers that a batch says are complete: those begun before it was sent off."""
        if not self.transfers:
            return 0
        kept: list[Any] = []
        for transfer in self.transfers:
            if transfer[3] <= batch.end and transfer[1] <= batch.number:
                self.arrived(transfer[0])
            else:
                kept.append(transfer)
        self.transfers = kept
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def send_off(
        self,
        request: cython.int,
        kind: str,
        duration: cython.longlong,
        tokens: cython.longlong,
        known: cython.longlong,
    ) -> cython.int:
        """Begin a KV transfer: `known` is the first batch that can tell of its end."""
        self.transfers.append((request, known, self.now, self.now + duration, tokens))
        if self.record is not None:
            self.record.transferred(request, kind, self.now, self.now + duration, tokens)
        return 0

    def all_gaps(self) -> tuple[list[int], list[int]]:
        """Return the inter-token gaps: how long, and how many were so in a row."""
        self.note_gaps()
        return self.gaps

    def counts(self) -> tuple[int, int, int, int, int]:
        """Return the counters: steps, jumps, scheduled tokens, preemptions, busy picoseconds."""
        return self.steps, 0, self.scheduled_tokens, self.preemptions, self.busy
