"""`plan`: what to deploy for a scenario."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from headway.api.simulations import Simulated
    from headway.planner import Plan
    from headway.scenario import Scenario


def plan(
    scenario: str | Path | Scenario,
    *,
    trace: str | Path | None = None,
    rate_per_s: float | None = None,
    calibration: str | None = None,
) -> Plan:
    """Say what to deploy: the cheapest fleet that meets the objectives, and what that rests on.

    Args:
        scenario: a file, or what was read of one.
        trace: recorded traffic in place of the scenario's.
        rate_per_s: mean rate the traffic is scaled to; its own if None.
        calibration: of an endpoint, by name or file, in place of the scenario's own.

    Raises:
        InputError: the scenario or the trace is wrong; file, line and key are named.
        InfeasibleError: nothing allowed meets the objectives; what binds and the nearest change that would are said.
    """
    from headway.api.simulations import read
    from headway.planner import plan as planned

    return planned(read(scenario, trace=trace, rate_per_s=rate_per_s, calibration=calibration))


def chosen_run(found: Plan, scenario: Scenario) -> Simulated:
    """Simulate what a plan chose once more, as it was judged: without its spares, at the design rate.

    Args:
        found: the plan.
        scenario: what was planned, under the traffic it was planned for.
    """
    from headway.api.simulations import run
    from headway.planner.fleet import Fleets

    deployment = found.chosen.deployment
    pool = dataclasses.replace(deployment.pools[0], replicas=deployment.pools[0].replicas - found.chosen.spare_replicas)
    factor = scenario.policy.design_factor
    arriving = Fleets(scenario).traffic(factor)
    judged = dataclasses.replace(deployment, pools=(pool,))
    return run(scenario, judged, arriving, rate_factor=factor, seed=scenario.seed)
