"""What happens: requests go through replicas of a continuous-batching engine, exactly, and fast.

    simulation = simulate(requests, replica, replicas=8, router="least-outstanding")
    schedule = record(requests, replica)

Two engines, one answer. The jump engine goes from event to event: decodes that nobody joins or leaves are one closed
form, whatever their number. It knows vLLM's V1 scheduler with what is on by default and a little more. The general
engine goes through every iteration and knows the rest: speculation, pipelines, KV from elsewhere, window groups,
adapters, hang-ups, and the policies of SGLang, TensorRT-LLM, TGI and llama.cpp. `simulate` takes the first where it
applies. Time is integer picoseconds.

    run         the verb `simulate`            recording   the verb `record`: every step, written down
    dispatch    which engine, and why          policies    the engines' policies, by name
    jumped      sets up the jump engine        stepped     sets up the general engine
    core        the jump engine                stepping    the general engine; vllm, sglang, tensorrt_llm, tgi,
                                               llama_cpp: its policies; radix: a prefix tree
    server      what a fleet knows of them     fleet       arrivals, routers, replicas (routers: by name)
    profiles    what versions of vLLM differ in
    prefixes    block ids in the engine's blocks
    checks      what is refused
    simulation  what `simulate` returns        itl         inter-token gaps and their exact quantiles
    records     what `record` returns          schedules   its file format: read, write, compare
    loading     compiled, or HEADWAY_INTERPRETED=1: the sources
    arrays      the engines' columns

core, stepping, its policies, server and fleet are compiled by Cython in pure-Python mode. The tests hold both engines
to recorded schedules of the real scheduler and to a naive twin.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headway.simulator.itl import GapPart, Gaps
    from headway.simulator.loading import compiled
    from headway.simulator.policies import POLICIES
    from headway.simulator.recording import record
    from headway.simulator.routers import ROUTERS
    from headway.simulator.run import simulate
    from headway.simulator.simulation import (
        ABORTED,
        FAILED,
        FINISHED,
        UNFINISHED,
        Counters,
        Series,
        Simulation,
        seconds,
    )

__all__ = [
    "ABORTED",
    "FAILED",
    "FINISHED",
    "POLICIES",
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
    "ABORTED": "simulation",
    "FAILED": "simulation",
    "FINISHED": "simulation",
    "POLICIES": "policies",
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
