# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True, nonecheck=False
# mypy: disable-error-code="untyped-decorator,var-annotated"
# ruff: noqa: FBT003 - C functions take no keywords
"""What requests consist of, token by token, and radix trees of that: the prefix caches of SGLang and TGI.

    Contents    the keys of the tokens of all requests, as runs
    Radix       prefixes cached in whole pages, as a tree whose nodes are stretches of pages

A token's key stands for it and for everything before it (see `PrefixRuns`), so two requests share a prefix of n
tokens exactly when the keys of their n-th tokens are equal. A node therefore keeps no tokens: it names a request that
has them, and from where to where.
"""

from __future__ import annotations

import heapq
from typing import Any

import cython

from headway.simulator.arrays import ints, view

COMPILED: bool = cython.compiled


@cython.cclass
class Contents:
    """The tokens of requests. Tokens beyond the ids of a request are its own: nobody shares them."""

    def __init__(self, runs: Any) -> None:
        """Take what `engine_runs(prefix, 1)` returns, or None."""
        self.known = runs is not None
        self.offset = self.first = self.count = ints(1, 0, "int64")
        if runs is not None:
            self.offset, self.first, self.count = (view(column) for column in runs[1:])

    @cython.cfunc
    @cython.exceptval(check=False)
    def key(self, request: cython.int, position: cython.longlong) -> cython.longlong:
        """Return the key of a token: ≥ 0 where an id names it, else a number of its own below 0."""
        if self.known:
            left: cython.longlong = position
            run: cython.longlong
            for run in range(self.offset[request], self.offset[request + 1]):
                if left < self.count[run]:
                    return self.first[run] + left
                left -= self.count[run]
        return -1 - ((cython.cast(cython.longlong, request) << 31) | position)

    @cython.cfunc
    @cython.exceptval(check=False)
    def common(self, one: cython.int, other: cython.int, limit: cython.longlong) -> cython.longlong:
        """Return how many of the first tokens two requests share, at most `limit`."""
        if one == other:
            return limit
        if not self.known:
            return 0
        length: cython.longlong = 0
        i: cython.longlong = self.offset[one]
        j: cython.longlong = self.offset[other]
        used_i: cython.longlong = 0
        used_j: cython.longlong = 0
        while length < limit and i < self.offset[one + 1] and j < self.offset[other + 1]:
            if self.first[i] + used_i != self.first[j] + used_j:
                break
            more: cython.longlong = min(self.count[i] - used_i, self.count[j] - used_j)
            length += more
            used_i += more
            used_j += more
            if used_i == self.count[i]:
                i += 1
                used_i = 0
            if used_j == self.count[j]:
                j += 1
                used_j = 0
        return min(length, limit)


@cython.cclass
class Node:
    """Tokens `start` to `end` of request `owner`. `locks`: requests that hold it or something below it."""

    def __init__(self) -> None:
        above: Any = None
        self.parent = above
        self.owner = self.children = self.locks = self.place = 0
        self.start = self.end = self.touched = 0
        self.alive, self.queued = True, False


@cython.cclass
class Radix:
    """A prefix cache. Leaves nobody holds go first, least recently touched first.

    SGLang's rules: a match parts the node it ends in; each new node is a moment younger than what was there; leaves go
    whole. TGI's: a match leaves nodes whole; all of one operation is of one age, and of equals the lower place in the
    table of nodes goes first; the last leaf to go loses only as much as is wanted.
    """

    def __init__(self, contents: Contents, page: int, tgi: bool) -> None:  # noqa: FBT001 - whose rules
        self.contents, self.page, self.tgi = contents, page, tgi
        self.time, self.size, self.evictable = 0, 0, 0
        self.places, self.spare, self.serial = 1, [], 0
        self.heap = []  # (touched, place, serial, node): leaves nobody held when they were noted
        self.nodes = {}  # by the key of the last token of their first page
        self.root = Node()
        self.end = self.root

    @cython.cfunc
    @cython.exceptval(-1)
    def descend(self, request: cython.int, tokens: cython.longlong, part: cython.bint) -> cython.longlong:
        """Go down as far as the tree has a request's first tokens; `end` is the node this ends in."""
        self.time += 1
        node: Node = self.root
        length: cython.longlong = 0
        while length + self.page <= tokens:
            found: Any = self.nodes.get(self.contents.key(request, length + self.page - 1))
            if found is None:
                break
            child: Node = found
            child.touched = self.time
            length = self.contents.common(request, child.owner, min(tokens, child.end)) // self.page * self.page
            if length < child.end:
                node = child if self.tgi and not (part and length < tokens) else self.part(child, length)
                break
            node = child
        self.end = node
        return length

    @cython.cfunc
    @cython.exceptval(-1)
    def match(self, request: cython.int, tokens: cython.longlong) -> cython.longlong:
        """Return how many of a request's first tokens are cached, in whole pages; `end` says where."""
        return self.descend(request, tokens, False)

    @cython.cfunc
    @cython.exceptval(-1)
    def insert(self, request: cython.int, tokens: cython.longlong) -> cython.longlong:
        """Cache a request's first tokens, whole pages; return how many were there already."""
        length: cython.longlong = self.descend(request, tokens, True)
        if length < tokens:
            leaf: Node = self.grow(request, length, tokens, self.end)
            self.end.children += 1
            self.size += tokens - length
            self.evictable += tokens - length
            self.offer(leaf)
        return length

    @cython.cfunc
    def grow(self, owner: cython.int, start: cython.longlong, end: cython.longlong, parent: Node) -> Node:
        """Make a node."""
        node: Node = Node()
        node.owner, node.start, node.end, node.parent = owner, start, end, parent
        if self.spare:
            node.place = self.spare.pop()
        else:
            node.place = self.places
            self.places += 1
        if not self.tgi:
            self.time += 1
        node.touched = self.time
        self.nodes[self.contents.key(owner, start + self.page - 1)] = node
        return node

    @cython.cfunc
    def part(self, child: Node, at: cython.longlong) -> Node:
        """Part a node in two; return the upper one."""
        upper: Node = self.grow(child.owner, child.start, at, child.parent)
        upper.children, upper.locks = 1, child.locks
        child.start, child.parent = at, upper
        self.nodes[self.contents.key(child.owner, at + self.page - 1)] = child
        return upper

    @cython.cfunc
    @cython.exceptval(-1)
    def lock(self, node: Node) -> cython.int:
        """Hold a node and all above it."""
        while node is not self.root:
            if node.locks == 0:
                self.evictable -= node.end - node.start
            node.locks += 1
            node = node.parent
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def unlock(self, node: Node) -> cython.int:
        """Let a node and all above it go."""
        while node is not self.root:
            node.locks -= 1
            if node.locks == 0:
                self.evictable += node.end - node.start
                if node.children == 0:
                    self.offer(node)
            node = node.parent
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def offer(self, node: Node) -> cython.int:
        """Note a leaf that may go."""
        if not node.queued:
            node.queued = True
            self.serial += 1
            heapq.heappush(self.heap, (node.touched, node.place, self.serial, node))
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def evict(self, tokens: cython.longlong) -> cython.longlong:
        """Let leaves go until so many tokens are free, or none is left; return how many that were."""
        gone: cython.longlong = 0
        while gone < tokens and self.heap:
            entry: tuple[Any, ...] = heapq.heappop(self.heap)
            leaf: Node = entry[3]
            leaf.queued = False
            if not leaf.alive or leaf.locks > 0 or leaf.children > 0:
                continue
            touched: cython.longlong = entry[0]
            if touched != leaf.touched:
                self.offer(leaf)
                continue
            length: cython.longlong = leaf.end - leaf.start
            if self.tgi and tokens - gone < length:
                length = tokens - gone
                leaf.end -= length
                self.offer(leaf)
            else:
                self.drop(leaf)
            self.size -= length
            self.evictable -= length
            gone += length
        return gone

    @cython.cfunc
    @cython.exceptval(-1)
    def drop(self, leaf: Node) -> cython.int:
        """Take a leaf out of the tree."""
        leaf.alive = False
        del self.nodes[self.contents.key(leaf.owner, leaf.start + self.page - 1)]
        self.spare.append(leaf.place)
        above: Node = leaf.parent
        above.children -= 1
        if above is not self.root and above.children == 0 and above.locks == 0:
            self.offer(above)
        return 0
