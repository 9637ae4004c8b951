"""What the jump core says it cannot run."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from headway.errors import InputError
from headway.simulator import simulate
from headway.simulator.dispatch import jumpable
from headway.types import EngineSettings, KvGroup, KvTransfer, Replica, Requests, Speculation, StepTable

SETTINGS = EngineSettings(max_num_seqs=2, max_num_batched_tokens=8, max_model_len=64, gpu_memory_utilization=0.9)
STEP = StepTable(decode_ps=np.arange(3) + 10, mixed_ps=np.arange(9) + 10, context_ps_per_token=0, prefill_ps_per_pair=0)
REPLICA = Replica(settings=SETTINGS, step=STEP, num_gpu_blocks=10)
REQUESTS = Requests(arrive_s=np.array([0.0, 1.0]), isl_tokens=np.array([3, 4]), osl_tokens=np.array([1, 2]))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"async_scheduling": False, "scheduling_policy": "priority", "watermark": 0.1}, None),
        ({"max_num_active_seqs": 1, "max_num_scheduled_tokens": 4}, None),
        ({"version": "0.32.0"}, None),
        ({"version": "0.32.0", "scheduling_policy": "priority"}, "priority scheduling of vLLM 0.32.0"),
        ({"version": "0.20.0"}, "the order in which vLLM 0.20.0 reuses blocks"),
        ({"engine": "sglang"}, "the scheduler of sglang"),
        ({"long_prefill_token_threshold": 4}, "long_prefill_token_threshold"),
        ({"prefill_schedule_interval": 2}, "prefill_schedule_interval"),
        ({"pipeline_parallel_size": 2}, "pipeline parallelism"),
        ({"max_num_scheduled_tokens": 1}, "fewer tokens than sequences in a step"),
    ],
)
def test_settings_that_do_not_jump(changes: dict[str, Any], reason: str | None) -> None:
    settings = dataclasses.replace(SETTINGS, **changes)
    assert jumpable(settings, REQUESTS, dataclasses.replace(REPLICA, settings=settings)) == reason


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"speculation": Speculation(method="ngram", num_speculative_tokens=2, accepted=(1,))}, "speculative decoding"),
        ({"kv_groups": (KvGroup(layers=2), KvGroup(layers=2, window_tokens=16))}, "KV groups"),
        ({"kv_transfer": KvTransfer(base_ps=1, ps_per_token=1)}, "KV transfer"),
    ],
)
def test_replicas_that_do_not_jump(changes: dict[str, Any], reason: str) -> None:
    assert jumpable(SETTINGS, REQUESTS, dataclasses.replace(REPLICA, **changes)) == reason


def test_requests_that_do_not_jump() -> None:
    def why(settings: EngineSettings = SETTINGS, **columns: Any) -> str | None:
        return jumpable(settings, dataclasses.replace(REQUESTS, **columns), REPLICA)

    assert why(abort_s=np.array([np.nan, 2.0])) == "aborts"
    assert why(abort_s=np.array([np.nan, np.nan])) is None
    assert why(remote_prefill=np.array([False, True])) == "remote prefill"
    assert why(hold_s=np.array([0.5, np.nan])) == "held blocks"
    adapters = {"adapter_id": np.array([-1, 3])}
    assert why(**adapters) is None
    assert why(dataclasses.replace(SETTINGS, max_loras=1), **adapters) == "max_loras"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_num_active_seqs": 3}, "settings.max_num_active_seqs: expected 1 to 2"),
        ({"max_num_scheduled_tokens": 0}, "settings.max_num_scheduled_tokens: expected 1 to 8"),
        ({"watermark": 1.0}, "settings.watermark: expected a share"),
        ({"scheduling_policy": "prioritie"}, "settings.scheduling_policy: there is no policy 'prioritie'"),
    ],
)
def test_limits_are_checked(changes: dict[str, Any], message: str) -> None:
    replica = dataclasses.replace(REPLICA, settings=dataclasses.replace(SETTINGS, **changes))
    with pytest.raises(InputError, match=message):
        simulate(REQUESTS, replica)


def test_a_stop_token_costs_the_asynchronous_schedule_one_slot() -> None:
    """By hand: a prompt, two decodes; where the end is not foreseen, one more decode that nobody waits for."""
    one = dataclasses.replace(REQUESTS, isl_tokens=np.array([3, 3]), osl_tokens=np.array([3, 3]))
    foreseen = simulate(one, REPLICA)
    stopped = simulate(dataclasses.replace(one, max_tokens=np.array([9, 9])), REPLICA)
    assert (foreseen.last_ps == stopped.last_ps).all()
    assert foreseen.counters.steps == 6
    assert stopped.counters.steps == 8
    assert stopped.counters.scheduled_tokens == foreseen.counters.scheduled_tokens + 2
