"""Tables of facts in YAML: entries whose every figure says where it is from.

One format for the files shipped in `data/` and for the user's own::

    sources:
      nvidia-h100: {title: NVIDIA H100 datasheet, as_of: 2024-05-01}
    accelerators:
      h100-sxm:
        source: nvidia-h100                  # of every figure below that names no other
        hbm_bytes: {value: 79.65 GiB, source: my-driver, note: as the driver reports it}
        hbm_bytes_per_s: 3350 GB/s
        peak_flops_per_s: {bf16: 989 TFLOP/s, fp8: 1979 TFLOP/s}

An entry that is known already is overridden figure by figure; `like: NAME` starts from another entry's figures.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from headway.errors import nearest
from headway.types import Provenance

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from headway.reading import Node

_DETAIL = ("value", "source", "note")
_NUMBER = re.compile(r"^\s*[-+]?[\d_,.]+(?:[eE][-+]?\d+)?\s*")

#: where the shipped tables stand
DATA = Path(__file__).parent / "data"

#: what names an entry and is no figure
LABELS = ("title", "aliases")


@dataclass(frozen=True, slots=True)
class Figure:
    """One value as it was written, and where it comes from."""

    node: Node
    provenance: Provenance


@dataclass(frozen=True)
class Entry:
    """One row of a table, as written over the entry it starts from; its figures are read when first asked for."""

    name: str
    node: Node
    labels: Mapping[str, Node]
    base: Entry | None
    parts: Mapping[str, Node]
    sources: Mapping[str, Provenance]
    groups: Collection[str]

    @cached_property
    def figures(self) -> dict[str, Figure]:
        """The figures by name, nested ones as `group.name`.

        Raises:
            InputError: a figure without a source, or with one that is not known.
        """
        figures = dict(self.base.figures) if self.base else {}
        default = self.parts.get("source")
        for field, value in self.parts.items():
            if field in self.groups:
                nested = value.entries().items()
                figures |= {f"{field}.{key}": _figure(part, default, self.sources) for key, part in nested}
            elif field not in ("source", "like", *LABELS):
                figures[field] = _figure(value, default, self.sources)
        return figures

    def get(self, name: str) -> Node | None:
        """Return a figure or label as it was written, or None where the entry has none (or an empty one)."""
        node = self.labels.get(name) if name in LABELS else None
        if name not in LABELS and name in self.figures:
            node = self.figures[name].node
        return None if node is None or node.is_null else node

    def need(self, name: str) -> Node:
        """Return the figure as it was written.

        Raises:
            InputError: the entry has none.
        """
        return self.get(name) or self.node.fail(f"{self.name!r} has no {name!r}")

    def group(self, name: str) -> dict[str, Node]:
        """Return the figures of a group by their name inside it."""
        start = f"{name}."
        return {key.removeprefix(start): f.node for key, f in self.figures.items() if key.startswith(start)}

    def text(self, name: str, default: str = "") -> str:
        """Return a text figure, or the default where there is none."""
        node = self.get(name)
        return node.text() if node else default

    def words(self, name: str) -> tuple[str, ...]:
        """Return a list of texts; empty where there is none."""
        node = self.get(name)
        return tuple(item.text() for item in node.items()) if node else ()

    def provenance(self) -> dict[str, Provenance]:
        """Return where each figure comes from."""
        return {name: figure.provenance for name, figure in self.figures.items()}


def read_sources(node: Node | None) -> dict[str, Provenance]:
    """Read a `sources` table: id -> title and the day it was read or published.

    Raises:
        InputError: a source without title or date.
    """
    if node is None:
        return {}
    found = {}
    for name, source in node.entries().items():
        parts = source.entries(("title", "as_of"))
        for part in ("title", "as_of"):
            if part not in parts:
                source.fail(f"the source {name!r} has no {part!r}")
        found[name] = Provenance(source=parts["title"].text(), as_of=parts["as_of"].text())
    return found


def read_table(
    table: Node,
    sources: Mapping[str, Provenance],
    *,
    fields: Collection[str],
    groups: Collection[str] = (),
    known: Mapping[str, Entry] | None = None,
) -> dict[str, Entry]:
    """Read one table over what is known already.

    Args:
        table: the mapping of names to entries.
        sources: the sources its figures may name.
        fields: the figures an entry may have.
        groups: those of them that hold further named figures.
        known: entries from earlier files, overridden figure by figure.

    Raises:
        InputError: a figure that is not among the fields, or an entry to be like that is not known.
    """
    entries = dict(known or {})
    for name, node in table.entries().items():
        parts = node.entries((*fields, "source", "like"))
        base = _base(parts["like"], entries) if "like" in parts else entries.get(name)
        # an alias and a title name one entry only
        labels = dict(base.labels) if base and "like" not in parts else {}
        labels |= {label: parts[label] for label in LABELS if label in parts}
        entries[name] = Entry(name, node, labels, base, parts, sources, groups)
    return entries


def _base(like: Node, entries: Mapping[str, Entry]) -> Entry:
    """Return the entry another one is like."""
    name = like.text()
    return entries[name] if name in entries else like.fail(f"no entry {name!r} to be like", nearest(name, entries))


def _figure(value: Node, default: Node | None, sources: Mapping[str, Provenance]) -> Figure:
    """Read `80 GB` or `{value: 80 GB, source: …, note: …}`."""
    note, source = "", default
    if value.is_mapping and "value" in (parts := value.entries()):
        parts = value.entries(_DETAIL)
        value, source = parts["value"], parts.get("source", default)
        note = parts["note"].text() if "note" in parts else ""
    if source is None:
        value.fail("this figure has no source", "name one of the file's `sources` here or as the entry's `source`")
    if source.text() not in sources:
        source.fail(f"there is no source {source.text()!r}", nearest(source.text(), sources))
    return Figure(value, replace(sources[source.text()], unit=_unit(value), note=note))


def _unit(value: Node) -> str:
    """Return the unit a quantity was written in; empty for texts, lists and plain counts."""
    if value.is_mapping or value.is_list or value.is_null:
        return ""
    text = value.text()
    number = _NUMBER.match(text)
    return text[number.end() :].strip() if number else ""


def dump_entry(kind: str, entry: Entry) -> str:
    """Write one entry as a YAML file of its own, which reads back as the same entry.

    Args:
        kind: the table it belongs to, such as `accelerators`.
        entry: what to write.
    """
    known: dict[tuple[str, str], str] = {}
    body: list[tuple[yaml.Node, yaml.Node]] = [(_scalar(label), node.raw) for label, node in entry.labels.items()]
    groups: dict[str, list[tuple[yaml.Node, yaml.Node]]] = {}
    for name, figure in entry.figures.items():
        source = known.setdefault((figure.provenance.source, figure.provenance.as_of), f"source-{len(known) + 1}")
        group, dot, inner = name.partition(".")
        if dot and group not in groups:
            groups[group] = []
            body.append((_scalar(group), yaml.MappingNode("tag:yaml.org,2002:map", groups[group])))
        (groups[group] if dot else body).append((_scalar(inner or name), _detail(figure, source)))
    titles = [(_scalar(key), _map({"title": title, "as_of": as_of})) for (title, as_of), key in known.items()]
    one = yaml.MappingNode("tag:yaml.org,2002:map", [(_scalar(entry.name), _mapping(body))])
    root = _mapping([(_scalar("sources"), _mapping(titles)), (_scalar(kind), one)])
    return yaml.serialize(root, allow_unicode=True, width=120)


def _detail(figure: Figure, source: str) -> yaml.Node:
    pairs = [(_scalar("value"), figure.node.raw), (_scalar("source"), _scalar(source))]
    if figure.provenance.note:
        pairs.append((_scalar("note"), _scalar(figure.provenance.note)))
    return _mapping(pairs, flow=True)


def _scalar(text: str) -> yaml.Node:
    return yaml.ScalarNode("tag:yaml.org,2002:str", text)


def _map(values: Mapping[str, str]) -> yaml.Node:
    return _mapping([(_scalar(key), _scalar(value)) for key, value in values.items()])


def _mapping(pairs: list[tuple[yaml.Node, yaml.Node]], *, flow: bool = False) -> yaml.Node:
    return yaml.MappingNode("tag:yaml.org,2002:map", pairs, flow_style=flow)
