"""TensorRT-LLM: a capacity scheduler decides who may run, a micro-batch scheduler with how many tokens."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from engines.frame import Engine, Row, ceil_div

from headway.types import Replica, Requests, TensorRtLlmSettings


@dataclass(eq=False)
class Block:
    refs: int = 0
    name: object = None  # what it is found by; None: it is not in the tree
    parent: Block | None = None
    children: list[Block] = field(default_factory=list)

    def leave_tree(self, found: dict[object, Block]) -> None:
        """It holds something else from now on: what hangs below can no longer be reached, either."""
        for child in list(self.children):
            child.leave_tree(found)
        if self.name is not None:
            del found[self.name]
        if self.parent is not None:
            self.parent.children.remove(self)
        self.name, self.parent = None, None


class TensorRtLlm(Engine):
    def __init__(self, requests: Requests, replica: Replica) -> None:
        self.own: TensorRtLlmSettings = replica.settings.own or TensorRtLlmSettings()
        super().__init__(requests, replica)
        self.idle: deque[Block] = deque(Block() for _ in range(self.blocks))  # the next to be taken first
        self.found: dict[object, Block] = {}
        self.queue: deque[Row] = deque()
        self.active: list[Row] = []
        self.blocks_of: dict[Row, list[Block]] = {}  # of those that have begun
        self.waited = 0  # steps in a row in which contexts waited for others
        self.prompt = {row: row.isl for row in self.rows}  # grows by what was generated before a pause

    def refuses(self, row: Row) -> bool:
        too_long = not self.settings.enable_chunked_prefill and row.isl > self.settings.max_num_batched_tokens
        return row.declared < 1 or ceil_div(row.most, self.size) > self.blocks or too_long

    def counts(self) -> tuple[int, int, int]:
        running = len(self.blocks_of)
        return running, len(self.queue) + len(self.active) - running, len(self.idle)

    def enter(self, row: Row) -> None:
        self.queue.append(row)

    def leave(self, row: Row) -> None:
        if row in self.queue:
            self.queue.remove(row)
            return
        self.active.remove(row)
        if row in self.blocks_of:
            self.release(row)

    # --- blocks

    def take(self) -> Block:
        block = self.idle.popleft()
        block.leave_tree(self.found)
        block.refs = 1
        return block

    def store(self, row: Row, tokens: int) -> None:
        """Make the full blocks of its first tokens findable, from the first on that is not."""
        if not self.settings.enable_prefix_caching:
            return
        parent, known = None, True
        for index in range(tokens // self.size):
            name, block = row.block(index, self.size), self.blocks_of[row][index]
            known = known and name in self.found
            if known:
                parent = self.found[name]
                continue
            assert block.name is None and name not in self.found
            block.name, block.parent = name, parent
            if parent is not None:
                parent.children.append(block)
            self.found[name] = parent = block

    def release(self, row: Row) -> None:
        self.store(row, min(row.known - 1, row.computed))
        for block in reversed(self.blocks_of.pop(row)):
            block.refs -= 1
            if block.refs == 0:
                self.idle.append(block)

    def begin(self, row: Row) -> int:
        """Blocks for its whole prompt, cached ones first; return the tokens that were cached."""
        blocks: list[Block] = []
        if self.settings.enable_prefix_caching:
            for index in range((self.prompt[row] - 1) // self.size):
                block = self.found.get(row.block(index, self.size))
                if block is None:
                    break
                if block.refs == 0:
                    self.idle.remove(block)
                block.refs += 1
                blocks.append(block)
        cached = len(blocks) * self.size
        while len(blocks) < ceil_div(self.prompt[row], self.size):
            blocks.append(self.take())
        self.blocks_of[row] = blocks
        return cached

    # --- who may run

    def generating(self, row: Row) -> bool:
        return row in self.blocks_of and row.computed >= self.prompt[row]

    def done(self, row: Row) -> bool:
        """All its tokens are under way."""
        return row.known + row.ahead >= row.most

    def to_completion(self, row: Row) -> int:
        return ceil_div(row.most, self.size) - len(self.blocks_of.get(row, ()))

    def one_step(self, row: Row) -> int:
        if row not in self.blocks_of:
            return ceil_div(self.prompt[row], self.size)
        if not self.generating(row):
            return 0
        return ceil_div(row.computed + 1, self.size) - ceil_div(row.computed, self.size)

    def first_new(self, row: Row) -> object:
        """The first full block of its prompt that is not cached; None: they all are."""
        for index in range(self.prompt[row] // self.size):
            name = row.block(index, self.size)
            if name not in self.found:
                return name
        return None

    def better_later(self, row: Row, coming: set[object]) -> bool:
        """Whether somebody ahead computes the block it would begin with."""
        if not self.settings.enable_prefix_caching or row in self.blocks_of:
            return False
        name = self.first_new(row)
        if name is None:
            return False
        if name in coming:
            return True
        coming.add(name)
        return False

    def coming_blocks(self) -> set[object]:
        if not self.settings.enable_prefix_caching:
            return set()
        begun = [row for row in self.active if row in self.blocks_of and not self.generating(row)]
        return {self.first_new(row) for row in begun} - {None}

    def no_evict(self) -> list[Row]:
        coming = self.coming_blocks()
        rows = [row for row in self.active if not self.done(row)]
        fitting = [row for row in rows if self.generating(row)]
        left = len(self.idle) - sum(self.to_completion(row) for row in self.active if self.generating(row))
        for row in rows:
            if self.generating(row) or self.better_later(row, coming):
                continue
            needed = self.to_completion(row)
            if needed > left:
                break
            fitting.append(row)
            left -= needed
        return fitting

    def max_utilization(self) -> tuple[list[Row], list[Row]]:
        coming = self.coming_blocks()
        rows = [row for row in self.active if not self.done(row)]
        refs = {block: block.refs for blocks in self.blocks_of.values() for block in blocks}
        free, needed = len(self.idle), 0
        fitting: list[Row] = []
        paused: list[Row] = []
        i, end = 0, len(rows)
        while i < end:
            row = rows[i]
            if self.better_later(row, coming):
                i += 1
                continue
            if needed + self.one_step(row) <= free:
                needed += self.one_step(row)
                fitting.append(row)
                i += 1
                continue
            begun = [j for j in range(i, end) if rows[j] in self.blocks_of]
            if not begun:
                break
            end = begun[-1]
            paused.append(rows[end])
            for block in self.blocks_of[rows[end]]:
                refs[block] -= 1
                free += refs[block] == 0
        return fitting, paused

    # --- with how many tokens

    def chunks(self, rows: list[Row], room: int) -> dict[Row, int]:
        left = {row: self.prompt[row] - (row.computed if row in self.blocks_of else 0) for row in rows}
        limit = self.settings.max_num_batched_tokens
        if all(tokens <= limit for tokens in left.values()) and sum(left.values()) <= room:
            return left
        if self.own.context_chunking_policy == "FIRST_COME_FIRST_SERVED":
            chunk = {}
            for row, tokens in left.items():
                chunk[row] = tokens if tokens <= min(room, limit) else min(room, limit) // self.size * self.size
                room -= chunk[row]
            return chunk
        chunk = dict.fromkeys(rows, 0)
        used, gained = 0, True
        while used < room and gained:
            gained = False
            for row in rows:
                more = min(self.size, left[row] - chunk[row])
                if used + more <= room and chunk[row] + more <= limit:
                    chunk[row] += more
                    used += more
                    gained = gained or more > 0
        return chunk

    def schedule(self) -> None:
        while self.queue and len(self.active) < self.settings.max_num_seqs:
            self.active.append(self.queue.popleft())
        if self.own.capacity_scheduler_policy == "GUARANTEED_NO_EVICT":
            fitting = self.no_evict()
        else:
            fitting, paused = self.max_utilization()
            for row in paused:
                self.pause(row)
        contexts, decodes, budget = self.within_budget(fitting)
        tokens = sum(self.prompt[row] for row in contexts) + len(decodes)
        enough = self.own.batch_wait_max_tokens_ratio * self.settings.max_num_batched_tokens
        if self.own.batch_wait_timeout_iters and contexts and decodes:
            if self.waited < self.own.batch_wait_timeout_iters and tokens < enough:
                self.waited += 1
                contexts = []
            else:
                self.waited = 0
        if self.settings.enable_chunked_prefill:
            chunk = self.chunks(contexts, budget)
        else:
            chunk = {row: self.prompt[row] for row in contexts}
        self.launch_contexts([row for row in contexts if chunk[row] > 0], chunk)
        for row in decodes:
            if row.computed % self.size == 0:
                self.blocks_of[row].append(self.take())
            self.run(row, 1)

    def within_budget(self, fitting: list[Row]) -> tuple[list[Row], list[Row], int]:
        """Contexts, decodes, and the tokens left for chunks."""
        budget = self.settings.max_num_batched_tokens
        contexts: list[Row] = []
        decodes: list[Row] = []
        for row in fitting:
            context = not self.generating(row)
            if not context or not self.settings.enable_chunked_prefill:
                tokens = self.prompt[row] if context else 1
                if tokens > budget:
                    break
                budget -= tokens
            (contexts if context else decodes).append(row)
            if len(contexts) + len(decodes) >= self.settings.max_num_seqs:
                break
        return contexts, decodes, budget

    def launch_contexts(self, rows: list[Row], chunk: dict[Row, int]) -> None:
        """Those that go on later run first, those whose prompt ends run last."""
        at = {row: row.computed if row in self.blocks_of else 0 for row in rows}
        last = [row for row in rows if at[row] + chunk[row] >= self.prompt[row]]
        for row in [row for row in rows if row not in last] + last:
            if row not in self.blocks_of:
                self.admit(row, self.begin(row))
            self.run(row, min(chunk[row], self.prompt[row] - row.computed))

    def pause(self, row: Row) -> None:
        self.prompt[row] = row.known
        self.release(row)
        self.throw_back(row)

    def settle(self, row: Row) -> None:
        if row.known == self.prompt[row] + 1:  # its prompt has just been computed
            self.store(row, self.prompt[row])
