"""What InferenceX ran: how its runs were spread and whether they verified drafts, by the concurrency they ran at.

A dump of its results leaves that out, and counts some GPUs as tp × ep. The table, `data/recipes.csv`, is reduced from
the lists the runs were started from (tools/derive_recipes.py, SemiAnalysisAI/InferenceX@843c625 and its history).
"""

from __future__ import annotations

import csv
import math
import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from headway.validation.names import DATA, Assumption, names

if TYPE_CHECKING:
    from headway.types import Accelerator
    from headway.validation.measurements import Measurement

_WORKERS = re.compile(
    r"prefill (\?|\d+) workers? x \(tp(\d+),dp(\d+),ep(\d+)\); decode (\?|\d+) x \(tp(\d+),dp(\d+),ep(\d+)\)"
)
_DAY = re.compile(r"measured (\d{4}-\d\d-\d\d)")


@dataclass(frozen=True, slots=True)
class Workers:
    """Equal workers of one role: how many, of how many GPUs each, experts over `ep`, attention over ranks or not."""

    count: int
    gpus: int
    ep: int
    attention_dp: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One line of the list."""

    concurrency: frozenset[int]
    drafts: int
    prefill: Workers | None
    decode: Workers
    since: str
    until: str


def stated_workers(note: str) -> tuple[tuple[int | None, int, int, int], ...] | None:
    """Return (count, tp, dp, ep) of prefill and decode as a row states them; a count of None: not stated."""
    found = _WORKERS.search(note)
    if not found:
        return None
    words = [None if word == "?" else int(word) for word in found.groups()]
    return tuple((words[i], words[i + 1] or 1, words[i + 2] or 1, words[i + 3] or 1) for i in (0, 4))


def side(gpus: int) -> int:
    """Return n where a dump counts n GPUs as n · n (tp × ep, on nodes of at most eight); else the GPUs themselves."""
    root = math.isqrt(gpus)
    return root if gpus > 8 and root * root == gpus else gpus


def apart(row: Measurement) -> bool:
    """Whether prefill and decode ran apart: said, or a total of GPUs that no one group of them has as its tp."""
    return "disagg" in row.features or ((row.tp or 0) > 8 and row.tp == row.gpus and (row.ep or 1) == 1)


def recipe_of(row: Measurement, accelerator: Accelerator, engine: str, said: list[Assumption]) -> Recipe | None:
    """Return the recipe a row was run by; None where the lists have none for it.

    Several may fit: those listed on the row's day go first, then those without drafts, since a dump that means drafts
    should say so.
    """
    fitting = [recipe for recipe in _listed(row, accelerator, engine) if _agrees(row, recipe)]
    if not fitting:
        return None
    day = _DAY.search(row.note)
    today = [recipe for recipe in fitting if day and recipe.since <= day[1] <= recipe.until] or fitting
    found = min(today, key=lambda recipe: (recipe.drafts > 0, recipe.since))
    said.append(Assumption(code="recipe", text=f"spread as InferenceX listed it from {found.since} to {found.until}"))
    if len({recipe.drafts > 0 for recipe in today}) > 1:
        said.append(Assumption(code="drafts_ambiguous", text="listed with and without drafts: taken as without"))
    return found


def _listed(row: Measurement, accelerator: Accelerator, engine: str) -> list[Recipe]:
    words = names()["recipes"]
    if not (row.isl_tokens and row.osl_tokens and row.concurrency):
        return []
    key = (
        words["models"].get(row.model.casefold(), ""),
        row.weight_dtype.casefold(),
        accelerator.name.partition("-")[0],
        words["engines"].get(engine, ""),
        round(row.isl_tokens.mean),
        round(row.osl_tokens.mean),
    )
    return [recipe for recipe in _recipes().get(key, ()) if row.concurrency in recipe.concurrency]


def _agrees(row: Measurement, recipe: Recipe) -> bool:
    """Whether a recipe is spread as the row says, or over as many GPUs where it says no more."""
    prefill, decode, stated = recipe.prefill, recipe.decode, stated_workers(row.note)
    if prefill is None:
        if apart(row):  # a dump calls some runs of one worker disaggregated
            return stated is not None and decode.gpus == stated[1][1] * stated[1][2]
        gpus = side(row.gpus or row.tp or 0)
        ep = gpus if gpus != row.gpus else row.ep or 1
        return decode.gpus == gpus and decode.ep == ep
    if not apart(row):
        return False
    total = prefill.count * prefill.gpus + decode.count * decode.gpus
    if stated is None or stated[0][1] == stated[1][1] == total:
        return total == (row.gpus or row.tp)
    return all(
        tp * dp in (1, workers.gpus) and count in (None, workers.count)  # 1: left to a script
        for workers, (count, tp, dp, _) in zip((prefill, decode), stated, strict=True)
    )


@cache
def _recipes() -> dict[tuple[str, str, str, str, int, int], tuple[Recipe, ...]]:
    found: dict[tuple[str, str, str, str, int, int], list[Recipe]] = {}
    with (DATA / "recipes.csv").open(encoding="utf-8", newline="") as lines:
        for line in csv.DictReader(lines):
            what = (line["model"], line["precision"], line["accelerator"], line["engine"])
            key = (*what, int(line["isl"]), int(line["osl"]))
            found.setdefault(key, []).append(_recipe(line))
    return {key: tuple(recipes) for key, recipes in found.items()}


def _recipe(line: dict[str, str]) -> Recipe:
    return Recipe(
        concurrency=frozenset(map(int, line["concurrency"].split())),
        drafts=int(line["drafts"]),
        prefill=_workers(line["prefill"]) if line["prefill"] else None,
        decode=_workers(line["decode"]),
        since=line["since"],
        until=line["until"],
    )


def _workers(text: str) -> Workers:
    count, gpus, ep, attention_dp = map(int, text.split(":"))
    return Workers(count, gpus, ep, bool(attention_dp))
