"""The simulator repeats recorded schedules of the real vLLM scheduler to the nanosecond."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "oracle"))  # tests are no package

import goldens

from headway.simulator import simulate

FOLDER = Path(__file__).parents[2].parent / "shared" / "goldens"
NAMES = [
    "async_budget_chunked",
    "async_kv_pressure",
    "async_kv_pressure_eos",
    "async_low_load",
    "async_low_load_eos",
    "async_max_num_seqs",
    "async_model_len_cap",
    "async_multi_turn_evict",
    "async_priority_preempt",
    "async_single_token",
    "basic_low_load",
    "basic_single",
    "big_1k_light",
    "big_3k_async_eos",
    "big_3k_defaults",
    "big_3k_overload_preempt",
    "big_sessions",
    "big_sessions_async",
    "block_128",
    "budget_chunked",
    "bursts",
    "cache_salt",
    "edge_lengths",
    "eos_stop",
    "kv_pressure",
    "kv_pressure_no_reserve",
    "kv_pressure_prefix_cache",
    "kv_pressure_reserve_chunked",
    "kv_pressure_watermark",
    "kv_thrash",
    "kv_thrash_prefix_cache",
    "kv_thrash_watermark",
    "max_num_active_seqs",
    "multi_turn",
    "multi_turn_evict",
    "prefix_identical",
    "prefix_lru_cycle",
    "priority_queue",
    "priority_refund",
    "single_token_outputs",
    "watermark_idle",
]


@pytest.fixture(scope="module")
def folder() -> Path:
    if not FOLDER.is_dir():
        pytest.skip("needs ../shared/goldens")
    return FOLDER


@pytest.mark.parametrize("name", NAMES)
def test_schedule_is_repeated_exactly(folder: Path, name: str) -> None:
    meta, rows, results = goldens.read_golden(folder / f"{name}.jsonl.gz")
    simulation = simulate(goldens.as_requests(meta, rows), goldens.as_replica(meta))
    for column, values in goldens.expected(rows, results).items():
        assert getattr(simulation, column).tolist() == values
    counters, totals = simulation.counters, meta["totals"]
    assert counters.steps == meta["n_steps"]
    assert counters.scheduled_tokens == totals["scheduled_tokens"]
    assert counters.preemptions == totals["preemptions"]


def test_every_recording_within_the_subset_is_tested(folder: Path) -> None:
    inside = []
    for path in sorted(folder.glob("*.jsonl.gz")):
        meta, rows, _ = goldens.read_golden(path)
        if goldens.why_outside(meta, rows) is None:
            inside.append(path.name.removesuffix(".jsonl.gz"))
    assert inside == NAMES
