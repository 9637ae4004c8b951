"""Other engines' policies on schedules small enough to work out by hand, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from headway.errors import InputError
from headway.simulator import record, simulate
from headway.simulator.policies import POLICIES, check_engine
from headway.simulator.records import Record
from headway.types import (
    EngineSettings,
    KvTransfer,
    LlamaCppSettings,
    PrefixRuns,
    Replica,
    Requests,
    SglangSettings,
    Speculation,
    StepTable,
    TensorRtLlmSettings,
    TgiSettings,
)

DECODE_PS, MIXED_PS = 10, 100


def replica_of(engine: str, own: Any = None, *, blocks: int = 100, **settings: Any) -> Replica:
    given = {
        "max_num_seqs": 4,
        "max_num_batched_tokens": 64,
        "max_model_len": 1000,
        "block_size": 1,
        "enable_prefix_caching": False,
        "async_scheduling": False,
    } | settings
    table = StepTable(
        decode_ps=np.full(given["max_num_seqs"] + 1, DECODE_PS),
        mixed_ps=np.full(given["max_num_batched_tokens"] + 1, MIXED_PS),
        context_ps_per_token=0,
        prefill_ps_per_pair=0,
    )
    return Replica(
        settings=EngineSettings(gpu_memory_utilization=0.9, engine=engine, own=own, **given),
        step=table,
        num_gpu_blocks=blocks,
    )


def requests_of(
    *rows: tuple[float, int, int], max_tokens: list[int] | None = None, ids: list[list[int]] | None = None
) -> Requests:
    """(arrival in ps, prompt, outputs) of each; `ids`: what stands at each prompt's positions."""
    arrive, isl, osl = (np.array(column) for column in zip(*rows, strict=True))
    prefix = None
    if ids is not None:
        offsets = np.cumsum([0, *map(len, ids)])
        flat = np.array([one for row in ids for one in row], np.int64)
        prefix = PrefixRuns(block_tokens=1, offsets=offsets, first_ids=flat, counts=np.ones(len(flat), np.int64))
    most = None if max_tokens is None else np.array(max_tokens)
    return Requests(arrive_s=arrive / 1e12, isl_tokens=isl, osl_tokens=osl, prefix=prefix, max_tokens=most)


def batches(schedule: Record) -> list[dict[int, int]]:
    return [dict(step.scheduled) for step in schedule.steps]


# --- SGLang


def test_sglang_prefills_first_and_decodes_wait() -> None:
    schedule = record(requests_of((0, 20, 4), (105, 8, 2)), replica_of("sglang"))
    assert batches(schedule) == [{0: 20}, {0: 1}, {1: 8}, {0: 1, 1: 1}, {0: 1}]
    assert schedule.endings[0].delivered_ps == (100, 110, 220, 230)  # its second gap is 11 times the first


@pytest.mark.parametrize(("outputs", "at_once"), [(37, True), (38, False)])
def test_sglang_reserves_a_share_of_what_is_asked_for(outputs: int, at_once: bool) -> None:
    """Request 0 holds 10 of 100 tokens and asked for 60: 0.7 of the 59 to come are kept for it.

    100 − 10 − 41.3 = 48.7 tokens remain. Request 1 needs its prompt of 10, its outputs and a page of 1: with 37 outputs
    48, with 38 it waits, since each decode takes a token and gives back but 0.7 of one.
    """
    schedule = record(requests_of((0, 10, 60), (50, 10, outputs)), replica_of("sglang"))
    ended_ps = schedule.endings[0].end_ps
    assert schedule.endings[1].scheduled_ps == (100 if at_once else ended_ps)


def test_sglang_takes_all_it_can_where_clients_ask_for_little() -> None:
    few = record(requests_of((0, 10, 4), (0, 10, 4)), replica_of("sglang", blocks=31))
    many = record(requests_of((0, 10, 4), (0, 10, 4), max_tokens=[16, 16]), replica_of("sglang", blocks=31))
    assert batches(few)[0] == {0: 10, 1: 10}  # 10 + 4 + 1 twice is less than 31
    assert batches(many)[0] == {0: 10}


def test_sglang_looks_again_only_when_somebody_left() -> None:
    """Whoever did not fit once waits for a request to end, though there would be room after the first prefill."""
    own = SglangSettings(schedule_conservativeness=0.01)
    together = record(requests_of((0, 10, 20), (0, 10, 20)), replica_of("sglang", own, blocks=42))
    assert together.endings[1].scheduled_ps == together.endings[0].end_ps
    apart = record(requests_of((0, 10, 20), (50, 10, 20)), replica_of("sglang", own, blocks=42))
    assert apart.endings[1].scheduled_ps == MIXED_PS


def test_sglang_cuts_one_prompt_at_a_time() -> None:
    own = SglangSettings(chunked_prefill_size=16)
    schedule = record(requests_of((0, 40, 1), (0, 5, 1), (0, 30, 1)), replica_of("sglang", own, blocks=200))
    assert batches(schedule) == [{0: 16}, {0: 16}, {0: 8, 1: 5, 2: 3}, {2: 16}, {2: 11}]


def test_sglang_retracts_who_has_generated_least() -> None:
    """Nearly nothing is reserved: after two prefills and 11 decodes all 42 tokens are full, and the younger goes."""
    own = SglangSettings(schedule_conservativeness=0.01)
    schedule = record(requests_of((0, 10, 20), (50, 10, 20)), replica_of("sglang", own, blocks=42))
    thrown = [index for index, step in enumerate(schedule.steps) if step.preempted]
    assert thrown == [13]
    assert schedule.steps[13].preempted == (1,)
    assert schedule.steps[13].scheduled == ((0, 1),)
    again = next(step for step in schedule.steps[14:] if step.admitted)
    assert again.scheduled == ((1, 22),)  # prompt and 12 outputs are computed anew
    assert [len(ending.delivered_ps) for ending in schedule.endings] == [20, 20]


def test_sglang_finds_prefixes_token_by_token() -> None:
    ids = [list(range(30)), [*range(17), *range(100, 113)]]
    cached = replica_of("sglang", enable_prefix_caching=True)
    schedule = record(requests_of((0, 30, 1), (200, 30, 1), ids=ids), cached)
    assert [ending.cached for ending in schedule.endings] == [0, 17]
    again = record(requests_of((0, 30, 1), (200, 30, 1), ids=[ids[0]] * 2), cached)
    assert again.endings[1].cached == 29  # one token is always computed
    coarse = replica_of("sglang", enable_prefix_caching=True, block_size=8)
    schedule = record(requests_of((0, 30, 1), (200, 30, 1), ids=ids), coarse)
    assert schedule.endings[1].cached == 16  # whole pages


def test_sglang_can_serve_the_longest_prefix_first() -> None:
    rows, ids = ((0, 40, 1), (10, 40, 9), (20, 40, 1)), [list(range(40)), list(range(100, 140)), list(range(40))]
    settings: dict[str, Any] = {"enable_prefix_caching": True, "max_num_seqs": 1}
    order = {}
    for policy in ("fcfs", "lpm"):
        schedule = record(
            requests_of(*rows, ids=ids), replica_of("sglang", SglangSettings(schedule_policy=policy), **settings)
        )
        order[policy] = [row for step in schedule.steps for row, _ in step.admitted]
    assert order == {"fcfs": [0, 1, 2], "lpm": [0, 2, 1]}


def test_sglang_wastes_a_step_on_what_ended_where_batches_overlap() -> None:
    one_by_one = record(requests_of((0, 10, 3)), replica_of("sglang"))
    overlapping = record(requests_of((0, 10, 3)), replica_of("sglang", async_scheduling=True))
    assert batches(one_by_one) == [{0: 10}, {0: 1}, {0: 1}]
    assert batches(overlapping) == [{0: 10}, {0: 1}, {0: 1}, {0: 1}]
    assert overlapping.endings[0].delivered_ps == one_by_one.endings[0].delivered_ps


# --- TensorRT-LLM


def test_tensorrt_llm_begins_only_what_can_be_ended() -> None:
    """Each asks for 30 of 50 blocks: one after the other without eviction, both at once with."""
    rows = ((0, 10, 20), (0, 10, 20))
    settings: dict[str, Any] = {"enable_chunked_prefill": True, "blocks": 50}
    kept = record(requests_of(*rows), replica_of("tensorrt-llm", **settings))
    assert kept.endings[1].scheduled_ps == kept.endings[0].end_ps
    assert not any(step.preempted for step in kept.steps)
    own = TensorRtLlmSettings(capacity_scheduler_policy="MAX_UTILIZATION")
    used = record(requests_of(*rows), replica_of("tensorrt-llm", own, **settings))
    assert used.endings[1].scheduled_ps == 0
    paused = next(step for step in used.steps if step.preempted)
    assert paused.preempted == (1,)  # the last that has begun
    assert paused.free == 50 - (10 + 16)  # 25 + 25 blocks are held after 15 decodes; one more step needs two


def test_tensorrt_llm_mixes_contexts_and_decodes_within_its_tokens() -> None:
    rows = ((0, 20, 9), (105, 100, 1), (105, 30, 1))
    schedule = record(requests_of(*rows), replica_of("tensorrt-llm", block_size=8, blocks=100))
    # 63 tokens are left beside the decode: cut ones are whole blocks of 8; what is left of a budget of 63 is lost
    assert batches(schedule)[:4] == [{0: 20}, {0: 1}, {1: 56, 0: 1}, {1: 44, 2: 16, 0: 1}]


def test_tensorrt_llm_lets_prompts_grow_alike() -> None:
    own = TensorRtLlmSettings(context_chunking_policy="EQUAL_PROGRESS")
    schedule = record(requests_of((0, 60, 1), (0, 60, 1)), replica_of("tensorrt-llm", own, block_size=8))
    assert batches(schedule)[0] == {0: 32, 1: 32}


def test_tensorrt_llm_waits_for_the_block_somebody_else_computes() -> None:
    ids = [list(range(24)), list(range(24))]
    settings: dict[str, Any] = {"block_size": 8, "enable_prefix_caching": True}
    schedule = record(requests_of((0, 24, 2), (0, 24, 1), ids=ids), replica_of("tensorrt-llm", **settings))
    assert batches(schedule) == [{0: 24}, {1: 8, 0: 1}]
    assert schedule.endings[1].cached == 16


# --- TGI


def test_tgi_reserves_prompt_and_outputs_and_pauses_decodes() -> None:
    settings: dict[str, Any] = {"enable_chunked_prefill": False, "max_model_len": 64, "blocks": 60}
    own = TgiSettings(waiting_served_ratio=0.0)
    schedule = record(requests_of((0, 20, 11), (105, 10, 3), (105, 20, 11)), replica_of("tgi", own, **settings))
    # 30 blocks for request 0, 12 for request 1: 18 are left, request 2 asks for 30
    assert batches(schedule)[:5] == [{0: 20}, {0: 1}, {1: 10}, {0: 1, 1: 1}, {0: 1, 1: 1}]
    assert schedule.steps[2].free == 60 - 30 - 12
    assert schedule.endings[2].scheduled_ps == schedule.endings[1].end_ps == 230


def test_tgi_lets_few_wait_until_they_waited_long() -> None:
    """With a ratio of 2 one waiting request is too few beside one running, until 5 tokens went by."""
    settings: dict[str, Any] = {"enable_chunked_prefill": False, "max_model_len": 64}
    own = TgiSettings(waiting_served_ratio=2.0, max_waiting_tokens=5)
    alone = record(requests_of((0, 10, 20), (105, 10, 1)), replica_of("tgi", own, **settings))
    assert alone.endings[1].scheduled_ps == 100 + 4 * DECODE_PS
    three = record(requests_of((0, 10, 20), (105, 10, 1), (105, 10, 1)), replica_of("tgi", own, **settings))
    assert three.endings[1].scheduled_ps == 110  # two wait for one


def test_tgi_lets_prompts_ride_along_in_chunks() -> None:
    schedule = record(requests_of((0, 20, 9), (105, 100, 2)), replica_of("tgi", blocks=200))
    # a prefill with the decodes, then a step without new requests: the prompt goes on in both
    assert batches(schedule)[:4] == [{0: 20}, {0: 1}, {0: 1, 1: 63}, {0: 1, 1: 37}]


# --- llama.cpp


def test_llama_cpp_gives_the_last_slot_first_and_reads_prompts_in_their_order() -> None:
    schedule = record(requests_of((0, 10, 3), (0, 20, 2)), replica_of("llama.cpp", max_num_seqs=2, blocks=200))
    assert schedule.steps[0].scheduled == ((1, 20), (0, 10))  # request 0 has slot 1
    assert batches(schedule)[1:] == [{1: 1, 0: 1}, {0: 1}]


def test_llama_cpp_turns_the_deferred_round_when_two_slots_end_at_once() -> None:
    rows = ((0, 10, 2), (0, 10, 2), (1, 10, 1), (2, 10, 1))
    schedule = record(requests_of(*rows), replica_of("llama.cpp", max_num_seqs=2, blocks=200))
    assert schedule.steps[1].finished == (1, 0)  # in the order of slots
    assert schedule.steps[2].scheduled == ((3, 10), (2, 10))  # the later one came to stand ahead, and took slot 0


def test_llama_cpp_takes_the_slot_that_knows_most() -> None:
    ids = [list(range(20)), list(range(50, 70)), [*range(20), *range(200, 220)]]
    replica = replica_of("llama.cpp", max_num_seqs=2, blocks=200, enable_prefix_caching=True)
    schedule = record(requests_of((0, 20, 1), (300, 20, 1), (600, 40, 1), ids=ids), replica)
    assert [ending.cached for ending in schedule.endings] == [0, 0, 20]
    deaf = replace(replica, settings=replace(replica.settings, own=LlamaCppSettings(slot_prompt_similarity=0.6)))
    other = record(requests_of((0, 20, 1), (300, 20, 1), (600, 40, 1), (900, 40, 1), ids=[*ids, ids[1]]), deaf)
    assert other.endings[2].cached == 20  # by chance: slot 1 is the one not used for longest
    assert other.endings[3].cached == 20


def test_llama_cpp_gives_each_slot_its_share_of_the_context() -> None:
    schedule = record(requests_of((0, 40, 30), (0, 50, 1)), replica_of("llama.cpp", max_num_seqs=2, blocks=100))
    assert len(schedule.endings[0].delivered_ps) == 10  # 50 tokens a slot
    assert schedule.endings[1].reason == ""  # its prompt fills a slot


# --- what is refused


@pytest.mark.parametrize(
    ("engine", "place", "change"),
    [
        ("sglan", "settings.engine", {}),
        ("vllm", "settings.own", {"own": TgiSettings()}),
        ("sglang", "settings.own", {"own": TgiSettings()}),
        ("sglang", "settings.own.schedule_policy", {"own": SglangSettings(schedule_policy="lmp")}),
        ("sglang", "settings.own.chunked_prefill_size", {"own": SglangSettings(chunked_prefill_size=0)}),
        (
            "sglang",
            "settings.own.chunked_prefill_size",
            {"own": SglangSettings(chunked_prefill_size=24), "block_size": 16},
        ),
        ("sglang", "settings.own.max_prefill_tokens", {"own": SglangSettings(max_prefill_tokens=0)}),
        ("sglang", "settings.own.prefill_max_requests", {"own": SglangSettings(prefill_max_requests=0)}),
        ("sglang", "settings.own.schedule_conservativeness", {"own": SglangSettings(schedule_conservativeness=-1.0)}),
        (
            "tensorrt-llm",
            "settings.own.capacity_scheduler_policy",
            {"own": TensorRtLlmSettings(capacity_scheduler_policy="STATIC_BATCH")},
        ),
        (
            "tensorrt-llm",
            "settings.own.context_chunking_policy",
            {"own": TensorRtLlmSettings(context_chunking_policy="FCFS")},
        ),
        ("tensorrt-llm", "settings.max_num_batched_tokens", {"block_size": 128}),
        (
            "tensorrt-llm",
            "settings.enable_chunked_prefill",
            {
                "own": TensorRtLlmSettings(capacity_scheduler_policy="MAX_UTILIZATION"),
                "enable_chunked_prefill": False,
            },
        ),
        ("tgi", "settings.own.waiting_served_ratio", {"own": TgiSettings(waiting_served_ratio=float("nan"))}),
        ("tgi", "settings.own.max_waiting_tokens", {"own": TgiSettings(max_waiting_tokens=-1)}),
        ("tgi", "settings.async_scheduling", {"async_scheduling": True}),
        ("llama.cpp", "settings.own.slot_prompt_similarity", {"own": LlamaCppSettings(slot_prompt_similarity=-0.1)}),
        ("llama.cpp", "settings.async_scheduling", {"async_scheduling": True}),
        ("sglang", "settings.scheduling_policy", {"scheduling_policy": "priority"}),
        ("sglang", "settings.pipeline_parallel_size", {"pipeline_parallel_size": 2}),
        ("tgi", "settings.max_num_active_seqs", {"max_num_active_seqs": 2}),
    ],
)
def test_bad_settings_are_refused_by_name(engine: str, place: str, change: dict[str, Any]) -> None:
    good = replica_of("sglang")
    with pytest.raises(InputError) as refused:
        check_engine(replace(good, settings=replace(good.settings, engine=engine, **change)))
    assert refused.value.place == place


def test_a_run_checks_its_engine_first() -> None:
    replica = replica_of("sglang", SglangSettings(schedule_policy="lmp"))
    for run in (record, simulate):
        with pytest.raises(InputError, match="did you mean 'lpm'"):
            run(requests_of((0, 1, 1)), replica)
    nothing = replace(replica.settings, block_size=0, own=None)
    with pytest.raises(InputError, match="at least 1"):
        simulate(requests_of((0, 1, 1)), replace(replica, settings=nothing))


def test_what_only_vllm_has_is_refused() -> None:
    replica = replica_of("tgi")
    with pytest.raises(InputError, match="vllm alone") as refused:
        check_engine(replace(replica, speculation=Speculation(method="ngram", num_speculative_tokens=2, accepted=(1,))))
    assert refused.value.place == "speculation"
    with pytest.raises(InputError, match="vllm alone"):
        check_engine(replace(replica, kv_transfer=KvTransfer(base_ps=1, ps_per_token=1)))


@pytest.mark.parametrize("engine", POLICIES)
def test_defaults_are_accepted(engine: str) -> None:
    check_engine(replica_of(engine))


@pytest.mark.parametrize("engine", ["sglang", "tensorrt-llm", "tgi", "llama.cpp"])
def test_what_can_never_run_is_refused_at_once(engine: str) -> None:
    schedule = record(requests_of((0, 10, 5), (0, 900, 90)), replica_of(engine, blocks=400, max_num_seqs=1))
    assert [ending.reason for ending in schedule.endings] == ["length", ""]
    assert schedule.endings[1].scheduled_ps == -1
