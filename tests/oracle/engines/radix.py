"""A radix tree of token sequences as SGLang keeps it, with tokens in plain lists."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count


@dataclass(eq=False)
class Node:
    key: list[object]
    parent: Node | None
    touched: int
    children: dict[object, Node] = field(default_factory=dict)
    locks: int = 0

    def path(self) -> list[Node]:
        """From here up to below the root."""
        nodes, node = [], self
        while node.parent is not None:
            nodes.append(node)
            node = node.parent
        return nodes


class Tree:
    """Sequences are inserted and matched in whole pages; leaves nobody locks go, least recently touched first."""

    def __init__(self, page: int) -> None:
        self.page = page
        self.clock = count(1)
        self.root = Node([], None, 0)

    def nodes(self) -> list[Node]:
        found, stack = [], list(self.root.children.values())
        while stack:
            found.append(stack.pop())
            stack += found[-1].children.values()
        return found

    @property
    def size(self) -> int:
        return sum(len(node.key) for node in self.nodes())

    @property
    def evictable(self) -> int:
        return sum(len(node.key) for node in self.nodes() if node.locks == 0)

    def common(self, key: list[object], tokens: list[object]) -> int:
        n = 0
        while n < min(len(key), len(tokens)) and key[n] == tokens[n]:
            n += 1
        return n // self.page * self.page

    def descend(self, tokens: list[object]) -> tuple[Node, int]:
        """Walk as far as the tree goes, splitting the last node where it parts; return where, and the length."""
        now, node, length = next(self.clock), self.root, 0
        while length < len(tokens):
            child = node.children.get(tuple(tokens[length : length + self.page]))
            if child is None:
                break
            child.touched = now
            n = self.common(child.key, tokens[length:])
            node = child if n == len(child.key) else self.split(child, n)
            length += n
            if node is not child:
                break
        return node, length

    def split(self, child: Node, n: int) -> Node:
        upper = Node(child.key[:n], child.parent, next(self.clock), locks=child.locks)
        child.parent.children[tuple(child.key[: self.page])] = upper
        child.key = child.key[n:]
        child.parent = upper
        upper.children[tuple(child.key[: self.page])] = child
        return upper

    def match(self, tokens: list[object]) -> tuple[Node, int]:
        return self.descend(tokens[: len(tokens) // self.page * self.page])

    def insert(self, tokens: list[object]) -> int:
        """Insert whole pages; return how much was there already."""
        node, length = self.descend(tokens)
        if length < len(tokens):
            key = tokens[length:]
            node.children[tuple(key[: self.page])] = Node(key, node, next(self.clock))
        return length

    def lock(self, node: Node, by: int) -> None:
        for one in node.path():
            one.locks += by

    def evict(self, tokens: int) -> int:
        """Let whole leaves go until so many tokens are free or none is left; return how many that were."""
        gone = 0
        while gone < tokens:
            leaves = [node for node in self.nodes() if not node.children and node.locks == 0]
            if not leaves:
                break
            leaf = min(leaves, key=lambda node: node.touched)
            del leaf.parent.children[tuple(leaf.key[: self.page])]
            gone += len(leaf.key)
        return gone
