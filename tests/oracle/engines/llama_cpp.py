"""llama.cpp's server: so many slots, each with a context and a cache of its own."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np
from engines.frame import Engine, Flight, Row, ceil_div

from headway.types import LlamaCppSettings, Replica, Requests


@dataclass(eq=False)
class Slot:
    number: int
    row: Row | None = None
    fresh: bool = False  # the prompt has not been looked at yet
    tokens: list[object] = field(default_factory=list)  # in its cache
    last_used: int = -1

    def common(self, row: Row) -> int:
        n = 0
        while n < min(len(self.tokens), row.isl) and self.tokens[n] == row.token(n):
            n += 1
        return n


class LlamaCpp(Engine):
    overlaps = False

    def __init__(self, requests: Requests, replica: Replica) -> None:
        self.own: LlamaCppSettings = replica.settings.own or LlamaCppSettings()
        super().__init__(requests, replica)
        self.slots = [Slot(i) for i in range(self.settings.max_num_seqs)]
        self.tasks: deque[Row] = deque()
        self.deferred: deque[Row] = deque()
        self.uses = 0

    def longest(self, row: Row) -> int:
        """A slot has its share of the context."""
        return min(self.settings.max_model_len, self.blocks * self.size // self.settings.max_num_seqs)

    def refuses(self, row: Row) -> bool:
        return row.declared < 1

    def counts(self) -> tuple[int, int, int]:
        busy = [slot for slot in self.slots if slot.row is not None]
        held = sum(ceil_div(len(slot.tokens), self.size) for slot in busy)
        return len(busy), len(self.tasks) + len(self.deferred), self.blocks - held

    def enter(self, row: Row) -> None:
        self.tasks.append(row)

    def leave(self, row: Row) -> None:
        for line in (self.tasks, self.deferred):
            if row in line:
                line.remove(row)
                return
        slot = next(slot for slot in self.slots if slot.row is row)
        slot.row = None
        slot.last_used = self.uses = self.uses + 1
        if self.deferred:
            self.tasks.appendleft(self.deferred.popleft())

    def outputs(self, flight: Flight) -> list[tuple[Row, int, bool, int]]:
        slots = {slot.row: slot.number for slot in self.slots if slot.row is not None}
        return sorted(flight.entries, key=lambda entry: slots.get(entry[0], -1))

    def choose(self, row: Row) -> Slot | None:
        """The free slot whose cache has most of the prompt, else the one not used for longest."""
        free = [slot for slot in self.slots if slot.row is None]
        best, chosen = np.float32(0), None
        for slot in free:
            likeness = np.float32(slot.common(row)) / np.float32(row.isl)
            if slot.tokens and likeness > best and likeness > np.float32(self.own.slot_prompt_similarity):
                best, chosen = likeness, slot
        if chosen is None or self.own.slot_prompt_similarity == 0:
            chosen = min(reversed(free), key=lambda slot: slot.last_used, default=None)
        return chosen

    def schedule(self) -> None:
        for _ in range(len(self.tasks)):
            row = self.tasks.popleft()
            slot = self.choose(row)
            if slot is None:
                self.deferred.append(row)
            else:
                slot.row, slot.fresh = row, True
        budget = self.settings.max_num_batched_tokens
        for slot in self.slots:
            if slot.row is not None and not slot.fresh and len(slot.tokens) >= slot.row.isl:
                slot.tokens.append(slot.row.token(len(slot.tokens)))
                self.run(slot.row, 1)
                budget -= 1
        decoding = [row for row, _ in self.batch]
        for slot in self.slots:
            if slot.row is None or slot.row in decoding or budget <= 0:
                continue
            self.read_prompt(slot, slot.row)
            tokens = min(budget, slot.row.isl - len(slot.tokens))
            budget -= tokens
            slot.tokens += [slot.row.token(len(slot.tokens) + i) for i in range(tokens)]
            self.run(slot.row, tokens)

    def read_prompt(self, slot: Slot, row: Row) -> None:
        if slot.fresh:
            slot.fresh = False
            cached = min(slot.common(row), row.isl - 1) if self.settings.enable_prefix_caching else 0
            slot.tokens = slot.tokens[:cached]
            self.admit(row, cached)
