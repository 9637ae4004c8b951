"""Inter-token gaps, kept as arithmetic progressions, and their exact quantiles."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from headway.types import IntColumn


class GapPart(NamedTuple):
    """Columns of one length: segment i stands for the gaps a, a + d, …, a + (k−1)·d, each seen by `weight` requests.

    All who see a segment of several gaps decode in its steps, alone, so d is what a token more in each of their
    contexts adds to a step: weight · context_ps, or weight · below_ps below the knee of window attention. It is
    computed when asked for; a segment takes 16 bytes.
    """

    a_ps: IntColumn
    k: NDArray[np.int32]
    signed: NDArray[np.int32]  # the weight; negative below the knee
    context_ps: int = 0
    below_ps: int = 0

    @property
    def weight(self) -> NDArray[np.int32]:
        """By how many requests each gap was seen."""
        return np.abs(self.signed)

    @property
    def d_ps(self) -> IntColumn:
        """What each gap is longer than the one before."""
        growth_ps = np.where(self.signed < 0, -self.below_ps, self.context_ps)
        return np.multiply(growth_ps, self.signed, dtype=np.int64)

    def samples(self) -> int:
        """Return how many gaps these are."""
        return int(np.dot(self.k.astype(np.int64), self.weight))

    def total_ps(self) -> int:
        """Return the sum of the gaps, exactly."""
        k = self.k.astype(np.int64)
        sums = k * self.a_ps + k * (k - 1) // 2 * self.d_ps
        return sum(map(int.__mul__, sums.tolist(), self.weight.tolist()))

    def largest_ps(self) -> IntColumn:
        """Return the largest gap of each segment (d is never negative)."""
        return self.a_ps + (self.k - 1) * self.d_ps

    def count_upto(self, x_ps: int) -> int:
        """Return how many gaps are ≤ x."""
        d_ps = self.d_ps
        steps = np.minimum((x_ps - self.a_ps) // np.maximum(d_ps, 1) + 1, self.k)
        steps = np.where(d_ps == 0, self.k, steps)
        return int(np.dot(np.where(self.a_ps <= x_ps, steps, 0), self.weight))

    def where(self, kept: NDArray[np.bool_]) -> GapPart:
        """Return the segments kept."""
        return self._replace(a_ps=self.a_ps[kept], k=self.k[kept], signed=self.signed[kept])


@dataclass(frozen=True, slots=True)
class Gaps:
    """All inter-token gaps of a simulation: one sample per token after a request's first."""

    parts: tuple[GapPart, ...]

    @property
    def samples(self) -> int:
        """How many gaps there are."""
        return sum(part.samples() for part in self.parts)

    def mean_ps(self) -> float:
        """Return the mean gap (NaN where there is none); the sum is exact."""
        samples = self.samples
        return sum(part.total_ps() for part in self.parts) / samples if samples else float("nan")

    def max_ps(self) -> int:
        """Return the largest gap, −1 where there is none."""
        return max((int(part.largest_ps().max()) for part in self.parts if len(part.k)), default=-1)

    def count_upto(self, x_ps: int) -> int:
        """Return how many gaps are ≤ x, in closed form per segment."""
        return sum(part.count_upto(x_ps) for part in self.parts)

    def quantile_ps(self, frac: float) -> int:
        """Return the least gap that at least that fraction of the gaps does not exceed (−1 where there is none).

        Exact: it is one of the gaps (the inverted distribution function, no interpolation).
        """
        return self.quantiles_ps([frac])[0]

    def quantiles_ps(self, fracs: Iterable[float]) -> list[int]:
        """Return several quantiles, as `quantile_ps` does one."""
        parts = [part for part in self.parts if len(part.k)]
        samples = self.samples
        if not samples:
            return [-1 for _ in fracs]
        low = min(int(part.a_ps.min()) for part in parts)
        return [_bisect(parts, _rank(frac, samples), low, self.max_ps()) for frac in fracs]


def _rank(frac: float, samples: int) -> int:
    """Return the rank of a quantile, counted from one: ⌈frac · samples⌉, the fraction as printed (0.2 is 1/5)."""
    return max(1, min(samples, math.ceil(Fraction(str(frac)) * samples)))


def _bisect(parts: Sequence[GapPart], rank: int, low: int, high: int) -> int:
    """Return the least x in low … high with count(≤ x) ≥ rank; segments that no longer matter are counted once."""
    below = 0
    live = list(parts)
    while low < high:
        middle = (low + high) // 2
        if below + sum(part.count_upto(middle) for part in live) >= rank:
            high = middle
            live = [part.where(part.a_ps <= high) for part in live]
        else:
            low = middle + 1
            done = [part.largest_ps() < low for part in live]
            below += sum(part.where(mask).samples() for part, mask in zip(live, done, strict=True))
            live = [part.where(~mask) for part, mask in zip(live, done, strict=True)]
    return low
