"""`scenario check` and `scenario new`: what a scenario file comes to, and a new one to start from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from headway.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from headway.scenario import Allow, Assumption, Policy, PriceTerms
    from headway.types import Model, Price, Slo


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """What a scenario comes to: names resolved, defaults filled in."""

    file: str
    models: tuple[Model, ...]
    workload: str  # a profile, a trace's file, or `workload`
    base_rate_per_s: float
    design_rate_per_s: float  # base rate × growth × burst ÷ (1 − headroom)
    slo: Slo
    allow: Allow
    policy: Policy
    price_terms: PriceTerms
    prices: tuple[Price, ...]  # the cheapest allowed of each accelerator that has one
    settings: Mapping[str, object]
    seed: int
    assumptions: tuple[Assumption, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NewScenario:
    """The text of a new scenario, and where it was written."""

    text: str
    file: str | None


def scenario_check(scenario: str | Path) -> Resolved:
    """Read a scenario and say what it comes to.

    Args:
        scenario: the file.

    Raises:
        InputError: anything in it is wrong; file, line and key are named, with the nearest fix.
    """
    from headway.planner.price import choose_prices
    from headway.scenario import read_scenario

    known = read_scenario(scenario)
    prices = choose_prices(known)
    return Resolved(
        file=known.file,
        models=known.models,
        workload=known.workload.name,
        base_rate_per_s=known.rate_per_s,
        design_rate_per_s=known.rate_per_s * known.policy.design_factor,
        slo=known.slo,
        allow=known.allow,
        policy=known.policy,
        price_terms=known.prices,
        prices=tuple(prices.values()),
        settings=known.settings,
        seed=known.seed,
        assumptions=known.assumptions,
    )


def scenario_new(
    *,
    model: str | None = None,
    accelerators: Sequence[str] = (),
    profile: str | None = None,
    rate_per_s: float | None = None,
    file: str | Path | None = None,
) -> NewScenario:
    """Start a scenario: commented, complete, valid as it is.

    Args:
        model: a name of the catalogue.
        accelerators: names of the catalogue that may be bought.
        profile: a shipped workload profile.
        rate_per_s: mean rate of requests.
        file: where to write it; a file that is there is not overwritten.

    Raises:
        InputError: a name is unknown (the nearest is offered), the rate is not above zero, or the file cannot be
            written or is there.
    """
    from headway.api.folders import new_file
    from headway.scenario import new_scenario

    if rate_per_s is not None and not 0 < rate_per_s < float("inf"):
        raise InputError(f"expected a rate above zero, got {rate_per_s!r}", place="rate")
    given = _names(model, accelerators, profile) | ({"rate_per_s": rate_per_s} if rate_per_s is not None else {})
    text = new_scenario(**given)
    if file is not None:
        new_file(file, text.encode())
    return NewScenario(text=text, file=None if file is None else str(file))


def _names(model: str | None, accelerators: Sequence[str], profile: str | None) -> dict[str, Any]:
    """The names given, as the catalogue spells them.

    Raises:
        InputError: one is unknown.
    """
    from headway.catalog import load
    from headway.workload import profile as known_profile

    catalog = load()
    found: dict[str, Any] = {}
    if model:
        found["model"] = catalog.model(model).name
    if accelerators:
        found["accelerators"] = tuple(catalog.accelerator(name).name for name in accelerators)
    if profile:
        found["profile"] = known_profile(profile).name
    return found
