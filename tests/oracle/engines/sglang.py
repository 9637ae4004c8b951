"""SGLang: prefill before decode, a share of the output to come reserved, retraction, a radix tree of tokens."""

from __future__ import annotations

from engines.frame import Engine, Row, ceil_div
from engines.radix import Node, Tree

from headway.types import Replica, Requests, SglangSettings

CLIP, RETRACT_STEPS, DECAY_STEPS = 4096, 20, 600
GO_ON, NO_TOKEN, OTHER = range(3)


class Adder:
    """What one prefill batch may still take."""

    def __init__(self, engine: Sglang) -> None:
        own = engine.own
        self.engine = engine
        self.reserved = 0.0
        for row in engine.running:
            self.reserved += min(row.declared - row.emitted, CLIP) * engine.ratio
        self.taken = 0
        self.rem_input = own.max_prefill_tokens
        self.rem_chunk = own.chunked_prefill_size if own.chunked_prefill_size > 0 else None
        self.rows: list[tuple[Row, int]] = []
        self.chunked: Row | None = None

    @property
    def available(self) -> int:
        return self.engine.free + self.engine.tree.evictable

    @property
    def rem_total(self) -> float:
        return self.available - self.reserved

    def pages(self, tokens: int) -> int:
        return ceil_div(tokens, self.engine.size) * self.engine.size

    def charge(self, tokens: int, outputs: int) -> None:
        tokens = self.pages(tokens)
        self.reserved += tokens + self.engine.size + outputs
        self.taken += tokens + self.engine.size
        self.rem_input -= tokens
        if self.rem_chunk is not None:
            self.rem_chunk -= tokens

    def go_on(self, row: Row) -> bool:
        """Take the next chunk of the row under way; tell whether more is left."""
        left = row.known - self.engine.held[row]
        room = min(self.rem_chunk, int(self.rem_total))
        if room <= 0:
            room = self.rem_chunk
        self.rows.append((row, min(left, room)))
        self.charge(min(left, room), 0 if left > room else min(row.declared, CLIP))
        return left > room

    def add(self, row: Row, node: Node, prefix: int) -> int:
        page, most = self.engine.size, self.engine.own.prefill_max_requests
        if most is not None and len(self.rows) >= most:
            return OTHER
        extend = row.known - prefix
        outputs = min(max(row.declared - row.emitted, 0), CLIP)
        self.engine.tree.lock(node, 1)
        verdict, tokens = self.judge(extend, extend + outputs + page, prefix)
        if tokens == 0:
            self.engine.tree.lock(node, -1)
            return verdict
        self.rows.append((row, tokens))
        self.engine.take_in(row, node, prefix)
        if tokens < extend:
            self.chunked = row
        self.charge(tokens, 0 if tokens < extend else min(row.declared, CLIP))
        if not (self.rem_total > 0 and self.available - self.taken > 0):
            return NO_TOKEN
        return OTHER if self.rem_input <= 0 or (self.rem_chunk is not None and self.rem_chunk <= 0) else GO_ON

    def judge(self, extend: int, total: int, prefix: int) -> tuple[int, int]:
        page = self.engine.size
        if not total < self.rem_total:
            return NO_TOKEN, 0
        if self.rem_chunk is None:
            return (OTHER, 0) if self.rows and self.pages(extend) >= self.rem_input else (GO_ON, extend)
        if self.pages(extend) <= self.rem_chunk:
            return GO_ON, extend
        end = (prefix + self.rem_chunk // page * page) // page * page
        return OTHER, max(0, end - prefix)


class Sglang(Engine):
    def __init__(self, requests: Requests, replica: Replica) -> None:
        self.own: SglangSettings = replica.settings.own or SglangSettings()
        super().__init__(requests, replica)
        self.free = self.blocks * self.size
        self.tree = Tree(self.size)
        self.first_ratio = min(0.7 * self.own.schedule_conservativeness, 1.0)
        self.least_ratio = 0.14 * self.first_ratio
        self.ratio = self.first_ratio
        self.mail: list[Row] = []  # arrived since the scheduler last looked
        self.looked, self.filled = 0, False
        self.waiting: list[Row] = []
        self.running: list[Row] = []
        self.last: list[Row] = []  # of the prefill batch before this one
        self.chunked: Row | None = None
        self.full = False
        self.held: dict[Row, int] = {}  # tokens of KV a row has slots for
        self.shared: dict[Row, int] = {}  # of them in the tree
        self.node: dict[Row, Node] = {}
        self.prefilled: set[Row] = set()  # to be put in the tree when their first token comes

    def limit(self) -> int:
        return min(self.settings.max_model_len, self.blocks * self.size) - 1

    def longest(self, row: Row) -> int:
        return self.limit() - 1

    def refuses(self, row: Row) -> bool:
        needs = row.isl + min(row.declared, CLIP) + self.size
        return row.declared < 1 or needs >= self.blocks * self.size

    def counts(self) -> tuple[int, int, int]:
        free = self.free + self.tree.evictable
        return len(self.held), len(self.mail) + len(self.waiting), free // self.size

    # --- memory

    def cache(self, row: Row) -> None:
        """Put what a row has computed into the tree; it goes on."""
        if not self.settings.enable_prefix_caching:
            return
        whole = self.held[row] // self.size * self.size
        there = self.tree.insert(row.tokens(whole))
        self.free += max(0, there - self.shared[row])
        node, length = self.tree.match(row.tokens(whole))
        assert length == whole
        self.tree.lock(self.node[row], -1)
        self.tree.lock(node, 1)
        self.node[row], self.shared[row] = node, whole

    def private(self, row: Row) -> int:
        return ceil_div(self.held[row], self.size) * self.size - self.shared[row]

    def release(self, row: Row, keep: bool) -> None:
        private = self.private(row)
        if keep and self.settings.enable_prefix_caching:
            whole = self.held[row] // self.size * self.size
            there = self.tree.insert(row.tokens(whole))
            private -= whole - max(there, self.shared[row])
        self.free += private
        self.tree.lock(self.node[row], -1)
        del self.held[row], self.shared[row], self.node[row]

    def make_room(self, tokens: int) -> bool:
        if self.free < tokens:
            self.free += self.tree.evict(tokens)
        return self.free >= tokens

    def take_in(self, row: Row, node: Node, prefix: int) -> None:
        self.node[row], self.held[row], self.shared[row] = node, prefix, prefix
        self.admit(row, prefix)

    # --- schedule

    def enter(self, row: Row) -> None:
        if self.unfinished == 1:
            self.ratio = self.first_ratio
        (self.mail if self.own.scheduler_recv_interval > 1 else self.waiting).append(row)

    def leave(self, row: Row) -> None:
        if row in self.mail:
            self.mail.remove(row)
        elif row in self.waiting:
            self.waiting.remove(row)
        else:
            self.release(row, keep=True)
        if row is self.chunked:
            self.chunked = None
        self.prefilled.discard(row)

    def settle(self, row: Row) -> None:
        if row in self.prefilled:
            self.prefilled.remove(row)
            self.cache(row)

    def schedule(self) -> None:
        self.looked += 1
        if self.looked >= self.own.scheduler_recv_interval or self.filled or not self.held:
            self.waiting += self.mail
            self.mail, self.looked = [], 0
        if self.chunked is not None:
            self.cache(self.chunked)
        if self.last:
            joined = [row for row in self.last if not row.ended and row is not self.chunked]
            if len(joined) < len(self.last):
                self.full = False
            self.running += joined
            self.last = []
        self.filled = self.prefill()
        if not self.filled:
            self.decode()

    def prefill(self) -> bool:
        if (self.full or not self.waiting) and self.chunked is None:
            return False
        if len(self.running) >= self.settings.max_num_seqs and self.chunked is None:
            self.full = True
            return False
        if self.own.schedule_policy == "lpm" and self.settings.enable_prefix_caching:
            self.sort_by_prefix()
        adder = Adder(self)
        if self.chunked is not None and not adder.go_on(self.chunked):
            self.chunked = None
        self.let_in(adder)
        if not adder.rows:
            return False
        if adder.chunked is not None:
            assert self.chunked is None
            self.chunked = adder.chunked
        chosen = [row for row, _ in adder.rows]
        self.waiting = [row for row in self.waiting if row not in chosen]
        self.extend(adder.rows)
        return True

    def let_in(self, adder: Adder) -> None:
        for row in self.waiting:
            if len(adder.rows) >= self.settings.max_num_seqs - len(self.running):
                self.full = True
            if self.full:
                break
            node, prefix = self.match(row)
            verdict = adder.add(row, node, prefix)
            if verdict != GO_ON:
                self.full = self.full or verdict == NO_TOKEN
                break

    def match(self, row: Row) -> tuple[Node, int]:
        if not self.settings.enable_prefix_caching:
            return self.tree.root, 0
        return self.tree.match(row.tokens(row.known - 1))

    def extend(self, rows: list[tuple[Row, int]]) -> None:
        total = sum(tokens for _, tokens in rows)
        assert self.make_room(total + (len(rows) * self.size if self.size > 1 else 0)) or self.size > 1
        for row, tokens in rows:
            before = self.private(row)
            self.held[row] += tokens
            self.free -= self.private(row) - before
            self.run(row, tokens)
            if row is not self.chunked:
                self.prefilled.add(row)
            self.last.append(row)
        assert self.free >= 0

    def decode(self) -> None:
        before = len(self.running)
        self.running = [row for row in self.running if not row.ended]
        if not self.running:
            self.full = False
            return
        if self.make_room(self.needed(self.running)):
            self.ratio = max(self.ratio - (self.first_ratio - self.least_ratio) / DECAY_STEPS, self.least_ratio)
        else:
            self.retract()
        if len(self.running) < before:
            self.full = False
        self.free -= self.needed(self.running)
        for row in self.running:
            self.held[row] += 1
            self.run(row, 1)

    def needed(self, rows: list[Row]) -> int:
        return sum(self.size for row in rows if self.held[row] % self.size == 0)

    def retract(self) -> None:
        order = sorted(self.running, key=lambda row: (row.emitted, -row.isl), reverse=True)
        first = True
        while first or not self.make_room(self.needed(order)):
            assert len(order) > 1, "one request alone always fits"
            first = False
            row = order.pop()
            self.release(row, keep=False)
            self.make_room(len(order) * RETRACT_STEPS)
            self.throw_back(row)
            self.prefilled.discard(row)
            self.waiting.append(row)
        self.running = order
        decoded = sum(row.emitted for row in order) + RETRACT_STEPS * len(order)
        self.ratio = min(1.0, decoded / (sum(row.declared for row in order) + 1))

    def sort_by_prefix(self) -> None:
        if len(self.waiting) > 128:
            return
        seen: list[list[object]] = []
        last: set[Row] = set()
        length: dict[Row, int] = {}
        plain = Tree(1)
        for row in self.waiting:
            tokens = row.tokens(row.known)
            _, matched = self.tree.match(tokens)
            length[row] = min(matched, row.known - 1)
            if matched <= 32:
                if max((plain.common(other, tokens) for other in seen), default=0) >= 32:
                    last.add(row)
                else:
                    seen.append(tokens)
        self.waiting.sort(key=lambda row: float("inf") if row in last else -length[row])
