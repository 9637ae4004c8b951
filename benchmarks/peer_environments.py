"""Where the peers live: each in an environment of its own under build/peers, made when first wanted.

The versions are those of peer_drivers/NAME.txt, installed without their own requirements (the files name all that is
imported). A peer that cannot be had is no error: the benchmark says why and goes on.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

HERE = Path(__file__).parent
DRIVERS = HERE / "peer_drivers"
CACHE = HERE.parent / "build" / "peers"
#: one thread each, and no word to anybody
QUIET = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


class UnavailableError(Exception):
    """This peer cannot be had here; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Another simulator, or the real scheduler, and the script that drives it."""

    title: str
    driver: str
    requirements: str = ""  # a file of peer_drivers; empty: nothing to install
    before: tuple[str, ...] = ()  # packages installed first, with what they need
    program: str = ""  # a program built beforehand, given to the driver
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


PEERS = {
    "dynamo": Peer(
        title="dynamo.replay 1.6.1 (Rust)",
        driver="dynamo_replay.py",
        requirements="dynamo.txt",
        environment={"DYN_LOG": "error", "TOKIO_WORKER_THREADS": "1", "RAYON_NUM_THREADS": "1"},
    ),
    "blis": Peer(title="BLIS (Go)", driver="blis.py", program="blis"),
    "vidur": Peer(
        title="Vidur 0.0.26",
        driver="vidur_simulator.py",
        requirements="vidur.txt",
        environment={"WANDB_MODE": "disabled"},
    ),
    "vidur-trained": Peer(
        title="Vidur 0.0.26, own predictor",
        driver="vidur_simulator.py",
        requirements="vidur.txt",
        arguments=("trained",),
        environment={"WANDB_MODE": "disabled"},
    ),
    "vllm": Peer(
        title="vLLM 0.33.0 Scheduler",
        driver="vllm_scheduler.py",
        requirements="vllm.txt",
        before=("torch==2.13.0",),
        environment={"VLLM_TARGET_DEVICE": "cpu", "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1"},
    ),
}


def command(peer: Peer, programs: Mapping[str, str]) -> list[str]:
    """The driver's command line but for the workload; installs what is missing.

    Raises:
        UnavailableError: it cannot be installed, or its program is not there.
    """
    driver = str(DRIVERS / peer.driver)
    if peer.requirements:
        return [str(installed(peer)), driver]
    program = shutil.which(programs.get(peer.program, peer.program))
    if program is None:
        raise UnavailableError(f"no program `{peer.program}` on the path; --program {peer.program}=FILE names one")
    return [sys.executable, driver, program]


def installed(peer: Peer) -> Path:
    """The interpreter of the peer's environment, made anew where its requirements have changed."""
    requirements = DRIVERS / peer.requirements
    home = CACHE / requirements.stem
    python, stamp = home / "bin" / "python", home / "installed"
    wanted = hashlib.sha256(requirements.read_bytes() + repr(peer.before).encode()).hexdigest()
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return python
    print(f"installing {peer.title} in {home}", file=sys.stderr, flush=True)
    shutil.rmtree(home, ignore_errors=True)
    _run([sys.executable, "-m", "venv", str(home)])
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if peer.before:
        _run([*pip, *peer.before])
    _run([*pip, "--no-deps", "--requirement", str(requirements)])
    stamp.write_text(wanted, encoding="utf-8")
    return python


def _run(arguments: list[str]) -> None:
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UnavailableError(last_line(done.stderr) or f"{arguments[0]} ended with {done.returncode}")


def last_line(text: str) -> str:
    """The last line with something in it: what a program that failed says in the end."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
