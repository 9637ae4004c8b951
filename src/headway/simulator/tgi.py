# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True, nonecheck=False
# mypy: disable-error-code="untyped-decorator,misc"
# ruff: noqa: FBT003 - C functions take no keywords
"""TGI's batching on the general engine: blocks for all outputs at admission, prefills that pause decodes or ride along.

The rules are in docs/concepts/policies.md. KV is counted in tokens, in blocks of `block_size`.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import cython
import numpy as np

if cython.compiled:
    from cython.cimports.headway.simulator.radix import Contents, Node, Radix
    from cython.cimports.headway.simulator.stepping import Batch, Stepper, Table
else:
    from headway.simulator.radix import Contents, Node, Radix
    from headway.simulator.stepping import Batch, Stepper, Table
from headway.types import TgiSettings

COMPILED: bool = cython.compiled
WAITING = cython.declare(cython.schar, 0)
RUNNING = cython.declare(cython.schar, 1)
NO_LIMIT = cython.declare(cython.longlong, 1 << 40)


def most_tokens(replica: Any) -> int:
    """Return the tokens at which any request ends."""
    return int(replica.settings.max_model_len)


def refused(replica: Any, isl: Any, most: Any) -> Any:
    """Return which requests could never be admitted."""
    settings, size = replica.settings, replica.settings.block_size
    too_long = (isl > -(-settings.max_num_batched_tokens // size) * size) & (not settings.enable_chunked_prefill)
    return (most <= isl) | (-(-(most - 1) // size) > replica.num_gpu_blocks) | too_long


@cython.final
@cython.cclass
class Tgi(Stepper):
    """One replica of TGI."""

    # settings
    max_batch_size: cython.longlong
    max_prefill: cython.longlong
    size: cython.longlong
    pool: cython.longlong
    caching: cython.bint
    chunked: cython.bint
    max_waiting_tokens: cython.longlong
    ratio: Any
    # memory
    contents: Contents
    trie: Radix
    free: cython.longlong
    held: dict[Any, Any]  # request -> (node, tokens that were cached, tokens in blocks)
    reserved: cython.longlong  # tokens in blocks of the running batch, shared ones as often as they are shared
    # queues
    queue: Any
    rows: list[Any]  # the batch that goes on
    next: dict[Any, Any]  # request -> tokens it takes in its next step
    coming: cython.longlong  # their sum
    must_decode: cython.bint
    waiting_tokens: cython.longlong

    def __init__(self, replica: Any, runs: Any, table: Table, record: Any) -> None:
        Stepper.__init__(self, replica, table, record)
        settings = replica.settings
        own = settings.own or TgiSettings()
        self.max_batch_size, self.max_prefill = settings.max_num_seqs, settings.max_num_batched_tokens
        self.size, self.caching = settings.block_size, settings.enable_prefix_caching
        self.pool = self.free = replica.num_gpu_blocks * settings.block_size
        self.chunked = settings.enable_chunked_prefill
        self.max_waiting_tokens, self.ratio = own.max_waiting_tokens, np.float32(own.waiting_served_ratio)
        self.contents = Contents(runs)
        self.trie = Radix(self.contents, self.size, True)
        self.held, self.next = {}, {}
        self.reserved = self.coming = 0
        self.queue, self.rows = deque(), []
        self.must_decode, self.waiting_tokens = False, 0

    # --- memory

    @cython.ccall
    def free_blocks(self) -> cython.longlong:
        """Return the blocks that nobody holds."""
        return (self.free + self.trie.evictable) // self.size

    @cython.ccall
    def used_blocks(self) -> cython.longlong:
        """Return the blocks that requests hold."""
        return self.pool // self.size - self.free_blocks()

    @cython.cfunc
    @cython.exceptval(check=False)
    def whole(self, tokens: cython.longlong) -> cython.longlong:
        """Return tokens rounded up to whole blocks."""
        return (tokens + self.size - 1) // self.size * self.size

    @cython.cfunc
    @cython.exceptval(-1)
    def reserve(self, request: cython.int) -> cython.bint:
        """Take blocks for a prompt and all outputs asked for; return whether there were enough."""
        node: Node = self.trie.root
        cached: cython.longlong = 0
        if self.caching:
            cached = self.trie.match(request, self.table.isl[request] // self.size * self.size)
            node = self.trie.end
        if self.reserve_behind(request, node, cached):
            return True
        if cached > 0 and not self.held:  # the node its prefix ends in is locked whole; TGI would wait for ever
            return self.reserve_behind(request, self.trie.root, 0)
        return False

    @cython.cfunc
    @cython.exceptval(-1)
    def reserve_behind(self, request: cython.int, node: Node, cached: cython.longlong) -> cython.bint:
        """Take the blocks behind a cached prefix."""
        tokens: cython.longlong = self.whole(self.table.most[request] - 1)
        self.trie.lock(node)
        if self.free < tokens - cached:
            self.free += self.trie.evict(tokens - cached - self.free)
        if self.free < tokens - cached:
            self.trie.unlock(node)
            return False
        self.free -= tokens - cached
        self.held[request] = (node, cached, tokens)
        return True

    @cython.cfunc
    @cython.exceptval(-1)
    def give_back(self, request: cython.int, keep: cython.bint) -> cython.int:
        """Let the blocks of a request go; `keep` its prompt cached."""
        node: Node
        cached: cython.longlong
        tokens: cython.longlong
        node, cached, tokens = self.held.pop(request)
        self.trie.unlock(node)
        self.free += tokens - cached
        if keep and self.caching and self.table.isl[request] > cached:
            prompt: cython.longlong = self.table.isl[request] // self.size * self.size
            self.free -= prompt - self.trie.insert(request, prompt)
        return 0

    # --- queues

    @cython.cfunc
    @cython.exceptval(-1)
    def enter(self, request: cython.int) -> cython.int:
        """Let a request that has just arrived queue up."""
        self.queue.append(request)
        self.waiting += 1
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def leave(self, request: cython.int) -> cython.int:
        """Free the memory and the place of a request that ended."""
        if self.table.status[request] == WAITING:
            self.queue.remove(request)
            self.waiting -= 1
            return 0
        self.running -= 1
        self.rows.remove(request)
        self.coming -= self.next.pop(request)
        self.reserved -= self.held[request][2]
        return self.give_back(request, self.table.computed[request] >= self.table.isl[request])

    # --- batches

    @cython.cfunc
    @cython.exceptval(-1)
    def form(self, batch: Batch) -> cython.int:
        """Let new requests in where it is their turn, else let everybody go on."""
        if self.queue and not (self.must_decode and self.rows) and self.let_in(batch):
            return 0
        self.must_decode = False
        self.waiting_tokens += 1
        return self.go_on(batch)

    @cython.cfunc
    @cython.exceptval(-1)
    def let_in(self, batch: Batch) -> cython.bint:
        """Prefill new requests, with the running batch where prompts are cut, without it where they are not."""
        least: cython.longlong = 0
        most: cython.longlong = self.max_batch_size
        budget: cython.longlong = self.max_prefill
        if self.rows and self.chunked:
            most = NO_LIMIT
            budget -= self.coming
        elif self.rows:
            if self.waiting_tokens < self.max_waiting_tokens:
                least = int(np.float32(len(self.rows)) * self.ratio)
            most = max(0, most - len(self.rows))
        if self.reserved >= self.pool + self.size:  # TGI counts shared blocks as often as they are shared
            return False
        new: list[Any] = self.next_batch(least, most, budget)
        if not new:
            return False
        if self.rows:
            self.must_decode = True
            if self.chunked:
                self.go_on(batch)
        for request, tokens in new:
            self.begin(batch, request, tokens)
        self.waiting_tokens = 1
        if self.chunked:
            self.plan(batch)
        return True

    @cython.cfunc
    def next_batch(self, least: cython.longlong, most: cython.longlong, budget: cython.longlong) -> list[Any]:
        """Take requests from the head of the line while blocks and the budget last; return them and their tokens."""
        new: list[Any] = []
        if budget <= 0 or most == 0 or len(self.queue) < least:
            return new
        budget = self.whole(budget)
        while self.queue:
            request: cython.int = self.queue[0]
            if not self.reserve(request):
                break
            left: cython.longlong = self.table.isl[request] - self.cached_of(request)
            tokens: cython.longlong = left
            if tokens > budget:
                tokens = budget if self.chunked else 0
            if tokens == 0:
                self.give_back(request, False)
                break
            self.queue.popleft()
            new.append((request, tokens))
            budget -= tokens
            if tokens < left or len(new) == most:
                break
        if len(new) < least:
            for request, _ in reversed(new):
                self.give_back(request, False)
                self.queue.appendleft(request)
            return []
        return new

    @cython.cfunc
    @cython.exceptval(-1)
    def cached_of(self, request: cython.int) -> cython.longlong:
        """Return the prompt tokens that need not be computed: never all of them."""
        cached: cython.longlong = self.held[request][1]
        return min(cached, self.table.isl[request] - 1)

    @cython.cfunc
    @cython.exceptval(-1)
    def begin(self, batch: Batch, request: cython.int, tokens: cython.longlong) -> cython.int:
        """Let a new request run."""
        table: Table = self.table
        cached: cython.longlong = self.cached_of(request)
        table.status[request] = RUNNING
        table.computed[request] = cached
        table.cached[request] = cython.cast(cython.int, cached)
        batch.admitted.append((request, cached))
        batch.add(request, cython.cast(cython.int, tokens), 0, True)
        self.running += 1
        self.waiting -= 1
        self.rows.append(request)
        self.reserved += self.held[request][2]
        self.next[request] = 1
        self.coming += 1
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def go_on(self, batch: Batch) -> cython.int:
        """Let everybody take the tokens planned."""
        prefilling: cython.bint = False
        for request in self.rows:
            prefilling = prefilling or self.table.computed[request] < self.table.isl[request]
            batch.add(request, self.next[request], 0, False)
        if prefilling:
            self.plan(batch)
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def plan(self, batch: Batch) -> cython.int:
        """Plan the next tokens of all: what is left of prompts within the budget, from the newest on."""
        table: Table = self.table
        room: cython.longlong = self.max_prefill - (len(self.rows) - 1)
        i: cython.Py_ssize_t
        self.coming = 0
        for i in range(len(self.rows) - 1, -1, -1):
            request: cython.int = self.rows[i]
            now: cython.longlong = batch.tokens[i] if i < batch.count else 0
            left: cython.longlong = table.isl[request] - table.computed[request] - now
            tokens: cython.longlong = 1
            if left > 0:
                tokens = max(1, min(left, room))
                room -= tokens
            self.next[request] = tokens
            self.coming += tokens
        return 0
