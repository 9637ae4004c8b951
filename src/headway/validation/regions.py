"""Where on the load curve a replay ran, by the rule of `headway.perf.regions`.

The rule looks at the replay alone, so that a row nobody measured has a region too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from headway.perf.regions import FULL_FRAC, Region, region_of

if TYPE_CHECKING:
    from headway.simulator import Simulation
    from headway.types import Replica, StepTable
    from headway.validation.figures import Answers
    from headway.validation.loads import Load


@dataclass(frozen=True, slots=True, kw_only=True)
class Occupancy:
    """How full one replica was, on average over its run."""

    in_flight: float  # requests sent and not ended
    seats: int  # of its batch
    context_tokens: float  # of one request halfway through its answer
    kv_frac: float  # KV that all in flight would take, over what there is
    preemptions: int
    behind_frac: float  # of a stream: by how much it is answered more slowly than it comes

    @property
    def batch(self) -> float:
        """Sequences in its batch: those in flight, as far as there are seats and KV."""
        return max(min(self.in_flight, self.seats, self.in_flight / max(self.kv_frac, 1e-9)), 1.0)


def occupancy(one: Answers, load: Load, found: Simulation, replica: Replica) -> Occupancy:
    """Return how full a replica was."""
    context = float(one.isl_tokens.mean() + one.output_tokens.mean() / 2)
    in_flight = float(one.e2e_s.sum()) / max(one.span_s, 1e-12)
    room = replica.num_gpu_blocks * replica.settings.block_size
    lasted_s = max(float(one.sent_s.max() - one.sent_s.min()), 1e-12)
    behind_s = one.span_s - lasted_s - float(np.median(one.e2e_s)) if load.arrivals == "poisson" else 0.0
    return Occupancy(
        in_flight=in_flight,
        seats=replica.settings.max_num_seqs,
        context_tokens=context,
        kv_frac=in_flight * context / max(room, 1),
        preemptions=found.counters.preemptions,
        behind_frac=max(behind_s / lasted_s, 0.0),
    )


def region(where: Occupancy, step: StepTable) -> Region:
    """Return the region of the load curve."""
    return region_of(
        step,
        full_frac=max(where.in_flight / where.seats, where.kv_frac),
        overrun=bool(where.preemptions) or where.behind_frac > 1 - FULL_FRAC,
        batch=where.batch,
        context_tokens=where.context_tokens,
    )
