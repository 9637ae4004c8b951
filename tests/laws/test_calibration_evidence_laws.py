"""Laws of calibrating without requests: summaries and metrics of a known truth give it back, less surely."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_calibration_laws import ABOUT, BLOCKS, LLAMA, TRUTH, VLLM, drawn, made, replica

from headway.calibration.drawing import DRAWS, Arrivals, Lengths, draws_of
from headway.calibration.evidence import read_runs
from headway.calibration.fitting import Fit, fit
from headway.calibration.judging import judge
from headway.calibration.predicting import predict, simulated_figures
from headway.probe.nouns import Load, Scrape
from headway.probe.scrape_files import write_scrape
from headway.simulator import simulate
from headway.workload import Measured, RunAbout, Trace, write_result

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from headway.calibration.runs import Run
    from headway.types import EngineSettings, FloatColumn, Requests

#: What a file with requests has beside its summary.
LISTS = (
    "input_lens", "output_lens", "asked_output_lens", "ttfts", "itls", "latencies", "start_times", "queue_times",
    "generated_texts", "errors",
)  # fmt: skip
#: Upper bounds of vLLM's histograms (0.32.0), in seconds.
BOUNDS = {
    "ttft_s": (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40),
    "tpot_s": (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10),
    "e2e_s": (0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60),
    "isl_tokens": (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000),
    "osl_tokens": (1, 2, 5, 10, 20, 50, 100),
}
P50 = ("ttft.p50", "tpot.p50", "e2e.p50")


# --- made of a truth --------------------------------------------------------------------------------------


def trace_of(run: Run, engine: EngineSettings) -> Trace:
    """What a client would have kept of a run of the truth."""
    one = replica(TRUTH, engine)
    pause_s = one.frontend_s if run.concurrency else 0.0
    arrive_s = simulate(run.requests, one, concurrency=run.concurrency, turnaround_s=pause_s).arrive_ps / 1e12
    order = np.argsort(arrive_s, kind="stable")
    e2e_s = run.ttft_s + np.nan_to_num(run.tpot_s) * (run.requests.osl_tokens - 1)
    requests = replace(
        run.requests,
        arrive_s=arrive_s[order],
        isl_tokens=run.requests.isl_tokens[order],
        osl_tokens=run.requests.osl_tokens[order],
    )
    return Trace(requests=requests, format="", file="", measured=Measured(ttft_s=run.ttft_s[order], e2e_s=e2e_s[order]))


def summary_file(folder: Path, run: Run, engine: EngineSettings, form: str, rate: float | None = None) -> Path:
    """A summary of a run, as a tool writes it that was not asked for requests."""
    path = folder / f"{run.name.replace(' ', '-')}.json"
    write_result(trace_of(run, engine), path, form, RunAbout(concurrency=run.concurrency, rate_per_s=rate))
    said = json.loads(path.read_text(encoding="utf-8"))
    if form == "vllm-bench":
        said = {key: value for key, value in said.items() if key not in LISTS}
    else:
        said["benchmarks"][0]["requests"] = {"successful": []}
    path.write_text(json.dumps(said), encoding="utf-8")
    return path


def scrape_file(
    folder: Path, requests: Requests, engine: EngineSettings, *, name: str, clients: int | None = None
) -> Path:
    """What a server counts of requests, looked at sixty times."""
    one = replace(replica(TRUTH, engine), frontend_s=0.0)
    done = simulate(requests, one, concurrency=clients, turnaround_s=0.002 if clients else 0.0)
    arrive_s, first_s, last_s = (column / 1e12 for column in (done.arrive_ps, done.first_ps, done.last_ps))
    end_s = float(arrive_s.max())  # the load ends there; what is still in flight is not seen to end
    times_s = np.linspace(0.0, end_s, 60)
    gaps = requests.osl_tokens - 1
    latencies: dict[str, tuple[FloatColumn, FloatColumn]] = {
        "ttft_s": (first_s, first_s - arrive_s),
        "tpot_s": (last_s[gaps > 0], ((last_s - first_s) / np.maximum(gaps, 1))[gaps > 0]),
        "e2e_s": (last_s, last_s - arrive_s),
        "isl_tokens": (last_s, requests.isl_tokens.astype(float)),
        "osl_tokens": (last_s, requests.osl_tokens.astype(float)),
    }
    ended = np.array([(last_s <= t).sum() for t in times_s], dtype=float)
    arrived = np.array([(arrive_s <= t).sum() for t in times_s], dtype=float)
    scrape = Scrape(
        time_s=times_s,
        values={
            "requests": ended,
            "running": arrived - ended,
            "generation_tokens": np.array([requests.osl_tokens[last_s <= t].sum() for t in times_s], dtype=float),
        },
        histograms={signal: counted(times_s, *pair, BOUNDS[signal]) for signal, pair in latencies.items()},
        names={signal: signal for signal in ("requests", "running", "generation_tokens", *BOUNDS)},
        failed=0,
    )
    path = folder / name / "metrics.parquet"
    path.parent.mkdir()
    write_scrape(scrape, path)
    return path


def counted(
    times_s: FloatColumn, at_s: FloatColumn, values: FloatColumn, bounds: Sequence[float]
) -> tuple[FloatColumn, FloatColumn, FloatColumn]:
    edges = np.array([*bounds, np.inf], dtype=float)
    inside = [values[at_s <= t] for t in times_s]
    counts = np.array([[(one <= edge).sum() for edge in edges] for one in inside], dtype=float)
    return edges[:-1], counts, np.array([one.sum() for one in inside])


Evidence = tuple[str, "EngineSettings", "list[Run]", Fit]


SUMMARIES = [pytest.param(form, marks=pytest.mark.nightly) for form in ("vllm-bench", "guidellm")]


@pytest.fixture(scope="module", params=[*SUMMARIES, "metrics"])
def known(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    """A fit to evidence of one kind, of a truth."""
    folder, kind = tmp_path_factory.mktemp("evidence"), request.param
    engine = VLLM if kind == "metrics" else LLAMA
    if kind == "metrics":
        loads = [(drawn(9, 200, 0.6), None), (drawn(8, 100), 1), (drawn(7, 100), 2), (drawn(6, 100), 4)]
        files = [
            scrape_file(folder, requests, engine, name=f"load-{k}", clients=clients)
            for k, (requests, clients) in enumerate(loads)
        ]
    else:
        files = [
            summary_file(folder, made(engine, name=f"closed {k}", seed=k, clients=k), engine, kind) for k in (1, 2, 4)
        ]
    runs = [run for file in files for run in read_runs(file, engine.max_model_len)]
    return kind, engine, runs, fit(runs, engine, BLOCKS)


def test_the_truth_comes_back_within_its_bands(known: Evidence) -> None:
    kind, engine, runs, found = known
    judged = judge(found, runs, engine, BLOCKS, about=ABOUT)
    assert {run.evidence for run in judged.runs} == {"metrics" if kind == "metrics" else "summary"}
    misfits = judged.uncertainty.misfit_log_sd
    assert misfits["output_tokens_per_s"] == misfits["e2e.p50"]  # nobody states the rate
    load = Load(name="new", requests=drawn(77, 40), concurrency=3)
    predicted = predict(judged, load, draws=60)
    truth = simulated_figures(load, replica(TRUTH, engine))
    for name in P50:
        figure = predicted.figures[name]
        assert figure.value == pytest.approx(truth[name], rel=0.2), name
        assert figure.low <= truth[name] <= figure.high, name
    if kind == "metrics":  # the server's clock does not see the way to it
        assert "frontend_s" in judged.uncertainty.not_identified


def test_less_is_known_than_by_the_requests(known: Evidence) -> None:
    _, engine, _, found = known
    whole = fit([made(engine, name=f"closed {k}", seed=k, clients=k) for k in (1, 2, 4)], engine, BLOCKS)
    ours, theirs = (
        {name: math.sqrt(one.covariance[k][k]) for k, name in enumerate(one.parameters.names)} for one in (found, whole)
    )
    both = set(ours) & set(theirs)
    assert {"decode_s.1", "decode_s.2", "mixed_s.32", "mixed_s.128"} <= both
    told = [name for name in both if theirs[name] < 0.3]  # the others stand at their priors
    assert len(told) > 6
    assert all(ours[name] >= 0.9 * theirs[name] for name in told)
    assert ours["mixed_s.32"] > 1.5 * theirs["mixed_s.32"]
    assert ours["decode_s.2"] > 1.5 * theirs["decode_s.2"]


# --- drawing ----------------------------------------------------------------------------------------------


@given(mean=st.floats(2, 500), frac=st.one_of(st.just(math.nan), st.floats(0, 1)), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_requests_are_drawn_as_they_are_said_to_be(mean: float, frac: float, seed: int) -> None:
    isl, osl = Lengths(mean=mean, sd=frac * mean), Lengths(mean=mean)
    draws = draws_of(str(seed), 300, Arrivals(rate_per_s=2.0), isl, osl, 10**6)
    assert len(draws) == DRAWS
    for requests in draws:
        assert requests.isl_tokens.mean() == pytest.approx(mean, rel=0.05, abs=0.3)
        assert requests.arrive_s[0] == 0
        assert requests.arrive_s[-1] == pytest.approx(150, rel=0.35)
    spreads = [float(np.log(one.osl_tokens).std()) for one in draws]
    assert spreads[0] <= math.log1p(1 / math.floor(mean)) / 2 + 1e-9  # whole tokens on either side of the mean
    assert mean < 10 or spreads[DRAWS - 1] > 0.3 or len({round(one, 1) for one in spreads}) > 3
    again = draws_of(str(seed), 300, Arrivals(rate_per_s=2.0), isl, osl, 10**6)
    assert all(np.array_equal(one.isl_tokens, other.isl_tokens) for one, other in zip(draws, again, strict=True))


@given(most=st.integers(4, 400), mean=st.floats(1, 300))
@settings(max_examples=30, deadline=None)
def test_no_request_is_drawn_that_the_engine_would_refuse(most: int, mean: float) -> None:
    wide = Lengths(mean=mean, sd=2 * mean)
    for requests in draws_of("r", 50, Arrivals(concurrency=2), wide, wide, most):
        assert np.all(requests.isl_tokens + requests.osl_tokens <= most)
        assert min(requests.isl_tokens.min(), requests.osl_tokens.min()) >= 1


# --- windows of metrics -----------------------------------------------------------------------------------


def test_clients_that_wait_are_told_from_arrivals(tmp_path: Path) -> None:
    for clients in (1, 3):
        (run,) = read_runs(
            scrape_file(tmp_path, drawn(1, 90), VLLM, name=f"c{clients}", clients=clients), VLLM.max_model_len
        )
        assert run.concurrency == clients
        assert run.name == f"c{clients}"
    (run, *_) = read_runs(scrape_file(tmp_path, drawn(1, 90, 0.5), VLLM, name="open"), VLLM.max_model_len)
    assert run.concurrency is None
    assert run.stated is not None
    assert "requests came as a Poisson process" in run.stated.notes


def answer_of(path: Path, scrape: Any) -> Path:
    """The same as Prometheus would answer: series with times since 1970."""
    times = [f"{1_795_000_000 + t:.3f}" for t in scrape.time_s]
    names = {"requests": "vllm:request_success_total", "running": "vllm:num_requests_running"}
    names |= {"generation_tokens": "vllm:generation_tokens_total"}
    histograms = {"ttft_s": "vllm:time_to_first_token_seconds", "e2e_s": "vllm:e2e_request_latency_seconds"}
    histograms |= {"tpot_s": "vllm:request_time_per_output_token_seconds"}
    histograms |= {"isl_tokens": "vllm:request_prompt_tokens", "osl_tokens": "vllm:request_generation_tokens"}

    def series(name: str, column: FloatColumn, **labels: str) -> dict[str, Any]:
        values = [[float(t), str(v)] for t, v in zip(times, column.tolist(), strict=True)]
        return {"metric": {"__name__": name, **labels}, "values": values}

    result = [series(own, scrape.values[signal]) for signal, own in names.items()]
    for signal, own in histograms.items():
        bounds, counts, totals = scrape.histograms[signal]
        edges = [*map(str, bounds.tolist()), "+Inf"]
        result += [series(f"{own}_bucket", column, le=edge) for edge, column in zip(edges, counts.T, strict=True)]
        result.append(series(f"{own}_sum", totals))
    path.write_text(json.dumps({"status": "success", "data": {"resultType": "matrix", "result": result}}))
    return path


def test_what_prometheus_answers_reads_as_the_scrape_it_keeps(tmp_path: Path) -> None:
    from headway.probe.scrape_files import read_scrape

    file = scrape_file(tmp_path, drawn(9, 400, 0.5), VLLM, name="day")
    answer = answer_of(tmp_path / "answer.json", read_scrape(file))
    ours, theirs = (read_runs(one, VLLM.max_model_len) for one in (file, answer))
    assert len(ours) == len(theirs) > 1
    for one, other in zip(ours, theirs, strict=True):
        assert one.stated is not None
        assert other.stated is not None
        assert [(f.metric, f.frac) for f in one.stated.figures] == [(f.metric, f.frac) for f in other.stated.figures]
        for figure, again in zip(one.stated.figures, other.stated.figures, strict=True):
            assert again.value_s == pytest.approx(figure.value_s, rel=1e-6)
