"""Paces: what is sent when, from a scenario, a trace or a profile; runs joined on one clock."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headway.api.paces import Pace, traffic_of
from headway.errors import InputError
from headway.probe.joining import joined, without_cut_off
from headway.probe.nouns import ERRORS, ClientReport, Endpoint, Load, Scrape, Sent
from headway.types import Requests
from headway.workload.trace import Measured, Trace


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ({"rate_factor": 2.0, "clients": (2,)}, "clients"),
        ({"rates_per_s": (1.0, 2.0)}, "step_s"),
        ({"clients": (1, 2)}, "step_s"),
        ({"step_s": 3.0}, "step_s"),
        ({"rate_per_s": 0.0}, "rate_per_s"),
        ({"duration_s": float("inf")}, "duration_s"),
        ({"clients": (3, 2), "step_s": 1.0}, "clients"),
        ({"clients": (-1,), "duration_s": 4.0}, "clients"),
        ({"clients": (0, 2), "step_s": 1.0}, "clients"),
        ({"clients": (2,), "turnaround_s": float("nan")}, "turnaround_s"),
        ({"clients": (2,), "turnaround_s": -1.0}, "turnaround_s"),
        ({"turnaround_s": 1.0}, "turnaround_s"),
        ({"rates_per_s": (1.0, float("nan")), "step_s": 1.0}, "rates_per_s"),
        ({"ramp_per_s": (1.0, float("inf")), "step_s": 1.0}, "ramp_per_s"),
    ],
)
def test_a_pace_that_makes_no_sense(given: dict[str, Any], place: str) -> None:
    with pytest.raises(InputError) as error:
        Pace(**given)
    assert error.value.place == place


def test_a_ramp_has_stages() -> None:
    pace = Pace(ramp_per_s=(0.5, 4.5), step_s=80.0)
    assert pace.stages() == (0.75, 1.25, 1.75, 2.25, 2.75, 3.25, 3.75, 4.25)
    assert (pace.stage_s(), pace.in_stages, pace.closed) == (10.0, True, False)


def trace_file(folder: Path, count: int = 20) -> Path:
    path = folder / "day.csv"
    rows = "".join(f"{0.5 * k},{10 + k},{5 + k}\n" for k in range(count))
    path.write_text(f"arrive_s,isl_tokens,osl_tokens\n{rows}")
    return path


def test_the_first_requests_of_a_trace(tmp_path: Path) -> None:
    found = traffic_of(trace_file(tmp_path), Pace(), requests=7, window_s=None, seed=0)
    assert (found.name, len(found.requests), found.slo.objectives) == ("day.csv", 7, ())
    load = Pace(rate_per_s=4.0).load("x", found.requests)
    assert load.requests.arrive_s == pytest.approx(np.arange(7) / 4)


def test_a_window_of_a_trace(tmp_path: Path) -> None:
    found = traffic_of(trace_file(tmp_path), Pace(), requests=None, window_s=(2.0, 4.0), seed=0)
    assert found.requests.isl_tokens.tolist() == [14, 15, 16, 17]


def test_a_closed_loop_for_a_time_begins_a_short_trace_anew(tmp_path: Path) -> None:
    found = traffic_of(trace_file(tmp_path), Pace(clients=(2,), duration_s=10.0), requests=None, window_s=None, seed=0)
    assert len(found.requests) == 400
    assert "begun anew" in found.treatments[-1].text


def test_an_open_loop_ends_in_time() -> None:
    found = traffic_of(
        "profile:azure-conv", Pace(duration_s=10.0, rate_per_s=3.0), requests=None, window_s=None, seed=0
    )
    load = Pace(duration_s=10.0, rate_per_s=3.0).load("x", found.requests)
    assert load.requests.arrive_s[-1] < 10
    assert len(load.requests) == pytest.approx(30, abs=20)


def test_a_profile_is_drawn_as_long_as_its_steps_need() -> None:
    pace = Pace(rates_per_s=(1.0, 2.0), step_s=100.0)
    found = traffic_of("profile:azure-conv", pace, requests=None, window_s=None, seed=0)
    load = pace.load("x", found.requests)
    assert load.requests.arrive_s[-1] > 190
    assert len(np.unique(load.stage)) == 2  # type: ignore[arg-type]


def test_only_a_trace_has_a_window() -> None:
    with pytest.raises(InputError, match="window"):
        traffic_of("profile:azure-conv", Pace(), requests=None, window_s=(0.0, 1.0), seed=0)


@pytest.mark.parametrize(
    "pace",
    [
        Pace(clients=(2000,), duration_s=3600.0),
        Pace(clients=(1000, 2000), step_s=3600.0),
        Pace(rates_per_s=(1e6, 2e6), step_s=3600.0),
        Pace(rate_per_s=1e6, duration_s=3600.0),
    ],
)
def test_no_more_is_drawn_than_may_be_sent(pace: Pace, tmp_path: Path) -> None:
    assert pace.needs(1.0, 100_000) == 100_000
    for source in ("profile:azure-conv", trace_file(tmp_path)):
        found = traffic_of(source, pace, requests=None, window_s=None, seed=0, most=300)
        assert len(found.requests) <= 300


# --- runs joined -----------------------------------------------------------------------------------------


def run(codes: list[str], duration_s: float, order: list[int] | None = None) -> Sent:
    count = len(codes)
    rows = np.array(order if order is not None else range(count))
    requests = Requests(
        arrive_s=np.linspace(0, duration_s / 2, count),
        isl_tokens=np.arange(count) + 10,
        osl_tokens=np.full(count, 3),
    )
    measured = Measured(
        ttft_s=np.full(count, 0.1),
        e2e_s=np.where(np.array(codes) == "", 0.3, np.nan),
        itl_s=np.full(2 * count, 0.1),
        itl_offsets=np.arange(count + 1) * 2,
        error=np.array([ERRORS.index(code) for code in codes]),
    )
    client = ClientReport(
        duration_s=duration_s,
        send_error_s={0.5: 0.001, 0.99: duration_s / 1000},
        cpu_s=1.0,
        cpu_per_token_s=0.1,
        chunks=10,
        loop_lag_s={0.99: 0.001},
        most_in_flight=count,
        retried=1,
        clock_jump_s=-0.5,
        limited=False,
        warnings=("It rained.",),
    )
    scrape = Scrape(
        time_s=np.array([0.0, duration_s]),
        values={"running": np.array([0.0, 1.0])},
        histograms={"ttft_s": (np.array([1.0]), np.ones((2, 2)), np.ones(2))},
        names={"running": "x", "ttft_s": "y"},
        failed=1,
    )
    endpoint = Endpoint(
        url="", engine="", version="", model="m", settings=None, num_gpu_blocks=0, tokenizer="", metrics=True
    )
    trace = Trace(requests=requests, format="replay", file="", measured=measured, names={"error": ERRORS})
    load = Load(name="x", requests=requests, concurrency=2)
    return Sent(
        endpoint=endpoint,
        load=load,
        trace=trace,
        client=client,
        scrape=scrape,
        started="2026-01-01T00:00:00Z",
        rows=rows,
    )


def test_what_the_end_cut_off_is_left_out() -> None:
    whole = run(["", "interrupted", "", "status-503", "not-sent", "not-sent"], 10.0)
    kept, cut_off = without_cut_off(whole)
    assert cut_off == 1
    assert kept.trace.requests.isl_tokens.tolist() == [10, 12, 13]
    assert kept.load.requests.isl_tokens.tolist() == [10, 12, 13]
    assert kept.rows.tolist() == [0, 1, 2]
    assert kept.trace.measured is not None and kept.trace.measured.itl_offsets is not None
    assert kept.trace.measured.itl_offsets.tolist() == [0, 2, 4, 6]


def test_rows_still_point_at_their_requests() -> None:
    whole = run(["", "interrupted", ""], 10.0, order=[2, 0, 1])
    kept, _ = without_cut_off(whole)
    asked = whole.load.requests.isl_tokens[whole.rows[[0, 2]]]
    assert kept.load.requests.isl_tokens[kept.rows].tolist() == asked.tolist()


def test_runs_stand_one_after_the_other() -> None:
    one, starts_s = joined([run(["", ""], 10.0), run(["", "", ""], 20.0)])
    assert starts_s.tolist() == [0.0, 10.0]
    assert one.trace.requests.arrive_s.tolist() == [0.0, 5.0, 10.0, 15.0, 20.0]
    assert one.load.stage is not None
    assert one.load.stage[one.rows].tolist() == [0, 0, 1, 1, 1]
    assert one.client.duration_s == 30.0 and one.client.chunks == 20 and one.client.retried == 2
    assert one.client.send_error_s[0.99] == 0.02, "the worse of the two"
    assert one.client.warnings == ("It rained.",)
    assert one.scrape is not None
    assert one.scrape.time_s.tolist() == [0.0, 10.0, 10.0, 30.0]
    assert one.scrape.histograms["ttft_s"][1].shape == (4, 2)
    assert one.trace.measured is not None and one.trace.measured.itl_offsets is not None
    assert one.trace.measured.itl_offsets.tolist() == [0, 2, 4, 6, 8, 10]


def test_a_run_without_metrics_leaves_none() -> None:
    second = dataclasses.replace(run([""], 1.0), scrape=None)
    assert joined([run([""], 1.0), second])[0].scrape is None
