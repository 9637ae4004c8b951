"""Runs without requests: what is refused, and in which words; what is taken from the files of real tools."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headway.calibration.evidence import read_runs
from headway.calibration.from_metrics import runs_of_scrape
from headway.calibration.from_summary import run_of_summary
from headway.errors import EvidenceError, InputError
from headway.probe.nouns import Scrape
from headway.probe.scrape_files import write_scrape
from headway.types import Latency
from headway.workload.summaries import read_summary
from headway.workload.summary import Summary

SAMPLES = Path(__file__).parents[2].parent / "shared" / "samples"
LONGEST = 4096
LATENCY = {
    "ttft": Latency(samples=40, mean_s=0.2, max_s=1.0, quantiles_s={0.5: 0.15, 0.99: 0.9}),
    "e2e": Latency(samples=40, mean_s=1.0, max_s=2.0, quantiles_s={0.5: 0.9, 0.99: 1.9}),
}
SUMMARY = Summary(
    tool="vllm-bench",
    file="bench.json",
    requests=40,
    failed=0,
    concurrency=4,
    rate_per_s=math.inf,
    isl_tokens=100.0,
    osl_tokens=20.0,
    duration_s=10.0,
    requests_per_s=4.0,
    output_tokens_per_s=80.0,
    latency=LATENCY,  # type: ignore[arg-type]
    notes=(),
)

# --- summaries -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"requests": 4}, EvidenceError, "4 answered requests; at least 5"),
        ({"failed": 5}, EvidenceError, "5 of 40 requests failed.*every request would do"),
        ({"latency": {}}, InputError, "bench.json: no latencies in it: mean or median of TTFT, TPOT or E2E"),
        ({"isl_tokens": math.nan}, InputError, "the mean input length is not in it"),
        ({"osl_tokens": math.nan}, InputError, "the mean output length is not in it"),
        ({"concurrency": None, "rate_per_s": None}, InputError, "neither a concurrency nor a rate.*its JSON has"),
        ({"concurrency": 5, "rate_per_s": 4.0}, InputError, "a cap of 5 in flight held back now and then"),
    ],
)
def test_a_summary_that_says_too_little_is_refused(change: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        run_of_summary(replace(SUMMARY, **change), LONGEST)


@pytest.mark.parametrize(
    ("change", "clients", "spread_s"),
    [
        ({}, 4, 0.0),
        ({"concurrency": 4, "rate_per_s": 8.0}, 4, 0.0),  # 4/s · 1 s in flight: the cap ruled
        ({"concurrency": 64, "rate_per_s": 4.0}, None, 10.0),  # nobody met it
        ({"concurrency": None, "rate_per_s": 2.0, "evenly": True}, None, 19.5),
        ({"concurrency": None}, None, 0.0),  # all at once
    ],
)
def test_a_load_is_what_the_summary_says(change: dict[str, Any], clients: int | None, spread_s: float) -> None:
    run = run_of_summary(replace(SUMMARY, **change), LONGEST)
    assert run.concurrency == clients
    assert run.stated is not None
    assert np.mean([one.arrive_s[-1] for one in run.stated.draws]) == pytest.approx(spread_s, rel=0.2)
    assert [(one.metric, one.frac) for one in run.stated.figures] == [
        ("ttft", None), ("ttft", 0.5), ("e2e", None), ("e2e", 0.5)
    ]  # fmt: skip
    assert any("prompt lengths are drawn" in note for note in run.stated.notes)
    poisson = spread_s > 0 and not change.get("evenly")
    assert ("requests came as a Poisson process" in run.stated.notes) == poisson


def test_a_typical_request_is_made_of_what_is_told() -> None:
    run = run_of_summary(SUMMARY, LONGEST)
    assert run.ttft_s[0] == 0.15
    assert run.tpot_s[0] == pytest.approx((0.9 - 0.15) / 20, rel=0.1)
    only = run_of_summary(replace(SUMMARY, latency={"e2e": LATENCY["e2e"]}), LONGEST)
    assert 0 < only.ttft_s[0] < 0.9
    assert run.sent == 40


# --- real files ------------------------------------------------------------------------------------------


def sample(name: str) -> Path:
    if not (SAMPLES / name).exists():
        pytest.skip(f"needs ../shared/samples/{name}")
    return SAMPLES / name


def test_a_file_with_requests_is_read_as_such() -> None:
    for name in ("vllm_bench.json", "guidellm/bench.json", "aiperf/profile_export.jsonl"):
        (run,) = read_runs(sample(name), LONGEST)
        assert run.evidence == "requests"
        assert run.sent == 30


def test_failures_in_another_tools_file_are_told(tmp_path: Path) -> None:
    said = json.loads(sample("vllm_bench.json").read_text(encoding="utf-8"))
    said["errors"] = [f"Traceback (most recent):\n{'x' * 500}" if row < 3 else "" for row in range(30)]
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(said))
    (run,) = read_runs(path, LONGEST)
    assert [(len(why), count) for why, count in run.faults.items()] == [(60, 3)]
    assert (len(run), run.failed) == (30, 3)
    path.write_text(json.dumps(said | {"errors": ["boom"] * 4 + [""] * 26}))
    with pytest.raises(EvidenceError, match=r"bench: 4 of 30 requests failed \(4 × boom\)"):
        read_runs(path, LONGEST)


def test_a_summary_of_vllm_bench_is_read_as_such(tmp_path: Path) -> None:
    said = json.loads(sample("vllm_bench.json").read_text(encoding="utf-8"))
    path = tmp_path / "bench.json"
    path.write_text(json.dumps({key: value for key, value in said.items() if not isinstance(value, list)}))
    (run,) = read_runs(path, LONGEST)
    assert (run.evidence, run.sent, run.concurrency) == ("summary", 30, None)
    assert run.sha256
    assert np.all(run.requests.arrive_s == 0)  # an infinite rate: all at once
    assert run.stated is not None
    assert len(run.stated.draws[0]) == 30
    assert run.requests.isl_tokens.mean() == pytest.approx(13976 / 30, abs=1)


@pytest.mark.parametrize("name", ["aiperf/profile_export_aiperf.csv", "aiperf/profile_export_aiperf.json"])
def test_aiperfs_summary_of_a_schedule_says_no_load(name: str) -> None:
    with pytest.raises(InputError, match=r"profile_export_aiperf.*neither a concurrency nor a rate"):
        read_runs(sample(name), LONGEST)


def test_spreads_of_lengths_are_read() -> None:
    for name in ("aiperf/profile_export_aiperf.json", "aiperf/profile_export_aiperf.csv", "guidellm/bench.csv"):
        found = read_summary(sample(name))
        assert found.isl_sd_tokens == pytest.approx(421.34, rel=1e-3)
        assert found.osl_sd_tokens == pytest.approx(8.437, rel=1e-3)


# --- metrics ---------------------------------------------------------------------------------------------


def scrape(seconds: int = 60, **values: np.ndarray) -> Scrape:
    times_s = np.linspace(0, seconds, 25)
    known = {name: np.asarray(column, dtype=float) for name, column in values.items()}
    return Scrape(time_s=times_s, values=known, histograms={}, names=dict.fromkeys(known, "x"), failed=0)


RISING = np.linspace(0, 480, 25)
FOUR = np.full(25, 4.0)


def test_llama_server_tells_gaps_and_what_is_in_flight() -> None:
    seen = scrape(running=FOUR, generation_tokens=RISING, prompt_tokens=10 * RISING, decode_busy_s=RISING / 10)
    with pytest.raises(InputError, match=r"counts no requests.*--osl"):
        runs_of_scrape("llama", seen, LONGEST)
    (run,) = runs_of_scrape("llama", seen, LONGEST, osl_tokens=20.0)  # 24 requests in 60 s, 4 in flight
    assert run.concurrency == 4
    assert run.stated is not None
    figures = {(one.metric, one.weighed): one.value_s for one in run.stated.figures}
    assert figures == {("tpot", True): pytest.approx(48 / 456), ("e2e", False): pytest.approx(10.0)}
    assert run.requests.isl_tokens.mean() == pytest.approx(200, rel=0.01)


@pytest.mark.parametrize(
    ("running", "requests", "why"),
    [
        (np.linspace(0, 200, 25), RISING / 8, r"requests in flight changed by \+100"),
        (FOUR, np.linspace(0, 8, 25) ** 3, "came in its first half"),
        (FOUR, np.concatenate([RISING[:12], RISING[:13]]) / 4, "the server was restarted"),
        (FOUR, RISING / 240, "2 requests ended; at least 5"),
    ],
)
def test_a_load_that_is_not_steady_is_no_run(running: np.ndarray, requests: np.ndarray, why: str) -> None:
    seen = scrape(running=running, requests=requests, generation_tokens=20 * requests, prompt_tokens=99 * requests)
    with pytest.raises(EvidenceError, match=f"day: no window of steady load.*{why}"):
        runs_of_scrape("day", seen, LONGEST)


def test_metrics_of_another_engine_are_refused(tmp_path: Path) -> None:
    names = {"requests": "vllm:request_success_total", "running": "vllm:num_requests_running"}
    seen = scrape(running=FOUR, requests=RISING / 8, generation_tokens=RISING, prompt_tokens=RISING)
    (tmp_path / "day").mkdir()
    write_scrape(replace(seen, names={**seen.names, **names}), tmp_path / "day" / "metrics.parquet")
    (run,) = read_runs(tmp_path / "day", LONGEST, engine="vllm")
    assert run.concurrency == 4
    with pytest.raises(InputError, match=r"metrics\.parquet: these are the metrics of vllm.* of llama\.cpp.*--engine"):
        read_runs(tmp_path / "day", LONGEST, engine="llama.cpp")


def test_windows_of_one_file_are_of_one_group() -> None:
    seen = scrape(600, running=FOUR, requests=RISING * 2, generation_tokens=RISING, prompt_tokens=99 * RISING)
    runs = runs_of_scrape("day", seen, LONGEST, group="day.json")
    assert len(runs) == 2
    assert {run.group for run in runs} == {"day.json"}
    assert run_of_summary(SUMMARY, LONGEST).group == ""


def test_counts_of_a_recording_rule_are_read(tmp_path: Path) -> None:
    """Its rates give no whole numbers, and a histogram's buckets each their own."""
    bounds, shares = np.array([0.1, 0.5, 1.0]), np.array([0.2, 0.7, 1.0, 0.9999])
    counts = 0.37 * RISING[:, None] * shares
    seen = scrape(600, running=FOUR, requests=0.37 * RISING, generation_tokens=RISING, prompt_tokens=99 * RISING)
    spread = {
        "ttft_s": (bounds, counts, 0.3 * counts[:, -1]),
        "isl_tokens": (1000 * bounds, counts, 300 * counts[:, -1]),
    }
    for run in runs_of_scrape("day", replace(seen, histograms=spread), LONGEST):
        assert run.stated is not None
        assert {(one.metric, one.frac) for one in run.stated.figures} >= {("ttft", None), ("ttft", 0.9)}


def test_metrics_without_latencies_are_refused() -> None:
    seen = scrape(requests=RISING / 8, prompt_tokens=RISING)
    with pytest.raises(EvidenceError, match="hold no latency"):
        runs_of_scrape("day", seen, LONGEST)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"status": "success", "data": {"resultType": "vector", "result": []}}, "expected a matrix, got 'vector'"),
        ({"status": "success", "data": {"resultType": "matrix", "result": [{"metric": {}}]}}, "no series of Prom"),
        ({"status": "success", "data": {"resultType": "matrix", "result": []}}, "data.result: no metrics of vllm"),
        ({"status": "error", "data": None}, "expected a matrix, got None"),
    ],
)
def test_another_answer_of_prometheus_is_refused(tmp_path: Path, document: object, message: str) -> None:
    path = tmp_path / "answer.json"
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match=rf"answer\.json: .*{message}"):
        read_runs(path, LONGEST)


def test_a_folder_or_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.json"):
        read_runs(tmp_path / "none.json", LONGEST)
    with pytest.raises(InputError, match=r"requests\.parquet"):
        read_runs(tmp_path, LONGEST)
