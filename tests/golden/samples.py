"""One plan made by hand, so that what is shown of a plan is tested apart from what physics says."""

from __future__ import annotations

import dataclasses

from headway.planner.nouns import (
    Breaking,
    Certainty,
    FrontPoint,
    Lever,
    Plan,
    Refusal,
    SearchFigures,
    Step,
    Stress,
)
from headway.scenario import Assumption
from headway.types import (
    Accelerator,
    Band,
    Candidate,
    Cost,
    Deployment,
    EngineSettings,
    Latency,
    Model,
    Objective,
    Outcome,
    Parallelism,
    Pool,
    Price,
    Provenance,
    Slo,
)

BAND = Band(low_frac=-0.12, high_frac=0.2, confidence_frac=0.9, source="1,000 public rows")
SLO = Slo(
    objectives=(
        Objective(metric="ttft", percentile_frac=0.95, limit_s=0.5),
        Objective(metric="ttft", percentile_frac=0.99, limit_s=1.5),
        Objective(metric="tpot", percentile_frac=0.95, limit_s=0.045),
    ),
    success_frac=0.99,
)
MODEL = Model(
    name="acme/Chat-70B",
    architecture="LlamaForCausalLM",
    num_hidden_layers=80,
    hidden_size=8192,
    vocab_size=128256,
    num_attention_heads=64,
    num_key_value_heads=8,
    head_dim=128,
    intermediate_size=28672,
    max_position_embeddings=131072,
    tie_word_embeddings=False,
    weight_dtype="bf16",
    params=70.6e9,
    params_active=70.6e9,
    full_attention_layers=80,
)


def accelerator(name: str) -> Accelerator:
    return Accelerator(
        name=name,
        title=name.upper(),
        vendor="acme",
        hbm_bytes=80 * 2.0**30,
        hbm_bytes_per_s=3.35e12,
        peak_flops_per_s={"bf16": 989e12, "fp8": 1979e12},
        scale_up_gpus=8,
        scale_up_bytes_per_s=450e9,
        scale_out_bytes_per_s=50e9,
        gpus_per_node=8,
        board_power_w=700.0,
        provenance={"hbm_bytes": Provenance(source="datasheet", as_of="2024-05-01", unit="GiB")},
    )


def pool(name: str, *, tp: int, replicas: int, weight_dtype: str = "fp8") -> Pool:
    settings = EngineSettings(
        max_num_seqs=256, max_num_batched_tokens=8192, max_model_len=8192, gpu_memory_utilization=0.92
    )
    return Pool(
        name="main",
        model=MODEL,
        accelerator=accelerator(name),
        engine="vllm",
        engine_version="0.33.0",
        settings=settings,
        parallelism=Parallelism(tp=tp),
        weight_dtype=weight_dtype,  # type: ignore[arg-type]
        kv_dtype="bf16",
        replicas=replicas,
    )


def latency(p50_s: float) -> Latency:
    quantiles_s = {0.5: p50_s, 0.9: 1.8 * p50_s, 0.95: 2.2 * p50_s, 0.99: 4.0 * p50_s}
    return Latency(samples=8500, mean_s=1.2 * p50_s, max_s=9.0 * p50_s, quantiles_s=quantiles_s, band=BAND)


def outcome(tpot_s: float, ttft_s: float = 0.14) -> Outcome:
    tpot = latency(tpot_s)
    return Outcome(
        source="simulated",
        latency={"ttft": latency(ttft_s), "tpot": tpot, "e2e": latency(ttft_s + 250 * tpot_s)},
        window_s=150.0,
        arrived=8500,
        finished=8490,
        failed=10,
        unfinished=0,
        requests_per_s=56.6,
        input_tokens_per_s=65_000.0,
        output_tokens_per_s=12_000.0,
        goodput_per_s=55.9,
        slo_attainment_frac=0.987,
        meets_slo=True,
        preemptions=3,
        prefix_hit_frac=0.12,
        busy_frac={0.1: 0.61, 0.5: 0.82, 0.95: 0.97},
        kv_used_frac={0.1: 0.2, 0.5: 0.4, 0.95: 0.7},
    )


def cost(gpus: int, usd_per_gpu_hour: float, name: str) -> Cost:
    price = Price(
        accelerator=name,
        usd_per_gpu_hour=usd_per_gpu_hour,
        term="on-demand",
        provider="Acme Cloud",
        region="us-east-1",
        instance="acme.8x",
        gpus_per_instance=8.0,
        as_of="2026-09-06",
        source="price list",
    )
    per_hour = gpus * usd_per_gpu_hour
    return Cost(
        price=price,
        gpus=gpus,
        usd_per_hour=per_hour,
        usd_per_m_input_tokens=per_hour / 500,
        usd_per_m_output_tokens=per_hour / 90,
        usd_per_request=per_hour / 144_000,
        usd_per_good_request=per_hour / 142_000,
        idle_gpu_hours_per_hour=0.2 * gpus,
    )


def candidate(name: str, *, tp: int, replicas: int, tpot_s: float, usd_per_gpu_hour: float) -> Candidate:
    one = pool(name, tp=tp, replicas=replicas)
    return Candidate(
        deployment=Deployment(pools=(one,)),
        outcome=outcome(tpot_s),
        cost=cost(one.gpus, usd_per_gpu_hour, name),
        binds="ttft p99",
        everyday=outcome(tpot_s * 0.9),
        spare_replicas=1,
    )


CHOSEN = candidate("h100-sxm", tp=4, replicas=3, tpot_s=0.0128, usd_per_gpu_hour=6.88)
OTHERS = (
    candidate("h200-sxm", tp=2, replicas=6, tpot_s=0.0141, usd_per_gpu_hour=7.91),
    candidate("h100-sxm", tp=8, replicas=2, tpot_s=0.0098, usd_per_gpu_hour=6.88),
    candidate("mi300x", tp=2, replicas=7, tpot_s=0.0169, usd_per_gpu_hour=7.86),
    candidate("l40s", tp=8, replicas=9, tpot_s=0.0195, usd_per_gpu_hour=1.86),
)
LOST = dataclasses.replace(outcome(0.05, float("inf")), meets_slo=False, mfu_frac=float("nan"))

PLAN = Plan(
    chosen=CHOSEN,
    candidates=(CHOSEN, *OTHERS),
    front=(
        FrontPoint(candidate=CHOSEN, tail_s=13.4, lost_with_a_node_frac=0.67),
        FrontPoint(candidate=OTHERS[1], tail_s=10.4, lost_with_a_node_frac=0.5),
    ),
    steps=(
        Step(name="token distribution", figure=1155, unit="mean ISL tokens", how="of 19,366 requests; OSL 211"),
        Step(name="percentiles wanted", figure=4083, unit="p95 ISL tokens", how="what TTFT p95 must prefill"),
        Step(name="theoretical minimum", figure=3.1, unit="GPUs", how="work ÷ peak, 20 % efficiency tax"),
        Step(name="burst factor", figure=7.8, unit="GPUs", how="× 2.5"),
        Step(name="headroom", figure=11.1, unit="GPUs", how="÷ (1 − 30 %)"),
        Step(name="bottleneck", figure=12, unit="GPUs", how="whole replicas of TP4, hbm_bytes binds"),
    ),
    levers=(
        Lever(name="fp8 KV", gpus=-4, usd_per_hour=-27.52, tail={"tpot p95": (0.0282, 0.0262)}, candidate=OTHERS[1]),
        Lever(name="reserved for a year", gpus=0, usd_per_hour=-26.42, candidate=CHOSEN),
        Lever(name="bf16 weights", gpus=0, usd_per_hour=0.0, why_not="tpot p95 is missed at any size"),
        Lever(name="no spare", gpus=-4, usd_per_hour=-27.52, tail={}, candidate=CHOSEN),
        Lever(name="TTFT p99 relaxed to 3 s", gpus=-4, usd_per_hour=-27.52, candidate=CHOSEN),
    ),
    breaking=Breaking(holds_factor=1.9, breaks_factor=2.0, breaks="ttft p99"),
    stress=(
        Stress(factor=3.0, holds=False, breaks=("ttft p99", "ttft p95"), gpus=28, cost=cost(28, 6.88, "h100-sxm")),
        Stress(factor=10.0, holds=False, breaks=("ttft p99",), gpus=None, cost=None),
    ),
    assumptions=tuple(Assumption(name=f"allow.{key}", value="1", source="default: as most do") for key in "abcdefgh"),
    search=SearchFigures(
        enumerated=1536,
        refused=(Refusal(reason="does not fit in memory", candidates=700, example="l40s TP1 bf16"),),
        bounded=500,
        equivalent=36,
        simulated=90,
        simulations=210,
        simulated_requests=2_100_000,
        requests=10_000,
    ),
    slo=SLO,
    base_rate_per_s=40.0,
    design_rate_per_s=57.142857,
    certainty=Certainty(
        confidence_frac=0.8,
        asked_frac=0.8,
        over_frac={"ttft p95": 0.34, "ttft p99": 0.5, "tpot p95": 0.12},
        likeness="this deployment",
        point=candidate("h100-sxm", tp=4, replicas=2, tpot_s=0.0128, usd_per_gpu_hour=6.88),
        gpus=4,
        usd_per_hour=27.52,
        measure=("ttft", "tpot"),
    ),
)
