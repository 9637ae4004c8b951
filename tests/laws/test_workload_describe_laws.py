"""Laws of `describe`: bounds, order, sums, and what it must not depend on."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from headway.types import PrefixRuns, Requests
from headway.workload import Description, describe
from headway.workload.description import histogram
from headway.workload.prefixes import encode_ids, offsets_of


@st.composite
def workloads(draw: st.DrawFn) -> Requests:
    """Up to 40 requests on a coarse clock, some with sessions whose prompts share what came before them."""
    n = draw(st.integers(1, 40))
    sessions = draw(st.lists(st.integers(0, 4), min_size=n, max_size=n))
    lengths = st.lists(st.integers(1, 5000), min_size=n, max_size=n)
    isl = draw(lengths)
    # blocks of 16: two of a system prompt that all share, then the session's own
    ids = [
        [*range(2), *range(1000 * (s + 1), 1000 * (s + 1) + i // 16)][: i // 16]
        for s, i in zip(sessions, isl, strict=True)
    ]
    flat = np.array(list(itertools.chain.from_iterable(ids)), dtype=np.int64)
    return Requests(
        arrive_s=np.sort(np.array(draw(st.lists(st.integers(0, 2000), min_size=n, max_size=n)), dtype=np.float64)),
        isl_tokens=np.array(isl, dtype=np.int64),
        osl_tokens=np.array(draw(lengths), dtype=np.int64),
        session_id=np.array(sessions, dtype=np.int64),
        prefix=encode_ids(flat, offsets_of(np.array([len(row) for row in ids], dtype=np.int64)), 16),
    )


def taken(requests: Requests, rows: np.ndarray) -> Requests:
    prefix = requests.prefix
    assert prefix is not None
    parts = [slice(prefix.offsets[row], prefix.offsets[row + 1]) for row in rows]
    return Requests(
        arrive_s=requests.arrive_s[rows],
        isl_tokens=requests.isl_tokens[rows],
        osl_tokens=requests.osl_tokens[rows],
        session_id=None if requests.session_id is None else requests.session_id[rows],
        prefix=PrefixRuns(
            block_tokens=prefix.block_tokens,
            offsets=offsets_of(np.diff(prefix.offsets)[rows]),
            first_ids=np.concatenate([prefix.first_ids[part] for part in parts]),
            counts=np.concatenate([prefix.counts[part] for part in parts]),
        ),
    )


def flattened(value: object, name: str = "") -> dict[str, object]:
    if isinstance(value, dict):
        return {k: v for key, one in value.items() for k, v in flattened(one, f"{name}.{key}").items()}
    if isinstance(value, tuple):
        return {k: v for at, one in enumerate(value) for k, v in flattened(one, f"{name}[{at}]").items()}
    return {name: value}


def spreads(description: Description) -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = {}

    def walk(value: object, name: str) -> None:
        if isinstance(value, dict):
            if "quantiles" in value:
                found[name] = value
            for key, one in value.items():
                walk(one, f"{name}.{key}")

    walk(description.to_dict(), "")
    return found


@settings(deadline=None)
@given(requests=workloads())
def test_quantiles_are_values_that_occur_within_bounds_and_rise(requests: Requests) -> None:
    description = describe(requests)
    found = spreads(description)
    assert {".isl_tokens", ".osl_tokens", ".prefix.hit_tokens", ".sessions.turns"} <= set(found)
    for name, one in found.items():
        values = list(one["quantiles"].values())  # type: ignore[attr-defined]
        assert values == sorted(values), name
        assert one["least"] <= values[0] <= values[-1] <= one["most"], name  # type: ignore[operator]
        assert one["least"] - 1e-9 <= one["mean"] <= one["most"] + 1e-9, name  # type: ignore[operator]
    assert set(description.isl_tokens.quantiles.values()) <= set(requests.isl_tokens.tolist())


@settings(deadline=None)
@given(requests=workloads(), data=st.data())
def test_the_order_of_requests_at_one_instant_does_not_matter(requests: Requests, data: st.DataObject) -> None:
    shuffled = np.array(data.draw(st.permutations(range(len(requests)))))
    rows = shuffled[np.argsort(requests.arrive_s[shuffled], kind="stable")]
    before, after = flattened(describe(requests).to_dict()), flattened(describe(taken(requests, rows)).to_dict())
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert after[name] == (pytest.approx(value, rel=1e-12) if isinstance(value, float) else value), name


@settings(deadline=None)
@given(requests=workloads())
def test_every_request_is_counted_once_everywhere(requests: Requests) -> None:
    d = describe(requests)
    assert d.requests == len(requests)
    assert sum(d.series.requests) == sum(d.isl_histogram.requests) == sum(d.osl_histogram.requests) == len(requests)
    assert sum(d.series.input_tokens) == requests.isl_tokens.sum()
    assert sum(d.series.output_tokens) == requests.osl_tokens.sum()
    assert math.isclose(sum(map(sum, d.joint.share_frac)), 1)
    assert d.sessions is not None
    assert d.prefix is not None
    assert round(d.sessions.turns.mean * d.sessions.sessions) == len(requests)
    assert sum(d.prefix.hit_histogram.requests) == round(d.prefix.requests_frac * len(requests))


@settings(deadline=None)
@given(requests=workloads())
def test_shares_are_shares_and_the_longest_weigh_at_least_their_number(requests: Requests) -> None:
    d = describe(requests)
    assert d.prefix is not None
    for share in (d.tail.input_share_frac, d.tail.output_share_frac):
        assert all(frac <= value <= 1 for frac, value in share.items())
        assert list(share.values()) == sorted(share.values())
    over = list(d.tail.prompts_over_frac.values())
    assert over == sorted(over, reverse=True)
    assert 0 <= d.prefix.share_frac < 1  # the first of all blocks is never found
    assert d.prefix.distinct_tokens <= requests.isl_tokens.sum()
    found = d.prefix.share_frac * requests.isl_tokens.sum()
    assert found == pytest.approx(d.prefix.hit_tokens.mean * len(requests))


@settings(deadline=None)
@given(requests=workloads())
def test_prompt_tokens_with_ids_are_either_found_or_new(requests: Requests) -> None:
    """Of prefix-chained ids, each is new once and found ever after."""
    d = describe(requests)
    assert d.prefix is not None
    assert requests.prefix is not None
    blocks = int(requests.prefix.counts.sum())
    found = round(d.prefix.share_frac * requests.isl_tokens.sum() / 16)
    assert found + d.prefix.distinct_tokens // 16 == blocks


@settings(deadline=None)
@given(requests=workloads(), factor=st.sampled_from([2.0, 8.0, 0.5]))
def test_stretching_time_scales_rates_and_leaves_the_shape(requests: Requests, factor: float) -> None:
    slow = dataclasses.replace(requests, arrive_s=requests.arrive_s * factor)
    a, b = describe(requests), describe(slow)
    assume(a.requests_per_s is not None)
    assert b.requests_per_s == pytest.approx(a.requests_per_s / factor)  # type: ignore[operator]
    assert b.duration_s == pytest.approx(a.duration_s * factor)
    assert a.isl_tokens == b.isl_tokens
    assert a.joint == b.joint
    assert a.prefix == b.prefix
    if a.burstiness.gap_cv is not None:
        assert b.burstiness.gap_cv == pytest.approx(a.burstiness.gap_cv)


@settings(deadline=None)
@given(requests=workloads())
def test_it_is_json(requests: Requests) -> None:
    assert json.loads(json.dumps(describe(requests).to_dict(), allow_nan=False))


@given(tokens=st.lists(st.integers(1, 2**31 - 1), max_size=50))
def test_histogram_bins_hold_what_they_say(tokens: list[int]) -> None:
    counted = histogram(np.array(tokens, dtype=np.int64))
    edges = counted.edges_tokens
    assert edges[0] == 1
    assert all(a < b for a, b in itertools.pairwise(edges))
    for low, high, count in zip(edges[:-1], edges[1:], counted.requests, strict=True):
        assert count == sum(low <= one < high for one in tokens)
    assert edges[-1] > max(tokens, default=0)
