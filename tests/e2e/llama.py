"""A real llama-server for tests: `from llama import llama_server, needs_llama`.

pytestmark = needs_llama

def test_…():
    with llama_server(n_parallel=4) as url: …
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "tools" / "witness"))  # tools are no package

from environments import LLAMA
from servers import HERE, running, wait_until_ready

needs_llama = pytest.mark.skipif(bool(LLAMA.missing()), reason=LLAMA.missing())

#: Four slots of 1,024 tokens each; quiet, so that the log does not cost more than the answers.
SETTINGS = {"n_parallel": 4, "n_ctx": 4096, "n_batch": 2048, "n_ubatch": 512, "verbosity": 0, "endpoint_props": True}


@contextmanager
def llama_server(**settings: object) -> Iterator[str]:
    """Run a llama-server with SmolLM2-135M on one thread; yields its address, without `/v1`."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "server.log"
        command = [str(LLAMA.python), str(HERE / "serve_llama.py"), json.dumps(SETTINGS | settings)]
        with running(command, log) as process:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            assert url, log.read_text(errors="replace")[-2000:]
            wait_until_ready(f"{url}/health", process, log, patience_s=60)
            yield url
