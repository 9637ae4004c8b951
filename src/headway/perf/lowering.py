"""Lowers a pool to the integer tables the simulator jumps over.

The closed form of `StepTable` never lies below `step` (beyond rounding), and equals it where the GPU is what a step
waits for, except for three things a table of sums cannot know, each charged at its upper bound:

* the window: Σ min(context, w) is taken as min(S, n·w); equal when all contexts lie on one side of w. In prefill
  every token of a mixed step pays a whole window;
* the LM head and sampler of a mixed step: the line as steep as from one sequence to `max_num_seqs` that touches them
  from above;
* an asynchronous host (or kernel launches outside a graph) slower than the GPU: attention, and in a mixed step what
  each sequence adds, come on top of the slower of the two instead of hiding behind it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from headway.perf.applied import applied
from headway.perf.breakdown import host_time_s, launch_floor_s, pad_tokens
from headway.perf.capacity import memory
from headway.perf.corrections import corrected
from headway.perf.endpoint_pools import endpoint_of
from headway.perf.endpoint_steps import replica_of
from headway.perf.operators import Machine, Operator, machine, sequence_operators, token_operators
from headway.perf.shapes import attention_layers
from headway.types import Replica, StepTable

if TYPE_CHECKING:
    from headway.perf.constants import Calibration
    from headway.types import FloatColumn, IntColumn, Pool

_PS_PER_S = 1e12
_SLICE = 2048  # entries evaluated at once: their temporaries stay in cache


def lower(pool: Pool, calibration: Calibration | None = None) -> StepTable:
    """Return the step times of one replica as integer picoseconds.

    With a pipeline or data-parallel ranks, an entry is the time in which every sequence advances once: one share of
    ⌈n / (pp·dp)⌉ through all stages (see `step`).

    Raises:
        InfeasibleError: the model cannot be spread that way.
    """
    on, settings = machine(pool, calibration), pool.settings
    rates, window = on.attention, _window(pool)
    decodes = np.arange(settings.max_num_seqs + 1, dtype=np.int64)
    tokens = np.arange(settings.max_num_batched_tokens + 1, dtype=np.int64)
    head_s, head_sequence_s = _head_line(on, settings.max_num_seqs)
    window_token_s = 2 * window * rates.window_pair_s  # m·w pairs, in units of m (2x + m)
    token_s = rates.token_s + on.linear.token_s + window_token_s
    prompts_s = on.linear.prompt_launch_s + token_s * tokens.astype(np.float64)
    decode_s = _busy_s(on, decodes, _rows_s(on, decodes / on.shares))
    mixed_s = _busy_s(on, tokens, head_s + prompts_s)
    finish = np.maximum if settings.async_scheduling else np.add
    bare = StepTable(
        decode_ps=_table_ps(finish(decode_s, host_time_s(on))),
        mixed_ps=_table_ps(finish(mixed_s, host_time_s(on))),
        context_ps_per_token=_ps(rates.context_s_per_token),
        prefill_ps_per_pair=_ps(rates.pair_s),
        sequence_ps=_ps(head_sequence_s),
        prefill_context_ps_per_token=_ps(rates.prefill_context_s_per_token),
        window_ps_per_token=_ps(rates.window_s_per_token),
        window_tokens=window,
    )
    return corrected(bare, on.calibration.correction)


def replica(pool: Pool, calibration: Calibration | None = None, *, context_tokens: int | None = None) -> Replica:
    """Return all the simulator needs of one replica: step times, KV blocks and the front end's time.

    Where the pool names a calibrated endpoint, all three are the endpoint's.

    Args:
        pool: what is deployed.
        calibration: constants to use in place of the stored ones.
        context_tokens: typical context of a sequence; it matters only where KV has several groups
            (`MemoryPlan.sequence_blocks`).

    Raises:
        InfeasibleError: it does not fit, or cannot be spread that way.
    """
    endpoint = endpoint_of(pool) if calibration is None else None
    if endpoint is not None:
        return replica_of(endpoint, pool.settings)
    constants = calibration or applied(pool)
    return Replica(
        settings=pool.settings,
        step=lower(pool, constants),
        num_gpu_blocks=memory(pool, constants).sequence_blocks(context_tokens),
        frontend_s=constants.frontend_s,
    )


def _window(pool: Pool) -> int:
    _, window_layers = attention_layers(pool.model, pool.settings.max_model_len)
    return pool.model.sliding_window if window_layers else 0


def _busy_s(on: Machine, tokens: IntColumn, extra_s: FloatColumn) -> FloatColumn:
    """Return GPU time for each number of tokens, attention over contexts left out; launches bound it from below."""
    share = -(-tokens // on.shares)
    padded, graph = pad_tokens(on.pool.settings.cuda_graph_sizes, share)
    first = np.diff(padded, prepend=-1) > 0  # padding never falls as tokens grow
    distinct = padded[first]
    slices = np.array_split(distinct.astype(np.float64), -(-len(distinct) // _SLICE))
    linear_s = np.concatenate([_tokens_s(on, part) for part in slices])
    gpu_s = linear_s[np.cumsum(first) - 1] + on.attention.launch_s + on.linear.launch_s + extra_s
    floor_s: FloatColumn = np.where(graph, 0.0, launch_floor_s(on))
    busy_s: FloatColumn = np.maximum(gpu_s, floor_s)
    return busy_s


def _tokens_s(on: Machine, tokens: FloatColumn) -> FloatColumn:
    return _total_s(token_operators(on, tokens), len(tokens))


def _rows_s(on: Machine, rows: FloatColumn) -> FloatColumn:
    return _total_s(sequence_operators(on, rows), len(rows))


def _total_s(operators: list[Operator], length: int) -> FloatColumn:
    total_s = np.zeros(length)
    for op in operators:
        total_s += op.time_s
    return total_s


def _head_line(on: Machine, max_num_seqs: int) -> tuple[float, float]:
    """Return (constant, slope per sequence) of the line that touches the head from above, as steep as its chord."""
    sequences = np.arange(1.0, max(max_num_seqs, 2) + 1)
    head_s = _rows_s(on, sequences / on.shares)
    slope = (head_s[-1] - head_s[0]) / (len(sequences) - 1)
    return float(np.max(head_s - slope * sequences)), float(slope)


def _ps(seconds: float) -> int:
    return round(seconds * _PS_PER_S)


def _table_ps(seconds: FloatColumn) -> IntColumn:
    table = np.rint(seconds * _PS_PER_S).astype(np.int64)
    table[0] = 0
    return table
