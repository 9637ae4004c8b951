"""What the simulator refuses: one line, naming the column or the field."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from headway.errors import InputError
from headway.simulator import POLICIES, record, simulate
from headway.types import EngineSettings, KvGroup, KvTransfer, PrefixRuns, Replica, Requests, Speculation, StepTable

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
        ({"abort_s": np.array([3.0])}, "requests: abort_s: 1 rows, expected 2"),
        ({"hold_s": np.zeros(3)}, "requests: hold_s: 3 rows, expected 2"),
        ({"remote_prefill": np.array([True])}, "requests: remote_prefill: 1 rows, expected 2"),
        ({"tenant_id": np.array([1])}, "requests: tenant_id: 1 rows, expected 2"),
        ({"abort_s": np.array([np.nan, 0.5])}, "requests: abort_s, row 1: earlier than the arrival"),
        ({"abort_s": np.array([np.inf, np.nan])}, "requests: abort_s, row 0: later than 26 days; expected NaN"),
        ({"hold_s": np.array([np.nan, -0.5])}, "requests: hold_s, row 1: expected a time ≥ 0"),
        ({"hold_s": np.array([np.inf, 0.0])}, "requests: hold_s, row 0: expected a time ≥ 0"),
        ({"hold_s": np.array([np.nan, 0.5])}, "requests: hold_s: needs a replica with kv_transfer"),
        ({"remote_prefill": np.array([False, True])}, "requests: remote_prefill: needs a replica with kv_transfer"),
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
        ({"pipeline_parallel_size": 0}, "replica: settings.pipeline_parallel_size: expected 1 to 1024"),
        ({"pipeline_parallel_size": 1 << 40}, "replica: settings.pipeline_parallel_size: expected 1 to 1024"),
        ({"prefill_schedule_interval": 0}, "replica: settings.prefill_schedule_interval: expected 1 to"),
        ({"max_loras": 0}, "replica: settings.max_loras: expected 1 to"),
        ({"long_prefill_token_threshold": -1}, "replica: settings.long_prefill_token_threshold: expected 0 to"),
        ({"version": "0.31.2", "long_prefill_token_threshold_adaptive": True}, "vLLM 0.31.2 has no long_prefill"),
        ({"version": "0.11.0", "max_num_active_seqs": 1}, "vLLM 0.11.0 has no max_num_active_seqs; expected None"),
        ({"version": "0.20.0", "prefill_schedule_interval": 2}, "vLLM 0.20.0 has no prefill_schedule_interval"),
    ],
)
def test_settings_under_which_vllm_would_not_start_are_refused(changes: Any, message: Any) -> None:
    with pytest.raises(InputError, match=message):
        simulate(REQUESTS, dataclasses.replace(REPLICA, settings=dataclasses.replace(SETTINGS, **changes)))


def drafts(method: str = "ngram", number: int = 2, accepted: tuple[int, ...] = (1,)) -> dict[str, Any]:
    return {"speculation": Speculation(method=method, num_speculative_tokens=number, accepted=accepted)}


def transfer(base_ps: int = 1, ps_per_token: int = 1, kv_role: str = "kv_consumer") -> dict[str, Any]:
    return {"kv_transfer": KvTransfer(base_ps=base_ps, ps_per_token=ps_per_token, kv_role=kv_role)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (drafts("eagel"), "replica: speculation.method: there is no 'eagel' .*did you mean 'eagle'"),
        (drafts(number=0), "replica: speculation.num_speculative_tokens: expected 1 to max_model_len 64"),
        (drafts(number=1 << 40), "replica: speculation.num_speculative_tokens: expected 1 to max_model_len 64"),
        (drafts(accepted=()), "replica: speculation.accepted: expected numbers from 0 to num_speculative_tokens 2"),
        (drafts(accepted=(1, -1)), "replica: speculation.accepted: expected numbers"),
        (drafts(accepted=(3,)), "replica: speculation.accepted: expected numbers"),
        (transfer(base_ps=-1), "replica: kv_transfer.base_ps: expected ≥ 0"),
        (transfer(ps_per_token=-1), "replica: kv_transfer.ps_per_token: expected ≥ 0"),
        (transfer(ps_per_token=1 << 60), "replica: kv_transfer: a transfer may last longer"),
        (transfer(kv_role="kv_consumr"), "replica: kv_transfer.kv_role: .*did you mean 'kv_consumer'"),
        (
            {"kv_groups": (KvGroup(layers=1), KvGroup(layers=1, window_tokens=0))},
            r"replica: kv_groups\[1\].window_tokens",
        ),
    ],
)
def test_parts_of_a_replica_that_cannot_be_are_refused(changes: Any, message: Any) -> None:
    requests = dataclasses.replace(REQUESTS, remote_prefill=np.array([True, False]))
    replica = dataclasses.replace(REPLICA, **transfer(), num_gpu_blocks=20)
    assert simulate(requests, replica).finished == 2
    for run in (simulate, record):
        with pytest.raises(InputError, match=message):
            run(requests, dataclasses.replace(replica, **changes))


@pytest.mark.parametrize("engine", sorted(set(POLICIES) - {"vllm"}))
def test_what_only_vllm_knows_is_refused_of_the_others(engine: str) -> None:
    settings = dataclasses.replace(SETTINGS, engine=engine, async_scheduling=False, max_num_batched_tokens=16)
    step = dataclasses.replace(STEP, mixed_ps=np.arange(17) + 10)
    replica = dataclasses.replace(REPLICA, settings=settings, step=step)
    assert simulate(REQUESTS, replica).finished == 2
    asked = {"remote_prefill": np.array([True, False]), "hold_s": np.array([np.nan, 1.0])}
    for name, column in asked.items():
        with pytest.raises(InputError, match=f"requests: {name}: known for vllm alone"):
            simulate(dataclasses.replace(REQUESTS, **{name: column}), replica)
    only = {"max_loras": 1, "long_prefill_token_threshold": 4, "prefill_schedule_interval": 2, "watermark": 0.1}
    for name, value in only.items():
        with pytest.raises(InputError, match=rf"replica: settings.{name}: known for vllm alone"):
            simulate(REQUESTS, dataclasses.replace(replica, settings=dataclasses.replace(settings, **{name: value})))


def test_priorities_beyond_32_bits_keep_their_order() -> None:
    settings = dataclasses.replace(SETTINGS, scheduling_policy="priority", max_num_seqs=1)
    step = dataclasses.replace(STEP, decode_ps=STEP.decode_ps[:2])
    requests = Requests(
        arrive_s=np.zeros(4),
        isl_tokens=np.full(4, 3),
        osl_tokens=np.full(4, 2),
        priority=np.array([1 << 33, (1 << 32) + 5, -(1 << 62), 1]),
    )
    for changes in ({}, {"long_prefill_token_threshold": 30}):  # the jump engine, the general one
        one = dataclasses.replace(settings, **changes)
        found = simulate(requests, Replica(settings=one, step=step, num_gpu_blocks=10))
        assert np.argsort(found.last_ps).tolist() == [2, 3, 1, 0]


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
