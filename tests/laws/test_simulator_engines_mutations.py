"""The equality of the other engines has teeth: each deliberate fault in a policy is found by the default cases.

A mutant is the source of one module with one passage changed, run interpreted in a process of its own. It is found if
a schedule differs from the twin's, if it fails, or if it does not end.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ORACLE = Path(__file__).parents[1] / "oracle"

#: what is wrong -> (module, engine it is seen with, passage, what stands there instead)
MUTANTS = {
    "a match leaves nodes whole": ("radix", "sglang", "child if self.tgi and not", "child if not"),
    "leaves go in part": ("radix", "sglang", "if self.tgi and tokens - gone < length:", "if tokens - gone < length:"),
    "leaves go whole": ("radix", "tgi", "if self.tgi and tokens - gone < length:", "if False:"),
    "lookups do not touch": ("radix", "sglang", "            child.touched = self.time\n", ""),
    "a parent of evicted leaves stays": ("radix", "sglang", "above.children == 0 and above.locks == 0", "False"),
    "what is locked may go": ("radix", "sglang", "or leaf.locks > 0", ""),
    "places are not used again": ("radix", "tgi", "        self.spare.append(leaf.place)\n", ""),
    "prefixes end with the first run": (
        "radix",
        "sglang",
        "            if used_j == self.count[j]:",
        "            if False:",
    ),
    "nothing is reserved for outputs": (
        "sglang",
        "sglang",
        "self.reserved += to_come * self.ratio",
        "self.reserved += 0",
    ),
    "the ratio stays": ("sglang", "sglang", "self.ratio - self.decay", "self.ratio"),
    "the ratio is kept while idle": ("sglang", "sglang", "if self.unfinished == 1:", "if False:"),
    "no page is kept beside": ("sglang", "sglang", "extend + outputs + self.page <", "extend + outputs <"),
    "who does not fit is tried again": (
        "sglang",
        "sglang",
        "if verdict == NO_TOKEN:\n            self.full = True",
        "if False:\n            pass",
    ),
    "the most progressed is retracted": (
        "sglang",
        "sglang",
        "table.isl[request] - table.known[request], table.isl",
        "table.known[request] - table.isl[request], table.isl",
    ),
    "retracted tokens stay cached": ("sglang", "sglang", "self.release(row, False)", "self.release(row, True)"),
    "retraction frees no room ahead": (
        "sglang",
        "sglang",
        "            self.make_room(len(order) * RETRACT_STEPS)\n",
        "",
    ),
    "finished prefills wait a step": (
        "sglang",
        "sglang",
        "        self.join()\n        if not self.prefill(batch):",
        "        if not self.prefill(batch):\n            self.join()",
    ),
    "shared prefixes are computed twice": ("sglang", "sglang", "rank = LAST", "rank = rank"),
    "claims end with the prompt": (
        "tensorrt_llm",
        "tensorrt-llm",
        "self.whole[slot] = self.ceiling(self.table.most[request])",
        "self.whole[slot] = self.ceiling(self.table.isl[request])",
    ),
    "later ones overtake": (
        "tensorrt_llm",
        "tensorrt-llm",
        "if needed > left:\n                break",
        "if needed > left:\n                continue",
    ),
    "nobody waits for a prefix": (
        "tensorrt_llm",
        "tensorrt-llm",
        "if name in coming:\n            return True",
        "if name in coming:\n            return False",
    ),
    "the first looked at is paused": (
        "tensorrt_llm",
        "tensorrt-llm",
        "last: cython.Py_ssize_t = end - 1\n",
        "last: cython.Py_ssize_t = i + 1 if i + 1 < end and self.begun(rows[i + 1]) else end - 1\n",
    ),
    "a paused prompt is what it was": (
        "tensorrt_llm",
        "tensorrt-llm",
        "self.prompt[table.holder[request]] = table.known[request]",
        "pass",
    ),
    "cut chunks are no whole blocks": ("tensorrt_llm", "tensorrt-llm", "most // self.size * self.size", "most"),
    "last chunks run first": ("tensorrt_llm", "tensorrt-llm", "in going + ending:", "in ending + going:"),
    "heads of sequences go first": (
        "tensorrt_llm",
        "tensorrt-llm",
        "for block in reversed(self.held[slot]):",
        "for block in self.held[slot]:",
    ),
    "what hung below is still found": (
        "tensorrt_llm",
        "tensorrt-llm",
        "        while self.child[block] >= 0:\n            self.leave_tree(self.child[block])\n",
        "",
    ),
    "outputs are not cached": (
        "tensorrt_llm",
        "tensorrt-llm",
        "self.store(request, min(table.known[request] - 1, table.computed[request]))",
        "pass",
    ),
    "outputs are not reserved": (
        "tgi",
        "tgi",
        "self.whole(self.table.most[request] - 1)",
        "self.whole(self.table.isl[request])",
    ),
    "decodes never come between prefills": (
        "tgi",
        "tgi",
        "            self.must_decode = True\n",
        "            self.must_decode = False\n",
    ),
    "few need not wait": ("tgi", "tgi", "least = int(np.float32(len(self.rows)) * self.ratio)", "least = 0"),
    "the oldest prompt goes on first": (
        "tgi",
        "tgi",
        "for i in range(len(self.rows) - 1, -1, -1):",
        "for i in range(len(self.rows)):",
    ),
    "budgets are no whole blocks": ("tgi", "tgi", "        budget = self.whole(budget)\n", ""),
    "outputs are cached": (
        "tgi",
        "tgi",
        "prompt: cython.longlong = self.table.isl[request] //",
        "prompt: cython.longlong = (self.table.known[request] - 1) //",
    ),
    "the first slot comes first": (
        "llama_cpp",
        "llama.cpp",
        "self.last_used[slot] <= self.last_used[oldest]",
        "self.last_used[slot] < self.last_used[oldest]",
    ),
    "the deferred go to the end": (
        "llama_cpp",
        "llama.cpp",
        "self.tasks.appendleft(self.deferred.popleft())",
        "self.tasks.append(self.deferred.popleft())",
    ),
    "outputs in the order of the batch": ("llama_cpp", "llama.cpp", "                self.swap(batch, j)\n", ""),
    "the whole prompt may be cached": (
        "llama_cpp",
        "llama.cpp",
        "table.isl[request] - 1) if self.caching",
        "table.isl[request]) if self.caching",
    ),
    "any likeness will do": (
        "llama_cpp",
        "llama.cpp",
        "0 < self.similarity < np.float32",
        "-1 < 0 * self.similarity < np.float32",
    ),
    "prompts go first": ("llama_cpp", "llama.cpp", "left -= 1\n        decoding", "left -= 0\n        decoding"),
}

SCRIPT = """
import importlib.util, signal, sys, types
from dataclasses import replace
sys.path.insert(0, sys.argv[1])
module, engine, passage, instead = sys.argv[2:6]
import headway.simulator.loading
place = importlib.util.find_spec("headway.simulator").submodule_search_locations[0] + f"/{module}.py"
source = open(place, encoding="utf-8").read()
assert passage in source, "the passage is gone: adapt the mutant"
name = f"headway.simulator.{module}"
sys.modules[name] = mutant = types.ModuleType(name)
exec(compile(source.replace(passage, instead), name, "exec"), mutant.__dict__)
from engines.cases import STRATA, TWINS, make_case, seeds_of
from headway.simulator import record

def too_long(*_):
    raise TimeoutError("it does not end")

def alike(schedule):
    return replace(schedule, steps=tuple(replace(step, k=0) for step in schedule.steps))

signal.signal(signal.SIGALRM, too_long)
for stratum, kind in STRATA.items():
    for seed in seeds_of(stratum):
        case = make_case(engine, seed, **kind)
        signal.alarm(20)
        try:
            found = alike(record(*case)) != alike(TWINS[engine](*case).record())
        except Exception as error:
            found = repr(error)
        signal.alarm(0)
        if found:
            print(f"found: {stratum}, seed {seed}: {str(found)[:100]}")
            sys.exit(0)
print("survived")
"""


@pytest.mark.nightly
@pytest.mark.parametrize("fault", MUTANTS)
def test_fault_is_found(fault: str) -> None:
    command = [sys.executable, "-c", SCRIPT, str(ORACLE), *MUTANTS[fault]]
    interpreted = {**os.environ, "HEADWAY_INTERPRETED": "1"}
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=interpreted)
    assert run.stdout.startswith("found"), run.stdout
