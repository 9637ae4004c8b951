"""When requests arrive.

One construction serves every process but the replay: unit-mean gaps (exponential, or gamma for another coefficient of
variation) are summed to an operational time, and the inverse of the cumulated rate carries that to seconds (time
change of a renewal process; Cox and Isham 1980, Point Processes, section 4.2). Twice the rate is the same draws carried
through twice the rate, so experiments at different rates share their chance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from headway.types import FloatColumn


class Pattern(Protocol):
    """How the rate goes over time."""

    @property
    def mean_per_s(self) -> float:
        """The mean rate in the long run, in requests per second."""
        ...

    def seconds(self, operational: FloatColumn, chance: np.random.Generator) -> FloatColumn:
        """Return when the cumulated rate reaches each of the (rising) values, in seconds."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrivals:
    """An arrival process.

    Args:
        pattern: how the rate goes over time.
        gap_cv: coefficient of variation of the gaps in operational time: 1 is Poisson, 0 evenly spaced.
        factor: multiplies the pattern's rate; how long states, days and steps last stays as it is.
    """

    pattern: Pattern
    gap_cv: float = 1.0
    factor: float = 1.0

    @property
    def mean_per_s(self) -> float:
        """The mean rate in the long run, in requests per second."""
        return self.pattern.mean_per_s * self.factor

    def times_s(self, count: int, *, gaps: np.random.Generator, path: np.random.Generator) -> FloatColumn:
        """Return the first `count` arrival times, never falling.

        Args:
            count: how many; fewer are a prefix of more, given generators in the same state.
            gaps: draws the gaps.
            path: draws the states of a modulated process.
        """
        operational = np.cumsum(_unit_gaps(gaps, count, self.gap_cv)) / self.factor
        return self.pattern.seconds(operational, path)


def _unit_gaps(chance: np.random.Generator, count: int, cv: float) -> FloatColumn:
    if cv == 0.0:
        return np.ones(count)
    if cv == 1.0:
        return chance.standard_exponential(count)
    return chance.standard_gamma(1.0 / cv**2, count) * cv**2


def _invert(operational: FloatColumn, durations_s: FloatColumn, rates_per_s: FloatColumn) -> FloatColumn:
    """When a piecewise constant rate has cumulated to each value (all within its total)."""
    cumulated = np.concatenate(([0.0], np.cumsum(durations_s * rates_per_s)))
    return np.interp(operational, cumulated, np.concatenate(([0.0], np.cumsum(durations_s))))


@dataclass(frozen=True, slots=True)
class Steady:
    """One rate for ever."""

    mean_per_s: float

    def seconds(self, operational: FloatColumn, chance: np.random.Generator) -> FloatColumn:
        """Return the operational time over the rate."""
        del chance
        return np.asarray(operational / self.mean_per_s, np.float64)


@dataclass(frozen=True, slots=True)
class Cycle:
    """Equal slices of a period, each with its rate, repeated for ever: a day by the hour.

    Args:
        period_s: how long one round takes.
        rates_per_s: the rate in each slice; not all zero.
        start_s: where in the period time 0 lies.
    """

    period_s: float
    rates_per_s: tuple[float, ...]
    start_s: float = 0.0

    @property
    def mean_per_s(self) -> float:
        """The mean rate over the period."""
        return float(np.mean(self.rates_per_s))

    def seconds(self, operational: FloatColumn, chance: np.random.Generator) -> FloatColumn:
        """Return when the cumulated rate reaches each value."""
        del chance
        rates = np.asarray(self.rates_per_s)
        slice_s = self.period_s / len(rates)
        into = self.start_s % self.period_s / slice_s
        whole = int(into)
        before = (rates[:whole].sum() + rates[whole % len(rates)] * (into - whole)) * slice_s
        laps, rest = np.divmod(operational + before, rates.sum() * slice_s)
        inside_s = _invert(rest, np.full(len(rates), slice_s), rates)
        seconds: FloatColumn = np.maximum(laps * self.period_s + inside_s - into * slice_s, 0.0)
        return seconds


@dataclass(frozen=True, slots=True)
class Steps:
    """Rates that change at given times; the last one holds for ever and is above zero.

    Args:
        at_s: rising, the first is 0.
        rates_per_s: the rate from each of those times on.
    """

    at_s: tuple[float, ...]
    rates_per_s: tuple[float, ...]

    @property
    def mean_per_s(self) -> float:
        """The last rate: the mean in the long run."""
        return self.rates_per_s[-1]

    def seconds(self, operational: FloatColumn, chance: np.random.Generator) -> FloatColumn:
        """Return when the cumulated rate reaches each value."""
        del chance
        durations_s, rates = np.diff(self.at_s), np.asarray(self.rates_per_s)
        beyond = operational - (durations_s * rates[:-1]).sum()
        early_s = _invert(operational, durations_s, rates[:-1])
        return np.where(beyond < 0, early_s, self.at_s[-1] + beyond / rates[-1])


@dataclass(frozen=True, slots=True)
class Modulated:
    """A Markov-modulated rate: exponential stays in states, each with its rate.

    Args:
        rates_per_s: the rate in each state.
        stays_s: the mean stay in each state.
        moves: row i: the probabilities of the next state on leaving state i.
    """

    rates_per_s: tuple[float, ...]
    stays_s: tuple[float, ...]
    moves: tuple[tuple[float, ...], ...]

    @property
    def shares(self) -> FloatColumn:
        """The share of time spent in each state in the long run."""
        moves = np.asarray(self.moves)
        balance = np.vstack((moves.T - np.eye(len(moves)), np.ones(len(moves))))
        visits = np.linalg.lstsq(balance, np.append(np.zeros(len(moves)), 1.0), rcond=None)[0]
        time = np.clip(visits, 0.0, None) * self.stays_s
        return np.asarray(time / time.sum(), np.float64)

    @property
    def mean_per_s(self) -> float:
        """The mean rate over the shares of time."""
        return float(self.shares @ np.asarray(self.rates_per_s))

    def seconds(self, operational: FloatColumn, chance: np.random.Generator) -> FloatColumn:
        """Return when the cumulated rate reaches each value, along one random path of states."""
        need = operational[-1] if len(operational) else 0.0
        durations_s, rates_per_s = self._path(float(need), chance)
        return _invert(operational, durations_s, rates_per_s)

    def _path(self, need: float, chance: np.random.Generator) -> tuple[FloatColumn, FloatColumn]:
        """Stays and their rates from the long-run mix on, until `need` requests are cumulated."""
        bounds = np.cumsum(np.asarray(self.moves), axis=1).tolist()
        state = _pick(np.cumsum(self.shares).tolist(), chance.random())
        durations: list[float] = []
        rates: list[float] = []
        cumulated = 0.0
        while cumulated <= need:
            durations.append(self.stays_s[state] * chance.standard_exponential())
            rates.append(self.rates_per_s[state])
            cumulated += durations[-1] * rates[-1]
            state = _pick(bounds[state], chance.random())
        return np.asarray(durations), np.asarray(rates)


def _pick(bounds: list[float], draw: float) -> int:
    """The first index whose bound is above the draw (the last one where rounding leaves none)."""
    return next((index for index, bound in enumerate(bounds) if draw < bound), len(bounds) - 1)


@dataclass(frozen=True, slots=True, eq=False)
class Replay:
    """Recorded arrival times, repeated end to end; gaps in operational time play no part (`gap_cv` is 0).

    Args:
        at_s: never falling, the first is 0; at least two different times.
    """

    at_s: FloatColumn

    @property
    def lap_s(self) -> float:
        """How long one round takes: the recorded span and one mean gap."""
        return float(self.at_s[-1] - self.at_s[0]) * len(self.at_s) / (len(self.at_s) - 1)

    @property
    def mean_per_s(self) -> float:
        """The recorded mean rate."""
        return len(self.at_s) / self.lap_s

    def seconds(self, operational: FloatColumn, chance: np.random.Generator) -> FloatColumn:
        """Return the recorded times, as much closer together as the operational time is."""
        del chance
        index = np.arange(len(operational))
        laps, row = np.divmod(index, len(self.at_s))
        squeeze = operational[0] if len(operational) else 1.0
        return np.asarray((laps * self.lap_s + (self.at_s[row] - self.at_s[0])) * squeeze, np.float64)
