"""What one change to the choice would take or save: each planned again by simulation, and priced."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from headway.catalog import accepts, spread
from headway.errors import InfeasibleError, InputError
from headway.planner.floors import Floors
from headway.planner.nouns import Lever
from headway.planner.price import repriced
from headway.planner.search import Found
from headway.planner.study import tails
from headway.simulator import ROUTERS
from headway.units import show_s

if TYPE_CHECKING:
    from collections.abc import Iterator

    from headway.planner.search import Rated
    from headway.planner.space import Option, Shape, Swept
    from headway.planner.study import Study
    from headway.types import Candidate, Dtype, Objective, Price, Slo

_RELAXED = 1.2
_MOST_GPUS = 2  # times those chosen: a change that takes more is no lever
_OTHER_WEIGHTS: tuple[Dtype, ...] = ("fp8", "int4", "bf16")


def levers(study: Study, chosen: Found, now: Candidate, others: list[Found]) -> tuple[Lever, ...]:
    """Return the levers, those that save most first.

    Args:
        study: the problem.
        chosen: what was chosen.
        now: the same as a candidate.
        others: the best found on each other accelerator.
    """
    found = [_try(study, chosen, now, name, option) for name, option in changes(study, chosen)]
    found += [_against(study, now, f"on {other.option.shape.accelerator.name}", other) for other in others]
    found += _relaxed(study, chosen, now)
    found += _terms(study, chosen, now)
    return tuple(sorted(found, key=lambda lever: (lever.candidate is None, lever.usd_per_hour, lever.name)))


def changes(study: Study, chosen: Found) -> Iterator[tuple[str, Option | str]]:
    """Walk single changes to the chosen option: its name, and the option (or why there is none)."""
    option = chosen.option
    for name, shape in _shapes(study, option.shape):
        yield name, _built(study, shape, _swept(option), option.router)
    for name, swept in _settings(study, option):
        yield name, _built(study, option.shape, swept, option.router)
    if study.requests.prefix is None:
        yield "prefix caching on or off", "the traffic has no shared prefixes"
    for router in ROUTERS:
        if router != option.router and _routable(study, router):
            yield f"router {router}", replace(option, router=router)


def _shapes(study: Study, shape: Shape) -> Iterator[tuple[str, Shape]]:
    """Walk other number formats and tensor-parallel sizes that engine and accelerator take."""
    for weights in _OTHER_WEIGHTS:
        if weights != shape.weight_dtype and not accepts(shape.engine, shape.accelerator, weights):
            yield f"{weights} weights", replace(shape, weight_dtype=weights)
    other: Dtype = "bf16" if shape.kv_dtype == "fp8" else "fp8"
    yield f"{other} KV", replace(shape, kv_dtype=other)
    spread = shape.parallelism
    for tp in (spread.tp // 2, spread.tp * 2):
        wider = replace(spread, tp=tp, ep=tp * spread.dp if spread.ep > 1 else 1)
        if tp and not study.space.unfit(shape.accelerator, shape.engine, shape.weight_dtype, wider):
            yield f"TP{tp}", replace(shape, parallelism=wider)


def _settings(study: Study, option: Option) -> Iterator[tuple[str, Swept]]:
    """Walk half and twice the token budget, half the seats, and the other position of the prefix cache's switch."""
    tokens, seqs, caching = _swept(option)
    for budget in (tokens // 2, tokens * 2):
        if budget >= seqs:
            yield f"max_num_batched_tokens {budget}", (budget, seqs, caching)
    if seqs > 1:
        yield f"max_num_seqs {seqs // 2}", (tokens, seqs // 2, caching)
    if study.requests.prefix is not None:
        yield f"prefix caching {'off' if caching else 'on'}", (tokens, seqs, not caching)


def _swept(option: Option) -> Swept:
    settings = option.pool.settings
    return settings.max_num_batched_tokens, settings.max_num_seqs, settings.enable_prefix_caching


def _routable(study: Study, router: str) -> bool:
    needs = {"session-affinity": study.requests.session_id, "prefix-affinity": study.requests.prefix}
    return router != "random" and needs.get(router, study) is not None


def _built(study: Study, shape: Shape, swept: Swept, router: str) -> Option | str:
    try:
        return study.space.option(shape, swept, router)
    except (InfeasibleError, InputError) as error:
        return error.problem


def rate_one(study: Study, option: Option) -> Rated | str:
    """Return one option with its bound and estimate, or the objective it cannot meet."""
    floors = Floors([option])
    missed = floors.missed(option, study.demand_on(option))
    if missed:
        return f"{missed[0]} is at least {show_s(missed[1])} even when idle"
    return study.rate([(floors, [option])])[0]


def _try(study: Study, chosen: Found, now: Candidate, name: str, option: Option | str) -> Lever:
    rated = rate_one(study, option) if not isinstance(option, str) else option
    if isinstance(rated, str):
        return _refused(name, rated)
    scaled = rated.estimate * chosen.replicas / chosen.rated.estimate
    most = math.ceil(_MOST_GPUS * chosen.replicas * chosen.option.pool.gpus / rated.option.pool.gpus)
    replicas = study.fleets.fewest(rated.option, rated.least, most, guess=scaled)
    if replicas is None:
        return _refused(name, f"the SLO is missed with {_MOST_GPUS} times the GPUs")
    return _against(study, now, name, Found(rated=rated, replicas=replicas))


def _refused(name: str, why: str) -> Lever:
    return Lever(name=name, gpus=0, usd_per_hour=0.0, why_not=why)


def _against(study: Study, now: Candidate, name: str, found: Found) -> Lever:
    return _lever(study, now, name, study.sketch(found))


def _lever(study: Study, now: Candidate, name: str, candidate: Candidate) -> Lever:
    assert now.outcome is not None
    assert now.cost is not None
    assert candidate.outcome is not None
    assert candidate.cost is not None
    before, after = (tails(outcome, study.slo.objectives) for outcome in (now.outcome, candidate.outcome))
    return Lever(
        name=name,
        gpus=candidate.cost.gpus - now.cost.gpus,
        usd_per_hour=candidate.cost.usd_per_hour - now.cost.usd_per_hour,
        tail={objective: (before[objective], after[objective]) for objective in before},
        candidate=candidate,
    )


def _relaxed(study: Study, chosen: Found, now: Candidate) -> list[Lever]:
    """The binding objective's limit, a fifth wider."""
    binds = next((o for o in study.slo.objectives if str(o) == now.binds), None)
    if binds is None:
        return []
    slo = widened(study.slo, binds, binds.limit_s * _RELAXED)
    replicas = study.fleets.under(slo).fewest(chosen.option, chosen.rated.least, chosen.replicas, guess=chosen.replicas)
    found = Found(rated=chosen.rated, replicas=replicas or chosen.replicas)
    name = f"{binds} ≤ {show_s(binds.limit_s * _RELAXED)} (+20 %)"
    return [_lever(study, now, name, study.sketch(found, slo))]


def widened(slo: Slo, objective: Objective, limit_s: float) -> Slo:
    """Return the SLO with another limit for one objective."""
    changed = tuple(replace(o, limit_s=limit_s) if o == objective else o for o in slo.objectives)
    return replace(slo, objectives=changed)


def _terms(study: Study, chosen: Found, now: Candidate) -> list[Lever]:
    """The same fleet under other price terms, each at its cheapest."""
    assert now.cost is not None
    terms, shape = study.scenario.prices, chosen.option.shape
    known = study.scenario.catalog.prices(shape.accelerator, region=terms.region, provider=terms.provider)
    found = []
    for term in dict.fromkeys(p.term for p in known if p.term != shape.price.term):
        prices = [p for p in known if p.term == term]
        at = min(prices, key=lambda p: p.usd_per_gpu_hour)
        name = f"{term} ({at.provider}{_zones(prices, at) if term == 'spot' else ''})"
        found.append(_lever(study, now, name, replace(now, cost=repriced(now.cost, at))))
    return found


def _zones(prices: list[Price], at: Price) -> str:
    """Say how the spot prices of that provider spread."""
    found = spread(p for p in prices if p.provider == at.provider)
    if found is None or found.zones == 1:
        return ""
    least, most = found.least_usd_per_gpu_hour, found.most_usd_per_gpu_hour
    return f", {found.zones} zones at {least:.2f} … {most:.2f} $/GPU-hour"
