"""Where nothing meets the SLO: what binds, by how much it is missed, and the nearest change that holds."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from headway.errors import InfeasibleError
from headway.planner.fleet import figure_s, missed
from headway.planner.floors import Floors
from headway.types import Slo
from headway.units import show_s

if TYPE_CHECKING:
    from collections.abc import Iterator

    from headway.planner.space import Option, Shape
    from headway.planner.study import Study
    from headway.types import Objective, Outcome

#: Deployments looked at, the most promising first; and the load at which they are: a fleet this many times the least.
_LOOKED_AT, _AMPLE = 6, 4
_DIGITS = 2  # a relaxed limit is rounded up to so many


def refuse(study: Study) -> InfeasibleError:
    """Return the error for a problem that has no answer."""
    near = _promising(study)
    if not near:
        return _nothing_runs(study)
    looked = [(option, count, study.fleets.run(option, count)) for option, count in near]
    option, count, outcome = min(looked, key=lambda one: _distance(one[2], study.slo))
    misses = missed(outcome, study.slo)
    if not misses:  # the coarse rejection was wrong at every size between: say so in terms of its load
        misses = {"capacity": math.inf}
    binds = max(misses, key=lambda name: misses[name])
    return InfeasibleError(
        f"no deployment allowed meets the SLO; the nearest, {count} × {option.shape}, "
        f"misses {_listed(outcome, study.slo, misses)}",
        binding=binds,
        relaxation=_relaxation(study, option, outcome, misses),
        shortfall={f"{name.replace(' ', '_')}_frac": value for name, value in misses.items() if math.isfinite(value)},
    )


def _promising(study: Study) -> list[tuple[Option, int]]:
    """Return deployments at low load: the best of each shape by how far its floors miss the limits."""
    groups: dict[Shape, list[Option]] = {}
    for option in (*study.unable, *(rated.option for rated in study.able)):
        groups.setdefault(option.shape, []).append(option)
    best = [min(_missing(study, options), key=lambda pair: pair[0]) for options in groups.values()]
    best.sort(key=lambda pair: (pair[0], pair[1].usd_per_hour))
    return [(option, _ample(study, option)) for _, option in best[:_LOOKED_AT]]


def _missing(study: Study, options: list[Option]) -> Iterator[tuple[float, Option]]:
    """Walk the options of one shape with the product of what their floors are over each limit."""
    floors = Floors(options)
    for option in options:
        settings = option.pool.settings
        demand = study.demand_on(option)
        over = (floors.floor_s(settings.max_num_batched_tokens, demand, o) / o.limit_s for o in study.slo.objectives)
        yield math.prod(max(share, 1.0) for share in over), option


def _ample(study: Study, option: Option) -> int:
    demand = study.demand_on(option)
    return _AMPLE * Floors([option]).least_replicas(option, demand, demand.due(option.shape.max_model_len))


def _distance(outcome: Outcome, slo: Slo) -> float:
    over = [max(figure_s(outcome, o) / o.limit_s, 1.0) for o in slo.objectives]
    return math.prod(over) + (1e6 if "success" in missed(outcome, slo) else 0.0)


def _listed(outcome: Outcome, slo: Slo, misses: dict[str, float]) -> str:
    parts = [
        f"{o} by {100 * misses[str(o)]:.3g} % ({show_s(figure_s(outcome, o))} against {show_s(o.limit_s)})"
        for o in slo.objectives
        if str(o) in misses
    ]
    if "success" in misses:
        parts.append(f"success by {100 * misses['success']:.3g} % of the requests")
    return ", ".join(parts) or "none of them at this load"


def _relaxation(study: Study, option: Option, outcome: Outcome, misses: dict[str, float]) -> str:
    """Return limits under which that deployment holds, checked by simulation; empty where none were found."""
    slo = Slo(
        objectives=tuple(_eased(o, outcome, misses) for o in study.slo.objectives),
        success_frac=min(study.slo.success_frac, outcome.served_frac),
    )
    count = study.fleets.under(slo).fewest(option, 1, guess=_ample(study, option) / _AMPLE)
    if count is None:
        return ""
    changed = [
        f"{new} ≤ {show_s(new.limit_s)} instead of {show_s(old.limit_s)}"
        for old, new in zip(study.slo.objectives, slo.objectives, strict=True)
        if new != old
    ]
    if slo.success_frac < study.slo.success_frac:
        changed.append(f"success ≥ {100 * slo.success_frac:.4g} % instead of {100 * study.slo.success_frac:g} %")
    return f"{', '.join(changed)}, with {count} × {option.shape}"


def _eased(objective: Objective, outcome: Outcome, misses: dict[str, float]) -> Objective:
    if str(objective) not in misses:
        return objective
    figure = figure_s(outcome, objective)
    if not math.isfinite(figure):
        return objective
    unit = 10.0 ** (math.floor(math.log10(figure)) + 1 - _DIGITS)
    return replace(objective, limit_s=math.ceil(figure / unit + 1e-9) * unit)


def _nothing_runs(study: Study) -> InfeasibleError:
    """Every option was refused before any objective was looked at."""
    refused = study.space.refusals.listed()
    reasons = "; ".join(f"{r.candidates} × {r.reason}" for r in refused)
    binding = refused[0].reason if refused else "allow"
    example = f", for example {refused[0].example}" if refused else ""
    return InfeasibleError(
        f"none of the {study.space.enumerated} candidates can run ({reasons}{example})",
        binding=binding,
        relaxation=study.space.nearest_fit,
    )
