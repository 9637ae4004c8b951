# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True, nonecheck=False
# mypy: disable-error-code="untyped-decorator,misc"
# ruff: noqa: FBT003 - C functions take no keywords
"""TensorRT-LLM's schedulers on the general engine: one for capacity, one for the tokens of a step.

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
from headway.simulator.arrays import ints, view
from headway.types import TensorRtLlmSettings

COMPILED: bool = cython.compiled
WAITING = cython.declare(cython.schar, 0)
RUNNING = cython.declare(cython.schar, 1)


def most_tokens(replica: Any) -> int:
    """Return the tokens at which any request ends."""
    return int(replica.settings.max_model_len)


def refused(replica: Any, isl: Any, most: Any) -> Any:
    """Return which requests could never run to their end."""
    settings = replica.settings
    too_long = (isl > settings.max_num_batched_tokens) & (not settings.enable_chunked_prefill)
    return (most <= isl) | (-(-most // settings.block_size) > replica.num_gpu_blocks) | too_long


@cython.final
@cython.cclass
class Blocks:
    """KV blocks: an order in which they are taken, and a tree of names by which cached ones are found."""

    free: cython.longlong
    end: cython.int
    refs: cython.int[::1]
    before: cython.int[::1]  # free list; entry `end` closes the ring
    after: cython.int[::1]
    name: list[Any]  # None: not in the tree
    parent: cython.int[::1]
    child: cython.int[::1]  # its first
    older: cython.int[::1]  # siblings
    younger: cython.int[::1]
    found: dict[Any, Any]

    def __init__(self, number: int) -> None:
        self.free = self.end = number
        numbers = np.arange(number + 1, dtype=np.int32)
        self.before, self.after = view(np.roll(numbers, 1)), view(np.roll(numbers, -1))
        self.refs, self.parent, self.child = ints(number), ints(number, -1), ints(number, -1)
        self.older, self.younger = ints(number, -1), ints(number, -1)
        self.name, self.found = [None] * number, {}

    @cython.cfunc
    @cython.exceptval(-1)
    def take(self) -> cython.int:
        """Take the block that has been free for longest; what it cached is gone."""
        block: cython.int = self.after[self.end]
        self.unlink(block)
        self.leave_tree(block)
        self.refs[block] = 1
        return block

    @cython.cfunc
    @cython.exceptval(check=False)
    def unlink(self, block: cython.int) -> cython.int:
        """Take a block out of the free list."""
        self.after[self.before[block]] = self.after[block]
        self.before[self.after[block]] = self.before[block]
        self.free -= 1
        return 0

    @cython.cfunc
    @cython.exceptval(check=False)
    def touch(self, block: cython.int) -> cython.int:
        """Hold a cached block."""
        if self.refs[block] == 0:
            self.unlink(block)
        self.refs[block] += 1
        return 0

    @cython.cfunc
    @cython.exceptval(check=False)
    def release(self, block: cython.int) -> cython.int:
        """Let a block go: to the end of the free list."""
        self.refs[block] -= 1
        if self.refs[block] > 0:
            return 0
        ahead: cython.int = self.before[self.end]
        self.before[block] = ahead
        self.after[block] = self.end
        self.after[ahead] = block
        self.before[self.end] = block
        self.free += 1
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def enter_tree(self, block: cython.int, name: cython.longlong, parent: cython.int) -> cython.int:
        """Let a block be found by a name, below another (−1: by itself)."""
        self.name[block] = name
        self.found[name] = block
        self.parent[block] = parent
        if parent >= 0:
            first: cython.int = self.child[parent]
            self.younger[block] = first
            self.older[block] = -1
            if first >= 0:
                self.older[first] = block
            self.child[parent] = block
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def leave_tree(self, block: cython.int) -> cython.int:
        """Let a block no longer be found, nor what is below it: it can't be reached."""
        while self.child[block] >= 0:
            self.leave_tree(self.child[block])
        if self.name[block] is None:
            return 0
        del self.found[self.name[block]]
        self.name[block] = None
        parent: cython.int = self.parent[block]
        if parent >= 0:
            older: cython.int = self.older[block]
            younger: cython.int = self.younger[block]
            if older >= 0:
                self.younger[older] = younger
            else:
                self.child[parent] = younger
            if younger >= 0:
                self.older[younger] = older
        self.parent[block] = self.older[block] = self.younger[block] = -1
        return 0


@cython.final
@cython.cclass
class TensorRtLlm(Stepper):
    """One replica of TensorRT-LLM."""

    # settings
    max_batch_size: cython.int
    max_num_tokens: cython.longlong
    size: cython.longlong
    caching: cython.bint
    chunked: cython.bint
    no_evict: cython.bint
    in_turn: cython.bint  # chunks first come first served
    wait_steps: cython.longlong  # most that contexts wait for others
    wait_tokens: cython.double  # a batch with so many does not wait
    waited: cython.longlong
    # memory
    contents: Contents
    blocks: Blocks
    held: list[Any]  # by slot: its blocks
    count: cython.int[::1]  # by slot: how many
    prompt: cython.longlong[::1]  # by slot: tokens of its prompt; a pause makes outputs part of it
    whole: cython.longlong[::1]  # by slot: blocks at its full length
    # queues
    queue: Any
    active: list[Any]
    slots: list[Any]  # of `max_batch_size`, those without an active request

    def __init__(self, replica: Any, runs: Any, table: Table, record: Any) -> None:
        Stepper.__init__(self, replica, table, record)
        settings = replica.settings
        own = settings.own or TensorRtLlmSettings()
        self.max_batch_size, self.max_num_tokens = settings.max_num_seqs, settings.max_num_batched_tokens
        self.size = settings.block_size
        self.chunked = settings.enable_chunked_prefill
        self.no_evict = own.capacity_scheduler_policy == "GUARANTEED_NO_EVICT"
        # nothing is ever found where no contents are shared and nobody is thrown back
        self.caching = settings.enable_prefix_caching and (runs is not None or not self.no_evict)
        self.in_turn = own.context_chunking_policy == "FIRST_COME_FIRST_SERVED"
        self.wait_steps, self.waited = own.batch_wait_timeout_iters, 0
        self.wait_tokens = own.batch_wait_max_tokens_ratio * settings.max_num_batched_tokens
        self.contents, self.blocks = Contents(runs), Blocks(replica.num_gpu_blocks)
        self.held, self.count = [[] for _ in range(self.max_batch_size)], ints(self.max_batch_size)
        self.prompt, self.whole = (ints(self.max_batch_size, 0, np.int64) for _ in range(2))
        self.drops_stale = True
        self.queue, self.active, self.slots = deque(), [], list(range(self.max_batch_size))

    # --- what is asked of a request

    @cython.cfunc
    @cython.inline
    @cython.exceptval(check=False)
    def prompt_of(self, request: cython.int) -> cython.longlong:
        """Return the tokens of its context phase."""
        return self.prompt[self.table.holder[request]]

    @cython.cfunc
    @cython.inline
    @cython.exceptval(check=False)
    def begun(self, request: cython.int) -> cython.bint:
        """Return whether it holds memory."""
        return self.table.status[request] == RUNNING

    @cython.cfunc
    @cython.inline
    @cython.exceptval(check=False)
    def generating(self, request: cython.int) -> cython.bint:
        """Return whether its context phase is over (or under way to its end)."""
        return self.begun(request) and self.table.computed[request] >= self.prompt_of(request)

    @cython.cfunc
    @cython.inline
    @cython.exceptval(check=False)
    def complete(self, request: cython.int) -> cython.bint:
        """Return whether all its tokens are under way."""
        return self.table.known[request] + self.table.placeholders[request] >= self.table.most[request]

    @cython.cfunc
    @cython.inline
    @cython.exceptval(check=False)
    def ceiling(self, tokens: cython.longlong) -> cython.longlong:
        """Return the blocks that so many tokens need."""
        return (tokens + self.size - 1) // self.size

    @cython.cfunc
    @cython.inline
    @cython.exceptval(check=False)
    def to_completion(self, request: cython.int) -> cython.longlong:
        """Return the blocks it still takes if it runs to its end."""
        slot: cython.int = self.table.holder[request]
        return self.whole[slot] - self.count[slot]

    @cython.cfunc
    @cython.exceptval(check=False)
    def for_one_step(self, request: cython.int) -> cython.longlong:
        """Return the blocks it takes for its next step."""
        if not self.begun(request):
            return self.ceiling(self.prompt_of(request))
        if not self.generating(request):
            return 0
        computed: cython.longlong = self.table.computed[request]
        return self.ceiling(computed + 1) - self.ceiling(computed)

    @cython.cfunc
    @cython.exceptval(check=False)
    def name(self, request: cython.int, index: cython.longlong) -> cython.longlong:
        """Return what its index-th block is called."""
        return self.contents.key(request, (index + 1) * self.size - 1)

    # --- memory

    @cython.ccall
    def free_blocks(self) -> cython.longlong:
        """Return how many blocks nobody holds."""
        return self.blocks.free

    @cython.ccall
    def used_blocks(self) -> cython.longlong:
        """Return how many blocks requests hold."""
        return self.blocks.end - self.blocks.free

    @cython.cfunc
    @cython.exceptval(-1)
    def store(self, request: cython.int, tokens: cython.longlong) -> cython.int:
        """Let the full blocks of its first tokens be found, from the first on that is not."""
        if not self.caching:
            return 0
        blocks: list[Any] = self.held[self.table.holder[request]]
        parent: cython.int = -1
        there: cython.bint = True
        index: cython.longlong
        for index in range(tokens // self.size):
            name: cython.longlong = self.name(request, index)
            if there:
                found: Any = self.blocks.found.get(name)
                if found is not None:
                    parent = found
                    continue
                there = False
            block: cython.int = blocks[index]
            self.blocks.enter_tree(block, name, parent)
            parent = block
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def release(self, request: cython.int) -> cython.int:
        """Let its blocks go, the last first; what it computed stays cached."""
        table: Table = self.table
        self.store(request, min(table.known[request] - 1, table.computed[request]))
        slot: cython.int = table.holder[request]
        for block in reversed(self.held[slot]):
            self.blocks.release(block)
        self.held[slot] = []
        self.count[slot] = 0
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def begin(self, request: cython.int) -> cython.longlong:
        """Take blocks for its whole prompt, cached ones first; return the tokens those hold."""
        held: list[Any] = []
        prompt: cython.longlong = self.prompt_of(request)
        if self.caching:
            index: cython.longlong
            for index in range((prompt - 1) // self.size):
                found: Any = self.blocks.found.get(self.name(request, index))
                if found is None:
                    break
                self.blocks.touch(found)
                held.append(found)
        cached: cython.longlong = len(held) * self.size
        while len(held) < self.ceiling(prompt):
            held.append(self.blocks.take())
        slot: cython.int = self.table.holder[request]
        self.held[slot] = held
        self.count[slot] = cython.cast(cython.int, len(held))
        return cached

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
        slot: cython.int = self.table.holder[request]
        if slot < 0:
            self.queue.remove(request)
            self.waiting -= 1
            return 0
        self.active.remove(request)
        if self.begun(request):
            self.running -= 1
            self.release(request)
        else:
            self.waiting -= 1
        self.slots.append(slot)
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def activate(self) -> cython.int:
        """Let requests of the queue be active while there are slots."""
        while self.queue and self.slots:
            request: cython.int = self.queue.popleft()
            slot: cython.int = self.slots.pop()
            self.table.holder[request] = slot
            self.prompt[slot] = self.table.isl[request]
            self.whole[slot] = self.ceiling(self.table.most[request])
            self.active.append(request)
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def settle(self, request: cython.int) -> cython.int:
        """A token has come: the first one says that the prompt is computed."""
        prompt: cython.longlong = self.prompt_of(request)
        if self.table.known[request] == prompt + 1:
            self.store(request, prompt)
        return 0

    # --- who may run

    @cython.cfunc
    def coming(self) -> set[Any]:
        """Return the first blocks that prompts under way will add to the cache."""
        names: set[Any] = set()
        if self.caching:
            for request in self.active:
                if self.begun(request) and not self.generating(request):
                    names.add(self.first_new(request))
        names.discard(None)
        return names

    @cython.cfunc
    def first_new(self, request: cython.int) -> object:
        """Return the name of the first full block of its prompt that is not cached, None where all are."""
        index: cython.longlong
        for index in range(self.prompt_of(request) // self.size):
            name: object = self.name(request, index)
            if name not in self.blocks.found:
                return name
        return None

    @cython.cfunc
    @cython.exceptval(-1)
    def better_later(self, request: cython.int, coming: set[Any]) -> cython.bint:
        """Return whether somebody ahead computes the block it would begin with."""
        if not self.caching or self.begun(request):
            return False
        name: object = self.first_new(request)
        if name is None:
            return False
        if name in coming:
            return True
        coming.add(name)
        return False

    @cython.cfunc
    def to_the_end(self) -> list[Any]:
        """Return who may run where nobody is ever thrown back: memory for all their tokens is kept."""
        coming: set[Any] = self.coming()
        fitting: list[Any] = []
        others: list[Any] = []
        left: cython.longlong = self.blocks.free
        for request in self.active:
            row: cython.int = request
            if not self.generating(row):
                others.append(request)
                continue
            left -= self.to_completion(row)
            if not self.complete(row):
                fitting.append(request)
        for request in others:
            if self.better_later(request, coming):
                continue
            needed: cython.longlong = self.to_completion(request)
            if needed > left:
                break
            fitting.append(request)
            left -= needed
        return fitting

    @cython.cfunc
    def for_now(self, batch: Batch) -> list[Any]:
        """Return who may run where the next step is all that counts; pause the last that have begun for it."""
        coming: set[Any] = self.coming()
        rows: list[Any] = [request for request in self.active if not self.complete(request)]
        fitting: list[Any] = []
        paused: list[Any] = []
        given: dict[Any, Any] = {}  # references a block would lose
        free: cython.longlong = self.blocks.free
        needed: cython.longlong = 0
        i: cython.Py_ssize_t = 0
        end: cython.Py_ssize_t = len(rows)
        while i < end:
            request: cython.int = rows[i]
            if self.better_later(request, coming):
                i += 1
                continue
            more: cython.longlong = self.for_one_step(request)
            if needed + more <= free:
                needed += more
                fitting.append(request)
                i += 1
                continue
            last: cython.Py_ssize_t = end - 1
            while last >= i and not self.begun(rows[last]):
                last -= 1
            if last < i:
                break
            end = last
            paused.append(rows[last])
            for block in self.held[self.table.holder[rows[last]]]:
                given[block] = given.get(block, 0) + 1
                if given[block] == self.blocks.refs[block]:
                    free += 1
        for request in paused:
            self.pause(batch, request)
        return fitting

    @cython.cfunc
    @cython.exceptval(-1)
    def pause(self, batch: Batch, request: cython.int) -> cython.int:
        """Throw a request back: its outputs become part of its prompt."""
        table: Table = self.table
        self.prompt[table.holder[request]] = table.known[request]
        self.release(request)
        table.status[request] = WAITING
        table.epoch[request] += 1
        table.computed[request] = table.placeholders[request] = 0
        table.preempted[request] += 1
        self.preemptions += 1
        self.running -= 1
        self.waiting += 1
        batch.preempted.append(request)
        return 0

    # --- with how many tokens

    @cython.cfunc
    @cython.exceptval(-1)
    def form(self, batch: Batch) -> cython.int:
        """Decide who runs, then with how many tokens: contexts first, then one token for each decode."""
        self.activate()
        fitting: list[Any] = self.to_the_end() if self.no_evict else self.for_now(batch)
        budget: cython.longlong = self.max_num_tokens
        contexts: list[Any] = []
        decodes: list[Any] = []
        for request in fitting:
            row: cython.int = request
            context: cython.bint = not self.generating(row)
            if not context or not self.chunked:
                tokens: cython.longlong = self.prompt_of(row) if context else 1
                if tokens > budget:
                    break
                budget -= tokens
            if context:
                contexts.append(request)
            else:
                decodes.append(request)
            if len(contexts) + len(decodes) >= self.max_batch_size:
                break
        if self.wait_steps > 0 and contexts and decodes and self.waits(contexts, len(decodes)):
            contexts = []
        self.run_contexts(batch, contexts, budget)
        for request in decodes:
            row = request
            if self.table.computed[row] % self.size == 0:
                slot: cython.int = self.table.holder[row]
                self.held[slot].append(self.blocks.take())
                self.count[slot] += 1
            batch.add(row, 1, 0, False)
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def waits(self, contexts: list[Any], decodes: cython.longlong) -> cython.bint:
        """Return whether context phases wait in this step for others to share it with."""
        tokens: cython.longlong = decodes
        for request in contexts:
            tokens += self.prompt_of(request)
        waiting: cython.bint = self.waited < self.wait_steps and tokens < self.wait_tokens
        self.waited = self.waited + 1 if waiting else 0
        return waiting

    @cython.cfunc
    @cython.exceptval(-1)
    def run_contexts(self, batch: Batch, contexts: list[Any], budget: cython.longlong) -> cython.int:
        """Let context phases go on: those that end now behind those that don't."""
        going: list[Any] = []
        ending: list[Any] = []
        for request, chunk in zip(contexts, self.chunks_of(contexts, budget), strict=True):
            done: cython.longlong = self.table.computed[request] if self.begun(request) else 0
            if done + chunk >= self.prompt_of(request):
                ending.append((request, chunk))
            elif chunk > 0:
                going.append((request, chunk))
        for request, chunk in going + ending:
            self.run_context(batch, request, chunk)
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def run_context(self, batch: Batch, request: cython.int, chunk: cython.longlong) -> cython.int:
        """Let one context phase begin or go on; what is cached shortens only its last chunk."""
        table: Table = self.table
        fresh: cython.bint = not self.begun(request)
        if fresh:
            cached: cython.longlong = self.begin(request)
            table.status[request] = RUNNING
            table.computed[request] = cached
            if table.cached[request] < 0:
                table.cached[request] = cython.cast(cython.int, cached)
            batch.admitted.append((request, cached))
            self.running += 1
            self.waiting -= 1
        tokens: cython.longlong = min(chunk, self.prompt_of(request) - table.computed[request])
        batch.add(request, cython.cast(cython.int, tokens), 0, fresh)
        return 0

    @cython.cfunc
    def chunks_of(self, contexts: list[Any], room: cython.longlong) -> list[Any]:
        """Return the tokens of each context phase in this step, as if nothing were cached."""
        left: list[Any] = []
        total: cython.longlong = 0
        longest: cython.longlong = 0
        for request in contexts:
            done: cython.longlong = self.table.computed[request] if self.begun(request) else 0
            tokens: cython.longlong = self.prompt_of(request) - done
            left.append(tokens)
            total += tokens
            longest = max(longest, tokens)
        if not self.chunked or (total <= room and longest <= self.max_num_tokens):
            return left
        chunks: list[Any] = self.served_in_turn(left, room) if self.in_turn else self.served_alike(left, room)
        return chunks

    @cython.cfunc
    def served_in_turn(self, left: list[Any], room: cython.longlong) -> list[Any]:
        """Return chunks where each takes all it can before the next is looked at; cut ones are whole blocks."""
        chunks: list[Any] = []
        for tokens in left:
            most: cython.longlong = min(room, self.max_num_tokens)
            chunk: cython.longlong = tokens if tokens <= most else most // self.size * self.size
            chunks.append(chunk)
            room -= chunk
        return chunks

    @cython.cfunc
    def served_alike(self, left: list[Any], room: cython.longlong) -> list[Any]:
        """Return chunks where all grow by a block in turn."""
        chunks: list[Any] = [0] * len(left)
        used: cython.longlong = 0
        gained: cython.bint = True
        i: cython.Py_ssize_t
        while used < room and gained:
            gained = False
            for i in range(len(left)):
                more: cython.longlong = min(self.size, left[i] - chunks[i])
                if used + more <= room and chunks[i] + more <= self.max_num_tokens:
                    chunks[i] += more
                    used += more
                    gained = gained or more > 0
        return chunks
