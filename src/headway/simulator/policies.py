"""Whose scheduling policy runs a replica: the engines by name, what each refuses, and how one is set up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from headway.errors import InputError, nearest
from headway.simulator.loading import load
from headway.simulator.prefixes import engine_runs
from headway.types import LlamaCppSettings, SglangSettings, TensorRtLlmSettings, TgiSettings

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from headway.types import EngineSettings, IntColumn, Replica, Requests


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """An engine's scheduler, as a subclass of `stepping.Stepper`."""

    module: str
    name: str
    rules: str  # whose they are, in words
    own: type  # of `EngineSettings.own`
    overlaps: bool  # whether the engine schedules one batch while another runs
    reserves: bool  # whether what a request may generate has to fit, not only what it will


#: engine -> its policy
POLICIES = {
    "vllm": Policy(
        module="vllm", name="Vllm", rules="vLLM's V1 scheduler", own=type(None), overlaps=True, reserves=False
    ),
    "sglang": Policy(
        module="sglang", name="Sglang", rules="SGLang's scheduler", own=SglangSettings, overlaps=True, reserves=True
    ),
    "tensorrt-llm": Policy(
        module="tensorrt_llm",
        name="TensorRtLlm",
        rules="TensorRT-LLM's two schedulers",
        own=TensorRtLlmSettings,
        overlaps=True,
        reserves=True,
    ),
    "tgi": Policy(module="tgi", name="Tgi", rules="TGI's batching", own=TgiSettings, overlaps=False, reserves=True),
    "llama.cpp": Policy(
        module="llama_cpp",
        name="LlamaCpp",
        rules="llama-server's slots and batches",
        own=LlamaCppSettings,
        overlaps=False,
        reserves=True,
    ),
}

_CHOICES = {
    "schedule_policy": ("fcfs", "lpm"),
    "capacity_scheduler_policy": ("GUARANTEED_NO_EVICT", "MAX_UTILIZATION"),
    "context_chunking_policy": ("FIRST_COME_FIRST_SERVED", "EQUAL_PROGRESS"),
}
#: what no other engine's policy knows, and its default
_OF_VLLM = {
    "scheduling_policy": "fcfs",
    "max_num_active_seqs": None,
    "pipeline_parallel_size": 1,
    "max_loras": None,
    "long_prefill_token_threshold": 0,
    "long_prefill_token_threshold_adaptive": False,
    "prefill_schedule_interval": 1,
    "watermark": 0.0,
}
_LEAST = {
    "max_prefill_tokens": 1,
    "prefill_max_requests": 1,
    "schedule_conservativeness": 0,
    "scheduler_recv_interval": 1,
    "batch_wait_timeout_iters": 0,
    "batch_wait_max_tokens_ratio": 0,
    "waiting_served_ratio": 0,
    "max_waiting_tokens": 0,
    "slot_prompt_similarity": 0,
}


def new_engine(replica: Replica, requests: Requests, table: Any, recorder: Any) -> Any:
    """Return a replica's engine, on the general engine's table (see `stepping`)."""
    policy, settings = POLICIES[replica.settings.engine], replica.settings
    engine = getattr(load(policy.module), policy.name)
    block_size = settings.block_size if settings.engine == "vllm" else 1
    runs = engine_runs(requests.prefix, block_size) if requests.prefix is not None else None
    return engine(replica, runs, table, recorder)


def bounds(replica: Replica, requests: Requests) -> tuple[IntColumn, NDArray[np.int32]]:
    """Return at how many tokens each request ends by length, and how many it generates, 0 where it is refused."""
    policy, isl = POLICIES[replica.settings.engine], requests.isl_tokens
    module = load(policy.module)
    asked = requests.osl_tokens if requests.max_tokens is None else requests.max_tokens
    most = np.minimum(isl + asked, module.most_tokens(replica))
    ends = np.minimum(np.minimum(isl + requests.osl_tokens, most), replica.settings.max_model_len)
    refused = module.refused(replica, isl, most if policy.reserves else ends)
    return most, np.where(refused, 0, ends - isl).astype(np.int32)


def ranks(requests: Requests) -> NDArray[np.int32]:
    """Number the priorities, the soonest 0."""
    if requests.priority is None:
        return np.zeros(len(requests), np.int32)
    return np.searchsorted(np.unique(requests.priority), requests.priority).astype(np.int32)


def check_engine(replica: Replica) -> None:
    """Refuse settings that an engine other than vLLM would refuse, or that its policy here does not know.

    Raises:
        InputError: naming the field.
    """
    settings = replica.settings
    if settings.engine not in POLICIES:
        raise _wrong("engine", f"there is no policy of {settings.engine!r}", nearest(settings.engine, POLICIES))
    policy = POLICIES[settings.engine]
    if settings.own is not None and not isinstance(settings.own, policy.own):
        expected = "None" if settings.engine == "vllm" else policy.own.__name__
        raise _wrong("own", f"expected {expected}, got {type(settings.own).__name__}")
    if settings.engine != "vllm":
        _check_common(replica, policy)
        _check_own(settings)


def check_columns(requests: Requests, settings: EngineSettings) -> None:
    """Refuse what is asked of an engine other than vLLM and its policy here does not know.

    Raises:
        InputError: naming the column.
    """
    if settings.engine == "vllm":
        return
    held = requests.hold_s is not None and not np.isnan(requests.hold_s).all()
    if held or (requests.remote_prefill is not None and requests.remote_prefill.any()):
        raise InputError("known for vllm alone", file="requests", place="hold_s" if held else "remote_prefill")


def _check_common(replica: Replica, policy: Policy) -> None:
    settings = replica.settings
    if settings.async_scheduling and not policy.overlaps:
        raise _wrong("async_scheduling", f"{settings.engine} has one batch in flight; expected false")
    for name, plain in _OF_VLLM.items():
        if getattr(settings, name) != plain:
            raise _wrong(name, f"known for vllm alone; expected {plain}")
    for name in ("speculation", "kv_transfer"):
        if getattr(replica, name) is not None:
            raise InputError("known for vllm alone", file="replica", place=name)
    if len(replica.kv_groups) > 1 or any(group.window_tokens for group in replica.kv_groups):
        raise InputError("known for vllm alone", file="replica", place="kv_groups")
    if settings.engine == "tensorrt-llm" and settings.max_num_batched_tokens < settings.block_size:
        raise _wrong("max_num_batched_tokens", f"expected at least block_size {settings.block_size}, a chunk's unit")


def _check_own(settings: EngineSettings) -> None:
    own = settings.own if settings.own is not None else POLICIES[settings.engine].own()
    for name, known in _CHOICES.items():
        value = getattr(own, name, known[0])
        if value not in known:
            raise _wrong(f"own.{name}", f"there is no {value!r}", nearest(str(value), known))
    for name, least in _LEAST.items():
        value = getattr(own, name, None)
        if value is not None and not value >= least:
            raise _wrong(f"own.{name}", f"expected at least {least}, got {value}")
    _check_chunks(settings, own)


def _check_chunks(settings: EngineSettings, own: Any) -> None:
    size = settings.block_size
    chunk = getattr(own, "chunked_prefill_size", -1)
    if chunk != -1 and (chunk < 1 or chunk % size):
        raise _wrong("own.chunked_prefill_size", f"expected -1 or a multiple of block_size {size}, got {chunk}")
    grows = getattr(own, "capacity_scheduler_policy", "") == "MAX_UTILIZATION"
    if grows and not settings.enable_chunked_prefill and settings.max_num_batched_tokens < settings.max_model_len:
        raise _wrong("enable_chunked_prefill", "a paused prompt grows beyond max_num_batched_tokens; expected true")


def _wrong(place: str, problem: str, hint: str = "") -> InputError:
    return InputError(problem, file="replica", place=f"settings.{place}", hint=hint)
