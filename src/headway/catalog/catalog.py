"""The catalogue: shipped facts, with the user's own over them."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from headway.catalog import accelerators, engines, models, prices
from headway.catalog.facts import DATA, Entry, dump_entry, read_sources, read_table
from headway.catalog.focus import is_focus, read_focus
from headway.errors import InputError, nearest
from headway.reading import read_yaml
from headway.types import Accelerator, Model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from headway.reading import Node
    from headway.types import Engine, Link, Price

Noun = TypeVar("Noun")

#: table -> the figures its entries may have, and which of those hold further named figures
TABLES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "links": (accelerators.LINK_FIELDS, ()),
    "accelerators": (accelerators.FIELDS, accelerators.GROUPS),
    "models": (models.FIELDS, models.GROUPS),
    "engines": (engines.FIELDS, engines.GROUPS),
}

_KINDS: dict[type, str] = {Accelerator: "accelerators", Model: "models"}


def load(*user_files: str | Path, beside: Iterable[Accelerator | Model] = ()) -> Catalog:
    """Return the shipped catalogue with the user's own files over it.

    Args:
        user_files: YAML in the format of the shipped files (adds entries, or overrides figures of known ones), and
            CSV with prices: this project's columns, or a FOCUS 1.x export. Later files go over earlier ones.
        beside: nouns that answer to their names where no entry does: what a calibration was measured on.

    Raises:
        InputError: a file is unreadable or says something wrong; file, line and key are named.
    """
    paths = [Path(file) for file in user_files]
    tables = [read_yaml(path) for path in paths if path.suffix.lower() != ".csv"]
    catalog = Catalog(tables, [path for path in paths if path.suffix.lower() == ".csv"], beside)
    catalog.check_user_entries()
    return catalog


class Catalog:
    """Facts by name. Tables are read when first asked for, nouns built when first asked for."""

    def __init__(
        self,
        user_tables: Iterable[Node] = (),
        user_prices: Iterable[Path] = (),
        beside: Iterable[Accelerator | Model] = (),
    ) -> None:
        self._beside = {(_KINDS[type(noun)], noun.name.casefold()): noun for noun in beside}
        self._user = [root.entries(("sources", *TABLES)) for root in user_tables]
        self._user_prices = tuple(user_prices)
        self._entries: dict[str, Mapping[str, Entry]] = {}
        self._index: dict[str, dict[str, str]] = {}
        self._built: dict[tuple[str, str], object] = {}

    # -- nouns by name ------------------------------------------------------------------------------
    def accelerator(self, name: str) -> Accelerator:
        """Return the accelerator of this name or alias, in any case.

        Raises:
            InputError: there is none; the nearest name is offered.
        """
        return self._noun("accelerators", name, lambda entry: accelerators.build_accelerator(entry, self._links))

    def model(self, name: str) -> Model:
        """Return the model of this name, alias, or last part of the name, in any case.

        A model asked for by an alias, one of another checkpoint of the same shape, keeps that name.

        Raises:
            InputError: there is none; the nearest name is offered.
        """
        found = self._noun("models", name, models.build)
        asked = next((alias for alias in found.aliases if alias.casefold() == name.strip().casefold()), found.name)
        return found if asked == found.name else replace(found, name=asked)

    def engine(self, name: str, version: str | None = None) -> Engine:
        """Return this version of an engine, the newest known where none is asked for.

        Raises:
            InputError: the engine or the version is not known; the nearest is offered.
        """
        versions = engines.versions(self.entries("engines"))
        if name.casefold() not in versions:
            raise InputError(f"unknown engine {name!r}", hint=nearest(name, versions))
        known = versions[name.casefold()]
        key = known.get(version) if version else next(reversed(known.values()))
        if key is None:
            raise InputError(f"unknown version {version!r} of {name}", hint=nearest(str(version), known))
        return self._noun("engines", key, engines.build)

    def link(self, name: str) -> Link:
        """Return the link of this name.

        Raises:
            InputError: there is none; the nearest name is offered.
        """
        return self._noun("links", name, accelerators.build_link)

    def prices(
        self,
        accelerator: str | Accelerator | None = None,
        *,
        region: str | None = None,
        terms: Iterable[str] | None = None,
        provider: str | None = None,
    ) -> tuple[Price, ...]:
        """Return the prices known, cheapest first, the user's own before the shipped ones.

        Args:
            accelerator: of this accelerator only.
            region: in this region only; a shipped price without region belongs to every region its provider has a
                price in, the user's own to every region.
            terms: under these terms only: on-demand, reserved-1y, reserved-3y, spot, capacity-block.
            provider: of this provider only, in any case.

        Raises:
            InputError: unknown accelerator or term, or a price file is wrong.
        """
        name = accelerator if accelerator is None or isinstance(accelerator, str) else accelerator.name
        return prices.select(
            (*self._own_prices, *_shipped_prices()),
            accelerator=name and self._accelerator_name(name),
            region=region,
            terms=terms,
            provider=provider,
            everywhere={price.provider for price in self._own_prices if not price.region},
        )

    # -- all nouns ----------------------------------------------------------------------------------
    @property
    def accelerators(self) -> tuple[Accelerator, ...]:
        """All accelerators, in the order of the files."""
        beside = [noun for noun in self._beside.values() if isinstance(noun, Accelerator)]
        names = dict.fromkeys((*self.entries("accelerators"), *(noun.name for noun in beside)))
        return tuple(self.accelerator(name) for name in names)

    @property
    def models(self) -> tuple[Model, ...]:
        """All models, in the order of the files."""
        return tuple(self.model(name) for name in self.entries("models"))

    @property
    def engines(self) -> tuple[Engine, ...]:
        """All engines in all versions, in the order of the files."""
        return tuple(self._noun("engines", name, engines.build) for name in self.entries("engines"))

    @property
    def links(self) -> tuple[Link, ...]:
        """All links, in the order of the files."""
        return tuple(self._links.values())

    # -- entries ------------------------------------------------------------------------------------
    def entries(self, kind: str) -> Mapping[str, Entry]:
        """Return one table's entries, as written and with provenance: what `headway catalog` lists.

        Args:
            kind: links, accelerators, models or engines.
        """
        if kind not in self._entries:
            entries: Mapping[str, Entry] = _shipped(kind)
            for parts in self._user:
                if kind in parts:
                    entries = _read(kind, parts, entries)
            self._entries[kind] = entries
        return self._entries[kind]

    def entry(self, kind: str, name: str) -> Entry:
        """Return one entry by name or alias, in any case.

        Raises:
            InputError: there is none; the nearest name is offered.
        """
        entries, index = self.entries(kind), self._indexed(kind)
        key = index.get(name.strip().casefold())
        if key is None:
            raise InputError(f"unknown {kind.removesuffix('s')} {name!r}", hint=nearest(name, (*entries, *index)))
        return entries[key]

    def yaml(self, kind: str, name: str) -> str:
        """Return one entry as a YAML file of the user's own, to change and give back to `load`.

        Raises:
            InputError: there is none; the nearest name is offered.
        """
        return dump_entry(kind, self.entry(kind, name))

    def check_user_entries(self) -> None:
        """Build what the user's files add or change, so that what is wrong in them is said at once.

        Raises:
            InputError: something in them is wrong.
        """
        nouns = {"accelerators": self.accelerator, "models": self.model, "links": self.link, "engines": self._engine}
        for parts in self._user:
            for kind in TABLES.keys() & parts.keys():
                for name in parts[kind].entries():
                    nouns[kind](name)
        if self._user_prices:
            self._own_prices  # noqa: B018 - reading them is the check

    # -- inside -------------------------------------------------------------------------------------
    def _noun(self, kind: str, name: str, build: Callable[[Entry], Noun]) -> Noun:
        beside = self._found_beside(kind, name)
        if beside is not None:
            return beside  # type: ignore[return-value] # a noun of this kind
        entry = self.entry(kind, name)
        if (kind, entry.name) not in self._built:
            self._built[kind, entry.name] = build(entry)
        return self._built[kind, entry.name]  # type: ignore[return-value] # what `build` of this kind returned

    def _found_beside(self, kind: str, name: str) -> Accelerator | Model | None:
        """Return the noun given beside the entries, where no entry has the name."""
        found = self._beside.get((kind, name.strip().casefold()))
        return None if found is None or name.strip().casefold() in self._indexed(kind) else found

    def _indexed(self, kind: str) -> dict[str, str]:
        if kind not in self._index:
            self._index[kind] = _index(self.entries(kind))
        return self._index[kind]

    def _engine(self, key: str) -> Engine:
        return self._noun("engines", key, engines.build)

    @cached_property
    def _links(self) -> dict[str, Link]:
        return {name: self.link(name) for name in self.entries("links")}

    @cached_property
    def _own_prices(self) -> tuple[Price, ...]:
        own: list[Price] = []
        for path in self._user_prices:
            own += self._user_file_prices(path, own)
        return tuple(sorted(own, key=prices.by_cost))

    def _user_file_prices(self, path: Path, own: list[Price]) -> list[Price]:
        header, rows = prices.read_rows(path)
        if is_focus(header):
            return read_focus(path, header, rows, (*prices.shipped(), *own))
        if missing := [column for column in prices.COLUMNS if column not in header]:
            raise InputError(
                f"the column {missing[0]!r} is missing", file=path, hint=f"expected {', '.join(prices.COLUMNS)}"
            )
        return prices.read_prices(path, rows, self._accelerator_name)

    def _accelerator_name(self, name: str) -> str:
        beside = self._found_beside("accelerators", name)
        return beside.name if beside is not None else self.entry("accelerators", name).name


@cache
def _shipped(kind: str) -> dict[str, Entry]:
    return _read(kind, read_yaml(DATA / f"{kind}.yaml").entries(("sources", kind)), {})


@cache
def _shipped_prices() -> tuple[Price, ...]:
    return tuple(sorted(prices.shipped(), key=prices.by_cost))


def _read(kind: str, parts: Mapping[str, Node], known: Mapping[str, Entry]) -> dict[str, Entry]:
    fields, groups = TABLES[kind]
    return read_table(parts[kind], read_sources(parts.get("sources")), fields=fields, groups=groups, known=known)


def _index(entries: Mapping[str, Entry]) -> dict[str, str]:
    """Return every name an entry answers to, case folded; a full name goes before an alias, an alias before a part.

    Raises:
        InputError: two entries have the same alias.
    """
    index: dict[str, str] = {}
    for name, entry in entries.items():
        for alias in entry.words("aliases"):
            if index.setdefault(alias.casefold(), name) != name:
                entry.node.fail(f"the alias {alias!r} belongs to {index[alias.casefold()]!r} already")
    parts = {name.rpartition("/")[2].casefold(): name for name in reversed(list(entries))}
    return parts | index | {name.casefold(): name for name in entries}
