"""Fits the terms of a step by simulating what was sent.

Every run is replayed on the simulator with the engine's own scheduling rules; the logarithms of each request's TTFT and
TPOT, measured over simulated, are the residuals. Least squares with a soft-L1 loss (a stall of the machine counts
once, not squared), the priors of `parameters` as rows of their own. Of a run that is known in figures alone, requests
such as it had are drawn and simulated; the residuals are those of its figures, weighed by how far apart the draws lie.
A run's own speed on that day is a random effect: one factor on all its step times, drawn towards one by the spread that
the factors themselves show (τ, refitted until it stands). The covariance is that of the linearised posterior, with as
many independent observations per run as its residuals' autocorrelation leaves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from headway.calibration.parameters import Parameters, parameters
from headway.calibration.simulated import covariance_of, simulated_run, stated_logs
from headway.errors import EvidenceError
from headway.perf.endpoint_steps import step_table
from headway.types import Replica

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from headway.calibration.runs import Run
    from headway.perf.endpoint import StepTerms
    from headway.types import EngineSettings, FloatColumn

#: How far to move an entry to see what depends on it: beyond the simulator's own unevenness, within the linear.
_STEP = 0.02
#: A residual beyond so many of its scale counts linearly.
_SOFT = 1.5
#: What a request's residual is taken to scatter by before any was seen, and at least.
_SCATTER, _LEAST_SCATTER = 0.1, 0.02
#: Spread of the runs' speeds before they are seen, and the least and most it may become.
_DRIFT, _LEAST_DRIFT, _MOST_DRIFT = 0.05, 0.01, 0.3
_ROUNDS = 5
#: Steps of one round at most; the share of the cost below which a gain ends it, and the gain that is never worth a step
#: more (it moves no term by more than a seventh of its standard error).
_STEPS, _ENOUGH_FRAC, _ENOUGH = 30, 1e-4, 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """What a fit found.

    Attributes:
        parameters: of what.
        vector: (n,) as `Parameters` has it.
        logs: (n,) logarithms of the terms.
        covariance: (n, n) of them.
        drift_log_sd: spread of the runs' speeds.
        drifts: (runs,) logarithm of each run's own factor.
        scatter: of TTFT and TPOT of single requests, in logarithms; assumed where no run has requests.
    """

    parameters: Parameters
    vector: FloatColumn
    logs: FloatColumn
    covariance: FloatColumn
    drift_log_sd: float
    drifts: FloatColumn
    scatter: tuple[float, float]
    loss: float

    @property
    def terms(self) -> StepTerms:
        """The terms."""
        return self.parameters.terms(self.logs)


class _Problem:
    """The residuals of a fit."""

    def __init__(self, runs: Sequence[Run], settings: EngineSettings, num_gpu_blocks: int, params: Parameters) -> None:
        self.runs, self.settings, self.blocks, self.params = runs, settings, num_gpu_blocks, params
        every = [run.stated is None for run in runs]
        self.kept = [
            (one & np.isfinite(run.ttft_s), one & np.isfinite(run.tpot_s) & (run.tpot_s > 0))
            for one, run in zip(every, runs, strict=True)
        ]
        self.roots: dict[int, FloatColumn] = {}

    def replica(self, vector: FloatColumn, drift: float) -> Replica:
        terms = self.params.terms(self.params.logs(vector), drift)
        table = step_table(terms, self.settings)
        return Replica(settings=self.settings, step=table, num_gpu_blocks=self.blocks, frontend_s=terms.frontend_s)

    def of_run(self, k: int, vector: FloatColumn, drift: float) -> tuple[FloatColumn, FloatColumn]:
        """Return log(measured / simulated) of TTFT and of TPOT of a run's answered requests."""
        run, (has_ttft, has_tpot) = self.runs[k], self.kept[k]
        ttft_s, tpot_s = simulated_run(run, self.replica(vector, drift))
        return np.log(run.ttft_s[has_ttft] / ttft_s[has_ttft]), np.log(run.tpot_s[has_tpot] / tpot_s[has_tpot])

    def weigh(self, vector: FloatColumn) -> None:
        """Take the covariance of stated runs' figures at a vector."""
        for k, run in enumerate(self.runs):
            if run.stated is not None:
                covariance = covariance_of(run, run.stated, self.replica(vector, 0.0))
                self.roots[k] = np.linalg.cholesky(covariance).astype(np.float64)

    def residuals(self, k: int, x: FloatColumn, scatter: tuple[float, float]) -> FloatColumn:
        """Return the residuals of a run, each in its standard deviations, independent of one another."""
        n, run = len(self.params.names), self.runs[k]
        vector, drift = x[:n], float(x[n + k])
        if run.stated is None:
            ttft, tpot = self.of_run(k, vector, drift)
            return np.concatenate([ttft / scatter[0], tpot / scatter[1]])
        expected = stated_logs(run, run.stated, self.replica(vector, drift)).mean(axis=0)
        measured = np.log([figure.value_s for figure in run.stated.figures])
        return np.linalg.solve(self.roots[k], measured - expected).astype(np.float64)


def fit(
    runs: Sequence[Run],
    settings: EngineSettings,
    num_gpu_blocks: int,
    *,
    params: Parameters | None = None,
    start: Fit | None = None,
    progress: Callable[[int, int], None] = lambda _done, _of: None,
) -> Fit:
    """Fit the terms to runs.

    Args:
        runs: of one endpoint.
        settings: its scheduler's.
        num_gpu_blocks: its KV blocks.
        params: which terms; chosen from the runs if None.
        start: begin there (a fit of nearly the same runs), and keep its scatter and drift.
        progress: told which round of how many is done.

    Raises:
        EvidenceError: there are no runs.
    """
    if not runs:
        raise EvidenceError("no runs to fit to")
    params = params or parameters(runs, settings)
    problem = _Problem(runs, settings, num_gpu_blocks, params)
    vector, drifts = (start.vector if start else params.centres).copy(), np.zeros(len(runs))
    scatter = start.scatter if start else (2 * _SCATTER, 2 * _SCATTER)
    tau = start.drift_log_sd if start else _DRIFT
    n = len(vector)
    for round_number in range(1 if start else _ROUNDS):
        problem.weigh(vector)
        vector, drifts, jacobian = _solve(problem, vector, drifts, scatter, tau)
        covariance: FloatColumn = np.linalg.inv(jacobian.T @ jacobian).astype(np.float64)
        if not start:
            scatter = _scatter(problem, vector, drifts)
            tau = _spread(drifts, covariance[n:, n:])
        progress(round_number + 1, _ROUNDS)
    slopes = params.slopes(vector)
    return Fit(
        parameters=params,
        vector=vector,
        logs=params.logs(vector),
        covariance=slopes @ covariance[:n, :n] @ slopes.T,
        drift_log_sd=tau,
        drifts=drifts,
        scatter=scatter,
        loss=_loss(problem, np.concatenate([vector, drifts]), scatter, tau),
    )


def _loss(problem: _Problem, x: FloatColumn, scatter: tuple[float, float], tau: float) -> float:
    weighted = _weighted(problem, x, scatter, tau)
    counts = [sum(int(pair[side].sum()) for pair in problem.kept) for side in (0, 1)]
    spreads = sum(count * np.log(one) for count, one in zip(counts, scatter, strict=True))
    spreads += sum(float(np.log(np.diag(root)).sum()) for root in problem.roots.values())
    return float(weighted @ weighted / 2 + spreads + len(problem.runs) * np.log(tau))


def _solve(
    problem: _Problem, vector: FloatColumn, drifts: FloatColumn, scatter: tuple[float, float], tau: float
) -> tuple[FloatColumn, FloatColumn, FloatColumn]:
    """Gauss-Newton with damping (Levenberg-Marquardt) on vector and drifts; also the weighted Jacobian."""
    x = np.concatenate([vector, drifts])
    damping = 1e-2
    value, jacobian = _linearised(problem, x, scatter, tau)
    cost = float(value @ value)
    for _ in range(_STEPS):
        normal, slope = jacobian.T @ jacobian, jacobian.T @ value
        step = -np.linalg.solve(normal + damping * np.diag(np.diag(normal)), slope)
        step = np.clip(step, -1.0, 1.0)
        tried = _weighted(problem, x + step, scatter, tau)
        new = float(tried @ tried)
        if new < cost:
            gain, x, damping = cost - new, x + step, max(damping / 5, 1e-6)
            value, jacobian = _linearised(problem, x, scatter, tau)
            cost = float(value @ value)
            if gain < max(_ENOUGH_FRAC * cost, _ENOUGH):
                break
        else:
            damping *= 10
            if damping > 1e4:
                break
    n = len(problem.params.names)
    return x[:n], x[n:], jacobian


def _soft(residuals: FloatColumn) -> FloatColumn:
    """Return residuals whose squares are the soft-L1 loss."""
    scaled = residuals / _SOFT
    found: FloatColumn = np.sign(scaled) * _SOFT * np.sqrt(2 * (np.sqrt(1 + scaled**2) - 1))
    return found


def _weighted(problem: _Problem, x: FloatColumn, scatter: tuple[float, float], tau: float) -> FloatColumn:
    n = len(problem.params.names)
    parts = [_soft(problem.residuals(k, x, scatter)) for k in range(len(problem.runs))]
    return np.concatenate([*parts, problem.params.prior_residuals(x[:n]), x[n:] / tau])


def _linearised(
    problem: _Problem, x: FloatColumn, scatter: tuple[float, float], tau: float
) -> tuple[FloatColumn, FloatColumn]:
    """Return the weighted residuals and their derivatives, by central differences; a drift moves its own run only."""
    n, count = len(problem.params.names), len(problem.runs)
    values = [problem.residuals(k, x, scatter) for k in range(count)]
    slopes = [np.zeros((len(value), n + count)) for value in values]
    for k in range(count):
        for i in (*range(n), n + k):
            up, down = x.copy(), x.copy()
            up[i] += _STEP
            down[i] -= _STEP
            ahead, behind = (problem.residuals(k, moved, scatter) for moved in (up, down))
            slopes[k][:, i] = (ahead - behind) / (2 * _STEP)
    value, slope = np.concatenate(values), np.concatenate(slopes)
    soft = _soft(value)
    with np.errstate(invalid="ignore", divide="ignore"):
        chain = np.where(np.abs(value) > 1e-9, value / soft / np.sqrt(1 + (value / _SOFT) ** 2), 1.0)
    priors = np.zeros((len(problem.params.centres) + count, n + count))
    priors[:-count, :n] = np.diag(1 / problem.params.spreads)
    priors[-count:, n:] = np.eye(count) / tau
    residuals = np.concatenate([soft, problem.params.prior_residuals(x[:n]), x[n:] / tau])
    return residuals, np.concatenate([slope * chain[:, None], priors])


def _scatter(problem: _Problem, vector: FloatColumn, drifts: FloatColumn) -> tuple[float, float]:
    """Return the robust spread of single requests' residuals, widened by their autocorrelation.

    With a lag-1 correlation r, n residuals tell as much as n (1 − r) / (1 + r) independent ones (AR(1)).
    """
    found = [problem.of_run(k, vector, float(drifts[k])) for k in range(len(problem.runs))]
    return tuple(_widened([pair[side] for pair in found]) for side in (0, 1))  # type: ignore[return-value]


def _widened(parts: list[FloatColumn]) -> float:
    every = np.concatenate(parts)
    if not len(every):
        return _SCATTER
    spread = max(1.4826 * float(np.median(np.abs(every))), _LEAST_SCATTER)
    inside = [np.clip(part, -3 * spread, 3 * spread) for part in parts]
    square = sum(float(part @ part) for part in inside)
    lagged = sum(float(part[1:] @ part[:-1]) for part in inside)
    r = min(max(lagged / max(square, 1e-12), 0.0), 0.9)
    return spread * float(np.sqrt((1 + r) / (1 - r)))


def _spread(drifts: FloatColumn, covariance: FloatColumn) -> float:
    """Return the spread of the runs' speeds: their mean square, and what is not known of each (one step of EM)."""
    square = float(np.mean(drifts**2 + np.diag(covariance)))
    return float(np.clip(np.sqrt(square), _LEAST_DRIFT, _MOST_DRIFT))
