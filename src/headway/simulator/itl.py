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


#: a quantile is first bracketed by so many equal parts of the range of the gaps, then halved until so few are left
_BUCKETS, _FEW = 4096, 4096


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
        return [_ranked(parts, *bracket) for bracket in _brackets(parts, [_rank(frac, samples) for frac in fracs])]


def _rank(frac: float, samples: int) -> int:
    """Return the rank of a quantile, counted from one: ⌈frac · samples⌉, the fraction as printed (0.2 is 1/5)."""
    return max(1, min(samples, math.ceil(Fraction(str(frac)) * samples)))


def _brackets(parts: Sequence[GapPart], ranks: list[int]) -> list[tuple[int, int, int]]:
    """Return each rank with the least and the largest gap it may be, a bucket of the range at either end.

    Up to the end of a bucket there are at most the gaps of the segments that have begun by then, and at least those of
    the segments that have ended.
    """
    low = min(int(part.a_ps.min()) for part in parts)
    width = (max(int(part.largest_ps().max()) for part in parts) - low) // _BUCKETS + 1
    most, fewest = np.zeros(_BUCKETS), np.zeros(_BUCKETS)
    for part in parts:
        gaps = np.multiply(part.k, part.weight, dtype=np.int64)
        most += np.bincount((part.a_ps - low) // width, gaps, _BUCKETS)
        fewest += np.bincount((part.largest_ps() - low) // width, gaps, _BUCKETS)
    first, last = (np.searchsorted(np.cumsum(counts), ranks).tolist() for counts in (most, fewest))
    return [(rank, low + a * width, low + (b + 1) * width - 1) for rank, a, b in zip(ranks, first, last, strict=True)]


class _Segments(NamedTuple):
    """Segments of several parts, as 64-bit columns; d is at least 1: equal gaps are one gap of more weight."""

    a: IntColumn
    d: IntColumn
    k: IntColumn
    weight: IntColumn

    @classmethod
    def of(cls, parts: Iterable[GapPart]) -> _Segments:
        columns = [(part.a_ps, part.d_ps, part.k, part.weight) for part in parts]
        a, d, k, weight = (np.concatenate(column).astype(np.int64) for column in zip(*columns, strict=True))
        return cls(a, np.maximum(d, 1), np.where(d == 0, 1, k), np.where(d == 0, k, 1) * weight)

    def steps_upto(self, x_ps: int) -> IntColumn:
        """Return how many gaps of each segment are ≤ x."""
        steps: IntColumn = np.minimum(np.maximum((x_ps - self.a) // self.d + 1, 0), self.k)
        return steps


def _ranked(parts: Sequence[GapPart], rank: int, low: int, high: int) -> int:
    """Return the gap of that rank, known to be in low … high: halve until few gaps are left, sort those."""
    below = sum(part.where(part.largest_ps() < low).samples() for part in parts)
    live = _Segments.of(part.where((part.largest_ps() >= low) & (part.a_ps <= high)) for part in parts)
    begin, end = live.steps_upto(low - 1), live.steps_upto(high)
    while low < high and int((end - begin).sum()) > _FEW:
        middle = (low + high) // 2
        steps = live.steps_upto(middle)
        if below + int(np.dot(steps, live.weight)) >= rank:
            high, end = middle, steps
        else:
            low, begin = middle + 1, steps
    return low if low == high else _nth(live, begin, end - begin, rank - below)


def _nth(live: _Segments, begin: IntColumn, count: IntColumn, rank: int) -> int:
    """Return the gap of a rank, looking at `count` gaps of each segment from its `begin`-th on."""
    segment = np.repeat(np.arange(len(count)), count)
    step = np.arange(len(segment)) - np.repeat(np.cumsum(count) - count - begin, count)
    gaps = live.a[segment] + step * live.d[segment]
    order = np.argsort(gaps)
    upto = int(np.dot(begin, live.weight)) + np.cumsum(live.weight[segment][order])
    return int(gaps[order][np.searchsorted(upto, rank)])
