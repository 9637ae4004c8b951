"""What engines expose, in headway's words: names by engine as data, and an exposition read into canonical signals.

`data/signals.yaml` says for each engine under which name, newest first, each signal stands, what it means and how the
label sets of one scrape (ranks, adapters) become one figure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from headway.reading import Node, read_yaml

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from headway.types import FloatColumn

_DATA = Path(__file__).parent / "data" / "signals.yaml"
_PARTS = ("_bucket", "_sum", "_count")


class Sample(NamedTuple):
    """One line of an exposition."""

    name: str
    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True, slots=True)
class Signal:
    """What a canonical name means; all are in base units."""

    name: str
    kind: Literal["gauge", "counter", "histogram"]
    unit: str
    across: Literal["sum", "mean"]
    means: str


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one engine's metrics become a signal."""

    names: tuple[str, ...]  # newest first
    where: Mapping[str, str] = field(default_factory=dict)
    plus: str = ""
    times: str = ""

    def needs(self) -> tuple[str, ...]:
        """Return all names it reads."""
        return (*self.names, *filter(None, (self.plus, self.times)))


@dataclass(frozen=True, slots=True)
class Table:
    """The data file."""

    signals: Mapping[str, Signal]
    engines: Mapping[str, Mapping[str, Recipe]]
    sources: Mapping[str, str]  # engine -> title and day
    same: tuple[str, ...]
    prefixes: Mapping[str, str]


class Buckets(NamedTuple):
    """A histogram at one moment: upper bounds, cumulative counts (one more: all), sum of the samples."""

    bounds: FloatColumn
    cumulative: FloatColumn
    total: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One scrape in canonical signals."""

    values: Mapping[str, float]
    histograms: Mapping[str, Buckets]
    names: Mapping[str, str]  # signal -> the engine's own


# --- the data ------------------------------------------------------------------------------------------------------


@cache
def table() -> Table:
    """Return the names of all engines."""
    root = read_yaml(_DATA).entries(("sources", "signals", "same", "prefixes", "engines"))
    sources = {name: node.entries(("title", "as_of")) for name, node in root["sources"].entries().items()}
    engines = {name: node.entries() for name, node in root["engines"].entries().items()}
    return Table(
        signals={name: _signal(name, node) for name, node in root["signals"].entries().items()},
        engines={name: {s: _recipe(n) for s, n in nodes.items() if s != "source"} for name, nodes in engines.items()},
        sources={
            name: f"{said['title'].text()}, {said['as_of'].text()}"
            for name, nodes in engines.items()
            for said in [sources[nodes["source"].choice(sources)]]
        },
        same=tuple(node.text() for node in root["same"].items()),
        prefixes={name: node.text() for name, node in root["prefixes"].entries().items()},
    )


def _signal(name: str, node: Node) -> Signal:
    said = node.entries(("kind", "unit", "across", "means"))
    return Signal(
        name,
        said["kind"].choice(("gauge", "counter", "histogram")),  # type: ignore[arg-type]
        said["unit"].text(),
        said["across"].choice(("sum", "mean")),  # type: ignore[arg-type]
        said["means"].text(),
    )


def _recipe(node: Node) -> Recipe:
    if not node.is_mapping:
        return Recipe(tuple(item.text() for item in node.items()))
    said = node.entries(("any", "where", "plus", "times"))
    where = said["where"].entries() if "where" in said else {}
    return Recipe(
        tuple(item.text() for item in said["any"].items()),
        {label: value.text() for label, value in where.items()},
        *(said[key].text() if key in said else "" for key in ("plus", "times")),
    )


@cache
def wanted() -> frozenset[str]:
    """Return the name of every sample any signal is read from, as the engines spell them."""
    found = set()
    for recipes in table().engines.values():
        for signal, recipe in recipes.items():
            histogram = table().signals[signal].kind == "histogram"
            found |= {name + part for name in recipe.needs() for part in (_PARTS if histogram else ("",))}
    return frozenset(found)


@cache
def all_spellings() -> frozenset[str]:
    """Return `wanted`, and what other exporters make of those names."""
    respelt = {
        prefix + name.removeprefix(own)
        for prefix, own in table().prefixes.items()
        for name in wanted()
        if name.startswith(own)
    }
    return wanted() | respelt


# --- an exposition -------------------------------------------------------------------------------------------------


def samples_of(text: str) -> list[Sample]:
    """Read the samples of a Prometheus exposition that some signal is made of.

    Only their lines are parsed: the rest of a large exposition costs next to nothing and cannot spoil it.

    Raises:
        ValueError: such a line is malformed.
    """
    from prometheus_client.parser import text_string_to_metric_families

    kept = "\n".join(line for line in text.splitlines() if _name_of(line) in all_spellings())
    families = text_string_to_metric_families(kept + "\n") if kept else ()
    return [Sample(plain_name(s.name), s.labels, s.value) for family in families for s in family.samples]


def _name_of(line: str) -> str:
    ends = [at for at in (line.find("{"), line.find(" ")) if at >= 0]
    return line[: min(ends)] if ends else line


def plain_name(name: str) -> str:
    """Spell a name as the engine does, whatever another exporter made of it."""
    for prefix, own in table().prefixes.items():
        if name.startswith(prefix):
            return own + name.removeprefix(prefix)
    return name


def engine_of(samples: Iterable[Sample]) -> str:
    """Return the engine whose names occur most; empty where none does."""
    names = {sample.name for sample in samples}
    return engine_of_names(names | {_family(name) for name in names})


def engine_of_names(of: Iterable[str]) -> str:
    """Return the engine most of whose metrics are so called; empty where there is none."""
    names = set(of)
    found = {
        engine: sum(any(name in names for name in recipe.names) for signal, recipe in recipes.items())
        for engine, recipes in table().engines.items()
    }
    best = max(found, key=lambda engine: found[engine])
    return best if found[best] > 1 else ""  # one alone is the process's own start, which many exporters have


def _family(name: str) -> str:
    for part in _PARTS:
        if name.endswith(part):
            return name.removesuffix(part)
    return name


def reading_of(samples: Iterable[Sample], engine: str) -> Reading:
    """Turn the samples of one scrape into signals; what the engine does not expose, or as no number, is absent."""
    by_name: dict[str, list[Sample]] = {}
    for sample in _once([sample for sample in samples if math.isfinite(sample.value)]):
        by_name.setdefault(sample.name, []).append(sample)
    values: dict[str, float] = {}
    histograms: dict[str, Buckets] = {}
    names: dict[str, str] = {}
    for signal, recipe in table().engines[engine].items():
        for name in recipe.names:
            if table().signals[signal].kind == "histogram":
                found = _histogram(by_name, name)
                if found is not None:
                    histograms[signal], names[signal] = found, name
                    break
            elif not math.isnan(value := _value(by_name, name, recipe, table().signals[signal].across)):
                values[signal], names[signal] = value, name
                break
    return Reading(values=values, histograms=histograms, names=names)


def _once(samples: list[Sample]) -> Iterator[Sample]:
    """Leave out ranks that report what another rank reports."""
    first = {
        label: min(values, key=_rank)
        for label in table().same
        if (values := {s.labels[label] for s in samples if label in s.labels})
    }
    return (s for s in samples if all(s.labels.get(label, value) == value for label, value in first.items()))


def _rank(text: str) -> tuple[int, int, str]:
    """Order ranks as numbers, with what is none behind them."""
    return (0, int(text), "") if text.isdecimal() else (1, 0, text)


def _value(by_name: Mapping[str, list[Sample]], name: str, recipe: Recipe, across: str) -> float:
    found = [
        s.value for s in by_name.get(name, ()) if all(s.labels.get(label) == v for label, v in recipe.where.items())
    ]
    if not found:
        return math.nan
    value = math.fsum(found) / (len(found) if across == "mean" else 1)
    if recipe.plus:
        value += math.fsum(s.value for s in by_name.get(recipe.plus, ()))
    if recipe.times:
        value *= math.fsum(s.value for s in by_name.get(recipe.times, ()))
    return value


def _bound(text: str) -> float:
    """Return a bucket's upper bound, NaN where it is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def _histogram(by_name: Mapping[str, list[Sample]], name: str) -> Buckets | None:
    """Add up the label sets, at the bounds they all have: cumulative counts stay exact there."""
    sets: dict[tuple[tuple[str, str], ...], dict[float, float]] = {}
    for sample in by_name.get(f"{name}_bucket", ()):
        labels = tuple(sorted((label, v) for label, v in sample.labels.items() if label != "le"))
        bound = _bound(sample.labels.get("le", ""))
        if not math.isnan(bound):
            sets.setdefault(labels, {})[bound] = sample.value
    if not sets:
        return None
    bounds = sorted(set.intersection(*(set(buckets) for buckets in sets.values())))
    if not bounds or bounds[-1] != math.inf:
        return None
    cumulative = np.array([math.fsum(buckets[bound] for buckets in sets.values()) for bound in bounds])
    return Buckets(np.array(bounds[:-1]), cumulative, math.fsum(s.value for s in by_name.get(f"{name}_sum", ())))
