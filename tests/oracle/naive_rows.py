"""A request as the naive twin sees it: one object, with all that is known of it at any time."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from naive_pool import Block

    from headway.types import PrefixRuns, Replica, Requests

PS_PER_S = 1e12


@dataclass(eq=False)
class Row:
    number: int
    tie: str | int  # orders equals of priority and arrival: its name as text, else its number
    arrive_ps: int
    isl: int
    outputs: int  # tokens that will come out
    max_tokens: int  # that the client allowed; more than outputs: a stop token ends it
    stops_at: int  # the number of the output token that stops it; 0: none
    ids: list[int]  # keys of its first blocks, in blocks of the engine
    priority: int = 0
    adapter: int = -1  # -1: none
    abort_ps: int | None = None
    is_remote: bool = False  # the KV of its prompt is still to be asked for
    hold_ps: int | None = None
    failed: bool = False
    # scheduling
    state: str = "new"  # waiting, loading, loaded, running, preempted, ended
    nc: int = 0  # computed tokens, as the scheduler believes
    emitted: int = 0
    ph: int = 0  # output placeholders: tokens of batches in flight
    fly: int = 0  # scheduled tokens of batches in flight
    spec: int = 0  # drafts to be verified
    has_come: bool = False  # the KV that was loaded for it
    was_skipped: bool = False  # while waiting: for its adapter, a load, or output in flight
    is_chunk: bool = False  # in the middle of its prefill
    eligible: int = 0  # the first call of the scheduler that may schedule it again
    last_batch: int = -1  # the last batch it is part of
    tables: list[list[Block | None]] = field(default_factory=list)  # blocks by group; None: outside the window
    junction: int = 0  # blocks some group had of its prefix, beyond the hit all agreed on
    registered: list[int] = field(default_factory=list)  # how many of them have been given their key
    # the model
    made: int = 0  # tokens it returned, delivered or not
    verified: int = 0  # drafts were verified so often
    # results
    delivered_ps: list[int] = field(default_factory=list)
    first_ps: int = -1
    last_ps: int = -1
    end_ps: int = -1
    reason: str = ""
    scheduled_ps: int = -1
    start_ps: int = -1
    cached: int = 0
    preemptions: int = 0
    admitted_before: bool = False
    finished: bool = False  # all its tokens came out
    replica: int = -1

    @property
    def known(self) -> int:
        return self.isl + self.emitted

    @property
    def rank(self) -> tuple[int, int, str | int]:
        """Who comes first under priority scheduling."""
        return self.priority, self.arrive_ps, self.tie

    def key(self, index: int) -> object:
        """The key of its index-th block: an id, or something nobody else has."""
        return self.ids[index] if index < len(self.ids) else ("private", self.number, index)


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def expand_ids(prefix: PrefixRuns, number: int, block_size: int) -> list[int]:
    """The keys of a request's blocks, in blocks of the engine, one by one."""
    lo, hi = int(prefix.offsets[number]), int(prefix.offsets[number + 1])
    ids = [int(prefix.first_ids[j]) + i for j in range(lo, hi) for i in range(int(prefix.counts[j]))]
    if prefix.block_tokens >= block_size:
        factor = prefix.block_tokens // block_size
        return [one * factor + i for one in ids for i in range(factor)]
    factor = block_size // prefix.block_tokens
    return ids[factor - 1 :: factor]


def make_rows(requests: Requests, replica: Replica, names: Sequence[str] | None = None) -> list[Row]:
    return [make_row(requests, replica, number, names) for number in range(len(requests))]


def make_row(requests: Requests, replica: Replica, number: int, names: Sequence[str] | None) -> Row:
    def cell(column: str, absent: float) -> float:
        values = getattr(requests, column)
        return absent if values is None else values[number].item()

    def moment(column: str) -> int | None:
        seconds = cell(column, float("nan"))
        return None if math.isnan(seconds) else round(seconds * PS_PER_S)

    settings, isl = replica.settings, int(requests.isl_tokens[number])
    max_tokens = int(cell("max_tokens", int(requests.osl_tokens[number])))
    osl = int(requests.osl_tokens[number])
    row = Row(
        number=number,
        tie=number if names is None else names[number],
        arrive_ps=round(float(requests.arrive_s[number]) * PS_PER_S),
        isl=isl,
        outputs=min(osl, max_tokens, settings.max_model_len - isl),
        max_tokens=max_tokens,
        stops_at=osl if osl < max_tokens else 0,
        ids=[] if requests.prefix is None else expand_ids(requests.prefix, number, settings.block_size),
        priority=int(cell("priority", 0)),
        adapter=int(cell("adapter_id", -1)),
        abort_ps=moment("abort_s"),
        is_remote=bool(cell("remote_prefill", 0)),
        hold_ps=moment("hold_s"),
    )
    row.failed = never_fits(row, replica)
    return row


def never_fits(row: Row, replica: Replica) -> bool:
    """Whether it is refused: longer than the model allows, or than the blocks of the replica."""
    most = ceil_div(row.isl + row.outputs - 1, replica.settings.block_size)
    return row.outputs < 1 or most > replica.num_gpu_blocks
