"""Real engines with a small real model, on loopback: `with serving("llama", log) as url`.

    python tools/blind/real_servers.py llama|vllm   # serve until Ctrl-C or the end of standard input

Both serve SmolLM2-135M-Instruct on one thread: llama-server the 4-bit GGUF, vLLM the same weights dequantised to bf16.
The environments are those of tools/witness (`make witness-llama`, `make witness-vllm`).
"""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

WITNESS = Path(__file__).parents[1] / "witness"
sys.path.insert(0, str(WITNESS))

from environments import LLAMA, VLLM, Witness  # noqa: E402  # tools are no package
from servers import free_port, running, wait_until_ready  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

MODEL = "smollm2"
#: A server under load may take this long to come up.
PATIENCE_S = 240.0
ENVIRONMENTS: dict[str, Witness] = {"llama": LLAMA, "vllm": VLLM}

#: Release-like: quiet, no cache beside the slots. n_batch and n_ubatch are the server's own defaults.
LLAMA_SETTINGS = {
    "n_parallel": 8,
    "n_ctx": 8 * 1024,
    "n_batch": 2048,
    "n_ubatch": 512,
    "verbosity": 1,
    "model_alias": [MODEL],
}
#: What a server does not tell of itself: vLLM keeps its limits to itself.
UNTOLD: dict[str, dict[str, object]] = {"llama": {}, "vllm": {"max_num_seqs": 16, "max_num_batched_tokens": 1024}}
VLLM_ARGUMENTS = (
    *("--dtype", "bfloat16", "--enforce-eager", "--block-size", "32"),
    *(f"--{name.replace('_', '-')}={value}" for name, value in UNTOLD["vllm"].items()),
    *("--max-model-len", "2048"),
    "--disable-uvicorn-access-log",
)
VLLM_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
}


@contextmanager
def serving(engine: str, log: Path, **settings: Any) -> Iterator[str]:
    """Serve SmolLM2 until the block ends; the address is what it gives.

    Args:
        engine: a name in `ENVIRONMENTS`.
        log: where the server's standard error goes.
        settings: of llama-server, over `LLAMA_SETTINGS`.

    Raises:
        RuntimeError: the server ended, or did not answer in time; with the end of its log.
    """
    with {"llama": _llama, "vllm": _vllm}[engine](log, **settings) as url:
        yield url


@contextmanager
def _llama(log: Path, **settings: Any) -> Iterator[str]:
    asked = json.dumps(LLAMA_SETTINGS | settings)
    with running([str(LLAMA.python), str(WITNESS / "serve_llama.py"), asked], log) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        wait_until_ready(f"{url}/health", process, log, PATIENCE_S)
        yield url


@contextmanager
def _vllm(log: Path, *arguments: str) -> Iterator[str]:
    port = free_port()
    command = [
        *(str(VLLM.python), str(WITNESS / "serve_vllm.py"), "--model", str(VLLM.folder / MODEL)),
        *("--served-model-name", MODEL, "--host", "127.0.0.1", "--port", str(port), *VLLM_ARGUMENTS, *arguments),
    ]
    with running(command, log, VLLM_ENVIRONMENT) as process:
        url = f"http://127.0.0.1:{port}"
        wait_until_ready(f"{url}/health", process, log, PATIENCE_S)
        yield url


if __name__ == "__main__":
    with serving(sys.argv[1], Path(f"{sys.argv[1]}.log")) as address:
        print(address, flush=True)
        sys.stdin.read()
