"""Loads: the same requests at other times and lengths; nothing is sent twice, prefixes stay shared."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.errors import InputError
from headway.probe import loads
from headway.types import PrefixRuns, Requests
from headway.workload.prefixes import encode_ids, expand_ids, hit_tokens, unchained_request


def requests(count: int = 400, seed: int = 1, **columns: object) -> Requests:
    chance = np.random.default_rng(seed)
    return Requests(
        arrive_s=np.cumsum(chance.exponential(0.5, count)) + 7.0,
        isl_tokens=chance.integers(1, 900, count),
        osl_tokens=chance.integers(1, 300, count),
        **columns,  # type: ignore[arg-type]
    )


def test_an_open_loop_starts_at_once_and_keeps_its_gaps() -> None:
    given_ = requests()
    load = loads.open_loop("x", given_, rate_factor=2.0)
    assert load.requests.arrive_s[0] == 0.0
    assert np.diff(load.requests.arrive_s) == pytest.approx(np.diff(given_.arrive_s) / 2)
    assert (load.concurrency, load.stage) == (None, None)


def test_who_hangs_up_does_so_as_long_after_as_before() -> None:
    given_ = loads.with_cancelled(requests(), share_frac=0.3, after_s=2.0, seed=0)
    assert given_.abort_s is not None
    assert 0.2 < np.isfinite(given_.abort_s).mean() < 0.4
    fast = loads.open_loop("x", given_, rate_factor=10).requests
    assert fast.abort_s is not None
    waits = (fast.abort_s - fast.arrive_s)[np.isfinite(fast.abort_s)]
    assert waits == pytest.approx(2.0)


def test_a_closed_loop_takes_the_rows_in_order() -> None:
    load = loads.closed_loop("x", requests(), concurrency=3, turnaround_s=0.5)
    assert (load.concurrency, load.turnaround_s) == (3, 0.5)
    assert not load.requests.arrive_s.any()


def test_clients_begin_one_after_the_other() -> None:
    load = loads.staggered(loads.closed_loop("x", requests(), concurrency=4), 2.0)
    assert load.requests.arrive_s[:5].tolist() == [0.0, 0.5, 1.0, 1.5, 1.5]
    assert load.requests.arrive_s.max() == 1.5


@pytest.mark.parametrize("count", [400, 30])
def test_each_step_has_its_rate(count: int) -> None:
    load = loads.steps("x", requests(count), [1.0, 2.0, 4.0], step_s=60.0)
    assert load.stage is not None
    sent = np.bincount(load.stage.astype(int))
    assert sent == pytest.approx([60, 120, 240], rel=0.25)
    assert (np.diff(load.requests.arrive_s) >= 0).all()
    assert load.requests.arrive_s[0] >= 0 and load.requests.arrive_s[-1] < 180


def test_steps_that_need_more_begin_anew_with_prefixes_of_their_own() -> None:
    prefix = PrefixRuns(
        block_tokens=16,
        offsets=np.arange(31),
        first_ids=np.zeros(30, dtype=np.int64),
        counts=np.full(30, 3),
    )
    few = dataclasses.replace(requests(30), prefix=prefix, session_id=np.arange(30))
    load = loads.steps("x", few, [1.0, 2.0], step_s=60.0)
    assert load.requests.session_id is not None and load.requests.prefix is not None
    assert len(np.unique(load.requests.session_id)) == len(load.requests) > 150
    assert len(np.unique(load.requests.prefix.first_ids)) == -(-len(load.requests) // 30)


def test_a_ramp_rises_evenly() -> None:
    load = loads.ramp("x", requests(2000), 1.0, 9.0, duration_s=200.0)
    sent = np.bincount(load.stage.astype(int))  # type: ignore[union-attr]
    assert sent == pytest.approx(25 * (1 + np.arange(8) + 0.5), rel=0.2, abs=12)


@pytest.mark.parametrize(
    ("rates", "step_s"), [([], 1.0), ([2.0, 1.0], 1.0), ([1.0, 1.0], 1.0), ([0.0, 1.0], 1.0), ([1.0], 0.0)]
)
def test_steps_that_make_no_sense_are_refused(rates: list[float], step_s: float) -> None:
    with pytest.raises(InputError):
        loads.steps("x", requests(), rates, step_s=step_s)


def test_what_arrives_at_once_has_no_rate() -> None:
    at_once = dataclasses.replace(requests(5), arrive_s=np.zeros(5))
    assert loads.mean_rate_per_s(at_once) == np.inf
    with pytest.raises(InputError, match="arrive at once"):
        loads.steps("x", at_once, [1.0], step_s=1.0)


def test_lengths_are_scaled_and_never_empty() -> None:
    small = loads.scaled_lengths(requests(max_tokens=np.full(400, 301)), isl_frac=0.1, osl_frac=0.01)
    assert small.isl_tokens.min() == 1 and small.isl_tokens.max() == 90
    assert small.osl_tokens.max() == 3
    assert small.max_tokens is not None and (small.max_tokens >= small.osl_tokens).all()


@st.composite
def conversations(draw: st.DrawFn) -> tuple[PrefixRuns, np.ndarray, np.ndarray]:
    """Turns whose prompts begin as an earlier one did, for some blocks, then go their own way."""
    block_tokens = draw(st.sampled_from([1, 16, 64]))
    parents, rows, fresh = [[-1]], [], 0
    for _ in range(draw(st.integers(1, 12))):
        before = draw(st.sampled_from(rows)) if rows else []
        kept = before[: draw(st.integers(0, len(before)))]
        added = draw(st.integers(0 if kept else 1, 6))
        fresh += draw(st.integers(1, 3))  # a gap, so that no new run continues another
        rows.append([*kept, *range(fresh, fresh + added)])
        fresh += added
    del parents
    offsets = np.cumsum([0, *map(len, rows)])
    prefix = encode_ids(np.array([i for row in rows for i in row], dtype=np.int64), offsets, block_tokens)
    isl = np.array([len(row) * block_tokens + 3 for row in rows])
    return prefix, isl, offsets


@given(conversations(), st.floats(0.02, 3.0))
def test_shared_prefixes_shrink_with_the_prompts(made: tuple[PrefixRuns, np.ndarray, np.ndarray], frac: float) -> None:
    prefix, isl, _ = made
    assert unchained_request(prefix) is None
    count = len(isl)
    given_ = Requests(arrive_s=np.arange(count) * 1.0, isl_tokens=isl, osl_tokens=np.ones(count, int), prefix=prefix)
    scaled = loads.scaled_lengths(given_, isl_frac=frac)
    assert scaled.prefix is not None
    assert unchained_request(scaled.prefix) is None
    found = hit_tokens(scaled.prefix, scaled.isl_tokens)
    hits = hit_tokens(prefix, isl)
    expected = hits if frac == 1.0 else np.floor(hits * frac)
    assert (np.abs(found - expected) <= 1).all()
    ids, offsets = expand_ids(scaled.prefix)
    assert (np.diff(offsets) * scaled.prefix.block_tokens <= scaled.isl_tokens + 1).all()
    assert len(ids) == offsets[-1]
