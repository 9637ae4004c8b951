"""The settings a row's server ran with: its command's, then the harness's, then its version's defaults."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from headway.catalog import engine_settings
from headway.catalog.engines import graph_sizes
from headway.types import EngineSettings, LlamaCppSettings, SglangSettings, TensorRtLlmSettings, TgiSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headway.catalog import Catalog
    from headway.types import Accelerator, Engine
    from headway.validation.names import EngineName

_GIB = 1 << 30
#: vLLM's V1 engine is the default from 0.8.0, asynchronous scheduling from 0.14.0 (vllm-project/vllm#27614).
_V1, _ASYNC = (0, 8), (0, 14)
#: vLLM V0: `max_num_seqs` 256; prompts are not cut up to a context of 32,768; a batch of 2,048 tokens or one context.
_V0_SEQS, _V0_TOKENS, _V0_UNCUT = 256, 2048, 32768
#: SGLang's `chunked_prefill_size` by memory (GiB), as in catalog/data/engines.yaml; then requests and tokens.
_SGLANG_CHUNKS = ((160, 16384), (60, 8192), (20, 4096), (0, 2048))
_SGLANG_SEQS, _SGLANG_PREFILL = 2048, 16384
#: TensorRT-LLM: `max_batch_size`, `max_num_tokens`.
_TRTLLM_SEQS, _TRTLLM_TOKENS = 2048, 8192
#: TGI: `max_batch_prefill_tokens`; no `max_batch_size` by default; graphs of 1, 2, 4, 8, 16, 32.
_TGI_SEQS, _TGI_TOKENS, _TGI_GRAPHS = 512, 4096, (1, 2, 4, 8, 16, 32)
_LLAMA_BATCH = 2048
#: Largest batch SGLang and TensorRT-LLM capture; they differ by memory and version, most of today's stop here.
_GRAPH_LIMIT = 512
#: Settings that only some engines have.
_OWN = {
    "max_prefill_tokens": ("sglang",),
    "scheduler_recv_interval": ("sglang",),
    "batch_wait_timeout_iters": ("tensorrt-llm",),
    "batch_wait_max_tokens_ratio": ("tensorrt-llm",),
    "cuda_graph_max_bs": ("sglang", "tensorrt-llm"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What a replica has to take: its longest prompt, its longest sequence, and how many at once (0: not known)."""

    prompt_tokens: int
    sequence_tokens: int
    sequences: int = 0


def settings_of(
    engine: EngineName, accelerator: Accelerator, demand: Demand, given: Mapping[str, object], catalog: Catalog
) -> EngineSettings:
    """Return the settings of a replica.

    Args:
        engine: the policy and its version.
        accelerator: where it runs.
        demand: what it has to take; a limit below it is raised, since the row was measured.
        given: settings known, by the names of `EngineSettings`; they go before the engine's defaults.
        catalog: the defaults of engines.
    """
    policy = engine.policy
    known = {
        name: value for name, value in given.items() if name != "max_model_len" and policy in _OWN.get(name, (policy,))
    }
    length = max(int(str(given.get("max_model_len", 0))), demand.sequence_tokens)
    make = {"vllm": _vllm, "sglang": _sglang, "tensorrt-llm": _trtllm, "tgi": _tgi, "llama.cpp": _llama_cpp}
    return make[engine.policy](engine, accelerator, replace_length(demand, length), known, catalog)


def replace_length(demand: Demand, length: int) -> Demand:
    """Return the demand with that length of a sequence."""
    return replace(demand, sequence_tokens=length)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())


def _entry(catalog: Catalog, engine: EngineName) -> Engine:
    """Return the newest entry that is not newer; the oldest, for one older still."""
    known = [entry for entry in catalog.engines if entry.name == engine.policy]
    if not engine.version:
        return catalog.engine(engine.policy)
    older = [entry for entry in known if _numbers(entry.version) <= _numbers(engine.version)]
    return (
        max(older, key=lambda entry: _numbers(entry.version))
        if older
        else min(known, key=lambda e: _numbers(e.version))
    )


def _vllm(
    engine: EngineName, accelerator: Accelerator, demand: Demand, given: dict[str, Any], catalog: Catalog
) -> EngineSettings:
    entry, numbers = _entry(catalog, engine), _numbers(engine.version) or (9, 9)
    # hardware no tier is for (TPU, Gaudi, Ascend) runs the defaults of NVIDIA's of that memory
    tiered = accelerator if accelerator.vendor in ("nvidia", "amd", "cpu") else replace(accelerator, vendor="nvidia")
    usual: dict[str, Any] = {"async_scheduling": numbers >= _ASYNC}
    if numbers < _V1:
        uncut = demand.sequence_tokens <= _V0_UNCUT
        tokens = max(_V0_TOKENS, demand.sequence_tokens) if uncut else _V0_TOKENS
        usual |= {"max_num_seqs": _V0_SEQS, "max_num_batched_tokens": tokens, "enable_prefix_caching": False}
        usual["enable_chunked_prefill"] = not uncut
    chosen = _agreeing(usual | given, demand)
    found = engine_settings(entry, tiered, max_model_len=demand.sequence_tokens, overrides=chosen)
    return replace(found, version=engine.version or entry.version)


def _agreeing(chosen: dict[str, Any], demand: Demand) -> dict[str, Any]:
    """Raise limits that contradict each other, as a server that started cannot have had them."""
    tokens = chosen.get("max_num_batched_tokens")
    if tokens is not None:
        least = chosen.get("max_num_seqs", 1)
        if not chosen.get("enable_chunked_prefill", True):
            least = max(least, demand.sequence_tokens)
        if "max_num_seqs" not in chosen:
            chosen["max_num_seqs"] = min(tokens, 1024)
        chosen["max_num_batched_tokens"] = max(tokens, least)
    return chosen


def _sglang(
    engine: EngineName, accelerator: Accelerator, demand: Demand, given: dict[str, Any], catalog: Catalog
) -> EngineSettings:
    usual = next(size for least, size in _SGLANG_CHUNKS if accelerator.hbm_bytes >= least * _GIB)
    chunk = given.pop("max_num_batched_tokens", usual)
    prefill = max(chunk, given.pop("max_prefill_tokens", _SGLANG_PREFILL))
    own = SglangSettings(
        chunked_prefill_size=chunk,
        max_prefill_tokens=prefill,
        scheduler_recv_interval=given.pop("scheduler_recv_interval", 1),
    )
    return _with(_plain(engine, demand, catalog, seqs=_SGLANG_SEQS, tokens=prefill), given, own=own)


def _trtllm(
    engine: EngineName, accelerator: Accelerator, demand: Demand, given: dict[str, Any], catalog: Catalog
) -> EngineSettings:
    del accelerator
    # without chunking a prompt has to fit into one step: as benchmark scripts set it, prompt and batch together
    tokens = max(_TRTLLM_TOKENS, demand.prompt_tokens + min(demand.sequences, _TRTLLM_SEQS) + 64)
    plain = _plain(engine, demand, catalog, seqs=_TRTLLM_SEQS, tokens=tokens)
    waits = ("batch_wait_timeout_iters", "batch_wait_max_tokens_ratio")
    own = TensorRtLlmSettings(**{name: given.pop(name) for name in waits if name in given})
    found = _with(plain, given, own=own)
    return replace(found, max_num_batched_tokens=max(found.max_num_batched_tokens, demand.prompt_tokens))


def _tgi(
    engine: EngineName, accelerator: Accelerator, demand: Demand, given: dict[str, Any], catalog: Catalog
) -> EngineSettings:
    del accelerator
    plain = _plain(engine, demand, catalog, seqs=_TGI_SEQS, tokens=max(_TGI_TOKENS, demand.prompt_tokens))
    return replace(_with(plain, given, own=TgiSettings()), cuda_graph_sizes=_TGI_GRAPHS, async_scheduling=False)


def _llama_cpp(
    engine: EngineName, accelerator: Accelerator, demand: Demand, given: dict[str, Any], catalog: Catalog
) -> EngineSettings:
    del accelerator
    plain = _plain(engine, demand, catalog, seqs=max(demand.sequences, 1), tokens=_LLAMA_BATCH)
    return replace(_with(plain, given, own=LlamaCppSettings()), cuda_graph_sizes=(1,), async_scheduling=False)


def _plain(engine: EngineName, demand: Demand, catalog: Catalog, *, seqs: int, tokens: int) -> EngineSettings:
    """Return an engine's defaults where the catalogue knows no tiers."""
    entry = _entry(catalog, engine)
    return EngineSettings(
        max_num_seqs=seqs,
        max_num_batched_tokens=tokens,
        max_model_len=demand.sequence_tokens,
        gpu_memory_utilization=entry.gpu_memory_utilization or 0.9,
        block_size=entry.block_size,
        enable_prefix_caching=entry.enable_prefix_caching,
        enable_chunked_prefill=entry.enable_chunked_prefill,
        scheduler_reserve_full_isl=entry.scheduler_reserve_full_isl,
        async_scheduling=entry.async_scheduling,
        engine=engine.policy,
        version=engine.version or entry.version,
    )


def _with(plain: EngineSettings, given: dict[str, Any], *, own: Any) -> EngineSettings:
    eager, limit = given.pop("enforce_eager", False), given.pop("cuda_graph_max_bs", _GRAPH_LIMIT)
    found = replace(plain, **given, own=own)
    sizes = () if eager else graph_sizes(limit, found.max_num_seqs, found.max_num_batched_tokens)
    return replace(found, cuda_graph_sizes=sizes)
