"""The reference: one step of one engine on a ragged batch, operator by operator."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np

from headway.perf.attention import (
    decode_flops_per_token,
    expansion_flops_per_token,
    kv_bytes_per_layer,
    pair_flops,
    prompt_bytes_per_token,
)
from headway.perf.operators import Machine, Operator, machine, sequence_operators, token_operators
from headway.perf.shapes import attention_layers

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from headway.perf.constants import Calibration
    from headway.perf.corrections import Correction
    from headway.types import IntColumn, Pool

    BoolColumn = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What one step computes, sequence by sequence; the order never matters."""

    decode_contexts: IntColumn  # tokens in KV before the step, one per decode
    chunk_new: IntColumn  # prompt tokens computed in this step, one per prefill chunk
    chunk_computed: IntColumn  # tokens already in KV, one per prefill chunk

    @classmethod
    def of(cls, decode_contexts: object = (), chunks: object = ()) -> Batch:
        """Make a batch from lists: contexts of the decodes, and (new, computed) of each chunk."""
        pairs = np.asarray(chunks, dtype=np.int64).reshape(-1, 2)
        return cls(
            decode_contexts=np.asarray(decode_contexts, dtype=np.int64),
            chunk_new=pairs[:, 0],
            chunk_computed=pairs[:, 1],
        )

    @property
    def is_single(self) -> bool:
        """Whether it is one decode without context."""
        return not len(self.chunk_new) and self.decode_contexts.tolist() == [0]

    @property
    def tokens(self) -> int:
        """Tokens of the step."""
        return len(self.decode_contexts) + int(self.chunk_new.sum())

    @property
    def sequences(self) -> int:
        """Sequences of the step."""
        return len(self.decode_contexts) + len(self.chunk_new)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepBreakdown:
    """Where one step's time goes on one GPU; `total_s` is the sum of operators, host and correction."""

    operators: tuple[Operator, ...]  # all fields plain floats
    tokens: int
    padded_tokens: int  # of one share, as the GPU computes them
    graph: bool  # whether a CUDA graph is replayed
    gpu_s: float  # sum of the operators
    launch_s: float  # the host's time to launch kernels, 0 under a graph; bounds the step from below
    host_s: float  # scheduling, input preparation and output processing
    hbm_bytes_per_s: float  # the datasheet's
    exposed_s: float  # what launching and the host add to gpu_s
    correction_s: float  # what whole engines were measured to add or take (`corrections`)
    total_s: float

    def achieved_frac(self, op: Operator) -> float:
        """Return the share of the datasheet peak an operator reaches: of FLOP/s or of HBM, whichever is the larger."""
        if not op.time_s:
            return 0.0
        multiplied = op.flops / op.time_s / op.peak_flops_per_s if op.peak_flops_per_s else 0.0
        return float(max(multiplied, op.moved_bytes / op.time_s / self.hbm_bytes_per_s))

    @property
    def flops(self) -> float:
        """FLOPs of one GPU, padding left out."""
        return float(sum(op.flops for op in self.operators))

    @property
    def moved_bytes(self) -> float:
        """HBM bytes of one GPU."""
        return float(sum(op.moved_bytes for op in self.operators))


def step(pool: Pool, batch: Batch, calibration: Calibration | None = None) -> StepBreakdown:
    """Time one step of one replica.

    The batch is split evenly over data-parallel ranks and, in a pipeline, over as many micro-batches as there are
    stages; the time is that of one share through all stages, so at full pipeline it is the time in which every
    sequence advances once.

    Raises:
        InfeasibleError: the model cannot be spread that way.
    """
    on = machine(pool, calibration)
    bare = _bare(on, batch)
    correction = on.calibration.correction
    if correction.is_none:
        return bare
    one_s = bare.total_s if batch.is_single else _bare(on, Batch.of([0])).total_s
    correction_s = _corrected_s(bare, one_s, correction, mixed=bool(len(batch.chunk_new))) - bare.total_s
    return replace(bare, correction_s=correction_s, total_s=bare.total_s + correction_s)


def _corrected_s(bare: StepBreakdown, one_s: float, by: Correction, *, mixed: bool) -> float:
    """Return a step's time with its parts scaled as `corrections.corrected` scales those of a table.

    Args:
        bare: the step as the kernels say.
        one_s: the step of one decode without context.
        by: the factors.
        mixed: whether there are prompt tokens in it.
    """
    base, batch, prefill = by.factors
    attention_s = math.fsum(op.time_s for op in bare.operators if op.name.startswith("decode attention"))
    growth = prefill if mixed else batch
    return base * one_s + growth * (bare.total_s - one_s - attention_s) + batch * attention_s


def _bare(on: Machine, batch: Batch) -> StepBreakdown:
    pool = on.pool
    share_tokens = math.ceil(batch.tokens / on.shares)
    padded, graph = pad_tokens(pool.settings.cuda_graph_sizes, np.array([share_tokens]))
    found = token_operators(on, float(padded[0]))
    found += sequence_operators(on, batch.sequences / on.shares)
    found += attention_operators(on, batch)
    operators = tuple(_plain(op) for op in found)
    gpu_s = math.fsum(float(op.time_s) for op in operators)
    launch_s = 0.0 if graph[0] else launch_floor_s(on)
    host_s = host_time_s(on)
    busy_s = max(gpu_s, launch_s)
    total_s = max(busy_s, host_s) if pool.settings.async_scheduling else busy_s + host_s
    return StepBreakdown(
        operators=operators,
        tokens=batch.tokens,
        padded_tokens=int(padded[0]),
        graph=bool(graph[0]),
        gpu_s=gpu_s,
        launch_s=launch_s,
        host_s=host_s,
        hbm_bytes_per_s=on.hbm_bytes_per_s,
        exposed_s=total_s - gpu_s,
        correction_s=0.0,
        total_s=total_s,
    )


def pad_tokens(cuda_graph_sizes: tuple[int, ...], tokens: IntColumn) -> tuple[IntColumn, BoolColumn]:
    """Return (tokens as computed, whether a graph is replayed): padded to the next captured size, if there is one."""
    sizes = np.array(sorted(cuda_graph_sizes), dtype=np.int64)
    index = np.searchsorted(sizes, tokens)
    graph = index < len(sizes)
    if not len(sizes):
        return tokens, graph
    return np.where(graph, sizes[np.minimum(index, len(sizes) - 1)], tokens), graph


def launch_floor_s(on: Machine) -> float:
    """Return the host's time to launch every kernel of one share where no graph is replayed."""
    return on.pool.model.num_hidden_layers * on.calibration.launch_layer_s


def host_time_s(on: Machine) -> float:
    """Return the host's time for a step of every micro-batch of the pipeline."""
    return on.pool.parallelism.pp * on.calibration.host_step_s


def attention_operators(on: Machine, batch: Batch) -> list[Operator]:
    """Return attention over a ragged batch: decode and prefill, over full context and over windows."""
    full, window_layers = attention_layers(on.pool.model, on.pool.settings.max_model_len)
    window = on.pool.model.sliding_window
    rates, contexts = on.attention, batch.decode_contexts
    new, computed = batch.chunk_new, batch.chunk_computed
    context = float(contexts.sum())
    found = [
        _decode_attention(on, "decode attention", full, context, rates.context_s_per_token),
        _prefill_attention(on, full, batch),
    ]
    if window_layers:
        context = float(np.minimum(contexts, window).sum())
        window_pairs = 2 * float(causal_window_pairs(new, computed, window).sum())
        found.append(
            _decode_attention(on, "decode attention (window)", window_layers, context, rates.window_s_per_token)
        )
        found.append(_window_prefill_attention(on, window_layers, window_pairs))
    found.append(Operator(name="attention launch", count=rates.layers, fixed_s=rates.launch_s, time_s=rates.launch_s))
    found.append(_linear_attention(on, batch))
    return [op for op in found if op.time_s]


def _linear_attention(on: Machine, batch: Batch) -> Operator:
    """Time what layers of linear attention take beside projections and states: launches, and the chunks of prompts."""
    rates, prompts = on.linear, bool(len(batch.chunk_new))
    fixed_s = rates.launch_s + prompts * rates.prompt_launch_s
    chunks_s = prompts * rates.token_s * batch.tokens
    return Operator(
        name="linear attention", count=rates.layers, fixed_s=fixed_s, memory_s=chunks_s, time_s=fixed_s + chunks_s
    )


def causal_window_pairs(new: IntColumn, computed: IntColumn, window: int) -> IntColumn:
    """Return Σ_j min(x + j + ½, w) over the m new tokens: the causal pairs a window layer computes, halved diagonal.

    Outside the window this is m·w, inside m (2x + m) / 2.
    """
    inside = np.clip(window - computed, 0, new)
    return inside * (2 * computed + inside) / 2 + (new - inside) * window


def _decode_attention(on: Machine, name: str, layers: int, context: float, rate_s: float) -> Operator:
    units = layers * context / on.shares
    flops, moved = units * decode_flops_per_token(on.pool), units * kv_bytes_per_layer(on.pool)
    return _slowed(on, name, layers, flops, moved, rate_s * context)


def _prefill_attention(on: Machine, layers: int, batch: Batch) -> Operator:
    """Time prompts over full context, and what every token beside them takes (window layers too)."""
    rates, new, computed = on.attention, batch.chunk_new, batch.chunk_computed
    if not len(new):
        return Operator(name="prefill attention", count=layers)
    pairs, cached = float((new * (2 * computed + new)).sum()), float(computed.sum())
    flops = layers / on.shares * (pairs * pair_flops(on.pool) + cached * expansion_flops_per_token(on.pool))
    moved = layers / on.shares * cached * kv_bytes_per_layer(on.pool)
    moved += rates.layers / on.shares * int(new.sum()) * prompt_bytes_per_token(on.pool)
    time_s = rates.pair_s * pairs + rates.prefill_context_s_per_token * cached + rates.token_s * batch.tokens
    return _slowed(on, "prefill attention", layers, flops, moved, time_s)


def _window_prefill_attention(on: Machine, layers: int, pairs: float) -> Operator:
    flops = layers * pairs / on.shares * pair_flops(on.pool)
    return _slowed(on, "prefill attention (window)", layers, flops, 0.0, on.attention.window_pair_s * pairs)


def _slowed(on: Machine, name: str, layers: int, flops: float, moved: float, time_s: float) -> Operator:
    """Make an operator whose parts are its roofline's, stretched so that the longer one is its time.

    What multiplies faster than the bf16 peak does so in fp8.
    """
    peaks = on.pool.accelerator.peak_flops_per_s
    peak = peaks.get("fp8", on.bf16_flops_per_s) if flops > on.bf16_flops_per_s * time_s else on.bf16_flops_per_s
    compute_s, memory_s = flops / peak, moved / on.hbm_bytes_per_s
    stretch = time_s / max(compute_s, memory_s) if time_s else 0.0
    return Operator(
        name=name,
        count=layers,
        flops=flops,
        moved_bytes=moved,
        compute_s=compute_s * stretch,
        memory_s=memory_s * stretch,
        time_s=time_s,
        peak_flops_per_s=peak,
    )


def _plain(op: Operator) -> Operator:
    numbers = {f.name: float(getattr(op, f.name)) for f in fields(op) if f.name != "name"}
    return Operator(name=op.name, **numbers)
