"""Attention's rates: arithmetic by hand on curves of one's own, who inherits whose, and kernels as they were timed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from headway.perf import Batch, calibration, step
from headway.perf.attention import AttentionRates, attention_rates
from headway.perf.curves import Curve, curve
from headway.types import Accelerator, EngineSettings, Model, Parallelism, Pool, Provenance

if TYPE_CHECKING:
    from headway.perf import Calibration

H100 = Accelerator(
    name="h100-sxm",
    title="H100",
    vendor="nvidia",
    hbm_bytes=80 * 2.0**30,
    hbm_bytes_per_s=3.35e12,
    peak_flops_per_s={"bf16": 989e12, "fp8": 1979e12},
    scale_up_gpus=8,
    scale_up_bytes_per_s=450e9,
    scale_out_bytes_per_s=50e9,
    gpus_per_node=8,
    board_power_w=700.0,
    compute_capability="9.0",
)
B200 = replace(
    H100,
    name="b200",
    hbm_bytes_per_s=7.672e12,
    peak_flops_per_s={"bf16": 2250e12, "fp8": 4500e12},
    compute_capability="10.0",
)
UNKNOWN = replace(H100, name="x", compute_capability="")
ONE_LAYER = Model(
    name="one layer",
    architecture="LlamaForCausalLM",
    num_hidden_layers=1,
    hidden_size=4096,
    vocab_size=128256,
    num_attention_heads=32,
    num_key_value_heads=8,
    head_dim=128,
    intermediate_size=14336,
    max_position_embeddings=131072,
    tie_word_embeddings=False,
    weight_dtype="bf16",
    params=1.3e9,
    params_active=0.8e9,
    full_attention_layers=1,
)
LATENT_LAYER = replace(
    ONE_LAYER,
    num_attention_heads=128,
    num_key_value_heads=128,
    q_lora_rank=1536,
    kv_lora_rank=512,
    qk_nope_head_dim=128,
    qk_rope_head_dim=64,
    v_head_dim=128,
)


def a_pool(model: Model = ONE_LAYER, accelerator: Accelerator = H100, **changes: object) -> Pool:
    pool = Pool(
        name="pool",
        model=model,
        accelerator=accelerator,
        engine="vllm",
        engine_version="0",
        settings=EngineSettings(
            max_num_seqs=256, max_num_batched_tokens=8192, max_model_len=131072, gpu_memory_utilization=0.92
        ),
        parallelism=Parallelism(),
        weight_dtype="bf16",
        kv_dtype="bf16",
        replicas=1,
    )
    return replace(pool, **changes)  # type: ignore[arg-type]


def rates(pool: Pool, constants: Calibration | None = None) -> AttentionRates:
    return attention_rates(pool, constants or calibration(pool.accelerator, pool.engine))


def a_curve(efficiency: float, *axes: str, fixed_s: float = 0.0) -> Curve:
    return Curve(
        axes=axes,
        grid=tuple(np.array([1.0]) for _ in axes),
        table=np.full((1,) * len(axes), efficiency),
        fixed_s=fixed_s,
        provenance=Provenance(source="mine", as_of="2026-01-01"),
    )


MINE = {
    "attention/x/decode/bf16": a_curve(0.8, "head_dim", "group", fixed_s=9e-6),
    "attention/x/sequence/bf16": a_curve(0.5, "head_dim", "group"),
    "attention/x/prefill/bf16": a_curve(0.6, "head_dim"),
    "attention/x/token/bf16": a_curve(0.4, "head_dim"),
}


def test_rates_are_the_roofline_over_the_efficiency_of_a_users_own_curves() -> None:
    model = replace(ONE_LAYER, num_hidden_layers=3, full_attention_layers=2, sliding_window_layers=1, sliding_window=64)
    pool = a_pool(model, UNKNOWN, parallelism=Parallelism(tp=2, dp=2))
    found = rates(pool, replace(calibration(UNKNOWN, "vllm"), curves=MINE))
    kv_bytes, io_bytes = 2 * 4 * 128 * 2, 2 * (16 + 4) * 128 * 2
    assert found.layers == 3
    assert found.launch_s == pytest.approx(3 * 9e-6)
    assert found.sequence_s == pytest.approx(3 * 64 * kv_bytes / (3.35e12 * 0.5))
    assert found.context_s_per_token == pytest.approx(2 * kv_bytes / (3.35e12 * 0.8) / 2)
    assert found.window_s_per_token == pytest.approx(kv_bytes / (3.35e12 * 0.8) / 2)
    assert found.token_s == pytest.approx(3 * io_bytes / (3.35e12 * 0.4) / 2)
    assert found.pair_s == pytest.approx(2 * 2 * 16 * 128 / (989e12 * 0.6) / 2)
    assert found.window_pair_s == pytest.approx(found.pair_s / 2)


def test_a_step_charges_decodes_by_sequence_and_context_and_prompts_by_token_and_pair() -> None:
    pool = a_pool(accelerator=UNKNOWN)
    constants = replace(calibration(UNKNOWN, "vllm"), curves=MINE)
    found = {op.name: op for op in step(pool, Batch.of([700, 300], [(100, 50)]), constants).operators}
    want = rates(pool, constants)
    assert found["attention launch"].time_s == want.launch_s
    assert found["attention per sequence"].time_s == pytest.approx(3 * want.sequence_s)
    assert found["decode attention"].time_s == pytest.approx(1000 * want.context_s_per_token)
    prompts_s = 102 * want.token_s + 100 * 200 * want.pair_s + 50 * want.prefill_context_s_per_token
    assert found["prefill attention"].time_s == pytest.approx(prompts_s)


def test_without_any_curve_constants_stand_in() -> None:
    found, constants = rates(a_pool(accelerator=UNKNOWN)), calibration(UNKNOWN, "vllm")
    assert found.launch_s == constants.attention_fixed_s
    assert (found.sequence_s, found.token_s) == (0, 0)
    assert found.context_s_per_token == pytest.approx(2 * 8 * 128 * 2 / (3.35e12 * 0.78))
    assert found.pair_s == pytest.approx(2 * 32 * 128 / (989e12 * 0.62))


def test_one_curve_missing_leaves_the_whole_line_to_constants() -> None:
    partly = {name: mine for name, mine in MINE.items() if "token" not in name}
    constants = calibration(UNKNOWN, "vllm")
    pool = a_pool(accelerator=UNKNOWN)
    assert rates(pool, replace(constants, curves=partly)) == rates(pool, constants)


def test_an_accelerator_that_was_not_timed_takes_efficiencies_of_its_architecture() -> None:
    slower = replace(H100, name="h100-pcie", hbm_bytes_per_s=2.0e12, peak_flops_per_s={"bf16": 756e12})
    timed, other = rates(a_pool()), rates(a_pool(accelerator=slower))
    assert other.launch_s == timed.launch_s
    assert other.context_s_per_token == pytest.approx(timed.context_s_per_token * 3.35 / 2.0)
    assert other.pair_s == pytest.approx(timed.pair_s * 989 / 756)


def test_an_engine_nobody_timed_takes_the_middle_of_those_timed() -> None:
    middle = curve("attention", "h100-sxm", "decode", "fp8")
    assert middle is not None
    assert "middle of" in middle.provenance.note
    found = rates(a_pool(engine="another", kv_dtype="fp8"))
    assert found.launch_s == middle.fixed_s
    assert found != rates(a_pool(engine="tensorrt-llm", kv_dtype="fp8"))


def test_a_fp8_prompt_above_the_bf16_peak_is_multiplied_in_fp8() -> None:
    fast = MINE | {"attention/x/prefill/bf16": a_curve(1.5, "head_dim")}
    constants = replace(calibration(UNKNOWN, "vllm"), curves=fast)
    found = step(a_pool(accelerator=UNKNOWN), Batch.of([], [(8192, 0)]), constants)
    prompt = next(op for op in found.operators if op.name == "prefill attention")
    assert prompt.peak_flops_per_s == 1979e12
    assert found.achieved_frac(prompt) < 1


def attention_s(pool: Pool, batch: Batch) -> float:
    return sum(op.time_s for op in step(pool, batch).operators if "attention" in op.name)


def with_heads(heads: int, kv_heads: int) -> Model:
    return replace(ONE_LAYER, num_attention_heads=heads, num_key_value_heads=kv_heads)


@pytest.mark.parametrize(
    ("pool", "decodes", "context", "timed_us"),
    [
        (a_pool(), 64, 4095, 353.6),
        (a_pool(), 256, 1023, 364.4),
        (a_pool(), 16, 8191, 210.9),
        (a_pool(with_heads(8, 1)), 128, 4095, 101.1),
        (a_pool(engine="tensorrt-llm", kv_dtype="fp8"), 64, 4095, 183.1),
        (a_pool(engine="sglang"), 32, 4095, 184.4),
    ],
)
def test_decode_kernels_take_what_they_were_timed_at(pool: Pool, decodes: int, context: int, timed_us: float) -> None:
    """H100, head_dim 128: vLLM 0.24.0, TensorRT-LLM 1.3.0rc20, SGLang 0.5.14 in aiconfigurator-core 0.12.0."""
    assert 1e6 * attention_s(pool, Batch.of([context] * decodes)) == pytest.approx(timed_us, rel=0.12)


LATENT = {heads: replace(LATENT_LAYER, num_attention_heads=heads) for heads in (16, 128)}


@pytest.mark.parametrize(
    ("pool", "decodes", "context", "timed_us"),
    [
        (a_pool(LATENT[16], engine="tensorrt-llm"), 64, 4095, 119.2),
        (a_pool(LATENT[128], engine="tensorrt-llm"), 256, 8191, 981.0),
        (a_pool(LATENT[128], engine="tensorrt-llm", kv_dtype="fp8"), 64, 8191, 220.8),
        (a_pool(LATENT[16], B200, engine="tensorrt-llm", kv_dtype="fp8"), 256, 8191, 202.3),
        (a_pool(LATENT[128], B200, engine="tensorrt-llm"), 256, 8191, 459.9),
    ],
)
def test_mla_decode_kernels_take_what_they_were_timed_at(
    pool: Pool, decodes: int, context: int, timed_us: float
) -> None:
    """DeepSeek-V3's shape under TensorRT-LLM 1.3.0rc20 in aiconfigurator-core 0.12.0."""
    assert 1e6 * attention_s(pool, Batch.of([context] * decodes)) == pytest.approx(timed_us, rel=0.12)


@pytest.mark.parametrize(
    ("pool", "prompts", "timed_us"),
    [
        (a_pool(), [8192], 912.2),
        (a_pool(), [4096] * 4, 1011.0),
        (a_pool(accelerator=B200), [8192], 514.0),
        (a_pool(LATENT[128], engine="tensorrt-llm"), [4096], 1262.9),
        (a_pool(LATENT[16], B200, engine="tensorrt-llm", kv_dtype="fp8"), [8192], 316.2),
    ],
)
def test_prompt_kernels_take_what_they_were_timed_at(pool: Pool, prompts: list[int], timed_us: float) -> None:
    """Of the same tables, vLLM 0.24.0 where nothing else is said; one layer, whole prompts."""
    found = attention_s(pool, Batch.of([], [(tokens, 0) for tokens in prompts]))
    assert 1e6 * found == pytest.approx(timed_us, rel=0.2)


@pytest.fixture(name="reduction")
def _reduction(monkeypatch: pytest.MonkeyPatch) -> object:
    pytest.importorskip("scipy")
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    from tools.derive_curves import attention

    return attention


def timed_rows(module: object, seconds: np.ndarray, work_s: np.ndarray, heads: np.ndarray) -> object:
    made = module.Timed(  # type: ignore[attr-defined]
        accelerator="x", engine="vllm", kv_dtype="bf16", axes={"heads": heads}, work_s=work_s, time_s=seconds
    )
    assert len(made.time_s) == len(seconds)
    return made


def test_a_reduction_finds_the_terms_the_times_were_made_of(reduction: object) -> None:
    chance = np.random.default_rng(1)
    heads = np.repeat([8.0, 32.0], 100)
    work_s = 10 ** chance.uniform(-6, -3, (200, 2))
    efficiency = np.where(heads == 8, 0.9, 0.45)
    seconds = 12e-6 + work_s[:, 0] / 0.3 + work_s[:, 1] / efficiency
    seconds[::17] *= 3  # outliers, as timing has them
    rows = timed_rows(reduction, seconds, work_s, heads)
    found = reduction.reduce_rows(rows, {"heads": (8, 32)}, ("small", "main")).parts  # type: ignore[attr-defined]
    assert found["main"].fixed_s == pytest.approx(12e-6, rel=0.05)
    assert found["main"].table == pytest.approx([0.9, 0.45], rel=0.03)
    assert found["small"].table == pytest.approx([0.3, 0.3], rel=0.03)
    assert found["main"].error_median_frac < 0.02


def test_too_few_rows_make_no_curve(reduction: object) -> None:
    rows = timed_rows(reduction, np.full(8, 1e-5), np.full((8, 2), 1e-6), np.full(8, 8.0))
    assert reduction.reduce_rows(rows, {"heads": (8,)}, ("small", "main")).parts == {}  # type: ignore[attr-defined]
