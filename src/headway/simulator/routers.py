"""Which replica a request goes to.

Routers that look at no load are a column, computed here; the others are decided in the core, as requests arrive:
    round-robin        request i to replica i mod N
    random             a hash of seed and request number
    session-affinity   a hash of seed and session
    least-outstanding  the fewest requests waiting or running there, the first of equals
    prefix-affinity    the replica last sent the longest prefix; see `simulate`
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from headway.errors import InputError, nearest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from headway.simulator.prefixes import EngineRuns
    from headway.types import Requests

ROUTERS = ("round-robin", "random", "least-outstanding", "session-affinity", "prefix-affinity")


def choices(requests: Requests, replicas: int, router: str, seed: int) -> NDArray[np.int32] | None:
    """Return each request's replica, None where it depends on what happens.

    Raises:
        InputError: no such router, or session-affinity without `session_id`.
    """
    if router not in ROUTERS:
        raise InputError(
            f"there is no router {router!r}", file="simulate", place="router", hint=nearest(router, ROUTERS)
        )
    numbers = np.arange(len(requests), dtype=np.int64)
    if router == "session-affinity":
        if requests.session_id is None:
            raise InputError("session-affinity needs session ids", file="requests", place="session_id")
        numbers = requests.session_id
    if replicas == 1:
        return np.zeros(len(requests), np.int32)
    if router in ("least-outstanding", "prefix-affinity"):
        return None
    if router == "round-robin":
        return (numbers % replicas).astype(np.int32)
    return (_hashed(numbers, seed) % np.uint64(replicas)).astype(np.int32)


def run_labels(runs: EngineRuns | None) -> NDArray[np.int32]:
    """Number the runs by their first key: equal numbers are equal prefixes up to there.

    Raises:
        InputError: there are no ids to route by.
    """
    if runs is None:
        raise InputError("prefix-affinity needs block ids", file="requests", place="prefix")
    return np.unique(runs[2], return_inverse=True)[1].astype(np.int32)


def _hashed(numbers: NDArray[np.int64], seed: int) -> NDArray[np.uint64]:
    """Mix numbers with a seed (the finaliser of SplitMix64: Steele, Lea, Flood, OOPSLA 2014)."""
    x = numbers.astype(np.uint64) + np.uint64((seed * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) % (1 << 64))
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
