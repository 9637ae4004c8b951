"""`plan`: from a scenario to what to deploy, and everything the answer rests on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headway.planner import levers as lever
from headway.planner import stress
from headway.planner.certainty import certainty, surest
from headway.planner.fleet import head
from headway.planner.front import front
from headway.planner.heuristic import capacity_method
from headway.planner.nouns import Plan, SearchFigures
from headway.planner.premises import premises
from headway.planner.study import Study

if TYPE_CHECKING:
    from headway.planner.search import Found, Rated, Search
    from headway.scenario import Scenario
    from headway.types import Candidate

_SHOWN = 5
#: Options simulated for each accelerator the search had no need to look at.
_TRIED_ELSEWHERE = 1
#: Requests the capacity method takes its token distribution from.
_MEASURED = 20_000


def plan(scenario: Scenario) -> Plan:
    """Return the cheapest fleet that meets the SLO at the design rate, and what it rests on.

    Raises:
        InputError: no allowed accelerator has a price, or the workload cannot be drawn.
        InfeasibleError: nothing allowed meets the SLO; what binds and the nearest change that would are said.
    """
    study, search, best = surest(Study(scenario))
    rated = study.able
    chosen = study.candidate(best)
    assert chosen.cost is not None
    others = _elsewhere(search, rated, best)
    breaking = stress.breaking(study, best)
    shown = _shown(study, search, best, chosen)
    spent = study.fleets.spent
    figures = SearchFigures(
        enumerated=study.space.enumerated,
        refused=study.space.refusals.listed(),
        bounded=search.left_out,
        equivalent=study.equivalent,
        simulated=spent.options,
        simulations=spent.simulations,
        simulated_requests=spent.requests,
        requests=len(study.requests),
    )
    return Plan(
        chosen=chosen,
        candidates=shown,
        front=front(study, search.found, best, chosen),
        steps=capacity_method(
            best.option, head(study.requests, _MEASURED), study.slo, study.policy, scenario.rate_per_s
        ),
        levers=lever.levers(study, best, chosen, others),
        breaking=breaking,
        stress=stress.stress(study, best, chosen.cost, breaking.holds_factor),
        assumptions=(*premises(study, best), *scenario.assumptions),
        search=figures,
        slo=study.slo,
        base_rate_per_s=scenario.rate_per_s,
        design_rate_per_s=scenario.rate_per_s * study.policy.design_factor,
        certainty=certainty(study, best, chosen),
    )


def _elsewhere(search: Search, rated: list[Rated], best: Found) -> list[Found]:
    """Return the best found on each other accelerator; one the search did not look at is tried where it seems best."""
    found = []
    for name in dict.fromkeys(r.option.shape.accelerator.name for r in rated):
        if name == best.option.shape.accelerator.name:
            continue
        there = sorted((r for r in rated if r.option.shape.accelerator.name == name), key=lambda r: r.cost(r.estimate))
        known = [f for f in search.found if f.option.shape.accelerator.name == name]
        known += [f for r in there[:_TRIED_ELSEWHERE] if not known and (f := search.fewest(r))]
        if known:
            found.append(min(known, key=lambda f: (f.usd_per_hour, f.gpus)))
    return found


def _shown(study: Study, search: Search, best: Found, chosen: Candidate) -> tuple[Candidate, ...]:
    """Return the cheapest of each shape, the chosen one first."""
    cheapest: dict[str, Found] = {}
    for found in sorted(search.found, key=lambda f: (f.usd_per_hour, f.gpus)):
        cheapest.setdefault(str(found.option.shape), found)
    cheapest.pop(str(best.option.shape), None)
    return (chosen, *(study.candidate(found) for found in list(cheapest.values())[: _SHOWN - 1]))
