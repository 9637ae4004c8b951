"""Linear attention's rates: arithmetic by hand on curves of one's own, and what stands in without any."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from headway.perf import Batch, calibration, step
from headway.perf.curves import Curve, curve
from headway.perf.linear import LinearRates, linear_rates
from headway.types import Accelerator, EngineSettings, Model, Parallelism, Pool, Provenance

CARD = Accelerator(
    name="x",
    title="X",
    vendor="nvidia",
    hbm_bytes=80 * 2.0**30,
    hbm_bytes_per_s=3.35e12,
    peak_flops_per_s={"bf16": 989e12},
    scale_up_gpus=8,
    scale_up_bytes_per_s=450e9,
    scale_out_bytes_per_s=50e9,
    gpus_per_node=8,
    board_power_w=700.0,
)
HYBRID = Model(
    name="hybrid",
    architecture="Qwen3NextForCausalLM",
    num_hidden_layers=4,
    hidden_size=2048,
    vocab_size=151936,
    num_attention_heads=16,
    num_key_value_heads=2,
    head_dim=256,
    intermediate_size=5120,
    max_position_embeddings=262144,
    tie_word_embeddings=False,
    weight_dtype="bf16",
    params=1e9,
    params_active=0.7e9,
    full_attention_layers=1,
    linear_attention_layers=3,
    linear_state_bytes=2 * 2**20,
)


def a_pool(model: Model = HYBRID, accelerator: Accelerator = CARD, **parallelism: int) -> Pool:
    return Pool(
        name="pool",
        model=model,
        accelerator=accelerator,
        engine="vllm",
        engine_version="0",
        settings=EngineSettings(
            max_num_seqs=64, max_num_batched_tokens=2048, max_model_len=16384, gpu_memory_utilization=0.92
        ),
        parallelism=Parallelism(**parallelism),
        weight_dtype="bf16",
        kv_dtype="bf16",
        replicas=1,
    )


def a_curve(efficiency: float, fixed_s: float) -> Curve:
    return Curve(
        axes=("state_bytes",),
        grid=(np.array([1e6]),),
        table=np.array([efficiency]),
        fixed_s=fixed_s,
        provenance=Provenance(source="mine", as_of="2026-01-01"),
    )


MINE = {"linear/x/decode": a_curve(0.8, 5e-6), "linear/x/prefill": a_curve(0.1, 30e-6)}
CONSTANTS = replace(calibration(CARD, "vllm"), curves=MINE)


def test_rates_are_the_state_over_the_efficiency_of_a_users_own_curves() -> None:
    found = linear_rates(a_pool(tp=2, pp=2), CONSTANTS)
    assert found.layers == 3
    assert found.launch_s == pytest.approx(3 * 5e-6)
    assert found.prompt_launch_s == pytest.approx(3 * 30e-6)
    assert found.sequence_s == pytest.approx(3 * 2 * 2**20 / (3.35e12 * 0.8))
    assert found.token_s == pytest.approx(3 * 2**20 / 64 / (3.35e12 * 0.1) / 2)


def test_without_curves_only_the_state_is_streamed() -> None:
    constants = calibration(CARD, "vllm")
    streamed_s = 3 * 2 * 2 * 2**20 / (3.35e12 * constants.gemm_memory_frac["bf16"])
    assert linear_rates(a_pool(), constants) == LinearRates(layers=3, sequence_s=pytest.approx(streamed_s))


def test_a_model_without_linear_layers_pays_nothing() -> None:
    plain = replace(HYBRID, full_attention_layers=4, linear_attention_layers=0, linear_state_bytes=0)
    assert linear_rates(a_pool(plain), CONSTANTS) == LinearRates(layers=0)
    assert not [op for op in step(a_pool(plain), Batch.of([9]), CONSTANTS).operators if "linear" in op.name]


def test_a_step_charges_states_by_sequence_and_chunks_by_token() -> None:
    rates = linear_rates(a_pool(), CONSTANTS)
    decode = {op.name: op for op in step(a_pool(), Batch.of([700, 300]), CONSTANTS).operators}
    assert decode["linear attention"].time_s == rates.launch_s
    assert decode["linear attention state"].time_s == pytest.approx(2 * rates.sequence_s)
    assert decode["linear attention state"].moved_bytes == 2 * 3 * 2 * 2 * 2**20
    mixed = {op.name: op for op in step(a_pool(), Batch.of([700, 300], [(100, 50)]), CONSTANTS).operators}
    launches_s = rates.launch_s + rates.prompt_launch_s
    assert mixed["linear attention"].time_s == pytest.approx(launches_s + 102 * rates.token_s)
    assert mixed["linear attention state"].time_s == pytest.approx(3 * rates.sequence_s)


def test_the_recurrence_was_timed_near_the_bandwidth_of_memory() -> None:
    """Gated delta nets with 32 heads, a state of 2 MiB: 78 to 90 % of HBM on H100, H200, B200 and B300."""
    for name in ("h100-sxm", "b200", "b300", "gb200", "gb300"):
        found = curve("linear", name, "decode", "vllm")
        assert found is not None
        assert 0.7 < float(found.efficiency(state_bytes=2 * 2**20)) < 0.95
