# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True, nonecheck=False
# mypy: disable-error-code="untyped-decorator,misc"
# ruff: noqa: FBT003 - C functions take no keywords
"""vLLM's V1 scheduler, every feature of it, on the general engine.

    Pool     the KV blocks of a replica: a free list, and the cached blocks by key
    Vllm     one call of `form` is one call of the real scheduler: running requests first, then the waiting line

Written from the rules; equal to recorded schedules of the real scheduler in every field.
"""

from __future__ import annotations

from typing import Any

import cython
import numpy as np

if cython.compiled:
    from cython.cimports.headway.simulator.stepping import Batch, Line, Stepper, Table
else:
    from headway.simulator.stepping import Batch, Line, Stepper, Table
from headway.simulator.arrays import grown, ints, view
from headway.simulator.profiles import READS_AHEAD, profile_of

COMPILED: bool = cython.compiled
NEVER = cython.declare(cython.longlong, 1 << 62)
_MIX = cython.declare(cython.ulonglong, 0x9E3779B97F4A7C15)  # 2^64 / golden ratio: Knuth's multiplicative hashing
WAITING = cython.declare(cython.schar, 0)
RUNNING = cython.declare(cython.schar, 1)
LOADING = cython.declare(cython.schar, 2)
LOADED = cython.declare(cython.schar, 3)
ENDED = cython.declare(cython.schar, 4)
BY_LENGTH = cython.declare(cython.schar, 1)
NO_KEY = cython.declare(cython.longlong, -1)


def most_tokens(replica: Any) -> int:  # noqa: ARG001 - as the other policies'
    """Return the tokens at which any request ends: max_model_len ends it too, but the scheduler doesn't count on it."""
    return 1 << 60


def refused(replica: Any, isl: Any, tokens: Any) -> Any:
    """Return which requests leave no room for a token, or would not fit the blocks when alone.

    The last of a request's tokens is never put into the KV cache.
    """
    settings, speculation = replica.settings, replica.speculation
    size = settings.block_size
    ahead = speculation.num_speculative_tokens if speculation is not None and speculation.method != "ngram" else 0
    blocks = -(-np.minimum(tokens - 1 + ahead, settings.max_model_len) // size)
    groups = max(1, len(replica.kv_groups))
    return (tokens <= isl) | (blocks * groups > replica.num_gpu_blocks)


@cython.final
@cython.cclass
class Pool:
    """The KV blocks of a replica.

    The free list runs from the block taken next to the block taken last; a free block may still carry a key, and is
    then a cached one. Blocks of one key are chained in the order in which they were registered.
    """

    free: cython.longlong
    key: cython.longlong[::1]  # −1: none
    refs: cython.int[::1]
    before: cython.int[::1]  # free list; entry `end` closes the ring
    after: cython.int[::1]
    chain: cython.int[::1]
    bucket: cython.int[::1]
    end: cython.int
    uncached_first: cython.bint

    def __init__(self, number: int, uncached_first: bool) -> None:  # noqa: FBT001 - a version's switch
        self.free, self.end, self.uncached_first = number, number, uncached_first
        self.key, self.refs = ints(number, -1, np.int64), ints(number)
        self.chain = ints(number, -1)
        numbers = np.arange(number + 1, dtype=np.int32)
        self.before, self.after = view(np.roll(numbers, 1)), view(np.roll(numbers, -1))
        self.bucket = ints(1 << max(4, min(24, number.bit_length())), -1)

    @cython.cfunc
    @cython.inline
    @cython.exceptval(check=False)
    def place(self, key: cython.longlong) -> cython.longlong:
        """Return the bucket of a key."""
        mixed: cython.ulonglong = cython.cast(cython.ulonglong, key) * _MIX
        return cython.cast(cython.longlong, (mixed >> 32) & cython.cast(cython.ulonglong, self.bucket.shape[0] - 1))

    @cython.cfunc
    @cython.exceptval(check=False)
    def find(self, key: cython.longlong) -> cython.int:
        """Return the first block registered with a key, −1 where there is none."""
        block: cython.int = self.bucket[self.place(key)]
        while block >= 0 and self.key[block] != key:
            block = self.chain[block]
        return block

    @cython.cfunc
    @cython.exceptval(check=False)
    def register(self, block: cython.int, key: cython.longlong) -> cython.int:
        """Let a block be found by a key."""
        place: cython.longlong = self.place(key)
        self.key[block] = key
        self.chain[block] = -1
        last: cython.int = self.bucket[place]
        if last < 0:
            self.bucket[place] = block
            return 0
        while self.chain[last] >= 0:
            last = self.chain[last]
        self.chain[last] = block
        return 0

    @cython.cfunc
    @cython.exceptval(check=False)
    def forget(self, block: cython.int) -> cython.int:
        """Let a block no longer be found."""
        place: cython.longlong = self.place(self.key[block])
        other: cython.int = self.bucket[place]
        if other == block:
            self.bucket[place] = self.chain[block]
        else:
            while self.chain[other] != block:
                other = self.chain[other]
            self.chain[other] = self.chain[block]
        self.key[block] = NO_KEY
        return 0

    @cython.cfunc
    @cython.exceptval(check=False)
    def take(self) -> cython.int:
        """Take the block at the head of the free list; what it cached is gone."""
        block: cython.int = self.after[self.end]
        self.unlink(block)
        if self.key[block] != NO_KEY:
            self.forget(block)
        self.refs[block] = 1
        return block

    @cython.cfunc
    @cython.exceptval(check=False)
    def touch(self, block: cython.int) -> cython.int:
        """Hold a cached block."""
        if self.refs[block] == 0:
            self.unlink(block)
        self.refs[block] += 1
        return 0

    @cython.cfunc
    @cython.inline
    @cython.exceptval(check=False)
    def unlink(self, block: cython.int) -> cython.int:
        """Take a block out of the free list."""
        self.after[self.before[block]] = self.after[block]
        self.before[self.after[block]] = self.before[block]
        self.free -= 1
        return 0

    @cython.cfunc
    @cython.exceptval(check=False)
    def release(self, block: cython.int) -> cython.int:
        """Let a block go: a cached one to the end of the free list, another to its head."""
        self.refs[block] -= 1
        if self.refs[block] > 0:
            return 0
        ahead: cython.int = self.before[self.end]
        if self.key[block] == NO_KEY and self.uncached_first:
            ahead = self.end
        behind: cython.int = self.after[ahead]
        self.before[block] = ahead
        self.after[block] = behind
        self.after[ahead] = block
        self.before[behind] = block
        self.free += 1
        return 0


@cython.final
@cython.cclass
class Vllm(Stepper):
    """One replica of vLLM."""

    # settings
    max_seqs: cython.int
    max_num_batched_tokens: cython.longlong
    max_num_scheduled_tokens: cython.longlong
    block_size: cython.int
    chunked: cython.bint
    caching: cython.bint
    reserve: cython.bint
    priority: cython.bint
    threshold: cython.longlong
    adaptive: cython.bint
    lone_exempt: cython.bint
    prefill_every: cython.int
    watermark: cython.longlong
    max_loras: cython.int
    lookahead: cython.int
    hash_lookahead: cython.int
    drop_last_hit: cython.bint
    draft_slots: cython.int
    go_on_after_self: cython.bint
    loras_of_all: cython.bint
    registers_processed: cython.bint
    holds_apart: cython.bint
    window_tails: cython.bint
    deferring: cython.bint
    windowed: cython.bint  # some group keeps but a window
    # memory
    pool: Pool
    groups: cython.int
    windows: cython.longlong[::1]  # by group; 0: full attention
    most: cython.longlong[::1]  # by group: blocks an admission is asked for at most
    contiguous: cython.int[::1]  # by group: cached blocks in a row that make a hit
    rows: cython.int[:, ::1]  # blocks held, by holder and group; −1: outside the window, and gone
    count: cython.int[::1]  # how many in each group, by holder
    named: cython.int[::1]  # how many of them have been registered, by holder
    gone: cython.int[::1]  # how many left the windows, by holder and group
    spare_holders: list[Any]
    under_way: list[Any]  # loads, and prompts admitted in part, until the call that ends them (where KV is transferred)
    deferred: list[Any]  # (batch, blocks) that return when that batch is processed
    writing: cython.longlong  # the latest batch that writes to blocks
    # the ids of all requests, in blocks of this engine
    stride: cython.longlong
    first_key: cython.longlong[::1]
    counts_of: cython.longlong[::1]
    offset: cython.longlong[::1]
    hits: cython.int[:, ::1]  # by group
    hit: cython.int
    idle: cython.int  # how many of them nobody holds
    outside: cython.int[::1]  # by group: blocks before the window of what will have been computed
    junction: cython.int[::1]  # by request: the longest prefix some group had when not all did
    # queues
    order: cython.int[::1]
    line: Line
    holding: Line
    # one prefill in so many steps
    steps_since: cython.longlong
    capacity_bound: cython.bint
    aside: cython.schar[::1]  # by request: passed over since it began to wait
    asides: cython.int
    # one call of the scheduler
    tokens_left: cython.longlong
    inputs_left: cython.longlong
    chunk_limit: cython.longlong
    held: cython.bint
    prefilled: cython.bint
    position: cython.int
    scheduled_running: cython.int
    running_prefill: cython.bint
    padding: cython.int  # drafts a waiting request is padded with

    def __init__(self, replica: Any, ids: Any, table: Table, record: Any) -> None:
        Stepper.__init__(self, replica, table, record)
        profile = profile_of(replica.settings.version)
        settings, speculation = replica.settings, replica.speculation
        self.max_seqs = settings.max_num_active_seqs or settings.max_num_seqs
        self.max_num_batched_tokens = settings.max_num_batched_tokens
        self.max_num_scheduled_tokens = settings.max_num_scheduled_tokens or settings.max_num_batched_tokens
        self.block_size = settings.block_size
        self.chunked, self.caching = settings.enable_chunked_prefill, settings.enable_prefix_caching
        self.reserve = settings.scheduler_reserve_full_isl and profile.full_isl_gate
        self.priority = settings.scheduling_policy == "priority"
        self.threshold = settings.long_prefill_token_threshold
        self.adaptive = settings.long_prefill_token_threshold_adaptive
        self.lone_exempt = profile.lone_request_exempt
        self.prefill_every = settings.prefill_schedule_interval if profile.prefills_paced else 1
        self.watermark = int(settings.watermark * (replica.num_gpu_blocks + 1))  # the null block counts
        self.max_loras = settings.max_loras or 0
        self.go_on_after_self = profile.priority_goes_on
        self.loras_of_all = profile.loras_of_all_running
        self.registers_processed, self.window_tails = profile.registers_processed, profile.window_tails
        self.holds_apart = profile.holds_apart
        if self.stages > 1 and not profile.one_more_batch:
            self.depth = self.stages
        method = speculation.method if speculation is not None else "ngram"
        self.lookahead = 0 if method == "ngram" else self.drafting
        self.draft_slots = 1 if method == "draft_model" else 0
        transfer = replica.kv_transfer
        hashed_ahead = profile.lookahead_hashes and transfer is None
        self.hash_lookahead = 1 if method in READS_AHEAD and hashed_ahead else 0
        self.drop_last_hit = method in READS_AHEAD and not hashed_ahead
        self.deferring = transfer is not None and transfer.kv_role != "kv_producer" and self.depth > 1
        self.drops_stale = transfer is not None and transfer.kv_role != "kv_consumer"
        self.order, self.under_way, self.deferred, self.writing = ints(16), [], [], 0
        self.line, self.holding = Line(table, self.priority), Line(table, self.priority)
        self.steps_since, self.capacity_bound = 1 << 40, False
        self.aside, self.asides = ints(len(table.isl), 0, np.int8), 0
        self.lay_out(replica, profile, ids)

    def lay_out(self, replica: Any, profile: Any, ids: Any) -> None:
        """Make the block pool, the rows of blocks that requests hold, and the place for hits."""
        size, isl, osl = self.block_size, np.asarray(self.table.isl), np.asarray(self.table.osl)
        self.pool = Pool(replica.num_gpu_blocks, profile.uncached_first)
        windows = [group.window_tokens or 0 for group in replica.kv_groups] or [0]
        self.groups, self.windowed = len(windows), any(windows)
        # an admission asks a window group for what it holds at most: the window and what is in flight
        in_flight = self.depth * self.max_num_batched_tokens
        most = [-(-(window - 1 + in_flight) // size) + 1 if window else NEVER for window in windows]
        self.windows, self.most = view(np.array(windows, np.int64)), view(np.array(most, np.int64))
        self.contiguous = view(np.array([-(-(window - 1) // size) if window else 0 for window in windows], np.int32))
        # beyond its end a request may be in every batch in flight, before a stop token is seen
        longest = int(np.max(isl + osl, initial=1)) + self.lookahead + self.depth * (1 + self.drafting)
        width = min(longest + 1, self.max_model_len + 1) // size + 2
        self.rows = view(np.zeros((16 * self.groups, width), np.int32))
        self.hits = view(np.zeros((self.groups, width), np.int32))
        self.count, self.named, self.gone = ints(16), ints(16), ints(16 * self.groups)
        self.spare_holders = list(range(15, -1, -1))
        self.junction = ints(len(isl) if self.groups > 1 else 1)
        self.hit = self.idle = 0
        self.outside = ints(self.groups)
        self.stride = 0
        self.first_key = self.counts_of = self.offset = ints(1, 0, np.int64)
        if ids is not None and self.caching:
            self.stride = ids[0]
            self.offset, self.first_key, self.counts_of = (view(column) for column in ids[1:])

    # --- queues

    @cython.cfunc
    @cython.exceptval(-1)
    def enter(self, request: cython.int) -> cython.int:
        """Let a request that has just arrived queue up."""
        self.line.push(request)
        self.waiting += 1
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def run(self, request: cython.int) -> cython.int:
        """Move a request to the end of running."""
        self.recall(request)
        if self.running == self.order.shape[0]:
            self.order = grown(self.order)
        self.order[self.running] = request
        self.running += 1
        self.table.status[request] = RUNNING
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def retire(self, request: cython.int) -> cython.int:
        """Take a request out of running; return where it was."""
        i: cython.int = self.running - 1
        while self.order[i] != request:
            i -= 1
        where: cython.int = i
        self.running -= 1
        for i in range(where, self.running):
            self.order[i] = self.order[i + 1]
        return where

    @cython.cfunc
    @cython.exceptval(-1)
    def leave(self, request: cython.int) -> cython.int:
        """Free the memory and the place of a request that ended."""
        table: Table = self.table
        status: cython.schar = table.status[request]
        apart: cython.bint = status != WAITING or (self.aside[request] and not self.holds_apart)
        self.recall(request)
        if request in self.under_way:
            self.under_way.remove(request)
        if self.connected and self.windowed:
            self.slide(request)
        if status == RUNNING:
            self.retire(request)
        else:
            line: Line = self.holding if apart else self.line
            line.remove(request)
            self.waiting -= 1
        if status == LOADING:
            self.held_back += 1  # its blocks are being written
            return 0
        if table.hold[request] >= 0 and table.reason[request] == BY_LENGTH and status == RUNNING:
            self.held_back += 1
            self.send_off(request, "send", table.hold[request], 0, self.calls + 1)
            return 0
        return self.free_all(request)

    # --- memory

    @cython.cfunc
    @cython.exceptval(-1)
    def hold(self, request: cython.int) -> cython.int:
        """Give a request a row for its blocks."""
        if not self.spare_holders:
            size = self.count.shape[0]
            rows = np.asarray(self.rows)
            self.rows = view(np.concatenate([rows, np.zeros_like(rows)]))
            self.count, self.named, self.gone = grown(self.count), grown(self.named), grown(self.gone)
            self.spare_holders = list(range(2 * size - 1, size - 1, -1))
        holder: cython.int = self.spare_holders.pop()
        self.table.holder[request] = holder
        self.count[holder] = self.named[holder] = 0
        return holder

    @cython.cfunc
    @cython.exceptval(check=False)
    def blocks_of(self, tokens: cython.longlong) -> cython.int:
        """Return how many blocks so many tokens need in a group."""
        return cython.cast(cython.int, (min(tokens, self.max_model_len) + self.block_size - 1) // self.block_size)

    @cython.cfunc
    @cython.exceptval(check=False)
    def extend(self, holder: cython.int, blocks: cython.int) -> cython.int:
        """Let a request hold so many blocks in each group."""
        group: cython.int
        i: cython.int
        for group in range(self.groups):
            row: cython.int = holder * self.groups + group
            for i in range(max(self.count[holder], self.gone[row]), blocks):
                self.rows[row, i] = self.pool.take()
        self.count[holder] = max(self.count[holder], blocks)
        return 0

    @cython.cfunc
    @cython.exceptval(check=False)
    def slide(self, request: cython.int) -> cython.int:
        """Release the blocks that lie outside the windows of the tokens processed so far, tail first."""
        holder: cython.int = self.table.holder[request]
        if holder < 0:
            return 0
        processed: cython.longlong = self.table.computed[request] - self.table.flying[request]
        group: cython.int
        i: cython.int
        for group in range(self.groups):
            if self.windows[group] == 0:
                continue
            row: cython.int = holder * self.groups + group
            gone: cython.int = min(self.before_window(group, processed), self.count[holder])
            for i in range(gone - 1, self.gone[row] - 1, -1):
                self.pool.release(self.rows[row, i])
                self.rows[row, i] = -1
            self.gone[row] = max(gone, self.gone[row])
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def free_all(self, request: cython.int) -> cython.int:
        """Release the blocks of a request, group by group, tail first; of one in flight, once that is processed."""
        holder: cython.int = self.table.holder[request]
        if holder < 0:
            return 0
        self.table.holder[request] = -1
        blocks: list[Any] = []
        later: cython.bint = self.deferring and self.table.flying[request] > 0
        group: cython.int
        i: cython.int
        for group in range(self.groups):
            row: cython.int = holder * self.groups + (self.groups - 1 - group if later else group)
            for i in range(self.count[holder] - 1, self.gone[row] - 1, -1):
                if later:
                    blocks.append(self.rows[row, i])
                else:
                    self.pool.release(self.rows[row, i])
        if later:
            self.deferred.append((self.writing, blocks))
        self.spare_holders.append(holder)
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def done_with(self, number: cython.longlong) -> cython.int:
        """Let deferred blocks go once nothing in flight can write to them."""
        while self.deferred and self.deferred[0][0] <= number:
            for block in self.deferred.pop(0)[1]:
                self.pool.release(block)
        return 0

    @cython.ccall
    def free_blocks(self) -> cython.longlong:
        """Return how many blocks are free."""
        return self.pool.free

    @cython.ccall
    def used_blocks(self) -> cython.longlong:
        """Return how many blocks requests hold."""
        return self.pool.end - self.pool.free

    # --- prefix cache

    @cython.cfunc
    @cython.exceptval(check=False)
    def key_of(self, request: cython.int, index: cython.longlong, group: cython.int) -> cython.longlong:
        """Return the key of a request's block: its id, or one that nobody else has."""
        if self.stride > 0:
            run: cython.longlong = self.offset[request]
            end: cython.longlong = self.offset[request + 1]
            into: cython.longlong = index
            while run < end:
                if into < self.counts_of[run]:
                    return (self.first_key[run] + into * self.stride) * self.groups + group
                into -= self.counts_of[run]
                run += 1
        return -2 - (cython.cast(cython.longlong, request) << 30 | index) * self.groups - group

    @cython.cfunc
    @cython.exceptval(check=False)
    def match(self, request: cython.int) -> cython.int:
        """Find the longest prefix cached in all groups: sets `hits` and `hit`."""
        self.hit = 0
        if not self.caching:
            return 0
        self.hit = cython.cast(cython.int, (self.table.known[request] - 1) // self.block_size)
        group: cython.int
        agreed: cython.int = 0  # groups in a row that took the length as it was
        longest: cython.int = 0
        while agreed < self.groups:
            for group in range(self.groups):
                length: cython.int = self.match_group(request, group)
                agreed = agreed + 1 if length == self.hit else 1
                self.hit = length
                longest = max(longest, length)
        if self.groups > 1:
            self.junction[request] = longest if longest > self.hit else 0
        if self.drop_last_hit and self.hit > 0:
            self.hit -= 1
        return 0

    @cython.cfunc
    @cython.inline
    @cython.exceptval(check=False)
    def before_window(self, group: cython.int, computed: cython.longlong) -> cython.int:
        """Return how many blocks lie before the window of the token after so many computed."""
        if self.windows[group] == 0:
            return 0
        return cython.cast(cython.int, max(0, computed - self.windows[group] + 1) // self.block_size)

    @cython.cfunc
    @cython.exceptval(check=False)
    def weigh(self, computed: cython.longlong) -> cython.int:
        """Say what a hit is worth when so many tokens, hit or loaded, are computed: sets `outside` and `idle`."""
        self.idle = 0
        group: cython.int
        i: cython.int
        for group in range(self.groups):
            self.outside[group] = self.before_window(group, computed)
            for i in range(self.outside[group], self.hit):
                self.idle += self.pool.refs[self.hits[group, i]] == 0
        return 0

    @cython.cfunc
    @cython.exceptval(check=False)
    def match_group(self, request: cython.int, group: cython.int) -> cython.int:
        """Return the longest prefix of at most `hit` blocks that is cached in one group, and fill its `hits`."""
        i: cython.int = 0
        if self.windows[group] == 0:
            while i < self.hit:
                self.hits[group, i] = self.pool.find(self.key_of(request, i, group))
                if self.hits[group, i] < 0:
                    return i
                i += 1
            return i
        found: cython.int = 0
        for i in range(self.hit - 1, -1, -1):
            self.hits[group, i] = self.pool.find(self.key_of(request, i, group))
            found = found + 1 if self.hits[group, i] >= 0 else 0
            if found >= self.contiguous[group]:
                length: cython.int = i + found
                before: cython.int
                for before in range(i):
                    self.hits[group, before] = -1
                return length
        return found

    @cython.cfunc
    @cython.exceptval(check=False)
    def name(self, request: cython.int, tokens: cython.longlong) -> cython.int:
        """Register the full blocks among so many tokens."""
        if not self.caching:
            return 0
        holder: cython.int = self.table.holder[request]
        full: cython.longlong = min(tokens, self.table.known[request] - self.hash_lookahead) // self.block_size
        group: cython.int
        index: cython.int
        for group in range(self.groups):
            row: cython.int = holder * self.groups + group
            for index in range(max(self.named[holder], self.gone[row]), full):
                if self.windows[group] == 0 or not self.window_tails or self.kept(request, index, group):
                    self.pool.register(self.rows[row, index], self.key_of(request, index, group))
        self.named[holder] = max(self.named[holder], cython.cast(cython.int, full))
        return 0

    @cython.cfunc
    @cython.exceptval(check=False)
    def kept(self, request: cython.int, index: cython.int, group: cython.int) -> cython.bint:
        """Return whether a window group registers a block: only those a hit needs that ends where hits end.

        That is where a repetition of the prompt would end, and where the full-attention groups once found a longer
        prefix than this one (prefix_cache_retention_interval 0, the default since 0.33).
        """
        replay: cython.longlong = (self.table.isl[request] - 1) // self.block_size
        if replay - self.contiguous[group] <= index < replay:
            return True
        junction: cython.longlong = self.junction[request] if self.groups > 1 else 0
        return junction - self.contiguous[group] <= index < junction

    @cython.cfunc
    @cython.exceptval(-1)
    def settle(self, request: cython.int) -> cython.int:
        """Register the blocks whose tokens are known by now."""
        table: Table = self.table
        if self.registers_processed and (self.asynchronous or self.drafting > 0):
            self.name(request, table.computed[request] - table.flying[request])
        elif self.asynchronous:
            self.name(request, table.computed[request] - table.placeholders[request])
        return 0

    # --- the scheduler

    @cython.cfunc
    @cython.exceptval(-1)
    def form(self, batch: Batch) -> cython.int:
        """Decide who runs in the next batch: one call of the scheduler."""
        table: Table = self.table
        self.tokens_left, self.inputs_left = self.max_num_scheduled_tokens, self.max_num_batched_tokens
        self.chunk_limit = self.limit_of_chunks()
        self.held = self.prefills_held()
        self.prefilled = self.running_prefill = False
        preempted: cython.longlong = self.preemptions
        if self.connected:
            self.under_way = [i for i in self.under_way if table.status[i] != RUNNING or table.chunk[i]]
        self.form_running(batch)
        self.scheduled_running = batch.count
        if self.preemptions == preempted:
            self.form_waiting(batch)
        if batch.count > 0:
            self.writing = batch.number
            self.steps_since = 0 if self.prefilled else self.steps_since + 1
        return 0

    @cython.cfunc
    @cython.exceptval(check=False)
    def limit_of_chunks(self) -> cython.longlong:
        """Return the most tokens of one prompt in this step."""
        queued: cython.int = self.running + self.line.size + self.holding.size
        if self.threshold == 0 or (queued == 1 and self.lone_exempt):
            return NEVER
        if self.adaptive:
            return max(self.threshold, self.max_num_batched_tokens // max(queued, 1))
        return self.threshold

    @cython.cfunc
    @cython.exceptval(check=False)
    def prefills_held(self) -> cython.bint:
        """Return whether prompts pause in this step: one in `prefill_every` computes prompts while others decode."""
        if self.prefill_every <= 1 or self.capacity_bound or self.steps_since + 1 >= self.prefill_every:
            return False
        i: cython.int
        for i in range(self.running):  # noqa: SIM110 - C has no generators
            if not self.table.chunk[self.order[i]]:
                return True
        return False

    # running requests

    @cython.cfunc
    @cython.exceptval(-1)
    def form_running(self, batch: Batch) -> cython.int:
        """Schedule the running requests, in their order; who finds no blocks throws others out."""
        table: Table = self.table
        self.position = 0
        while self.position < self.running and self.tokens_left > 0 and self.inputs_left > self.draft_slots:
            request: cython.int = self.order[self.position]
            tokens: cython.longlong = self.wanted(request)
            if tokens <= 0:
                self.position += 1
                continue
            fits: cython.int = self.make_room(batch, request, table.computed[request] + tokens + self.lookahead)
            if fits == 0:
                return 0  # nothing more can run
            if fits < 0:
                continue  # it threw itself out; the next one is in its place
            self.name(request, table.computed[request] + tokens)
            drafts: cython.longlong = 0
            if table.spec[request] > 0:
                ahead: cython.longlong = tokens + table.computed[request] - table.known[request]
                drafts = max(0, min(table.spec[request], ahead - table.placeholders[request]))
                table.spec[request] = 0
            batch.add(request, cython.cast(cython.int, tokens), cython.cast(cython.int, drafts), False)
            if table.chunk[request]:  # in the middle of its prompt
                self.prefilled = self.running_prefill = True
            self.tokens_left -= tokens
            self.inputs_left -= tokens + self.draft_slots
            self.position += 1
        return 0

    @cython.cfunc
    @cython.exceptval(check=False)
    def wanted(self, request: cython.int) -> cython.longlong:
        """Return how many tokens a running request gets."""
        table: Table = self.table
        computed: cython.longlong = table.computed[request]
        placeholders: cython.longlong = table.placeholders[request]
        if placeholders > 0 and computed + 2 - placeholders >= table.most[request]:
            return 0  # what is in flight ends it for certain
        if self.stages > 1 and self.asynchronous and self.calls < table.eligible[request]:
            return 0
        if self.held and table.chunk[request]:
            return 0
        tokens: cython.longlong = table.known[request] + table.spec[request] + placeholders - computed
        tokens = min(tokens, self.chunk_limit, self.tokens_left, self.inputs_left - self.draft_slots)
        return min(tokens, self.max_model_len - computed - 1)

    @cython.cfunc
    @cython.exceptval(-2)
    def make_room(self, batch: Batch, request: cython.int, tokens: cython.longlong) -> cython.int:
        """Get blocks for a running request: 1 done, 0 there are none, −1 it was thrown out itself."""
        holder: cython.int = self.table.holder[request]
        blocks: cython.int = self.blocks_of(tokens)
        if self.windowed:
            self.slide(request)
        while (blocks - self.count[holder]) * self.groups > self.pool.free:
            victim: cython.int = self.victim()
            if self.deferring and self.table.flying[victim] > 0:
                return 0
            self.throw_out(batch, victim)
            if victim == request:
                return -1 if self.priority and self.go_on_after_self else 0
        self.extend(holder, blocks)
        return 1

    @cython.cfunc
    @cython.exceptval(check=False)
    def victim(self) -> cython.int:
        """Return whom to throw out: the last of running; with priorities, the one who may wait longest."""
        chosen: cython.int = self.order[self.running - 1]
        if not self.priority:
            return chosen
        table: Table = self.table
        i: cython.int
        for i in range(self.running - 2, -1, -1):
            other: cython.int = self.order[i]
            if table.priority[other] != table.priority[chosen]:
                if table.priority[other] > table.priority[chosen]:
                    chosen = other
            elif table.arrive[other] >= table.arrive[chosen]:
                chosen = other
        return chosen

    @cython.cfunc
    @cython.exceptval(-1)
    def throw_out(self, batch: Batch, request: cython.int) -> cython.int:
        """Preempt: the blocks go, what is in flight is stale, and the request waits again."""
        table: Table = self.table
        where: cython.int = self.retire(request)
        if where < self.position:
            self.position -= 1
            i: cython.int
            for i in range(batch.count):
                if batch.request[i] == request:  # it had its share of this step
                    self.tokens_left += batch.tokens[i]
                    self.inputs_left += batch.tokens[i] + self.draft_slots
            batch.strike(request)
        self.free_all(request)
        if request in self.under_way:
            self.under_way.remove(request)
        table.computed[request] = table.placeholders[request] = table.spec[request] = 0
        table.epoch[request] += 1
        table.status[request] = WAITING
        table.preempted[request] += 1
        self.preemptions += 1
        batch.preempted.append(request)
        self.line.push_back(request)
        self.waiting += 1
        return 0

    # waiting requests

    @cython.cfunc
    @cython.exceptval(-1)
    def form_waiting(self, batch: Batch) -> cython.int:
        """Admit from the waiting lines until the head does not fit: those with loaded KV, then the others."""
        table: Table = self.table
        moved: cython.int = -1
        held: cython.int = self.holding.head  # the next of each line
        other: cython.int = self.line.head
        while self.tokens_left > 0 and self.inputs_left > self.draft_slots and self.running < self.max_seqs:
            from_held: cython.bint = self.held_first(held, other)
            request: cython.int = held if from_held else other
            if request < 0:
                break
            line: Line = self.holding if from_held else self.line
            if from_held:
                held = table.newer[request]
            else:
                other = table.newer[request]
            if self.passed_over(batch, request):
                self.put_aside(request)
                if not self.holds_apart and not from_held:
                    self.line.remove(request)
                    self.holding.push(request)
                elif self.holds_apart and table.status[request] == LOADED and table.computed[request] == 0:
                    moved = self.queue_again(request, moved)
            elif not self.admit(batch, line, request):
                break
            elif table.status[request] == LOADING:
                self.put_aside(request)
        if not self.held:
            self.capacity_bound = self.waiting > self.asides
        return 0

    @cython.cfunc
    @cython.exceptval(check=False)
    def held_first(self, held: cython.int, other: cython.int) -> cython.bint:
        """Return whether the next to be tried is that of the line of those passed over."""
        if held < 0 or other < 0 or self.holds_apart or not self.priority:
            return held >= 0
        return self.line.sooner(held, other)

    @cython.cfunc
    @cython.exceptval(check=False)
    def queue_again(self, request: cython.int, behind: cython.int) -> cython.int:
        """Let a request whose only token was loaded queue with the others: to the scheduler it holds nothing."""
        self.holding.remove(request)
        self.table.status[request] = WAITING
        if self.priority:
            self.line.push(request)
        else:
            self.line.insert(request, behind)
        return request

    @cython.cfunc
    @cython.exceptval(check=False)
    def put_aside(self, request: cython.int) -> cython.int:
        """Note that a waiting request was passed over: it is not for want of room that it waits."""
        self.asides += 1 - self.aside[request]
        self.aside[request] = 1
        return 0

    @cython.cfunc
    @cython.exceptval(check=False)
    def recall(self, request: cython.int) -> cython.int:
        """Forget that a request was passed over."""
        self.asides -= self.aside[request]
        self.aside[request] = 0
        return 0

    @cython.cfunc
    @cython.exceptval(check=False)
    def passed_over(self, batch: Batch, request: cython.int) -> cython.bint:
        """Return whether a waiting request cannot run yet, whatever the room."""
        table: Table = self.table
        if table.status[request] == LOADING:
            return True
        if table.status[request] == LOADED:
            self.take_over(request)
        if table.flying[request] > 0 and not self.drops_stale:  # output of before it was thrown out is still to come
            return True
        if self.max_loras == 0 or table.adapter[request] < 0:
            return False
        i: cython.int
        kinds: cython.int = 0
        count: cython.int = self.running if self.loras_of_all else batch.count
        for i in range(count):
            adapter: cython.int = self.table.adapter[self.order[i] if self.loras_of_all else batch.request[i]]
            if adapter == table.adapter[request]:
                return False
            kinds += adapter >= 0 and not self.seen(batch, adapter, i)
        return kinds >= self.max_loras

    @cython.cfunc
    @cython.exceptval(check=False)
    def seen(self, batch: Batch, adapter: cython.int, count: cython.int) -> cython.bint:
        """Return whether an adapter is among those of the first `count` requests that hold one."""
        i: cython.int
        for i in range(count):
            if self.table.adapter[self.order[i] if self.loras_of_all else batch.request[i]] == adapter:
                return True
        return False

    @cython.cfunc
    @cython.exceptval(-1)
    def admit(self, batch: Batch, line: Line, request: cython.int) -> cython.bint:
        """Admit a waiting request, or start to load its KV; return whether there was room."""
        table: Table = self.table
        known: cython.longlong = table.known[request]
        computed: cython.longlong = table.computed[request]
        loaded: cython.bint = table.status[request] == LOADED
        self.hit = self.idle = 0
        if not loaded:
            self.match(request)
            computed = self.hit * self.block_size
            self.weigh(computed)
            if table.remote[request] == 1 and table.isl[request] > computed:
                return self.load(line, request, computed)
        tokens: cython.longlong = self.first_share(known, computed)
        if tokens == 0 or not self.has_room(request, known, computed + tokens + self.lookahead, 0):
            return False
        line.remove(request)
        self.waiting -= 1
        self.take_in(request, computed + tokens + self.lookahead)
        self.name(request, computed + tokens)
        self.run(request)
        table.computed[request] = computed
        if self.connected and not loaded and computed + tokens < known:
            self.under_way.append(request)
        if table.cached[request] < 0:
            table.cached[request] = cython.cast(cython.int, computed)
        batch.admitted.append((request, computed))
        batch.add(request, cython.cast(cython.int, tokens), self.padding, True)
        if computed < known - 1:
            self.prefilled = True
        self.tokens_left -= tokens
        self.inputs_left -= tokens + self.draft_slots
        return True

    @cython.cfunc
    @cython.exceptval(check=False)
    def first_share(self, known: cython.longlong, computed: cython.longlong) -> cython.longlong:
        """Return how many tokens a waiting request would get, 0 where it may not run; sets `padding`."""
        tokens: cython.longlong = known - computed
        budget: cython.longlong = min(self.tokens_left, self.inputs_left - self.draft_slots)
        self.padding = 0
        if self.held and computed < known - 1:
            return 0
        if self.padded(computed, tokens):
            self.padding = self.drafting
            tokens = 1 + self.drafting
            if tokens > budget:
                return 0
        tokens = min(tokens, self.chunk_limit)
        if tokens > budget and not self.chunked:
            return 0
        return min(tokens, budget)

    @cython.cfunc
    @cython.exceptval(check=False)
    def padded(self, computed: cython.longlong, tokens: cython.longlong) -> cython.bint:
        """Return whether a request with one token to go is padded with drafts, so that decodes stay uniform."""
        if self.drafting == 0 or tokens != 1 or self.running_prefill:
            return False
        if self.scheduled_running == 0 and computed == 0:
            return False
        return computed + 1 + self.drafting + 1 <= self.max_model_len

    @cython.cfunc
    @cython.exceptval(check=False)
    def has_room(
        self, request: cython.int, known: cython.longlong, tokens: cython.longlong, reserved: cython.longlong
    ) -> cython.bint:
        """Return whether the blocks are there: for all known tokens if so set, and for those of this step."""
        spared: cython.longlong = self.idle + (self.watermark if self.running > 0 else 0)
        if self.reserve and self.missing(request, known, True) + spared > self.pool.free:
            return False
        return self.missing(request, tokens, False) + spared <= self.pool.free - reserved

    @cython.cfunc
    @cython.exceptval(check=False)
    def missing(self, request: cython.int, tokens: cython.longlong, capped: cython.bint) -> cython.longlong:
        """Return how many blocks a waiting request would take; `capped`: windows let go of theirs on the way."""
        holder: cython.int = self.table.holder[request]
        total: cython.longlong = 0
        group: cython.int
        for group in range(self.groups):
            held: cython.longlong = self.count[holder] if holder >= 0 else max(self.hit, self.outside[group])
            blocks: cython.longlong = self.blocks_of(tokens)
            if capped:
                blocks = min(blocks, self.most[group])
            total += max(blocks - held, 0)
        return total

    @cython.cfunc
    @cython.exceptval(-1)
    def take_in(self, request: cython.int, tokens: cython.longlong) -> cython.int:
        """Hold what was found in the cache and take the blocks that are missing."""
        holder: cython.int = self.table.holder[request]
        if holder < 0:
            holder = self.hold(request)
            group: cython.int
            i: cython.int
            for group in range(self.groups):
                row: cython.int = holder * self.groups + group
                self.gone[row] = self.outside[group]
                for i in range(self.outside[group], self.hit):
                    self.rows[row, i] = self.hits[group, i]
                    self.pool.touch(self.hits[group, i])
            self.count[holder] = self.named[holder] = self.hit
        return self.extend(holder, self.blocks_of(tokens))

    # --- KV from elsewhere

    @cython.cfunc
    @cython.exceptval(-1)
    def load(self, line: Line, request: cython.int, computed: cython.longlong) -> cython.bint:
        """Take blocks for the whole prompt and let its KV come; return whether there was room."""
        table: Table = self.table
        tokens: cython.longlong = table.isl[request]
        self.weigh(tokens)
        if not self.has_room(request, table.known[request], tokens, self.reserved()):
            return False
        if line is not self.holding:
            line.remove(request)
            self.holding.push(request)
        self.take_in(request, tokens)
        table.remote[request] = 2  # asked for once
        table.status[request] = LOADING
        table.computed[request] = tokens
        self.under_way.append(request)
        missing: cython.longlong = tokens - computed
        self.send_off(request, "recv", self.base_ps + self.token_ps * missing, missing, self.calls)
        return True

    @cython.cfunc
    @cython.exceptval(check=False)
    def reserved(self) -> cython.longlong:
        """Return the blocks that prompts and loads under way will still take, and a step of speculation."""
        ahead: cython.longlong = 1 + self.drafting + self.lookahead if self.drafting > 0 else 0
        blocks: cython.longlong = self.groups * ((ahead + self.block_size - 1) // self.block_size)
        for request in self.under_way:
            blocks += self.to_come(request, ahead)
        return blocks

    @cython.cfunc
    @cython.exceptval(check=False)
    def to_come(self, request: cython.int, ahead: cython.longlong) -> cython.longlong:
        """Return the blocks that a request will still take for its known tokens and so many more."""
        tokens: cython.longlong = min(self.table.known[request], self.max_model_len) + ahead
        blocks: cython.longlong = (tokens + self.block_size - 1) // self.block_size
        held: cython.longlong = self.count[self.table.holder[request]]
        total: cython.longlong = 0
        group: cython.int
        for group in range(self.groups):
            total += max(0, min(blocks, self.most[group]) - held)
        return total

    @cython.cfunc
    @cython.exceptval(-1)
    def arrived(self, request: cython.int) -> cython.int:
        """The KV of a request has been loaded (or, on the sending side, fetched)."""
        if self.table.status[request] == ENDED:
            self.held_back -= 1
            return self.free_all(request)
        self.table.status[request] = LOADED
        return 0

    @cython.cfunc
    @cython.exceptval(check=False)
    def take_over(self, request: cython.int) -> cython.int:
        """Register what was loaded; the last token of the prompt is computed again, for the first output."""
        self.name(request, self.table.isl[request])
        self.table.computed[request] = self.table.isl[request] - 1
        return 0
