"""The clock of a run: steady, 0 at its start; and what disturbs it: a late event loop, a wall clock that jumps."""

from __future__ import annotations

import asyncio
import time
from array import array
from datetime import UTC, datetime

#: How often the event loop is sampled.
SAMPLE_S = 0.02
#: The event loop waits for timers in whole milliseconds (epoll). What comes from a server does not wait for them.
TIMER_S = 0.001


class Clock:
    """Time of the run. What it costs and how late it is, is sampled while `watch` runs."""

    def __init__(self) -> None:
        self.zero_s, self._wall_s = time.perf_counter(), time.time()
        self._cpu_s = time.process_time()
        self.lag_s = array("d")
        self.jump_s = 0.0

    @property
    def started(self) -> str:
        """Wall-clock time at 0, ISO 8601 in UTC."""
        return datetime.fromtimestamp(self._wall_s, UTC).isoformat(timespec="milliseconds")

    def now_s(self) -> float:
        """Return the time of the run."""
        return time.perf_counter() - self.zero_s

    def cpu_s(self) -> float:
        """Return the processor time of this process since the start."""
        return time.process_time() - self._cpu_s

    async def until(self, time_s: float) -> None:
        """Sleep until a time of the run."""
        wait_s = time_s - self.now_s()
        if wait_s > 0:
            await asyncio.sleep(wait_s)

    async def watch(self) -> None:
        """Sample how late the loop runs, and how far the wall clock moved from the steady one."""
        while True:
            before_s = time.perf_counter()
            await asyncio.sleep(SAMPLE_S)
            after_s = time.perf_counter()
            self.lag_s.append(max(0.0, after_s - before_s - SAMPLE_S - TIMER_S))
            moved_s = (time.time() - self._wall_s) - (after_s - self.zero_s)
            if abs(moved_s) > abs(self.jump_s):
                self.jump_s = moved_s
