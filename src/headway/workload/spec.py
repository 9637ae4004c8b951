"""The nouns of a workload: what arrives, said before any of it is drawn."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from headway.types import Requests
    from headway.workload.arrivals import Arrivals
    from headway.workload.lengths import Lengths
    from headway.workload.sessions import Sessions


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """A tenant, an adapter or a class, and the share of requests (or sessions) that belong to it."""

    name: str
    share_frac: float
    priority: int = 0  # of a class: smaller is sooner


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemPrompt:
    """A beginning that a share of the requests (or sessions) have in common."""

    prompt_tokens: int
    share_frac: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WorkloadSpec:
    """What arrives.

    The index of a label in its tuple is its id in `Requests`; what the shares leave over has id −1 (and priority 0).

    Args:
        name: a profile's name, a trace's file, or `workload`.
        content: joint lengths to draw from, or recorded requests to repeat in their order.
        arrivals: when requests arrive; with sessions, when sessions start, at this rate over the mean number of turns.
        sessions: how requests make up conversations; None where each stands alone.
        system_prompts: shared beginnings, part of the prompt's length.
        tenants: who asks.
        adapters: which adapter (LoRA) is asked for.
        classes: priority classes.
    """

    name: str
    content: Lengths | Requests
    arrivals: Arrivals
    sessions: Sessions | None = None
    system_prompts: tuple[SystemPrompt, ...] = ()
    tenants: tuple[Label, ...] = ()
    adapters: tuple[Label, ...] = ()
    classes: tuple[Label, ...] = ()

    @property
    def rate_per_s(self) -> float:
        """Requests per second in the long run."""
        return self.arrivals.mean_per_s

    def at_rate(self, rate_per_s: float) -> WorkloadSpec:
        """Return the same traffic at another mean rate; stays, days and think times last as long as before."""
        factor = self.arrivals.factor * rate_per_s / self.arrivals.mean_per_s
        return dataclasses.replace(self, arrivals=dataclasses.replace(self.arrivals, factor=factor))
