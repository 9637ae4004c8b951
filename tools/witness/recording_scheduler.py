"""Scheduler classes for a real vLLM engine that write down what it decides: `--scheduler-cls recording_scheduler.Sync`.

Run inside vLLM's own process, with this folder on PYTHONPATH and HEADWAY_WITNESS_RECORDING naming the file to write.
Nothing is decided here: each method calls vLLM's and writes a line of JSON about it. One line per event:

    config    what the engine resolved
    add       a request reached the scheduler: id, prompt, max_tokens, priority, adapter
    schedule  a call of schedule(): tokens per request in order, admissions, preemptions, queues, free blocks
    update    a batch's outputs were processed: new tokens per request, who finished and why, free blocks
    abort     requests taken away from outside
"""

from __future__ import annotations

import json
import os
import time
from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler

#: Of vLLM's SchedulerConfig, by the names a schedule file has for them too.
SETTINGS = (
    "max_num_seqs",
    "max_num_active_seqs",
    "max_num_batched_tokens",
    "max_num_scheduled_tokens",
    "enable_chunked_prefill",
    "long_prefill_token_threshold",
    "long_prefill_token_threshold_adaptive",
    "policy",
    "async_scheduling",
    "watermark",
    "scheduler_reserve_full_isl",
    "prefill_schedule_interval",
)


class _Recording:
    """What both classes write; goes before one of vLLM's schedulers in the order of inheritance."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lines = open(os.environ["HEADWAY_WITNESS_RECORDING"], "w", encoding="utf-8")  # noqa: PTH123, SIM115 - stays open
        self._calls = 0
        self._preempted: list[str] = []
        self._finished: list[tuple[str, str]] = []
        self._write("config", **self._resolved())

    def add_request(self, request: Any) -> None:
        self._write(
            "add",
            id=request.request_id,
            prompt=list(request.prompt_token_ids),
            max_tokens=request.max_tokens,
            priority=request.priority,
            arrival_s=request.arrival_time,
            adapter=request.lora_request.lora_int_id if request.lora_request else 0,
        )
        super().add_request(request)

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        self._preempted = []
        output = super().schedule(*args, **kwargs)
        output.witness_call = self._calls
        cached = output.scheduled_cached_reqs
        computed = {new.req_id: new.num_computed_tokens for new in output.scheduled_new_reqs}
        admitted = {*computed, *cached.resumed_req_ids}
        computed.update(zip(cached.req_ids, cached.num_computed_tokens, strict=True))
        self._write(
            "schedule",
            call=self._calls,
            scheduled=list(output.num_scheduled_tokens.items()),
            context=sum(computed[name] for name in output.num_scheduled_tokens),
            admitted=[[name, computed[name]] for name in output.num_scheduled_tokens if name in admitted],
            preempted=self._preempted,
            running=len(self.running),
            waiting=len(self.waiting) + len(self.kv_holding_waiting),
            free=self._free(),
        )
        self._calls += 1
        return output

    def update_from_output(self, scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
        self._finished = []
        outputs = super().update_from_output(scheduler_output, *args, **kwargs)
        new = {one.request_id: one.new_token_ids for each in outputs.values() for one in each.outputs}
        self._write("update", call=scheduler_output.witness_call, new=new, finished=self._finished, free=self._free())
        return outputs

    def finish_requests(self, request_ids: Any, finished_status: Any) -> Any:
        names = [request_ids] if isinstance(request_ids, str) else list(request_ids or self.requests)
        self._write("abort", ids=[name for name in names if name in self.requests])
        return super().finish_requests(request_ids, finished_status)

    def _preempt_request(self, request: Any, *args: Any, **kwargs: Any) -> None:
        self._preempted.append(request.request_id)
        super()._preempt_request(request, *args, **kwargs)

    def _free_request(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        self._finished.append((request.request_id, str(request.get_finished_reason())))
        return super()._free_request(request, *args, **kwargs)

    def _free(self) -> int:
        return self.kv_cache_manager.block_pool.get_num_free_blocks()

    def _resolved(self) -> dict[str, Any]:
        return {name: getattr(self.scheduler_config, name) for name in SETTINGS} | {
            "max_model_len": self.max_model_len,
            "block_size": self.block_size,
            "num_gpu_blocks": self.cache_config.num_gpu_blocks,
            "enable_prefix_caching": self.cache_config.enable_prefix_caching,
            "num_spec_tokens": self.num_spec_tokens,
            "max_loras": self.lora_config.max_loras if self.lora_config else None,
        }

    def _write(self, event: str, **fields: Any) -> None:
        print(json.dumps({"event": event, "at_ns": time.monotonic_ns(), **fields}), file=self._lines, flush=True)


class Sync(_Recording, Scheduler):
    """vLLM's synchronous scheduler, recorded."""


class Async(_Recording, AsyncScheduler):
    """vLLM's asynchronous scheduler, recorded.

    vLLM switches asynchronous scheduling off for CPUs. By now its workers have started without it, and only its loop,
    which asks next how many batches may be in flight, and its scheduler see it on: both are then vLLM's own, and the
    workers run the batches they are sent one after the other.
    """

    def __init__(self, vllm_config: Any, *args: Any, **kwargs: Any) -> None:
        vllm_config.scheduler_config.async_scheduling = True
        super().__init__(vllm_config, *args, **kwargs)
