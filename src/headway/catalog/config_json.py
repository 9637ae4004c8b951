"""Turns the words of a Hugging Face `config.json` into a `Model`.

It goes by the words the config has, not by the architecture's name: MLA where there is `kv_lora_rank`, experts where
there is one of the words for their number, and so on. What a config leaves to its Python class stands, by
`model_type`, in `data/config_defaults.yaml`.
"""

from __future__ import annotations

import json
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headway.catalog.facts import DATA
from headway.catalog.layers import EXPERTS, LinearLayer, attention_layers, linear_layer, moe_layers
from headway.catalog.parameters import count_parameters
from headway.catalog.precision import weight_dtype
from headway.catalog.words import Words, plain_mapping
from headway.errors import InputError
from headway.reading import read_yaml
from headway.types import Model, Provenance

if TYPE_CHECKING:
    from collections.abc import Mapping

_INNER = ("text_config", "llm_config", "language_config")

#: words whose meaning the noun `Model` cannot hold: better no model than a wrong one
_INEXPRESSIBLE = {
    "block_configs": "every block has its own shape",
    "compress_ratios": "its KV cache is compressed layer by layer",
    "global_head_dim": "its global layers have heads of another size",
    "moe_latent_size": "its experts work in a narrower space",
    "routed_expert_hidden_size": "its experts work in a narrower space",
}


def read_config_json(path: str | Path) -> Model:
    """Read any Hugging Face `config.json`; the model is named after the file's folder, or its `_name_or_path`.

    Args:
        path: the file, or the folder it stands in. A `hf_quant_config.json` beside it is read too.

    Raises:
        InputError: unreadable, not JSON (line and column are named), a field missing or of the wrong type, or a shape
            that `Model` cannot hold.
    """
    file = Path(path)
    file = file / "config.json" if file.is_dir() else file
    words = _read_json(file)
    quantisation = file.with_name("hf_quant_config.json")
    if "quantization_config" not in words and quantisation.is_file():
        words["quantization_config"] = {"quant_method": "modelopt"} | _inner(_read_json(quantisation), "quantization")
    source = Provenance(source=str(file), as_of="as given", note="the user's config.json")
    return build_model(_name(words, file), words, file=str(file), source=source)


def _read_json(file: Path) -> dict[str, object]:
    try:
        words = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", file=file) from None
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8 text (byte {error.start})", file=file) from None
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise InputError(f"not valid JSON: {error.msg}", file=file, place=place) from None
    except (ValueError, RecursionError):
        raise InputError("not valid JSON: a number too long, or nested too deeply", file=file) from None
    if not isinstance(words, dict):
        raise InputError(f"expected an object of settings, got {type(words).__name__}", file=file)
    return words


def _inner(words: Mapping[str, object], name: str) -> dict[str, object]:
    inner = words.get(name)
    return dict(inner) if isinstance(inner, dict) else {}


def _name(words: Mapping[str, object], file: Path) -> str:
    said = words.get("_name_or_path")
    return said if isinstance(said, str) and said else file.resolve().parent.name or file.stem


def build_model(name: str, words: Mapping[str, object], *, file: str, source: Provenance, place: str = "") -> Model:
    """Build the noun from the words of a config.json; figures not stated there are derived from those that are.

    Args:
        name: what the model is called.
        words: the config, `text_config` and its like still nested.
        file: the file that errors name.
        source: where the words come from.
        place: the place in the file that errors name.

    Raises:
        InputError: a field is missing, of the wrong type or out of bounds, or the shape cannot be held.
    """
    config = _flatten(Words(words, file, place))
    _check_expressible(config)
    model = _shape(name, config)
    linear = linear_layer(config, model.hidden_size) if model.linear_attention_layers else LinearLayer(0, 0)
    total, active = count_parameters(
        model, full_layer_extra=_full_layer_extra(config, model), linear_layer=linear.params
    )
    model = replace(model, params=total, params_active=active, linear_state_bytes=linear.state_bytes)
    return replace(model, provenance=_provenance(model, source))


def _check_expressible(config: Words) -> None:
    for word, why in _INEXPRESSIBLE.items():
        if config.get(word):
            config.fail(word, f"this model cannot be described here: {why}")
    if 0 in config.items("attn_type_list"):
        config.fail("attn_type_list", "this model cannot be described here: it mixes lightning and softmax attention")
    for word in ("num_key_value_heads", "head_dim"):
        if config.get(f"swa_{word}") not in (None, config.get(word)):
            config.fail(f"swa_{word}", f"this model cannot be described here: its sliding layers have another {word}")


def _flatten(outer: Words) -> Words:
    """Lift the language model's own words over those of the whole, and put the class's defaults under both."""
    inner = next((outer.section(name) for name in _INNER if outer.has(name)), outer)
    known = config_defaults()
    kind = next((w.text("model_type") for w in (inner, outer) if w.text("model_type") in known), "")
    return Words({**known.get(kind, {}), **outer.words, **inner.words}, outer.file, outer.place)


@cache
def config_defaults() -> dict[str, dict[str, object]]:
    """Return the words a config.json may leave to its Python class, by `model_type`."""
    kinds = read_yaml(DATA / "config_defaults.yaml").entries(("sources", "model_types"))["model_types"].entries()
    return {kind: dict(plain_mapping(node.entries(("source", "words"))["words"])) for kind, node in kinds.items()}


def _shape(name: str, config: Words) -> Model:
    layers = config.positive("num_hidden_layers", "n_layer", "num_layers", "n_layers", most=10_000)
    heads = config.positive("num_attention_heads", "n_head", "n_heads")
    hidden = config.positive("hidden_size", "n_embd", "d_model")
    positions = config.positive("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length")
    mix, routed = attention_layers(config, layers, positions), moe_layers(config, layers)
    dense = (mix.other or layers) - routed
    shape = Model(
        name=name,
        architecture=config.text("architectures") or config.text("model_type") or "unknown",
        num_hidden_layers=layers,
        hidden_size=hidden,
        vocab_size=config.positive("vocab_size", "padded_vocab_size"),
        num_attention_heads=heads,
        num_key_value_heads=_kv_heads(config, heads),
        head_dim=0,
        max_position_embeddings=positions,
        tie_word_embeddings=config.flag("tie_word_embeddings", default=False),
        weight_dtype=weight_dtype(config),
        params=0,
        params_active=0,
        intermediate_size=_dense_width(config) if dense else 0,
        gated_mlp=config.flag("gated_mlp", default=True),
        moe_layers=routed,
        full_attention_layers=mix.full,
        sliding_window_layers=mix.sliding,
        sliding_window=mix.window,
        linear_attention_layers=mix.linear,
        other_layers=mix.other,
    )
    return replace(shape, **_heads(config, hidden // heads), **(_experts(config) if routed else {}))


def _kv_heads(config: Words, heads: int) -> int:
    if config.get("multi_query") is True and config.get("new_decoder_architecture") is not True:
        return 1
    return config.positive("num_key_value_heads", "num_kv_heads", "n_head_kv", "multi_query_group_num", default=heads)


def _heads(config: Words, even: int) -> dict[str, Any]:
    """Return the widths of one head; with latent attention, `head_dim` is that of a query."""
    if not config.integer("kv_lora_rank", default=0):
        return {"head_dim": config.positive("head_dim", "kv_channels", "attention_head_dim", default=even)}
    words = ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
    latent = {word: config.positive(word) for word in words} | {"q_lora_rank": config.integer("q_lora_rank", default=0)}
    return latent | {"head_dim": latent["qk_nope_head_dim"] + latent["qk_rope_head_dim"]}


def _dense_width(config: Words) -> int:
    words = ("intermediate_size_mlp", "dense_intermediate_size", "intermediate_size", "ffn_hidden_size", "n_inner")
    return config.positive(*words)


def _experts(config: Words) -> dict[str, Any]:
    words = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "top_k_experts", "experts_per_token")
    width = config.positive("moe_intermediate_size", "expert_ffn_hidden_size", "intermediate_size")
    experts = config.positive(*EXPERTS)
    return {
        "num_experts": experts,
        "num_experts_per_tok": config.positive(*words, most=experts),
        "moe_intermediate_size": width,
        "shared_expert_intermediate_size": _shared_width(config, width),
    }


def _shared_width(config: Words, expert_width: int) -> int:
    """Return the width of all shared experts together."""
    if config.get("intermediate_size_mlp"):  # Llama 4: one shared expert as wide as a routed one
        return expert_width
    shared = config.integer("n_shared_experts", "num_shared_experts", "moe_num_shared_experts", default=0)
    if width := config.integer("moe_shared_expert_intermediate_size", default=0):
        return width * shared
    whole = ("shared_expert_intermediate_size", "share_expert_dim", "shared_intermediate_size")
    return config.integer(*whole, default=shared * expert_width)


def _full_layer_extra(config: Words, model: Model) -> int:
    """Return the matrices of a full-attention layer beyond attention itself: output gate and sparse indexer."""
    gate = model.hidden_size * model.num_attention_heads * model.head_dim
    extra = gate if config.flag("attn_output_gate", default=False) else 0
    if heads := config.integer("index_n_heads", default=0):
        width = config.positive("index_head_dim")
        extra += model.q_lora_rank * heads * width + model.hidden_size * (width + heads)
    return extra


def _provenance(model: Model, source: Provenance) -> dict[str, Provenance]:
    """Give every figure the config's source; counted parameters say that they are counted."""
    labels = ("name", "aliases", "provenance")
    found = {f.name: source for f in fields(model) if f.name not in labels}
    counted = replace(source, note="; ".join(filter(None, (source.note, "counted from the shape"))))
    return found | {"params": counted, "params_active": counted}
