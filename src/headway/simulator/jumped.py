"""Sets up the jump engine: its columns, who is refused, and what it found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from headway.simulator.itl import GapPart
from headway.simulator.loading import core
from headway.simulator.policies import bounds, ranks
from headway.simulator.prefixes import engine_runs
from headway.simulator.simulation import FAILED

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from headway.types import Replica, Requests

_PS_PER_S = 1e12


class Jumped:
    """Equal replicas of the jump engine, on the same columns.

    Attributes:
        columns: by request: arrive_ps, isl_tokens, output_tokens (0: refused), first_ps, last_ps, state, cached_tokens,
            preemptions, and what the engine alone uses.
        engines: the replicas.
    """

    def __init__(self, requests: Requests, replica: Replica, *, replicas: int, until_ps: int) -> None:
        runs = engine_runs(requests.prefix, replica.settings.block_size) if requests.prefix is not None else None
        self.columns = _columns(requests, replica)
        context_ps = replica.step.context_ps_per_token
        self._growth_ps = context_ps, context_ps + replica.step.window_ps_per_token
        shared, self._gaps = core.Columns(until_ps, *self.columns.values()), core.Gaps(*self._growth_ps)
        self.engines = [core.Engine(replica, runs, shared, self._gaps) for _ in range(replicas)]

    def gaps(self) -> tuple[GapPart, ...]:
        """Return the inter-token gaps; call it once the run is over."""
        context_ps, below_ps = self._growth_ps
        return tuple(GapPart(a, k, signed, context_ps, below_ps) for a, k, signed in self._gaps.columns())


def _columns(requests: Requests, replica: Replica) -> dict[str, NDArray[Any]]:
    """Return the core's columns, in its order."""
    count, settings = len(requests), replica.settings
    isl = np.ascontiguousarray(requests.isl_tokens, np.int64)
    _, outputs = bounds(replica, requests)
    arrive = requests.arrive_s * _PS_PER_S
    return {
        "arrive_ps": np.rint(arrive, out=arrive).astype(np.int64),
        "isl_tokens": isl,
        "output_tokens": outputs,
        "first_ps": np.full(count, -1, np.int64),
        "last_ps": np.full(count, -1, np.int64),
        "state": np.multiply(outputs == 0, FAILED, dtype=np.int8),
        "cached_tokens": np.zeros(count, np.int32),
        "preemptions": np.zeros(count, np.int32),
        "behind": np.empty(count, np.int32),
        "rank": ranks(requests) if settings.scheduling_policy == "priority" else np.empty(0, np.int32),
        "stops": _stops(requests, outputs, settings.max_model_len),
    }


def _stops(requests: Requests, outputs: NDArray[np.int32], max_model_len: int) -> NDArray[np.int8]:
    """Return whether a stop token ends each request before a length does; empty where no length was allowed."""
    if requests.max_tokens is None:
        return np.empty(0, np.int8)
    return (outputs < np.minimum(requests.max_tokens, max_model_len - requests.isl_tokens)).astype(np.int8)
