"""Lower bounds on what a shape needs, proved, so that the search may put a deployment aside unsimulated.

Every step of `StepTable` lasts at least what its GPU work takes without padding, host and launch: d(n) for n decodes
alone, f(M) for M tokens with a prefill among them, both rising, plus attention: c per context token read and q per
prefill pair. With B = max_num_batched_tokens, N = max_num_seqs and K the tokens the KV cache holds,

    t = min(d(1), f(1))                              no step is shorter
    h(β) = min over M ≤ B of f(M) − β M ≥ 0          what a mixed step costs beyond β per token
    α(β) = min( min over n ≤ N of d(n) / n,  β + h(β) / N )
    γ(β) = min( t, h(β) ) / K

any mixed step with n decodes over S ≤ K tokens and p prompt tokens lasts at least α n + β p + c S + q X, and likewise
at least (γ + c) S + β p + q X; a decode step at least α n + c S and (γ + c) S. Summed over a run (the dual of the
linear programme that packs the steps best, so the best β is the tightest such bound):

    replica-seconds  ≥  max over β of  max( α ΣD , γ ΣS ) + β ΣP + c ΣS + q ΣX

What whole engines add or save (`perf.corrections`) scales all of these; a calibrated endpoint's d, f, c and q are those
of its own step table. f and d are evaluated on a grid; between two
grid points the lower one stands for both, which keeps the bound sound as they rise. Percentiles: TPOT ≥ t + c · mean
context; TTFT ≥ max(β P, ⌈P/B⌉ f(1)) + q P².
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from headway.perf import replica
from headway.perf.operators import machine, sequence_operators, token_operators
from headway.perf.shapes import attention_layers

if TYPE_CHECKING:
    from headway.perf.operators import Machine
    from headway.planner.demand import Demand, Due
    from headway.planner.space import Option
    from headway.types import FloatColumn, IntColumn, Objective, Slo, StepTable

#: shares of the largest β tried; the bound holds for each, and more of them only make it a little tighter
_BETAS = np.array([0.0, 0.25, 0.5, 0.75, 0.9, 1.0])
_TILE_TOKENS = 64


class Floors:
    """The lower bounds of one shape, for all settings swept over it.

    Args:
        options: of one shape; not empty.
    """

    def __init__(self, options: list[Option]) -> None:
        most_tokens = max(o.pool.settings.max_num_batched_tokens for o in options)
        most_seqs = max(o.pool.settings.max_num_seqs for o in options)
        self._tokens = _grid(most_tokens)
        self._seqs = np.arange(1, most_seqs + 1)
        if options[0].pool.calibration:
            settings = replace(options[0].pool.settings, max_num_seqs=most_seqs, max_num_batched_tokens=most_tokens)
            self._take(replica(replace(options[0].pool, settings=settings)).step)
        else:
            self._compute(machine(options[0].pool))
        self.least_s = float(min(self.decode_s[0], self.mixed_s[0]))
        self._least_per_decode_s = np.minimum.accumulate(self.decode_s / self._seqs)
        self._work: dict[int, tuple[FloatColumn, FloatColumn]] = {}
        self._missed: dict[tuple[int, Slo], tuple[Objective, float] | None] = {}

    def _take(self, table: StepTable) -> None:
        """Take the steps of a calibrated endpoint as they are: they are what is simulated."""
        self.context_s, self.pair_s = table.context_ps_per_token / 1e12, table.prefill_ps_per_pair / 1e12
        self.mixed_s = (table.mixed_ps[self._tokens] + table.sequence_ps) / 1e12
        self.decode_s = table.decode_ps[self._seqs] / 1e12

    def _compute(self, on: Machine) -> None:
        """Compute what the GPU's work takes at least."""
        rates = on.attention
        # the step table has these in whole picoseconds, rounded; the floor of either is no more
        base, batch, prefill = on.calibration.correction.factors
        self.context_s, self.pair_s = _down(batch * rates.context_s_per_token), _down(prefill * rates.pair_s)
        step_s = _step_s(on, np.concatenate([self._tokens, self._seqs]))
        head_s = _rows_s(on, np.concatenate([[1], self._seqs]) / on.shares)
        window = 2 * on.pool.model.sliding_window * rates.window_pair_s if _windowed(on) else 0.0
        prompt_s = on.linear.prompt_launch_s + (window + rates.token_s + on.linear.token_s) * self._tokens
        decode_s = step_s[len(self._tokens) :] + head_s[1:]
        self.mixed_s = _corrected(step_s[: len(self._tokens)] + head_s[0] + prompt_s, decode_s[0], base, prefill)
        self.decode_s = _corrected(decode_s, decode_s[0], base, batch)

    def _duals(self, max_num_batched_tokens: int) -> tuple[FloatColumn, FloatColumn]:
        """Return (β tried, h(β)) under one token budget."""
        if max_num_batched_tokens not in self._work:
            within = self._tokens <= max_num_batched_tokens
            low_s, start = self.mixed_s[within], self._tokens[within]
            end = np.minimum(np.append(start[1:] - 1, max_num_batched_tokens), max_num_batched_tokens)
            betas = _BETAS * float((low_s / end).min())
            rest = (low_s - betas[:, None] * end).min(axis=1)
            self._work[max_num_batched_tokens] = (betas, np.maximum(rest, 0.0))
        return self._work[max_num_batched_tokens]

    def replica_seconds(self, option: Option, due: Due, kv_tokens: float) -> FloatColumn:
        """Return the replica-seconds that each entry of the work takes at least.

        Args:
            option: settings that bound the steps.
            due: the work.
            kv_tokens: context tokens that all running sequences may have at once; infinite where they share blocks.
        """
        settings = option.pool.settings
        beta, rest = self._duals(settings.max_num_batched_tokens)
        alpha = np.minimum(self._least_per_decode_s[settings.max_num_seqs - 1], beta + rest / settings.max_num_seqs)
        gamma = np.minimum(self.least_s, rest) / kv_tokens
        decode = np.maximum(np.outer(alpha, due.decode_steps), np.outer(gamma, due.context_tokens))
        packed = (decode + np.outer(beta, due.prompt_tokens)).max(axis=0)
        return np.asarray(packed + self.context_s * due.context_tokens + self.pair_s * due.pairs)

    def floor_s(self, max_num_batched_tokens: int, demand: Demand, objective: Objective) -> float:
        """Return what that percentile of that latency is at least, on a fleet of any size."""
        at = objective.percentile_frac
        if objective.metric == "itl":
            return self.least_s
        if objective.metric == "tpot":
            return self.least_s + self.context_s * demand.context_at(at)
        prompt = demand.prompt_at(at)
        per_token_s = float(self._duals(max_num_batched_tokens)[0][-1])
        chunks = math.ceil(prompt / max_num_batched_tokens)
        prefill_s = max(per_token_s * prompt, chunks * self.least_s) + self.pair_s * prompt**2
        return prefill_s if objective.metric == "ttft" else max(prefill_s, self.least_s * (1 + demand.steps_at(at)))

    def missed(self, option: Option, demand: Demand) -> tuple[Objective, float] | None:
        """Return the first objective that no fleet of it meets, with the floor; None where none is ruled out."""
        budget = option.pool.settings.max_num_batched_tokens
        key = budget, demand.slo
        if key not in self._missed:
            floors = ((o, self.floor_s(budget, demand, o)) for o in demand.slo.objectives)
            self._missed[key] = next(((o, floor_s) for o, floor_s in floors if floor_s > o.limit_s), None)
        return self._missed[key]

    def least_replicas(self, option: Option, demand: Demand, due: Due) -> int:
        """Return the least number of replicas that can carry the demand."""
        kv_tokens = math.inf if demand.shared else float(option.blocks * option.pool.settings.block_size)
        needed = float((self.replica_seconds(option, due, kv_tokens) / due.span_s).max(initial=0.0))
        return max(1, math.ceil(needed - 1e-9))


def _corrected(floor_s: FloatColumn, first_s: float, base: float, growth: float) -> FloatColumn:
    """Return floors of corrected step times: base · t(1) + growth · (t − t(1)) for any t ≥ t(1) above the floors."""
    least = min(base, growth)
    return np.asarray(least * floor_s + (base - least) * first_s)


def _down(seconds: float) -> float:
    return math.floor(seconds * 1e12) / 1e12


def _grid(most_tokens: int) -> IntColumn:
    """Return 1 … 64 and then the first token of every tile of 64."""
    small = np.arange(1, min(_TILE_TOKENS, most_tokens) + 1)
    return np.concatenate([small, np.arange(_TILE_TOKENS + 1, most_tokens + 1, _TILE_TOKENS)])


def _windowed(on: Machine) -> bool:
    return bool(attention_layers(on.pool.model, on.pool.settings.max_model_len)[1])


def _step_s(on: Machine, tokens: IntColumn) -> FloatColumn:
    """Return GPU time of the operators that see tokens alone, without padding."""
    share = -(-tokens // on.shares)
    total = np.zeros(len(tokens))
    for operator in token_operators(on, share.astype(np.float64)):
        total += operator.time_s
    return total + on.attention.launch_s + on.linear.launch_s


def _rows_s(on: Machine, rows: FloatColumn) -> FloatColumn:
    total = np.zeros(len(rows))
    for operator in sequence_operators(on, rows):
        total += operator.time_s
    return total
