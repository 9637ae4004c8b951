"""Starts real engines on loopback, speaks HTTP with them, and always ends them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
#: Nobody waits longer than this for one answer.
ANSWER_S = 120.0


@contextmanager
def running(
    command: list[str], log: Path, environment: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Run a server in a session of its own, its standard error in a file; end the session afterwards."""
    with log.open("w", encoding="utf-8") as errors:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=os.environ | (environment or {}),
            start_new_session=True,
        )
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):  # it ended by itself
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def free_port() -> int:
    """Return a port of loopback that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def get(url: str, timeout_s: float = ANSWER_S) -> str:
    """Return the body of a page."""
    with urllib.request.urlopen(url, timeout=timeout_s) as answer:
        return str(answer.read().decode())


def post(url: str, body: dict[str, Any], timeout_s: float = ANSWER_S) -> dict[str, Any]:
    """Return the JSON answer to a JSON body; an error answer too.

    Raises:
        OSError: nobody answers.
    """
    asked = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(asked, timeout=timeout_s) as answer:
            return dict(json.load(answer))
    except urllib.error.HTTPError as error:
        return dict(json.load(error))


def wait_until_ready(url: str, process: subprocess.Popen[str], log: Path, patience_s: float) -> None:
    """Wait until a page can be had.

    Raises:
        RuntimeError: the server ended, or did not answer in time; with the end of its log.
    """
    until_s = time.monotonic() + patience_s
    while time.monotonic() < until_s and process.poll() is None:
        try:
            get(url, timeout_s=5)
        except OSError:
            time.sleep(0.2)
        else:
            return
    last = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
    raise RuntimeError(f"{url} did not answer within {patience_s:g} s; the end of {log.name}:\n{last}")
