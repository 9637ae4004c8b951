"""An engine's settings as its server tells them, over what the engine documents as default; nothing taken silently."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from headway.errors import InputError, nearest
from headway.types import EngineSettings, LlamaCppSettings, SglangSettings, TensorRtLlmSettings, TgiSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headway.probe.asking import Server


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """What an engine does where nobody says anything.

    Attributes:
        policy: its name among `headway.simulator.POLICIES`.
        own: the type of `EngineSettings.own`.
        values: setting -> default.
        why: where those are from.
        words: the engine's own name -> headway's.
    """

    policy: str
    own: type[Any]
    values: Mapping[str, Any]
    why: str
    words: Mapping[str, str] = field(default_factory=dict)


#: Of vLLM, where a server does not tell its version: the newest whose scheduler is known.
_NEWEST = "0.33.0"
_COMMON = {"block_size": 1, "gpu_memory_utilization": 1.0, "async_scheduling": False}
#: engine of an `Endpoint` -> its defaults. Of vLLM, the limits are those it resolves below 70 GiB of memory.
DEFAULTS = {
    "vllm": Defaults(
        policy="vllm",
        own=type(None),
        values={
            "max_num_seqs": 256,
            "max_num_batched_tokens": 2048,
            "gpu_memory_utilization": 0.92,
            "async_scheduling": True,
            "enable_chunked_prefill": True,
            "scheduler_reserve_full_isl": True,
        },
        why="vLLM 0.33's default for an accelerator below 70 GiB",
    ),
    "sglang": Defaults(
        policy="sglang",
        own=SglangSettings,
        values={**_COMMON, "max_num_seqs": 256, "max_num_batched_tokens": 8192, "async_scheduling": True},
        why="SGLang 0.5's default for an accelerator of 60 to 160 GiB",
        words={
            "max_running_requests": "max_num_seqs",
            "effective_max_running_requests_per_dp": "max_num_seqs",
            "page_size": "block_size",
            "context_length": "max_model_len",
            "mem_fraction_static": "gpu_memory_utilization",
        },
    ),
    "tensorrt-llm": Defaults(
        policy="tensorrt-llm",
        own=TensorRtLlmSettings,
        values={"max_num_seqs": 2048, "max_num_batched_tokens": 8192, "block_size": 32, "gpu_memory_utilization": 0.9},
        why="TensorRT-LLM's documented default",
        words={
            "max_batch_size": "max_num_seqs",
            "max_num_tokens": "max_num_batched_tokens",
            "tokens_per_block": "block_size",
            "enable_block_reuse": "enable_prefix_caching",
        },
    ),
    "tgi": Defaults(
        policy="tgi",
        own=TgiSettings,
        values={**_COMMON, "max_num_seqs": 128, "max_num_batched_tokens": 4096},
        why="TGI's documented default (max_concurrent_requests, max_batch_prefill_tokens)",
        words={
            "max_batch_size": "max_num_seqs",
            "max_batch_prefill_tokens": "max_num_batched_tokens",
            "max_total_tokens": "max_model_len",
        },
    ),
    "llama-cpp": Defaults(
        policy="llama.cpp",
        own=LlamaCppSettings,
        values={**_COMMON, "max_num_seqs": 1, "max_num_batched_tokens": 2048},
        why="llama-server's default; one token is one cell",
        words={
            "parallel": "max_num_seqs",
            "n_parallel": "max_num_seqs",
            "batch_size": "max_num_batched_tokens",
            "n_batch": "max_num_batched_tokens",
            "cache_prompt": "enable_prefix_caching",
        },
    ),
}


#: SGLang's switches that turn something off -> what
_SWITCHES = {"disable_radix_cache": "enable_prefix_caching", "disable_overlap_schedule": "async_scheduling"}


#: setting -> its type; those of one name in several engines have one type
_KINDS = {
    entry.name: str(entry.type).removesuffix(" | None")
    for kind in (EngineSettings, SglangSettings, TensorRtLlmSettings, TgiSettings, LlamaCppSettings)
    for entry in fields(kind)
} | {"num_gpu_blocks": "int"}
#: The least a server may say where that is not 0 (SGLang's chunked_prefill_size: -1 is none).
_LEAST = dict.fromkeys(("max_num_seqs", "max_num_batched_tokens", "max_model_len", "block_size", "num_gpu_blocks"), 1)
_LEAST |= {"pipeline_parallel_size": 1, "chunked_prefill_size": -1}


@dataclass(slots=True)
class Ledger:
    """What is known so far: setting -> value, and where it is from."""

    values: dict[str, Any] = field(default_factory=dict)
    told: dict[str, str] = field(default_factory=dict)
    assumed: dict[str, str] = field(default_factory=dict)

    def tell(self, route: str, **values: object) -> None:
        """Note what a route says; None says nothing, and who spoke first is kept."""
        for name, value in values.items():
            if value is not None and name not in self.values:
                self.values[name], self.told[name] = value, route

    def hear(self, route: str, **values: object) -> None:
        """Note what a server's route says, as far as it is what such a setting may be."""
        self.tell(route, **{name: _heard(name, value) for name, value in values.items()})

    def hear_words(self, engine: str, route: str, said: Mapping[str, Any]) -> None:
        """Note what it says in the engine's own names, the last of those that mean the same going first."""
        for word, name in reversed(list(DEFAULTS[engine].words.items())):
            self.hear(route, **{name: said.get(word)})
        self.hear(route, **{name: said.get(name) for name in _own(engine)})

    def assume(self, why: str, **values: object) -> None:
        """Note what nobody said."""
        for name, value in values.items():
            if name not in self.values:
                self.values[name], self.assumed[name] = value, why


def read(
    engine: str, server: Server, models: Mapping[str, Any], metrics: str, overrides: Mapping[str, object]
) -> Ledger:
    """Return what a server tells of its settings, what the user says going first.

    Args:
        engine: a key of `DEFAULTS`.
        server: to ask.
        models: the entry of the model in `/v1/models`.
        metrics: its `/metrics`.
        overrides: by the names of `EngineSettings`, of its `own`, `num_gpu_blocks`, or the engine's own names.

    Raises:
        InputError: an unknown setting, or a value it cannot have.
    """
    ledger = Ledger()
    for name, value in overrides.items():
        ledger.tell("given", **_given(engine, name, value))
    ledger.hear("/v1/models", max_model_len=models.get("max_model_len"))
    {"vllm": _vllm, "sglang": _sglang, "tgi": _tgi, "llama-cpp": _llama_cpp}.get(engine, _nothing)(
        ledger, server, metrics
    )
    defaults = DEFAULTS[engine]
    ledger.assume(f"the server does not tell: {defaults.why}", **defaults.values)
    return ledger


def settings(engine: str, version: str, ledger: Ledger) -> EngineSettings | None:
    """Build the settings; None where not even the length of a sequence is known."""
    if "max_model_len" not in ledger.values:
        return None
    defaults, common = DEFAULTS[engine], {entry.name for entry in fields(EngineSettings)}
    given = {name: value for name, value in ledger.values.items() if name in common}
    own = {name: value for name, value in ledger.values.items() if name in _own(engine)}
    built = EngineSettings(engine=defaults.policy, version=_number(version, defaults.policy), **given)
    return replace(built, own=defaults.own(**own) if defaults.own is not type(None) else None)


def offline(
    engine: str, version: str, overrides: Mapping[str, object], over: EngineSettings | None = None
) -> tuple[EngineSettings, int]:
    """Build the settings of a server that cannot be asked, and the KV blocks given (0: none were).

    Args:
        engine: a key of `DEFAULTS`, or a policy's name.
        version: as the engine says it.
        overrides: as `read` takes them.
        over: what holds where nothing is given; the engine's defaults if None.

    Raises:
        InputError: an unknown engine or setting, a value it cannot have, or no length of a sequence.
    """
    name = next((key for key, one in DEFAULTS.items() if engine in (key, one.policy)), None)
    if name is None:
        raise InputError(f"there is no engine {engine!r}", place="--engine", hint=nearest(engine, DEFAULTS))
    ledger = Ledger()
    for key, value in overrides.items():
        ledger.tell("given", **_given(name, key, value))
    blocks = int(ledger.values.pop("num_gpu_blocks", 0))
    if over is not None:
        own = {key: value for key, value in ledger.values.items() if key in _own(name)}
        rest = {key: value for key, value in ledger.values.items() if key not in own}
        kept = replace(over, **rest)
        return (replace(kept, own=replace(kept.own, **own)) if own and kept.own is not None else kept), blocks
    ledger.assume(DEFAULTS[name].why, **DEFAULTS[name].values)
    built = settings(name, version, ledger)
    if built is None:
        raise InputError("how long a sequence may get is not known", place="--set", hint="--set max_model_len=8192")
    return built, blocks


def _own(engine: str) -> set[str]:
    own = DEFAULTS[engine].own
    return {entry.name for entry in fields(own)} if own is not type(None) else set()


def _known(engine: str, name: str) -> str:
    word = DEFAULTS[engine].words.get(name, name)
    names = {entry.name for entry in fields(EngineSettings)} - {"engine", "own", "version"} | _own(engine)
    if word not in names | {"num_gpu_blocks"}:
        raise InputError(f"{engine} has no such setting", place=name, hint=nearest(name, names))
    return word


#: type -> what is expected of a value, in words
_EXPECTED = {"bool": "true or false", "int": "a whole number of at least {least}", "str": "a word"}


def _given(engine: str, name: str, value: object) -> dict[str, object]:
    """Return what a user says of a setting, text or not, under headway's name and as the type it has.

    Raises:
        InputError: there is no such setting, or it cannot have this value.
    """
    known = _known(engine, name)
    kind, least = _KINDS[known], _LEAST.get(known, 0)
    found = _heard(known, str(value).capitalize() if kind == "bool" else value)
    if found is None:
        expected = _EXPECTED.get(kind, "a number of at least {least}").format(least=least)
        raise InputError(f"expected {expected}, got {value!r}", place=f"--set {name}")
    return {known: found}


def _number(version: str, policy: str) -> str:
    """Return a version as the policies compare it; the newest known of vLLM where the server does not tell."""
    found = re.match(r"\d+(\.\d+)+", version)
    if found:
        return found[0]
    return _NEWEST if policy == "vllm" else version


def _vllm(ledger: Ledger, server: Server, metrics: str) -> None:
    whole = _mapping(server.told("/server_info?config_format=json").get("vllm_config"))
    parts = _mapping(whole.get("scheduler_config"))  # a server in development mode tells everything
    names = ("max_num_seqs", "max_num_batched_tokens", "async_scheduling", "enable_chunked_prefill")
    more = ("scheduler_reserve_full_isl", "long_prefill_token_threshold")
    ledger.hear("/server_info", **{name: parts.get(name) for name in (*names, *more)})
    labels = _cache_labels(metrics)
    told = ("block_size", "num_gpu_blocks", "enable_prefix_caching", "gpu_memory_utilization")
    ledger.hear("/metrics", **{name: labels.get(name) for name in told})


def _cache_labels(metrics: str) -> Mapping[str, str]:
    """Return what vLLM says of its cache as labels of a metric; nothing where that line cannot be read."""
    from prometheus_client.parser import text_string_to_metric_families

    info = re.search(r"^vllm:cache_config_info\{.*$", metrics, re.MULTILINE)
    try:
        return dict(next(iter(text_string_to_metric_families(info[0] + "\n"))).samples[0].labels) if info else {}
    except (ValueError, LookupError, StopIteration):
        return {}


def _sglang(ledger: Ledger, server: Server, metrics: str) -> None:
    del metrics
    route = "/server_info"
    said = server.told(route) or server.told(route := "/get_server_info")
    states = said.get("internal_states")
    state = _mapping(states[0]) if isinstance(states, list) and states else {}
    flat = {**state, **{k: v for k, v in said.items() if v is not None}}
    ledger.hear_words("sglang", route, flat)
    ledger.hear(route, max_num_batched_tokens=flat.get("max_prefill_tokens"))
    for switch, name in _SWITCHES.items():
        if isinstance(off := flat.get(switch), bool):
            ledger.hear(route, **{name: not off})
    if tokens := _whole(flat.get("max_total_num_tokens")):
        ledger.hear(route, num_gpu_blocks=tokens // int(ledger.values.get("block_size") or 1))


def _tgi(ledger: Ledger, server: Server, metrics: str) -> None:
    del metrics
    said = server.told("/info")
    ledger.hear_words("tgi", "/info", said)
    # TGI keeps one of its blocks for itself (`TgiSettings`)
    if tokens := _whole(said.get("max_batch_total_tokens")):
        ledger.hear("/info", num_gpu_blocks=tokens - 1)


def _llama_cpp(ledger: Ledger, server: Server, metrics: str) -> None:
    """Read llama-server's `/props`, which answers with and without `--props`.

    Its `/slots` is not asked: the number of slots is `total_slots`, all are of one `n_ctx`, that of `/props`, also
    where they share one buffer, and the rest is the state of a moment (xllamacpp 2026.10.11549; a test holds it to
    that).
    """
    del metrics
    props = server.told("/props")
    length = _heard("max_model_len", _mapping(props.get("default_generation_settings")).get("n_ctx"))
    ledger.hear("/props", max_num_seqs=props.get("total_slots"), max_model_len=length)
    ledger.tell("asked for with every request (cache_prompt)", enable_prefix_caching=True)
    if length and "max_num_seqs" in ledger.values:
        why = "slots × the context of a slot from /props; whether they share one buffer (kv-unified) it does not tell"
        ledger.assume(why, num_gpu_blocks=ledger.values["max_num_seqs"] * length)


def _nothing(ledger: Ledger, server: Server, metrics: str) -> None:
    del ledger, server, metrics


# --- what a server may say ---------------------------------------------------------------------------------------


def _heard(name: str, value: object) -> Any:
    """Return a value as the setting's type has it, None where the server says something else."""
    kind, least = _KINDS[name], _LEAST.get(name, 0)
    if kind == "bool":
        return {"True": True, "False": False}.get(str(value))
    if kind == "str":
        return value if isinstance(value, str) else None
    number = _whole(value) if kind == "int" else _real(value)
    return number if number is not None and least <= number < math.inf else None


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _whole(value: object) -> int | None:
    try:
        return int(str(value))
    except ValueError:
        return None


def _real(value: object) -> float | None:
    try:
        return float(str(value))
    except ValueError:
        return None
