"""Finds the cheapest fleet: branch and bound, in the order of an estimate, decided by simulation.

Options go in the order of their estimated cost (`estimates`). The first is simulated until its fewest replicas are
known. Each later one is tried at the largest fleet that would still be cheaper than the best so far: most are rejected
by that one simulation, the others are bisected down. An option is left out unsimulated where

* its proved lower bound (`floors`) costs no less than the best, or
* its estimate, scaled by what simulation found of the best one's and less a margin, does, or
* other settings of the same shape, router and cache missed the SLO by far on such a fleet, or missed it there with
  fewer seats of which less than half were taken.

All but the first are not proved; `benchmarks/regret.py` measures them against simulating everything.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from headway.planner.fleet import Fleets
    from headway.planner.space import Option
    from headway.scenario import Policy

#: An estimate may be too high by this much, beside the one of the best option, and still be simulated.
_MARGIN_FRAC = 0.15
#: Missing a limit by this factor on the largest fleet of use rules out the settings beside it.
_FAR = 1.5
#: Where less than this share of the seats is taken on average, more seats change nothing.
_SPACIOUS_FRAC = 0.5
#: Fleets of equal cost that are compared by their tail.
_MOST_TIES = 6


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rated:
    """An option with what is known of it before simulation."""

    option: Option
    least: int  # replicas, proved
    estimate: float  # replicas, estimated; infinite where no number seems enough
    spares: int

    @property
    def kind(self) -> tuple[object, ...]:
        """What it shares with the options beside it that differ in the limits of a step alone."""
        return self.option.shape, self.option.router, self.option.pool.settings.enable_prefix_caching

    def cost(self, replicas: float) -> float:
        """Return the price of a fleet with its spares."""
        return (replicas + self.spares) * self.option.usd_per_hour

    def most(self, below_usd_per_hour: float) -> int | None:
        """Return the most replicas that cost less than that; None without a limit."""
        if math.isinf(below_usd_per_hour):
            return None
        return math.ceil(below_usd_per_hour / self.option.usd_per_hour * (1 - 1e-12)) - 1 - self.spares


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Found:
    """An option with the fewest replicas that meet the SLO, the spares on top."""

    rated: Rated
    replicas: int

    @property
    def option(self) -> Option:
        """The option."""
        return self.rated.option

    @property
    def usd_per_hour(self) -> float:
        """Price of the whole fleet."""
        return self.rated.cost(self.replicas)

    @property
    def fleet(self) -> int:
        """Replicas, spares included."""
        return self.replicas + self.rated.spares

    @property
    def gpus(self) -> int:
        """GPUs of the whole fleet."""
        return self.fleet * self.option.pool.gpus


def spares(policy: Policy, gpus_per_replica: int, gpus_per_node: int) -> int:
    """Return the replicas lost with the failures the policy survives.

    A node holds gpus_per_node // gpus_per_replica replicas; one that spans nodes is lost with any of them.
    """
    if policy.survive_what == "replica":
        return policy.survive_count
    return policy.survive_count * max(1, gpus_per_node // gpus_per_replica)


@dataclass(slots=True)
class Search:
    """One search; `found` holds every option whose fewest replicas became known."""

    fleets: Fleets
    found: list[Found] = field(default_factory=list)
    left_out: int = 0  # options ruled out unsimulated
    hopeless: set[tuple[object, ...]] = field(default_factory=set)  # kinds that missed by far
    spacious: dict[tuple[object, ...], int] = field(default_factory=dict)  # seats that were enough, by kind and budget

    def best(self, rated: Iterable[Rated], limit: float = math.inf) -> Found | None:
        """Return the cheapest fleet below a limit; of equal ones the one with the lower tail, then fewer GPUs."""
        ordered = sorted(rated, key=lambda r: (r.cost(r.estimate), r.option.usd_per_hour))
        best: Found | None = None
        scale = 0.0  # simulated ÷ estimated of the best
        for one in ordered:
            if self._like_a_miss(one) or self._ruled_out(one, scale, limit):
                self.left_out += 1
                continue
            found = self.fewest(one, limit)
            if found:
                best, limit = found, found.usd_per_hour
                # one fewer does not do, so what is really needed lies between; the lower end leaves out least
                # (an estimate that was too low says nothing against the others)
                scale = min((found.replicas - 1) / one.estimate, 1.0) * (1 - _MARGIN_FRAC)
        return None if best is None else self._settle(best, ordered)

    @staticmethod
    def _ruled_out(one: Rated, scale: float, limit: float) -> bool:
        scaled = math.ceil(one.estimate * scale) if math.isfinite(one.estimate) else scale and math.inf
        return one.cost(max(one.least, scaled)) >= limit * (1 - 1e-12)

    def fewest(self, one: Rated, limit: float = math.inf) -> Found | None:
        """Return the fewest replicas of one option that meet the SLO for less than the limit."""
        most = one.most(limit)
        replicas = self.fleets.fewest(one.option, one.least, most, guess=one.estimate if most is None else most)
        if replicas is None:
            self._note_miss(one, most)
            return None
        self.found.append(Found(rated=one, replicas=replicas))
        return self.found[-1]

    def _note_miss(self, one: Rated, most: int | None) -> None:
        """Remember how an option missed on the largest fleet of use."""
        if most is None or most < one.least:
            return
        first = self.fleets.run(one.option, most, coarse=True)
        if self.fleets.shortfall(one.option, most, first) > _FAR:
            self.hopeless.add(one.kind)
        tpot, settings = first.latency["tpot"], one.option.pool.settings
        running = first.output_tokens_per_s * tpot.mean_s / most if tpot.samples else 0.0  # Little's law
        if running < _SPACIOUS_FRAC * settings.max_num_seqs:
            key = (*one.kind, settings.max_num_batched_tokens)
            self.spacious[key] = min(settings.max_num_seqs, self.spacious.get(key, settings.max_num_seqs))

    def _like_a_miss(self, one: Rated) -> bool:
        """Return whether an option beside this one missed in a way that this one shares."""
        settings = one.option.pool.settings
        enough = self.spacious.get((*one.kind, settings.max_num_batched_tokens), math.inf)
        return one.kind in self.hopeless or settings.max_num_seqs >= enough

    def _settle(self, best: Found, ordered: list[Rated]) -> Found:
        """Of fleets of one cost, found ones and the shape's other settings, take the one that `measures` least."""
        fleets, count = self.fleets, best.replicas
        same = [r for r in ordered if r.option.shape is best.option.shape and r is not best.rated and r.least <= count]
        beside = [Found(rated=r, replicas=count) for r in same[:_MOST_TIES] if fleets.holds(r.option, count)]
        equal = [f for f in self.found if math.isclose(f.usd_per_hour, best.usd_per_hour)]
        return min((best, *beside, *equal), key=lambda found: measures(fleets, found)[1:])


def measures(fleets: Fleets, found: Found) -> tuple[float, float, int, float]:
    """Return what a fleet is compared by: $/hour, E2E p99 at the design rate, GPUs, and the share one node holds."""
    pool = found.option.pool
    on_a_node = max(1, pool.accelerator.gpus_per_node // pool.parallelism.gpus)
    tail_s = fleets.run(found.option, found.replicas).latency["e2e"].at(0.99)
    return found.usd_per_hour, tail_s, found.gpus, min(1.0, on_a_node / found.fleet)
