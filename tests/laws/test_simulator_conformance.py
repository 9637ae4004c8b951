"""The simulator repeats recordings of the real vLLM scheduler, every field of every row.

By default those of modest size, which touch every feature the whole set touches; the rest comes nightly, as does
`make conformance`.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from headway.simulator.schedules import Schedule, differences, features, read_schedule, written

FOLDER = Path(__file__).parents[2].parent / "shared" / "goldens"
FILES = sorted(FOLDER.glob("*.jsonl.gz"))
MODEST_BYTES = 60_000
MODEST = [path for path in FILES if path.stat().st_size < MODEST_BYTES]
LARGE = [path for path in FILES if path not in MODEST]

pytestmark = pytest.mark.skipif(not FILES, reason="needs ../shared/goldens")


def first_difference(schedule: Schedule) -> str | None:
    from headway.simulator import record

    found = written(schedule, record(schedule.requests, schedule.replica, schedule.ids))
    return next(map(str, differences(schedule.rows, found)), None)


@pytest.mark.parametrize("path", MODEST, ids=lambda path: path.name)
def test_a_recording_is_repeated(path: Path) -> None:
    assert first_difference(read_schedule(path)) is None


@pytest.mark.nightly
@pytest.mark.parametrize("path", LARGE, ids=lambda path: path.name)
def test_a_large_recording_is_repeated(path: Path) -> None:
    assert first_difference(read_schedule(path)) is None


def touched(paths: list[Path]) -> set[str]:
    words = (word for path in paths for word in features(read_schedule(path)).split(", "))
    return {re.sub(r"[\d.]+", "N", word) for word in words}


@pytest.mark.nightly
def test_the_modest_ones_touch_every_feature() -> None:
    assert touched(MODEST) == touched(FILES)


def test_a_fault_is_seen() -> None:
    """One block less, and nothing else, shows."""
    from dataclasses import replace

    schedule = read_schedule(FOLDER / "kv_pressure.jsonl.gz")
    fewer = replace(schedule.replica, num_gpu_blocks=schedule.replica.num_gpu_blocks - 1)
    assert "free" in str(first_difference(replace(schedule, replica=fewer)))
