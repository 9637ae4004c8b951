"""Routed experts: curves against the kernels they were reduced from, and whose curves stand in for whose."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import headway.perf.curves
from headway.catalog import catalog
from headway.perf import calibration
from headway.perf.curves import Curve, read_curves
from headway.perf.experts import expert_curve, expert_time
from headway.perf.shapes import Experts
from headway.types import Provenance

FILE = Path(headway.perf.curves.__file__).parent / "data" / "curves" / "experts.json"

#: (hidden, width, experts, per token) as config.json has them.
DEEPSEEK_V3 = (7168, 2048, 256, 8)
GPT_OSS_120B = (2880, 2880, 128, 4)
QWEN3_235B = (4096, 1536, 128, 8)


def held(shape: tuple[int, int, int, int], dtype: str, *, tp: int = 1, ep: int = 1) -> Experts:
    """Return one layer's experts on one GPU."""
    hidden, width, total, per_token = shape
    return Experts(
        count=1,
        local=total / ep,
        total=total,
        per_token=per_token,
        width=width / tp,
        params_each=3 * hidden * width / tp,
        dtype=dtype,
    )


@pytest.mark.parametrize(
    ("name", "engine", "shape", "dtype", "spread", "tokens", "measured_us"),
    [
        ("h200-sxm", "vllm", DEEPSEEK_V3, "fp8_block", {"tp": 8}, 8, 112.5),
        ("h200-sxm", "vllm", DEEPSEEK_V3, "fp8_block", {"tp": 8}, 64, 304.9),
        ("h200-sxm", "vllm", DEEPSEEK_V3, "fp8_block", {"tp": 8}, 1024, 611.3),
        ("h200-sxm", "vllm", DEEPSEEK_V3, "fp8_block", {"tp": 8}, 16384, 4782.9),
        ("h200-sxm", "vllm", DEEPSEEK_V3, "fp8_block", {"ep": 8}, 64, 340.9),
        ("h200-sxm", "vllm", DEEPSEEK_V3, "fp8_block", {"ep": 8}, 4096, 1770.3),
        ("h200-sxm", "tensorrt-llm", DEEPSEEK_V3, "fp8_block", {"tp": 8}, 64, 408.6),
        ("h200-sxm", "vllm", QWEN3_235B, "bf16", {"tp": 4}, 64, 293.1),
        ("h200-sxm", "vllm", QWEN3_235B, "bf16", {"tp": 4}, 4096, 949.0),
        ("b200", "tensorrt-llm", DEEPSEEK_V3, "nvfp4", {"tp": 8}, 64, 109.6),
        ("b200", "tensorrt-llm", DEEPSEEK_V3, "nvfp4", {"tp": 8}, 4096, 314.6),
        ("b200", "vllm", GPT_OSS_120B, "mxfp4", {}, 64, 207.4),
        ("b200", "vllm", GPT_OSS_120B, "mxfp4", {}, 16384, 1783.5),
        ("h200-sxm", "vllm", GPT_OSS_120B, "mxfp4", {"tp": 4}, 64, 157.5),
    ],
)
def test_kernels_as_they_were_timed(
    name: str,
    engine: str,
    shape: tuple[int, int, int, int],
    dtype: str,
    spread: dict[str, int],
    tokens: int,
    measured_us: float,
) -> None:
    """Measured: aiconfigurator-core 0.12.0, routing power_law_1.01, vLLM 0.24.0 and TensorRT-LLM 1.3.0rc20."""
    on = catalog.load().accelerator(name)
    timed = expert_time(on, engine, calibration(on, engine), held(shape, dtype, **spread), shape[0], tokens)
    assert timed.time_s * 1e6 == pytest.approx(measured_us, rel=0.35)


def test_the_data_state_their_error_and_are_for_accelerators_of_the_catalogue() -> None:
    curves = read_curves(FILE)
    medians = [found.error_median_frac for found in curves.values()]
    assert 0 < min(medians) < np.median(medians) < 0.12
    assert max(medians) < 0.3
    for name, found in curves.items():
        catalog.load().accelerator(name.split("/")[1])
        assert found.error_median_frac < found.error_p90_frac, name
        assert found.rows > 200, name
    assert FILE.stat().st_size < 300_000


@pytest.mark.parametrize(
    ("name", "engine", "dtype", "stands_in"),
    [
        ("h100-sxm", "vllm", "fp8_block", "h100-sxm/fp8_block/vllm"),  # its own
        ("b200", "tgi", "nvfp4", "b200/nvfp4"),  # one for all engines
        ("h100-sxm", "tgi", "bf16", "h100-sxm/bf16/vllm"),  # an engine nobody timed
        ("h100-sxm", "vllm", "fp8", "h100-sxm/fp8/tensorrt-llm"),  # a format timed in another engine
        ("h100-sxm", "vllm", "int8", "h100-sxm/fp8/tensorrt-llm"),  # a format nobody timed
        ("h200-nvl", "sglang", "bf16", "h100-sxm/bf16/sglang"),  # a card of an architecture that was timed
        ("l4", "vllm", "fp8_block", "l40s/fp8_block/vllm"),
        ("a100-80-sxm", "vllm", "fp8", "a100-80-sxm/bf16/vllm"),  # a format only read, computed in bf16
    ],
)
def test_whose_curve_stands_in(name: str, engine: str, dtype: str, stands_in: str) -> None:
    on = catalog.load().accelerator(name)
    found = expert_curve(on, engine, dtype, calibration(on, engine))
    assert found is not None
    expected = read_curves(FILE)[f"experts/{stands_in}"]
    assert np.array_equal(found.table, expected.table)


def test_an_architecture_nobody_timed_takes_the_constants() -> None:
    on = catalog.load().accelerator("mi300x")
    constants = calibration(on, "vllm")
    assert expert_curve(on, "vllm", "bf16", constants) is None
    timed = expert_time(on, "vllm", constants, held(QWEN3_235B, "bf16"), 4096, 64)
    assert timed.fixed_s == constants.expert_fixed_s
    slower = replace(constants, expert_memory_frac=constants.expert_memory_frac / 2)
    assert expert_time(on, "vllm", slower, held(QWEN3_235B, "bf16"), 4096, 64).time_s > 1.5 * timed.time_s


def test_a_users_curve_stands_before_ours() -> None:
    on = catalog.load().accelerator("h100-sxm")
    own = Curve(
        axes=("rows",),
        grid=(np.array([1.0, 2.0]),),
        table=np.array([0.5, 0.5]),
        fixed_s=1e-6,
        provenance=Provenance(source="mine", as_of="2026-11-21"),
    )
    constants = replace(calibration(on, "vllm"), curves={"experts/h100-sxm": own})
    assert expert_curve(on, "vllm", "bf16", constants) is own
    layer = held(QWEN3_235B, "bf16")
    timed = expert_time(on, "vllm", constants, layer, 4096, 256)
    weights_s = 2 * layer.params_each * layer.total / on.hbm_bytes_per_s
    assert timed.time_s == pytest.approx(1e-6 + 2 * weights_s, rel=0.02)


@pytest.fixture(name="reduction")
def _reduction(monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    from tools.derive_curves import experts

    return experts


def write_table(root: Path, version: str, kernel: str, latency_ms: float) -> None:
    """Write kernels that take as long whatever the shape, as the published tables have them."""
    tokens, shapes = [1, 16, 256, 4096], [(2048, 768, 128, 8), (4096, 1536, 128, 8), (7168, 2048, 256, 8)]
    configurations = [(*shape, tp, 1, m) for shape in shapes for tp in (1, 2, 4, 8) for m in tokens]
    names = ("hidden_size", "inter_size", "num_experts", "topk", "moe_tp_size", "moe_ep_size", "num_tokens")
    table = pl.DataFrame(configurations, schema=names, orient="row").with_columns(
        moe_dtype=pl.lit("fp8"),
        distribution=pl.lit("power_law_1.01"),
        kernel_source=pl.lit(kernel),
        latency=pl.lit(latency_ms),
    )
    folder = root / "systems" / "data" / "h100_sxm" / "moe" / "vllm" / version
    folder.mkdir(parents=True)
    table.write_parquet(folder / "moe_perf.parquet")


def test_the_fastest_kernel_of_the_newest_version_is_reduced(reduction: object, tmp_path: Path) -> None:
    write_table(tmp_path, "0.9.1", "triton", 1.0)  # older, although "9" sorts after "24" as text
    write_table(tmp_path, "0.24.0", "triton", 2.0)
    found = reduction.curves(tmp_path)["experts"]  # type: ignore[attr-defined]
    assert list(found) == ["experts/h100-sxm/fp8/vllm"]
    curve = found["experts/h100-sxm/fp8/vllm"]
    assert curve.rows == 48
    assert curve.fixed_s == pytest.approx(0.9 * 2e-3)


def test_kernels_left_out_do_not_stand_for_others(reduction: object, tmp_path: Path) -> None:
    write_table(tmp_path, "0.24.0", "flashinfer_cutlass", 2.0)
    assert reduction.curves(tmp_path) == {"experts": {}}  # type: ignore[attr-defined]
