"""What a server tells about itself."""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from headway.errors import InputError, nearest
from headway.probe.address import base_of
from headway.probe.asking import Server
from headway.probe.nouns import Endpoint
from headway.probe.settings import DEFAULTS, Ledger, read, settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headway.probe.keys import Key

#: How the names of an engine's metrics begin.
_METRICS = {"vllm:": "vllm", "sglang:": "sglang", "llamacpp:": "llama-cpp", "tgi_": "tgi", "trtllm_": "tensorrt-llm"}
#: What the engines call themselves in /v1/models.
_OWNERS = {"vllm": "vllm", "sglang": "sglang", "llamacpp": "llama-cpp", "tensorrt_llm": "tensorrt-llm"}


def discover(
    url: str,
    *,
    model: str | None = None,
    key: Key | None = None,
    engine: str | None = None,
    overrides: Mapping[str, object] = MappingProxyType({}),
) -> Endpoint:
    """Ask a server what it is and how it was started.

    Args:
        url: its address, with or without `/v1`.
        model: which of its models; None: the only one.
        key: sent as a bearer token.
        engine: a key of `settings.DEFAULTS`, where it does not tell.
        overrides: settings it does not tell, by headway's or the engine's names; they go before what it tells.

    Raises:
        InputError: nobody answers, it is no OpenAI-compatible server or still loads, there is no such model, or there
            are several and none was named; an unknown engine or setting.
    """
    server = Server(base_of(url)[0], key)
    if engine is not None and engine not in DEFAULTS:
        raise InputError(f"there is no engine {engine!r}", place="engine", hint=nearest(engine, DEFAULTS))
    entry = _model(server, model)
    metrics = server.get("/metrics") or ""
    found = engine or _engine(server, entry, metrics)
    if overrides and not found:
        raise InputError("the engine is not known, nor what its settings are", place="engine", hint="name the engine")
    ledger = read(found, server, entry, metrics, overrides) if found else Ledger()
    version = _version(found, server)
    return Endpoint(
        url=server.url,
        engine=found,
        version=version,
        model=str(entry["id"]),
        settings=settings(found, version, ledger) if found else None,
        num_gpu_blocks=int(ledger.values.get("num_gpu_blocks", 0)),
        tokenizer=_tokenizer(found),
        metrics="# TYPE" in metrics,
        told=ledger.told,
        assumed=ledger.assumed,
    )


def _model(server: Server, wanted: str | None) -> dict[str, Any]:
    data = server.needed("/v1/models").get("data")
    listed = data if isinstance(data, list) else []
    known = {str(item["id"]): item for item in listed if isinstance(item, dict) and "id" in item}
    if not known:
        hint = "give the address of an OpenAI-compatible server"
        raise InputError("there is no model at /v1/models", file=server.url, hint=hint)
    if wanted is None and len(known) > 1:
        raise InputError(f"it serves {len(known)} models", file=server.url, hint=f"name one: {', '.join(known)}")
    name = next(iter(known)) if wanted is None else wanted
    if name not in known:
        raise InputError(f"it serves no model {name!r}", file=server.url, place="model", hint=nearest(name, known))
    return dict(known[name])


def _engine(server: Server, entry: Mapping[str, Any], metrics: str) -> str:
    for start, engine in _METRICS.items():
        if re.search(rf"^(# TYPE )?{start}", metrics, re.MULTILINE):
            return engine
    if owner := _OWNERS.get(str(entry.get("owned_by", "")).lower()):
        return owner
    if "total_slots" in server.told("/props"):
        return "llama-cpp"
    if "max_total_tokens" in server.told("/info"):
        return "tgi"
    return "sglang" if server.told("/get_model_info") else ""


def _version(engine: str, server: Server) -> str:
    route, name = {
        "llama-cpp": ("/props", "build_info"),
        "tgi": ("/info", "version"),
        "sglang": ("/get_server_info", "version"),
    }.get(engine, ("/version", "version"))
    said = server.told(route).get(name)
    return said if isinstance(said, str) else ""


def _tokenizer(engine: str) -> Literal["ids", ""]:
    """Say how prompts of exact length are made: TGI takes texts alone, of unknown servers nothing is known."""
    return "ids" if engine in ("vllm", "sglang", "llama-cpp", "tensorrt-llm") else ""
