"""What a row ran on: its pools, with the settings of that engine's version, made to fit since they were measured."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from headway.errors import InfeasibleError
from headway.perf import memory
from headway.types import Pool
from headway.validation.flags import flags, kv_dtype
from headway.validation.names import Assumption, kv_dtype_of
from headway.validation.serving import Demand, settings_of
from headway.validation.spread import Spreader

if TYPE_CHECKING:
    from headway.catalog import Catalog
    from headway.types import Accelerator, Dtype, EngineSettings, Model
    from headway.validation.loads import Load
    from headway.validation.measurements import Measurement
    from headway.validation.names import EngineName
    from headway.validation.recipes import Recipe, Workers
    from headway.validation.sources import Harness
    from headway.validation.spread import Spread

#: Tokens a server's context has beyond what is sent: chat templates, special tokens.
_SLACK_TOKENS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployer:
    """Deploys one row; what it takes for granted it adds to `said`."""

    row: Measurement
    model: Model
    accelerator: Accelerator
    engine: EngineName
    dtype: Dtype
    load: Load
    harness: Harness
    options: str  # its server was started with, beside those its note quotes
    said: list[Assumption]

    def pools(self, recipe: Recipe | None, catalog: Catalog) -> tuple[Pool, ...]:
        """Return one mixed pool, or a prefill and a decode pool."""
        spreader = Spreader(
            row=self.row,
            model=self.model,
            accelerator=self.accelerator,
            dtype=self.dtype,
            harness=self.harness,
            said=self.said,
        )
        return tuple(self._pool(spread, catalog) for spread in spreader.spreads(recipe))

    def _pool(self, spread: Spread, catalog: Catalog) -> Pool:
        demand = self._demand(spread.replicas)
        settings = _seated(self._settings(demand, spread.listed, catalog), demand, spread.parallelism.dp)
        pool = Pool(
            name=spread.role,
            role=spread.role,
            model=self.model,
            accelerator=self.accelerator,
            engine=self.engine.policy,
            engine_version=settings.version,
            settings=settings,
            parallelism=spread.parallelism,
            weight_dtype=self.dtype,
            kv_dtype=kv_dtype_of(
                self.row, kv_dtype(self.row.note) or kv_dtype(self.options), self._usual_kv(spread.listed)
            ),
            replicas=spread.replicas,
        )
        return self._fitting(pool, demand)

    def _settings(self, demand: Demand, listed: Workers | None, catalog: Catalog) -> EngineSettings:
        given = dict(self.harness.settings) | _limits(listed, demand)
        given |= _taken(flags(self.options), demand) | flags(self.row.note)
        if "prefix cache" in self.row.features or self.load.prefix_tokens:
            given["enable_prefix_caching"] = True
        return settings_of(self.engine, self.accelerator, demand, given, catalog)

    def _usual_kv(self, listed: Workers | None) -> str:
        """What a recipe lists; else FP8 KV goes with quantised weights, where the hardware has the format.

        NVIDIA's own quantised checkpoints ask for it (`kv_cache_quant_algo` of their hf_quant_config.json), and
        TensorRT-LLM obeys.
        """
        if listed and listed.kv_dtype:
            return listed.kv_dtype
        peaks = self.accelerator.peak_flops_per_s
        if self.dtype == "bf16" or not ("fp8" in peaks or "fp4" in peaks):
            return ""
        asks = self.engine.policy == "tensorrt-llm" and self.dtype in ("fp8", "nvfp4")
        return self.harness.kv_dtype or ("fp8" if asks else "")

    def _demand(self, replicas: int) -> Demand:
        longest = self.load.isl_tokens.high + self.load.osl_tokens.high + _SLACK_TOKENS
        return Demand(
            prompt_tokens=self.load.isl_tokens.high,
            sequence_tokens=-(-longest // _SLACK_TOKENS) * _SLACK_TOKENS,
            sequences=math.ceil((self.load.concurrency or 0) / replicas),
        )

    def _fitting(self, pool: Pool, demand: Demand) -> Pool:
        """Return a pool that fits: the row was measured, so what does not fit was set otherwise."""
        for change, tried in _tries(pool, demand):
            if not _fits(tried):
                continue
            if change:
                self.said.append(Assumption(code="made_to_fit", text=change))
            return tried
        text = f"the weights do not fit {pool.accelerator.name}: counted as if they did"
        self.said.append(Assumption(code="does_not_fit", text=text))
        return _with_memory(pool)


def _limits(listed: Workers | None, demand: Demand) -> dict[str, object]:
    """Return the limits a recipe lists."""
    names = ("max_num_batched_tokens", "max_num_seqs")
    found = {name: getattr(listed, name) for name in names if getattr(listed, name, None)}
    return _taken(found, demand)


def _taken(given: dict[str, object], demand: Demand) -> dict[str, object]:
    """Return settings with no more seats than are taken, since each is given memory."""
    if "max_num_seqs" in given:
        return given | {"max_num_seqs": min(int(str(given["max_num_seqs"])), max(demand.sequences, 1))}
    return given


def _seated(settings: EngineSettings, demand: Demand, ranks: int) -> EngineSettings:
    """Return settings with as many sequences as were sent, where each data-parallel rank has a limit of its own."""
    seats = min(settings.max_num_seqs * ranks, max(settings.max_num_seqs, demand.sequences))
    return replace(settings, max_num_seqs=seats, max_num_batched_tokens=max(settings.max_num_batched_tokens, seats))


def _fits(pool: Pool) -> bool:
    try:
        memory(pool)
    except InfeasibleError:
        return False
    return True


def _tries(pool: Pool, demand: Demand) -> list[tuple[str, Pool]]:
    settings, seqs = pool.settings, max(demand.sequences, 1)
    lean = replace(
        settings,
        gpu_memory_utilization=0.98,
        max_num_seqs=min(settings.max_num_seqs, max(seqs, 8)),
        max_model_len=min(settings.max_model_len, demand.sequence_tokens),
    )
    tokens = max(min(lean.max_num_batched_tokens, 2048), lean.max_num_seqs, demand.prompt_tokens + seqs)
    leaner = replace(lean, max_num_batched_tokens=tokens, cuda_graph_sizes=())
    return [
        ("", pool),
        ("memory share 0.95", replace(pool, settings=replace(settings, gpu_memory_utilization=0.95))),
        ("memory share 0.98, fewer sequences", replace(pool, settings=lean)),
        ("memory share 0.98, fewer sequences, no graphs", replace(pool, settings=leaner)),
    ]


def _with_memory(pool: Pool) -> Pool:
    """Return the pool on memory that holds it: doubled until it does."""
    while not _fits(pool):
        larger = replace(pool.accelerator, hbm_bytes=2 * pool.accelerator.hbm_bytes)
        pool = replace(pool, accelerator=larger)
    return pool
