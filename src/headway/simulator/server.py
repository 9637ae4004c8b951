# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True, nonecheck=False
# mypy: disable-error-code="untyped-decorator"
"""What a fleet knows of a replica, and a replica of the clients it serves.

Server    when something happens next, who waits and runs, and how to go on
Clients   those of a closed loop: when each comes free
"""

from __future__ import annotations

import cython
import numpy as np

from headway.simulator.arrays import ints

COMPILED: bool = cython.compiled
NEVER = cython.declare(cython.longlong, 1 << 62)


@cython.final
@cython.cclass
class Clients:
    """Equal clients of a closed loop: the times at which those without a request come free, the soonest first."""

    def __init__(self, count: int, turnaround: int) -> None:
        self.free = ints(count, -1, np.int64)  # a ring; −1: from the start
        self.turnaround = turnaround
        self.head, self.size = 0, count

    @cython.cfunc
    @cython.inline
    @cython.exceptval(check=False)
    def first(self) -> cython.longlong:
        """Return when the next one comes free, NEVER where all have a request."""
        return self.free[self.head] if self.size > 0 else NEVER

    @cython.cfunc
    @cython.exceptval(check=False)
    def take(self) -> cython.int:
        """Give the first a request."""
        self.head = self.head + 1 if self.head + 1 < self.free.shape[0] else 0
        self.size -= 1
        return 0

    @cython.cfunc
    @cython.exceptval(check=False)
    def put(self, now: cython.longlong) -> cython.int:
        """A request ends at `now`. Ends come in order but for what replicas foresee: sorted from behind."""
        time: cython.longlong = now + self.turnaround
        room: cython.int = cython.cast(cython.int, self.free.shape[0])
        hole: cython.int = (self.head + self.size) % room
        while hole != self.head:
            before: cython.int = hole - 1 if hole > 0 else room - 1
            if self.free[before] <= time:
                break
            self.free[hole] = self.free[before]
            hole = before
        self.free[hole] = time
        self.size += 1
        return 0


@cython.cclass
class Server:
    """One replica. `end` is when something happens next (NEVER: it is idle); all times are picoseconds."""

    def __init__(self) -> None:
        self.end, self.busy = 1 << 62, 0
        self.waiting = self.running = 0
        self.clients = None  # of an open loop, nobody is told who ends

    @cython.cfunc
    @cython.exceptval(-1)
    def advance(self, until: cython.longlong) -> cython.int:
        """Live through all that happens before `until`."""
        raise NotImplementedError

    @cython.cfunc
    @cython.exceptval(-1)
    def commit(self) -> cython.int:
        """Live through what ends at `end`; `schedule` comes next."""
        raise NotImplementedError

    @cython.cfunc
    @cython.exceptval(-1)
    def schedule(self) -> cython.int:
        """Decide what comes after `end`, once all is here that arrives by then; set the next `end`."""
        raise NotImplementedError

    @cython.cfunc
    @cython.exceptval(-1)
    def arrive(self, request: cython.int, now: cython.longlong) -> cython.int:
        """Take in a request; an idle replica schedules once all that arrives now is here."""
        raise NotImplementedError

    @cython.cfunc
    @cython.exceptval(-1)
    def stop(self, now: cython.longlong) -> cython.int:
        """Count what ends by `now` and let the rest be."""
        raise NotImplementedError

    @cython.cfunc
    @cython.exceptval(-1)
    def used(self, now: cython.longlong) -> cython.longlong:
        """Return the blocks that requests hold at `now`."""
        raise NotImplementedError

    @cython.cfunc
    @cython.exceptval(-1)
    def busy_by(self, now: cython.longlong) -> cython.longlong:
        """Return for how long it has been stepping by `now`."""
        raise NotImplementedError
