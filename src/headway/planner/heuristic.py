"""The capacity method people know, in its six steps, each with its figure; the simulation stands beside it.

1. measure the tokens of a request;
2. take the percentiles wanted;
3. the theoretical minimum at datasheet peaks, plus 20 % efficiency tax;
4. × burst factor, customarily 2.5 … 4;
5. ÷ (1 − headroom), customarily 30 … 50 %;
6. scale on the resource that runs out first, in whole replicas.

Arithmetic, datasheet peaks and no queue: it says what a spreadsheet says. All figures are *estimated*.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from headway.perf import replica
from headway.perf.formats import KV_BYTES, WEIGHT_BYTES, compute_format
from headway.planner.nouns import Step

if TYPE_CHECKING:
    from headway.planner.space import Option
    from headway.scenario import Policy
    from headway.types import Requests, Slo

_TAX = 1.2
_CUSTOMARY_BURST = 2.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Peaks:
    """What one replica could do at datasheet peaks."""

    compute_tokens_per_s: float  # tokens of any kind through its multipliers
    bandwidth_tokens_per_s: float  # output tokens, at the batch its memory holds
    kv_tokens: float  # context tokens its memory holds


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """The traffic in the method's terms, at the base rate."""

    rate_per_s: float
    isl_tokens: float
    osl_tokens: float
    residence_s: float  # how long a request may take: the SLO's limits


def peaks_of(option: Option, context_tokens: float) -> Peaks:
    """Return the peaks of one replica.

    compute: 2 FLOPs per active parameter and token. bandwidth: a step reads all weights touched and every context once,
    for each of the n = KV tokens / context sequences held (at most max_num_seqs).
    """
    pool = option.pool
    if pool.calibration:
        return _peaks_measured(option, context_tokens)
    model, accelerator, gpus = pool.model, pool.accelerator, pool.gpus
    flops_per_s = accelerator.peak_flops_per_s[compute_format(pool.weight_dtype, accelerator)] * gpus
    kv_tokens = float(option.blocks * pool.settings.block_size)
    batch = max(min(kv_tokens / context_tokens, pool.settings.max_num_seqs), 1.0)
    token_bytes = _kv_bytes_per_token(option) * context_tokens
    step_bytes = model.params_active * WEIGHT_BYTES[pool.weight_dtype] + batch * token_bytes
    return Peaks(
        compute_tokens_per_s=flops_per_s / (2.0 * model.params_active),
        bandwidth_tokens_per_s=batch * accelerator.hbm_bytes_per_s * gpus / step_bytes,
        kv_tokens=kv_tokens,
    )


def _peaks_measured(option: Option, context_tokens: float) -> Peaks:
    """Return the same of a calibrated endpoint: its fullest steps in place of a datasheet nobody has."""
    pool, step = option.pool, replica(option.pool).step
    kv_tokens = float(option.blocks * pool.settings.block_size)
    batch = int(max(min(kv_tokens / context_tokens, pool.settings.max_num_seqs), 1.0))
    decode_ps = float(step.decode_ps[batch]) + step.context_ps_per_token * batch * context_tokens
    return Peaks(
        compute_tokens_per_s=pool.settings.max_num_batched_tokens / (float(step.mixed_ps[-1]) / 1e12),
        bandwidth_tokens_per_s=batch / (decode_ps / 1e12),
        kv_tokens=kv_tokens,
    )


def _kv_bytes_per_token(option: Option) -> float:
    model = option.pool.model
    layers = model.full_attention_layers + model.sliding_window_layers
    width = (
        model.kv_lora_rank + model.qk_rope_head_dim if model.is_mla else 2 * model.num_key_value_heads * model.head_dim
    )
    return layers * width * KV_BYTES[option.pool.kv_dtype]


def load_of(requests: Requests, slo: Slo, rate_per_s: float) -> Load:
    """Return the traffic's means and how long the SLO lets a request stay."""
    limits = {o.metric: o.limit_s for o in reversed(slo.objectives)}
    osl = float(requests.osl_tokens.mean())
    streamed_s = limits.get("ttft", 0.0) + osl * limits.get("tpot", limits.get("itl", 0.0))
    return Load(
        rate_per_s=rate_per_s,
        isl_tokens=float(requests.isl_tokens.mean()),
        osl_tokens=osl,
        residence_s=max(streamed_s, limits.get("e2e", 0.0)),
    )


def replicas_by_resource(load: Load, peaks: Peaks) -> dict[str, float]:
    """Return how many replicas each resource asks for at the base rate, at its peak."""
    context = load.isl_tokens + load.osl_tokens / 2
    return {
        "compute": load.rate_per_s * (load.isl_tokens + load.osl_tokens) / peaks.compute_tokens_per_s,
        "memory bandwidth": load.rate_per_s * load.osl_tokens / peaks.bandwidth_tokens_per_s,
        "KV memory": load.rate_per_s * load.residence_s * context / peaks.kv_tokens,
    }


def capacity_method(
    option: Option, requests: Requests, slo: Slo, policy: Policy, rate_per_s: float
) -> tuple[Step, ...]:
    """Return the six steps for one deployment.

    Args:
        option: the replica.
        requests: the traffic.
        slo: its limits say how long a request may stay.
        policy: burst and headroom; a burst of 1 is replaced by the customary 2.5, as the method knows no replay.
        rate_per_s: the base rate.
    """
    load = load_of(requests, slo, rate_per_s)
    needs = replicas_by_resource(load, peaks_of(option, load.isl_tokens + load.osl_tokens / 2))
    resource = max(needs, key=lambda name: needs[name])
    least = needs[resource] * _TAX
    burst = policy.burst if policy.burst > 1.0 else _CUSTOMARY_BURST
    burst *= policy.growth
    kept = least * burst / (1.0 - policy.headroom_frac)
    whole = max(math.ceil(kept - 1e-9), 1)
    at = max(o.percentile_frac for o in slo.objectives)
    isl, osl = (float(np.quantile(column, at)) for column in (requests.isl_tokens, requests.osl_tokens))
    reached = "the calibrated endpoint's fullest steps" if option.pool.calibration else "datasheet peaks"
    each = ", ".join(f"{name} {value:.2f}" for name, value in needs.items())
    return (
        Step(
            name="token distribution",
            figure=load.isl_tokens + load.osl_tokens,
            unit="tokens per request",
            how=f"mean ISL {load.isl_tokens:,.0f} + mean OSL {load.osl_tokens:,.0f}",
        ),
        Step(
            name="percentiles wanted",
            figure=isl + osl,
            unit="tokens per request",
            how=f"p{100 * at:g} of the SLO: ISL {isl:,.0f}, OSL {osl:,.0f}",
        ),
        Step(
            name="theoretical minimum + 20 % tax",
            figure=least,
            unit="replicas",
            how=f"{rate_per_s:.4g} req/s at {reached}: {each}; the largest × {_TAX}",
        ),
        Step(
            name="burst factor",
            figure=least * burst,
            unit="replicas",
            how=f"× {burst:g}" + ("" if policy.burst > 1.0 else f" (growth × the customary {_CUSTOMARY_BURST:g} … 4)"),
        ),
        Step(name="headroom", figure=kept, unit="replicas", how=f"÷ (1 − {100 * policy.headroom_frac:g} %)"),
        Step(
            name="scale on the bottleneck",
            figure=float(whole * option.pool.gpus),
            unit="GPUs",
            how=f"{resource} runs out first: {whole} whole replicas of {option.pool.gpus}",
        ),
    )
