"""vLLM's V1 scheduler, one call at a time, with lists and dictionaries: to be read, not to be fast.

Written from the rules alone (section numbers: SEMANTICS_VLLM). There is no prefill or decode phase: each call brings
a request's computed tokens towards the number of its known tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from naive_batch import Batch, Call, Item, Queue
from naive_pool import Pool
from naive_rows import ceil_div
from naive_rules import Limits

if TYPE_CHECKING:
    from collections.abc import Iterable

    from naive_pool import Table
    from naive_rows import Row

    from headway.types import Replica


class Scheduler:
    def __init__(self, replica: Replica) -> None:
        self.settings = replica.settings
        limits = self.limits = Limits(replica)
        self.rules = limits.rules
        self.pool = Pool(replica, limits)
        self.by_priority = self.settings.scheduling_policy == "priority"
        self.running: list[Row] = []
        self.waiting = Queue(self.by_priority)
        self.holding = Queue(self.by_priority)  # those that own blocks: their KV is being loaded or has just come
        self.calls = 0  # of schedule, so far; each makes a batch, if only an empty one
        self.writing = 0  # the last batch that computes anything, so far
        self.processed = 0  # the last batch whose output was processed
        self.since_prefill: int | None = None  # executed steps since one with a prefill
        self.capacity_bound = False
        self.ended_since_call = False
        self.held: list[tuple[int, int, Row]] = []  # (until, first batch to report it, ended request)
        self.orphans: set[Row] = set()  # whose client hung up while their KV is being loaded
        self.under_way: list[Row] = []  # loads, and prompts that were admitted in part, until the call that ends them
        self.started_loads: list[tuple[Row, int]] = []  # (request, tokens), by the last call

    # --- from outside ---------------------------------------------------------------------------------

    def add(self, row: Row) -> None:
        row.state = "waiting"
        self.waiting.rows.append(row)

    @property
    def waits(self) -> int:
        return len(self.waiting) + len(self.holding)

    @property
    def unfinished(self) -> int:
        return len(self.running) + self.waits

    @property
    def has_requests(self) -> bool:
        """Whether there is anything to call for: after an ending, to tell the workers; kept blocks, to have them back.

        The recordings show the latter: a producer's empty batches go on, and return held blocks in their time, before
        the next request arrives.
        """
        return bool(self.unfinished or self.ended_since_call or self.held or self.orphans)

    def end(self, row: Row, reason: str, now_ps: int) -> None:
        """An ending, by itself or by its client; its blocks may be needed for longer."""
        if row.state == "loading" and not row.has_come:
            self.orphans.add(row)
        for rows in (self.running, self.waiting.rows, self.holding.rows, self.under_way):
            if row in rows:
                rows.remove(row)
        row.state, row.reason, row.end_ps = "ended", reason, now_ps
        self.ended_since_call = True
        if self.limits.has_connector and row.tables:
            self.pool.leave_window(row, row.nc - row.fly)
        if self.limits.has_connector and reason == "length" and row.hold_ps is not None:
            self.held.append((now_ps + row.hold_ps, self.calls + 1, row))
        elif row not in self.orphans:
            self.release(row)

    def release(self, row: Row) -> None:
        is_in_flight = row.last_batch > self.processed
        self.pool.release(row, self.writing if self.limits.defers_frees and is_in_flight else None)

    # --- one call -------------------------------------------------------------------------------------

    def schedule(self, now_ps: int) -> Batch:
        self.calls += 1
        self.started_loads = []
        call = Call(
            tokens=self.limits.tokens,
            inputs=self.settings.max_num_batched_tokens,
            threshold=self.threshold(),
            is_held=self.holds_prefill(),
        )
        self.schedule_running(call)
        if not call.preempted:
            self.schedule_waiting(call)
        batch = Batch(self.calls, list(call.items.values()), call.admitted, call.preempted)
        self.settle(batch, call)
        self.ended_since_call = False
        return batch

    def threshold(self) -> int:
        settings, count = self.settings, self.unfinished
        threshold = settings.long_prefill_token_threshold
        if threshold <= 0 or (count == 1 and self.rules.lone_is_uncapped):
            return 0
        if settings.long_prefill_token_threshold_adaptive and self.rules.has_adaptive_threshold:
            return max(threshold, settings.max_num_batched_tokens // max(1, count))
        return threshold

    def holds_prefill(self) -> bool:
        """Section 2d: prefills come only in every so many steps, so that decodes are disturbed less.

        Being in the middle of a prefill is what `settle` found after a request's last step, here and elsewhere.
        """
        return (
            self.limits.interval > 1
            and self.since_prefill is not None
            and not self.capacity_bound
            and self.since_prefill + 1 < self.limits.interval
            and any(not row.is_chunk for row in self.running)
        )

    # --- running requests -----------------------------------------------------------------------------

    def schedule_running(self, call: Call) -> None:
        """Section 2a. Nobody is passed over because somebody before was preempted."""
        for row in list(self.running):
            if call.tokens <= 0 or call.inputs <= self.limits.draft_slots:
                return
            tokens = self.next_tokens(row, call) if row.state == "running" else 0
            if tokens <= 0:
                continue
            outcome = self.make_room(row, tokens, call)
            if outcome == "scheduled":
                self.charge(call, row, tokens)
            elif outcome == "stop" or not self.goes_on_after_self:
                return

    @property
    def goes_on_after_self(self) -> bool:
        return self.by_priority and self.rules.goes_on_after_self

    def next_tokens(self, row: Row, call: Call) -> int:
        """Tokens of a running request in this step; 0: it is passed over."""
        ends_in_flight = row.ph > 0 and row.nc + 2 - row.ph >= row.isl + row.max_tokens
        if ends_in_flight or self.calls < row.eligible or (call.is_held and row.is_chunk):
            return 0
        tokens = row.known + row.spec + row.ph - row.nc
        tokens = min(tokens, call.threshold) if call.threshold else tokens
        tokens = min(tokens, call.tokens, call.inputs - self.limits.draft_slots)
        return min(tokens, self.settings.max_model_len - row.nc - 1)

    def make_room(self, row: Row, tokens: int, call: Call) -> str:
        """Allocate, and preempt until it can be: "scheduled", "preempted itself" or "stop"."""
        until = min(row.nc + tokens + self.limits.lookahead, self.settings.max_model_len)
        self.pool.leave_window(row, row.nc - row.fly)
        while self.pool.lacks(row.tables, until) > len(self.pool.free):
            victim = self.running[-1]
            if self.by_priority:
                victim = max(self.running, key=lambda one: (one.priority, one.arrive_ps))
            if self.limits.defers_frees and victim.last_batch > self.processed:
                return "stop"
            self.preempt(victim, call)
            if victim is row:
                return "preempted itself"
        self.pool.grow(row, until)
        self.pool.register(row, min(row.nc + tokens, row.known))
        return "scheduled"

    def preempt(self, victim: Row, call: Call) -> None:
        self.running.remove(victim)
        if victim in self.under_way:
            self.under_way.remove(victim)
        refund = call.items.pop(victim, None)
        if refund is not None:
            call.tokens += refund.tokens
            call.inputs += refund.tokens + self.limits.draft_slots
        self.release(victim)
        victim.state = "preempted"
        victim.nc = victim.ph = victim.spec = 0
        if self.limits.drops_stale:
            victim.fly, victim.made = 0, victim.emitted
        victim.preemptions += 1
        call.preempted.append(victim)
        self.waiting.rows.appendleft(victim)

    def charge(self, call: Call, row: Row, tokens: int) -> None:
        drafts = max(0, min(row.spec, tokens + row.nc - row.known - row.ph))
        row.spec = 0
        self.put(call, Item(row, tokens, drafts))
        call.has_prefill |= row.is_chunk

    def put(self, call: Call, item: Item) -> None:
        call.items[item.row] = item
        call.tokens -= item.tokens
        call.inputs -= item.tokens + self.limits.draft_slots

    # --- waiting requests -----------------------------------------------------------------------------

    def schedule_waiting(self, call: Call) -> None:
        """Section 2c."""
        skipped: list[tuple[Queue, Row]] = []
        while call.tokens > 0 and call.inputs > self.limits.draft_slots and len(self.running) < self.limits.seats:
            queue = self.next_queue()
            if queue is None:
                break
            row = queue.head()
            if self.must_skip(row, call):
                skipped.append((self.queue_of_skipped(row, queue), row))
            elif not self.try_admit(row, call):
                break
            elif row.state == "loading":
                skipped.append((self.holding, row))
            queue.rows.remove(row)
        for queue, row in reversed(skipped):
            row.was_skipped = True  # until it is admitted
            queue.rows.appendleft(row)
        if not call.is_held:
            waiting = [*self.waiting.rows, *self.holding.rows]
            self.capacity_bound = any(not row.was_skipped for row in waiting)

    def queue_of_skipped(self, row: Row, queue: Queue) -> Queue:
        """Where it goes on waiting: a prompt of one token that was loaded holds nothing, as far as the queues go."""
        if not self.rules.holding_queue:
            return self.holding
        return self.waiting if row.state == "loaded" and row.nc == 0 else queue

    def next_queue(self) -> Queue | None:
        """Those whose KV has come go first; before 0.32, whoever was skipped before (the sooner, under priority)."""
        queues = [queue for queue in (self.holding, self.waiting) if queue]
        if len(queues) == 2 and self.by_priority and not self.rules.holding_queue:
            return min(queues, key=lambda queue: queue.head().rank)
        return queues[0] if queues else None

    def must_skip(self, row: Row, call: Call) -> bool:
        if row.state == "loading" and row.has_come:
            self.promote(row)
        if row.state == "loading" or row.fly > 0:
            return True
        most = self.settings.max_loras
        if most is None or row.adapter < 0:
            return False
        rows = self.running if self.rules.counts_running_loras else call.items
        adapters = {one.adapter for one in rows if one.adapter >= 0}
        return len(adapters) >= most and row.adapter not in adapters

    def try_admit(self, row: Row, call: Call) -> bool:
        """Admit the head of a queue; False: it stays, and nobody behind it is tried."""
        tables, computed = row.tables, row.nc
        if row.state != "loaded":  # a prompt of one token has nothing computed even then
            tables = self.pool.lookup(row)
            computed = len(tables[0]) * self.settings.block_size
            if self.limits.loads and row.is_remote:
                return self.load(row, tables)
        tokens = row.known - computed
        if call.is_held and tokens > 1:
            return False
        drafts = self.padding(computed, tokens, call)
        tokens += drafts
        budget = min(call.tokens, call.inputs - self.limits.draft_slots)
        if drafts and tokens > budget:
            return False
        tokens = min(tokens, call.threshold) if call.threshold else tokens
        if tokens > budget and not self.settings.enable_chunked_prefill:
            return False
        tokens = min(tokens, budget)
        if not self.fits(row, tables, computed + tokens + self.limits.lookahead, reserved=0):
            return False
        self.give(row, tables, computed + tokens + self.limits.lookahead)
        self.pool.register(row, min(computed + tokens, row.known))
        call.has_prefill |= computed < row.known - 1
        row.state, row.nc, row.was_skipped = "running", computed, False
        self.running.append(row)
        if computed + tokens < row.known and row not in self.under_way:
            self.under_way.append(row)
        call.admitted.append((row, computed))
        self.put(call, Item(row, tokens, drafts, is_admission=True))
        return True

    def padding(self, computed: int, tokens: int, call: Call) -> int:
        """Fake drafts, so that the batch has one shape: of an admission that has nothing but its last token to do."""
        scheduled = [row for row, item in call.items.items() if not item.is_admission]
        pads = (
            self.limits.drafts > 0
            and tokens == 1
            and not any(row.is_chunk for row in scheduled)
            and (scheduled or computed > 0)
            and computed + 1 + self.limits.drafts + 1 <= self.settings.max_model_len
        )
        return self.limits.drafts if pads else 0

    def fits(self, row: Row, tables: list[Table], until: int, *, reserved: int) -> bool:
        """Section 3: the blocks of all it knows, then those of this step, beside what must stay free."""
        free = len(self.pool.free) - (self.limits.watermark if self.running else 0)
        is_gated = self.settings.scheduler_reserve_full_isl and self.rules.has_full_isl_gate
        if is_gated and self.pool.missing(row.known, tables, in_all=True) > free:
            return False
        until = min(until, self.settings.max_model_len)
        return self.pool.missing(until, tables, in_all=False) <= free - reserved

    def give(self, row: Row, tables: list[Table], until: int) -> None:
        if row.tables is not tables:
            for hits in tables:
                self.pool.touch(hits)
            row.tables, row.registered = tables, [len(hits) for hits in tables]
        self.pool.grow(row, min(until, self.settings.max_model_len))

    # --- KV from elsewhere ----------------------------------------------------------------------------

    def load(self, row: Row, hits: list[Table]) -> bool:
        """Section 7: blocks for the whole prompt, once; it waits apart until its KV has come."""
        local = len(hits[0]) * self.settings.block_size
        hits = self.pool.without_past(hits, row.isl)
        if not self.fits(row, hits, row.isl, reserved=self.reserve()):
            return False
        self.started_loads.append((row, row.isl - local))
        self.give(row, hits, row.isl)
        row.state, row.nc, row.is_remote = "loading", row.isl, False
        self.under_way.append(row)
        return True

    def reserve(self) -> int:
        """Blocks that prompts and loads under way will still take, and one step of speculation."""
        settings, limits = self.settings, self.limits
        beyond = 1 + limits.drafts + limits.lookahead if limits.drafts else 0
        blocks = sum(
            self.pool.lacks(one.tables, min(one.known, settings.max_model_len) + beyond, in_all=True)
            for one in self.under_way
        )
        return blocks + ceil_div(beyond, settings.block_size) * len(self.pool.windows)

    def loaded(self, row: Row) -> None:
        """Its KV has come; it is known to the worker now, to the scheduler when it looks at the request again."""
        row.has_come = True
        if row in self.orphans:
            self.orphans.remove(row)
            self.release(row)

    def promote(self, row: Row) -> None:
        row.state, row.nc = "loaded", row.isl - 1
        self.pool.register(row, row.isl)

    def sent(self, row: Row) -> None:
        self.held = [one for one in self.held if one[2] is not row]
        self.release(row)

    # --- after the call -------------------------------------------------------------------------------

    def settle(self, batch: Batch, call: Call) -> None:
        """Section 2e: what was scheduled counts as computed at once."""
        if batch.items:
            self.writing = batch.number
            self.since_prefill = (
                0 if call.has_prefill else None if self.since_prefill is None else self.since_prefill + 1
            )
        for item in batch.items:
            row = item.row
            item.context, item.preemptions = row.nc, row.preemptions
            row.nc += item.tokens
            row.fly += item.tokens
            row.last_batch = batch.number
            row.is_chunk = row.nc < row.known + row.ph
            item.samples = not row.is_chunk
            if self.settings.async_scheduling and not row.is_chunk:
                row.ph += 1 + item.drafts
                row.spec = self.limits.drafts
                row.eligible = self.calls + self.settings.pipeline_parallel_size
        self.under_way = [row for row in self.under_way if row not in call.items or row.is_chunk]

    # --- output ---------------------------------------------------------------------------------------

    def process(self, batch: Batch, now_ps: int) -> list[Row]:
        """Section 5: deliver the tokens of a batch; return who ended."""
        self.processed = batch.number
        self.pool.processed(batch.number)
        ended = []
        for item in batch.items:
            row = item.row
            if row.state == "ended":
                continue
            is_stale = item.preemptions != row.preemptions
            if is_stale and self.limits.drops_stale:
                continue
            row.fly -= item.tokens
            if not is_stale:
                self.count(row, item)
            already = row.emitted
            reason = self.deliver(row, item, now_ps)
            if not is_stale:
                row.nc -= item.produced - (row.emitted - already)  # what came after the end is not kept
            if not is_stale:  # of a request that ends now, too: before its blocks are released
                self.register_output(row)
            if reason:
                row.finished, row.last_ps = True, now_ps
                self.end(row, reason, now_ps)
                ended.append(row)
        if not self.settings.async_scheduling:
            self.draft(batch.items)
        return ended

    def register_output(self, row: Row) -> None:
        """Give full blocks their keys by what is computed for certain."""
        if self.rules.registers_processed and (self.settings.async_scheduling or self.limits.drafts):
            self.pool.register(row, row.nc - row.fly)
        elif self.settings.async_scheduling:
            self.pool.register(row, row.nc - row.ph)

    def count(self, row: Row, item: Item) -> None:
        rejected = item.drafts - max(0, item.produced - 1)
        row.nc -= rejected
        if self.settings.async_scheduling and item.produced:
            row.ph -= rejected + item.produced

    def deliver(self, row: Row, item: Item, now_ps: int) -> str:
        for number in range(item.made, item.made + item.produced):
            row.emitted += 1
            row.delivered_ps.append(now_ps)
            row.first_ps = row.delivered_ps[0]
            if number + 1 == row.stops_at:
                return "stop"
            if row.known >= self.settings.max_model_len or row.emitted >= row.max_tokens:
                return "length"
        return ""

    def draft(self, items: Iterable[Item]) -> None:
        for item in items:
            if item.produced and item.row.state == "running" and not item.row.is_chunk:
                item.row.spec = self.limits.drafts
