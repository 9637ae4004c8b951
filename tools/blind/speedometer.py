"""How fast the server's core is while it serves: a few fixed instructions, timed twenty times a second on that core.

    python tools/blind/speedometer.py FILE [CORE]    # until standard input closes

A virtual machine's core is no constant: what others do on the same silicon moves it by a tenth from one minute to the
next and by a third for seconds, in caches and registers alike, and no calibration can know it beforehand. The same
loop on the same core sees it: its CPU time per round, over a stretch, is how slow the core was then.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from headway.perf import EndpointCalibration

#: Rounds of the loop before the clock is read (to have its code in the cache, whatever ran before), rounds that are
#: timed, and the pause between: about 1 % of a core.
_WARM, _ROUNDS, _PAUSE_S = 2_000, 6_000, 0.05
#: Fewer readings tell nothing.
_LEAST = 20


def first_core() -> int | None:
    """Return the core for server and speedometer; None where a process cannot be kept on one."""
    return min(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def keep_on(core: int | None, process: int = 0) -> None:
    """Keep a process on a core, and what it starts from now on."""
    if core is not None:
        os.sched_setaffinity(process, {core})


@dataclass(frozen=True, slots=True)
class Speedometer:
    """Readings in a file: a time (`time.monotonic`, seconds) and a loop's CPU time (seconds) in each line."""

    file: Path

    def slowness(self, since_s: float, until_s: float) -> float:
        """Return the logarithm of how long work took between two times: of one over the mean speed; NaN: unknown."""
        at_s, took_s = self._readings()
        inside = (at_s >= since_s) & (at_s <= until_s)
        return -math.log(float(np.mean(1 / took_s[inside]))) if inside.sum() >= _LEAST else math.nan

    def _readings(self) -> tuple[np.ndarray, np.ndarray]:
        lines = self.file.read_text().splitlines()[:-1]  # the last may be half written
        rows = np.array([line.split() for line in lines], float).reshape(-1, 2)
        return rows[:, 0], rows[:, 1]


@contextmanager
def speedometer(file: Path) -> Iterator[Speedometer]:
    """Read the speed of the server's core until the block ends."""
    file.write_text("")
    core = first_core()
    command = [sys.executable, str(Path(__file__)), str(file), *([] if core is None else [str(core)])]
    # a session of its own: Linux shares a core among sessions, and a busy one would keep it waiting for seconds
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True) as process:
        try:
            yield Speedometer(file)
        finally:
            process.kill()


def at_speed(calibration: EndpointCalibration, slower: float) -> EndpointCalibration:
    """Return the calibration at another speed of the core; the bands stay as they were.

    Args:
        calibration: at the speed it was made at.
        slower: by so much, as a logarithm; NaN: unknown, and not moved.
    """
    from headway.perf.endpoint_steps import DRIFT, terms_at

    return replace(calibration, terms=terms_at(calibration, {DRIFT: slower})) if math.isfinite(slower) else calibration


def _read_on(file: Path) -> None:
    """Write readings until standard input closes."""
    from threading import Thread

    ended = Thread(target=sys.stdin.read, daemon=True)
    ended.start()
    with file.open("w", buffering=1) as readings:
        while ended.is_alive():
            time.sleep(_PAUSE_S)
            _rounds(_WARM)
            begun_s = time.thread_time()
            _rounds(_ROUNDS)
            readings.write(f"{time.monotonic():.3f} {time.thread_time() - begun_s:.9f}\n")


def _rounds(count: int) -> None:
    total = 0
    for number in range(count):
        total += number


if __name__ == "__main__":
    keep_on(int(sys.argv[2]) if len(sys.argv) > 2 else None)
    _read_on(Path(sys.argv[1]))
