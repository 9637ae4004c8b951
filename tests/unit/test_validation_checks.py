"""What is wrong with a row is found, named and counted."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from headway.catalog import Catalog, load
from headway.validation.checks import check, duplicates, findings_of, read_floor_s, repeats
from headway.validation.configuration import configure
from headway.validation.measurements import Measurement, Tokens
from headway.validation.reader import read_table


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return load()


def row(**changes: object) -> Measurement:
    one = Measurement(
        row="r",
        line=2,
        model="llama-3.1-8b",
        hardware="H100-SXM",
        engine="vLLM",
        engine_version="0.15.1",
        tp=1,
        weight_dtype="bf16",
        isl_tokens=Tokens(low=1000, high=1000),
        osl_tokens=Tokens(low=101, high=101),
        concurrency=8,
        measured={"tpot_s": {"p50": 0.01}, "ttft_s": {"p50": 0.5}},
    )
    return dataclasses.replace(one, **changes)


def codes(catalog: Catalog, **changes: object) -> list[str]:
    measurement = row(**changes)
    return [finding.code for finding in findings_of(measurement, configure(measurement, catalog))]


def test_a_sound_row_has_no_findings(catalog: Catalog) -> None:
    assert codes(catalog) == []


def test_no_token_is_faster_than_its_weights_are_read(catalog: Catalog) -> None:
    """Llama 3.1 8B: 7.5e9 active parameters in 16 bit over 3.35 TB/s are 4.5 ms; in two halves, half of it."""
    configured = configure(row(), catalog)
    assert read_floor_s(configured) == pytest.approx(2 * 7.505e9 / 3.35e12, rel=0.01)
    assert read_floor_s(configure(row(tp=2), catalog)) == pytest.approx(read_floor_s(configured) / 2)
    assert codes(catalog, measured={"tpot_s": {"p50": 0.0044}}) == ["below_weight_reads"]
    assert codes(catalog, measured={"tpot_s": {"mean": 0.0046}}) == []
    assert codes(catalog, measured={"tpot_s": {"p50": 0.0}}) == ["impossible_number"]


def test_drafts_lower_the_floor(catalog: Catalog) -> None:
    drafted = configure(row(features="spec:MTP k=3"), catalog)
    assert read_floor_s(drafted) == pytest.approx(read_floor_s(configure(row(), catalog)) / 4)


def test_no_prompt_is_faster_than_its_products_at_the_peak(catalog: Catalog) -> None:
    """2 x 7.5e9 x 1,000 operations at 989 TFLOP/s are 15 ms."""
    assert codes(catalog, measured={"ttft_s": {"p50": 0.014}}) == ["below_peak_compute"]
    assert codes(catalog, measured={"ttft_s": {"p50": 0.017}}) == []


@pytest.mark.parametrize(
    ("tokens_per_s", "found"), [(533.0, []), (300.0, ["violates_little"]), (900.0, ["violates_little"])]
)
def test_a_closed_loop_holds_littles_law(catalog: Catalog, tokens_per_s: float, found: list[str]) -> None:
    """Eight clients, each request 0.5 s + 100 x 10 ms: 8 / 1.5 s x 101 tokens are 539 tokens per second."""
    measured = {**row().measured, "output_tokens_per_s": {"mean": tokens_per_s}}
    assert codes(catalog, measured=measured) == found
    assert codes(catalog, measured=measured, mode="offline") == []


def test_littles_law_from_requests_and_whole_latency(catalog: Catalog) -> None:
    measured = {"requests_per_s": {"mean": 4.0}, "e2e_s": {"mean": 2.0}}
    assert codes(catalog, measured=measured) == []
    assert codes(catalog, measured={**measured, "e2e_s": {"mean": 5.0}}) == ["violates_little"]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"ep": 0}, "impossible_number"),
        ({"measured": {"tpot_s": {"p50": 0.02, "p99": 0.01}}}, "impossible_number"),
        ({"measured": {"ttft_s": {"p50": 3.0}, "e2e_s": {"p50": 2.0}}}, "contradictory_fields"),
        ({"mode": "rate", "measured": {"tpot_s": {"p50": 0.01}}}, "contradictory_fields"),
        ({"model": "nobody-knows-9b"}, "unknown_model"),
        ({"hardware": "Wonder 9000"}, "unknown_accelerator"),
        ({"engine": "somebody's own"}, "unknown_engine"),
        ({"weight_dtype": "fp3"}, "unknown_format"),
        ({"gpus": 8, "tp": 3}, "gpus_contradict"),
        ({"model": "llama-3.1-405b", "measured": {"ttft_s": {"p50": 99.0}}}, "does_not_fit"),
        ({"isl_tokens": None}, "isl_unknown"),
    ],
)
def test_each_finding_has_its_code(catalog: Catalog, changes: dict[str, object], code: str) -> None:
    assert code in codes(catalog, **changes)


def test_a_row_that_stands_twice_names_the_first(catalog: Catalog) -> None:
    first, again, other = row(row="a"), row(row="b", line=3, source="elsewhere"), row(row="c", line=4, concurrency=9)
    (found,) = duplicates([first, again, other])
    assert (found.row, found.line, found.code) == ("b", 3, "duplicate")
    assert "row a" in found.reason
    everything = check([(one, configure(one, catalog)) for one in (first, again, other)])
    assert [finding.code for finding in everything] == ["duplicate"]


def test_a_measurement_listed_under_another_version_is_found(catalog: Catalog) -> None:
    figures = {"ttft_s": {"p50": 0.123}, "tpot_s": {"p50": 0.0123}}
    first = row(row="a", measured=figures)
    again = row(row="b", line=3, measured=figures, engine_version="nightly", tp=8)
    alike = row(row="c", line=4, measured={"tpot_s": {"p50": 0.0123}}, engine_version="nightly")  # one figure: chance
    assert [[one.row for one in same] for same in repeats([first, again, alike])] == [["a", "b"]]
    (found,) = duplicates([first, again, alike])
    assert (found.row, found.code) == ("b", "same_measurement")


def test_the_published_table_breaks_no_floor(catalog: Catalog) -> None:
    path = Path(__file__).parents[2].parent / "shared/measurements/measurements.csv"
    if not path.exists():
        pytest.skip("needs ../shared/measurements/measurements.csv")
    rows = [(one, configure(one, catalog)) for one in read_table(path).measurements[::5]]
    assert {finding.code for finding in check(rows)} & {"below_weight_reads", "duplicate", "unknown_model"} == set()
