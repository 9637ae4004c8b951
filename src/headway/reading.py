"""Reads YAML into nodes that remember their file, line and key path, so that every refusal can name the place.

The catalogue, a user's additions to it and scenarios are all read through here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import yaml

from headway.errors import InputError, nearest
from headway.units import parse_quantity

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True)
class Node:
    """One place in a YAML file: a scalar, a list or a mapping, with where it stands."""

    raw: yaml.Node
    file: str
    path: str = ""

    # -- where and what ------------------------------------------------------------------------
    @property
    def place(self) -> str:
        """`line 12, slo.ttft`: the place as an error names it."""
        line = f"line {self.raw.start_mark.line + 1}"
        return f"{line}, {self.path}" if self.path else line

    def fail(self, problem: str, hint: str = "") -> NoReturn:
        """Refuse this place.

        Raises:
            InputError: always.
        """
        raise InputError(problem, file=self.file, place=self.place, hint=hint)

    @property
    def is_mapping(self) -> bool:
        """Whether this is a mapping."""
        return isinstance(self.raw, yaml.MappingNode)

    @property
    def is_list(self) -> bool:
        """Whether this is a list."""
        return isinstance(self.raw, yaml.SequenceNode)

    # -- going down ----------------------------------------------------------------------------
    def entries(self, known: Collection[str] | None = None) -> dict[str, Node]:
        """Return the mapping's entries by key.

        Args:
            known: the keys allowed here; any key where None.

        Raises:
            InputError: not a mapping, a key twice, or a key not in `known` (with the nearest one).
        """
        if not isinstance(self.raw, yaml.MappingNode):
            self.fail(f"expected a mapping of {', '.join(sorted(known)) if known else 'names'}, got {self._got()}")
        found: dict[str, Node] = {}
        for key_node, value_node in self.raw.value:
            if not isinstance(key_node, yaml.ScalarNode):
                Node(key_node, self.file, self.path).fail("expected a plain word as key")
            key = str(key_node.value)
            child = Node(value_node, self.file, f"{self.path}.{key}" if self.path else key)
            if key in found:
                Node(key_node, self.file, child.path).fail(f"the key {key!r} stands twice")
            if known is not None and key not in known:
                Node(key_node, self.file, child.path).fail(f"unknown key {key!r}", nearest(key, known))
            found[key] = child
        return found

    def items(self) -> Iterator[Node]:
        """Walk a list; a single scalar or mapping counts as a list of one."""
        if isinstance(self.raw, yaml.SequenceNode):
            for index, node in enumerate(self.raw.value):
                yield Node(node, self.file, f"{self.path}[{index}]")
        else:
            yield self

    # -- scalars -------------------------------------------------------------------------------
    def _scalar(self, expected: str) -> object:
        if not isinstance(self.raw, yaml.ScalarNode):
            self.fail(f"expected {expected}, got {self._got()}")
        # the safe constructor of the library decides what a scalar means (int, float, bool, null, date, text)
        try:
            return yaml.constructor.SafeConstructor().construct_object(self.raw)
        except (yaml.YAMLError, ValueError):  # an unknown tag, a date that is none
            self.fail(f"expected {expected}, got {self._got()}")

    def _got(self) -> str:
        if self.is_mapping:
            return "a mapping"
        return "a list" if self.is_list else repr(self.raw.value)

    @property
    def is_null(self) -> bool:
        """Whether this is an empty value."""
        return isinstance(self.raw, yaml.ScalarNode) and self.raw.tag == "tag:yaml.org,2002:null"

    def text(self) -> str:
        """Return a text as it was written (a number or date keeps its spelling).

        Raises:
            InputError: empty, a list or a mapping.
        """
        if not isinstance(self.raw, yaml.ScalarNode) or self.is_null or not self.raw.value.strip():
            self.fail(f"expected a text, got {'nothing' if self.is_null else self._got()}")
        return str(self.raw.value)

    def choice(self, known: Collection[str]) -> str:
        """Return one of the known words.

        Raises:
            InputError: another word (with the nearest known one).
        """
        word = self.text()
        if word not in known:
            self.fail(f"{word!r} is not known here", nearest(word, known))
        return word

    def flag(self) -> bool:
        """Return true or false.

        Raises:
            InputError: anything else.
        """
        value = self._scalar("true or false")
        if not isinstance(value, bool):
            self.fail(f"expected true or false, got {value!r}")
        return value

    def integer(self, *, least: int | None = None, most: int | None = None) -> int:
        """Return a whole number within bounds.

        Raises:
            InputError: not whole, or outside the bounds.
        """
        value = self._scalar("a whole number")
        if isinstance(value, bool) or not isinstance(value, int):
            self.fail(f"expected a whole number, got {value!r}")
        self._check_bounds(value, least, most)
        return value

    def number(self, *, least: float | None = None, most: float | None = None) -> float:
        """Return a plain number within bounds.

        Raises:
            InputError: not a finite number, or outside the bounds.
        """
        value = self._scalar("a number")
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            self.fail(f"expected a finite number, got {self.raw.value!r}")
        self._check_bounds(value, least, most)
        return float(value)

    def quantity(self, dimension: str, *, least: float | None = None, most: float | None = None) -> float:
        """Return a quantity with its unit, in base units (`units.UNITS` lists the dimensions).

        Raises:
            InputError: no unit, the wrong unit, not finite, or outside the bounds (given in base units).
        """
        try:
            value = parse_quantity(self.text(), dimension)
        except ValueError as error:
            self.fail(str(error))
        self._check_bounds(value, least, most)
        return value

    def _check_bounds(self, value: float, least: float | None, most: float | None) -> None:
        if least is not None and value < least:
            self.fail(f"{self.text()!r} is below the least allowed, {least:g} in base units")
        if most is not None and value > most:
            self.fail(f"{self.text()!r} is above the most allowed, {most:g} in base units")


def read_yaml(path: str | Path) -> Node:
    """Read a YAML file with one document.

    Raises:
        InputError: the file is missing, unreadable, not UTF-8, not YAML, or empty; the line is named.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8 text (byte {error.start})", file=path) from None
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", file=path) from None
    return parse_yaml(text, file=str(path))


def parse_yaml(text: str, *, file: str = "<text>") -> Node:
    """Read one YAML document from text; `file` is the name errors carry.

    Raises:
        InputError: not YAML, or empty; the line is named.
    """
    try:
        root = yaml.compose(text, Loader=_LOADER)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}" if mark else ""
        raise InputError(f"not valid YAML: {error.problem or error.context}", file=file, place=place) from None
    except yaml.YAMLError as error:
        raise InputError(f"not valid YAML: {str(error).splitlines()[0]}", file=file) from None
    except RecursionError:
        raise InputError("not valid YAML: nested too deeply", file=file) from None
    if root is None:
        raise InputError("the file is empty", file=file)
    return Node(root, file)
