"""Ask a real llama-server, read what it decides, and hold the simulator to it.

    python tools/witness/witness_llama.py [SCENARIO ...] [--mixed N] [--keep FOLDER]

Each scenario of llama_scenarios.py is run on the real server (SmolLM2-135M on one CPU thread, in the environment
build/witness-llama: `make witness-llama` makes it). Its log says which slot each request got and what went into each
batch. Three things must then be equal: what the server answers (slot, tokens cached and computed per request), counts
(/metrics: decodes, busy slots) and holds at the end (/slots); its log; and what the simulator makes of the same
requests. The last line is `N of M equal`; the exit code is 0 where all are, 1 where some are not, 2 where there is
no environment.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from environments import LLAMA
from llama_recording import Walk, as_rows, read_log
from llama_scenarios import SCENARIOS, Scenario, mixed
from logical import judged
from reporting import Verdict, folder_of, parsed, parser_of, told
from scenarios import Ask, play
from servers import get, post, running, wait_until_ready

from headway.simulator.schedules import read_schedule
from headway.simulator.schedules.writing import write_rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

HERE = Path(__file__).parent
#: Of the package that carries the server.
VERSION = "2026.10.11549"
PATIENCE_S = 60.0
#: Every token as likely as every other, so that no two outputs begin alike.
CHANCE = {"temperature": 1000.0, "samplers": ["temperature"], "ignore_eos": True, "cache_prompt": True}


@dataclass(slots=True)
class Said:
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


def asked(scenario: Scenario, log: Path) -> Said:
    """Run a scenario on the real server; its log goes to a file."""
    said = Said()
    with running([str(LLAMA.python), str(HERE / "serve_llama.py"), json.dumps(scenario.settings)], log) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        wait_until_ready(f"{url}/health", process, log, PATIENCE_S)

        def send(ask: Ask, prompt: list[int]) -> list[int]:
            number = len(said.prompts)
            said.prompts.append(prompt)
            said.outputs.append(ask.out)
            body = CHANCE | {"prompt": prompt, "n_predict": ask.out, "n_keep": number, "return_tokens": True}
            answer = post(f"{url}/completion", body)
            if "tokens" not in answer:
                raise RuntimeError(f"the server answered {answer}")
            said.answers[number] = answer
            return list(answer["tokens"])

        play(scenario.phases, send)
        said.metrics = counters(get(f"{url}/metrics"))
        said.slots = json.loads(get(f"{url}/slots"))
    return said


def counters(page: str) -> dict[str, float]:
    """Read the figures of a metrics page that have no labels."""
    return {name: float(value) for name, value in re.findall(r"^llamacpp:(\w+) (\S+)$", page, re.MULTILINE)}


def contradictions(walk: Walk, said: Said) -> list[str]:
    """Say where the server's log and its answers do not say the same."""
    found = []
    for task in walk.tasks.values():
        answer = said.answers[task.number]
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
    counted = said.metrics["n_decode_total"], round(said.metrics["n_busy_slots_per_decode"] * decodes)
    if counted != (decodes, busy):
        found.append(f"decodes and busy slots: {counted} counted, {(decodes, busy)} logged")
    if any(slot["is_processing"] for slot in said.slots):
        found.append("slots are busy at the end")
    return found


def witnessed(scenario: Scenario, folder: Path) -> tuple[Path, list[str]]:
    """Run a scenario; return its schedule file and where the server contradicts itself."""
    log = folder / f"{scenario.name}.log"
    said = asked(scenario, log)
    with log.open(encoding="utf-8", errors="replace") as lines:
        walk = read_log(lines)
    rows = as_rows(
        walk,
        said.prompts,
        said.outputs,
        scenario.settings,
        name=scenario.name,
        description=f"live: {scenario.description}",
        vllm=VERSION,
    )
    path = folder / f"{scenario.name}.jsonl"
    write_rows(rows, path)
    return path, contradictions(walk, said)


def verdicts(scenarios: Iterable[Scenario], folder: Path) -> Iterator[Verdict]:
    """Run scenarios and compare, one after the other."""
    for scenario in scenarios:
        path, against = witnessed(scenario, folder)
        schedule = read_schedule(path)
        problem, shown = judged(schedule)
        problems = [*against, *filter(None, [problem])]
        yield Verdict(name=path.stem, steps=len(schedule.rows.steps), problem="; ".join(problems), shown=shown)


def main() -> int:
    """Run the scenarios and say what came of them."""
    names = [scenario.name for scenario in SCENARIOS]
    parser = parser_of(__doc__, names)
    parser.add_argument("--mixed", type=int, default=0, metavar="N", help="so many more, made by chance")
    chosen = parsed(parser, names)
    if LLAMA.missing():
        sys.stderr.write(f"error: {LLAMA.missing()}\n")
        return 2
    named = (scenario for scenario in SCENARIOS if scenario.name in chosen.scenarios)
    with folder_of(chosen.keep) as folder:
        return told(verdicts(chain(named, map(mixed, range(chosen.mixed))), folder))


if __name__ == "__main__":
    sys.exit(main())
