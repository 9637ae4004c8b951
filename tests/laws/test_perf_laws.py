"""Laws of the step-time and memory model that hold for every pool and batch."""

from __future__ import annotations

import importlib
import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from headway.errors import InfeasibleError
from headway.perf import Batch, StepBreakdown, calibration, lower, memory, step
from headway.perf.breakdown import causal_window_pairs
from headway.perf.corrections import NONE
from headway.perf.shapes import weight_bytes
from headway.types import Accelerator, EngineSettings, Model, Parallelism, Pool, StepTable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from random import Random

GRAPHS = (1, 2, 4, *range(8, 256, 8), *range(256, 513, 16))

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
)
B200 = replace(
    H100,
    name="b200",
    hbm_bytes=180 * 2.0**30,
    hbm_bytes_per_s=8e12,
    peak_flops_per_s={"bf16": 2250e12, "fp8": 4500e12, "fp4": 9000e12},
    scale_up_bytes_per_s=900e9,
)

LLAMA_8B = Model(
    name="llama-3.1-8b",
    architecture="LlamaForCausalLM",
    num_hidden_layers=32,
    hidden_size=4096,
    vocab_size=128256,
    num_attention_heads=32,
    num_key_value_heads=8,
    head_dim=128,
    intermediate_size=14336,
    max_position_embeddings=131072,
    tie_word_embeddings=False,
    weight_dtype="bf16",
    params=8.03e9,
    params_active=7.505e9,  # without the input embedding
    full_attention_layers=32,
)
WINDOWED = replace(LLAMA_8B, name="windowed", full_attention_layers=8, sliding_window_layers=24, sliding_window=512)
MOE = replace(
    LLAMA_8B,
    name="moe",
    intermediate_size=0,
    num_experts=64,
    num_experts_per_tok=4,
    moe_intermediate_size=2048,
    moe_layers=32,
    params=53.94e9,
    params_active=5.1e9,
)
MLA = replace(
    LLAMA_8B,
    name="mla",
    num_key_value_heads=32,
    q_lora_rank=1536,
    kv_lora_rank=512,
    qk_nope_head_dim=128,
    qk_rope_head_dim=64,
    v_head_dim=128,
)
HYBRID = replace(
    LLAMA_8B, name="hybrid", full_attention_layers=8, linear_attention_layers=24, linear_state_bytes=2 * 2**20
)
MODELS = (LLAMA_8B, WINDOWED, MOE, MLA, HYBRID)


@pytest.fixture(scope="module", autouse=True)
def _kernels_alone() -> Iterator[None]:
    """The laws are those of the kernels; what corrections keep of them is in test_perf_corrections."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importlib.import_module("headway.perf.applied"), "correction", lambda _pool, _fold=None: NONE)
        yield


@st.composite
def pools(draw: st.DrawFn, models: tuple[Model, ...] = MODELS) -> Pool:
    model = draw(st.sampled_from(models))
    experts = model.is_moe
    tp, dp = draw(st.sampled_from([(1, 1), (2, 1), (4, 1), (8, 1), (2, 2) if experts else (1, 1)]))
    return Pool(
        name="pool",
        model=model,
        accelerator=draw(st.sampled_from((H100, B200))),
        engine=draw(st.sampled_from(("vllm", "sglang", "tensorrt-llm"))),
        engine_version="0",
        settings=EngineSettings(
            max_num_seqs=draw(st.sampled_from((16, 256))),
            max_num_batched_tokens=draw(st.sampled_from((512, 2048))),
            max_model_len=16384,
            gpu_memory_utilization=0.92,
            async_scheduling=draw(st.booleans()),
            cuda_graph_sizes=draw(st.sampled_from((GRAPHS, (), (1, 8, 64)))),
        ),
        parallelism=Parallelism(
            tp=tp, dp=dp, pp=draw(st.sampled_from((1, 1, 2))), ep=draw(st.sampled_from((1, tp * dp))) if experts else 1
        ),
        weight_dtype=draw(st.sampled_from(("bf16", "fp8", "fp8_block", "int8", "int4", "nvfp4", "mxfp4"))),
        kv_dtype=draw(st.sampled_from(("bf16", "fp8"))),
        replicas=1,
    )


CONTEXTS = st.lists(st.integers(1, 12000), min_size=1, max_size=12)
CHUNKS = st.lists(st.tuples(st.integers(1, 160), st.integers(0, 8000)), max_size=3)


def closed_form_ps(table: StepTable, batch: Batch) -> float:
    """The sum `StepTable` documents, written once more."""
    n, s, m = len(batch.decode_contexts), int(batch.decode_contexts.sum()), batch.tokens
    new, computed = batch.chunk_new, batch.chunk_computed
    total = table.context_ps_per_token * s + table.window_ps_per_token * min(s, n * table.window_tokens)
    if not len(new):
        return float(total + table.decode_ps[n])
    total += table.mixed_ps[m] + table.sequence_ps * (n + len(new))
    total += table.prefill_ps_per_pair * int((new * (2 * computed + new)).sum())
    return float(total + table.prefill_context_ps_per_token * int(computed.sum()))


def rounding_ps(batch: Batch) -> float:
    """Half a picosecond for every coefficient, times what it multiplies."""
    new, computed = batch.chunk_new, batch.chunk_computed
    units = 2 * batch.decode_contexts.sum() + (new * (2 * computed + new)).sum() + computed.sum() + batch.sequences
    return float(0.5 * units + 2)


def is_gpu_bound(found: StepBreakdown) -> bool:
    """The GPU is slower than launches and host even without its attention and sequences: no maximum is crossed."""
    steady = math.fsum(op.time_s for op in found.operators if "attention" not in op.name and op.name != "lm_head")
    steady -= sum(op.time_s for op in found.operators if op.name in {"sequence overhead", "sampler"})
    return steady > max(found.launch_s, found.host_s)


@settings(deadline=None)  # tables of thousands of entries, on a machine that does other things too
@given(pools(), CONTEXTS)
def test_lowered_decode_equals_the_reference(pool: Pool, contexts: list[int]) -> None:
    window = pool.model.sliding_window or 1
    low = [min(context, window) for context in contexts]
    for side in (low, [max(context, window) for context in contexts]):
        batch = Batch.of(side)
        found = step(pool, batch)
        assume(is_gpu_bound(found))
        want_ps = 1e12 * found.total_s
        assert abs(closed_form_ps(lower(pool), batch) - want_ps) <= 1e-6 * want_ps + rounding_ps(batch)


@settings(deadline=None)
@given(pools((LLAMA_8B, MOE, MLA)), CONTEXTS, CHUNKS.filter(len))
def test_lowered_mixed_step_is_the_reference_but_for_the_head(
    pool: Pool, contexts: list[int], chunks: list[tuple[int, int]]
) -> None:
    batch = Batch.of(contexts, chunks)
    assume(batch.tokens <= pool.settings.max_num_batched_tokens and batch.sequences <= pool.settings.max_num_seqs)
    found = step(pool, batch)
    assume(is_gpu_bound(found))
    lowered_s, head_s = (
        closed_form_ps(lower(pool), batch) / 1e12,
        {op.name: op.time_s for op in found.operators}["lm_head"],
    )
    slack_s = 1e-6 * found.total_s + rounding_ps(batch) / 1e12
    assert found.total_s - slack_s <= lowered_s <= found.total_s + head_s + slack_s


@settings(deadline=None)
@given(pools((LLAMA_8B, MOE, MLA)).filter(lambda pool: pool.settings.max_num_seqs == 16))
def test_lowered_mixed_step_is_the_reference_for_some_number_of_sequences(pool: Pool) -> None:
    table, above = lower(pool), []
    for sequences in range(1, pool.settings.max_num_seqs + 1):
        batch = Batch.of(chunks=[(1, 0)] * sequences)
        found = step(pool, batch)
        assume(is_gpu_bound(found))
        above.append(closed_form_ps(table, batch) / (1e12 * found.total_s) - 1)
    assert min(above) <= 1e-6


@settings(deadline=None)
@given(pools(), CONTEXTS, CHUNKS)
def test_lowered_step_never_promises_less_time_than_the_reference(
    pool: Pool, contexts: list[int], chunks: list[tuple[int, int]]
) -> None:
    batch = Batch.of(contexts, chunks)
    assume(batch.tokens <= pool.settings.max_num_batched_tokens and batch.sequences <= pool.settings.max_num_seqs)
    want_ps = 1e12 * step(pool, batch).total_s
    assert closed_form_ps(lower(pool), batch) >= want_ps * (1 - 1e-9) - rounding_ps(batch)


@given(pools(), CONTEXTS, CHUNKS)
def test_the_upper_bounds_of_the_lowered_step_are_bounded(
    pool: Pool, contexts: list[int], chunks: list[tuple[int, int]]
) -> None:
    batch = Batch.of(contexts, chunks)
    assume(batch.tokens <= pool.settings.max_num_batched_tokens and batch.sequences <= pool.settings.max_num_seqs)
    found = step(pool, batch)
    table = lower(pool)
    by_name = {op.name: op.time_s for op in found.operators}
    hidden_s = (
        min(max(found.host_s, found.launch_s), found.gpu_s) if found.exposed_s or not is_gpu_bound(found) else 0.0
    )
    windows = np.minimum(batch.decode_contexts, table.window_tokens).sum()
    window_s = (
        table.window_ps_per_token
        / 1e12
        * (min(batch.decode_contexts.sum(), len(batch.decode_contexts) * table.window_tokens) - windows)
    )
    prefill_window_s = 0.0
    if len(batch.chunk_new):  # every token of the step pays a whole window of its layers
        full = max(pool.model.full_attention_layers, 1)
        pairs_s = table.prefill_ps_per_pair / 1e12 * pool.model.sliding_window_layers / full
        prefill_window_s = 2 * batch.tokens * table.window_tokens * pairs_s * 1.1
    bound_s = found.total_s + by_name["lm_head"] + hidden_s + window_s + prefill_window_s
    assert closed_form_ps(table, batch) / 1e12 <= bound_s * (1 + 1e-6) + rounding_ps(batch) / 1e12


@given(pools(), CONTEXTS, CHUNKS, st.randoms())
def test_order_in_a_ragged_batch_never_matters(
    pool: Pool, contexts: list[int], chunks: list[tuple[int, int]], chance: Random
) -> None:
    shuffled, reordered = list(contexts), list(chunks)
    chance.shuffle(shuffled)
    chance.shuffle(reordered)
    first, second = step(pool, Batch.of(contexts, chunks)), step(pool, Batch.of(shuffled, reordered))
    assert first == second


@given(pools(), CONTEXTS, CHUNKS)
def test_the_breakdown_sums_to_the_total(pool: Pool, contexts: list[int], chunks: list[tuple[int, int]]) -> None:
    found = step(pool, Batch.of(contexts, chunks))
    assert math.fsum([*(op.time_s for op in found.operators), found.exposed_s]) == pytest.approx(found.total_s)
    assert found.exposed_s >= 0
    for op in found.operators:
        parts = (op.compute_s, op.memory_s, op.communication_s, op.fixed_s)
        assert max(parts) <= op.time_s * (1 + 1e-9)
        assert op.time_s <= sum(parts) * (1 + 1e-9)
        assert 0 <= found.achieved_frac(op) <= 1


@given(pools(), CONTEXTS, CHUNKS, st.integers(1, 12000))
def test_more_work_never_takes_less_time(
    pool: Pool, contexts: list[int], chunks: list[tuple[int, int]], more: int
) -> None:
    base = step(pool, Batch.of(contexts, chunks)).total_s
    assert step(pool, Batch.of([*contexts, more], chunks)).total_s >= base * (1 - 1e-12)
    assert step(pool, Batch.of([contexts[0] + more, *contexts[1:]], chunks)).total_s >= base * (1 - 1e-12)
    if chunks and pool.settings.cuda_graph_sizes == ():
        new, computed = chunks[0]
        assert step(pool, Batch.of(contexts, [(new + more, computed), *chunks[1:]])).total_s >= base * (1 - 1e-12)
        assert step(pool, Batch.of(contexts, [(new, computed + more), *chunks[1:]])).total_s >= base * (1 - 1e-12)


@given(pools())
def test_tables_never_fall(pool: Pool) -> None:
    table = lower(pool)
    assert (np.diff(table.decode_ps[1:]) >= 0).all()
    graphs = pool.settings.cuda_graph_sizes
    largest = max(graphs, default=0) * pool.parallelism.pp * pool.parallelism.dp
    for part in (table.mixed_ps[1 : largest + 1], table.mixed_ps[largest + 1 :]):
        assert (np.diff(part) >= 0).all()


@given(pools(), CONTEXTS, CHUNKS)
def test_twice_the_bandwidth_never_slows_and_at_most_halves(
    pool: Pool, contexts: list[int], chunks: list[tuple[int, int]]
) -> None:
    accelerator = pool.accelerator
    faster = replace(pool, accelerator=replace(accelerator, hbm_bytes_per_s=2 * accelerator.hbm_bytes_per_s))
    batch = Batch.of(contexts, chunks)
    before, after = step(pool, batch).total_s, step(faster, batch).total_s
    assert before / 2 * (1 - 1e-9) <= after <= before * (1 + 1e-9)


@given(pools((LLAMA_8B, WINDOWED, MLA, HYBRID)), CONTEXTS)
def test_half_the_weight_bytes_never_slow_decode(pool: Pool, contexts: list[int]) -> None:
    batch = Batch.of(contexts)
    wide, narrow = replace(pool, weight_dtype="bf16"), replace(pool, weight_dtype="fp8")
    assert step(narrow, batch).total_s <= step(wide, batch).total_s * (1 + 1e-9)


@given(pools(), CONTEXTS)
def test_decode_is_above_the_floor_of_reading_the_weights(pool: Pool, contexts: list[int]) -> None:
    assume(not pool.model.is_moe and pool.parallelism.pp == 1)
    model, par = pool.model, pool.parallelism
    table = model.vocab_size * model.hidden_size / par.tp * 2  # embeddings are looked up, not read
    floor_s = (weight_bytes(pool) - table) / pool.accelerator.hbm_bytes_per_s
    assert step(pool, Batch.of(contexts)).total_s >= floor_s


@given(pools(), st.integers(1, 20))
def test_flops_are_two_per_active_parameter_and_token_plus_attention(pool: Pool, tiles: int) -> None:
    pool = replace(pool, parallelism=Parallelism(), settings=replace(pool.settings, cuda_graph_sizes=()))
    model, tokens = pool.model, 64 * tiles
    found = step(pool, Batch.of([], [(tokens, 0)]))
    linear = sum(op.flops for op in found.operators if "attention" not in op.name and op.name != "lm_head")
    head = model.vocab_size * model.hidden_size
    assert linear == pytest.approx(2 * (model.params_active - head) * tokens, rel=0.01)
    heads = sum(op.flops for op in found.operators if op.name == "lm_head")
    assert heads == 2 * model.vocab_size * model.hidden_size  # one sampled token


@given(pools())
def test_tensor_parallelism_never_adds_weight_bytes_to_a_gpu(pool: Pool) -> None:
    pool = replace(pool, parallelism=Parallelism())
    sizes = [weight_bytes(replace(pool, parallelism=Parallelism(tp=tp))) for tp in (1, 2, 4, 8, 16)]
    assert sizes == sorted(sizes, reverse=True)


@given(pools())
def test_blocks_fit_into_what_is_available_and_hold_one_longest_request(pool: Pool) -> None:
    try:
        found = memory(pool)
    except InfeasibleError as error:
        assert error.shortfall["missing_bytes"] > 0
        assert error.relaxation
        return
    assert found.num_gpu_blocks * found.kv_bytes_per_block <= found.available_kv_bytes
    assert found.num_gpu_blocks > found.blocks_of(found.max_model_len)
    spent = found.weights_bytes + found.activation_bytes + found.cuda_graph_bytes + found.other_bytes
    assert spent + found.available_kv_bytes == pytest.approx(found.requested_bytes)
    assert found.requested_bytes <= pool.accelerator.hbm_bytes + 1


@given(pools(), st.integers(1, 16000), st.integers(1, 16000))
def test_longer_sequences_hold_no_fewer_blocks(pool: Pool, one: int, other: int) -> None:
    try:
        found = memory(pool)
    except InfeasibleError:
        return
    short, long = sorted((one, other))
    assert found.blocks_of(short) <= found.blocks_of(long)
    assert found.sequence_blocks() <= found.sequence_blocks(found.max_model_len) <= found.dp * found.num_gpu_blocks


@given(st.integers(0, 300), st.integers(0, 300), st.integers(1, 300))
def test_window_pairs_are_the_sum_they_stand_for(new: int, computed: int, window: int) -> None:
    naive = sum(min(computed + j + 0.5, window) for j in range(new))
    assert float(causal_window_pairs(np.array([new]), np.array([computed]), window)[0]) == pytest.approx(naive, abs=0.5)


@given(pools(), st.sampled_from(["layer_fixed_s", "sequence_fixed_s", "host_step_s", "gemm_fixed_s"]), CONTEXTS)
@settings(max_examples=30)
def test_no_overhead_makes_a_step_faster(pool: Pool, name: str, contexts: list[int]) -> None:
    constants = calibration(pool.accelerator, pool.engine)
    slower = replace(constants, **{name: 2 * getattr(constants, name)})
    batch = Batch.of(contexts)
    assert step(pool, batch, slower).total_s >= step(pool, batch, constants).total_s
