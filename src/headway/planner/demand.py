"""What traffic asks of a fleet, whatever the fleet: the sums that the lower bounds multiply with step times.

A request of ISL i and OSL o, of which a cache that never forgets would hold x tokens, makes an engine compute

    P = i − x  prompt tokens,   X = i² − x²  attention pairs (Σ m (2c + m) over its chunks telescopes to this),
    D = o − 1  decode steps,    S = D·i + D(D − 1)/2  context tokens read in them.

An SLO lets some requests be late, and says by when the others are done; so at least the sums of all requests due,
less those of the most demanding ones that may be late, have to be computed between the window's start and the last
deadline. `Due` holds these; dropping the largest of each sum apart keeps them below the truth.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from headway.metrics import rank_of, window_of
from headway.workload.prefixes import hit_tokens

if TYPE_CHECKING:
    from headway.types import FloatColumn, Objective, Requests, Slo


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """The four columns, one entry per request."""

    prompt_tokens: FloatColumn
    pairs: FloatColumn
    decode_steps: FloatColumn
    context_tokens: FloatColumn


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """Sums that must be computed within `span_s`, by all replicas together: one entry per deadline tried."""

    span_s: FloatColumn
    prompt_tokens: FloatColumn
    pairs: FloatColumn
    decode_steps: FloatColumn
    context_tokens: FloatColumn


def work_of(requests: Requests, *, caching: bool) -> Work:
    """Return what each request makes an engine compute at least."""
    isl, decode = requests.isl_tokens.astype(np.float64), requests.osl_tokens.astype(np.float64) - 1.0
    held = np.zeros_like(isl)
    if caching and requests.prefix is not None:
        # the last token is always computed, to have logits
        held = np.minimum(hit_tokens(requests.prefix, requests.isl_tokens), requests.isl_tokens - 1).astype(np.float64)
    return Work(
        prompt_tokens=isl - held,
        pairs=isl * isl - held * held,
        decode_steps=decode,
        context_tokens=decode * isl + decode * (decode - 1.0) / 2.0,
    )


class Demand:
    """One traffic under one SLO, prepared for the bounds.

    Args:
        requests: at the design rate.
        slo: what is promised.
        caching: whether prefixes may be found in a cache.
    """

    def __init__(self, requests: Requests, slo: Slo, *, caching: bool) -> None:
        self.slo = slo
        self.shared = caching and requests.prefix is not None
        self._work = work_of(requests, caching=caching)
        self._arrive_s = requests.arrive_s
        self._start_s, self._end_s = window_of(requests.arrive_s)
        self._inside = (requests.arrive_s >= self._start_s) & (requests.arrive_s <= self._end_s)
        self._total_tokens = requests.isl_tokens + requests.osl_tokens
        self._prompt = np.sort(self._work.prompt_tokens[self._inside])
        steps = self._work.decode_steps[self._inside]
        self._steps = np.sort(steps)
        self._due: dict[int, Due] = {}
        many = steps > 0
        self._context = np.sort(self._work.context_tokens[self._inside][many] / steps[many])

    def prompt_at(self, percentile_frac: float) -> float:
        """Return that percentile of the prompt tokens computed."""
        return _at(self._prompt, percentile_frac)

    def steps_at(self, percentile_frac: float) -> float:
        """Return that percentile of the decode steps."""
        return _at(self._steps, percentile_frac)

    def context_at(self, percentile_frac: float) -> float:
        """Return that percentile of a request's mean context over its decode steps."""
        return _at(self._context, percentile_frac)

    def too_long_frac(self, max_model_len: int) -> float:
        """Return the share of the window's requests that a model of that context refuses."""
        return float((self._total_tokens[self._inside] > max_model_len).mean())

    def length_for(self, success_frac: float) -> int:
        """Return the least context under which that share of the window's requests is served."""
        ordered = np.sort(self._total_tokens[self._inside])
        return int(ordered[rank_of(success_frac, len(ordered))])

    def due(self, max_model_len: int) -> Due:
        """Return what must be computed by when: one entry per set of objectives and deadline tried.

        Args:
            max_model_len: longer requests are refused and cost nothing.
        """
        if max_model_len not in self._due:
            self._due[max_model_len] = self._sum_up(self._inside & (self._total_tokens <= max_model_len))
        return self._due[max_model_len]

    def _sum_up(self, fits: np.ndarray) -> Due:
        rows = []
        for limits in self._limits():
            allowed, prefill_only, wait_s = self._may_be_late(limits)
            deadline_s = self._arrive_s + wait_s
            ends_s = (self._end_s, float(np.median(deadline_s[self._inside])), float(deadline_s[self._inside].max()))
            rows += [
                self._sums(fits & (deadline_s <= end_s), allowed, end_s, prefill_only=prefill_only)
                for end_s in ends_s
                if end_s > self._start_s
            ]
        columns = np.array(rows, dtype=np.float64).reshape(-1, 5).T
        return Due(**dict(zip(Due.__dataclass_fields__, columns, strict=True)))

    def _limits(self) -> list[tuple[Objective, ...]]:
        """Return the sets of objectives that together bound when a request is done."""
        by = {m: [o for o in self.slo.objectives if o.metric == m] for m in ("ttft", "tpot", "e2e")}
        return [*product(by["ttft"], by["tpot"]), *((o,) for o in by["e2e"]), *((o,) for o in by["ttft"])]

    def _may_be_late(self, limits: tuple[Objective, ...]) -> tuple[int, bool, FloatColumn]:
        """Return (how many of the window may miss one of the limits, whether only the prompt is due, by when)."""
        wait_s = np.zeros_like(self._arrive_s)
        allowed = 0
        for objective in limits:
            per_token = objective.metric == "tpot"
            samples = len(self._context) if per_token else len(self._prompt)
            allowed += samples - 1 - rank_of(objective.percentile_frac, samples) if samples else 0
            wait_s += objective.limit_s * (self._work.decode_steps if per_token else 1.0)
        return allowed, limits[-1].metric == "ttft", wait_s

    def _sums(self, due: np.ndarray, allowed: int, end_s: float, *, prefill_only: bool) -> tuple[float, ...]:
        work = self._work
        prefill = (_without_largest(work.prompt_tokens[due], allowed), _without_largest(work.pairs[due], allowed))
        if prefill_only:
            return (end_s - self._start_s, *prefill, 0.0, 0.0)
        decode = (
            _without_largest(work.decode_steps[due], allowed),
            _without_largest(work.context_tokens[due], allowed),
        )
        return (end_s - self._start_s, *prefill, *decode)


def _at(ordered: FloatColumn, percentile_frac: float) -> float:
    return float(ordered[rank_of(percentile_frac, len(ordered))]) if len(ordered) else 0.0


def _without_largest(values: FloatColumn, count: int) -> float:
    if count >= len(values):
        return 0.0
    if count == 0:
        return float(values.sum())
    return float(np.partition(values, len(values) - count)[: len(values) - count].sum())
