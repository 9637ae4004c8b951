"""Make a small Llama with random weights, a tokenizer of numbered words, and adapters: `python vllm_model.py FOLDER`.

Run inside the witness environment of vLLM. Scheduling does not depend on what the model says, so 4 layers that know
nothing do; nothing is downloaded.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WORDS = 2048
ADAPTERS = 4
RANK = 8
LAYERS, HIDDEN = 4, 512


def main(folder: str) -> None:
    """Write config, weights and tokenizer into a folder."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=HIDDEN,
        intermediate_size=1536,
        num_hidden_layers=LAYERS,
        num_attention_heads=8,
        num_key_value_heads=4,
        vocab_size=WORDS,
        max_position_embeddings=8192,
        bos_token_id=0,
        eos_token_id=1,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(WORDS)}, unk_token="w2"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, bos_token="w0", eos_token="w1", unk_token="w2").save_pretrained(
        folder
    )


def adapter(folder: Path) -> None:
    """Write a LoRA adapter of the query projections, in the form of PEFT."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"peft_type": "LORA", "r": RANK, "lora_alpha": RANK, "target_modules": ["q_proj"], "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(settings | {"task_type": "CAUSAL_LM"}))
    weights = {}
    for layer in range(LAYERS):
        name = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        weights[f"{name}.lora_A.weight"] = torch.randn(RANK, HIDDEN, dtype=torch.bfloat16)
        weights[f"{name}.lora_B.weight"] = torch.randn(HIDDEN, RANK, dtype=torch.bfloat16)
    save_file(weights, folder / "adapter_model.safetensors")


if __name__ == "__main__":
    main(sys.argv[1])
    for number in range(1, ADAPTERS + 1):
        adapter(Path(sys.argv[1]) / "adapters" / f"a{number}")
