"""`headway watch` beside a real llama-server: it holds, and when the server is slowed it says so."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import pytest
from llama import LLAMA, SETTINGS, needs_llama
from servers import HERE, post, running, wait_until_ready

from headway.cli import main
from headway.perf.endpoint import EndpointCalibration, StepTerms, Uncertainty
from headway.perf.endpoint_writer import write_calibration
from headway.types import EngineSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [needs_llama, pytest.mark.slow]

PROMPT, OUT, PER_S = 12, 16, 2.0
WINDOW_S = 5.0


def ask(url: str) -> dict[str, float]:
    prompt = [random.randrange(100, 40000) for _ in range(PROMPT)]
    body = {"prompt": prompt, "n_predict": OUT, "ignore_eos": True, "cache_prompt": False}
    return post(f"{url}/completion", body)["timings"]


#: Steps of this model with so many sequences, on one thread, over a step of one (10.5, 21.4, 35 and 59.6 ms).
BATCH = {1: 1.0, 2: 2.04, 4: 3.33, 8: 5.68}


def measured(url: str) -> StepTerms:
    """Step times of this machine at this hour."""
    ask(url)
    answers = [ask(url) for _ in range(7)]
    step_s = median(one["predicted_ms"] for one in answers) / 1e3 / (OUT - 1)
    prefill_s = median(one["prompt_ms"] for one in answers) / 1e3
    return StepTerms(
        decode_s={batch: factor * step_s for batch, factor in BATCH.items()},
        mixed_s={1: step_s, PROMPT: prefill_s},
        context_s_per_token=0.0,
        prefill_s_per_pair=0.0,
        prefill_context_s_per_token=0.0,
        sequence_s=0.0,
        frontend_s=0.001,
    )


def calibration(terms: StepTerms) -> EndpointCalibration:
    settings = EngineSettings(
        engine="llama.cpp",
        version="10549",
        max_num_seqs=4,
        max_num_batched_tokens=2048,
        max_model_len=1024,
        gpu_memory_utilization=0.9,
        block_size=1,
        enable_prefix_caching=False,
        async_scheduling=False,
    )
    return EndpointCalibration(
        name="this-machine",
        made="2026-11-21",
        engine="llama.cpp",
        engine_version="10549",
        model="SmolLM2-135M-Instruct",
        hardware="cpu",
        tp=1,
        weight_dtype="int4",
        kv_dtype="bf16",
        settings=settings,
        num_gpu_blocks=4096,
        terms=terms,
        uncertainty=Uncertainty(terms=(), covariance=(), drift_log_sd=0.05),
        bands_frac={},
        valid={},
        runs=(),
    )


@contextmanager
def traffic(url: str) -> Iterator[None]:
    """Requests at random times until the end."""
    ended, threads = threading.Event(), list[threading.Thread]()

    def send() -> None:
        while not ended.wait(random.expovariate(PER_S)):
            threads.append(threading.Thread(target=ask, args=(url,)))
            threads[-1].start()

    sender = threading.Thread(target=send)
    sender.start()
    try:
        yield
    finally:
        ended.set()
        sender.join()
        for thread in threads:
            thread.join()


@contextmanager
def slowed(process: int) -> Iterator[None]:
    """Let a process run most of the time not at all."""
    ended = threading.Event()

    def hold() -> None:
        while not ended.is_set():
            os.kill(process, signal.SIGSTOP)
            time.sleep(0.09)
            os.kill(process, signal.SIGCONT)
            ended.wait(0.05)

    holder = threading.Thread(target=hold)
    holder.start()
    try:
        yield
    finally:
        ended.set()
        holder.join()


def test_it_holds_until_the_server_is_slowed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    random.seed(5)
    log = tmp_path / "log"
    with running([str(LLAMA.python), str(HERE / "serve_llama.py"), json.dumps(SETTINGS)], log) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        wait_until_ready(f"{url}/health", process, log, patience_s=60)
        terms = measured(url)
        write_calibration(tmp_path / "here.yaml", calibration(terms))
        watch = ["watch", "--calibration", str(tmp_path / "here.yaml"), "--url", url, "--osl", str(OUT), "--check"]
        # others use this machine too: half as much again is in order here
        watch += ["--window", f"{WINDOW_S} s", "--tolerance", "0.5"]
        with traffic(url):
            time.sleep(1)
            code = main([*watch, "--windows", "3", "--json"])
            *windows, _ = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
            assert [window["state"] for window in windows] == ["holds"] * 3, windows
            assert code == 0
            assert windows[0]["traffic"]["requests"] == pytest.approx(PER_S * WINDOW_S, abs=8)
            assert set(windows[0]["figures"]) == {"ttft", "itl", "e2e"}
            with slowed(process.pid):
                assert main([*watch, "--windows", "6"]) == 1
    said = capsys.readouterr().out
    assert "drifted since" in said
    assert "slower than calibrated" in said
    again = ["headway", "calibrate", "endpoint", url, "--out", "this-machine-again.yaml"]
    assert f"recalibrate: {' '.join(again)} --name this-machine --hardware cpu --weights int4\n" in said


def test_a_server_that_goes_down_is_noted_and_watched_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log, window_s = tmp_path / "log", 1.0
    with running([str(LLAMA.python), str(HERE / "serve_llama.py"), json.dumps(SETTINGS)], log) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        wait_until_ready(f"{url}/health", process, log, patience_s=60)
        write_calibration(tmp_path / "here.yaml", calibration(measured(url)))
        watch = ["watch", "--calibration", str(tmp_path / "here.yaml"), "--url", url, "--osl", str(OUT), "--json"]
        threading.Timer(1.5 * window_s, process.kill).start()
        assert main([*watch, "--window", f"{window_s} s", "--windows", "4"]) == 0
    *windows, whole = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert whole["schema"] == "watch/1" and len(windows) == 4
    assert "too few to judge" in windows[0]["note"]
    assert all("does not answer" in window["note"] for window in windows[2:])


def test_the_wrong_calibration_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = main(["watch", "--calibration", "none-such", "--url", "http://127.0.0.1:9", "--once"])
    assert missing == 2
    terms = StepTerms(
        decode_s={1: 0.01},
        mixed_s={1: 0.01},
        context_s_per_token=0.0,
        prefill_s_per_pair=0.0,
        prefill_context_s_per_token=0.0,
        sequence_s=0.0,
        frontend_s=0.0,
    )
    write_calibration(tmp_path / "x.yaml", replace(calibration(terms), name="x"))
    watch = ["watch", "--calibration", str(tmp_path / "x.yaml"), "--window", "0.2 s", "--once"]
    assert main([*watch, "--url", "http://127.0.0.1:9"]) == 4
    assert "does not answer" in capsys.readouterr().err
    assert main(watch) == 2
