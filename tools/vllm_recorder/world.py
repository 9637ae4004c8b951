"""Virtual time, and what the stand-ins know and note. Times are nanoseconds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Row = dict[str, Any]
STOP_TOKEN = 1


@dataclass
class Batch:
    """What one call of the scheduler decided, and when it is executed."""

    number: int  # of the call, those that scheduled nothing included
    begin: int
    end: int
    samples: dict[str, list[int]]  # tokens that come out, by request
    row: Row | None  # None where it neither scheduled nor preempted


@dataclass
class World:
    """Virtual time, and all that the stand-ins need to know and note."""

    meta: Row
    requests: dict[str, Row]
    now: int = 0
    calls: int = 0
    recorded: int = 0
    stages: list[int] = field(default_factory=list)  # when each stage of the pipeline is free
    produced: dict[str, int] = field(default_factory=dict)  # tokens the model made, by request
    verified: dict[str, int] = field(default_factory=dict)  # drafts verified so far: how often
    sampled: list[str] = field(default_factory=list)  # by the last batch executed
    preempted: list[str] = field(default_factory=list)  # by the present call
    transfers: list[Row] = field(default_factory=list)
    under_way: list[tuple[int, Row]] = field(default_factory=list)  # (batches sent off before it, its row)
    preemptions: dict[str, int] = field(default_factory=dict)  # by request
    first: dict[str, tuple[int, int]] = field(default_factory=dict)  # when first scheduled and begun
    cached: dict[str, int] = field(default_factory=dict)  # tokens computed at the first admission
    popped: Batch | None = None
    streams: dict[str, int] = field(default_factory=dict)

    def token(self, stream: str, position: int) -> int:
        """A token's number: equal exactly where stream and position are."""
        return (self.streams.setdefault(stream, len(self.streams)) << 24) + position + STOP_TOKEN + 1

    def prompt(self, row: Row) -> list[int]:
        """The tokens of a request's prompt."""
        return [self.token(stream, start + i) for stream, start, count in row["prompt"] for i in range(count)]

    def outputs(self, name: str, count: int) -> list[int]:
        """The next tokens the model makes for a request."""
        first = self.produced.get(name, 0)
        self.produced[name] = first + count
        last = self.requests[name]["out"] - 1 if self.meta["stop"] == "eos" else -1
        return [STOP_TOKEN if i == last else self.token(f"o:{name}", i) for i in range(first, first + count)]

    def accepted(self, name: str, drafts: int) -> int:
        """How many drafts the next verification accepts."""
        turn = self.verified.get(name, 0)
        self.verified[name] = turn + 1
        pattern = self.meta["accept_pattern"]
        return min(drafts, pattern[turn % len(pattern)])

    def execute(self, tokens: int, context: int, count: int) -> tuple[int, int]:
        """Send a batch through the pipeline; return when its execution begins and ends."""
        cost = self.meta["cost_ns"]
        duration = cost["a"] + cost["b"] * tokens + cost["c"] * context + cost["d"] * count if tokens else 0
        ends, end = [], self.now
        for free in self.stages:
            end = max(end, free) + duration
            ends.append(end)
        if tokens:
            self.stages = ends
        return ends[0] - duration, end

    def send_off(self, name: str, kind: str, duration: int, tokens: int) -> None:
        """Begin a KV transfer."""
        row = {"type": "kv", "id": name, "kind": kind, "t0": self.now, "t1": self.now + duration, "n": tokens}
        self.transfers.append(row)
        self.under_way.append((self.calls, row))

    def complete(self, batch: Batch) -> list[Row]:
        """The transfers a batch reports, in order of beginning: known when it was sent off, complete when it ends."""
        done = [one for one in self.under_way if one[1]["t1"] <= batch.end and one[0] < batch.number]
        self.under_way = [one for one in self.under_way if one not in done]
        return [row for _, row in done]
