"""TGI: blocks for prompt and all outputs reserved at admission, prefills that pause decodes or ride along in chunks."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np
from engines.frame import Engine, Row, ceil_div

from headway.types import Replica, Requests, TgiSettings


@dataclass(eq=False)
class Node:
    key: list[object]  # names of its blocks
    parent: Node | None
    place: int  # in the table of nodes: the lower is the older among equals
    touched: int = 0
    refs: int = 0  # children and allocations that end here
    children: dict[object, Node] = field(default_factory=dict)


class Trie:
    """Prompts of ended requests, in whole blocks; unreferenced leaves go, least recently touched first."""

    def __init__(self) -> None:
        self.time = 0
        self.places = 1
        self.spare: list[int] = []
        self.root = Node([], None, 0)

    def nodes(self) -> list[Node]:
        found, stack = [], list(self.root.children.values())
        while stack:
            found.append(stack.pop())
            stack += found[-1].children.values()
        return found

    def node(self, key: list[object], parent: Node) -> Node:
        place = self.spare.pop() if self.spare else self.places
        self.places += place == self.places
        node = Node(key, parent, place, self.time)
        if key[0] not in parent.children:
            parent.refs += 1
        parent.children[key[0]] = node
        return node

    def find(self, names: list[object]) -> tuple[Node, int]:
        """Where the longest known prefix ends, within a node perhaps, and its blocks."""
        self.time += 1
        node, blocks = self.root, 0
        while blocks < len(names) and names[blocks] in node.children:
            node = node.children[names[blocks]]
            node.touched = self.time
            n = common(node.key, names[blocks:])
            blocks += n
            if n < len(node.key):
                break
        return node, blocks

    def insert(self, names: list[object]) -> int:
        """Insert a prompt; return how many of its blocks were there already."""
        self.time += 1
        node, blocks = self.root, 0
        while blocks < len(names):
            child = node.children.get(names[blocks])
            if child is None:
                self.node(names[blocks:], node)
                break
            child.touched = self.time
            n = common(child.key, names[blocks:])
            blocks += n
            if blocks == len(names):
                break
            node = child if n == len(child.key) else self.split(child, n)
        return blocks

    def split(self, child: Node, n: int) -> Node:
        upper = self.node(child.key[:n], child.parent)
        child.key = child.key[n:]
        child.parent = upper
        upper.children[child.key[0]] = child
        upper.refs += 1
        return upper

    def evict(self, blocks: int) -> int:
        gone = 0
        while gone < blocks:
            leaves = [node for node in self.nodes() if node.refs == 0]
            if not leaves:
                break
            leaf = min(leaves, key=lambda node: (node.touched, node.place))
            if blocks - gone < len(leaf.key):
                leaf.key = leaf.key[: len(leaf.key) - (blocks - gone)]
                return blocks
            gone += len(leaf.key)
            del leaf.parent.children[leaf.key[0]]
            leaf.parent.refs -= 1
            self.spare.append(leaf.place)
        return gone

    def held(self, ends: list[Node]) -> int:
        """Blocks on the way to any of these nodes."""
        way: set[Node] = set()
        for end in ends:
            node = end
            while node.parent is not None:
                way.add(node)
                node = node.parent
        return sum(len(node.key) for node in way)


def common(one: list[object], other: list[object]) -> int:
    n = 0
    while n < min(len(one), len(other)) and one[n] == other[n]:
        n += 1
    return n


@dataclass(eq=False)
class Allocation:
    end: Node
    cached: int  # blocks that were in the trie
    blocks: int


class Tgi(Engine):
    overlaps = False

    def __init__(self, requests: Requests, replica: Replica) -> None:
        self.own: TgiSettings = replica.settings.own or TgiSettings()
        super().__init__(requests, replica)
        self.free = self.blocks
        self.trie = Trie()
        self.queue: deque[Row] = deque()
        self.rows_in: list[Row] = []  # the batch that goes on
        self.next: dict[Row, int] = {}  # tokens it takes in the next step
        self.allocation: dict[Row, Allocation] = {}
        self.must_decode = False
        self.waiting_tokens = 0

    def refuses(self, row: Row) -> bool:
        chunked = self.settings.enable_chunked_prefill
        too_long = not chunked and row.isl > ceil_div(self.settings.max_num_batched_tokens, self.size) * self.size
        return row.declared < 1 or ceil_div(row.most - 1, self.size) > self.blocks or too_long

    def counts(self) -> tuple[int, int, int]:
        private = sum(one.blocks - one.cached for one in self.allocation.values())
        held = private + self.trie.held([one.end for one in self.allocation.values()])
        return len(self.allocation), len(self.queue), self.blocks - held

    def enter(self, row: Row) -> None:
        self.queue.append(row)

    def leave(self, row: Row) -> None:
        if row in self.queue:
            self.queue.remove(row)
            return
        self.give_back(row, keep=row.computed >= row.isl)
        self.rows_in.remove(row)

    # --- blocks

    def names(self, row: Row, tokens: int) -> list[object]:
        return [row.block(i, self.size) for i in range(tokens // self.size)]

    def reserve(self, row: Row) -> Allocation | None:
        end, cached = self.trie.root, 0
        if self.settings.enable_prefix_caching:
            end, cached = self.trie.find(self.names(row, row.isl))
        allocation = self.reserve_behind(row, end, cached)
        if allocation is None and not self.allocation and cached:
            # the node its prefix ends in is locked whole; the real one would wait for ever
            return self.reserve_behind(row, self.trie.root, 0)
        return allocation

    def reserve_behind(self, row: Row, end: Node, cached: int) -> Allocation | None:
        blocks = ceil_div(row.most - 1, self.size)
        end.refs += 1
        if self.free < blocks - cached:
            self.free += self.trie.evict(blocks - cached - self.free)
        if self.free < blocks - cached:
            end.refs -= 1
            return None
        self.free -= blocks - cached
        return Allocation(end, cached, blocks)

    def give_back(self, row: Row, keep: bool) -> None:
        allocation = self.allocation.pop(row)
        allocation.end.refs -= 1
        self.free += allocation.blocks - allocation.cached
        if keep and self.settings.enable_prefix_caching:
            prompt = self.names(row, row.isl)
            if row.isl > allocation.cached * self.size and prompt:
                self.free -= len(prompt) - self.trie.insert(prompt)

    # --- batches

    def new_batch(self, least: int | None, most: int | None, budget: int, room: int) -> list[tuple[Row, int, int]]:
        """Rows from the head of the line with their cached tokens and the tokens they take."""
        if budget <= 0 or room <= 0 or (least is not None and len(self.queue) < least) or most == 0:
            return []
        budget = ceil_div(budget, self.size) * self.size
        taken: list[tuple[Row, int, int]] = []
        used = 0
        while self.queue:
            row = self.queue[0]
            allocation = self.reserve(row)
            if allocation is None:
                break
            cached = min(allocation.cached * self.size, row.isl - 1)
            tokens = row.isl - cached
            if used + tokens > budget:
                tokens = budget - used if self.settings.enable_chunked_prefill else 0
            self.allocation[row] = allocation
            if tokens == 0:
                self.give_back(row, keep=False)
                break
            self.queue.popleft()
            taken.append((row, cached, tokens))
            used += tokens
            if cached + tokens < row.isl or len(taken) == most:
                break
        if least is not None and len(taken) < least:
            for row, _, _ in reversed(taken):
                self.give_back(row, keep=False)
                self.queue.appendleft(row)
            return []
        return taken

    def schedule(self) -> None:
        if self.queue and not (self.must_decode and self.rows_in):
            new = self.look_for_more() if self.rows_in else self.look()
            if new:
                return
        self.must_decode = False
        self.waiting_tokens += 1
        self.go_on()

    def look(self) -> bool:
        """Nobody runs: begin with whoever fits."""
        budget, room = self.settings.max_num_batched_tokens, (self.blocks + 1) * self.size
        return self.prefill(self.new_batch(None, self.settings.max_num_seqs, budget, room), ride=False)

    def look_for_more(self) -> bool:
        budget = self.settings.max_num_batched_tokens
        room = (self.blocks + 1 - sum(self.allocation[row].blocks for row in self.rows_in)) * self.size
        if self.settings.enable_chunked_prefill:
            new = self.new_batch(None, None, budget - sum(self.next[row] for row in self.rows_in), room)
        else:
            least = None
            if self.waiting_tokens < self.own.max_waiting_tokens:
                share = np.float32(len(self.rows_in)) * np.float32(self.own.waiting_served_ratio)
                least = int(share)
            new = self.new_batch(least, max(0, self.settings.max_num_seqs - len(self.rows_in)), budget, room)
        ride = self.settings.enable_chunked_prefill
        if not self.prefill(new, ride=ride):
            return False
        self.must_decode = True
        return True

    def prefill(self, new: list[tuple[Row, int, int]], ride: bool) -> bool:
        if not new:
            return False
        if ride:
            self.go_on()
        for row, cached, tokens in new:
            self.admit(row, cached)
            self.run(row, tokens)
            self.rows_in.append(row)
            self.next[row] = 1
        self.waiting_tokens = 1
        if self.settings.enable_chunked_prefill:
            self.plan()
        return True

    def go_on(self) -> None:
        chunking = False
        for row in self.rows_in:
            chunking = chunking or row.computed < row.isl
            self.run(row, self.next[row])
        if chunking:
            self.plan()

    def plan(self) -> None:
        """How many tokens each takes next: what is left of prompts, from the newest on."""
        tokens = dict(self.batch)
        room = self.settings.max_num_batched_tokens - (len(self.rows_in) - 1)
        for row in reversed(self.rows_in):
            left = row.isl - row.computed - tokens.get(row, 0)
            self.next[row] = max(1, min(left, room)) if left > 0 else 1
            room -= self.next[row] if left > 0 else 0
