"""How figures are written: what is not there is said, a band is in the unit of its figure."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.pictures.page import counted, latency_at, latency_table, money, percentile, seconds, shares
from headway.types import Band, Latency


def latency(value_s: float, band: Band | None = None) -> Latency:
    return Latency(samples=1, mean_s=value_s, max_s=value_s, quantiles_s={0.95: value_s}, band=band)


BAND = Band(low_frac=-0.1, high_frac=0.25, confidence_frac=0.9, source="rows")


@pytest.mark.parametrize(
    ("value_s", "text"),
    [(0.0283, "28.3 ms"), (0.0, "0 s"), (math.inf, "never"), (math.nan, "–"), (1.5, "1.5 s")],
)
def test_seconds(value_s: float, text: str) -> None:
    assert seconds(value_s) == text


@pytest.mark.parametrize(
    ("frac", "text"), [(0.5, "p50"), (0.95, "p95"), (0.999, "p99.9"), (0.9999, "p99.99"), (1.0, "p100")]
)
def test_percentile(frac: float, text: str) -> None:
    assert percentile(frac) == text


@pytest.mark.parametrize(
    ("value_s", "band", "text"),
    [
        (0.0281, BAND, "28.1 ms (25–35)"),
        (0.0281, None, "28.1 ms"),
        (0.0021, BAND, "2.1 ms (1.9–2.6)"),
        (1.9, BAND, "1.9 s (1.7–2.4)"),
        (3700.0, BAND, "1.03 h (0.93–1.3)"),
        (math.inf, BAND, "never"),
        (0.0, BAND, "0 s"),
    ],
)
def test_a_latency_comes_with_its_band(value_s: float, band: Band | None, text: str) -> None:
    assert latency_at(latency(value_s, band), 0.95) == text


@given(st.floats(1e-9, 1e5))
def test_a_band_holds_its_figure(value_s: float) -> None:
    found = re.fullmatch(r"([\d,.e+]+) \S+ \(([\d.e+]+)–([\d.e+]+)\)", latency_at(latency(value_s, BAND), 0.95))
    assert found
    figure, low, high = (float(part.replace(",", "")) for part in found.groups())
    assert low <= figure * 1.05
    assert high >= figure * 0.95
    assert low < high or figure < 3


@pytest.mark.parametrize("found", [None, latency(1.0)])
def test_a_percentile_that_was_not_computed_is_a_dash(found: Latency | None) -> None:
    assert latency_at(found, 0.5) == "–"


@pytest.mark.parametrize(
    ("amount", "text"),
    [(1234.5, "1,234.50"), (0.3, "0.300"), (0.00021, "0.000210"), (0.0, "0.00"), (math.inf, "–"), (-2.0, "-2.00")],
)
def test_money(amount: float, text: str) -> None:
    assert money(amount) == text


def test_shares() -> None:
    assert shares({0.1: 0.615, 0.95: 0.97}, 0.1, 0.5, 0.95) == "62/97 %"
    assert shares({}, 0.1) == shares(None, 0.1) == "–"


def test_counted() -> None:
    assert [counted(n, "GPU") for n in (0, 1, 1200)] == ["0 GPUs", "1 GPU", "1,200 GPUs"]


def test_a_latency_table_says_what_is_believed() -> None:
    from headway.metrics import Served, outcome
    from headway.types import Requests, Slo

    np = pytest.importorskip("numpy")
    times = np.arange(3.0)
    ones = np.ones(3, np.int64)
    requests = Requests(arrive_s=times, isl_tokens=ones, osl_tokens=2 * ones)
    served = Served(first_s=times + 0.1, last_s=times + 0.2, failed=np.zeros(3))
    table = latency_table(outcome(requests, served, Slo(objectives=()), "measured"), ("ttft", "itl", "e2e"))
    assert table.title == "Latency (measured)"
    assert [row[0] for row in table.rows] == ["TTFT", "E2E"], "no ITL was recorded"
    assert table.rows[0][1] == "100 ms"
    assert table.note == ""
