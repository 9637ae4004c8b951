"""Which requests a replica refuses: those without room for a token, and those that do not fit its blocks when alone."""

from __future__ import annotations

import dataclasses

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from headway.simulator import FAILED, FINISHED, simulate
from headway.simulator.jumped import Jumped
from headway.simulator.stepped import Stepped
from headway.types import EngineSettings, KvGroup, Replica, Requests, Speculation, StepTable

SETTINGS = EngineSettings(
    max_num_seqs=2, max_num_batched_tokens=8, max_model_len=64, gpu_memory_utilization=0.9, block_size=4
)
STEP = StepTable(decode_ps=np.arange(3) + 10, mixed_ps=np.arange(9) + 10, context_ps_per_token=0, prefill_ps_per_pair=0)
LENGTHS = st.lists(st.tuples(*[st.integers(1, 90)] * 3), min_size=1, max_size=8)


def requests_of(lengths: list[tuple[int, int, int]]) -> Requests:
    isl, osl, allowed = np.array(lengths).T
    return Requests(arrive_s=np.zeros(len(isl)), isl_tokens=isl, osl_tokens=osl, max_tokens=allowed)


@given(LENGTHS, st.integers(1, 20))
def test_both_engines_refuse_by_what_a_request_really_generates(
    lengths: list[tuple[int, int, int]], blocks: int
) -> None:
    requests, replica = requests_of(lengths), Replica(settings=SETTINGS, step=STEP, num_gpu_blocks=blocks)
    generated = [min(osl, allowed, 64 - isl) for isl, osl, allowed in lengths]
    fits = [n >= 1 and isl + n - 1 <= 4 * blocks for (isl, _, _), n in zip(lengths, generated, strict=True)]
    expected = [n if fit else 0 for n, fit in zip(generated, fits, strict=True)]
    for engine in (Jumped, Stepped):
        columns = engine(requests, replica, replicas=1, until_ps=1 << 61).columns
        assert columns["output_tokens"].tolist() == expected
        assert columns["state"].tolist() == [0 if fit else FAILED for fit in fits]


@given(LENGTHS, st.integers(2, 20), st.integers(1, 3))
def test_lookahead_and_groups_take_blocks_too(lengths: list[tuple[int, int, int]], blocks: int, drafts: int) -> None:
    requests, replica = requests_of(lengths), Replica(settings=SETTINGS, step=STEP, num_gpu_blocks=2 * blocks)
    groups = (KvGroup(layers=1), KvGroup(layers=1, window_tokens=8))
    speculation = Speculation(method="draft_model", num_speculative_tokens=drafts, accepted=(0,))
    grouped = dataclasses.replace(replica, kv_groups=groups, speculation=speculation)
    found = Stepped(requests, grouped).columns["state"]
    for row, (isl, osl, allowed) in enumerate(lengths):
        tokens = min(isl + min(osl, allowed), 64)
        needed = -(-min(tokens - 1 + drafts, 64) // 4)
        assert (found[row] == FAILED) == (tokens <= isl or needed > blocks)


@given(LENGTHS, st.integers(1, 20), st.booleans())
def test_all_that_is_not_refused_is_served(
    lengths: list[tuple[int, int, int]], blocks: int, asynchronous: bool
) -> None:
    settings = dataclasses.replace(SETTINGS, async_scheduling=asynchronous, long_prefill_token_threshold=3)
    replica = Replica(settings=settings, step=STEP, num_gpu_blocks=blocks)
    found = simulate(requests_of(lengths), replica)
    assert set(found.state.tolist()) <= {FINISHED, FAILED}
    assert ((found.state == FAILED) == (found.output_tokens == 0)).all()
