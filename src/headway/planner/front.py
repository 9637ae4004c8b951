"""The Pareto front: candidates that no other beats on cost, tail, GPUs and risk at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headway.planner.nouns import FrontPoint
from headway.planner.search import Found, measures

if TYPE_CHECKING:
    from headway.planner.study import Study
    from headway.types import Candidate

#: Larger fleets of the chosen replica that stand for "pay more, wait less".
_LARGER = (1, 2)
_MOST_POINTS = 8


def front(study: Study, found: list[Found], best: Found, chosen: Candidate) -> tuple[FrontPoint, ...]:
    """Return the front, cheapest first, the chosen candidate on it.

    Args:
        study: the problem.
        found: everything whose fewest replicas are known.
        best: what was chosen.
        chosen: the same as a candidate.
    """
    larger = [Found(rated=best.rated, replicas=best.replicas + more) for more in _LARGER]
    points = [(measures(study.fleets, one), one) for one in (best, *larger, *found)]
    best_known = [
        (values, one)
        for index, (values, one) in enumerate(points)
        if not any(beats(other, values) or (other == values and j < index) for j, (other, _) in enumerate(points))
    ]
    ordered = sorted(best_known, key=lambda point: point[0])[:_MOST_POINTS]
    return tuple(
        FrontPoint(
            candidate=chosen if one is best else study.sketch(one),
            tail_s=values[1],
            lost_with_a_node_frac=values[3],
        )
        for values, one in ordered
    )


def beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    """Return whether one is nowhere worse and somewhere better."""
    return all(a <= b for a, b in zip(one, other, strict=True)) and one != other
