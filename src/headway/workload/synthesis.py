"""Draws requests from a specification: vectorised, from one seed, the same bytes every time.

Every quantity has its own stream of chance, derived from the seed and the quantity's name, so another arrival process
leaves the lengths as they were, and another rate moves the same requests closer together.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from headway.errors import InputError
from headway.types import Requests
from headway.workload.blocks import BLOCK_TOKENS, prefix_runs, system_blocks, system_ids, system_room
from headway.workload.recorded import repeat
from headway.workload.sessions import Turns, draw_turn_counts, draw_turns

if TYPE_CHECKING:
    from collections.abc import Callable

    from headway.types import FloatColumn, IntColumn, PrefixRuns
    from headway.workload.arrivals import Arrivals
    from headway.workload.lengths import Lengths
    from headway.workload.sessions import Sessions
    from headway.workload.spec import Label, SystemPrompt, WorkloadSpec

    Chance = Callable[[str], np.random.Generator]

#: More than this many requests are refused: 10⁸ rows take 2.4 GB in three columns alone.
MOST_REQUESTS = 10**8

#: The place of a name here is its stream's key: append, never reorder, or every seed means something else.
STREAMS = (
    *("gaps", "path", "isl", "osl", "turns", "think", "response", "growth", "session"),
    *("system_prompts", "tenants", "adapters", "classes"),
)


def generate(
    spec: WorkloadSpec,
    *,
    requests: int | None = None,
    duration_s: float | None = None,
    seed: int,
    rate_factor: float = 1.0,
) -> Requests:
    """Draw requests.

    One seed gives the same bytes (on one version of numpy and one kind of processor). The rate multiplied by
    `rate_factor` moves the same requests closer together; how long the stays of a modulated rate, days, steps and think
    times last stays as it is, so with sessions the same turns of the same sessions come in another order.

    Sessions are drawn in a window closed to a circle: a turn after the window's end arrives at its beginning instead,
    as a turn of a session under way since before (with a session id and blocks of its own). So the rate is right from
    the first second on, where sessions that all start inside the window would need hours to build it up. When a later
    turn arrives follows from the specification's assumed response time, not from the fleet's.

    Recorded content is repeated from the start when it is used up, each round with fresh sessions and blocks.

    Args:
        spec: what to draw.
        requests: how many; or else
        duration_s: all that arrive in so many seconds.
        seed: whole number ≥ 0.
        rate_factor: multiplies the specification's rate.

    Returns:
        Columns in order of arrival; `prefix` in blocks of 16 tokens where there are sessions or system prompts.

    Raises:
        InputError: not exactly one of `requests` and `duration_s`, one out of bounds, or more than 10⁸ requests.
    """
    _check(spec, requests, duration_s, seed, rate_factor)

    def chance(stream: str) -> np.random.Generator:
        sequence = np.random.SeedSequence(seed, spawn_key=(STREAMS.index(stream),))
        return np.random.Generator(np.random.PCG64(sequence))

    arrivals = dataclasses.replace(spec.arrivals, factor=spec.arrivals.factor * rate_factor)
    if spec.sessions is not None:
        return _in_sessions(spec, spec.sessions, arrivals, requests, duration_s, chance)
    times_s = _times_s(arrivals, requests, duration_s, chance)
    if isinstance(spec.content, Requests):
        return _labelled(spec, repeat(spec.content, times_s), np.arange(len(times_s)), chance)
    return _labelled(spec, _alone(spec.content, spec.system_prompts, times_s, chance), np.arange(len(times_s)), chance)


def _check(spec: WorkloadSpec, requests: int | None, duration_s: float | None, seed: int, rate_factor: float) -> None:
    if (requests is None) == (duration_s is None):
        raise InputError("say how many requests or for how many seconds: exactly one of the two")
    for name, value in (("requests", requests), ("duration_s", duration_s), ("rate_factor", rate_factor)):
        if value is not None and not 0 < value < float("inf"):
            raise InputError(f"expected a number above zero, got {value!r}", place=name)
    if seed < 0:
        raise InputError(f"expected a whole number from 0 on, got {seed!r}", place="seed")
    wanted = requests or (duration_s or 0.0) * spec.rate_per_s * rate_factor
    if wanted > MOST_REQUESTS:
        place = "requests" if requests else "duration_s"
        raise InputError(f"{wanted:,.0f} requests are more than the {MOST_REQUESTS:,} drawn at once", place=place)


def _times_s(arrivals: Arrivals, count: int | None, duration_s: float | None, chance: Chance) -> FloatColumn:
    """The first `count` arrival times, or all below `duration_s`."""
    if count is not None:
        return arrivals.times_s(count, gaps=chance("gaps"), path=chance("path"))
    assert duration_s is not None
    # fewer draws are a prefix of more, so a guess that turns out short is simply drawn again, larger
    count = 64 + int(1.1 * duration_s * arrivals.mean_per_s)
    while (times_s := arrivals.times_s(count, gaps=chance("gaps"), path=chance("path")))[-1] < duration_s:
        if count > MOST_REQUESTS:  # steps that begin far above their long-run rate
            raise InputError(f"more than the {MOST_REQUESTS:,} requests drawn at once", place="duration_s")
        count *= 2
    return times_s[: np.searchsorted(times_s, duration_s)]


def _alone(lengths: Lengths, prompts: tuple[SystemPrompt, ...], times_s: FloatColumn, chance: Chance) -> Requests:
    """Requests that share no more than a system prompt."""
    size = len(times_s)
    isl, osl = lengths.sample(chance("isl").standard_normal(size), chance("osl").standard_normal(size))
    prefix = None
    if prompts:
        which = _draw(prompts, size, chance("system_prompts"))
        prefix = prefix_runs((system_ids(prompts, which), system_blocks(prompts, which, isl)))
    return Requests(arrive_s=times_s, isl_tokens=isl, osl_tokens=osl, prefix=prefix)


# --- sessions -------------------------------------------------------------------------------------------


def _in_sessions(
    spec: WorkloadSpec,
    sessions: Sessions,
    arrivals: Arrivals,
    requests: int | None,
    duration_s: float | None,
    chance: Chance,
) -> Requests:
    assert not isinstance(spec.content, Requests)
    starts = dataclasses.replace(arrivals, factor=arrivals.factor / sessions.mean_turns)
    if requests is None:
        assert duration_s is not None
        window_s, start_s = duration_s, _times_s(starts, None, duration_s, chance)
        counts = draw_turn_counts(sessions, len(start_s), chance)
    else:
        counts = _enough_sessions(sessions, requests, chance)
        *_, window_s = start_s = _times_s(starts, len(counts) + 1, None, chance)
        start_s = start_s[:-1]
    turns = draw_turns(sessions, spec.content, counts, chance)
    lap, arrive_s = np.divmod(start_s[turns.session] + turns.after_s, window_s)
    order = np.argsort(arrive_s, kind="stable")[:requests]
    visit = _visits(turns.session, lap)
    prefix = _session_blocks(spec.system_prompts, turns, visit, len(counts), order, chance)
    drawn = Requests(
        arrive_s=arrive_s[order],
        isl_tokens=turns.isl_tokens[order],
        osl_tokens=turns.osl_tokens[order],
        session_id=visit[order],
        prefix=prefix,
    )
    return _labelled(spec, drawn, turns.session[order], chance)


def _enough_sessions(sessions: Sessions, requests: int, chance: Chance) -> IntColumn:
    """Turn counts of as few sessions as hold that many requests."""
    guess = 64 + int(1.1 * requests / sessions.mean_turns)
    while (total := np.cumsum(counts := draw_turn_counts(sessions, guess, chance)))[-1] < requests:
        guess *= 2
    return counts[: int(np.searchsorted(total, requests)) + 1]


def _visits(session: IntColumn, lap: FloatColumn) -> IntColumn:
    """Number what a session does in one lap of the window: to the fleet it is a session of its own."""
    fresh = (np.diff(session, prepend=-1) != 0) | (np.diff(lap, prepend=-1.0) != 0)
    return np.cumsum(fresh) - 1


def _session_blocks(
    prompts: tuple[SystemPrompt, ...], turns: Turns, visit: IntColumn, sessions: int, order: IntColumn, chance: Chance
) -> PrefixRuns:
    """Name the blocks of every turn, prompt and output: the system prompt's, then those of the session's visit."""
    which = _draw(prompts, sessions, chance("system_prompts"))[turns.session]
    first = np.searchsorted(turns.session, turns.session)  # a session's prompts share what its first one has room for
    common = system_blocks(prompts, which, turns.isl_tokens[first])
    own = (turns.isl_tokens + turns.osl_tokens) // BLOCK_TOKENS - common
    last = np.searchsorted(visit, visit, side="right") - 1
    room = np.where(last == np.arange(len(visit)), own, 0)
    own_ids = (system_room(prompts) + np.cumsum(room) - room)[last]
    return prefix_runs((system_ids(prompts, which)[order], common[order]), (own_ids[order], own[order]))


# --- whose ----------------------------------------------------------------------------------------------


def _draw(parts: tuple[Label, ...] | tuple[SystemPrompt, ...], count: int, stream: np.random.Generator) -> IntColumn:
    """Which part each of `count` owners falls to, by their shares; −1 for what the shares leave over."""
    bounds = np.cumsum([part.share_frac for part in parts])
    bounds[bounds > 1.0 - 1e-9] = 1.0
    drawn = np.searchsorted(bounds, stream.random(count), side="right")
    return np.where(drawn < len(parts), drawn, -1)


def _labelled(spec: WorkloadSpec, drawn: Requests, owner: IntColumn, chance: Chance) -> Requests:
    """Give the requests of one owner (itself, or its session) the same tenant, adapter and class."""
    owners = int(owner.max()) + 1 if len(owner) else 0
    labels: dict[str, Any] = {}
    for column, stream, parts in (
        ("tenant_id", "tenants", spec.tenants),
        ("adapter_id", "adapters", spec.adapters),
        ("class_id", "classes", spec.classes),
    ):
        if parts:
            labels[column] = _draw(parts, owners, chance(stream))[owner]
    if spec.classes:
        labels["priority"] = np.array([*(part.priority for part in spec.classes), 0])[labels["class_id"]]
    return dataclasses.replace(drawn, **labels)
