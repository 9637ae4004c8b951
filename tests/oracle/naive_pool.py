"""The KV blocks of one replica: free list, prefix cache, and the block tables of its requests.

One pool serves all KV groups; each group needs blocks of its own. A group either attends to everything or to a window.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from naive_rows import ceil_div

if TYPE_CHECKING:
    from collections.abc import Iterable

    from naive_rows import Row
    from naive_rules import Limits

    from headway.types import Replica


@dataclass(eq=False)
class Block:
    key: object = None
    refs: int = 0


#: the blocks of a request in one group, in the order of its tokens; None: outside the window, and gone
Table = list[Block | None]


class Pool:
    def __init__(self, replica: Replica, limits: Limits) -> None:
        self.free: OrderedDict[Block, None] = OrderedDict((Block(), None) for _ in range(replica.num_gpu_blocks))
        self.total = replica.num_gpu_blocks
        self.block_size = replica.settings.block_size
        self.caching = replica.settings.enable_prefix_caching
        self.windows = [group.window_tokens for group in replica.kv_groups] or [None]
        # tokens not yet processed that an admission may have to hold beside a window
        self.in_flight_tokens = limits.in_flight * replica.settings.max_num_batched_tokens
        self.limits, self.rules = limits, limits.rules
        self.by_key: dict[object, list[Block]] = {}  # in order of registration
        self.deferred: deque[tuple[int, list[Block]]] = deque()  # (until this batch is processed, released)

    # --- the prefix cache -----------------------------------------------------------------------------

    def lookup(self, row: Row) -> list[Table]:
        """The longest prefix all groups have, at most all but its last token: blocks by group."""
        if not self.caching:
            return [[] for _ in self.windows]
        limit = (row.known - 1) // self.block_size
        alone = [self.longest(row, group, window, limit) for group, window in enumerate(self.windows)]
        length, agreed = min(alone), -1
        while agreed != length:  # a shorter hit in one group may be none in another
            agreed = length
            for group, window in enumerate(self.windows):
                length = self.longest(row, group, window, length)
        if self.limits.drops_last_hit and length:
            length -= 1
        row.junction = alone[0] if alone[0] > length else 0  # the first group's is the only one that nothing cut short
        return [self.hits(row, group, window, length) for group, window in enumerate(self.windows)]

    def longest(self, row: Row, group: int, window: int | None, limit: int) -> int:
        """The longest hit of a group, in blocks, not longer than the limit."""
        if window is None:
            length = 0
            while length < limit and (group, row.key(length)) in self.by_key:
                length += 1
            return length
        needed, contiguous = self.span(window), 0
        for index in reversed(range(limit)):
            contiguous = contiguous + 1 if (group, row.key(index)) in self.by_key else 0
            if contiguous == needed:
                return index + needed
        return contiguous  # a run from the very beginning needs nothing before it

    def hits(self, row: Row, group: int, window: int | None, length: int) -> Table:
        begin = 0 if window is None else max(0, length - self.span(window))
        return [None] * begin + [self.by_key[group, row.key(index)][0] for index in range(begin, length)]

    def register(self, row: Row, computed: int) -> None:
        """Give full blocks their keys; several blocks may have the same, the first still there is used."""
        if not self.caching:
            return
        full = min(computed // self.block_size, (row.known - self.limits.key_lookahead) // self.block_size)
        for group, table in enumerate(row.tables):
            for index in range(row.registered[group], min(full, len(table))):
                block = table[index]
                if block is not None and block.key is None and self.keeps(row, group, index):
                    block.key = group, row.key(index)
                    self.by_key.setdefault(block.key, []).append(block)
            row.registered[group] = max(row.registered[group], full)

    def keeps(self, row: Row, group: int, index: int) -> bool:
        """Whether a full block gets a key: in a window group only where a later request may resume.

        That is the end of the prompt, if the prompt comes again, and the junction where it left what others began with;
        each is kept with the window before it, and nothing of the output is (`prefix_cache_retention_interval` 0).
        """
        window = self.windows[group]
        if window is None or not self.rules.keeps_window_tails:
            return True
        ends = (row.isl - 1) // self.block_size, row.junction
        return any(end - self.span(window) <= index < end for end in ends)

    def span(self, window: int) -> int:
        """Blocks before a token that its window may reach into."""
        return ceil_div(window - 1, self.block_size)

    # --- blocks in, blocks out ------------------------------------------------------------------------

    def touch(self, hits: Table) -> None:
        for block in hits:
            if block is not None:
                if block.refs == 0:
                    del self.free[block]
                block.refs += 1

    def take(self) -> Block:
        block, _ = self.free.popitem(last=False)
        if block.key is not None:
            copies = self.by_key[block.key]
            copies.remove(block)
            if not copies:
                del self.by_key[block.key]
            block.key = None
        block.refs = 1
        return block

    def release(self, row: Row, until: int | None) -> None:
        """Take back all its blocks, tail first; at once, or when batch `until` has been processed."""
        tables = row.tables if until is None else list(reversed(row.tables))
        released = [block for table in tables for block in reversed(table) if block is not None]
        row.tables, row.registered = [], []
        if until is None:
            self.give_back(released)
        else:
            self.deferred.append((until, released))

    def processed(self, batch: int) -> None:
        while self.deferred and self.deferred[0][0] <= batch:
            self.give_back(self.deferred.popleft()[1])

    def give_back(self, released: Iterable[Block]) -> None:
        for block in released:
            block.refs -= 1
        idle = [block for block in released if block.refs == 0]
        for block in idle:
            self.free[block] = None
        if self.rules.keyless_first:
            for block in idle:
                if block.key is None:
                    self.free.move_to_end(block, last=False)

    # --- tables ---------------------------------------------------------------------------------------

    def without_past(self, tables: list[Table], computed: int) -> list[Table]:
        """The tables of a request with so many computed tokens: nothing before its windows."""
        passed = [self.outside(window, computed) for window in self.windows]
        return [[None] * number + table[number:] for number, table in zip(passed, tables, strict=True)]

    def outside(self, window: int | None, computed: int) -> int:
        """Blocks that no token after the computed ones attends to."""
        return 0 if window is None else max(0, computed - window + 1) // self.block_size

    def leave_window(self, row: Row, processed: int) -> None:
        """Free the blocks that no later token attends to."""
        for table, window in zip(row.tables, self.windows, strict=True):
            gone = []
            for index in reversed(range(min(self.outside(window, processed), len(table)))):
                if table[index] is None:
                    break
                gone.append(table[index])
                table[index] = None
            self.give_back(gone)

    def missing(self, tokens: int, tables: list[Table], *, in_all: bool) -> int:
        """Blocks an admission takes from the free list so that its tables hold so many tokens.

        Unreferenced hits leave the list, too. `in_all`: asked for the sake of all it knows, not of this step.
        """
        idle = sum(block is not None and block.refs == 0 for table in tables for block in table)
        return self.lacks(tables, tokens, in_all=in_all) + idle

    def lacks(self, tables: list[Table], tokens: int, *, in_all: bool = False) -> int:
        """Blocks that tables lack to hold so many tokens; those out of a window count as there.

        `in_all`: a group with a window never needs more than the window and what is in flight.
        """
        number = 0
        for table, window in zip(tables, self.windows, strict=True):
            needed = ceil_div(tokens, self.block_size)
            if window is not None and in_all:
                needed = min(needed, ceil_div(window - 1 + self.in_flight_tokens, self.block_size) + 1)
            number += max(0, needed - len(table))
        return number

    def grow(self, row: Row, tokens: int) -> None:
        for table in row.tables:
            table += [self.take() for _ in range(ceil_div(tokens, self.block_size) - len(table))]
