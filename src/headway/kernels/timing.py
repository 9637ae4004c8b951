"""How long a kernel takes: repeated until the median is known well enough, or its share of the budget is spent.

The median of n timings whose quartiles lie r apart has a standard error of about 0.93 r / √n where they scatter like a
normal distribution (1.253 σ / √n, with σ = r / 1.349). Timing stops once that is below `ENOUGH_FRAC` of the median.
"""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

#: Standard error of the median that is small enough, as a share of it.
ENOUGH_FRAC = 0.01
LEAST_REPEATS, MOST_REPEATS = 5, 200
_QUARTILE_TO_ERROR = 0.93


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """A kernel timed repeatedly."""

    median_s: float
    spread_frac: float  # distance of the quartiles over the median
    repeats: int

    @property
    def error_frac(self) -> float:
        """Standard error of the median, as a share of it."""
        return _QUARTILE_TO_ERROR * self.spread_frac / math.sqrt(self.repeats)


def timing(samples: Sequence[float]) -> Timing:
    """Summarise samples in seconds; at least two."""
    low, median, high = statistics.quantiles(samples, n=4, method="inclusive")
    return Timing(median_s=median, spread_frac=(high - low) / median, repeats=len(samples))


def settle(sample: Callable[[], float], *, budget_s: float, clock: Callable[[], float] = time.perf_counter) -> Timing:
    """Time a warm kernel until its median is known to `ENOUGH_FRAC`.

    Args:
        sample: runs it and returns the seconds of one run, above zero.
        budget_s: no repeat starts after so long, but for the first `LEAST_REPEATS`.
        clock: tells seconds.
    """
    ends_s, samples = clock() + budget_s, [sample() for _ in range(LEAST_REPEATS)]
    found = timing(samples)
    while found.error_frac > ENOUGH_FRAC and len(samples) < MOST_REPEATS and clock() < ends_s:
        samples.append(sample())
        found = timing(samples)
    return found
