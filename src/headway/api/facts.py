"""`catalog list` and `catalog show`: what the catalogue knows, and where each figure is from."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from headway.errors import InputError, nearest
from headway.units import UNITS, parse_quantity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from headway.catalog import Catalog, Entry
    from headway.types import Accelerator, Engine, Link, Model, Price
    from headway.workload import Profile

Kind = Literal["accelerators", "models", "engines", "links", "prices", "profiles"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_CONDITION = re.compile(r"^\s*([\w.]+)\s*(>=|<=|=)\s*(.+?)\s*$")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileSummary:
    """A workload profile in one row."""

    name: str
    title: str
    rate_per_s: float
    rows: int  # requests of the trace it was derived from
    source: str
    licence: str
    as_of: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """Entries of one kind, in the catalogue's order (prices: cheapest first)."""

    kind: Kind
    entries: tuple[Accelerator | Model | Engine | Link | Price | ProfileSummary, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One figure as it was written, in its source's unit."""

    name: str
    value: str
    source: str
    as_of: str
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """All that is known of one entry."""

    kind: Kind
    name: str
    title: str
    facts: tuple[Fact, ...]
    entry: Accelerator | Model | Engine | Link | ProfileSummary


def catalog_list(kind: Kind, *, where: Iterable[str] = (), files: Iterable[str | Path] = ()) -> Listing:
    """List what the catalogue knows of one kind.

    Args:
        kind: accelerators, models, engines, links, prices or profiles.
        where: conditions an entry must all meet: `vendor=NVIDIA`, `hbm_bytes>=80 GB`, `peak_flops_per_s.fp8>=1e15`.
            Texts are compared in any case, an entry's lists by any of their members; figures may carry their unit.
        files: your own catalogue files, over the shipped one.

    Raises:
        InputError: an unknown kind or field, a condition that is none, or a wrong file.
    """
    from headway.catalog import load

    if kind not in KINDS:
        raise InputError(f"unknown kind {kind!r}", hint=nearest(kind, KINDS))
    entries = _entries(load(*files), kind)
    conditions = [_condition(text) for text in where]
    met = tuple(entry for entry in entries if all(_meets(entry, *condition) for condition in conditions))
    return Listing(kind=kind, entries=met)


def _entries(catalog: Catalog, kind: Kind) -> tuple[Any, ...]:
    if kind == "profiles":
        from headway.workload import profile, profile_names

        return tuple(_summary(profile(name)) for name in profile_names())
    return catalog.prices() if kind == "prices" else tuple(getattr(catalog, kind))


def _summary(profile: Profile) -> ProfileSummary:
    shared = {f.name: getattr(profile, f.name) for f in dataclasses.fields(ProfileSummary) if f.name != "rate_per_s"}
    return ProfileSummary(rate_per_s=profile.spec.rate_per_s, **shared)


# --- conditions -----------------------------------------------------------------------------------------


def _condition(text: str) -> tuple[str, str, str]:
    match = _CONDITION.match(text)
    if not match:
        raise InputError(
            f"{text!r} is no condition", place="where", hint="for example vendor=NVIDIA or hbm_bytes>=80 GB"
        )
    return match[1], match[2], match[3]


def _meets(entry: Any, name: str, sign: str, wanted: str) -> bool:
    value = _field(entry, name)
    if isinstance(value, (tuple, list)):
        return sign == "=" and wanted.casefold() in {str(item).casefold() for item in value}
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        figure = _figure(name, wanted)
        return {"=": value == figure, ">=": value >= figure, "<=": value <= figure}[sign]
    if sign != "=":
        raise InputError(f"{name!r} is no figure, it can only be equal", place="where")
    return str(value).casefold() == wanted.casefold()


def _field(entry: Any, name: str) -> Any:
    """An entry's field; `group.name` looks into a mapping, where a name that is missing is not a fault."""
    field, _, inner = name.partition(".")
    known = [f.name for f in dataclasses.fields(entry)]
    if field not in known:
        raise InputError(f"there is no field {field!r}", place="where", hint=nearest(field, known))
    value = getattr(entry, field)
    return value.get(inner) if inner and isinstance(value, Mapping) else value


def _figure(name: str, text: str) -> float:
    """A figure with the unit its field's name asks for, or bare in that base unit."""
    field = name.partition(".")[0]
    dimension = next((d for d in sorted(UNITS, key=len, reverse=True) if field.endswith(f"_{d}")), "count")
    problems = []
    for tried in (dimension, "count"):
        try:
            return parse_quantity(text, tried)
        except ValueError as error:
            problems.append(str(error))
    raise InputError(problems[0], place=f"where {name}")


# --- one entry ------------------------------------------------------------------------------------------


def catalog_show(name: str, *, kind: Kind | None = None, files: Iterable[str | Path] = ()) -> Sheet:
    """Show one entry with the source and date of every figure.

    Args:
        name: any name or alias, in any case.
        kind: where to look; everywhere if None.
        files: your own catalogue files, over the shipped one.

    Raises:
        InputError: there is none of that name (the nearest is offered), or a wrong file.
    """
    from headway.catalog import load
    from headway.workload import profile, profile_names

    catalog = load(*files)
    tables = [k for k in KINDS if k not in ("prices", "profiles") and kind in (None, k)]
    known: list[str] = []
    for table in tables:
        try:
            return _sheet(catalog, table, catalog.entry(table, name))
        except InputError:
            known += catalog.entries(table)
    if kind in (None, "profiles"):
        if name in profile_names():
            return _profile_sheet(profile(name))
        known += profile_names()
    raise InputError(
        f"the catalogue has no {kind.removesuffix('s') if kind else 'entry'} {name!r}", hint=nearest(name, known)
    )


def _sheet(catalog: Catalog, kind: Kind, entry: Entry) -> Sheet:
    facts = tuple(
        Fact(name=name, value=_written(figure.node), source=p.source, as_of=p.as_of, note=p.note)
        for name, figure in entry.figures.items()
        if (p := figure.provenance) and not figure.node.is_null
    )
    return Sheet(
        kind=kind,
        name=entry.name,
        title=entry.text("title", entry.name),
        facts=facts,
        entry=_noun(catalog, kind, entry),
    )


def _noun(catalog: Catalog, kind: Kind, entry: Entry) -> Accelerator | Model | Engine | Link:
    if kind == "engines":
        return catalog.engine(entry.need("engine").text(), entry.need("version").text())
    find: Callable[[str], Accelerator | Model | Link] = getattr(catalog, kind.removesuffix("s"))
    return find(entry.name)


def _written(node: Any) -> str:
    if node.is_list:
        return ", ".join(_written(item) for item in node.items())
    if node.is_mapping:
        return ", ".join(f"{key} {_written(value)}" for key, value in node.entries().items())
    return "" if node.is_null else str(node.text())


def _profile_sheet(profile: Profile) -> Sheet:
    facts = [
        Fact(name=f"{name}.{what}", value=f"{value:g}", source=profile.source, as_of=profile.as_of)
        for name, values in profile.facts.items()
        for what, value in values.items()
    ]
    facts += [
        Fact(name=f"method.{k}", value=v, source="headway", as_of=profile.as_of) for k, v in profile.method.items()
    ]
    return Sheet(kind="profiles", name=profile.name, title=profile.title, facts=tuple(facts), entry=_summary(profile))
