"""Record schedules of the real vLLM: its own engine core, unmodified, in virtual time and without a GPU.

    VLLM_ENVIRONMENT/bin/python tools/record_vllm.py SCENARIO... --out FOLDER
    VLLM_ENVIRONMENT/bin/python tools/record_vllm.py - < SCENARIOS > RECORDINGS

A scenario is a schedule file of which only `meta` and the `req` rows are read (docs/reference/schedules.md); a recording
is the same file with all its rows. On standard input and output, one scenario or recording is one line, a JSON list of
rows; one that cannot be recorded becomes {"error": …}. To be run by the Python of an environment with vllm installed;
nothing of headway is imported.

What is vLLM's: the way from EngineArgs to VllmConfig as on an H100, EngineCore with its scheduler, KV cache manager,
block hashes, and its step functions. What stands in: the platform's answers about the device, a model class without
layers, an executor that knows how long a batch takes and how many tokens come out, a KV connector that knows when a
transfer is complete. The clock counts nanoseconds; scheduling takes no time.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import sys
import tempfile
import types
import zlib
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ |= {
    "CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "VLLM_LOGGING_LEVEL": "CRITICAL",
    "VLLM_NO_USAGE_STATS": "1",
}
for compiled in ("vllm._C", "vllm._C_stable_libtorch"):  # kernels for a device that is not here
    sys.modules[compiled] = types.ModuleType(compiled)

import msgspec
import torch
import vllm
import vllm.platforms
from vllm.platforms.cuda import CudaPlatformBase
from vllm.platforms.interface import DeviceCapability


class H100(CudaPlatformBase):
    """What the driver says of a machine with eight H100 of 80 GB."""

    @classmethod
    def get_device_capability(cls, device_id: int = 0) -> DeviceCapability:  # noqa: ARG003 - vLLM's signature
        return DeviceCapability(9, 0)

    @classmethod
    def get_device_name(cls, device_id: int = 0) -> str:  # noqa: ARG003
        return "NVIDIA H100 80GB HBM3"

    @classmethod
    def get_device_total_memory(cls, device_id: int = 0) -> int:  # noqa: ARG003
        return 85_029_158_912

    @classmethod
    def device_count(cls) -> int:
        return 8


vllm.platforms._current_platform = H100()  # noqa: SLF001 - before anything asks for it

import vllm.config.vllm as configuration

configuration.HAS_TRITON = True  # the kernels' compiler, which decides between model runners

from vllm import SamplingParams
from vllm.config import VllmConfig
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorBase_V1, KVConnectorMetadata, SupportsHMA
from vllm.engine.arg_utils import EngineArgs
from vllm.lora.request import LoRARequest
from vllm.model_executor.models import ModelRegistry
from vllm.usage.usage_lib import UsageContext
from vllm.v1.engine import EngineCoreRequest
from vllm.v1.engine.core import EngineCore
from vllm.v1.executor import Executor
from vllm.v1.kv_cache_interface import FullAttentionSpec, SlidingWindowSpec
from vllm.v1.outputs import DraftTokenIds, KVConnectorOutput, ModelRunnerOutput
from vllm.v1.request import RequestStatus

Row = dict[str, Any]
STOP_TOKEN = 1
NEVER_STOPS = 1 << 20  # max_tokens where a stop token ends the output
FORMAT = 1
IDLE_CALLS = (
    16  # of the scheduler, without anything scheduled or any time passed: more than any queue of batches is long
)
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


@dataclass
class Batch:
    """What one call of the scheduler decided, and when it is executed."""

    number: int  # of the call, those that scheduled nothing included
    begin: int
    end: int
    samples: dict[str, list[int]]  # tokens that come out, by request
    row: Row | None  # None where it neither scheduled nor preempted


@dataclass
class World:
    """Virtual time, and all that the stand-ins need to know and note."""

    meta: Row
    requests: dict[str, Row]
    now: int = 0
    calls: int = 0
    recorded: int = 0
    stages: list[int] = field(default_factory=list)  # when each stage of the pipeline is free
    produced: dict[str, int] = field(default_factory=dict)  # tokens the model made, by request
    verified: dict[str, int] = field(default_factory=dict)  # drafts verified so far: how often
    sampled: list[str] = field(default_factory=list)  # by the last batch executed
    preempted: list[str] = field(default_factory=list)  # by the present call
    transfers: list[Row] = field(default_factory=list)
    under_way: list[tuple[int, Row]] = field(default_factory=list)  # (batches sent off before it, its row)
    preemptions: dict[str, int] = field(default_factory=dict)  # by request
    first: dict[str, tuple[int, int]] = field(default_factory=dict)  # when first scheduled and begun
    cached: dict[str, int] = field(default_factory=dict)  # tokens computed at the first admission
    popped: Batch | None = None
    streams: dict[str, int] = field(default_factory=dict)

    def token(self, stream: str, position: int) -> int:
        """A token's number: equal exactly where stream and position are."""
        return (self.streams.setdefault(stream, len(self.streams)) << 24) + position + STOP_TOKEN + 1

    def prompt(self, row: Row) -> list[int]:
        return [self.token(stream, start + i) for stream, start, count in row["prompt"] for i in range(count)]

    def outputs(self, name: str, count: int) -> list[int]:
        """The next tokens the model makes for a request."""
        first = self.produced.get(name, 0)
        self.produced[name] = first + count
        last = self.requests[name]["out"] - 1 if self.meta["stop"] == "eos" else -1
        return [STOP_TOKEN if i == last else self.token(f"o:{name}", i) for i in range(first, first + count)]

    def accepted(self, name: str, drafts: int) -> int:
        """How many drafts the next verification accepts."""
        turn = self.verified.get(name, 0)
        self.verified[name] = turn + 1
        pattern = self.meta["accept_pattern"]
        return min(drafts, pattern[turn % len(pattern)])

    def execute(self, tokens: int, context: int, count: int) -> tuple[int, int]:
        """Send a batch through the pipeline; return when its execution begins and ends."""
        cost = self.meta["cost_ns"]
        duration = cost["a"] + cost["b"] * tokens + cost["c"] * context + cost["d"] * count if tokens else 0
        ends, end = [], self.now
        for free in self.stages:
            end = max(end, free) + duration
            ends.append(end)
        if tokens:
            self.stages = ends
        return ends[0] - duration, end

    def send_off(self, name: str, kind: str, duration: int, tokens: int) -> None:
        row = {"type": "kv", "id": name, "kind": kind, "t0": self.now, "t1": self.now + duration, "n": tokens}
        self.transfers.append(row)
        self.under_way.append((self.calls, row))

    def complete(self, batch: Batch) -> KVConnectorOutput | None:
        """The transfers that a batch reports: known when it was sent off, complete when it ends."""
        done = [one for one in self.under_way if one[1]["t1"] <= batch.end and one[0] < batch.number]
        if not done:
            return None
        self.under_way = [one for one in self.under_way if one not in done]
        # in order of beginning; vLLM passes sets, whose order is left to chance
        names = {kind: [row["id"] for _, row in done if row["kind"] == kind] for kind in ("recv", "send")}
        return KVConnectorOutput(finished_sending=names["send"] or None, finished_recving=names["recv"] or None)


class Transfers(KVConnectorBase_V1, SupportsHMA):
    """The scheduler's side of a P/D pair: loads a prompt's KV once, or keeps the blocks until they are fetched."""

    world: World

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int, bool]:
        if not (request.kv_transfer_params or {}).get("do_remote_prefill"):
            return 0, False
        missing = request.num_prompt_tokens - num_computed_tokens
        return max(missing, 0), missing > 0

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:  # noqa: ARG002
        given = request.kv_transfer_params or {}
        if given.pop("do_remote_prefill", False) and num_external_tokens:
            cost = self.world.meta["kv_transfer"]
            duration = cost["base_ns"] + cost["ns_per_token"] * num_external_tokens
            self.world.send_off(request.request_id, "recv", duration, num_external_tokens)

    def request_finished(self, request: Any, block_ids: Any) -> tuple[bool, Row | None]:  # noqa: ARG002
        given = request.kv_transfer_params or {}
        if not given.get("do_remote_decode") or request.status != RequestStatus.FINISHED_LENGTH_CAPPED:
            return False, None
        self.world.send_off(request.request_id, "send", given["hold_ns"], 0)
        return True, None

    request_finished_all_groups = request_finished

    def build_connector_meta(self, scheduler_output: Any) -> KVConnectorMetadata:  # noqa: ARG002
        return KVConnectorMetadata()

    def start_load_kv(self, *_: Any, **__: Any) -> None: ...
    def wait_for_layer_load(self, *_: Any) -> None: ...
    def save_kv_layer(self, *_: Any, **__: Any) -> None: ...
    def wait_for_save(self) -> None: ...


class Result(Future):
    """What a batch gives, as soon as the clock stands at its end."""

    def __init__(self, world: World, batch: Batch) -> None:
        super().__init__()
        self.world, self.batch = world, batch

    def result(self, timeout: float | None = None) -> ModelRunnerOutput:  # noqa: ARG002 - a Future's signature
        self.world.now = max(self.world.now, self.batch.end)
        self.world.popped = self.batch
        names = list(self.batch.samples)
        return ModelRunnerOutput(
            req_ids=names,
            req_id_to_index={name: place for place, name in enumerate(names)},
            sampled_token_ids=list(self.batch.samples.values()),
            kv_connector_output=self.world.complete(self.batch),
        )


class Machine(Executor):
    """An executor that only knows how long things take."""

    world: World  # given to a subclass, as EngineCore makes the executor
    core: EngineCore
    supports_pp = True

    def _init_executor(self) -> None: ...
    def check_health(self) -> None: ...
    def shutdown(self) -> None: ...
    def initialize_from_config(self, kv_cache_configs: Any) -> None: ...
    def compile_or_warm_up_model(self) -> None: ...
    def init_kv_output_aggregator(self, connector: Any) -> None: ...
    def set_kv_cache_layout(self, *_: Any) -> None: ...

    def collective_rpc(self, method: Any, *_: Any, **__: Any) -> list[Any]:  # noqa: ARG002
        return []

    def determine_available_memory(self) -> list[int]:
        return [64 << 30]

    def get_supported_kv_cache_layouts(self) -> list[list[str]]:
        return [["LBNHC"]]

    def get_kv_cache_specs(self) -> list[Row]:
        """One layer set of the model per KV group."""
        shape = {"block_size": self.cache_config.block_size, "num_kv_heads": 8, "head_size": 128}
        shape["dtype"] = torch.bfloat16
        specs = {}
        for group, (kind, layers, *window) in enumerate(self.world.meta["kv_groups"] or [["full", 1]]):
            for layer in range(layers):
                specs[f"group.{group}.layer.{layer}"] = (
                    FullAttentionSpec(**shape)
                    if kind == "full"
                    else SlidingWindowSpec(**shape, sliding_window=window[0])
                )
        return [specs]

    def execute_model(self, scheduler_output: Any, non_block: bool = False) -> Result:  # noqa: FBT001, FBT002, ARG002
        self.latest = Result(self.world, launched(self.world, self.core.scheduler, scheduler_output))
        return self.latest

    def sample_tokens(self, grammar_output: Any, non_block: bool = False) -> Result:  # noqa: FBT001, FBT002, ARG002
        return self.latest

    def take_draft_token_ids(self) -> DraftTokenIds:
        drafts = self.core.vllm_config.speculative_config.num_speculative_tokens
        return DraftTokenIds(list(self.world.sampled), [[0] * drafts for _ in self.world.sampled])


def launched(world: World, scheduler: Any, made: Any) -> Batch:
    """Execute what the scheduler just decided on a machine that takes a + b·T + c·C + d·S."""
    world.calls += 1
    tokens: dict[str, int] = made.num_scheduled_tokens
    context = sum(scheduler.requests[name].num_computed_tokens - count for name, count in tokens.items())
    admitted = {new.req_id: new.num_computed_tokens for new in made.scheduled_new_reqs}
    drafts = {name: len(ids) for name, ids in made.scheduled_spec_decode_tokens.items()}
    scheduled = world.now
    begin, end = world.execute(sum(tokens.values()), context, len(tokens))
    samples: dict[str, list[int]] = dict.fromkeys(tokens, [])
    for name in tokens:
        if not scheduler.requests[name].is_prefill_chunk:
            verified = world.accepted(name, drafts[name]) if name in drafts and name not in admitted else 0
            samples[name] = world.outputs(name, 1 + verified)
    if tokens:
        world.sampled = [name for name, ids in samples.items() if ids]
    row = None
    if tokens or world.preempted:
        row = {"type": "step", "k": world.recorded, "t": scheduled, "b": begin, "e": end}
        row |= {"T": sum(tokens.values()), "S": len(tokens), "C": context}
        row |= state_of(scheduler)
        row |= lists_of(tokens, admitted, world.preempted, drafts, full=world.meta["steps_mode"] == "full")
        world.recorded += 1
        world.preempted = []
        for name in tokens:
            world.first.setdefault(name, (scheduled, begin))
        for name, computed in row.get("adm", ()):
            world.cached.setdefault(name, computed)
    return Batch(world.calls, begin, end, samples, row)


def state_of(scheduler: Any) -> Row:
    """How many run, wait, and how many blocks are free."""
    running, waiting = scheduler.get_request_counts()
    return {"run": running, "wait": waiting, "free": free_blocks(scheduler), "freeu": None}


def free_blocks(scheduler: Any) -> int:
    return scheduler.kv_cache_manager.block_pool.get_num_free_blocks()


def lists_of(
    tokens: dict[str, int], admitted: dict[str, int], preempted: list[str], drafts: dict[str, int], *, full: bool
) -> Row:
    """The lists of a step row; empty ones are left out."""
    row: Row = {"crc": zlib.crc32(",".join(f"{name}:{count}" for name, count in tokens.items()).encode())}
    row["sched" if full else "multi"] = [[name, count] for name, count in tokens.items() if full or count != 1]
    lists = {
        "adm": [[name, admitted[name]] for name in tokens if name in admitted],
        "pre": preempted,
        "fin": [],
        "spec": [[name, drafts[name]] for name in tokens if name in drafts] if full else [],
    }
    return row | {name: content for name, content in lists.items() if content or name == "fin"}


def engine_core(world: World) -> EngineCore:
    """vLLM's engine core for a scenario."""
    meta = world.meta
    given = dict(meta["engine_args"])
    if "kv_transfer_config" in given:
        role = given["kv_transfer_config"]["kv_role"]
        given["kv_transfer_config"] = {
            "kv_connector": Transfers.__name__,
            "kv_connector_module_path": __name__,
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


class Recording:
    """One scenario, from the first arrival to the last end."""

    def __init__(self, meta: Row, requests: list[Row]) -> None:
        self.world = World(meta, {row["id"]: row for row in requests})
        self.core = engine_core(self.world)
        self.world.stages = [0] * self.core.vllm_config.parallel_config.pipeline_parallel_size
        self.given = requests
        self.arriving = sorted(requests, key=lambda row: row["arr"])  # stable: requests in input order
        self.arrived = 0
        self.aborting = sorted((row for row in requests if "abort" in row), key=lambda row: row["abort"])
        self.results = {row["id"]: Ending(row) for row in requests}
        self.steps: list[Row] = []

    def run(self) -> list[Row]:
        """Live through it; return the rows of the recording."""
        idle = 0
        while True:
            self.deliver()
            if not (self.core.scheduler.has_requests() or self.core.batch_queue):
                if not self.sleep(transfers=False):
                    return self.rows()
                continue
            before, recorded = self.world.now, self.world.recorded
            self.step()
            idle = 0 if (self.world.now, self.world.recorded) != (before, recorded) else idle + 1
            if idle > IDLE_CALLS:
                idle = 0
                if not self.sleep(transfers=True):
                    raise RuntimeError(f"nothing will ever be scheduled again after {self.world.now} ns")

    def deliver(self) -> None:
        """Hand over the requests that have arrived, then the clients that have gone."""
        while self.arrived < len(self.arriving) and self.arriving[self.arrived]["arr"] <= self.world.now:
            request = engine_request(self.world, self.arriving[self.arrived])
            self.core.add_request(*self.core.preprocess_add_request(request))
            self.arrived += 1
        while self.aborting and self.aborting[0]["abort"] <= self.world.now:
            ending = self.results[self.aborting.pop(0)["id"]]
            if not ending.reason:
                self.core.abort_requests([ending.row["id"]])
                ending.end(self.world.now, "abort")

    def sleep(self, *, transfers: bool) -> bool:
        """Let time pass until something comes; return whether anything does."""
        coming = [row["arr"] for row in self.arriving[self.arrived : self.arrived + 1]]
        if transfers:
            coming += [row["t1"] for _, row in self.world.under_way]
        if coming:
            self.world.now = max(self.world.now, min(coming))
        return bool(coming)

    def step(self) -> None:
        """One turn of the engine core's loop."""
        self.world.popped = None
        outputs, executed = self.core.step_fn()
        self.core.post_step(executed)
        finished = []
        for output in (one for made in (outputs or {}).values() for one in made.outputs):
            ending = self.results[output.request_id]
            ending.hear(self.world.now, len(output.new_token_ids))
            if output.finish_reason is not None:
                ending.end(self.world.now, str(output.finish_reason))
                finished.append(output.request_id)
        if self.world.popped is not None and (row := self.world.popped.row) is not None:
            row["freeu"] = free_blocks(self.core.scheduler)
            row["fin"] = finished
            if not finished:
                del row["fin"]
            self.steps.append(row)

    def rows(self) -> list[Row]:
        """The whole recording."""
        world = self.world
        results = [self.results[row["id"]].result(world) for row in self.arriving]
        meta = world.meta | {
            "format": FORMAT,
            "vllm": vllm.__version__,
            "effective": effective_of(self.core),
            "n_requests": len(self.given),
            "n_steps": len(self.steps),
            "totals": {
                "preemptions": sum(world.preemptions.values()),
                "scheduled_tokens": sum(row["T"] for row in self.steps),
                "makespan_ns": max((row["e"] for row in self.steps), default=0),
                "first_cached_tokens": sum(row["cached"] or 0 for row in results),
                "prompt_tokens": sum(row["plen"] for row in self.given),
            },
        }
        return [meta, *self.given, *self.steps, *world.transfers, *results]


class Ending:
    """What became of a request."""

    def __init__(self, row: Row) -> None:
        self.row, self.reason, self.finished = row, "", None
        self.first: int | None = None
        self.count = self.crc = 0

    def hear(self, now: int, tokens: int) -> None:
        """Tokens are delivered."""
        if tokens and self.first is None:
            self.first = now
        for _ in range(tokens):
            self.crc = zlib.crc32(b"%d," % now, self.crc)
        self.count += tokens

    def end(self, now: int, reason: str) -> None:
        self.finished, self.reason = now, reason

    def result(self, world: World) -> Row:
        name = self.row["id"]
        scheduled, start = world.first.get(name, (None, None))
        return {
            "type": "res",
            "id": name,
            "arr": self.row["arr"],
            "sched": scheduled,
            "start": start,
            "first": self.first,
            "fin": self.finished,
            "cached": world.cached.get(name),
            "npre": world.preemptions.get(name, 0),
            "nout": self.count,
            "reason": self.reason or None,
            "crc": self.crc,
        }


def recorded(rows: list[Row]) -> list[Row]:
    """Record a scenario."""
    meta, requests = rows[0], [row for row in rows if row["type"] == "req"]
    recording = Recording(meta, requests)
    try:
        return recording.run()
    finally:
        recording.core.scheduler.shutdown()


def text_of(rows: list[Row]) -> str:
    return "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows)


def record_file(path: Path, folder: Path) -> None:
    """Record the scenario of a file into a file of the same name in a folder."""
    content = path.read_bytes()
    lines = (gzip.decompress(content) if path.suffix == ".gz" else content).splitlines()
    content = text_of(recorded([json.loads(line) for line in lines])).encode()
    part = folder / f"{path.name}.part"
    part.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
    part.replace(folder / path.name)


def record_lines() -> None:
    """Record scenario after scenario of standard input."""
    for line in sys.stdin:
        try:
            answer: Any = recorded(json.loads(line))
        except Exception as error:  # noqa: BLE001 - whatever it is, the next scenario may be fine
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer, separators=(",", ":")), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="record schedules of the real vLLM scheduler")
    parser.add_argument("scenario", nargs="+", type=Path, help="schedule files; - for standard input")
    parser.add_argument("--out", type=Path, help="the folder to write to")
    given = parser.parse_args()
    paths, folder = [path.absolute() for path in given.scenario], given.out and given.out.absolute()
    with tempfile.TemporaryDirectory() as models:
        write_models(Path(models))
        os.chdir(models)
        if folder is None:
            record_lines()
        else:
            folder.mkdir(parents=True, exist_ok=True)
            for path in paths:
                record_file(path, folder)


if __name__ == "__main__":
    sys.modules["record_vllm"] = sys.modules[__name__]  # vLLM imports the connector by name
    __name__ = "record_vllm"
    main()
