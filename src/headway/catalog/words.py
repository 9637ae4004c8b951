"""Reads the words of a `config.json`: several names for one thing, types checked, refusals that name the word."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

import yaml

from headway.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headway.reading import Node


@dataclass(frozen=True, slots=True)
class Words:
    """One object of a config: its words, and where it stands."""

    words: Mapping[str, object]
    file: str
    place: str = ""

    def fail(self, word: str, problem: str) -> NoReturn:
        """Refuse one word.

        Raises:
            InputError: always.
        """
        raise InputError(problem, file=self.file, place=f"{self.place}.{word}" if self.place else word)

    def missing(self, *names: str) -> NoReturn:
        """Refuse for want of a word.

        Raises:
            InputError: always.
        """
        others = f" (or {', '.join(names[1:])})" if names[1:] else ""
        raise InputError(f"{names[0]!r}{others} is missing", file=self.file, place=self.place)

    def get(self, *names: str) -> object:
        """Return the first of these words that is there and not null."""
        return next((self.words[name] for name in names if self.words.get(name) is not None), None)

    def has(self, name: str) -> bool:
        """Whether this word is an object of its own."""
        return isinstance(self.words.get(name), dict)

    def section(self, name: str) -> Words:
        """Return an inner object; empty where there is none."""
        inner = self.words.get(name)
        return Words(
            inner if isinstance(inner, dict) else {}, self.file, f"{self.place}.{name}" if self.place else name
        )

    def integer(self, *names: str, default: int | None = None, most: int = 10**9) -> int:
        """Return a whole number, 0 … `most`, under the first of these names that is there.

        Raises:
            InputError: none is there and there is no default; not a whole number; out of bounds.
        """
        name = next((name for name in names if self.words.get(name) is not None), None)
        if name is None:
            return default if default is not None else self.missing(*names)
        value = self.words[name]
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
            self.fail(name, f"expected a whole number from 0 to {most}, got {str(value)[:40]!r}")
        return value

    def positive(self, *names: str, default: int | None = None, most: int = 10**9) -> int:
        """Return a whole number above zero, as `integer` does.

        Raises:
            InputError: as `integer`, or zero.
        """
        value = self.integer(*names, default=default, most=most)
        return value or self.fail(names[0], "expected a whole number above zero, got 0")

    def flag(self, name: str, *, default: bool) -> bool:
        """Return true or false.

        Raises:
            InputError: anything else.
        """
        value = self.words.get(name)
        if value is None:
            return default
        return value if isinstance(value, bool) else self.fail(name, f"expected true or false, got {str(value)[:40]!r}")

    def items(self, name: str) -> list[object]:
        """Return a list, empty where the word is missing or not a list."""
        value = self.words.get(name)
        return value if isinstance(value, list) else []

    def text(self, name: str) -> str:
        """Return a text (of a list, the first), empty where there is none."""
        value = self.words.get(name)
        value = value[0] if isinstance(value, list) and value else value
        return value if isinstance(value, str) else ""


def plain(node: Node) -> object:
    """Return what a YAML node means as plain values.

    Raises:
        InputError: it means nothing (an unknown tag, an anchor inside itself).
    """
    try:
        return yaml.constructor.SafeConstructor().construct_object(node.raw, deep=True)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError):
        return node.fail("expected plain values")


def plain_mapping(node: Node) -> dict[str, object]:
    """Return a mapping's plain values by key.

    Raises:
        InputError: not a mapping, or not plain.
    """
    return {key: plain(value) for key, value in node.entries().items()}
