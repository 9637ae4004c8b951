"""The equality law has teeth: each deliberate fault in the core is found by the cases of the default run.

A mutant is the source of the core or the fleet with one passage changed, run interpreted in a process of its own. It is
found if a column differs, if it fails, or if it does not end.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ORACLE = Path(__file__).parents[1] / "oracle"

#: what is wrong -> (passage, what stands there instead)
MUTANTS = {
    # jumps and time
    "arrivals at a boundary wait for the next": ("while self.end < until:", "while self.end <= until:"),
    "a jump is cut one iteration late": ("* (k * (k - 1) // 2) < wait:", "* (k * (k - 1) // 2) <= wait:"),
    "finishing one iteration late": (
        "self.finishing.push(slot, self.it + left)",
        "self.finishing.push(slot, self.it + left + 1)",
    ),
    "one block too many in a jump": ("self.blocks.alloc(self._takes(k - 1))", "self.blocks.alloc(self._takes(k))"),
    "the knee comes one iteration early": (
        "(n * self.window - self.s) // n + 1)",
        "max(1, (n * self.window - self.s) // n))",
    ),
    "a jump ignores the knee": ("self.d += self.window_ps * n", "self.d += 0"),
    "gaps of resumed requests are lost": ("self.gaps.add(self.t - self.spoke[slot], 1, 1)", "pass"),
    "gaps go on where they do not": ("self.a[i] + self.k[i] * d != a", "False"),
    # admission and preemption
    "the first of running is preempted": ("self._preempt(self.tail, False)", "self._preempt(self.head, False)"),
    "a victim goes on where it was": ("self.known[slot] = context + 1", "self.known[slot] = context"),
    "no full-prompt gate": ("if self.reserve else need", "if False else need"),
    "hits that leave the free line are not counted": ("whole + blocks.idle > blocks.free", "whole > blocks.free"),
    "admission after a preemption": (
        "        if not preempted:\n            while",
        "        if True:\n            while",
    ),
    "the watermark is kept free on an idle replica, too": (
        "if self.running > 0:\n            whole",
        "if True:\n            whole",
    ),
    "the watermark is a share of the usable blocks": ("* (replica.num_gpu_blocks + 1))", "* replica.num_gpu_blocks)"),
    "max_num_scheduled_tokens is ignored": ("min(settings.max_num_scheduled_tokens or most, most)", "most"),
    # prefix cache
    "blocks registered a step late": ("self._name_until(self.it)\n", "self._name_until(self.it - 1)\n"),
    "a second copy is registered like a first": ("if self.beside[slot] == 0 and self._find(key) >= 0:", "if False:"),
    "the tail of a split is forgotten by its holders": (
        "            self.cell_extent[cell] = tail\n",
        "            pass\n",
    ),
    "released heads are evicted first": (
        "self._link(extent, 0)\n            after",
        "self._link(extent, self.newer[0])\n            after",
    ),
    "the whole prompt may be a hit": ("blocks.match(request, slot, (known - 1)", "blocks.match(request, slot, known"),
    "what grows unseen is not made up for": (
        "            if self._grows(extent):\n                self._catch_up(self.grower[extent])\n            reach",
        "            reach",
    ),
    "what grew unseen is lost at the end": ("            self.settle(slot, full)\n", "            pass\n"),
    "a cached key is grown into": (
        "if self._continues(extent, key) and self._find(key) < 0:",
        "if self._continues(extent, key):",
    ),
    # asynchronous scheduling
    "an arrival is seen a batch too soon": ("self._cut(1 + least_steps(", "self._cut(least_steps("),
    "an arrival before the pending leg ends two batches of it": (
        "                self._cut(1)\n",
        "                self._cut(2)\n",
    ),
    "seats are free before the last token is out": ("if preempted or self.leaving > 0:", "if preempted:"),
    "a stop token is foreseen": ("if self.ahead and self._stops(slot):", "if False:"),
    "a wasted slot has a gap": ("self._note_gaps(k, self.n - self.wasted)", "self._note_gaps(k, self.n)"),
    "output blocks are registered before their last token is known": (
        "settings.async_scheduling, -1\n",
        "False, -1\n",
    ),
    "a victim keeps the key of the block that runs": (
        "registered = max(registered - 1, self.known[slot])",
        "pass",
    ),
    "the last token of a victim is lost": ("self.spoke[slot] = self.t\n", "self.spoke[slot] = self.called\n"),
    "a victim whose last token runs is computed again": (
        "if self.stage[slot] != _STAYS:\n            self.stage",
        "if False:\n            self.stage",
    ),
    "what ends after the cut is written down": ("if self.t > self.columns.until:", "if False:"),
    # priority
    "the least urgent that came first is preempted": (
        "self.columns.arrive[mine] > self.columns.arrive[other]",
        "self.columns.arrive[mine] < self.columns.arrive[other]",
    ),
    "a victim's token is not given back": ("self.budget += decodes - self.n", "pass"),
    "a victim scheduled in this call has not been": (
        "self._preempt(victim, self.order[victim] < self.order[slot])",
        "self._preempt(victim, False)",
    ),
    "an urgent arrival waits for the head of the line": (
        "return self.ranked.heap[0] == entry",
        "return self.waiting == 1",
    ),
    "preempted requests go on first": ("self.ranked.add(self._place(request))", "self.ranked.add(request)"),
    # fleet
    "ties of load go to the last": (
        "other < number + (node & 1)",
        "other <= number - (node & 1)",
    ),
}
EQUIVALENT = {"the knee comes one iteration early"}  # it only splits a jump in two

SCRIPT = """
import importlib.util, signal, sys, types
sys.path.insert(0, sys.argv[1])
passage, instead = sys.argv[2:4]
for module in ("core", "fleet"):
    place = importlib.util.find_spec("headway.simulator").submodule_search_locations[0] + f"/{module}.py"
    source = open(place, encoding="utf-8").read()
    if passage in source:
        break
else:
    raise AssertionError("the passage is gone: adapt the mutant")
name = f"headway.simulator.{module}"
sys.modules[name] = mutant = types.ModuleType(name)
exec(compile(source.replace(passage, instead), name, "exec"), mutant.__dict__)
from cases import STRATA, difference, make_case

def too_long(*_):
    raise TimeoutError("it does not end")

signal.signal(signal.SIGALRM, too_long)
for seed in range(40):
    for stratum, kind in STRATA.items():
        case = make_case(seed, **kind)
        signal.alarm(20)
        try:
            found = difference(*case)[0]
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
    passage, instead = MUTANTS[fault]
    command = [sys.executable, "-c", SCRIPT, str(ORACLE), passage, instead]
    interpreted = {**os.environ, "HEADWAY_INTERPRETED": "1"}
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=interpreted)
    assert run.stdout.startswith("survived" if fault in EQUIVALENT else "found"), run.stdout
