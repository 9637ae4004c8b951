"""The blind test: verdicts, tables and points, without a server."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[2] / "tools" / "blind"))  # tools are no package

import blind
from kept_files import check_own, point_folder, start_over
from picture import drawn_figures
from points import POINTS, Mix, Point, answered_per_s, drawn, load_of
from verdict import (
    GROWTH,
    SATURATED_FRAC,
    TARGETS_FRAC,
    Figure,
    Verdict,
    aligned,
    by_figure,
    figures_of,
    rows_of,
    shown,
)

from headway.calibration.predicting import FIGURES, simulated_figures
from headway.errors import InputError
from headway.perf import EndpointCalibration
from headway.perf.endpoint import SCALARS, StepTerms, Uncertainty, term_names
from headway.perf.endpoint_steps import replica_of
from headway.types import EngineSettings

TERMS = StepTerms(
    decode_s={1: 0.01, 8: 0.05},
    mixed_s={1: 0.01, 512: 3.0},
    context_s_per_token=1e-6,
    prefill_s_per_pair=1e-8,
    prefill_context_s_per_token=1e-7,
    sequence_s=1e-4,
    frontend_s=2e-3,
)


@pytest.fixture
def calibration() -> EndpointCalibration:
    names = term_names(TERMS)
    none = tuple((0.0,) * len(names) for _ in names)
    settings = EngineSettings(
        engine="vllm",
        version="0.32.0",
        max_num_seqs=8,
        max_num_batched_tokens=512,
        max_model_len=1024,
        gpu_memory_utilization=0.9,
        block_size=16,
        enable_prefix_caching=True,
        enable_chunked_prefill=True,
        scheduler_reserve_full_isl=False,
        async_scheduling=False,
    )
    return EndpointCalibration(
        name="made",
        made="2026-11-21",
        engine="vllm",
        engine_version="0.32.0",
        model="smollm2",
        hardware="one-cpu-thread",
        tp=1,
        weight_dtype="bf16",
        kv_dtype="bf16",
        settings=settings,
        num_gpu_blocks=1000,
        terms=TERMS,
        uncertainty=Uncertainty(terms=names, covariance=none, drift_log_sd=0.2),
        bands_frac={},
        valid={},
        runs=(),
    )


def figure(*, predicted: float, measured: float, low: float = 0.9, high: float = 1.2, name: str = "ttft.p50") -> Figure:
    return Figure(
        point="p",
        name=name,
        predicted=predicted,
        low=low,
        high=high,
        rounds=(measured, measured),
        target_frac=TARGETS_FRAC[name],
    )


# --- verdicts


@pytest.mark.parametrize(
    ("predicted", "measured", "verdict", "missed"),
    [
        (1.0, 1.0, "within target", False),
        (1.1, 1.15, "within target", False),
        (1.3, 1.25, "within target, out of band", False),
        (1.0, 1.19, "in band", False),
        (1.0, 1.21, "MISSED", True),
        (1.0, 0.89, "MISSED", True),
        (1.0, math.inf, "MISSED", True),  # requests failed: the percentile fell on one
        (1.0, math.nan, "MISSED", True),
    ],
)
def test_a_miss_is_beyond_both_target_and_band(predicted: float, measured: float, verdict: str, missed: bool) -> None:
    one = figure(predicted=predicted, measured=measured)
    assert (one.verdict, one.missed) == (verdict, missed)


def test_a_figure_without_a_band_or_a_value_is_missed() -> None:
    assert figure(predicted=math.nan, measured=1.0, low=math.nan, high=math.nan).missed
    assert figure(predicted=1.0, measured=2.0, low=math.nan, high=math.nan).missed


@given(st.floats(1e-3, 1e3), st.floats(0.0, 0.099))
def test_what_is_within_the_target_is_never_missed(measured: float, off: float) -> None:
    assert not figure(predicted=measured * (1 + off), measured=measured, low=0.0, high=0.0).missed


def test_a_figure_that_could_not_be_measured_is_the_worst_error() -> None:
    row = by_figure([figure(predicted=p, measured=m) for p, m in ((1.1, 1.0), (1.0, math.nan), (1.05, 1.0))])[0]
    assert row[-3:] == ("10.0 %", "–", "0.0 %")
    assert by_figure([figure(predicted=p, measured=1.0) for p in (1.1, 1.2)])[0][-3:-1] == ("15.0 %", "20.0 %")


def test_rounds_are_averaged_and_their_difference_is_told() -> None:
    one = replace(figure(predicted=1.05, measured=1.0), rounds=(0.9, 1.1))
    assert (one.measured, one.between_rounds_frac) == (pytest.approx(1.0), pytest.approx(0.2))
    assert one.verdict == "within target"
    assert by_figure([one])[0][-1] == "20.0 %"
    assert replace(one, rounds=(0.9, math.inf)).missed  # what failed once has no mean


@given(st.floats(0.1, 5.0), st.floats(0.1, 5.0))
def test_a_queue_that_grows_when_it_should_shrink_is_not_within(predicted: float, measured: float) -> None:
    one = Figure(point="p", name=GROWTH, predicted=-predicted, low=-9, high=9, rounds=(measured,), target_frac=0.2)
    assert (one.missed, one.verdict) == (True, "MISSED, the other way")
    assert one.error_frac < -1
    assert replace(one, low=-9, high=-0.01).verdict == "MISSED"
    assert not replace(one, predicted=predicted).missed


@given(st.lists(st.tuples(st.floats(0.5, 2.0), st.floats(0.5, 2.0)), max_size=20))
def test_the_last_line_counts(pairs: list[tuple[float, float]]) -> None:
    verdict = Verdict(figures=tuple(figure(predicted=p, measured=m) for p, m in pairs))
    near = sum(abs(p / m - 1) <= 0.1 for p, m in pairs)
    assert verdict.last_line.startswith(f"{verdict.within} of {len(pairs)} within target")
    assert verdict.within == pytest.approx(near, abs=1)  # a ratio at the very edge may round either way
    assert verdict.exit_code == (not pairs or any(one.missed for one in verdict.figures))


def test_nothing_measured_is_no_success() -> None:
    assert Verdict(figures=()).exit_code == 1


def test_saturated_points_are_held_to_growth_and_rate_alone() -> None:
    predicted = dict.fromkeys((*FIGURES, GROWTH), (1.0, 0.5, 1.5))
    measured = [dict.fromkeys((*FIGURES, GROWTH), 1.0)] * 2
    assert [one.name for one in figures_of("p", predicted, measured, saturated=True)] == list(SATURATED_FRAC)
    assert [one.name for one in figures_of("p", predicted, measured, saturated=False)] == list(TARGETS_FRAC)
    assert set(TARGETS_FRAC) == set(FIGURES)


# --- how it is told


def test_the_table_names_a_point_once_and_says_every_figure() -> None:
    figures = [
        figure(predicted=0.25, measured=0.2),
        figure(predicted=12.0, measured=11.9, name="output_tokens_per_s"),
    ]
    assert rows_of(figures) == [
        ("p", "ttft.p50", "250.0 ms", "900.0 ms … 1.20 s", "200.0 ms", "+25.0 %", "± 10 %", "MISSED"),
        (
            *("", "output_tokens_per_s", "12.0 tok/s", "0.9 tok/s … 1.2 tok/s", "11.9 tok/s", "+0.8 %", "± 7 %"),
            "within target, out of band",
        ),
    ]
    assert by_figure(figures)[0] == ("ttft.p50", "1", "0", "0", "25.0 %", "25.0 %", "0.0 %")


def test_figures_that_never_happened_are_dashes() -> None:
    assert (shown("e2e.p95", math.inf), shown(GROWTH, -0.5)) == ("–", "-0.50 /s")


@given(st.lists(st.tuples(*[st.text("abc", max_size=6)] * 4), min_size=1, max_size=6))
def test_columns_stand_below_each_other(rows: list[tuple[str, ...]]) -> None:
    lines = aligned([*rows, ("wide", "wide", "wider", "x")]).split("\n")
    assert len(lines) == len(rows) + 1
    assert [line.split() for line in lines] == [
        " ".join(row).split() for row in (*rows, ("wide", "wide", "wider", "x"))
    ]


def test_the_picture_is_drawn_whatever_is_missing() -> None:
    figures = [figure(predicted=1.0, measured=m) for m in (1.0, math.inf, 0.5)]
    assert drawn_figures(figures, title="t").startswith(b"\x89PNG")


# --- the points


def test_points_are_what_the_targets_ask_for() -> None:
    below = [point for point in POINTS if not point.saturated]
    assert len(below) >= 6
    assert len(POINTS) - len(below) >= 2
    assert len({point.name for point in POINTS}) == len(POINTS)
    assert any(point.mix.shared_tokens for point in below)
    assert any(point.mix.turns > 1 for point in below)
    assert all((point.clients_frac is None) != (point.rate_frac is None) for point in POINTS)


def test_no_point_has_the_clients_of_a_calibration_run() -> None:
    for seats in (8, 16):
        clients = {round(seats * point.clients_frac) for point in POINTS if point.clients_frac}
        assert not clients & {1, seats, seats // 2, seats // 4}


@pytest.mark.parametrize("point", POINTS, ids=lambda point: point.name)
def test_the_same_point_is_the_same_requests(point: Point, calibration: EndpointCalibration) -> None:
    one, other = (load_of(point, calibration, 5.0) for _ in range(2))
    assert (one.concurrency is None) == (point.rate_frac is not None)
    for column in ("arrive_s", "isl_tokens", "osl_tokens"):
        np.testing.assert_array_equal(getattr(one.requests, column), getattr(other.requests, column))
    assert (one.requests.prefix is not None) == bool(point.mix.shared_tokens or point.mix.turns > 1)


def test_a_faster_server_is_sent_more(calibration: EndpointCalibration) -> None:
    slow = {name: getattr(TERMS, name) * 3 for name in SCALARS}
    terms = replace(TERMS, decode_s={k: 3 * v for k, v in TERMS.decode_s.items()}, **slow)
    terms = replace(terms, mixed_s={k: 3 * v for k, v in TERMS.mixed_s.items()})
    mix = Mix(isl_tokens=(8, 32), osl_tokens=(8, 24))
    quick = answered_per_s(mix, calibration, 8)
    assert quick == pytest.approx(3 * answered_per_s(mix, replace(calibration, terms=terms), 8), rel=0.02)
    assert quick > answered_per_s(mix, calibration, 1)


def test_a_saturated_point_asks_for_more_than_can_be_answered(calibration: EndpointCalibration) -> None:
    for point in POINTS:
        if point.rate_frac is None or point.mix.turns > 1:
            continue
        load = load_of(point, calibration, 60.0)
        growth = simulated_figures(load, replica_of(calibration))[GROWTH]
        assert (growth > 0.1) == point.saturated, point.name


def test_requests_of_a_point_stay_within_its_mix() -> None:
    for point in POINTS:
        requests = drawn(point, 2.0, 50)
        assert len(requests) == 50
        assert requests.osl_tokens.max() <= point.mix.osl_tokens[1]
        assert requests.isl_tokens.min() >= point.mix.isl_tokens[0]


# --- the command


def test_the_command_line() -> None:
    chosen = blind.parsed(["llama", "--points", "few clients", "--json"])
    assert (chosen.engine, chosen.points, chosen.json) == ("llama", ["few clients"], True)
    with pytest.raises(SystemExit):
        blind.parsed(["tgi"])


def test_everything_is_kept(tmp_path: Path) -> None:
    run = blind.Run(engine="llama", out=tmp_path, budget_s=1, seconds=1)
    (tmp_path / "predictions.json").write_text("[]")
    verdict = Verdict(figures=(figure(predicted=1.0, measured=1.0), figure(predicted=1.5, measured=1.0)))
    blind.kept(run, verdict)
    found = json.loads((tmp_path / "blind.json").read_text())
    assert (found["within_target"], found["in_band"], found["of"], found["exit_code"]) == (1, 2, 2, 0)
    assert (tmp_path / "blind.txt").read_text().rstrip().endswith(verdict.last_line)
    assert (tmp_path / "blind.png").exists()


def filled(folder: Path, *more: str) -> list[Path]:
    """Put into a folder what a run leaves there, and more."""
    points = [
        f"{point_folder(name)}/{file}" for name in blind.NAMES for file in ("asked.parquet", "requests-2.parquet")
    ]
    runs = ["calibration/01-closed-1/requests.parquet", "calibration/05-closed-8-2/clients.json"]
    alone = ["server.log", "calibration-traffic.parquet", "calibration.yaml", "predictions.json"]
    told = ["blind.json", "blind.txt", "blind.png"]
    paths = [folder / name for name in (*points, *runs, *alone, *told, *more)]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("earlier")
    return paths


def test_a_second_run_starts_over(tmp_path: Path) -> None:
    for times in range(2):
        start_over(tmp_path / "new" / "out", blind.NAMES)
        assert list((tmp_path / "new" / "out").iterdir()) == []
        filled(tmp_path / "new" / "out", *("server.log",) * times)


@pytest.mark.parametrize(
    "foreign", ["notes.txt", "calibration/notes.txt", "open-0.3/a/b.txt", "mine/asked.parquet", "blind.png/x", "a/.b"]
)
def test_what_no_run_writes_is_never_deleted(foreign: str, tmp_path: Path) -> None:
    (tmp_path / foreign).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / foreign).write_text("mine")
    kept = [tmp_path / "server.log", tmp_path / "calibration.yaml", tmp_path / foreign]
    for path in kept[:2]:
        path.write_text("earlier")
    for refused in (check_own, start_over):
        with pytest.raises(InputError, match=f"no blind test writes.*{foreign}"):
            refused(tmp_path, blind.NAMES)
    assert all(path.read_text() for path in kept)


def test_a_link_is_nobodys_own_and_leads_nowhere(tmp_path: Path) -> None:
    away = tmp_path / "away" / "calibration.yaml"
    away.parent.mkdir()
    away.write_text("mine")
    filled(tmp_path / "out")
    (tmp_path / "out" / "open-0.9").symlink_to(away.parent)
    with pytest.raises(InputError, match="a link"):
        start_over(tmp_path / "out", blind.NAMES)
    assert away.read_text() == "mine"
    with pytest.raises(InputError, match="is a file"):
        check_own(away, blind.NAMES)


def test_the_folder_is_looked_at_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = filled(tmp_path, "notes.txt")[-1]
    monkeypatch.setattr(sys, "argv", ["blind", "llama", "--out", str(tmp_path)])
    monkeypatch.setitem(blind.ENVIRONMENTS, "llama", object())  # has nothing to install with
    assert blind.main() == 2
    assert "notes.txt" in capsys.readouterr().err
    assert mine.read_text() == "earlier"


def test_an_engine_that_cannot_be_had_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Nowhere:
        def install(self) -> None:
            raise InputError("nobody answers")

    monkeypatch.setattr(sys, "argv", ["blind", "llama", "--out", str(tmp_path)])
    monkeypatch.setitem(blind.ENVIRONMENTS, "llama", Nowhere())
    assert blind.main() == 2
    assert capsys.readouterr().err == "error: nobody answers\n"
