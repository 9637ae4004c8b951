"""Sessions: turns with think time between them, and prompts that grow from turn to turn.

The prompt of a turn holds all of the turn before it: its prompt, its output, and something new. When a later turn
arrives depends on when the answer before it was complete, which no generator knows before the fleet is simulated; so a
session carries an *assumed* response time: a turn arrives at start + Σ (response time + think time) of those before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from headway.workload.distributions import Z_LIMIT, whole, whole_mean
from headway.workload.lengths import tokens

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from headway.types import FloatColumn, IntColumn
    from headway.workload.distributions import Distribution
    from headway.workload.lengths import Lengths

    Chance = Callable[[str], np.random.Generator]
    Column = TypeVar("Column", FloatColumn, IntColumn)


#: No session has more turns than this, whatever a tail says.
MOST_TURNS = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Sessions:
    """How conversations go.

    Exactly one of `growth_tokens` and `alike_frac` is given:

    - with `growth_tokens` the length distribution describes the *first* prompt, and each later prompt is the one
      before, its output, and that many new tokens;
    - with `alike_frac` the length distribution describes *all* prompts, as in a table derived from a trace. The scores
      of one session's prompts share that part of their variance and are put in rising order, so a session's prompts
      grow and the marginal over all prompts stays the table's (but where a prompt would be shorter than the prompt
      and output before it, it is that long).

    Args:
        turns: per session, rounded to whole turns ≥ 1.
        think_s: from the end of an answer to the next turn.
        response_s: assumed from a turn's arrival to the end of its answer.
        growth_tokens: new tokens each later turn brings.
        alike_frac: 0: a session's prompts differ as much as any; 1: they are all alike.
    """

    turns: Distribution
    think_s: Distribution
    response_s: Distribution
    growth_tokens: Distribution | None = None
    alike_frac: float | None = None

    @property
    def mean_turns(self) -> float:
        """Requests per session."""
        return whole_mean(self.turns, MOST_TURNS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Turns:
    """All turns of some sessions, session by session, turn by turn."""

    session: IntColumn  # (n_turns,) index of the session, never falling
    after_s: FloatColumn  # (n_turns,) since the session's start
    isl_tokens: IntColumn
    osl_tokens: IntColumn


def draw_turn_counts(sessions: Sessions, count: int, chance: Chance) -> IntColumn:
    """Return how many turns each of the first `count` sessions has."""
    return whole(sessions.turns.at(chance("turns").standard_normal(count)), MOST_TURNS).astype(np.int64)


def draw_turns(sessions: Sessions, lengths: Lengths, counts: IntColumn, chance: Chance) -> Turns:
    """Fill sessions of `counts` turns each with times and lengths."""
    session = np.repeat(np.arange(len(counts)), counts)
    first = np.repeat(np.cumsum(counts) - counts, counts)
    size = len(session)
    think_s = sessions.think_s.at(chance("think").standard_normal(size))
    wait_s = think_s + sessions.response_s.at(chance("response").standard_normal(size))
    isl, osl = _growing(sessions, lengths, session, first, chance)
    return Turns(session=session, after_s=sum_before(wait_s, first), isl_tokens=isl, osl_tokens=osl)


def sum_before(values: Column, first: IntColumn) -> Column:
    """Sum what stands before each row in its group; `first` is the row each row's group starts at."""
    running = np.cumsum(values, dtype=values.dtype) - values
    return running - running[first]


def _growing(
    sessions: Sessions, lengths: Lengths, session: IntColumn, first: IntColumn, chance: Chance
) -> tuple[IntColumn, IntColumn]:
    size = len(session)
    isl_z, osl_z = chance("isl").standard_normal(size), chance("osl").standard_normal(size)
    if sessions.growth_tokens is not None:
        isl, osl = lengths.sample(isl_z, osl_z)
        new = tokens(sessions.growth_tokens.at(chance("growth").standard_normal(size)))
        new[first] = 0
        return isl[first] + sum_before(osl, first) + sum_before(new, first) + new, osl
    alike = sessions.alike_frac or 0.0
    own = isl_z[np.lexsort((isl_z, session))]
    common = chance("session").standard_normal(session[-1] + 1 if size else 0)[session]
    isl_z = np.clip(np.sqrt(alike) * common + np.sqrt(1.0 - alike) * own, -Z_LIMIT, Z_LIMIT)
    isl, osl = lengths.sample(isl_z, osl_z)
    said = sum_before(osl, first)
    return _running_max(isl - said, session) + said, osl


def _running_max(values: IntColumn, group: IntColumn) -> IntColumn:
    """Return the largest value so far in each group; groups are numbered upwards."""
    if not len(values):
        return values
    lift = group * (int(values.max()) - int(values.min()) + 1)
    return np.asarray(np.maximum.accumulate(values + lift) - lift, np.int64)
