"""What a replay says of what was sent: who was the limit, whether it was as asked for, and as predicted."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

pytest.importorskip("scipy")
pytest.importorskip("aiohttp")

from headway.api.documents import document
from headway.api.forecasts import calibration_for, forecast
from headway.api.paces import Pace, Traffic
from headway.api.replay_figures import fidelity_of
from headway.api.replay_runs import Came, Sender
from headway.api.replays import Replayed, _told
from headway.cli.replay_page import headline, replay_page
from headway.errors import InputError
from headway.perf.endpoint_reader import read_calibration
from headway.perf.endpoint_steps import replica_of
from headway.pictures.page import Table
from headway.probe import loads
from headway.probe.limits import Limits
from headway.probe.nouns import ERRORS, ClientReport, Endpoint, Load, Sent
from headway.simulator import simulate
from headway.types import Requests, Slo
from headway.workload import take
from headway.workload.trace import Measured, Trace

if TYPE_CHECKING:
    from headway.types import FloatColumn, IntColumn

CALIBRATION = Path(__file__).parents[2] / "tests" / "data" / "calibrated" / "calibrations" / "llama-cpu.yaml"
ENDPOINT = Endpoint(
    url="http://127.0.0.1:1",
    engine="",
    version="",
    model="m",
    settings=None,
    num_gpu_blocks=0,
    tokenizer="",
    metrics=False,
)
CLIENT = ClientReport(
    duration_s=100.0,
    send_error_s={0.5: 0.0, 0.99: 0.0},
    cpu_s=1.0,
    cpu_per_token_s=1e-5,
    chunks=10,
    loop_lag_s={0.99: 0.0},
    most_in_flight=3,
    retried=0,
    clock_jump_s=0.0,
    limited=False,
)


def asked_for(count: int, gap_s: float = 1.0) -> Requests:
    chance = np.random.default_rng(count)
    return Requests(
        arrive_s=gap_s * np.arange(count),
        isl_tokens=chance.integers(10, 1000, count),
        osl_tokens=chance.integers(2, 50, count),
    )


def sent_of(
    asked: Requests,
    e2e_s: FloatColumn,
    ttft_s: FloatColumn | None = None,
    *,
    arrive_s: FloatColumn | None = None,
    words: list[str] | None = None,
    endpoint: Endpoint = ENDPOINT,
) -> Sent:
    """What a server did that answered like that; where requests waited for others, in order of arrival."""
    came_s = asked.arrive_s if arrive_s is None else arrive_s
    rows: IntColumn = np.argsort(came_s, kind="stable")
    codes = np.array([ERRORS.index(word) for word in words or [""] * len(asked)])
    measured = Measured(
        ttft_s=(e2e_s / 2 if ttft_s is None else ttft_s)[rows],
        e2e_s=np.where(codes == 0, e2e_s, np.nan)[rows],
        sent_s=np.zeros(len(asked)),
        input_tokens=asked.isl_tokens[rows],
        output_tokens=asked.osl_tokens[rows],
        error=codes[rows],
    )
    requests = take(dataclasses.replace(asked, arrive_s=came_s), rows)
    trace = Trace(requests=requests, format="", file="", measured=measured, names={"error": ERRORS})
    return Sent(
        endpoint=endpoint,
        load=Load(name="x", requests=asked),
        trace=trace,
        client=CLIENT,
        scrape=None,
        started="2026-01-01T00:00:00+00:00",
        rows=rows,
    )


def told(sent: Sent) -> Replayed:
    traffic = Traffic(name="x", requests=sent.load.requests, slo=Slo(objectives=()))
    return _told(traffic, Pace(), Came(sent=sent, whole=sent))


# --- who was the limit ----------------------------------------------------------------------------------


def test_long_answers_that_do_not_grow_are_no_server_that_fell_behind() -> None:
    found = told(sent_of(asked_for(60), np.full(60, 15.0)))
    assert found.completed_per_s < 0.9, "fewer ended before the last arrival than arrived"
    assert "server and client kept up" in headline(found)
    assert found.whole is not None and found.whole.completed_frac == pytest.approx(1.0)


def test_answers_that_take_ever_longer_are() -> None:
    asked = asked_for(60)
    found = told(sent_of(asked, 1 + 0.5 * asked.arrive_s))
    assert "the server fell behind: requests took 500 ms longer for each second" in headline(found)
    assert found.whole is not None and found.whole.completed_frac == pytest.approx(2 / 3)


def test_few_requests_say_nothing_of_the_server() -> None:
    asked = asked_for(12)
    found = told(sent_of(asked, 1 + 0.5 * asked.arrive_s))
    assert headline(found).endswith("; the client kept up, measured.")
    assert found.whole is not None and found.whole.completed_frac is None


def test_a_server_that_fails_requests_did_not_fall_behind() -> None:
    words = ["status-503" if row % 10 == 0 else "" for row in range(60)]
    assert "the client kept up, 6 requests failed" in headline(
        told(sent_of(asked_for(60), np.full(60, 2.0), words=words))
    )


def test_what_was_in_flight_when_somebody_ended_the_run_is_no_failure_and_makes_no_knee() -> None:
    words = [""] * 60 + ["interrupted"] * 8 + ["not-sent"] * 12
    stages = loads.steps("x", asked_for(80), (1.0, 2.0), step_s=25.0)
    sent = dataclasses.replace(
        sent_of(stages.requests, np.full(len(stages.requests), 2.0), words=(words * 2)[: len(stages.requests)]),
        load=stages,
        client=dataclasses.replace(CLIENT, interrupted="Ctrl-C"),
    )
    traffic = Traffic(name="x", requests=stages.requests, slo=Slo(objectives=()))
    came = Came(sent=sent, whole=sent, bounds_s=((0.0, 25.0), (25.0, 50.0)))
    found = _told(traffic, Pace(rates_per_s=(1.0, 2.0), step_s=25.0), came)
    assert [stage.failed for stage in found.stages] == [0, 0]
    assert found.knee is not None and found.knee.at is None
    assert [stage.keeps_up for stage in found.stages] == [True, True]
    assert found.outcome.failed == 0 and found.outcome.unfinished > 0


def test_who_waits_in_vain_is_in_flight_until_it_is_hung_up() -> None:
    sent = sent_of(asked_for(10), np.full(10, 4.0), words=["timeout"] * 5 + ["refused"] + [""] * 4)
    assert sent.trace.measured is not None
    over_s = np.array([20.0] * 5 + [0.0] + [4.0] * 4)
    trace = dataclasses.replace(sent.trace, measured=dataclasses.replace(sent.trace.measured, over_s=over_s))
    series = told(dataclasses.replace(sent, trace=trace)).series
    assert series.in_flight.max() == 9
    at = {second: series.in_flight[np.searchsorted(series.time_s, second)] for second in (4.5, 19.5, 25.0)}
    assert list(at.values()) == [5, 5, 0]


def shown(found: Replayed) -> str:
    return " ".join(" ".join(map(str, dataclasses.astuple(part))) for part in replay_page(found).parts)


def test_where_failures_make_percentiles_infinite_those_of_the_answered_stand_beside() -> None:
    words = ["status-503" if row % 4 == 0 else "" for row in range(60)]
    e2e_s = np.linspace(1, 2, 60)
    found = told(sent_of(asked_for(60), e2e_s, words=words))
    assert found.outcome.latency["e2e"].at(0.95) == np.inf
    assert found.answered_latency["e2e"].at(0.95) == pytest.approx(e2e_s[np.arange(60) % 4 != 0][42]), "the 43rd of 45"
    (table,) = (part for part in replay_page(found).parts if "alone" in getattr(part, "title", ""))
    assert isinstance(table, Table)
    assert [row[0] for row in table.rows] == ["TTFT", "TPOT", "E2E"]
    assert all("never" not in row for row in table.rows)
    assert "alone" not in shown(told(sent_of(asked_for(60), e2e_s)))


def test_clients_that_hung_up_are_counted_by_themselves() -> None:
    words = ["cancelled" if row % 3 == 0 else "" for row in range(60)]
    found = told(sent_of(asked_for(60), np.full(60, 2.0), words=words))
    assert (found.outcome.failed, found.outcome.cancelled, found.outcome.finished) == (0, 20, 40)
    assert found.outcome.latency["e2e"].max_s == 2.0 and found.outcome.latency["ttft"].samples == 60
    assert "20 cancelled by their clients" in shown(found)
    assert "server and client kept up" in headline(found)


def test_what_nobody_told_of_the_cache_is_not_nothing() -> None:
    sent = sent_of(asked_for(60), np.full(60, 2.0))
    assert sent.trace.measured is not None

    def with_counts(counts: IntColumn, endpoint: Endpoint = ENDPOINT) -> Replayed:
        assert sent.trace.measured is not None
        measured = dataclasses.replace(sent.trace.measured, cached_tokens=counts)
        trace = dataclasses.replace(sent.trace, measured=measured)
        return told(dataclasses.replace(sent, trace=trace, endpoint=endpoint))

    untold = with_counts(np.full(60, -1))
    assert np.isnan(untold.outcome.prefix_hit_frac)
    assert "do not tell" in shown(untold) and "0.0 % of the prompt" not in shown(untold)
    vllm = with_counts(np.full(60, -1), dataclasses.replace(ENDPOINT, engine="vllm"))
    assert "--enable-prompt-tokens-details" in shown(vllm)
    assert "0.0 % of the prompt tokens" in shown(with_counts(np.zeros(60, dtype=np.int64)))
    half = np.where(np.arange(60) % 2, sent.trace.measured.input_tokens, -1)
    assert with_counts(half).outcome.prefix_hit_frac == 1.0


def test_all_at_once_is_no_rate_to_keep_up_with() -> None:
    found = told(sent_of(asked_for(30, gap_s=0.0), np.arange(1.0, 31.0)))
    assert found.whole is None
    assert "all at once" in headline(found) and "behind" not in headline(found)


# --- steps of clients -----------------------------------------------------------------------------------


def test_steps_keep_their_notes_and_share_what_may_be_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step sends four requests; ten may be sent."""
    begun: list[tuple[int | None, int]] = []

    def answered(_self: Sender, load: Load, _lasts_s: float | None, _limits: Limits) -> tuple[Sent, tuple[str, ...]]:
        begun.append((load.concurrency, len(load.requests)))
        words = ["" if row < 4 else "not-sent" for row in range(len(load.requests))]
        late_s = np.where(np.arange(len(words)) < 4, 0.0, np.nan)
        sent = sent_of(load.requests, np.full(len(words), 2.0), words=words)
        assert sent.trace.measured is not None
        trace = dataclasses.replace(sent.trace, measured=dataclasses.replace(sent.trace.measured, sent_s=late_s))
        return dataclasses.replace(sent, trace=trace, load=load), (f"note of {load.concurrency}", "the same")

    monkeypatch.setattr(Sender, "_sent", answered)
    pace = Pace(clients=(1, 2, 3, 4), step_s=10.0)
    sender = Sender(ENDPOINT, pace, Limits(requests=10), "completions", None, None, 0, None)
    traffic = Traffic(name="x", requests=asked_for(100), slo=Slo(objectives=()))
    came = sender.of(traffic)
    assert begun == [(1, 10), (2, 6), (3, 2)]
    assert came.notes == ("note of 1", "the same", "note of 2", "note of 3")
    assert came.sent.client.interrupted == came.whole.client.interrupted == "the budget of 10 requests"
    assert len(came.bounds_s) == 3 and len(came.sent.trace.requests) == 10


# --- sent as asked for ----------------------------------------------------------------------------------


def test_turns_that_waited_are_compared_with_what_was_asked_of_them() -> None:
    asked = asked_for(40)
    late_s = np.where(np.arange(40) % 3 == 0, asked.arrive_s + 7.5, asked.arrive_s)
    words = ["timeout" if row % 3 == 1 else "" for row in range(40)]
    found = fidelity_of(sent_of(asked, np.full(40, 2.0), arrive_s=late_s, words=words), closed=False)
    assert found is not None
    _, isl, osl = found.columns
    assert (isl.ks, isl.wasserstein, osl.ks, osl.wasserstein) == (0.0, 0.0, 0.0, 0.0)
    assert isl.asked_mean == isl.sent_mean and osl.asked_mean == osl.sent_mean


# --- predicted before -----------------------------------------------------------------------------------


def endpoint_of(calibration: Path = CALIBRATION) -> Endpoint:
    known = read_calibration(calibration)
    return dataclasses.replace(ENDPOINT, engine="llama-cpp", settings=known.settings, model=f"/x/{known.model}.gguf")


def load_of(count: int = 40) -> Load:
    chance = np.random.default_rng(1)
    requests = Requests(
        arrive_s=np.cumsum(chance.exponential(1.0, count)),
        isl_tokens=chance.integers(20, 100, count),
        osl_tokens=chance.integers(5, 30, count),
    )
    return loads.open_loop("x", requests)


def test_a_server_that_does_what_its_calibration_says_is_in_every_band() -> None:
    known, load = read_calibration(CALIBRATION), load_of()
    foreseen = forecast(known, load, endpoint_of())
    replica = replica_of(known)
    run = simulate(load.requests, replica)
    arrive_s = load.requests.arrive_s
    first_s, last_s = (run.first_ps / 1e12 + replica.frontend_s, run.last_ps / 1e12 + replica.frontend_s)
    sent = sent_of(load.requests, last_s - arrive_s, first_s - arrive_s, endpoint=endpoint_of())
    said = foreseen.beside(sent)
    assert said.held == len(said.figures) == 7
    assert said.outside == ()
    assert all(abs(figure.error_frac) < 0.01 and figure.low < figure.high for figure in said.figures)
    traffic = Traffic(name="x", requests=load.requests, slo=Slo(objectives=()))
    found = _told(traffic, Pace(), Came(sent=sent, whole=sent), foreseen=foreseen)
    (table,) = (part for part in replay_page(found).parts if getattr(part, "title", "").startswith("Predicted"))
    assert isinstance(table, Table)
    assert [row[0] for row in table.rows][:2] == ["TTFT p50", "TTFT p95"] and len(table.rows) == 7
    assert {row[-1] for row in table.rows} == {"in the band"}
    assert table.note.startswith("by llama-cpu of 2026-11-21; 7 of 7 in their bands")
    assert document("replay", found)["predicted"]["figures"][0]["figure"] == "ttft.p50"


def test_another_speed_lies_outside() -> None:
    known, load = read_calibration(CALIBRATION), load_of()
    said = forecast(known, load, endpoint_of()).beside(sent_of(load.requests, np.full(40, 90.0)))
    by_name = {figure.figure: figure for figure in said.figures}
    assert not by_name["e2e.p50"].held
    assert by_name["e2e.p50"].error_frac == pytest.approx(by_name["e2e.p50"].predicted / 90 - 1)


def test_what_differs_from_the_calibrated_server_is_said() -> None:
    here = endpoint_of()
    assert here.settings is not None
    other = dataclasses.replace(
        here, settings=dataclasses.replace(here.settings, max_num_seqs=3), model="else", version="b2"
    )
    turns = load_of()
    turns = dataclasses.replace(
        turns, requests=dataclasses.replace(turns.requests, session_id=np.zeros(40, dtype=np.int64))
    )
    said = " · ".join(forecast(read_calibration(CALIBRATION), turns, other).outside)
    for word in ("max_num_seqs 3: calibrated on 8", "model else", "version b2", "turns of a session"):
        assert word in said


@pytest.mark.parametrize("engine", ["vllm", None])
def test_another_engine_is_refused(engine: str | None) -> None:
    here = endpoint_of()
    assert here.settings is not None
    settings = None if engine is None else dataclasses.replace(here.settings, engine=engine)
    with pytest.raises(InputError, match=r"llama-cpu is of llama\.cpp") as error:
        forecast(read_calibration(CALIBRATION), load_of(), dataclasses.replace(here, settings=settings))
    assert error.value.place == "calibration"


@pytest.mark.parametrize(
    "pace",
    [
        Pace(rates_per_s=(1.0, 2.0), step_s=3.0),
        Pace(ramp_per_s=(1.0, 2.0), step_s=3.0),
        Pace(clients=(1, 2), step_s=3.0),
        Pace(clients=(2,), duration_s=3.0),
    ],
)
def test_a_load_that_is_not_known_before_is_not_predicted(pace: Pace) -> None:
    with pytest.raises(InputError) as error:
        calibration_for(CALIBRATION, pace)
    assert error.value.place == "calibration"


def test_an_open_loop_and_one_of_counted_requests_are() -> None:
    for pace in (Pace(), Pace(duration_s=3.0), Pace(clients=(2,))):
        assert calibration_for(CALIBRATION, pace).name == "llama-cpu"
