"""One-dimensional distributions, each a map from a standard normal score to a value.

Every draw starts as a standard normal score z, so two quantities are made dependent by making their scores dependent
(a Gaussian copula), and the same scores under another distribution keep their ranks. `Quantiles` joins given
quantiles by straight lines of log value over z: each piece is a lognormal, the outermost pieces go on into the tails.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from headway.types import FloatColumn

#: Scores stop here: one draw in 31,574 lies beyond on either side, and p0 and p100 stand at these scores.
Z_LIMIT = 4.0

#: A tail that goes on from given quantiles goes no further than e^30, 10¹³: steeper ones would leave the floats.
LOG_LIMIT = 30.0

#: A zero in a table of quantiles (a think time of 0 s) counts as this, so that it has a logarithm.
LEAST = 1e-3


class Distribution(Protocol):
    """What a sampler needs: values for standard normal scores, never falling as the score rises."""

    def at(self, z: FloatColumn) -> FloatColumn:
        """Return the value at each score (same shape as `z`)."""
        ...


@lru_cache(maxsize=1)
def _normal_table() -> tuple[FloatColumn, FloatColumn]:
    """Scores and their normal probabilities; linear interpolation between errs by less than 5e-7."""
    z = np.linspace(-8.0, 8.0, 4097)
    p = np.fromiter((0.5 * math.erfc(-value / math.sqrt(2.0)) for value in z), np.float64, len(z))
    return z, p


def normal_cdf(z: FloatColumn) -> FloatColumn:
    """Return the standard normal probability below each score."""
    return np.interp(z, *_normal_table())


def normal_score(p: FloatColumn) -> FloatColumn:
    """Return the score below which a standard normal lies with each probability; 0 and 1 give ∓`Z_LIMIT`."""
    z, table = _normal_table()
    return np.clip(np.interp(p, table, z), -Z_LIMIT, Z_LIMIT)


@dataclass(frozen=True, slots=True)
class Constant:
    """Always the same value."""

    value: float

    def at(self, z: FloatColumn) -> FloatColumn:
        """Return the value at each score."""
        return np.full(z.shape, self.value)


@dataclass(frozen=True, slots=True)
class Uniform:
    """Any value between `low` and `high`, all equally likely."""

    low: float
    high: float

    def at(self, z: FloatColumn) -> FloatColumn:
        """Return the value at each score."""
        return self.low + (self.high - self.low) * normal_cdf(z)


@dataclass(frozen=True, slots=True)
class Lognormal:
    """Lognormal with this mean and coefficient of variation (standard deviation over mean)."""

    mean: float
    cv: float

    def at(self, z: FloatColumn) -> FloatColumn:
        """Return the value at each score: exp(μ + σz), σ² = ln(1 + cv²), μ = ln mean − σ²/2."""
        variance = math.log1p(self.cv**2)
        return np.exp(math.log(self.mean) - variance / 2 + math.sqrt(variance) * z)


@dataclass(frozen=True, slots=True)
class Gamma:
    """Gamma with this mean and coefficient of variation; cv 1 is the exponential."""

    mean: float
    cv: float

    def at(self, z: FloatColumn) -> FloatColumn:
        """Return the value at each score, from the integrated density."""
        value, p = _gamma_table(1.0 / self.cv**2)
        return self.mean * np.interp(normal_cdf(z), p, value)


@lru_cache(maxsize=16)
def _gamma_table(shape: float) -> tuple[FloatColumn, FloatColumn]:
    """Values of a unit-mean gamma and the probability below them, by the trapezoid rule over log value."""
    low = -40.0 / max(shape, 1.0) ** 0.5 - 10.0 / min(shape, 1.0)
    x = np.linspace(low, math.log(40.0 / shape + 12.0 / shape**0.5 + 1.0), 32769)
    density = np.exp(shape * (x - np.exp(x) + 1.0))  # of log value, up to a constant factor
    p = np.concatenate(([0.0], np.cumsum((density[1:] + density[:-1]) / 2)))
    return np.exp(x), p / p[-1]


@dataclass(frozen=True, slots=True)
class Pareto:
    """Pareto tail from `least` with exponent `alpha` (P(X > x) = (least/x)^alpha), cut off at `most`."""

    least: float
    alpha: float
    most: float

    def at(self, z: FloatColumn) -> FloatColumn:
        """Return the value at each score: inverse of the distribution renormalised below `most`."""
        kept = 1.0 - (self.least / self.most) ** self.alpha
        return np.asarray(self.least * (1.0 - kept * normal_cdf(z)) ** (-1.0 / self.alpha), np.float64)


@dataclass(frozen=True, slots=True)
class Geometric:
    """Whole numbers from 1 with this mean: each further one happens with the same probability."""

    mean: float

    def at(self, z: FloatColumn) -> FloatColumn:
        """Return the value at each score."""
        if self.mean <= 1.0:
            return np.ones(z.shape)
        more = math.log1p(-1.0 / self.mean)
        return 1.0 + np.floor(np.log(normal_cdf(-z)) / more)


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Quantiles joined piece by piece: log value is linear in the normal score.

    Args:
        probabilities: rising, in 0 … 1 (at least two); 0 and 1 stand at ∓`Z_LIMIT`.
        values: never falling, ≥ 0; below `LEAST` counts as `LEAST`.
    """

    probabilities: tuple[float, ...]
    values: tuple[float, ...]

    def at(self, z: FloatColumn) -> FloatColumn:
        """Return the value at each score; outside the given quantiles the nearest piece goes on."""
        knots, logs = _extended(self)
        return np.exp(np.interp(z, knots, logs))


@lru_cache(maxsize=256)
def _extended(table: Quantiles) -> tuple[FloatColumn, FloatColumn]:
    """The knots over z with a last one at each limit, on the slope of the outermost piece."""
    z = normal_score(np.asarray(table.probabilities))
    logs = np.log(np.maximum(table.values, LEAST))
    first = logs[0] + (logs[1] - logs[0]) / (z[1] - z[0]) * (-Z_LIMIT - z[0])
    last = logs[-1] + (logs[-1] - logs[-2]) / (z[-1] - z[-2]) * (Z_LIMIT - z[-1])
    last = min(last, max(logs[-1], LOG_LIMIT))
    return np.concatenate(([-Z_LIMIT], z, [Z_LIMIT])), np.concatenate(([first], logs, [last]))


def whole(values: FloatColumn, most: float) -> FloatColumn:
    """Round to whole numbers in 1 … `most`, still as floats."""
    return np.clip(np.rint(values), 1.0, most)


def whole_mean(distribution: Distribution, most: float) -> float:
    """Return the mean of the whole numbers in 1 … `most` a distribution rounds to, over 8,192 equally likely slices."""
    p = (np.arange(8192) + 0.5) / 8192
    return float(whole(distribution.at(normal_score(p)), most).mean())
