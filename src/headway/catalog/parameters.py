"""How many parameters a model of this shape has, in all and touched by one token.

Only matrices are counted: norms, biases and per-head scalars together are below 0.2 % of any model here. Vision and
audio towers and multi-token-prediction heads are left out: serving text touches neither.

- attention (GQA): D·H·h + 2·D·KV·h + H·h·D
- attention (MLA): D·q_lora + q_lora·H·(nope + rope) (or D·H·(nope + rope) without q_lora) + D·(kv_lora + rope)
  + kv_lora·H·(nope + v) + H·v·D
- MLP: 3·D·F (2·D·F without a gate); mixture: E of them of width I, the shared width once, and the router D·E
- embeddings: V·D, twice where untied

A token touches its experts only, and one row of the input embedding: the active count leaves the input embedding out
where it is a matrix of its own, as model cards do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from headway.types import Model


def count_parameters(model: Model, *, full_layer_extra: int = 0, linear_layer: int = 0) -> tuple[int, int]:
    """Return all parameters, and those one token touches.

    Args:
        model: the shape; its `params` and `params_active` are not read.
        full_layer_extra: matrices of each full-attention layer beyond the formula (output gate, sparse indexer).
        linear_layer: all matrices of one linear-attention layer.
    """
    attending = model.full_attention_layers + model.sliding_window_layers
    attention = attending * _attention(model) + model.full_attention_layers * full_layer_extra
    mixers = attention + model.linear_attention_layers * linear_layer
    expert = _mlp(model, model.moe_intermediate_size)
    always = mixers + model.dense_layers * _mlp(model, model.intermediate_size)
    always += model.moe_layers * (
        _mlp(model, model.shared_expert_intermediate_size) + model.hidden_size * model.num_experts
    )
    embedding = model.vocab_size * model.hidden_size
    total = always + model.moe_layers * model.num_experts * expert + embedding * (2 - model.tie_word_embeddings)
    active = always + model.moe_layers * model.num_experts_per_tok * expert + embedding
    return total, active


def _mlp(model: Model, width: int) -> int:
    return (3 if model.gated_mlp else 2) * model.hidden_size * width


def _attention(model: Model) -> int:
    hidden, heads = model.hidden_size, model.num_attention_heads
    if not model.is_mla:
        return 2 * hidden * model.head_dim * (heads + model.num_key_value_heads)
    query = heads * (model.qk_nope_head_dim + model.qk_rope_head_dim)
    queries = model.q_lora_rank * (hidden + query) if model.q_lora_rank else hidden * query
    latent = hidden * (model.kv_lora_rank + model.qk_rope_head_dim)
    expand = model.kv_lora_rank * heads * (model.qk_nope_head_dim + model.v_head_dim)
    return queries + latent + expand + heads * model.v_head_dim * hidden
