"""Ask a real llama-server, read what it decides, and hold the simulator to it.

    python tools/witness/witness_llama.py [SCENARIO ...] [--keep FOLDER]

Each scenario of llama_scenarios.py is run on the real server (SmolLM2-135M on one CPU thread, in the environment
build/witness-llama: `make witness-llama` makes it). Its log says which slot each request got and what went into each
batch. Three things must then be equal: what the server answers (slot, tokens cached and computed per request), counts
(/metrics: decodes, busy slots) and holds at the end (/slots); its log; and what the simulator makes of the same
requests. The last line is `N of M equal`; the exit code is 0 where all are, 1 where some are not, 2 where there is
no environment.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from environments import LLAMA
from llama_recording import Walk, as_rows, read_log
from llama_scenarios import SCENARIOS, Scenario
from logical import judged
from scenarios import Ask, play
from servers import get, post, running, wait_until_ready

from headway.simulator.schedules import read_schedule
from headway.simulator.schedules.writing import write_rows

HERE = Path(__file__).parent
#: Of the package that carries the server.
VERSION = "2026.10.11549"
PATIENCE_S = 60.0
#: Every token as likely as every other, so that no two outputs begin alike.
CHANCE = {"temperature": 1000.0, "samplers": ["temperature"], "ignore_eos": True, "cache_prompt": True}


@dataclass(slots=True)
class Told:
    """What the server said over HTTP.

    Attributes:
        prompts: of the requests, by number in the order they were sent.
        outputs: tokens each asked for.
        answers: to them.
        metrics: the counters of /metrics at the end.
        slots: /slots at the end.
    """

    prompts: list[list[int]] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    answers: dict[int, dict[str, Any]] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    slots: list[dict[str, Any]] = field(default_factory=list)


def asked(scenario: Scenario, log: Path) -> Told:
    """Run a scenario on the real server; its log goes to a file."""
    told = Told()
    with running([str(LLAMA.python), str(HERE / "serve_llama.py"), json.dumps(scenario.settings)], log) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        wait_until_ready(f"{url}/health", process, log, PATIENCE_S)

        def send(ask: Ask, prompt: list[int]) -> list[int]:
            number = len(told.prompts)
            told.prompts.append(prompt)
            told.outputs.append(ask.out)
            body = CHANCE | {"prompt": prompt, "n_predict": ask.out, "n_keep": number, "return_tokens": True}
            answer = post(f"{url}/completion", body)
            if "tokens" not in answer:
                raise RuntimeError(f"the server answered {answer}")
            told.answers[number] = answer
            return list(answer["tokens"])

        play(scenario.phases, send)
        told.metrics = counters(get(f"{url}/metrics"))
        told.slots = json.loads(get(f"{url}/slots"))
    return told


def counters(page: str) -> dict[str, float]:
    """Read the figures of a metrics page that have no labels."""
    return {name: float(value) for name, value in re.findall(r"^llamacpp:(\w+) (\S+)$", page, re.MULTILINE)}


def contradictions(walk: Walk, told: Told) -> list[str]:
    """Say where the server's log and its answers do not say the same."""
    found = []
    for task in walk.tasks.values():
        answer = told.answers[task.number]
        timings = answer["timings"]
        expected = {
            "slot": (answer["id_slot"], task.slot),
            "cached tokens": (timings["cache_n"], task.cached),
            "computed tokens": (timings["prompt_n"], task.length - task.cached),
            "output tokens": (timings["predicted_n"], len(task.tokens)),
            "tokens": (answer["tokens"], task.tokens),
            "truncated": (answer["truncated"], task.cut),
        }
        found += [
            f"request {task.number}, {what}: {one} answered, {other} logged"
            for what, (one, other) in expected.items()
            if one != other
        ]
    decodes, busy = len(walk.batches), sum(len(batch.busy) for batch in walk.batches)
    counted = told.metrics["n_decode_total"], round(told.metrics["n_busy_slots_per_decode"] * decodes)
    if counted != (decodes, busy):
        found.append(f"decodes and busy slots: {counted} counted, {(decodes, busy)} logged")
    if any(slot["is_processing"] for slot in told.slots):
        found.append("slots are busy at the end")
    return found


def witnessed(scenario: Scenario, folder: Path) -> tuple[Path, list[str]]:
    """Run a scenario; return its schedule file and where the server contradicts itself."""
    log = folder / f"{scenario.name}.log"
    told = asked(scenario, log)
    with log.open(encoding="utf-8", errors="replace") as lines:
        walk = read_log(lines)
    rows = as_rows(
        walk,
        told.prompts,
        told.outputs,
        scenario.settings,
        name=scenario.name,
        description=f"live: {scenario.description}",
        vllm=VERSION,
    )
    path = folder / f"{scenario.name}.jsonl"
    write_rows(rows, path)
    return path, contradictions(walk, told)


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    names = [scenario.name for scenario in SCENARIOS]
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"of {', '.join(names)}; default: all")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep recordings and logs there")
    chosen = parser.parse_args()
    unknown = set(chosen.scenarios) - set(names)
    if unknown:
        parser.error(f"no scenario {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    return chosen


def main() -> int:
    """Run the scenarios and say what came of them."""
    chosen = options()
    if LLAMA.missing():
        sys.stderr.write(f"error: {LLAMA.missing()}\n")
        return 2
    equal = count = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = chosen.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for scenario in SCENARIOS:
            if chosen.scenarios and scenario.name not in chosen.scenarios:
                continue
            path, against = witnessed(scenario, folder)
            problem, shown = judged(read_schedule(path))
            problem = "; ".join([*against, *filter(None, [problem])])
            steps = len(read_schedule(path).rows.steps)
            print(f"{path.stem:<14} {steps:>5,} steps  {f'differs: {problem}' if problem else 'equal'}", flush=True)
            print(shown, end="")
            count, equal = count + 1, equal + (not problem)
    print(f"{equal} of {count} equal")
    return int(equal < count)


if __name__ == "__main__":
    sys.exit(main())
