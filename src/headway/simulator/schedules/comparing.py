"""Compares two schedules row by row, field by field."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from headway.simulator.schedules.rows import Row, Rows

#: Fields of `meta` that only say what a file is called.
_NAMES = ("name", "description")
#: Fields of `meta` without which no two runs agree: they are named before what came of them.
_PREMISES = (
    *("effective", "n_requests", "tick_ps", "cost_ns", "step_ps"),
    *("stop", "accept_pattern", "kv_groups", "kv_transfer"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One field of one row.

    Attributes:
        kind: of row: req, step, kv, res or meta.
        index: of the row among its kind.
        field: of the row; empty where the row is missing on one side.
        expected: its value, None where there is none; where the row is missing, the row.
        found: the same on the other side.
    """

    kind: str
    index: int
    field: str
    expected: Any
    found: Any

    def __str__(self) -> str:
        where = f"{self.kind} {self.index}" if self.kind != "meta" else "meta"
        if not self.field:
            return f"{where}: {'missing' if self.found is None else 'not expected'}"
        return f"{where}, {self.field}: expected {_told(self.expected)}, found {_told(self.found)}"


def differences(expected: Rows, found: Rows) -> Iterator[Difference]:
    """Walk everything in which two schedules differ: settings, requests, steps, transfers, results, counts, totals.

    Every field of every row counts, and the rows' order; only name and description of the file do not. A row that one
    side lacks makes all that follow it differ.
    """
    premises, outcome = zip(_halves(expected.meta), _halves(found.meta), strict=True)
    yield from _between("meta", premises[:1], premises[1:])
    yield from _between("req", expected.requests, found.requests)
    yield from _between("step", expected.steps, found.steps)
    yield from _between("kv", expected.transfers, found.transfers)
    yield from _between("res", expected.results, found.results)
    yield from _between("meta", outcome[:1], outcome[1:])


def _between(kind: str, expected: Sequence[Row], found: Sequence[Row]) -> Iterator[Difference]:
    for index, (one, other) in enumerate(zip_longest(expected, found)):
        if one is None or other is None:
            yield Difference(kind=kind, index=index, field="", expected=one, found=other)
        elif one != other:
            for field in {**one, **other}:
                here, there = _value(one, field), _value(other, field)
                if here != there:
                    yield Difference(kind=kind, index=index, field=field, expected=here, found=there)


def _value(row: Row, field: str) -> Any:
    """A field's value, None where the row does not have it or has an empty list, which says the same."""
    value = row.get(field)
    return None if value == [] else value


def _halves(meta: Row) -> tuple[Row, Row]:
    """`meta` in two: what a run starts from, and the rest."""
    flat = _flat(meta)
    premises = {name: value for name, value in flat.items() if name.partition(".")[0] in _PREMISES}
    return premises, {name: value for name, value in flat.items() if name not in premises}


def _flat(meta: Row) -> Row:
    """`meta` with the fields of its objects as fields of their own: `totals.preemptions`."""
    flat: Row = {}
    for name, value in meta.items():
        if isinstance(value, dict):
            flat |= {f"{name}.{inner}": content for inner, content in value.items()}
        elif name not in _NAMES:
            flat[name] = value
    return flat


def _told(value: object, longest: int = 60) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= longest else f"{text[:longest]}…"
