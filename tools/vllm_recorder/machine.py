# ruff: noqa: D102 - the methods are vLLM's and documented there
"""The executor and the KV connector that stand in for the real ones, and the row of each batch."""

from __future__ import annotations

import zlib
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import torch
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorBase_V1, KVConnectorMetadata, SupportsHMA
from vllm.v1.executor import Executor
from vllm.v1.kv_cache_interface import FullAttentionSpec, SlidingWindowSpec
from vllm.v1.outputs import DraftTokenIds, KVConnectorOutput, ModelRunnerOutput
from vllm.v1.request import RequestStatus

from vllm_recorder.world import Batch

if TYPE_CHECKING:
    from vllm.v1.engine.core import EngineCore

    from vllm_recorder.world import Row, World


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


def reported(done: list[Row]) -> KVConnectorOutput | None:
    """What a batch says of complete transfers; in lists, as the order of vLLM's own sets is left to chance."""
    names = {kind: [row["id"] for row in done if row["kind"] == kind] or None for kind in ("recv", "send")}
    return KVConnectorOutput(finished_sending=names["send"], finished_recving=names["recv"]) if done else None


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
            kv_connector_output=reported(self.world.complete(self.batch)),
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
    samples: dict[str, list[int]] = {name: [] for name in tokens}
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
    """How many blocks are free in the pool."""
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
