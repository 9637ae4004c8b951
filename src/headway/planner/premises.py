"""What a plan rests on beside the scenario's own defaults, each with its source."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headway.metrics import COOL_DOWN_FRAC, WARM_UP_FRAC
from headway.perf import endpoint_of
from headway.scenario import Assumption
from headway.simulator.policies import POLICIES

if TYPE_CHECKING:
    from headway.planner.search import Found
    from headway.planner.study import Study
    from headway.types import EngineSettings


def premises(study: Study, best: Found) -> tuple[Assumption, ...]:
    """Return the planner's own assumptions for one choice."""
    shape, policy, requests = best.option.shape, study.policy, study.requests
    at = shape.price
    fixed = "max_model_len" in study.scenario.settings
    longest = int((requests.isl_tokens + requests.osl_tokens).max())
    too_long = study.demand(caching=False).too_long_frac(shape.max_model_len)
    recorded = study.fleets.recorded
    part = f", the first of the {recorded:,} recorded" if recorded > len(requests) else ""
    cut = f"; {100 * too_long:.2g} % of the requests are longer and count as failed" if too_long else ""
    return (
        Assumption(
            name="design rate",
            value=f"{study.scenario.rate_per_s * policy.design_factor:.4g} req/s",
            source="base rate × growth × burst ÷ (1 − headroom); the SLO holds there without the spares",
        ),
        Assumption(
            name="price",
            value=f"{at.usd_per_gpu_hour:g} $/GPU-hour, {at.term}, {at.provider} {at.zone or at.region}".rstrip(),
            source=f"{at.source} ({at.as_of})",
        ),
        Assumption(
            name="billing",
            value="by the GPU-hour, around the clock",
            source="instances are not rounded up to whole ones; nothing is switched off at night",
        ),
        Assumption(
            name="cost per token and request",
            value="the whole fleet at the base rate",
            source="split between input and output by the step time each takes at the margin",
        ),
        Assumption(
            name="max_model_len",
            value=f"{shape.max_model_len}{cut}",
            source="settings"
            if fixed
            else f"the longest request ({longest} tokens) rounded up, within the model's own",
        ),
        Assumption(
            name="fidelity",
            value=f"{len(requests):,} requests a simulation{part}",
            source=f"the first {100 * WARM_UP_FRAC:g} % and the last {100 * COOL_DOWN_FRAC:g} % are not counted",
        ),
        _scheduler(shape.engine.title, best.option.pool.settings),
        *_measured(best),
    )


def _scheduler(title: str, settings: EngineSettings) -> Assumption:
    """Say whose rules the simulated engine schedules by, and whether steps overlap with the host."""
    policy = POLICIES[settings.engine]
    overlap = "steps overlap with the host as the engine's settings say" if policy.overlaps else "one batch in flight"
    return Assumption(
        name="scheduler",
        value=f"{title}, {'asynchronous' if settings.async_scheduling else 'synchronous'} schedule",
        source=f"the simulator follows {policy.rules}; {overlap}",
    )


def _measured(best: Found) -> tuple[Assumption, ...]:
    """Say that a choice rests on a calibration, and not on the physics."""
    found = endpoint_of(best.option.pool)
    if found is None:
        return ()
    return (
        Assumption(
            name="step times",
            value=f"of the calibration {found.name}, measured on {found.hardware}, {found.made}",
            source=f"{best.option.pool.calibration}; KV blocks, front end and error bands are its too",
        ),
    )
