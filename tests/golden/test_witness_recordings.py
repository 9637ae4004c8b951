"""What real engines were seen to decide, kept: tools/witness recorded it, and the simulator repeats every field."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "tools" / "witness"))  # tools are no package

from logical import judged

from headway.simulator.schedules import Rows, Schedule, read_schedule

if TYPE_CHECKING:
    from collections.abc import Callable

    from headway.types import EngineSettings

FOLDER = Path(__file__).parent / "witness"
KEPT = sorted(FOLDER.glob("*.jsonl.gz"))


def named(path: Path) -> str:
    return path.name.removesuffix(".jsonl.gz")


@pytest.mark.parametrize("path", KEPT, ids=named)
def test_the_simulator_repeats_what_the_real_engine_decided(path: Path) -> None:
    problem, shown = judged(read_schedule(path))
    assert not problem, shown


def rows() -> list[Rows]:
    return [read_schedule(path).rows for path in KEPT]


def test_the_recordings_hold_what_they_are_kept_for() -> None:
    """Both engines, one and two batches in flight, chunks, hits, preemptions, both kinds of ends, both policies."""
    effective = [each.meta["effective"] for each in rows()]
    assert {each.meta.get("engine", "vllm") for each in rows()} == {"vllm", "llama.cpp"}
    assert {each["async_scheduling"] for each in effective} == {True, False}
    assert {each["policy"] for each in effective} == {"fcfs", "priority"}
    assert {each.meta["stop"] for each in rows()} == {"length", "eos"}
    assert max(each.meta["totals"]["preemptions"] for each in rows()) >= 5
    assert max(each.meta["totals"]["first_cached_tokens"] for each in rows()) >= 5000
    assert any(each["watermark"] for each in effective)


OTHER: dict[str, Callable[[EngineSettings], dict[str, Any]]] = {
    "a smaller budget": lambda own: {"max_num_batched_tokens": own.max_num_batched_tokens - 1},
    "one seat less": lambda own: {"max_num_seqs": own.max_num_seqs - 1, "max_num_active_seqs": None},
    "no cache": lambda own: {"enable_prefix_caching": False},
    "no watermark": lambda own: {"watermark": 0.0},
    "no threshold": lambda own: {"long_prefill_token_threshold": 0},
    "the other policy": lambda own: {  # vLLM has two
        "scheduling_policy": "priority" if own.engine == "vllm" and own.scheduling_policy == "fcfs" else "fcfs"
    },
    "a later version": lambda own: {"version": "0.33.0"} if own.engine == "vllm" else {},
    "an earlier version": lambda own: {"version": "0.20.0"} if own.engine == "vllm" and not own.watermark else {},
    "any number of adapters": lambda own: {"max_loras": None},
    "the other loop": lambda own: {"async_scheduling": own.engine == "vllm" and not own.async_scheduling},
}


@pytest.mark.parametrize("change", OTHER)
def test_under_other_settings_the_simulator_decides_otherwise(change: str) -> None:
    """Else the equality above would say nothing of them."""
    schedules = (read_schedule(path) for path in KEPT)
    changed = (with_settings(one, OTHER[change](one.replica.settings)) for one in schedules)
    assert any(judged(one)[0] for one in changed)


def test_with_a_block_less_the_simulator_decides_otherwise() -> None:
    path = FOLDER / "vllm_tight_sync.jsonl.gz"
    schedule = read_schedule(path)
    fewer = replace(schedule.replica, num_gpu_blocks=schedule.replica.num_gpu_blocks - 1)
    assert judged(replace(schedule, replica=fewer))[0]


def with_settings(schedule: Schedule, changes: dict[str, Any]) -> Schedule:
    replica, settings = schedule.replica, replace(schedule.replica.settings, **changes)
    step = replace(
        replica.step,
        decode_ps=replica.step.decode_ps[: settings.max_num_seqs + 1],
        mixed_ps=replica.step.mixed_ps[: settings.max_num_batched_tokens + 1],
    )
    return replace(schedule, replica=replace(replica, settings=settings, step=step))
