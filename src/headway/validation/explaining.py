"""Why the worst rows are off: what a prediction consists of, and the likeliest reason, by rules that can be read.

The worst are those whose prediction is off by the largest factor, up or down alike, in any of `WORST_OF`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from headway.perf import Batch, step

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from headway.perf import Calibration, StepBreakdown
    from headway.types import Pool
    from headway.validation.configuration import Configured
    from headway.validation.regions import Occupancy
    from headway.validation.scoring import Comparison, RowScore

#: Metrics a row can be among the worst by.
WORST_OF = ("ttft_s", "tpot_s", "output_tokens_per_s")
#: Rows explained.
WORST = 20
#: A part this large is named; the rest is noise to a reader.
_WORTH_FRAC = 0.08


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """One of the worst rows: how far it is off, what its prediction consists of, and the likeliest reason."""

    row: str
    about: str  # model, hardware and engine, as the table has them
    metric: str
    measured: float
    predicted: float
    region: str
    parts: Mapping[str, float]  # share of the predicted figure, the largest first
    reason: str


def worst(rows: Sequence[RowScore], number: int = WORST) -> list[tuple[RowScore, Comparison]]:
    """Return the rows that are off by the largest factor, each with its worst figure."""
    found = []
    for row in rows:
        known = [one for one in row.comparisons if one.metric in WORST_OF and one.predicted]
        if known:
            found.append((row, max(known, key=_factor)))
    return sorted(found, key=lambda item: (-_factor(item[1]), item[0].row))[:number]


def _factor(one: Comparison) -> float:
    return abs(math.log(one.predicted / one.measured)) if one.predicted else math.inf


def parts(one: Comparison, pool: Pool, row: Configured, where: Occupancy, constants: Calibration) -> dict[str, float]:
    """Return what a predicted figure consists of, as shares of it, the largest first.

    TTFT: the front end, the prompt's own prefill operator by operator, and waiting. All else: a decode step of the
    mean batch operator by operator, and the prefills of others between its steps.

    Args:
        one: the figure; predicted.
        pool: what it was made on.
        row: the row's deployment and load.
        where: how full a replica was.
        constants: what the row was predicted with.
    """
    assert one.predicted
    if one.metric == "ttft_s":
        prompt = max(round(row.load.isl_tokens.mean) - row.load.prefix_tokens, 1)
        times_s = _times(step(pool, Batch.of([], [(prompt, 0)]), constants)) | {"front end": constants.frontend_s}
        return _shares(times_s, one.predicted, "waiting for others")
    batch = max(round(where.batch), 1)
    times_s = _times(step(pool, Batch.of([round(where.context_tokens)] * batch), constants))
    gpus = row.gpus if row.per_gpu else 1
    whole_s = one.predicted if one.metric == "tpot_s" else pool.replicas * batch / (one.predicted * gpus)
    return _shares(times_s, whole_s, "prefills of others")


def _times(alone: StepBreakdown) -> dict[str, float]:
    found = {op.name: float(op.time_s) for op in alone.operators}
    return found | {"host": alone.exposed_s}


def _shares(times_s: Mapping[str, float], whole_s: float, rest: str) -> dict[str, float]:
    named = {**times_s, rest: max(whole_s - sum(times_s.values()), 0.0)}
    shares = {name: value / whole_s for name, value in named.items() if value >= _WORTH_FRAC * whole_s}
    return dict(sorted(shares.items(), key=lambda item: -item[1]))


def reason(row: RowScore, one: Comparison, shares: Mapping[str, float]) -> str:
    """Return the likeliest reason a figure is off: the first of these that applies."""
    if row.findings:
        return f"the row itself is in doubt: {', '.join(one.code for one in row.findings)}"
    first = next(iter(shares), "")
    if row.axes.get("region") == "saturated":
        return "saturated: queues multiply a small error of the service rate"
    if first in ("waiting for others", "prefills of others"):
        return f"mostly {first}: how the engine mixes prompts with decodes, more than how long a step takes"
    direction = "faster" if one.predicted and one.predicted < one.measured else "slower"
    if first:
        return f"mostly {first}: predicted {direction} than it ran there"
    return f"assumed: {', '.join(row.codes)}" if row.codes else "no single part stands out"
