"""A real llama-server and the simulator decide the same: slots, batches, cached tokens, ends.

Needs build/witness-llama (`make witness-llama`: 200 MB, some seconds); skipped where it is absent.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "tools" / "witness"))  # tools are no package

from environments import LLAMA
from llama_scenarios import SCENARIOS
from logical import judged
from witness_llama import witnessed

from headway.simulator.schedules import read_schedule

if TYPE_CHECKING:
    from llama_scenarios import Scenario

pytestmark = pytest.mark.skipif(bool(LLAMA.missing()), reason=LLAMA.missing())


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_the_server_and_the_simulator_decide_the_same(scenario: Scenario, tmp_path: Path) -> None:
    path, contradictions = witnessed(scenario, tmp_path)
    assert contradictions == []
    problem, shown = judged(read_schedule(path))
    assert not problem, shown
