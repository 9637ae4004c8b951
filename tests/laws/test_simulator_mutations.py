"""The equality law has teeth: each deliberate fault in the core is found by the cases of the default run.

A mutant is the core's source with one passage changed, run interpreted in a process of its own. It is found if a column
differs, if it fails, or if it does not end.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ORACLE = Path(__file__).parents[1] / "oracle"

#: what is wrong -> (passage, what stands there instead)
MUTANTS = {
    "arrivals at a boundary wait for the next": ("while self.end < until:", "while self.end <= until:"),
    "a jump is cut one iteration late": ("* (k * (k - 1) // 2) < wait:", "* (k * (k - 1) // 2) <= wait:"),
    "finishing one iteration late": (
        "self.it + outputs - self.emitted[slot])",
        "self.it + outputs - self.emitted[slot] + 1)",
    ),
    "the first of running is preempted": ("victim: cython.int = self.tail", "victim: cython.int = self.head"),
    "a victim goes on where it was": ("self.known[slot] = context + 1", "self.known[slot] = context"),
    "no full-prompt gate": ("if self.reserve else need", "if False else need"),
    "hits that leave the free line are not counted": ("whole + blocks.idle > blocks.free", "whole > blocks.free"),
    "admission after a preemption": (
        "        if not preempted:\n            while",
        "        if True:\n            while",
    ),
    "one block too many in a jump": ("self.blocks.alloc(self._takes(k - 1))", "self.blocks.alloc(self._takes(k))"),
    "blocks registered a step late": ("self._name_until(self.it)\n", "self._name_until(self.it - 1)\n"),
    "a second copy is registered like a first": ("if self.beside[slot] == 0 and self._find(key) >= 0:", "if False:"),
    "the tail of a split is forgotten by its holders": (
        "                    self._insert(cell, tail)\n",
        "                    pass\n",
    ),
    "released heads are evicted first": (
        "self._link(extent, 0)\n            after",
        "self._link(extent, self.newer[0])\n            after",
    ),
    "the whole prompt may be a hit": ("blocks.match(request, slot, (known - 1)", "blocks.match(request, slot, known"),
    "the knee comes one iteration early": (
        "(n * self.window - self.s) // n + 1)",
        "max(1, (n * self.window - self.s) // n))",
    ),
    "a jump ignores the knee": ("self.d += self.window_ps * n", "self.d += 0"),
    "gaps of resumed requests are lost": ("self.gaps.add(self.t - self.spoke[slot], 0, 1, 1)", "pass"),
    "ties of load go to the last": ("if self.load[i] < self.load[best]:", "if self.load[i] <= self.load[best]:"),
}
EQUIVALENT = {"the knee comes one iteration early"}  # it only splits a jump in two

SCRIPT = """
import sys, types
sys.path.insert(0, sys.argv[1])
import headway.simulator.run as run
source = open(run.__file__.replace("run.py", "core.py"), encoding="utf-8").read()
passage, instead = sys.argv[2:4]
assert passage in source, "the passage is gone: adapt the mutant"
mutant = types.ModuleType("mutant")
sys.modules["mutant"] = mutant
exec(compile(source.replace(passage, instead), "mutant", "exec"), mutant.__dict__)
run.core = mutant
from cases import STRATA, difference, make_case
for seed in range(40):
    for stratum, kind in STRATA.items():
        try:
            found = difference(*make_case(seed, **kind))[0]
        except Exception as error:
            found = repr(error)
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
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except subprocess.TimeoutExpired:
        return  # it does not end: found
    assert run.stdout.startswith("survived" if fault in EQUIVALENT else "found"), run.stdout
