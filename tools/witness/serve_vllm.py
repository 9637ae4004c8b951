"""Run vLLM's own server until standard input closes: `python serve_vllm.py ARGUMENTS OF vllm serve`.

Started in a session of its own by `servers.py`; when the pipe to whoever started it closes, for whatever reason, the
whole session ends, workers and all.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading


def _end_with_the_pipe() -> None:
    sys.stdin.read()
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    threading.Thread(target=_end_with_the_pipe, daemon=True).start()
    runpy.run_module("vllm.entrypoints.openai.api_server", run_name="__main__", alter_sys=True)
