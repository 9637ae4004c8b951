"""Sets up the general engine: the columns of its table, who is refused, and what it found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from headway.simulator.itl import GapPart
from headway.simulator.loading import load
from headway.simulator.policies import bounds, new_engine, ranks
from headway.simulator.simulation import FAILED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from headway.types import FloatColumn, IntColumn, Replica, Requests

_PS_PER_S = 1e12
NEVER_PS = 1 << 62


class Stepped:
    """Equal replicas of the general engine, on one table.

    Attributes:
        columns: by request: arrive_ps, isl_tokens, abort_ps (when its client hangs up), output_tokens (0: refused),
            first_ps, last_ps (of its last token), end_ps (later where the client hung up), state, cached_tokens (−1:
            never admitted), preemptions, reason (1 by length, 2 by a stop token, 3 hung up), delivered (tokens).
        engines: the replicas.
    """

    def __init__(
        self,
        requests: Requests,
        replica: Replica,
        *,
        replicas: int = 1,
        until_ps: int = NEVER_PS,  # noqa: ARG002 - as the jump engine's
        ids: Sequence[str] | None = None,
        recorder: Any = None,
    ) -> None:
        most, outputs = bounds(replica, requests)
        given = {**_given(requests, ids), "most": most}
        found = _found(outputs)
        self.columns: dict[str, NDArray[Any]] = {
            "arrive_ps": given["arrive"],
            "isl_tokens": given["isl"],
            "abort_ps": given["abort"],
            **found,
        }
        table = load("stepping").Table(given, found)
        self.engines = [new_engine(replica, requests, table, recorder) for _ in range(replicas)]

    def gaps(self) -> tuple[GapPart, ...]:
        """Return the inter-token gaps; call it once the run is over."""
        parts = [engine.all_gaps() for engine in self.engines]
        return tuple(
            GapPart(np.array(gaps, np.int64), np.ones(len(gaps), np.int32), np.array(weights, np.int32))
            for gaps, weights in parts
        )


def _given(requests: Requests, ids: Sequence[str] | None) -> dict[str, Any]:
    """Return what the table is given; times in picoseconds. `ids` order equals (None: their rows do)."""
    count = len(requests)
    rank = np.arange(count, dtype=np.int32)
    if ids is not None:
        rank[np.argsort(np.array(ids, dtype=str), kind="stable")] = np.arange(count, dtype=np.int32)
    return {
        "arrive": np.rint(requests.arrive_s * _PS_PER_S).astype(np.int64),
        "isl": np.ascontiguousarray(requests.isl_tokens, np.int64),
        "osl": np.ascontiguousarray(requests.osl_tokens, np.int32),
        "priority": ranks(requests),
        "rank": rank,
        "adapter": _ints(requests.adapter_id, count, -1),
        "remote": _ints(requests.remote_prefill, count, 0).astype(np.int8),
        "abort": _times(requests.abort_s, count, NEVER_PS),
        "hold": _times(requests.hold_s, count, -1),
    }


def _ints(column: Any, count: int, missing: int) -> NDArray[np.int32]:
    return np.full(count, missing, np.int32) if column is None else np.ascontiguousarray(column, np.int32)


def _times(column: FloatColumn | None, count: int, missing: int) -> IntColumn:
    times = np.full(count, missing, np.int64)
    if column is not None:
        known = ~np.isnan(column)
        times[known] = np.rint(column[known] * _PS_PER_S).astype(np.int64)
    return times


def _found(outputs: NDArray[np.int32]) -> dict[str, Any]:
    count = len(outputs)
    return {
        "output_tokens": outputs,
        "first_ps": np.full(count, -1, np.int64),
        "last_ps": np.full(count, -1, np.int64),
        "end_ps": np.full(count, -1, np.int64),
        "state": np.multiply(outputs == 0, FAILED, dtype=np.int8),
        "cached_tokens": np.full(count, -1, np.int32),
        "preemptions": np.zeros(count, np.int32),
        "reason": np.zeros(count, np.int8),
        "delivered": np.zeros(count, np.int32),
    }
