"""Which runs to do next: those that shrink the band of what one wants to know the most, for the time they take.

A candidate is simulated at the present terms. The derivatives of its requests' latencies, weighed as in the fit, are
the information it would add (its own speed on the day is one unknown more, and is eliminated); the gradient of a target
figure then says how much narrower the target's band would be. Linear Bayesian design, one run at a time, greedily:
Chaloner and Verdinelli 1995, "Bayesian experimental design: a review", Statistical Science 10(3), criterion of a linear
combination of the parameters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from headway.calibration.predicting import FIGURES, simulated_figures
from headway.calibration.runs import Run
from headway.calibration.simulated import simulated_run
from headway.perf.endpoint_steps import step_table
from headway.probe.nouns import Load
from headway.types import Replica, Requests

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headway.calibration.fitting import Fit
    from headway.types import EngineSettings, FloatColumn

_STEP = 0.03
#: A further run that shrinks the band by less than this share is not proposed.
LEAST_GAIN_FRAC = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A run worth doing.

    Attributes:
        load: what to send.
        duration_s: how long it takes, as predicted.
        sd_before: standard deviation of the targets' logarithms by the terms alone, root mean square, before …
        sd_after: … and after it.
    """

    load: Load
    duration_s: float
    sd_before: float
    sd_after: float

    @property
    def gain_frac(self) -> float:
        """By which share the band gets narrower."""
        return 1 - self.sd_after / self.sd_before if self.sd_before > 0 else 0.0


def candidates(requests: Requests, settings: EngineSettings, *, seconds: float, found: Fit, blocks: int) -> list[Load]:
    """Return loads to choose from: closed loops of every size, with the lengths of the traffic, its short and its long.

    Args:
        requests: the traffic one wants to know about.
        settings: of the engine.
        seconds: how long each may take, by the present fit.
        found: the present fit.
        blocks: KV blocks.
    """
    sizes = [2**k for k in range(int(math.log2(max(settings.max_num_seqs, 1))) + 1)]
    kinds = {"": requests, " short": _scaled(requests, 0.4), " long": _scaled(requests, 1.6, settings.max_model_len)}
    loads = [
        Load(name=f"closed {size}{kind}", requests=some, concurrency=size)
        for size in sizes
        for kind, some in kinds.items()
    ]
    replica = _replica(found, found.logs, settings, blocks)
    return [fitted for load in loads if (fitted := shortened(load, replica, seconds)) is not None]


def _scaled(requests: Requests, by: float, limit: int | None = None) -> Requests:
    isl = np.maximum((requests.isl_tokens * by).astype(np.int64), 1)
    if limit is not None:
        isl = np.minimum(isl, np.maximum(limit - requests.osl_tokens - 1, 1))
    return replace(requests, isl_tokens=isl, prefix=None, session_id=None)


def shortened(load: Load, replica: Replica, seconds: float, *, least: int = 8) -> Load | None:
    """Return the first requests of a load that take so long; None where too few do."""
    count = min(len(load.requests), 400)
    while count >= least:
        some = _head(load, count)
        spent_s = duration_s(some, replica)
        if spent_s <= seconds * 1.1:
            return some
        count = min(count - 1, max(int(count * seconds / spent_s), 1))
    return None


def _head(load: Load, count: int) -> Load:
    from headway.workload.selection import take

    some = take(load.requests, np.arange(min(count, len(load.requests))))
    free = replace(some, arrive_s=np.zeros(len(some))) if load.concurrency is not None else some
    return replace(load, requests=free)


def duration_s(load: Load, replica: Replica) -> float:
    """Return how long a load takes, simulated."""
    from headway.simulator import simulate

    turnaround_s = 0.0 if load.concurrency is None else load.turnaround_s + replica.frontend_s
    found = simulate(load.requests, replica, concurrency=load.concurrency, turnaround_s=turnaround_s)
    return float(found.end_ps) / 1e12


def propose(
    found: Fit,
    targets: Sequence[Load],
    choices: Sequence[Load],
    settings: EngineSettings,
    num_gpu_blocks: int,
    *,
    most: int = 3,
) -> list[Proposal]:
    """Propose the next runs, best first.

    Args:
        found: the present fit.
        targets: loads one wants to predict.
        choices: loads that could be run.
        settings: of the engine.
        num_gpu_blocks: its KV blocks.
        most: how many to propose at most; fewer where a further one gains less than `LEAST_GAIN_FRAC`.
    """
    gradients = np.concatenate([_target_gradients(found, load, settings, num_gpu_blocks) for load in targets])
    known: FloatColumn = np.linalg.inv(found.covariance).astype(np.float64)
    added = [(load, *_information(found, load, settings, num_gpu_blocks)) for load in choices]
    proposals: list[Proposal] = []
    before = _sd(gradients, found.covariance)
    while len(proposals) < most and added:
        after, best = min(
            ((_sd(gradients, np.linalg.inv(known + one[1]).astype(np.float64)), one) for one in added),
            key=lambda pair: pair[0],
        )
        if after > before * (1 - LEAST_GAIN_FRAC):
            break
        proposals.append(Proposal(load=best[0], duration_s=best[2], sd_before=before, sd_after=after))
        known = known + best[1]
        before = after
        added = [one for one in added if one is not best]
    return proposals


def _sd(gradients: FloatColumn, covariance: FloatColumn) -> float:
    """Return the root mean square of the targets' standard deviations."""
    variances = np.einsum("ij,jk,ik->i", gradients, covariance, gradients)
    return float(np.sqrt(np.mean(np.maximum(variances, 0.0))))


def _replica(found: Fit, logs: FloatColumn, settings: EngineSettings, blocks: int) -> Replica:
    terms = found.parameters.terms(logs)
    return Replica(
        settings=settings, step=step_table(terms, settings), num_gpu_blocks=blocks, frontend_s=terms.frontend_s
    )


def _moved(found: Fit) -> list[tuple[FloatColumn, FloatColumn]]:
    """Return the vectors a step ahead of and behind the fit, in each direction, and in all steps together last."""
    n = len(found.logs)
    together = np.array([0.0 if name == "frontend_s" else 1.0 for name in found.parameters.names])
    return [(found.logs + _STEP * d, found.logs - _STEP * d) for d in (*np.eye(n), together)]


def _target_gradients(found: Fit, load: Load, settings: EngineSettings, blocks: int) -> FloatColumn:
    def logs(at: FloatColumn) -> FloatColumn:
        figures = simulated_figures(load, _replica(found, at, settings, blocks))
        return np.log([max(figures[name], 1e-9) for name in FIGURES])

    columns = [(logs(ahead) - logs(behind)) / (2 * _STEP) for ahead, behind in _moved(found)[:-1]]
    return np.stack(columns, axis=1)


def _information(found: Fit, load: Load, settings: EngineSettings, blocks: int) -> tuple[FloatColumn, float]:
    """Return the information a load would add, its own drift eliminated, and how long it takes."""
    nothing = np.full(len(load.requests), np.nan)
    run = Run(
        name=load.name,
        requests=load.requests,
        ttft_s=nothing,
        tpot_s=nothing,
        concurrency=load.concurrency,
        turnaround_s=load.turnaround_s,
    )

    def logs(at: FloatColumn) -> FloatColumn:
        ttft_s, tpot_s = simulated_run(run, _replica(found, at, settings, blocks))
        weighed = [np.log(ttft_s) / found.scatter[0], np.log(tpot_s) / found.scatter[1]]
        return np.nan_to_num(np.concatenate(weighed), posinf=0.0, neginf=0.0)

    slopes = np.stack([(logs(ahead) - logs(behind)) / (2 * _STEP) for ahead, behind in _moved(found)], axis=1)
    whole = slopes.T @ slopes
    n = len(found.logs)
    drift = whole[n, n] + 1 / found.drift_log_sd**2
    information = whole[:n, :n] - np.outer(whole[:n, n], whole[:n, n]) / drift
    return information, duration_s(load, _replica(found, found.logs, settings, blocks))
