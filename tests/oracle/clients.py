"""The clients that send a twin's requests, naively: who has one, and when those without one came free.

In an open loop there are as many as requests.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable


class Clients:
    def __init__(self, rows: Iterable[Any], concurrency: int | None, turnaround_ps: int) -> None:
        self.rows = deque(rows)
        self.turnaround_ps = turnaround_ps
        self.free = [-1] * (len(self.rows) if concurrency is None else concurrency)
        self.out: list[Any] = []  # requests under way

    def first_free_ps(self) -> int | None:
        for row in [row for row in self.out if row.end_ps >= 0]:
            self.out.remove(row)
            self.free.append(row.end_ps + self.turnaround_ps)
        return min(self.free, default=None)

    def next_ps(self) -> int | None:
        """When the next request is sent, as far as is known."""
        free_ps = self.first_free_ps()
        return None if free_ps is None or not self.rows else max(free_ps, self.rows[0].arrive_ps)

    def sends(self, now_ps: int, *, before_ends: bool) -> bool:
        """Whether a request is sent now: one whose client comes free by an end at this instant, after that end."""
        if self.next_ps() != now_ps:
            return False
        return not before_ends or self.turnaround_ps > 0 or self.first_free_ps() < now_ps

    def send(self, now_ps: int) -> Any:
        self.free.remove(self.first_free_ps())
        row = self.rows.popleft()
        if row.abort_ps is not None:
            row.abort_ps += now_ps - row.arrive_ps
        row.arrive_ps = now_ps
        return row

    def sent(self, row: Any) -> None:
        self.out.append(row)

    def refused(self, now_ps: int) -> None:
        self.free.append(now_ps + self.turnaround_ps)
