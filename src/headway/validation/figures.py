"""What a harness would have reported of a replay: latencies over all requests, tokens per second over the whole run.

Harnesses do not cut warm-up and cool-down: the burst of a closed loop and its last answers count. Where a replay had
fewer requests than the harness, those between the burst and the end stand for more than one each, and the run is as
much longer as the steady state takes to serve the missing ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from headway.errors import InfeasibleError
from headway.simulator import seconds

if TYPE_CHECKING:
    from headway.simulator import Simulation
    from headway.types import FloatColumn, Replica
    from headway.validation.loads import Share

#: metric -> statistic -> value, as `Measurement.measured` has it
Figures = dict[str, dict[str, float]]

_PERCENTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}
#: Of a run without clients: the shares of the answers between which it is steady.
_STEADY = (0.25, 0.75)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """The requests a replay answered, in the order they were sent."""

    ttft_s: FloatColumn
    tpot_s: FloatColumn  # NaN where one token was all
    e2e_s: FloatColumn
    sent_s: FloatColumn
    last_s: FloatColumn
    output_tokens: FloatColumn
    isl_tokens: FloatColumn
    weights: FloatColumn  # how many of the harness's requests each stands for

    @property
    def span_s(self) -> float:
        """From the first request to the last token, of the replay itself."""
        return float(self.last_s.max() - self.sent_s.min())


def answers(share: Share, found: Simulation, replica: Replica) -> Answers:
    """Return what became of the requests that were answered.

    Raises:
        InfeasibleError: none was.
    """
    kept = found.last_ps >= 0
    if not kept.any():
        raise InfeasibleError("no request could be served", binding="max_model_len or num_gpu_blocks")
    sent_s, first_s, last_s = (seconds(times)[kept] for times in (found.arrive_ps, found.first_ps, found.last_ps))
    tokens = found.output_tokens[kept].astype(np.float64) * share.tokens_per_step
    gaps = np.where(tokens > 1, tokens - 1, np.nan)
    return Answers(
        ttft_s=first_s - sent_s + replica.frontend_s,
        tpot_s=(last_s - first_s) / gaps,
        e2e_s=last_s - sent_s + replica.frontend_s,
        sent_s=sent_s,
        last_s=last_s,
        output_tokens=tokens,
        isl_tokens=share.requests.isl_tokens[kept].astype(np.float64),
        weights=_weights(int(kept.sum()), share),
    )


def _weights(number: int, share: Share) -> FloatColumn:
    """The burst and the end of a closed loop stand for themselves, the rest for what is missing too."""
    weights = np.ones(number)
    ends = share.clients or 0
    middle = weights[ends : number - ends] if ends else weights
    if len(middle):
        middle += (share.whole - len(share.requests)) / len(middle)
    return weights


def figures(one: Answers, share: Share, found: Simulation, replicas: int) -> Figures:
    """Return every figure a harness reports, of all replicas together.

    Args:
        one: the answers of one replica.
        share: what it was asked.
        found: what the simulator says of it.
        replicas: how many equal ones there are.
    """
    requests_per_s = replicas * float(one.weights.sum()) / _span_s(one, share)
    output_tokens, isl_tokens = (
        float(np.average(tokens, weights=one.weights)) for tokens in (one.output_tokens, one.isl_tokens)
    )
    itl_ps = found.gaps.quantiles_ps(_PERCENTILES.values())
    itl = {"mean": found.gaps.mean_ps()} | dict(zip(_PERCENTILES, itl_ps, strict=True))
    return {
        "ttft_s": summary(one.ttft_s, one.weights),
        "tpot_s": summary(one.tpot_s, one.weights),
        "e2e_s": summary(one.e2e_s, one.weights),
        "itl_s": {name: value / 1e12 if value >= 0 else np.nan for name, value in itl.items()},
        "requests_per_s": {"mean": requests_per_s},
        "output_tokens_per_s": {"mean": requests_per_s * output_tokens},
        "total_tokens_per_s": {"mean": requests_per_s * (output_tokens + isl_tokens)},
    }


def _span_s(one: Answers, share: Share) -> float:
    """How long the harness's run would have been: the replay's, and the missing requests at its steady rate."""
    missing = one.weights.sum() - len(one.weights)
    if missing < 0.5:
        return one.span_s
    ended = np.sort(one.last_s)
    low, high = (int(edge * (len(ended) - 1)) for edge in _steady(len(ended), share.clients))
    return one.span_s + float(missing * (ended[high] - ended[low]) / max(high - low, 1))


def _steady(number: int, clients: int | None) -> tuple[float, float]:
    """Shares of the answers: in a closed loop until the first client finds nothing more to send."""
    return _STEADY if clients is None else (0.1, max(1 - clients / number, 0.2))


def later(known: Figures, wait_s: float) -> Figures:
    """Return figures of clients whose requests waited so long before the engine knew of them."""
    return known | {metric: {name: v + wait_s for name, v in known[metric].items()} for metric in ("ttft_s", "e2e_s")}


def summary(values: FloatColumn, weights: FloatColumn) -> dict[str, float]:
    """Return mean, percentiles by nearest rank and max, each value as often as its weight; NaN where there are none."""
    there = ~np.isnan(values)
    values, weights = values[there], weights[there]
    if not len(values):
        return dict.fromkeys(("mean", *_PERCENTILES, "max"), float("nan"))
    order = np.argsort(values, kind="stable")
    upto = np.cumsum(weights[order])
    ranks = np.searchsorted(upto, np.array(list(_PERCENTILES.values())) * upto[-1] - 1e-9)
    at = values[order][np.minimum(ranks, len(values) - 1)]
    percentiles = dict(zip(_PERCENTILES, at.tolist(), strict=True))
    return {"mean": float(np.average(values, weights=weights)), **percentiles, "max": float(values.max())}
