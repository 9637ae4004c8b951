"""Reading tables: base units, what is put aside, what is refused."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from headway.errors import InputError
from headway.validation.measurements import FOLDS, REFUSED, Tokens, fold_of, source_family
from headway.validation.reader import read_table

HEADER = "model,hardware,engine,tp,isl,osl,concurrency,tpot_ms_p50"


def table(tmp_path: Path, *lines: str, header: str = HEADER) -> Path:
    path = tmp_path / "mine.csv"
    path.write_text("\n".join((header, *lines)) + "\n", encoding="utf-8")
    return path


def test_a_handful_of_columns_is_enough(tmp_path: Path) -> None:
    found = read_table(table(tmp_path, "llama-3.1-8b,H100-SXM,vLLM,1,1000,200,8,7.5"))
    (row,) = found.measurements
    assert (row.row, row.line, row.mode) == ("line 2", 2, "concurrency")
    assert row.measured == {"tpot_s": {"p50": pytest.approx(0.0075)}}
    assert row.isl_tokens == Tokens(low=1000, high=1000)
    assert (row.tp, row.dp, row.concurrency, row.request_rate_per_s) == (1, None, 8, None)
    assert found.findings == ()


@pytest.mark.parametrize(
    ("columns", "values", "mode"),
    [("request_rate", "4", "rate"), ("concurrency", "4", "concurrency"), ("gpus", "4", "offline")],
)
def test_the_mode_follows_from_what_is_given(tmp_path: Path, columns: str, values: str, mode: str) -> None:
    path = table(tmp_path, f"m,h,e,3,{values}", header=f"model,hardware,engine,ttft_ms_mean,{columns}")
    assert read_table(path).measurements[0].mode == mode


def test_keys_others_join_by_go_before_names(tmp_path: Path) -> None:
    path = table(tmp_path, "Llama 3.1 8B,llama-3.1-8b,h,e,1", header="model,model_key,hardware,engine,req_s")
    assert read_table(path).measurements[0].model == "llama-3.1-8b"


def test_ranges_words_and_ladders(tmp_path: Path) -> None:
    header = "model,hardware,engine,isl,osl,request_rate,req_s"
    path = table(tmp_path, "m,h,e,8-512 uniform,LMSYS real,1-5 ladder,2", header=header)
    (row,) = read_table(path).measurements
    assert row.isl_tokens == Tokens(low=8, high=512)
    assert row.isl_tokens.mean == 260
    assert row.osl_tokens is None
    assert row.request_rate_per_s == 3


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("m,h,e,1,10,10,4,", "missing_field"),  # nothing measured
        (",h,e,1,10,10,4,5", "missing_field"),  # no model
        ("m,h,e,one,10,10,4,5", "not_a_number"),
        ("m,h,e,1.5,10,10,4,5", "not_a_number"),
        ("m,h,e,1,10,10,4,-5", "not_a_number"),
        ("m,h,e,1,10,10,4,inf", "not_a_number"),
    ],
)
def test_a_row_nobody_understands_is_put_aside_and_counted(tmp_path: Path, line: str, code: str) -> None:
    found = read_table(table(tmp_path, line, "m,h,e,1,10,10,4,5"))
    assert (found.rows, len(found.measurements)) == (2, 1)
    assert found.counts() == {code: 1}
    assert code in REFUSED
    assert found.findings[0].line == 2


def test_an_unknown_mode_offers_the_nearest(tmp_path: Path) -> None:
    found = read_table(table(tmp_path, "m,h,e,ofline,5", header="model,hardware,engine,mode,req_s"))
    assert found.counts() == {"unknown_mode": 1}
    assert "did you mean 'offline'?" in found.findings[0].reason


def test_a_column_nobody_reads_is_said(tmp_path: Path) -> None:
    found = read_table(table(tmp_path, "m,h,e,5,x", header="model,hardware,engine,tpot_ms_p50,tpot_mean"))
    assert found.counts() == {"unknown_column": 1}
    assert "did you mean 'tpot_ms_mean'?" in found.findings[0].reason


@pytest.mark.parametrize(
    ("header", "lines", "problem"),
    [
        ("modle,hardware,engine,req_s", ("m,h,e,1",), "the column 'model' is missing .did you mean 'modle'?"),
        ("model,hardware,engine,tp", ("m,h,e,1",), "no column says what was measured"),
        ("model,model,engine,req_s", ("m,h,e,1",), "the column 'model' stands twice"),
        (HEADER, (), "the table has no rows"),
        (HEADER, ("m,h,e",), r"line 2: expected 8 fields, got 3"),
        (HEADER, ('m,"h,e,1',), "not valid CSV"),
    ],
)
def test_only_a_table_that_cannot_be_read_is_refused(
    tmp_path: Path, header: str, lines: tuple[str, ...], problem: str
) -> None:
    with pytest.raises(InputError, match=problem) as error:
        read_table(table(tmp_path, *lines, header=header))
    assert "mine.csv" in str(error.value)


def test_a_missing_file_an_empty_one_and_one_of_other_bytes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_table(tmp_path / "none.csv")
    (tmp_path / "empty.csv").touch()
    with pytest.raises(InputError, match="the file is empty"):
        read_table(tmp_path / "empty.csv")
    (tmp_path / "latin.csv").write_bytes("modèle".encode("latin-1"))
    with pytest.raises(InputError, match="not UTF-8"):
        read_table(tmp_path / "latin.csv")
    (tmp_path / "text.parquet").write_text("no", encoding="utf-8")
    with pytest.raises(InputError, match="not a readable Parquet file"):
        read_table(tmp_path / "text.parquet")


def test_parquet_says_the_same_as_csv(tmp_path: Path) -> None:
    path = table(tmp_path, "m,h,vLLM,2,1000,200,8,7.5", "m,h,vLLM,,1000,200,16,9")
    pl.read_csv(path).write_parquet(tmp_path / "mine.parquet")
    assert read_table(tmp_path / "mine.parquet").measurements == read_table(path).measurements


@pytest.mark.parametrize(
    ("source", "family"),
    [
        ("gpustack/gpustack:docs/performance-lab/deepseek-r1/h200.md@47277d79:L112", "gpustack/gpustack"),
        ("tenstorrent/tt-inference-server#356", "tenstorrent/tt-inference-server"),
        (
            "aiconfigurator_core==0.12.0 systems/silicon_sample.csv id=x_1",
            "aiconfigurator_core systems/silicon_sample.csv",
        ),
        ("mlcommons/inference_results_v5.1:closed/AMD/results/a/b.txt", "mlcommons/inference_results_v5.1"),
        ("https://github.com/sgl-project/sglang/issues/1", "sgl-project/sglang"),
        ("https://blog.example.org/2026/fast?x=1", "blog.example.org"),
        ("our own machines (rack 4)", "our"),
        ("", ""),
    ],
)
def test_a_family_is_the_publication_whatever_the_place_in_it(source: str, family: str) -> None:
    assert source_family(source) == family


def test_folds_are_the_same_on_every_machine() -> None:
    groups = [(f"source {i}", "H100-SXM", "vLLM", "0.11.0") for i in range(1000)]
    assert [fold_of(group) for group in groups[:6]] == [fold_of(list(group)) for group in groups[:6]]  # type: ignore[arg-type]
    assert fold_of(("gpustack/gpustack", "H100-SXM", "vLLM", "v0.11.0")) == GPUSTACK_FOLD
    counts = [sum(fold_of(group) == fold for group in groups) for fold in range(FOLDS)]
    assert min(counts) > 150


GPUSTACK_FOLD = 3
