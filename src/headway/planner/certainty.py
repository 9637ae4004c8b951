"""With which confidence a plan can be had, and what that confidence costs beside the prediction itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headway.errors import InfeasibleError
from headway.perf.bands import likeness_of
from headway.planner.fleet import figure_s
from headway.planner.nouns import Certainty
from headway.planner.relax import refuse
from headway.planner.safety import over_fracs
from headway.planner.search import Search

if TYPE_CHECKING:
    from headway.planner.search import Found
    from headway.planner.study import Study
    from headway.types import Candidate

_POINT_FRAC = 0.5
#: Confidences tried where no fleet holds at the one asked for are this far apart.
_STEP_FRAC = 0.05
_KEY = "policy.confidence"


def surest(study: Study) -> tuple[Study, Search, Found]:
    """Return the problem at the confidence asked for, its search and the cheapest fleet.

    Where no fleet holds at it, a confidence that nobody asked for is lowered to the nearest at which one does.

    Raises:
        InfeasibleError: nothing allowed meets the SLO, or nothing does at the confidence asked for.
    """
    found = _searched(study)
    if found is not None:
        return study, *found
    at_point, known = study, None
    if study.fleets.confidence_frac > _POINT_FRAC:
        at_point = study.at(_POINT_FRAC)
        known = _searched(at_point)
    if known is None:
        raise refuse(at_point)
    nearest = _nearest(study, (at_point, *known))
    if not any(one.name == _KEY for one in study.scenario.assumptions):
        raise _unsure(study, nearest[0].fleets.confidence_frac)
    return nearest


def _searched(study: Study) -> tuple[Search, Found] | None:
    rated, search = study.rated(), Search(study.fleets)
    best = search.best(rated)
    if best is None and rated:
        study.fleets.looks_first = False  # before all is refused, nothing is rejected on a first look
        best = search.best(rated)
    return None if best is None else (search, best)


def _nearest(study: Study, known: tuple[Study, Search, Found]) -> tuple[Study, Search, Found]:
    """Return the problem at the largest confidence tried at which a fleet holds: bisected, as less is held by more."""
    low, high = 0, -int(-(study.fleets.confidence_frac - _POINT_FRAC) // _STEP_FRAC)
    while high - low > 1:
        middle = (low + high) // 2
        tried = study.at(_POINT_FRAC + middle * _STEP_FRAC)
        found = _searched(tried)
        if found is None:
            high = middle
        else:
            low, known = middle, (tried, *found)
    return known


def _unsure(study: Study, nearest_frac: float) -> InfeasibleError:
    asked = f"{100 * study.fleets.confidence_frac:g} %"
    how = f"{100 * nearest_frac:g} %" if nearest_frac > _POINT_FRAC else "none: the prediction itself"
    return InfeasibleError(
        f"no deployment allowed meets the SLO with a confidence of {asked}; one does by the prediction itself",
        binding=_KEY,
        relaxation=f"{_KEY}: {how}",
    )


def certainty(study: Study, best: Found, chosen: Candidate) -> Certainty:
    """Return what the choice's confidence takes beyond the cheapest fleet by the prediction itself."""
    assert chosen.outcome is not None
    frac, pool = study.fleets.confidence_frac, best.option.pool
    region = study.fleets.region(best.option, best.replicas, chosen.outcome)
    over = over_fracs(study.slo, pool, region, frac)
    cheaper = _by_prediction(study, best) if frac > _POINT_FRAC else None
    near = {
        str(o): figure_s(chosen.outcome, o) * (1 + over[str(o)]) / o.limit_s
        for o in study.slo.objectives
        if over[str(o)]
    }
    metrics = {str(o): o.metric for o in study.slo.objectives}
    return Certainty(
        confidence_frac=frac,
        asked_frac=study.policy.confidence_frac,
        over_frac=over,
        likeness=likeness_of(pool),
        point=study.at(_POINT_FRAC).sketch(cheaper) if cheaper else None,
        gpus=best.gpus - cheaper.gpus if cheaper else 0,
        usd_per_hour=best.usd_per_hour - cheaper.usd_per_hour if cheaper else 0.0,
        measure=tuple(dict.fromkeys(metrics[name] for name in sorted(near, key=lambda name: -near[name]))),
    )


def _by_prediction(study: Study, best: Found) -> Found | None:
    """Return the cheapest fleet by the prediction itself where it is cheaper than the choice."""
    plain = study.at(_POINT_FRAC)
    return Search(plain.fleets).best(plain.rated(), best.usd_per_hour)
