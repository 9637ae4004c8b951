"""Which engine runs it: the jump core where it covers everything asked for, the general engine otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from headway.simulator.profiles import profile_of

if TYPE_CHECKING:
    from headway.types import EngineSettings, Replica, Requests


def jumpable(settings: EngineSettings, requests: Requests, replica: Replica) -> str | None:
    """Return why the jump core cannot run this, None where it can: the first thing it does not know."""
    if settings.engine != "vllm":
        return f"the scheduler of {settings.engine}"
    return _of_settings(settings) or _of_replica(replica) or _of_requests(settings, requests)


def _of_settings(settings: EngineSettings) -> str | None:
    if not profile_of(settings.version).uncached_first:
        return f"the order in which vLLM {settings.version} reuses blocks"
    if settings.scheduling_policy == "priority" and not profile_of(settings.version).priority_goes_on:
        return f"priority scheduling of vLLM {settings.version}"
    if settings.long_prefill_token_threshold or settings.long_prefill_token_threshold_adaptive:
        return "long_prefill_token_threshold"
    if settings.prefill_schedule_interval > 1:
        return "prefill_schedule_interval"
    if settings.pipeline_parallel_size > 1:
        return "pipeline parallelism"
    seats = settings.max_num_active_seqs or settings.max_num_seqs
    tokens = settings.max_num_scheduled_tokens or settings.max_num_batched_tokens
    return "fewer tokens than sequences in a step" if tokens < seats else None


def _of_replica(replica: Replica) -> str | None:
    if replica.speculation is not None:
        return "speculative decoding"
    if len(replica.kv_groups) > 1 or any(group.window_tokens for group in replica.kv_groups):
        return "KV groups"
    return "KV transfer" if replica.kv_transfer is not None else None


def _of_requests(settings: EngineSettings, requests: Requests) -> str | None:
    if settings.max_loras is not None and requests.adapter_id is not None and (requests.adapter_id >= 0).any():
        return "max_loras"
    if requests.abort_s is not None and not np.isnan(requests.abort_s).all():
        return "aborts"
    if requests.remote_prefill is not None and requests.remote_prefill.any():
        return "remote prefill"
    held = requests.hold_s is not None and not np.isnan(requests.hold_s).all()
    return "held blocks" if held else None
