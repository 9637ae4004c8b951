"""What a scenario says, as nouns."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headway.catalog import Catalog
    from headway.types import Accelerator, Dtype, Engine, Model, Slo
    from headway.workload import WorkloadSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumption:
    """Something a plan rests on that nobody stated in the scenario, and where it comes from."""

    name: str
    value: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Allow:
    """What a deployment may be made of; the settings to sweep carry the engine's names."""

    accelerators: tuple[Accelerator, ...]
    engines: tuple[Engine, ...]
    precisions: tuple[Dtype | Literal["published"], ...]
    kv_precisions: tuple[Dtype, ...]
    max_gpus_per_replica: int
    tp: tuple[int, ...]
    pp: tuple[int, ...]
    dp: tuple[int, ...]
    enable_expert_parallel: tuple[bool, ...]
    enable_prefix_caching: tuple[bool, ...]
    max_num_batched_tokens: tuple[int, ...]
    max_num_seqs: tuple[int, ...]
    routers: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How much more than the traffic given the fleet must carry, and what it must survive."""

    growth: float
    burst: float
    headroom_frac: float
    survive_count: int = 0
    survive_what: Literal["node", "replica"] = "replica"
    confidence_frac: float = 0.5  # with which each objective is held, one-sided; 0.5: by the prediction itself

    @property
    def design_factor(self) -> float:
        """The rate the SLO must hold at, over the rate given: growth × burst ÷ (1 − headroom)."""
        return self.growth * self.burst / (1.0 - self.headroom_frac)


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceTerms:
    """Which prices count."""

    region: str | None  # None: any
    terms: tuple[str, ...]
    provider: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scenario:
    """What is known before a plan: every quantity in base units, every name resolved in the catalogue.

    `settings` are engine settings fixed by the user, by the engine's names; `assumptions` lists every default taken.
    """

    file: str
    models: tuple[Model, ...]
    workload: WorkloadSpec
    slo: Slo
    allow: Allow
    policy: Policy
    prices: PriceTerms
    catalog: Catalog
    seed: int
    settings: Mapping[str, object] = field(default_factory=dict)
    curves: Mapping[str, str] = field(default_factory=dict)  # by accelerator's name: what goes before headway's own
    endpoints: tuple[str, ...] = ()  # calibrations of endpoints, by name or file: they go before the physics
    assumptions: tuple[Assumption, ...] = ()

    @property
    def rate_per_s(self) -> float:
        """The base rate: requests per second of the traffic as given."""
        rate_per_s: float = self.workload.rate_per_s
        return rate_per_s

    def with_workload(self, workload: WorkloadSpec) -> Scenario:
        """Return the same scenario under other traffic."""
        return dataclasses.replace(self, workload=workload)
