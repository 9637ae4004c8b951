"""The commands as a user runs them, on a small scenario."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from headway.cli import main
from headway.metrics import outcome
from headway.types import Slo
from headway.workload import read_trace, served_of

Captured = pytest.CaptureFixture[str]

SCENARIO = """\
headway: 1
model: meta-llama/Llama-3.1-8B-Instruct
workload: {profile: azure-conv, rate: 8 req/s}
slo: {ttft: {p95: 800 ms}, tpot: {p95: 60 ms}}
allow: {accelerators: [h100-sxm, l40s], tp: [1, 2], max_num_seqs: [128], max_num_batched_tokens: [2048, 8192]}
"""


@pytest.fixture
def scenario(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    (tmp_path / "chat.yaml").write_text(SCENARIO)
    return "chat.yaml"


def run(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "headway", *words], capture_output=True, text=True, check=False, env=os.environ | env
    )


def shown(capsys: Captured, *words: str) -> str:
    assert main(words) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "--json" in words or not re.search(r"\b(nan|inf|None)\b", out)
    return out


def document(capsys: Captured, *words: str) -> dict[str, object]:
    made: dict[str, object] = json.loads(shown(capsys, *words, "--json"))
    assert list(made)[:2] == ["headway", "schema"]
    assert isinstance(made["not_finite"], dict)
    return made


def test_plan_fits_one_screen_and_its_commands_run(scenario: str, capsys: Captured) -> None:
    out = shown(capsys, "plan", scenario)
    lines = out.splitlines()
    assert len(lines) <= 60
    commands = [line for line in lines if line.startswith("headway ")]
    assert [line.split()[1] for line in commands] == ["simulate", "estimate", "price"]
    assert max(len(line) for line in lines if line not in commands) <= 105
    for command in commands:
        words = command.split()[1:]
        assert shown(capsys, *words, *(["--requests", "500"] if words[0] == "simulate" else []))


def test_plan_writes_a_whole_folder(scenario: str, capsys: Captured) -> None:
    made = document(capsys, "plan", scenario, "--out", "out")
    files = {
        "plan.json",
        "report.html",
        *(f"{n}.{f}" for n in ("latency", "timeline", "pareto") for f in ("png", "svg")),
    }
    assert {path.name for path in Path("out").iterdir()} == files
    assert json.loads(Path("out/plan.json").read_text()) == made
    first = {path.name: path.read_bytes() for path in Path("out").iterdir()}
    assert main(["plan", scenario, "--out", "out"]) == 0
    assert {path.name: path.read_bytes() for path in Path("out").iterdir()} == first, "the same inputs, the same bytes"


def test_the_pictures_are_of_what_was_judged(scenario: str) -> None:
    import headway
    from headway.api.plans import chosen_run
    from headway.api.simulations import read

    known = read(scenario)
    plan = headway.plan(known)
    assert plan.chosen.outcome is not None
    again = chosen_run(plan, known).outcome.latency
    assert all(again[metric] == latency for metric, latency in plan.chosen.outcome.latency.items())


def test_simulate(scenario: str, capsys: Captured) -> None:
    words = ("simulate", scenario, "--accelerator", "h100", "--requests", "2000")
    out = shown(capsys, *words, "--series")
    assert "meets the SLO" in out and "simulated" in out
    assert re.search(r"TTFT p95 +[\d.]+ ms \(\d+–\d+\) +800 ms  met", out)
    assert out.count("%") > 400, "the series has a row per window"
    one, two = document(capsys, *words), document(capsys, *words)
    assert one == two, "one seed, one answer"
    assert one["outcome"]["source"] == "simulated"  # type: ignore[index]
    assert len(one["series"]["time_s"]) == 400  # type: ignore[index]
    assert "latencies_s" not in one


def test_simulate_says_what_is_missed(scenario: str, capsys: Captured) -> None:
    out = shown(capsys, "simulate", scenario, "--accelerator", "l40s", "--rate-factor", "40", "--requests", "2000")
    assert "misses ttft p95" in out
    assert re.search(r"TTFT p95 .* missed  by [\d.]+ %", out)


def test_simulate_writes_pictures(scenario: str, capsys: Captured) -> None:
    shown(capsys, "simulate", scenario, "--accelerator", "h100", "--requests", "500", "--out", "sim")
    assert {p.name for p in Path("sim").iterdir()} == {
        "simulate.json",
        "requests.parquet",
        "latency.png",
        "latency.svg",
        "timeline.png",
        "timeline.svg",
    }


def test_simulate_counts_who_hung_up_by_themselves(scenario: str, capsys: Captured) -> None:
    rows = [f"{k / 10:.1f},200,50,{'' if k % 5 else f'{k / 10 + 0.05:.2f}'}\n" for k in range(50)]
    Path("gone.csv").write_text("".join(["arrive_s,isl_tokens,osl_tokens,abort_s\n", *rows]))
    out = shown(capsys, "simulate", scenario, "--accelerator", "h100", "--trace", "gone.csv", "--out", "sim")
    assert "40 finished, 0 failed, 10 cancelled by their clients, 0 unfinished" in " ".join(out.split())
    assert "never" not in out
    trace = read_trace("sim/requests.parquet", order="refuse")
    assert trace.measured is not None
    became = served_of(trace.requests, trace.measured, trace.names["error"])
    again = outcome(trace.requests, became, Slo(objectives=()), "simulated")
    assert (again.finished, again.failed, again.cancelled) == (40, 0, 10)


def test_what_simulate_writes_scores_as_it_said(scenario: str, capsys: Captured) -> None:
    words = ("simulate", scenario, "--accelerator", "l40s", "--rate-factor", "20", "--requests", "1500", "--out", "sim")
    made = document(capsys, *words)["outcome"]
    trace = read_trace("sim/requests.parquet", order="refuse")
    assert trace.measured is not None
    again = outcome(trace.requests, served_of(trace.requests, trace.measured), Slo(objectives=()), "simulated")
    assert (again.arrived, again.finished, again.failed) == (made["arrived"], made["finished"], made["failed"])  # type: ignore[index]
    assert again.output_tokens_per_s == pytest.approx(made["output_tokens_per_s"])  # type: ignore[index]
    for metric in ("ttft", "tpot", "e2e"):
        said = made["latency"][metric]["quantiles_s"]  # type: ignore[index]
        assert again.latency[metric].at(0.95) == pytest.approx(said["0.95"], rel=1e-9)  # type: ignore[index]
    shown(capsys, "workload", "describe", "sim/requests.parquet")


def test_a_trace_replaces_the_scenarios_traffic(scenario: str, capsys: Captured) -> None:
    shown(
        capsys, "workload", "synthesize", "profile:azure-code", "--requests", "700", "--rate", "3 req/s", "-o", "t.csv"
    )
    made = document(capsys, "simulate", scenario, "--accelerator", "h100", "--trace", "t.csv")
    assert (made["requests"], made["workload"]) == (700, "t.csv")
    assert made["rate_per_s"] == pytest.approx(3.0, rel=0.25)


def test_estimate(scenario: str, capsys: Captured) -> None:
    out = shown(capsys, "estimate", scenario, "--accelerator", "h100", "--batch", "16", "--prefill", "512@1024")
    assert "estimated" in out.splitlines()[0] + out.splitlines()[1]
    assert "prefill attention" in out and "KV cache" in out and "Calibrated with" in out
    made = document(capsys, "estimate", scenario, "--accelerator", "h100", "--batch", "16")
    step = made["step"]
    parts = (step["exposed_s"], step["correction_s"])  # type: ignore[index]
    total_s = sum(op["time_s"] for op in step["operators"]) + sum(parts)  # type: ignore[index]
    assert total_s == pytest.approx(step["total_s"])  # type: ignore[index]
    assert 0 < made["achieved_bytes_frac"] < 1  # type: ignore[operator]


def test_price(capsys: Captured) -> None:
    made = document(capsys, "price", "h100", "--gpus", "8", "--tokens-per-s", "1000")
    first = made["offers"][0]  # type: ignore[index]
    assert first["usd_per_hour"] == pytest.approx(8 * first["price"]["usd_per_gpu_hour"])
    assert first["usd_per_m_tokens"] == pytest.approx(first["usd_per_hour"] / 3600 / 1000 * 1e6)
    assert "Spot, $/GPU-hour" in shown(capsys, "price", "h100")


def test_catalog(capsys: Captured) -> None:
    out = shown(capsys, "catalog", "list", "accelerators", "--where", "vendor=AMD", "--where", "hbm_bytes>=150 GB")
    assert "mi300x" in out and "h100-sxm" not in out
    for kind in ("models", "engines", "links", "prices", "profiles"):
        assert len(shown(capsys, "catalog", "list", kind).splitlines()) > 3
    sheet = shown(capsys, "catalog", "show", "H100")
    assert "hbm_bytes_per_s" in sheet and "3350 GB/s" in sheet and "datasheet" in sheet
    assert document(capsys, "catalog", "show", "azure-conv")["kind"] == "profiles"


def test_workload(capsys: Captured, scenario: str) -> None:
    out = shown(capsys, "workload", "describe", "profile:azure-conv", "--requests", "2000", "--out", "w")
    assert "synthesised" in out and "burstiness" in out
    assert {p.name for p in Path("w").iterdir()} == {"workload.json", "workload.png", "workload.svg"}
    for file in ("a.csv", "b.csv"):
        shown(capsys, "workload", "synthesize", scenario, "--duration", "1 min", "--seed", "3", "-o", file)
    assert Path("a.csv").read_bytes() == Path("b.csv").read_bytes()


def test_a_new_scenario_is_valid_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("scenario", "new", "--model", "qwen3-32b", "--accelerator", "h100", "--rate", "3 req/s")
    assert main([*words, "-o", "new.yaml"]) == 0
    assert capsys.readouterr().out == "", "stdout carries only a result"
    out = shown(capsys, "scenario", "check", "new.yaml")
    assert "Qwen/Qwen3-32B" in out and "3 req/s" in out and "by default" in out
    assert shown(capsys, *words) == Path("new.yaml").read_text()
    assert document(capsys, *words)["text"] == Path("new.yaml").read_text()
    assert main([*words, "-o", "new.yaml"]) == 2, "nothing is overwritten"


# --- through a real process ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["scenario", "check", "chat.yaml"], 0),
        (["plan", "nowhere.yaml"], 2),
        (["plan", "--nonsense"], 2),
        (["plan", "impossible.yaml"], 3),
        (["estimate", "chat.yaml", "--accelerator", "h100", "--model", "meta-llama/Llama-3.1-405B"], 3),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_exit_codes(scenario: str, words: list[str], code: int) -> None:
    Path("impossible.yaml").write_text(SCENARIO.replace("60 ms", "1 ms"))
    done = run(*words)
    assert done.returncode == code, done.stderr
    assert done.stderr.count("\n") == (1 if code else 0)
    assert done.stderr.startswith("error: " if code else "")
    assert "Traceback" not in done.stderr
    assert bool(done.stdout) == (code == 0)


def test_without_matplotlib_the_text_still_comes_and_out_says_what_is_missing(scenario: str, tmp_path: Path) -> None:
    (tmp_path / "matplotlib.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'matplotlib'\", name='matplotlib')"
    )
    env = {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    words = ("simulate", scenario, "--accelerator", "h100", "--requests", "200")
    assert run(*words, **env).returncode == 0
    done = run(*words, "--out", "out", **env)
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr == "error: pictures need matplotlib: pip install 'headway[pictures]'\n"
    assert not Path("out").exists()


def test_a_reader_that_leaves_is_no_error() -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    words = [sys.executable, "-m", "headway", "catalog", "list", "links"]
    done = subprocess.run(words, stdout=theirs, stderr=subprocess.PIPE, check=False)
    os.close(theirs)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_full_disk_is_one_line() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "headway", "catalog", "list", "links"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == "error: cannot write the result: No space left on device\n"


def test_interrupted_out_leaves_nothing(scenario: str) -> None:
    """Interrupt while pictures are drawn: the folder is not there, nor anything half-written beside it."""
    code = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background job ignores it
        "from headway.cli import main\n"
        "from headway.pictures import files\n"
        "def slow(figures):\n"
        "    print('drawing', file=sys.stderr, flush=True)\n"
        "    time.sleep(60)\n"
        "files.picture_files = slow\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    words = ["workload", "describe", "profile:azure-conv", "--requests", "100", "--out", "out"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    assert process.stderr.readline() == "drawing\n"
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert (out, err.strip()) == ("", "error: interrupted")
    assert [path.name for path in Path().iterdir()] == ["chat.yaml"]
