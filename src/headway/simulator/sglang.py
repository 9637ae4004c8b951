# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True, nonecheck=False
# mypy: disable-error-code="untyped-decorator,misc"
# ruff: noqa: FBT003 - C functions take no keywords
"""SGLang's scheduler on the general engine: prefill before decode, part of the output to come reserved, retraction.

The rules are in docs/concepts/policies.md. KV is counted in tokens, in pages of `block_size`.
"""

from __future__ import annotations

from typing import Any

import cython
import numpy as np

if cython.compiled:
    from cython.cimports.headway.simulator.radix import Contents, Node, Radix
    from cython.cimports.headway.simulator.stepping import Batch, Line, Stepper, Table
else:
    from headway.simulator.radix import Contents, Node, Radix
    from headway.simulator.stepping import Batch, Line, Stepper, Table
from headway.simulator.arrays import grown, ints
from headway.types import SglangSettings

COMPILED: bool = cython.compiled
WAITING = cython.declare(cython.schar, 0)
RUNNING = cython.declare(cython.schar, 1)
ENDED = cython.declare(cython.schar, 4)
CLIP = cython.declare(cython.longlong, 4096)  # SGLANG_CLIP_MAX_NEW_TOKENS_ESTIMATION
RETRACT_STEPS = cython.declare(cython.longlong, 20)  # SGLANG_RETRACT_DECODE_STEPS
SHARED_ENOUGH = cython.declare(cython.longlong, 32)  # IN_BATCH_PREFIX_CACHING_*_THRESHOLD
SORTED_AT_MOST = cython.declare(cython.int, 128)  # more waiting requests are taken as they came
LAST = cython.declare(cython.longlong, 1 << 40)
# verdicts on a waiting request
GO_ON = cython.declare(cython.int, 0)
NO_TOKEN = cython.declare(cython.int, 1)
OTHER = cython.declare(cython.int, 2)


def most_tokens(replica: Any) -> int:
    """Return the tokens at which any request ends (`max_req_len` less one)."""
    settings = replica.settings
    return int(min(settings.max_model_len, replica.num_gpu_blocks * settings.block_size)) - 2


def refused(replica: Any, isl: Any, most: Any) -> Any:
    """Return which requests could never be admitted."""
    page, tokens = replica.settings.block_size, replica.num_gpu_blocks * replica.settings.block_size
    return (most <= isl) | (isl + np.minimum(most - isl, 4096) + page >= tokens)


@cython.final
@cython.cclass
class Sglang(Stepper):
    """One replica of SGLang."""

    # settings
    max_seqs: cython.int
    page: cython.longlong
    pool: cython.longlong
    caching: cython.bint
    by_prefix: cython.bint
    chunk_size: cython.longlong  # 0: prompts are never cut
    most_input: cython.longlong
    most_requests: cython.int  # 0: no limit
    first_ratio: cython.double
    least_ratio: cython.double
    decay: cython.double
    # memory, in tokens
    contents: Contents
    tree: Radix
    free: cython.longlong
    held: cython.longlong[::1]  # by holder: KV slots
    shared: cython.longlong[::1]  # of them in the tree
    fresh: cython.schar[::1]  # its prefill goes into the tree when its first token comes
    ends: list[Any]  # the node a holder holds
    spare_holders: list[Any]
    # queues
    mail: list[Any]  # arrived, not looked at yet
    every: cython.int  # decode steps between two looks
    looked: cython.int  # decode steps since
    filled: cython.bint  # the batch before was a prefill: the next step looks
    line: Line
    active: list[Any]  # decoding
    last: list[Any]  # of the prefill batch before this one
    chunked: cython.int  # the request whose prompt is cut, −1: none
    full: cython.bint
    ratio: cython.double
    # of the prefill batch being formed
    reserved: cython.double
    taken: cython.longlong
    input_left: cython.longlong
    chunk_left: cython.longlong
    cut: cython.int
    tokens: cython.longlong

    def __init__(self, replica: Any, runs: Any, table: Table, record: Any) -> None:
        Stepper.__init__(self, replica, table, record)
        settings = replica.settings
        own = settings.own or SglangSettings()
        self.max_model_len, self.drops_stale = most_tokens(replica), True
        self.max_seqs, self.page = settings.max_num_seqs, settings.block_size
        self.free = self.pool = replica.num_gpu_blocks * settings.block_size
        self.caching = settings.enable_prefix_caching
        self.by_prefix = own.schedule_policy == "lpm" and settings.enable_prefix_caching
        self.chunk_size = max(own.chunked_prefill_size, 0)
        self.most_input, self.most_requests = own.max_prefill_tokens, own.prefill_max_requests or 0
        self.first_ratio = min(0.7 * own.schedule_conservativeness, 1.0)
        self.least_ratio = 0.14 * self.first_ratio
        self.decay = (self.first_ratio - self.least_ratio) / 600
        self.ratio = self.first_ratio
        self.contents = Contents(runs)
        self.tree = Radix(self.contents, self.page, False)
        self.held, self.shared, self.fresh = ints(16, 0, np.int64), ints(16, 0, np.int64), ints(16, 0, np.int8)
        self.ends = [self.tree.root] * 16
        self.spare_holders = list(range(15, -1, -1))
        self.mail, self.every, self.looked, self.filled = [], own.scheduler_recv_interval, 0, False
        self.line = Line(table, False)
        self.active, self.last = [], []
        self.chunked, self.full = -1, False

    # --- memory

    @cython.ccall
    def free_blocks(self) -> cython.longlong:
        """Return the pages that are free or would be at once."""
        return (self.free + self.tree.evictable) // self.page

    @cython.ccall
    def used_blocks(self) -> cython.longlong:
        """Return the pages that requests hold."""
        return self.pool // self.page - self.free_blocks()

    @cython.cfunc
    @cython.exceptval(check=False)
    def pages(self, tokens: cython.longlong) -> cython.longlong:
        """Return tokens rounded up to whole pages."""
        return (tokens + self.page - 1) // self.page * self.page

    @cython.cfunc
    @cython.exceptval(-1)
    def hold(self, request: cython.int, node: Node, prefix: cython.longlong) -> cython.int:
        """Let a request hold its cached prefix."""
        if not self.spare_holders:
            size = self.held.shape[0]
            self.held, self.shared, self.fresh = grown(self.held), grown(self.shared), grown(self.fresh)
            self.ends += [self.tree.root] * size
            self.spare_holders = list(range(2 * size - 1, size - 1, -1))
        holder: cython.int = self.spare_holders.pop()
        self.table.holder[request] = holder
        self.held[holder] = self.shared[holder] = prefix
        self.ends[holder] = node
        self.fresh[holder] = False
        self.tree.lock(node)
        return 0

    @cython.cfunc
    @cython.exceptval(check=False)
    def private(self, holder: cython.int) -> cython.longlong:
        """Return the tokens in pages that a request holds for itself."""
        return self.pages(self.held[holder]) - self.shared[holder]

    @cython.cfunc
    @cython.exceptval(-1)
    def extend(self, holder: cython.int, tokens: cython.longlong) -> cython.int:
        """Take slots for so many more tokens."""
        before: cython.longlong = self.private(holder)
        self.held[holder] += tokens
        self.free -= self.private(holder) - before
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def cache(self, request: cython.int) -> cython.int:
        """Put what a request has computed into the tree; it goes on."""
        if not self.caching:
            return 0
        holder: cython.int = self.table.holder[request]
        whole: cython.longlong = self.held[holder] // self.page * self.page
        there: cython.longlong = self.tree.insert(request, whole)
        self.free += max(0, there - self.shared[holder])
        self.tree.match(request, whole)
        node: Node = self.tree.end
        old: Node = self.ends[holder]
        self.tree.unlock(old)
        self.tree.lock(node)
        self.ends[holder] = node
        self.shared[holder] = whole
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def release(self, request: cython.int, keep: cython.bint) -> cython.int:
        """Let a request's memory go; `keep` its tokens in the tree."""
        holder: cython.int = self.table.holder[request]
        private: cython.longlong = self.private(holder)
        if keep and self.caching:
            whole: cython.longlong = self.held[holder] // self.page * self.page
            there: cython.longlong = self.tree.insert(request, whole)
            private -= whole - max(there, self.shared[holder])
        self.free += private
        old: Node = self.ends[holder]
        self.tree.unlock(old)
        self.table.holder[request] = -1
        self.spare_holders.append(holder)
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def make_room(self, tokens: cython.longlong) -> cython.bint:
        """Evict where too little is free; return whether so many tokens are."""
        if self.free < tokens:
            self.free += self.tree.evict(tokens)
        return self.free >= tokens

    # --- queues

    @cython.cfunc
    @cython.exceptval(-1)
    def enter(self, request: cython.int) -> cython.int:
        """Let a request that has just arrived queue up."""
        if self.unfinished == 1:  # an idle engine has forgotten
            self.ratio = self.first_ratio
        if self.every > 1:
            self.mail.append(request)
        else:
            self.line.push(request)
        self.waiting += 1
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def leave(self, request: cython.int) -> cython.int:
        """Free the memory and the place of a request that ended."""
        if self.table.status[request] == WAITING:
            if request in self.mail:
                self.mail.remove(request)
            else:
                self.line.remove(request)
            self.waiting -= 1
            return 0
        self.running -= 1
        if request == self.chunked:
            self.chunked = -1
        return self.release(request, True)

    @cython.cfunc
    @cython.exceptval(-1)
    def settle(self, request: cython.int) -> cython.int:
        """A token has come: the first one says that the prefill is done."""
        holder: cython.int = self.table.holder[request]
        if self.fresh[holder]:
            self.fresh[holder] = False
            self.cache(request)
        return 0

    # --- a batch

    @cython.cfunc
    @cython.exceptval(-1)
    def form(self, batch: Batch) -> cython.int:
        """Form a prefill batch if there can be one, else let everybody decode."""
        if self.every > 1:
            self.look()
        if self.chunked >= 0:
            self.cache(self.chunked)
        self.join()
        self.filled = self.prefill(batch)
        if not self.filled:
            self.decode_all(batch)
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def look(self) -> cython.int:
        """Let in what has arrived, every so many decode steps, after each prefill, and where nobody runs."""
        self.looked += 1
        if self.looked < self.every and not self.filled and self.running > 0:
            return 0
        self.looked = 0
        for request in self.mail:
            self.line.push(request)
        self.mail = []
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def join(self) -> cython.int:
        """Let those of the last prefill batch decode."""
        for request in self.last:
            if self.table.status[request] == ENDED or request == self.chunked:
                self.full = False
            else:
                self.active.append(request)
        if self.last:
            self.last = []
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def prefill(self, batch: Batch) -> cython.bint:
        """Fill a prefill batch; return whether anybody is in it."""
        if (self.full or self.line.size == 0) and self.chunked < 0:
            return False
        seats: cython.int = self.max_seqs - cython.cast(cython.int, len(self.active))
        if seats <= 0 and self.chunked < 0:
            self.full = True
            return False
        if self.by_prefix:
            self.sort_by_prefix()
        self.open_batch()
        if self.chunked >= 0:
            self.go_on(batch)
        self.let_in(batch, seats)
        if batch.count == 0:
            return False
        if self.cut >= 0:
            self.chunked = self.cut
        self.take_slots(batch)
        return True

    @cython.cfunc
    @cython.exceptval(-1)
    def let_in(self, batch: Batch, seats: cython.int) -> cython.int:
        """Take in waiting requests, in order, until one does not fit."""
        verdict: cython.int = GO_ON
        request: cython.int = self.line.head
        while request >= 0 and verdict == GO_ON:
            if batch.count >= seats:
                self.full = True
            if self.full:
                break
            after: cython.int = self.table.newer[request]
            verdict = self.admit(batch, request)
            request = after
        if verdict == NO_TOKEN:
            self.full = True
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def open_batch(self) -> cython.int:
        """Reckon what the running requests may still need."""
        self.reserved = 0.0
        self.taken = 0
        self.input_left, self.chunk_left = self.most_input, self.chunk_size
        self.cut = -1
        for request in self.active:
            row: cython.int = request
            to_come: cython.longlong = min(self.table.most[row] - self.table.known[row], CLIP)
            self.reserved += to_come * self.ratio
        return 0

    @cython.cfunc
    @cython.exceptval(check=False)
    def available(self) -> cython.longlong:
        """Return the tokens that are free or would be at once."""
        return self.free + self.tree.evictable

    @cython.cfunc
    @cython.exceptval(-1)
    def charge_for(self, tokens: cython.longlong, outputs: cython.longlong) -> cython.int:
        """Count one request against what the batch may take."""
        tokens = self.pages(tokens)
        self.reserved += tokens + self.page + outputs
        self.taken += tokens + self.page
        self.input_left -= tokens
        self.chunk_left -= tokens
        return 0

    @cython.cfunc
    @cython.exceptval(check=False)
    def outputs_of(self, request: cython.int) -> cython.longlong:
        """Return the outputs a request asked for, as far as the scheduler looks."""
        return min(self.table.most[request] - self.table.isl[request], CLIP)

    @cython.cfunc
    @cython.exceptval(-1)
    def go_on(self, batch: Batch) -> cython.int:
        """Take the next chunk of the prompt under way."""
        request: cython.int = self.chunked
        left: cython.longlong = self.table.known[request] - self.held[self.table.holder[request]]
        room: cython.longlong = min(self.chunk_left, cython.cast(cython.longlong, self.available() - self.reserved))
        if room <= 0:
            room = self.chunk_left
        batch.add(request, cython.cast(cython.int, min(left, room)), 0, False)
        if left > room:
            return self.charge_for(room, 0)
        self.chunked = -1
        return self.charge_for(left, self.outputs_of(request))

    @cython.cfunc
    @cython.exceptval(-1)
    def admit(self, batch: Batch, request: cython.int) -> cython.int:
        """Take a waiting request in if it fits; return whether the next one is looked at."""
        table: Table = self.table
        prefix: cython.longlong = 0
        if self.caching:  # who is looked at touches the cache, taken in or not
            prefix = self.tree.match(request, table.known[request] - 1)
        if self.most_requests > 0 and batch.count >= self.most_requests:
            return OTHER
        node: Node = self.tree.end
        self.tree.lock(node)
        verdict: cython.int = self.judge(batch, request, prefix)
        self.tree.unlock(node)
        if self.tokens == 0:
            return verdict
        self.line.remove(request)
        self.waiting -= 1
        self.running += 1
        table.status[request] = RUNNING
        table.computed[request] = prefix
        if table.cached[request] < 0:
            table.cached[request] = cython.cast(cython.int, prefix)
        batch.admitted.append((request, prefix))
        self.hold(request, node, prefix)
        batch.add(request, cython.cast(cython.int, self.tokens), 0, True)
        if prefix + self.tokens < table.known[request]:
            self.cut = request
            self.charge_for(self.tokens, 0)
        else:
            self.charge_for(self.tokens, self.outputs_of(request))
        if not (self.available() - self.reserved > 0 and self.available() - self.taken > 0):
            return NO_TOKEN
        if self.input_left <= 0 or (self.chunk_size > 0 and self.chunk_left <= 0):
            return OTHER
        return GO_ON

    @cython.cfunc
    @cython.exceptval(-1)
    def judge(self, batch: Batch, request: cython.int, prefix: cython.longlong) -> cython.int:
        """Set `tokens` to what a waiting request takes in this batch; 0: it stays, for the reason returned."""
        table: Table = self.table
        extend: cython.longlong = table.known[request] - prefix
        outputs: cython.longlong = min(max(table.most[request] - table.known[request], 0), CLIP)
        self.tokens = 0
        if not (extend + outputs + self.page < self.available() - self.reserved):
            return NO_TOKEN
        if self.chunk_size == 0:
            if batch.count > 0 and self.pages(extend) >= self.input_left:
                return OTHER
            self.tokens = extend
        elif self.pages(extend) <= self.chunk_left:
            self.tokens = extend
        else:
            self.tokens = max(0, self.chunk_left)  # whole pages
        return OTHER

    @cython.cfunc
    @cython.exceptval(-1)
    def take_slots(self, batch: Batch) -> cython.int:
        """Take the KV slots of a prefill batch."""
        total: cython.longlong = 0
        i: cython.int
        for i in range(batch.count):
            total += batch.tokens[i]
        self.make_room(total + (batch.count * self.page if self.page > 1 else 0))
        for i in range(batch.count):
            request: cython.int = batch.request[i]
            holder: cython.int = self.table.holder[request]
            self.extend(holder, batch.tokens[i])
            self.fresh[holder] = request != self.chunked
            self.last.append(request)
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def decode_all(self, batch: Batch) -> cython.int:
        """Let every running request take a token; where memory is short, retract some first."""
        before: cython.Py_ssize_t = len(self.active)
        self.active = [request for request in self.active if self.table.status[request] != ENDED]
        if not self.active:
            self.full = False
            return 0
        if self.make_room(self.needed(self.active)):
            self.ratio = max(self.ratio - self.decay, self.least_ratio)
        else:
            self.retract(batch)
        if len(self.active) < before:
            self.full = False
        for request in self.active:
            self.extend(self.table.holder[request], 1)
            batch.add(request, 1, 0, False)
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def needed(self, requests: list[Any]) -> cython.longlong:
        """Return the tokens, in pages, of one more step of all of them."""
        total: cython.longlong = 0
        for request in requests:
            if self.held[self.table.holder[request]] % self.page == 0:
                total += self.page
        return total

    @cython.cfunc
    @cython.exceptval(-1)
    def retract(self, batch: Batch) -> cython.int:
        """Throw back who has generated least (of equals, the longest prompt) until one more step fits."""
        table: Table = self.table
        ranked: list[Any] = []
        for request in self.active:
            ranked.append((table.isl[request] - table.known[request], table.isl[request], len(ranked), request))
        ranked.sort()
        order: list[Any] = [entry[3] for entry in ranked]
        while True:
            row: cython.int = order.pop()
            self.release(row, False)
            self.make_room(len(order) * RETRACT_STEPS)
            table.status[row] = WAITING
            table.epoch[row] += 1
            table.computed[row] = table.placeholders[row] = 0
            table.preempted[row] += 1
            self.preemptions += 1
            self.running -= 1
            self.waiting += 1
            self.line.push(row)
            batch.preempted.append(row)
            if self.make_room(self.needed(order)) or len(order) <= 1:
                break
        self.active = order
        decoded: cython.longlong = RETRACT_STEPS * len(order)
        allowed: cython.longlong = 1
        for request in order:
            decoded += table.known[request] - table.isl[request]
            allowed += table.most[request] - table.isl[request]
        self.ratio = min(1.0, cython.cast(cython.double, decoded) / cython.cast(cython.double, allowed))
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def sort_by_prefix(self) -> cython.int:
        """Put who has most in the cache first, and last who shares a prefix with somebody ahead that is not cached."""
        if self.line.size > SORTED_AT_MOST:
            return 0
        table: Table = self.table
        seen: list[Any] = []
        ranked: list[Any] = []
        request: cython.int = self.line.head
        while request >= 0:
            known: cython.longlong = table.known[request]
            matched: cython.longlong = self.tree.match(request, known)
            rank: cython.longlong = -min(matched, known - 1)
            if matched <= SHARED_ENOUGH:
                for other in seen:
                    if self.contents.common(other, request, min(known, table.known[other])) >= SHARED_ENOUGH:
                        rank = LAST
                        break
                else:
                    seen.append(request)
            ranked.append((rank, len(ranked), request))
            request = table.newer[request]
        ranked.sort()
        for _, _, row in ranked:
            self.line.remove(row)
            self.line.push(row)
        return 0
