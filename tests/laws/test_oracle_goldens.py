"""The naive twin repeats recorded schedules of the real vLLM scheduler, every field: it may stand in for it."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

ORACLE = Path(__file__).parents[1] / "oracle"
sys.path.insert(0, str(ORACLE))  # tests are no package

import naive  # noqa: E402 - found through the line above

from headway.simulator.schedules import (  # noqa: E402 - as are all imports behind it
    Difference,
    differences,
    features,
    read_schedule,
    written,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

FOLDER = Path(__file__).parents[2].parent / "shared" / "goldens"

#: short recordings that touch every feature between them
STRATIFIED = (
    "aborts_async",
    "aborts_sync",
    "async_priority_preempt",
    "cache_salt",
    "fuzz_012",
    "fuzz_014",
    "fuzz_016",
    "fuzz_018",
    "fuzz_041",
    "fuzz_042",
    "fuzz_049",
    "fuzz_071",
    "fuzz_075",
    "fuzz_077",
    "kv_thrash_watermark",
    "multi_turn",
    "pd_decode_pressure",
    "pd_prefill",
    "pp2_sync",
    "spec_eagle_async_shared_eos",
    "spec_ngram_async",
    "swa_hybrid_pressure",
)


@pytest.fixture(scope="module")
def folder() -> Path:
    if not FOLDER.is_dir():
        pytest.skip("needs ../shared/goldens")
    return FOLDER


def first_difference(path: Path) -> Difference | None:
    schedule = read_schedule(path)
    found = naive.record(schedule.requests, schedule.replica, schedule.ids)
    return next(iter(differences(schedule.rows, written(schedule, found))), None)


@pytest.mark.parametrize("name", STRATIFIED)
def test_twin_repeats_recording(folder: Path, name: str) -> None:
    assert first_difference(folder / f"{name}.jsonl.gz") is None


@pytest.mark.nightly
def test_twin_repeats_every_recording(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = sorted(folder.glob("*.jsonl.gz"))
    differing = {path.name: found for path in paths if (found := first_difference(path)) is not None}
    with capsys.disabled():
        print(f"{len(paths) - len(differing)} of {len(paths)} recordings equal")  # noqa: T201 - the figure of the proof
    assert not differing


@pytest.mark.nightly
def test_stratum_touches_every_feature(folder: Path) -> None:
    def touched(paths: Iterable[Path]) -> set[str]:
        words = (word for path in paths for word in features(read_schedule(path)).split(", "))
        return {re.sub(r"[\d.]+", "#", word) for word in words}

    paths = [path for path in folder.glob("*.jsonl.gz") if not path.name.startswith("big_")]
    assert touched(folder / f"{name}.jsonl.gz" for name in STRATIFIED) == touched(paths)


def imports_of(path: Path) -> Iterable[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            yield node.module or ""
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_twin_shares_nothing_but_nouns() -> None:
    imported = {name for path in ORACLE.glob("naive*.py") for name in imports_of(path)}
    assert {name for name in imported if name.startswith("headway")} == {"headway.types", "headway.simulator.records"}
