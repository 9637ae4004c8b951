"""What the naive twin's scheduler works with: a request's part in a batch, the batch, the call, the queues."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from naive_rows import Row


@dataclass(eq=False)
class Item:
    """A request's part in a batch."""

    row: Row
    tokens: int
    drafts: int = 0
    context: int = 0  # computed tokens before
    is_admission: bool = False
    preemptions: int = 0  # of the request so far: if it has more when the output comes, the output is stale
    samples: bool = False  # nothing known is left to compute: the model returns tokens
    made: int = 0  # so many the model returned before
    produced: int = 0  # and so many now


@dataclass(eq=False)
class Batch:
    number: int
    items: list[Item]
    admitted: list[tuple[Row, int]]
    preempted: list[Row]


@dataclass(eq=False)
class Call:
    """What one call of the scheduler has decided so far."""

    tokens: int  # budget of scheduled tokens
    inputs: int  # budget of the model's inputs: scheduled tokens and draft slots
    threshold: int  # largest part of a prompt in one step; 0: any
    is_held: bool  # no prefill in this step
    items: dict[Row, Item] = field(default_factory=dict)
    admitted: list[tuple[Row, int]] = field(default_factory=list)
    preempted: list[Row] = field(default_factory=list)
    has_prefill: bool = False


class Queue:
    """Waiting requests: in order of arrival, the preempted in front; or by priority."""

    def __init__(self, by_priority: bool) -> None:
        self.by_priority = by_priority
        self.rows: deque[Row] = deque()

    def __len__(self) -> int:
        return len(self.rows)

    def head(self) -> Row:
        return min(self.rows, key=lambda row: row.rank) if self.by_priority else self.rows[0]
