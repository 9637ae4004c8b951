"""What a run measured, in the form `metrics` scores: the one way there, for every client and every file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from headway.errors import InputError
from headway.metrics import Served, rank_of

if TYPE_CHECKING:
    from headway.types import BoolColumn, FloatColumn, IntColumn, Requests
    from headway.workload.trace import Measured


def served_of(requests: Requests, measured: Measured) -> Served:
    """Return what became of measured requests, for `metrics.outcome(requests, served, slo, "measured")`.

    A request with an error has failed: its times, if it has some, do not count, and its tokens are those asked for.
    One without an error and without an end is unfinished. Of an answered one the tokens are those counted, where they
    were. Gaps are those of all requests, of a stream that broke too: until then they were served.

    Args:
        requests: what was asked for.
        measured: what came of each.

    Raises:
        InputError: no end was measured of any request, so there is nothing to score.
    """
    if measured.e2e_s is None:
        raise InputError("no end of any request was measured", hint="e2e_s is needed to score a run")
    failed = np.zeros(len(requests), dtype=np.int64) if measured.error is None else (measured.error != 0).astype(int)
    answered = (failed == 0) & np.isfinite(measured.e2e_s)
    gaps_s = np.sort(measured.itl_s) if measured.itl_s is not None else np.empty(0)
    return Served(
        first_s=None if measured.ttft_s is None else requests.arrive_s + measured.ttft_s,
        last_s=requests.arrive_s + measured.e2e_s,
        failed=failed,
        input_tokens=_counted(measured.input_tokens, requests.isl_tokens, answered),
        output_tokens=_counted(measured.output_tokens, requests.osl_tokens, answered),
        cached_tokens=None if measured.cached_tokens is None else np.maximum(measured.cached_tokens, 0),
        itl_quantile_s=lambda frac: _quantile_s(gaps_s, frac),
        itl_mean_s=float(gaps_s.mean()) if len(gaps_s) else 0.0,
        itl_max_s=float(gaps_s[-1]) if len(gaps_s) else 0.0,
        itl_samples=len(gaps_s),
    )


def _counted(counts: IntColumn | None, asked: IntColumn, answered: BoolColumn) -> IntColumn | None:
    """Return the tokens counted of answered requests, and those asked for of all others."""
    return None if counts is None else np.where(answered & (counts > 0), counts, asked)


def _quantile_s(ordered_s: FloatColumn, frac: float) -> float:
    return float(ordered_s[rank_of(frac, len(ordered_s))])
