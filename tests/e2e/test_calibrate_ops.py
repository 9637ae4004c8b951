"""`headway calibrate ops` on a real PyTorch, on this CPU: what it writes is what an estimate reads.

Needs a Python that has torch: this one (`pip install 'headway[torch]'`), or that of build/witness-vllm
(`make witness-vllm`); skipped where neither is at hand.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "tools" / "witness"))  # tools are no package

from environments import VLLM

import headway
from headway.api.pools import Choice
from headway.perf.curves import read_curves

SOURCE = Path(headway.__file__).parents[1]
MINE = """\
sources: {bench: {title: a machine of the tests, as_of: 2026-11-21}}
accelerators:
  test-cpu:
    like: xeon-8480
    source: bench
    hbm_bytes: 64 GiB
    hbm_bytes_per_s: 40 GB/s
    peak_flops_per_s: {bf16: 1 TFLOP/s}
"""


def python() -> str:
    """Return a Python with torch, empty where there is none."""
    if importlib.util.find_spec("torch"):
        return sys.executable
    return "" if VLLM.missing() else str(VLLM.python)


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not python(), reason="needs torch: pip install 'headway[torch]', or make witness-vllm"),
]


def calibrated(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    (folder / "mine.yaml").write_text(MINE)
    own = ("--device", "cpu", "--accelerator", "test-cpu", "--catalog", "mine.yaml")
    return subprocess.run(
        [python(), "-m", "headway", "calibrate", "ops", *own, *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=540,
    )


def test_two_processes_on_a_cpu_record_every_operator(tmp_path: Path) -> None:
    done = calibrated(tmp_path, "--out", "cpu.json", "--budget", "10 s", "--gpus", "2", "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "progress is for terminals"
    found = json.loads(done.stdout)
    assert found["schema"] == "calibrate-ops/1"
    assert found["device"]["kind"] == "cpu"
    assert not found["skipped"]
    assert 0 < found["copied_bytes_per_s"] < 1e12
    assert found["timings"] >= 5 * (found["shapes"] - 10), "each shape at least five times"
    curves = read_curves(tmp_path / "cpu.json")
    phases = {f"attention/test-cpu/{phase}/bf16" for phase in ("sequence", "decode", "token", "prefill")}
    assert curves.keys() == {"gemm/test-cpu/bf16", "collectives/test-cpu/all_reduce", *phases}
    assert {curve["name"] for curve in found["curves"]} == curves.keys()
    assert "headway calibrate ops on" in curves["gemm/test-cpu/bf16"].provenance.source
    assert not list(tmp_path.glob("*.part"))
    own = Choice(model="meta-llama/Llama-3.1-8B-Instruct", accelerator="test-cpu", curves=str(tmp_path / "cpu.json"))
    theirs = headway.estimate(None, own, decodes=1, context_tokens=100, files=[tmp_path / "mine.yaml"])
    weights_s = 16e9 / found["copied_bytes_per_s"]
    assert theirs.step.total_s > weights_s / 20, "no cache holds a model"
