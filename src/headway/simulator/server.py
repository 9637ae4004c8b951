# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True, nonecheck=False
# mypy: disable-error-code="untyped-decorator"
"""What a fleet knows of a replica: when something happens there next, who waits and runs, and how to go on."""

from __future__ import annotations

import cython

COMPILED: bool = cython.compiled
NEVER = cython.declare(cython.longlong, 1 << 62)


@cython.cclass
class Server:
    """One replica. `end` is when something happens next (NEVER: it is idle); all times are picoseconds."""

    def __init__(self) -> None:
        self.end, self.busy = 1 << 62, 0
        self.waiting = self.running = 0

    @cython.cfunc
    @cython.exceptval(-1)
    def advance(self, until: cython.longlong) -> cython.int:
        """Live through all that happens before `until`."""
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
