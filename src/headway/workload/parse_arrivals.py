"""Reads arrivals, sessions, system prompts and labels from YAML; the forms are described in `section.py`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from headway.workload.arrivals import Arrivals, Cycle, Modulated, Steady, Steps
from headway.workload.distributions import Constant
from headway.workload.lengths import MOST_TOKENS
from headway.workload.parse_lengths import MOST_TIME_S, cv, distribution, rate, require, time_above_zero
from headway.workload.sessions import Sessions
from headway.workload.spec import Label, SystemPrompt

if TYPE_CHECKING:
    from collections.abc import Callable

    from headway.reading import Node

#: Slices of a sinusoidal period; within each the rate is held at its mean.
SLICES = 288

#: The assumed response time where none is given: the median from request to complete answer over 44,346 requests of
#: coding agents to a hosted model (callanjfox/kv-cache-tester, Apache-2.0, read 2026-11-21).
RESPONSE_S = 6.13

#: Time and again a list longer than this is a slip: labels, states, steps.
MOST_ENTRIES = 100_000


def arrivals(node: Node) -> Arrivals:
    """Read an arrival process other than `replay`: a bare rate is Poisson.

    Raises:
        InputError: an unknown process or key, or a value out of bounds.
    """
    if not node.is_mapping:
        return Arrivals(pattern=Steady(rate(node)))
    entries = node.entries()
    if "process" not in entries:
        node.fail("'process' is missing")
    return _PROCESSES[entries["process"].choice(PROCESSES)](node)


def _poisson(node: Node) -> Arrivals:
    return Arrivals(pattern=Steady(rate(require(node, (), ("process", "rate"))["rate"])))


def _gamma(node: Node) -> Arrivals:
    entries = require(node, (), ("process", "rate", "cv"))
    return Arrivals(pattern=Steady(rate(entries["rate"])), gap_cv=cv(entries["cv"]))


def _mmpp(node: Node) -> Arrivals:
    entries = require(node, ("rate",), ("process", "states"))
    states = _list(entries["states"], least=2)
    parts = [require(state, ("next",), ("rate", "stay")) for state in states]
    pattern = Modulated(
        rates_per_s=tuple(_rate_or_zero(part["rate"]) for part in parts),
        stays_s=tuple(time_above_zero(part["stay"]) for part in parts),
        moves=tuple(
            _moves(part["next"], index, len(parts)) if "next" in part else _evenly(index, len(parts))
            for index, part in enumerate(parts)
        ),
    )
    return _at_rate(Arrivals(pattern=pattern), entries, node)


def _evenly(index: int, count: int) -> tuple[float, ...]:
    return tuple(0.0 if other == index else 1.0 / (count - 1) for other in range(count))


def _moves(node: Node, index: int, count: int) -> tuple[float, ...]:
    weights = [child.number(least=0.0, most=1.0) for child in _list(node)]
    if len(weights) != count or weights[index] != 0 or not math.isclose(sum(weights), 1.0, abs_tol=1e-3):
        node.fail(f"expected {count} probabilities that sum to 1, with 0 for staying in this state")
    return tuple(weight / sum(weights) for weight in weights)


def _diurnal(node: Node) -> Arrivals:
    entries = require(node, ("rate", "period", "start", "cv", "table", "swing", "peak"), ("process",))
    if ("table" in entries) == ("swing" in entries):
        node.fail("expected either a table of rates or a swing")
    period_s = time_above_zero(entries["period"]) if "period" in entries else 86400.0
    start_s = entries["start"].quantity("time", least=0.0, most=MOST_TIME_S) if "start" in entries else 0.0
    rates = _table(entries) if "table" in entries else _sinusoid(node, entries, period_s)
    pattern = Cycle(period_s=period_s, rates_per_s=rates, start_s=start_s)
    return _at_rate(Arrivals(pattern=pattern, gap_cv=cv(entries["cv"]) if "cv" in entries else 1.0), entries, node)


def _table(entries: dict[str, Node]) -> tuple[float, ...]:
    if "peak" in entries:
        entries["peak"].fail("a table has its peak where its rates say")
    return tuple(_rate_or_zero(child) for child in _list(entries["table"], least=2))


def _sinusoid(node: Node, entries: dict[str, Node], period_s: float) -> tuple[float, ...]:
    """One period of 1 + swing · cos(2π (t − peak)/period), each slice at its mean; the rate is set after."""
    if "rate" not in entries:
        node.fail("'rate' is missing: the mean rate around which it swings")
    swing = entries["swing"].quantity("frac", least=0.0, most=1.0)
    peak_s = entries["peak"].quantity("time", least=0.0, most=MOST_TIME_S) if "peak" in entries else 0.0
    edges = 2 * math.pi * (np.arange(SLICES + 1) / SLICES - peak_s / period_s)
    return tuple((1 + swing * np.diff(np.sin(edges)) * SLICES / (2 * math.pi)).tolist())


def _step(node: Node) -> Arrivals:
    entries = require(node, ("cv",), ("process", "steps"))
    steps = [require(step, (), ("at", "rate")) for step in _list(entries["steps"])]
    at_s = [step["at"].quantity("time", least=0.0, most=MOST_TIME_S) for step in steps]
    for step, before, after in zip(steps, [-1.0, *at_s], at_s, strict=False):
        if after <= before or (before < 0 < after):
            step["at"].fail("expected rising times, the first of them 0 s")
    rates = [_rate_or_zero(step["rate"]) for step in steps[:-1]]
    pattern = Steps(at_s=tuple(at_s), rates_per_s=(*rates, rate(steps[-1]["rate"])))
    return Arrivals(pattern=pattern, gap_cv=cv(entries["cv"]) if "cv" in entries else 1.0)


_PROCESSES: dict[str, Callable[[Node], Arrivals]] = {
    "poisson": _poisson,
    "gamma": _gamma,
    "mmpp": _mmpp,
    "diurnal": _diurnal,
    "step": _step,
}
PROCESSES = (*_PROCESSES, "replay")


def _rate_or_zero(node: Node) -> float:
    return node.quantity("rate", least=0.0, most=1e6)


def _at_rate(process: Arrivals, entries: dict[str, Node], node: Node) -> Arrivals:
    """Scale a process to the mean rate asked for, if one is."""
    if process.mean_per_s <= 0:
        node.fail("the rate is zero everywhere")
    if "rate" not in entries:
        return process
    return Arrivals(
        pattern=process.pattern, gap_cv=process.gap_cv, factor=rate(entries["rate"]) / process.pattern.mean_per_s
    )


def _list(node: Node, least: int = 1) -> list[Node]:
    if not node.is_list:
        node.fail("expected a list")
    children = list(node.items())
    return children if len(children) >= least else node.fail(f"expected at least {least} entries")


# --- sessions, system prompts, labels -----------------------------------------------------------------


def sessions(node: Node) -> Sessions:
    """Read how conversations go.

    Raises:
        InputError: an unknown or missing key, a value out of bounds, or not exactly one of `growth` and `alike`.
    """
    entries = require(node, ("response_time", "growth", "alike"), ("turns", "think_time"))
    if ("growth" in entries) == ("alike" in entries):
        node.fail(
            "expected either 'growth' (lengths describe the first prompt; tokens each turn adds) or 'alike'"
            " (lengths describe all prompts)"
        )
    return Sessions(
        turns=distribution(entries["turns"], "count"),
        think_s=distribution(entries["think_time"], "time"),
        response_s=distribution(entries["response_time"], "time")
        if "response_time" in entries
        else Constant(RESPONSE_S),
        growth_tokens=distribution(entries["growth"], "tokens") if "growth" in entries else None,
        alike_frac=entries["alike"].quantity("frac", least=0.0, most=1.0) if "alike" in entries else None,
    )


def system_prompts(node: Node) -> tuple[SystemPrompt, ...]:
    """Read shared beginnings and their shares.

    Raises:
        InputError: an unknown or missing key, a value out of bounds, or shares above 100 % together.
    """
    parts = [require(child, (), ("tokens", "share")) for child in _list(node)]
    shares = _shares(node, [part["share"] for part in parts])
    sizes = (int(part["tokens"].quantity("tokens", least=1.0, most=MOST_TOKENS)) for part in parts)
    return tuple(SystemPrompt(prompt_tokens=size, share_frac=share) for size, share in zip(sizes, shares, strict=True))


def labels(node: Node, *, priority: bool = False) -> tuple[Label, ...]:
    """Read labels and their shares: a list of them, or `{count: 50, zipf: 1.1}` for many with Zipf popularity.

    Raises:
        InputError: an unknown or missing key, a name twice, a value out of bounds, or shares above 100 % together.
    """
    if node.is_mapping and not priority:
        return _zipf(node)
    parts = [require(child, ("priority",) if priority else (), ("name", "share")) for child in _list(node)]
    names = [part["name"].text() for part in parts]
    first = {name: index for index, name in reversed(list(enumerate(names)))}
    for index, name in enumerate(names):
        if first[name] != index:
            parts[index]["name"].fail(f"{name!r} stands twice")
    ranks = [part["priority"].integer(least=-(10**6), most=10**6) if "priority" in part else 0 for part in parts]
    shares = _shares(node, [part["share"] for part in parts])
    rows = zip(names, shares, ranks, strict=True)
    return tuple(Label(name=name, share_frac=share, priority=rank) for name, share, rank in rows)


def _zipf(node: Node) -> tuple[Label, ...]:
    """Popularity of the k-th in proportion to k^−zipf."""
    entries = require(node, ("share",), ("count", "zipf"))
    count = entries["count"].integer(least=1, most=MOST_ENTRIES)
    exponent = entries["zipf"].number(least=0.0, most=10.0)
    whole = entries["share"].quantity("frac", least=0.0, most=1.0) if "share" in entries else 1.0
    weights = np.arange(1, count + 1) ** -exponent
    shares = whole * weights / weights.sum()
    return tuple(Label(name=str(k), share_frac=share) for k, share in enumerate(shares.tolist()))


def _shares(node: Node, children: list[Node]) -> list[float]:
    shares = [child.quantity("frac", least=0.0, most=1.0) for child in children]
    if sum(shares) > 1 + 1e-9:
        node.fail(f"the shares sum to {100 * sum(shares):g} %, more than 100 %")
    return shares
