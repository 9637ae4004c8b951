"""The first place where two schedules part, as text: both versions of the step, side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headway.simulator.schedules.comparing import differences

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from headway.simulator.schedules.rows import Row, Rows

#: Columns of a step, in the file's names.
_COLUMNS = ("k", "t", "b", "e", "T", "S", "C", "run", "wait", "free", "freeu")
#: Equal requests of a step that are listed beside those that differ.
_MOST_EQUAL, _MOST_DIFFERENT = 6, 20
_NOTHING = "–"

_Cells = dict[str, str]  # what a step did to a request, by request


def side_by_side(expected: Rows, found: Rows, *, before: int = 3) -> str:
    """Return the first difference as a text, empty where there is none.

    A step is shown with the steps before it, its own two versions with the columns that differ marked, and what each
    version did to each request, with the request's lengths and the tokens computed before. Rows of another kind are
    shown field by field.

    Args:
        expected: the schedule to be held to.
        found: the other.
        before: number of steps shown before the one that differs.
    """
    first = next(differences(expected, found), None)
    if first is None:
        return ""
    lines = [f"first difference: {first}"]
    if first.kind == "step":
        lines += ["", *_steps(expected, found, first.index, before)]
    elif first.field and first.kind != "meta":
        rows = [_rows(side, first.kind)[first.index] for side in (expected, found)]
        lines += ["", *_fields(*rows)]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _rows(rows: Rows, kind: str) -> Sequence[Row]:
    return {"req": rows.requests, "step": rows.steps, "kv": rows.transfers, "res": rows.results}[kind]


def _fields(expected: Row, found: Row) -> list[str]:
    cells = [
        ("" if expected.get(name) == found.get(name) else "≠", name, _text(expected.get(name)), _text(found.get(name)))
        for name in {**expected, **found}
    ]
    return _table(("", "field", "expected", "found"), cells, "<<<<")


# --- a step ---------------------------------------------------------------------------------------------


def _steps(expected: Rows, found: Rows, index: int, before: int) -> list[str]:
    here, there = ((*side.steps[index : index + 1], {})[0] for side in (expected, found))
    shown = [("", *_columns(step)) for step in expected.steps[max(0, index - before) : index]]
    shown += [("expected", *_columns(here)), ("found", *_columns(there))]
    marks = ["^" * (here.get(name) != there.get(name)) for name in _COLUMNS]
    shown += [("", *marks)] if any(marks) else []
    table = _table(("", *_COLUMNS), shown, "<" + ">" * len(_COLUMNS))
    return [*table, "", *_requests(expected, index, here, there)]


def _columns(step: Row) -> list[str]:
    return [_text(step.get(name)) for name in _COLUMNS]


def _requests(rows: Rows, index: int, here: Row, there: Row) -> list[str]:
    """What each version of a step did to each request; those that differ first."""
    expected, found = _deeds(here), _deeds(there)
    names = list({**expected, **found})
    different = [name for name in names if expected.get(name) != found.get(name)]
    equal = [name for name in names if name not in set(different)]
    listed = different[:_MOST_DIFFERENT] + equal[:_MOST_EQUAL]
    known = {row["id"]: row for row in rows.requests}
    computed = _computed(rows, index)
    cells = [
        (
            "≠" if name in set(different) else "",
            name,
            *(_text(known.get(name, {}).get(field)) for field in ("plen", "out")),
            _text(computed.get(name)),
            expected.get(name, _NOTHING),
            found.get(name, _NOTHING),
        )
        for name in listed
    ]
    left = len(names) - len(listed)
    more = [f"and {left} more: {max(len(different) - _MOST_DIFFERENT, 0)} of them differ"] if left else []
    table = _table(("", "request", "prompt", "output", "computed", "expected", "found"), cells, "<<>>><<")
    return [*table, *more, *_order(here, there)]


def _work(step: Row) -> list[list[Any]]:
    work: list[list[Any]] = step["sched"] if "sched" in step else step.get("multi", [])
    return work


def _deeds(step: Row) -> _Cells:
    """What a step did to each request, in words."""
    words: dict[str, list[str]] = {}
    for name, tokens in _work(step):
        words.setdefault(name, []).append(f"{tokens} token{'s' * (tokens != 1)}")
    for field, told in (("adm", "admitted at {}"), ("spec", "{} drafts")):
        for name, count in step.get(field, []):
            words.setdefault(name, []).append(told.format(count))
    for field, told in (("pre", "preempted"), ("fin", "finished")):
        for name in step.get(field, []):
            words.setdefault(name, []).append(told)
    return {name: ", ".join(parts) for name, parts in words.items()}


def _order(here: Row, there: Row) -> list[str]:
    """Where both versions schedule the same requests in another order."""
    orders = [[name for name, _ in _work(step)] for step in (here, there)]
    if orders[0] == orders[1] or sorted(orders[0]) != sorted(orders[1]):
        return []
    place = next(i for i, (one, other) in enumerate(zip(*orders, strict=True)) if one != other)
    shown = [", ".join(order[place : place + _MOST_EQUAL]) for order in orders]
    return [f"order from place {place + 1} on: expected {shown[0]}; found {shown[1]}"]


def _computed(rows: Rows, index: int) -> dict[str, int]:
    """Tokens computed of each request before a step; none where the file cannot tell: drafts, or a summary."""
    computed: dict[str, int] = {}
    if rows.meta["accept_pattern"] is not None or rows.meta["steps_mode"] != "full":
        return computed
    for step in rows.steps[:index]:
        for name in step.get("pre", ()):
            computed[name] = 0
        computed |= dict(step.get("adm", ()))
        for name, tokens in step.get("sched", ()):
            computed[name] = computed.get(name, 0) + tokens
    return computed


# --- text -----------------------------------------------------------------------------------------------


def _text(value: Any) -> str:
    return _NOTHING if value is None else str(value)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], sides: str) -> list[str]:
    """Return aligned columns, two blanks between; `sides` has `<` or `>` for each column."""
    every = [heads, *rows]
    widths = [max(map(len, column)) for column in zip(*every, strict=True)]
    return [
        "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True))
        for row in every
    ]
