"""Laws of schedule files: nothing but `InputError` comes of a damaged one, and what is written is read back."""

from __future__ import annotations

import copy
import gzip
import json
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headway.errors import InputError
from headway.simulator import record
from headway.simulator.schedules import (
    differences,
    read_rows,
    read_schedule,
    schedule_of,
    side_by_side,
    write_rows,
    write_schedule,
    written,
)
from headway.simulator.schedules.blocks import number_blocks
from headway.simulator.schedules.reading import _Clock
from headway.types import EngineSettings, PrefixRuns, Replica, Requests, StepTable

SMALL = Path(__file__).parents[1] / "golden" / "schedule.jsonl"
LINES = [json.loads(line) for line in SMALL.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("schedules") / "one.jsonl"


# --- damage ---------------------------------------------------------------------------------------------

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 20),
    st.sampled_from(
        [2**31, 2**52, 2**63, 10**30, -(2**63), 1.5, float("nan"), float("inf"), "", "a", "o:a", "o:", "\0"]
    ),
    st.lists(st.one_of(st.integers(-1, 9), st.sampled_from(["a", "b", "z"]), st.lists(st.integers(0, 3))), max_size=3),
    st.dictionaries(st.sampled_from(["a", "b", "type", "kv_role", "base_ns", "ns_per_token"]), st.integers(0, 3)),
)


def places(value: object, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of everything inside a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, child in inner for found in ((*at, key), *places(child, (*at, key)))]


def holder(lines: list[Any], place: tuple[Any, ...]) -> Any:
    at: Any = lines
    for part in place[:-1]:
        at = at[part]
    return at


def used(path: Path) -> None:
    """Read a file, and do with it what anyone would."""
    try:
        schedule = read_schedule(path)
    except InputError as error:
        assert str(path) in str(error)
    else:
        assert len(schedule.ids) == len(schedule.requests)
        assert side_by_side(schedule.rows, read_rows(SMALL)) is not None


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_changed_values_are_refused_or_read(path: Path, data: st.DataObject) -> None:
    lines = copy.deepcopy(LINES)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.sampled_from(places(lines)))
        inside = holder(lines, place)
        change = data.draw(st.sampled_from(["put", "put", "drop", "repeat"]))
        if change == "put":
            inside[place[-1]] = data.draw(VALUES)
        elif change == "drop":
            del inside[place[-1]]
        elif isinstance(inside, list):
            inside.append(inside[place[-1]])
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    used(path)


@settings(max_examples=200, deadline=None)
@given(at=st.integers(0, 10**6), byte=st.integers(0, 255), end=st.integers(0, 10**6), packed=st.booleans())
def test_changed_bytes_are_refused_or_read(path: Path, at: int, byte: int, end: int, packed: bool) -> None:
    content = bytearray(gzip.compress(SMALL.read_bytes(), mtime=0) if packed else SMALL.read_bytes())
    content[at % len(content)] = byte
    path.write_bytes(content[: end % (2 * len(content))])
    used(path)


# --- times ----------------------------------------------------------------------------------------------


@settings(max_examples=1000, deadline=None)
@given(ticks=st.integers(0, 8_000 * 10**9))
def test_nanoseconds_survive_as_seconds(ticks: int) -> None:
    (time_s,) = _Clock(1000, "file", ["line 2"]).seconds("arr", [ticks])
    assert np.rint(time_s * 1e12) == ticks * 1000


@settings(max_examples=1000, deadline=None)
@given(time_s=st.floats(0, 2e6))
def test_the_clock_of_our_own_runs_survives(time_s: float) -> None:
    ticks = round(time_s * 1e12)
    (again_s,) = _Clock(1, "file", ["line 2"]).seconds("arr", [ticks])
    assert round(again_s * 1e12) == ticks


# --- blocks ---------------------------------------------------------------------------------------------


@st.composite
def request_rows(draw: st.DrawFn) -> list[dict[str, Any]]:
    count = draw(st.integers(1, 5))
    rows: list[dict[str, Any]] = []
    for number in range(count):
        streams = ["s", "t", *(f"o:{other}" for other in range(number))]
        piece = st.tuples(st.sampled_from(streams), st.integers(0, 5), st.integers(1, 7)).map(list)
        row = {
            "id": str(number),
            "prompt": draw(st.lists(piece, min_size=1, max_size=4)),
            "out": draw(st.integers(1, 9)),
        }
        row["plen"] = sum(n for _, _, n in row["prompt"])
        rows.append(row | draw(st.fixed_dictionaries({}, optional={"lora": st.integers(0, 2), "salt": st.just("x")})))
    return rows


def keys_by_token(row: dict[str, Any], size: int, lookahead: int, longest: int, stops: bool) -> list[Hashable]:
    """The key of each block, spelled out token by token."""
    tokens: list[Hashable] = [(stream, start + i) for stream, start, n in row["prompt"] for i in range(n)]
    tokens += [(f"o:{row['id']}", j) for j in range(row["out"])]
    if stops:
        tokens[-1] = "stop"
    tokens = tokens[:longest]
    lora = row.get("lora", 0)
    ends = range(size, len(tokens) - lookahead + 1, size)
    return [(row.get("salt"), lora, size, tuple(tokens[: end + lookahead])) for end in ends]


@settings(max_examples=300, deadline=None)
@given(
    rows=request_rows(),
    size=st.integers(1, 5),
    lookahead=st.integers(0, 2),
    longest=st.integers(29, 40),
    stops=st.booleans(),
)
def test_blocks_have_one_number_exactly_where_all_tokens_agree(
    rows: list[dict[str, Any]], size: int, lookahead: int, longest: int, stops: bool
) -> None:
    runs = number_blocks(rows, block_size=size, lookahead_tokens=lookahead, max_model_len=longest, stops=stops)
    numbers: dict[Hashable, int] = {}
    for index, row in enumerate(rows):
        spans = range(runs.offsets[index], runs.offsets[index + 1])
        found = [int(runs.first_ids[run]) + i for run in spans for i in range(runs.counts[run])]
        keys = keys_by_token(row, size, lookahead, longest, stops)
        assert found == [numbers.setdefault(key, len(numbers)) for key in keys]


# --- there and back -------------------------------------------------------------------------------------


@st.composite
def own_runs(draw: st.DrawFn) -> tuple[Requests, Replica]:
    """Sessions whose turns repeat what was said before, in blocks of their own size, on a small replica."""
    size, block_size = draw(st.sampled_from([(4, 4), (8, 4), (2, 4), (16, 4)]))
    isl, osl, first, counts, adapters = [], [], [], [], []
    next_id = 0
    for _ in range(draw(st.integers(1, 4))):
        history, base, adapter = 0, next_id, draw(st.integers(-1, 1))
        for _ in range(draw(st.integers(1, 3))):
            isl.append(history + draw(st.integers(1, 12)))
            osl.append(draw(st.integers(1, 9)))
            history = isl[-1] + osl[-1]
            first.append(base)
            counts.append(history // size)
            adapters.append(adapter)
        next_id = base + history // size + 1
    count = len(isl)
    ragged = {"offsets": np.arange(count + 1), "first_ids": np.array(first), "counts": np.array(counts)}
    arrive_s = np.cumsum(np.array(draw(st.lists(st.floats(0, 1e-7), min_size=count, max_size=count))))
    patience_s = draw(st.lists(st.one_of(st.just(np.nan), st.floats(0, 1e-7)), min_size=count, max_size=count))
    requests = Requests(
        arrive_s=arrive_s,
        isl_tokens=np.array(isl),
        osl_tokens=np.array(osl),
        prefix=PrefixRuns(block_tokens=size, **ragged),
        priority=np.array(draw(st.lists(st.integers(0, 2), min_size=count, max_size=count))),
        adapter_id=np.array(adapters),
        abort_s=arrive_s + np.array(patience_s),
        max_tokens=np.array(osl) + draw(st.sampled_from([0, 5])),
    )
    engine = EngineSettings(
        max_num_seqs=draw(st.integers(1, 4)),
        max_num_batched_tokens=draw(st.integers(4, 40)),
        max_model_len=96,
        gpu_memory_utilization=0.9,
        block_size=block_size,
        async_scheduling=draw(st.booleans()),
        scheduling_policy=draw(st.sampled_from(["fcfs", "priority"])),
    )
    step = StepTable(
        decode_ps=1001 * np.arange(1, engine.max_num_seqs + 2),
        mixed_ps=777 * np.arange(1, engine.max_num_batched_tokens + 2),
        context_ps_per_token=3,
        prefill_ps_per_pair=1,
    )
    return requests, Replica(settings=engine, step=step, num_gpu_blocks=draw(st.integers(24, 60)))


@settings(max_examples=150, deadline=None)
@given(run=own_runs())
def test_a_run_of_our_own_is_read_back_and_comes_out_the_same(path: Path, run: tuple[Requests, Replica]) -> None:
    requests, replica = run
    schedule = schedule_of(requests, replica, name="own")
    made = record(schedule.requests, replica, schedule.ids)
    write_schedule(schedule, made, path)
    back = read_schedule(path)
    assert back.rows == written(schedule, made)
    assert back.replica.settings.scheduling_policy == replica.settings.scheduling_policy
    assert back.replica.step.mixed_ps.tolist() == replica.step.mixed_ps.tolist()
    assert [
        str(one) for one in differences(back.rows, written(back, record(back.requests, back.replica, back.ids)))
    ] == []
    write_rows(back.rows, path.with_suffix(".again"))
    assert path.with_suffix(".again").read_bytes() == path.read_bytes()
