"""What InferenceX's servers were started with: the options of their scripts, by what was run, on the row's day.

The table, `data/servers.csv`, is what each version of a script starts when it is given a load (tools/derive_servers.py,
SemiAnalysisAI/InferenceX@843c625 and its history). Deployments over several nodes have recipes instead (`recipes`).
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from headway.validation.names import DATA, Assumption, names

if TYPE_CHECKING:
    from headway.types import Accelerator
    from headway.validation.measurements import Measurement
    from headway.validation.recipes import Recipe

_DAY = re.compile(r"measured (\d{4}-\d\d-\d\d)")
_CONDITIONS = ("isl", "osl", "tp", "ep", "attention_dp")
_NEVER = "9999-12-31"


@dataclass(frozen=True, slots=True)
class Server:
    """One line: its conditions (empty: any), the least clients it is for, its options, and its days."""

    conditions: tuple[str, ...]
    clients: int
    options: str
    since: str
    until: str


def server_of(row: Measurement, accelerator: Accelerator, engine: str, recipe: Recipe | None) -> Server | None:
    """Return what a row's server was started with; None where no script is known, or it ran on several nodes.

    Of a script's versions it is the one of the row's day; else the last before, or the first: some were run before they
    were merged.
    """
    if (recipe and recipe.prefill) or not (row.isl_tokens and row.osl_tokens and row.concurrency):
        return None
    given = _given(row, recipe)
    fitting = [
        one
        for one in _servers().get(_script(row, accelerator, engine, recipe), ())
        if one.clients <= row.concurrency
        and all(has in ("", word) for has, word in zip(one.conditions, given, strict=True))
    ]
    found = _DAY.search(row.note)
    day = found[1] if found else recipe.since if recipe else _NEVER
    return max(_of(day, fitting), key=lambda one: (one.clients, one.since), default=None)


def _of(day: str, fitting: list[Server]) -> list[Server]:
    """Return the lines of that day; where there are none those that went last before it, else those that came first."""
    there = [one for one in fitting if one.since <= day < one.until]
    gone = max((one.until for one in fitting if one.until <= day), default="")
    first = min((one.since for one in fitting), default="")
    return there or [one for one in fitting if (one.until == gone if gone else one.since == first)]


def started(server: Server, row: Measurement, said: list[Assumption]) -> str:
    """Return the options a server was started with for that many clients."""
    said.append(Assumption(code="server_script", text=f"started as InferenceX's script of {server.since} does"))
    return server.options.replace("=conc", f"={row.concurrency}")


def _script(row: Measurement, accelerator: Accelerator, engine: str, recipe: Recipe | None) -> str:
    if recipe:
        return recipe.sweep.replace("-nvfp4-", "-fp4-")  # one sweep was called so for a while
    words = names()["recipes"]
    model = words["models"].get(row.model.casefold(), "")
    what = (model, row.weight_dtype.casefold(), accelerator.name.partition("-")[0], words["engines"].get(engine, ""))
    return "-".join((*what, "mtp")) if "spec:" in row.features else "-".join(what)


def _given(row: Measurement, recipe: Recipe | None) -> tuple[str, ...]:
    """Return what the script was given, in the order of the conditions."""
    assert row.isl_tokens
    assert row.osl_tokens
    gpus, ep, apart = row.tp or row.gpus or 1, row.ep or 1, False
    if recipe:
        gpus, ep, apart = recipe.decode.gpus, recipe.decode.ep, recipe.decode.attention_dp
    lengths = (round(row.isl_tokens.mean), round(row.osl_tokens.mean))
    return (*map(str, (*lengths, gpus, ep)), str(apart).lower())


@cache
def _servers() -> dict[str, tuple[Server, ...]]:
    found: dict[str, list[Server]] = {}
    with (DATA / "servers.csv").open(encoding="utf-8", newline="") as lines:
        for line in csv.DictReader(lines):
            one = Server(
                conditions=tuple(line[name] for name in _CONDITIONS),
                clients=int(line["concurrency"] or 0),
                options=line["options"],
                since=line["since"],
                until=line["until"] or _NEVER,
            )
            found.setdefault(line["script"], []).append(one)
    return {name: tuple(servers) for name, servers in found.items()}
