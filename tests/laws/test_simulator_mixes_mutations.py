"""The equality with the twin has teeth: each deliberate fault in the general engine is found by a few mixes.

A mutant is the source of one module with one passage changed. All run interpreted, in one process, each on the mixes of
one stratum until a schedule differs from the twin's, or it fails, or it does not end.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ORACLE = Path(__file__).parents[1] / "oracle"

#: what is wrong -> (module, stratum it is seen in, passage, what stands there instead)
MUTANTS = {
    "one batch in flight": (
        "stepping",
        "asynchronous",
        "self.stages + (1 if settings.async_scheduling else 0)",
        "self.stages",
    ),
    "stages do not wait for each other": ("stepping", "pipeline", "max(end, self.stage_end[stage])", "end"),
    "rejected drafts count as computed": ("stepping", "ngram", "table.computed[request] -= rejected", "pass"),
    "every draft is accepted": ("stepping", "ngram", "min(drafts, taken)", "drafts"),
    "stale outputs are current": (
        "stepping",
        "priority, asynchronous",
        "batch.epoch[i] == table.epoch[request]",
        "True",
    ),
    "stale outputs of a producer are delivered": (
        "stepping",
        "KV producer",
        "if not current and self.drops_stale:",
        "if False:",
    ),
    "a batch tells of loads begun after it": (
        "stepping",
        "KV of both kinds",
        "transfer[3] <= batch.end and transfer[1] <= batch.number",
        "transfer[3] <= batch.end",
    ),
    "nobody hangs up": ("stepping", "hang-ups", "if self.next_abort <= self.now:", "if False:"),
    "stop tokens are foreseen": (
        "vllm",
        "stop tokens",
        "computed + 2 - placeholders >= table.most[request]",
        "computed + 2 - placeholders >= table.isl[request] + table.osl[request]",
    ),
    "a request in two batches of a pipeline": (
        "vllm",
        "pipeline, asynchronous",
        "self.calls < table.eligible[request]",
        "False",
    ),
    "who is alone is bound by the threshold": (
        "vllm",
        "thresholds",
        "(queued == 1 and self.lone_exempt)",
        "False",
    ),
    "the adaptive threshold counts running requests": (
        "vllm",
        "adaptive thresholds",
        "// max(queued, 1)",
        "// max(self.running, 1)",
    ),
    "prompts are never held": (
        "vllm",
        "one prefill in so many steps",
        "if self.held and table.chunk[request]:",
        "if False:",
    ),
    "room is never short": (
        "vllm",
        "one prefill in so many steps",
        "self.capacity_bound = self.waiting > self.asides",
        "self.capacity_bound = False",
    ),
    "max_num_active_seqs is ignored": (
        "vllm",
        "fewer active sequences",
        "settings.max_num_active_seqs or settings.max_num_seqs",
        "settings.max_num_seqs",
    ),
    "the watermark holds on an idle replica": (
        "vllm",
        "watermark",
        "(self.watermark if self.running > 0 else 0)",
        "self.watermark",
    ),
    "draft models need no slot": ("vllm", "draft model", '1 if method == "draft_model" else 0', "0"),
    "drafts get their blocks late": ("vllm", "draft model", '0 if method == "ngram" else self.drafting', "0"),
    "keys do not cover the next token": ("vllm", "EAGLE", "1 if method in READS_AHEAD and hashed_ahead else 0", "0"),
    "decodes are not padded": ("vllm", "ngram", "if self.drafting == 0 or tokens", "if True or tokens"),
    "adapters are not counted": ("vllm", "adapters", "return kinds >= self.max_loras", "return False"),
    "adapters of all running count before 0.33": (
        "vllm",
        "adapters of a step",
        "self.loras_of_all = profile.loras_of_all_running",
        "self.loras_of_all = True",
    ),
    "blocks in flight are free": (
        "vllm",
        "KV of both kinds",
        "later: cython.bint = self.deferring and self.table.flying[request] > 0",
        "later: cython.bint = False",
    ),
    "held blocks are free": ("vllm", "KV producer", "if table.hold[request] >= 0 and", "if False and"),
    "nothing is reserved for what is under way": (
        "vllm",
        "KV of both kinds",
        "tokens, self.reserved())",
        "tokens, 0)",
    ),
    "windows do not slide": (
        "vllm",
        "window groups",
        "        if self.windowed:\n            self.slide(request)\n",
        "",
    ),
    "window groups register every block": (
        "vllm",
        "window groups under pressure",
        "or self.kept(request, index, group)",
        "or True",
    ),
    "junctions are forgotten": (
        "vllm",
        "window groups under pressure",
        "longest if longest > self.hit else 0",
        "0",
    ),
    "a victim of this step keeps its tokens": (
        "vllm",
        "priority",
        "self.tokens_left += batch.tokens[i]\n",
        "pass\n",
    ),
    "who threw itself out ends the running": (
        "vllm",
        "priority",
        "return -1 if self.priority and self.go_on_after_self else 0",
        "return 0",
    ),
    "heads of sequences go first": (
        "vllm",
        "conversations",
        "self.key[block] == NO_KEY and self.uncached_first",
        "False",
    ),
    "requests passed over wait with the others before 0.32": (
        "vllm",
        "vLLM 0.20",
        "if not self.holds_apart and not from_held:",
        "if False:",
    ),
}

SCRIPT = """
import importlib.util, json, signal, sys, types
sys.path.insert(0, sys.argv[1])
from mixes import compare, mix

home = importlib.util.find_spec("headway.simulator").submodule_search_locations[0]
sources = {name: open(f"{home}/{name}.py", encoding="utf-8").read() for name in ("stepping", "vllm")}

def too_long(*_):
    raise TimeoutError("it does not end")

def found(stratum):
    for seed in range(60):
        signal.alarm(20)
        try:
            compared = compare(*mix(stratum, seed))
        except Exception as error:
            return f"{stratum}, seed {seed}: {error!r}"
        finally:
            signal.alarm(0)
        if compared and compared[0]:
            return f"{stratum}, seed {seed}"

signal.signal(signal.SIGALRM, too_long)
assert not found("synchronous") and not found("window groups"), "differences without a fault"
for fault, (module, stratum, passage, instead) in json.load(sys.stdin).items():
    assert sources[module].count(passage) == 1, f"{fault}: the passage is gone, or not alone: adapt the mutant"
    for name, source in sources.items():
        mutant = sys.modules[f"headway.simulator.{name}"] = types.ModuleType(f"headway.simulator.{name}")
        source = source.replace(passage, instead) if name == module else source
        exec(compile(source, mutant.__name__, "exec"), mutant.__dict__)
    print(json.dumps([fault, found(stratum)]), flush=True)
"""


def test_every_fault_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(ORACLE)],
        input=json.dumps(MUTANTS),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HEADWAY_INTERPRETED": "1"},
    )
    assert run.returncode == 0, run.stderr
    verdicts = dict(json.loads(line) for line in run.stdout.splitlines())
    caught = [fault for fault, where in verdicts.items() if where]
    with capsys.disabled():
        print(f"\ncaught {len(caught)} of {len(MUTANTS)}")  # noqa: T201 - the figure of the proof
    assert caught == list(MUTANTS)
