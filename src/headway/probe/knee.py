"""Where a server stops keeping up: figures of each stage of a load, and the knee by a stated rule.

**Open loop.** A request due one second later than another waits b seconds longer: then the server completes only
1 / (1 + b) of what is offered. b is the slope of E2E over the due time, in a regression that also has ISL and OSL, over
the last two thirds of the stage (the first third settles). A stage *keeps up* where 1 / (1 + b) is at least 97 % and no
more than 3 % of its requests failed. It is *sure* where the 90 % interval of b lies on one side of that limit; its
variance allows for neighbours that wait for each other (Newey and West 1987, Econometrica 55, ⌈n^(1/3)⌉ lags). Whether
it keeps up is not known where too few ended for a slope. Where somebody ended the run with requests in flight, the
stage ends with the last due one that ended: a queue that grew lets none end of those due in the last two thirds.

**Closed loop.** Clients can't run ahead of the server, so nothing grows. Throughput rises with the clients up to a
limit; the knee is where the two asymptotes meet, the most output of any stage ÷ the output of one client of the first
stage (operational analysis; Lazowska et al. 1984, Quantitative System Performance, chapter 5).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from headway.errors import InputError
from headway.metrics import CANCELLED, outcome
from headway.workload import served_of, take
from headway.workload.prefixes import ragged_index
from headway.workload.trace import Measured

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from headway.types import FloatColumn, IntColumn, Latency, Metric, Slo
    from headway.workload.trace import Trace

#: Least share of the offered that a server which keeps up completes; share of a stage left out at its start.
COMPLETED_FRAC, SETTLE_FRAC = 0.97, 1 / 3
#: Two-sided 90 % of a normal distribution.
_Z90 = 1.6449
#: Fewer requests than these leave a regression on four terms to chance.
_LEAST_REQUESTS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One stage of a load: requests due from `start_s` to before `end_s`."""

    offered: float  # req/s of an open loop, clients of a closed one
    start_s: float
    end_s: float
    requests: int  # due in it
    failed: int  # but for those that were cancelled
    completed_per_s: float  # requests whose last token came in it, per second
    output_tokens_per_s: float  # received in it
    latency: Mapping[Metric, Latency]  # of its requests
    delay_growth_frac: float | None  # s that a request waits longer for each second it is due later; None: too few
    delay_growth_sd_frac: float | None
    keeps_up: bool | None  # None: too few ended to tell
    sure: bool  # the 90 % interval says so too
    meets_slo: bool | None  # None: no SLO

    @property
    def completed_frac(self) -> float | None:
        """Share of what is offered that is completed."""
        return None if self.delay_growth_frac is None else 1 / (1 + max(self.delay_growth_frac, 0.0))

    @property
    def falls_behind(self) -> bool:
        """Whether less is completed than a server does that keeps up; failures are another matter."""
        return self.completed_frac is not None and self.completed_frac < COMPLETED_FRAC


@dataclass(frozen=True, slots=True, kw_only=True)
class Knee:
    """Where the server stops keeping up, and up to where the SLO holds."""

    unit: Literal["req/s", "clients"]
    at: float | None  # the estimate; None where no stage goes beyond it
    low: float | None  # 90 %: surely at least; None where no stage is below it
    high: float | None  # 90 %: surely at most; None where no stage goes beyond it
    meets_slo_to: float | None  # the last stage in which the SLO holds, as in all before; None: in none, or no SLO
    misses_slo_at: float | None  # the first in which it does not
    rule: str


def stages(trace: Trace, stage: FloatColumn, offered: Sequence[float], bounds_s: FloatColumn, slo: Slo) -> list[Stage]:
    """Return the figures of each stage.

    Args:
        trace: what was sent, with what was measured.
        stage: (n,) the stage of each request.
        offered: the rate, or the clients, of each stage.
        bounds_s: (stages, 2) when each begins and ends.
        slo: each stage is held to it; without objectives none is.
    """
    ends_s, (times_s, tokens) = _ends_s(trace), token_times(trace)
    found = []
    for k, (start_s, end_s) in enumerate(bounds_s):
        length_s = end_s - start_s
        ended = int(((ends_s >= start_s) & (ends_s < end_s)).sum())
        received = float(tokens[(times_s >= start_s) & (times_s < end_s)].sum())
        part = taken(trace, np.flatnonzero(stage == k))
        found.append(_stage(part, offered[k], (start_s, end_s), slo, ended / length_s, received / length_s))
    return found


def whole(trace: Trace, slo: Slo) -> Stage | None:
    """Return an open loop as one stage, from its first arrival to its last; None where all arrive at once."""
    arrive_s = trace.requests.arrive_s
    if len(arrive_s) < 2 or arrive_s[-1] <= arrive_s[0]:
        return None
    bounds_s, length_s = np.array([[arrive_s[0], arrive_s[-1]]]), float(arrive_s[-1] - arrive_s[0])
    return stages(trace, np.zeros(len(arrive_s)), [(len(arrive_s) - 1) / length_s], bounds_s, slo)[0]


def _stage(
    part: Trace, offered: float, bounds_s: tuple[float, float], slo: Slo, ended_per_s: float, tokens_per_s: float
) -> Stage:
    start_s, end_s = (float(edge) for edge in bounds_s)
    served = served_of(part.requests, measured_of(part), part.names.get("error", ()))
    became = outcome(part.requests, served, slo, "measured")
    growth, sd = _growth(part, start_s, end_s)
    limit = 1 / COMPLETED_FRAC - 1
    total, failed = len(part.requests), int(((served.failed != 0) & (served.failed != CANCELLED)).sum())
    broken = failed > (1 - COMPLETED_FRAC) * total
    return Stage(
        offered=offered,
        start_s=start_s,
        end_s=end_s,
        requests=total,
        failed=failed,
        completed_per_s=ended_per_s,
        output_tokens_per_s=tokens_per_s,
        latency=became.latency,
        delay_growth_frac=growth,
        delay_growth_sd_frac=sd,
        keeps_up=False if broken else None if growth is None else growth <= limit,
        sure=broken or (growth is not None and sd is not None and abs(growth - limit) > _Z90 * sd),
        meets_slo=became.meets_slo if slo.objectives else None,
    )


def taken(trace: Trace, rows: IntColumn) -> Trace:
    """Return some of the requests of a result, with what was measured of them."""
    measured = trace.measured
    if measured is None:
        return replace(trace, requests=take(trace.requests, rows))
    names = (field.name for field in fields(Measured) if not field.name.startswith("itl"))
    columns = {name: column[rows] for name in names if (column := getattr(measured, name)) is not None}
    if measured.itl_s is not None and measured.itl_offsets is not None:
        index, columns["itl_offsets"] = ragged_index(measured.itl_offsets, rows)
        columns["itl_s"] = measured.itl_s[index]
    return replace(trace, requests=take(trace.requests, rows), measured=Measured(**columns))


def _ends_s(trace: Trace) -> FloatColumn:
    """When the last token of each request came; NaN where its answer was not complete."""
    return trace.requests.arrive_s + _e2e_s(trace)


def measured_of(trace: Trace) -> Measured:
    """Return what was measured with a trace.

    Raises:
        InputError: nothing was.
    """
    if trace.measured is None or trace.measured.e2e_s is None or trace.measured.ttft_s is None:
        raise InputError("a result was expected: ttft_s and e2e_s of each request", file=trace.file)
    return trace.measured


def _ttft_s(trace: Trace) -> FloatColumn:
    column = measured_of(trace).ttft_s
    assert column is not None
    return column


def _e2e_s(trace: Trace) -> FloatColumn:
    column = measured_of(trace).e2e_s
    assert column is not None
    return column


def token_times(trace: Trace) -> tuple[FloatColumn, FloatColumn]:
    """Return when each chunk of output came, and how many tokens it stands for: a request's, evenly over its chunks."""
    measured, requests = measured_of(trace), trace.requests
    first_s = requests.arrive_s + _ttft_s(trace)
    began = np.flatnonzero(np.isfinite(first_s))
    gaps_s, offsets = _gaps(trace, began)
    chunks = np.diff(offsets) + 1
    request = np.repeat(np.arange(len(began)), chunks)
    head = offsets[:-1] + np.arange(len(began))  # where each request's first chunk stands
    since_first_s = np.zeros(len(request))
    rest = np.ones(len(request), dtype=bool)
    rest[head] = False
    since_first_s[rest] = gaps_s
    since_first_s = np.cumsum(since_first_s)
    times_s = first_s[began][request] + since_first_s - since_first_s[head][request]
    received = requests.osl_tokens if measured.output_tokens is None else measured.output_tokens
    tokens = np.where(received[began] >= 0, received[began], chunks)
    return times_s, (tokens / chunks)[request]


def _gaps(trace: Trace, rows: IntColumn) -> tuple[FloatColumn, IntColumn]:
    """The gaps between the chunks of some requests, and where each one's begin; one each where none was recorded."""
    measured = measured_of(trace)
    if measured.itl_s is not None and measured.itl_offsets is not None:
        index, offsets = ragged_index(measured.itl_offsets, rows)
        return measured.itl_s[index], offsets
    gaps_s = np.nan_to_num((_e2e_s(trace) - _ttft_s(trace))[rows])
    return gaps_s, np.arange(len(rows) + 1)


# --- whether it keeps up -------------------------------------------------------------------------------


def _growth(part: Trace, start_s: float, end_s: float) -> tuple[float | None, float | None]:
    """By how much E2E grows with the due time, lengths held, over the last two thirds of a stage; and its error."""
    requests, e2e_s, error = part.requests, _e2e_s(part), measured_of(part).error
    ended = np.isfinite(e2e_s)
    if ended.any() and not (ended if error is None else ended | (error != 0)).all():
        end_s = min(end_s, float(requests.arrive_s[ended].max()))
    used = np.flatnonzero((requests.arrive_s >= start_s + SETTLE_FRAC * (end_s - start_s)) & ended)
    if len(used) < _LEAST_REQUESTS:
        return None, None
    due_s = requests.arrive_s[used]
    lengths = (requests.isl_tokens[used], requests.osl_tokens[used])
    return slope(due_s, e2e_s[used], *(column.astype(np.float64) for column in lengths))


def slope(x: FloatColumn, y: FloatColumn, *held: FloatColumn) -> tuple[float, float]:
    """Return the slope of y over x with other columns held, and its standard deviation (Newey and West 1987).

    Args:
        x: (n,) rising.
        y: (n,) in that order.
        held: (n,) each; one that does not vary is left out.
    """
    varying = [column / np.ptp(column) for column in held if np.ptp(column) > 0]
    design = np.column_stack([x - x.mean(), np.ones_like(x), *varying])
    inverse = np.linalg.pinv(design.T @ design)
    terms = inverse @ design.T @ y
    scores = design * (y - design @ terms)[:, None]
    lags = math.ceil(len(x) ** (1 / 3))
    middle = scores.T @ scores
    for lag in range(1, lags + 1):
        pair = scores[lag:].T @ scores[:-lag]
        middle += (1 - lag / (lags + 1)) * (pair + pair.T)
    covariance = inverse @ middle @ inverse * len(x) / max(len(x) - design.shape[1], 1)
    return float(terms[0]), math.sqrt(max(float(covariance[0, 0]), 0.0))


# --- the knee ------------------------------------------------------------------------------------------


def open_knee(found: Sequence[Stage]) -> Knee:
    """Return the knee of stages of rising rates: the last that keeps up, as do all before it.

    The estimate is what the first stage beyond it completed, its server never idle, within what the verdicts allow.
    """
    below = _leading([stage.keeps_up is not False for stage in found])
    surely = _leading([bool(stage.keeps_up) and stage.sure for stage in found])
    beyond = [stage.offered for stage in found if stage.keeps_up is False and stage.sure]
    high = min((rate for rate in beyond if not surely or rate > found[surely - 1].offered), default=None)
    at = None
    if below < len(found):
        last = found[below - 1].offered if below else 0.0
        at = min(max(found[below].completed_per_s, last), found[below].offered)
    return Knee(
        unit="req/s",
        at=at,
        low=found[surely - 1].offered if surely else None,
        high=high,
        rule=f"the last rate of which {COMPLETED_FRAC:.0%} is completed, as of all before",
        **_within_slo(found),
    )


def closed_knee(found: Sequence[Stage]) -> Knee:
    """Return the knee of stages of rising concurrency: the clients that alone would give the most output seen.

    Its interval follows from the scatter of the requests: throughput of n requests is known to cv(E2E) / √n.
    """
    first, most = found[0], max(found, key=lambda stage: stage.output_tokens_per_s)
    alone = first.output_tokens_per_s / first.offered
    if not alone > 0:
        return Knee(unit="clients", at=None, low=None, high=None, rule=_CLOSED_RULE, **_within_slo(found))
    at = most.output_tokens_per_s / alone
    spread = _Z90 * math.hypot(_relative_error(first), _relative_error(most))
    reached = found[-1].offered > at
    return Knee(
        unit="clients",
        at=at if reached else None,
        low=max(at * (1 - spread), 0.0),
        high=at * (1 + spread) if reached else None,
        rule=_CLOSED_RULE,
        **_within_slo(found),
    )


_CLOSED_RULE = "the most output of any stage ÷ the output of one client of the first stage"


def _relative_error(stage: Stage) -> float:
    """How well a stage's throughput is known: E2E is about exponential at worst, so cv 1."""
    return 1 / math.sqrt(max(stage.requests - stage.failed, 1))


def _leading(flags: Sequence[bool]) -> int:
    """How many are true from the start on."""
    return next((k for k, flag in enumerate(flags) if not flag), len(flags))


def _within_slo(found: Sequence[Stage]) -> dict[str, float | None]:
    held = _leading([bool(stage.meets_slo) for stage in found])
    known = found[0].meets_slo is not None
    return {
        "meets_slo_to": found[held - 1].offered if known and held else None,
        "misses_slo_at": found[held].offered if known and held < len(found) else None,
    }
