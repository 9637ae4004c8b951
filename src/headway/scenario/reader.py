"""Reads a scenario file; every refusal names file, line and key path."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast, get_args

from headway.catalog.prices import TERMS
from headway.errors import InputError, nearest
from headway.reading import parse_yaml, read_yaml
from headway.scenario.calibrated import CalibrationParts
from headway.scenario.nouns import Allow, Assumption, Policy, PriceTerms, Scenario
from headway.scenario.sections import Section
from headway.types import METRICS, Dtype, Objective, Slo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import TypeVar

    from headway.catalog import Catalog
    from headway.reading import Node
    from headway.types import Accelerator, Engine, Metric, Model
    from headway.workload import WorkloadSpec

    Noun = TypeVar("Noun")

FORMAT = 1
KEYS = (
    "headway",
    "model",
    "workload",
    "slo",
    "allow",
    "policy",
    "prices",
    "settings",
    "catalog",
    "calibration",
    "seed",
)
ALLOW_KEYS = tuple(Allow.__dataclass_fields__)
POLICY_KEYS = ("growth", "burst", "headroom", "survive", "confidence")
PRICE_KEYS = ("region", "terms", "provider", "file")
DTYPES: tuple[Dtype, ...] = get_args(Dtype)
KV_DTYPES: tuple[Dtype, ...] = ("bf16", "fp8")

#: engine settings a scenario may fix; those that are swept stand under `allow`
SETTINGS: dict[str, Callable[[Node], object]] = {
    "max_model_len": lambda node: node.integer(least=2),
    "gpu_memory_utilization": lambda node: node.number(least=0.05, most=1.0),
    "block_size": lambda node: node.integer(least=1, most=4096),
    "enable_chunked_prefill": lambda node: node.flag(),
    "scheduler_reserve_full_isl": lambda node: node.flag(),
    "async_scheduling": lambda node: node.flag(),
    "scheduling_policy": lambda node: node.choice(("fcfs", "priority")),
    "max_num_active_seqs": lambda node: node.integer(least=1),
    "max_num_scheduled_tokens": lambda node: node.integer(least=1),
    "long_prefill_token_threshold": lambda node: node.integer(least=0),
    "long_prefill_token_threshold_adaptive": lambda node: node.flag(),
    "prefill_schedule_interval": lambda node: node.integer(least=1),
    "watermark": lambda node: node.number(least=0.0, most=0.9),
    "enforce_eager": lambda node: node.flag(),
}

_PERCENTILE = re.compile(r"p(\d{1,2}(?:\.\d{1,4})?|100)")
_SURVIVE = re.compile(r"(\d{1,4})\s+(node|replica)s?")
#: tp, pp and dp beyond these are typing errors
_MOST_GPUS = 1024


def read_scenario(path: str | Path, *, catalog: Catalog | None = None, endpoints: Sequence[str] = ()) -> Scenario:
    """Read a scenario file.

    Args:
        path: YAML as docs/reference/scenario describes it; paths inside are relative to its folder.
        catalog: the catalogue to resolve names in, in place of the shipped one with the scenario's own files over it.
        endpoints: calibrations of endpoints by name or file, in place of the scenario's own.

    Raises:
        InputError: anything in it is wrong; file, line and key path are named, and the nearest known word.
    """
    root = read_yaml(path)
    ledger: list[Assumption] = []
    top = Section("", root, KEYS, ledger)
    _check_format(root, top)
    prices = Section("prices", top.find("prices"), PRICE_KEYS, ledger)
    parts = CalibrationParts(top.find("calibration"), Path(path).parent, endpoints)
    known = catalog if catalog is not None else _load_catalog(Path(path).parent, top, prices, parts.nouns())
    terms = _prices(prices)
    allow = _allow(Section("allow", top.find("allow"), ALLOW_KEYS, ledger), known, terms, ledger)
    models = _models(_need(root, top, "model"), known)
    return Scenario(
        file=str(path),
        models=models,
        workload=_workload(_need(root, top, "workload")),
        slo=_slo(_need(root, top, "slo"), ledger),
        allow=allow,
        policy=_policy(Section("policy", top.find("policy"), POLICY_KEYS, ledger)),
        prices=terms,
        catalog=known,
        seed=top.get("seed").integer(least=0, most=2**63 - 1),
        settings=_settings(top.find("settings")),
        curves=parts.curves(allow.accelerators, ledger),
        endpoints=parts.endpoints(models, allow.accelerators, ledger),
        assumptions=tuple(ledger),
    )


def with_trace(scenario: Scenario, path: str | Path, *, rate_per_s: float | None = None) -> Scenario:
    """Return the same scenario under recorded traffic.

    Args:
        scenario: whose workload is replaced.
        path: a trace of any known format, relative to the working directory.
        rate_per_s: the mean rate to compress or stretch it to; its own where None.

    Raises:
        InputError: the trace cannot be read, or the rate is not above zero.
    """
    if rate_per_s is not None and not (math.isfinite(rate_per_s) and rate_per_s > 0):
        raise InputError(f"expected a rate above zero, got {rate_per_s!r}", place="rate")
    file = Path(path).absolute()
    spec = _workload(parse_yaml(json.dumps({"trace": str(file)}), file=str(path)))
    return scenario.with_workload(spec if rate_per_s is None else spec.at_rate(rate_per_s))


def _need(root: Node, top: Section, key: str) -> Node:
    return top.find(key) or root.fail(f"the scenario has no {key!r}", "`headway scenario new` writes a complete one")


def _check_format(root: Node, top: Section) -> None:
    version = _need(root, top, "headway")
    if version.integer() != FORMAT:
        version.fail(f"scenario format {version.text()} is not known", f"this version reads format {FORMAT}")


def _load_catalog(folder: Path, top: Section, prices: Section, beside: Iterable[Accelerator | Model]) -> Catalog:
    from headway.catalog import load

    nodes = [*(node.items() if (node := top.find("catalog")) else ()), *((n,) if (n := prices.find("file")) else ())]
    return load(*(folder / node.text() for node in nodes), beside=beside)


def _named(node: Node, find: Callable[[str], Noun]) -> Noun:
    """Resolve a name; what the catalogue refuses is refused at this place."""
    try:
        return find(node.text())
    except InputError as error:
        if error.file:
            raise
        node.fail(error.problem, error.hint)


def _models(node: Node, catalog: Catalog) -> tuple[Model, ...]:
    found = {model.name: model for model in (_model(item, catalog) for item in node.items())}
    if not found:
        node.fail("expected at least one model, got an empty list")
    return tuple(found.values())


def _model(node: Node, catalog: Catalog) -> Model:
    if not node.is_mapping:
        return _named(node, catalog.model)
    from headway.catalog import read_config_json

    parts = node.entries(("config",))
    if "config" not in parts:
        node.fail("expected a model's name, or {config: PATH} with its config.json")
    return read_config_json(Path(node.file).parent / parts["config"].text())


def _workload(node: Node) -> WorkloadSpec:
    from headway.workload import spec_from_node

    return spec_from_node(node)


def _slo(node: Node, ledger: list[Assumption]) -> Slo:
    section = Section("slo", node, (*METRICS, "success"), ledger)
    objectives = tuple(o for metric in METRICS for o in _objectives(metric, section.find(metric)))
    if not objectives:
        node.fail("expected at least one objective", "for example {ttft: {p95: 500 ms}}")
    return Slo(objectives=objectives, success_frac=section.get("success").quantity("frac", least=0.0, most=1.0))


def _objectives(metric: Metric, node: Node | None) -> list[Objective]:
    if node is None:
        return []
    if not node.is_mapping:
        node.fail("expected limits by percentile", f"for example {{p95: {node.raw.value or '500 ms'}}}")
    return [_objective(metric, key, limit) for key, limit in node.entries().items()]


def _objective(metric: Metric, key: str, node: Node) -> Objective:
    match = _PERCENTILE.fullmatch(key)
    if match is None or float(match[1]) == 0.0:
        node.fail(f"{key!r} is no percentile", "p50, p90, p95, p99, p99.9, …")
    limit_s = node.quantity("time", least=1e-9)
    return Objective(metric=metric, percentile_frac=round(float(match[1]) / 100.0, 9), limit_s=limit_s)


def _allow(section: Section, catalog: Catalog, terms: PriceTerms, ledger: list[Assumption]) -> Allow:
    counts = {key: section.each(key, _gpus) for key in ("tp", "pp", "dp")}
    return Allow(
        accelerators=_accelerators(section, catalog, terms, ledger),
        engines=section.each("engines", lambda node: _engine(node, catalog)),
        precisions=section.each("precisions", _precision),
        kv_precisions=section.each("kv_precisions", _kv_precision),
        max_gpus_per_replica=section.get("max_gpus_per_replica").integer(least=1, most=_MOST_GPUS),
        enable_expert_parallel=section.each("enable_expert_parallel", lambda node: node.flag()),
        enable_prefix_caching=section.each("enable_prefix_caching", lambda node: node.flag()),
        max_num_batched_tokens=section.each("max_num_batched_tokens", lambda node: node.integer(least=1, most=2**20)),
        max_num_seqs=section.each("max_num_seqs", lambda node: node.integer(least=1, most=2**14)),
        routers=section.each("routers", _router),
        **counts,
    )


def _gpus(node: Node) -> int:
    return node.integer(least=1, most=_MOST_GPUS)


def _precision(node: Node) -> Dtype | Literal["published"]:
    return cast("Dtype", node.choice((*DTYPES, "published")))


def _router(node: Node) -> str:
    from headway.simulator import ROUTERS

    return node.choice(ROUTERS)


def _kv_precision(node: Node) -> Dtype:
    return cast("Dtype", node.choice(KV_DTYPES))


def _accelerators(
    section: Section, catalog: Catalog, terms: PriceTerms, ledger: list[Assumption]
) -> tuple[Accelerator, ...]:
    if section.find("accelerators") is not None:
        return section.each("accelerators", lambda node: _named(node, catalog.accelerator))
    priced = {p.accelerator for p in catalog.prices(region=terms.region, terms=terms.terms, provider=terms.provider)}
    found = tuple(accelerator for accelerator in catalog.accelerators if accelerator.name in priced)
    shown = ", ".join(accelerator.name for accelerator in found)
    ledger.append(Assumption(name="allow.accelerators", value=shown, source="default: all that have a price here"))
    return found


def _engine(node: Node, catalog: Catalog) -> Engine:
    name, _, version = node.text().partition("@")
    engine = _named(node, lambda _: catalog.engine(name, version or None))
    if not engine.simulated:
        known = [e.name for e in catalog.engines if e.simulated]
        node.fail(f"the scheduler of {engine.name} {engine.version} is not simulated yet", nearest("", known))
    return engine


def _policy(section: Section) -> Policy:
    count, what = _survive(section.get("survive"))
    return Policy(
        growth=section.get("growth").number(least=1e-3, most=1e6),
        burst=section.get("burst").number(least=1.0, most=1e3),
        headroom_frac=section.get("headroom").quantity("frac", least=0.0, most=0.95),
        survive_count=count,
        survive_what=what,
        confidence_frac=_confidence(section.get("confidence")),
    )


def _confidence(node: Node) -> float:
    from headway.perf.bands import MOST_CONFIDENCE_FRAC

    return 0.5 if node.text() == "none" else node.quantity("frac", least=0.5, most=MOST_CONFIDENCE_FRAC)


def _survive(node: Node) -> tuple[int, Literal["node", "replica"]]:
    text = node.text()
    match = _SURVIVE.fullmatch(text)
    if match:
        return int(match[1]), "node" if match[2] == "node" else "replica"
    if text != "none":
        node.fail(f"{text!r} is not known here", "none, 1 node, 2 nodes, 1 replica")
    return 0, "replica"


def _prices(section: Section) -> PriceTerms:
    provider, region = section.find("provider"), section.get("region").text()
    return PriceTerms(
        region=None if region == "any" else region,
        terms=section.each("terms", lambda node: node.choice(TERMS)),
        provider=provider.text() if provider else None,
    )


def _settings(node: Node | None) -> dict[str, object]:
    if node is None:
        return {}
    known = {*SETTINGS, *(set(ALLOW_KEYS) & {"max_num_seqs", "max_num_batched_tokens", "enable_prefix_caching"})}
    found = {}
    for key, value in node.entries(known).items():
        if key not in SETTINGS:
            value.fail("this setting is swept", f"write it as a list under allow.{key}")
        found[key] = SETTINGS[key](value)
    return found
