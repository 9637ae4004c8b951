"""Where on its load curve a replica runs: `low batch`, `middle` or `saturated`.

* **saturated**: it had no room for all that was asked of it: requests were preempted, or those in flight took
  `FULL_FRAC` of its seats or of its KV; or it answered more slowly than it was asked.
* **low batch**: a decode step of the mean batch takes less than `FLAT_FACTOR` times that of a single sequence: reading
  the weights is what a step waits for, and one more request costs next to nothing.
* **middle**: between the two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from headway.types import StepTable

Region = Literal["low batch", "middle", "saturated"]
#: From the least loaded to the fullest.
REGIONS: tuple[Region, ...] = ("low batch", "middle", "saturated")

FULL_FRAC = 0.95
FLAT_FACTOR = 1.25


def region_of(step: StepTable, *, full_frac: float, overrun: bool, batch: float, context_tokens: float) -> Region:
    """Return the region of the load curve, by the rule above.

    Args:
        step: the replica's step times.
        full_frac: requests in flight over seats, or their KV over what there is, whichever is more.
        overrun: whether requests were preempted, or answered more slowly than they came.
        batch: sequences in its batch, on average.
        context_tokens: of each.
    """
    if overrun or full_frac >= FULL_FRAC:
        return "saturated"
    one, many = (decode_ps(step, sequences, context_tokens) for sequences in (1, max(round(batch), 1)))
    return "low batch" if many < FLAT_FACTOR * one else "middle"


def decode_ps(step: StepTable, sequences: int, context_tokens: float) -> float:
    """Return the time of a decode step of so many sequences of one context."""
    contexts = sequences * context_tokens
    window = min(contexts, sequences * step.window_tokens)
    attention = step.context_ps_per_token * contexts + step.window_ps_per_token * window
    return float(step.decode_ps[min(sequences, len(step.decode_ps) - 1)]) + attention
