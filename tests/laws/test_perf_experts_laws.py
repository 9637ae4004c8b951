"""Laws of routed experts: what balanced routing asks for, and times that follow the work."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.catalog import catalog
from headway.perf import calibration
from headway.perf.experts import ExpertWork, expert_curve, expert_time, expert_work
from headway.perf.formats import WEIGHT_BYTES
from headway.perf.shapes import Experts

_ACCELERATORS = ("a100-80-sxm", "b200", "gb300", "h100-sxm", "h200-nvl", "l4", "mi300x", "rtx-pro-6000")
_ENGINES = ("sglang", "tensorrt-llm", "tgi", "vllm")


@st.composite
def layers(draw: st.DrawFn) -> tuple[Experts, int]:
    """Draw one layer's experts on one GPU, and the hidden size."""
    total = draw(st.sampled_from([8, 60, 128, 256, 512]))
    ranks = draw(st.sampled_from([1, 2, 4, 8, 32]).filter(lambda n: n <= total))
    width, hidden = draw(st.sampled_from([96, 256, 768, 2048, 14336])), draw(st.sampled_from([1024, 2880, 7168]))
    held = Experts(
        count=1,
        local=total / ranks,
        total=total,
        per_token=draw(st.integers(1, min(total, 10))),
        width=width,
        params_each=draw(st.sampled_from([2, 3])) * hidden * width,
        dtype=draw(st.sampled_from(sorted(WEIGHT_BYTES))),
    )
    return held, hidden


@given(layers(), st.integers(1, 100_000))
def test_no_more_experts_are_reached_than_held_or_than_rows_are_routed(layer: tuple[Experts, int], tokens: int) -> None:
    held, hidden = layer
    work = expert_work(held, hidden, tokens)
    assert 0 < work.reached <= held.local * (1 + 1e-9)
    assert work.reached <= work.routed * (1 + 1e-9)
    assert work.routed * held.total / held.local == pytest.approx(tokens * held.per_token)


@given(layers())
def test_one_token_reaches_its_experts_and_many_reach_all(layer: tuple[Experts, int]) -> None:
    held, hidden = layer
    assert expert_work(held, hidden, 1).reached == pytest.approx(held.per_token * held.local / held.total)
    assert expert_work(held, hidden, 10**6).reached == pytest.approx(held.local)


@given(layers(), st.integers(1, 5000))
def test_weights_and_activations_are_all_that_moves(layer: tuple[Experts, int], tokens: int) -> None:
    held, hidden = layer
    work = expert_work(held, hidden, tokens)
    weights = WEIGHT_BYTES[held.dtype] * held.params_each * work.reached
    least = 2.0 * 2 * hidden * tokens  # each token in bf16, in and out
    assert weights + least <= work.moved_bytes
    more = expert_work(held, hidden, tokens + 1)
    assert isinstance(more, ExpertWork)
    assert more.moved_bytes > work.moved_bytes


@given(layers(), st.sampled_from(_ACCELERATORS), st.sampled_from(_ENGINES), st.data())
def test_more_tokens_never_take_less_time(
    layer: tuple[Experts, int], name: str, engine: str, data: st.DataObject
) -> None:
    on = catalog.load().accelerator(name)
    tokens = np.array(sorted(data.draw(st.lists(st.integers(1, 200_000), min_size=2, max_size=20))), dtype=float)
    held, hidden = layer
    timed = expert_time(on, engine, calibration(on, engine), held, hidden, tokens)
    assert (np.diff(timed.time_s) >= -1e-12 * timed.time_s[1:]).all()
    assert (timed.time_s > timed.fixed_s).all()


@given(layers(), st.sampled_from(_ACCELERATORS), st.lists(st.integers(1, 70_000), min_size=1, max_size=9))
def test_a_column_is_its_entries(layer: tuple[Experts, int], name: str, tokens: list[int]) -> None:
    on = catalog.load().accelerator(name)
    constants, (held, hidden) = calibration(on, "vllm"), layer
    column = expert_time(on, "vllm", constants, held, hidden, np.array(tokens, dtype=float))
    for index, one in enumerate(tokens):
        alone = expert_time(on, "vllm", constants, held, hidden, one)
        for part in ("time_s", "compute_s", "memory_s", "flops", "moved_bytes"):
            assert getattr(column, part)[index] == pytest.approx(getattr(alone, part)), part


@given(layers(), st.sampled_from(_ACCELERATORS), st.integers(1, 70_000))
def test_time_is_what_is_fixed_and_the_longer_of_its_parts_or_a_little_more(
    layer: tuple[Experts, int], name: str, tokens: int
) -> None:
    on = catalog.load().accelerator(name)
    held, hidden = layer
    timed = expert_time(on, "vllm", calibration(on, "vllm"), held, hidden, tokens)
    longer = timed.fixed_s + max(timed.compute_s, timed.memory_s)
    assert longer * (1 - 1e-9) <= timed.time_s <= longer * 2**0.25 * (1 + 1e-9)


@given(layers(), st.sampled_from(_ENGINES))
def test_every_format_has_a_curve_on_an_accelerator_that_was_timed_at_all(
    layer: tuple[Experts, int], engine: str
) -> None:
    held, _ = layer
    for name in set(_ACCELERATORS) - {"mi300x"}:
        on = catalog.load().accelerator(name)
        assert expert_curve(on, engine, held.dtype, calibration(on, engine)) is not None
