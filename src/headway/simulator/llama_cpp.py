# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True, nonecheck=False
# mypy: disable-error-code="untyped-decorator,misc"
# ruff: noqa: FBT003 - C functions take no keywords
"""llama.cpp's server on the general engine: so many slots, each with a context and a cache of its own.

The rules are in docs/concepts/policies.md.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import cython
import numpy as np

if cython.compiled:
    from cython.cimports.headway.simulator.radix import Contents
    from cython.cimports.headway.simulator.stepping import Batch, Stepper, Table
else:
    from headway.simulator.radix import Contents
    from headway.simulator.stepping import Batch, Stepper, Table
from headway.simulator.arrays import ints
from headway.types import LlamaCppSettings

COMPILED: bool = cython.compiled
WAITING = cython.declare(cython.schar, 0)
RUNNING = cython.declare(cython.schar, 1)


def most_tokens(replica: Any) -> int:
    """Return the tokens at which any request ends: those of a slot's context."""
    settings = replica.settings
    return int(min(settings.max_model_len, replica.num_gpu_blocks * settings.block_size // settings.max_num_seqs))


def refused(replica: Any, isl: Any, most: Any) -> Any:  # noqa: ARG001 - as the other engines
    """Return which requests leave no room for a token."""
    return most <= isl


@cython.final
@cython.cclass
class LlamaCpp(Stepper):
    """One llama-server."""

    slots: cython.int
    n_batch: cython.longlong
    size: cython.longlong
    pool: cython.longlong
    caching: cython.bint
    similarity: Any
    contents: Contents
    # by slot
    occupied: cython.schar[::1]
    fresh: cython.schar[::1]  # its prompt has not been looked at yet
    request: cython.int[::1]  # it serves
    owner: cython.int[::1]  # the request its cache has the first tokens of
    length: cython.longlong[::1]  # how many
    last_used: cython.longlong[::1]
    uses: cython.longlong
    # queues
    tasks: Any
    deferred: Any

    def __init__(self, replica: Any, runs: Any, table: Table, record: Any) -> None:
        Stepper.__init__(self, replica, table, record)
        settings = replica.settings
        own = settings.own or LlamaCppSettings()
        self.max_model_len = most_tokens(replica)
        self.slots, self.n_batch = settings.max_num_seqs, settings.max_num_batched_tokens
        self.size, self.pool = settings.block_size, replica.num_gpu_blocks
        self.caching, self.similarity = settings.enable_prefix_caching, np.float32(own.slot_prompt_similarity)
        self.contents = Contents(runs)
        self.occupied, self.fresh = ints(self.slots, 0, np.int8), ints(self.slots, 0, np.int8)
        self.request, self.owner = ints(self.slots, -1), ints(self.slots)
        self.length, self.last_used = ints(self.slots, 0, np.int64), ints(self.slots, -1, np.int64)
        self.uses = 0
        self.tasks, self.deferred = deque(), deque()

    @cython.ccall
    def used_blocks(self) -> cython.longlong:
        """Return the blocks that the caches of busy slots fill."""
        total: cython.longlong = 0
        slot: cython.int
        for slot in range(self.slots):
            if self.occupied[slot]:
                total += (self.length[slot] + self.size - 1) // self.size
        return total

    @cython.ccall
    def free_blocks(self) -> cython.longlong:
        """Return the other blocks."""
        return self.pool - self.used_blocks()

    # --- queues

    @cython.cfunc
    @cython.exceptval(-1)
    def enter(self, request: cython.int) -> cython.int:
        """Let a request that has just arrived queue up."""
        self.tasks.append(request)
        self.waiting += 1
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def leave(self, request: cython.int) -> cython.int:
        """Free the slot of a request that ended; the next of the deferred goes to the head of the line."""
        if self.table.status[request] == WAITING:
            self.waiting -= 1
            (self.tasks if request in self.tasks else self.deferred).remove(request)
            return 0
        self.running -= 1
        slot: cython.int = self.table.holder[request]
        self.occupied[slot] = False
        self.uses += 1
        self.last_used[slot] = self.uses
        if self.deferred:
            self.tasks.appendleft(self.deferred.popleft())
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def find_slot(self, request: cython.int) -> cython.int:
        """Return the free slot whose cache has most of a prompt, else the one not used for longest, −1: none is."""
        table: Table = self.table
        best: cython.longlong = 0
        alike: cython.int = -1
        oldest: cython.int = -1
        slot: cython.int
        for slot in range(self.slots):
            if self.occupied[slot]:
                continue
            common: cython.longlong = self.common(slot, request)
            if common > best:
                best = common
                alike = slot
            if oldest < 0 or self.last_used[slot] <= self.last_used[oldest]:
                oldest = slot
        if alike >= 0 and 0 < self.similarity < np.float32(best) / np.float32(table.isl[request]):
            return alike
        return oldest

    @cython.cfunc
    @cython.exceptval(check=False)
    def common(self, slot: cython.int, request: cython.int) -> cython.longlong:
        """Return how many of a prompt's first tokens are in the cache of a slot."""
        limit: cython.longlong = min(self.length[slot], self.table.isl[request])
        return self.contents.common(self.owner[slot], request, limit)

    # --- a batch

    @cython.cfunc
    @cython.exceptval(-1)
    def pop(self) -> cython.int:
        """Take in the outputs of a batch in the order of slots."""
        batch: Batch = self.ring[self.ring_head]
        i: cython.int
        j: cython.int
        for i in range(1, batch.count):
            j = i
            while j > 0 and self.table.holder[batch.request[j]] < self.table.holder[batch.request[j - 1]]:
                self.swap(batch, j)
                j -= 1
        return Stepper.pop(self)

    @cython.cfunc
    @cython.exceptval(check=False)
    def swap(self, batch: Batch, j: cython.int) -> cython.int:
        """Swap an entry with the one before."""
        i: cython.int = j - 1
        batch.request[i], batch.request[j] = batch.request[j], batch.request[i]
        batch.tokens[i], batch.tokens[j] = batch.tokens[j], batch.tokens[i]
        batch.samples[i], batch.samples[j] = batch.samples[j], batch.samples[i]
        batch.epoch[i], batch.epoch[j] = batch.epoch[j], batch.epoch[i]
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def form(self, batch: Batch) -> cython.int:
        """Give slots to who waits; then a token for each slot that generates, then prompts in the order of slots."""
        self.hand_out()
        left: cython.longlong = self.n_batch
        slot: cython.int
        for slot in range(self.slots):
            if self.occupied[slot] and not self.fresh[slot] and self.length[slot] >= self.table.isl[self.request[slot]]:
                self.length[slot] += 1
                batch.add(self.request[slot], 1, 0, False)
                left -= 1
        decoding: cython.int = batch.count
        at: cython.int = 0
        for slot in range(self.slots):
            if at < decoding and batch.request[at] == self.request[slot] and self.occupied[slot]:
                at += 1
            elif self.occupied[slot] and left > 0:
                left -= self.read_prompt(batch, slot, left)
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def hand_out(self) -> cython.int:
        """Give each task a slot; defer those for which there is none."""
        for _ in range(len(self.tasks)):
            request: cython.int = self.tasks.popleft()
            slot: cython.int = self.find_slot(request)
            if slot < 0:
                self.deferred.append(request)
                continue
            self.occupied[slot] = self.fresh[slot] = True
            self.request[slot] = request
            self.table.holder[request] = slot
            self.table.status[request] = RUNNING
            self.waiting -= 1
            self.running += 1
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def read_prompt(self, batch: Batch, slot: cython.int, left: cython.longlong) -> cython.longlong:
        """Let a slot take what is left of its prompt and of the batch; return how many tokens that is."""
        table: Table = self.table
        request: cython.int = self.request[slot]
        admitted: cython.bint = self.fresh[slot]
        if admitted:
            cached: cython.longlong = min(self.common(slot, request), table.isl[request] - 1) if self.caching else 0
            self.fresh[slot] = False
            self.owner[slot] = request
            self.length[slot] = cached
            table.computed[request] = cached
            table.cached[request] = cython.cast(cython.int, cached)
            batch.admitted.append((request, cached))
        tokens: cython.longlong = min(left, table.isl[request] - self.length[slot])
        self.length[slot] += tokens
        batch.add(request, cython.cast(cython.int, tokens), 0, admitted)
        return tokens
