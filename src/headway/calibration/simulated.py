"""A run as the simulator has it, and the figures of one that is known in figures alone."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from headway.simulator import record, simulate
from headway.workload import take

if TYPE_CHECKING:
    from headway.calibration.runs import Run, Stated, StatedFigure
    from headway.types import FloatColumn, IntColumn, Replica

_PS_PER_S = 1e12


def simulated_run(run: Run, replica: Replica) -> tuple[FloatColumn, FloatColumn]:
    """Return TTFT and TPOT of every request of a run, simulated, in seconds; NaN where there is none."""
    return simulated_times(run, replica)[1:]


def simulated_times(run: Run, replica: Replica) -> tuple[FloatColumn, FloatColumn, FloatColumn]:
    """Return when every request of a run is sent, and its TTFT and TPOT, simulated, in seconds."""
    turnaround_s = 0.0 if run.concurrency is None else run.turnaround_s + replica.frontend_s
    found = simulate(run.requests, replica, concurrency=run.concurrency, turnaround_s=turnaround_s)
    first, last = (np.where(t < 0, np.nan, t) / _PS_PER_S for t in (found.first_ps, found.last_ps))
    gaps = run.requests.osl_tokens - 1
    with np.errstate(invalid="ignore", divide="ignore"):
        tpot_s = np.where(gaps > 0, (last - first) / gaps, np.nan)
    sends_s = found.arrive_ps / _PS_PER_S
    return sends_s, first + replica.frontend_s - sends_s, tpot_s


def largest_step(run: Run, replica: Replica) -> int:
    """Return the most tokens of one step of a run, simulated."""
    sends_s, _, _ = simulated_times(run, replica)
    order = np.argsort(sends_s, kind="stable")
    schedule = record(replace(take(run.requests, order), arrive_s=sends_s[order]), replica)
    return max(step.tokens for step in schedule.steps)


def covariance_of(run: Run, stated: Stated, replica: Replica) -> FloatColumn:
    """Return how far a stated run's figures may lie from their expectation: covariance of the logarithms.

    That of the draws is taken half way to its diagonal: a few draws do not tell more of it (Ledoit and Wolf 2004, "A
    well-conditioned estimator for large-dimensional covariance matrices").
    """
    logs = stated_logs(run, stated, replica)
    sampled = np.cov(logs, rowvar=False).reshape(logs.shape[1], logs.shape[1])
    chance = (1 + 1 / len(logs)) * (sampled + np.diag(np.diag(sampled))) / 2
    found: FloatColumn = chance + np.diag([figure.log_sd**2 for figure in stated.figures])
    return found


def stated_logs(run: Run, stated: Stated, replica: Replica) -> FloatColumn:
    """Return the logarithms of a stated run's figures, simulated: (draws, figures)."""
    seen = replace(replica, frontend_s=0.0) if stated.evidence == "metrics" else replica
    rows = []
    for requests in stated.draws:
        ttft_s, tpot_s = (one[stated.skipped :] for one in simulated_run(replace(run, requests=requests), seen))
        gaps = (requests.osl_tokens - 1)[stated.skipped :]
        columns = {"ttft": ttft_s, "tpot": tpot_s, "e2e": ttft_s + np.nan_to_num(tpot_s) * gaps}
        found = {metric: _ordered(column, gaps) for metric, column in columns.items()}
        rows.append([_figure(figure, *found[figure.metric]) for figure in stated.figures])
    logs: FloatColumn = np.log(rows)
    return logs


def _ordered(values_s: FloatColumn, gaps: IntColumn) -> tuple[FloatColumn, IntColumn]:
    """Return a latency of the requests that have it, in order, and their gaps."""
    order = np.argsort(values_s)
    known = order[: int(np.isfinite(values_s).sum())]  # NaN comes last
    return values_s[known], gaps[known]


def _figure(figure: StatedFigure, ordered_s: FloatColumn, gaps: IntColumn) -> float:
    """Return the mean or the quantile, interpolated between neighbours as load generators do."""
    if figure.frac is None:
        return float(ordered_s @ gaps / gaps.sum()) if figure.weighed else float(ordered_s.mean())
    if figure.weighed:
        return float(np.interp(figure.frac, np.cumsum(gaps) / gaps.sum(), ordered_s))
    place, rest = divmod(figure.frac * (len(ordered_s) - 1), 1.0)
    low, high = (ordered_s[min(int(place) + step, len(ordered_s) - 1)] for step in (0, 1))
    return float(low + rest * (high - low))
