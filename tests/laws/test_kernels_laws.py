"""Laws of recording: what is asked of a device, when a median is known, what a fit finds."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.kernels import ops
from headway.kernels.ops import Reach
from headway.kernels.reduce import fit
from headway.kernels.timing import ENOUGH_FRAC, LEAST_REPEATS, MOST_REPEATS, settle, timing

reaches = st.builds(
    Reach,
    flops_per_s=st.floats(1e9, 5e15),
    bytes_per_s=st.floats(1e9, 1e13),
    memory_bytes=st.floats(2e9, 3e11),
    budget_s=st.floats(0.1, 600),
)


@given(reach=reaches)
def test_a_grid_of_matrices_is_whole_and_fits_its_time_or_is_the_smallest(reach: Reach) -> None:
    axes, shapes = ops.gemms("bf16", reach)
    assert list(itertools.product(*axes.values())) == [(shape.n, shape.k, shape.m) for shape in shapes]
    for name, values in axes.items():
        assert values == ops.GEMM_GRID[name][: len(values)]
        assert len(values) >= 2
    took_s = sum(map(reach.seconds, shapes))
    assert took_s <= reach.budget_s * (1 + 1e-9) or all(len(values) == 2 for values in axes.values())
    for check in ops.gemm_checks("bf16", axes):
        for name, values in axes.items():
            assert values[0] / 1.1 <= getattr(check, name) <= values[-1] * 1.1
    assert ops.gemm_checks("bf16", axes) == ops.gemm_checks("bf16", axes)


@given(reach=reaches, data=st.data())
def test_wherever_time_runs_out_attention_has_as_many_shapes_at_every_point(reach: Reach, data: st.DataObject) -> None:
    for shapes in (ops.decodes(reach), ops.prefills(reach)):
        assert all(reach.holds(shape) for shape in shapes)
        assert len(set(shapes)) == len(shapes)
        cut = shapes[: data.draw(st.integers(0, len(shapes)))]
        for head_dim in ops.HEAD_DIMS:
            points = {shape.point for shape in shapes if shape.head_dim == head_dim}
            counts = [sum(shape.point == point for shape in cut) for point in points]
            room = [sum(shape.point == point for shape in shapes) for point in points]
            full = [count for count, most in zip(counts, room, strict=True) if count < most]
            assert not full or max(counts) - min(full) <= 1 or min(full) >= ops.LEAST_SHAPES


@given(
    samples=st.lists(st.floats(1e-6, 1e-2), min_size=LEAST_REPEATS, max_size=3 * MOST_REPEATS), budget_s=st.floats(0, 1)
)
def test_repeats_end_when_the_median_is_known_or_the_time_is_spent(samples: list[float], budget_s: float) -> None:
    source, now_s = itertools.cycle(samples), [0.0]

    def sample() -> float:
        time_s = next(source)
        now_s[0] += time_s
        return time_s

    found = settle(sample, budget_s=budget_s, clock=lambda: now_s[0])
    assert LEAST_REPEATS <= found.repeats <= MOST_REPEATS
    taken = list(itertools.islice(itertools.cycle(samples), found.repeats))
    assert found == timing(taken)
    assert found.median_s == pytest.approx(np.median(taken))
    known, spent = found.error_frac <= ENOUGH_FRAC, now_s[0] >= budget_s
    assert known or spent or found.repeats == MOST_REPEATS
    if found.repeats > LEAST_REPEATS:
        before = timing(taken[:-1])
        assert before.error_frac > ENOUGH_FRAC


@given(
    factors=st.lists(st.one_of(st.just(0.0), st.floats(0.05, 20.0)), min_size=3, max_size=3).filter(any),
    seed=st.integers(0, 10**6),
)
def test_a_line_gives_its_factors_back(factors: list[float], seed: int) -> None:
    columns = np.random.default_rng(seed).uniform(0.1, 1.0, (12, 3))
    found = fit(columns, columns @ factors)
    assert found == pytest.approx(factors, rel=1e-5, abs=1e-6)


@given(seed=st.integers(0, 10**6))
def test_no_factor_is_below_zero_and_none_fits_better(seed: int) -> None:
    chance = np.random.default_rng(seed)
    columns, target = chance.uniform(0.1, 1.0, (9, 3)), chance.uniform(0.1, 1.0, 9)
    found = fit(columns, target)
    assert (found >= 0).all()
    best = np.sum((columns @ found / target - 1) ** 2)
    for other in chance.uniform(0, 2, (200, 3)):
        assert best <= np.sum((columns @ other / target - 1) ** 2) + 1e-12
