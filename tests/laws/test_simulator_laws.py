"""Laws every simulation holds, and limits queueing theory knows."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headway.simulator import FAILED, FINISHED, ROUTERS, UNFINISHED, simulate
from headway.types import EngineSettings, PrefixRuns, Replica, Requests, StepTable

SERVICE_PS = 1_000_000_000


def replica(
    *,
    seqs: int = 8,
    budget: int = 64,
    blocks: int = 200,
    model_len: int = 400,
    decode: int = 1000,
    token: int = 10,
    context: int = 1,
    **changes: Any,
) -> Replica:
    """A small replica; step times in ps."""
    return Replica(
        settings=EngineSettings(
            max_num_seqs=seqs,
            max_num_batched_tokens=budget,
            max_model_len=model_len,
            gpu_memory_utilization=0.9,
            **({"block_size": 4} | changes),
        ),
        step=StepTable(
            decode_ps=decode + token * np.arange(seqs + 1),
            mixed_ps=decode + token * np.arange(budget + 1),
            context_ps_per_token=context,
            prefill_ps_per_pair=1,
        ),
        num_gpu_blocks=blocks,
    )


@st.composite
def traffic(draw: st.DrawFn, *, most: int = 25) -> Requests:
    """Arrivals within some microseconds, short prompts, at times with shared prefixes."""
    number = draw(st.integers(1, most))
    column = lambda low, high: draw(st.lists(st.integers(low, high), min_size=number, max_size=number))  # noqa: E731 - three of a kind
    arrive_ps, isl, osl = np.cumsum(column(0, 9000)), np.array(column(1, 150)), np.array(column(1, 60))
    prefix = None
    if draw(st.booleans()):
        families = np.array(column(0, 3)) * 1000
        counts = np.minimum(np.array(column(0, 30)), isl // 4)
        prefix = PrefixRuns(block_tokens=4, offsets=np.arange(number + 1), first_ids=families, counts=counts)
    session = np.array(column(0, 4))
    return Requests(arrive_s=arrive_ps * 1e-12, isl_tokens=isl, osl_tokens=osl, prefix=prefix, session_id=session)


replicas_of = st.builds(
    replica,
    seqs=st.integers(1, 10),
    budget=st.integers(10, 80),
    blocks=st.integers(30, 250),
    context=st.integers(0, 5),
    enable_prefix_caching=st.booleans(),
    scheduler_reserve_full_isl=st.booleans(),
)
fleets = st.fixed_dictionaries(
    {"replicas": st.integers(1, 4), "router": st.sampled_from([r for r in ROUTERS if r != "prefix-affinity"])}
)


@given(traffic(), replicas_of, fleets, st.none() | st.floats(0, 3e-7))
@settings(deadline=None)
def test_requests_are_conserved_and_causal(
    requests: Requests, one: Replica, fleet: dict[str, Any], until_s: float | None
) -> None:
    simulation = simulate(requests, one, until_s=until_s, **fleet)
    assert simulation.finished + simulation.failed + simulation.unfinished == len(requests)
    assert until_s is not None or simulation.unfinished == 0
    state, first, last = simulation.state, simulation.first_ps, simulation.last_ps
    done = state == FINISHED
    assert (simulation.arrive_ps[done] < first[done]).all()
    assert (first[done] <= last[done]).all()
    assert (last[done] <= simulation.end_ps).all()
    assert ((first == last)[done] == (simulation.output_tokens == 1)[done]).all()
    assert (last[~done] == -1).all()
    assert (first[state == FAILED] == -1).all()
    assert (simulation.cached_tokens < requests.isl_tokens).all()


@given(traffic(), replicas_of, fleets)
@settings(deadline=None)
def test_every_token_has_its_gap_and_gaps_sum_to_the_decode_time(
    requests: Requests, one: Replica, fleet: dict[str, Any]
) -> None:
    simulation = simulate(requests, one, **fleet)
    done = simulation.state == FINISHED
    assert simulation.gaps.samples == (simulation.output_tokens[done] - 1).sum()
    total_ps = sum(part.total_ps() for part in simulation.gaps.parts)
    assert total_ps == (simulation.last_ps - simulation.first_ps)[done].sum()


@given(traffic(), replicas_of, fleets)
@settings(deadline=None)
def test_tokens_are_conserved(requests: Requests, one: Replica, fleet: dict[str, Any]) -> None:
    simulation = simulate(requests, one, **fleet)
    done = simulation.state == FINISHED
    # the last token of a request is never computed; hits are not computed; preemption computes again
    needed = (requests.isl_tokens + simulation.output_tokens - 1 - simulation.cached_tokens)[done].sum()
    scheduled = simulation.counters.scheduled_tokens
    assert (
        scheduled == needed if simulation.counters.preemptions == 0 else scheduled >= needed - requests.isl_tokens.sum()
    )
    assert simulation.counters.preemptions == simulation.preemptions.sum()


@given(traffic(), replicas_of, fleets)
@settings(deadline=None)
def test_blocks_are_conserved(requests: Requests, one: Replica, fleet: dict[str, Any]) -> None:
    end_s = simulate(requests, one, **fleet).end_ps * 1e-12
    simulation = simulate(requests, one, record_series=50, until_s=1.5 * end_s + 1e-9, **fleet)
    used = simulation.series.kv_blocks
    assert (used >= 0).all()
    assert (used <= fleet["replicas"] * one.num_gpu_blocks).all()
    assert used[-1] == simulation.series.running[-1] == simulation.series.queue[-1] == 0
    assert ((used > 0) == (simulation.series.running > 0)).all()


@given(traffic(), replicas_of)
@settings(deadline=None)
def test_work_is_conserved(requests: Requests, one: Replica) -> None:
    """One replica steps whenever somebody is there: its busy time is the union of all stays."""
    simulation = simulate(requests, one)
    here = simulation.state == FINISHED
    busy_ps, until = 0, 0
    order = np.argsort(simulation.arrive_ps[here], kind="stable")
    for start, end in zip(simulation.arrive_ps[here][order], simulation.last_ps[here][order], strict=True):
        busy_ps += max(0, int(end) - max(until, int(start)))
        until = max(until, int(end))
    assert simulation.counters.busy_ps.tolist() == [busy_ps]


@given(traffic(), replicas_of, fleets, st.integers(2, 50))
@settings(deadline=None)
def test_time_scales(requests: Requests, one: Replica, fleet: dict[str, Any], factor: int) -> None:
    step = one.step
    slower = dataclasses.replace(
        one,
        step=StepTable(
            decode_ps=step.decode_ps * factor,
            mixed_ps=step.mixed_ps * factor,
            context_ps_per_token=step.context_ps_per_token * factor,
            prefill_ps_per_pair=step.prefill_ps_per_pair * factor,
        ),
    )
    stretched = dataclasses.replace(requests, arrive_s=np.rint(requests.arrive_s * 1e12) * factor * 1e-12)
    simulation, slow = simulate(requests, one, **fleet), simulate(stretched, slower, **fleet)
    for name in ("first_ps", "last_ps"):
        column = getattr(simulation, name)
        assert (np.where(column < 0, -1, column * factor) == getattr(slow, name)).all()
    assert slow.gaps.max_ps() == (simulation.gaps.max_ps() * factor if simulation.gaps.samples else -1)


@given(traffic(), replicas_of, fleets, st.integers(0, 1000))
@settings(deadline=None)
def test_same_seed_same_bytes(requests: Requests, one: Replica, fleet: dict[str, Any], seed: int) -> None:
    runs = [simulate(requests, one, seed=seed, record_series=5, **fleet) for _ in range(2)]
    columns = ("first_ps", "last_ps", "state", "replica", "cached_tokens", "preemptions")
    first, again = ([getattr(run, name).tobytes() for name in columns] for run in runs)
    assert first == again
    assert runs[0].series.busy_ps.tobytes() == runs[1].series.busy_ps.tobytes()


@given(traffic(), replicas_of, st.floats(0, 2e-7))
@settings(deadline=None)
def test_a_cut_run_is_the_beginning_of_the_whole(requests: Requests, one: Replica, until_s: float | None) -> None:
    whole, cut = simulate(requests, one), simulate(requests, one, until_s=until_s)
    until_ps = round(until_s * 1e12)
    for name in ("first_ps", "last_ps"):
        column = getattr(whole, name)
        assert (np.where(column <= until_ps, column, -1) == getattr(cut, name)).all()
    assert ((cut.state == UNFINISHED) == ((whole.state == FINISHED) & (whole.last_ps > until_ps))).all()


@given(traffic(), replicas_of)
@settings(deadline=None)
def test_a_burst_on_one_seat_is_served_in_order(requests: Requests, one: Replica) -> None:
    single = dataclasses.replace(one, settings=dataclasses.replace(one.settings, max_num_seqs=1))
    single = dataclasses.replace(single, step=dataclasses.replace(one.step, decode_ps=one.step.decode_ps[:2]))
    simulation = simulate(requests, single)
    done = simulation.state == FINISHED
    assert (np.diff(simulation.first_ps[done]) > 0).all()
    assert (simulation.first_ps[done][1:] > simulation.last_ps[done][:-1]).all()


@given(traffic(), st.integers(1, 1000))
@settings(deadline=None)
def test_slower_steps_never_help_on_one_seat(requests: Requests, extra: int) -> None:
    """With one seat and no sharing, every request's work is fixed, so times grow with the step time."""
    plain = dataclasses.replace(requests, prefix=None)
    fast, slow = (simulate(plain, replica(seqs=1, decode=decode)) for decode in (1000, 1000 + extra))
    assert (slow.first_ps >= fast.first_ps).all()
    assert (slow.last_ps >= fast.last_ps).all()


@given(traffic(), st.integers(1, 3))
@settings(deadline=None)
def test_more_servers_never_hurt_single_token_requests(requests: Requests, servers: int) -> None:
    """Of twice the servers each gets every second request of what one got: by Lindley, nobody waits longer."""
    ones = dataclasses.replace(
        requests, prefix=None, isl_tokens=np.full(len(requests), 7), osl_tokens=requests.osl_tokens * 0 + 1
    )
    few, more = (
        simulate(ones, replica(seqs=1), replicas=number, router="round-robin").last_ps
        for number in (servers, 2 * servers)
    )
    assert (more <= few).all()


def single_server() -> Replica:
    """A replica that serves one request of one token at a time, in SERVICE_PS."""
    return replica(seqs=1, decode=SERVICE_PS - 10, token=10, context=0)


def queue(number: int, load: float, servers: int, seed: int) -> Requests:
    """Poisson arrivals at so many deterministic servers; prompts of one token cost one decode of SERVICE_PS."""
    rng = np.random.default_rng(seed)
    gaps_s = rng.exponential(SERVICE_PS * 1e-12 / (load * servers), number)
    one = np.ones(number, np.int64)
    return Requests(arrive_s=np.cumsum(gaps_s), isl_tokens=one, osl_tokens=one)


def batch_means(waits: np.ndarray, batches: int = 40) -> tuple[float, float]:
    """Mean and half-width of a 99.9 % interval by batch means (t quantile of 39 degrees of freedom: 3.56)."""
    means = np.array([part.mean() for part in np.array_split(waits, batches)])
    return means.mean(), 3.56 * means.std(ddof=1) / math.sqrt(batches)


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_waiting_at_one_server_follows_pollaczek_and_khinchine(load: float) -> None:
    simulation = simulate(queue(200_000, load, 1, seed=1), single_server())
    waits = (simulation.last_ps - simulation.arrive_ps) / SERVICE_PS - 1
    mean, half = batch_means(waits)
    assert abs(mean - load / (2 * (1 - load))) < half


@pytest.mark.parametrize(("servers", "load"), [(2, 0.7), (4, 0.8)])
def test_round_robin_servers_are_queues_with_erlang_arrivals(servers: int, load: float) -> None:
    """Every N-th Poisson arrival is an Erlang-N stream: each server alone must do what the fleet does."""
    requests = queue(40_000, load, servers, seed=2)
    fleet = simulate(requests, single_server(), replicas=servers, router="round-robin")
    for server in range(servers):
        mine = slice(server, None, servers)
        alone = simulate(
            dataclasses.replace(
                requests,
                arrive_s=requests.arrive_s[mine],
                isl_tokens=requests.isl_tokens[mine],
                osl_tokens=requests.osl_tokens[mine],
            ),
            single_server(),
        )
        assert (alone.last_ps == fleet.last_ps[mine]).all()


@pytest.mark.parametrize(("servers", "load"), [(2, 0.7), (4, 0.8), (8, 0.9)])
def test_routers_are_ordered_as_theory_says(servers: int, load: float) -> None:
    """With equal services one shared queue (M/D/c) takes its servers in turn, so round-robin is that queue exactly;
    nothing that commits on arrival does better, and the fewest outstanding does better than chance.
    """
    requests = queue(60_000, load, servers, seed=3)
    robin, least, chance = (
        simulate(requests, single_server(), replicas=servers, router=router)
        for router in ("round-robin", "least-outstanding", "random")
    )
    free_ps, ends_ps = [0] * servers, []
    for now in least.arrive_ps.tolist():
        server = free_ps.index(min(free_ps))
        free_ps[server] = max(now, free_ps[server]) + SERVICE_PS
        ends_ps.append(free_ps[server])
    assert robin.last_ps.tolist() == ends_ps
    assert robin.last_ps.sum() <= least.last_ps.sum() <= chance.last_ps.sum()


@pytest.mark.parametrize(("servers", "load"), [(2, 0.7), (5, 0.8)])
def test_seats_of_a_constant_step_are_an_m_m_c_queue(servers: int, load: float) -> None:
    """Steps far shorter than services: max_num_seqs seats with geometric output lengths are M/M/c (Erlang C)."""
    rng = np.random.default_rng(4)
    number, mean_steps, step_ps = 40_000, 400, 1_000_000
    osl = np.minimum(rng.geometric(1 / mean_steps, number), 20_000)
    arrive_s = np.cumsum(rng.exponential(mean_steps * step_ps * 1e-12 / (load * servers), number))
    seats = replica(seqs=servers, decode=step_ps, token=0, context=0, blocks=60_000, model_len=30_000)
    requests = Requests(arrive_s=arrive_s, isl_tokens=np.ones(number, np.int64), osl_tokens=osl)
    simulation = simulate(requests, seats)
    waits = (simulation.first_ps - simulation.arrive_ps) / (mean_steps * step_ps)
    mean, half = batch_means(waits)
    offered = load * servers
    terms = [offered**i / math.factorial(i) for i in range(servers)]
    last = offered**servers / math.factorial(servers) / (1 - load)
    erlang_c = last / (sum(terms) + last)
    expected = erlang_c / (servers * (1 - load))
    assert abs(mean - expected) < half + 2 / mean_steps  # an arrival also waits for the step under way and its own
