"""Engines: what each version resolves when nobody sets anything, and whether it takes a number format."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from headway.errors import InputError, nearest
from headway.types import Engine, EngineSettings, EngineTier

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from headway.catalog.facts import Entry
    from headway.reading import Node
    from headway.types import Accelerator

_FLAGS = ("enable_prefix_caching", "enable_chunked_prefill", "scheduler_reserve_full_isl", "async_scheduling")
GROUPS = ("weight_dtypes", "least_compute_capability", "cuda_graph_limit_by_capability")
FIELDS = (
    "title",
    "engine",
    "version",
    "simulated",
    "vendors",
    "gpu_memory_utilization",
    "block_size",
    "tiers",
    "cuda_graph_limit",
    *_FLAGS,
    *GROUPS,
)
_TIER = ("least_hbm_bytes", "max_num_seqs", "max_num_batched_tokens", "vendors", "unless")
#: said elsewhere: stages of a pipeline by `Parallelism`
_FIXED = ("max_model_len", "engine", "version", "own", "pipeline_parallel_size")
#: what may be overridden: the engine's own settings, and vLLM's switch that turns CUDA graphs off
_SETTINGS = (*(f.name for f in fields(EngineSettings) if f.name not in _FIXED), "enforce_eager")
_SWITCHES = (*_FLAGS, "enforce_eager", "long_prefill_token_threshold_adaptive")


def build(entry: Entry) -> Engine:
    """Build the noun.

    Raises:
        InputError: a figure is missing or wrong.
    """
    limit, memory = entry.get("cuda_graph_limit"), entry.get("gpu_memory_utilization")
    return Engine(
        name=entry.need("engine").text(),
        version=entry.need("version").text(),
        title=entry.text("title", entry.name),
        simulated=entry.need("simulated").flag(),
        vendors=entry.words("vendors"),
        weight_dtypes={v: tuple(d.text() for d in node.items()) for v, node in entry.group("weight_dtypes").items()},
        least_compute_capability={d: node.number() for d, node in entry.group("least_compute_capability").items()},
        gpu_memory_utilization=memory.number(least=0, most=1) if memory else None,
        block_size=entry.need("block_size").integer(least=1),
        **{flag: entry.need(flag).flag() for flag in _FLAGS},
        tiers=_tiers(entry),
        cuda_graph_limit=limit.integer(least=0) if limit else 0,
        cuda_graph_limit_by_capability={
            c: node.integer(least=0) for c, node in entry.group("cuda_graph_limit_by_capability").items()
        },
        provenance=entry.provenance(),
    )


def _tiers(entry: Entry) -> tuple[EngineTier, ...]:
    node = entry.get("tiers")
    tiers = [_tier(item) for item in node.items()] if node else []
    return tuple(sorted(tiers, key=lambda tier: -tier.least_hbm_bytes))


def _tier(node: Node) -> EngineTier:
    parts = node.entries(_TIER)
    for name in _TIER[:-1]:
        if name not in parts:
            node.fail(f"this tier has no {name!r}")
    return EngineTier(
        least_hbm_bytes=parts["least_hbm_bytes"].quantity("bytes", least=0),
        max_num_seqs=parts["max_num_seqs"].integer(least=1),
        max_num_batched_tokens=parts["max_num_batched_tokens"].integer(least=1),
        vendors=tuple(word.text() for word in parts["vendors"].items()),
        unless=tuple(word.text() for word in parts["unless"].items()) if "unless" in parts else (),
    )


def versions(entries: Mapping[str, Entry]) -> dict[str, dict[str, str]]:
    """Return engine -> version -> entry, the newest version last."""
    found: dict[str, dict[str, str]] = {}
    for key, entry in entries.items():
        found.setdefault(entry.need("engine").text().casefold(), {})[entry.need("version").text()] = key
    return {name: dict(sorted(known.items(), key=lambda item: _order(item[0]))) for name, known in found.items()}


def _order(version: str) -> tuple[tuple[int, str], ...]:
    """Order versions by their numbers: 0.9 before 0.11."""
    return tuple((int(part), "") if part.isdecimal() else (-1, part) for part in version.split("."))


def accepts(engine: Engine, accelerator: Accelerator, weight_dtype: str) -> str:
    """Return why this engine cannot run weights of this format there; empty where it can.

    Args:
        engine: the engine's version.
        accelerator: where it would run.
        weight_dtype: one of `types.Dtype`.
    """
    if accelerator.vendor not in engine.vendors:
        return f"{engine.name} {engine.version} does not run on {accelerator.vendor}"
    if weight_dtype not in engine.weight_dtypes.get(accelerator.vendor, ()):
        return f"{engine.name} {engine.version} takes no {weight_dtype} weights on {accelerator.vendor}"
    least = engine.least_compute_capability.get(weight_dtype, 0.0)
    if accelerator.compute_capability and float(accelerator.compute_capability) < least:
        return (
            f"{weight_dtype} needs compute capability {least}, {accelerator.name} has {accelerator.compute_capability}"
        )
    return ""


def engine_settings(
    engine: Engine, accelerator: Accelerator, *, max_model_len: int, overrides: Mapping[str, object] | None = None
) -> EngineSettings:
    """Resolve the settings as the engine itself would for its server (`vllm serve`) on one accelerator.

    A limit nobody set is lowered so that the two agree: max_num_batched_tokens to max_num_seqs × max_model_len, then
    max_num_seqs to max_num_batched_tokens. A limit that was set is kept, or refused.

    Args:
        engine: the engine's version, with its defaults by memory.
        accelerator: where it runs.
        max_model_len: prompt and output together, in tokens.
        overrides: what is set, by the names of `EngineSettings`; `enforce_eager: true` turns CUDA graphs off.

    Raises:
        InputError: an unknown setting, one of the wrong type, or limits that contradict each other.
    """
    given = {name: _checked(name, value) for name, value in (overrides or {}).items()}
    if engine.gpu_memory_utilization is None:
        raise InputError(f"no source says what share of memory {engine.name} {engine.version} takes by default")
    eager = given.pop("enforce_eager", False)
    tier = _tier_of(engine, accelerator)
    seqs = given.get("max_num_seqs", tier.max_num_seqs)
    tokens = given.get("max_num_batched_tokens", min(tier.max_num_batched_tokens, seqs * max_model_len))
    if "max_num_batched_tokens" not in given and given.get("enable_chunked_prefill") is False:
        tokens = max(tokens, max_model_len)
    if "max_num_seqs" not in given:
        seqs = min(seqs, tokens)
    _check_limits(seqs, tokens, max_model_len, chunked=given.get("enable_chunked_prefill", True))
    limit = 0 if eager else graph_limit(engine, accelerator)
    settings = EngineSettings(
        max_num_seqs=seqs,
        max_num_batched_tokens=tokens,
        max_model_len=max_model_len,
        gpu_memory_utilization=engine.gpu_memory_utilization,
        block_size=engine.block_size,
        engine=engine.name,
        version=engine.version,
        **{flag: getattr(engine, flag) for flag in _FLAGS},
        cuda_graph_sizes=graph_sizes(limit, seqs, tokens),
    )
    return replace(settings, **(given | {"max_num_seqs": seqs, "max_num_batched_tokens": tokens}))


def _checked(name: str, value: object) -> Any:
    """Return the value of one override, its type checked by what it sets."""
    if name not in _SETTINGS:
        raise InputError(f"unknown engine setting {name!r}", hint=nearest(name, _SETTINGS))
    if name in _SWITCHES:
        return _typed(name, value, isinstance(value, bool), "true or false")
    if name == "cuda_graph_sizes":
        sizes = isinstance(value, (list, tuple)) and all(_is_count(size) for size in value)
        return tuple(sorted(set(_typed(name, value, sizes, "a list of whole numbers above zero"))))
    holds, expected = _CHECKS.get(name, (_is_count, "a whole number above zero"))
    return _typed(name, value, holds(value), expected)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


#: settings that are neither switches nor counts: what they must be
_CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "gpu_memory_utilization": (lambda value: _is_number(value) and 0 < value <= 1, "a fraction above 0, at most 1"),
    "watermark": (lambda value: _is_number(value) and 0 <= value < 1, "a fraction from 0, below 1"),
    "scheduling_policy": (lambda value: value in ("fcfs", "priority"), "fcfs or priority"),
    "long_prefill_token_threshold": (lambda value: value == 0 or _is_count(value), "a whole number from zero"),
}


def _typed(name: str, value: Any, holds: bool, expected: str) -> Any:  # noqa: FBT001 - the check's own answer
    if not holds:
        raise InputError(f"expected {expected}, got {value!r}", place=name)
    return value


def _tier_of(engine: Engine, accelerator: Accelerator) -> EngineTier:
    for tier in engine.tiers:
        named = any(word in accelerator.name for word in tier.unless)
        if accelerator.vendor in tier.vendors and accelerator.hbm_bytes >= tier.least_hbm_bytes and not named:
            return tier
    raise InputError(
        f"no source says what {engine.name} {engine.version} resolves on {accelerator.name}",
        hint="give a version of vllm, or an engine of your own with 'tiers'",
    )


def _check_limits(seqs: int, tokens: int, max_model_len: int, *, chunked: bool) -> None:
    """Refuse what vLLM's SchedulerConfig refuses."""
    if tokens < seqs:
        raise InputError(f"{tokens} is below max_num_seqs {seqs}", place="max_num_batched_tokens", hint="raise it")
    if not chunked and tokens < max_model_len:
        problem = f"{tokens} is below max_model_len {max_model_len}, and chunked prefill is off"
        raise InputError(problem, place="max_num_batched_tokens", hint="raise it, or leave chunked prefill on")


def graph_limit(engine: Engine, accelerator: Accelerator) -> int:
    """Return the largest batch the engine captures at most on this accelerator; 0: no graphs."""
    if accelerator.vendor == "cpu":
        return 0
    major = accelerator.compute_capability.partition(".")[0]
    return engine.cuda_graph_limit_by_capability.get(major, engine.cuda_graph_limit)


def graph_sizes(limit: int, max_num_seqs: int, max_num_batched_tokens: int) -> tuple[int, ...]:
    """Return the batch sizes vLLM captures by default.

    1, 2, 4, then every 8 below 256 and every 16 from there, up to min(2 · max_num_seqs, limit, max_num_batched_tokens);
    and, if they fit under it, max_num_seqs and max_num_batched_tokens themselves.

    Source: vLLM 0.33.0, `VllmConfig._set_cudagraph_sizes`.
    """
    most = min(2 * max_num_seqs, limit, max_num_batched_tokens)
    grid = {1, 2, 4, *range(8, 256, 8), *range(256, most + 1, 16), max_num_seqs, max_num_batched_tokens}
    return tuple(sorted(size for size in grid if size <= most))
