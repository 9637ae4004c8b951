"""`describe`: figures worked by hand, and those known of the published traces."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from headway.types import PrefixRuns, Requests
from headway.workload import Measured, Trace, describe, read_trace
from headway.workload.description import PERCENTILES_FRAC


@pytest.fixture(scope="module")
def traces() -> Path:
    folder = Path(__file__).parents[2].parent / "shared" / "traces"
    if not folder.is_dir():
        pytest.skip("needs ../shared/traces")
    return folder


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def requests(**other: object) -> Requests:
    columns = {
        "arrive_s": np.array([10.0, 11.0, 11.0, 14.0]),
        "isl_tokens": ints(32, 64, 32, 9000),
        "osl_tokens": ints(1, 3, 2, 10),
    }
    return Requests(**columns | other)  # type: ignore[arg-type]


def poisson(n: int, requests_per_s: float) -> Requests:
    arrive_s = np.cumsum(np.random.default_rng(7).exponential(1 / requests_per_s, n))
    return Requests(arrive_s=arrive_s, isl_tokens=np.full(n, 10), osl_tokens=np.full(n, 2))


# --- by hand ---------------------------------------------------------------------------------------------


def test_rates_are_gaps_over_duration() -> None:
    d = describe(requests())
    assert (d.requests, d.duration_s) == (4, 4.0)
    assert d.requests_per_s == 3 / 4
    assert d.input_tokens_per_s == 3 / 4 * (32 + 64 + 32 + 9000) / 4
    assert d.output_tokens_per_s == 3 / 4 * 16 / 4


def test_quantiles_are_nearest_ranks() -> None:
    spread = describe(requests()).isl_tokens
    assert list(spread.quantiles) == list(PERCENTILES_FRAC)
    assert [spread.quantiles[frac] for frac in (0.01, 0.25, 0.5, 0.75, 0.9)] == [32, 32, 32, 64, 9000]
    assert (spread.least, spread.most, spread.mean, spread.samples) == (32, 9000, 2282, 4)


def test_the_series_starts_with_the_first_arrival() -> None:
    series = describe(requests(), series_window_s=2.0).series
    assert series.start_s == (10.0, 12.0, 14.0)
    assert series.requests == (3, 0, 1)
    assert series.input_tokens == (128, 0, 9000)
    assert series.output_tokens == (6, 0, 10)


def test_the_joint_table_has_classes_between_quantiles() -> None:
    joint = describe(requests()).joint
    assert joint.isl_edges_tokens == (32, 32, 64, 9000, 9000)
    assert joint.osl_edges_tokens == (1, 2, 3, 10, 10)
    cells = {(row, column): share for row, shares in enumerate(joint.share_frac) for column, share in enumerate(shares)}
    assert {cell: share for cell, share in cells.items() if share} == {
        (0, 0): 0.25,
        (0, 1): 0.25,
        (2, 2): 0.25,
        (3, 3): 0.25,
    }


def test_rank_correlation_shares_ranks_of_ties() -> None:
    # ranks of ISL 0.5, 2, 0.5, 3 and of OSL 0, 2, 1, 3: covariance 4.5 over √(4.5 · 5)
    assert describe(requests()).joint.rank_correlation == pytest.approx(4.5 / (4.5 * 5) ** 0.5)


def test_a_constant_length_has_no_correlation() -> None:
    assert describe(requests(osl_tokens=ints(2, 2, 2, 2))).joint.rank_correlation is None


def test_the_tail_is_the_longest_requests() -> None:
    tail = describe(requests()).tail
    assert tail.input_share_frac == {0.01: 9000 / 9128, 0.05: 9000 / 9128}
    assert tail.prompts_over_frac == {8192: 0.25, 32768: 0.0, 131072: 0.0}


def test_requests_at_one_instant_have_no_rate_and_no_burstiness() -> None:
    d = describe(requests(arrive_s=np.zeros(4)))
    assert d.requests_per_s is d.input_tokens_per_s is d.burstiness.gap_cv is None
    assert d.burstiness.fano == d.burstiness.peak == {}
    assert d.series.requests == (4,)


def test_burstiness_of_a_clockwork() -> None:
    n = 1201
    d = describe(Requests(arrive_s=np.arange(n) / 2.0, isl_tokens=np.full(n, 5), osl_tokens=np.full(n, 5)))
    assert d.burstiness.gap_cv == 0
    assert d.burstiness.fano == {1.0: 0, 10.0: 0, 60.0: 0}
    assert d.burstiness.peak == {1.0: 1, 10.0: 1, 60.0: 1}


def test_burstiness_of_a_poisson_process() -> None:
    burstiness = describe(poisson(40_000, 5.0)).burstiness
    assert burstiness.gap_cv == pytest.approx(1, abs=0.02)
    assert set(burstiness.fano) == {1.0, 10.0, 60.0, 600.0}
    # the variance ratio of w windows has a standard error of √(2 / w): 8,000, 800 and 133 windows
    for window_s, error in ((1.0, 0.016), (10.0, 0.05), (60.0, 0.123)):
        assert burstiness.fano[window_s] == pytest.approx(1, abs=3 * error)


def test_a_prefix_share_by_hand() -> None:
    prefix = PrefixRuns(
        block_tokens=16, offsets=ints(0, 1, 2, 2, 4), first_ids=ints(0, 0, 0, 50), counts=ints(2, 4, 3, 5)
    )
    share = describe(requests(prefix=prefix)).prefix
    assert share is not None
    # the second finds 2 blocks of 4, the last finds 3; ids 0–3 and 50–54 are held in the end
    assert share.share_frac == 5 * 16 / 9128
    assert share.requests_frac == 0.5
    assert share.distinct_tokens == 9 * 16
    assert share.hit_tokens.most == 48


def test_sessions_by_hand() -> None:
    shape = describe(requests(session_id=ints(1, 0, 1, 1))).sessions
    assert shape is not None
    assert shape.sessions == 2
    assert (shape.turns.least, shape.turns.most) == (1, 3)
    assert shape.turn_gap_s is not None
    assert (shape.turn_gap_s.least, shape.turn_gap_s.most) == (1.0, 3.0)
    assert shape.growth_tokens is not None
    assert (shape.growth_tokens.least, shape.growth_tokens.most) == (0, 9000 - 32)
    assert (shape.first_isl_tokens.least, shape.first_isl_tokens.most) == (32, 64)
    assert shape.length_s.most == 4.0
    assert shape.think_s is None


def test_think_time_needs_what_was_measured() -> None:
    measured = Measured(e2e_s=np.array([0.25, 9.0, np.nan, 1.0]))
    trace = Trace(requests=requests(session_id=ints(1, 0, 1, 1)), format="-", file="-", measured=measured)
    shape = describe(trace).sessions
    assert shape is not None
    assert shape.think_s is not None
    # one gap of 1 s after an answer of 0.25 s; the other follows an answer nobody measured
    assert (shape.think_s.samples, shape.think_s.mean) == (1, 0.75)


def test_single_turns_have_nothing_from_turn_to_turn() -> None:
    shape = describe(requests(session_id=ints(0, 1, 2, 3))).sessions
    assert shape is not None
    assert shape.growth_tokens is shape.turn_gap_s is shape.think_s is None


def test_one_request() -> None:
    d = describe(Requests(arrive_s=np.array([5.0]), isl_tokens=ints(7), osl_tokens=ints(1)))
    assert d.series.start_s == (5.0,)
    assert d.isl_tokens.quantiles[0.99] == 7
    assert sum(d.isl_histogram.requests) == 1
    assert d.prefix is d.sessions is None


@pytest.mark.parametrize("duration_s", [0.5, 100.0, 3600.0, 86400.0, 5e8])
def test_a_series_has_a_bounded_number_of_points(duration_s: float) -> None:
    arrive_s = np.linspace(0, duration_s, 500)
    series = describe(Requests(arrive_s=arrive_s, isl_tokens=np.full(500, 5), osl_tokens=np.full(500, 5))).series
    assert 1 <= len(series.requests) <= 240
    assert sum(series.requests) == 500


# --- the published traces: figures of ../shared/traces/README.md ------------------------------------------


@pytest.mark.parametrize(
    ("file", "isl", "osl", "requests_per_s", "gap_cv"),
    [
        ("azure/AzureLLMInferenceTrace_code.csv", (1469, 5188, 7436, 2048), (13, 55, 251, 28), 2.57, 13.2),
        ("azure/AzureLLMInferenceTrace_conv.csv", (1020, 2735, 4142, 1155), (129, 424, 601, 211), 5.53, 1.09),
        ("mooncake/conversation_trace.jsonl", (6909, 27367, 85400, 12035), (350, 597, 1119, 343), 3.4, None),
        ("agentic/kvct_sessions.jsonl.gz", (103659, 233633, 498519, 122379), (216, 898, 3686, 440), None, None),
    ],
    ids=["azure-code", "azure-conv", "mooncake", "agentic"],
)
def test_figures_of_published_traces(
    traces: Path,
    file: str,
    isl: tuple[int, ...],
    osl: tuple[int, ...],
    requests_per_s: float | None,
    gap_cv: float | None,
) -> None:
    d = describe(read_trace(traces / file))
    for spread, figures in ((d.isl_tokens, isl), (d.osl_tokens, osl)):
        found = [spread.quantiles[frac] for frac in (0.5, 0.9, 0.99)]
        # interpolated there, nearest ranks here: neighbouring values may differ by a little
        assert found == pytest.approx(figures[:3], rel=0.005)
        assert round(spread.mean) == figures[3]
    assert requests_per_s is None or d.requests_per_s == pytest.approx(requests_per_s, abs=0.005)
    assert gap_cv is None or d.burstiness.gap_cv == pytest.approx(gap_cv, abs=0.05)


def test_shares_of_published_traces(traces: Path) -> None:
    mooncake = describe(read_trace(traces / "mooncake/conversation_trace.jsonl")).prefix
    agentic = describe(read_trace(traces / "agentic/kvct_sessions.jsonl.gz"))
    assert mooncake is not None
    assert round(mooncake.share_frac, 3) == 0.374
    assert agentic.prefix is not None
    assert round(agentic.prefix.share_frac, 2) == 0.96
    assert agentic.sessions is not None
    assert agentic.sessions.think_s is not None
    # the file's own think times have p50 10 s over all turns; these are of the 44,233 turns that follow a timed answer
    assert agentic.sessions.think_s.quantiles[0.5] == pytest.approx(10, abs=1.5)
