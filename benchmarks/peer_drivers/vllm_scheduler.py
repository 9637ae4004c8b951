"""The real, unmodified vLLM scheduler without a GPU: `Scheduler.schedule` and `update_from_output` in virtual time.

A stand-in for the executor gives every request that has no prompt left one token, and a step takes
step + token · (tokens scheduled) + context · (tokens computed before) nanoseconds.
"""

from __future__ import annotations

import gc
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from common import metered, say, workload
from vllm import SamplingParams
from vllm.engine.arg_utils import EngineArgs
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request
from vllm.v1.structured_output import StructuredOutputManager

#: the least model the engine accepts; the scheduler knows nothing of it but its longest context
MODEL = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "num_hidden_layers": 1,
    "vocab_size": 32000,
    "torch_dtype": "bfloat16",
}


def make_scheduler(engine: dict[str, int]) -> Scheduler:
    with tempfile.TemporaryDirectory() as folder:
        model = MODEL | {"max_position_embeddings": engine["max_model_len"]}
        (Path(folder) / "config.json").write_text(json.dumps(model), encoding="utf-8")
        given = EngineArgs(
            model=folder,
            skip_tokenizer_init=True,
            max_num_seqs=engine["max_num_seqs"],
            max_num_batched_tokens=engine["max_num_batched_tokens"],
            max_model_len=engine["max_model_len"],
            block_size=engine["block_size"],
            enable_prefix_caching=False,
            async_scheduling=False,
            disable_log_stats=True,
        )
        config = given.create_engine_config()
    blocks = engine["num_gpu_blocks"] + 1  # the pool's null block is never given out
    config.cache_config.num_gpu_blocks = blocks
    spec = FullAttentionSpec(block_size=engine["block_size"], num_kv_heads=2, head_size=32, dtype=torch.bfloat16)
    return Scheduler(
        vllm_config=config,
        kv_cache_config=KVCacheConfig(blocks, [], [KVCacheGroupSpec(["layer"], spec)]),
        structured_output_manager=StructuredOutputManager(config),
        block_size=engine["block_size"],
        log_stats=False,
    )


def make_requests(given: dict[str, Any]) -> list[Request]:
    return [
        Request(str(index), [0] * isl, SamplingParams(max_tokens=osl, ignore_eos=True), None, arrival_time=arrive_ns)
        for index, (arrive_ns, isl, osl) in enumerate(
            zip(given["arrive_ns"], given["isl_tokens"], given["osl_tokens"], strict=True)
        )
    ]


def replay(
    scheduler: Scheduler, requests: list[Request], step_ns: dict[str, int]
) -> tuple[int, int, list[int], list[int]]:
    """Serve all; return the steps, the preemptions, and each request's first and last token."""
    per_step, per_token, per_context = step_ns["step"], step_ns["token"], step_ns["context"]
    now_ns, steps, preempted, arrived = 0, 0, 0, 0
    first_ns, last_ns = [0] * len(requests), [0] * len(requests)
    while True:
        while arrived < len(requests) and requests[arrived].arrival_time <= now_ns:
            scheduler.add_request(requests[arrived])
            arrived += 1
        if not scheduler.has_unfinished_requests():
            if arrived == len(requests):
                return steps, preempted, first_ns, last_ns
            now_ns = requests[arrived].arrival_time
            continue
        planned = scheduler.schedule()
        computed = sum(planned.scheduled_cached_reqs.num_computed_tokens)
        computed += sum(new.num_computed_tokens for new in planned.scheduled_new_reqs)
        names = list(planned.num_scheduled_tokens)
        sampled = [[] if scheduler.requests[name].is_prefill_chunk else [1] for name in names]
        now_ns += per_step + per_token * planned.total_num_scheduled_tokens + per_context * computed
        steps += 1
        preempted += len(planned.preempted_req_ids or ())
        places = {name: place for place, name in enumerate(names)}
        made = scheduler.update_from_output(planned, ModelRunnerOutput(names, places, sampled))
        for output in made[0].outputs:
            index = int(output.request_id)
            first_ns[index] = first_ns[index] or now_ns
            last_ns[index] = now_ns


def main() -> None:
    given = workload()
    scheduler, requests = make_scheduler(given["engine"]), make_requests(given)
    gc.collect()
    gc.freeze()  # as the engine core does once it is set up
    answer: dict[str, Any] = {}
    with metered(answer):
        steps, preempted, first_ns, last_ns = replay(scheduler, requests, given["step_ns"])
    count = len(requests)
    answer |= {
        "steps": steps,
        "preemptions": preempted,
        "makespan_s": max(last_ns) * 1e-9,
        "mean_ttft_s": sum(a - b for a, b in zip(first_ns, given["arrive_ns"], strict=True)) * 1e-9 / count,
        "mean_tpot_s": sum(
            (last - first) / max(1, osl - 1)
            for first, last, osl in zip(first_ns, last_ns, given["osl_tokens"], strict=True)
        )
        * 1e-9
        / count,
    }
    say(answer)


if __name__ == "__main__":
    main()
