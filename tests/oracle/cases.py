"""Random cases for the equality of core and oracle, by stratum, and the comparison itself."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import TYPE_CHECKING, Any

import naive as oracle
import numpy as np

from headway.simulator import simulate
from headway.simulator.routers import ROUTERS, choices
from headway.types import EngineSettings, PrefixRuns, Replica, Requests, StepTable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from headway.simulator import Gaps, Simulation

#: stratum -> what is unusual about it
STRATA = {
    "light": {"load": 0.3},
    "saturated": {"load": 3.0},
    "kv pressure": {"load": 2.0, "blocks": (1.0, 2.5), "long_outputs": True},
    "kv thrash": {"load": 5.0, "blocks": (1.0, 1.4), "long_outputs": True, "shared": 0.3},
    "shared prefixes": {"load": 1.0, "blocks": (2.0, 8.0), "shared": 1.0},
    "identical": {"load": 2.0, "blocks": (1.2, 4.0), "shared": 1.0, "few_contents": True, "long_outputs": True},
    "tiny budget": {"load": 1.0, "tiny_budget": True, "shared": 0.3},
    "chunking off": {"load": 1.0, "chunking": False, "shared": 0.3},
    "fleet": {"load": 1.5, "fleet": True, "shared": 0.5},
    "window": {"load": 1.0, "window": True, "long_outputs": True},
    "edge lengths": {"load": 1.0, "edges": True, "shared": 0.3},
    "equal times": {"load": 1.5, "grid": True, "shared": 0.3, "fleet": True},
    "coincidences": {"load": 1.0, "coarse": True, "fleet": True, "long_outputs": True},
    "cut": {"load": 1.5, "cut": True, "fleet": True, "long_outputs": True},
    "asynchronous": {"load": 1.0, "ahead": True, "shared": 0.5, "fleet": True},
    "asynchronous, idle": {"load": 0.2, "ahead": True, "edges": True, "grid": True, "stops": True},
    "asynchronous under pressure": {
        "load": 3.0,
        "blocks": (1.0, 2.0),
        "ahead": True,
        "long_outputs": True,
        "shared": 0.5,
        "stops": True,
    },
    "stop tokens": {"load": 1.5, "ahead": True, "stops": True, "shared": 0.7, "blocks": (1.2, 5.0)},
    "asynchronous, coincidences": {"load": 1.0, "ahead": True, "coarse": True, "fleet": True, "stops": True},
    "asynchronous, cut": {"load": 1.5, "ahead": True, "cut": True, "fleet": True, "stops": True, "shared": 0.3},
    "asynchronous, small budget": {"load": 1.0, "ahead": True, "tiny_budget": True, "shared": 0.3, "stops": True},
    "priority": {"load": 2.0, "priority": True, "shared": 0.3},
    "priority under pressure": {
        "load": 3.0,
        "blocks": (1.0, 2.0),
        "priority": True,
        "long_outputs": True,
        "shared": 0.5,
    },
    "priority, asynchronous, under pressure": {
        "load": 3.0,
        "blocks": (1.0, 2.0),
        "priority": True,
        "ahead": True,
        "long_outputs": True,
        "shared": 0.5,
        "stops": True,
    },
    "limits": {"load": 1.5, "limits": True, "blocks": (1.0, 4.0), "shared": 0.3, "long_outputs": True},
    "all together": {
        "load": 2.0,
        "blocks": (1.0, 3.0),
        "limits": True,
        "ahead": True,
        "priority": True,
        "stops": True,
        "shared": 0.6,
        "long_outputs": True,
        "fleet": True,
        "grid": True,
    },
}


def lengths(rng: np.random.Generator, number: int, mean: int, edges: bool, max_model_len: int) -> np.ndarray:
    kinds = rng.integers(3)
    if kinds == 0:
        column = rng.integers(1, 2 * mean + 1, number)
    elif kinds == 1:
        column = np.maximum(1, rng.geometric(1 / mean, number))
    else:
        column = np.full(number, mean)
    if edges:
        edge = rng.choice([1, 2, max_model_len - 1, max_model_len, max_model_len + 1, 16, 17], number)
        column = np.where(rng.random(number) < 0.3, edge, column)
    return column.astype(np.int64)


def make_prefix(
    rng: np.random.Generator, number: int, block_tokens: int, isl: np.ndarray, osl: np.ndarray, few_contents: bool
) -> PrefixRuns:
    """Ids of a random tree of contents: requests walk it from the root and branch off at random."""
    children: dict[int, list[int]] = {-1: []}
    next_id = int(rng.integers(0, 5))
    offsets, first, counts = [0], [], []
    branch = 0.02 if few_contents else 0.1
    for i in range(number):
        reach = int(rng.choice([isl[i], isl[i] + osl[i], isl[i] // 2, 0], p=[0.3, 0.5, 0.15, 0.05]))
        node, ids = -1, []
        for _ in range(reach // block_tokens):
            known = children.setdefault(node, [])
            if not known or (rng.random() < branch and len(known) < 4):
                next_id += int(rng.choice([1, 1, 1, 7]))
                known.append(next_id)
            node = known[int(rng.integers(len(known)))] if few_contents else known[-1 if rng.random() < 0.7 else 0]
            ids.append(node)
        for one in ids:  # at times, runs that could be one
            if len(counts) > offsets[-1] and one == first[-1] + counts[-1] and rng.random() < 0.9:
                counts[-1] += 1
            else:
                first.append(one)
                counts.append(1)
        offsets.append(len(first))
    columns = (np.array(column, np.int64) for column in (offsets, first, counts))
    names = ("offsets", "first_ids", "counts")
    return PrefixRuns(block_tokens=block_tokens, **dict(zip(names, columns, strict=True)))


def make_table(rng: np.random.Generator, seqs: int, budget: int, window: bool) -> StepTable:
    return StepTable(
        decode_ps=np.cumsum(rng.integers(1, 2000, seqs + 1)) + rng.integers(1, 200_000),
        mixed_ps=np.cumsum(rng.integers(0, 3000, budget + 1)) + rng.integers(1, 200_000),
        context_ps_per_token=int(rng.choice([0, 1, 7, 40])),
        prefill_ps_per_pair=int(rng.choice([0, 1, 3])),
        sequence_ps=int(rng.choice([0, 11])),
        prefill_context_ps_per_token=int(rng.choice([0, 5])),
        window_ps_per_token=int(rng.choice([1, 30])) if window else 0,
        window_tokens=int(rng.integers(1, 200)) if window else 0,
    )


def make_case(
    seed: int,
    *,
    load: float,
    blocks: tuple[float, float] = (4.0, 20.0),
    long_outputs: bool = False,
    shared: float = 0.0,
    few_contents: bool = False,
    tiny_budget: bool = False,
    chunking: bool = True,
    fleet: dict[str, Any] = False,
    window: bool = False,
    edges: bool = False,
    grid: bool = False,
    coarse: bool = False,
    cut: bool = False,
    ahead: bool = False,
    priority: bool = False,
    stops: bool = False,
    limits: bool = False,
) -> tuple[Requests, Replica, dict[str, Any]]:
    """Return requests, replica and the keywords of `simulate`."""
    rng = np.random.default_rng(seed)
    number = int(rng.integers(1, 60))
    block_size = int(rng.choice([1, 2, 4, 8, 16]))
    mean_in, mean_out = int(rng.integers(1, 120)), int(rng.integers(1, 120 if long_outputs else 40))
    max_model_len = int(rng.integers(2, 60)) if edges else 4 * (mean_in + mean_out) + 8
    seqs = int(rng.choice([1, 2, 3, 8, 40]))
    budget = seqs + (int(rng.integers(0, 12)) if tiny_budget else int(rng.integers(8, 500)))
    if not chunking:
        budget = max(budget, max_model_len)
    isl = lengths(rng, number, mean_in, edges, max_model_len)
    osl = lengths(rng, number, mean_out, edges, max_model_len)
    table = make_table(rng, seqs, budget, window)
    longest = int(min((isl + osl).max(), max_model_len)) // block_size + 1
    settings = EngineSettings(
        max_num_seqs=seqs,
        max_num_batched_tokens=budget,
        max_model_len=max_model_len,
        gpu_memory_utilization=0.9,
        block_size=block_size,
        enable_prefix_caching=bool(rng.random() < (0.9 if shared else 0.5)),
        enable_chunked_prefill=chunking,
        scheduler_reserve_full_isl=bool(rng.random() < 0.7),
        async_scheduling=ahead,
        scheduling_policy="priority" if priority else "fcfs",
    )
    if limits:
        settings = limited(rng, settings)
    replica = Replica(settings=settings, step=table, num_gpu_blocks=max(1, int(longest * rng.uniform(*blocks))))
    replicas = int(rng.integers(1, 6)) if fleet else 1
    service_ps = float(table.decode_ps[-1]) * osl.mean() / seqs + float(table.mixed_ps[-1]) * isl.mean() / budget
    arrive_s = np.cumsum(rng.exponential(service_ps / load / replicas, number)) * 1e-12
    if grid:
        step_s = service_ps * 1e-12 * rng.uniform(0.5, 5)
        arrive_s = np.floor(arrive_s / step_s) * step_s
    if coarse:  # few different step times, and arrivals at multiples of them
        table = StepTable(
            decode_ps=np.full(seqs + 1, 1000),
            mixed_ps=np.full(budget + 1, int(rng.integers(1, 4)) * 1000),
            context_ps_per_token=int(rng.choice([0, 1000])),
            prefill_ps_per_pair=0,
        )
        replica = Replica(settings=settings, step=table, num_gpu_blocks=replica.num_gpu_blocks)
        arrive_s = np.cumsum(rng.integers(0, 2 * mean_out, number)) * 1e-9
    prefix, session = None, rng.integers(0, 8, number) if rng.random() < 0.5 else None
    if rng.random() < shared:
        block_tokens = int(block_size * rng.choice([1, 1, 2, 4])) if rng.random() < 0.7 else max(1, block_size // 2)
        prefix = make_prefix(rng, number, block_tokens, isl, osl, few_contents)
    requests = Requests(
        arrive_s=arrive_s,
        isl_tokens=isl,
        osl_tokens=osl,
        prefix=prefix,
        session_id=session,
        priority=rng.integers(-1, int(rng.integers(0, 4)), number) if priority else None,
        max_tokens=osl + rng.integers(0, 3, number) * rng.integers(0, 60, number) if stops else None,
    )
    allowed = [
        name
        for name in ROUTERS
        if (name != "session-affinity" or session is not None) and (name != "prefix-affinity" or prefix is not None)
    ]
    until_s = float(rng.uniform(0, 1.2) * arrive_s[-1]) if cut else None
    return (
        requests,
        replica,
        {
            "replicas": replicas,
            "router": str(rng.choice(allowed)),
            "seed": int(rng.integers(1000)),
            "record_series": int(rng.integers(0, 8)),
            "until_s": until_s,
        },
    )


def limited(rng: np.random.Generator, settings: EngineSettings) -> EngineSettings:
    """Settings with some of the further limits on seats, tokens and blocks."""
    changes: dict[str, Any] = {}
    seats, budget = settings.max_num_seqs, settings.max_num_batched_tokens
    if rng.random() < 0.5:
        seats = changes["max_num_active_seqs"] = int(rng.integers(1, seats + 1))
    if rng.random() < 0.5:
        changes["max_num_scheduled_tokens"] = int(rng.integers(seats, budget + 1))
    if rng.random() < 0.6:
        changes["watermark"] = float(rng.choice([0.01, 0.05, 0.2, 0.5]))
    return dataclasses.replace(settings, **changes)


def difference(requests: Requests, replica: Replica, keywords: dict[str, Any]) -> tuple[Any, Simulation]:
    """Run both; return a description of the first thing that differs, None where all is equal, and the preemptions."""
    mine = simulate(requests, replica, **keywords)
    choice = choices(requests, keywords["replicas"], keywords["router"], keywords["seed"])
    until_ps = None if keywords["until_s"] is None else round(keywords["until_s"] * 1e12)
    theirs = oracle.naive(
        requests,
        replica,
        replicas=keywords["replicas"],
        router=keywords["router"],
        choice=None if choice is None else choice.tolist(),
        windows=(mine.series.window_ps, keywords["record_series"]) if mine.series else None,
        until_ps=until_ps,
        names=[f"{row:06}" for row in range(len(requests))],  # ties of priority and arrival: the order of the rows
        concurrency=keywords.get("concurrency"),
        turnaround_ps=round(keywords.get("turnaround_s", 0.0) * 1e12),
    )
    return next(_differences(mine, theirs), None), mine


def _differences(mine: Simulation, theirs: oracle.NaiveResult) -> Iterator[tuple[Any, ...]]:
    rows = theirs.rows
    columns = {
        "arrive_ps": [row.arrive_ps for row in rows],
        "first_ps": [row.first_ps for row in rows],
        "last_ps": [row.last_ps for row in rows],
        "state": [2 if row.failed else int(row.finished) for row in rows],
        "replica": [row.replica for row in rows],
        "cached_tokens": [row.cached for row in rows],
        "preemptions": [row.preemptions for row in rows],
    }
    for name, column in columns.items():
        if getattr(mine, name).tolist() != column:
            yield name, getattr(mine, name).tolist(), column
    gaps = expand(mine.gaps)
    if gaps != theirs.gaps:
        yield "gaps", gaps - theirs.gaps, theirs.gaps - gaps
    counters = mine.counters
    for name in ("steps", "scheduled_tokens", "preemptions"):
        theirs_sum = sum(getattr(engine, name) for engine in theirs.engines)
        if getattr(counters, name) != theirs_sum:
            yield name, getattr(counters, name), theirs_sum
    if counters.busy_ps.tolist() != [engine.busy_ps for engine in theirs.engines]:
        yield "busy_ps", counters.busy_ps, [engine.busy_ps for engine in theirs.engines]
    if mine.series is not None:
        series = mine.series
        busy = np.cumsum(series.busy_ps).tolist()
        samples = list(
            zip(series.queue.tolist(), series.running.tolist(), series.kv_blocks.tolist(), busy, strict=True)
        )
        if samples != theirs.samples:
            yield "series", samples, theirs.samples


def expand(gaps: Gaps) -> Counter[int]:
    """All gaps one by one."""
    counted = Counter()
    for part in gaps.parts:
        columns = (part.a_ps, part.d_ps, part.k, part.weight)
        for a, d, k, weight in zip(*(column.tolist() for column in columns), strict=True):
            for i in range(k):
                counted[a + i * d] += weight
    return counted
