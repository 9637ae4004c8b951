"""What every iteration of an engine worked on: as vLLM logs it, and as a schedule file says it.

vLLM counts a request as context until its first output token has been asked for, and as generation from then on.
"""

from __future__ import annotations

import re
from itertools import zip_longest
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from headway.simulator.schedules import Rows


class Composition(NamedTuple):
    """One iteration: requests and tokens."""

    context_requests: int
    context_tokens: int
    generation_requests: int
    generation_tokens: int


_LINE = re.compile(
    r"Iteration\((\d+)\): (\d+) context requests, (\d+) context tokens, "
    r"(\d+) generation requests, (\d+) generation tokens"
)


def logged(lines: Iterable[str]) -> list[Composition]:
    """Read the iterations that vLLM logs with --enable-logging-iteration-details.

    Raises:
        ValueError: an iteration is missing.
    """
    found: list[Composition] = []
    for line in lines:
        if match := _LINE.search(line):
            number, *counts = map(int, match.groups())
            if number != len(found):
                raise ValueError(f"the log goes from iteration {len(found) - 1} to {number}")
            found.append(Composition(*counts))
    return found


def compositions(rows: Rows) -> list[Composition]:
    """Return the iterations of a schedule file, in the order their outputs were processed."""
    left = {row["id"]: row["plen"] for row in rows.requests}  # of the prompt, to be computed
    begun: set[str] = set()  # an output token was asked for
    found = []
    for step in sorted(rows.steps, key=lambda step: step["k"]):
        left.update(
            (name, _length(rows, name) - computed) for name, computed in step.get("adm", []) if name not in begun
        )
        parts = [(name in begun, count) for name, count in step["sched"]]
        for name, count in step["sched"]:
            left[name] -= count
            if left[name] <= 0:
                begun.add(name)
        context = [count for past, count in parts if not past]
        generation = [count for past, count in parts if past]
        found.append((step["k"], Composition(len(context), sum(context), len(generation), sum(generation))))
    return [composition for _, composition in found if composition != (0, 0, 0, 0)]


def _length(rows: Rows, name: str) -> int:
    return next(row["plen"] for row in rows.requests if row["id"] == name)


def side_by_side_of(told: Sequence[Composition], seen: Sequence[Composition], around: int = 3) -> str:
    """Show the first iteration in which two lists differ, and those before it."""
    pairs = list(zip_longest(told, seen))
    at = next((number for number, (one, other) in enumerate(pairs) if one != other), len(pairs))
    lines = [f"{number:>5}  {one}  |  {other}" for number, (one, other) in enumerate(pairs)]
    return "\n".join(lines[max(0, at - around) : at + 1]) + "\n"
