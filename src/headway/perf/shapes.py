"""The matrices one GPU multiplies, after sharding: the single place that knows how a model is spread.

Counts are of layers over all pipeline stages: a micro-batch passes every stage, so times add over all of them.
Attention and dense layers are sharded over `tp` and repeated on each of the `dp` ranks; experts are spread over
`tp`·`dp` GPUs, `ep` ways by expert and the rest of the way by columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from headway.errors import InfeasibleError
from headway.perf.formats import WEIGHT_BYTES, dense_dtype

if TYPE_CHECKING:
    from headway.types import Dtype, Model, Pool


@dataclass(frozen=True, slots=True, kw_only=True)
class Matmul:
    """One weight matrix per layer on one GPU: (tokens × k) · (k × n), in `count` layers."""

    name: str
    count: float
    k: float
    n: float
    dtype: Dtype

    @property
    def params(self) -> float:
        """Weights of all its layers on this GPU (on one stage of `pp`, divide by `pp`)."""
        return self.count * self.k * self.n

    @property
    def weight_bytes(self) -> float:
        """Bytes of all its layers, scales included."""
        return self.params * WEIGHT_BYTES[self.dtype]


@dataclass(frozen=True, slots=True, kw_only=True)
class Experts:
    """The routed experts one GPU holds, in `count` layers."""

    count: int
    local: float  # experts of one layer on this GPU
    total: int
    per_token: int
    width: float  # columns of one expert's slice
    params_each: float  # weights of one expert's slice
    dtype: Dtype

    @property
    def weight_bytes(self) -> float:
        """Bytes of all of them, scales included."""
        return self.count * self.local * self.params_each * WEIGHT_BYTES[self.dtype]


def check_parallelism(pool: Pool) -> None:
    """Refuse a spread the model's shape does not allow.

    Raises:
        InfeasibleError: query heads, KV heads, layers or experts do not divide.
    """
    model, par = pool.model, pool.parallelism
    kv_heads = model.num_key_value_heads
    if model.num_attention_heads % par.tp:
        _refuse(f"{model.num_attention_heads} heads do not divide by tp {par.tp}", "num_attention_heads", "another tp")
    if not model.is_mla and kv_heads % par.tp and par.tp % kv_heads:
        _refuse(
            f"{kv_heads} KV heads neither divide nor are divided by tp {par.tp}", "num_key_value_heads", "another tp"
        )
    if par.pp > model.num_hidden_layers:
        _refuse(f"{model.num_hidden_layers} layers cannot fill pp {par.pp}", "num_hidden_layers", "a smaller pp")
    if par.ep > 1 and (not model.is_moe or (par.tp * par.dp) % par.ep or model.num_experts < par.ep):
        _refuse(f"ep {par.ep} does not fit {model.num_experts} experts on tp·dp {par.tp * par.dp}", "ep", "another ep")


def _refuse(problem: str, binding: str, relaxation: str) -> None:
    raise InfeasibleError(problem, binding=binding, relaxation=relaxation)


def attention_layers(model: Model, max_model_len: int) -> tuple[int, int]:
    """Return (full, window) attention layers; a window no context outgrows counts as full."""
    full, window = model.full_attention_layers, model.sliding_window_layers
    if not model.sliding_window or model.sliding_window >= max_model_len:
        return full + window, 0
    return full, window


def kv_heads_per_gpu(model: Model, tp: int) -> float:
    """Return the KV heads one GPU holds: they repeat once `tp` exceeds them."""
    return max(model.num_key_value_heads, tp) / tp


def kv_elements(model: Model, tp: int) -> float:
    """Return KV elements of one token in one attention layer on one GPU (MLA's latent repeats on every rank)."""
    if model.is_mla:
        return float(model.kv_lora_rank + model.qk_rope_head_dim)
    return 2.0 * kv_heads_per_gpu(model, tp) * model.head_dim


def _attention_matmuls(model: Model, tp: int, dtype: Dtype) -> list[Matmul]:
    layers = model.full_attention_layers + model.sliding_window_layers
    hidden, heads = model.hidden_size, model.num_attention_heads / tp

    def matmul(name: str, k: float, n: float) -> Matmul:
        return Matmul(name=name, count=layers, k=k, n=n, dtype=dtype)

    if not model.is_mla:
        queries, keys = heads * model.head_dim, kv_heads_per_gpu(model, tp) * model.head_dim
        return [matmul("qkv_proj", hidden, queries + 2 * keys), matmul("o_proj", queries, hidden)]
    rank, rope = model.kv_lora_rank, model.qk_rope_head_dim
    return [
        matmul("qkv_a_proj", hidden, model.q_lora_rank + rank + rope),
        matmul("q_b_proj", model.q_lora_rank or hidden, heads * (model.qk_nope_head_dim + rope)),
        matmul("kv_b_proj", rank, heads * (model.qk_nope_head_dim + model.v_head_dim)),
        matmul("o_proj", heads * model.v_head_dim, hidden),
    ]


def _mlp_matmuls(name: str, model: Model, width: float, count: int, dtype: Dtype) -> list[Matmul]:
    up = (2 if model.gated_mlp else 1) * width
    return [
        Matmul(name=f"{name}_up", count=count, k=model.hidden_size, n=up, dtype=dtype),
        Matmul(name=f"{name}_down", count=count, k=width, n=model.hidden_size, dtype=dtype),
    ]


def _named_matmuls(model: Model, tp: int, dtype: Dtype) -> list[Matmul]:
    found = _attention_matmuls(model, tp, dtype)
    found += _mlp_matmuls("mlp", model, model.intermediate_size / tp, model.dense_layers, dtype)
    if model.is_moe:
        shared = model.shared_expert_intermediate_size / tp
        found += _mlp_matmuls("shared_expert", model, shared, model.moe_layers, dtype)
        found.append(
            Matmul(name="router", count=model.moe_layers, k=model.hidden_size, n=model.num_experts, dtype="bf16")
        )
    return [m for m in found if m.params > 0]


def expert_params(model: Model) -> float:
    """Return the weights of one whole expert."""
    return (3 if model.gated_mlp else 2) * model.hidden_size * model.moe_intermediate_size


def embedding_params(model: Model) -> float:
    """Return the weights of the token embedding, and of the head where it is not tied to it."""
    return (1 if model.tie_word_embeddings else 2) * model.vocab_size * model.hidden_size


def unnamed_params(model: Model) -> float:
    """Return the parameters every token touches that no named matrix accounts for: linear attention, norms, gates.

    It is what the active parameters leave beyond the named ones, at most what all parameters leave: what no token
    touches (a vision tower, a multi-token-prediction head) is none of it. Active counts leave out an input embedding
    that is a matrix of its own, since one token looks up one row.
    """
    named = sum(m.params for m in _named_matmuls(model, 1, "bf16")) + embedding_params(model)
    routed, table = model.moe_layers * expert_params(model), model.vocab_size * model.hidden_size
    looked_up = 0 if model.tie_word_embeddings else table
    active = model.params_active - (named - looked_up) - routed * model.num_experts_per_tok
    return max(min(active, model.params - named - routed * model.num_experts), 0.0)


def untouched_params(model: Model) -> float:
    """Return the parameters that are loaded but touched by no token of text."""
    named = sum(m.params for m in _named_matmuls(model, 1, "bf16")) + embedding_params(model)
    routed = model.moe_layers * expert_params(model) * model.num_experts
    return max(model.params - named - routed - unnamed_params(model), 0.0)


def matmuls(pool: Pool) -> list[Matmul]:
    """Return the dense matrices of every layer on one GPU.

    What the named shapes leave of `params_active` (linear-attention projections above all) is charged as one more
    matrix per layer, square-sided in the hidden size, so that FLOPs and bytes agree with the parameter count.
    """
    model, tp = pool.model, pool.parallelism.tp
    dtype = dense_dtype(pool.weight_dtype, is_moe=model.is_moe)
    found = _named_matmuls(model, tp, dtype)
    rest = unnamed_params(model) / tp
    if rest > 0:
        count = model.linear_attention_layers or model.num_hidden_layers
        width = rest / count / model.hidden_size
        found.append(Matmul(name="other_proj", count=count, k=model.hidden_size, n=width, dtype=dtype))
    return found


def lm_head(pool: Pool) -> Matmul:
    """Return the head, kept in bf16 by quantised checkpoints."""
    model = pool.model
    return Matmul(name="lm_head", count=1, k=model.hidden_size, n=model.vocab_size / pool.parallelism.tp, dtype="bf16")


def experts(pool: Pool) -> Experts | None:
    """Return the routed experts of one GPU, or None for a dense model."""
    model, par = pool.model, pool.parallelism
    if not model.is_moe:
        return None
    columns_frac = par.ep / (par.tp * par.dp)
    return Experts(
        count=model.moe_layers,
        local=model.num_experts / par.ep,
        total=model.num_experts,
        per_token=model.num_experts_per_tok,
        width=model.moe_intermediate_size * columns_frac,
        params_each=expert_params(model) * columns_frac,
        dtype=pool.weight_dtype,
    )


def weight_bytes(pool: Pool) -> float:
    """Return the weight bytes of one GPU on the fullest pipeline stage."""
    model, par = pool.model, pool.parallelism
    held, dense = experts(pool), dense_dtype(pool.weight_dtype, is_moe=model.is_moe)
    layered = sum(m.weight_bytes for m in matmuls(pool)) + (held.weight_bytes if held else 0.0)
    layered += untouched_params(model) / par.tp * WEIGHT_BYTES[dense]
    stage_frac = -(-model.num_hidden_layers // par.pp) / model.num_hidden_layers
    table = model.vocab_size * model.hidden_size / par.tp * WEIGHT_BYTES["bf16"]
    tables = 1 if model.tie_word_embeddings or par.pp > 1 else 2  # the first stage embeds, the last has the head
    return layered * stage_frac + tables * table
