"""Hold the simulator to the real vLLM on random mixes of features.

    python tools/fuzz_schedules.py VLLM_ENVIRONMENT/bin/python FIRST LAST [--keep FOLDER]

Scenarios FIRST to LAST − 1 (tools/scenario_mixes.py) are recorded by tools/record_vllm.py in an environment with vllm
and simulated again; every field must be equal. A recording that differs is named with its first difference and, with
--keep, written to a folder. The last line says how many are equal, and how many the engine refused.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from scenario_mixes import scenario

from headway.simulator import record
from headway.simulator.schedules import differences, read_schedule, written

HERE = Path(__file__).parent


def first_difference(rows: list[dict[str, Any]], path: Path) -> str:
    """What differs first between a recording and its simulation; empty: nothing."""
    path.write_text("".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows), encoding="utf-8")
    try:
        schedule = read_schedule(path)
        found = record(schedule.requests, schedule.replica, schedule.ids)
    except Exception as error:  # noqa: BLE001 - whatever it is, this recording is not equal
        return f"{type(error).__name__}: {error}"
    return str(next(differences(schedule.rows, written(schedule, found)), ""))


def main() -> None:
    """Record, simulate and compare."""
    parser = argparse.ArgumentParser(description="hold the simulator to the real vLLM on random mixes of features")
    parser.add_argument("python", help="of an environment with vllm")
    parser.add_argument("first", type=int)
    parser.add_argument("last", type=int)
    parser.add_argument("--keep", type=Path, help="folder for recordings that differ")
    given = parser.parse_args()
    recorder = subprocess.Popen(
        [given.python, str(HERE / "record_vllm.py"), "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert recorder.stdin is not None
    assert recorder.stdout is not None
    equal = refused = 0
    with tempfile.TemporaryDirectory() as folder:
        for number in range(given.first, given.last):
            recorder.stdin.write(json.dumps(scenario(number)) + "\n")
            recorder.stdin.flush()
            rows = json.loads(recorder.stdout.readline())
            if isinstance(rows, dict):
                refused += 1
                print(f"{number} refused: {rows['error'][:200]}", flush=True)
                continue
            path = Path(folder) / f"mix_{number:05}.jsonl"
            problem = first_difference(rows, path)
            equal += not problem
            if problem:
                print(f"{number} not equal: {problem}", flush=True)
                if given.keep:
                    given.keep.mkdir(parents=True, exist_ok=True)
                    (given.keep / path.name).write_bytes(path.read_bytes())
    recorder.stdin.close()
    total = given.last - given.first - refused
    print(f"{equal} of {total} equal, {refused} refused")
    sys.exit(equal < total)


if __name__ == "__main__":
    main()
