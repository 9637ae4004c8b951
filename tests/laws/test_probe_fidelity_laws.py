"""Laws of the check that what was sent is what was asked for."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("scipy")

from headway.errors import InputError
from headway.probe.fidelity import compare
from headway.types import PrefixRuns, Requests
from headway.workload import Measured, Trace, take

WORDS = ("", "timeout", "stopped-early", "not-sent")


def asked_for(seed: int, n: int = 300, mean_gap_s: float = 0.1) -> Requests:
    rng = np.random.default_rng(seed)
    return Requests(
        arrive_s=np.cumsum(rng.exponential(mean_gap_s, n)),
        isl_tokens=rng.integers(1, 2000, n),
        osl_tokens=rng.integers(1, 500, n),
    )


def sent(asked: Requests, **other: np.ndarray) -> Trace:
    n = len(asked)
    columns = {
        "sent_s": np.zeros(n),
        "input_tokens": asked.isl_tokens,
        "output_tokens": asked.osl_tokens,
        "error": np.zeros(n, dtype=np.int64),
    } | other
    return Trace(requests=asked, format="", file="", measured=Measured(**columns), names={"error": WORDS})


def off(found: tuple[str, ...]) -> list[str]:
    return [one.split(":")[0] for one in found]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_what_is_sent_as_asked_is_the_same_in_every_figure(seed: int) -> None:
    asked = asked_for(seed)
    found = compare(asked, sent(asked))
    assert found.same and found.sent == found.asked == found.answered == 300
    assert [one.column for one in found.columns] == ["gap_s", "isl_tokens", "osl_tokens"]
    for one in found.columns:
        assert (one.ks, one.wasserstein) == (0.0, pytest.approx(0.0, abs=1e-9))
        assert one.p_value == pytest.approx(1.0)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), late_s=st.floats(0, 100))
def test_all_late_alike_is_no_difference_of_gaps(seed: int, late_s: float) -> None:
    asked = asked_for(seed)
    assert compare(asked, sent(asked, sent_s=np.full(300, late_s))).same


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), more=st.integers(1, 400))
def test_longer_prompts_are_as_far_off_as_they_are_longer(seed: int, more: int) -> None:
    asked = asked_for(seed)
    found = compare(asked, sent(asked, input_tokens=asked.isl_tokens + more))
    (isl,) = [one for one in found.columns if one.column == "isl_tokens"]
    assert isl.wasserstein == pytest.approx(more)
    assert isl.sent_mean - isl.asked_mean == pytest.approx(more)
    assert isl.same == (more <= 0.02 * asked.isl_tokens.mean())
    assert off(found.off) == ([] if isl.same else ["isl_tokens"])


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), stretch=st.floats(1.2, 5))
def test_a_slower_client_is_found_by_its_gaps_alone(seed: int, stretch: float) -> None:
    asked = asked_for(seed)
    found = compare(asked, sent(asked, sent_s=asked.arrive_s * (stretch - 1)))
    assert off(found.off) == ["gap_s"]
    assert found.columns[0].sent_mean == pytest.approx(found.columns[0].asked_mean * stretch)
    assert compare(asked, sent(asked, sent_s=asked.arrive_s * (stretch - 1)), closed=True).same


def test_jitter_below_a_millisecond_passes_though_no_gap_is_as_asked() -> None:
    asked = dataclasses.replace(asked_for(0), arrive_s=np.arange(300) * 0.005)
    found = compare(asked, sent(asked, sent_s=np.random.default_rng(1).uniform(0, 1e-3, 300)))
    gaps = found.columns[0]
    assert gaps.ks > 0.4 and gaps.p_value < 1e-9
    assert found.same


@pytest.mark.parametrize("n", range(2, 24))
def test_any_few_requests_are_compared_without_a_warning(n: int) -> None:
    asked = asked_for(n, n=n)
    found = compare(asked, sent(asked, sent_s=np.random.default_rng(n).uniform(0, 1e-3, n)))
    assert all(0 <= one.p_value <= 1 for one in found.columns)


def test_what_was_not_sent_or_not_answered_says_nothing_of_lengths() -> None:
    asked = asked_for(3)
    error = np.zeros(300, dtype=np.int64)
    error[:50], error[50:60], error[290:] = 1, 2, 3
    got = np.where(error == 1, 0, asked.osl_tokens)
    late_s = np.where(error == 3, np.nan, 0.0)
    found = compare(asked, sent(asked, error=error, output_tokens=got, sent_s=late_s))
    assert found.off == ("10 of 300 requests were not sent",)
    assert found.errors == {"timeout": 50, "stopped-early": 10, "not-sent": 10}
    assert (found.sent, found.answered) == (290, 230)
    osl = found.columns[2]
    assert (osl.samples, osl.wasserstein) == (240, 0.0)


def test_answers_that_stop_early_are_off() -> None:
    asked = asked_for(4)
    error = np.full(300, 2)
    found = compare(asked, sent(asked, error=error, output_tokens=np.minimum(asked.osl_tokens, 100)))
    assert off(found.off) == ["osl_tokens"]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_times_asked_for_may_come_in_any_order(seed: int) -> None:
    asked = asked_for(seed)
    rows = np.random.default_rng(seed).permutation(300)
    mixed = take(asked, rows)
    found = compare(mixed, sent(mixed))
    assert found.same
    assert found.columns[0].asked_mean == pytest.approx(float(np.diff(asked.arrive_s).mean()))


def test_the_share_found_cached_is_of_the_prompts_as_they_were_sent() -> None:
    asked = dataclasses.replace(asked_for(8), isl_tokens=np.full(300, 15))
    longer = sent(asked, cached_tokens=np.full(300, 19), input_tokens=np.full(300, 38))
    assert compare(asked, longer).cached_frac == pytest.approx(0.5)
    unknown = sent(asked, cached_tokens=np.full(300, 3), input_tokens=np.full(300, -1))
    assert compare(asked, unknown).cached_frac == pytest.approx(0.2)


def test_more_cached_than_shared_is_off_and_less_is_not() -> None:
    n = 300
    first = np.zeros(n, dtype=np.int64)
    prefix = PrefixRuns(block_tokens=16, offsets=np.arange(n + 1), first_ids=first, counts=np.full(n, 10))
    asked = dataclasses.replace(asked_for(5), isl_tokens=np.full(n, 320), prefix=prefix)
    for cached, words in ((0, []), (160, []), (200, ["prefixes"])):
        found = compare(asked, sent(asked, cached_tokens=np.full(n, cached)))
        assert found.shared_frac == pytest.approx(0.5 * 299 / 300)
        assert found.cached_frac == pytest.approx(cached / 320)
        assert off(found.off) == words


def test_another_number_of_requests_is_compared_as_a_whole() -> None:
    asked = asked_for(6)
    some = dataclasses.replace(asked_for(7, n=200))
    found = compare(asked, sent(some))
    assert found.off[0] == "100 of 300 requests were not sent"
    assert found.columns[1].samples == 200


def test_nothing_measured_is_refused() -> None:
    with pytest.raises(InputError, match="nothing was measured"):
        compare(asked_for(1), Trace(requests=asked_for(1), format="", file=""))
