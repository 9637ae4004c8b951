"""Mappings of a scenario with the defaults behind them: what is taken from there is recorded as an assumption."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from headway.reading import parse_yaml
from headway.scenario.nouns import Assumption

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from typing import TypeVar

    from headway.reading import Node

    Value = TypeVar("Value")

_FILE = "headway/scenario/defaults.yaml"


@cache
def defaults() -> dict[str, tuple[Node, str]]:
    """Return what a scenario means where it says nothing: key path -> value as it would be written, and why."""
    text = files("headway.scenario").joinpath("defaults.yaml").read_text(encoding="utf-8")
    entries = {key: node.entries(("value", "why")) for key, node in parse_yaml(text, file=_FILE).entries().items()}
    return {key: (parts["value"], parts["why"].text()) for key, parts in entries.items()}


class Section:
    """One mapping of a scenario; `get` falls back to the default of the same key path.

    Args:
        name: its key path; empty for the whole scenario.
        node: where it stands, or None where the scenario leaves it out.
        known: the keys allowed in it.
        ledger: where the defaults taken are recorded.

    Raises:
        InputError: not a mapping, or a key that is not known.
    """

    def __init__(self, name: str, node: Node | None, known: Collection[str], ledger: list[Assumption]) -> None:
        self._name, self._ledger = name, ledger
        self._entries = {} if node is None or node.is_null else node.entries(known)

    def find(self, key: str) -> Node | None:
        """Return what the scenario itself says there, if anything."""
        node = self._entries.get(key)
        return None if node is None or node.is_null else node

    def get(self, key: str) -> Node:
        """Return what the scenario says there, or the default, which is recorded."""
        node = self.find(key)
        if node is not None:
            return node
        path = f"{self._name}.{key}" if self._name else key
        default, why = defaults()[path]
        shown = ", ".join(item.text() for item in default.items())
        self._ledger.append(Assumption(name=path, value=shown, source=f"default: {why}"))
        return default

    def each(self, key: str, read: Callable[[Node], Value]) -> tuple[Value, ...]:
        """Read a list (or a single value) without repeating equal entries.

        Raises:
            InputError: the list is empty, or an entry is wrong.
        """
        node = self.get(key)
        found: list[Value] = []
        for value in map(read, node.items()):
            if value not in found:
                found.append(value)
        if not found:
            node.fail("expected at least one entry, got an empty list")
        return tuple(found)
