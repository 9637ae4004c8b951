"""`calibrate endpoint` and `calibrate fit`: a model of a user's own server, from what it was seen to do."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from headway.api.endpoint_checks import about_of, checked_part, kept_folder
from headway.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from headway.calibration.design import Proposal
    from headway.calibration.fitting import Fit
    from headway.calibration.runs import Run
    from headway.perf.endpoint import EndpointCalibration
    from headway.probe.keys import Key
    from headway.probe.nouns import Endpoint, Sent
    from headway.types import EngineSettings, Requests

#: How long measuring takes unless told otherwise.
BUDGET_S = 300.0
_LEAST_BUDGET_S = 30.0
#: Lengths sent where nobody gives traffic: prompts and answers spread evenly over their logarithms between these.
_ISL_TOKENS, _OSL_TOKENS = (16, 512), (8, 64)
#: Requests drawn: more than any run sends.
_REQUESTS = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class NextRun:
    """A run that would tell more."""

    name: str
    clients: int
    requests: int
    isl_mean_tokens: float
    osl_mean_tokens: float
    duration_s: float
    gain_frac: float  # by which share the bands of the terms get narrower


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibrated:
    """A calibration, and what would make it better."""

    calibration: EndpointCalibration
    file: str
    endpoint: Endpoint | None  # None: fitted to files
    scatter_frac: tuple[float, float]  # of TTFT and TPOT of single requests around the fit
    next_runs: tuple[NextRun, ...]
    async_scheduling: str  # what told it, where the server did not; empty: the server, or whoever calibrates
    granted: tuple[str, ...]  # what was taken for granted of runs that are known in figures alone
    warnings: tuple[str, ...]  # of the runs: what failed, where the client may have been the limit, what was left out
    interrupted: bool  # somebody stopped measuring; what was measured by then was used


def calibrate_endpoint(
    url: str,
    file: str | Path,
    *,
    name: str | None = None,
    hardware: str = "unnamed",
    source: str | Path | None = None,
    budget_s: float = BUDGET_S,
    keep: str | Path | None = None,
    model: str | None = None,
    engine: str | None = None,
    settings: Mapping[str, object] = MappingProxyType({}),
    key: Key | None = None,
    allow_public: bool = False,
    isl_frac: float = 1.0,
    osl_frac: float = 1.0,
    tp: int = 1,
    weight_dtype: str = "bf16",
    kv_dtype: str = "bf16",
    seed: int = 0,
    progress: Callable[[str, int, int], None] = lambda _what, _done, _of: None,
) -> Calibrated:
    """Measure an OpenAI-compatible endpoint with a few designed runs, and fit a model of it.

    Args:
        url: where it is, with or without `/v1`.
        file: where the calibration goes, ends in `.yaml`; it appears whole or not at all.
        name: what planner and simulator will call it; the file's name if None.
        hardware: what the server runs on, by its name in the catalogue or any other.
        source: traffic whose lengths are sent: a scenario, a trace or `profile:NAME`; a spread of lengths if None.
        budget_s: when to be done measuring.
        keep: a new or empty folder for the requests of every run, each a folder that `calibrate_fit` reads and that is
            there as soon as the run has ended; they are not kept if None.
        model: which of its models; the only one if None.
        engine: where it does not tell.
        settings: of its engine, that it does not tell, by the engine's names.
        key: sent as a bearer token; never shown or stored.
        allow_public: whether an address that is neither loopback nor private may be sent to.
        isl_frac: lengths of prompts are multiplied by it,
        osl_frac: and those of outputs.
        tp: tensor-parallel size it runs with.
        weight_dtype: number format of its weights,
        kv_dtype: and of its KV cache.
        seed: of the prompts.
        progress: told what is measured, how many runs are done, and of how many.

    Raises:
        InputError: something given is wrong, nobody answers there, or its engine is not known.
        EvidenceError: too little was answered, or too much failed.
    """
    from headway.api.replays import live

    live()
    from headway.calibration.choosing import ENGINE
    from headway.calibration.measuring import Measuring, measure
    from headway.probe.address import checked_address
    from headway.probe.endpoint import discover

    if not budget_s >= _LEAST_BUDGET_S:
        raise InputError(f"expected at least {_LEAST_BUDGET_S:g} s, got {budget_s:g} s", place="--budget")
    about = about_of(file, name, hardware, tp, weight_dtype, kv_dtype)
    kept = None if keep is None else kept_folder(keep)
    checked_address(url, allow_public=allow_public)
    endpoint = discover(url, model=model, key=key, engine=engine, overrides=settings)
    found = _settings_of(endpoint)
    blocks = endpoint.num_gpu_blocks or _room(found)
    traffic = _fitting(endpoint, _lengths(source, isl_frac, osl_frac, found.max_model_len, seed))
    plan = Measuring(
        endpoint=endpoint,
        num_gpu_blocks=blocks,
        traffic=traffic,
        budget_s=budget_s,
        key=key,
        allow_public=allow_public,
        seed=seed,
        progress=progress,
        ended=(lambda _number, _sent: None) if kept is None else functools.partial(_keep, kept),
    )
    taken = measure(plan)
    about |= {"engine": found.engine, "engine_version": endpoint.version, "model": _name_of(endpoint.model)}
    untold = found.engine == ENGINE and "async_scheduling" in endpoint.assumed
    made = _calibrated(taken.runs, found, blocks, about, file, progress, plan=plan, untold=untold)
    return replace(made, warnings=taken.warnings, interrupted=taken.stopped)


def calibrate_fit(
    runs: Iterable[str | Path],
    file: str | Path,
    *,
    like: str | Path | None = None,
    name: str | None = None,
    hardware: str | None = None,
    engine: str | None = None,
    engine_version: str = "",
    model: str | None = None,
    settings: Mapping[str, object] = MappingProxyType({}),
    tp: int | None = None,
    weight_dtype: str | None = None,
    kv_dtype: str | None = None,
    part: int | None = None,
    osl_tokens: float | None = None,
    progress: Callable[[str, int, int], None] = lambda _what, _done, _of: None,
) -> Calibrated:
    """Fit a model of an endpoint to saved runs: their requests, a load generator's summary, or the server's metrics.

    Args:
        runs: files or folders of `headway replay --out`; results or summaries of AIPerf, GuideLLM or `vllm bench
            serve`; `metrics.parquet` of a replay, or a saved answer of Prometheus to a range query.
        file: where the calibration goes, ends in `.yaml`; it appears whole or not at all.
        like: a calibration of the same server: its engine, settings and names hold where nothing else is said.
        name: what planner and simulator will call it; the file's name if None.
        hardware: what the server ran on.
        engine: whose scheduler: `vllm`, `llama.cpp`, …
        engine_version: its version.
        model: the model's name.
        settings: of its engine, by its names or headway's, and `num_gpu_blocks` (else room for all seats in full).
        tp: tensor-parallel size.
        weight_dtype: of the weights.
        kv_dtype: of the KV cache.
        part: which of several benchmarks in a file, from 1.
        osl_tokens: mean output length, for metrics of llama-server, which counts no requests.
        progress: told what is done, and how far it is.

    Raises:
        InputError: a file cannot be read, the server is not described well enough, or what it answered could not have
            been under the settings.
        EvidenceError: too few requests were answered, too many failed, or no window of the metrics had a steady load.
    """
    from headway.api.replays import live

    live()
    from headway.calibration.choosing import ENGINE
    from headway.calibration.evidence import read_runs
    from headway.calibration.runnable import check_runnable
    from headway.perf.endpoint_reader import read_calibration

    checked_part(part, osl_tokens)
    known = None if like is None else read_calibration(like)
    found, blocks = _described(known, engine, engine_version, settings)
    about = about_of(
        file,
        name,
        hardware or (known.hardware if known else "unnamed"),
        (known.tp if known else 1) if tp is None else tp,
        weight_dtype or (known.weight_dtype if known else "bf16"),
        kv_dtype or (known.kv_dtype if known else "bf16"),
    )
    about |= {"engine": found.engine, "engine_version": engine_version or (known.engine_version if known else "")}
    about |= {"model": model or (known.model if known else "unnamed")}
    most = found.max_model_len
    asked: dict[str, Any] = {"part": part, "osl_tokens": osl_tokens, "engine": found.engine}
    read = [run for path in runs for run in read_runs(path, most, **asked)]
    if not read:
        raise InputError("expected at least one run", place="RUN")
    check_runnable(read, found, blocks)
    untold = found.engine == ENGINE and known is None and "async_scheduling" not in settings
    made = _calibrated(read, found, blocks, about, file, progress, untold=untold)
    faults = ((run.name, count, why) for run in read for why, count in run.faults.items())
    return replace(made, warnings=tuple(f"{name}: {count:,} × {why}" for name, count, why in faults))


def _keep(folder: Path, number: int, sent: Sent) -> None:
    """Write the requests of a run; its folder appears whole or not at all."""
    from headway.calibration.clients import write_clients
    from headway.workload import write_trace

    name = f"{number:02d}-{sent.load.name.replace(' ', '-').replace('#', '')}"
    part = folder / f".{name}.part"
    part.mkdir()
    write_trace(sent.trace, part / "requests.parquet")
    write_clients(part, sent.load)
    part.rename(folder / name)


# --- parts of both ---------------------------------------------------------------------------------------


def _name_of(model: str) -> str:
    """Return a model's name; llama-server serves one without an alias under the path of its file."""
    return Path(model).stem if model.endswith(".gguf") else model


def _settings_of(endpoint: Endpoint) -> EngineSettings:
    if endpoint.settings is None:
        raise InputError("its engine is not known", file=endpoint.url, hint="name it: --engine vllm, llama-cpp, …")
    return endpoint.settings


def _room(settings: EngineSettings) -> int:
    """Return KV blocks for every seat at full length, where nobody tells how many there are."""
    return settings.max_num_seqs * -(-settings.max_model_len // settings.block_size)


def _lengths(source: str | Path | None, isl_frac: float, osl_frac: float, max_model_len: int, seed: int) -> Requests:
    """Return requests with the lengths to send."""
    import numpy as np

    from headway.probe.loads import scaled_lengths
    from headway.types import Requests
    from headway.workload.recorded import repeat

    if source is None:
        rng = np.random.default_rng(seed)
        isl, osl = (
            np.exp(rng.uniform(np.log(low), np.log(high), _REQUESTS)).astype(np.int64)
            for low, high in (_ISL_TOKENS, _OSL_TOKENS)
        )
        found = Requests(arrive_s=np.zeros(_REQUESTS), isl_tokens=isl, osl_tokens=osl)
    else:
        from headway.api.paces import Pace, traffic_of

        found = traffic_of(source, Pace(), requests=None, window_s=None, seed=seed).requests
        found = repeat(found, np.zeros(_REQUESTS)) if len(found) < _REQUESTS else found
    found = replace(found, prefix=None, session_id=None)
    scaled = scaled_lengths(found, isl_frac=isl_frac, osl_frac=osl_frac)
    most = max(max_model_len - 2, 2)
    osl = np.minimum(scaled.osl_tokens, most // 2)
    return replace(scaled, osl_tokens=osl, isl_tokens=np.minimum(scaled.isl_tokens, most - osl))


def _fitting(endpoint: Endpoint, requests: Requests) -> Requests:
    import numpy as np

    from headway.probe.prompts import fitting
    from headway.workload import take

    kept, _ = fitting(endpoint, requests)
    taken: Requests = take(requests, np.flatnonzero(kept))
    return taken


def _described(
    known: EndpointCalibration | None, engine: str | None, engine_version: str, settings: Mapping[str, object]
) -> tuple[EngineSettings, int]:
    """Return settings and KV blocks of a server that is not asked: a calibration's, or the defaults, with changes."""
    from headway.probe.settings import offline

    if engine is None and known is None:
        raise InputError("which engine it was is not known", place="--engine", hint="--engine vllm, or --like FILE")
    over = known.settings if known is not None and engine is None else None
    found, blocks = offline(over.engine if over else str(engine), engine_version, settings, over)
    if over is not None and known is not None and not blocks:
        return found, known.num_gpu_blocks
    return found, blocks or _room(found)


def _calibrated(
    runs: list[Run],
    settings: EngineSettings,
    num_gpu_blocks: int,
    about: Mapping[str, str],
    file: str | Path,
    progress: Callable[[str, int, int], None],
    *,
    plan: object = None,
    untold: bool = False,
) -> Calibrated:
    """Fit, judge, write, and say what to run next; `untold`: nobody said whether steps are scheduled asynchronously."""
    from headway.calibration.choosing import likelier
    from headway.calibration.fitting import fit
    from headway.calibration.judging import judge
    from headway.perf.endpoint_writer import write_calibration

    def fitting(done: int, of: int) -> None:
        progress("fitting", done, of)

    if untold:
        settings, found, told = likelier(runs, settings, num_gpu_blocks, progress=fitting)
    else:
        found, told = fit(runs, settings, num_gpu_blocks, progress=fitting), ""
    judged = judge(
        found,
        runs,
        settings,
        num_gpu_blocks,
        about=about,
        progress=lambda done, of: progress("runs left out in turn", done, of),
    )
    write_calibration(file, judged)
    proposals, endpoint = _proposals(plan, runs, found, settings, num_gpu_blocks)
    return Calibrated(
        calibration=judged,
        file=str(file),
        endpoint=endpoint,
        scatter_frac=found.scatter,
        next_runs=tuple(map(_told, proposals)),
        async_scheduling=told,
        granted=_granted(runs),
        warnings=(),
        interrupted=False,
    )


def _granted(runs: list[Run]) -> tuple[str, ...]:
    """Say what was taken for granted, and of which runs."""
    names: dict[str, list[str]] = {}
    for run in runs:
        for note in run.stated.notes if run.stated else ():
            names.setdefault(note, []).append(run.name)
    return tuple(f"{note}: {', '.join(of)}" for note, of in names.items())


def _proposals(
    plan: object, runs: list[Run], found: Fit, settings: EngineSettings, num_gpu_blocks: int
) -> tuple[list[Proposal], Endpoint | None]:
    from headway.calibration.design import candidates, propose
    from headway.calibration.measuring import Measuring, next_runs

    if isinstance(plan, Measuring):
        return next_runs(plan, runs, most=3, found=found), plan.endpoint
    longest = max(runs, key=len)
    traffic = replace(longest.requests, prefix=None, session_id=None)
    choices = candidates(traffic, settings, seconds=60.0, found=found, blocks=num_gpu_blocks)
    wanted = [load for load in choices if not load.name.endswith(("short", "long"))]
    return (propose(found, wanted, choices, settings, num_gpu_blocks) if wanted else []), None


def _told(one: Proposal) -> NextRun:
    requests = one.load.requests
    return NextRun(
        name=one.load.name,
        clients=one.load.concurrency or 0,
        requests=len(requests),
        isl_mean_tokens=float(requests.isl_tokens.mean()),
        osl_mean_tokens=float(requests.osl_tokens.mean()),
        duration_s=one.duration_s,
        gain_frac=one.gain_frac,
    )
