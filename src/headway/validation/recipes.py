"""What InferenceX ran: how its runs were spread and whether they verified drafts, by the concurrency they ran at.

A dump of its results leaves that out, and counts some GPUs as tp × ep. Two tables, reduced from the lists the runs were
started from (tools/derive_recipes.py; SemiAnalysisAI/InferenceX@843c625 and NVIDIA/srt-slurm, with their histories),
say it: `data/recipes.csv`, a line for each entry and the days it was listed on; `data/sweeps.csv`, images and runs.

A row takes a recipe of its model, precision, accelerator, engine, lengths and concurrency that is spread as the row
says (`_agrees`). Of several, those stay that were run in the row's version, were listed on its day or the nearest, were
run on its day, and that its dump holds, each as far as that leaves any (`_narrowed`). No rule looks at the figures.
"""

from __future__ import annotations

import csv
import math
import re
from dataclasses import dataclass
from datetime import date
from functools import cache
from typing import TYPE_CHECKING

from headway.validation.names import DATA, Assumption, names

if TYPE_CHECKING:
    from collections.abc import Iterator

    from headway.types import Accelerator
    from headway.validation.measurements import Measurement

_WORKERS = re.compile(
    r"prefill (\?|\d+) workers? x \(tp(\d+),dp(\d+),ep(\d+)\); decode (\?|\d+) x \(tp(\d+),dp(\d+),ep(\d+)\)"
)
_DAY = re.compile(r"measured (\d{4}-\d\d-\d\d)")
#: ids of a dump that numbers its configurations. Where sweeps with drafts ran too, 181 of its rows have a concurrency
#: that only those without list, and one has one that only those with list: it holds runs without drafts.
_NUMBERED = re.compile(r"_cfg\d+$")
#: ids that leave ep empty
_NO_EP = re.compile(r"_ep_\d+$")
_NEVER = "9999-12-31"
#: Days from a row's to those a recipe was listed on, beyond which it is another's: what is tried is listed weeks after.
_MOST_DAYS = 60


@dataclass(frozen=True, slots=True)
class Workers:
    """Equal workers of one role: how many, of how many GPUs each, experts over `ep`, attention over ranks or not.

    What the servers of each rank were started with is None, and `kv_dtype` empty, where nobody says.
    """

    count: int
    gpus: int
    ep: int
    attention_dp: bool
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    kv_dtype: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One line of the list; `drafts` are verified in a step, `until` is the day it was gone, empty if it never was."""

    sweep: str
    concurrency: frozenset[int]
    drafts: int
    prefill: Workers | None
    decode: Workers
    since: str
    until: str

    @property
    def gpus(self) -> int:
        """GPUs of all workers."""
        return sum(workers.count * workers.gpus for workers in (self.prefill, self.decode) if workers)


@dataclass(frozen=True, slots=True)
class Sweep:
    """One name of the list: image -> (from, until), and the days it was run on."""

    images: tuple[tuple[str, str, str], ...]
    days: tuple[date, ...]


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

    Of several that nothing the row says tells apart, one without drafts goes first, since a dump that means drafts
    should say so; then the one of fewest GPUs.
    """
    left = candidates(row, accelerator, engine)
    if not left:
        return None
    found = min(left, key=lambda recipe: (recipe.drafts > 0, recipe.gpus, recipe.since))
    listed = f"from {found.since} to {found.until}" if found.until else f"since {found.since}"
    said.append(Assumption(code="recipe", text=f"as InferenceX listed {found.sweep} {listed}"))
    if len({recipe.drafts > 0 for recipe in left}) > 1:
        said.append(Assumption(code="speculation_unknown", text="run with and without drafts: taken as without"))
    if len({_spread(recipe) for recipe in left}) > 1:
        text = f"{len({_spread(recipe) for recipe in left})} spreads fit: the one of fewest GPUs"
        said.append(Assumption(code="spread_ambiguous", text=text))
    return found


def candidates(row: Measurement, accelerator: Accelerator, engine: str) -> tuple[Recipe, ...]:
    """Return all recipes that nothing a row says tells apart, see the module; none where the lists have none."""
    near = (one for one in _listed(row, accelerator, engine) if _from_listing(row, one) <= _MOST_DAYS)
    return tuple(_narrowed(row, [recipe for recipe in near if _agrees(row, recipe)]))


def _spread(recipe: Recipe) -> tuple[tuple[int, int, int, bool], ...]:
    both = (recipe.prefill, recipe.decode)
    return tuple((one.count, one.gpus, one.ep, one.attention_dp) for one in both if one)


def _listed(row: Measurement, accelerator: Accelerator, engine: str) -> Iterator[Recipe]:
    words = names()["recipes"]
    if not (row.isl_tokens and row.osl_tokens and row.concurrency):
        return
    key = (
        words["models"].get(row.model.casefold(), ""),
        row.weight_dtype.casefold(),
        accelerator.name.partition("-")[0],
        words["engines"].get(engine, ""),
        round(row.isl_tokens.mean),
        round(row.osl_tokens.mean),
    )
    yield from (recipe for recipe in _recipes().get(key, ()) if row.concurrency in recipe.concurrency)


# --- what a row says of its spread ----------------------------------------------------------------------


def _agrees(row: Measurement, recipe: Recipe) -> bool:
    """Whether a recipe is spread as the row says, or over as many GPUs where it says no more."""
    stated = stated_workers(row.note)
    if recipe.prefill is None:
        if apart(row):  # a dump calls some runs of one worker disaggregated
            return stated is not None and _is(recipe.decode, (None, *stated[0][1:]), ep=True, attention=False)
        one, said = recipe.decode, (row.gpus or row.tp or 0, row.ep or 1)
        squared = one.gpus * one.ep  # as a dump counts some, in its GPUs or in both
        return said in {(one.gpus, one.ep), (squared, one.ep), (squared, squared if one.ep > 1 else 1)}
    if not apart(row):
        return False
    if stated is None or stated[0][1] == stated[1][1] == recipe.gpus:
        return recipe.gpus == (row.gpus or row.tp)
    counted = stated[0][0] is not None
    prefill = _is(recipe.prefill, stated[0], ep=not _NO_EP.search(row.source), attention=counted)
    return prefill and _is(recipe.decode, stated[1], ep=counted, attention=counted)


def _is(workers: Workers, stated: tuple[int | None, int, int, int], *, ep: bool, attention: bool) -> bool:
    """Whether workers are those stated; a row states decode's ep and dp as they are only where it counts them.

    A script that spread workers by itself is stated as one GPU, or as ranks without experts: those say no more.
    """
    count, tp, dp, experts = stated
    if count not in (None, workers.count):
        return False
    if experts == 1 and (dp > 1 or (tp == 1 and workers.gpus > 1)):
        return dp in (1, workers.gpus)
    return (
        tp * dp == workers.gpus
        and (not ep or experts == workers.ep)
        and (not attention or (dp > 1) == workers.attention_dp)
    )


# --- what tells recipes apart ---------------------------------------------------------------------------


def _narrowed(row: Measurement, fitting: list[Recipe]) -> list[Recipe]:
    for far in (_from_version, _from_listing, _from_run, _from_dump):
        least = min((far(row, recipe) for recipe in fitting), default=0)
        fitting = [recipe for recipe in fitting if far(row, recipe) == least]
    return fitting


def _from_version(row: Measurement, recipe: Recipe) -> int:
    """Return 0 where the sweep ran the row's version while the recipe was listed: its image's tag names it."""
    word = re.compile(rf"(?<![\d.]){re.escape(row.engine_version)}(?![\w.])")
    return not any(
        word.search(tag) and max(since, recipe.since) < min(until or _NEVER, recipe.until or _NEVER)
        for tag, since, until in _sweeps()[recipe.sweep].images
    )


def _from_listing(row: Measurement, recipe: Recipe) -> int:
    """Return the days between the row's and those the recipe was listed on; on the day of a change the new one is."""
    day = _DAY.search(row.note)
    if not day or recipe.since <= day[1] < (recipe.until or _NEVER):
        return 0
    edge = recipe.since if day[1] < recipe.since else recipe.until
    return abs((date.fromisoformat(day[1]) - date.fromisoformat(edge)).days) + 1


def _from_run(row: Measurement, recipe: Recipe) -> int:
    """Return 0 where the sweep was started on the row's day or the day before: they take hours."""
    day = _DAY.search(row.note)
    return not day or not any(0 <= (date.fromisoformat(day[1]) - run).days <= 1 for run in _sweeps()[recipe.sweep].days)


def _from_dump(row: Measurement, recipe: Recipe) -> int:
    return recipe.drafts > 0 and bool(_NUMBERED.search(row.source))


# --- the tables -----------------------------------------------------------------------------------------


@cache
def _recipes() -> dict[tuple[str, str, str, str, int, int], tuple[Recipe, ...]]:
    found: dict[tuple[str, str, str, str, int, int], list[Recipe]] = {}
    with (DATA / "recipes.csv").open(encoding="utf-8", newline="") as lines:
        for line in csv.DictReader(lines):
            model, precision, accelerator, *rest = line["sweep"].split("-")
            engine = rest[1] if rest[0] == "dynamo" else rest[0]
            what = (model, precision.removeprefix("nv"), accelerator, engine)
            found.setdefault((*what, int(line["isl"]), int(line["osl"])), []).append(_recipe(line))
    return {key: tuple(recipes) for key, recipes in found.items()}


def _recipe(line: dict[str, str]) -> Recipe:
    return Recipe(
        sweep=line["sweep"],
        concurrency=frozenset(map(int, line["concurrency"].split())),
        drafts=int(line["drafts"]),
        prefill=_workers(line["prefill"]) if line["prefill"] else None,
        decode=_workers(line["decode"]),
        since=line["since"],
        until=line["until"],
    )


def _workers(text: str) -> Workers:
    *counts, seats, tokens, kv = text.split(":")
    count, gpus, ep, attention_dp = map(int, counts)
    return Workers(
        count, gpus, ep, bool(attention_dp), int(seats) if seats else None, int(tokens) if tokens else None, kv
    )


@cache
def _sweeps() -> dict[str, Sweep]:
    with (DATA / "sweeps.csv").open(encoding="utf-8", newline="") as lines:
        return {
            line["sweep"]: Sweep(
                images=tuple(_image(word) for word in line["images"].split()),
                days=tuple(map(date.fromisoformat, line["days"].split())),
            )
            for line in csv.DictReader(lines)
        }


def _image(word: str) -> tuple[str, str, str]:
    tag, _, days = word.partition("@")
    since, _, until = days.partition(":")
    return tag, since, until
