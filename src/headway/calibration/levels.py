"""What a server does while so many requests are in flight, whatever brought them there.

A window's metrics do not say how its requests came: as they pleased, evenly, in bursts, or from clients that wait for
an answer and then for a while. But they say how many were in flight. A server that holds n requests answers at the rate
of n clients that ask again at once, μ(n) = n ÷ E2E(n): the *flow-equivalent server* (Chandy, Herzog and Woo 1975,
"Parametric analysis of queueing networks"; exact for product-form networks, here an approximation). So such closed
loops are simulated, a few n between the least and the most, and a window's mean is theirs, each n weighed by the
requests it answers: the time spent at n times μ(n). Beyond the engine's seats the rest waits (n − seats) ÷ μ(seats).

Two things stay unknown, and what they can do to a figure is its range, not an error:

* whether requests in flight go hand in hand (all prompts in one step, then decodes alone) or one after the other (each
  prompt holds up the decodes of all others), whether they come between two steps or wait for the one under way, and
  whether they come in bunches: then all have the TTFT of a full bunch, though fewer and fewer are left of it;
* how many were in flight between two looks. The looks are one answer; the other is the steadiest there is: the two
  whole numbers beside the mean that rate and E2E give by Little's law.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from headway.errors import InputError
from headway.simulator import FINISHED, simulate
from headway.types import Requests

if TYPE_CHECKING:
    from collections.abc import Callable

    from headway.probe.nouns import Scrape
    from headway.probe.observed import Observed
    from headway.types import FloatColumn, IntColumn, Replica

    Drawn = Callable[[int, np.random.Generator], IntColumn]

FIGURES = ("ttft", "itl", "tpot", "e2e")
_TTFT, _ITL, _, _E2E, _BUNCH = range(len(FIGURES) + 1)
#: So many levels are simulated at most; between them lies a straight line.
_MOST_LEVELS = 5
#: Rounds of a closed loop: the first fills the server and the last empties it; those between are counted.
_LEAST_ROUNDS = 4
#: Looks that the steadiest course is spread over.
_STEADY_LOOKS = 30


def in_flight(scrape: Scrape, seen: Observed) -> FloatColumn:
    """Return the requests in the system at every look within a window; empty where the engine has no such gauge."""
    inside = (scrape.time_s >= seen.start_s) & (scrape.time_s <= seen.end_s)
    parts = [scrape.values[name][inside] for name in ("running", "waiting") if name in scrape.values]
    total = np.sum(parts, axis=0) if parts else np.zeros(0)
    known: FloatColumn = total[np.isfinite(total)]
    return known


def steady(mean: float) -> FloatColumn:
    """Return the steadiest course with a mean: the whole numbers beside it, each as often as it takes."""
    return np.floor(mean + (np.arange(_STEADY_LOOKS) + 0.5) / _STEADY_LOOKS)


def redrawn(looks: FloatColumn, chance: np.random.Generator) -> FloatColumn:
    """Draw as many stretches of equal looks at a busy server, with replacement: what is repeated was looked at once."""
    busy = looks[looks > 0]
    if not len(busy):
        return looks
    stretches = np.split(busy, np.flatnonzero(np.diff(busy)) + 1)
    return np.concatenate([stretches[k] for k in chance.integers(0, len(stretches), len(stretches))])


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """How requests are drawn: so many tokens of prompts to compute, and of outputs."""

    isl: Drawn
    osl: Drawn

    def drawn(self, n: int, chance: np.random.Generator) -> tuple[IntColumn, IntColumn]:
        """Draw so many of both."""
        return self.isl(n, chance), self.osl(n, chance)


def levels_of(courses: list[FloatColumn], seats: int) -> IntColumn:
    """Return the numbers of clients to simulate for all these courses: from the least to the most in the seats."""
    busy = np.concatenate([_busy(looks) for looks in courses])
    least, most = (int(np.clip(edge, 1, seats)) for edge in (np.floor(busy.min()), np.ceil(busy.max())))
    return np.unique(np.rint(np.geomspace(least, most, _MOST_LEVELS)).astype(np.int64))


def _busy(looks: FloatColumn) -> FloatColumn:
    """Leave out looks at an idle server: it answers nobody then. One that was never seen busy had one request."""
    busy: FloatColumn = looks[looks > 0]
    return busy if len(busy) else np.ones(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Levels:
    """Means of the requests in closed loops, one row per level.

    Attributes:
        clients: in flight at each level.
        figures: seconds, in the order of `FIGURES`, and the TTFT of so many that come at once: (levels, figures).
        seats: of the engine.
    """

    clients: IntColumn
    figures: FloatColumn
    seats: int

    def means(self, looks: FloatColumn) -> FloatColumn:
        """Return a window's means: of all `figures`."""
        busy = _busy(looks)
        seated = np.clip(busy, 1, self.seats)
        rows = np.array([np.interp(seated, self.clients, column) for column in self.figures.T]).T
        per_s = seated / rows[:, _E2E]
        rows[:, (_TTFT, _E2E, _BUNCH)] += ((busy - seated) / per_s)[:, np.newaxis]
        found: FloatColumn = per_s @ rows / per_s.sum()
        return found

    def bunched(self, looks: FloatColumn) -> FloatColumn:
        """Return the same where all requests come in bunches of the most in flight."""
        found = self.means(looks)
        found[_TTFT] = self.means(_busy(looks).max(keepdims=True))[_BUNCH]
        return found

    def joined_late(self) -> Levels:
        """Return the same where every request first waits for half of the step under way."""
        figures = self.figures.copy()
        wait_s = np.where(self.clients > 1, 0.5 * np.nan_to_num(figures[:, _ITL]), 0.0)
        figures[:, (_TTFT, _E2E)] += wait_s[:, np.newaxis]
        return Levels(clients=self.clients, figures=figures, seats=self.seats)


def simulated_levels(
    replica: Replica, levels: IntColumn, alike: Lengths, spread: Lengths, count: int, seed: int
) -> tuple[Levels, Levels, Levels]:
    """Simulate closed loops of so many clients each.

    Args:
        replica: the calibrated server.
        levels: clients.
        alike: lengths of requests that go hand in hand,
        spread: and of those that go one after the other.
        count: requests for each level, at least.
        seed: of their lengths.

    Returns:
        Requests that go hand in hand, one after the other between two steps, and one after the other at any time.

    Raises:
        InputError: no such request fits the server.
    """
    together, apart = [], []
    for clients in levels.tolist():
        chance, n = np.random.default_rng([seed, clients]), max(count + 2 * clients, _LEAST_ROUNDS * clients)
        together.append(_closed(*alike.drawn(n, chance), replica, clients, over_s=0.0))
        apart.append(_closed(*spread.drawn(n, chance), replica, clients, over_s=float(together[-1][_E2E])))
    seats = replica.settings.max_num_seqs
    one, other = (Levels(clients=levels, figures=np.array(rows), seats=seats) for rows in (together, apart))
    return one, other, other.joined_late()


def _closed(isl: IntColumn, osl: IntColumn, replica: Replica, clients: int, *, over_s: float) -> FloatColumn:
    """Return the means of a closed loop whose clients begin one after the other within a time."""
    begun_s = np.minimum(np.arange(len(isl)), clients - 1) * (over_s / clients)
    done = simulate(Requests(arrive_s=begun_s, isl_tokens=isl, osl_tokens=osl), replica, concurrency=clients)
    order = np.argsort(done.arrive_ps, kind="stable")[clients : len(isl) - clients]
    counted = order[done.state[order] == FINISHED]
    if not len(counted):
        raise InputError("no request such as the window's fits the calibrated server", place="calibration")
    arrive, first, last = (column / 1e12 for column in (done.arrive_ps, done.first_ps, done.last_ps))
    ttft_s, e2e_s, decode_s, gaps = first - arrive, last - arrive, last - first, done.output_tokens - 1
    some = counted[gaps[counted] > 0]
    itl_s = decode_s[some].sum() / gaps[some].sum() if len(some) else np.nan
    tpot_s = (decode_s[some] / gaps[some]).mean() if len(some) else np.nan
    return np.array([ttft_s[counted].mean(), itl_s, tpot_s, e2e_s[counted].mean(), ttft_s[:clients].mean()])
