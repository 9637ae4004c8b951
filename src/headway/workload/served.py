"""What a run measured, in the form `metrics` scores: the one way there, for every client and every file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from headway.errors import InputError
from headway.metrics import CANCELLED, Served, rank_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headway.types import BoolColumn, FloatColumn, IntColumn, Requests
    from headway.workload.trace import Measured


def served_of(requests: Requests, measured: Measured, words: Sequence[str] = ()) -> Served:
    """Return what became of measured requests, for `metrics.outcome(requests, served, slo, "measured")`.

    A request with an error has failed, or was cancelled by its client, which is no failure. Of a failed one the times,
    if it has some, do not count; of a cancelled one TTFT does. The tokens of both are those asked for. One without an
    error and without an end is unfinished. Of an answered one the tokens are those counted, where they were. Gaps are
    those of all requests, of a stream that broke too: until then they were served.

    Args:
        requests: what was asked for.
        measured: what came of each.
        words: what the codes of its errors stand for, `Trace.names["error"]`; without them none is known as cancelled.

    Raises:
        InputError: no end was measured of any request, so there is nothing to score.
    """
    if measured.e2e_s is None:
        raise InputError("no end of any request was measured", hint="e2e_s is needed to score a run")
    failed = np.zeros(len(requests), dtype=np.int64) if measured.error is None else _fate(measured.error, words)
    answered = (failed == 0) & np.isfinite(measured.e2e_s)
    gaps_s = np.sort(measured.itl_s) if measured.itl_s is not None else np.empty(0)
    return Served(
        first_s=None if measured.ttft_s is None else requests.arrive_s + measured.ttft_s,
        last_s=requests.arrive_s + measured.e2e_s,
        failed=failed,
        input_tokens=_counted(measured.input_tokens, requests.isl_tokens, answered),
        output_tokens=_counted(measured.output_tokens, requests.osl_tokens, answered),
        cached_tokens=_told(measured.cached_tokens),
        itl_quantile_s=lambda frac: _quantile_s(gaps_s, frac),
        itl_mean_s=float(gaps_s.mean()) if len(gaps_s) else 0.0,
        itl_max_s=float(gaps_s[-1]) if len(gaps_s) else 0.0,
        itl_samples=len(gaps_s),
    )


def _fate(error: IntColumn, words: Sequence[str]) -> IntColumn:
    """Return 0 for what was answered, and else whether it failed or was cancelled."""
    hung_up = np.array([word == "cancelled" for word in words] or [False])
    return np.where(hung_up[np.minimum(error, len(hung_up) - 1)], CANCELLED, error != 0)


def _told(cached_tokens: IntColumn | None) -> IntColumn | None:
    """Return the counts if the server told any."""
    return None if cached_tokens is None or not (cached_tokens >= 0).any() else cached_tokens


def _counted(counts: IntColumn | None, asked: IntColumn, answered: BoolColumn) -> IntColumn | None:
    """Return the tokens counted of answered requests, and those asked for of all others."""
    return None if counts is None else np.where(answered & (counts > 0), counts, asked)


def _quantile_s(ordered_s: FloatColumn, frac: float) -> float:
    return float(ordered_s[rank_of(frac, len(ordered_s))])
