"""What happens: requests go through replicas of a continuous-batching engine, exactly, and fast.

    simulation = simulate(requests, replica, replicas=8, router="least-outstanding")

The engine is vLLM's V1 scheduler with the synchronous schedule: running requests first (one token per decode, a chunk
of the prompt under way), then the waiting line under a token budget, a seat limit and a full-prompt block gate;
paged KV in blocks; preemption by recomputation; prefix caching with least-recently-used eviction. Time is integer
picoseconds, and each replica jumps from event to event: decodes that nobody joins or leaves are one closed form.

    run         the one verb, `simulate`
    simulation  what it returns: columns per request, gaps, counters, series
    itl         inter-token gaps as arithmetic progressions, exact quantiles
    core        the hot loop (Cython in pure-Python mode; HEADWAY_INTERPRETED=1 runs the source)
    loading     which of the two it is (`compiled`)
    prefixes    block ids in the engine's blocks
    routers     which replica a request goes to
    checks      what is refused

The tests hold a second simulator that steps through every iteration with lists and dictionaries; the two agree on
every column, counter and gap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headway.simulator.itl import GapPart, Gaps
    from headway.simulator.loading import compiled
    from headway.simulator.recording import record
    from headway.simulator.routers import ROUTERS
    from headway.simulator.run import simulate
    from headway.simulator.simulation import FAILED, FINISHED, UNFINISHED, Counters, Series, Simulation, seconds

__all__ = [
    "FAILED",
    "FINISHED",
    "ROUTERS",
    "UNFINISHED",
    "Counters",
    "GapPart",
    "Gaps",
    "Series",
    "Simulation",
    "compiled",
    "record",
    "seconds",
    "simulate",
]

_HOME = {
    "FAILED": "simulation",
    "FINISHED": "simulation",
    "ROUTERS": "routers",
    "UNFINISHED": "simulation",
    "Counters": "simulation",
    "GapPart": "itl",
    "Gaps": "itl",
    "Series": "simulation",
    "Simulation": "simulation",
    "compiled": "loading",
    "record": "recording",
    "seconds": "simulation",
    "simulate": "run",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
