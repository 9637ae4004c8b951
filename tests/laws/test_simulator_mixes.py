"""The general engine equals the naive twin on random mixes of every feature: the whole schedule, step by step.

Where the jump core knows all of a mix, `simulate` must say the same of every request.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from headway.simulator.records import Record

ROOT = Path(__file__).parents[2]
ORACLE = ROOT / "tests" / "oracle"
sys.path.insert(0, str(ORACLE))  # tests are no package

import naive  # noqa: E402 - found through the line above
from mixes import STRATA, compare, mix  # noqa: E402

from headway.simulator.dispatch import jumpable  # noqa: E402
from headway.simulator.schedules import read_schedule, side_by_side, written  # noqa: E402

RECORDINGS = sorted((ROOT / "tests" / "data" / "schedules").glob("*.jsonl.gz"))
#: what must have happened in a stratum, often enough to be a test of it
HAPPENS = {
    "pressure": "preemptions",
    "priority": "preemptions",
    "window groups under pressure": "preemptions",
    "speculation under pressure": "preemptions",
    "shared contents": "hits",
    "conversations": "hits",
    "window groups": "hits",
    "EAGLE": "drafts",
    "ngram": "drafts",
    "draft model": "drafts",
    "KV consumer": "loads",
    "KV producer": "holds",
    "hang-ups": "aborts",
    "stop tokens": "stops",
    "what the jump core knows": "jumped",
}


def happened(schedule: Record) -> Counter[str]:
    """Count what a schedule is a test of."""
    reasons = Counter(ending.reason for ending in schedule.endings)
    kinds = Counter(transfer.kind for transfer in schedule.transfers)
    return Counter(
        preemptions=sum(len(step.preempted) for step in schedule.steps),
        hits=sum(ending.cached > 0 for ending in schedule.endings),
        drafts=sum(len(step.drafts) for step in schedule.steps),
        loads=kinds["recv"],
        holds=kinds["send"],
        aborts=reasons["abort"],
        stops=reasons["stop"],
    )


def held_to_the_twin(stratum: str, seeds: Iterable[int]) -> Counter[str]:
    """Compare the mixes of a stratum; return what happened in them, and how many were equal or have no end."""
    seen: Counter[str] = Counter()
    for seed in seeds:
        requests, replica = mix(stratum, seed)
        compared = compare(requests, replica)
        if compared is None:
            seen["endless"] += 1
            continue
        difference, schedule = compared
        assert not difference, f"{stratum}, seed {seed}\n{difference}"
        seen["equal"] += 1
        seen["jumped"] += jumpable(replica.settings, requests, replica) is None
        seen += happened(schedule)
    return seen


@pytest.mark.parametrize("stratum", STRATA)
def test_general_engine_equals_the_twin(stratum: str) -> None:
    seen = held_to_the_twin(stratum, range(25))
    assert seen["equal"] >= 24
    assert seen[HAPPENS.get(stratum, "equal")] >= 20


@pytest.mark.nightly
def test_general_engine_equals_the_twin_in_ten_thousand_mixes(capsys: pytest.CaptureFixture[str]) -> None:
    per_stratum = 10_000 // len(STRATA) + 5
    total: Counter[str] = Counter()
    for stratum in STRATA:
        seen = held_to_the_twin(stratum, range(100_000, 100_000 + per_stratum))
        total += seen
        with capsys.disabled():
            print(f"{stratum}: {seen['equal']} mixes equal, {seen['endless']} without end")  # noqa: T201 - the proof
    assert total["equal"] >= 10_000
    with capsys.disabled():
        print(f"{total['equal']} mixes equal: {dict(total)}")  # noqa: T201


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.name.removesuffix(".jsonl.gz"))
def test_twin_equals_the_real_scheduler(path: Path) -> None:
    schedule = read_schedule(path)
    found = naive.record(schedule.requests, schedule.replica, schedule.ids)
    assert not side_by_side(schedule.rows, written(schedule, found))


def test_interpreted_general_engine_equals_the_twin() -> None:
    script = (
        f"import sys; sys.path.insert(0, {str(ORACLE)!r})\n"
        "from mixes import STRATA, compare, mix\n"
        "from headway.simulator import compiled\n"
        "assert not compiled\n"
        "print(*[stratum for stratum in STRATA if (compare(*mix(stratum, 0)) or [''])[0]], sep='; ')\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "HEADWAY_INTERPRETED": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == ""
