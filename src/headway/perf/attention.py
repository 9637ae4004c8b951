"""What attention takes, linear in what a batch sums to: measured curves where there are any, constants otherwise.

One layer on one GPU with n sequences, decodes over S tokens of context, prompts of m new tokens on top of x:

    launch + n · sequence + S · context                        a step of decodes
    … + M · token + Σ m (2x + m) · pair + Σ x · prefill_context    beside a prompt, M being all its tokens

Reading KV and multiplying are both proportional to the context, so the slower of the two is one rate. Prompts multiply
at their own fraction of the bf16 peak and read the cached context once, without overlap (MLA also widens it again, at
the bf16 rate). What a window layer reads of the cached context is left out: at most one window per chunk.

The curves (`attention` and `mla` in `data/curves`) are efficiencies against memory (decode; sequence, whose unit is 64
tokens of KV; token, which is Q, K, V and output once) and against the bf16 peak (prefill). An accelerator without any
takes those of one with its architecture (`curves.stand_in`); the engine's own come before the middle of all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from headway.perf.curves import Curve, curve_for
from headway.perf.formats import KV_BYTES
from headway.perf.shapes import attention_layers, kv_elements, kv_heads_per_gpu

if TYPE_CHECKING:
    from headway.perf.constants import Calibration
    from headway.types import Pool

#: KV tokens in the unit of a sequence's own time: half a tile of 128.
UNIT_TOKENS = 64
_BF16_BYTES = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionRates:
    """Seconds attention takes per unit of work, all layers and stages, divided by the ranks that share a batch.

    `launch_s` is of every share of a step, `sequence_s` of a sequence of a share: neither is divided.
    """

    layers: int
    launch_s: float
    sequence_s: float
    context_s_per_token: float  # decode over layers with full attention
    window_s_per_token: float
    token_s: float  # every token of a step with a prompt in it
    pair_s: float  # prefill, per unit of Σ m (2x + m)
    window_pair_s: float
    prefill_context_s_per_token: float


def decode_flops_per_token(pool: Pool) -> float:
    """Return FLOPs of one decode over one token of context in one layer (MLA in its absorbed form)."""
    model = pool.model
    heads = model.num_attention_heads / pool.parallelism.tp
    if model.is_mla:
        return 2 * heads * (2 * model.kv_lora_rank + model.qk_rope_head_dim)
    return 4 * heads * model.head_dim


def pair_flops(pool: Pool) -> float:
    """Return FLOPs of prefill attention per unit of m (2x + m) in one layer: twice the causal pairs."""
    model = pool.model
    heads = model.num_attention_heads / pool.parallelism.tp
    if model.is_mla:
        return heads * (model.qk_nope_head_dim + model.qk_rope_head_dim + model.v_head_dim)
    return 2 * heads * model.head_dim


def kv_bytes_per_layer(pool: Pool) -> float:
    """Return KV bytes of one token in one attention layer on one GPU."""
    return kv_elements(pool.model, pool.parallelism.tp) * KV_BYTES[pool.kv_dtype]


def expansion_flops_per_token(pool: Pool) -> float:
    """Return FLOPs to widen one token of cached latent again for prefill, in one layer (MLA only)."""
    model = pool.model
    if not model.is_mla:
        return 0.0
    width = model.num_attention_heads / pool.parallelism.tp * (model.qk_nope_head_dim + model.v_head_dim)
    return 2 * model.kv_lora_rank * width


def cached_read_s(pool: Pool, constants: Calibration) -> float:
    """Return the time to read one token of cached context in one layer for a prompt."""
    bytes_per_s = pool.accelerator.hbm_bytes_per_s * constants.attention_memory_frac[pool.kv_dtype]
    return kv_bytes_per_layer(pool) / bytes_per_s


def prompt_bytes_per_token(pool: Pool) -> float:
    """Return bytes of Q, K, V and output of one token in one layer on one GPU."""
    model, tp = pool.model, pool.parallelism.tp
    heads = model.num_attention_heads / tp
    if model.is_mla:
        return 2 * _BF16_BYTES * heads * (model.qk_nope_head_dim + model.qk_rope_head_dim + model.v_head_dim)
    return 2 * _BF16_BYTES * (heads + kv_heads_per_gpu(model, tp)) * model.head_dim


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    """Seconds of one layer on one GPU."""

    launch_s: float
    sequence_s: float
    context_s: float
    token_s: float
    pair_s: float


def attention_rates(pool: Pool, constants: Calibration) -> AttentionRates:
    """Return attention's rates of one pool.

    Args:
        pool: what is deployed.
        constants: what stands in where nothing was measured; its `curves` come before the stored ones.
    """
    full, window = attention_layers(pool.model, pool.settings.max_model_len)
    shares = pool.parallelism.pp * pool.parallelism.dp
    one = _measured(pool, constants) or _from_constants(pool, constants)
    bf16_flops_per_s = pool.accelerator.peak_flops_per_s["bf16"] * constants.gemm_compute_frac["bf16"]
    cached_s = cached_read_s(pool, constants) + expansion_flops_per_token(pool) / bf16_flops_per_s
    return AttentionRates(
        layers=full + window,
        launch_s=(full + window) * one.launch_s,
        sequence_s=(full + window) * one.sequence_s,
        context_s_per_token=full * one.context_s / shares,
        window_s_per_token=window * one.context_s / shares,
        token_s=(full + window) * one.token_s / shares,
        pair_s=full * one.pair_s / shares,
        window_pair_s=window * one.pair_s / shares,
        prefill_context_s_per_token=full * cached_s / shares,
    )


def _from_constants(pool: Pool, constants: Calibration) -> _Layer:
    peak = pool.accelerator.peak_flops_per_s["bf16"]
    multiplied_s = decode_flops_per_token(pool) / (peak * constants.attention_compute_frac)
    return _Layer(
        launch_s=constants.attention_fixed_s,
        sequence_s=0.0,
        context_s=max(multiplied_s, cached_read_s(pool, constants)),
        token_s=0.0,
        pair_s=pair_flops(pool) / (peak * constants.prefill_attention_frac),
    )


def _measured(pool: Pool, constants: Calibration) -> _Layer | None:
    decode, sequence, prefill, token = (_curve(pool, constants, name) for name in _PHASES)
    if not (decode and sequence and prefill and token):
        return None
    model, tp = pool.model, pool.parallelism.tp
    if model.is_mla:
        shape = prompt_shape = {"heads": model.num_attention_heads / tp}
    else:
        group = model.num_attention_heads / tp / kv_heads_per_gpu(model, tp)
        prompt_shape = {"head_dim": float(model.head_dim)}
        shape = {**prompt_shape, "group": group}
    read_s = kv_bytes_per_layer(pool) / pool.accelerator.hbm_bytes_per_s
    moved_s = prompt_bytes_per_token(pool) / pool.accelerator.hbm_bytes_per_s
    multiplied_s = pair_flops(pool) / pool.accelerator.peak_flops_per_s["bf16"]
    return _Layer(
        launch_s=decode.fixed_s,
        sequence_s=UNIT_TOKENS * read_s / float(sequence.efficiency(**shape)),
        context_s=read_s / float(decode.efficiency(**shape)),
        token_s=moved_s / float(token.efficiency(**prompt_shape)),
        pair_s=multiplied_s / float(prefill.efficiency(**prompt_shape)),
    )


_PHASES = ("decode", "sequence", "prefill", "token")


def _curve(pool: Pool, constants: Calibration, phase: str) -> Curve | None:
    operator, keys = "mla" if pool.model.is_mla else "attention", (phase, pool.kv_dtype, pool.engine)
    return curve_for(pool.accelerator, operator, *keys, extra=constants.curves)
