"""One planning problem under way: traffic, prices and the space of options, and what is known of each option."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import TYPE_CHECKING

from headway.planner.demand import Demand
from headway.planner.estimates import Estimates, sizes_of
from headway.planner.fleet import Fleets, binding
from headway.planner.floors import Floors
from headway.planner.price import choose_prices, input_share, price
from headway.planner.safety import with_bands
from headway.planner.search import Rated, spares
from headway.planner.space import Space
from headway.types import Candidate, Deployment
from headway.units import show_s

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from headway.perf.regions import Region
    from headway.planner.search import Found
    from headway.planner.space import Option
    from headway.scenario import Scenario
    from headway.types import Objective, Outcome, Pool, Slo

#: Where on its load curve a fleet of the right size is taken to run, until it is simulated.
_LIKELY: Region = "middle"


class Study:
    """What every part of the planner works on.

    Args:
        scenario: what is planned.

    Raises:
        InputError: no allowed accelerator has a price.
    """

    def __init__(self, scenario: Scenario) -> None:
        self.scenario, self.policy, self.slo = scenario, scenario.policy, scenario.slo
        self.prices = choose_prices(scenario)
        self.fleets = Fleets(scenario)
        self.requests = self.fleets.traffic(self.fleets.design_factor)
        longest = int((self.requests.isl_tokens + self.requests.osl_tokens).max())
        self.space = Space(scenario, self.prices, longest_tokens=longest, context_tokens=self.fleets.context_tokens)
        self.equivalent = 0
        self.unable: list[Option] = []  # what cannot meet an objective even when idle
        self.able: list[Rated] = []  # what no bound refuses
        self._demands: dict[tuple[bool, Slo], Demand] = {}
        self._groups: list[tuple[Floors, list[Option]]] | None = None  # shape by shape
        self._unfit = self.space.refusals  # what cannot run or does not fit

    def at(self, confidence_frac: float) -> Study:
        """Return the same problem with another confidence; what it refuses is counted apart."""
        other = copy.copy(self)
        other.fleets, other.space = self.fleets.at(confidence_frac), copy.copy(self.space)
        other.unable, other.able, other.space.refusals = [], [], self._unfit.copied()
        return other

    def demand(self, *, caching: bool, slo: Slo | None = None) -> Demand:
        """Return what the traffic asks at least, under the scenario's limits or others."""
        shared, limits = caching and self.requests.prefix is not None, slo or self.slo
        if (shared, limits) not in self._demands:
            self._demands[shared, limits] = Demand(self.requests, limits, caching=shared)
        return self._demands[shared, limits]

    def demand_on(self, option: Option) -> Demand:
        """Return what the traffic asks at least of a fleet of these: the widest limits it may be held to."""
        return self.demand(caching=option.pool.settings.enable_prefix_caching, slo=self.fleets.safe(option))

    def rated(self) -> list[Rated]:
        """Return every option that no bound refuses; the others are counted in `space.refusals`."""
        if self._groups is None:
            shapes = (self._distinct(self.space.options(shape)) for shape in self.space.shapes())
            self._groups = [(Floors(options), options) for options in shapes if options and self._serves(options)]
            self._unfit = self.space.refusals.copied()
        able = [(floors, [one for one in options if self._able(floors, one)]) for floors, options in self._groups]
        self.able = self.rate([group for group in able if group[1]])
        return self.able

    def rate(self, groups: Sequence[tuple[Floors, Sequence[Option]]]) -> list[Rated]:
        """Return options with their bounds and estimates, shape by shape."""
        alike: dict[Slo, list[tuple[Floors, Sequence[Option]]]] = {}
        for group in groups:
            alike.setdefault(self.fleets.safe(group[1][0], _LIKELY), []).append(group)
        return [one for slo, some in alike.items() for one in self._rate(some, slo)]

    def _rate(self, groups: Sequence[tuple[Floors, Sequence[Option]]], slo: Slo) -> list[Rated]:
        """Return options that are likely held to the same limits with their bounds and estimates."""
        least = [self._least(floors, option) for floors, options in groups for option in options]
        caching = any(option.pool.settings.enable_prefix_caching for _, options in groups for option in options)
        rate_per_s = self.scenario.rate_per_s * self.policy.design_factor
        sizes = sizes_of(self.demand(caching=caching), rate_per_s)
        estimates = Estimates(groups, least, sizes).replicas(slo.objectives)
        options = (option for _, group in groups for option in group)
        return [
            Rated(option=option, least=count, estimate=float(estimate), spares=self.spares(option.pool))
            for option, count, estimate in zip(options, least, estimates, strict=True)
        ]

    def spares(self, pool: Pool) -> int:
        """Return the replicas bought for the failures the policy survives."""
        return spares(self.policy, pool.parallelism.gpus, pool.accelerator.gpus_per_node)

    def _distinct(self, options: list[Option]) -> list[Option]:
        """Leave out what is the same as another: without shared prefixes, a prefix cache changes nothing."""
        if self.requests.prefix is not None:
            return options
        found: dict[tuple[object, ...], Option] = {}
        for option in options:
            settings = option.pool.settings
            found.setdefault((settings.max_num_batched_tokens, settings.max_num_seqs, option.router), option)
        self.equivalent += len(options) - len(found)
        return list(found.values())

    def _serves(self, options: list[Option]) -> bool:
        length = options[0].shape.max_model_len
        too_long = self.demand(caching=False).too_long_frac(length)
        if 1.0 - too_long >= self.slo.success_frac:
            return True
        text = f"{100 * too_long:.2g} % of requests exceed max_model_len {length} of {options[0].shape.model.name}"
        self.space.refusals.add("too many requests are longer than max_model_len", text, len(options))
        needed = self.demand(caching=False).length_for(self.slo.success_frac)
        able = needed <= options[0].shape.model.max_position_embeddings
        self.space.nearest_fit = f"max_model_len {needed}" if able else f"success ≥ {100 * (1 - too_long):.3g} %"
        return False

    def _able(self, floors: Floors, option: Option) -> bool:
        found = floors.missed(option, self.demand_on(option))
        if found is None:
            return True
        objective, floor_s = found
        self.unable.append(option)
        example = f"{option.shape}: at least {show_s(floor_s)}, allowed {show_s(objective.limit_s)}"
        self.space.refusals.add(f"cannot meet {objective} even when idle", example)
        return False

    def _least(self, floors: Floors, option: Option) -> int:
        demand = self.demand_on(option)
        return floors.least_replicas(option, demand, demand.due(option.shape.max_model_len))

    # -- candidates ---------------------------------------------------------------------------------
    def deployment(self, option: Option, replicas: int) -> Deployment:
        """Return so many replicas behind the option's router."""
        return Deployment(pools=(replace(option.pool, replicas=replicas),), router=option.router)

    def candidate(self, found: Found, slo: Slo | None = None) -> Candidate:
        """Return what was found with its outcomes and its cost, latencies with their error bands."""
        everyday = self.fleets.run(found.option, found.fleet, 1.0, detail=True)
        busy_frac = self.fleets.busy_frac(found.option, found.fleet, 1.0)
        outcome = self.fleets.run(found.option, found.replicas, detail=True)
        candidate = self._priced(found, outcome, everyday, slo or self.slo, busy_frac)
        where = self.fleets.region(found.option, found.fleet, everyday)
        return replace(candidate, everyday=with_bands(everyday, found.option.pool, where))

    def sketch(self, found: Found, slo: Slo | None = None) -> Candidate:
        """Return the same without its everyday outcome; the base rate's is taken as the design rate's, scaled."""
        outcome = self.fleets.run(found.option, found.replicas)
        rates = ("requests_per_s", "input_tokens_per_s", "output_tokens_per_s", "goodput_per_s")
        scaled = {name: getattr(outcome, name) / self.policy.design_factor for name in rates}
        return self._priced(found, outcome, replace(outcome, **scaled), slo or self.slo, math.nan)

    def _priced(self, found: Found, outcome: Outcome, everyday: Outcome, slo: Slo, busy_frac: float) -> Candidate:
        option = found.option
        deployment = self.deployment(option, found.fleet)
        cost = price(
            deployment,
            option.shape.price,
            everyday=everyday,
            input_share_frac=self._input_share(option, everyday, found.fleet),
            busy_frac=busy_frac,
        )
        return Candidate(
            deployment=deployment,
            outcome=with_bands(outcome, option.pool, self.fleets.region(option, found.replicas, outcome)),
            cost=cost,
            binds=binding(outcome, self.fleets.under(slo).judged(option, found.replicas, outcome)),
            spare_replicas=found.rated.spares,
        )

    def _input_share(self, option: Option, everyday: Outcome, replicas: int) -> float:
        requests = self.requests
        tpot = everyday.latency["tpot"]
        batch = everyday.output_tokens_per_s * tpot.mean_s / replicas if tpot.samples else 1.0
        return input_share(
            self.fleets.replica(option).step,
            isl_tokens=max(float(requests.isl_tokens.mean()) * (1.0 - everyday.prefix_hit_frac), 1.0),
            osl_tokens=float(requests.osl_tokens.mean()),
            batch=batch if math.isfinite(batch) else 1.0,
        )


def tails(outcome: Outcome, objectives: Iterable[Objective]) -> dict[str, float]:
    """Return each objective's figure in seconds."""
    return {str(o): outcome.latency[o.metric].at(o.percentile_frac) for o in objectives if o.metric in outcome.latency}
