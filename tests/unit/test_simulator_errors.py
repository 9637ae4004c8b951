"""What the simulator refuses: one line, naming the column or the field."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from headway.errors import InputError
from headway.simulator import simulate
from headway.types import EngineSettings, PrefixRuns, Replica, Requests, StepTable

SETTINGS = EngineSettings(max_num_seqs=2, max_num_batched_tokens=8, max_model_len=64, gpu_memory_utilization=0.9)
STEP = StepTable(decode_ps=np.arange(3) + 10, mixed_ps=np.arange(9) + 10, context_ps_per_token=0, prefill_ps_per_pair=0)
REPLICA = Replica(settings=SETTINGS, step=STEP, num_gpu_blocks=10)
PREFIX = PrefixRuns(block_tokens=16, offsets=np.array([0, 1, 1]), first_ids=np.array([4]), counts=np.array([1]))
REQUESTS = Requests(arrive_s=np.array([0.0, 1.0]), isl_tokens=np.array([3, 4]), osl_tokens=np.array([1, 2]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arrive_s": np.array([0.0, np.nan])}, "requests: arrive_s, row 1: expected a time ≥ 0"),
        ({"arrive_s": np.array([-1.0, 0.0])}, "requests: arrive_s, row 0: expected a time ≥ 0"),
        ({"arrive_s": np.array([2.0, 1.0])}, "requests: arrive_s, row 1: earlier than the row before"),
        ({"arrive_s": np.array([0.0, 1e8])}, "requests: arrive_s, row 1: later than 26 days"),
        ({"isl_tokens": np.array([3, 0])}, "requests: isl_tokens, row 1: expected a length"),
        ({"osl_tokens": np.array([-3, 1])}, "requests: osl_tokens, row 0: expected a length"),
        ({"osl_tokens": np.array([3])}, "requests: osl_tokens: 1 rows, expected 2"),
        ({"prefix": dataclasses.replace(PREFIX, offsets=np.array([0, 1]))}, "requests: prefix: expected 3 offsets"),
        ({"prefix": dataclasses.replace(PREFIX, counts=np.array([], int))}, "requests: prefix: .* disagree"),
        ({"prefix": dataclasses.replace(PREFIX, first_ids=np.array([-1]))}, "requests: prefix: ids and counts"),
        (
            {"prefix": dataclasses.replace(PREFIX, block_tokens=24)},
            "requests: prefix: block_tokens 24 and block_size 16",
        ),
        (
            {"prefix": dataclasses.replace(PREFIX, block_tokens=64, first_ids=np.array([1 << 61]))},
            "requests: prefix: ids are too large",
        ),
    ],
)
def test_bad_requests_are_refused(changes: Any, message: Any) -> None:
    with pytest.raises(InputError, match=message):
        simulate(dataclasses.replace(REQUESTS, **changes), REPLICA)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_num_seqs": 0}, "replica: settings.max_num_seqs: expected at least 1"),
        ({"max_num_seqs": 9}, "replica: settings.max_num_batched_tokens: 8 is less than max_num_seqs 9"),
        ({"max_num_seqs": 1 << 20}, "replica: settings: max_num_seqs and block_size must be"),
        ({"enable_chunked_prefill": False}, "replica: settings.max_num_batched_tokens: must be ≥ max_model_len 64"),
        ({"max_num_batched_tokens": 9}, "replica: step.mixed_ps: 9 entries, expected 10"),
        (
            {"version": "0.20.0", "watermark": 0.1},
            "replica: settings.watermark: vLLM 0.20.0 has no watermark; expected 0.0",
        ),
        ({"version": "0.31.2", "long_prefill_token_threshold_adaptive": True}, "vLLM 0.31.2 has no long_prefill"),
        ({"version": "0.11.0", "max_num_active_seqs": 1}, "vLLM 0.11.0 has no max_num_active_seqs; expected None"),
        ({"version": "0.20.0", "prefill_schedule_interval": 2}, "vLLM 0.20.0 has no prefill_schedule_interval"),
    ],
)
def test_settings_under_which_vllm_would_not_start_are_refused(changes: Any, message: Any) -> None:
    with pytest.raises(InputError, match=message):
        simulate(REQUESTS, dataclasses.replace(REPLICA, settings=dataclasses.replace(SETTINGS, **changes)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decode_ps": np.arange(3)}, None),
        ({"decode_ps": np.zeros(3, int)}, "replica: step.decode_ps: a step lasts at least 1 ps"),
        ({"context_ps_per_token": -1}, "replica: step.context_ps_per_token: expected ≥ 0"),
        ({"context_ps_per_token": 1 << 59}, "replica: step: a step may last .* exceed the clock"),
        ({"mixed_ps": np.full(9, 1 << 61)}, "replica: step: a step may last"),
    ],
)
def test_tables_that_do_not_fit_are_refused(changes: Any, message: Any) -> None:
    one = dataclasses.replace(REPLICA, step=dataclasses.replace(STEP, **changes))
    if message is None:
        assert simulate(REQUESTS, one).finished == 2
        return
    with pytest.raises(InputError, match=message):
        simulate(REQUESTS, one)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"router": "round-robbin"}, "simulate: router: there is no router .*did you mean 'round-robin'"),
        ({"router": "session-affinity"}, "requests: session_id: session-affinity needs session ids"),
        ({"router": "prefix-affinity", "replicas": 2}, "requests: prefix: prefix-affinity needs block ids"),
        ({"replicas": 0}, "simulate: replicas: expected at least 1"),
        ({"record_series": -1}, "simulate: record_series: expected"),
        ({"until_s": -1.0}, "simulate: until_s: -1.0 is not within"),
        ({"until_s": float("nan")}, "simulate: until_s: nan is not within"),
    ],
)
def test_bad_arguments_are_refused(keywords: dict[str, Any], message: Any) -> None:
    with pytest.raises(InputError, match=message):
        simulate(REQUESTS, REPLICA, **keywords)


def test_blocks_too_few_are_refused() -> None:
    with pytest.raises(InputError, match="replica: num_gpu_blocks: expected at least 1"):
        simulate(REQUESTS, dataclasses.replace(REPLICA, num_gpu_blocks=0))


def test_a_run_beyond_the_clock_is_refused() -> None:
    slow = dataclasses.replace(STEP, decode_ps=np.full(3, 1 << 60), mixed_ps=np.full(9, 1 << 60))
    many = Requests(arrive_s=np.zeros(9), isl_tokens=np.full(9, 2), osl_tokens=np.full(9, 1))
    one_seat = dataclasses.replace(SETTINGS, max_num_seqs=1)
    with pytest.raises(InputError, match="longer than 53 days"):
        simulate(
            many,
            Replica(settings=one_seat, step=dataclasses.replace(slow, decode_ps=slow.decode_ps[:2]), num_gpu_blocks=10),
        )


def test_the_room_loads_lazily() -> None:
    script = "import sys, headway.simulator; sys.exit('numpy' in sys.modules or 'cython' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
