"""From names to a pool: what a user chooses, over what a scenario and the engine leave to default."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar, get_args

from headway.errors import InputError, nearest
from headway.types import Dtype, Parallelism, Pool

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from headway.catalog import Catalog
    from headway.perf import EndpointCalibration
    from headway.scenario import Scenario
    from headway.types import Accelerator, Engine, EngineSettings, Model

    Noun = TypeVar("Noun", Accelerator, Model)

DTYPES: tuple[Dtype, ...] = get_args(Dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What one replica is made of, as a user names it; None leaves it to the scenario, then to the engine or model.

    Args:
        model: a name of the catalogue.
        accelerator: a name of the catalogue.
        engine: `vllm`, or `vllm@0.33.0`.
        tp: tensor-parallel size; pp, dp likewise.
        expert_parallel: spread experts over all GPUs of the replica.
        weight_dtype: number format of the weights; as published if None.
        kv_dtype: number format of the KV cache.
        settings: engine settings by the engine's names.
        curves: a file of kernel curves (`headway calibrate ops` writes one), or `perfdb`, before headway's own.
        calibration: of an endpoint, by name or file: it is what a replica is, and what the others say must agree.
    """

    model: str | None = None
    accelerator: str | None = None
    engine: str | None = None
    tp: int = 1
    pp: int = 1
    dp: int = 1
    expert_parallel: bool = False
    weight_dtype: str | None = None
    kv_dtype: str = "bf16"
    settings: Mapping[str, object] = field(default_factory=dict)
    curves: str | None = None
    calibration: str | None = None


def chosen_model(choice: Choice, catalog: Catalog, scenario: Scenario | None) -> Model:
    """Return the model: the one named, or the scenario's only one.

    Raises:
        InputError: unknown, or none is named and the scenario has several (or there is no scenario).
    """
    if choice.model is not None:
        named = {m.name.casefold(): m for m in scenario.models} if scenario else {}
        return named.get(choice.model.casefold()) or catalog.model(choice.model)
    return _only(scenario.models if scenario else (), "model")


def build_pool(
    choice: Choice,
    *,
    catalog: Catalog,
    scenario: Scenario | None = None,
    max_model_len: int | None = None,
    replicas: int = 1,
) -> Pool:
    """Resolve a choice: names in the catalogue, settings as the engine itself would resolve them.

    Args:
        choice: what the user chose.
        catalog: where names are looked up.
        scenario: what is left out of the choice is taken from it, where it allows exactly one.
        max_model_len: prompt and output together; the choice's own setting goes before it, the model's limit after.
        replicas: equal ones of it.

    Raises:
        InputError: a name is unknown, something is left open, or the engine does not take the combination.
    """
    source = _endpoint(choice, scenario, catalog)
    if source is not None:
        return _measured_pool(choice, source, catalog, replicas=_count(replicas, "replicas"))
    model = chosen_model(choice, catalog, scenario)
    accelerator = _accelerator(choice, catalog, scenario)
    if not accelerator.peak_flops_per_s:
        hint = "leave out what the calibration is not of: tp, pp, dp, number formats, engine"
        raise InputError(f"{accelerator.name} is known by a calibration alone", place="accelerator", hint=hint)
    engine = _engine(choice, catalog, scenario)
    weight_dtype = _dtype(choice.weight_dtype or model.weight_dtype, "weight_dtype")
    _check_taken(engine, accelerator, weight_dtype)
    return Pool(
        name="main",
        model=model,
        accelerator=accelerator,
        engine=engine.name,
        engine_version=engine.version,
        settings=_settings(choice, scenario, engine, accelerator, max_model_len or model.max_position_embeddings),
        parallelism=_parallelism(choice),
        weight_dtype=weight_dtype,
        kv_dtype=_dtype(choice.kv_dtype, "kv_dtype"),
        replicas=_count(replicas, "replicas"),
        curves=_curves(choice, accelerator, scenario),
    )


def _endpoint(choice: Choice, scenario: Scenario | None, catalog: Catalog) -> str | None:
    """Return the calibration a choice rests on: its own, or the scenario's one that is of what is chosen."""
    if choice.calibration is not None:
        return choice.calibration
    from headway.perf import known_endpoint

    for source in scenario.endpoints if scenario else ():
        if not _against(choice, known_endpoint(source), catalog):
            return source
    return None


def _against(choice: Choice, found: EndpointCalibration, catalog: Catalog) -> str:
    """Return which word of a choice the calibration is not of; empty where it says nothing against it."""
    from headway.perf import is_called

    model, accelerator = catalog.model(found.model), catalog.accelerator(found.hardware)
    if choice.model is not None and not is_called(model, choice.model):
        return "model"
    if choice.accelerator is not None and not is_called(accelerator, choice.accelerator):
        return "accelerator"
    named = {
        "engine": (choice.engine and choice.engine.partition("@")[0], found.engine),
        "weight_dtype": (choice.weight_dtype, found.weight_dtype),
        "tp": (choice.tp if choice.tp > 1 else None, found.tp),
        "kv_dtype": (choice.kv_dtype if choice.kv_dtype != "bf16" else None, found.kv_dtype),
        "pp": (choice.pp, 1),
        "dp": (choice.dp, 1),
        "curves": (choice.curves, None),
    }
    for place, (one, other) in named.items():
        if one is not None and str(one).casefold() != str(other).casefold():
            return place
    return ""


def _measured_pool(choice: Choice, source: str, catalog: Catalog, *, replicas: int) -> Pool:
    """Return a pool of a calibrated endpoint.

    Raises:
        InputError: the choice names something else than was measured, or a setting that cannot be moved.
    """
    from headway.perf import endpoint_pool, known_endpoint

    found = known_endpoint(source)
    if place := _against(choice, found, catalog):
        raise InputError(f"the calibration {found.name} is of {_measured_words(found)}", place=place)
    for name, value in choice.settings.items():
        kind = _MOVABLE.get(name)
        if kind is None:
            raise InputError(
                f"{name} is as the calibration {found.name} ran it", hint=f"may be set: {', '.join(_MOVABLE)}"
            )
        if type(value) is not kind or (kind is int and int(str(value)) < 1):
            raise InputError(f"expected {'true or false' if kind is bool else 'a whole number above zero'}", place=name)
    model, accelerator = catalog.model(found.model), catalog.accelerator(found.hardware)
    return endpoint_pool(source, model, accelerator, replicas=replicas, **choice.settings)


#: Settings that a calibration's step table covers as far as was measured.
_MOVABLE: dict[str, type] = {"max_num_seqs": int, "max_num_batched_tokens": int, "enable_prefix_caching": bool}


def _measured_words(found: EndpointCalibration) -> str:
    formats = f"{found.weight_dtype} weights and {found.kv_dtype} KV"
    return f"{found.engine}, {found.model} on TP{found.tp} {found.hardware}, {formats}"


def _accelerator(choice: Choice, catalog: Catalog, scenario: Scenario | None) -> Accelerator:
    if choice.accelerator is not None:
        return catalog.accelerator(choice.accelerator)
    return _only(scenario.allow.accelerators if scenario else (), "accelerator")


def _curves(choice: Choice, accelerator: Accelerator, scenario: Scenario | None) -> str:
    """Return the curves chosen; those of a choice must be of the accelerator, those of a scenario need not."""
    from headway.perf import own_curves

    if choice.curves is None:
        return scenario.curves.get(accelerator.name, "") if scenario else ""
    own_curves(choice.curves, accelerator)
    return choice.curves


def _engine(choice: Choice, catalog: Catalog, scenario: Scenario | None) -> Engine:
    if choice.engine is None and scenario is not None:
        return scenario.allow.engines[0]
    name, _, version = (choice.engine or "vllm").partition("@")
    return catalog.engine(name, version or None)


def _settings(
    choice: Choice, scenario: Scenario | None, engine: Engine, accelerator: Accelerator, longest: int
) -> EngineSettings:
    from headway.catalog import engine_settings

    given = dict(scenario.settings if scenario else {}) | dict(choice.settings)
    length = given.pop("max_model_len", longest)
    if not isinstance(length, int) or isinstance(length, bool) or length < 2:
        raise InputError(f"expected at least 2 tokens, got {length!r}", place="max_model_len")
    return engine_settings(engine, accelerator, max_model_len=length, overrides=given)


def _only(found: Sequence[Noun], what: str) -> Noun:
    if len(found) == 1:
        return found[0]
    names = ", ".join(noun.name for noun in found[:6])
    problem = f"the scenario allows several: {names}" if found else "none is named"
    raise InputError(problem, place=what, hint=f"choose one with --{what}")


def _dtype(name: str, place: str) -> Dtype:
    if name not in DTYPES:
        raise InputError(f"unknown number format {name!r}", place=place, hint=nearest(name, DTYPES))
    return name


def _parallelism(choice: Choice) -> Parallelism:
    tp, pp, dp = (_count(getattr(choice, name), name) for name in ("tp", "pp", "dp"))
    return Parallelism(tp=tp, pp=pp, dp=dp, ep=tp * dp if choice.expert_parallel else 1)


def _count(value: int, place: str) -> int:
    if value < 1:
        raise InputError(f"expected at least 1, got {value}", place=place)
    return value


def _check_taken(engine: Engine, accelerator: Accelerator, weight_dtype: Dtype) -> None:
    from headway.catalog import accepts

    if reason := accepts(engine, accelerator, weight_dtype):
        raise InputError(reason, place="weight_dtype" if weight_dtype in reason else "accelerator")
