"""Random cases for the other engines, by engine and stratum."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from zlib import crc32

import numpy as np
from cases import lengths, make_prefix, make_table
from engines.llama_cpp import LlamaCpp
from engines.sglang import Sglang
from engines.tensorrt_llm import TensorRtLlm
from engines.tgi import Tgi

from headway.types import (
    EngineSettings,
    LlamaCppSettings,
    PrefixRuns,
    Replica,
    Requests,
    SglangSettings,
    TensorRtLlmSettings,
    TgiSettings,
)

TWINS = {"sglang": Sglang, "tensorrt-llm": TensorRtLlm, "tgi": Tgi, "llama.cpp": LlamaCpp}

#: stratum -> what is unusual about it
STRATA: dict[str, dict[str, Any]] = {
    "light": {"load": 0.3},
    "saturated": {"load": 4.0},
    "memory pressure": {"load": 3.0, "blocks": (1.0, 2.0), "long_outputs": True},
    "thrash": {"load": 6.0, "blocks": (1.0, 1.2), "long_outputs": True, "shared": True},
    "shared prefixes": {"load": 1.5, "blocks": (2.0, 6.0), "shared": True},
    "identical": {"load": 3.0, "blocks": (1.2, 4.0), "shared": True, "few_contents": True, "long_outputs": True},
    "tiny budget": {"load": 1.5, "tiny_budget": True, "shared": True},
    "edge lengths": {"load": 1.5, "edges": True, "shared": True},
    "equal times": {"load": 2.0, "grid": True, "shared": True},
    "stop tokens": {"load": 2.0, "stops": True, "long_outputs": True, "blocks": (1.0, 4.0)},
    "hang-ups": {"load": 2.0, "aborts": True, "shared": True},
    "branching": {"load": 3.0, "blocks": (1.0, 2.5), "shared": True, "branching": True},
    "system prompts": {"load": 3.0, "blocks": (2.0, 9.0), "shared": True, "system_prompts": True},
    "hungry": {"load": 5.0, "blocks": (1.0, 1.8), "shared": True, "branching": True, "hungry": True},
}


def seeds_of(stratum: str) -> range:
    """Those of a default run: more where what matters is rare."""
    return range(20 if stratum in ("identical", "hungry", "shared prefixes") else 6)


def make_tree(rng: np.random.Generator, isl: np.ndarray, osl: np.ndarray, unit: int) -> PrefixRuns:
    """Contents that part again and again: at each level one of a few goes on."""
    width = int(rng.integers(2, 4))
    numbers: dict[tuple[int, ...], int] = {}
    offsets, ids = [0], []
    for i in range(len(isl)):
        path: tuple[int, ...] = ()
        for _ in range(int(rng.integers(0, isl[i] + osl[i] + 1)) // unit):
            path = (*path, int(rng.integers(width)) if rng.random() < 0.4 else 0)
            ids.append(numbers.setdefault(path, 2 * len(numbers)))
        offsets.append(len(ids))
    columns = {"offsets": offsets, "first_ids": ids, "counts": [1] * len(ids)}
    return PrefixRuns(block_tokens=unit, **{name: np.array(column, np.int64) for name, column in columns.items()})


def make_system_prompts(rng: np.random.Generator, isl: np.ndarray, unit: int) -> PrefixRuns:
    """A few prompts that many begin with."""
    which = rng.integers(0, 4, len(isl))
    counts = np.minimum(isl, rng.integers(20, 90, 4)[which]) // unit
    return PrefixRuns(block_tokens=unit, offsets=np.arange(len(isl) + 1), first_ids=1000 * which, counts=counts)


def own_settings(engine: str, rng: np.random.Generator, *, tiny: bool, hungry: bool, page: int) -> Any:
    if engine == "sglang":
        chunk = page * int(rng.integers(1, 8)) if tiny else int(rng.choice([-1, 2 * page, 5 * page, 8192]))
        return SglangSettings(
            chunked_prefill_size=chunk,
            max_prefill_tokens=int(rng.choice([64, 16384])),
            prefill_max_requests=[None, 2][int(rng.random() < 0.2)],
            schedule_policy=str(rng.choice(["fcfs", "lpm"])),
            schedule_conservativeness=float(rng.choice([0.01, 0.1] if hungry else [0.3, 1.0, 1.3])),
            scheduler_recv_interval=int(rng.choice([1, 1, 3, 10])),
        )
    if engine == "tensorrt-llm":
        return TensorRtLlmSettings(
            capacity_scheduler_policy=str(rng.choice(["GUARANTEED_NO_EVICT", "MAX_UTILIZATION"])),
            context_chunking_policy=str(rng.choice(["FIRST_COME_FIRST_SERVED", "EQUAL_PROGRESS"])),
            batch_wait_timeout_iters=int(rng.choice([0, 0, 2, 20])),
            batch_wait_max_tokens_ratio=float(rng.choice([0.2, 0.9])),
        )
    if engine == "tgi":
        return TgiSettings(
            waiting_served_ratio=float(rng.choice([0.0, 0.3, 1.2, 3.0])),
            max_waiting_tokens=int(rng.choice([1, 5, 20, 50])),
        )
    return LlamaCppSettings(slot_prompt_similarity=float(rng.choice([0.0, 0.1, 0.5])))


def make_case(
    engine: str,
    seed: int,
    *,
    load: float,
    blocks: tuple[float, float] = (4.0, 20.0),
    long_outputs: bool = False,
    shared: bool = False,
    few_contents: bool = False,
    tiny_budget: bool = False,
    edges: bool = False,
    grid: bool = False,
    stops: bool = False,
    aborts: bool = False,
    branching: bool = False,
    hungry: bool = False,
    system_prompts: bool = False,
) -> tuple[Requests, Replica]:
    kind = repr((load, blocks, long_outputs, shared, few_contents, tiny_budget, edges, grid, stops, aborts, hungry))
    rng = np.random.default_rng([seed, *map(ord, engine), crc32(kind.encode())])  # other settings in each stratum
    number = int(rng.integers(2, 28))
    block_size = int(rng.choice([1, 4, 16]))
    seqs = int(rng.choice([1, 2, 3, 8, 16]))
    max_model_len = int(rng.choice([48, 130, 300])) if not hungry and not system_prompts else 300
    isl = np.minimum(lengths(rng, number, max_model_len // 4, edges, max_model_len), max_model_len + 1)
    osl = np.minimum(lengths(rng, number, max_model_len // (3 if long_outputs else 8) + 1, edges, max_model_len), 400)
    if hungry:
        seqs = int(rng.choice([8, 16]))
        isl, osl = rng.integers(1, 40, number), rng.integers(1, 200, number)
    budget = int(rng.integers(max(seqs, block_size), 2 * max(seqs, block_size) + 8)) if tiny_budget else 512
    chunked = bool(rng.random() < 0.5) or tiny_budget
    most = None
    if stops or rng.random() < 0.3:
        most = osl + rng.integers(0, 3 * max_model_len if stops else 20, number) * (rng.random(number) < 0.8)
    largest = int((isl + (most if most is not None else osl)).clip(max=max_model_len).max())
    room = max(1, round(rng.uniform(*blocks) * largest / block_size))
    if engine == "llama.cpp":
        room *= seqs
    settings = EngineSettings(
        max_num_seqs=seqs,
        max_num_batched_tokens=max(budget, seqs),
        max_model_len=max_model_len,
        gpu_memory_utilization=0.9,
        block_size=block_size,
        enable_prefix_caching=bool(rng.random() < (0.95 if shared else 0.6)),
        enable_chunked_prefill=chunked,
        async_scheduling=engine in ("sglang", "tensorrt-llm") and bool(rng.random() < 0.5),
        engine=engine,
        own=own_settings(engine, rng, tiny=tiny_budget, hungry=hungry, page=block_size),
    )
    if engine == "tensorrt-llm" and settings.own.capacity_scheduler_policy == "MAX_UTILIZATION":
        settings = replace(settings, enable_chunked_prefill=True)
    table = make_table(rng, seqs, settings.max_num_batched_tokens, bool(rng.random() < 0.1))
    step_s = float(np.mean(table.mixed_ps)) / 1e12
    gaps = rng.exponential(step_s * osl.mean() / min(seqs, 4) / load, number)
    arrive = np.cumsum(gaps)
    if grid:
        arrive = np.round(arrive / (2 * step_s)) * 2 * step_s
    if system_prompts:
        arrive = np.sort(rng.choice(arrive[:3], number))  # in bursts
    prefix = None
    if shared:
        unit = int(rng.choice([block_size, max(1, block_size // 4), 2 * block_size]))
        lines = make_prefix(rng, number, unit, isl, osl, few_contents)
        prefix = make_system_prompts(rng, isl, unit) if system_prompts else lines
        prefix = make_tree(rng, isl, osl, unit) if branching else prefix
    hang_ups = None
    if aborts:
        hang_ups = np.where(rng.random(number) < 0.4, arrive + rng.exponential(30 * step_s, number), np.nan)
    requests = Requests(
        arrive_s=arrive, isl_tokens=isl, osl_tokens=osl, prefix=prefix, max_tokens=most, abort_s=hang_ups
    )
    return requests, Replica(settings=settings, step=table, num_gpu_blocks=room)
