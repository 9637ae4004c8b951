"""AIPerf and GuideLLM: their environments, and their command lines for one and the same trace."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from peer_environments import Peer, installed

if TYPE_CHECKING:
    from pathlib import Path

GENERATORS = {
    "aiperf": Peer(title="AIPerf 0.13.0", driver="", requirements="aiperf.txt"),
    "guidellm": Peer(title="GuideLLM 0.8.1", driver="", requirements="guidellm.txt", before=("torch==2.13.0",)),
}


def command(name: str, url: str, trace: Path, folder: Path) -> list[str]:
    """The command that replays a Mooncake trace against a server at the times it says; installs what is missing.

    Raises:
        UnavailableError: it cannot be installed.
    """
    program = str(installed(GENERATORS[name]).parent / name)
    if name == "aiperf":
        words = f"profile --model paced --url {url} --endpoint-type chat --streaming --tokenizer local/bytes"
        words += " --use-server-token-count --custom-dataset-type mooncake_trace --fixed-schedule --ui none"
        words += " --no-server-metrics --no-gpu-telemetry --export-level records"
        return [program, *words.split(), "--input-file", str(trace), "--artifact-dir", str(folder / "aiperf")]
    data = f"kind=mooncake,source.kind=json_file,source.path={trace}"
    return [
        *(program, "run", "--disable-console"),
        *("--backend", f"kind=openai_http,target={url},model=paced"),
        *("--profile", "kind=replay,time_scale=0.001"),  # its mooncake times are seconds
        *("--tokenizer", "kind=huggingface_auto,model=local/bytes"),
        *("--data", data),
        *("--output", f"kind=json,path={folder / 'guidellm.json'}"),
    ]


def write_tokenizer(home: Path) -> dict[str, str]:
    """Write a tokenizer of single bytes as a Hugging Face cache has it; return the environment that finds it."""
    repository = home / "hub" / "models--local--bytes"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    model = {"type": "BPE", "vocab": {sign: code for code, sign in enumerate(_signs())}, "merges": []}
    absent = dict.fromkeys(("truncation", "padding", "normalizer", "post_processor"))
    whole = {"version": "1.0", "added_tokens": [], "pre_tokenizer": level, "decoder": level, "model": model}
    (snapshot / "tokenizer.json").write_text(json.dumps(absent | whole))
    (snapshot / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    (snapshot / "config.json").write_text('{"model_type": "llama"}')
    return {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}


def _signs() -> list[str]:
    """The 256 signs that stand for bytes in byte-level tokenizers: themselves where they print, others from 256 on."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(code) for code in shown] + [chr(256 + place) for place in range(256 - len(shown))]
