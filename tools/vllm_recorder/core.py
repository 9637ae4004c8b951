# ruff: noqa: D102 - the methods are vLLM's and documented there
"""The engine core of a scenario, its requests, and what its settings became."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

import msgspec
import torch
from vllm import SamplingParams
from vllm.engine.arg_utils import EngineArgs
from vllm.lora.request import LoRARequest
from vllm.model_executor.models import ModelRegistry
from vllm.usage.usage_lib import UsageContext
from vllm.v1.engine import EngineCoreRequest
from vllm.v1.engine.core import EngineCore

from vllm_recorder.machine import Machine, Transfers
from vllm_recorder.world import STOP_TOKEN

if TYPE_CHECKING:
    from pathlib import Path

    from vllm.config import VllmConfig

    from vllm_recorder.world import Row, World

NEVER_STOPS = 1 << 20  # max_tokens where a stop token ends the output
#: of SchedulerConfig, in the order of `effective`
SETTINGS = (
    "max_num_seqs",
    "max_num_active_seqs",
    "max_num_batched_tokens",
    "max_num_scheduled_tokens",
    "enable_chunked_prefill",
    "long_prefill_token_threshold",
    "long_prefill_token_threshold_adaptive",
    "async_scheduling",
    "watermark",
    "scheduler_reserve_full_isl",
    "prefill_schedule_interval",
)


class Model(torch.nn.Module):
    """A model as far as the configuration looks at one."""

    supports_pp = supports_lora = True
    packed_modules_mapping: dict[str, list[str]] = {}  # noqa: RUF012 - vLLM's name and type
    embedding_modules: dict[str, str] = {}  # noqa: RUF012

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        raise NotImplementedError

    def embed_input_ids(self, input_ids: Any) -> Any: ...
    def forward(self, input_ids: Any, positions: Any, intermediate_tensors: Any = None) -> Any: ...
    def compute_logits(self, hidden_states: Any) -> Any: ...
    def make_empty_intermediate_tensors(self, batch_size: int, dtype: Any, device: Any) -> Any: ...


for name in ("LlamaForCausalLM", "EagleLlamaForCausalLM"):
    ModelRegistry.register_model(name, Model)

#: The shape of Llama 3.1 8B; the scheduler sees none of it but the longest context.
LLAMA_8B = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 131072,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "torch_dtype": "bfloat16",
    "vocab_size": 128256,
}


def write_models(folder: Path) -> None:
    """Write the configurations that the engine arguments of scenarios name."""
    for name, config in {"llama8b": LLAMA_8B, "eagle": LLAMA_8B | {"num_hidden_layers": 1}}.items():
        (folder / "models" / name).mkdir(parents=True)
        (folder / "models" / name / "config.json").write_text(json.dumps(config), encoding="utf-8")


def engine_core(world: World) -> EngineCore:
    """Make the engine core of a scenario."""
    meta = world.meta
    given = copy.deepcopy(meta["engine_args"])  # some versions add to it
    if "kv_transfer_config" in given:
        role = given["kv_transfer_config"]["kv_role"]
        given["kv_transfer_config"] = {
            "kv_connector": Transfers.__name__,
            "kv_connector_module_path": Transfers.__module__,
            "kv_role": role,
        }
    arguments = EngineArgs(
        **{"model": "models/llama8b", **given},
        skip_tokenizer_init=True,
        disable_log_stats=True,
        num_gpu_blocks_override=meta["num_gpu_blocks"],
    )
    config = arguments.create_engine_config(UsageContext.OPENAI_API_SERVER)
    machine = type("Machine", (Machine,), {"world": world})
    core = EngineCore(config, machine, log_stats=False)
    core.model_executor.core = core
    if core.scheduler.connector is not None:
        core.scheduler.connector.world = world
    watch_preemptions(core.scheduler, world)
    return core


def watch_preemptions(scheduler: Any, world: World) -> None:
    """Note whom a call preempts, in order: the scheduler's output has a set."""
    preempt = scheduler._preempt_request  # noqa: SLF001

    def watched(request: Any, *rest: Any, **named: Any) -> None:
        world.preempted.append(request.request_id)
        world.preemptions[request.request_id] = world.preemptions.get(request.request_id, 0) + 1
        preempt(request, *rest, **named)
        if getattr(request, "drop_stale_output", False):  # what is in flight will be computed again
            world.produced[request.request_id] = request.num_output_tokens

    scheduler._preempt_request = watched  # noqa: SLF001


def effective_of(core: EngineCore) -> Row:
    """What the settings became."""
    config, scheduler = core.vllm_config, core.scheduler
    settings, cache, speculation = config.scheduler_config, config.cache_config, config.speculative_config
    return {name: getattr(settings, name) for name in SETTINGS} | {
        "policy": settings.policy,
        "max_model_len": config.model_config.max_model_len,
        "block_size": cache.block_size,
        "num_gpu_blocks": cache.num_gpu_blocks,
        "enable_prefix_caching": cache.enable_prefix_caching,
        "pipeline_parallel_size": config.parallel_config.pipeline_parallel_size,
        "num_spec_tokens": scheduler.num_spec_tokens,
        "num_lookahead_tokens": scheduler.num_lookahead_tokens,
        "num_hash_lookahead_tokens": getattr(scheduler, "num_hash_lookahead_tokens", 0),  # since 0.33
        "spec_method": speculation.method if speculation else None,
        "draft_slots": speculation.max_num_new_slots_for_drafting if speculation else 0,
        "max_loras": config.lora_config.max_loras if config.lora_config else None,
        "scheduler_class": type(scheduler).__name__,
        "batch_queue_size": core.batch_queue_size,
        "use_v2_model_runner": config.use_v2_model_runner,
    }


def engine_request(world: World, row: Row) -> EngineCoreRequest:
    """A request as the engine core takes it."""
    sampling = {"stop_token_ids": [STOP_TOKEN], "max_tokens": NEVER_STOPS}
    if world.meta["stop"] == "length":
        sampling = {"max_tokens": row["out"]}
    if "kv" in row:
        sampling["extra_args"] = {"kv_transfer_params": dict(row["kv"])}
    lora = row.get("lora")
    given = {
        "request_id": row["id"],
        "prompt_token_ids": world.prompt(row),
        "sampling_params": SamplingParams(ignore_eos=True, **sampling),
        "arrival_time": row["arr"],
        "lora_request": LoRARequest(f"adapter-{lora}", lora, f"adapters/{lora}") if lora else None,
        "cache_salt": row.get("salt"),
        "priority": row.get("prio", 0),
    }
    unset = [one.name for one in msgspec.structs.fields(EngineCoreRequest) if one.required and one.name not in given]
    return EngineCoreRequest(**given, **dict.fromkeys(unset))
