"""Which request is a later turn of which, and the bodies of requests: made ahead of time where that can be."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from headway.probe.apart import apart
from headway.probe.bodies import Answer

if TYPE_CHECKING:
    from headway.probe.bodies import Bodies
    from headway.types import Requests

#: Bodies that are ready before their requests are due.
AHEAD = 256
#: Bodies with answers in them that are made at the same time: a server that is asked meanwhile is not asked by more.
AT_ONCE = 32
#: What an earlier turn may have come to so that the next one follows.
ANSWERED = ("", "stopped-early", "too-long", "cancelled")


class Turns:
    """The order within sessions; a session without a number (below 0) has one turn."""

    def __init__(self, requests: Requests) -> None:
        self.earlier: dict[int, int] = {}  # row -> row of the turn before
        last: dict[int, int] = {}
        for row, session in enumerate([] if requests.session_id is None else requests.session_id.tolist()):
            if session >= 0:
                if session in last:
                    self.earlier[row] = last[session]
                last[session] = row
        self._over: dict[int, asyncio.Future[float | None]] = {}
        self._answers: dict[int, dict[int, Answer]] = {}
        self._followed = set(self.earlier.values())

    async def before(self, row: int) -> float | None:
        """Wait for the turn before; return when it ended (−inf: there is none), or None: it failed."""
        if row not in self.earlier:
            return float("-inf")
        return await asyncio.shield(self._future(self.earlier[row]))

    def answers(self, row: int) -> dict[int, Answer]:
        """Return what the turns before were answered, by row."""
        return self._answers.get(self.earlier.get(row, -1), {})

    def over(self, row: int, code: str, end_s: float, text: str, token_ids: list[int]) -> None:
        """A turn ended; the one behind it may go."""
        if row not in self._followed:
            return
        self._answers[row] = self.answers(row) | {row: Answer(text=text, token_ids=tuple(token_ids) or None)}
        self._answers.pop(self.earlier.get(row, -1), None)
        self._future(row).set_result(end_s if code in ANSWERED else None)

    def _future(self, row: int) -> asyncio.Future[float | None]:
        if row not in self._over:
            self._over[row] = asyncio.get_running_loop().create_future()
        return self._over[row]


class Ready:
    """Bodies made ahead of time, `AHEAD` of them, in the order of the rows."""

    def __init__(self, bodies: Bodies, turns: Turns, rows: int) -> None:
        self._bodies, self._turns, self._rows = bodies, turns, rows
        self._made: dict[int, bytes] = {}
        self._next = 0
        self._room = asyncio.Event()
        self._desks = asyncio.Semaphore(AT_ONCE)

    def fill(self, most: int = AHEAD) -> None:
        """Make some of what is missing."""
        for _ in range(most):
            if self._next >= self._rows or len(self._made) >= AHEAD:
                break
            if self._next not in self._turns.earlier:
                self._made[self._next] = self._bodies.body(self._next, {})
            self._next += 1

    async def keep_filling(self) -> None:
        """Make one at a time, whenever there is room."""
        while self._next < self._rows:
            self._room.clear()
            self.fill(1)
            if len(self._made) >= AHEAD:
                await self._room.wait()
            await asyncio.sleep(0.0005)  # whatever is due goes first

    async def take(self, row: int) -> bytes:
        """Return the body of a row; one that goes on from answers is made beside the loop.

        Raises:
            InputError: it cannot be made.
        """
        if row in self._turns.earlier:
            async with self._desks:
                return await apart(self._bodies.body, row, self._turns.answers(row))
        self._room.set()
        if row not in self._made:
            self._next = max(self._next, row + 1)
            return self._bodies.body(row, {})
        return self._made.pop(row)
