"""Laws of what is derived from counters and buckets."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from headway.metrics import PERCENTILES_FRAC, rank_of
from headway.probe.observed import distribution, increase, quantile

values = st.lists(st.floats(0.0, 100.0), min_size=1, max_size=200)
bounds = st.lists(st.floats(0.001, 120.0), min_size=1, max_size=20, unique=True).map(sorted)


@given(values, bounds, st.floats(0.01, 1.0))
def test_the_bounds_of_a_quantile_hold_the_truth(samples: list[float], edges: list[float], frac: float) -> None:
    cumulative = np.array([sum(s <= edge for s in samples) for edge in [*edges, np.inf]], dtype=float)
    truth = sorted(samples)[rank_of(frac, len(samples))]
    found = quantile(np.array(edges), cumulative, frac)
    assert found.low <= truth <= found.high
    assert found.low <= found.value <= found.high


@given(values, bounds)
def test_a_distribution_keeps_count_and_mean(samples: list[float], edges: list[float]) -> None:
    cumulative = np.array([sum(s <= edge for s in samples) for edge in [*edges, np.inf]], dtype=float)
    found = distribution(np.array(edges), cumulative, sum(samples))
    assert found.samples == found.counts.sum() == len(samples)
    np.testing.assert_allclose(found.mean, np.mean(samples), atol=1e-9)
    lows = [found.quantiles[p].low for p in sorted(found.quantiles)]
    assert lows == sorted(lows)


@given(values, bounds, st.floats(1e-3, 1.0), st.integers(0, 2**32 - 1))
def test_counts_that_are_no_whole_numbers_have_quantiles(
    samples: list[float], edges: list[float], share: float, seed: int
) -> None:
    """As recording rules and downsampled stores have them: a share of each, a little off."""
    whole = np.array([sum(s <= edge for s in samples) for edge in [*edges, np.inf]], dtype=float)
    cumulative = share * whole * (1 + 1e-3 * np.random.default_rng(seed).uniform(-1, 1, len(whole)))
    found = distribution(np.array(edges), cumulative, share * sum(samples))
    assert found.samples == round(found.counts.sum())
    assert (found.counts >= 0).all()
    assert len(found.quantiles) == (len(PERCENTILES_FRAC) if found.samples else 0)
    assert all(one.low <= one.value <= one.high for one in found.quantiles.values())


@given(st.lists(st.lists(st.integers(0, 50), min_size=1, max_size=8), min_size=1, max_size=4))
def test_an_increase_is_all_that_was_counted_between_scrapes(lives: list[list[int]]) -> None:
    """Each life of a server counts from 0; a new life shows where its counter is below the last one's."""
    counted, expected, last = [], 0.0, None
    for steps in lives:
        life = np.cumsum(steps, dtype=float)
        if last is None:
            expected += life[-1] - life[0]
        else:
            expected += life[-1] if life[0] < last * (1 - 1e-4) else life[-1] - last
        counted += life.tolist()
        last = life[-1]
    assert abs(float(increase(np.array(counted))) - max(expected, 0.0)) < 0.02
