"""Whether what was sent is what was asked for: arrival times, prompt lengths, output lengths, shared prefixes."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from headway.errors import InputError
from headway.workload.prefixes import hit_tokens

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headway.types import BoolColumn, FloatColumn, IntColumn, Requests
    from headway.workload.trace import Measured, Trace

#: A column is off where its Wasserstein distance is more than this share of the mean asked for. The p-value does not
#: decide: equal gaps or equal lengths make it 0 at a jitter of microseconds, and many requests at any difference.
TOKENS_OFF_FRAC, GAPS_OFF_FRAC = 0.02, 0.05
#: Gaps between arrivals nearer than this are not told apart: event loops keep time to about a millisecond.
GAPS_SAME_S = 1e-3
#: More of the prompts found in a cache than they share, by this much of all prompt tokens: they share what was not
#: asked for. Less found is the server's doing (no cache, or evicted), not the client's.
CACHED_OFF_FRAC = 0.02
#: Answers that came to their end; of others, fewer tokens say nothing of what was asked for.
_ENDED = ("", "stopped-early", "too-long")
#: Samples up to which the test's distribution is the exact one; SciPy's other one divides by zero for one sample.
_FEW = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How far what was sent lies from what was asked for, in one column; figures are in the column's unit.

    Attributes:
        column: `gap_s` (between arrivals), `isl_tokens` or `osl_tokens`.
        samples: of what was sent.
        asked_mean: of what was asked for.
        sent_mean: of what was sent.
        ks: two-sample Kolmogorov–Smirnov statistic, the largest distance of the two distribution functions.
        p_value: chance of one as large, if both were samples of the same distribution.
        wasserstein: mean distance between the two, rank by rank.
        allowed: distance up to which the column is as asked for.
    """

    column: str
    samples: int
    asked_mean: float
    sent_mean: float
    ks: float
    p_value: float
    wasserstein: float
    allowed: float

    @property
    def same(self) -> bool:
        """Whether the column is as asked for."""
        return self.wasserstein <= self.allowed

    def __str__(self) -> str:
        off = f"mean {self.sent_mean:.4g} for {self.asked_mean:.4g} asked"
        return f"{self.column}: {off}, Wasserstein distance {self.wasserstein:.3g} (allowed: {self.allowed:.3g})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fidelity:
    """Whether what was sent is what was asked for.

    Attributes:
        asked: requests asked for.
        sent: of them, requests written.
        answered: of them, answered in full.
        errors: requests by why they were not answered in full.
        columns: what could be compared.
        shared_frac: of all prompt tokens sent, what an infinite prefix cache finds; None: no prefixes were asked for.
        cached_frac: what the server found in its own; None: it did not say.
        off: what is not as asked for, in whole sentences; empty: what was sent is what was asked for.
    """

    asked: int
    sent: int
    answered: int
    errors: Mapping[str, int]
    columns: tuple[Difference, ...]
    shared_frac: float | None
    cached_frac: float | None
    off: tuple[str, ...]

    @property
    def same(self) -> bool:
        """Whether what was sent is what was asked for."""
        return not self.off


def compare(asked: Requests, sent: Trace, *, closed: bool = False) -> Fidelity:
    """Compare what was sent with what was asked for.

    Of requests of the same number, row i is taken to be what became of request i: those that were not sent are then
    left out on both sides, and unsent ones are named. Of other numbers, all of either side are compared. Times of
    `asked` need not rise: turns of sessions may have overtaken each other.

    Args:
        asked: what was asked for.
        sent: what was sent, with what was measured.
        closed: a closed loop: arrivals follow the answers, and are not compared.

    Raises:
        InputError: nothing was measured, or SciPy is not installed.
    """
    measured = sent.measured
    if measured is None:
        raise InputError("nothing was measured with these requests", file=sent.file or None)
    written = _written(sent.requests, measured)
    errors = _errors(sent, measured)
    paired = len(asked) == len(sent.requests)
    columns = [] if closed else _gaps(asked, sent.requests, measured, written, paired=paired)
    columns += _lengths(asked, sent, measured, written, errors, paired=paired)
    shared_frac, cached_frac = _prefixes(sent.requests, measured, written)
    counts = dict(zip(*np.unique([one for one in errors if one], return_counts=True), strict=True))
    off = [str(one) for one in columns if not one.same]
    if int(written.sum()) < len(asked):
        off.insert(0, f"{len(asked) - int(written.sum()):,} of {len(asked):,} requests were not sent")
    if cached_frac is not None and cached_frac > (shared_frac or 0.0) + CACHED_OFF_FRAC:
        off.append(
            f"prefixes: {cached_frac:.1%} of the prompt tokens were cached, {shared_frac or 0.0:.1%} are shared by "
            "what was asked for: the server had them from before, or the prompts are more alike, as by a chat template"
        )
    return Fidelity(
        asked=len(asked),
        sent=int(written.sum()),
        answered=sum(not one for one in errors),
        errors={str(word): int(count) for word, count in counts.items()},
        columns=tuple(columns),
        shared_frac=shared_frac,
        cached_frac=cached_frac,
        off=tuple(off),
    )


def _written(requests: Requests, measured: Measured) -> BoolColumn:
    """Which requests were written; all where sending was not timed."""
    return np.ones(len(requests), dtype=bool) if measured.sent_s is None else np.isfinite(measured.sent_s)


def _errors(sent: Trace, measured: Measured) -> list[str]:
    if measured.error is None:
        return [""] * len(sent.requests)
    words = sent.names["error"]
    return [words[code] for code in measured.error.tolist()]


def _gaps(
    asked: Requests, requests: Requests, measured: Measured, written: BoolColumn, *, paired: bool
) -> list[Difference]:
    sent_s = requests.arrive_s + (0.0 if measured.sent_s is None else measured.sent_s)
    wanted_s = asked.arrive_s[written] if paired else asked.arrive_s
    gaps_s, real_s = np.diff(np.sort(wanted_s)), np.diff(np.sort(sent_s[written]))
    if not len(gaps_s) or not len(real_s):
        return []
    return [_difference("gap_s", gaps_s, real_s, max(GAPS_OFF_FRAC * float(gaps_s.mean()), GAPS_SAME_S))]


def _lengths(
    asked: Requests, sent: Trace, measured: Measured, written: BoolColumn, errors: list[str], *, paired: bool
) -> list[Difference]:
    ended = np.isin(np.array(errors), _ENDED)
    sides = (
        ("isl_tokens", asked.isl_tokens, measured.input_tokens, sent.requests.isl_tokens, written),
        ("osl_tokens", asked.osl_tokens, measured.output_tokens, sent.requests.osl_tokens, written & ended),
    )
    found = []
    for name, wanted, counted, said, rows in sides:
        real: IntColumn = said if counted is None else counted
        known = rows & (real >= 0)
        if known.any():
            before = wanted[known] if paired else wanted
            found.append(_difference(name, before, real[known], TOKENS_OFF_FRAC * float(before.mean())))
    return found


def _difference(
    column: str, asked: IntColumn | FloatColumn, sent: IntColumn | FloatColumn, allowed: float
) -> Difference:
    try:
        from scipy import stats
    except ModuleNotFoundError:
        raise InputError("tests of distributions need SciPy", hint="pip install 'headway[live]'") from None
    few = min(len(asked), len(sent)) < _FEW
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "ks_2samp: Exact", RuntimeWarning)  # it takes the other one by itself
        test = stats.ks_2samp(asked, sent, method="exact" if few else "asymp")
    return Difference(
        column=column,
        samples=len(sent),
        asked_mean=float(asked.mean()),
        sent_mean=float(sent.mean()),
        ks=float(test.statistic),
        p_value=float(test.pvalue),
        wasserstein=float(stats.wasserstein_distance(asked, sent)),
        allowed=allowed,
    )


def _prefixes(requests: Requests, measured: Measured, written: BoolColumn) -> tuple[float | None, float | None]:
    """Return which share of the prompt tokens is shared, and which was found cached, where that is known."""
    shared_frac = cached_frac = None
    if requests.prefix is not None and written.any():
        hits = hit_tokens(requests.prefix, requests.isl_tokens)
        shared_frac = float(hits[written].sum() / requests.isl_tokens[written].sum())
    if measured.cached_tokens is not None:
        known = written & (measured.cached_tokens >= 0)
        if known.any():
            counted = requests.isl_tokens if measured.input_tokens is None else measured.input_tokens
            prompt_tokens = np.where(counted >= 0, counted, requests.isl_tokens)
            cached_frac = float(measured.cached_tokens[known].sum() / prompt_tokens[known].sum())
    return shared_frac, cached_frac
