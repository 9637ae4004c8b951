"""Ask a real vLLM on this CPU, record what its scheduler decides, and hold the simulator to it.

    python tools/witness/witness_vllm.py [SCENARIO ...] [--mode sync|async] [--keep FOLDER]

Each scenario of vllm_scenarios.py is run on the real engine: a model with random weights behind vLLM's own HTTP
server, in the environment build/witness-vllm (`make witness-vllm` makes it). Its scheduler writes down every call, and
vLLM logs every iteration. Two things must hold: vLLM's own log of iterations says the same as its scheduler's
recording (requests and tokens, context and generation), and every field of the recording is what the simulator makes
of the same requests. The last line is `N of M equal`; the exit code is 0 where all are, 1 where some are not, 2 where
there is no environment.
"""

from __future__ import annotations

import sys
from itertools import product
from pathlib import Path
from typing import Any

from environments import VLLM
from iterations import compositions, logged, side_by_side_of
from logical import judged
from reporting import Verdict, folder_of, parsed, parser_of, told
from scenarios import Ask, play
from servers import free_port, post, running, wait_until_ready
from vllm_recording import as_rows, read_recording
from vllm_scenarios import SCENARIOS, Scenario

from headway.simulator.schedules import read_schedule
from headway.simulator.schedules.writing import write_rows

HERE = Path(__file__).parent
#: The version whose rules the simulator follows: that of the environment.
VERSION = "0.32.0"
MODES = ("sync", "async")
#: A server under load may take this long to come up.
PATIENCE_S = 240.0
#: Recordings whose arrivals fall between two calls of one moment are made again, so often at most.
ATTEMPTS = 3


def command(scenario: Scenario, mode: str, port: int) -> list[str]:
    """Return how the server is started."""
    return [
        str(VLLM.python),
        str(HERE / "serve_vllm.py"),
        *("--model", str(VLLM.folder / "model"), "--served-model-name", "witness", "--dtype", "bfloat16"),
        *("--host", "127.0.0.1", "--port", str(port), "--enforce-eager", "--block-size", "32"),
        *("--scheduler-cls", f"recording_scheduler.{mode.capitalize()}"),
        "--enable-logging-iteration-details",
        *scenario.arguments,
    ]


def environment(recording: Path) -> dict[str, str]:
    """Return what the server finds in its environment."""
    return {
        "PYTHONPATH": str(HERE),
        "HEADWAY_WITNESS_RECORDING": str(recording),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    }


def recorded(scenario: Scenario, mode: str, folder: Path) -> tuple[Path, Path]:
    """Run a scenario on the real engine; return its scheduler's recording and its log."""
    recording, log = folder / f"{scenario.name}_{mode}.events", folder / f"{scenario.name}_{mode}.log"
    port = free_port()
    url = f"http://127.0.0.1:{port}"

    def send(ask: Ask, prompt: list[int]) -> list[int]:
        body: dict[str, Any] = {
            "model": "witness",
            "prompt": prompt,
            "max_tokens": ask.out,
            "ignore_eos": True,
            "temperature": 1.0,
            "return_token_ids": True,
            **ask.fields,
        }
        answer = post(f"{url}/v1/completions", body)
        if "choices" not in answer:
            raise RuntimeError(f"the server answered {answer}")
        return list(answer["choices"][0]["token_ids"])

    with running(command(scenario, mode, port), log, environment(recording)) as process:
        wait_until_ready(f"{url}/health", process, log, PATIENCE_S)
        play(scenario.phases, send)
    return recording, log


def witnessed(scenario: Scenario, mode: str, folder: Path) -> tuple[Path, Path]:
    """Run a scenario until its recording can be put on the logical clock; return the schedule file and the log."""
    for attempt in range(1, ATTEMPTS + 1):
        recording, log = recorded(scenario, mode, folder)
        try:
            with recording.open(encoding="utf-8") as lines:
                rows = as_rows(
                    read_recording(lines),
                    name=f"{scenario.name}_{mode}",
                    description=f"live, {mode}: {scenario.description}",
                    version=VERSION,
                )
        except ValueError as error:
            if attempt == ATTEMPTS:
                raise
            sys.stderr.write(f"{scenario.name}, {mode}: {error}\n")
        else:
            path = folder / f"{scenario.name}_{mode}.jsonl"
            write_rows(rows, path)
            return path, log
    raise AssertionError


def verdict(path: Path, log: Path) -> Verdict:
    """Compare recording, log and simulation."""
    schedule = read_schedule(path)
    counted, seen = logged(log.read_text(errors="replace").splitlines()), compositions(schedule.rows)
    problem, shown = judged(schedule)
    if counted != seen:
        problem = "the engine's log of iterations differs from its scheduler's recording"
        shown = side_by_side_of(counted, seen)
    return Verdict(name=path.stem, steps=len(schedule.rows.steps), problem=problem, shown=shown)


def main() -> int:
    """Run the scenarios and say what came of them."""
    names = [scenario.name for scenario in SCENARIOS]
    parser = parser_of(__doc__, names)
    parser.add_argument("--mode", choices=MODES, help="default: both")
    chosen = parsed(parser, names)
    if VLLM.missing():
        sys.stderr.write(f"error: {VLLM.missing()}\n")
        return 2
    named = (scenario for scenario in SCENARIOS if scenario.name in chosen.scenarios)
    modes = [chosen.mode] if chosen.mode else MODES
    with folder_of(chosen.keep) as folder:
        return told(verdict(*witnessed(scenario, mode, folder)) for scenario, mode in product(named, modes))


if __name__ == "__main__":
    sys.exit(main())
