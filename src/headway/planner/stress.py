"""What breaks first when traffic grows, and what the fleet that holds would cost."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from headway.planner.fleet import least_that, missed
from headway.planner.nouns import Breaking, Stress
from headway.planner.search import Found
from headway.types import Cost

if TYPE_CHECKING:
    from headway.planner.search import Rated
    from headway.planner.study import Study

_FACTORS = (3.0, 10.0)
_RATIO = 1.06  # between the multiples tried: the breaking point is known to 6 %
_MOST_FACTOR = 64.0


def breaking(study: Study, chosen: Found) -> Breaking:
    """Return where the whole fleet as chosen, spares included, gives way: bisected over a ladder of multiples.

    More traffic is taken to serve no better; the two multiples returned are simulated both.
    """
    guess = study.policy.design_factor * chosen.fleet / chosen.replicas
    steps = least_that(
        lambda step: bool(_misses(study, chosen, _RATIO**step)),
        above=_step(1.0) - _step(_MOST_FACTOR),
        start=_step(guess),
        most=_step(_MOST_FACTOR),
    )
    steps = _step(_MOST_FACTOR) if steps is None else steps
    worst = _misses(study, chosen, _RATIO**steps)
    return Breaking(
        holds_factor=_RATIO ** (steps - 1), breaks_factor=_RATIO**steps, breaks=worst[0] if worst else "nothing"
    )


def _step(factor: float) -> int:
    return round(math.log(factor) / math.log(_RATIO))


def _misses(study: Study, chosen: Found, factor: float) -> tuple[str, ...]:
    """Return the objectives the whole fleet misses at that multiple of the base rate, worst first."""
    found = missed(study.fleets.run(chosen.option, chosen.fleet, factor), study.slo)
    return tuple(sorted(found, key=lambda name: -found[name]))


def stress(study: Study, chosen: Found, cost: Cost) -> tuple[Stress, ...]:
    """Return the chosen fleet under multiples of the base rate, and the fleet planned for each."""
    return tuple(_stressed(study, chosen, cost, factor) for factor in _FACTORS)


def _stressed(study: Study, chosen: Found, cost: Cost, factor: float) -> Stress:
    worst = _misses(study, chosen, factor)
    found = grown(study, chosen.rated, chosen.replicas, factor)
    return Stress(
        factor=factor,
        holds=not worst,
        breaks=worst,
        gpus=found.gpus if found else None,
        cost=_cost(cost, found, factor) if found else None,
    )


def _cost(now: Cost, found: Found, factor: float) -> Cost:
    """Return the grown fleet's cost: per token and request over as many times the traffic."""
    each = found.gpus / now.gpus
    shared = {name: getattr(now, name) * each / factor for name in Cost.__dataclass_fields__ if "_per_m_" in name}
    return replace(
        now,
        gpus=found.gpus,
        usd_per_hour=now.usd_per_hour * each,
        usd_per_request=now.usd_per_request * each / factor,
        usd_per_good_request=now.usd_per_good_request * each / factor,
        idle_gpu_hours_per_hour=found.gpus - (now.gpus - now.idle_gpu_hours_per_hour) * factor,
        **shared,
    )


def grown(study: Study, rated: Rated, replicas: int, factor: float) -> Found | None:
    """Return the fleet of the same replicas planned for a multiple of the base rate.

    Fleets of many replicas are found to 2 %: the next smaller step of that size was simulated and misses.
    """
    at = study.policy.design_factor * factor
    guess = replicas * factor
    stride = max(1, int(guess // 50))
    count = study.fleets.fewest(rated.option, 1, factor=at, guess=guess, stride=stride)
    return Found(rated=rated, replicas=count) if count else None
