# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True, nonecheck=False
# mypy: disable-error-code="untyped-decorator,misc,has-type"
# ruff: noqa: FBT003 - C functions take no keywords
"""The hot loop: replicas of vLLM's V1 scheduler, synchronous and asynchronous, jumped from event to event.

Every decode advances one token per iteration, so the context of a decode is `iteration + offset`, and the iteration
at which it finishes and the phase at which it takes its next KV block are constants of it. A replica is therefore
carried by sums: the number of decodes n, the sum S of their contexts, a histogram of block phases and an agenda of
finishing iterations. While nobody joins, leaves or runs out of blocks, k iterations last k·A + D·k(k−1)/2 with
A the time of the first and D its growth per iteration: one jump. Everything else is one explicit iteration.

The classes, from the inside out:
    Gaps     inter-token gaps as arithmetic progressions
    Heap     numbers, least first; as Agenda: what is due at which iteration
    Blocks   the KV blocks of a replica: blank ones, a least-recently-used line of cached extents, extents in use
    Engine   one replica: `schedule` decides the next jump, `commit` lives through it

An *extent* is a stretch of cached blocks whose keys are consecutive, kept, released and evicted together; it splits
where a reader shares only its head. Two facts keep extents exact (both hold for vLLM's block cache):
    (1) keys are prefix-closed: whoever holds or releases a block holds or releases its prefix no earlier, so a cached
        block's prefix is cached too;
    (2) a block is registered although its key is cached only where a request recomputes it beside another. From
        there on that request registers extents of one block (`beside`), so an extent of several blocks is the first
        copy of each of its keys and any copy is found where the walk over a prefix arrives.
The output blocks of a decode are registered as they fill, but where that only makes its own last extent longer it is
made up for when somebody comes by (`Blocks.plan`): a request alone with its keys causes no event.

Times are int64 picoseconds. Compiled by Cython in pure-Python mode; the same file runs uncompiled.
"""

from __future__ import annotations

from typing import Any

import cython
import numpy as np

if cython.compiled:
    from cython.cimports.headway.simulator.server import Server
    from cython.cimports.libc.math import sqrt
else:
    from math import sqrt

    from headway.simulator.server import Server

COMPILED: bool = cython.compiled
NEVER = cython.declare(cython.longlong, 1 << 62)
UNFINISHED, FINISHED, FAILED = 0, 1, 2
_MIX = cython.declare(cython.ulonglong, 0x9E3779B1)  # 2^32 / golden ratio: Knuth's multiplicative hashing
_FINISHED = cython.declare(cython.schar, FINISHED)
_FAILED = cython.declare(cython.schar, FAILED)
# whether a running request stays; has its last token in the batch that runs; has a stop token there, which the
# scheduler does not know; or was preempted with either
_STAYS = cython.declare(cython.schar, 0)
_ENDS = cython.declare(cython.schar, 1)
_STOPS = cython.declare(cython.schar, 2)
_GONE = cython.declare(cython.schar, 3)
_MOST_SLOTS = 1 << 19  # twice as many fit the entries of an agenda


def _view(array: Any) -> memoryview:
    """Make an array's items plain integers where the core runs interpreted."""
    return memoryview(array)


def _grown(table: Any, fill: int = 0) -> Any:
    """Return a table (column, place) with twice as many places, the old ones kept."""
    return np.concatenate([table, np.full(table.shape, fill, table.dtype)], axis=1)


# Columns of an engine are C pointers: a view takes 200 bytes, and hundreds of engines should fit a processor's cache.
# Whoever points to an array keeps it.


@cython.cfunc
def _longs(array: Any) -> cython.p_longlong:
    """Return where the items of an int64 array lie."""
    if not cython.compiled:
        return _view(array)
    view: cython.longlong[::1] = array
    return cython.address(view[0])


@cython.cfunc
def _shorts(array: Any) -> cython.p_int:
    """Return where the items of an int32 array lie."""
    if not cython.compiled:
        return _view(array)
    view: cython.int[::1] = array
    return cython.address(view[0])


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def least_steps(a: cython.longlong, d: cython.longlong, wait: cython.longlong) -> cython.longlong:
    """Return the least k ≥ 1 with k·a + d·k(k−1)/2 ≥ wait."""
    k: cython.longlong
    if d == 0:
        k = (wait + a - 1) // a
        return max(k, 1)
    b: cython.double = a - 0.5 * d
    k = cython.cast(cython.longlong, 2.0 * wait / (b + sqrt(b * b + 2.0 * d * wait)))
    k = max(k, 1)
    while k > 1 and (k - 1) * a + d * ((k - 1) * (k - 2) // 2) >= wait:
        k -= 1
    while k * a + d * (k * (k - 1) // 2) < wait:
        k += 1
    return k


@cython.final
@cython.cclass
class Gaps:
    """Inter-token gaps: |weight| sequences each saw the gaps a, a + d, …, a + (k−1)·d. Kept in full parts.

    d needs no column. A leg of several iterations is of decodes alone and all of them see its gaps (where a token is
    wasted on somebody, the leg is of one iteration, and so is one with a prompt): d is what a token more in each
    context costs, weight · context_ps, and below the knee of window attention, where the weight is noted negative,
    −weight · below_ps.
    """

    context_ps: cython.longlong
    below_ps: cython.longlong
    parts: list[Any]
    a: cython.longlong[::1]
    k: cython.int[::1]
    weight: cython.int[::1]
    used: cython.longlong
    size: cython.longlong
    part: cython.int  # the number of the open part

    def __init__(self, context_ps: int, below_ps: int) -> None:
        self.context_ps, self.below_ps = context_ps, below_ps
        self.parts = []
        self.part = -1
        self._open(256)

    def _open(self, size: int) -> None:
        arrays = np.empty(size, np.int64), np.empty(size, np.int32), np.empty(size, np.int32)
        self.parts.append(arrays)
        self.a, self.k, self.weight = (_view(array) for array in arrays)
        self.used, self.size = 0, size
        self.part += 1

    @cython.cfunc
    @cython.exceptval(-1)
    def add(self, a: cython.longlong, k: cython.longlong, weight: cython.int) -> cython.int:
        """Note a progression."""
        i: cython.longlong = self.used
        if i == self.size:
            self._open(min(2 * self.size, 1 << 15))
            i = 0
        self.a[i] = a
        self.k[i] = cython.cast(cython.int, k)
        self.weight[i] = weight
        self.used = i + 1
        return 0

    @cython.cfunc
    @cython.inline
    @cython.exceptval(check=False)
    def lengthen(self, i: cython.longlong, a: cython.longlong, k: cython.longlong, weight: cython.int) -> cython.bint:
        """Let progression i of the open part go on with these gaps, if they continue it; return whether they do."""
        d: cython.longlong = weight * self.context_ps if weight > 0 else -weight * self.below_ps
        if i >= self.used or self.weight[i] != weight or self.a[i] + self.k[i] * d != a:
            return False
        self.k[i] += cython.cast(cython.int, k)
        return True

    @cython.wraparound(True)
    def columns(self) -> list[tuple[Any, ...]]:
        """Return the parts, each (a, k, weight) as arrays."""
        last = tuple(array[: self.used] for array in self.parts[-1])
        return [*self.parts[:-1], last]


@cython.cclass
class Heap:
    """Numbers, the least of which can be taken: a binary heap."""

    heap: cython.p_longlong
    size: cython.int
    room: cython.int
    entries: Any  # (1, room)

    def __init__(self, room: int) -> None:
        self._keep(np.zeros((1, room), np.int64))
        self.size = 0

    def _keep(self, entries: Any) -> None:
        self.entries, self.room, self.heap = entries, entries.shape[1], _longs(entries[0])

    @cython.final
    @cython.cfunc
    @cython.exceptval(-1)
    def add(self, entry: cython.longlong) -> cython.int:
        """Put a number in."""
        if self.size == self.room:
            self._keep(_grown(self.entries))
        self._rise(self.size, entry)
        self.size += 1
        return 0

    @cython.final
    @cython.cfunc
    @cython.inline
    @cython.exceptval(check=False)
    def _rise(self, hole: cython.int, entry: cython.longlong) -> cython.int:
        while hole > 0:
            parent: cython.int = (hole - 1) >> 1
            if self.heap[parent] <= entry:
                break
            self.heap[hole] = self.heap[parent]
            hole = parent
        self.heap[hole] = entry
        return 0

    @cython.final
    @cython.cfunc
    @cython.exceptval(check=False)
    def pop(self) -> cython.int:
        """Drop the least."""
        self.size -= 1
        size: cython.int = self.size
        entry: cython.longlong = self.heap[size]
        self.heap[size] = NEVER  # a last child without a sibling wins
        hole: cython.int = 0
        child: cython.int = 1
        while child < size:
            child += self.heap[child + 1] < self.heap[child]
            if self.heap[child] >= entry:
                break
            self.heap[hole] = self.heap[child]
            hole = child
            child = 2 * hole + 1
        self.heap[hole] = entry
        return 0


@cython.final
@cython.cclass
class Agenda(Heap):
    """Which slots are due at which iteration: a heap of `iteration << 20 | slot`.

    An entry that its slot no longer agrees with is stale.
    """

    due: cython.p_longlong  # by slot; −1: nothing
    dates: Any  # (1, slots)

    def __init__(self, slots: int) -> None:
        Heap.__init__(self, 2 * slots + 2)
        self._keep_dates(np.full((1, slots), -1, np.int64))

    def _keep_dates(self, dates: Any) -> None:
        self.dates, self.due = dates, _longs(dates[0])

    @cython.cfunc
    @cython.exceptval(check=False)
    def push(self, slot: cython.int, iteration: cython.longlong) -> cython.int:
        """Note that a slot is due at an iteration; what it was due at before is struck."""
        self.due[slot] = iteration
        if self.size == self.room:
            self._drop_stale()
        self._rise(self.size, iteration << 20 | slot)
        self.size += 1
        return 0

    @cython.cfunc
    @cython.inline
    @cython.exceptval(check=False)
    def next(self) -> cython.longlong:
        """Return the next iteration at which a slot is due, NEVER where there is none."""
        while self.size > 0:
            entry: cython.longlong = self.heap[0]
            if self.due[entry & (0xFFFFF)] == entry >> 20:
                return entry >> 20
            self.pop()
        return NEVER

    @cython.cfunc
    @cython.inline
    @cython.exceptval(check=False)
    def take(self) -> cython.int:
        """Return the slot of the first entry (`next` has just been asked) and strike it."""
        slot: cython.int = cython.cast(cython.int, self.heap[0] & (0xFFFFF))
        self.due[slot] = -1
        self.pop()
        return slot

    @cython.cfunc
    @cython.exceptval(check=False)
    def _drop_stale(self) -> cython.int:
        kept: cython.int = 0
        i: cython.int
        size: cython.int = self.size
        for i in range(size):
            entry: cython.longlong = self.heap[i]
            if self.due[entry & (0xFFFFF)] == entry >> 20:
                self._rise(kept, entry)
                kept += 1
        self.size = kept
        return 0

    def grow(self) -> None:
        """Make room for twice as many slots."""
        self._keep(_grown(self.entries))
        self._keep_dates(_grown(self.dates, -1))


@cython.final
@cython.cclass
class Blocks:
    """The KV blocks of one replica, and what its cached blocks hold.

    Free blocks are blank (no key; taken first) or cached (evicted oldest first, tails before heads). Blocks of a
    request without ids are *private*: counted, and an extent of their own only while free.
    """

    block_size: cython.int
    caching: cython.bint
    total: cython.longlong
    free: cython.longlong  # blank + cached and unreferenced
    blank: cython.longlong
    # extents; number 0 is the end of the line: newer[0] is the oldest, older[0] the newest
    key: cython.p_longlong  # of the first block; −1: private
    length: cython.p_int
    refs: cython.p_int
    older: cython.p_int
    newer: cython.p_int
    chain: cython.p_int  # the next extent of the bucket; of a spare extent, the next spare one
    owner: cython.p_int  # the preempted slot whose private blocks these are, −1: nobody's
    grower: cython.p_int  # the slot that made it longer last, −1: nobody
    spare: cython.int
    extents: cython.int
    # buckets of extents by first key, each in order of registration
    bucket: cython.p_int
    buckets: cython.int
    # what the slots hold: a list of cells per slot, the deepest extent first
    held: cython.p_int
    cell_extent: cython.p_int
    cell_next: cython.p_int  # of the same slot
    cell_peer: cython.p_int  # the next cell that holds the same extent, −1: none
    cell_back: cython.p_int  # the one before it, −1: it is the first
    holder: cython.p_int  # by extent: the first cell that holds it, −1: none
    spare_cell: cython.int
    cells: cython.int
    private: cython.p_int  # by slot: the extent of a preempted request's private blocks, −1: none
    # where in its ids a slot is
    run: cython.p_longlong
    run_end: cython.p_longlong
    into: cython.p_longlong
    named: cython.p_longlong  # keyed blocks held
    beside: cython.p_int
    unseen: cython.p_int  # its last extent grows, and is made longer when somebody looks
    watched: cython.p_int  # not any more: another request registers its keys, too
    # when output blocks are registered
    naming: Agenda  # decodes whose next block with an id is an event
    contexts: cython.p_longlong  # of decodes, less the iteration
    late: cython.bint  # with its last token known, one iteration later
    now: cython.longlong  # the iteration all is registered up to
    # the ids of all requests, in blocks of this engine
    first_key: cython.p_longlong
    count: cython.p_longlong
    offset: cython.p_longlong
    stride: cython.longlong
    # the answer of `match`
    hit: cython.longlong
    idle: cython.longlong  # of these, unreferenced
    path: cython.p_int  # the extents it came through
    reach: cython.p_int  # how many blocks of each
    found: cython.int  # how many extents
    most_found: cython.int
    next_run: cython.longlong  # what would come next
    next_into: cython.longlong
    kept: dict[str, Any]  # what all these point to: tables (column, place)

    def __init__(self, num_blocks: int, slots: int, settings: Any, ids: Any) -> None:
        self.block_size, self.caching = settings.block_size, settings.enable_prefix_caching
        ids = ids if self.caching else None
        self.total = self.free = self.blank = num_blocks
        self.kept = {}
        self._keep_extents(np.zeros((1, 64), np.int64), np.zeros((8, 64), np.int32))
        self.spare = -1
        self._spare_extents(1, 64)
        buckets = self.kept["buckets"] = np.full(
            1 << max(4, min(20, (num_blocks // 4).bit_length())) if ids else 1, -1, np.int32
        )
        self.buckets, self.bucket = len(buckets), _shorts(buckets)
        self._keep_cells(np.zeros((4, 64), np.int32))
        self.spare_cell = -1
        self._spare_cells(0, 64)
        self._keep_slots(
            np.zeros((5, slots), np.int64), np.zeros((3, slots), np.int32), np.full((2, slots), -1, np.int32)
        )
        self.naming, self.late, self.now = Agenda(slots), settings.async_scheduling, -1
        self.stride, *columns = ids or (0, *(np.zeros(1, np.int64) for _ in range(3)))
        self.kept["ids"] = columns
        self.offset, self.first_key, self.count = _longs(columns[0]), _longs(columns[1]), _longs(columns[2])
        self.hit = self.idle = self.found = self.next_run = self.next_into = 0
        self._keep_path(np.zeros((2, 64), np.int32))

    # --- storage of extents and cells

    def _spare_extents(self, start: int, stop: int) -> None:
        for extent in range(stop - 1, start - 1, -1):
            self.chain[extent] = self.spare
            self.spare = extent

    def _keep_extents(self, longs: Any, ints: Any) -> None:
        self.kept["extents"], self.extents, self.key = (longs, ints), ints.shape[1], _longs(longs[0])
        self.length, self.refs = _shorts(ints[0]), _shorts(ints[1])
        self.older, self.newer = _shorts(ints[2]), _shorts(ints[3])
        self.chain, self.owner = _shorts(ints[4]), _shorts(ints[5])
        self.holder, self.grower = _shorts(ints[6]), _shorts(ints[7])

    def _more_extents(self) -> None:
        size = self.extents
        longs, ints = self.kept["extents"]
        self._keep_extents(_grown(longs), _grown(ints))
        self._spare_extents(size, 2 * size)

    def _spare_cells(self, start: int, stop: int) -> None:
        for cell in range(stop - 1, start - 1, -1):
            self.cell_next[cell] = self.spare_cell
            self.spare_cell = cell

    def _keep_cells(self, ints: Any) -> None:
        self.kept["cells"], self.cells = ints, ints.shape[1]
        self.cell_extent, self.cell_next = _shorts(ints[0]), _shorts(ints[1])
        self.cell_peer, self.cell_back = _shorts(ints[2]), _shorts(ints[3])

    def _more_cells(self) -> None:
        size = self.cells
        self._keep_cells(_grown(self.kept["cells"]))
        self._spare_cells(size, 2 * size)

    def _keep_path(self, ints: Any) -> None:
        self.kept["path"], self.most_found = ints, ints.shape[1]
        self.path, self.reach = _shorts(ints[0]), _shorts(ints[1])

    def _keep_slots(self, longs: Any, flags: Any, ints: Any) -> None:
        self.kept["slots"] = longs, flags, ints
        self.run, self.run_end, self.into = _longs(longs[0]), _longs(longs[1]), _longs(longs[2])
        self.named, self.contexts = _longs(longs[3]), _longs(longs[4])
        self.beside, self.unseen, self.watched = _shorts(flags[0]), _shorts(flags[1]), _shorts(flags[2])
        self.held, self.private = _shorts(ints[0]), _shorts(ints[1])

    @cython.cfunc
    @cython.exceptval(-1)
    def _new(self, key: cython.longlong, length: cython.int, refs: cython.int) -> cython.int:
        if self.spare < 0:
            self._more_extents()
        extent: cython.int = self.spare
        self.spare = self.chain[extent]
        self.key[extent] = key
        self.length[extent] = length
        self.refs[extent] = refs
        self.owner[extent] = -1
        self.holder[extent] = -1
        self.grower[extent] = -1
        self.chain[extent] = -1
        return extent

    @cython.cfunc
    @cython.inline
    @cython.exceptval(check=False)
    def _spend(self, extent: cython.int) -> cython.int:
        self.chain[extent] = self.spare
        self.spare = extent
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def _hold(self, slot: cython.int, extent: cython.int) -> cython.int:
        cell: cython.int = self._new_cell(extent, self.held[slot])
        self.held[slot] = cell
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def _new_cell(self, extent: cython.int, after: cython.int) -> cython.int:
        if self.spare_cell < 0:
            self._more_cells()
        cell: cython.int = self.spare_cell
        self.spare_cell = self.cell_next[cell]
        self.cell_extent[cell] = extent
        self.cell_next[cell] = after
        peer: cython.int = self.holder[extent]
        self.cell_peer[cell] = peer
        self.cell_back[cell] = -1
        if peer >= 0:
            self.cell_back[peer] = cell
        self.holder[extent] = cell
        return cell

    @cython.cfunc
    @cython.inline
    @cython.exceptval(check=False)
    def _drop_cell(self, cell: cython.int) -> cython.int:
        peer: cython.int = self.cell_peer[cell]
        back: cython.int = self.cell_back[cell]
        if back >= 0:
            self.cell_peer[back] = peer
        else:
            self.holder[self.cell_extent[cell]] = peer
        if peer >= 0:
            self.cell_back[peer] = back
        self.cell_next[cell] = self.spare_cell
        self.spare_cell = cell
        return 0

    # --- the line of cached free extents

    @cython.cfunc
    @cython.inline
    @cython.exceptval(check=False)
    def _link(self, extent: cython.int, before: cython.int) -> cython.int:
        """Put an extent into the line, just older than another (0: the newest)."""
        behind: cython.int = self.older[before]
        self.older[extent] = behind
        self.newer[extent] = before
        self.newer[behind] = extent
        self.older[before] = extent
        return 0

    @cython.cfunc
    @cython.inline
    @cython.exceptval(check=False)
    def _unlink(self, extent: cython.int) -> cython.int:
        self.newer[self.older[extent]] = self.newer[extent]
        self.older[self.newer[extent]] = self.older[extent]
        return 0

    @cython.cfunc
    @cython.inline
    @cython.exceptval(check=False)
    def alloc(self, need: cython.longlong) -> cython.int:
        """Take free blocks (there are enough): blank ones first, then the oldest cached."""
        self.free -= need
        if need <= self.blank:
            self.blank -= need
            return 0
        return self._evict(need)

    @cython.cfunc
    @cython.exceptval(check=False)
    def _evict(self, need: cython.longlong) -> cython.int:
        need -= self.blank
        self.blank = 0
        while need > 0:
            extent: cython.int = self.newer[0]
            if self.length[extent] > need:
                self.length[extent] -= cython.cast(cython.int, need)  # released tail first, evicted tail first
                return 0
            need -= self.length[extent]
            self._unlink(extent)
            if self.key[extent] >= 0:
                self._forget(extent)
            elif self.owner[extent] >= 0:
                self.private[self.owner[extent]] = -1
            self._spend(extent)
        return 0

    # --- buckets by first key

    @cython.cfunc
    @cython.inline
    @cython.exceptval(check=False)
    def _place(self, key: cython.longlong) -> cython.longlong:
        mixed: cython.ulonglong = (key ^ key >> 17) * _MIX
        return cython.cast(cython.longlong, mixed >> 7) & (self.buckets - 1)

    @cython.cfunc
    @cython.inline
    @cython.exceptval(check=False)
    def _find(self, key: cython.longlong) -> cython.int:
        """Return the first registered extent that begins with that key, −1 where there is none."""
        extent: cython.int = self.bucket[self._place(key)]
        while extent >= 0 and self.key[extent] != key:
            extent = self.chain[extent]
        return extent

    @cython.cfunc
    @cython.exceptval(check=False)
    def _register(self, extent: cython.int) -> cython.int:
        place: cython.longlong = self._place(self.key[extent])
        last: cython.int = self.bucket[place]
        if last < 0:
            self.bucket[place] = extent
            return 0
        while self.chain[last] >= 0:
            last = self.chain[last]
        self.chain[last] = extent
        return 0

    @cython.cfunc
    @cython.exceptval(check=False)
    def _forget(self, extent: cython.int) -> cython.int:
        place: cython.longlong = self._place(self.key[extent])
        other: cython.int = self.bucket[place]
        if other == extent:
            self.bucket[place] = self.chain[extent]
            return 0
        while self.chain[other] != extent:
            other = self.chain[other]
        self.chain[other] = self.chain[extent]
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def _split(self, extent: cython.int, head: cython.int) -> cython.int:
        """Cut an extent behind its first `head` blocks; its holders hold both parts."""
        key: cython.longlong = self.key[extent] + head * self.stride
        tail: cython.int = self._new(key, self.length[extent] - head, self.refs[extent])
        self.length[extent] = head
        self.grower[tail] = self.grower[extent]
        self.grower[extent] = -1
        place: cython.longlong = self._place(key)
        self.chain[tail] = self.bucket[place]  # in front: an extent of several blocks is the first copy of each
        self.bucket[place] = tail
        if self.refs[extent] == 0:
            self._link(tail, extent)
            return 0
        cell: cython.int = self.holder[extent]
        self.holder[tail] = cell  # the tail goes to all who held the whole; the head gets cells behind theirs
        self.holder[extent] = -1
        while cell >= 0:
            self.cell_extent[cell] = tail
            behind: cython.int = self._new_cell(extent, self.cell_next[cell])
            self.cell_next[cell] = behind
            cell = self.cell_peer[cell]
        return 0

    # --- what requests do

    @cython.cfunc
    @cython.exceptval(-1)
    def match(self, request: cython.longlong, slot: cython.int, limit: cython.longlong) -> cython.int:
        """Find the longest cached prefix of at most `limit` blocks: sets `hit` and `idle`, and what `take` needs.

        `slot` is that of a preempted request; −1: a new one.
        """
        hit: cython.longlong = 0
        idle: cython.longlong = 0
        run: cython.longlong = self.offset[request] if self.stride > 0 else 0
        end: cython.longlong = self.offset[request + 1] if self.stride > 0 else 0
        into: cython.longlong = 0
        self.found = 0
        while run < end and hit < limit:
            extent: cython.int = self._find(self.first_key[run] + into * self.stride)
            if extent < 0:
                break
            if self._grows(extent):
                self._catch_up(self.grower[extent])
            reach: cython.longlong = min(self.count[run] - into, limit - hit, self.length[extent])
            if self.refs[extent] == 0:
                idle += reach
            self._pass_by(extent, cython.cast(cython.int, reach))
            hit += reach
            into += reach
            if into == self.count[run]:
                run += 1
                into = 0
        self.next_run = run
        self.next_into = into
        self.hit = hit
        self.idle = idle
        if slot >= 0 and self.private[slot] >= 0:  # then all its blocks with ids are cached too
            self.hit += self.length[self.private[slot]]
            self.idle += self.length[self.private[slot]]
        return 0

    @cython.cfunc
    @cython.inline
    @cython.exceptval(-1)
    def _pass_by(self, extent: cython.int, reach: cython.int) -> cython.int:
        if self.found == self.most_found:
            self._keep_path(_grown(self.kept["path"]))
        self.path[self.found] = extent
        self.reach[self.found] = reach
        self.found += 1
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def take(self, request: cython.longlong, slot: cython.int) -> cython.int:
        """Hold the prefix that `match` has just found."""
        i: cython.int
        named: cython.longlong = 0
        for i in range(self.found):
            self._share(slot, self.path[i], self.reach[i])
            named += self.reach[i]
        self.run[slot] = self.next_run
        self.run_end[slot] = self.offset[request + 1] if self.stride > 0 else 0
        self.into[slot] = self.next_into
        self.named[slot] = named
        self.beside[slot] = self.unseen[slot] = self.watched[slot] = 0
        extent: cython.int = self.private[slot]
        if extent >= 0:
            self._unlink(extent)
            self._spend(extent)
            self.free -= self.length[extent]
            self.private[slot] = -1
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def _share(self, slot: cython.int, extent: cython.int, reach: cython.int) -> cython.int:
        if reach < self.length[extent]:
            self._split(extent, reach)
        if self.refs[extent] == 0:
            self._unlink(extent)
            self.free -= reach
        self.refs[extent] += 1
        return self._hold(slot, extent)

    @cython.cfunc
    @cython.exceptval(-1)
    def name(self, slot: cython.int, full: cython.longlong) -> cython.int:
        """Register the blocks of a slot that have ids, up to its `full`-th."""
        while self.named[slot] < full and self.run[slot] < self.run_end[slot]:
            run: cython.longlong = self.run[slot]
            into: cython.longlong = self.into[slot]
            more: cython.longlong = min(self.count[run] - into, full - self.named[slot])
            self._name(slot, self.first_key[run] + into * self.stride, cython.cast(cython.int, more))
            self._move_on(slot, more)
        return 0

    @cython.cfunc
    @cython.inline
    @cython.exceptval(check=False)
    def _move_on(self, slot: cython.int, more: cython.longlong) -> cython.int:
        self.named[slot] += more
        self.into[slot] += more
        if self.into[slot] == self.count[self.run[slot]]:
            self.run[slot] += 1
            self.into[slot] = 0
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def _name(self, slot: cython.int, key: cython.longlong, more: cython.int) -> cython.int:
        """Register blocks whose keys follow each other."""
        extent: cython.int
        if self.beside[slot] == 0 and self._find(key) >= 0:
            self.beside[slot] = 1
        if self.beside[slot]:
            i: cython.int
            for i in range(more):
                self._watch(self._find(key + i * self.stride))
                extent = self._new(key + i * self.stride, 1, 1)
                self._register(extent)
                self._hold(slot, extent)
            return 0
        if self.held[slot] >= 0:
            extent = self.cell_extent[self.held[slot]]
            if self._continues(extent, key):
                self.length[extent] += more
                return 0
        extent = self._new(key, more, 1)
        self._register(extent)
        return self._hold(slot, extent)

    @cython.cfunc
    @cython.inline
    @cython.exceptval(check=False)
    def _continues(self, extent: cython.int, key: cython.longlong) -> cython.bint:
        """Return whether a key can make an extent longer: it follows, and there is one holder."""
        return self.refs[extent] == 1 and self.key[extent] + self.length[extent] * self.stride == key

    # --- output blocks: registered as they fill, but where nobody looks only once somebody does

    @cython.cfunc
    @cython.exceptval(-1)
    def plan(self, slot: cython.int) -> cython.int:
        """Note when a decode must register a block next.

        What only makes its own extent longer is no event: it is made up for when somebody comes by, or at the end.
        All decodes are equally fast, so nobody else can register these keys first, except one who came by; and if the
        next key is not cached, none behind it is.
        """
        self.naming.due[slot] = -1
        run: cython.longlong = self.run[slot]
        if run == self.run_end[slot]:
            return 0
        ahead: cython.longlong = 1
        if self.held[slot] >= 0 and self.beside[slot] == 0 and self.watched[slot] == 0:
            extent: cython.int = self.cell_extent[self.held[slot]]
            key: cython.longlong = self.first_key[run] + self.into[slot] * self.stride
            if self._continues(extent, key) and self._find(key) < 0:
                self.grower[extent] = slot
                self.unseen[slot] = 1
                if run + 1 == self.run_end[slot]:
                    return 0
                ahead += self.count[run] - self.into[slot]
        return self._await(slot, ahead)

    @cython.cfunc
    @cython.exceptval(check=False)
    def _await(self, slot: cython.int, ahead: cython.longlong) -> cython.int:
        full: cython.longlong = (self.named[slot] + ahead) * self.block_size
        self.naming.push(slot, full - 1 + self.late - self.contexts[slot])
        return 0

    @cython.cfunc
    @cython.inline
    @cython.exceptval(check=False)
    def _grows(self, extent: cython.int) -> cython.bint:
        """Return whether an extent may be longer than noted."""
        slot: cython.int = self.grower[extent]
        return slot >= 0 and self.unseen[slot] != 0 and self.cell_extent[self.held[slot]] == extent

    @cython.cfunc
    @cython.inline
    @cython.exceptval(check=False)
    def _filled(self, slot: cython.int, iteration: cython.longlong) -> cython.longlong:
        """Return how many blocks a decode has filled when that iteration is scheduled."""
        return (iteration + 1 - self.late + self.contexts[slot]) // self.block_size

    @cython.cfunc
    @cython.exceptval(-1)
    def name_due(self, slot: cython.int, iteration: cython.longlong) -> cython.int:
        """Register what a decode has filled at an iteration, and plan on."""
        self.settle(slot, self._filled(slot, iteration))
        return self.plan(slot)

    @cython.cfunc
    @cython.exceptval(-1)
    def settle(self, slot: cython.int, full: cython.longlong) -> cython.int:
        """Register what a slot has filled, up to its `full`-th block; nothing grows unseen from here on."""
        if self.unseen[slot]:
            self.unseen[slot] = 0
            run: cython.longlong = self.run[slot]
            # none, where somebody comes by in the iteration in which it has just registered
            more: cython.longlong = max(0, min(self.count[run] - self.into[slot], full - self.named[slot]))
            self.length[self.cell_extent[self.held[slot]]] += cython.cast(cython.int, more)
            self._move_on(slot, more)
        return self.name(slot, full)

    @cython.cfunc
    @cython.exceptval(-1)
    def _catch_up(self, slot: cython.int) -> cython.int:
        """Make up for what has grown; the next block is an event, for who came by may wait for it."""
        self.settle(slot, self._filled(slot, self.now))
        return self._await(slot, 1)

    @cython.cfunc
    @cython.exceptval(-1)
    def _watch(self, extent: cython.int) -> cython.int:
        """Let the grower of an extent register each block as an event: another request has its keys."""
        if extent >= 0 and self.grower[extent] >= 0:
            self.watched[self.grower[extent]] = 1
            if self._grows(extent):
                self._catch_up(self.grower[extent])
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def release(
        self, slot: cython.int, registered: cython.longlong, blocks: cython.longlong, keep: cython.bint
    ) -> cython.int:
        """Let go of the blocks of a slot, tail first; full ones of the `registered` tokens can be found again.

        `keep`: it will come back for them.
        """
        if not self.caching:
            self.free += blocks
            self.blank += blocks
            return 0
        full: cython.longlong = cython.cast(cython.int, registered) // self.block_size
        if self.run[slot] < self.run_end[slot]:
            self.settle(slot, full)
        self.naming.due[slot] = -1
        self.blank += blocks - full
        self.free += blocks - self.named[slot]
        if full > self.named[slot]:
            self._release_private(slot, cython.cast(cython.int, full - self.named[slot]), keep)
        cell: cython.int = self.held[slot]
        while cell >= 0:
            extent: cython.int = self.cell_extent[cell]
            self.refs[extent] -= 1
            if self.refs[extent] == 0:
                self.free += self.length[extent]
                self._link(extent, 0)
            after: cython.int = self.cell_next[cell]
            self._drop_cell(cell)
            cell = after
        self.held[slot] = -1
        self.named[slot] = 0
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def _release_private(self, slot: cython.int, length: cython.int, keep: cython.bint) -> cython.int:
        extent: cython.int = self.older[0]
        if not keep and extent > 0 and self.key[extent] < 0 and self.owner[extent] < 0:
            self.length[extent] += length  # nobody will ask for either: one stretch
            return 0
        extent = self._new(-1, length, 0)
        self._link(extent, 0)
        if keep:
            self.owner[extent] = slot
            self.private[slot] = extent
        return 0

    def grow(self) -> None:
        """Make room for twice as many slots."""
        longs, flags, ints = self.kept["slots"]
        self._keep_slots(_grown(longs), _grown(flags), _grown(ints, -1))
        self.naming.grow()


@cython.final
@cython.cclass
class Columns:
    """What is known and found per request, shared by all replicas."""

    arrive: cython.longlong[::1]
    isl: cython.longlong[::1]
    outputs: cython.int[::1]
    first: cython.longlong[::1]
    last: cython.longlong[::1]
    state: cython.schar[::1]
    cached: cython.int[::1]
    preempted: cython.int[::1]
    behind: cython.int[::1]  # the next request in the same waiting line, −1: the last; by priority: its slot
    rank: cython.int[::1]  # of its priority, 0 the soonest; empty where priorities do not count
    stops: cython.schar[::1]  # whether a stop token ends it; empty where none does
    until: cython.longlong  # when the clock stops: what comes out later is not written down

    def __init__(self, until: int, *columns: Any) -> None:
        self.until = until
        views = [_view(column) for column in columns]
        self.arrive, self.isl, self.outputs = views[:3]
        self.first, self.last, self.state, self.cached, self.preempted, self.behind = views[3:9]
        self.rank, self.stops = views[9:]


@cython.final
@cython.cclass
class Engine(Server):
    """One replica. Between two calls of `schedule` a *leg* is pending: k equal-batch iterations from `t` on.

    Asynchronous scheduling runs the scheduler one iteration ahead: `schedule` is called when the last batch of the
    leg before begins, not when it ends, and takes it for done. So `it`, the sums and the blocks are those after that
    batch, `t` is its end, and `end`, when `schedule` is called next, is the beginning of the last iteration of the
    pending leg. Two things are not as they look then. A request whose last token is in the last batch keeps its seat
    and its blocks until `t`; where a stop token will end it, which the scheduler cannot know, it even stays in the
    batch for one more iteration. Such slots are `leaving`: they go at the end of the next leg, which is of one
    iteration. And an output block is registered one iteration later, with its last token known.
    """

    # settings
    ahead: cython.bint  # scheduling is asynchronous
    by_priority: cython.bint
    seats: cython.int
    most_tokens: cython.longlong  # scheduled per iteration
    block_size: cython.int
    chunked: cython.bint
    reserve: cython.bint
    watermark: cython.longlong  # blocks an admission leaves free
    # step times
    decode: cython.p_longlong
    mixed: cython.p_longlong
    context_ps: cython.longlong
    pair_ps: cython.longlong
    sequence_ps: cython.longlong
    prefill_context_ps: cython.longlong
    window_ps: cython.longlong
    window: cython.longlong
    # shared
    columns: Columns
    gaps: Gaps
    part: cython.int  # where in the gaps this replica's last leg is
    entry: cython.longlong
    blocks: Blocks
    # time
    called: cython.longlong  # when `schedule` was called last
    t: cython.longlong  # start of the pending leg
    it: cython.longlong  # iterations done, or taken for done
    phase: cython.int  # it mod block_size
    # the pending leg
    k: cython.longlong  # 0: an empty batch, only a time to wait for
    a: cython.longlong
    d: cython.longlong
    under_knee: cython.bint  # of window attention, to its end
    tokens: cython.longlong  # scheduled per iteration
    chunk: cython.int  # first slot of the tail of `running` that computes a prompt, −1: none
    # running
    n: cython.int  # decodes
    s: cython.longlong  # sum of their contexts
    by_phase: cython.p_int  # decodes by offset mod block_size
    partial: cython.int  # the slot in the middle of its prompt (the last of running), −1: none
    head: cython.int
    tail: cython.int
    before: cython.p_int
    after: cython.p_int
    finishing: Agenda
    batch: cython.p_int
    # leaving, by asynchronous scheduling only: their last token is in the batch that runs
    leaving: cython.int
    leave: cython.p_int
    wasted: cython.int  # of them, those still among the decodes
    # slots
    request: cython.p_int
    computed: cython.p_longlong  # of a slot with a prompt to compute or that leaves; of a decode, context − it
    # (the same column as `blocks.contexts`)
    known: cython.p_longlong  # prompt and emitted tokens
    emitted: cython.p_int
    share: cython.p_longlong  # tokens of its prompt in this iteration
    order: cython.p_longlong  # of admission
    spoke: cython.p_longlong  # time of the last token before a preemption
    stage: cython.p_int  # STAYS, ENDS, STOPS or GONE
    spare: cython.int
    admissions: cython.longlong
    # waiting: preempted slots (a stack), then requests in order of arrival; or all of them by priority
    stack: cython.int
    below: cython.p_int
    line: cython.int
    line_end: cython.int
    ranked: Heap
    # one call of `schedule`
    budget: cython.longlong
    n_single: cython.int
    s_single: cython.longlong
    chunks: cython.int
    pairs: cython.longlong
    over: cython.longlong
    slots: cython.int
    step: Any  # what all these point to
    phases: Any
    longs: Any
    ints: Any
    # counters
    steps: cython.longlong
    jumps: cython.longlong
    scheduled: cython.longlong
    preemptions: cython.longlong

    def __init__(self, replica: Any, ids: Any, columns: Columns, gaps: Gaps) -> None:
        Server.__init__(self)
        settings, table = replica.settings, replica.step
        self.ahead, self.by_priority = settings.async_scheduling, settings.scheduling_policy == "priority"
        self.seats = settings.max_num_active_seqs or settings.max_num_seqs
        most = settings.max_num_batched_tokens
        self.most_tokens = min(settings.max_num_scheduled_tokens or most, most)
        self.block_size = settings.block_size
        self.chunked, self.reserve = settings.enable_chunked_prefill, settings.scheduler_reserve_full_isl
        # the engine's own count has one block more: its null block
        self.watermark = int(settings.watermark * (replica.num_gpu_blocks + 1))
        self.decode, self.mixed = _longs(table.decode_ps), _longs(table.mixed_ps)
        self.context_ps, self.pair_ps = table.context_ps_per_token, table.prefill_ps_per_pair
        self.sequence_ps, self.prefill_context_ps = table.sequence_ps, table.prefill_context_ps_per_token
        self.window_ps, self.window = table.window_ps_per_token, table.window_tokens
        slots = self.seats
        self.columns, self.gaps = columns, gaps
        self.part, self.entry = -1, 0
        self.blocks = Blocks(replica.num_gpu_blocks, slots, settings, ids)
        self.called, self.t, self.it, self.phase = 0, 0, 0, 0
        self.k = self.a = self.d = self.tokens = 0
        self.chunk = self.partial = self.head = self.tail = self.stack = self.line = self.line_end = -1
        self.n = self.s = self.leaving = self.wasted = self.under_knee = 0
        phases = np.zeros(settings.block_size, np.int32)
        self.step, self.phases, self.by_phase = table, phases, _shorts(phases)
        self.finishing, self.ranked = Agenda(slots), Heap(4)
        self._keep_slots(np.zeros((4, slots), np.int64), np.zeros((8, slots), np.int32))
        self.spare = -1
        self._spare_slots(0, slots)
        self.admissions = self.budget = self.n_single = self.s_single = self.chunks = self.pairs = self.over = 0
        self.steps = self.jumps = self.scheduled = self.preemptions = 0

    def _spare_slots(self, start: int, stop: int) -> None:
        for slot in range(stop - 1, start - 1, -1):
            self.below[slot], self.spare = self.spare, slot

    def _keep_slots(self, longs: Any, ints: Any) -> None:
        self.longs, self.ints, self.slots = longs, ints, ints.shape[1]
        self.known, self.share = _longs(longs[0]), _longs(longs[1])
        self.order, self.spoke = _longs(longs[2]), _longs(longs[3])
        self.before, self.after, self.below = _shorts(ints[0]), _shorts(ints[1]), _shorts(ints[2])
        self.batch, self.leave = _shorts(ints[3]), _shorts(ints[4])
        self.request, self.emitted, self.stage = _shorts(ints[5]), _shorts(ints[6]), _shorts(ints[7])
        self.computed = self.blocks.contexts

    def _more_slots(self) -> None:
        """Make room: by priority, preempted requests keep their slots while others are admitted."""
        slots = self.slots
        if slots >= _MOST_SLOTS:
            raise OverflowError("more than 2^19 requests are running or preempted in one replica")
        self.finishing.grow()
        self.blocks.grow()
        self._keep_slots(_grown(self.longs), _grown(self.ints))
        self._spare_slots(slots, 2 * slots)

    # --- arrival

    @cython.cfunc
    @cython.exceptval(-1)
    def arrive(self, request: cython.int, now: cython.longlong) -> cython.int:
        """Put a request into the waiting line; a jump that could have admitted it ends sooner."""
        first: cython.bint = self._join(request)
        if self.end == NEVER:  # idle: schedule once all that arrives now is here
            self.t = self.end = now
            self.k = 0
        elif first and self.k > 1 and self.partial < 0 and self.running < self.seats:
            if not self.ahead:
                self._cut(least_steps(self.a, self.d, now - self.t))
            elif now <= self.t:
                self._cut(1)
            else:
                self._cut(1 + least_steps(self.a, self.d, now - self.t))
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def _join(self, request: cython.int) -> cython.bint:
        """Queue a new request; return whether it is the head of the line."""
        self.waiting += 1
        self.columns.behind[request] = -1
        if self.by_priority:
            entry: cython.longlong = self._place(request)
            self.ranked.add(entry)
            return self.ranked.heap[0] == entry
        if self.line < 0:
            self.line = request
        else:
            self.columns.behind[self.line_end] = request
        self.line_end = request
        return self.waiting == 1

    @cython.cfunc
    @cython.inline
    @cython.exceptval(check=False)
    def _place(self, request: cython.int) -> cython.longlong:
        """Return what the line is sorted by: priority, then arrival (the order of the rows)."""
        return cython.cast(cython.longlong, self.columns.rank[request]) << 30 | request

    @cython.cfunc
    @cython.exceptval(check=False)
    def _cut(self, k: cython.longlong) -> cython.int:
        if k < self.k:
            self.k = k
            self._set_end()
        return 0

    @cython.cfunc
    @cython.inline
    @cython.exceptval(check=False)
    def _set_end(self) -> cython.int:
        k: cython.longlong = self.k - self.ahead
        self.end = self.t + k * self.a + self.d * (k * (k - 1) // 2)
        return 0

    # --- what happens during a leg

    @cython.cfunc
    @cython.exceptval(-1)
    def commit(self) -> cython.int:
        """Live through the pending leg: time passes, tokens come out, requests finish."""
        k: cython.longlong = self.k
        if k > 0:
            self._pass(k)
        if self.leaving > 0:
            self._let_go()
        if k > 0:
            if self.finishing.next() == self.it:
                self._finish_due()
            if self.chunk >= 0:
                self._speak()
            self.k = 0  # who arrives before the next leg is decided has none to cut
        return 0

    @cython.cfunc
    @cython.inline
    @cython.exceptval(-1)
    def _pass(self, k: cython.longlong) -> cython.int:
        if k > 1:
            self.blocks.alloc(self._takes(k - 1))
            self.jumps += 1
        time: cython.longlong = k * self.a + self.d * (k * (k - 1) // 2)
        self.t += time
        self.busy += time
        self.it += k
        self.phase = (self.phase + cython.cast(cython.int, k)) % self.block_size
        self.s += self.n * k
        if self.t > self.columns.until:  # the last batch runs when the clock stops
            k -= 1
        self.steps += k
        self.scheduled += k * self.tokens
        if self.n > self.wasted and k > 0:
            self._note_gaps(k, self.n - self.wasted)
        if self.blocks.naming.size > 0:
            self._name_until(self.it - 1)
        self.blocks.now = self.it - 1
        return 0

    @cython.cfunc
    @cython.inline
    @cython.exceptval(-1)
    def _note_gaps(self, k: cython.longlong, weight: cython.int) -> cython.int:
        """Note the gaps of a leg; one that only goes on (a jump cut for nothing) makes the last entry longer."""
        gaps: Gaps = self.gaps
        if self.under_knee:
            weight = -weight
        if self.part != gaps.part or not gaps.lengthen(self.entry, self.a, k, weight):
            gaps.add(self.a, k, weight)
            self.entry = gaps.used - 1
            self.part = gaps.part
        return 0

    @cython.cfunc
    @cython.inline
    @cython.exceptval(check=False)
    def _takes(self, k: cython.longlong) -> cython.longlong:
        """Return the blocks decodes take in the k iterations after the next one."""
        size: cython.int = self.block_size
        rounds: cython.int = cython.cast(cython.int, k) // size
        left: cython.int = cython.cast(cython.int, k) - rounds * size
        taken: cython.longlong = cython.cast(cython.longlong, rounds) * self.n
        phase: cython.int = size - self.phase - 1
        while left > 0:
            taken += self.by_phase[phase]
            phase = phase - 1 if phase > 0 else size - 1
            left -= 1
        return taken

    @cython.cfunc
    @cython.exceptval(check=False)
    def _batch(self, agenda: Agenda, iteration: cython.longlong) -> cython.int:
        """Fill `batch` with the slots due at that iteration, in running order; return how many."""
        count: cython.int = 0
        while agenda.next() == iteration:
            self.batch[count] = agenda.take()
            count += 1
        stride: cython.int = 1
        while stride < count // 9:
            stride = 3 * stride + 1
        while stride > 0:  # Shell's sort: few are sorted by insertion, many in not much more than linear time
            self._sort_by_order(count, stride)
            stride //= 3
        return count

    @cython.cfunc
    @cython.inline
    @cython.exceptval(check=False)
    def _sort_by_order(self, count: cython.int, stride: cython.int) -> cython.int:
        i: cython.int
        for i in range(stride, count):
            slot: cython.int = self.batch[i]
            hole: cython.int = i
            while hole >= stride and self.order[self.batch[hole - stride]] > self.order[slot]:
                self.batch[hole] = self.batch[hole - stride]
                hole -= stride
            self.batch[hole] = slot
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def _finish_due(self) -> cython.int:
        i: cython.int
        count: cython.int = self._batch(self.finishing, self.it)
        for i in range(count):
            slot: cython.int = self.batch[i]
            if self.ahead and self._stops(slot):
                self._leave_late(slot)
            else:
                self._finish(slot, self._leave_decodes(slot))
        return 0

    @cython.cfunc
    @cython.inline
    @cython.exceptval(check=False)
    def _stops(self, slot: cython.int) -> cython.bint:
        """Return whether a stop token ends it, which the scheduler cannot foresee."""
        return self.columns.stops.shape[0] > 0 and self.columns.stops[self.request[slot]] != 0

    @cython.cfunc
    @cython.exceptval(check=False)
    def _leave_decodes(self, slot: cython.int) -> cython.longlong:
        """Take a slot out of the sums; return its context."""
        context: cython.longlong = self.it + self.computed[slot]
        self.n -= 1
        self.s -= context
        self.by_phase[self._phase_of(context)] -= 1
        return context

    @cython.cfunc
    @cython.inline
    @cython.exceptval(check=False)
    def _phase_of(self, context: cython.longlong) -> cython.int:
        size: cython.int = self.block_size
        return (cython.cast(cython.int, context) + size - self.phase) % size

    @cython.cfunc
    @cython.exceptval(-1)
    def _finish(self, slot: cython.int, context: cython.longlong) -> cython.int:
        """Take leave of a slot that is no longer among the decodes."""
        self._note_end(slot)
        if self.ahead:
            self.blocks.settle(slot, (context - 1) // self.block_size)
            self.blocks.naming.due[slot] = -1
            self.stage[slot] = _ENDS
            self.computed[slot] = context
            self.leave[self.leaving] = slot
            self.leaving += 1
            return 0
        return self._vacate(slot, context, self._blocks_of(context))

    @cython.cfunc
    @cython.exceptval(check=False)
    def _leave_late(self, slot: cython.int) -> cython.int:
        """Keep a slot among the decodes whose stop token the scheduler has not seen yet."""
        self._note_end(slot)
        self.stage[slot] = _STOPS
        self.leave[self.leaving] = slot
        self.leaving += 1
        self.wasted += 1
        return 0

    @cython.cfunc
    @cython.inline
    @cython.exceptval(check=False)
    def _note_end(self, slot: cython.int) -> cython.int:
        request: cython.int = self.request[slot]
        if self.t <= self.columns.until:
            self.columns.last[request] = self.t
            self.columns.state[request] = _FINISHED
        if self.clients is not None:
            self.clients.put(self.t)
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def _let_go(self) -> cython.int:
        """Release those whose last token has come out now."""
        i: cython.int
        for i in range(self.leaving):
            slot: cython.int = self.leave[i]
            stage: cython.schar = self.stage[slot]
            self.stage[slot] = _STAYS
            if stage == _GONE:
                self.waiting -= 1
                self._spare_slot(slot)
            elif stage == _STOPS:
                context: cython.longlong = self._leave_decodes(slot)
                self._vacate(slot, context - 1, self._blocks_of(context))
            else:
                context = self.computed[slot]
                self._vacate(slot, context, self._blocks_of(context))
        self.leaving = self.wasted = 0
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def _vacate(self, slot: cython.int, registered: cython.longlong, blocks: cython.longlong) -> cython.int:
        self.blocks.release(slot, registered, blocks, False)
        self._leave_running(slot)
        return self._spare_slot(slot)

    @cython.cfunc
    @cython.inline
    @cython.exceptval(check=False)
    def _spare_slot(self, slot: cython.int) -> cython.int:
        self.below[slot] = self.spare
        self.spare = slot
        return 0

    @cython.cfunc
    @cython.exceptval(check=False)
    def _leave_running(self, slot: cython.int) -> cython.int:
        before: cython.int = self.before[slot]
        after: cython.int = self.after[slot]
        if before < 0:
            self.head = after
        else:
            self.after[before] = after
        if after < 0:
            self.tail = before
        else:
            self.before[after] = before
        self.running -= 1
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def _speak(self) -> cython.int:
        """Let the slots that computed a prompt go on: those that are through emit a token."""
        slot: cython.int = self.chunk
        self.partial = -1
        while slot >= 0:
            after: cython.int = self.after[slot]
            self.computed[slot] += self.share[slot]
            if self.computed[slot] < self.known[slot]:
                self.partial = slot
            else:
                self._emit(slot)
            slot = after
        self.chunk = -1
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def _emit(self, slot: cython.int) -> cython.int:
        """Emit the token that follows the known ones; a slot that is not through decodes from here on."""
        if self.t <= self.columns.until:
            if self.emitted[slot] == 0:
                self.columns.first[self.request[slot]] = self.t
            else:
                self.gaps.add(self.t - self.spoke[slot], 1, 1)
        self.emitted[slot] += 1
        left: cython.int = self.columns.outputs[self.request[slot]] - self.emitted[slot]
        context: cython.longlong = self.computed[slot]
        if left == 0 and not (self.ahead and self._stops(slot)):
            return self._finish(slot, context)
        self.n += 1
        self.s += context
        self.by_phase[self._phase_of(context)] += 1
        self.computed[slot] = context - self.it
        if left == 0:
            return self._leave_late(slot)
        self.finishing.push(slot, self.it + left)
        if self.blocks.run[slot] < self.blocks.run_end[slot]:
            self.blocks.plan(slot)
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def _name_until(self, iteration: cython.longlong) -> cython.int:
        """Register the output blocks that were filled up to an iteration, in the order in which it happened."""
        i: cython.int
        naming: Agenda = self.blocks.naming
        while naming.next() <= iteration:
            self.blocks.now = naming.next()
            count: cython.int = self._batch(naming, self.blocks.now)
            for i in range(count):
                self.blocks.name_due(self.batch[i], self.blocks.now)
        return 0

    # --- what the scheduler decides

    @cython.cfunc
    @cython.exceptval(-1)
    def schedule(self) -> cython.int:
        """Decide the next leg, as one call of vLLM's `schedule` would its first iteration."""
        self.called = self.end
        preempted: cython.bint = self._take_blocks()
        if self.blocks.naming.size > 0:
            self._name_until(self.it)
        self.blocks.now = self.it
        self.budget = self.most_tokens - self.n
        self.chunk = -1
        self.n_single = self.chunks = 0
        self.s_single = self.pairs = self.over = 0
        if self.partial >= 0 and not self._go_on():
            preempted = True
        if not preempted:
            while self.budget > 0 and self.waiting > 0 and self.running < self.seats:
                if not self._admit():
                    break
        self.tokens = self.most_tokens - self.budget
        if self.tokens == 0:
            return self._pause()
        if self.chunk >= 0:
            self._mixed_leg()
        else:
            self._decode_leg(preempted)
        self._set_end()
        return 0

    @cython.cfunc
    @cython.exceptval(check=False)
    def _pause(self) -> cython.int:
        """Nothing was scheduled: wait for the batch that runs; without one, try again or be idle."""
        self.k = 0
        self.end = self.t
        if self.running == 0 and self.waiting == 0 and self.t == self.called:
            self.end = NEVER
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    @cython.inline
    def _take_blocks(self) -> cython.bint:
        """Give each decode the block its next token needs; return whether somebody was preempted for it."""
        if self.n == 0:
            return False
        size: cython.int = self.block_size
        need: cython.int = self.by_phase[(size - self.phase) % size]
        if need <= self.blocks.free:
            self.blocks.alloc(need)
            return False
        if self.by_priority:
            return self._take_in_turn()
        return self._take_by_force()

    @cython.cfunc
    @cython.exceptval(-1)
    def _take_by_force(self) -> cython.bint:
        """Let each decode take its block in turn; where none is left the last of running is preempted.

        So all that was free, and all that a victim gives back, is taken before the next victim goes.
        """
        due: cython.int = (self.block_size - self.phase) % self.block_size
        taken: cython.longlong = 0
        while self.by_phase[due] - taken > self.blocks.free:
            taken += self.blocks.free
            self.blocks.alloc(self.blocks.free)
            self._preempt(self.tail, False)
        self.blocks.alloc(self.by_phase[due] - taken)
        return True

    @cython.cfunc
    @cython.exceptval(-1)
    def _take_in_turn(self) -> cython.bint:
        """Let each decode take its block in turn; whoever lacks one preempts the least urgent of all."""
        slot: cython.int = self.head
        while slot >= 0 and slot != self.partial:
            if self.stage[slot] != _ENDS and self._take_one(slot) and self.blocks.naming.due[slot] == self.it:
                self.blocks.name_due(slot, self.it)
            slot = self.after[slot]
        return True

    @cython.cfunc
    @cython.exceptval(-1)
    def _take_one(self, slot: cython.int) -> cython.bint:
        """Give a decode its block if it needs one now; return whether it is still there."""
        if (self.it + self.computed[slot]) % self.block_size > 0:
            return True
        while self.blocks.free == 0:
            victim: cython.int = self._least_urgent()
            self._preempt(victim, self.order[victim] < self.order[slot])
            if victim == slot:
                return False
        self.blocks.alloc(1)
        return True

    @cython.cfunc
    @cython.exceptval(check=False)
    def _least_urgent(self) -> cython.int:
        """Return the running slot of the greatest (priority, time of arrival), the first of equals."""
        worst: cython.int = self.head
        slot: cython.int = self.after[worst]
        while slot >= 0:
            mine: cython.int = self.request[slot]
            other: cython.int = self.request[worst]
            rank: cython.int = self.columns.rank[mine]
            if rank > self.columns.rank[other] or (
                rank == self.columns.rank[other] and self.columns.arrive[mine] > self.columns.arrive[other]
            ):
                worst = slot
            slot = self.after[slot]
        return worst

    @cython.cfunc
    @cython.exceptval(-1)
    def _preempt(self, slot: cython.int, scheduled: cython.bint) -> cython.int:
        """Throw a running request back into the waiting line; its blocks go, its keys stay.

        `scheduled`: it has been given its token and its blocks in this call already.
        """
        context: cython.longlong = self.computed[slot]
        registered: cython.longlong = context
        stage: cython.schar = self.stage[slot]
        if slot == self.partial:
            self.partial = -1
        else:
            if stage == _ENDS:
                scheduled = False  # what is in flight ends it, so this call gave it nothing
            else:
                context = self._leave_decodes(slot)
            registered = context + scheduled
            if self.ahead:  # its last token is not known yet; that of a prompt is
                registered = max(registered - 1, self.known[slot])
            if stage == _STAYS:
                self.emitted[slot] = cython.cast(cython.int, context + 1 - self.columns.isl[self.request[slot]])
                self.known[slot] = context + 1
                self.spoke[slot] = self.t
            self.wasted -= stage == _STOPS
            context += scheduled
            self.finishing.due[slot] = -1
        self.blocks.release(slot, registered, self._blocks_of(context), stage == _STAYS)
        self._leave_running(slot)
        self._throw_back(slot)
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def _throw_back(self, slot: cython.int) -> cython.int:
        request: cython.int = self.request[slot]
        self.waiting += 1
        self.preemptions += 1
        self.columns.preempted[request] += 1
        if self.stage[slot] != _STAYS:
            self.stage[slot] = _GONE  # its last token comes out all the same
        elif self.by_priority:
            self.columns.behind[request] = slot
            self.ranked.add(self._place(request))
        else:
            self.below[slot] = self.stack
            self.stack = slot
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def _go_on(self) -> cython.bint:
        """Give the prompt under way its next chunk; return whether it found blocks without a preemption."""
        slot: cython.int = self.partial
        computed: cython.longlong = self.computed[slot]
        share: cython.longlong = min(self.known[slot] - computed, self.budget)
        need: cython.longlong = self._blocks_of(computed + share) - self._blocks_of(computed)
        clear: cython.bint = True
        while need > self.blocks.free:
            clear = False
            decodes: cython.int = self.n
            victim: cython.int = self._least_urgent() if self.by_priority else slot
            self._preempt(victim, victim != slot)
            self.budget += decodes - self.n
            if victim == slot:
                return False
        self.blocks.alloc(need)
        self._compute(slot, computed, share)
        return clear

    @cython.cfunc
    @cython.inline
    @cython.exceptval(check=False)
    def _blocks_of(self, tokens: cython.longlong) -> cython.longlong:
        return (cython.cast(cython.int, tokens) + self.block_size - 1) // self.block_size

    @cython.cfunc
    @cython.exceptval(-1)
    def _compute(self, slot: cython.int, computed: cython.longlong, share: cython.longlong) -> cython.bint:
        """Schedule a chunk of a prompt; a chunk of one token costs what a decode costs, as in the engine's kernels."""
        if self.blocks.caching:
            self.blocks.name(slot, cython.cast(cython.int, computed + share) // self.block_size)
        self.budget -= share
        self.share[slot] = share
        if self.chunk < 0:
            self.chunk = slot
        if share == 1:
            self.n_single += 1
            self.s_single += computed
        else:
            self.chunks += 1
            self.pairs += share * (2 * computed + share)
            self.over += computed
        return True

    @cython.cfunc
    @cython.exceptval(-1)
    def _admit(self) -> cython.bint:
        """Admit the head of the waiting line; return whether it fitted."""
        slot: cython.int = self.stack
        request: cython.int
        if self.by_priority:
            request = cython.cast(cython.int, self.ranked.heap[0] & (0x3FFFFFFF))
            slot = self.columns.behind[request]
        else:
            request = self.request[slot] if slot >= 0 else self.line
        known: cython.longlong = self.known[slot] if slot >= 0 else self.columns.isl[request]
        blocks: Blocks = self.blocks
        blocks.hit = blocks.idle = 0
        looked: cython.bint = blocks.caching and (slot >= 0 or blocks.stride > 0)
        if looked:
            blocks.match(request, slot, (known - 1) // self.block_size)
        hit: cython.longlong = blocks.hit
        computed: cython.longlong = hit * self.block_size
        share: cython.longlong = known - computed
        if share > self.budget:
            if not self.chunked:
                return False
            share = self.budget
        need: cython.longlong = self._blocks_of(computed + share) - hit
        whole: cython.longlong = self._blocks_of(known) - hit if self.reserve else need
        if self.running > 0:
            whole += self.watermark
        if whole + blocks.idle > blocks.free:
            return False
        slot = self._enter(request, slot, known, computed)
        if looked:
            blocks.take(request, slot)
        blocks.alloc(need)
        self.computed[slot] = computed
        return self._compute(slot, computed, share)

    @cython.cfunc
    @cython.exceptval(-1)
    def _enter(
        self, request: cython.int, slot: cython.int, known: cython.longlong, computed: cython.longlong
    ) -> cython.int:
        """Move the head of the waiting line to the end of running; return its slot."""
        self.waiting -= 1
        if self.by_priority:
            self.ranked.pop()
        elif slot >= 0:
            self.stack = self.below[slot]
        else:
            self.line = self.columns.behind[request]
        if slot < 0:
            if self.spare < 0:
                self._more_slots()
            slot = self.spare
            self.spare = self.below[slot]
            self.request[slot] = request
            self.known[slot] = known
            self.emitted[slot] = 0
            if computed > 0:
                self.columns.cached[request] = cython.cast(cython.int, computed)
        self.order[slot] = self.admissions
        self.admissions += 1
        self.running += 1
        self.before[slot] = self.tail
        self.after[slot] = -1
        if self.tail < 0:
            self.head = slot
        else:
            self.after[self.tail] = slot
        self.tail = slot
        return slot

    # --- how long it takes

    @cython.cfunc
    @cython.inline
    @cython.exceptval(check=False)
    def _attention(self, n: cython.longlong, s: cython.longlong) -> cython.longlong:
        return self.context_ps * s + self.window_ps * min(s, n * self.window)

    @cython.cfunc
    @cython.exceptval(check=False)
    def _mixed_leg(self) -> cython.int:
        n: cython.int = self.n + self.n_single
        self.k = 1
        self.d = self.under_knee = 0
        self.a = self._attention(n, self.s + self.s_single)
        if self.chunks == 0:
            self.a += self.decode[n]
            return 0
        self.a += self.mixed[self.tokens] + self.sequence_ps * (n + self.chunks)
        self.a += self.pair_ps * self.pairs + self.prefill_context_ps * self.over
        return 0

    @cython.cfunc
    @cython.exceptval(check=False)
    def _decode_leg(self, preempted: cython.bint) -> cython.int:
        """Jump: no prompt, no admission; until a finish, a lack of blocks or the knee of window attention."""
        n: cython.longlong = self.n
        k: cython.longlong = self.finishing.next() - self.it
        self.a = self.decode[n] + self._attention(n, self.s)
        self.d = self.context_ps * n
        self.under_knee = self.window_ps > 0 and self.s <= n * self.window
        if self.under_knee:
            k = min(k, (n * self.window - self.s) // n + 1)
            self.d += self.window_ps * n
        if preempted or self.leaving > 0:
            k = 1  # the head of the line is tried again after this iteration
        elif self.waiting > 0 and self.blocks.naming.size > 0 and self.running < self.seats:
            k = min(k, self.blocks.naming.next() - self.it)  # a registered block may let the head in
        self.k = self._affordable(k)
        return 0

    @cython.cfunc
    @cython.inline
    @cython.exceptval(check=False)
    def _affordable(self, k: cython.longlong) -> cython.longlong:
        """Return how many of k iterations find blocks (the first has them)."""
        n: cython.longlong = self.n
        free: cython.longlong = self.blocks.free
        size: cython.int = self.block_size
        if n * ((cython.cast(cython.int, k) + size - 2) // size) <= free:
            return k
        steps: cython.longlong = 1 + free // n * size
        left: cython.longlong = free % n
        phase: cython.int = size - self.phase - 1
        while steps < k:
            left -= self.by_phase[phase]
            if left < 0:
                break
            phase = phase - 1 if phase > 0 else size - 1
            steps += 1
        return min(steps, k)

    # --- looking in and stopping

    @cython.cfunc
    @cython.exceptval(check=False)
    def _done_by(self, now: cython.longlong) -> cython.longlong:
        """Return how many iterations of the pending leg end by `now` (before `end`)."""
        if self.k <= 1 or now < self.t:
            return 0
        return least_steps(self.a, self.d, now - self.t + 1) - 1

    @cython.cfunc
    @cython.exceptval(-1)
    def advance(self, until: cython.longlong) -> cython.int:
        """Live through all that ends before `until`."""
        while self.end < until:
            self.commit()
            self.schedule()
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def stop(self, now: cython.longlong) -> cython.int:
        """Count the iterations that end by `now` and let the rest be."""
        if self.end < NEVER and self._done_by(now) > 0:
            self._cut(self._done_by(now))
            self.commit()
        elif self.end < NEVER and self.t > now:
            self.busy -= self.t - self.called  # the batch that runs
        self.end = NEVER
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def busy_by(self, now: cython.longlong) -> cython.longlong:
        """Return for how long it has been stepping by `now`, within the pending leg."""
        return self.busy + (now - self.t if self.end < NEVER else 0)

    @cython.cfunc
    @cython.exceptval(-1)
    def used(self, now: cython.longlong) -> cython.longlong:
        """Return the referenced blocks at `now`, within the pending leg."""
        more: cython.longlong = 0  # iterations scheduled since, of a leg that takes blocks as it goes
        if self.end < NEVER and self.k > 1 and now >= self.t:
            more = self._done_by(now) + self.ahead
        return self.blocks.total - self.blocks.free + (self._takes(more) if more > 0 else 0)

    def counts(self) -> tuple[int, int, int, int, int]:
        """Return the counters: steps, jumps, scheduled tokens, preemptions, busy picoseconds."""
        return self.steps, self.jumps, self.scheduled, self.preemptions, self.busy
