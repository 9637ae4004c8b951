"""The verbs: what headway can do, each one function.

`VERBS` is the one list of them. A verb is a public name of `headway`, a command of the same path, and a section of
docs/reference/cli.md; its result is a frozen dataclass, and `documents.py` makes the same JSON of it everywhere. A verb
takes plain Python: paths, names and numbers in base units, or nouns of `headway.types`.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

#: command path -> where its function is; the function's name is the path with `_`.
VERBS: dict[str, str] = {
    "plan": "headway.api.plans:plan",
    "simulate": "headway.api.simulations:simulate",
    "replay": "headway.api.replays:replay",
    "estimate": "headway.api.steps:estimate",
    "price": "headway.api.prices:price",
    "validate": "headway.api.validations:validate",
    "calibrate endpoint": "headway.api.endpoints:calibrate_endpoint",
    "calibrate fit": "headway.api.endpoints:calibrate_fit",
    "calibrate ops": "headway.api.calibrations:calibrate_ops",
    "watch": "headway.api.watches:watch",
    "workload describe": "headway.api.traffic:workload_describe",
    "workload synthesize": "headway.api.traffic:workload_synthesize",
    "catalog list": "headway.api.facts:catalog_list",
    "catalog show": "headway.api.facts:catalog_show",
    "scenario check": "headway.api.scenarios:scenario_check",
    "scenario new": "headway.api.scenarios:scenario_new",
}

_PLACES = {path.replace(" ", "_"): place for path, place in VERBS.items()}

__all__ = ["VERBS", *_PLACES]  # noqa: PLE0604 - the keys are the names


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, function = _PLACES[name].split(":")
    return getattr(import_module(module), function)


def __dir__() -> list[str]:
    return sorted(__all__)
