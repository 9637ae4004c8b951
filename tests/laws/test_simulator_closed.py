"""A closed loop: equal to the naive twins' on both engines, and true to its laws."""

from __future__ import annotations

import importlib
import sys
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from headway.errors import InputError
from headway.simulator import ABORTED, FAILED, FINISHED, UNFINISHED, Simulation, simulate
from headway.types import EngineSettings, Replica, Requests, StepTable

sys.path.insert(0, str(Path(__file__).parents[1] / "oracle"))  # tests are no package

import cases
import mixes
import naive
from engines.cases import STRATA as ENGINE_STRATA
from engines.cases import TWINS
from engines.cases import make_case as make_engine_case

RUN = importlib.import_module("headway.simulator.run")
COLUMNS = ("arrive_ps", "output_tokens", "first_ps", "last_ps", "state", "replica", "cached_tokens", "preemptions")


def clients_of(rng: np.random.Generator, requests: Requests, step_s: float) -> tuple[Requests, dict[str, Any]]:
    """A few clients or many, quick or slow, all at once or as they come."""
    burst = rng.random() < 0.6
    if burst:
        patience_s = None if requests.abort_s is None else requests.abort_s - requests.arrive_s
        requests = replace(requests, arrive_s=np.zeros(len(requests)), abort_s=patience_s)
    turnaround_s = float(rng.choice([0.0, 0.0, 1e-12, 1e-9, step_s, 40 * step_s]))
    return requests, {"concurrency": int(rng.choice([1, 2, 3, 5, 9, 100])), "turnaround_s": turnaround_s}


def closed_case(stratum: str, seed: int) -> tuple[Requests, Replica, dict[str, Any]]:
    requests, replica, keywords = cases.make_case(seed, **cases.STRATA[stratum])
    rng = np.random.default_rng([seed, 77])
    requests, clients = clients_of(rng, requests, float(replica.step.decode_ps[1]) * 1e-12)
    if keywords["until_s"] is None:
        keywords["record_series"] = 0  # needs an end
    elif rng.random() < 0.6:
        keywords["until_s"] = float(rng.uniform(0, 1e-5))
    return requests, replica, keywords | clients


@pytest.mark.parametrize("stratum", cases.STRATA)
def test_both_engines_equal_the_twin(stratum: str, monkeypatch: pytest.MonkeyPatch) -> None:
    late = 0
    for seed in range(12):
        requests, replica, keywords = closed_case(stratum, seed)
        found, simulation = cases.difference(requests, replica, keywords)
        assert found is None, (stratum, seed, keywords, found)
        late += int((simulation.arrive_ps > simulation.due_ps).sum())
        with monkeypatch.context() as patched:
            patched.setattr(RUN, "jumpable", lambda *_: "asked for")
            found, simulation = cases.difference(requests, replica, keywords)
        assert found is None, (stratum, seed, keywords, found)
        assert simulation.counters.jumps == 0
    assert late > 20


@pytest.mark.parametrize("stratum", ["hang-ups", "pipeline", "KV consumer", "KV producer", "EAGLE", "priority"])
def test_every_feature_of_the_general_engine_equals_the_twin(stratum: str) -> None:
    aborted = 0
    for seed in range(12):
        requests, replica = mixes.mix(stratum, seed)
        if mixes.twins_record(requests, replica) is None:
            continue
        requests, clients = clients_of(np.random.default_rng([seed, 7]), requests, 1e-7)
        until_s, fleet = 1e-3, 1 + seed % 3  # where KV never comes, a run does not end
        found = simulate(requests, replica, replicas=fleet, until_s=until_s, **clients)
        turnaround_ps = round(clients["turnaround_s"] * 1e12)
        twin = naive.naive(
            requests,
            replica,
            replicas=fleet,
            until_ps=10**9,
            concurrency=clients["concurrency"],
            turnaround_ps=turnaround_ps,
        )
        states = {"": UNFINISHED, "length": FINISHED, "stop": FINISHED, "abort": ABORTED}
        for row in twin.rows:
            tokens = row.delivered_ps if row.reason else []
            expected = (
                row.arrive_ps,
                row.replica,
                FAILED if row.failed else states[row.reason],
                row.first_ps,
                tokens[-1] if tokens else -1,
                row.preemptions,
            )
            names = ("arrive_ps", "replica", "state", "first_ps", "last_ps", "preemptions")
            assert tuple(int(getattr(found, name)[row.number]) for name in names) == expected, (seed, clients, row)
        assert found.counters.steps == sum(engine.steps for engine in twin.engines)
        aborted += found.aborted
    assert aborted > 0 or stratum != "hang-ups"


@pytest.mark.parametrize("engine", TWINS)
def test_the_other_engines_equal_their_twins(engine: str) -> None:
    seen: Counter[str] = Counter()
    for stratum, seed in ((stratum, seed) for stratum in ENGINE_STRATA for seed in range(8)):
        requests, replica = make_engine_case(engine, seed, **ENGINE_STRATA[stratum])
        requests, clients = clients_of(np.random.default_rng([seed, 7]), requests, 1e-7)
        found = simulate(requests, replica, **clients)
        twin = TWINS[engine](requests, replica).record(clients["concurrency"], round(clients["turnaround_s"] * 1e12))
        for ending in twin.endings:
            row, tokens = ending.request, ending.delivered_ps
            mine = (found.arrive_ps[row], found.first_ps[row], found.last_ps[row], found.preemptions[row])
            expected = (ending.arrive_ps, *((tokens[0], tokens[-1]) if tokens else (-1, -1)), ending.preemptions)
            assert mine == expected, (engine, stratum, seed, clients, row)
        assert found.counters.steps == len([step for step in twin.steps if step.scheduled])
        seen["late"] += int((found.arrive_ps > found.due_ps).sum())
        seen["aborted"] += found.aborted
    assert seen["late"] > 500
    assert seen["aborted"] > 3


# --- laws


@st.composite
def loops(draw: st.DrawFn, *, refused: bool = True) -> tuple[Requests, Replica, dict[str, Any]]:
    """A closed loop on a fleet of any engine."""
    engine = draw(st.sampled_from(["vllm", *TWINS]))
    seed = draw(st.integers(0, 1 << 30))
    if engine == "vllm":
        requests, replica, _ = cases.make_case(seed, load=1.0, long_outputs=True, ahead=draw(st.booleans()))
    else:
        stratum = draw(st.sampled_from([name for name in ENGINE_STRATA if name != "hang-ups"]))
        requests, replica = make_engine_case(engine, seed, **ENGINE_STRATA[stratum])
    requests, clients = clients_of(np.random.default_rng(seed), requests, float(replica.step.decode_ps[1]) * 1e-12)
    assume(refused or (simulate(requests, replica).state != FAILED).all())
    return requests, replica, clients | {"replicas": draw(st.integers(1, 3))}


def open_loop(requests: Requests, found: Simulation) -> Requests:
    """The requests as a closed loop sent them."""
    return replace(requests, arrive_s=found.arrive_ps * 1e-12)


def same(one: Simulation, other: Simulation) -> bool:
    columns = all((getattr(one, name) == getattr(other, name)).all() for name in COLUMNS)
    mine, theirs = (asdict(simulation.counters) for simulation in (one, other))
    mine.pop("jumps"), theirs.pop("jumps")
    return columns and all(np.array_equal(mine[name], theirs[name]) for name in mine)


@given(loops())
@settings(deadline=None)
def test_it_is_the_open_loop_of_the_times_at_which_it_sent(loop: tuple[Requests, Replica, dict[str, Any]]) -> None:
    requests, replica, keywords = loop
    keywords["turnaround_s"] = keywords["turnaround_s"] or 1e-12  # at one instant, an open loop sends first
    found = simulate(requests, replica, **keywords)
    assert same(found, simulate(open_loop(requests, found), replica, replicas=keywords["replicas"]))


@given(loops())
@settings(deadline=None)
def test_no_more_are_in_flight_than_there_are_clients(loop: tuple[Requests, Replica, dict[str, Any]]) -> None:
    requests, replica, keywords = loop
    found = simulate(requests, replica, **keywords)
    assert (found.state != UNFINISHED).all()
    assert (np.diff(found.arrive_ps) >= 0).all()
    assert (found.arrive_ps >= found.due_ps).all()
    turnaround_ps = round(keywords["turnaround_s"] * 1e12)
    free = [-1] * keywords["concurrency"]
    ends = np.where(found.state == FAILED, found.arrive_ps, found.last_ps)
    for row in range(len(requests)):  # nobody waits while a client is free, nobody is sent while none is
        free.sort()
        assert found.arrive_ps[row] == max(free.pop(0), found.due_ps[row])
        free.append(int(ends[row]) + turnaround_ps)


@given(loops())
@settings(deadline=None)
def test_with_a_client_for_each_request_it_is_the_open_loop(loop: tuple[Requests, Replica, dict[str, Any]]) -> None:
    requests, replica, keywords = loop
    found = simulate(requests, replica, **keywords | {"concurrency": len(requests), "turnaround_s": 0.0})
    assert same(found, simulate(requests, replica, replicas=keywords["replicas"]))


@given(loops(refused=False))
@settings(deadline=None)
def test_one_client_does_one_thing_after_another(loop: tuple[Requests, Replica, dict[str, Any]]) -> None:
    requests, replica, keywords = loop
    requests = replace(requests, arrive_s=np.zeros(len(requests)))
    found = simulate(requests, replica, **keywords | {"concurrency": 1})
    pauses_ps = (len(requests) - 1) * round(keywords["turnaround_s"] * 1e12)
    assert (found.last_ps - found.arrive_ps).sum() + pauses_ps == found.end_ps


@given(st.integers(0, 1 << 30), st.integers(1, 12), st.booleans(), st.integers(2, 9))
@settings(deadline=None)
def test_times_scale(seed: int, concurrency: int, ahead: bool, factor: int) -> None:
    requests, replica, _ = cases.make_case(seed, load=1.0, long_outputs=True, ahead=ahead)
    requests = replace(requests, arrive_s=np.zeros(len(requests)))
    step = replica.step
    names = [name for name in asdict(step) if "_ps" in name]
    slower = replace(replica, step=replace(step, **{name: getattr(step, name) * factor for name in names}))
    one = simulate(requests, replica, concurrency=concurrency, turnaround_s=3e-9)
    other = simulate(requests, slower, concurrency=concurrency, turnaround_s=3e-9 * factor)
    for name in ("arrive_ps", "first_ps", "last_ps"):
        before, after = getattr(one, name), getattr(other, name)
        assert (np.where(before < 0, before, before * factor) == after).all()


# --- by hand, and what is refused

SETTINGS = EngineSettings(
    max_num_seqs=2, max_num_batched_tokens=16, max_model_len=64, gpu_memory_utilization=0.9, async_scheduling=False
)
#: a prompt takes 2 s, a decode 1 s
STEP = StepTable(
    decode_ps=np.full(3, 10**12), mixed_ps=np.full(17, 2 * 10**12), context_ps_per_token=0, prefill_ps_per_pair=0
)
REPLICA = Replica(settings=SETTINGS, step=STEP, num_gpu_blocks=10)


def burst(*osl: int, **columns: Any) -> Requests:
    count = len(osl)
    return Requests(arrive_s=np.zeros(count), isl_tokens=np.full(count, 4), osl_tokens=np.array(osl), **columns)


def sent_s(requests: Requests, **clients: Any) -> list[float]:
    return (simulate(requests, REPLICA, **clients).arrive_ps / 1e12).tolist()


def test_two_clients_by_hand() -> None:
    # 0 and 1 have their first token at 2 s, 1 its last at 3 s; 2 arrives before the schedule of that instant
    assert sent_s(burst(4, 2, 1, 1), concurrency=2) == [0.0, 0.0, 3.0, 5.0]
    assert simulate(burst(4, 2, 1, 1), REPLICA, concurrency=2).first_ps[2] == 5 * 10**12
    # half a second later it misses that step
    assert sent_s(burst(4, 2, 1, 1), concurrency=2, turnaround_s=0.5) == [0.0, 0.0, 3.5, 6.5]


def test_a_refused_request_and_one_given_up_free_their_clients() -> None:
    requests = burst(3, 99, 5, 1, abort_s=np.array([np.nan, np.nan, 2.5, np.nan]))
    refused = replace(requests, isl_tokens=np.array([4, 64, 4, 4]))
    found = simulate(refused, REPLICA, concurrency=1, turnaround_s=1.0)
    # 0 ends at 4 s; 1 is refused at 5 s; 2 is sent at 6 s, given up at 8.5 s, let go of when the step ends
    assert found.arrive_ps.tolist() == [0, 5 * 10**12, 6 * 10**12, 10 * 10**12]
    assert found.output_tokens.tolist() == [3, 0, 2, 1]


def test_what_is_not_sent_by_the_end_has_not_arrived() -> None:
    found = simulate(burst(4, 4, 4), REPLICA, concurrency=1, until_s=6.0)
    assert found.arrive_ps.tolist() == [0, 5 * 10**12, -1]
    assert found.replica.tolist() == [0, 0, -1]
    assert found.unfinished == 2
    assert found.due_ps.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("keywords", "place"),
    [
        ({"concurrency": 0}, "concurrency"),
        ({"concurrency": 2, "turnaround_s": -1.0}, "turnaround_s"),
        ({"concurrency": 2, "turnaround_s": float("nan")}, "turnaround_s"),
        ({"turnaround_s": 1.0}, "turnaround_s"),
        ({"concurrency": 2, "record_series": 3}, "record_series"),
    ],
)
def test_a_loop_that_is_none_is_refused(keywords: dict[str, Any], place: str) -> None:
    with pytest.raises(InputError, match=place):
        simulate(burst(1, 2), REPLICA, **keywords)


def test_who_hangs_up_at_once_is_no_client() -> None:
    with pytest.raises(InputError, match="abort_s, row 1"):
        simulate(burst(1, 2, abort_s=np.array([1.0, 0.0])), REPLICA, concurrency=1)
