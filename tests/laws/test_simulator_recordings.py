"""The general engine repeats our own recordings of the real vLLM scheduler, field by field."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from headway.errors import InputError
from headway.simulator import record
from headway.simulator.schedules import differences, read_rows, read_schedule, side_by_side, written
from headway.types import KvGroup, KvTransfer, Replica, Speculation

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools"))  # a folder of scripts

from scenario_mixes import scenario  # noqa: E402 - found by the line above

FILES = sorted((ROOT / "tests" / "data" / "schedules").glob("*.jsonl.gz"))
NAMES = [path.name.removesuffix(".jsonl.gz") for path in FILES]
DRAFTS = Speculation(method="eagle", num_speculative_tokens=2, accepted=(1,))


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_equal_to_the_real_scheduler(path: Path) -> None:
    schedule = read_schedule(path)
    found = written(schedule, record(schedule.requests, schedule.replica, schedule.ids))
    assert not side_by_side(schedule.rows, found)
    assert not list(differences(schedule.rows, found))


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_recorded_was_the_mix_of_that_number(path: Path) -> None:
    meta, *requests = scenario(int(path.name[4:9]))
    rows = read_rows(path)
    assert list(rows.requests) == requests
    assert {name: rows.meta[name] for name in meta} == meta


def test_the_recordings_hold_what_is_easily_got_wrong() -> None:
    rows = [read_rows(path) for path in FILES]
    kinds = {tuple(group[0] for group in each.meta["kv_groups"] or ()) for each in rows}
    assert kinds >= {(), ("swa",), ("full", "swa"), ("swa", "swa"), ("full", "swa", "swa")}
    roles = {each.meta["engine_args"].get("kv_transfer_config", {}).get("kv_role") for each in rows}
    assert roles == {None, "kv_consumer", "kv_producer", "kv_both"}
    assert {each.meta["effective"]["spec_method"] for each in rows} == {None, "ngram", "eagle", "draft_model"}
    assert {each.meta["effective"]["block_size"] for each in rows} == {16, 32, 64, 128}
    assert {each.meta["vllm"] for each in rows} == {"0.32.0", "0.33.0"}
    assert sum(each.meta["totals"]["preemptions"] > 0 for each in rows) >= 12
    aborted = [row for each in rows for row in each.results if row["reason"] == "abort"]
    assert {row["sched"] is None for row in aborted} == {True, False}


def _replica(**changes: object) -> Replica:
    replica = read_schedule(FILES[NAMES.index("mix_07139")]).replica
    return replace(replica, speculation=DRAFTS, **changes)  # type: ignore[arg-type]


def _refused(replica: Replica) -> str:
    requests = read_schedule(FILES[NAMES.index("mix_07139")]).requests
    with pytest.raises(InputError) as caught:
        record(requests, replica)
    return caught.value.place


def test_drafts_in_a_synchronous_pipeline_are_refused() -> None:
    settings = replace(_replica().settings, pipeline_parallel_size=2, async_scheduling=False)
    assert _refused(_replica(settings=settings)) == "settings.async_scheduling"


def test_drafts_that_drop_the_last_hit_are_refused_with_windows() -> None:
    windows = (KvGroup(layers=2, window_tokens=64),)
    transfer = KvTransfer(base_ps=0, ps_per_token=0, kv_role="kv_consumer")
    assert _refused(_replica(kv_groups=windows, kv_transfer=transfer)) == "speculation.method"
    older = replace(_replica().settings, version="0.32.0")
    assert _refused(_replica(kv_groups=windows, settings=older)) == "speculation.method"
