"""Requests such as a run had of which only figures were kept: drawn, several times over."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from headway.calibration.runs import Run, Stated
from headway.types import Requests

if TYPE_CHECKING:
    from collections.abc import Callable

    from headway.types import FloatColumn, IntColumn, Metric

#: The latencies that are figures of a run.
METRICS: tuple[Metric, ...] = ("ttft", "tpot", "e2e")
#: Their quantiles: further out one tells more of the lengths' spread than of the server.
FRACS = (0.5, 0.9, 0.95)
#: No figure is taken for better known: tools interpolate quantiles each in their way, and stop their clocks.
LEAST_LOG_SD = 0.03

#: How often requests are drawn: what differs between the draws is the error of a figure.
DRAWS = 8
#: Standard deviations of a length's logarithm, one for each draw, where nobody says: from all alike to chat's.
_UNSAID_LOG_SDS = tuple(np.linspace(0.0, 1.0, DRAWS).tolist())
#: Prompts and outputs take them in another order: a stride that meets every draw once.
_STRIDE = 3
#: Of a longer run only so many are simulated; the error by chance is then overstated.
_MOST_REQUESTS, _MOST_PER_CLIENT = 200, 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """What is known of a length, in tokens.

    Attributes:
        mean: of the requests.
        sd: standard deviation; NaN: nobody says.
        draw: draws so many, where more is known than these; None: they are spread log-normally.
    """

    mean: float
    sd: float = math.nan
    draw: Callable[[int, np.random.Generator], IntColumn] | None = None

    def drawn(self, count: int, unsaid_log_sd: float, chance: np.random.Generator) -> IntColumn:
        """Return lengths with that mean."""
        if self.draw is not None:
            return self.draw(count, chance)
        log_sd = unsaid_log_sd if math.isnan(self.sd) else math.sqrt(math.log1p((self.sd / self.mean) ** 2))
        values = np.exp(chance.normal(0.0, log_sd, count))
        scaled = values * self.mean / values.mean()
        whole: IntColumn = np.maximum(np.floor(scaled + chance.random(count)), 1).astype(np.int64)  # keeps the mean
        return whole

    @property
    def unsaid(self) -> bool:
        """Whether nobody says how they spread."""
        return self.draw is None and math.isnan(self.sd)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrivals:
    """When requests were sent: by clients of a closed loop, at a rate, or (neither) all at once."""

    concurrency: int | None = None
    rate_per_s: float = math.inf
    evenly: bool = False

    def times_s(self, count: int, chance: np.random.Generator) -> FloatColumn:
        """Draw them; clients of a closed loop send when they are free."""
        if self.concurrency is not None or math.isinf(self.rate_per_s):
            return np.zeros(count)
        gaps_s = np.full(count, 1.0) if self.evenly else chance.exponential(1.0, count)
        return np.cumsum(gaps_s) / self.rate_per_s

    def most(self, requests: int) -> int:
        """Return how many of so many requests are simulated."""
        if self.concurrency is None and math.isinf(self.rate_per_s):
            return requests
        return min(requests, max(_MOST_REQUESTS, _MOST_PER_CLIENT * (self.concurrency or 0)))


def draws_of(
    name: str, count: int, arrivals: Arrivals, isl: Lengths, osl: Lengths, max_model_len: int
) -> tuple[Requests, ...]:
    """Return `DRAWS` sets of so many requests; the same for the same name. What is longer than may be is cut."""
    found = []
    for k in range(DRAWS):
        chance = np.random.default_rng([k, zlib.crc32(name.encode())])
        prompts = isl.drawn(count, _UNSAID_LOG_SDS[k], chance)
        outputs = np.minimum(osl.drawn(count, _UNSAID_LOG_SDS[_STRIDE * k % DRAWS], chance), max(max_model_len // 2, 1))
        prompts = np.minimum(prompts, np.maximum(max_model_len - outputs - 1, 1))
        times_s = arrivals.times_s(count, chance)
        found.append(Requests(arrive_s=times_s - times_s[0], isl_tokens=prompts, osl_tokens=outputs))
    return tuple(found)


def unsaid(isl: Lengths, osl: Lengths) -> list[str]:
    """Return what was taken for granted of the lengths."""
    return [
        f"{name} are drawn from all alike to widely spread"
        for name, one in (("prompt lengths", isl), ("output lengths", osl))
        if one.unsaid
    ]


def stated_run(
    name: str, stated: Stated, arrivals: Arrivals, *, turnaround_s: float = 0.0, sha256: str = "", failed: int = 0
) -> Run:
    """Return the run that is known by these figures."""
    requests = stated.draws[0]
    ttft_s, tpot_s = _typical(stated, float(requests.osl_tokens.mean()))
    return Run(
        name=name,
        requests=requests,
        ttft_s=np.full(len(requests), ttft_s),
        tpot_s=np.full(len(requests), tpot_s),
        concurrency=arrivals.concurrency,
        turnaround_s=turnaround_s,
        sha256=sha256,
        failed=failed,
        faults={"failed": failed} if failed else {},
        stated=stated,
    )


def _typical(stated: Stated, osl_tokens: float) -> tuple[float, float]:
    """Return TTFT and TPOT of a typical request: the first stated of each, or what E2E leaves for it."""
    first: dict[str, float] = {}
    for figure in sorted(stated.figures, key=lambda one: one.frac != 0.5):
        first.setdefault(figure.metric, figure.value_s)
    e2e_s = first.get("e2e", first.get("ttft", 0.0) + first.get("tpot", 0.0) * (osl_tokens - 1))
    tpot_s = first.get("tpot", max(e2e_s - first.get("ttft", 0.0), 0.1 * e2e_s) / osl_tokens)
    return first.get("ttft", max(e2e_s - tpot_s * (osl_tokens - 1), tpot_s)), tpot_s
