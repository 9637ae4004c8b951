"""Scores by hand: errors, slices, ranking, noise."""

from __future__ import annotations

import dataclasses
import math

import pytest

from headway.validation.measurements import Measurement, Tokens
from headway.validation.ranking import noise, rank, throughput
from headway.validation.scoring import LEAST_ROWS, Comparison, RowScore, compare, metric_score, score


def row(errors: dict[str, float | None], *, bands: float | None = None, **axes: str) -> RowScore:
    comparisons = tuple(
        Comparison(
            metric=metric,
            statistic="p50",
            measured=2.0,
            predicted=None if error is None else 2.0 * (1 + error),
            low=None if bands is None or error is None else 2.0 * (1 + error) * (1 - bands),
            high=None if bands is None or error is None else 2.0 * (1 + error) * (1 + bands),
        )
        for metric, error in errors.items()
    )
    return RowScore(row="T1", line=2, group="g", fold=0, gpus=2, axes=axes, comparisons=comparisons)


def measured(**changes: object) -> Measurement:
    one = Measurement(
        row="T1",
        line=2,
        model="m",
        hardware="h",
        engine="vLLM",
        gpus=2,
        isl_tokens=Tokens(low=100, high=100),
        osl_tokens=Tokens(low=11, high=11),
        concurrency=4,
        measured={"ttft_s": {"p50": 1.0}, "tpot_s": {"p50": 0.1}},
        source="a/b:c",
    )
    return dataclasses.replace(one, **changes)


# --- errors -----------------------------------------------------------------------------------------------


def test_median_p90_bias_and_coverage_are_over_the_rows_that_give_the_metric() -> None:
    errors = [0.1, -0.2, 0.3, -0.4, None]
    found = metric_score([c for e in errors for c in row({"ttft_s": e}).comparisons])
    assert found.n_rows == 5
    assert found.coverage_frac == pytest.approx(0.8)
    assert found.ape_median_frac == pytest.approx(0.25)
    assert found.ape_p90_frac == pytest.approx(0.37)
    assert found.bias_frac == pytest.approx(-0.05)
    assert found.band_coverage_frac is None


def test_a_metric_nobody_could_predict_has_no_error_and_no_coverage() -> None:
    found = metric_score(row({"ttft_s": None}).comparisons)
    assert (found.coverage_frac, found.ape_median_frac, found.bias_frac) == (0.0, None, None)


def test_a_band_holds_what_was_measured_or_not() -> None:
    found = metric_score([c for e in (0.05, 0.5) for c in row({"tpot_s": e}, bands=0.1).comparisons])
    assert found.band_coverage_frac == 0.5


def test_a_median_goes_before_a_mean_and_other_percentiles_are_metrics_of_their_own() -> None:
    given = {"ttft_s": {"mean": 3.0, "p50": 2.0, "p99": 9.0}, "tpot_s": {"mean": 0.1}}
    replayed = {"ttft_s": {"mean": 30.0, "p50": 4.0, "p99": 9.9}, "tpot_s": {"mean": 0.2, "p50": 7.0}}
    found = {c.metric: c for c in compare(given, replayed, lambda _: (-0.5, 0.5))}
    assert list(found) == ["ttft_s", "tpot_s", "ttft_p99_s"]
    assert found["ttft_s"].error_frac == pytest.approx(1.0)
    assert (found["ttft_s"].low, found["ttft_s"].high) == (2.0, 6.0)
    assert found["tpot_s"].statistic == "mean"
    assert found["ttft_p99_s"].error_frac == pytest.approx(0.1)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_was_not_predicted(value: float) -> None:
    (one,) = compare({"ttft_s": {"p50": 1.0}}, {"ttft_s": {"p50": value}}, lambda _: (-0.5, 0.5))
    assert (one.predicted, one.error_frac, one.inside) == (None, None, None)


def test_a_measured_zero_is_nothing_to_be_a_share_of() -> None:
    assert compare({"itl_s": {"p50": 0.0}}, {"itl_s": {"p50": 1.0}}, lambda _: None) == ()


# --- slices -----------------------------------------------------------------------------------------------


def test_all_comes_first_then_each_axis_then_crosses_of_enough_rows() -> None:
    cross = {"accelerator": "a", "engine": "e", "family": "f", "precision": "p", "region": "r"}
    rows = [row({"ttft_s": 0.1}, **cross)] * LEAST_ROWS + [row({"ttft_s": 0.3}, **(cross | {"engine": "other"}))]
    found = score(rows)
    names = list(found)
    assert names[0] == "all" and found["all"]["ttft_s"].n_rows == LEAST_ROWS + 1
    assert names[1:4] == ["region=r", "engine=e", "engine=other"]
    assert names[-1] == "accelerator=a,engine=e,family=f,precision=p,region=r"
    assert not any("engine=other," in name for name in names)


def test_a_row_that_could_not_be_replayed_counts_in_the_slices_it_is_known_to_be_in() -> None:
    found = score([row({"ttft_s": 0.1}, engine="e", region="middle"), row({"ttft_s": None}, engine="e")])
    assert found["engine=e"]["ttft_s"].coverage_frac == 0.5
    assert found["region=middle"]["ttft_s"].n_rows == 1


# --- ranking ----------------------------------------------------------------------------------------------


def ranked(
    values: list[tuple[float, float | None]], gpus: int | None = 2, **changes: object
) -> tuple[list[Measurement], list[RowScore]]:
    """Rows of a measured and a predicted throughput, 2 GPUs each."""
    rows = [measured(measured={"output_tokens_per_s": {"mean": one}}, **changes) for one, _ in values]
    scores = [
        dataclasses.replace(row({}), gpus=gpus, predicted={} if p is None else {"output_tokens_per_s": {"mean": p}})
        for _, p in values
    ]
    return rows, scores


def test_pairs_nearer_than_ten_percent_are_no_pairs() -> None:
    found = rank(*ranked([(100.0, 1.0), (109.0, 0.5), (111.0, 2.0)])).any_load
    assert (found.pairs, found.called_frac) == (1, 1.0)


def test_a_row_without_a_prediction_is_never_called_right() -> None:
    found = rank(*ranked([(100.0, None), (200.0, 5.0)])).any_load
    assert (found.pairs, found.called_frac) == (1, 0.0)


def test_it_is_per_gpu_and_rows_of_unknown_size_are_left_out() -> None:
    sets = [ranked([(100.0, 100.0)], gpus=1), ranked([(150.0, 150.0)], gpus=8), ranked([(1e3, 1.0)], gpus=None)]
    rows, scores = ([one for column in columns for one in column] for columns in zip(*sets, strict=True))
    found = rank(rows, scores).any_load
    assert (found.pairs, found.called_frac) == (1, 1.0)  # 100 a GPU against 19


def test_only_rows_of_one_publication_model_and_length_are_compared() -> None:
    one, other = ranked([(100.0, 1.0)]), ranked([(300.0, 2.0)], model="another")
    found = rank(one[0] + other[0], one[1] + other[1])
    assert found.any_load.pairs == found.same_load.pairs == 0
    assert found.any_load.called_frac is None


def test_the_same_load_is_the_same_concurrency_and_rate() -> None:
    one, other = ranked([(100.0, 1.0)]), ranked([(300.0, 2.0)], concurrency=8)
    found = rank(one[0] + other[0], one[1] + other[1])
    assert (found.any_load.pairs, found.same_load.pairs) == (1, 0)


def test_throughput_of_a_closed_loop_is_littles_where_it_is_not_given() -> None:
    one = measured()
    assert throughput(one, one.measured) == pytest.approx(4 * 11 / (1.0 + 10 * 0.1))
    assert throughput(one, {"output_tokens_per_s": {"mean": 7.0}}) == 7.0
    assert throughput(one, {"ttft_s": {"p50": 1.0}}) is None
    assert throughput(measured(mode="rate"), one.measured) is None


# --- noise ------------------------------------------------------------------------------------------------


def test_noise_is_the_spread_of_what_was_measured_again_on_another_day() -> None:
    rows = [
        measured(note="measured 2026-01-01", measured={"tpot_s": {"p50": 0.09}}, source="a/b:another"),
        measured(note="measured 2026-01-02", measured={"tpot_s": {"p50": 0.09}}),  # the same place as the next
        measured(note="measured 2026-01-02", measured={"tpot_s": {"p50": 0.11}}),
        measured(note="measured 2026-01-02", measured={"tpot_s": {"p50": 0.50}}, engine_version="2"),
    ]
    found = noise(rows)
    assert list(found) == ["tpot_s"]
    assert found["tpot_s"].configurations == 1
    assert found["tpot_s"].p50_frac == found["tpot_s"].p90_frac == pytest.approx(0.2)


@pytest.mark.parametrize("change", [{"gpus": None}, {"concurrency": 8}, {"note": "with another flag"}])
def test_what_may_differ_is_not_the_same_configuration(change: dict[str, object]) -> None:
    assert noise([measured(gpus=change.get("gpus", 2)), measured(**change)]) == {}
