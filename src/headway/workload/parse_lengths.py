"""Reads the spelled-out parts of a workload from YAML: distributions and lengths.

The forms are described in `section.py`. Nothing here knows of profiles.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

from headway.workload.distributions import (
    Constant,
    Distribution,
    Gamma,
    Geometric,
    Lognormal,
    Pareto,
    Quantiles,
    Uniform,
)
from headway.workload.lengths import MOST_TOKENS, Copula, JointTable
from headway.workload.sessions import MOST_TURNS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from headway.reading import Node

#: Bounds of what a workload may say, in base units: beyond them stands a slip of the pen.
MOST_RATE_PER_S = 1e6
MOST_TIME_S = 10 * 365 * 86400.0
MOST_CV = 100.0


def require(node: Node, known: Collection[str], needed: Collection[str]) -> dict[str, Node]:
    """Return a mapping's entries, all of `needed` among them.

    Raises:
        InputError: not a mapping, an unknown key, or one missing.
    """
    entries = node.entries({*known, *needed})
    for key in needed:
        if key not in entries:
            node.fail(f"{key!r} is missing")
    return entries


# --- values of one dimension --------------------------------------------------------------------------


def _value(node: Node, dimension: str) -> float:
    """One value ≥ 0: tokens and counts may be bare numbers, times carry their unit."""
    if dimension == "time":
        return node.quantity("time", least=0.0, most=MOST_TIME_S)
    bare = node.text().strip().replace("_", "").isdigit()
    if dimension == "count":
        return node.number(least=0.0, most=MOST_TURNS)
    if bare:
        return node.number(least=0.0, most=MOST_TOKENS)
    return node.quantity("tokens", least=0.0, most=MOST_TOKENS)


def _positive(node: Node, dimension: str) -> float:
    value = _value(node, dimension)
    return value if value > 0 else node.fail(f"expected more than zero, got {node.text()!r}")


def rate(node: Node) -> float:
    """Read a rate above zero, in requests per second."""
    value = node.quantity("rate", least=0.0, most=MOST_RATE_PER_S)
    return value if value > 0 else node.fail(f"expected a rate above zero, got {node.text()!r}")


def time_above_zero(node: Node) -> float:
    """Read a time above zero, in seconds."""
    return _positive(node, "time")


def cv(node: Node) -> float:
    """Read a coefficient of variation (standard deviation over mean), 0.01 … 100."""
    return node.number(least=0.01, most=MOST_CV)


def _percentile(key: str, node: Node) -> float:
    """`p99.9` → 0.999."""
    try:
        percent = float(key[1:]) if key.startswith("p") else math.nan
    except ValueError:
        percent = math.nan
    return percent / 100 if 0 <= percent <= 100 else node.fail(f"expected a percentile such as p90, got {key!r}")


# --- distributions ------------------------------------------------------------------------------------


def distribution(node: Node, dimension: str) -> Distribution:
    """Read a distribution of values of a dimension (`tokens`, `time` or `count`).

    Raises:
        InputError: none of the forms, or a value out of bounds.
    """
    if not node.is_mapping:
        return Constant(_value(node, dimension))
    entries = node.entries()
    if any(key.startswith("p") and key[1:2].isdigit() for key in entries):
        return _quantiles(node, dimension)
    if "mean" in entries:
        return _by_mean(node, dimension)
    ((kind, body),) = require_one(node, _FORMS).items()
    return _FORMS[kind](body, dimension)


def require_one(node: Node, known: Collection[str]) -> dict[str, Node]:
    """Return the entries of a mapping with exactly one of the known keys."""
    entries = node.entries(known)
    return entries if len(entries) == 1 else node.fail(f"expected exactly one of {', '.join(sorted(known))}")


def _by_mean(node: Node, dimension: str) -> Distribution:
    entries = require(node, ("cv",), ("mean",))
    mean = _positive(entries["mean"], dimension)
    if "cv" in entries:
        return Gamma(mean, cv(entries["cv"]))
    return Geometric(max(mean, 1.0)) if dimension == "count" else Gamma(mean, 1.0)


def _quantiles(node: Node, dimension: str) -> Quantiles:
    points = sorted((_percentile(key, child), _value(child, dimension), key) for key, child in node.entries().items())
    if len(points) < 2:
        node.fail("expected at least two percentiles")
    for (p, low, before), (q, high, after) in pairwise(points):
        if p == q:
            node.fail(f"{before} and {after} are the same percentile")
        if high < low:
            node.fail(f"{after} is below {before}")
    return Quantiles(tuple(p for p, _, _ in points), tuple(value for _, value, _ in points))


def _uniform(node: Node, dimension: str) -> Uniform:
    entries = require(node, (), ("low", "high"))
    low, high = _value(entries["low"], dimension), _value(entries["high"], dimension)
    return Uniform(low, high) if low <= high else node.fail("low is above high")


def _lognormal(node: Node, dimension: str) -> Lognormal:
    entries = require(node, (), ("mean", "cv"))
    return Lognormal(_positive(entries["mean"], dimension), cv(entries["cv"]))


def _gamma(node: Node, dimension: str) -> Gamma:
    entries = require(node, (), ("mean", "cv"))
    return Gamma(_positive(entries["mean"], dimension), cv(entries["cv"]))


def _pareto(node: Node, dimension: str) -> Pareto:
    entries = require(node, (), ("least", "alpha", "most"))
    least, most = _positive(entries["least"], dimension), _positive(entries["most"], dimension)
    if least >= most:
        node.fail("least is not below most")
    return Pareto(least, entries["alpha"].number(least=0.01, most=100.0), most)


_FORMS: dict[str, Callable[[Node, str], Distribution]] = {
    "constant": lambda node, dimension: Constant(_value(node, dimension)),
    "uniform": _uniform,
    "lognormal": _lognormal,
    "gamma": _gamma,
    "pareto": _pareto,
    "quantiles": _quantiles,
}


# --- lengths ------------------------------------------------------------------------------------------


def lengths(node: Node) -> Copula | JointTable:
    """Read joint lengths: `isl` and `osl` as distributions, or a `joint` table of quantiles.

    Raises:
        InputError: neither of the two forms, or a table that falls or has rows of another length.
    """
    if "joint" in node.entries():
        return _joint(node.entries(("joint",))["joint"])
    entries = require(node, ("correlation",), ("isl", "osl"))
    correlation = entries["correlation"].number(least=-1.0, most=1.0) if "correlation" in entries else 0.0
    return Copula(
        isl=distribution(entries["isl"], "tokens"),
        osl=distribution(entries["osl"], "tokens"),
        rank_correlation=correlation,
    )


def _joint(node: Node) -> JointTable:
    entries = require(node, (), ("percentiles", "isl", "osl"))
    at = _rising(entries["percentiles"], 100.0, strictly=True)
    rows = list(entries["osl"].items()) if entries["osl"].is_list else []
    if not rows or not rows[0].is_list:
        entries["osl"].fail("expected a list of rows, one per slice of ISL")
    return JointTable(isl=_row(entries["isl"], at), osl=tuple(_row(row, at) for row in rows))


def _row(node: Node, percentiles: tuple[float, ...]) -> Quantiles:
    values = _rising(node, float(MOST_TOKENS))
    if len(values) != len(percentiles):
        node.fail(f"expected {len(percentiles)} values, one per percentile, got {len(values)}")
    return Quantiles(tuple(percent / 100 for percent in percentiles), values)


def _rising(node: Node, most: float, *, strictly: bool = False) -> tuple[float, ...]:
    if not node.is_list:
        node.fail("expected a list of numbers")
    children = list(node.items())
    values = tuple(child.number(least=0.0, most=most) for child in children)
    for child, before, after in zip(children[1:], values, values[1:], strict=False):
        if after < before or (strictly and after == before):
            child.fail(f"{after:g} after {before:g}: expected rising numbers")
    return values if len(values) > 1 else node.fail("expected at least two numbers")
