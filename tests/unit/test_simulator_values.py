"""Values worked out by hand, and results of the parts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from headway.simulator import FAILED, FINISHED, UNFINISHED, GapPart, Gaps, seconds, simulate
from headway.simulator.prefixes import engine_runs
from headway.simulator.routers import choices
from headway.types import EngineSettings, PrefixRuns, Replica, Requests, StepTable


def settings(**changes: Any) -> EngineSettings:
    defaults = {
        "max_num_seqs": 4,
        "max_num_batched_tokens": 16,
        "max_model_len": 64,
        "gpu_memory_utilization": 0.9,
        "block_size": 4,
        "async_scheduling": False,
    }
    return EngineSettings(**(defaults | changes))


def replica(num_gpu_blocks: int = 100, table: dict[str, Any] | None = None, **changes: Any) -> Replica:
    chosen = settings(**changes)
    step = {
        "decode_ps": 100 + np.arange(chosen.max_num_seqs + 1),
        "mixed_ps": 1000 + np.arange(chosen.max_num_batched_tokens + 1),
        "context_ps_per_token": 0,
        "prefill_ps_per_pair": 0,
    } | (table or {})
    return Replica(settings=chosen, step=StepTable(**step), num_gpu_blocks=num_gpu_blocks)


def requests(*rows: Any, **columns: Any) -> Requests:
    """Rows of arrival in ps, prompt and output tokens."""
    arrive, isl, osl = (np.array(column, np.int64) for column in zip(*rows, strict=True))
    return Requests(arrive_s=arrive * 1e-12, isl_tokens=isl, osl_tokens=osl, **columns)


def test_one_request_is_its_prompt_and_its_decodes() -> None:
    table = {"context_ps_per_token": 3, "prefill_ps_per_pair": 2, "sequence_ps": 7}
    simulation = simulate(requests((50, 10, 4)), replica(table=table))
    first_ps = 50 + 1010 + 7 + 2 * 10 * 10
    gaps_ps = [101 + 3 * context for context in (10, 11, 12)]
    assert simulation.first_ps.tolist() == [first_ps]
    assert simulation.last_ps.tolist() == [first_ps + sum(gaps_ps)]
    assert [simulation.itl_quantile_ps(frac) for frac in (0.0, 1 / 3, 0.34, 1.0)] == [131, 131, 134, 137]
    assert simulation.counters.steps == 4
    assert simulation.counters.scheduled_tokens == 13
    assert simulation.counters.busy_ps.tolist() == [simulation.last_ps[0] - 50]
    assert simulation.end_ps == simulation.last_ps[0]


def test_a_long_prompt_is_cut_by_the_budget_beside_a_decode() -> None:
    simulation = simulate(requests((0, 4, 6), (1, 40, 1)), replica())
    # 4 tokens alone; then 15 beside the decode, twice; then the remaining 10
    assert simulation.first_ps.tolist() == [1004, 1004 + 1016 + 1016 + 1011]
    assert simulation.last_ps[0] == 1004 + 1016 + 1016 + 1011 + 2 * 101


def test_the_chunk_under_way_pays_for_what_is_already_computed() -> None:
    table = {"prefill_context_ps_per_token": 5, "prefill_ps_per_pair": 1}
    simulation = simulate(requests((0, 20, 1)), replica(table=table))
    assert simulation.first_ps.tolist() == [1016 + 16 * 16 + 1004 + 5 * 16 + 4 * (2 * 16 + 4)]


def test_window_attention_stops_growing_at_the_window() -> None:
    table = {"window_ps_per_token": 10, "window_tokens": 6}
    simulation = simulate(requests((0, 4, 6)), replica(table=table))
    gaps_ps = [101 + 10 * min(context, 6) for context in (4, 5, 6, 7, 8)]
    assert simulation.last_ps[0] - simulation.first_ps[0] == sum(gaps_ps)
    assert [simulation.itl_quantile_ps(frac) for frac in (0.2, 0.4, 0.6, 1.0)] == [141, 151, 161, 161]


def test_chunked_prefill_off_lets_a_prompt_wait_for_the_whole_budget() -> None:
    one = replica(enable_chunked_prefill=False, max_num_batched_tokens=64)
    simulation = simulate(requests((0, 40, 2), (0, 40, 2)), one)
    assert simulation.first_ps.tolist() == [1040, 1040 + 1041]


def test_seats_are_limited() -> None:
    simulation = simulate(requests((0, 2, 3), (0, 2, 3), (0, 2, 1)), replica(max_num_seqs=2))
    assert simulation.first_ps.tolist() == [1004, 1004, 1004 + 102 + 102 + 1002]


def test_the_last_of_running_is_preempted_and_computed_again() -> None:
    # two requests of 4 + 5 tokens in 4 blocks of 4: at 8 tokens each the pool is empty
    one = replica(num_gpu_blocks=4, enable_prefix_caching=False)
    simulation = simulate(requests((0, 4, 6), (0, 4, 6)), one)
    assert simulation.preemptions.tolist() == [0, 1]
    assert simulation.counters.preemptions == 1
    alone_ps = 1008 + 4 * 102 + 101
    assert simulation.last_ps.tolist() == [alone_ps, alone_ps + 1009]  # 4 + 5 known tokens, then the sixth is there
    assert simulation.gaps.max_ps() == 101 + 1009


def test_a_preempted_request_finds_its_own_blocks() -> None:
    simulation = simulate(requests((0, 4, 6), (0, 4, 6)), replica(num_gpu_blocks=4))
    # its two full blocks: one is evicted for the other request's ninth token, the first is still cached
    assert simulation.preemptions.tolist() == [0, 1]
    assert simulation.counters.scheduled_tokens == 9 + 8 + (9 - 4)
    assert simulation.cached_tokens.tolist() == [0, 0]


def test_a_shared_prefix_is_computed_once_even_in_one_step() -> None:
    prefix = PrefixRuns(
        block_tokens=4, offsets=np.array([0, 1, 2]), first_ids=np.array([7, 7]), counts=np.array([2, 2])
    )
    simulation = simulate(requests((0, 9, 1), (0, 9, 1), prefix=prefix), replica())
    assert simulation.cached_tokens.tolist() == [0, 8]
    assert simulation.counters.prefix_hit_tokens == 8
    assert simulation.counters.scheduled_tokens == 10


def test_an_aligned_prompt_computes_its_last_block_again() -> None:
    prefix = PrefixRuns(
        block_tokens=4, offsets=np.array([0, 1, 2]), first_ids=np.array([7, 7]), counts=np.array([2, 2])
    )
    simulation = simulate(requests((0, 8, 1), (9999, 8, 1), prefix=prefix), replica())
    assert simulation.cached_tokens.tolist() == [0, 4]


def test_what_cannot_be_served_is_refused_and_counted() -> None:
    rows = ((0, 64, 1), (0, 63, 9), (0, 30, 30), (0, 30, 10))
    simulation = simulate(requests(*rows), replica(num_gpu_blocks=12))
    assert simulation.state.tolist() == [FAILED, FAILED, FAILED, FINISHED]
    assert simulation.replica.tolist() == [-1, -1, -1, 0]
    assert simulate(requests(*rows), replica()).output_tokens.tolist() == [0, 1, 30, 10]


def test_what_has_not_ended_at_the_cut_is_unfinished() -> None:
    simulation = simulate(requests((0, 4, 100), (5000, 4, 2)), replica(), until_s=2000e-12)
    assert simulation.state.tolist() == [UNFINISHED, UNFINISHED]
    assert simulation.replica.tolist() == [0, -1]
    assert simulation.first_ps.tolist() == [1004, -1]
    assert simulation.counters.steps == 1 + 996 // 101
    assert simulation.end_ps == 2000
    assert np.isnan(seconds(simulation.last_ps)).all()


def test_series_show_each_window() -> None:
    simulation = simulate(requests((0, 8, 3), (0, 4, 1), (4000, 4, 1)), replica(max_num_seqs=1), record_series=4)
    series = simulation.series
    assert series.window_ps == 1000
    assert series.queue.tolist() == [1, 0, 0, 0]
    assert series.running.tolist() == [1, 1, 0, 1]
    assert series.kv_blocks.tolist() == [2, 1, 0, 1]
    assert series.busy_ps.tolist() == [1000, 1000, 1008 + 101 + 101 + 1004 - 2000, 0]
    assert series.time_s.tolist() == pytest.approx([1e-9, 2e-9, 3e-9, 4e-9])


def test_no_requests_are_no_trouble() -> None:
    empty = np.zeros(0, np.int64)
    simulation = simulate(Requests(arrive_s=empty * 1.0, isl_tokens=empty, osl_tokens=empty), replica())
    assert simulation.finished == simulation.end_ps == 0
    assert simulation.itl_quantile_ps(0.5) == -1
    assert np.isnan(simulation.gaps.mean_ps())


def test_ids_of_larger_blocks_are_split() -> None:
    prefix = PrefixRuns(block_tokens=16, offsets=np.array([0, 2]), first_ids=np.array([3, 9]), counts=np.array([2, 1]))
    stride, offsets, first, count = engine_runs(prefix, 4)
    assert (stride, offsets.tolist(), first.tolist(), count.tolist()) == (1, [0, 2], [12, 36], [8, 4])


def test_ids_of_smaller_blocks_are_thinned_to_the_last_of_each() -> None:
    # ids 10 11 | 20 21 22 | 30: blocks of two ids end with 11, 21, 30
    prefix = PrefixRuns(
        block_tokens=2, offsets=np.array([0, 3]), first_ids=np.array([10, 20, 30]), counts=np.array([2, 3, 1])
    )
    stride, offsets, first, count = engine_runs(prefix, 4)
    assert (stride, offsets.tolist(), first.tolist(), count.tolist()) == (2, [0, 3], [11, 21, 30], [1, 1, 1])


def test_runs_that_continue_each_other_are_one() -> None:
    prefix = PrefixRuns(
        block_tokens=4, offsets=np.array([0, 3, 4]), first_ids=np.array([5, 7, 0, 1]), counts=np.array([2, 3, 0, 1])
    )
    _, offsets, first, count = engine_runs(prefix, 4)
    assert (offsets.tolist(), first.tolist(), count.tolist()) == ([0, 1, 2], [5, 1], [5, 1])


def test_runs_that_need_no_change_are_not_copied() -> None:
    # the second request's run would continue the first's; the third has none
    prefix = PrefixRuns(
        block_tokens=4, offsets=np.array([0, 2, 3, 3]), first_ids=np.array([5, 9, 11]), counts=np.array([2, 2, 3])
    )
    _, *columns = engine_runs(prefix, 4)
    assert all(
        mine is given for mine, given in zip(columns, (prefix.offsets, prefix.first_ids, prefix.counts), strict=True)
    )
    prefix.first_ids.setflags(write=False)  # which the core cannot take as it is
    assert engine_runs(prefix, 4)[2].tolist() == [5, 9, 11]


def test_quantiles_are_gaps_and_counts_are_exact() -> None:
    rng = np.random.default_rng(0)
    a, k = rng.integers(1, 50, 200), rng.integers(1, 20, 200).astype(np.int32)
    signed = (rng.integers(1, 4, 200) * rng.choice([-1, 1], 200)).astype(np.int32)
    part = GapPart(a, k, signed, context_ps=2, below_ps=5)
    columns = (a, abs(signed) * np.where(signed < 0, 5, 2), k, abs(signed))
    gaps = Gaps((part.where(np.arange(200) < 90), part.where(np.arange(200) >= 90)))
    every = np.sort(np.concatenate([np.repeat(a + d * np.arange(k), w) for a, d, k, w in zip(*columns, strict=True)]))
    assert gaps.samples == len(every)
    assert gaps.max_ps() == every[-1]
    assert gaps.mean_ps() == pytest.approx(every.mean())
    for x in (0, 1, 17, 60, 1000):
        assert gaps.count_upto(x) == (every <= x).sum()
    for frac in (0.0, 0.1, 0.5, 0.9, 0.99, 1.0):
        assert gaps.quantile_ps(frac) == np.quantile(every, frac, method="inverted_cdf")


def test_routers_that_look_at_no_load() -> None:
    rows = requests(*((i, 1, 1) for i in range(1000)), session_id=np.arange(1000) % 5)
    assert choices(rows, 3, "round-robin", 0)[:4].tolist() == [0, 1, 2, 0]
    by_chance = choices(rows, 4, "random", 1)
    assert (np.bincount(by_chance, minlength=4) > 200).all()
    assert (by_chance != choices(rows, 4, "random", 2)).any()
    by_session = choices(rows, 4, "session-affinity", 1).reshape(-1, 5)
    assert (by_session == by_session[0]).all()


def test_least_outstanding_counts_what_ends_at_the_same_instant() -> None:
    # the first request ends at 1004, just as the second arrives: arrivals come first, so it goes elsewhere
    simulation = simulate(requests((0, 4, 1), (1004, 4, 1), (3000, 4, 1)), replica(), replicas=2)
    assert simulation.replica.tolist() == [0, 1, 0]


def test_prefix_affinity_follows_the_longest_prefix() -> None:
    prefix = PrefixRuns(
        block_tokens=4,
        offsets=np.array([0, 1, 2, 3, 5]),
        first_ids=np.array([10, 50, 50, 10, 90]),
        counts=np.array([2, 2, 2, 1, 1]),
    )
    rows = requests((0, 8, 9), (1, 8, 9), (2, 8, 9), (3, 40, 9), prefix=prefix)
    simulation = simulate(rows, replica(), replicas=3, router="prefix-affinity")
    # the last one shares 4 of 40 tokens: too little to follow, so the first of the least loaded
    assert simulation.replica.tolist() == [0, 1, 1, 2]
