"""Laws of measured columns: what is written reads back the same, and a run scores alike however it came about."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headway.metrics import CANCELLED, Served, outcome, rank_of
from headway.types import Objective, Requests, Slo
from headway.workload import Measured, Trace, describe, read_trace, served_of, write_trace

if TYPE_CHECKING:
    from collections.abc import Sequence

WORDS = ("", "timeout", "status-503", "stopped, early")
#: what the codes of `scored` stand for
ENDS = ("", "timeout", "cancelled")
SLO = Slo(objectives=(Objective(metric="ttft", percentile_frac=0.9, limit_s=1.0),))


def ints(values: Sequence[int]) -> np.ndarray:
    return np.array(values, dtype=np.int64)


@st.composite
def runs(draw: st.DrawFn, least: int = 1) -> Trace:
    """A trace with any of the measured columns."""
    n = draw(st.integers(least, 8))

    def column(strategy: st.SearchStrategy) -> list:
        return draw(st.lists(strategy, min_size=n, max_size=n))

    times = st.one_of(st.just(float("nan")), st.floats(0, 1e6))
    counts = st.one_of(st.just(-1), st.integers(0, 2**31 - 1))
    maybe = {name: np.array(column(times)) for name in ("ttft_s", "e2e_s", "sent_s") if draw(st.booleans())}
    maybe |= {
        name: ints(column(counts)) for name in ("cached_tokens", "input_tokens", "output_tokens") if draw(st.booleans())
    }
    if draw(st.booleans()):
        maybe["error"] = ints(column(st.integers(0, len(WORDS) - 1)))
    if draw(st.booleans()):
        gaps = column(st.lists(st.floats(0, 100), max_size=4))
        maybe["itl_s"] = np.array([one for row in gaps for one in row], dtype=np.float64)
        maybe["itl_offsets"] = ints([0, *np.cumsum([len(row) for row in gaps])])
    requests = Requests(
        arrive_s=np.sort(np.array(column(st.floats(0, 1e6)))) + 0.0,
        isl_tokens=ints(column(st.integers(1, 2**31 - 1))),
        osl_tokens=ints(column(st.integers(1, 2**31 - 1))),
        max_tokens=ints(column(st.integers(1, 2**31 - 1))) if draw(st.booleans()) else None,
        abort_s=np.array(column(times)) if draw(st.booleans()) else None,
    )
    measured = Measured(**maybe) if maybe else None
    return Trace(requests=requests, format="headway-parquet", file="", measured=measured, names={"error": WORDS})


def words(trace: Trace) -> list[str]:
    assert trace.measured is not None and trace.measured.error is not None
    return [trace.names["error"][code] for code in trace.measured.error.tolist()]


def same_runs(a: Trace, b: Trace) -> None:
    """Assert that two traces say the same; NaN is NaN, and codes of errors stand for the same words."""
    for name in ("arrive_s", "isl_tokens", "osl_tokens", "max_tokens", "abort_s"):
        np.testing.assert_array_equal(getattr(a.requests, name), getattr(b.requests, name), err_msg=name)
    assert (a.measured is None) == (b.measured is None)
    if a.measured is None or b.measured is None:
        return
    for field in dataclasses.fields(Measured):
        x, y = getattr(a.measured, field.name), getattr(b.measured, field.name)
        assert (x is None) == (y is None), field.name
        if x is not None and field.name != "error":
            np.testing.assert_array_equal(x, y, err_msg=field.name)
    if a.measured.error is not None:
        assert words(a) == words(b)


@pytest.mark.parametrize("ending", [".parquet", ".csv", ".csv.gz"])
@settings(max_examples=60, deadline=None)
@given(trace=runs())
def test_what_was_measured_reads_back_the_same(
    trace: Trace, ending: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("run") / f"requests{ending}"
    write_trace(trace, path)
    again = read_trace(path, order="refuse")
    same_runs(trace, again)
    assert again.treatments == ()
    assert describe(again).requests == len(trace.requests)
    assert [one.name for one in path.parent.iterdir()] == [path.name]


@settings(max_examples=40, deadline=None)
@given(trace=runs(least=2), data=st.data())
def test_a_window_takes_what_was_measured_along(
    trace: Trace, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("run") / "requests.parquet"
    write_trace(trace, path)
    cut_s = data.draw(st.sampled_from(trace.requests.arrive_s.tolist()))
    kept = int((trace.requests.arrive_s >= cut_s).sum())
    part = read_trace(path, window_s=(cut_s, 1e9))
    assert len(part.requests) == kept
    if trace.measured is not None and trace.measured.error is not None:
        assert words(part) == words(trace)[-kept:]
    if trace.measured is not None and trace.measured.itl_s is not None:
        assert part.measured is not None and part.measured.itl_s is not None
        first = trace.measured.itl_offsets[len(trace.requests) - kept]  # type: ignore[index]
        np.testing.assert_array_equal(part.measured.itl_s, trace.measured.itl_s[first:])


# --- scoring ---------------------------------------------------------------------------------------------


@st.composite
def scored(draw: st.DrawFn) -> tuple[Requests, Measured]:
    n = draw(st.integers(1, 150))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    arrive_s = np.sort(rng.uniform(0, 100, n))
    asked, got = rng.integers(1, 40, n), rng.integers(1, 40, n)
    ttft_s = rng.uniform(0.01, 2, n)
    gaps = [rng.uniform(0.001, 0.1, int(count) - 1) for count in got]
    error = rng.integers(0, 3, n) * (rng.random(n) < draw(st.floats(0, 1)))
    e2e_s = np.where(error != 0, np.nan, ttft_s + np.array([one.sum() for one in gaps]))
    requests = Requests(arrive_s=arrive_s, isl_tokens=rng.integers(1, 400, n), osl_tokens=asked)
    return requests, Measured(
        ttft_s=ttft_s,
        e2e_s=e2e_s,
        itl_s=np.concatenate(gaps),
        itl_offsets=ints([0, *np.cumsum([len(one) for one in gaps])]),
        output_tokens=got,
        error=error.astype(np.int64),
    )


@settings(max_examples=60, deadline=None)
@given(run=scored())
def test_a_measured_run_scores_as_a_simulated_one_of_the_same_times(run: tuple[Requests, Measured]) -> None:
    requests, measured = run
    assert measured.e2e_s is not None and measured.ttft_s is not None and measured.output_tokens is not None
    assert measured.error is not None
    got = outcome(requests, served_of(requests, measured, ENDS), SLO, "measured")
    # the simulator's form: requests of the lengths really received, times on the clock
    osl_tokens = np.where(measured.error == 0, measured.output_tokens, requests.osl_tokens)
    simulated = Served(
        first_s=requests.arrive_s + measured.ttft_s,
        last_s=requests.arrive_s + measured.e2e_s,
        failed=np.choose(measured.error, [0, 1, CANCELLED]),
    )
    expected = outcome(dataclasses.replace(requests, osl_tokens=osl_tokens), simulated, SLO, "measured")
    assert (got.arrived, got.finished, got.failed, got.cancelled, got.unfinished) == (
        expected.arrived,
        expected.finished,
        expected.failed,
        expected.cancelled,
        expected.unfinished,
    )
    assert got.output_tokens_per_s == expected.output_tokens_per_s
    assert got.goodput_per_s == expected.goodput_per_s
    for metric in ("ttft", "tpot", "e2e"):
        np.testing.assert_equal(got.latency[metric].quantiles_s, expected.latency[metric].quantiles_s)


@settings(max_examples=40, deadline=None)
@given(run=scored())
def test_failed_requests_are_infinitely_late_and_itl_is_over_recorded_gaps(run: tuple[Requests, Measured]) -> None:
    requests, measured = run
    assert measured.error is not None and measured.itl_s is not None
    every = dataclasses.replace(measured, error=np.ones_like(measured.error))
    lost = outcome(requests, served_of(requests, every, ENDS), SLO, "measured")
    assert lost.finished == 0 and lost.output_tokens_per_s == 0 and lost.failed == lost.arrived
    assert lost.latency["ttft"].at(0.5) == float("inf")
    assert lost.latency["e2e"].at(0.5) == float("inf")
    found = outcome(requests, served_of(requests, measured), SLO, "measured").latency.get("itl")
    ordered = np.sort(measured.itl_s)
    assert (found is None) == (len(ordered) == 0)
    if found is not None:
        assert found.samples == len(ordered)
        assert found.at(0.9) == ordered[rank_of(0.9, len(ordered))]


@settings(max_examples=30, deadline=None)
@given(run=scored())
def test_without_first_tokens_there_is_an_e2e_and_nothing_else(run: tuple[Requests, Measured]) -> None:
    requests, measured = run
    whole = outcome(requests, served_of(requests, measured), SLO, "measured")
    blind = dataclasses.replace(measured, ttft_s=None, itl_s=None, itl_offsets=None)
    found = outcome(requests, served_of(requests, blind), SLO, "measured")
    assert set(found.latency) == {"e2e"}
    np.testing.assert_equal(found.latency["e2e"].quantiles_s, whole.latency["e2e"].quantiles_s)
