"""Settings that are not the server's are found by what it answered, before anything is fitted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from headway.calibration.drawing import Arrivals, Lengths, draws_of, stated_run
from headway.calibration.runnable import check_runnable
from headway.calibration.runs import Run, Stated, StatedFigure
from headway.errors import InputError
from headway.types import EngineSettings, Requests

VLLM = EngineSettings(
    engine="vllm", version="0.32.0", max_num_seqs=8, max_num_batched_tokens=1024, max_model_len=1024,
    gpu_memory_utilization=0.9,
)  # fmt: skip
LLAMA = replace(VLLM, engine="llama.cpp", version="1", block_size=1, async_scheduling=False)


def run_of(isl: list[int], *, answered: int = 99, concurrency: int | None = 2) -> Run:
    """A run whose first so many requests were answered."""
    n = len(isl)
    times_s = np.where(np.arange(n) < answered, 0.1, np.nan)
    requests = Requests(arrive_s=np.zeros(n), isl_tokens=np.array(isl), osl_tokens=np.full(n, 20))
    return Run(name="closed 2", requests=requests, ttft_s=times_s, tpot_s=times_s / 10, concurrency=concurrency)


@pytest.mark.parametrize("settings", [VLLM, LLAMA], ids=["vllm", "llama.cpp"])
@pytest.mark.parametrize("concurrency", [None, 2])
def test_what_the_server_answered_the_engine_takes(settings: EngineSettings, concurrency: int | None) -> None:
    check_runnable([run_of([50] * 9 + [1004], concurrency=concurrency)], settings, 8192)


@pytest.mark.parametrize("settings", [VLLM, LLAMA], ids=["vllm", "llama.cpp"])
def test_one_request_that_is_too_long_is_named(settings: EngineSettings) -> None:
    runs = [run_of([50] * 9), run_of([50] * 9 + [600, 700])]
    with pytest.raises(InputError, match=r"closed 2: a request of 700 \+ 20 tokens was answered.* max_model_len=500"):
        check_runnable(runs, replace(settings, max_model_len=500), 8192)
    with pytest.raises(InputError, match=r"--set max_model_len=720 or more"):  # it would be cut short
        check_runnable(runs, replace(settings, max_model_len=719), 8192)
    check_runnable(runs, replace(settings, max_model_len=720), 8192)


@pytest.mark.parametrize(("settings", "blocks"), [(VLLM, 45), (LLAMA, 700)], ids=["vllm", "llama.cpp"])
def test_one_request_that_has_no_room_is_named(settings: EngineSettings, blocks: int) -> None:
    with pytest.raises(
        InputError, match=rf"700 \+ 20 tokens .* num_gpu_blocks={blocks - 1} of .*--set num_gpu_blocks="
    ):
        check_runnable([run_of([700] + [50] * 9)], settings, blocks - 1)


def test_a_prompt_that_is_no_step_is_named() -> None:
    tgi = replace(VLLM, engine="tgi", version="3", block_size=1, async_scheduling=False, max_num_batched_tokens=699)
    with pytest.raises(
        InputError, match=r"700 \+ 20 .* max_num_batched_tokens=699 with .*--set max_num_batched_tokens=700"
    ):
        check_runnable([run_of([700] + [50] * 9)], replace(tgi, enable_chunked_prefill=False), 8192)
    check_runnable([run_of([700] + [50] * 9)], tgi, 8192)


def test_what_was_not_answered_may_be_of_any_length() -> None:
    check_runnable([run_of([50] * 9 + [2000], answered=9)], VLLM, 8192)


def test_requests_that_were_drawn_are_run_for_the_most_part() -> None:
    arrivals = Arrivals(concurrency=2)
    figure = StatedFigure(metric="ttft", frac=None, value_s=0.1, log_sd=0.03)
    draws = draws_of("bench", 40, arrivals, Lengths(mean=200.0, sd=100.0), Lengths(mean=20.0, sd=5.0), 1024)
    run = stated_run("bench", Stated(evidence="summary", requests=40, figures=(figure,), draws=draws), arrivals)
    check_runnable([run], VLLM, 24)  # one or two of them take more
    with pytest.raises(InputError, match=r"bench: a request of \d+ \+ \d+ tokens was drawn, .* num_gpu_blocks=5 of 16"):
        check_runnable([run], VLLM, 5)
