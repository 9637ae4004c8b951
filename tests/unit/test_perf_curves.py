"""Files of curves: what is read, refused and written; what we ship; times they give against the kernels timed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from headway.catalog import load
from headway.errors import InputError
from headway.perf import Calibration, calibration, curves
from headway.perf.curves import Curve, curve, curve_for, read_curves, read_own_curves, rising, stand_in, write_curves
from headway.perf.gemm import matrix_roofline_s, matrix_time
from headway.perf.links import link_bytes_per_s, ranks_reached, transfer
from headway.perf.shapes import Matmul
from headway.types import Accelerator, Provenance

SHIPPED = sorted((Path(curves.__file__).parent / "data" / "curves").glob("*.json"))
ORIGIN = Provenance(source="timed here", as_of="2026-11-21")
ENTRY = {"axes": ["n", "m"], "grid": [[1, 4], [1, 100]], "efficiency": [[0.1, 0.4], [0.2, 0.8]], "fixed_s": 2e-06}


def a_file(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def a_curve(**changes: object) -> Curve:
    plain = Curve(
        axes=("n", "m"),
        grid=(np.array([1.0, 4.0]), np.array([1.0, 100.0])),
        table=np.array([[0.1, 0.4], [0.2, 0.8]]),
        fixed_s=2e-6,
        provenance=ORIGIN,
    )
    return replace(plain, **changes)


def on(name: str, engine: str = "vllm", **own: Curve) -> tuple[Accelerator, str, Calibration]:
    accelerator = load().accelerator(name)
    return accelerator, engine, replace(calibration(accelerator, engine), curves=own)


# --- curves -------------------------------------------------------------------------------------------------


def test_between_grid_points_the_logarithms_are_linear() -> None:
    found = a_curve()
    assert found.efficiency(n=2, m=1) == pytest.approx(np.sqrt(0.1 * 0.2))
    assert found.efficiency(n=1, m=10) == pytest.approx(np.sqrt(0.1 * 0.4))
    assert found.efficiency(n=2, m=[1, 10, 100]) == pytest.approx([0.1 * 2**0.5, 0.2 * 2**0.5, 0.4 * 2**0.5])


def test_beyond_the_grid_its_edge_is_held() -> None:
    assert a_curve().efficiency(n=[0.1, 9, 9], m=[1e-3, 1e6, 0.5]) == pytest.approx([0.1, 0.8, 0.2])


def test_a_time_is_the_fixed_part_and_the_roofline_slowed_down() -> None:
    assert a_curve().time_s(1e-6, n=4, m=100) == pytest.approx(2e-6 + 1e-6 / 0.8)


def test_times_that_dip_are_taken_as_low_before_the_dip() -> None:
    knots, times_s = np.array([1.0, 2.0, 3.0, 4.0]), np.array([5.0, 9.0, 7.0, 8.0])
    assert rising(knots, times_s, [1, 2, 2.5, 3, 4, 8]) == pytest.approx([5, 7, 7, 7, 8, 16])


def test_the_most_particular_curve_answers_and_a_users_before_ours() -> None:
    general, particular = a_curve(), a_curve()
    own = {"gemm/h100-sxm/bf16": general, "gemm/h100-sxm/bf16/vllm": particular}
    assert curve("gemm", "h100-sxm", "bf16", "vllm", extra=own) is particular
    assert curve("gemm", "h100-sxm", "bf16", "sglang", extra=own) is general
    assert curve("gemm", "h100-sxm", "fp8", "vllm", extra=own) is curve("gemm", "h100-sxm", "fp8", "vllm")
    assert curve("gemm", "mi300x", "bf16") is None
    assert curve("nothing", "h100-sxm") is None


def test_an_accelerator_without_curves_takes_those_of_its_architecture() -> None:
    catalogue = load()
    assert stand_in(catalogue.accelerator("h20")) == "h100-sxm"
    assert stand_in(catalogue.accelerator("mi300x")) == "mi300x"
    h20 = curve_for(catalogue.accelerator("h20"), "gemm", "bf16", "vllm", extra={})
    assert h20 is curve("gemm", "h100-sxm", "bf16", "vllm")
    assert curve_for(catalogue.accelerator("b200"), "gemm", "bf16", extra={}) is curve("gemm", "b200", "bf16")
    assert curve_for(catalogue.accelerator("mi300x"), "gemm", "bf16", extra={}) is None


# --- files --------------------------------------------------------------------------------------------------


def test_a_file_read_and_written_again_is_the_same(tmp_path: Path) -> None:
    noted = replace(ORIGIN, note="two streams, µs")
    wanted = {"gemm/x/bf16": a_curve(rows=7, error_median_frac=0.0312, error_p90_frac=0.1, provenance=noted)}
    write_curves(tmp_path / "a.json", wanted, ORIGIN)
    found = read_curves(tmp_path / "a.json")
    write_curves(tmp_path / "b.json", found, ORIGIN)
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    read = found["gemm/x/bf16"]
    assert (read.rows, read.fixed_s, read.error_median_frac, read.provenance) == (7, 2e-6, 0.0312, noted)
    np.testing.assert_array_equal(read.table, a_curve().table)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "b.json"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"axes": []}, "axes: expected a list of names"),
        ({"grid": [[1, 4]]}, "grid: expected one list for each of n, m"),
        ({"grid": [[4, 1], [1, 100]]}, "grid, n: expected numbers that rise"),
        ({"grid": [[0, 1], [1, 100]]}, "grid, n: expected finite numbers above zero"),
        ({"efficiency": [[0.1, 0.4]]}, "efficiency: expected 2 rows of 2 entries"),
        ({"efficiency": [[0.1, 0.4], [0.2]]}, "efficiency: expected finite numbers above zero, in rows of one length"),
        ({"efficiency": [[0.1, 0.4], [0.2, "x"]]}, "efficiency: expected finite numbers above zero"),
        ({"fixed_s": -1}, "fixed_s: expected a number, zero or above, got -1"),
        ({"rows": True}, "rows: expected a number"),
        ({"efficency": 1}, "unknown key 'efficency'"),
    ],
)
def test_a_curve_whose_parts_do_not_fit_is_refused_by_name(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    path = a_file(tmp_path / "own.json", {"curves": {"gemm/x/bf16": ENTRY | changes}})
    with pytest.raises(InputError) as caught:
        read_curves(path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{path}: curves, gemm/x/bf16: ")


@pytest.mark.parametrize(
    ("name", "axes", "message"),
    [
        ("gem/x/bf16", ["n", "m"], "no curves of 'gem' are asked for (did you mean 'gemm'?)"),
        ("gemm/x/bf16", ["n", "m"], "expected the axes n, k, m, got n, m"),
        ("attention/x/prefill", ["n", "m"], "expected the axes head_dim, got n, m"),
        ("collectives/x/all_reduce", ["bytes", "gpus"], ""),
    ],
)
def test_a_users_curve_is_one_that_is_asked_for(tmp_path: Path, name: str, axes: list[str], message: str) -> None:
    path = a_file(tmp_path / "own.json", {"curves": {name: ENTRY | {"axes": axes}}})
    if not message:
        assert read_own_curves(path)[name].axes == tuple(axes)
        return
    with pytest.raises(InputError) as caught:
        read_own_curves(path)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{\n 1}", "line 2: not JSON"),
        ("[]", "expected an object with `source`, `as_of` and `curves`"),
        ({"curves": {"gemm/x/bf16": 3}}, "gemm/x/bf16: expected an object"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(InputError, match=message.replace("[", r"\[")):
        read_curves(a_file(tmp_path / "own.json", content))


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_curves(tmp_path / "none.json")
    (tmp_path / "latin.json").write_bytes(b'"\xe9"')
    with pytest.raises(InputError, match="not UTF-8"):
        read_curves(tmp_path / "latin.json")


# --- what we ship -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_curves_are_small_known_and_say_where_they_are_from(path: Path) -> None:
    known = {accelerator.name for accelerator in load().accelerators}
    assert path.stat().st_size < 300_000
    for name, found in read_curves(path).items():
        operator, accelerator = name.split("/")[:2]
        assert operator == path.stem
        assert accelerator in known
        assert "aiconfigurator-core 0.12.0" in found.provenance.source
        assert found.provenance.as_of == "2026-11-21"
        assert found.rows > 0


@pytest.mark.parametrize("operator", ["gemm", "collectives"])
def test_shipped_curves_state_what_they_are_off_by_on_shapes_left_out(operator: str) -> None:
    found = read_curves(next(path for path in SHIPPED if path.stem == operator)).values()
    assert np.median([one.error_median_frac for one in found]) < 0.10
    assert np.median([one.error_p90_frac for one in found]) < 0.30
    assert all(0 < one.error_median_frac < one.error_p90_frac for one in found)


@pytest.mark.parametrize("operator", ["gemm", "collectives"])
def test_shipped_bytes_are_those_the_writer_writes(operator: str, tmp_path: Path) -> None:
    path = next(path for path in SHIPPED if path.stem == operator)
    found = read_curves(path)
    origin = replace(next(iter(found.values())).provenance, note="")
    write_curves(tmp_path / path.name, found, origin)
    assert (tmp_path / path.name).read_bytes() == path.read_bytes()


# --- matrices -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accelerator", "rows", "n", "k", "timed_s"),
    [  # of nn.functional.linear in bf16, the middle of three engines' tables
        ("h100-sxm", 4096, 8192, 8192, 683e-6),
        ("h100-sxm", 16, 8192, 8192, 49.8e-6),
        ("l40s", 64, 4096, 4096, 50.2e-6),
        ("b200", 16384, 16384, 8192, 3184e-6),
    ],
)
def test_a_matrix_takes_what_it_was_timed_at(accelerator: str, rows: int, n: int, k: int, timed_s: float) -> None:
    found = matrix_time(*on(accelerator), Matmul(name="w", count=3, k=k, n=n, dtype="bf16"), rows)
    assert found.time_s == pytest.approx(timed_s, rel=0.12)


def test_the_roofline_of_a_matrix_is_that_of_the_datasheet() -> None:
    accelerator = load().accelerator("h100-sxm")
    compute_s, memory_s = matrix_roofline_s(accelerator, "fp8", n=1000, k=2000, rows=10)
    assert compute_s == pytest.approx(2 * 10 * 1000 * 2000 / 1979e12)
    assert memory_s == pytest.approx((1000 * 2000 + 2 * 10 * 3000) / 3.35e12)


def test_without_a_curve_a_matrix_reaches_a_share_of_both_peaks() -> None:
    accelerator, engine, constants = on("mi300x")
    found = matrix_time(accelerator, engine, constants, Matmul(name="w", count=1, k=8192, n=8192, dtype="bf16"), 65)
    compute_s, _ = matrix_roofline_s(accelerator, "bf16", 8192, 8192, 128)  # two tiles of 64
    _, memory_s = matrix_roofline_s(accelerator, "bf16", 8192, 8192, 65)
    assert found.compute_s == pytest.approx(compute_s / constants.gemm_compute_frac["bf16"])
    assert found.memory_s == pytest.approx(memory_s / constants.gemm_memory_frac["bf16"])
    assert found.time_s == pytest.approx(constants.gemm_fixed_s + (found.compute_s**4 + found.memory_s**4) ** 0.25)


def test_a_users_own_curve_decides() -> None:
    matrix = Matmul(name="w", count=1, k=8192, n=8192, dtype="bf16")
    flat = a_curve(axes=("n", "k", "m"), grid=(np.ones(1),) * 3, table=np.full((1, 1, 1), 0.5), fixed_s=0.0)
    accelerator, engine, constants = on("h100-sxm", **{"gemm/h100-sxm/bf16": flat})
    found = matrix_time(accelerator, engine, constants, matrix, 32.0)
    assert found.time_s == pytest.approx(2 * max(matrix_roofline_s(accelerator, "bf16", 8192, 8192, 32)), rel=0.02)


# --- collectives --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accelerator", "engine", "gpus", "message_bytes", "timed_s"),
    [  # the engines' own all-reduces in a CUDA graph
        ("h100-sxm", "vllm", 8, 2**17, 7.86e-6),
        ("b200", "tensorrt-llm", 4, 2**20, 9.66e-6),
        ("h100-sxm", "sglang", 2, 2**28, 886.6e-6),
    ],
)
def test_an_all_reduce_takes_what_it_was_timed_at(
    accelerator: str, engine: str, gpus: int, message_bytes: int, timed_s: float
) -> None:
    found = transfer(*on(accelerator, engine), "all_reduce", gpus, 2 * (gpus - 1) / gpus * message_bytes)
    assert found.fixed_s + found.communication_s == pytest.approx(timed_s, rel=0.12)


def test_groups_larger_than_measured_take_constants() -> None:
    accelerator, engine, constants = on("h100-sxm")
    found = transfer(accelerator, engine, constants, "all_reduce", 16, 1e6)
    assert found.fixed_s == constants.scale_out_fixed_s
    assert found.communication_s == pytest.approx(1e6 / (accelerator.scale_out_bytes_per_s * constants.scale_out_frac))
    near = transfer(accelerator, engine, constants, "send", 8, 1e6)
    assert near.fixed_s == constants.scale_up_fixed_s
    assert near.communication_s == pytest.approx(1e6 / (450e9 * constants.scale_up_frac))


def test_a_group_talks_over_the_link_it_has() -> None:
    catalogue = load()
    h100, l40s = catalogue.accelerator("h100-sxm"), catalogue.accelerator("l40s")
    assert link_bytes_per_s(h100, 8) == h100.scale_up_bytes_per_s
    assert link_bytes_per_s(h100, 9) == h100.scale_out_bytes_per_s
    assert link_bytes_per_s(l40s, 8) == l40s.scale_up_bytes_per_s  # PCIe within the node
    assert link_bytes_per_s(l40s, 16) == l40s.scale_out_bytes_per_s


def test_a_token_reaches_the_distinct_remote_ranks_of_its_experts() -> None:
    assert ranks_reached(2, 1) == pytest.approx(0.5)
    assert ranks_reached(2, 2) == pytest.approx(0.75)
    assert ranks_reached(8, 1000) == pytest.approx(7)
