"""Other engines' policies: equal to their naive twins, and true to what their rules promise."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from headway.simulator import record, simulate
from headway.simulator.records import Record
from headway.types import Replica, Requests

sys.path.insert(0, str(Path(__file__).parents[1] / "oracle"))  # tests are no package

from engines.cases import STRATA, TWINS, make_case, seeds_of

ENGINES = tuple(TWINS)


def numbered_alike(schedule: Record) -> Record:
    """Steps without their numbers: how often an idle engine looks about is its own affair."""
    return replace(schedule, steps=tuple(replace(step, k=0) for step in schedule.steps))


def case_of(engine: str, stratum: str, seed: int) -> tuple[Requests, Replica]:
    return make_case(engine, seed, **STRATA[stratum])


def equal(engine: str, stratum: str, seeds: Iterable[int]) -> Counter[str]:
    """Hold the policy to its twin; return what the cases went through."""
    seen: Counter[str] = Counter()
    for seed in seeds:
        requests, replica = case_of(engine, stratum, seed)
        schedule = record(requests, replica)
        twin = TWINS[engine](requests, replica).record()
        assert numbered_alike(schedule) == numbered_alike(twin), f"{engine}, {stratum}, seed {seed}"
        seen["cases"] += 1
        seen["preemptions"] += sum(ending.preemptions for ending in schedule.endings)
        seen["hits"] += sum(max(ending.cached, 0) for ending in schedule.endings)
    return seen


@pytest.mark.parametrize("engine", ENGINES)
def test_policy_equals_twin(engine: str) -> None:
    seen: Counter[str] = Counter()
    for stratum in STRATA:
        seen += equal(engine, stratum, seeds_of(stratum))
    assert seen["cases"] >= 60
    assert seen["hits"] > 300
    assert (seen["preemptions"] > 0) == (engine in ("sglang", "tensorrt-llm"))


@pytest.mark.nightly
@pytest.mark.parametrize("engine", ENGINES)
def test_policy_equals_twin_in_a_thousand_cases(engine: str) -> None:
    cases = sum(equal(engine, stratum, range(1000, 1100))["cases"] for stratum in STRATA)
    assert cases >= 1000


any_case = st.builds(case_of, st.sampled_from(ENGINES), st.sampled_from(list(STRATA)), st.integers(0, 1 << 30))


def cases_of(*engines: str) -> st.SearchStrategy[tuple[Requests, Replica]]:
    return st.builds(case_of, st.sampled_from(engines), st.sampled_from(list(STRATA)), st.integers(0, 1 << 30))


def asked(requests: Requests, row: int) -> int:
    return int((requests.max_tokens if requests.max_tokens is not None else requests.osl_tokens)[row])


@given(any_case)
def test_requests_and_their_tokens_are_conserved(case: tuple[Requests, Replica]) -> None:
    requests, replica = case
    schedule = record(requests, replica)
    finished = [row for step in schedule.steps for row in step.finished]
    for ending in schedule.endings:
        row, tokens = ending.request, len(ending.delivered_ps)
        assert tokens <= min(requests.osl_tokens[row], asked(requests, row))
        assert list(ending.delivered_ps) == sorted(set(ending.delivered_ps))
        assert finished.count(row) == (ending.reason in ("length", "stop"))
        if ending.reason == "stop":
            assert tokens == requests.osl_tokens[row] < asked(requests, row)
        elif ending.reason == "":  # refused: it never gets anything
            assert tokens == 0
            assert ending.scheduled_ps == ending.end_ps == -1


@given(any_case, st.integers(2, 4))
def test_fleets_run_the_same_policy(case: tuple[Requests, Replica], replicas: int) -> None:
    requests, replica = case
    alone, schedule = simulate(requests, replica), record(requests, replica)
    for ending in schedule.endings:
        row = ending.request
        assert alone.first_ps[row] == (ending.delivered_ps or (-1,))[0]
        assert alone.last_ps[row] == (ending.delivered_ps or (-1,))[-1]
        assert ending.reason in ("", "abort") or alone.last_ps[row] == ending.end_ps
        assert alone.preemptions[row] == ending.preemptions
    assert alone.counters.steps == len([step for step in schedule.steps if step.scheduled])
    fleet = simulate(requests, replica, replicas=replicas)
    assert fleet.failed == alone.failed == sum(not ending.reason for ending in schedule.endings)
    assert fleet.unfinished == 0


@given(any_case)
def test_memory_is_conserved(case: tuple[Requests, Replica]) -> None:
    requests, replica = case
    schedule = record(requests, replica)
    for step in schedule.steps:
        assert 0 <= step.free <= replica.num_gpu_blocks
        assert 0 <= step.free_after <= replica.num_gpu_blocks
    if schedule.steps and requests.abort_s is None:
        assert schedule.steps[-1].free_after == replica.num_gpu_blocks


@given(any_case)
def test_batches_follow_each_other_and_keep_within_bounds(case: tuple[Requests, Replica]) -> None:
    requests, replica = case
    settings = replica.settings
    before_ps = 0
    for step in record(requests, replica).steps:
        assert before_ps <= step.b_ps <= step.e_ps
        assert step.t_ps <= step.b_ps
        before_ps = step.e_ps
        rows = [row for row, _ in step.scheduled]
        assert len(rows) == len(set(rows)) <= step.running
        assert step.tokens == sum(tokens for _, tokens in step.scheduled)
        assert all(tokens >= 1 for _, tokens in step.scheduled)
        if settings.engine != "tgi":  # with chunks, TGI knows no bound
            assert step.running <= settings.max_num_seqs
        if settings.engine in ("tensorrt-llm", "llama.cpp"):
            assert step.tokens <= settings.max_num_batched_tokens


@given(any_case)
def test_every_token_is_computed_once_where_nothing_is_cached_or_thrown_back(case: tuple[Requests, Replica]) -> None:
    requests, replica = case
    plain = replace(replica.settings, enable_prefix_caching=False, async_scheduling=False)
    schedule = record(replace(requests, abort_s=None), replace(replica, settings=plain))
    assume(not any(ending.preemptions for ending in schedule.endings))
    computed: Counter[int] = Counter()
    for step in schedule.steps:
        computed.update(dict(step.scheduled))
    for ending in schedule.endings:
        tokens = len(ending.delivered_ps)
        assert computed[ending.request] == (requests.isl_tokens[ending.request] + tokens - 1 if tokens else 0)


@given(cases_of("tgi", "llama.cpp", "tensorrt-llm"))
def test_nobody_is_thrown_back_where_memory_is_kept_to_the_end(case: tuple[Requests, Replica]) -> None:
    requests, replica = case
    own = replica.settings.own
    if replica.settings.engine == "tensorrt-llm":
        own = replace(own, capacity_scheduler_policy="GUARANTEED_NO_EVICT")
    schedule = record(requests, replace(replica, settings=replace(replica.settings, own=own)))
    assert not any(step.preempted for step in schedule.steps)
    assert not any(ending.preemptions for ending in schedule.endings)


@given(cases_of("tensorrt-llm"))
def test_no_evict_keeps_blocks_for_all_tokens_of_all_that_run(case: tuple[Requests, Replica]) -> None:
    requests, replica = case
    settings = replica.settings
    own = replace(settings.own, capacity_scheduler_policy="GUARANTEED_NO_EVICT")
    settings = replace(settings, own=own, enable_prefix_caching=False)
    running: set[int] = set()
    for step in record(replace(requests, abort_s=None), replace(replica, settings=settings)).steps:
        running |= {row for row, _ in step.admitted}
        tokens = [min(requests.isl_tokens[row] + asked(requests, row), settings.max_model_len) for row in running]
        if not settings.async_scheduling:  # else others ended before this step was processed
            assert sum(-(-int(one) // settings.block_size) for one in tokens) <= replica.num_gpu_blocks
        running -= set(step.finished)


@given(cases_of("sglang"))
def test_sglang_retracts_who_has_least_and_never_all(case: tuple[Requests, Replica]) -> None:
    requests, replica = case
    schedule = record(requests, replace(replica, settings=replace(replica.settings, async_scheduling=False)))
    for step in schedule.steps:
        if step.preempted:
            assert step.scheduled
            assert not step.admitted

            def emitted(row: int, at_ps: int = step.t_ps) -> int:
                return sum(told <= at_ps for told in schedule.endings[row].delivered_ps)

            kept = min(emitted(row) for row, _ in step.scheduled)
            assert max(emitted(row) for row in step.preempted) <= kept


@given(cases_of("sglang", "tgi"))
def test_decodes_stall_while_prompts_are_read(case: tuple[Requests, Replica]) -> None:
    requests, replica = case
    settings = replace(replica.settings, async_scheduling=False)
    if settings.engine == "tgi":
        settings = replace(settings, enable_chunked_prefill=False, max_num_batched_tokens=512)
    table = replace(replica.step, mixed_ps=make_longer(replica.step.mixed_ps, 513))
    replica = replace(replica, settings=replace(settings, max_num_batched_tokens=512), step=table)
    schedule = record(requests, replica)
    for step in schedule.steps:
        told = [
            any(ready <= step.t_ps for ready in schedule.endings[row].delivered_ps)
            and not schedule.endings[row].preemptions
            for row, _ in step.scheduled
        ]
        if step.admitted:
            assert not any(told)


def make_longer(column: object, length: int) -> object:
    import numpy as np

    return np.concatenate([column, np.full(max(0, length - len(column)), column[-1])])[:length]


@given(cases_of("sglang", "tensorrt-llm", "tgi"))
def test_prompts_do_not_matter_where_nothing_is_cached(case: tuple[Requests, Replica]) -> None:
    requests, replica = case
    replica = replace(replica, settings=replace(replica.settings, enable_prefix_caching=False))
    assert record(requests, replica) == record(replace(requests, prefix=None), replica)


@given(cases_of("llama.cpp"))
def test_llama_cpp_lets_every_slot_that_generates_take_a_token(case: tuple[Requests, Replica]) -> None:
    requests, replica = case
    schedule = record(replace(requests, abort_s=None), replica)
    generating: set[int] = set()
    for step in schedule.steps:
        assert generating <= {row for row, _ in step.scheduled}
        generating |= {row for row, _ in step.scheduled if step.e_ps in schedule.endings[row].delivered_ps}
        generating -= set(step.finished)
