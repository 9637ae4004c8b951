"""Laws of calibrating: runs made by known step times give those step times back, and what nobody measured is named."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headway.calibration.choosing import likelier
from headway.calibration.design import candidates, propose
from headway.calibration.fitting import DRIFT_LOG_SD, Fit, fit
from headway.calibration.judging import judge, run_figures
from headway.calibration.parameters import most_in_flight, parameters
from headway.calibration.predicting import FIGURES, GROWTH, growth_per_s, predict
from headway.calibration.runs import Run, clients_of, closed, independent
from headway.calibration.simulated import simulated_run, simulated_times
from headway.perf.endpoint import StepTerms
from headway.perf.endpoint_steps import step_table
from headway.probe.nouns import Load
from headway.types import EngineSettings, Replica, Requests

LLAMA = EngineSettings(
    engine="llama.cpp",
    version="1",
    max_num_seqs=4,
    max_num_batched_tokens=2048,
    max_model_len=1024,
    gpu_memory_utilization=1.0,
    block_size=1,
    async_scheduling=False,
)
VLLM = replace(LLAMA, engine="vllm", version="0.33.0", block_size=16, max_num_seqs=8, async_scheduling=True)
BLOCKS = 4096
TRUTH = StepTerms(
    decode_s={1: 0.012, 2: 0.02, 4: 0.034, 8: 0.06},
    mixed_s={1: 0.012, 32: 0.16, 128: 0.62, 512: 2.4},
    context_s_per_token=3e-6,
    prefill_s_per_pair=1e-7,
    prefill_context_s_per_token=1e-7,
    sequence_s=5e-4,
    frontend_s=0.006,
)
ABOUT = {
    "name": "made",
    "made": "2026-11-21",
    "engine": "llama.cpp",
    "engine_version": "1",
    "model": "m",
    "hardware": "h",
    "weight_dtype": "bf16",
    "kv_dtype": "bf16",
}


def drawn(seed: int, count: int, rate_per_s: float | None = None) -> Requests:
    rng = np.random.default_rng(seed)
    gaps = rng.exponential(1 / rate_per_s, count) if rate_per_s else np.zeros(count)
    return Requests(
        arrive_s=np.cumsum(gaps),
        isl_tokens=np.exp(rng.uniform(math.log(8), math.log(250), count)).astype(np.int64),
        osl_tokens=rng.integers(4, 40, count),
    )


def replica(terms: StepTerms, engine: EngineSettings, speed: float = 1.0) -> Replica:
    from headway.perf.endpoint import SCALARS

    slower = replace(
        terms,
        decode_s={at: s * speed for at, s in terms.decode_s.items()},
        mixed_s={at: s * speed for at, s in terms.mixed_s.items()},
        **{name: getattr(terms, name) * speed for name in SCALARS if name != "frontend_s"},
    )
    table = step_table(slower, engine)
    return Replica(settings=engine, step=table, num_gpu_blocks=BLOCKS, frontend_s=terms.frontend_s)


def made(
    engine: EngineSettings,
    *,
    name: str,
    seed: int,
    clients: int | None = None,
    rate: float | None = None,
    speed: float = 1.0,
) -> Run:
    """A run of the truth, with noise of 3 % on every latency."""
    nothing = np.zeros(0)
    run = Run(name=name, requests=drawn(seed, 40, rate), ttft_s=nothing, tpot_s=nothing, concurrency=clients)
    sends_s, ttft_s, tpot_s = simulated_times(run, replica(TRUTH, engine, speed))
    rng = np.random.default_rng(seed)
    return replace(
        run,
        sends_s=sends_s,
        ttft_s=ttft_s * rng.lognormal(0, 0.03, len(run)),
        tpot_s=tpot_s * rng.lognormal(0, 0.03, len(run)),
    )


def some_runs(engine: EngineSettings) -> list[Run]:
    speeds = (1.0, 0.96, 1.05, 1.02, 0.98)
    loops = [
        made(engine, name=f"closed {clients}", seed=clients, clients=clients, speed=speeds[k])
        for k, clients in enumerate((1, 2, 4))
    ]
    return [*loops, made(engine, name="open", seed=9, rate=0.6, speed=speeds[3])]


@pytest.fixture(scope="module", params=[LLAMA, VLLM], ids=lambda engine: engine.engine)
def fitted(request: pytest.FixtureRequest) -> tuple[EngineSettings, list[Run], Fit]:
    engine = request.param
    runs = some_runs(engine)
    return engine, runs, fit(runs, engine, BLOCKS)


def test_the_truth_comes_back(fitted: tuple[EngineSettings, list[Run], Fit]) -> None:
    engine, _, found = fitted
    truth, ours = (step_table(terms, engine) for terms in (TRUTH, found.terms))
    for batch in (1, 2, 3, 4):
        assert ours.decode_ps[batch] == pytest.approx(truth.decode_ps[batch], rel=0.12)
    for tokens in (32, 100, 200):
        whole = [
            table.mixed_ps[tokens] + table.sequence_ps + table.prefill_ps_per_pair * tokens**2
            for table in (ours, truth)
        ]
        assert whole[0] == pytest.approx(whole[1], rel=0.12)


@pytest.mark.parametrize("truth", [True, False])
@pytest.mark.parametrize("default", [True, False])
def test_latencies_tell_whether_steps_are_scheduled_asynchronously(truth: bool, default: bool) -> None:
    runs = some_runs(replace(VLLM, async_scheduling=truth))
    chosen, found, told = likelier(runs, replace(VLLM, async_scheduling=default), BLOCKS)
    assert chosen.async_scheduling == truth
    assert told.startswith(f"{truth}: the runs fit it better")
    assert found.loss == fit(runs, chosen, BLOCKS).loss


def test_what_the_runs_do_not_tell_is_named_and_the_rest_is_surer_than_before(
    fitted: tuple[EngineSettings, list[Run], Fit],
) -> None:
    engine, runs, found = fitted
    judged = judge(found, runs, engine, BLOCKS, about=ABOUT)
    assert np.all(found.entries_sd <= found.parameters.spreads * (1 + 1e-9))
    assert not {"decode_s.1", "decode_s.2", "drift_log_sd"} & set(judged.uncertainty.not_identified)
    assert {run.name for run in judged.runs} == {run.name for run in runs}
    assert set(judged.bands_frac) == set(judged.uncertainty.misfit_log_sd) == set(FIGURES)
    assert all(set(run.errors_frac) == set(FIGURES) for run in judged.runs)


def test_another_start_comes_out_within_what_is_not_known(fitted: tuple[EngineSettings, list[Run], Fit]) -> None:
    engine, runs, found = fitted
    elsewhere = replace(
        found.parameters, centres=found.parameters.centres + np.resize([0.1, -0.1], len(found.parameters.centres))
    )
    other = fit(runs, engine, BLOCKS, params=elsewhere)
    moved = (other.logs - found.logs) / np.sqrt(np.diag(found.covariance))
    assert np.sqrt(np.mean(moved**2)) < 1.0


def test_a_place_that_no_run_reaches_is_named(fitted: tuple[EngineSettings, list[Run], Fit]) -> None:
    engine, runs, found = fitted
    known = found.parameters
    at = len(known.decode_knots) + len(known.mixed_knots)
    centres, spreads = (np.insert(column, at, column[at - 1]) for column in (known.centres, known.spreads))
    beyond = replace(known, mixed_knots=(*known.mixed_knots, 2048), centres=centres, spreads=spreads)
    judged = judge(fit(runs, engine, BLOCKS, params=beyond), runs[:2], engine, BLOCKS, about=ABOUT)
    assert "mixed_s.2048" in judged.uncertainty.not_identified
    assert judged.valid["tokens"][1] < 2048


def test_two_runs_do_not_tell_how_far_runs_lie_apart() -> None:
    runs = some_runs(LLAMA)[:2]
    found = fit(runs, LLAMA, BLOCKS)
    judged = judge(found, runs, LLAMA, BLOCKS, about=ABOUT)
    assert found.drift_log_sd == DRIFT_LOG_SD
    assert "drift_log_sd" in judged.uncertainty.not_identified
    assert not judged.bands_frac


def test_runs_of_one_group_are_left_out_together() -> None:
    runs = [replace(run, group="one file") if k < 2 else run for k, run in enumerate(some_runs(LLAMA))]
    assert independent(runs) == [{0, 1}, {2}, {3}]
    assert independent(runs[:2]) == [{0, 1}]


def test_what_a_run_is_predicted_by_has_not_seen_it() -> None:
    """A run that is a third slower than the rest is a third off; the fit to all of them meets it half way."""
    runs = [made(LLAMA, name=f"closed {k}", seed=k, clients=2, speed=1.0 if k else 1.35) for k in range(4)]
    judged = judge(fit(runs, LLAMA, BLOCKS), runs, LLAMA, BLOCKS, about=ABOUT)
    assert judged.runs[0].errors_frac["tpot.p50"] == pytest.approx(1 / 1.35 - 1, abs=0.05)


@pytest.mark.parametrize("clients", [None, 3])
@given(seed=st.integers(0, 100))
@settings(max_examples=20, deadline=None)
def test_a_run_has_the_figures_that_are_predicted_of_its_load(clients: int | None, seed: int) -> None:
    """Rate and latencies of a run are those of `predicting`, so that what one errs by widens the other's band."""
    requests, one = drawn(seed, 30, None if clients else 0.6), replica(TRUTH, VLLM)
    empty = Run(name="r", requests=requests, ttft_s=np.zeros(0), tpot_s=np.zeros(0), concurrency=clients)
    sends_s, ttft_s, tpot_s = simulated_times(empty, one)
    figures = run_figures(replace(empty, sends_s=sends_s, ttft_s=ttft_s, tpot_s=tpot_s))
    from headway.calibration.predicting import simulated_figures

    expected = simulated_figures(Load(name="r", requests=requests, concurrency=clients), one)
    assert figures == {name: pytest.approx(expected[name], rel=1e-6) for name in FIGURES}


def test_a_load_it_never_saw_lies_within_the_bands(fitted: tuple[EngineSettings, list[Run], Fit]) -> None:
    engine, runs, found = fitted
    judged = judge(found, runs, engine, BLOCKS, about=ABOUT)
    load = Load(name="new", requests=drawn(77, 40), concurrency=3)
    predicted = predict(judged, load, draws=60)
    from headway.calibration.predicting import simulated_figures

    truth = simulated_figures(load, replica(TRUTH, engine))
    for name in FIGURES:
        figure = predicted.figures[name]
        assert figure.low <= figure.value <= figure.high
        assert figure.low * 0.97 <= truth[name] <= figure.high * 1.03
    assert predicted == predict(judged, load, draws=60)  # the same seed, the same figures


def test_proposals_shrink_the_band_and_prefer_what_is_unknown() -> None:
    alone = [made(LLAMA, name="closed 1", seed=1, clients=1), made(LLAMA, name="again", seed=2, clients=1)]
    found = fit(alone, LLAMA, BLOCKS, params=parameters(some_runs(LLAMA), LLAMA))
    traffic = drawn(5, 60)
    choices = candidates(traffic, LLAMA, seconds=60.0, found=found, blocks=BLOCKS)
    wanted = [Load(name="wanted", requests=drawn(6, 30), concurrency=4)]
    proposals = propose(found, wanted, choices, LLAMA, BLOCKS)
    assert proposals
    assert proposals[0].load.concurrency in {2, 4}  # only one at a time was seen
    sds = [proposals[0].sd_before, *(one.sd_after for one in proposals)]
    assert sds == sorted(sds, reverse=True)
    assert all(one.duration_s <= 60.0 * 1.1 + 1e-9 for one in proposals)


@given(clients=st.integers(1, 6), seed=st.integers(0, 100))
@settings(max_examples=30, deadline=None)
def test_a_closed_loop_is_recognised_by_its_times(clients: int, seed: int) -> None:
    engine = replace(LLAMA, max_num_seqs=8)
    bare = Run(name="r", requests=drawn(seed, 60), ttft_s=np.zeros(0), tpot_s=np.zeros(0), concurrency=clients)
    one = replica(TRUTH, engine)
    from headway.simulator import simulate

    done = simulate(bare.requests, one, concurrency=clients, turnaround_s=0.01 + one.frontend_s)
    ttft_s, tpot_s = simulated_run(replace(bare, turnaround_s=0.01), one)
    order = np.argsort(done.arrive_ps, kind="stable")
    arrive_s = done.arrive_ps[order] / 1e12
    seen = replace(bare, requests=replace(bare.requests, arrive_s=arrive_s), concurrency=None)
    recorded = replace(
        seen,
        requests=replace(seen.requests, osl_tokens=bare.requests.osl_tokens[order]),
        ttft_s=ttft_s[order],
        tpot_s=tpot_s[order],
    )
    assert clients_of(recorded) == clients
    loop = closed(recorded, clients)
    assert most_in_flight(loop) == clients
    assert loop.requests.arrive_s[:clients].tolist() == recorded.requests.arrive_s[:clients].tolist()
    assert (loop.requests.arrive_s[clients:] == recorded.requests.arrive_s[clients - 1]).all()


@pytest.mark.parametrize("engine", [LLAMA, VLLM], ids=lambda engine: engine.engine)
def test_a_loop_that_the_clock_cuts_off_is_read_without_bias(engine: EngineSettings) -> None:
    """What is in flight at the end has no latency, and is load all the same: its steps were as full as the others'."""
    runs = [cut_off(made(engine, name=f"closed {k}", seed=k, clients=k), engine) for k in (1, 2, 4)]
    assert all(run.failed == run.concurrency for run in runs)
    loops = [closed(run, clients_of(run) or 0) for run in runs]
    assert [loop.concurrency for loop in loops] == [1, 2, 4]
    truth, ours = (step_table(terms, engine) for terms in (TRUTH, fit(loops, engine, BLOCKS).terms))
    for batch in (1, 2, 4):
        assert ours.decode_ps[batch] == pytest.approx(truth.decode_ps[batch], rel=0.08)


def cut_off(run: Run, engine: EngineSettings) -> Run:
    """A run as a file has it, every request at the time it was sent; the clock cut it off as the thirtieth was sent."""
    from headway.simulator import simulate
    from headway.workload import take

    one = replica(TRUTH, engine)
    done = simulate(run.requests, one, concurrency=run.concurrency, turnaround_s=one.frontend_s)
    sent_s, last_s = done.arrive_ps[:30] / 1e12, done.last_ps[:30] / 1e12
    cut = last_s > sent_s[-1]
    ttft_s, tpot_s = (column[:30] for column in simulated_run(run, one))  # without noise: a client sees its own ends
    return replace(
        run,
        requests=replace(take(run.requests, np.arange(30)), arrive_s=sent_s),
        ttft_s=np.where(cut, np.nan, ttft_s),
        tpot_s=np.where(cut, np.nan, tpot_s),
        failed=int(cut.sum()),
    )


def test_poisson_arrivals_are_no_closed_loop() -> None:
    for seed in range(10):
        assert clients_of(made(LLAMA, name="open", seed=seed, rate=0.5)) is None


@given(st.floats(0.1, 5.0), st.floats(0.05, 1.0))
def test_growth_is_what_arrives_less_what_ends(rate_per_s: float, served_frac: float) -> None:
    arrive_s = np.arange(200) / rate_per_s
    last_s = np.arange(1, 201) / (rate_per_s * served_frac)
    grown = growth_per_s(arrive_s, last_s)
    assert grown == pytest.approx(rate_per_s * (1 - served_frac), abs=0.02 * rate_per_s)


def test_an_overload_is_foreseen(fitted: tuple[EngineSettings, list[Run], Fit]) -> None:
    engine, runs, found = fitted
    judged = judge(found, runs[:2], engine, BLOCKS, about=ABOUT)
    over = predict(judged, Load(name="over", requests=drawn(3, 120, 8.0)), draws=20)
    under = predict(judged, Load(name="under", requests=drawn(3, 40, 0.1)), draws=20)
    assert over.saturated
    assert over.figures[GROWTH].low > 0
    assert not under.saturated
