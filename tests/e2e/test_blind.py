"""The blind test on a real llama-server, short: its machinery, not its accuracy.

Needs build/witness-llama (`make witness-llama`); skipped where it is absent.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from llama import needs_llama

from headway.workload import read_trace

TOOL = Path(__file__).parents[2] / "tools" / "blind" / "blind.py"
SHORT = ("--budget", "30", "--seconds", "4", "--points", "few clients", "shared prefix", "over by half")

pytestmark = [needs_llama, pytest.mark.slow, pytest.mark.nightly]


def test_predictions_stand_before_the_requests_and_beside_what_came_of_them(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(TOOL), "llama", "--out", str(tmp_path), *SHORT],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode in (0, 1), done.stderr
    digest = hashlib.sha256((tmp_path / "predictions.json").read_bytes()).hexdigest()
    lines = done.stdout.splitlines()
    told = next(k for k, line in enumerate(lines) if digest in line)
    assert not any("requests in" in line for line in lines[:told])
    found = json.loads((tmp_path / "blind.json").read_text())
    assert found["exit_code"] == done.returncode
    assert found["of"] == 7 + 7 + 2
    assert lines[-1].startswith(f"{found['within_target']} of {found['of']} within target")
    assert all(figure["measured"] > 0 for figure in found["figures"] if figure["name"] != "queue_growth_per_s")
    for name in ("few-clients", "shared-prefix", "over-by-half"):
        asked = read_trace(tmp_path / name / "asked.parquet")
        for number in (1, 2):
            sent = read_trace(tmp_path / name / f"requests-{number}.parquet")
            assert sent.measured is not None
            assert sorted(asked.requests.isl_tokens.tolist()) == sorted(sent.requests.isl_tokens.tolist())
    assert (tmp_path / "calibration.yaml").is_file()
    assert (tmp_path / "blind.png").is_file()
