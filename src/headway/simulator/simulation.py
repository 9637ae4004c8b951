"""What a simulation found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from headway.simulator.itl import Gaps
    from headway.types import FloatColumn, IntColumn

#: States of a request at the end.
UNFINISHED, FINISHED, FAILED, ABORTED = 0, 1, 2, 3
_PS_PER_S = 1e12


def seconds(times_ps: IntColumn) -> FloatColumn:
    """Turn picoseconds into seconds; −1 (never) becomes NaN."""
    times_s: FloatColumn = np.divide(times_ps, _PS_PER_S)
    times_s[times_ps < 0] = np.nan
    return times_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """Totals over all replicas, but for `busy_ps`.

    Attributes:
        steps: engine iterations completed.
        jumps: stretches of several iterations that were taken in one go.
        scheduled_tokens: tokens computed, prompts and outputs, recomputation included.
        preemptions: requests thrown back to the waiting line for want of KV blocks.
        prefix_hit_tokens: prompt tokens found in the prefix cache at first admission.
        busy_ps: by replica, the time it was stepping: at least one batch was being executed.
    """

    steps: int
    jumps: int
    scheduled_tokens: int
    preemptions: int
    prefix_hit_tokens: int
    busy_ps: IntColumn


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Sums over the replicas at the end of equal windows, after all that happens then.

    Attributes:
        window_ps: length of a window; row i is at (i + 1) · window_ps.
        queue: requests waiting.
        running: requests running.
        kv_blocks: KV blocks referenced by a request (cached blocks nobody holds count as free, as in vLLM).
        busy_ps: time spent stepping within the window.
    """

    window_ps: int
    queue: IntColumn
    running: IntColumn
    kv_blocks: IntColumn
    busy_ps: IntColumn

    @property
    def time_s(self) -> FloatColumn:
        """The end of each window."""
        return seconds(np.arange(1, len(self.queue) + 1) * self.window_ps)


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulation:
    """Columns by request, in the order of the requests; times in picoseconds, −1 where there is none.

    Attributes:
        due_ps: the arrival asked for, rounded to a picosecond.
        arrive_ps: when it was sent: in an open loop, then; in a closed one, when a client was free (−1: not sent).
        first_ps: first output token leaves the engine; the frontend's time is not in it.
        last_ps: last output token of a request that has ended; of one whose client hung up, the last delivered.
        output_tokens: tokens it gets if it finishes: osl, or less where max_tokens or max_model_len cuts it; what was
            delivered where the client hung up; 0 where refused.
        state: UNFINISHED, FINISHED, ABORTED (the client hung up), or FAILED: refused, since the prompt leaves no room
            for a token within max_model_len, or because its KV at full length would exceed the replica's blocks.
        replica: where it ran; −1: refused, or not arrived by the end.
        cached_tokens: prompt tokens found in the prefix cache when it was first admitted.
        preemptions: how often it was preempted.
        gaps: inter-token gaps.
        series: as recorded, or None.
        end_ps: when the clock stopped: at the cut, or with the last token.
    """

    due_ps: IntColumn
    arrive_ps: IntColumn
    first_ps: IntColumn
    last_ps: IntColumn
    output_tokens: NDArray[np.int32]
    state: NDArray[np.int8]
    replica: NDArray[np.int32]
    cached_tokens: NDArray[np.int32]
    preemptions: NDArray[np.int32]
    gaps: Gaps
    counters: Counters
    series: Series | None
    end_ps: int

    @property
    def finished(self) -> int:
        """Requests that got all their tokens."""
        return int((self.state == FINISHED).sum())

    @property
    def failed(self) -> int:
        """Requests that were refused."""
        return int((self.state == FAILED).sum())

    @property
    def aborted(self) -> int:
        """Requests whose client hung up before they ended."""
        return int((self.state == ABORTED).sum())

    @property
    def unfinished(self) -> int:
        """Requests waiting, running or not yet arrived when the clock stopped."""
        return int((self.state == UNFINISHED).sum())

    def itl_quantile_ps(self, frac: float) -> int:
        """Return an exact quantile of the inter-token gaps (−1 where there is none); see `Gaps.quantile_ps`."""
        return self.gaps.quantile_ps(frac)
