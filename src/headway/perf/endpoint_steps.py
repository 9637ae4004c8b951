"""From a calibration of an endpoint to what the simulator takes: step tables, and replicas."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from headway.errors import InputError, nearest
from headway.perf.endpoint import SCALARS, EndpointCalibration, StepTerms, term_names
from headway.types import Replica, StepTable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headway.types import EngineSettings, IntColumn

_PS_PER_S = 1e12
#: The name, beside those of the terms, of what moves all step times together from one run to the next.
DRIFT = "drift"


def step_table(terms: StepTerms, settings: EngineSettings) -> StepTable:
    """Return the step times as integer picoseconds.

    Between knots a table is linear, before the first it is that one's time, beyond the last it goes on with the last
    slope (its own share of the size where there is one knot). It never falls: a knot below an earlier one is raised.

    Args:
        terms: as fitted.
        settings: how far the tables go: `max_num_seqs` and `max_num_batched_tokens`.
    """
    return StepTable(
        decode_ps=_column_ps(terms.decode_s, settings.max_num_seqs),
        mixed_ps=_column_ps(terms.mixed_s, settings.max_num_batched_tokens),
        context_ps_per_token=_ps(terms.context_s_per_token),
        prefill_ps_per_pair=_ps(terms.prefill_s_per_pair),
        sequence_ps=_ps(terms.sequence_s),
        prefill_context_ps_per_token=_ps(terms.prefill_context_s_per_token),
    )


def _column_ps(knots: Mapping[int, float], most: int) -> IntColumn:
    """Return a table of most + 1 entries, entry 0 unused."""
    at = np.array(sorted(knots), dtype=np.float64)
    seconds = np.maximum.accumulate([knots[int(place)] for place in at])
    places = np.arange(most + 1, dtype=np.float64)
    slope = (seconds[-1] - seconds[-2]) / (at[-1] - at[-2]) if len(at) > 1 else seconds[0] / at[0]
    column_s = np.interp(places, at, seconds) + slope * np.maximum(places - at[-1], 0.0)
    column: IntColumn = np.maximum(np.rint(column_s * _PS_PER_S), 1.0).astype(np.int64)
    column[0] = 0
    return column


def _ps(seconds: float) -> int:
    return round(seconds * _PS_PER_S)


def terms_at(calibration: EndpointCalibration, log_offsets: Mapping[str, float]) -> StepTerms:
    """Return the terms with their logarithms moved, as a draw from the uncertainty moves them.

    Args:
        calibration: whose terms.
        log_offsets: by term (`term_names`); `drift` moves every term of the steps, and not the front end.

    Raises:
        InputError: there is no such term.
    """
    terms, known = calibration.terms, {*term_names(calibration.terms), DRIFT}
    for name in log_offsets:
        if name not in known:
            raise InputError(f"there is no term {name!r}", hint=nearest(name, known))
    drift = log_offsets.get(DRIFT, 0.0)

    def moved(name: str, seconds: float) -> float:
        return seconds * math.exp(log_offsets.get(name, 0.0) + (drift if name != "frontend_s" else 0.0))

    def table(name: str) -> dict[int, float]:
        knots: Mapping[int, float] = getattr(terms, name)
        return {at: moved(f"{name}.{at}", seconds) for at, seconds in knots.items()}

    scalars = {name: moved(name, getattr(terms, name)) for name in SCALARS}
    return replace(terms, decode_s=table("decode_s"), mixed_s=table("mixed_s"), **scalars)


def replica_of(calibration: EndpointCalibration, settings: EngineSettings | None = None) -> Replica:
    """Return all the simulator needs of one replica of the endpoint.

    Args:
        calibration: step times, KV blocks and the front end's time.
        settings: in place of those it ran with.
    """
    found = settings or calibration.settings
    return Replica(
        settings=found,
        step=step_table(calibration.terms, found),
        num_gpu_blocks=calibration.num_gpu_blocks,
        frontend_s=calibration.terms.frontend_s,
    )
