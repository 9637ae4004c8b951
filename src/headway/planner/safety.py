"""The safe side of the error bands: limits that predictions have to hold so that the truth does, with a confidence.

An objective holds at a confidence c where prediction × (1 + h) ≤ limit, with h the share by which such a figure
exceeded its prediction in all but 1 − c of the measurements of that kind (`headway.perf.bands`): one-sided, each
objective by itself. That is the prediction held to limit ÷ (1 + h). At one half it is the prediction itself.

h grows with load (`REGIONS`), so a fleet is judged by the region it was simulated in, and what a fleet of unknown size
is held to at least is h of the least loaded region: bounds that follow from it are sound for all.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from headway.perf.bands import band, unsafe_frac
from headway.perf.regions import region_of
from headway.types import TAIL_FRAC

if TYPE_CHECKING:
    from headway.perf.regions import Region
    from headway.types import Outcome, Pool, Replica, Slo


def safe_slo(slo: Slo, pool: Pool, region: Region, confidence_frac: float) -> Slo:
    """Return the limits that predictions must hold, so that with that confidence the truth holds those given."""
    if confidence_frac <= 0.5:
        return slo
    over = over_fracs(slo, pool, region, confidence_frac)
    return replace(slo, objectives=tuple(replace(o, limit_s=o.limit_s / (1.0 + over[str(o)])) for o in slo.objectives))


def over_fracs(slo: Slo, pool: Pool, region: Region, confidence_frac: float) -> dict[str, float]:
    """Return by how much each objective's figure may exceed its prediction, at most, with that confidence."""
    return {
        str(o): unsafe_frac(o.metric, pool, confidence_frac, percentile_frac=o.percentile_frac, region=region)
        for o in slo.objectives
    }


def region_in(outcome: Outcome, replica: Replica, replicas: int) -> Region:
    """Return where on its load curve a replica of a simulated fleet ran: what is in flight follows by Little's law."""
    arrived_per_s = max(outcome.arrived / max(outcome.window_s, 1e-12), 1e-12)
    residence_s = outcome.latency["e2e"].mean_s if outcome.latency["e2e"].samples else 0.0
    if not math.isfinite(residence_s):
        return "saturated"
    in_flight = arrived_per_s * residence_s / replicas
    context = (outcome.input_tokens_per_s + outcome.output_tokens_per_s / 2) / max(outcome.requests_per_s, 1e-12)
    seats, room = replica.settings.max_num_seqs, replica.num_gpu_blocks * replica.settings.block_size
    kv_frac = in_flight * context / max(room, 1)
    return region_of(
        replica.step,
        full_frac=max(in_flight / seats, kv_frac),
        overrun=outcome.preemptions > 0,
        batch=max(min(in_flight, seats, in_flight / max(kv_frac, 1e-9)), 1.0),
        context_tokens=context,
    )


def with_bands(outcome: Outcome, pool: Pool, region: Region) -> Outcome:
    """Return the same outcome with its error bands: of each latency, of its tail, and of a full fleet's tokens.

    Below saturation it is the traffic that decides how many tokens are made: they have no band there.
    """
    latency = {
        metric: replace(
            one,
            band=band(metric, pool, region=region),
            tail_band=band(metric, pool, percentile_frac=TAIL_FRAC, region=region),
        )
        for metric, one in outcome.latency.items()
    }
    tokens = band("output_tokens_per_s", pool, region=region) if region == "saturated" else None
    return replace(outcome, latency=latency, output_tokens_per_s_band=tokens)
