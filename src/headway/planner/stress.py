"""What breaks first when traffic grows, and what the fleet that holds would cost."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from headway.planner.fleet import least_that
from headway.planner.nouns import Breaking, Stress
from headway.planner.search import Found
from headway.types import Cost

if TYPE_CHECKING:
    from headway.planner.study import Study

_FACTORS = (3.0, 10.0)
_RATIO = 1.06  # between the multiples tried: the breaking point is known to 6 %
_MOST_FACTOR = 64.0
_EXACT, _STRIDE_FRAC = 64, 0.05


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
    holds, breaks = _RATIO ** (steps - 1), _RATIO**steps
    planned = study.policy.design_factor  # simulated, and held without the spares
    return Breaking(
        holds_factor=max(holds, planned) if planned < breaks else holds,
        breaks_factor=breaks,
        breaks=worst[0] if worst else "nothing",
    )


def _step(factor: float) -> int:
    return round(math.log(factor) / math.log(_RATIO))


def _misses(study: Study, chosen: Found, factor: float, *, coarse: bool = False) -> tuple[str, ...]:
    """Return the objectives the whole fleet misses at that multiple of the base rate, worst first."""
    outcome = study.fleets.run(chosen.option, chosen.fleet, factor, coarse=coarse)
    found = study.fleets.missed(chosen.option, chosen.fleet, outcome)
    return tuple(sorted(found, key=lambda name: -found[name]))


def stress(study: Study, chosen: Found, cost: Cost, holds_factor: float) -> tuple[Stress, ...]:
    """Return the chosen fleet under multiples of the base rate, and the fleet planned for each.

    Args:
        study: the problem.
        chosen: what was chosen.
        cost: what it costs.
        holds_factor: the multiple it holds, from `breaking`.
    """
    rows: list[Stress] = []
    near, near_factor = chosen.replicas, 1.0
    for factor in _FACTORS:
        found = grown(study, chosen, near * factor / near_factor, factor)
        worst = () if factor <= holds_factor else _misses(study, chosen, factor, coarse=True)
        rows.append(
            Stress(
                factor=factor,
                holds=not worst,
                breaks=worst,
                gpus=found.gpus if found else None,
                cost=_cost(cost, found, factor) if found else None,
            )
        )
        near, near_factor = (found.replicas, factor) if found else (near, near_factor)
    return tuple(rows)


def grown(study: Study, chosen: Found, guess: float, factor: float) -> Found | None:
    """Return a fleet of the same replicas that meets the SLO when planned for a multiple of the base rate.

    A fleet below `_EXACT` replicas is the smallest to 5 %: the step below was simulated and misses. Of a larger one the
    first that holds is taken, from the guess upwards: large fleets need no more per request than small ones.
    """
    stride = max(1, int(guess * _STRIDE_FRAC)) if guess < _EXACT else math.ceil(guess)
    at = study.policy.design_factor * factor
    count = study.fleets.fewest(chosen.option, chosen.rated.least, factor=at, guess=guess, stride=stride)
    return Found(rated=chosen.rated, replicas=count) if count else None


def _cost(now: Cost, found: Found, factor: float) -> Cost:
    """Return the grown fleet's cost: per token and request over as many times the traffic, idle in the same share."""
    each = found.gpus / now.gpus
    shared = {name: getattr(now, name) * each / factor for name in Cost.__dataclass_fields__ if "_per_m_" in name}
    return replace(
        now,
        gpus=found.gpus,
        usd_per_hour=now.usd_per_hour * each,
        usd_per_request=now.usd_per_request * each / factor,
        usd_per_good_request=now.usd_per_good_request * each / factor,
        idle_gpu_hours_per_hour=now.idle_gpu_hours_per_hour * each,
        **shared,
    )
