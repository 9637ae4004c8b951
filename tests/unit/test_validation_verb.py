"""`headway validate` from a table to a scorecard, on a few rows made up for it."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

import headway
from headway.api.validations import Validated, rows_csv
from headway.cli import main
from headway.cli.validate import headline, validated_page
from headway.errors import InputError
from headway.perf import bands, corrections
from headway.validation import replaying

CLOSED = {
    "mode": "concurrency",
    "isl": 1000,
    "osl": 200,
    "tp": 4,
    "gpus": 4,
    "engine": "vLLM",
    "engine_version": "0.11.0",
}
SMALL = {"model": "llama-3.1-8b", "isl": 500, "tp": 1}
PAIR = "prefill ? workers x (tp4,dp1,ep4); decode ? x (tp8,dp1,ep8)"
H100 = {"hardware": "H100-SXM", "source": "lab/one:a.csv"}
ROWS: dict[str, dict[str, object]] = {
    "A1": {**CLOSED, **H100, "model": "llama-3.1-70b", "weight_dtype": "fp8", "concurrency": 8}
    | {"ttft_ms_p50": 120, "ttft_ms_p99": 300, "tpot_ms_p50": 14.5},
    "A2": {**CLOSED, **H100, "model": "llama-3.1-70b", "weight_dtype": "fp8", "concurrency": 64}
    | {"ttft_ms_p50": 900, "ttft_ms_p99": 3000, "tpot_ms_p50": 22},
    "A3": {**CLOSED, **H100, **SMALL, "mode": "rate", "request_rate": 4, "gpus": 2, "weight_dtype": "bf16"}
    | {"output_tok_s_total": 780, "ttft_ms_p50": 40, "tpot_ms_mean": 7.5},
    "B1": {**SMALL, "hardware": "H200-SXM", "gpus": 1, "engine": "TensorRT-LLM", "engine_version": "1.0", "osl": 500}
    | {"mode": "offline", "weight_dtype": "fp8", "output_tok_s_total": 20000, "source": "lab/two:a.md"},
    "B2": {"model": "deepseek-r1", "hardware": "B200", "engine": "TensorRT-LLM", "engine_version": "1.1", "note": PAIR}
    | {"features": "disagg", "tp": 8, "ep": 8, "weight_dtype": "fp4", "mode": "concurrency", "concurrency": 32}
    | {"isl": 1024, "osl": 256, "ttft_ms_p50": 400, "tpot_ms_p50": 9, "source": "lab/two:b.md"},
}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("validation") / "measured.csv"
    columns = ["id", *dict.fromkeys(name for row in ROWS.values() for name in row)]
    with file.open("w", encoding="utf-8", newline="") as stream:
        out = csv.DictWriter(stream, columns)
        out.writeheader()
        out.writerows({"id": name, **row} for name, row in ROWS.items())
    return file


@pytest.fixture(scope="module")
def found(table: Path) -> Validated:
    return headway.validate(table, workers=1)


def test_every_row_is_predicted_and_scored(found: Validated) -> None:
    assert found.rows == found.replayed == len(found.scores) == 5
    assert not found.refusals
    first = next(iter(found.slices))
    assert first == "all"
    assert {name: one.n_rows for name, one in found.slices["all"].items()} == {
        "ttft_s": 4,
        "tpot_s": 4,
        "output_tokens_per_s": 2,
        "ttft_p99_s": 2,
    }
    assert all(one.coverage_frac == 1.0 for one in found.slices["all"].values())


def test_modes_are_replayed_as_what_they_were(found: Validated) -> None:
    by_row = {one.row: one for one in found.scores}
    assert by_row["A1"].axes["region"] == "low batch"
    assert by_row["A1"].predicted["ttft_s"]["p50"] < by_row["A2"].predicted["ttft_s"]["p50"]
    served = by_row["A3"].predicted["requests_per_s"]["mean"]
    assert served == pytest.approx(4.0, rel=0.1)  # a stream of 4 requests per second, over two replicas
    assert any("decode workers" in text for text in by_row["B2"].assumed)


def test_a_closed_loop_keeps_littles_law(found: Validated) -> None:
    for row, clients in (("A1", 8), ("A2", 64)):
        figures = next(one.predicted for one in found.scores if one.row == row)
        in_flight = figures["requests_per_s"]["mean"] * figures["e2e_s"]["mean"]
        assert in_flight == pytest.approx(clients, rel=0.15)  # the last answers drain


def test_the_result_is_the_same_whoever_works_and_how_often(table: Path, found: Validated) -> None:
    again = headway.validate(table, workers=2)
    assert headway.dumps("validate", again) == headway.dumps("validate", found)
    assert rows_csv(again) == rows_csv(found)


def test_a_row_by_itself_is_predicted_as_in_its_table(table: Path, found: Validated) -> None:
    alone = headway.validate(table, only=["row=A2"], workers=1)
    assert alone.rows == 1
    assert alone.scores[0] == found.scores[1]


def test_a_row_is_scored_with_constants_and_bands_that_left_its_group_out(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once a fit has seen a row's group, every constant and every band of that row is of the fit without its fold."""
    group = ("lab/one", "H100-SXM", "vLLM", "0.11.0")
    for module, left_out in ((corrections, 2), (bands, 3)):
        known = module.stored()
        seen = {**known, "groups": {**known["groups"], corrections.group_name(group): left_out}}
        monkeypatch.setattr(module, "stored", lambda seen=seen: seen)
    constants: list[int | None] = []
    edges: list[int | None] = []
    usual, usual_band = replaying.applied, replaying.band_named

    def recorded(pool, fold, nudge):  # noqa: ANN001, ANN202 - as `applied`
        constants.append(fold)
        return usual(pool, fold, nudge)

    def recorded_band(name, pool, *, fold, **more):  # noqa: ANN001, ANN003, ANN202 - as `band_named`
        edges.append(fold)
        return usual_band(name, pool, fold=fold, **more)

    monkeypatch.setattr(replaying, "applied", recorded)
    monkeypatch.setattr(replaying, "band_named", recorded_band)
    one = headway.validate(table, only=["row=A1"], workers=1)
    assert one.scores[0].fold == 2
    assert constants and set(constants) == {2}  # in the score and in the explanation
    assert edges and set(edges) == {3}
    constants.clear()
    other = headway.validate(table, only=["row=B1"], workers=1)  # of a group that no fit saw
    assert other.scores[0].fold is None
    assert set(constants) == {None}


ODD = {
    "lengths": {"isl": 1e300},
    "clients": {"concurrency": 10**9},
    "gpus": {"tp": 10**6, "gpus": 10**6},
    "ranks": {"dp": 10**5, "tp": 10**5},
    "drafts": {"features": "spec:mtp k=100000"},
    "negative": {"tp": -1},
    "words": {"mode": "weird"},
}


def test_a_row_that_cannot_be_costs_itself_and_nothing_else(tmp_path: Path) -> None:
    rows = [{"id": "good", **ROWS["A1"]}] + [{"id": name, **ROWS["A1"], **odd} for name, odd in ODD.items()]
    file = tmp_path / "odd.csv"
    with file.open("w", encoding="utf-8", newline="") as stream:
        out = csv.DictWriter(stream, list(dict.fromkeys(name for row in rows for name in row)))
        out.writeheader()
        out.writerows(rows)
    one = headway.validate(file, workers=1)
    assert one.rows == len(rows)
    assert next(score for score in one.scores if score.row == "good").refused == ""
    whole = one.slices["all"]["tpot_s"]
    assert whole.n_rows == len(rows)  # rows put aside count, as not predicted
    assert whole.coverage_frac < 1
    assert set(one.findings) >= {"too_large", "not_a_number", "unknown_mode"}


def test_a_table_with_no_row_to_replay_says_why(tmp_path: Path) -> None:
    file = tmp_path / "bad.csv"
    file.write_text("model,hardware,engine,tp,tpot_ms_p50\nllama-3.1-8b,H100-SXM,vLLM,-1,9\n", encoding="utf-8")
    with pytest.raises(InputError, match="tp is '-1'"):
        headway.validate(file, workers=1)


def test_the_document_has_all_first_and_every_row(found: Validated) -> None:
    document = json.loads(headway.dumps("validate", found))
    assert list(document)[:3] == ["headway", "schema", "slices"]
    assert next(iter(document["slices"])) == "all"
    assert document["slices"]["all"]["tpot_s"].keys() == {
        "n_rows",
        "coverage_frac",
        "ape_median_frac",
        "ape_p90_frac",
        "bias_frac",
        "band_coverage_frac",
    }
    assert [one["row"] for one in document["scores"]] == list(ROWS)


def test_a_line_per_row_and_figure(found: Validated) -> None:
    lines = list(csv.DictReader(io.StringIO(rows_csv(found))))
    assert len(lines) == sum(len(one.comparisons) for one in found.scores)
    assert {line["row"] for line in lines} == ROWS.keys()
    first = lines[0]
    assert float(first["error_frac"]) == pytest.approx(
        float(first["predicted"]) / float(first["measured"]) - 1, rel=1e-3
    )


def test_the_worst_rows_are_explained(found: Validated) -> None:
    errors = {one.row: abs(one.predicted / one.measured - 1) for one in found.worst}
    assert len(errors) == 5 and next(iter(errors)) in ROWS
    assert all(one.reason for one in found.worst)
    for one in found.worst:
        assert 0 < sum(one.parts.values()) < 1.5, one


def test_the_page_fits_a_screen_and_says_what_was_found(found: Validated) -> None:
    page = validated_page(found, worst=5)
    titles = [part.title for part in page.parts]
    assert titles[:2] == ["All rows", "By slice"] and "Worst rows" in titles
    assert headline(found).startswith("5 of 5 rows predicted")


def test_the_command_writes_document_rows_and_charts(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "card"
    assert main(["validate", str(table), "--only", "engine=vLLM", "--workers", "1", "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert "3 of 3 rows" in printed.out and "wrote" in printed.err
    names = {"validate.json", "rows.csv", *(f"{n}.{f}" for n in ("scatter", "residuals") for f in ("png", "svg"))}
    assert {path.name for path in out.iterdir()} == names


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"only": ["colour=red"]}, r"only: 'colour=red': expected FIELD=VALUE"),
        ({"only": ["engine"]}, r"expected FIELD=VALUE"),
        ({"only": ["engine=dask"]}, r"no row is left to validate"),
        ({"executor": "slurm"}, r"unknown executor 'slurm' \(known: local, ray\)"),
        ({"workers": -1}, r"workers: expected at least 1"),
    ],
)
def test_what_is_asked_wrongly_is_refused(table: Path, options: dict, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        headway.validate(table, **options)


def test_a_table_that_cannot_be_read_is_one_line_on_stderr(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["validate", str(tmp_path / "no.csv")]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1
