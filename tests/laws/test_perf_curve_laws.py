"""Laws of curves, and of the times taken from them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.interpolate import RegularGridInterpolator

from headway.catalog import load
from headway.perf import calibration
from headway.perf.curves import Curve, rising
from headway.perf.gemm import matrix_time
from headway.perf.links import transfer
from headway.perf.shapes import Matmul
from headway.types import Provenance

ACCELERATORS = tuple(
    load().accelerator(name) for name in ("a100-80-sxm", "h100-sxm", "b200", "gb300", "l40s", "mi300x")
)
ENGINES = ("vllm", "sglang", "tensorrt-llm")
POSITIVE = st.floats(1e-3, 1e6)


@st.composite
def curves(draw: st.DrawFn) -> Curve:
    axes = ("n", "k", "m")[: draw(st.integers(1, 3))]
    grid = tuple(
        np.array(sorted(draw(st.sets(st.integers(1, 10_000), min_size=1, max_size=4))), dtype=float) for _ in axes
    )
    shape = tuple(len(values) for values in grid)
    size = int(np.prod(shape))
    table = draw(st.lists(st.floats(0.01, 2), min_size=size, max_size=size))
    origin = Provenance(source="drawn", as_of="2026-11-21")
    return Curve(axes=axes, grid=grid, table=np.reshape(table, shape), provenance=origin)


@st.composite
def points(draw: st.DrawFn) -> tuple[Curve, dict[str, np.ndarray]]:
    found, count = draw(curves()), draw(st.integers(1, 5))
    column = st.lists(POSITIVE, min_size=count, max_size=count)
    return found, {name: np.array(draw(column)) for name in found.axes}


@given(curves())
def test_grid_points_are_met(found: Curve) -> None:
    mesh = np.meshgrid(*found.grid, indexing="ij")
    efficiency = found.efficiency(**dict(zip(found.axes, mesh, strict=True)))
    np.testing.assert_allclose(efficiency, found.table, rtol=1e-9)


@given(points())
def test_interpolation_is_multilinear_in_the_logarithms(drawn: tuple[Curve, dict[str, np.ndarray]]) -> None:
    found, columns = drawn
    wide = [np.append(np.log(values), np.log(values[-1]) + 1) for values in found.grid]  # a grid of one needs a second
    table = np.log(np.pad(found.table, [(0, 1)] * found.table.ndim, mode="edge"))
    inside = [
        np.clip(np.log(columns[name]), np.log(values[0]), np.log(values[-1]))
        for name, values in zip(found.axes, found.grid, strict=True)
    ]
    wanted = np.exp(RegularGridInterpolator(tuple(wide), table)(np.stack(inside, axis=1)))
    np.testing.assert_allclose(found.efficiency(**columns), wanted, rtol=1e-9)


@given(points(), st.data())
def test_holding_axes_first_changes_nothing(drawn: tuple[Curve, dict[str, np.ndarray]], data: st.DataObject) -> None:
    found, columns = drawn
    held = data.draw(st.sets(st.sampled_from(found.axes)))
    fixed = {name: float(columns[name][0]) for name in held}
    rest = {name: values for name, values in columns.items() if name not in held}
    line = found.at(**fixed)
    assert line.axes == tuple(name for name in found.axes if name not in held)
    np.testing.assert_allclose(line.efficiency(**rest), found.efficiency(**fixed, **rest), rtol=1e-9)


@given(st.lists(st.floats(1e-6, 1e-3), min_size=2, max_size=9), st.lists(st.floats(0, 100), min_size=2))
def test_rising_times_rise_and_never_exceed_what_was_timed(knots_s: list[float], values: list[float]) -> None:
    knots, ordered = np.arange(1.0, len(knots_s) + 1), np.sort(values)
    found = rising(knots, np.array(knots_s), ordered)
    assert (np.diff(found) >= -1e-18).all()
    assert (rising(knots, np.array(knots_s), knots) <= np.array(knots_s)).all()
    np.testing.assert_array_equal(rising(knots, np.sort(knots_s), knots), np.sort(knots_s))


@given(
    st.sampled_from(ACCELERATORS),
    st.sampled_from(ENGINES),
    st.sampled_from(("bf16", "fp8", "fp8_block", "nvfp4", "int4")),
    st.integers(64, 70_000),
    st.integers(64, 70_000),
    st.lists(st.floats(0.25, 70_000), min_size=2, max_size=20),
)
def test_a_matrix_never_takes_less_for_more_rows_nor_less_than_its_parts(
    accelerator: object, engine: str, dtype: str, n: int, k: int, rows: list[float]
) -> None:
    matrix, ordered = Matmul(name="w", count=1, k=k, n=n, dtype=dtype), np.sort(rows)
    found = matrix_time(accelerator, engine, calibration(accelerator, engine), matrix, ordered)
    assert (np.diff(found.time_s) >= -1e-12 * found.time_s[1:]).all()
    longest = found.fixed_s + np.maximum(found.compute_s, found.memory_s)
    assert (found.time_s >= longest * (1 - 1e-9)).all()
    assert (np.maximum(found.compute_s, found.memory_s) > 0).all()
    one = matrix_time(accelerator, engine, calibration(accelerator, engine), matrix, float(ordered[0]))
    assert one.time_s == pytest.approx(found.time_s[0])


@given(
    st.sampled_from(ACCELERATORS),
    st.sampled_from(ENGINES),
    st.sampled_from(("all_reduce", "all_gather", "reduce_scatter", "dispatch", "combine", "send")),
    st.sampled_from((2, 4, 8, 16)),
    st.lists(st.floats(0, 2e9), min_size=2, max_size=20),
)
def test_an_exchange_never_takes_less_for_more_bytes(
    accelerator: object, engine: str, collective: str, gpus: int, sent: list[float]
) -> None:
    found = transfer(accelerator, engine, calibration(accelerator, engine), collective, gpus, np.sort(sent))
    assert (np.diff(found.communication_s) >= -1e-15).all()
    assert found.fixed_s > 0
    assert (found.communication_s >= 0).all()


@given(st.sampled_from(ACCELERATORS), st.floats(0.1, 10))
def test_a_roofline_twice_as_slow_costs_at_most_twice_the_time(accelerator: object, slower: float) -> None:
    lean = replace(accelerator, hbm_bytes_per_s=accelerator.hbm_bytes_per_s / (1 + slower))
    matrix, constants = Matmul(name="w", count=1, k=8192, n=8192, dtype="bf16"), calibration(accelerator, "vllm")
    fast, slow = (float(matrix_time(a, "vllm", constants, matrix, 16.0).time_s) for a in (accelerator, lean))
    assert fast <= slow <= fast * (1 + slower) * (1 + 1e-9)
