"""Which layers of a model attend how, which route to experts, and what a linear-attention layer weighs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from headway.catalog.words import Words

FULL, SLIDING, LINEAR, OTHER = "full", "sliding", "linear", "other"

#: what `layer_types` and `hybrid_override_pattern` call a layer. Chunked attention (Llama 4) never sees more than one
#: chunk back, so it counts as a window of the chunk's length.
_KINDS = {
    "full_attention": FULL,
    "attention": FULL,
    "deepseek_sparse_attention": FULL,
    "indexed_attention": FULL,
    "*": FULL,
    "sliding_attention": SLIDING,
    "chunked_attention": SLIDING,
    "linear_attention": LINEAR,
    "mamba": LINEAR,
    "M": LINEAR,
    "mlp": OTHER,
    "moe": OTHER,
    "-": OTHER,
    "E": OTHER,
}
#: the words for the number of routed experts
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
_ROUTED = ("moe", "E", "sparse")


@dataclass(frozen=True, slots=True)
class Mix:
    """How many layers attend how; `window` in tokens."""

    full: int
    sliding: int
    linear: int
    other: int
    window: int


def attention_layers(config: Words, layers: int, positions: int) -> Mix:
    """Count the layers by how they attend.

    Args:
        config: the model's words.
        layers: `num_hidden_layers`.
        positions: `max_position_embeddings`; a window at least this long is none. 0: unknown.

    Raises:
        InputError: a layer type that is not known, or a list of another length than the layers.
    """
    kinds = Counter(_kinds(config, layers))
    window = config.integer("sliding_window", "sliding_window_size", "attention_chunk_size", default=0)
    if window == 0 or 0 < positions <= window:
        kinds[FULL] += kinds.pop(SLIDING, 0)
    return Mix(kinds[FULL], kinds[SLIDING], kinds[LINEAR], kinds[OTHER], window if kinds[SLIDING] else 0)


def _kinds(config: Words, layers: int) -> list[str]:
    """Go by the most explicit word there is: a list per layer, then a period, then one window for all."""
    for word in ("layer_types", "layers_block_type", "hybrid_override_pattern"):
        if config.get(word):
            return [_kind(config, word, item) for item in _per_layer(config, word, layers)]
    if config.has("linear_attn_config"):
        full = len(config.section("linear_attn_config").items("full_attn_layers"))
        return [FULL] * full + [LINEAR] * (layers - full)
    if config.get("hybrid_layer_pattern"):
        return [SLIDING if item == 1 else FULL for item in _per_layer(config, "hybrid_layer_pattern", layers)]
    if period := config.integer("full_attention_interval", default=0):
        return [FULL if (i + 1) % period == 0 else LINEAR for i in range(layers)]
    return _windowed(config, layers)


def _windowed(config: Words, layers: int) -> list[str]:
    if not config.get("sliding_window", "sliding_window_size", "attention_chunk_size") or not config.flag(
        "use_sliding_window", default=True
    ):
        return [FULL] * layers
    pattern = config.get("sliding_window_pattern")
    if isinstance(pattern, str) and pattern:  # such as "LLLG": local, local, local, global
        return [FULL if pattern[i % len(pattern)] == "G" else SLIDING for i in range(layers)]
    if period := config.integer("sliding_window_pattern", "no_rope_layer_interval", default=0):
        return [FULL if (i + 1) % period == 0 else SLIDING for i in range(layers)]
    first = config.integer("max_window_layers", default=0)  # Qwen2: the layers before it see everything
    return [FULL if i < first else SLIDING for i in range(layers)]


def _per_layer(config: Words, word: str, layers: int) -> list[object]:
    value = config.get(word)
    items = list(value) if isinstance(value, (list, str)) else config.fail(word, "expected one item per layer")
    if len(items) != layers:
        config.fail(word, f"names {len(items)} layers, num_hidden_layers is {layers}")
    return items


def _kind(config: Words, word: str, item: object) -> str:
    kind = _KINDS.get(item) if isinstance(item, str) else None
    return kind or config.fail(word, f"unknown kind of layer {str(item)[:40]!r}; known: {', '.join(_KINDS)}")


def moe_layers(config: Words, layers: int) -> int:
    """Count the layers that route to experts.

    Raises:
        InputError: a word of the wrong type, or a list of another length than the layers.
    """
    if not config.integer(*EXPERTS, default=0):
        return 0
    for word in ("mlp_layer_types", "layer_types", "layers_block_type", "hybrid_override_pattern"):
        if config.get(word) and (routed := sum(item in _ROUTED for item in _per_layer(config, word, layers))):
            return routed
    for word in ("moe_layers", "moe_layer_freq"):
        if listed := config.items(word):
            return len(listed) if word == "moe_layers" else sum(item == 1 for item in listed)
    return sum(_routes(config, i) for i in range(layers))


def _routes(config: Words, i: int) -> bool:
    """Whether layer i routes, by the periods of DeepSeek (from a first layer on), Qwen, Llama 4 and ERNIE."""
    first = config.integer("first_k_dense_replace", "moe_layer_start_index", "num_dense_layers", default=0)
    period = config.positive("decoder_sparse_step", "interleave_moe_layer_step", "moe_layer_interval", default=1)
    frequency = config.positive("moe_layer_freq", default=1)
    return i >= first and (i + 1) % period == 0 and i % frequency == 0 and i not in config.items("mlp_only_layers")


@dataclass(frozen=True, slots=True)
class LinearLayer:
    """One linear-attention layer: its matrices' parameters, and the state it keeps of one sequence."""

    params: int
    state_bytes: int


def linear_layer(config: Words, hidden: int) -> LinearLayer:
    """Size one linear-attention layer: gated delta net, KDA or Mamba-2, by the words it has.

    The recurrent state is heads × key width × value width, in float32 where the config says so and else in 16 bit;
    the convolution keeps (kernel − 1) inputs of each channel in 16 bit.

    Raises:
        InputError: the words of none of the three are complete.
    """
    if config.get("linear_num_value_heads"):
        return _gated_delta_net(config, hidden)
    if config.has("linear_attn_config"):
        return _kda(config.section("linear_attn_config"), hidden)
    return _mamba2(config, hidden)


def _layer(config: Words, matrices: int, state: int, channels: int, kernel: int) -> LinearLayer:
    wide = config.get("mamba_ssm_dtype", "mamba_ssm_cache_dtype") == "float32"
    return LinearLayer(matrices + channels * kernel, state * (4 if wide else 2) + channels * (kernel - 1) * 2)


def _gated_delta_net(config: Words, hidden: int) -> LinearLayer:
    """Qwen3-Next: q, k, v and an output gate z; two scalars per value head; a convolution over q, k, v."""
    heads = config.positive("linear_num_value_heads")
    key = config.positive("linear_num_key_heads") * (key_dim := config.positive("linear_key_head_dim"))
    value = heads * (value_dim := config.positive("linear_value_head_dim"))
    kernel = config.positive("linear_conv_kernel_dim", default=4)
    matrices = hidden * (2 * key + 2 * value + 2 * heads) + value * hidden
    return _layer(config, matrices, heads * key_dim * value_dim, 2 * key + value, kernel)


def _kda(config: Words, hidden: int) -> LinearLayer:
    """Kimi Linear: q, k, v, o; decay and output gate through a bottleneck of one head's width; one scalar per head."""
    heads, dim = config.positive("num_heads"), config.positive("head_dim")
    width = heads * dim
    matrices = hidden * (4 * width + 2 * dim + heads) + 2 * dim * width
    return _layer(config, matrices, heads * dim * dim, 3 * width, config.positive("short_conv_kernel_size", default=4))


def _mamba2(config: Words, hidden: int) -> LinearLayer:
    """Mamba-2: gate and input, B and C per group, one step size per head; a convolution over input, B, C."""
    heads = config.positive("mamba_num_heads", "mamba_n_heads")
    inner = heads * (dim := config.positive("mamba_head_dim", "mamba_d_head"))
    size = config.positive("ssm_state_size", "mamba_d_state")
    channels = inner + 2 * config.positive("n_groups", "mamba_n_groups") * size
    kernel = config.positive("conv_kernel", "mamba_d_conv")
    matrices = hidden * (inner + channels + heads) + inner * hidden
    return _layer(config, matrices, heads * dim * size, channels, kernel)
