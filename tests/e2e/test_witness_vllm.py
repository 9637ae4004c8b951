"""A real vLLM on this CPU and the simulator decide the same, at every call of the scheduler.

Needs build/witness-vllm (`make witness-vllm`: 3.4 GB, some minutes); skipped where it is absent.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "tools" / "witness"))  # tools are no package

from environments import VLLM
from vllm_scenarios import SCENARIOS
from witness_vllm import MODES, verdict, witnessed

if TYPE_CHECKING:
    from vllm_scenarios import Scenario

pytestmark = [pytest.mark.nightly, pytest.mark.skipif(bool(VLLM.missing()), reason=VLLM.missing())]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_the_engine_and_the_simulator_decide_the_same(scenario: Scenario, mode: str, tmp_path: Path) -> None:
    found = verdict(*witnessed(scenario, mode, tmp_path))
    assert not found.problem, found.shown
