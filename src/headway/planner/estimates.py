"""Estimates how many replicas every option needs, all at once: no proof, but the order in which to simulate.

A mean-field queue per replica at 1/N of the design rate λ. With n sequences decoding over S = n · context tokens,
a decode step lasts T = d(n) + c S and a request's prefill F(P) = chunks · f(n + chunk) + q P² + c S. Prefills take the
share ρ = λ E[F] of the time, decode steps the rest, so

    steps per second = λ E[chunks] + (1 − ρ) / T,    TPOT = 1 / steps per second,    n = λ E[OSL] TPOT

which is iterated to its fixed point. Around these means:

* TPOT of a request of o tokens is normal with variance λ TPOT E[(F − T)²] / o (prefills hit it as a Poisson stream);
* waiting for the prefills ahead is M/G/1: P(W > x) = ρ exp(−ρ x / E[W]), E[W] = λ E[F²] / 2(1 − ρ)
  (Pollaczek–Khinchine, exponential tail), and TTFT = W + T/2 + F + frontend.

Percentiles of ISL and OSL enter as 16 equal slices each. What it says of an option is only ever compared with what it
says of another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headway.planner.demand import Demand
    from headway.planner.floors import Floors
    from headway.planner.space import Option
    from headway.types import FloatColumn, IntColumn, Objective

_ROUNDS = 5  # of the fixed point, halfway each
_FULL = 0.98  # beyond this share of the time in prefills nothing is stable
_MOST = 16.0  # times the lower bound is where looking ends
_HALVINGS = 9  # of the logarithm of the range: to 1 % of the replicas


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """The traffic as slices: sixteen prompts and sixteen outputs of equal weight."""

    rate_per_s: float
    prompt_tokens: FloatColumn  # (16,)
    osl_tokens: FloatColumn  # (16,)
    context_tokens: float


class Estimates:
    """Options of many shapes as columns.

    Args:
        shapes: the floors of each shape with its options.
        least: the proved least number of replicas of each option, in the same order, shape by shape.
        sizes: the traffic.
    """

    def __init__(self, shapes: Sequence[tuple[Floors, Sequence[Option]]], least: Sequence[int], sizes: Sizes) -> None:
        self._sizes = sizes
        options = [option for _, group in shapes for option in group]
        self._row = np.repeat(np.arange(len(shapes)), [len(group) for _, group in shapes])
        self._budget = np.array([float(o.pool.settings.max_num_batched_tokens) for o in options])
        self._seats = np.array([float(o.pool.settings.max_num_seqs) for o in options])
        self._kv_tokens = np.array([float(o.blocks * o.pool.settings.block_size) for o in options])
        self._mixed_s = _stack([floors.mixed_s for floors, _ in shapes])
        self._decode_s = _stack([floors.decode_s for floors, _ in shapes])
        self._context_s = np.array([floors.context_s for floors, _ in shapes])[self._row]
        self._pair_s = np.array([floors.pair_s for floors, _ in shapes])[self._row]
        self._least = np.array(least, dtype=np.float64)

    def replicas(self, objectives: Sequence[Objective]) -> FloatColumn:
        """Return the estimated replicas of each option, not rounded; infinite where no number seems enough."""
        low, high = 0.2 * self._least, _MOST * self._least
        hopeless = ~self._meets(high, objectives)
        for _ in range(_HALVINGS):
            middle = np.sqrt(low * high)
            good = self._meets(middle, objectives)
            high, low = np.where(good, middle, high), np.where(good, low, middle)
        return np.where(hopeless, np.inf, high)

    def _meets(self, replicas: FloatColumn, objectives: Sequence[Objective]) -> np.ndarray:
        state = self._settled(self._sizes.rate_per_s / replicas)
        good: Any = state.stable
        for objective in objectives:
            good = good & (state.attained_frac(objective, self._sizes) >= objective.percentile_frac)
        return np.asarray(good)

    def _settled(self, rate_per_s: FloatColumn) -> _State:
        """Iterate the fixed point at a rate per replica."""
        sizes = self._sizes
        prompt = sizes.prompt_tokens[None, :]
        chunks = np.ceil(prompt / self._budget[:, None])
        chunk = prompt / chunks
        osl = float(sizes.osl_tokens.mean())
        running = np.ones(len(rate_per_s))
        for _ in range(_ROUNDS):
            attention_s = self._context_s * sizes.context_tokens * running
            decode_s = self._decode_s[self._row, np.minimum(running, self._decode_s.shape[1] - 1).astype(np.int64)]
            decode_s = decode_s + attention_s
            tokens = np.minimum(running[:, None] + chunk, self._budget[:, None])
            step_s = self._mixed_s[self._row[:, None], _index(tokens)] + attention_s[:, None]
            prefill_s = chunks * step_s + self._pair_s[:, None] * prompt**2
            busy = np.minimum(rate_per_s * prefill_s.mean(axis=1), _FULL)
            tpot_s = 1.0 / (rate_per_s * chunks.mean(axis=1) + (1.0 - busy) / decode_s)
            running = 0.5 * (running + np.minimum(rate_per_s * osl * tpot_s, self._seats))
        room = (running < 0.9 * self._seats) & (running * sizes.context_tokens < 0.9 * self._kv_tokens)
        return _State(
            rate_per_s=rate_per_s,
            busy=busy,
            decode_s=decode_s,
            prefill_s=prefill_s,
            chunks=chunks,
            tpot_s=tpot_s,
            stable=room & (busy < _FULL),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _State:
    """One replica of each option, settled at its rate; prefill columns have one entry per slice of prompts."""

    rate_per_s: FloatColumn
    busy: FloatColumn
    decode_s: FloatColumn
    prefill_s: FloatColumn
    chunks: FloatColumn
    tpot_s: FloatColumn
    stable: np.ndarray

    def attained_frac(self, objective: Objective, sizes: Sizes) -> FloatColumn:
        """Return the share of requests (ITL: of gaps) within the limit."""
        limit_s = objective.limit_s
        if objective.metric == "tpot":
            return self._tpot(limit_s, sizes)
        if objective.metric == "ttft":
            return self._ttft(limit_s)
        if objective.metric == "e2e":
            spread = self.prefill_s.mean(axis=1)[:, None] + sizes.osl_tokens[None, :] * self.tpot_s[:, None]
            return np.asarray((spread <= limit_s).mean(axis=1))
        mixed = self.rate_per_s * self.chunks.mean(axis=1) * self.tpot_s  # share of steps that hold a prefill
        late = (self.prefill_s / self.chunks > limit_s).mean(axis=1)
        return np.asarray(1.0 - mixed * late - (1.0 - mixed) * (self.decode_s > limit_s))

    def _tpot(self, limit_s: float, sizes: Sizes) -> FloatColumn:
        jolt = np.square(self.prefill_s - self.decode_s[:, None]).mean(axis=1)
        spread_s = np.sqrt((self.rate_per_s * self.tpot_s * jolt)[:, None] / sizes.osl_tokens[None, :])
        return np.asarray(_normal((limit_s - self.tpot_s)[:, None] / np.maximum(spread_s, 1e-9)).mean(axis=1))

    def _ttft(self, limit_s: float) -> FloatColumn:
        waited_s = self.rate_per_s * np.square(self.prefill_s).mean(axis=1) / (2.0 * (1.0 - self.busy))
        left_s = limit_s - self.prefill_s - self.decode_s[:, None] / 2.0
        late = self.busy[:, None] * np.exp(
            -np.maximum(left_s, 0.0) * (self.busy / np.maximum(waited_s, 1e-12))[:, None]
        )
        return np.asarray(np.where(left_s > 0, 1.0 - late, 0.0).mean(axis=1))


def sizes_of(demand: Demand, rate_per_s: float) -> Sizes:
    """Return the traffic as slices."""
    at = (np.arange(16) + 0.5) / 16
    return Sizes(
        rate_per_s=rate_per_s,
        prompt_tokens=np.array([max(demand.prompt_at(q), 1.0) for q in at]),
        osl_tokens=np.array([demand.steps_at(q) + 1.0 for q in at]),
        context_tokens=max(demand.context_at(0.5), 1.0),
    )


def _stack(rows: list[FloatColumn]) -> FloatColumn:
    """Stack rows of different lengths, the last value of each repeated."""
    width = max(len(row) for row in rows)
    return np.stack([np.pad(row, (0, width - len(row)), mode="edge") for row in rows])


def _index(tokens: FloatColumn) -> IntColumn:
    """Return where a number of tokens stands on the grid of `floors`: 1 … 64, then tiles of 64."""
    return np.where(tokens <= 64, tokens - 1, 63 + np.ceil(tokens / 64) - 1).astype(np.int64)


def _normal(z: FloatColumn) -> FloatColumn:
    """Return the normal distribution function as the logistic one scaled by 1.702, off by 0.0095 at most."""
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(1.702 * z, -40, 40))))
