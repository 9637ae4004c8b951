"""Reader of agentic coding sessions (callanjfox/kv-cache-tester): JSON lines, one session each.

A session has requests at seconds `t` from its start, `in` and `out` tokens, and the blocks of its prompt as runs of
hash ids (`hash_rle`, or plain `hash_ids`), which mean something within the session only unless `hash_id_scope` is
global. Subagents are nested: their `t` counts from where they were started. Each is read as a session of its own, since
it has a context of its own, with the block ids of its parent.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl

from headway.types import PrefixRuns
from headway.workload.codes import word_codes
from headway.workload.prefixes import MAX_ID, maximal_runs, offsets_of, take_runs
from headway.workload.rows import MAX_TOKENS, Rows
from headway.workload.source import parse_json
from headway.workload.trace import Treatment

if TYPE_CHECKING:
    from collections.abc import Iterator

    from headway.types import FloatColumn
    from headway.workload.source import Source
    from headway.workload.trace import ReadOptions

COLUMNS = {"arrive_s": "t", "isl_tokens": "in", "osl_tokens": "out", "e2e_s": "api_time", "ttft_s": "ttft"}
_REQUIRED = ("t", "in", "out")
#: Subagents of subagents: deeper than this is no recording.
_DEEPEST = 16


class _Turn(NamedTuple):
    """One request, and where it stands."""

    request: dict[str, Any]
    place: str
    root: int  # which line's session: its clock, its block ids
    session_id: int
    start_s: float  # of its (sub)agent on that clock


def read_sessions(source: Source, options: ReadOptions) -> Rows:
    """Read sessions; the model of a request becomes its class, `api_time` and `ttft` are what was measured.

    Sessions have no common clock. They start as a Poisson process of `sessions_per_s`, in the order of the file, the
    first at 0; if none is given, at the rate that spreads all sessions over the length of the longest one.
    """
    sessions = list(_sessions(source))
    conversations = itertools.count()
    turns = [turn for root, session in enumerate(sessions) for turn in _turns(source, session, root, conversations)]
    if not turns:
        source.fail("the trace is empty: it has no request")
    numbers = {name: [_number(source, turn, key) for turn in turns] for name, key in COLUMNS.items()}
    classes, models = word_codes(pl.Series([_text(turn.request.get("model")) for turn in turns], dtype=pl.String))
    frame = pl.DataFrame(numbers, schema=dict.fromkeys(COLUMNS, pl.Float64)).with_columns(
        pl.Series("session_id", [turn.session_id for turn in turns]), class_id=classes
    )
    within_s = frame["arrive_s"].to_numpy() + np.array([turn.start_s for turn in turns])
    starts_s, treatment = _starts(within_s, len(sessions), options)
    arrive_s = within_s + starts_s[[turn.root for turn in turns]]
    order = np.argsort(arrive_s, kind="stable")  # sessions interleave
    return Rows(
        frame=frame.with_columns(pl.Series("arrive_s", arrive_s))[order],
        place=lambda row: turns[order[row]].place,
        columns=COLUMNS,
        prefix=take_runs(_prefix(source, sessions, turns), order),
        names={"class_id": models},
        treatments=(treatment, *_nested(next(conversations) - len(sessions))),
    )


def _nested(subagents: int) -> tuple[Treatment, ...]:
    return (Treatment(rows=subagents, text="subagent: read as a session of its own"),) if subagents else ()


def _starts(within_s: FloatColumn, sessions: int, options: ReadOptions) -> tuple[FloatColumn, Treatment]:
    """Return when each session starts."""
    longest_s = float(within_s.max())
    rate_per_s = options.sessions_per_s or (sessions / longest_s if longest_s > 0 else math.inf)
    chance = np.random.default_rng(options.seed)
    gaps_s = -np.log1p(-chance.random(sessions)) / rate_per_s
    gaps_s[0] = 0.0
    text = f"session without a clock: started as a Poisson process of {rate_per_s:.4g} sessions/s"
    return np.cumsum(gaps_s), Treatment(rows=sessions, text=text)


# --- walking -------------------------------------------------------------------------------------------


class _Session(NamedTuple):
    body: dict[str, Any]
    place: str


def _sessions(source: Source) -> Iterator[_Session]:
    for number, text in source.lines():
        place = f"line {number}"
        try:
            body = parse_json(text)
        except ValueError as error:
            source.fail(f"not valid JSON: {error}", place)
        yield _Session(body, place)


def _turns(source: Source, session: _Session, root: int, conversations: Iterator[int]) -> Iterator[_Turn]:
    """Walk the requests of a session and of the subagents inside it."""
    waiting = [(session.body, 0.0, 0)]
    while waiting:
        body, start_s, depth = waiting.pop()
        requests = body.get("requests") if isinstance(body, dict) else None
        if not isinstance(requests, list) or not all(isinstance(one, dict) for one in requests):
            source.fail("expected a session with a list of requests", session.place)
        if depth > _DEEPEST:
            source.fail(f"subagents are nested more than {_DEEPEST} deep", session.place)
        conversation = next(conversations)
        for index, request in enumerate(requests):
            turn = _Turn(request, f"{session.place}, requests[{index}]", root, conversation, start_s)
            if request.get("type") == "subagent":
                waiting.append((request, start_s + (_number(source, turn, "t") or 0.0), depth + 1))
            else:
                yield turn


def _number(source: Source, turn: _Turn, key: str) -> float | None:
    value = turn.request.get(key)
    if value is None and key not in _REQUIRED:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < MAX_ID:
        source.fail(f"expected a finite number, got {str(value)[:40]!r}", f"{turn.place}, {key}")
    return float(value)


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


# --- blocks --------------------------------------------------------------------------------------------


def _prefix(source: Source, sessions: list[_Session], turns: list[_Turn]) -> PrefixRuns:
    """Return the runs of all turns, with ids that are local to a session lifted above those before it."""
    runs = [_runs(source, turn) for turn in turns]
    lifts = _lifts(source, sessions, turns, runs)
    lengths = np.array([len(one) for one in runs], dtype=np.int64)
    flat = np.array([pair for one in runs for pair in one], dtype=np.int64).reshape(-1, 2)
    lift = np.repeat(np.array([lifts[turn.root] for turn in turns], dtype=np.int64), lengths)
    return maximal_runs(
        PrefixRuns(
            block_tokens=_block_tokens(source, sessions),
            offsets=offsets_of(lengths),
            first_ids=flat[:, 0] + lift,
            counts=flat[:, 1],
        )
    )


def _runs(source: Source, turn: _Turn) -> list[tuple[int, int]]:
    """Return the runs of one request as pairs of first id and count."""
    pairs = turn.request.get("hash_rle")
    if pairs is None:
        ids = turn.request.get("hash_ids")
        pairs = [(one, 1) for one in ids] if isinstance(ids, list) else ids or []
    if not isinstance(pairs, list) or not all(_is_run(pair) for pair in pairs):
        source.fail("expected runs of block ids as pairs of first id ≥ 0 and count ≥ 1", f"{turn.place}, hash_rle")
    return [(first, count) for first, count in pairs]


def _is_run(pair: Any) -> bool:
    whole = isinstance(pair, list | tuple) and len(pair) == 2 and all(type(one) is int for one in pair)
    return whole and 0 <= pair[0] < MAX_ID and 1 <= pair[1] <= MAX_TOKENS


def _lifts(
    source: Source, sessions: list[_Session], turns: list[_Turn], runs: list[list[tuple[int, int]]]
) -> list[int]:
    """Return what is added to the ids of each session."""
    scopes = {session.body.get("hash_id_scope", "local") for session in sessions}
    if scopes == {"global"}:
        return [0] * len(sessions)
    if scopes != {"local"}:
        source.fail("sessions of one file must agree in hash_id_scope: local or global")
    ends = [0] * len(sessions)
    for turn, one in zip(turns, runs, strict=True):
        ends[turn.root] = max([ends[turn.root], *(first + count for first, count in one)])
    lifts = list(itertools.accumulate(ends, initial=0))
    if lifts[-1] >= MAX_ID:
        source.fail("the block ids are too large: all sessions' together leave 62 bits")
    return lifts[:-1]


def _block_tokens(source: Source, sessions: list[_Session]) -> int:
    size = sessions[0].body.get("block_size")
    if type(size) is not int or not 1 <= size <= MAX_TOKENS:
        source.fail(
            f"expected a whole number of tokens from 1, got {str(size)[:40]!r}", f"{sessions[0].place}, block_size"
        )
    for session in sessions:
        if session.body.get("block_size") != size:
            source.fail(f"expected block_size {size} as in the session before", f"{session.place}, block_size")
    return size
