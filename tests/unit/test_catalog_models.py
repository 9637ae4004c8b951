"""Models of the catalogue and of any config.json."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from headway.catalog import load, read_config_json
from headway.errors import InputError

if TYPE_CHECKING:
    from headway.types import Model

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "vocab_size": 128256,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}


@pytest.fixture
def read(tmp_path: Path) -> Any:
    def reader(**changes: object) -> Model:
        words = {key: value for key, value in (LLAMA | changes).items() if value is not ...}
        (tmp_path / "config.json").write_text(json.dumps(words), encoding="utf-8")
        return read_config_json(tmp_path)

    return reader


#: billions of parameters, all and active, as the model cards and papers give them
PUBLISHED = {
    "meta-llama/Llama-3.1-8B-Instruct": (8.03, None),
    "meta-llama/Llama-3.1-70B-Instruct": (70.6, None),
    "meta-llama/Llama-3.1-405B-Instruct": (406, None),
    "meta-llama/Llama-3.2-1B-Instruct": (1.24, None),
    "meta-llama/Llama-3.2-3B-Instruct": (3.21, None),
    "meta-llama/Llama-4-Scout-17B-16E-Instruct": (109, 17),
    "meta-llama/Llama-4-Maverick-17B-128E-Instruct": (402, 17),
    "mistralai/Mixtral-8x7B-Instruct-v0.1": (46.7, 12.9),
    "mistralai/Mixtral-8x22B-Instruct-v0.1": (141, 39),
    "mistralai/Mistral-7B-Instruct-v0.3": (7.25, None),
    "mistralai/Mistral-Nemo-Instruct-2407": (12.2, None),
    "mistralai/Mistral-Small-24B-Instruct-2501": (23.6, None),
    "mistralai/Mistral-Large-Instruct-2411": (123, None),
    "deepseek-ai/DeepSeek-V3": (671, 37),
    "deepseek-ai/DeepSeek-V2-Lite": (15.7, 2.4),
    "moonshotai/Kimi-K2-Instruct": (1026, 32),
    "Qwen/Qwen2.5-0.5B-Instruct": (0.49, None),
    "Qwen/Qwen2.5-7B-Instruct": (7.61, None),
    "Qwen/Qwen2.5-72B-Instruct": (72.7, None),
    "Qwen/Qwen3-0.6B": (0.6, None),
    "Qwen/Qwen3-32B": (32.8, None),
    "Qwen/Qwen3-30B-A3B": (30.5, 3.3),
    "Qwen/Qwen3-235B-A22B": (235, 22),
    "Qwen/Qwen3-Coder-480B-A35B-Instruct": (480, 35),
    "Qwen/Qwen3-Next-80B-A3B-Instruct": (80, 3.5),
    "Qwen/Qwen3.5-397B-A17B": (397, 17),
    "openai/gpt-oss-20b": (20.9, 3.6),
    "openai/gpt-oss-120b": (116.8, 5.1),
    "google/gemma-2-9b-it": (9.24, None),
    "google/gemma-3-27b-it": (27.0, None),
    "zai-org/GLM-4.5": (355, 32),
    "zai-org/GLM-4.5-Air": (106, 12),
    "zai-org/GLM-5": (744, 40),
    "MiniMaxAI/MiniMax-M2.5": (229, 10),
    "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16": (31.6, 3.2),
    "microsoft/phi-4": (14.7, None),
    "microsoft/Phi-4-mini-instruct": (3.84, None),
    "microsoft/Phi-3.5-mini-instruct": (3.82, None),
    "HuggingFaceTB/SmolLM2-1.7B-Instruct": (1.71, None),
    "HuggingFaceTB/SmolLM3-3B": (3.08, None),
    "CohereForAI/c4ai-command-r-v01": (35.0, None),
}


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_counted_parameters_are_those_published(name: str) -> None:
    model, (total, active) = load().model(name), PUBLISHED[name]
    assert model.params / 1e9 == pytest.approx(total, rel=0.02)
    if active:  # cards round it, and disagree on whether embeddings are touched
        assert model.params_active / 1e9 == pytest.approx(active, rel=0.1)


def test_layers_add_up_in_every_model() -> None:
    for model in load().models:
        kinds = model.full_attention_layers + model.sliding_window_layers + model.linear_attention_layers
        assert kinds + model.other_layers == model.num_hidden_layers, model.name
        assert (model.sliding_window > 0) == (model.sliding_window_layers > 0), model.name
        assert (model.linear_state_bytes > 0) == (model.linear_attention_layers > 0), model.name
        assert model.is_moe == (model.moe_layers > 0), model.name
        assert 0 < model.params_active <= model.params, model.name
        assert model.dense_layers >= 0, model.name


def kv_bytes_per_token(model: Model) -> int:
    """16-bit KV of one token in every attending layer, as if all windows were open."""
    layers = model.full_attention_layers + model.sliding_window_layers
    if model.is_mla:
        return 2 * layers * (model.kv_lora_rank + model.qk_rope_head_dim)
    return 2 * 2 * layers * model.num_key_value_heads * model.head_dim


def test_kv_bytes_per_token_are_those_of_the_collected_facts() -> None:
    path = Path(__file__).parents[2].parent / "shared" / "catalog" / "models.csv"
    if not path.is_file():
        pytest.skip("needs ../shared/catalog/models.csv")
    catalog, seen = load(), 0
    for row in csv.DictReader(path.read_text(encoding="utf-8").splitlines()):
        try:
            model = catalog.model(row["model"])
        except InputError:
            continue
        if row["kv_bytes_per_token_bf16"]:
            seen += 1
            assert kv_bytes_per_token(model) == int(row["kv_bytes_per_token_bf16"]), model.name
    assert seen >= 70


def test_a_plain_config_gives_a_plain_model(read: Any) -> None:
    model = read()
    assert (model.head_dim, model.num_key_value_heads, model.full_attention_layers) == (128, 8, 32)
    assert model.params == pytest.approx(8.03e9, rel=0.002)
    assert model.architecture == "LlamaForCausalLM"
    assert "config.json" in model.provenance["hidden_size"].source
    assert "counted" in model.provenance["params"].note


def test_a_config_gives_the_model_the_catalogue_has(read: Any) -> None:
    mine, theirs = read(), load().model("llama-3.1-8b")
    for field in ("params", "params_active", "head_dim", "weight_dtype", "full_attention_layers", "intermediate_size"):
        assert getattr(mine, field) == getattr(theirs, field)


def test_one_key_value_head_for_all_unless_the_new_decoder_says_otherwise(read: Any) -> None:
    assert read(multi_query=True).num_key_value_heads == 1
    assert read(multi_query=True, new_decoder_architecture=True).num_key_value_heads == 8
    assert read(multi_query=False).num_key_value_heads == 8


def test_words_of_the_language_model_inside_a_larger_one_count(read: Any) -> None:
    inner = {key: LLAMA[key] for key in ("num_hidden_layers", "hidden_size", "num_attention_heads")}
    model = read(text_config={**inner, "hidden_size": 2048}, hidden_size=1, vision_config={"hidden_size": 7})
    assert model.hidden_size == 2048


@pytest.mark.parametrize(
    ("words", "experts", "per_token", "width", "shared", "layers"),
    [
        ({"num_local_experts": 8, "num_experts_per_tok": 2}, 8, 2, 14336, 0, 32),
        ({"num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768}, 128, 8, 768, 0, 32),
        ({"num_experts": 8, "num_experts_per_tok": 2, "decoder_sparse_step": 2}, 8, 2, 14336, 0, 16),
        ({"num_experts": 8, "num_experts_per_tok": 2, "mlp_only_layers": [0, 5]}, 8, 2, 14336, 0, 30),
        (
            {
                "n_routed_experts": 256,
                "num_experts_per_tok": 8,
                "moe_intermediate_size": 2048,
                "n_shared_experts": 2,
                "first_k_dense_replace": 3,
            },
            *(256, 8, 2048, 4096, 29),
        ),
        ({"num_experts": 4, "moe_topk": 1, "moe_layer_freq": [0, 1] * 16}, 4, 1, 14336, 0, 16),
        ({"n_routed_experts": 4, "num_experts_per_tok": 1, "moe_layer_freq": 4}, 4, 1, 14336, 0, 8),
        (
            {
                "num_local_experts": 16,
                "num_experts_per_tok": 1,
                "interleave_moe_layer_step": 2,
                "intermediate_size_mlp": 9,
            },
            *(16, 1, 14336, 14336, 16),
        ),
        ({"num_experts": 4, "moe_k": 2, "mlp_layer_types": ["dense"] * 8 + ["sparse"] * 24}, 4, 2, 14336, 0, 24),
        ({"num_experts": 4, "moe_k": 2, "shared_expert_intermediate_size": 99}, 4, 2, 14336, 99, 32),
    ],
)
def test_experts_by_the_words_of_each_family(
    read: Any, words: dict[str, object], experts: int, per_token: int, width: int, shared: int, layers: int
) -> None:
    model = read(**words)
    got = (model.num_experts, model.num_experts_per_tok, model.moe_intermediate_size)
    assert (*got, model.shared_expert_intermediate_size, model.moe_layers) == (
        experts,
        per_token,
        width,
        shared,
        layers,
    )


@pytest.mark.parametrize(
    ("words", "full", "sliding", "window"),
    [
        ({"sliding_window": 4096}, 0, 32, 4096),
        ({"sliding_window": 4096, "use_sliding_window": False}, 32, 0, 0),
        ({"sliding_window": None}, 32, 0, 0),
        ({"sliding_window": 131072}, 32, 0, 0),
        ({"sliding_window": 128, "sliding_window_pattern": 2}, 16, 16, 128),
        ({"sliding_window": 512, "sliding_window_pattern": 6}, 5, 27, 512),
        ({"sliding_window": 512, "sliding_window_pattern": "LLLG"}, 8, 24, 512),
        ({"sliding_window": 64, "layer_types": ["sliding_attention", "full_attention"] * 16}, 16, 16, 64),
        ({"sliding_window": 64, "hybrid_layer_pattern": [1, 1, 1, 0] * 8}, 8, 24, 64),
        ({"sliding_window": 64, "use_sliding_window": True, "max_window_layers": 20}, 20, 12, 64),
        ({"model_type": "gemma2"}, 16, 16, 4096),
        ({"model_type": "qwen2", "sliding_window": 4096}, 32, 0, 0),
        ({"model_type": "mistral"}, 0, 32, 4096),
        ({"model_type": "mistral", "sliding_window": None}, 32, 0, 0),
        ({"model_type": "llama4_text"}, 8, 24, 8192),
    ],
)
def test_windows_by_the_words_of_each_family(
    read: Any, words: dict[str, object], full: int, sliding: int, window: int
) -> None:
    model = read(**words)
    assert (model.full_attention_layers, model.sliding_window_layers, model.sliding_window) == (full, sliding, window)


def test_latent_attention(read: Any) -> None:
    latent = {
        "q_lora_rank": 1536,
        "kv_lora_rank": 512,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
    }
    model = read(**latent)
    assert model.is_mla
    assert model.head_dim == 192
    assert kv_bytes_per_token(model) == 2 * 32 * 576


def test_hybrid_layers_and_their_state(read: Any) -> None:
    model = read(
        hybrid_override_pattern="ME" * 12 + "*-" * 4,
        mamba_num_heads=64,
        mamba_head_dim=64,
        ssm_state_size=128,
        n_groups=8,
        conv_kernel=4,
        n_routed_experts=16,
        num_experts_per_tok=2,
    )
    assert (model.linear_attention_layers, model.full_attention_layers, model.other_layers) == (12, 4, 16)
    assert (model.moe_layers, model.dense_layers) == (12, 4)
    channels = 64 * 64 + 2 * 8 * 128
    assert model.linear_state_bytes == 2 * 64 * 64 * 128 + 2 * 3 * channels
    wide = load().model("Qwen/Qwen3.5-27B")  # its config says float32
    assert wide.linear_state_bytes == 4 * 48 * 128 * 128 + 2 * 3 * (2 * 16 * 128 + 48 * 128)


def test_kimi_linear_layers(read: Any) -> None:
    model = read(linear_attn_config={"full_attn_layers": [4, 8], "num_heads": 4, "head_dim": 128})
    assert (model.linear_attention_layers, model.full_attention_layers) == (30, 2)


@pytest.mark.parametrize(
    ("quantisation", "dtype"),
    [
        ({"quant_method": "fp8"}, "fp8"),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8_block"),
        ({"quant_method": "fbgemm_fp8"}, "fp8"),
        ({"quant_method": "mxfp4"}, "mxfp4"),
        ({"quant_method": "awq", "bits": 4}, "int4"),
        ({"quant_method": "gptq", "bits": 8}, "int8"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "int8"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "nvfp4"),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, "fp8"),
        (
            {
                "quant_algo": "MIXED_PRECISION",
                "quantized_layers": {"a": {"quant_algo": "FP8"}, "b": {"quant_algo": "NVFP4"}},
            },
            "nvfp4",
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"g": {"weights": {"num_bits": 8, "type": "float"}}},
            },
            "fp8",
        ),
        (
            {"quant_method": "compressed-tensors", "config_groups": {"g": {"weights": {"num_bits": 4, "type": "int"}}}},
            "int4",
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"g": {"weights": {"num_bits": 4, "type": "float", "group_size": 16}}},
            },
            "nvfp4",
        ),
    ],
)
def test_weight_formats(read: Any, quantisation: dict[str, object], dtype: str) -> None:
    assert read(quantization_config=quantisation).weight_dtype == dtype


def test_modelopts_own_file_beside_the_config_counts(read: Any, tmp_path: Path) -> None:
    quantisation = {"quantization": {"quant_algo": "NVFP4"}}
    (tmp_path / "hf_quant_config.json").write_text(json.dumps(quantisation), encoding="utf-8")
    assert read().weight_dtype == "nvfp4"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_hidden_layers": ...}, "'num_hidden_layers'.* is missing"),
        ({"vocab_size": ...}, "'vocab_size'.* is missing"),
        ({"hidden_size": "big"}, "hidden_size: expected a whole number.*'big'"),
        ({"hidden_size": 0}, "hidden_size: expected a whole number above zero"),
        ({"num_attention_heads": -1}, "num_attention_heads: expected a whole number"),
        ({"num_hidden_layers": 10**8}, "num_hidden_layers: expected a whole number from 0 to 10000"),
        ({"num_experts": 8}, "'num_experts_per_tok'.* is missing"),
        ({"kv_lora_rank": 512}, "'qk_nope_head_dim' is missing"),
        ({"layer_types": ["full_attention"]}, "layer_types: names 1 layers, num_hidden_layers is 32"),
        ({"layer_types": ["odd"] * 32}, "layer_types: unknown kind of layer 'odd'"),
        ({"full_attention_interval": 4}, "is missing"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings: expected true or false"),
        ({"attn_type_list": [0, 1]}, "attn_type_list: .*lightning and softmax"),
        ({"compress_ratios": [4]}, "compress_ratios: this model cannot be described here"),
        ({"swa_num_key_value_heads": 4}, "swa_num_key_value_heads: this model cannot be described here"),
        ({"quantization_config": {"quant_method": "odd"}}, "quantization_config.quant_method: 'odd' is not known here"),
        (
            {"quantization_config": {"quant_method": "awq", "bits": 3}},
            "quantization_config.bits: expected 4 or 8, got 3",
        ),
        ({"quantization_config": {"quant_method": "compressed-tensors"}}, "no group says num_bits"),
    ],
)
def test_what_is_wrong_in_a_config_is_said_with_its_word(read: Any, changes: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        read(**changes)
    assert "config.json" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": 1,\n "b" 2}', "line 2, column 6: not valid JSON"),
        ("[1]", "expected an object of settings, got list"),
        ("", "line 1, column 1: not valid JSON"),
        ('{"a": ' + "9" * 5000 + "}", "not valid JSON"),
        ("[" * 100_000, "not valid JSON: a number too long, or nested too deeply"),
    ],
    ids=["comma", "list", "empty", "digits", "deep"],
)
def test_what_is_no_json_is_said_with_line_and_column(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=said):
        read_config_json(path)


def test_a_missing_config_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_config_json(tmp_path / "nowhere.json")
