"""What a plan is made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headway.scenario import Assumption
    from headway.types import Belief, Candidate, Cost, Slo


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of the capacity method: what it asks, the figure it gives, and how."""

    name: str
    figure: float
    unit: str
    how: str
    belief: Belief = "estimated"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lever:
    """One change to the chosen deployment, planned again: what it would take and save.

    `tail` holds each objective's figure before and after, in seconds; `candidate` is None where the change meets the
    SLO at no size, and `why_not` says why.
    """

    name: str
    gpus: int  # more (or fewer) than chosen
    usd_per_hour: float  # likewise
    tail: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    candidate: Candidate | None = None
    why_not: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stress:
    """More traffic than planned for: what of the SLO gives way on the chosen fleet, and the fleet that would hold."""

    factor: float  # of the base rate; the fleet is designed for `Policy.design_factor`
    holds: bool  # whether the whole fleet as chosen still meets the SLO at that factor, without headroom
    breaks: tuple[str, ...]  # objectives missed there, worst first
    gpus: int | None  # of the same deployment planned for that base rate; None where not found
    cost: Cost | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Breaking:
    """Where the whole fleet as chosen gives way: the largest multiple of the base rate that meets the SLO."""

    holds_factor: float
    breaks_factor: float  # the least multiple tried that does not
    breaks: str  # the objective missed first


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontPoint:
    """A candidate that no other beats on cost, tail, GPUs and risk at once."""

    candidate: Candidate
    tail_s: float  # E2E p99 at the design rate
    lost_with_a_node_frac: float  # of the replicas: the risk


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Candidates put aside without simulation, for one reason."""

    reason: str
    candidates: int
    example: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchFigures:
    """What the search did."""

    enumerated: int
    refused: tuple[Refusal, ...]  # cannot run, do not fit, or cannot meet an objective even when idle
    bounded: int  # cannot cost less than the one chosen, by their lower bound
    equivalent: int  # the same step times and KV blocks as another
    simulated: int  # candidates simulated at least once
    simulations: int
    simulated_requests: int
    requests: int  # of one simulation at full fidelity


@dataclass(frozen=True, slots=True, kw_only=True)
class Certainty:
    """What holding the SLO on the safe side of the error bands takes beyond the fleet that the prediction asks for."""

    confidence_frac: float  # with which each objective holds, one-sided; 0.5: by the prediction itself
    asked_frac: float  # the confidence asked for; more than the former where no fleet holds at it
    over_frac: Mapping[str, float]  # by objective: how far its figure may lie above the prediction, at most
    likeness: str  # what was measured of the chosen deployment's kind
    point: Candidate | None  # the cheapest fleet by the prediction itself; None where that is the choice
    gpus: int  # that the choice has beyond it
    usd_per_hour: float  # that the choice costs beyond it
    measure: tuple[str, ...]  # metrics to measure, the one that costs most first: their bands would shrink


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to deploy, and everything it rests on."""

    chosen: Candidate
    candidates: tuple[Candidate, ...]  # the best few, cheapest first, the chosen one among them
    front: tuple[FrontPoint, ...]
    steps: tuple[Step, ...]
    levers: tuple[Lever, ...]
    breaking: Breaking
    stress: tuple[Stress, ...]
    assumptions: tuple[Assumption, ...]
    search: SearchFigures
    slo: Slo
    base_rate_per_s: float
    design_rate_per_s: float
    certainty: Certainty
