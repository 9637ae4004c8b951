"""A real llama-server is calibrated, its kept runs are fitted again, and a simulation takes what came of it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from llama import llama_server, needs_llama

from headway.calibration.predicting import FIGURES
from headway.cli import main
from headway.perf import read_calibration
from headway.perf.endpoint import EndpointCalibration

pytestmark = needs_llama

SCENARIO = """\
headway: 1
model: {model}
workload:
  lengths: {{isl: {{p50: 8, p95: 20, p100: 40}}, osl: {{p50: 4, p95: 8, p100: 10}}}}
  arrivals: {{process: poisson, rate: 2 req/s}}
slo: {{ttft: {{p95: 60 s}}, tpot: {{p95: 5 s}}}}
allow: {{accelerators: [one-thread]}}
"""


def document(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main([*words, "--json"]) == 0, capsys.readouterr().err
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def sd(made: EndpointCalibration) -> float:
    """How well the step of one sequence is known, the drift between runs included; of its logarithm."""
    k = made.uncertainty.terms.index("decode_s.1")
    return math.hypot(math.sqrt(made.uncertainty.covariance[k][k]), made.uncertainty.drift_log_sd)


def test_measured_kept_fitted_and_simulated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    short = ("--budget", "30 s", "--scale-isl", "0.1", "--scale-osl", "0.15")
    about = ("--name", "box", "--hardware", "one-thread", "--weights", "int4", "--keep", "runs", "--out", "mine.yaml")
    with llama_server() as url:
        measured = document(capsys, "calibrate", "endpoint", url, *short, *about)
    assert measured["endpoint"]["engine"] == "llama-cpp"
    assert not any("interrupted" in text or "Left out" in text for text in measured["warnings"])
    made = read_calibration("mine.yaml")
    assert (made.name, made.hardware, made.weight_dtype, made.settings.max_num_seqs) == ("box", "one-thread", "int4", 4)
    kept = sorted(map(str, Path("runs").iterdir()))
    assert len(kept) == len(made.runs) >= 3
    assert set(made.bands_frac) == set(made.uncertainty.misfit_log_sd) == set(FIGURES)

    assert main(["calibrate", "fit", *kept, "--like", "mine.yaml", "--out", "again.yaml"]) == 0
    assert "one-thread, fitted to" in " ".join(capsys.readouterr().out.split())
    again = read_calibration("again.yaml")
    assert again.settings == made.settings
    assert again.num_gpu_blocks == made.num_gpu_blocks
    apart = abs(math.log(again.terms.decode_s[1] / made.terms.decode_s[1]))  # a file does not say how many clients
    assert apart < 3 * math.hypot(sd(made), sd(again))

    Path("chat.yaml").write_text(SCENARIO.format(model=made.model))
    simulated = document(capsys, "simulate", "chat.yaml", "--calibration", "again.yaml", "--requests", "50")
    assert simulated["outcome"]["finished"] == 50
    assert made.terms.decode_s[1] * 0.2 < simulated["outcome"]["latency"]["tpot"]["mean_s"] < 5.0
