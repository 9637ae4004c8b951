"""Calibration and error bands: how they are inherited, and that the model stays within the error it states."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from headway.errors import EvidenceError
from headway.perf import band, calibration
from headway.perf.constants import _layers
from headway.types import Accelerator

H100 = Accelerator(
    name="h100-sxm",
    title="H100",
    vendor="nvidia",
    hbm_bytes=80 * 2.0**30,
    hbm_bytes_per_s=3.35e12,
    peak_flops_per_s={"bf16": 989e12, "fp8": 1979e12, "int8": 1979e12},
    scale_up_gpus=8,
    scale_up_bytes_per_s=450e9,
    scale_out_bytes_per_s=50e9,
    gpus_per_node=8,
    board_power_w=700.0,
)


def test_constants_are_inherited_from_the_general_to_the_particular() -> None:
    unknown = replace(H100, name="x", vendor="nobody")
    assert calibration(unknown, "nothing").layer_fixed_s == pytest.approx(15e-6)
    assert calibration(unknown, "vllm").layer_fixed_s == pytest.approx(15e-6)
    assert calibration(replace(unknown, vendor="amd"), "vllm").gemm_compute_frac["bf16"] == 0.51
    mi325x = calibration(replace(unknown, vendor="amd", name="mi325x"), "vllm").gemm_compute_frac
    assert (mi325x["bf16"], mi325x["fp8"]) == (0.60, 0.38)


def test_every_constant_says_where_it_is_from() -> None:
    found = calibration(H100, "vllm")
    for name, provenance in found.provenance.items():
        assert provenance.source, name
        assert provenance.as_of[:2] == "20", name
    assert set(found.provenance) == {name for layer in _layers() for name in layer.values}


def test_bands_hold_zero_and_widen_for_models_with_experts() -> None:
    for metric in ("ttft", "tpot", "itl", "e2e", "output_tokens_per_s"):
        for accelerator in (H100, replace(H100, vendor="amd"), replace(H100, vendor="google")):
            dense, routed = (band(metric, accelerator, "vllm", experts=experts) for experts in (False, True))
            assert routed.low_frac <= dense.low_frac <= 0 <= dense.high_frac <= routed.high_frac
            assert dense.source
            assert dense.confidence_frac == 0.9


def test_an_unknown_metric_has_no_band() -> None:
    with pytest.raises(EvidenceError, match="did you mean 'tpot'"):
        band("tpott", H100, "vllm")


@pytest.fixture(name="shared")
def _shared() -> Path:
    found = Path(__file__).parents[2].parent / "shared"
    if not (found / "measurements").is_dir():
        pytest.skip("needs ../shared/measurements")
    return found


def test_dense_step_times_stay_within_their_published_error(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "tools"))
    import check_step_time as tool

    rows = tool.read_rows(
        *(shared / p for p in ("measurements/measurements.csv", "catalog/models.csv", "catalog/hardware.csv"))
    )
    dense = [row for row in rows if not row.pool.model.is_moe and row.pool.accelerator.vendor == "nvidia"]
    errors = np.array([predicted / measured - 1 for _, predicted, measured in tool.residuals(dense)["tpot"]])
    assert len(errors) >= 500
    assert np.median(np.abs(errors)) < 0.09
    assert np.quantile(np.abs(errors), 0.9) < 0.20
    allowed = band("tpot", H100, "vllm")
    inside = (1 / (1 + errors) - 1 >= allowed.low_frac) & (1 / (1 + errors) - 1 <= allowed.high_frac)
    assert inside.mean() >= 0.9
