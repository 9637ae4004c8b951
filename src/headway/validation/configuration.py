"""Makes a row what can be replayed: pools and a load, and all that was assumed on the way. No row is refused."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from headway.errors import InfeasibleError
from headway.perf import memory
from headway.types import Pool, Speculation
from headway.validation.flags import flags, kv_dtype
from headway.validation.loads import Lengths, Load
from headway.validation.names import (
    Assumption,
    accelerator_of,
    engine_of,
    kv_dtype_of,
    model_of,
    weight_dtype_of,
)
from headway.validation.serving import Demand, settings_of
from headway.validation.sources import Harness, data_set_of, harness_of
from headway.validation.spread import spreads_of

if TYPE_CHECKING:
    from headway.catalog import Catalog
    from headway.types import Accelerator, Dtype, Model
    from headway.validation.measurements import Measurement, Tokens

#: Tokens a server's context has beyond what is sent: chat templates, special tokens.
_SLACK_TOKENS = 256
_SHARED = re.compile(r"sys(?:tem)? (\d+)|prefix (\d+) tok")
_CV = re.compile(r"\bcv=([\d.]+)")
_DURATION = re.compile(r"duration=([\d.]+)s")
_SENT = re.compile(r"([\d,]+) requests\b|total_requests: (\d+)")
_PER_GPU = ("PER GPU", "TPGS", "per GPU (value")
#: method named by a row -> the drafter's kind for the simulator, drafts per step, share of drafts accepted.
#: Source: medians over published acceptance rates (vLLM blog: MTP k = 1 about 0.9; EAGLE3 about 0.67 of three).
_DRAFTS = {
    "mtp": ("mtp", 1, 0.85),
    "eagle3": ("eagle3", 3, 0.6),
    "eagle": ("eagle", 3, 0.55),
    "dspark": ("mtp", 3, 0.6),
}
_DRAFT_TOKENS = re.compile(r"num_speculative_tokens\"?[:= ]+(\d+)|speculative-num-steps[= ]+(\d+)|\bk ?= ?(\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Configured:
    """A row as it is replayed.

    Attributes:
        pools: one mixed pool, or a prefill and a decode pool.
        load: what was asked of the whole.
        harness: how it was measured.
        speculation: drafts, where the row says so.
        per_gpu: whether the row's tokens per second are those of one GPU.
        static_batch: whether all sequences start and end together, with no scheduler between them.
        adapters: LoRA adapters in use.
        assumptions: what the row does not say, and what was taken for granted.
    """

    pools: tuple[Pool, ...]
    load: Load
    harness: Harness
    speculation: Speculation | None = None
    per_gpu: bool = False
    static_batch: bool = False
    adapters: int = 0
    assumptions: tuple[Assumption, ...]

    @property
    def pool(self) -> Pool:
        """The pool that decodes."""
        return self.pools[-1]

    @property
    def gpus(self) -> int:
        """GPUs of all pools."""
        return sum(pool.gpus for pool in self.pools)


def configure(row: Measurement, catalog: Catalog) -> Configured:
    """Return a row as it is replayed.

    Args:
        row: what was measured.
        catalog: where names are looked up first.
    """
    said: list[Assumption] = []
    model, accelerator = model_of(row, catalog, said), accelerator_of(row, catalog, said)
    harness = harness_of(row)
    load = _load(row, harness, said)
    dtype = _weights(row, model, harness, said)
    return Configured(
        pools=_pools(row, model, accelerator, dtype, load, harness, catalog, said),
        load=load,
        harness=harness,
        speculation=_speculation(row, said),
        per_gpu=any(word in row.note for word in _PER_GPU),
        static_batch="static batch" in row.features,
        adapters=_adapters(row),
        assumptions=tuple(said),
    )


# --- the deployment -----------------------------------------------------------------------------------


def _weights(row: Measurement, model: Model, harness: Harness, said: list[Assumption]) -> Dtype:
    if harness.weight_dtype and row.weight_dtype.casefold() in ("fp16", "bf16"):
        said.append(Assumption(code="weights_of_harness", text=f"{row.weight_dtype} is run in {harness.weight_dtype}"))
        return weight_dtype_of(replace(row, weight_dtype=harness.weight_dtype), model, said)
    return weight_dtype_of(row, model, said)


def _pools(
    row: Measurement,
    model: Model,
    accelerator: Accelerator,
    dtype: Dtype,
    load: Load,
    harness: Harness,
    catalog: Catalog,
    said: list[Assumption],
) -> tuple[Pool, ...]:
    engine, stated = engine_of(row, said), flags(row.note)
    given = dict(harness.settings) | stated
    if "prefix cache" in row.features or load.prefix_tokens:
        given["enable_prefix_caching"] = True
    found = []
    for spread in spreads_of(row, model, accelerator, dtype, said):
        demand = _demand(load, spread.replicas)
        settings = settings_of(engine, accelerator, demand, given, catalog)
        pool = Pool(
            name=spread.role,
            role=spread.role,
            model=model,
            accelerator=accelerator,
            engine=engine.policy,
            engine_version=settings.version,
            settings=settings,
            parallelism=spread.parallelism,
            weight_dtype=dtype,
            kv_dtype=kv_dtype_of(row, kv_dtype(row.note), _usual_kv(harness, accelerator, dtype)),
            replicas=spread.replicas,
        )
        found.append(_fitting(pool, demand, said))
    return tuple(found)


def _usual_kv(harness: Harness, accelerator: Accelerator, dtype: Dtype) -> str:
    """FP8 KV goes with quantised weights, where the hardware has the format."""
    quantised = dtype != "bf16" and ("fp8" in accelerator.peak_flops_per_s or "fp4" in accelerator.peak_flops_per_s)
    return harness.kv_dtype if quantised else ""


def _demand(load: Load, replicas: int) -> Demand:
    longest = load.isl_tokens.high + load.osl_tokens.high + _SLACK_TOKENS
    return Demand(
        prompt_tokens=load.isl_tokens.high,
        sequence_tokens=-(-longest // _SLACK_TOKENS) * _SLACK_TOKENS,
        sequences=math.ceil((load.concurrency or 0) / replicas),
    )


def _fitting(pool: Pool, demand: Demand, said: list[Assumption]) -> Pool:
    """Return a pool that fits: the row was measured, so what does not fit was set otherwise."""
    for change, tried in _tries(pool, demand):
        try:
            memory(tried)
        except InfeasibleError:
            continue
        if change:
            said.append(Assumption(code="made_to_fit", text=change))
        return tried
    larger = replace(pool.accelerator, hbm_bytes=_hbm_needed(pool))
    said.append(
        Assumption(code="does_not_fit", text=f"the weights do not fit {pool.accelerator.name}: counted as if they did")
    )
    return replace(pool, accelerator=larger)


def _tries(pool: Pool, demand: Demand) -> list[tuple[str, Pool]]:
    settings, seqs = pool.settings, max(demand.sequences, 1)
    lean = replace(
        settings,
        gpu_memory_utilization=0.98,
        max_num_seqs=min(settings.max_num_seqs, max(seqs, 8)),
        max_model_len=min(settings.max_model_len, demand.sequence_tokens),
    )
    leaner = replace(
        lean,
        max_num_batched_tokens=max(
            min(lean.max_num_batched_tokens, 2048), lean.max_num_seqs, demand.prompt_tokens + seqs
        ),
    )
    return [
        ("", pool),
        ("memory share 0.95", replace(pool, settings=replace(settings, gpu_memory_utilization=0.95))),
        ("memory share 0.98, fewer sequences", replace(pool, settings=lean)),
        ("memory share 0.98, fewer sequences, no graphs", replace(pool, settings=replace(leaner, cuda_graph_sizes=()))),
    ]


def _hbm_needed(pool: Pool) -> float:
    """Return memory that surely holds it: doubled until it does."""
    hbm = pool.accelerator.hbm_bytes
    while True:
        hbm *= 2
        try:
            memory(replace(pool, accelerator=replace(pool.accelerator, hbm_bytes=hbm)))
        except InfeasibleError:
            continue
        return hbm


# --- the load -----------------------------------------------------------------------------------------


def _load(row: Measurement, harness: Harness, said: list[Assumption]) -> Load:
    usual = data_set_of(row)
    isl, osl = (_lengths(row, name, harness, said) for name in ("isl", "osl"))
    arrivals = _arrivals(row)
    rate = row.request_rate_per_s or _rate(row, usual.rate_per_s, said) if arrivals == "poisson" else None
    return Load(
        arrivals=arrivals,
        isl_tokens=isl,
        osl_tokens=osl,
        concurrency=_clients(row, arrivals, said),
        rate_per_s=rate,
        requests=_requests(row, harness, arrivals, rate),
        prefix_tokens=min(_prefix(row) or usual.prefix_tokens, isl.low),
    )


def _arrivals(row: Measurement) -> Literal["closed", "poisson", "batch"]:
    if "static batch" in row.features or row.mode == "offline":
        return "batch"
    if row.mode in ("rate", "server") and (row.request_rate_per_s or row.mode == "rate"):
        return "poisson"
    return "closed"


def _lengths(row: Measurement, side: str, harness: Harness, said: list[Assumption]) -> Lengths:
    stated: Tokens | None = getattr(row, f"{side}_tokens")
    if stated and stated.high > stated.low:
        return Lengths(low=max(round(stated.low), 1), high=round(stated.high))
    low, high = getattr(harness, side)
    mean = stated.mean if stated else _unstated(row, side, said)
    return Lengths(low=max(round(low * mean), 1), high=max(round(high * mean), 1))


def _unstated(row: Measurement, side: str, said: list[Assumption]) -> float:
    usual = data_set_of(row)
    mean = getattr(usual, f"{side}_tokens")
    said.append(Assumption(code=f"{side}_unknown", text=f"{side} {mean:g} tokens: {usual.note}"))
    return float(mean)


def _rate(row: Measurement, usual: float | None, said: list[Assumption]) -> float:
    """Return what came through where nobody says what was asked for: an open loop below saturation serves its rate."""
    served = row.value("requests_per_s")
    rate = served or usual or 1.0
    said.append(Assumption(code="rate_unknown", text=f"{rate:g} requests per second"))
    return rate


def _clients(row: Measurement, arrivals: str, said: list[Assumption]) -> int | None:
    if arrivals == "poisson":
        return None
    if row.concurrency:
        return row.concurrency
    if arrivals == "batch":
        return None
    clients = 1
    latency, served = row.value("e2e_s"), row.value("requests_per_s")
    if latency and served:
        clients = max(round(latency * served), 1)  # Little's law
    said.append(Assumption(code="concurrency_unknown", text=f"{clients} in flight"))
    return clients


def _requests(row: Measurement, harness: Harness, arrivals: str, rate: float | None) -> int | None:
    if "static batch" in row.features and row.concurrency:
        return row.concurrency
    if sent := _SENT.search(row.note):
        return int((sent[1] or sent[2]).replace(",", "")) or None
    if arrivals == "poisson" and rate and (lasted := _DURATION.search(row.note)):
        return max(round(rate * float(lasted[1])), 1)
    if arrivals == "closed" and harness.requests_per_client and row.concurrency:
        return harness.requests_per_client * row.concurrency
    if arrivals == "batch" and harness.requests_per_client == 1 and row.concurrency:
        return row.concurrency
    return harness.requests


def _prefix(row: Measurement) -> int:
    found = _SHARED.search(row.note) if "shared" in row.note else None
    return int(found[1] or found[2]) if found else 0


# --- what else a row may say -----------------------------------------------------------------------------


def _adapters(row: Measurement) -> int:
    found = re.search(r"multi-LoRA n=(\d+)", row.features)
    return int(found[1]) if found else 0


def _speculation(row: Measurement, said: list[Assumption]) -> Speculation | None:
    named = re.search(r"spec:([A-Za-z0-9]+)", row.features)
    if not named:
        return None
    method, tokens, share = _DRAFTS.get(named[1].casefold(), ("mtp", 1, 0.8))
    if drafts := _DRAFT_TOKENS.search(f"{row.features} {row.note}"):
        tokens = int(next(word for word in drafts.groups() if word))
    said.append(Assumption(code="acceptance_assumed", text=f"{method}, {tokens} drafts, {share:g} of each accepted"))
    return Speculation(method=method, num_speculative_tokens=tokens, accepted=_pattern(tokens, share))


def _pattern(tokens: int, share: float) -> tuple[int, ...]:
    """Return how many drafts twenty verifications accept, when each is accepted with that chance after the one before."""
    mean = sum(share**k for k in range(1, tokens + 1))
    totals = [round(mean * i) for i in range(21)]
    return tuple(min(after - before, tokens) for before, after in zip(totals, totals[1:], strict=False))
