"""headway plans, simulates and proves LLM inference fleets.

The verbs are functions of the same name as the commands, and return frozen dataclasses::

    import headway

    plan = headway.plan("chat.yaml")
    plan.chosen.deployment, plan.chosen.cost.usd_per_hour
    headway.simulate("chat.yaml", headway.Choice(accelerator="h100-sxm", tp=2), replicas=4, rate_factor=3.0)

Everything is loaded when it is first used: `import headway` alone loads no library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headway.api.calibrations import calibrate_ops
    from headway.api.documents import document, dumps
    from headway.api.endpoints import calibrate_endpoint, calibrate_fit
    from headway.api.facts import catalog_list, catalog_show
    from headway.api.paces import Pace
    from headway.api.plans import plan
    from headway.api.pools import Choice
    from headway.api.prices import price
    from headway.api.replays import replay
    from headway.api.scenarios import scenario_check, scenario_new
    from headway.api.simulations import simulate
    from headway.api.steps import estimate
    from headway.api.traffic import workload_describe, workload_synthesize
    from headway.api.validations import validate
    from headway.api.watches import watch
    from headway.errors import EvidenceError, HeadwayError, InfeasibleError, InputError
    from headway.probe.limits import Limits

__version__ = "0.1.0"

#: what is no verb -> where it is
_HOME = {
    "Choice": "headway.api.pools",
    "EvidenceError": "headway.errors",
    "HeadwayError": "headway.errors",
    "InfeasibleError": "headway.errors",
    "InputError": "headway.errors",
    "Limits": "headway.probe.limits",
    "Pace": "headway.api.paces",
    "document": "headway.api.documents",
    "dumps": "headway.api.documents",
}

__all__ = [
    "Choice",
    "EvidenceError",
    "HeadwayError",
    "InfeasibleError",
    "InputError",
    "Limits",
    "Pace",
    "__version__",
    "calibrate_endpoint",
    "calibrate_fit",
    "calibrate_ops",
    "catalog_list",
    "catalog_show",
    "document",
    "dumps",
    "estimate",
    "plan",
    "price",
    "replay",
    "scenario_check",
    "scenario_new",
    "simulate",
    "validate",
    "watch",
    "workload_describe",
    "workload_synthesize",
]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    if name in __all__:
        return getattr(import_module("headway.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
