"""vLLM's synchronous V1 scheduler, one iteration at a time, with lists and dictionaries: an oracle.

Written from the rules alone and for reading, not for speed. It shares no code with headway.simulator but the nouns of
its interface: requests as rows, a step table, and what is to be found out about each request.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from headway.types import EngineSettings, PrefixRuns, Replica, Requests, StepTable


@dataclass(eq=False)
class Row:
    number: int
    arrive_ps: int
    isl: int
    outputs: int  # tokens it will get
    ids: list[int]  # keys of its first blocks, in blocks of the engine
    failed: bool = False
    # scheduling
    nc: int = 0  # computed tokens
    emitted: int = 0
    blocks: list[Block] = field(default_factory=list)
    # results
    first_ps: int = -1
    last_ps: int = -1
    cached: int = 0
    preemptions: int = 0
    admitted_before: bool = False
    finished: bool = False
    replica: int = -1

    @property
    def known(self) -> int:
        return self.isl + self.emitted

    def key(self, index: int) -> object:
        """The key of its index-th block: an id, or something nobody else has."""
        return self.ids[index] if index < len(self.ids) else ("private", self.number, index)


@dataclass(eq=False)
class Block:
    key: object = None
    refs: int = 0


class BlockPool:
    def __init__(self, number: int, block_size: int, caching: bool) -> None:
        self.free: deque[Block] = deque(Block() for _ in range(number))
        self.total = number
        self.block_size = block_size
        self.caching = caching
        self.by_key: dict[object, list[Block]] = {}  # in order of registration

    def lookup(self, row: Row) -> list[Block]:
        if not self.caching:
            return []
        hits = []
        for index in range((row.known - 1) // self.block_size):
            copies = self.by_key.get(row.key(index))
            if not copies:
                break
            hits.append(copies[0])
        return hits

    def touch(self, hits: list[Block]) -> None:
        for block in hits:
            if block.refs == 0:
                self.free.remove(block)
            block.refs += 1

    def take(self) -> Block:
        block = self.free.popleft()
        if block.key is not None:
            copies = self.by_key[block.key]
            copies.remove(block)
            if not copies:
                del self.by_key[block.key]
            block.key = None
        block.refs = 1
        return block

    def register(self, row: Row, computed: int) -> None:
        if not self.caching:
            return
        for index in range(computed // self.block_size):
            block = row.blocks[index]
            if block.key is None:
                block.key = row.key(index)
                self.by_key.setdefault(block.key, []).append(block)

    def release(self, row: Row) -> None:
        released = []
        for block in reversed(row.blocks):
            block.refs -= 1
            if block.refs == 0:
                released.append(block)
        self.free.extend(block for block in released if block.key is not None)
        self.free.extendleft(block for block in released if block.key is None)
        row.blocks = []


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


class NaiveEngine:
    """One replica: `end_ps` says when the batch under way ends; `process` it, then `schedule` the next."""

    def __init__(self, settings: EngineSettings, step: StepTable, num_gpu_blocks: int) -> None:
        self.settings, self.step = settings, step
        self.pool = BlockPool(num_gpu_blocks, settings.block_size, settings.enable_prefix_caching)
        self.running: list[Row] = []
        self.waiting: deque[Row] = deque()
        self.batch: list[tuple[Row, int]] = []
        self.start_ps = 0
        self.end_ps: int | None = None
        self.gaps: Counter[int] = Counter()
        self.token_ps: dict[int, int] = {}
        self.steps = self.scheduled_tokens = self.preemptions = self.busy_ps = 0

    @property
    def outstanding(self) -> int:
        return len(self.running) + len(self.waiting)

    def allocate(self, row: Row, tokens: int) -> bool:
        """Blocks for so many tokens in all; False where there are too few."""
        need = ceil_div(tokens, self.settings.block_size) - len(row.blocks)
        if need > len(self.pool.free):
            return False
        row.blocks += [self.pool.take() for _ in range(need)]
        return True

    def schedule(self, now_ps: int) -> None:
        batch: list[tuple[Row, int]] = []
        budget = self.settings.max_num_batched_tokens
        preempted_any = False
        position = 0
        while position < len(self.running) and budget > 0:
            row = self.running[position]
            tokens = min(row.known - row.nc, budget)
            while not self.allocate(row, row.nc + tokens):
                preempted_any = True
                victim = self.running.pop()
                self.pool.release(victim)
                victim.nc = 0
                victim.preemptions += 1
                self.preemptions += 1
                self.waiting.appendleft(victim)
                if victim is row:
                    break
            if row not in self.running:
                break
            self.pool.register(row, row.nc + tokens)
            batch.append((row, tokens))
            budget -= tokens
            position += 1
        while not preempted_any and self.waiting and budget > 0 and len(self.running) < self.settings.max_num_seqs:
            row = self.waiting[0]
            tokens = self.try_admit(row, budget)
            if tokens == 0:
                break
            self.waiting.popleft()
            self.running.append(row)
            batch.append((row, tokens))
            budget -= tokens
        self.batch, self.start_ps = batch, now_ps
        if batch:
            self.end_ps = now_ps + self.duration(batch)
        elif self.waiting:
            assert preempted_any, "the head of the line can never be admitted"
            self.schedule(now_ps)  # an empty batch takes no time
        else:
            self.end_ps = None

    def try_admit(self, row: Row, budget: int) -> int:
        """Admit the head of the line if it fits; return its tokens in this step, 0 where it does not."""
        hits = self.pool.lookup(row)
        computed = len(hits) * self.settings.block_size
        tokens = row.known - computed
        if tokens > budget:
            if not self.settings.enable_chunked_prefill:
                return 0
            tokens = budget
        idle_hits = sum(block.refs == 0 for block in hits)
        until = row.known if self.settings.scheduler_reserve_full_isl else computed + tokens
        if ceil_div(until, self.settings.block_size) - len(hits) + idle_hits > len(self.pool.free):
            return 0
        self.pool.touch(hits)
        row.blocks = list(hits)
        row.nc = computed
        assert self.allocate(row, computed + tokens)
        self.pool.register(row, computed + tokens)
        if not row.admitted_before:
            row.admitted_before = True
            row.cached = computed
        return tokens

    def duration(self, batch: list[tuple[Row, int]]) -> int:
        step = self.step
        contexts = [row.nc for row, tokens in batch if tokens == 1]
        chunks = [(tokens, row.nc) for row, tokens in batch if tokens > 1]
        n, s = len(contexts), sum(contexts)
        attention = step.context_ps_per_token * s + step.window_ps_per_token * min(s, n * step.window_tokens)
        if not chunks:
            return int(step.decode_ps[n]) + attention
        return (
            int(step.mixed_ps[n + sum(m for m, _ in chunks)])
            + step.sequence_ps * (n + len(chunks))
            + attention
            + step.prefill_ps_per_pair * sum(m * (2 * x + m) for m, x in chunks)
            + step.prefill_context_ps_per_token * sum(x for _, x in chunks)
        )

    def process(self) -> None:
        now_ps = self.end_ps
        self.steps += 1
        self.busy_ps += now_ps - self.start_ps
        for row, tokens in self.batch:
            self.scheduled_tokens += tokens
            row.nc += tokens
            if row.nc < row.known:
                continue
            if row.emitted == 0:
                row.first_ps = now_ps
            else:
                self.gaps[now_ps - self.token_ps[row.number]] += 1
            self.token_ps[row.number] = now_ps
            row.emitted += 1
            if row.emitted == row.outputs:
                row.last_ps = now_ps
                row.finished = True
                self.pool.release(row)
                self.running.remove(row)
        self.batch = []


class NaiveRouter:
    def __init__(self, name: str, choice: list[int] | None, block_size: int) -> None:
        self.name, self.choice, self.block_size = name, choice, block_size
        self.sent: dict[int, tuple[int, int]] = {}  # first id of a run -> replica, blocks of the run

    def pick(self, row: Row, runs: list[tuple[int, int]], engines: list[NaiveEngine]) -> int:
        if self.choice is not None:
            return self.choice[row.number]
        loads = [engine.outstanding for engine in engines]
        least = loads.index(min(loads))
        if self.name == "least-outstanding":
            return least
        picked = least
        if not (max(loads) - min(loads) > 64 and max(loads) > 1.5 * min(loads)):
            before = 0
            for first, blocks in runs:
                if first in self.sent:
                    replica, length = self.sent[first]
                    shared = min((before + min(length, blocks)) * self.block_size, row.isl)
                    if shared > 0.3 * row.isl:
                        picked = replica
                before += blocks
        for first, blocks in runs:
            self.sent[first] = (picked, blocks)
        return picked


@dataclass(eq=False)
class NaiveResult:
    rows: list[Row]
    engines: list[NaiveEngine]
    samples: list[tuple[int, int, int, int]]

    @property
    def gaps(self) -> Counter[int]:
        return sum((engine.gaps for engine in self.engines), Counter())


def expand_ids(prefix: PrefixRuns, number: int, block_size: int) -> list[int]:
    """The keys of a request's blocks, in blocks of the engine, one by one."""
    lo, hi = int(prefix.offsets[number]), int(prefix.offsets[number + 1])
    ids = [int(prefix.first_ids[j]) + i for j in range(lo, hi) for i in range(int(prefix.counts[j]))]
    if prefix.block_tokens >= block_size:
        factor = prefix.block_tokens // block_size
        return [one * factor + i for one in ids for i in range(factor)]
    factor = block_size // prefix.block_tokens
    return ids[factor - 1 :: factor]


def runs_of(keys: list[int], stride: int) -> list[tuple[int, int]]:
    runs: list[list[int]] = []
    for key in keys:
        if runs and key == runs[-1][0] + runs[-1][1] * stride:
            runs[-1][1] += 1
        else:
            runs.append([key, 1])
    return [(first, blocks) for first, blocks in runs]


def make_rows(requests: Requests, replica: Replica) -> list[Row]:
    settings, rows = replica.settings, []
    for number in range(len(requests.arrive_s)):
        isl = int(requests.isl_tokens[number])
        outputs = min(int(requests.osl_tokens[number]), settings.max_model_len - isl)
        ids = [] if requests.prefix is None else expand_ids(requests.prefix, number, settings.block_size)
        failed = outputs < 1 or ceil_div(isl + outputs - 1, settings.block_size) > replica.num_gpu_blocks
        arrive_ps = round(float(requests.arrive_s[number]) * 1e12)
        rows.append(Row(number, arrive_ps, isl, outputs, ids, failed))
    return rows


def naive(
    requests: Requests,
    replica: Replica,
    *,
    replicas: int = 1,
    router: str = "least-outstanding",
    choice: list[int] | None = None,
    windows: tuple[int, int] | None = None,
    until_ps: int | None = None,
) -> NaiveResult:
    """Simulate; `choice` is given for the routers that look at no load; `windows` = (window_ps, how many)."""
    settings = replica.settings
    rows = make_rows(requests, replica)
    engines = [NaiveEngine(settings, replica.step, replica.num_gpu_blocks) for _ in range(replicas)]
    route = NaiveRouter(router, choice, settings.block_size)
    stride = 1 if requests.prefix is None else max(1, settings.block_size // requests.prefix.block_tokens)
    window_ps, number = windows or (0, 0)
    boundaries = deque((i + 1) * window_ps for i in range(number))
    samples: list[tuple[int, int, int, int]] = []
    upcoming = deque(rows)
    for _ in count():
        ends = [engine.end_ps for engine in engines if engine.end_ps is not None]
        events = ends + ([upcoming[0].arrive_ps] if upcoming else [])
        now_ps = min(events, default=None)
        while boundaries and (now_ps is None or boundaries[0] < now_ps):
            samples.append(sample(engines, boundaries.popleft()))
        if now_ps is None or (until_ps is not None and now_ps > until_ps):
            return NaiveResult(rows, engines, samples)
        woken = set()
        while upcoming and upcoming[0].arrive_ps == now_ps:
            row = upcoming.popleft()
            if row.failed:
                continue
            row.replica = route.pick(row, runs_of(row.ids, stride), engines)
            engines[row.replica].waiting.append(row)
            woken.add(row.replica)
        for index, engine in enumerate(engines):
            if engine.end_ps == now_ps:
                engine.process()
                engine.schedule(now_ps)
            elif engine.end_ps is None and index in woken:
                engine.schedule(now_ps)
    raise AssertionError


def sample(engines: list[NaiveEngine], at_ps: int) -> tuple[int, int, int, int]:
    """Queue, running, referenced blocks, and busy time so far."""
    return (
        sum(len(engine.waiting) for engine in engines),
        sum(len(engine.running) for engine in engines),
        sum(engine.pool.total - len(engine.pool.free) for engine in engines),
        sum(engine.busy_ps + (at_ps - engine.start_ps if engine.end_ps is not None else 0) for engine in engines),
    )
