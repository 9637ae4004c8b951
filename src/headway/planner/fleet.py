"""Simulates fleets under one scenario's traffic, each at most once, and finds the fewest replicas that meet the SLO.

Fidelity: a simulation at full fidelity has enough requests that 50 of them lie beyond the highest percentile promised
and that the traffic lasts 10 mean residences (TTFT limit + OSL × TPOT limit, or the E2E limit), 5,000 at least and
50,000 at most; a recorded trace is simulated as it is, its first 20,000 requests at most. Warm-up and cool-down are
those of `metrics.window_of`. At higher rates the number grows with the rate, at most fourfold, so that the same stretch
of time is seen. All fleets see the same requests.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from headway import metrics
from headway.perf import replica as perf_replica
from headway.perf.regions import REGIONS
from headway.planner.safety import region_in, safe_slo
from headway.simulator import ABORTED, FAILED, seconds, simulate
from headway.workload import generate
from headway.workload.arrivals import Modulated
from headway.workload.selection import take

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from headway.perf.regions import Region
    from headway.planner.space import Option
    from headway.scenario import Scenario
    from headway.simulator import Simulation
    from headway.types import Objective, Outcome, Pool, Replica, Requests, Slo

_BEYOND, _RESIDENCES = 50, 10
LEAST_REQUESTS, MOST_REQUESTS = 5_000, 50_000
#: A first look takes this share of the requests and rejects only what misses by more than the margin.
_COARSE_FRAC, _COARSE_REQUESTS, _COARSE_MARGIN = 0.125, 1_500, 1.3
_MOST_LONGER = 4.0
_MOST_RECORDED = 200_000
_WINDOWS = 60  # of the utilisation's time series
_HOPELESS = 8  # times the least possible number of replicas: more of them do not help


def head(requests: Requests, count: int) -> Requests:
    """Return the first so many requests, all where there are fewer."""
    return take(requests, np.arange(min(count, len(requests))))


def at_mean_rate(requests: Requests, rate_per_s: float) -> Requests:
    """Return the requests with time stretched so that their mean rate is the one asked for.

    The states of modulated arrivals stay for minutes: a simulation sees few of them, and which ones would decide what
    rate a fleet is sized for. Bursts within the stretch keep their shape.
    """
    stretch = len(requests) / (rate_per_s * float(requests.arrive_s[-1]))
    return dataclasses.replace(requests, arrive_s=requests.arrive_s * stretch)


def figure_s(outcome: Outcome, objective: Objective) -> float:
    """Return what an objective limits; 0 where there is no sample of it."""
    latency = outcome.latency.get(objective.metric)
    return latency.at(objective.percentile_frac) if latency is not None and latency.samples else 0.0


def missed(outcome: Outcome, slo: Slo) -> dict[str, float]:
    """Return the objectives missed, and by which share of their limit."""
    return metrics.violations(outcome.latency, slo, outcome.served_frac)


def shortfall(outcome: Outcome, slo: Slo) -> float:
    """Return the worst objective's figure over its limit: at most 1 where the SLO holds."""
    worst = max(figure_s(outcome, o) / o.limit_s for o in slo.objectives)
    return worst if worst > 1.0 or not missed(outcome, slo) else math.inf


def binding(outcome: Outcome, slo: Slo) -> str:
    """Return the objective nearest to (or furthest beyond) its limit."""
    if "success" in missed(outcome, slo):
        return "success"
    return str(max(slo.objectives, key=lambda o: figure_s(outcome, o) / o.limit_s))


def served(
    requests: Requests,
    simulation: Simulation,
    replica: Replica,
    replicas: int,
    *,
    itl_percentiles_frac: Collection[float] | None = None,
) -> metrics.Served:
    """Turn a simulation into what `metrics.outcome` takes.

    The front end's time is added to both token times. A request that cannot be served in full within `max_model_len`
    counts as failed: the engine refuses it, or would cut its answer. One whose client hung up before is cancelled.

    Args:
        requests: what arrived.
        simulation: what became of it.
        replica: what it ran on.
        replicas: how many.
        itl_percentiles_frac: the percentiles of ITL to look for, all others being NaN (each takes a search over all
            gaps); None: any that is asked for.
    """
    wanted = itl_percentiles_frac
    gaps = wanted is None or len(wanted) > 0
    cut = requests.isl_tokens + requests.osl_tokens > replica.settings.max_model_len
    failed = (cut | (simulation.state == FAILED)).astype(np.int64)
    found, series = simulation.gaps, simulation.series
    busy = kv = None
    if series is not None and len(series.queue):
        busy = _spread(series.busy_ps / (series.window_ps * replicas))
        kv = _spread(series.kv_blocks / (replica.num_gpu_blocks * replicas))
    return metrics.Served(
        first_s=seconds(simulation.first_ps) + replica.frontend_s,
        last_s=seconds(simulation.last_ps) + replica.frontend_s,
        failed=np.where(simulation.state == ABORTED, metrics.CANCELLED, failed),
        cached_tokens=simulation.cached_tokens.astype(np.int64),
        preemptions=simulation.counters.preemptions,
        itl_quantile_s=(lambda frac: found.quantile_ps(frac) / 1e12 if wanted is None or frac in wanted else math.nan)
        if gaps
        else None,
        itl_mean_s=found.mean_ps() / 1e12 if gaps else 0.0,
        itl_max_s=found.max_ps() / 1e12 if gaps else 0.0,
        itl_samples=found.samples if gaps else 0,
        busy_frac=busy,
        kv_used_frac=kv,
    )


def _spread(values: np.ndarray) -> dict[float, float]:
    return {q: float(np.quantile(values, q)) for q in (0.1, 0.5, 0.95)}


@dataclass(slots=True)
class Spent:
    """What has been simulated."""

    simulations: int = 0
    requests: int = 0
    options: int = 0


class Fleets:
    """The traffic of one scenario, and every fleet simulated under it so far.

    Args:
        scenario: whose traffic and SLO.
    """

    def __init__(self, scenario: Scenario) -> None:
        self.scenario, self.slo = scenario, scenario.slo
        self.confidence_frac = scenario.policy.confidence_frac
        self.design_factor = scenario.policy.design_factor
        self.recorded = len(getattr(scenario.workload.content, "arrive_s", ()))
        #: whether a first look may reject; the beginning of a recorded trace need not be like the rest
        self.looks_first = not self.recorded
        first = generate(scenario.workload, requests=LEAST_REQUESTS, seed=scenario.seed, rate_factor=self.design_factor)
        self.full_requests = self._enough(first)
        self.context_tokens = max(int(first.isl_tokens.mean() + first.osl_tokens.mean() / 2), 1)
        self.spent = Spent()
        self._traffic: dict[tuple[float, bool], Requests] = {}
        self._replicas: dict[int, tuple[Pool, Replica]] = {}  # by the pool's identity; kept alive beside it
        self._busy: dict[tuple[object, ...], float] = {}
        self._trials: dict[tuple[object, ...], Outcome] = {}
        self._safe: dict[tuple[object, ...], Slo] = {}

    def _enough(self, sample: Requests) -> int:
        if self.recorded:
            return min(self.recorded, _MOST_RECORDED)
        limits = {o.metric: o.limit_s for o in reversed(self.slo.objectives)}
        residence_s = limits.get("ttft", 0.0) + float(sample.osl_tokens.mean()) * limits.get(
            "tpot", limits.get("itl", 0.0)
        )
        residence_s = max(residence_s, limits.get("e2e", 0.0))
        beyond = _BEYOND / (
            1.0 - min(max(o.percentile_frac for o in self.slo.objectives), 1.0 - _BEYOND / MOST_REQUESTS)
        )
        steady = _RESIDENCES * self.scenario.rate_per_s * self.design_factor * residence_s
        return min(max(LEAST_REQUESTS, math.ceil(beyond - 1e-6), math.ceil(steady)), MOST_REQUESTS)

    # -- traffic ------------------------------------------------------------------------------------
    def traffic(self, factor: float, *, coarse: bool = False) -> Requests:
        """Return the requests at a multiple of the base rate; a coarse look has the first of them only."""
        if (factor, coarse) not in self._traffic:
            if coarse:
                full = self.traffic(factor)
                self._traffic[factor, True] = head(full, max(math.ceil(len(full) * _COARSE_FRAC), _COARSE_REQUESTS))
            else:
                self._traffic[factor, False] = self._generate(factor)
        return self._traffic[factor, coarse]

    def _generate(self, factor: float) -> Requests:
        scenario = self.scenario
        longer = min(max(factor / self.design_factor, 1.0), _MOST_LONGER)
        count = self.full_requests if self.recorded else min(math.ceil(self.full_requests * longer), MOST_REQUESTS)
        drawn: Requests = generate(scenario.workload, requests=count, seed=scenario.seed, rate_factor=factor)
        if isinstance(scenario.workload.arrivals.pattern, Modulated) and drawn.session_id is None:
            return at_mean_rate(drawn, scenario.rate_per_s * factor)
        return drawn

    def under(self, slo: Slo) -> Fleets:
        """Return the same fleets judged by other limits; the percentiles must be those of the scenario's SLO."""
        other = copy.copy(self)
        other.slo = slo
        return other

    def at(self, confidence_frac: float) -> Fleets:
        """Return the same fleets judged with another confidence; 0.5: by the prediction itself."""
        other = copy.copy(self)
        other.confidence_frac = confidence_frac
        return other

    # -- the safe side ------------------------------------------------------------------------------
    def safe(self, option: Option, region: Region = REGIONS[0]) -> Slo:
        """Return the limits its predictions must hold in a region; under the least load they are the widest."""
        key = (option.shape, region, self.slo, self.confidence_frac)
        if key not in self._safe:
            self._safe[key] = safe_slo(self.slo, option.pool, region, self.confidence_frac)
        return self._safe[key]

    def region(self, option: Option, replicas: int, outcome: Outcome) -> Region:
        """Return where on its load curve a fleet ran."""
        return region_in(outcome, self.replica(option), replicas)

    def judged(self, option: Option, replicas: int, outcome: Outcome) -> Slo:
        """Return the limits an outcome must hold, by the region it ran in."""
        return self.safe(option, self.region(option, replicas, outcome)) if self.confidence_frac > 0.5 else self.slo

    def missed(self, option: Option, replicas: int, outcome: Outcome) -> dict[str, float]:
        """Return the objectives missed on the safe side, and by which share of the limit there."""
        return missed(outcome, self.judged(option, replicas, outcome))

    def shortfall(self, option: Option, replicas: int, outcome: Outcome) -> float:
        """Return the worst objective's figure on the safe side over its limit: at most 1 where the SLO holds."""
        return shortfall(outcome, self.judged(option, replicas, outcome))

    # -- one fleet ----------------------------------------------------------------------------------
    def replica(self, option: Option) -> Replica:
        """Return what the simulator needs of one replica."""
        key = id(option.pool)
        if key not in self._replicas:
            self._replicas[key] = option.pool, perf_replica(option.pool, context_tokens=self.context_tokens)
            self.spent.options += 1
        return self._replicas[key][1]

    def run(
        self, option: Option, replicas: int, factor: float | None = None, *, coarse: bool = False, detail: bool = False
    ) -> Outcome:
        """Simulate a fleet, or remember that it was simulated.

        Args:
            option: the replica and the router.
            replicas: how many.
            factor: of the base rate; the design rate where None.
            coarse: a first look only.
            detail: with utilisation over time.
        """
        rate = self.design_factor if factor is None else factor
        coarse = coarse and self.looks_first
        key = (option, replicas, rate, coarse, detail)
        if key not in self._trials:
            self._trials[key] = self._simulate(option, replicas, self.traffic(rate, coarse=coarse), detail=detail)
        return self._trials[key]

    def _simulate(self, option: Option, replicas: int, requests: Requests, *, detail: bool) -> Outcome:
        replica = self.replica(option)
        found = simulate(
            requests,
            replica,
            replicas=replicas,
            router=option.router,
            seed=self.scenario.seed,
            record_series=_WINDOWS if detail else 0,
        )
        if found.series is not None:
            steps, window = found.series.busy_ps, found.series.window_ps
            self._busy[option, replicas, id(requests)] = float(steps.sum()) / (window * len(steps) * replicas)
        self.spent.simulations += 1
        self.spent.requests += len(requests)
        itl = {o.percentile_frac for o in self.slo.objectives if o.metric == "itl"}
        became = served(requests, found, replica, replicas, itl_percentiles_frac=itl)
        return metrics.outcome(requests, became, self.slo, "simulated")

    def busy_frac(self, option: Option, replicas: int, factor: float) -> float:
        """Return the mean share of time the replicas step, from the first arrival to the last."""
        self.run(option, replicas, factor, detail=True)
        return self._busy[option, replicas, id(self.traffic(factor))]

    # -- how many -----------------------------------------------------------------------------------
    def holds(self, option: Option, replicas: int, factor: float | None = None) -> bool:
        """Return whether the SLO holds: a coarse look first, which only rejects what misses by far."""
        full = (option, replicas, self.design_factor if factor is None else factor, False, False)
        if self.looks_first and full not in self._trials:
            first = self.run(option, replicas, factor, coarse=True)
            if self.shortfall(option, replicas, first) > _COARSE_MARGIN:
                return False
        return not self.missed(option, replicas, self.run(option, replicas, factor))

    def fewest(
        self,
        option: Option,
        least: int,
        most: int | None = None,
        factor: float | None = None,
        *,
        guess: float = 0.0,
        stride: int = 1,
    ) -> int | None:
        """Return the fewest replicas that meet the SLO, None where not even `most` (or a great many) do.

        More replicas are taken to serve no worse; the answer and the one a stride below it are both simulated.

        Args:
            option: the replica and the router.
            least: a proved lower bound.
            most: no more than these are of use.
            factor: of the base rate; the design rate where None.
            guess: where to begin to look, if above `least`; infinite: at `least`.
            stride: how exact the answer has to be.
        """
        if most is not None and most < least:
            return None
        start = max(least, math.ceil(guess)) if math.isfinite(guess) else least
        most = _HOPELESS * start if most is None else most
        return least_that(
            lambda count: self.holds(option, count, factor),
            above=least - 1,
            start=min(start, most),
            most=most,
            stride=stride,
        )


def least_that(test: Callable[[int], bool], *, above: int, start: int, most: int, stride: int = 1) -> int | None:
    """Return the least whole number that passes a test which, once passed, stays passed.

    Args:
        test: what is asked.
        above: known not to pass.
        start: where to begin: looked for upwards from there in leaps, then narrowed down from above.
        most: where looking ends.
        stride: how exact the answer has to be.
    """
    low, high = above, start
    while not test(high):
        if high >= most:
            return None
        low, high = high, min(max(high + stride, math.ceil(high * 1.3)), most)
    leap = stride
    while high - low > stride:
        middle = max(high - leap, (low + high) // 2)
        leap *= 2
        if test(middle):
            high = middle
        else:
            low = middle
    return high
