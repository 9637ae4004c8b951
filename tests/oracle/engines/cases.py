"""Random cases for the other engines, by engine and stratum."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from cases import lengths, make_prefix, make_table
from engines.llama_cpp import LlamaCpp
from engines.sglang import Sglang
from engines.tensorrt_llm import TensorRtLlm
from engines.tgi import Tgi

from headway.types import (
    EngineSettings,
    LlamaCppSettings,
    Replica,
    Requests,
    SglangSettings,
    TensorRtLlmSettings,
    TgiSettings,
)

TWINS = {"sglang": Sglang, "tensorrt_llm": TensorRtLlm, "tgi": Tgi, "llama_cpp": LlamaCpp}

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
}


def own_settings(engine: str, rng: np.random.Generator, tiny: bool, page: int) -> Any:
    if engine == "sglang":
        chunk = page * int(rng.integers(1, 8)) if tiny else int(rng.choice([-1, 2 * page, 5 * page, 8192]))
        return SglangSettings(
            chunked_prefill_size=chunk,
            max_prefill_tokens=int(rng.choice([64, 16384])),
            prefill_max_requests=[None, 2][int(rng.random() < 0.2)],
            schedule_policy=str(rng.choice(["fcfs", "lpm"])),
            schedule_conservativeness=float(rng.choice([0.3, 1.0, 1.3])),
        )
    if engine == "tensorrt_llm":
        return TensorRtLlmSettings(
            capacity_scheduler_policy=str(rng.choice(["GUARANTEED_NO_EVICT", "MAX_UTILIZATION"])),
            context_chunking_policy=str(rng.choice(["FIRST_COME_FIRST_SERVED", "EQUAL_PROGRESS"])),
        )
    if engine == "tgi":
        return TgiSettings(
            waiting_served_ratio=float(rng.choice([0.0, 0.3, 1.2])), max_waiting_tokens=int(rng.choice([1, 5, 20]))
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
) -> tuple[Requests, Replica]:
    rng = np.random.default_rng([seed, *map(ord, engine)])
    number = int(rng.integers(2, 28))
    block_size = int(rng.choice([1, 4, 16]))
    seqs = int(rng.choice([1, 2, 3, 8, 16]))
    max_model_len = int(rng.choice([48, 130, 300]))
    isl = np.minimum(lengths(rng, number, max_model_len // 4, edges, max_model_len), max_model_len + 1)
    osl = np.minimum(lengths(rng, number, max_model_len // (3 if long_outputs else 8) + 1, edges, max_model_len), 400)
    budget = int(rng.integers(max(seqs, block_size), 2 * max(seqs, block_size) + 8)) if tiny_budget else 512
    chunked = bool(rng.random() < 0.7) or tiny_budget
    most = None
    if stops or rng.random() < 0.3:
        most = osl + rng.integers(0, 3 * max_model_len if stops else 20, number) * (rng.random(number) < 0.8)
    largest = int((isl + (most if most is not None else osl)).clip(max=max_model_len).max())
    room = max(1, round(rng.uniform(*blocks) * largest / block_size))
    if engine == "llama_cpp":
        room *= seqs
    settings = EngineSettings(
        max_num_seqs=seqs,
        max_num_batched_tokens=max(budget, seqs),
        max_model_len=max_model_len,
        gpu_memory_utilization=0.9,
        block_size=block_size,
        enable_prefix_caching=bool(rng.random() < (0.95 if shared else 0.6)),
        enable_chunked_prefill=chunked,
        async_scheduling=engine in ("sglang", "tensorrt_llm") and bool(rng.random() < 0.5),
        engine=engine,
        own=own_settings(engine, rng, tiny_budget, block_size),
    )
    if engine == "tensorrt_llm" and settings.own.capacity_scheduler_policy == "MAX_UTILIZATION":
        settings = replace(settings, enable_chunked_prefill=True)
    table = make_table(rng, seqs, settings.max_num_batched_tokens, bool(rng.random() < 0.1))
    step_s = float(np.mean(table.mixed_ps)) / 1e12
    gaps = rng.exponential(step_s * osl.mean() / min(seqs, 4) / load, number)
    arrive = np.cumsum(gaps)
    if grid:
        arrive = np.round(arrive / (2 * step_s)) * 2 * step_s
    prefix = None
    if shared:
        unit = int(rng.choice([block_size, max(1, block_size // 4), 2 * block_size]))
        prefix = make_prefix(rng, number, unit, isl, osl, few_contents)
    hang_ups = None
    if aborts:
        hang_ups = np.where(rng.random(number) < 0.4, arrive + rng.exponential(30 * step_s, number), np.nan)
    requests = Requests(
        arrive_s=arrive, isl_tokens=isl, osl_tokens=osl, prefix=prefix, max_tokens=most, abort_s=hang_ups
    )
    return requests, Replica(settings=settings, step=table, num_gpu_blocks=room)
