"""Every operator of one step on one GPU: FLOPs, bytes, and the time they take at achievable rates.

    time = count · (fixed + time of computing and moving, overlapping) + communication

Matrices and collectives take it from measured curves where there are any (`gemm`, `links`), everything else from
achieved fractions of the datasheet's peaks (`constants`).

All quantities may be columns (one entry per batch), so that a table of steps is one evaluation. Token counts are those
of one GPU: of one micro-batch of a pipeline and one rank of data-parallel attention.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from headway.errors import InputError
from headway.perf.applied import applied
from headway.perf.attention import AttentionRates, attention_rates
from headway.perf.experts import expert_time
from headway.perf.formats import compute_format
from headway.perf.gemm import matrix_time
from headway.perf.linear import LinearRates, linear_rates
from headway.perf.links import ranks_reached, transfer
from headway.perf.shapes import (
    Experts,
    Matmul,
    check_parallelism,
    experts,
    lm_head,
    matmuls,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headway.perf.constants import Calibration
    from headway.perf.gemm import Column
    from headway.types import Pool

_EXPERT_TILE = 16  # rows of the smallest tile of grouped GEMMs, the tensor core's own
_BF16_BYTES = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """What one kind of operator does in one step, all its layers together, on one GPU."""

    name: str
    count: float
    flops: Column = 0.0
    moved_bytes: Column = 0.0  # through HBM
    sent_bytes: Column = 0.0  # through the link, per direction
    compute_s: Column = 0.0
    memory_s: Column = 0.0
    communication_s: Column = 0.0
    fixed_s: Column = 0.0
    time_s: Column = 0.0
    peak_flops_per_s: float = 0.0  # of the format it multiplies in, from the datasheet

    @property
    def bound(self) -> str:
        """What takes the most of its time: compute, memory, communication or overhead (of one batch, not a column)."""
        parts = {
            "compute": self.compute_s,
            "memory": self.memory_s,
            "communication": self.communication_s,
            "overhead": self.fixed_s,
        }
        return max(parts, key=lambda name: float(parts[name]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """One GPU of a pool ready to be timed: the matrices it holds and the rates it reaches."""

    pool: Pool
    calibration: Calibration
    matmuls: tuple[Matmul, ...]
    lm_head: Matmul
    experts: Experts | None
    attention: AttentionRates
    linear: LinearRates
    flops_per_s: Mapping[str, float]  # achieved in GEMMs, by compute format
    bf16_flops_per_s: float  # peak
    hbm_bytes_per_s: float  # peak

    @property
    def streaming_bytes_per_s(self) -> float:
        """HBM rate of kernels that only stream: that of a bf16 GEMM bound by its weights."""
        return self.hbm_bytes_per_s * self.calibration.gemm_memory_frac["bf16"]

    @property
    def shares(self) -> int:
        """Over how many equal shares a batch is split: micro-batches of a pipeline times ranks of data parallelism."""
        return self.pool.parallelism.pp * self.pool.parallelism.dp


def machine(pool: Pool, calibration: Calibration | None = None) -> Machine:
    """Prepare one GPU of a pool.

    Raises:
        InfeasibleError: the model cannot be spread that way.
        InputError: the accelerator has no bf16 peak.
    """
    check_parallelism(pool)
    peaks = pool.accelerator.peak_flops_per_s
    if not peaks.get("bf16"):
        raise InputError(f"no bf16 peak is known for {pool.accelerator.name}", place="peak_flops_per_s")
    constants = calibration or applied(pool)
    fracs = constants.gemm_compute_frac
    return Machine(
        pool=pool,
        calibration=constants,
        matmuls=tuple(matmuls(pool)),
        lm_head=lm_head(pool),
        experts=experts(pool),
        attention=attention_rates(pool, constants),
        linear=linear_rates(pool, constants),
        flops_per_s={name: peak * fracs[name] for name, peak in peaks.items() if name in fracs},
        bf16_flops_per_s=peaks["bf16"],
        hbm_bytes_per_s=pool.accelerator.hbm_bytes_per_s,
    )


# --- what grows with the tokens of the step ----------------------------------------------------------------


def token_operators(on: Machine, tokens: Column) -> list[Operator]:
    """Return everything that depends on the tokens of a step alone: projections, MLPs, experts, collectives.

    Args:
        on: the GPU.
        tokens: tokens of one share, padding included.
    """
    found = [_gemm(on, matrix, tokens) for matrix in on.matmuls]
    if on.experts:
        found.append(_experts(on, on.experts, tokens * on.pool.parallelism.dp))
    found += [_elementwise(on, tokens), _layer_overhead(on)]
    return found + _collectives(on, tokens)


def _gemm(on: Machine, matrix: Matmul, rows: Column) -> Operator:
    accelerator, count = on.pool.accelerator, matrix.count
    each = matrix_time(accelerator, on.pool.engine, on.calibration, matrix, rows)
    return Operator(
        name=matrix.name,
        count=count,
        flops=2 * matrix.params * rows,
        moved_bytes=matrix.weight_bytes + count * (matrix.k + matrix.n) * _BF16_BYTES * rows,
        compute_s=count * each.compute_s,
        memory_s=count * each.memory_s,
        fixed_s=count * each.fixed_s,
        time_s=count * each.time_s,
        peak_flops_per_s=accelerator.peak_flops_per_s[compute_format(matrix.dtype, accelerator)],
    )


def _experts(on: Machine, held: Experts, tokens: Column) -> Operator:
    """Time the routed experts; `tokens` are those of all data-parallel ranks."""
    pool, count = on.pool, held.count
    each = expert_time(pool.accelerator, pool.engine, on.calibration, held, pool.model.hidden_size, tokens)
    return Operator(
        name="experts",
        count=count,
        flops=count * each.flops,
        moved_bytes=count * each.moved_bytes,
        compute_s=count * each.compute_s,
        memory_s=count * each.memory_s,
        fixed_s=count * each.fixed_s,
        time_s=count * each.time_s,
        peak_flops_per_s=pool.accelerator.peak_flops_per_s[compute_format(held.dtype, pool.accelerator)],
    )


def _elementwise(on: Machine, tokens: Column) -> Operator:
    """Norms with residual (read and write both, twice a layer) and the gate of dense MLPs, each one fused kernel."""
    model, tp = on.pool.model, on.pool.parallelism.tp
    norms = 8 * model.hidden_size * model.num_hidden_layers
    gates = 3 * model.intermediate_size / tp * model.dense_layers
    moved = _BF16_BYTES * (norms + gates) * tokens
    memory_s = moved / on.streaming_bytes_per_s
    return Operator(
        name="norms, gates", count=model.num_hidden_layers, moved_bytes=moved, memory_s=memory_s, time_s=memory_s
    )


def _layer_overhead(on: Machine) -> Operator:
    layers = on.pool.model.num_hidden_layers
    fixed_s = layers * on.calibration.layer_fixed_s
    return Operator(name="layer overhead", count=layers, fixed_s=fixed_s, time_s=fixed_s)


# --- what is sent ------------------------------------------------------------------------------------------


def _transfer(on: Machine, name: str, sent: Mapping[str, Column], gpus: int, count: float) -> Operator:
    """Time `count` rounds of collectives, each by the bytes a GPU sends in it."""
    pool, constants = on.pool, on.calibration
    parts = [transfer(pool.accelerator, pool.engine, constants, kind, gpus, each) for kind, each in sent.items()]
    communication_s = count * sum(part.communication_s for part in parts)
    fixed_s = count * sum(part.fixed_s for part in parts)
    return Operator(
        name=name,
        count=count * len(parts),
        sent_bytes=count * sum(sent.values()),
        communication_s=communication_s,
        fixed_s=fixed_s,
        time_s=communication_s + fixed_s,
    )


def _collectives(on: Machine, tokens: Column) -> list[Operator]:
    model, par = on.pool.model, on.pool.parallelism
    hidden = _BF16_BYTES * model.hidden_size * tokens
    spread_experts = model.moe_layers if par.dp > 1 else 0
    found = []
    if par.tp > 1:
        mixers = model.num_hidden_layers - model.other_layers
        reduced = mixers + model.dense_layers + model.moe_layers - spread_experts
        ring = 2 * (par.tp - 1) / par.tp
        found.append(_transfer(on, "all-reduce", {"all_reduce": ring * hidden}, par.tp, reduced))
    if spread_experts:
        found.append(_expert_exchange(on, spread_experts, tokens))
    if par.pp > 1:
        found.append(_transfer(on, "stage to stage", {"send": hidden}, par.gpus, par.pp))
    return found


def _expert_exchange(on: Machine, layers: int, tokens: Column) -> Operator:
    """Dispatch and combine between data-parallel ranks: to each distinct remote rank once, or a gather where ep = 1."""
    model, par = on.pool.model, on.pool.parallelism
    group, wide = par.tp * par.dp, _BF16_BYTES * model.hidden_size * tokens
    if par.ep > 1:
        narrow = compute_format(on.pool.weight_dtype, on.pool.accelerator) in ("fp8", "fp4")
        back = ranks_reached(par.ep, model.num_experts_per_tok) * wide
        sent = {"dispatch": back / 2 if narrow else back, "combine": back}
        return _transfer(on, "dispatch, combine", sent, group, layers)
    gathered = (par.dp - 1) * wide
    return _transfer(on, "gather, scatter", {"all_gather": gathered, "reduce_scatter": gathered}, group, layers)


# --- what grows with the sequences of the step -----------------------------------------------------------------


def sequence_operators(on: Machine, rows: Column) -> list[Operator]:
    """Return what depends on the number of sequences: LM head, sampler, attention's own, state of linear attention.

    Args:
        on: the GPU.
        rows: sequences of one share; each samples one token.
    """
    model, par = on.pool.model, on.pool.parallelism
    bytes_per_s = on.streaming_bytes_per_s
    logits_s = 2 * 4.0 * model.vocab_size / bytes_per_s * rows  # the sampler reads and writes them once, in fp32
    fixed_s = on.calibration.sequence_fixed_s * par.pp * rows
    attention_s = on.attention.sequence_s * rows
    found = [
        _gemm(on, on.lm_head, rows),
        Operator(name="sampler", count=1, moved_bytes=logits_s * bytes_per_s, memory_s=logits_s, time_s=logits_s),
        Operator(name="attention per sequence", count=on.attention.layers, fixed_s=attention_s, time_s=attention_s),
        Operator(name="sequence overhead", count=1, fixed_s=fixed_s, time_s=fixed_s),
    ]
    if on.linear.layers:
        moved, state_s = on.linear.layers * 2.0 * model.linear_state_bytes / par.tp * rows, on.linear.sequence_s * rows
        name = "linear attention state"
        found.append(Operator(name=name, count=on.linear.layers, moved_bytes=moved, memory_s=state_s, time_s=state_s))
    return found
