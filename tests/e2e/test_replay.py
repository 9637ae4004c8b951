"""`headway replay` through the command line, against a real llama-server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faults
import numpy as np
import pytest
from llama import llama_server, needs_llama

from headway.cli import main
from headway.errors import InputError
from headway.probe import prompts
from headway.workload import read_trace

pytestmark = needs_llama

SCENARIO = """\
headway: 1
model: HuggingFaceTB/SmolLM2-135M-Instruct
workload:
  lengths: {isl: {p50: 20, p95: 60, p100: 90}, osl: {p50: 5, p95: 12, p100: 20}}
  arrivals: {process: poisson, rate: 4 req/s}
slo: {ttft: {p95: 60 s}, tpot: {p95: 5 s}}
allow: {accelerators: [l40s]}
"""
#: Of another machine: its figures are not those of the server here.
CALIBRATION = str(Path(__file__).parents[2] / "tests" / "data" / "calibrated" / "calibrations" / "llama-cpu.yaml")
SESSIONS = """\
arrive_s,isl_tokens,osl_tokens,session_id,prefix_block_tokens,prefix_ids
0.0,64,8,0,16,0 1 2 3 4
0.1,64,8,1,16,100 101 102 103 104
0.2,120,8,0,16,0 1 2 3 4 5 6
0.3,120,8,1,16,100 101 102 103 104 105 106
0.4,180,8,0,16,0 1 2 3 4 5 6 7 8 9 10
"""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with llama_server() as address:
        yield address


@pytest.fixture
def scenario(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    (tmp_path / "chat.yaml").write_text(SCENARIO)
    (tmp_path / "sessions.csv").write_text(SESSIONS)
    return "chat.yaml"


def document(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main(["replay", *words, "--json"]) == 0, capsys.readouterr().err
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_an_open_loop_is_scored_as_a_simulation_is(scenario: str, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, scenario, "--url", url, "--requests", "12", "--out", "out")
    assert found["schema"] == "replay/1"
    assert found["outcome"]["source"] == "measured"
    assert (found["outcome"]["arrived"], found["outcome"]["finished"]) == (12, 12)
    assert found["errors"] == []
    assert found["load"]["loop"] == "open"
    assert [one["column"] for one in found["fidelity"]["columns"]] == ["gap_s", "isl_tokens", "osl_tokens"]
    assert all(one["ks"] == 0 for one in found["fidelity"]["columns"][1:]), "lengths are exact"
    assert found["server"]["running_most"] >= 1
    assert found["endpoint"]["engine"] == "llama-cpp"
    assert len(found["series"]["time_s"]) == 400
    names = {path.name for path in Path("out").iterdir()}
    pictures = {f"{name}.{end}" for name in ("latency", "timeline", "over-time") for end in ("png", "svg")}
    assert names == {"replay.json", "report.html", "requests.parquet", "metrics.parquet"} | pictures
    trace = read_trace("out/requests.parquet")
    assert trace.measured is not None and trace.measured.ttft_s is not None and trace.measured.e2e_s is not None
    assert len(trace.requests) == 12
    assert (trace.measured.e2e_s >= trace.measured.ttft_s).all()
    assert np.sort(trace.measured.e2e_s)[5] == pytest.approx(found["outcome"]["latency"]["e2e"]["quantiles_s"]["0.5"])
    assert main(["workload", "describe", "out/requests.parquet"]) == 0


def test_the_page_says_who_was_the_limit(scenario: str, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", scenario, "--url", url, "--requests", "5", "--out", "out"]) == 0
    page = capsys.readouterr().out
    assert len(page.splitlines()) <= 60
    head = " ".join(page.split("\n\n")[0].split())
    assert "answered 5 of 5 requests" in head and head.endswith("measured.")
    client = json.loads(Path("out/replay.json").read_text())["client"]
    limit = "may have decided them, not the server" if client["limited"] else "; the client kept up"
    assert head.endswith(f"{limit}, measured."), "five requests tell nothing of the server"
    assert "meets the SLO" in head
    assert "Sent as asked for?" in page and "server, by its own metrics" in page


def test_a_closed_loop_keeps_its_clients_busy(scenario: str, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, scenario, "--url", url, "--concurrency", "3", "--duration", "4 s", "--no-scrape")
    assert found["client"]["most_in_flight"] == 3
    assert found["load"]["clients"] == 3
    assert 0 <= found["cut_off"] <= 3
    assert found["outcome"]["failed"] == 0 and found["outcome"]["finished"] >= 3
    assert found["server"] is None
    assert found["client"]["interrupted"] == "", "its time was up: nobody stopped it"
    assert not [text for text in found["warnings"] if "interrupted" in text]


def test_rising_rates_show_the_knee(scenario: str, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--url", url, "--steps", "1,20", "--step-duration", "5 s", "--out", "out")
    found = document(capsys, scenario, *words)
    assert [stage["offered"] for stage in found["stages"]] == [1.0, 20.0]
    assert found["stages"][1]["requests"] > found["stages"][0]["requests"] > 0
    assert found["stages"][0]["output_tokens_per_s"] > 0
    assert Path("out/stages.png").exists()
    knee, stages = found["knee"], found["stages"]
    assert knee["unit"] == "req/s"
    behind = [stage["offered"] for stage in stages if stage["keeps_up"] is False]
    assert (knee["at"] is not None) == bool(behind), "a knee is where a stage falls behind"
    surely = [stage["offered"] for stage in stages if stage["keeps_up"] and stage["sure"]]
    assert knee["low"] in (None, *surely)
    assert stages[0]["keeps_up"] is None, "five requests tell nothing"


def test_rising_numbers_of_clients(scenario: str, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, scenario, "--url", url, "--concurrency", "1,4", "--step-duration", "3 s")
    assert [stage["offered"] for stage in found["stages"]] == [1.0, 4.0]
    assert all(stage["requests"] > 0 and stage["failed"] == 0 for stage in found["stages"])
    assert found["knee"]["unit"] == "clients"
    assert found["client"]["interrupted"] == ""
    assert not [text for text in found["warnings"] if "interrupted" in text]


def test_steps_end_where_the_requests_do_and_keep_what_they_have(
    scenario: str, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("two.csv").write_text("arrive_s,isl_tokens,osl_tokens\n0,20,4\n0.1,20,4\n")
    words = ("--requests", "2", "--concurrency", "1,2,4", "--step-duration", "30 s", "--out", "out")
    found = document(capsys, "two.csv", "--url", url, *words)
    assert found["client"]["interrupted"] == "no requests are left for 2 clients"
    assert [stage["offered"] for stage in found["stages"]] == [1.0]
    assert found["outcome"]["finished"] == 2
    assert len(read_trace("out/requests.parquet").requests) == 2


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [(KeyboardInterrupt(), 130, "Ctrl-C"), (InputError("nobody answers"), 0, "no step of 2 clients: nobody answers")],
)
def test_what_ends_steps_between_two_of_them_keeps_the_first(
    error: BaseException,
    code: int,
    says: str,
    scenario: str,
    url: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, real = [], prompts.prompts

    def once(*args: Any, **named: Any) -> object:
        if made:
            raise error
        made.append(real(*args, **named))
        return made[0]

    monkeypatch.setattr(prompts, "prompts", once)
    words = ("--concurrency", "1,2", "--step-duration", "2 s", "--out", "out", "--json")
    assert main(["replay", scenario, "--url", url, *words]) == code
    found = json.loads(capsys.readouterr().out)
    assert says in found["client"]["interrupted"]
    assert len(found["stages"]) == 1 and found["outcome"]["finished"] > 0
    assert read_trace("out/requests.parquet").measured is not None


def test_budgets_are_of_all_steps_together(scenario: str, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--concurrency", "1,2,3,4,5,6", "--step-duration", "1 s", "--budget", "2500 ms", "--no-scrape")
    found = document(capsys, scenario, "--url", url, *words)
    assert found["client"]["interrupted"] == "the time budget of 2.5 s"
    assert 1 <= len(found["stages"]) <= 3


def test_sessions_find_their_prefixes(scenario: str, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, "sessions.csv", "--url", url, "--api", "completions", "--out", "out")
    assert found["outcome"]["finished"] == 5
    trace = read_trace("out/requests.parquet")
    assert trace.measured is not None and trace.measured.cached_tokens is not None
    by_isl = dict(zip(trace.requests.isl_tokens.tolist(), trace.measured.cached_tokens.tolist(), strict=True))
    assert by_isl[64] <= 1, "a first turn finds nothing"
    assert 64 <= by_isl[120] <= 119 and 110 <= by_isl[180] <= 179
    assert found["outcome"]["prefix_hit_frac"] > 0.4


@pytest.mark.parametrize("form", ["aiperf", "guidellm", "vllm-bench"])
def test_other_tools_formats_are_read_back(
    form: str, scenario: str, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    document(capsys, scenario, "--url", url, "--requests", "4", "--out", "out", "--format", form)
    file = {"aiperf": "profile_export.jsonl", "guidellm": "guidellm.json", "vllm-bench": "vllm-bench.json"}[form]
    own, other = read_trace("out/requests.parquet"), read_trace(f"out/{file}")
    assert other.format == form
    assert other.requests.osl_tokens.tolist() == own.requests.osl_tokens.tolist()


def test_prompts_shorter_than_the_template_are_left_out(
    scenario: str, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("short.csv").write_text("arrive_s,isl_tokens,osl_tokens\n0,15,4\n0.1,60,4\n0.2,70,4\n")
    found = document(capsys, "short.csv", "--url", url, "--api", "chat")
    assert found["treatments"][0]["rows"] == 1 and "fewer than" in found["treatments"][0]["text"]
    isl = found["fidelity"]["columns"][1]
    assert (isl["asked_mean"], isl["sent_mean"]) == (65.0, 65.0)
    assert found["fidelity"]["cached_frac"] < 1
    Path("short.csv").write_text("arrive_s,isl_tokens,osl_tokens\n0,5,4\n")
    assert main(["replay", "short.csv", "--url", url, "--api", "chat"]) == 4
    assert "--scale-isl" in capsys.readouterr().err


def test_a_load_is_predicted_before_it_is_sent(scenario: str, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--requests", "6", "--calibration", CALIBRATION, "--out", "out")
    said = document(capsys, scenario, "--url", url, *words)["predicted"]
    assert said["calibration"] == "llama-cpu"
    names = [one["figure"] for one in said["figures"]]
    assert names == ["ttft.p50", "ttft.p95", "tpot.p50", "tpot.p95", "e2e.p50", "e2e.p95", "output_tokens_per_s"]
    for one in said["figures"]:
        assert one["low"] <= one["predicted"] <= one["high"]
        assert one["held"] == (one["low"] <= one["measured"] <= one["high"])
        assert one["error_frac"] == pytest.approx(one["predicted"] / one["measured"] - 1)
    assert "max_num_seqs 4: calibrated on 8" in said["outside"]
    assert "Predicted before it was sent" in Path("out/report.html").read_text()


def test_lengths_are_scaled_and_said(scenario: str, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--requests", "3", "--scale-isl", "0.1", "--scale-osl", "0.5")
    found = document(capsys, scenario, "--url", url, *words)
    assert [one["text"] for one in found["treatments"]] == ["prompt scaled by 0.1", "output scaled by 0.5"]
    assert found["load"]["isl_mean_tokens"] < 10


def test_clients_that_hang_up_are_counted(scenario: str, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--requests", "4", "--cancel", "100 %", "--cancel-after", "10 ms", "--rate", "20 req/s")
    assert main(["replay", scenario, "--url", url, *words, "--json"]) == 4, "nobody was answered"
    found = json.loads(capsys.readouterr().out)
    assert found["errors"][0]["kind"] == "cancelled" and found["errors"][0]["requests"] == 4


def test_who_hangs_up_spoils_no_percentile(scenario: str, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("long.csv").write_text("arrive_s,isl_tokens,osl_tokens\n0,20,4\n1,20,4\n2,20,900\n2.1,20,900\n")
    with faults.proxy(url, {0: faults.passed, 1: faults.passed, 2: faults.hang(1), 3: faults.hang(0)}) as between:
        words = ("--cancel", "100 %", "--cancel-after", "6 s", "--out", "out")
        found = document(capsys, "long.csv", "--url", between.url, *words)
    o = found["outcome"]
    assert (o["arrived"], o["finished"], o["failed"], o["cancelled"], o["unfinished"]) == (4, 2, 0, 2, 0)
    assert {kind: o["latency"][kind]["samples"] for kind in ("ttft", "tpot", "e2e")} == {"ttft": 3, "tpot": 2, "e2e": 2}
    assert o["latency"]["e2e"]["max_s"] is not None, "finite"
    assert "cancelled by their clients" in Path("out/report.html").read_text()


def test_a_stream_that_is_gathered_on_the_way_shows_no_tpot(
    scenario: str, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with faults.proxy(url, dict.fromkeys(range(5), faults.at_once)) as between:
        assert main(["replay", scenario, "--url", between.url, "--requests", "5", "--out", "out"]) == 0
    page = " ".join(capsys.readouterr().out.split())
    assert "cannot tell tpot p95" in page and "meets the SLO" not in page
    assert "came all at once" in page and "to the p50 of ITL, 0 ms" not in page
    found = json.loads(Path("out/replay.json").read_text())
    assert not found["outcome"]["meets_slo"] and found["missed"] == {"tpot p95": None}
    assert found["outcome"]["latency"]["tpot"]["samples"] == 0 and found["outcome"]["latency"]["tpot"]["unknown"] > 0


def test_requests_that_hang_are_in_flight(scenario: str, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("few.csv").write_text("arrive_s,isl_tokens,osl_tokens\n0,20,4\n0.1,20,4\n0.2,20,4\n")
    with faults.proxy(url, dict.fromkeys(range(3), faults.hang(0))) as between:
        assert main(["replay", "few.csv", "--url", between.url, "--timeout", "3 s", "--json"]) == 4
    found = json.loads(capsys.readouterr().out)
    assert max(found["series"]["in_flight"]) == found["client"]["most_in_flight"] == 3


def test_ctrl_c_keeps_what_there_is(scenario: str, url: str) -> None:
    words = ["replay", scenario, "--url", url, "--requests", "400", "--out", "out"]
    process = subprocess.Popen(
        [sys.executable, "-m", "headway", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    time.sleep(8)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Stopped early" in out
    trace = read_trace("out/requests.parquet")
    assert trace.measured is not None and trace.measured.e2e_s is not None
    assert 0 < np.isfinite(trace.measured.e2e_s).sum() < 400
    assert json.loads(Path("out/replay.json").read_text())["client"]["interrupted"]


# --- what is refused before anything is sent -------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--steps", "1,2"], "step_s"),
        (["--steps", "2,1", "--step-duration", "1 s"], "rising"),
        (["--concurrency", "2,1", "--step-duration", "1 s"], "rising"),
        (["--concurrency", "2.5"], "--concurrency"),
        (["--concurrency", "inf"], "--concurrency"),
        (["--concurrency", "nan"], "--concurrency"),
        (["--concurrency", "-1", "--duration", "4 s"], "concurrency"),
        (["--steps", "1,nan", "--step-duration", "1 s"], "--steps"),
        (["--turnaround", "1 s"], "--concurrency"),
        (["--calibration", "no-such-one"], "no-such-one"),
        (["--calibration", CALIBRATION, "--steps", "1,2", "--step-duration", "1 s"], "stages"),
        (["--calibration", CALIBRATION, "--concurrency", "2", "--duration", "1 s"], "--requests"),
        (["--calibration", CALIBRATION, "--engine", "vllm"], "llama.cpp"),
        (["--rate", "2 req/s", "--scale", "2"], "one pace"),
        (["--requests", "0"], "requests"),
        (["--format", "aiperf"], "--out"),
        (["--model", "gpt"], "gpt"),
        (["--key-env", "NO_SUCH_VARIABLE"], "NO_SUCH_VARIABLE"),
        (["--scale-isl", "0"], "isl_frac"),
        (["--set", "max_num_seks=3"], "max_num_seks"),
        (["--ramp", "3", "--step-duration", "1 s"], "--ramp"),
    ],
)
def test_what_makes_no_sense_is_one_line(
    words: list[str], says: str, scenario: str, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["replay", scenario, "--url", url, *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert says in error


def test_a_folder_with_other_files_is_refused_before_anything_is_sent(
    scenario: str, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("years of work")
    begun_s = time.monotonic()
    assert main(["replay", scenario, "--url", url, "--requests", "400", "--out", "mine"]) == 2
    assert time.monotonic() - begun_s < 5
    assert "thesis.txt" in capsys.readouterr().err


def test_prompts_longer_than_the_server_takes_are_left_out(
    scenario: str, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("long.csv").write_text("arrive_s,isl_tokens,osl_tokens\n0,50,4\n0.1,5000,4\n0.2,60,4\n")
    found = document(capsys, "long.csv", "--url", url)
    assert found["outcome"]["finished"] == 2
    assert "1,024 tokens" in found["treatments"][0]["text"]
    Path("long.csv").write_text("arrive_s,isl_tokens,osl_tokens\n0,5000,4\n")
    assert main(["replay", "long.csv", "--url", url]) == 4
    assert "--scale-isl" in capsys.readouterr().err
