"""Calibration: how constants are inherited."""

from __future__ import annotations

from dataclasses import replace

import pytest

from headway.perf import calibration
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
