"""Curves made of the points of an installed package's tables; a small package with known times stands in for it."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import headway
from headway.api.pools import Choice
from headway.catalog import load
from headway.cli import main
from headway.errors import InputError
from headway.perf import own_curves, perfdb
from headway.perf.gemm import matrix_roofline_s
from headway.perf.links import link_bytes_per_s

H200 = load().accelerator("h200-sxm")
LLAMA = "meta-llama/Llama-3.1-8B-Instruct"
SIDES, ROWS = (32, 8192, 32768), (1, 64, 1024, 8192)
LAUNCH_S = 2e-6


def truth_s(n: float, k: float, m: float) -> float:
    return LAUNCH_S + float(max(matrix_roofline_s(H200, "bf16", n, k, m))) / 0.75


def gemm_rows(*, factor: float = 1.0, missing: tuple[int, int, int] | None = None) -> pl.DataFrame:
    shapes = [shape for shape in itertools.product(SIDES, SIDES, ROWS) if shape != missing]
    rows = [{"n": n, "k": k, "m": m, "latency": factor * 1e3 * truth_s(n, k, m)} for n, k, m in shapes]
    other = {"gemm_dtype": "fp8", "n": 8192, "k": 8192, "m": 1, "latency": 1.0}
    odd = {"gemm_dtype": "bfloat16", "n": 1500, "k": 8192, "m": 1, "latency": 1.0}
    return pl.DataFrame([*({"gemm_dtype": "bfloat16"} | row for row in rows), other, odd])


def reduce_rows() -> pl.DataFrame:
    link = link_bytes_per_s(H200, 2)
    rows = []
    for gpus, elements in itertools.product((2, 8), (2**10, 2**16, 2**24)):
        sent = 2 * (gpus - 1) / gpus * 2 * elements
        rows.append({"num_gpus": gpus, "message_size": elements, "latency": 1e3 * sent / link / 0.4})
    graph = [row | {"kernel_source": "vLLM_custom_graph"} for row in rows]
    return pl.DataFrame([*graph, *(row | {"kernel_source": "vLLM_custom_eager", "latency": 9.0} for row in rows)])


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of that name, version 0.13.0, on the path; a forgotten answer."""
    site = tmp_path / "site"
    data = site / "aiconfigurator_core" / "systems" / "data"
    (data / "h200_sxm").mkdir(parents=True)
    (site / "aiconfigurator_core" / "__init__.py").write_text("raise ImportError('never imported')")
    (site / "aiconfigurator_core-0.13.0.dist-info").mkdir()
    metadata = "Metadata-Version: 2.1\nName: aiconfigurator-core\nVersion: 0.13.0\n"
    (site / "aiconfigurator_core-0.13.0.dist-info" / "METADATA").write_text(metadata)
    monkeypatch.syspath_prepend(site)
    monkeypatch.setattr(perfdb, "_answers", {})
    return data


def write(data: Path, folder: str, name: str, table: pl.DataFrame) -> None:
    (data / "h200_sxm" / folder).mkdir(parents=True, exist_ok=True)
    table.write_parquet(data / "h200_sxm" / folder / f"{name}.parquet")


def test_the_points_of_the_newest_version_come_back(installed: Path) -> None:
    write(installed, "gemm/vllm/0.9.0", "gemm_perf", gemm_rows(factor=7.0))
    write(installed, "gemm/vllm/0.10.0", "gemm_perf", gemm_rows())
    write(installed, "comm/vllm/0.10.0", "custom_allreduce_perf", reduce_rows())
    curves = own_curves("perfdb", H200)
    assert sorted(curves) == ["collectives/h200-sxm/all_reduce/vllm", "gemm/h200-sxm/bf16/vllm"]
    gemm = curves["gemm/h200-sxm/bf16/vllm"]
    assert gemm.provenance.source == "aiconfigurator-core 0.13.0, gemm_perf of vllm 0.10.0"
    assert [list(axis) for axis in gemm.grid] == [list(SIDES), list(SIDES), list(ROWS)], (
        "a column of one row is left out"
    )
    for n, k, m in itertools.product(SIDES, SIDES, ROWS):
        roofline_s = max(matrix_roofline_s(H200, "bf16", n, k, m))
        assert float(gemm.time_s(roofline_s, n=n, k=k, m=m)) == pytest.approx(truth_s(n, k, m), rel=1e-3)
    reduced = curves["collectives/h200-sxm/all_reduce/vllm"]
    assert list(reduced.grid[0]) == [2, 8]
    assert reduced.table == pytest.approx(0.4), "the eager rows are left out"


def test_weights_a_cache_served_count_as_streamed(installed: Path) -> None:
    table = gemm_rows()
    cached = (pl.col("n") == 8192) & (pl.col("k") == 8192) & (pl.col("m") == 1)
    table = table.with_columns(
        pl.when(cached).then(pl.col("latency") / 3).otherwise(pl.col("latency")).alias("latency")
    )
    write(installed, "gemm/sglang/1.0", "gemm_perf", table)
    gemm = own_curves("perfdb", H200)["gemm/h200-sxm/bf16/sglang"]
    roofline_s = max(matrix_roofline_s(H200, "bf16", 8192, 8192, 1))
    assert float(gemm.time_s(roofline_s, n=8192, k=8192, m=1)) == pytest.approx(truth_s(8192, 8192, 1), rel=1e-3)


def test_a_point_the_table_lacks_is_as_its_neighbour(installed: Path) -> None:
    write(installed, "gemm/vllm/1.0", "gemm_perf", gemm_rows(missing=(8192, 8192, 64)))
    gemm = own_curves("perfdb", H200)["gemm/h200-sxm/bf16/vllm"]
    assert np.isfinite(gemm.table).all()
    assert gemm.table[1, 1, 1] in (gemm.table[0, 1, 1], gemm.table[1, 0, 1], gemm.table[2, 1, 1], gemm.table[1, 2, 1])


def test_an_estimate_says_which_figures_are_the_packages(installed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(installed, "gemm/vllm/1.0", "gemm_perf", gemm_rows())
    write(installed, "gemm/sglang/1.0", "gemm_perf", gemm_rows(factor=5.0))
    found = headway.estimate(None, Choice(model=LLAMA, accelerator="h200", curves="perfdb"), decodes=1)
    provenance = found.calibration.provenance
    assert provenance["gemm/h200-sxm/bf16/vllm"].source == "aiconfigurator-core 0.13.0, gemm_perf of vllm 1.0"
    assert "gemm/h200-sxm/bf16/sglang" not in provenance, "another engine's"
    assert provenance["attention curves"].source == "headway's own: perfdb has none of h200-sxm"
    up = next(op for op in found.step.operators if op.name == "mlp_up")
    model = found.pool.model
    n, k = 2 * model.intermediate_size, model.hidden_size
    curve = found.calibration.curves["gemm/h200-sxm/bf16/vllm"]
    each_s = float(curve.time_s(max(matrix_roofline_s(H200, "bf16", n, k, 1)), n=n, k=k, m=1))
    assert float(up.time_s) == pytest.approx(model.num_hidden_layers * each_s, rel=0.1), "never falling with rows"
    assert main(["estimate", "--model", LLAMA, "--accelerator", "h200", "--curves", "perfdb"]) == 0
    assert "aiconfigurator-core 0.13.0, gemm_perf of vllm 1.0" in capsys.readouterr().out


def test_a_missing_package_or_table_is_said(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(installed, "gemm/vllm/1.0", "gemm_perf", gemm_rows())
    with pytest.raises(InputError, match=r"0\.13\.0 has no tables of h100-sxm \(it has h200-sxm\)"):
        own_curves("perfdb", load().accelerator("h100-sxm"))
    with pytest.raises(InputError, match=r"has no tables of mi300x"):
        own_curves("perfdb", load().accelerator("mi300x"))
    monkeypatch.setattr(perfdb, "MODULE", "aiconfigurator_core_of_nobody")
    with pytest.raises(
        InputError, match=r"curves: aiconfigurator-core is not installed \(pip install 'headway\[perfdb\]'\)"
    ):
        perfdb.tables()


def test_a_package_without_tables_is_said(installed: Path) -> None:
    (installed / "h200_sxm").rmdir()
    installed.rmdir()
    with pytest.raises(InputError, match=r"aiconfigurator-core 0\.13\.0 holds no tables"):
        own_curves("perfdb", H200)


def test_versions_compare_by_number() -> None:
    versions = ["1.10.0", "0.9.1", "1.2.0", "1.3.0rc20", "1.3.0", "1.3.0rc3", "0.5.6.post2", "0.5.6"]
    ordered = sorted((Path(version) / "x.parquet" for version in versions), key=perfdb._version)
    found = [path.parent.name for path in ordered]
    assert found == ["0.5.6", "0.5.6.post2", "0.9.1", "1.2.0", "1.3.0rc3", "1.3.0rc20", "1.3.0", "1.10.0"]
