"""Fits the terms of a step by simulating what was sent.

Every run is replayed on the simulator with the engine's own scheduling rules; the logarithms of each request's TTFT and
TPOT, measured over simulated, are the residuals. Least squares with a soft-L1 loss (a stall of the machine counts
once, not squared), the priors of `parameters` as rows of their own. Of a run that is known in figures alone, requests
such as it had are drawn and simulated; the residuals are those of its figures, weighed by how far apart the draws lie.

A simulated request moves by jumps as terms change: who is served with whom flips. So a residual is the mean over a
cloud of vectors around the one in question, and its derivatives are read off the same cloud, all at once. The cloud
begins wide, where only the large shape is seen, and ends about as wide as a machine's speed moves by itself (graduated
optimisation: Blake and Zisserman 1987, "Visual Reconstruction").

A run's own speed on that day is a random effect: one factor on all its step times, drawn towards one by the spread that
the factors themselves show (τ, refitted until it stands). The covariance is that of the linearised posterior, with as
many independent observations per run as its residuals' autocorrelation leaves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import hadamard

from headway.calibration.parameters import Parameters, parameters
from headway.calibration.runs import independent
from headway.calibration.simulated import covariance_of, simulated_run, stated_logs
from headway.errors import EvidenceError
from headway.perf.endpoint_steps import step_table
from headway.types import Replica

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from headway.calibration.runs import Run
    from headway.perf.endpoint import StepTerms
    from headway.types import EngineSettings, FloatColumn

#: How far the cloud reaches in every entry, in standard deviations of its prior: one round after the other.
_REACHES = (0.2, 0.1, 0.05)
#: A drift's, on the same scale: that of a table's first knot, which it moves alongside.
_DRIFT_REACH = 1.0
#: A residual beyond so many of its scale counts linearly.
_SOFT = 1.5
#: What a request's residual is taken to scatter by before any was seen, and at least.
_SCATTER, _LEAST_SCATTER = 0.1, 0.02
#: Spread of the runs' speeds while nobody has seen it, and the least and most it may become.
DRIFT_LOG_SD, _LEAST_DRIFT, _MOST_DRIFT = 0.05, 0.01, 0.3
#: Fewer independent runs do not tell it, and cannot be left out in turn.
LEAST_RUNS = 3
#: A step that gains less of the cost than this ends a round, and so do so many in a row that gain nothing: what is left
#: is jumps.
_ENOUGH_FRAC, _TRIES = 3e-3, 2
#: Standard deviations of noise beyond its mean that are noise still (19 times of 20).
_CHANCE = 1.645


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """What a fit found.

    Attributes:
        parameters: of what.
        vector: (n,) as `Parameters` has it.
        logs: (n,) logarithms of the terms.
        covariance: (n, n) of them.
        entries_sd: (n,) standard deviations of the vector's entries.
        drift_log_sd: spread of the runs' speeds; assumed with fewer than `LEAST_RUNS`.
        drifts: (runs,) logarithm of each run's own factor.
        scatter: of TTFT and TPOT of single requests, in logarithms; assumed where no run has requests.
    """

    parameters: Parameters
    vector: FloatColumn
    logs: FloatColumn
    covariance: FloatColumn
    entries_sd: FloatColumn
    drift_log_sd: float
    drifts: FloatColumn
    scatter: tuple[float, float]
    loss: float

    @property
    def terms(self) -> StepTerms:
        """The terms."""
        return self.parameters.terms(self.logs)


@dataclass(frozen=True, slots=True)
class _Cloud:
    """The residuals of a run in a cloud of vectors.

    Attributes:
        mean: (m,) of each residual.
        slopes: (m, entries) its derivatives.
        jumps: (vectors, m) what neither tells of each vector, divided so that its squares sum to the variance that it
            leaves in `mean`; in a slope, that over the square of how far the cloud reaches in its entry.
    """

    mean: FloatColumn
    slopes: FloatColumn
    jumps: FloatColumn


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
        self.widths = np.append(params.spreads, _DRIFT_REACH)
        self.reach = self.widths * _REACHES[-1]
        entries = len(self.widths)
        half = hadamard(1 << entries.bit_length())[:, 1 : entries + 1]
        self.signs = np.concatenate([half, -half]).astype(np.float64)

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
        """Return the residuals of a run at one vector, each in its standard deviations, independent of one another."""
        run, vector, drift = self.runs[k], x[:-1], float(x[-1])
        if run.stated is None:
            ttft, tpot = self.of_run(k, vector, drift)
            return np.concatenate([ttft / scatter[0], tpot / scatter[1]])
        expected = stated_logs(run, run.stated, self.replica(vector, drift)).mean(axis=0)
        measured = np.log([figure.value_s for figure in run.stated.figures])
        return np.linalg.solve(self.roots[k], measured - expected).astype(np.float64)

    def around(self, k: int, x: FloatColumn, scatter: tuple[float, float]) -> _Cloud:
        """Return the residuals of a run in the cloud around a vector and its drift.

        Every vector of the cloud moves all entries at once, up or down by the rows of a Hadamard matrix and of its
        negative: each derivative then rests on every simulation, and is free of second-order effects (the fold-over
        of a weighing design: Box and Wilson 1951, "On the experimental attainment of optimum conditions").
        """
        cloud = np.stack([self.residuals(k, x + self.reach * signs, scatter) for signs in self.signs])
        count, entries = self.signs.shape
        mean, moves = cloud.mean(axis=0), cloud.T @ self.signs / count
        jumps = (cloud - mean - self.signs @ moves.T) / np.sqrt(count * (count - 1 - entries))
        return _Cloud(mean, moves / self.reach, jumps)


def fit(
    runs: Sequence[Run],
    settings: EngineSettings,
    num_gpu_blocks: int,
    *,
    params: Parameters | None = None,
    progress: Callable[[int, int], None] = lambda _done, _of: None,
) -> Fit:
    """Fit the terms to runs.

    Args:
        runs: of one endpoint.
        settings: its scheduler's.
        num_gpu_blocks: its KV blocks.
        params: which terms; chosen from the runs if None.
        progress: told which round of how many is done.

    Raises:
        EvidenceError: there are no runs.
    """
    if not runs:
        raise EvidenceError("no runs to fit to")
    params = params or parameters(runs, settings)
    problem = _Problem(runs, settings, num_gpu_blocks, params)
    vector, drifts = params.centres.copy(), np.zeros(len(runs))
    scatter, tau = (2 * _SCATTER, 2 * _SCATTER), DRIFT_LOG_SD
    n = len(vector)
    for done, reach in enumerate(_REACHES, 1):
        problem.reach = problem.widths * reach
        problem.weigh(vector)
        vector, drifts = _solve(problem, vector, drifts, scatter, tau)
        covariance = _covariance(problem, vector, drifts, scatter, tau)
        scatter = _scatter(problem, vector, drifts)
        if len(independent(runs)) >= LEAST_RUNS:
            tau = _spread(drifts, covariance[n:, n:])
        progress(done, len(_REACHES))
    slopes = params.slopes(vector)
    return Fit(
        parameters=params,
        vector=vector,
        logs=params.logs(vector),
        covariance=slopes @ covariance[:n, :n] @ slopes.T,
        entries_sd=np.sqrt(np.diag(covariance)[:n]),
        drift_log_sd=tau,
        drifts=drifts,
        scatter=scatter,
        loss=_loss(problem, np.concatenate([vector, drifts]), scatter, tau),
    )


def _loss(problem: _Problem, x: FloatColumn, scatter: tuple[float, float], tau: float) -> float:
    weighted, _ = _linearised(problem, x, scatter, tau)
    counts = [sum(int(pair[side].sum()) for pair in problem.kept) for side in (0, 1)]
    spreads = sum(count * np.log(one) for count, one in zip(counts, scatter, strict=True))
    spreads += sum(float(np.log(np.diag(root)).sum()) for root in problem.roots.values())
    return float(weighted @ weighted / 2 + spreads + len(problem.runs) * np.log(tau))


def _solve(
    problem: _Problem, vector: FloatColumn, drifts: FloatColumn, scatter: tuple[float, float], tau: float
) -> tuple[FloatColumn, FloatColumn]:
    """Gauss-Newton with damping (Levenberg-Marquardt) on vector and drifts."""
    x = np.concatenate([vector, drifts])
    damping, gain, failed = 1e-2, np.inf, 0
    value, jacobian = _linearised(problem, x, scatter, tau)
    cost = float(value @ value)
    while gain > _ENOUGH_FRAC * cost or 0 < failed < _TRIES:
        normal, slope = jacobian.T @ jacobian, jacobian.T @ value
        step = np.clip(-np.linalg.solve(normal + damping * np.diag(np.diag(normal)), slope), -1.0, 1.0)
        ahead, slopes = _linearised(problem, x + step, scatter, tau)
        gain = cost - float(ahead @ ahead)
        if gain > 0:
            x, value, jacobian, cost, damping, failed = x + step, ahead, slopes, cost - gain, damping / 5, 0
        else:
            damping, failed = damping * 30, failed + 1
    n = len(problem.params.names)
    return x[:n], x[n:]


def _covariance(
    problem: _Problem, vector: FloatColumn, drifts: FloatColumn, scatter: tuple[float, float], tau: float
) -> FloatColumn:
    """Return the covariance of vector and drifts: the inverse of what the runs and the priors tell.

    Jumps of the simulation that got into a derivative look as if the run told of that entry. As the cloud's moves are
    orthogonal, they add their variance to the diagonal alone, and it is taken off again: the most it may be, by chance
    and with jumps that many requests share.
    """
    n, count = len(vector), len(drifts)
    told = np.diag(np.concatenate([1 / problem.params.spreads**2, np.full(count, 1 / tau**2)]))
    for k in range(count):
        cloud = problem.around(k, np.append(vector, drifts[k]), scatter)
        weight = _soft_slope(cloud.mean)
        slopes = cloud.slopes * weight[:, None]
        shared = (jumps := cloud.jumps * weight) @ jumps.T
        noise = float(np.trace(shared)) + _CHANCE * float(np.sqrt(2) * np.linalg.norm(shared))
        seen = slopes.T @ slopes - np.diag(noise / problem.reach**2)
        values, axes = np.linalg.eigh(seen)
        own = np.append(np.arange(n), n + k)
        told[np.ix_(own, own)] += (axes * np.maximum(values, 0.0)) @ axes.T
    return np.linalg.inv(told).astype(np.float64)


def _soft(residuals: FloatColumn) -> FloatColumn:
    """Return residuals whose squares are the soft-L1 loss."""
    scaled = residuals / _SOFT
    found: FloatColumn = np.sign(scaled) * _SOFT * np.sqrt(2 * (np.sqrt(1 + scaled**2) - 1))
    return found


def _soft_slope(residuals: FloatColumn) -> FloatColumn:
    """Return the derivatives of `_soft`."""
    with np.errstate(invalid="ignore", divide="ignore"):
        found = residuals / _soft(residuals) / np.sqrt(1 + (residuals / _SOFT) ** 2)
    return np.where(np.abs(residuals) > 1e-9, found, 1.0)


def _linearised(
    problem: _Problem, x: FloatColumn, scatter: tuple[float, float], tau: float
) -> tuple[FloatColumn, FloatColumn]:
    """Return the weighted residuals and their derivatives; a drift moves its own run only."""
    n, count = len(problem.params.names), len(problem.runs)
    values, slopes = [], []
    for k in range(count):
        cloud = problem.around(k, np.append(x[:n], x[n + k]), scatter)
        own = np.zeros((len(cloud.mean), n + count))
        own[:, :n], own[:, n + k] = cloud.slopes[:, :n], cloud.slopes[:, n]
        values.append(_soft(cloud.mean))
        slopes.append(own * _soft_slope(cloud.mean)[:, None])
    priors = np.zeros((n + count, n + count))
    priors[:n, :n] = np.diag(1 / problem.params.spreads)
    priors[n:, n:] = np.eye(count) / tau
    return np.concatenate([*values, problem.params.prior_residuals(x[:n]), x[n:] / tau]), np.vstack([*slopes, priors])


def _scatter(problem: _Problem, vector: FloatColumn, drifts: FloatColumn) -> tuple[float, float]:
    """Return the robust spread of single requests' residuals, widened by their autocorrelation.

    With a lag-1 correlation r, n residuals tell as much as n (1 − r) / (1 + r) independent ones (AR(1)).
    """
    ttft, tpot = [], []
    for k, (has_ttft, _) in enumerate(problem.kept):
        if problem.runs[k].stated is None:
            value = problem.around(k, np.append(vector, drifts[k]), (1.0, 1.0)).mean
            ttft.append(value[: has_ttft.sum()])
            tpot.append(value[has_ttft.sum() :])
    return _widened(ttft), _widened(tpot)


def _widened(parts: list[FloatColumn]) -> float:
    every = np.concatenate([*parts, np.empty(0)])
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
