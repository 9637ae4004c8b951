"""The terms of a step as one vector without bounds, with what is believed of it before any run.

A table's first knot and the small terms stand as natural logarithms. Every further knot stands as a logit of its slope:
0 is flat, 1 proportional to its place, so that no vector makes a larger batch a faster one. Priors are weak, and there
for what no run tells. How little a run added to them is how a term is found not to be identified.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from headway.perf.endpoint import SCALARS, StepTerms

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headway.calibration.runs import Run
    from headway.types import EngineSettings, FloatColumn

#: A knot's slope, d log time / d log size, lies between 0 and this; logits of it scatter by so much around the usual.
_STEEPEST, _SLOPE_SD = 1.25, 1.5
_DECODE_SLOPE, _MIXED_SLOPE = 0.5, 0.8
#: Standard deviation of the logarithm of a first knot around what the runs look like, and of the small terms.
_FIRST_SD, _SMALL_SD = 1.0, 1.5
#: Small terms before any run, as a share of a step of one sequence: a token of context, a pair of a prompt's tokens, a
#: token a chunk is put on, a further sequence beside a prompt. The front end starts from five milliseconds.
_CONTEXT, _PAIR, _UPON, _SEQUENCE, _FRONTEND_S = 2e-4, 2e-5, 2e-5, 2e-2, 5e-3
#: A CPU's matrices have steps of their own between 8 and 128 tokens: knots four times apart hid them.
_MIXED_KNOTS = (1, *(2**k for k in range(3, 16)))


@dataclass(frozen=True, slots=True)
class Parameters:
    """Which terms there are, and what is believed of the vector beforehand.

    Attributes:
        decode_knots, mixed_knots: places of the tables' knots.
        centres: (n,) where each entry is believed to be, and where fits begin.
        spreads: (n,) standard deviation of that belief.
    """

    decode_knots: tuple[int, ...]
    mixed_knots: tuple[int, ...]
    centres: FloatColumn
    spreads: FloatColumn

    @property
    def names(self) -> tuple[str, ...]:
        """The terms, in the order of the vector."""
        decode = (f"decode_s.{at}" for at in self.decode_knots)
        return (*decode, *(f"mixed_s.{at}" for at in self.mixed_knots), *SCALARS)

    def logs(self, vector: FloatColumn) -> FloatColumn:
        """Return the logarithms of the terms at a vector."""
        found = vector.copy()
        for first, knots in self._tables():
            for k in range(1, len(knots)):
                rise = _STEEPEST * _share(vector[first + k]) * math.log(knots[k] / knots[k - 1])
                found[first + k] = found[first + k - 1] + rise
        return found

    def slopes(self, vector: FloatColumn) -> FloatColumn:
        """Return the derivatives of the logarithms, (terms, entries)."""
        found = np.eye(len(vector))
        for first, knots in self._tables():
            for k in range(1, len(knots)):
                share = _share(vector[first + k])
                found[first + k] = found[first + k - 1]
                found[first + k, first + k] = _STEEPEST * share * (1 - share) * math.log(knots[k] / knots[k - 1])
        return found

    def terms(self, logs: FloatColumn, drift: float = 0.0) -> StepTerms:
        """Return the terms by their logarithms; `drift` moves all but the front end."""
        steps = [float(value) for value in np.exp(logs + drift)]
        d, m = len(self.decode_knots), len(self.mixed_knots)
        scalars = dict(zip(SCALARS, steps[d + m :], strict=True))
        scalars["frontend_s"] = math.exp(logs[self.names.index("frontend_s")])
        return StepTerms(
            decode_s=dict(zip(self.decode_knots, steps[:d], strict=True)),
            mixed_s=dict(zip(self.mixed_knots, steps[d : d + m], strict=True)),
            **scalars,
        )

    def prior_residuals(self, vector: FloatColumn) -> FloatColumn:
        """Return how far a vector is from what was believed, in standard deviations."""
        found: FloatColumn = (vector - self.centres) / self.spreads
        return found

    def prior_sd(self) -> FloatColumn:
        """Return the standard deviation of each term's logarithm before any run."""
        slopes = self.slopes(self.centres) * self.spreads
        found: FloatColumn = np.sqrt(np.sum(slopes**2, axis=1))
        return found

    def _tables(self) -> tuple[tuple[int, tuple[int, ...]], tuple[int, tuple[int, ...]]]:
        return (0, self.decode_knots), (len(self.decode_knots), self.mixed_knots)


def _share(logit: float) -> float:
    return 1 / (1 + math.exp(-min(max(logit, -30.0), 30.0)))


def parameters(runs: Sequence[Run], settings: EngineSettings, like: Parameters | None = None) -> Parameters:
    """Choose the terms that runs could tell, and where to begin.

    The steps of prompts begin at what a token of a prompt seems to take, and at their first knot at a step's time.

    Args:
        runs: what they are to be fitted to.
        settings: the scheduler's.
        like: have the knots of these instead.
    """
    most = min(max(_largest(run, settings) for run in runs), settings.max_num_batched_tokens)
    decode = like.decode_knots if like else _knots(_most_running(runs, settings), _powers(settings.max_num_seqs, 2))
    mixed = like.mixed_knots if like else _knots(most, _MIXED_KNOTS)
    step_s, token_s = _looks(runs)
    d, m = len(decode), len(mixed)
    centres, spreads = np.zeros(d + m + len(SCALARS)), np.full(d + m + len(SCALARS), _SLOPE_SD)
    for first, knots, slope in ((0, decode, _DECODE_SLOPE), (d, mixed, _MIXED_SLOPE)):
        centres[first], spreads[first] = math.log(step_s), _FIRST_SD
        centres[first + 1 : first + len(knots)] = math.log(slope / (_STEEPEST - slope))
    small = {
        "context_s_per_token": _CONTEXT * step_s,
        "prefill_s_per_pair": _PAIR * token_s,
        "prefill_context_s_per_token": _UPON * token_s,
        "sequence_s": _SEQUENCE * step_s,
        "frontend_s": _FRONTEND_S,
    }
    for i, name in enumerate(SCALARS, d + m):
        centres[i], spreads[i] = math.log(small[name]), _SMALL_SD
    return Parameters(decode, mixed, centres, spreads)


def _powers(most: int, base: int) -> tuple[int, ...]:
    return tuple(base**k for k in range(int(math.log(max(most, 1), base)) + 1))


def _knots(most: int, places: Sequence[int]) -> tuple[int, ...]:
    """Return the places up to the most that was seen, which becomes the last one."""
    below = [at for at in places if at * 1.3 < most]
    return (*below, max(most, 1)) if below else (1, max(most, 2))


def _most_running(runs: Sequence[Run], settings: EngineSettings) -> int:
    return max(min(most_in_flight(run), settings.max_num_seqs) for run in runs)


def most_in_flight(run: Run) -> int:
    """Return how many requests were under way at once, at most."""
    if run.concurrency is not None:
        return min(run.concurrency, len(run))
    ends_s = run.requests.arrive_s + run.ttft_s + np.nan_to_num(run.tpot_s) * (run.requests.osl_tokens - 1)
    ended = np.searchsorted(np.sort(ends_s[np.isfinite(ends_s)]), run.requests.arrive_s, side="right")
    return int((np.arange(1, len(run) + 1) - ended).max(initial=1))


def _largest(run: Run, settings: EngineSettings) -> int:
    """Return the tokens of a step in which half of those under way bring one of the longer prompts."""
    together = max(min(most_in_flight(run), settings.max_num_seqs) // 2, 1)
    return int(together * np.quantile(run.requests.isl_tokens, 0.9))


def _looks(runs: Sequence[Run]) -> tuple[float, float]:
    """Return the least median gap of a run, and the least median of a prompt's time per token."""
    gaps_s = [float(np.nanmedian(run.tpot_s)) for run in runs if np.isfinite(run.tpot_s).any()]
    step_s = min(gaps_s) if gaps_s else 0.02
    return step_s, min(float(np.nanmedian(run.ttft_s / run.requests.isl_tokens)) for run in runs)
