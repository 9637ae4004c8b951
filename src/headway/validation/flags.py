"""What a row's note quotes of the command that started its server: settings by the names of `EngineSettings`."""

from __future__ import annotations

import re

#: a word of the command line or of a list of settings in prose -> the setting
_COUNTS = {
    "max-num-batched-tokens": "max_num_batched_tokens",
    "max-num-tokens": "max_num_batched_tokens",
    "chunked-prefill-size": "max_num_batched_tokens",
    "max-num-seqs": "max_num_seqs",
    "max-running-requests": "max_num_seqs",
    "max-batch-size": "max_num_seqs",
    "max-model-len": "max_model_len",
    "context-length": "max_model_len",
    "max-seq-len": "max_model_len",
    "max-prefill-tokens": "max_prefill_tokens",
    "scheduler-recv-interval": "scheduler_recv_interval",
    "batch-wait-timeout-iters": "batch_wait_timeout_iters",
    "cuda-graph-max-bs": "cuda_graph_max_bs",
}
_FRACTIONS = {
    "gpu-memory-utilization": "gpu_memory_utilization",
    "mem-fraction-static": "gpu_memory_utilization",
    "batch-wait-max-tokens-ratio": "batch_wait_max_tokens_ratio",
}
_SWITCHES = {
    "async-scheduling": ("async_scheduling", True),
    "no-async-scheduling": ("async_scheduling", False),
    "disable-overlap-schedule": ("async_scheduling", False),
    "enable-prefix-caching": ("enable_prefix_caching", True),
    "no-enable-prefix-caching": ("enable_prefix_caching", False),
    "disable-radix-cache": ("enable_prefix_caching", False),
    "enable-chunked-prefill": ("enable_chunked_prefill", True),
    "no-enable-chunked-prefill": ("enable_chunked_prefill", False),
    "enforce-eager": ("enforce_eager", True),
    "disable-cuda-graph": ("enforce_eager", True),
}
_WORD = re.compile(r"(?:--|(?<=[\s,(]))([a-z][a-z0-9_-]{2,})(?:[= ]+([0-9][0-9.]*|[a-z][a-z0-9_]*))?")
_ATTENTION_DP = ("enable-dp-attention", "enable-attention-dp")


def flags(note: str) -> dict[str, object]:
    """Return the settings a note states, in the words of `EngineSettings`; of a word said twice the last."""
    found: dict[str, object] = {}
    for word, value in _WORD.findall(note):
        name = word.replace("_", "-")
        number = _number(value)
        if name in _COUNTS and number and number >= 1:
            found[_COUNTS[name]] = int(number)
        elif name in _FRACTIONS and number and number <= 1:
            found[_FRACTIONS[name]] = number
        elif name in _SWITCHES and f"--{word}" in note:
            setting, on = _SWITCHES[name]
            found[setting] = on
    return found


def _number(text: str) -> float | None:
    try:
        return float(text.rstrip("."))
    except ValueError:
        return None


def kv_dtype(note: str) -> str:
    """Return the KV cache's format a command states; empty where it states none."""
    found = re.search(r"--kv[-_]cache[-_]dtype[= ]+(\S+)", note)
    return found[1] if found else ""


def attention_dp(note: str) -> bool:
    """Whether a command spreads attention over data-parallel ranks."""
    return any(f"--{flag}" in note.replace("_", "-") for flag in _ATTENTION_DP) or "attention DP" in note
