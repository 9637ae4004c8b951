"""Laws of synthesis: order, rates, common chance, marginals, prefixes."""

from __future__ import annotations

import dataclasses
import hashlib
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from headway.types import PrefixRuns, Requests
from headway.workload.arrivals import Arrivals, Cycle, Modulated, Replay, Steady, Steps
from headway.workload.distributions import (
    Constant,
    Gamma,
    Geometric,
    Lognormal,
    Pareto,
    Quantiles,
    Uniform,
    normal_cdf,
    normal_score,
    whole_mean,
)
from headway.workload.lengths import Copula, JointTable
from headway.workload.prefixes import expand_ids, unchained_request
from headway.workload.sessions import Sessions
from headway.workload.spec import Label, SystemPrompt, WorkloadSpec
from headway.workload.synthesis import BLOCK_TOKENS, generate

RATES = st.floats(0.1, 1e3)
SEEDS = st.integers(0, 2**32)


@st.composite
def cycles(draw: st.DrawFn) -> Cycle:
    rates = draw(st.lists(st.just(0.0) | RATES, min_size=2, max_size=6).filter(any))
    return Cycle(period_s=draw(st.floats(0.1, 1e4)), rates_per_s=tuple(rates), start_s=draw(st.floats(0, 2e4)))


@st.composite
def steps(draw: st.DrawFn) -> Steps:
    more = draw(st.lists(st.floats(0.1, 1e3), max_size=4))
    rates = [draw(st.just(0.0) | RATES) for _ in more] + [draw(RATES)]
    return Steps(at_s=(0.0, *np.cumsum(more).tolist()), rates_per_s=tuple(rates))


@st.composite
def modulated(draw: st.DrawFn) -> Modulated:
    count = draw(st.integers(2, 4))
    weights = [[0.0 if i == j else draw(st.floats(0.1, 1)) for j in range(count)] for i in range(count)]
    rates = draw(st.lists(st.just(0.0) | st.floats(1, 50), min_size=count, max_size=count).filter(any))
    return Modulated(
        rates_per_s=tuple(rates),
        stays_s=tuple(draw(st.floats(0.5, 50)) for _ in range(count)),
        moves=tuple(tuple(w / sum(row) for w in row) for row in weights),
    )


PATTERNS = st.builds(Steady, RATES) | cycles() | steps() | modulated()
ARRIVALS = st.builds(
    Arrivals, pattern=PATTERNS, gap_cv=st.sampled_from([0.0, 0.5, 1.0, 3.0]), factor=st.floats(0.1, 10)
)
DISTRIBUTIONS = (
    st.builds(Constant, st.floats(1, 1e5))
    | st.builds(lambda low, more: Uniform(low, low + more), st.floats(1, 1e4), st.floats(0, 1e4))
    | st.builds(Lognormal, st.floats(1, 1e5), st.floats(0.05, 3))
    | st.builds(Gamma, st.floats(1, 1e5), st.floats(0.05, 3))
    | st.builds(
        lambda least, a, times: Pareto(least, a, least * times), st.floats(1, 1e3), st.floats(0.2, 4), st.floats(2, 1e3)
    )
    | st.builds(
        lambda values: Quantiles((0.1, 0.5, 0.9), tuple(sorted(values))),
        st.lists(st.floats(0, 1e5), min_size=3, max_size=3),
    )
)
LENGTHS = st.builds(Copula, isl=DISTRIBUTIONS, osl=DISTRIBUTIONS, rank_correlation=st.floats(-1, 1))
SMALL = st.builds(Lognormal, st.floats(1, 300), st.floats(0.05, 2))
SESSIONS = st.builds(
    lambda turns, think_s, response_s, growth, alike: Sessions(
        turns=turns,
        think_s=think_s,
        response_s=response_s,
        growth_tokens=growth,
        alike_frac=alike if growth is None else None,
    ),
    st.builds(Geometric, st.floats(1, 8)) | st.builds(Constant, st.floats(1, 5)),
    st.builds(Lognormal, st.floats(0.1, 100), st.floats(0.1, 2)),
    st.builds(Constant, st.floats(0, 20)),
    st.none() | SMALL,
    st.floats(0, 1),
)
PROMPTS = st.lists(st.integers(1, 500), max_size=3).map(
    lambda sizes: tuple(SystemPrompt(prompt_tokens=size, share_frac=0.9 / len(sizes)) for size in sizes)
)


def plain(arrivals: Arrivals | None = None, **parts: object) -> WorkloadSpec:
    lengths = Copula(isl=Lognormal(800, 1.2), osl=Gamma(120, 0.9), rank_correlation=0.3)
    return WorkloadSpec(name="w", content=lengths, arrivals=arrivals or Arrivals(pattern=Steady(10.0)), **parts)


def digest(requests: Requests) -> str:
    sha = hashlib.sha256()
    for field in dataclasses.fields(requests):
        value = getattr(requests, field.name)
        if isinstance(value, PrefixRuns):
            value = np.concatenate((value.offsets, value.first_ids, value.counts))
        sha.update(b"-" if value is None else value.tobytes())
    return sha.hexdigest()


# --- arrivals -------------------------------------------------------------------------------------------


@given(ARRIVALS, SEEDS, st.integers(1, 500))
def test_arrivals_are_finite_sorted_and_never_negative(arrivals: Arrivals, seed: int, count: int) -> None:
    times_s = generate(plain(arrivals), requests=count, seed=seed).arrive_s
    assert len(times_s) == count
    assert np.isfinite(times_s).all()
    assert (np.diff(times_s) >= 0).all()
    assert times_s[0] >= 0


@given(RATES, st.sampled_from([0.0, 0.5, 1.0, 2.0]), SEEDS, st.floats(0.1, 10))
def test_renewal_arrivals_have_the_rate_and_scale_with_the_factor(
    rate: float, cv: float, seed: int, factor: float
) -> None:
    spec = plain(Arrivals(pattern=Steady(rate), gap_cv=cv))
    once = generate(spec, requests=2000, seed=seed)
    again = generate(spec, requests=2000, seed=seed, rate_factor=factor)
    # the mean of 2,000 gaps is within 6 standard errors of 1/rate
    assert once.arrive_s[-1] * rate / 2000 == pytest.approx(1.0, abs=6 * cv / 2000**0.5 + 1e-9)
    np.testing.assert_allclose(again.arrive_s * factor, once.arrive_s, rtol=1e-12)
    np.testing.assert_array_equal(again.isl_tokens, once.isl_tokens)
    np.testing.assert_array_equal(again.osl_tokens, once.osl_tokens)


@pytest.mark.parametrize(
    "pattern",
    [
        Cycle(period_s=10.0, rates_per_s=(1.0, 30.0, 0.0, 9.0), start_s=4.0),
        Steps(at_s=(0.0, 5.0), rates_per_s=(1.0, 20.0)),
        Modulated(rates_per_s=(1.0, 40.0), stays_s=(2.0, 1.0), moves=((0.0, 1.0), (1.0, 0.0))),
        Modulated(
            rates_per_s=(0.0, 5.0, 60.0), stays_s=(2.0, 1.0, 0.5), moves=((0, 0.5, 0.5), (0.2, 0, 0.8), (1, 0, 0))
        ),
    ],
)
def test_modulated_arrivals_have_their_long_run_rate(pattern: Cycle | Steps | Modulated) -> None:
    for seed in range(3):
        times_s = generate(plain(Arrivals(pattern=pattern)), requests=200_000, seed=seed).arrive_s
        assert len(times_s) / times_s[-1] == pytest.approx(pattern.mean_per_s, rel=0.03)


def cumulated(pattern: Cycle | Steps, t: float) -> float:
    """The integral of the rate from 0 to t, span by span."""
    if isinstance(pattern, Steps):
        ends = [*pattern.at_s[1:], np.inf]
        spans = zip(pattern.at_s, ends, pattern.rates_per_s, strict=True)
        return sum(rate * min(max(t - start, 0.0), end - start) for start, end, rate in spans)
    span_s = pattern.period_s / len(pattern.rates_per_s)

    def since_midnight(x: float) -> float:
        laps, rest = divmod(x, pattern.period_s)
        parts = (rate * min(max(rest - i * span_s, 0.0), span_s) for i, rate in enumerate(pattern.rates_per_s))
        return laps * sum(pattern.rates_per_s) * span_s + sum(parts)

    return since_midnight(pattern.start_s + t) - since_midnight(pattern.start_s)


@given(cycles() | steps(), st.floats(0.1, 10))
def test_a_changing_rate_is_followed_in_time(pattern: Cycle | Steps, factor: float) -> None:
    """Evenly spaced in operational time, the k-th request arrives when k are cumulated."""
    times_s = generate(plain(Arrivals(pattern=pattern, gap_cv=0.0)), requests=60, seed=0, rate_factor=factor).arrive_s
    found = [cumulated(pattern, t) * factor for t in times_s.tolist()]
    np.testing.assert_allclose(found, np.arange(1, 61), rtol=1e-6, atol=1e-4)


@given(ARRIVALS, SEEDS, st.floats(0.5, 5))
@settings(max_examples=50)
def test_a_duration_is_the_beginning_of_the_same_arrivals(arrivals: Arrivals, seed: int, expected: float) -> None:
    spec = plain(arrivals).at_rate(1.0)
    if isinstance(arrivals.pattern, Steps):
        assume(max(arrivals.pattern.rates_per_s) < 10 * arrivals.mean_per_s / arrivals.factor)
    within = generate(spec, duration_s=50 * expected, seed=seed).arrive_s
    more = generate(spec, requests=len(within) + 1, seed=seed).arrive_s
    np.testing.assert_array_equal(within, more[:-1])
    assert more[-1] >= 50 * expected
    assert (within < 50 * expected).all()


@given(st.lists(st.floats(0, 100), min_size=2, max_size=30), st.floats(0.1, 10), st.integers(1, 100))
def test_a_replay_repeats_recorded_times_compressed(times: list[float], factor: float, count: int) -> None:
    at_s = np.sort(np.asarray(times))
    if at_s[-1] - at_s[0] < 1e-3:
        at_s[-1] += 1.0
    replay = Arrivals(pattern=Replay(at_s), gap_cv=0.0)
    drawn = generate(plain(replay), requests=count, seed=0, rate_factor=factor).arrive_s
    first = min(count, len(at_s))
    np.testing.assert_allclose(drawn[:first] * factor, at_s[:first] - at_s[0], rtol=1e-9, atol=1e-9)
    assert (np.diff(drawn) >= -1e-9).all()


# --- chance ---------------------------------------------------------------------------------------------


@given(ARRIVALS, ARRIVALS, SEEDS)
@settings(max_examples=50)
def test_other_arrivals_leave_the_lengths_as_they_were(one: Arrivals, other: Arrivals, seed: int) -> None:
    first, second = (generate(plain(a), requests=200, seed=seed) for a in (one, other))
    np.testing.assert_array_equal(first.isl_tokens, second.isl_tokens)
    np.testing.assert_array_equal(first.osl_tokens, second.osl_tokens)


@given(SESSIONS, PROMPTS, SEEDS)
@settings(max_examples=30)
def test_one_seed_gives_the_same_bytes_and_another_seed_others(
    sessions: Sessions, prompts: tuple[SystemPrompt, ...], seed: int
) -> None:
    spec = plain(sessions=sessions, system_prompts=prompts, tenants=(Label(name="a", share_frac=0.5),))
    assert digest(generate(spec, requests=150, seed=seed)) == digest(generate(spec, requests=150, seed=seed))
    assert digest(generate(spec, requests=150, seed=seed)) != digest(generate(spec, requests=150, seed=seed + 1))


def test_two_processes_draw_the_same_bytes() -> None:
    code = (
        "import sys; sys.path.insert(0, 'tests/laws'); import test_workload_synthesis as t;"
        "from headway.workload import generate, profile;"
        "print(t.digest(generate(profile('mooncake-conversation').spec, requests=3000, seed=5)))"
    )
    root = Path(__file__).parents[2]
    runs = [
        subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]
    assert runs[0] == runs[1]
    assert len(runs[0].strip()) == 64


def test_streams_are_independent() -> None:
    drawn = generate(
        plain(tenants=(Label(name="a", share_frac=0.5),), adapters=(Label(name="b", share_frac=0.5),)),
        requests=20_000,
        seed=1,
    )
    gaps_s = np.diff(drawn.arrive_s, prepend=0.0)
    columns = [gaps_s, drawn.isl_tokens, drawn.tenant_id, drawn.adapter_id]
    for index, column in enumerate(columns):
        for other in columns[index + 1 :]:
            # |ρ| of 20,000 independent pairs exceeds 5/√20,000 once in two million
            assert abs(stats.spearmanr(column, other)[0]) < 5 / 20_000**0.5


# --- lengths --------------------------------------------------------------------------------------------


@given(st.lists(st.floats(-6, 6), min_size=1, max_size=50))
def test_the_normal_table_is_the_normal_distribution(z: list[float]) -> None:
    np.testing.assert_allclose(normal_cdf(np.array(z)), stats.norm.cdf(z), atol=1e-6)
    inside = np.clip(z, -3.9, 3.9)
    np.testing.assert_allclose(normal_score(stats.norm.cdf(inside)), inside, atol=1e-4)


@given(DISTRIBUTIONS, st.lists(st.floats(-4, 4), min_size=2, max_size=40))
def test_a_distribution_never_falls_with_the_score(distribution: object, z: list[float]) -> None:
    values = distribution.at(np.sort(z))
    assert np.isfinite(values).all()
    assert (np.diff(values) >= -1e-9 * np.abs(values[1:])).all()


@given(st.floats(1, 1e5), st.floats(0.1, 2.5))
def test_parametric_distributions_are_what_they_say(mean: float, cv: float) -> None:
    p = np.array([0.01, 0.1, 0.5, 0.9, 0.99])
    z = stats.norm.ppf(p)
    shape = 1 / cv**2
    np.testing.assert_allclose(
        Gamma(mean, cv).at(z), stats.gamma.ppf(p, shape, scale=mean / shape), rtol=3e-3, atol=1e-6
    )
    sigma = np.sqrt(np.log1p(cv**2))
    lognormal = stats.lognorm(sigma, scale=mean / np.exp(sigma**2 / 2))
    np.testing.assert_allclose(Lognormal(mean, cv).at(z), lognormal.ppf(p), rtol=1e-6)
    assert lognormal.mean() == pytest.approx(mean)


@given(st.floats(1, 1e3), st.floats(0.3, 4), st.floats(2, 1e4))
def test_a_pareto_tail_is_a_power_law_below_its_end(least: float, alpha: float, times: float) -> None:
    p = np.array([0.1, 0.5, 0.9])
    values = Pareto(least, alpha, least * times).at(stats.norm.ppf(p))
    truncated = (1 - (least / values) ** alpha) / (1 - times**-alpha)
    np.testing.assert_allclose(truncated, p, atol=1e-5)


@given(st.floats(1, 50))
def test_turns_of_a_given_mean_have_it(mean: float) -> None:
    assert whole_mean(Geometric(mean), 1e5) == pytest.approx(mean, rel=0.01)


@given(
    st.lists(st.floats(1, 1e5), min_size=5, max_size=5),
    st.lists(st.lists(st.floats(1, 1e4), min_size=5, max_size=5), min_size=1, max_size=5),
    SEEDS,
)
@settings(max_examples=30)
def test_a_joint_table_gives_its_marginals_and_its_slices(isl: list[float], rows: list[list[float]], seed: int) -> None:
    at = (0.0, 0.25, 0.5, 0.75, 1.0)
    table = JointTable(
        isl=Quantiles(at, tuple(np.sort(isl).tolist())),
        osl=tuple(Quantiles(at, tuple(np.sort(r).tolist())) for r in rows),
    )
    chance = np.random.default_rng(seed)
    z = chance.standard_normal((2, 20_000))
    drawn = table.sample(*z)
    for p, value in zip(at[1:4], table.isl.values[1:4], strict=True):
        # 5 standard errors of a share of 20,000; half a token of rounding
        assert (drawn[0] <= value + 0.5).mean() > p - 0.02
        assert (drawn[0] < value - 0.5).mean() < p + 0.02
    part = np.minimum((stats.norm.cdf(z[0]) * len(rows)).astype(int), len(rows) - 1)
    for index, row in enumerate(table.osl):
        here = drawn[1][part == index]
        assert (here <= row.values[2] + 0.5).mean() > 0.5 - 2.6 / len(here) ** 0.5
        assert (here < row.values[2] - 0.5).mean() < 0.5 + 2.6 / len(here) ** 0.5


@given(st.floats(-1, 1), SEEDS)
@settings(max_examples=30)
def test_the_copula_has_the_rank_correlation(rho: float, seed: int) -> None:
    lengths = Copula(isl=Lognormal(5000, 1), osl=Gamma(3000, 0.7), rank_correlation=rho)
    isl, osl = lengths.sample(*np.random.default_rng(seed).standard_normal((2, 5000)))
    assert stats.spearmanr(isl, osl)[0] == pytest.approx(rho, abs=0.08)


@given(LENGTHS, SEEDS)
def test_lengths_are_at_least_one(lengths: Copula, seed: int) -> None:
    spec = dataclasses.replace(plain(), content=lengths)
    drawn = generate(spec, requests=100, seed=seed)
    assert drawn.isl_tokens.min() >= 1
    assert drawn.osl_tokens.min() >= 1
    assert drawn.isl_tokens.dtype == drawn.osl_tokens.dtype == np.int64


# --- sessions and prefixes --------------------------------------------------------------------------------


def ids_of(drawn: Requests) -> list[list[int]]:
    assert drawn.prefix is not None
    ids, offsets = expand_ids(drawn.prefix)
    return [ids[start:end].tolist() for start, end in pairwise(offsets)]


@given(SESSIONS, PROMPTS, SEEDS, st.integers(1, 150), st.floats(0.2, 5))
def test_a_turn_holds_the_turn_before_and_shares_its_blocks(
    sessions: Sessions, prompts: tuple[SystemPrompt, ...], seed: int, count: int, factor: float
) -> None:
    spec = plain(sessions=sessions, system_prompts=prompts)
    drawn = generate(spec, requests=count, seed=seed, rate_factor=factor)
    assert len(drawn) == count
    assert (np.diff(drawn.arrive_s) >= 0).all()
    ids = ids_of(drawn)
    before: dict[int, int] = {}
    for index, session in enumerate(drawn.session_id.tolist()):
        total = int(drawn.isl_tokens[index] + drawn.osl_tokens[index])
        assert len(ids[index]) == total // BLOCK_TOKENS
        if session in before:
            last = before[session]
            spoken = int(drawn.isl_tokens[last] + drawn.osl_tokens[last])
            assert drawn.isl_tokens[index] >= spoken
            assert ids[index][: len(ids[last])] == ids[last]
        before[session] = index


@given(SESSIONS, PROMPTS, SEEDS)
def test_ids_are_chained_and_only_system_prompts_are_shared_between_sessions(
    sessions: Sessions, prompts: tuple[SystemPrompt, ...], seed: int
) -> None:
    drawn = generate(plain(sessions=sessions, system_prompts=prompts), requests=120, seed=seed)
    assert unchained_request(drawn.prefix) is None
    room = sum(prompt.prompt_tokens // BLOCK_TOKENS for prompt in prompts)
    owners: dict[int, int] = {}
    for session, ids in zip(drawn.session_id.tolist(), ids_of(drawn), strict=True):
        for block in ids:
            if block >= room:
                assert owners.setdefault(block, session) == session


@given(PROMPTS.filter(len), SEEDS)
def test_requests_alone_share_their_system_prompts_full_blocks(prompts: tuple[SystemPrompt, ...], seed: int) -> None:
    drawn = generate(plain(system_prompts=prompts), requests=300, seed=seed)
    starts = np.concatenate(([0], np.cumsum([prompt.prompt_tokens // BLOCK_TOKENS for prompt in prompts])))
    for isl, ids in zip(drawn.isl_tokens.tolist(), ids_of(drawn), strict=True):
        if ids:
            which = int(np.searchsorted(starts, ids[0], side="right")) - 1
            most = min(prompts[which].prompt_tokens, isl) // BLOCK_TOKENS
            assert ids == list(range(starts[which], starts[which] + most))


@given(SEEDS)
@settings(max_examples=10)
def test_sessions_keep_the_rate_of_requests_from_the_first_second_on(seed: int) -> None:
    sessions = Sessions(
        turns=Geometric(6.0), think_s=Lognormal(60, 1), response_s=Constant(10.0), growth_tokens=Constant(50)
    )
    drawn = generate(plain(sessions=sessions), duration_s=600, seed=seed)
    # clustered counts: Fano at most E[turns²]/E[turns] = 11 for geometric turns of mean 6; five standard errors
    for part in (drawn.arrive_s < 150, drawn.arrive_s >= 450):
        assert part.sum() == pytest.approx(1500, abs=5 * (11 * 1500) ** 0.5)


@given(SEEDS)
@settings(max_examples=10)
def test_alike_sessions_keep_the_marginal_of_prompts(seed: int) -> None:
    sessions = Sessions(turns=Geometric(3.0), think_s=Constant(5.0), response_s=Constant(1.0), alike_frac=0.4)
    spec = dataclasses.replace(plain(sessions=sessions), content=Copula(isl=Lognormal(20_000, 1.0), osl=Constant(5)))
    drawn = generate(spec, requests=20_000, seed=seed)
    wanted = Lognormal(20_000, 1.0).at(stats.norm.ppf([0.1, 0.5, 0.9]))
    np.testing.assert_allclose(np.quantile(drawn.isl_tokens, [0.1, 0.5, 0.9]), wanted, rtol=0.08)


@given(st.lists(st.floats(0, 0.3), min_size=1, max_size=3), SEEDS)
def test_labels_have_their_shares(shares: list[float], seed: int) -> None:
    labels = tuple(Label(name=str(i), share_frac=share, priority=i + 3) for i, share in enumerate(shares))
    drawn = generate(plain(tenants=labels, adapters=labels, classes=labels), requests=5000, seed=seed)
    for column in (drawn.tenant_id, drawn.adapter_id, drawn.class_id):
        assert set(column.tolist()) <= set(range(-1, len(labels)))
        for index, share in enumerate(shares):
            assert (column == index).mean() == pytest.approx(share, abs=5 * 0.5 / 5000**0.5)
    np.testing.assert_array_equal(drawn.priority, np.where(drawn.class_id < 0, 0, drawn.class_id + 3))


def test_labels_belong_to_the_session() -> None:
    sessions = Sessions(turns=Geometric(5.0), think_s=Constant(5.0), response_s=Constant(1.0), alike_frac=0.4)
    drawn = generate(plain(sessions=sessions, tenants=(Label(name="a", share_frac=0.5),)), requests=2000, seed=3)
    pairs = set(zip(drawn.session_id.tolist(), drawn.tenant_id.tolist(), strict=True))
    assert len(pairs) == len(set(drawn.session_id.tolist()))
    assert {tenant for _, tenant in pairs} == {-1, 0}


# --- recorded content -------------------------------------------------------------------------------------


@given(st.integers(1, 40), st.integers(1, 100), st.integers(0, 10**6))
def test_recorded_requests_are_repeated_with_fresh_blocks(size: int, count: int, seed: int) -> None:
    chance = np.random.default_rng(seed)
    runs = chance.integers(0, 3, size)
    offsets = np.concatenate(([0], np.cumsum(runs)))
    prefix = PrefixRuns(
        block_tokens=64,
        offsets=offsets,
        first_ids=chance.integers(0, 50, offsets[-1]),
        counts=chance.integers(1, 5, offsets[-1]),
    )
    recorded = Requests(
        arrive_s=np.arange(size, dtype=float),
        isl_tokens=chance.integers(1, 1000, size),
        osl_tokens=chance.integers(1, 1000, size),
        prefix=prefix,
        session_id=chance.integers(0, 5, size),
    )
    spec = WorkloadSpec(name="t", content=recorded, arrivals=Arrivals(pattern=Steady(1.0)))
    drawn = generate(spec, requests=count, seed=0)
    row = np.arange(count) % size
    np.testing.assert_array_equal(drawn.isl_tokens, recorded.isl_tokens[row])
    ids, original = ids_of(drawn), ids_of(recorded)
    laps: dict[int, set[int]] = {}
    for index in range(count):
        lift = {a - b for a, b in zip(ids[index], original[row[index]], strict=True)}
        assert len(lift) <= 1
        laps.setdefault(index // size, set()).update(ids[index])
    seen: set[int] = set()
    for blocks in laps.values():
        assert not seen & blocks
        seen |= blocks
