"""What of a trace becomes a run: load without answers, requests that never were the engine's, runs that say nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from headway.calibration.clients import write_clients
from headway.calibration.evidence import read_runs
from headway.calibration.measuring import Taken
from headway.calibration.runs import TooFewError, closed, read_run, run_of
from headway.errors import EvidenceError, InputError
from headway.probe.nouns import ERRORS, ClientReport, Endpoint, Load, Scrape, Sent
from headway.probe.scrape_files import write_scrape
from headway.types import Requests
from headway.workload import Measured, Trace, write_trace

COUNT = 40
OUTSIDE = (
    "refused", "tls", "redirected", "connection", "status-4xx", "status-429", "status-5xx", "status-503", "not-sent"
)  # fmt: skip


def trace_of(errors: dict[int, str]) -> Trace:
    """A request a second, answered within one, but for those of these rows."""
    words = [errors.get(row, "") for row in range(COUNT)]
    requests = Requests(
        arrive_s=np.arange(COUNT, dtype=float),
        isl_tokens=np.full(COUNT, 50),
        osl_tokens=np.arange(COUNT) + 11,
    )
    bad = np.array([bool(word) for word in words])
    measured = Measured(
        ttft_s=np.where(bad, np.nan, 0.2),
        e2e_s=np.where(bad, np.nan, 0.8),
        sent_s=np.where([word == "not-sent" for word in words], np.nan, 0.001),
        error=np.array([ERRORS.index(word) for word in words]),
    )
    return Trace(requests=requests, format="headway-parquet", file="", measured=measured, names={"error": ERRORS})


def sent(errors: dict[int, str], **client: object) -> Sent:
    trace = trace_of(errors)
    report = ClientReport(
        duration_s=41.0, send_error_s={}, cpu_s=0.1, cpu_per_token_s=0.0, chunks=1, loop_lag_s={}, most_in_flight=1,
        retried=0, clock_jump_s=0.0, limited=False,
    )  # fmt: skip
    endpoint = Endpoint(
        url="http://127.0.0.1:1", engine="vllm", version="", model="m", settings=None, num_gpu_blocks=0, tokenizer="",
        metrics=False,
    )  # fmt: skip
    return Sent(
        endpoint=endpoint,
        load=Load(name="open", requests=trace.requests),
        trace=trace,
        client=replace(report, **client),  # type: ignore[arg-type]
        scrape=None,
        started="2026-11-21T12:00:00Z",
        rows=np.arange(COUNT),
    )


# --- which requests are load -----------------------------------------------------------------------------


@pytest.mark.parametrize("word", [word for word in ERRORS if word])
def test_what_never_was_the_engines_is_no_load(word: str) -> None:
    run = run_of(sent({3: word, 20: word}))
    left_out = word in OUTSIDE
    assert len(run) == (COUNT - 2 if left_out else COUNT)
    assert (run.requests.osl_tokens == 14).any() != left_out
    assert run.failed == (0 if left_out else 2)
    assert np.isnan(run.ttft_s).sum() == run.failed
    assert run.faults == ({} if word in ("interrupted", "cancelled", "not-sent") else {word: 2})


def test_times_count_from_the_first_that_is_load() -> None:
    assert run_of(sent({0: "refused"})).requests.arrive_s[:2].tolist() == pytest.approx([0.0, 1.0])


def test_a_run_in_which_many_failed_says_nothing() -> None:
    errors = {0: "refused", 5: "timeout", 9: "status-503", 30: "status-503"}
    assert run_of(sent(errors)).faults == {"status-503": 2, "refused": 1, "timeout": 1}
    with pytest.raises(EvidenceError, match=r"open: 5 of 40 .*\(3 × status-503, 1 × refused, 1 × timeout\).* 10 %"):
        run_of(sent(errors | {31: "status-503"}))
    with pytest.raises(EvidenceError, match=r"5 of 20 requests"):  # of those that were sent
        run_of(sent(errors | {31: "status-503"} | dict.fromkeys(range(10, 30), "not-sent")))


def test_a_run_that_was_cut_off_is_one() -> None:
    late = range(20, COUNT)
    for word in ("interrupted", "cancelled", "not-sent"):
        assert run_of(sent(dict.fromkeys(late, word))).faults == {}
    with pytest.raises(TooFewError, match="open: 4 answered requests; at least 5 are needed"):
        run_of(sent(dict.fromkeys(range(4, COUNT), "interrupted")))


def test_who_hangs_up_does_so_after_as_long_and_nobody_else_does() -> None:
    """Simulated at slower terms, a request that was answered is answered too: it has a latency to fit to."""
    one = sent(dict.fromkeys(range(4), "refused") | {9: "cancelled"})
    patient = replace(one.trace.requests, abort_s=one.trace.requests.arrive_s + 0.9)
    run = run_of(replace(one, trace=replace(one.trace, requests=patient)))
    assert run.requests.abort_s is not None
    patience_s = run.requests.abort_s - run.requests.arrive_s
    assert np.flatnonzero(np.isfinite(patience_s)).tolist() == [9 - 4]
    assert patience_s[5] == pytest.approx(0.9, abs=0.01)
    loop = closed(run, 2).requests
    assert loop.abort_s is not None
    assert loop.arrive_s[5] == loop.arrive_s[1]
    assert loop.abort_s[5] - loop.arrive_s[5] == pytest.approx(0.9, abs=0.01)


def test_a_file_is_read_as_what_was_sent(tmp_path: Path) -> None:
    one = sent({3: "status-503", 20: "interrupted"})
    (tmp_path / "first").mkdir()
    write_trace(one.trace, tmp_path / "first" / "requests.parquet")
    run, same = run_of(one), read_run(tmp_path / "first")
    assert same.name == "first"
    assert (same.faults, same.failed, len(same)) == (run.faults, run.failed, len(run))
    np.testing.assert_allclose(same.requests.arrive_s, run.requests.arrive_s)


# --- what is told of them --------------------------------------------------------------------------------


def test_measuring_tells_what_went_wrong_but_not_that_it_ended() -> None:
    lines = (
        "The client used 97 % of the one core it can use.",
        "3 × interrupted: The run ended.",
        "2 × timeout: Late.",
    )
    taken = Taken(sent=[sent({}), sent({}, warnings=lines)], dropped=["closed 4: 1 answered request"])
    assert taken.warnings == (
        "Left out: closed 4: 1 answered request.",
        "open: The client used 97 % of the one core it can use.",
        "open: 2 × timeout: Late.",
    )
    assert not taken.stopped
    assert Taken(sent=[sent({}, interrupted="Ctrl-C")]).stopped


# --- files that are no runs ------------------------------------------------------------------------------


def parquet(path: Path, **columns: list[float]) -> Path:
    path.parent.mkdir(exist_ok=True)
    pl.DataFrame(columns).write_parquet(path)
    return path


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    for name in ("run.parquet", "day/metrics.parquet", "day/requests.parquet"):
        path = parquet(tmp_path / name, time_s=[1.0, 2.0])
        path.write_bytes(path.read_bytes()[:60])
        with pytest.raises(InputError, match=rf"{name}: not readable as Parquet"):
            read_runs(path, 4096)


def test_metrics_of_another_form_are_refused_as_metrics(tmp_path: Path) -> None:
    parquet(tmp_path / "day" / "metrics.parquet", time_s=[1.0, 2.0])
    with pytest.raises(InputError, match=r"metrics\.parquet: expected the columns time_s, signal"):
        read_runs(tmp_path / "day", 4096)


def test_one_look_at_a_server_is_no_load(tmp_path: Path) -> None:
    values = {"running": np.array([4.0])}
    scrape = Scrape(time_s=np.zeros(1), values=values, histograms={}, names={"running": "x"}, failed=0)
    (tmp_path / "day").mkdir()
    write_scrape(scrape, tmp_path / "day" / "metrics.parquet")
    with pytest.raises(EvidenceError, match=r"metrics\.parquet: 1 scrape in it"):
        read_runs(tmp_path / "day", 4096)


def test_a_kept_run_says_how_many_clients_sent_it(tmp_path: Path) -> None:
    write_trace(trace_of({}), tmp_path / "requests.parquet")
    assert read_run(tmp_path).concurrency is None  # a request a second, whatever is in flight
    write_clients(tmp_path, Load(name="closed", requests=trace_of({}).requests, concurrency=3, turnaround_s=0.5))
    found = read_run(tmp_path)
    assert (found.concurrency, found.turnaround_s) == (3, 0.5)
    assert found.requests.arrive_s.max() == found.requests.arrive_s[2]


@pytest.mark.parametrize(
    "said", ["{}", "[]", "no", '{"concurrency": 0, "turnaround_s": 0}', '{"concurrency": 2.5, "turnaround_s": 0}']
)
def test_what_says_no_number_of_clients_is_refused(tmp_path: Path, said: str) -> None:
    write_trace(trace_of({}), tmp_path / "requests.parquet")
    (tmp_path / "clients.json").write_text(said)
    with pytest.raises(InputError, match=r"clients\.json"):
        read_run(tmp_path)
