"""How long a person waits: whole processes, cold in the sense that Python starts anew each time.

    python benchmarks/cold_start.py [runs]

Prints the median and the fastest of several runs, and the ratio to starting Python alone in the same run: that ratio
carries from machine to machine better than the seconds do.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
HEADWAY = str(Path(sys.executable).with_name("headway"))
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "headway --help": [HEADWAY, "--help"],
    "headway estimate": [
        HEADWAY,
        "estimate",
        "--model",
        "Llama-3.1-8B-Instruct",
        "--accelerator",
        "l40s",
        "--batch",
        "16",
    ],
    "headway plan examples/chat-70b.yaml": [HEADWAY, "plan", "examples/chat-70b.yaml"],
}


def wall_s(command: list[str]) -> float:
    start_s = time.perf_counter()
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return time.perf_counter() - start_s


def main(runs: int) -> None:
    found = json.loads(subprocess.check_output([*COMMANDS["headway plan examples/chat-70b.yaml"], "--json"], cwd=ROOT))
    search = found["search"]
    print(f"candidates enumerated: {search['enumerated']}, simulated: {search['simulated']}\n")
    print(f"{'command':<40}{'median':>9}{'fastest':>9}{'ratio':>8}")
    base_s = 0.0
    for name, command in COMMANDS.items():
        walls_s = [wall_s(command) for _ in range(runs)]
        median_s = statistics.median(walls_s)
        base_s = base_s or median_s
        print(f"{name:<40}{median_s:>7.2f} s{min(walls_s):>7.2f} s{median_s / base_s:>7.1f}×")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
