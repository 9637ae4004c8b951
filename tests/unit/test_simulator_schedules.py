"""Schedule files: what is read of one, what is refused, what is written, and what counts as a difference."""

from __future__ import annotations

import copy
import gzip
import json
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headway.errors import InputError
from headway.simulator import record
from headway.simulator.schedules import (
    Rows,
    differences,
    features,
    read_rows,
    read_schedule,
    schedule_of,
    side_by_side,
    write_rows,
    write_schedule,
    written,
)
from headway.types import (
    EngineSettings,
    KvGroup,
    KvTransfer,
    PrefixRuns,
    Replica,
    Requests,
    SglangSettings,
    Speculation,
    StepTable,
)

#: Two requests with a block in common; every time and count was checked by hand.
SMALL = Path(__file__).parents[1] / "golden" / "schedule.jsonl"

Line = dict[str, Any]


@pytest.fixture
def lines() -> list[Line]:
    return [json.loads(line) for line in SMALL.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def save(tmp_path: Path) -> Callable[[list[Line]], Path]:
    def saved(lines: list[Line]) -> Path:
        path = tmp_path / "changed.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        return path

    return saved


def int_column(*values: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.array(values, np.int64)


def blocks_of(prefix: PrefixRuns | None, row: int) -> list[int]:
    assert prefix is not None
    runs = range(prefix.offsets[row], prefix.offsets[row + 1])
    return [int(prefix.first_ids[run]) + i for run in runs for i in range(prefix.counts[run])]


# --- reading --------------------------------------------------------------------------------------------


def test_what_is_read_of_a_file() -> None:
    schedule = read_schedule(SMALL)
    requests, replica = schedule.requests, schedule.replica
    assert schedule.name == "small"
    assert schedule.ids == ("a", "b")
    assert requests.arrive_s.tolist() == [50e-9, 60e-9]
    assert requests.isl_tokens.tolist() == [6, 7]
    assert requests.osl_tokens.tolist() == [3, 2]
    assert requests.max_tokens is requests.priority is requests.adapter_id is requests.abort_s is None
    assert requests.remote_prefill is requests.hold_s is None
    assert blocks_of(requests.prefix, 0) == [0, 1]
    assert blocks_of(requests.prefix, 1) == [0, 2]
    assert replica.num_gpu_blocks == 8
    assert replica.step.decode_ps.tolist() == [100_000, 115_000, 130_000]
    assert replica.step.mixed_ps.tolist() == [100_000 + 10_000 * tokens for tokens in range(9)]
    assert replica.step.context_ps_per_token == replica.step.prefill_context_ps_per_token == 1000
    assert replica.step.sequence_ps == 5000
    assert replica.step.prefill_ps_per_pair == 0
    assert replica.speculation is replica.kv_transfer is None
    assert replica.kv_groups == ()
    assert replica.settings.version == "0.33.0"
    assert [len(rows) for rows in (schedule.rows.steps, schedule.rows.transfers, schedule.rows.results)] == [3, 0, 2]


def test_requests_are_put_in_order_of_arrival(lines: list[Line], save: Callable[[list[Line]], Path]) -> None:
    lines[1]["arr"] = 70
    schedule = read_schedule(save(lines))
    assert schedule.ids == ("b", "a")
    assert [row["id"] for row in schedule.rows.requests] == ["a", "b"]
    assert schedule.requests.isl_tokens.tolist() == [7, 6]


def test_what_only_some_requests_have(lines: list[Line], save: Callable[[list[Line]], Path]) -> None:
    lines[0] |= {"stop": "eos", "kv_transfer": {"base_ns": 2, "ns_per_token": 3}}
    lines[0]["engine_args"] = {"kv_transfer_config": {"kv_role": "kv_producer"}}
    lines[1] |= {"prio": -2, "lora": 3, "abort": 55, "kv": {"do_remote_decode": True, "hold_ns": 7}}
    lines[2] |= {"salt": "x", "kv": {"do_remote_prefill": True}}
    schedule = read_schedule(save(lines))
    requests = schedule.requests
    assert requests.max_tokens is not None and requests.max_tokens.tolist() == [1 << 20] * 2
    assert requests.priority is not None and requests.priority.tolist() == [-2, 0]
    assert requests.adapter_id is not None and requests.adapter_id.tolist() == [3, -1]
    assert requests.remote_prefill is not None and requests.remote_prefill.tolist() == [False, True]
    for column, time_s in ((requests.abort_s, 55e-9), (requests.hold_s, 7e-9)):
        assert column is not None and column[0] == time_s and np.isnan(column[1])
    assert schedule.replica.kv_transfer == KvTransfer(base_ps=2000, ps_per_token=3000, kv_role="kv_producer")
    assert features(schedule) == "sync, kv_producer, stop tokens, aborts, salts, prefix hits"
    assert set(blocks_of(requests.prefix, 0)).isdisjoint(blocks_of(requests.prefix, 1)), "adapter and salt are in keys"


def test_speculation_and_groups(lines: list[Line], save: Callable[[list[Line]], Path]) -> None:
    lines[0] |= {"accept_pattern": [2, 0], "kv_groups": [["full", 3], ["swa", 5, 8]]}
    lines[0]["effective"] |= {
        "spec_method": "eagle",
        "num_spec_tokens": 3,
        "num_lookahead_tokens": 3,
        "num_hash_lookahead_tokens": 1,
    }
    schedule = read_schedule(save(lines))
    assert schedule.replica.speculation == Speculation(method="eagle", num_speculative_tokens=3, accepted=(2, 0))
    assert schedule.replica.kv_groups == (KvGroup(layers=3), KvGroup(layers=5, window_tokens=8))
    one, other = blocks_of(schedule.requests.prefix, 0), blocks_of(schedule.requests.prefix, 1)
    assert set(one).isdisjoint(other), "the token after the block they share is another"


def test_stop_tokens_are_alike_and_outputs_in_prompts_are_not_stopped(
    lines: list[Line], save: Callable[[list[Line]], Path]
) -> None:
    lines[0]["stop"] = "eos"
    lines[1] |= {"prompt": [["s", 0, 6]], "out": 2}
    lines[2] |= {"prompt": [["s", 0, 6], ["o:a", 0, 1]], "out": 1}
    third = {"type": "req", "id": "c", "arr": 80, "prompt": [["s", 0, 6], ["o:a", 0, 2]], "plen": 8, "out": 1}
    lines[0]["n_requests"] = 3
    schedule = read_schedule(save([*lines[:3], third, *lines[3:], lines[-1] | {"id": "c"}]))
    one, other, last = (blocks_of(schedule.requests.prefix, row) for row in range(3))
    assert one == other, "their second block ends with output 0 of a and the stop token"
    assert last[0] == one[0] and last[1] != one[1], "a prompt repeats the stream's token, which a did not emit"


def test_settings_a_version_does_not_have_take_the_defaults(
    lines: list[Line], save: Callable[[list[Line]], Path]
) -> None:
    missing = ("watermark", "prefill_schedule_interval", "long_prefill_token_threshold_adaptive", "draft_slots")
    lines[0]["effective"] |= dict.fromkeys(missing)
    settings = read_schedule(save(lines)).replica.settings
    assert settings.watermark == 0
    assert settings.prefill_schedule_interval == 1
    assert settings.long_prefill_token_threshold_adaptive is False


def put(value: object, *path: str | int) -> Callable[[list[Line]], None]:
    def change(lines: list[Any]) -> None:
        at = lines
        for part in path[:-1]:
            at = at[part]  # type: ignore[call-overload]
        at[path[-1]] = value  # type: ignore[call-overload]

    return change


def drop(*path: str | int) -> Callable[[list[Line]], None]:
    def change(lines: list[Any]) -> None:
        at = lines
        for part in path[:-1]:
            at = at[part]  # type: ignore[call-overload]
        del at[path[-1]]  # type: ignore[arg-type]

    return change


def swap(one: int, other: int) -> Callable[[list[Line]], None]:
    def change(lines: list[Line]) -> None:
        lines[one], lines[other] = lines[other], lines[one]

    return change


@pytest.mark.parametrize(
    ("change", "place", "words"),
    [
        (put(2, 0, "format"), "line 1, format", "expected 1, got 2"),
        (put(True, 0, "format"), "line 1, format", "expected 1, got true"),
        (drop(0, "stop"), "line 1, stop", "missing; expected 'length' or 'eos'"),
        (put("never", 0, "stop"), "line 1, stop", "'length' or 'eos', got \"never\""),
        (drop(0, "effective", "watermark"), "line 1, effective.watermark", "missing; expected a number of 0"),
        (put(0, 0, "effective", "block_size"), "line 1, effective.block_size", "1 to 1048575, got 0"),
        (put("lifo", 0, "effective", "policy"), "line 1, effective.policy", "'fcfs' or 'priority'"),
        (put(4, 0, "effective", "batch_queue_size"), "line 1, effective.batch_queue_size", "make it 1"),
        (put(1, 0, "effective", "num_lookahead_tokens"), "line 1, effective.num_lookahead_tokens", "make it 0"),
        (put("eagle", 0, "effective", "spec_method"), "line 1, effective.spec_method", "go together"),
        (
            put(1, 0, "effective", "max_num_batched_tokens"),
            "line 1, settings.max_num_batched",
            "less than max_num_seqs",
        ),
        (put({"a": 1}, 0, "cost_ns"), "line 1, cost_ns", "an object with a, b, c, d or null"),
        (put(None, 0, "cost_ns"), "line 1, cost_ns", "either cost_ns or step_ps"),
        (put([["swa", 2]], 0, "kv_groups"), "line 1, kv_groups", "[kind, layers, window]"),
        (put("vlm", 0, "engine"), "line 1, settings.engine", "no policy of 'vlm' (did you mean 'vllm'?)"),
        (put({"x": 1}, 0, "own"), "line 1, own.x", "no such setting of this engine"),
        (put({"kv_transfer_config": {}}, 0, "engine_args"), "line 1, engine_args", "with a kv_role"),
        (put(3, 0, "n_requests"), "line 1, n_requests", "3, but the file has 2 rows of type 'req'"),
        (put(2, 0, "n_steps"), "line 1, n_steps", "2, but the file has 3 rows of type 'step'"),
        (drop(-1), "line 1, n_requests", "1 rows of type 'res'"),
        (put("stp", 3, "type"), "line 4, type", "unknown type 'stp' (did you mean 'step'?)"),
        (put([], 3, "type"), "line 4, type", "unknown type []"),
        (swap(0, 1), "line 1, type", "expected the order meta, req, step, kv, res"),
        (swap(2, 3), "line 4, type", "expected the order"),
        (put(1.0, 1, "arr"), "line 2, arr", "a whole number"),
        (put(-1, 1, "arr"), "line 2, arr", "got -1"),
        (put("a", 2, "id"), "line 3, id", "'a' stands on line 2 already"),
        (put([["s", 0, 6], ["o:z", 0, 1]], 2, "prompt"), "line 3, prompt", "no request 'z'"),
        (put([["s", 0]], 2, "prompt"), "line 3, prompt", "a list of [stream, start, number]"),
        (put(8, 2, "plen"), "line 3, plen", "8, but the pieces of the prompt add up to 7"),
        (put(6, 0, "effective", "max_model_len"), "line 2, plen", "no room for an output"),
        (put(49, 1, "abort"), "line 2, abort", "before the arrival, 50"),
        (put({"do_remote_prefill": True}, 1, "kv"), "line 2, kv", "kv_transfer is null"),
        (put({"do_remote_prefill": False}, 1, "kv"), "line 2, kv", "do_remote_prefill"),
        (put(1, 3, "waiting"), "line 4, waiting", "unknown field (did you mean 'wait'?)"),
        (put(-1, 0, "totals", "preemptions"), "line 1, totals.preemptions", "got -1"),
        (put([["a", 1.5]], 3, "sched"), "line 4, sched", "a list of [request id, number]"),
        (put("z", 6, "id"), "line 7, id", "no request 'z'"),
        (put("tired", 6, "reason"), "line 7, reason", "'length' or 'stop' or 'abort' or null"),
        (put(2**44 + 1, 2, "arr"), "line 3, arr", "no floating-point number of seconds"),
    ],
)
def test_bad_files_are_refused_with_their_place(
    lines: list[Line],
    save: Callable[[list[Line]], Path],
    change: Callable[[list[Line]], None],
    place: str,
    words: str,
) -> None:
    change(lines)
    path = save(lines)
    with pytest.raises(InputError) as refused:
        read_schedule(path)
    assert str(refused.value).startswith(f"{path}: {place}")
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "the file is empty"),
        (b"{}\n", 'line 1: expected a JSON object with a "type"'),
        (b"[]\n", 'line 1: expected a JSON object with a "type"'),
        (b"\xff\xfe\n", "line 1: not a JSON object"),
        (SMALL.read_bytes()[:-3], "line 8: not a JSON object"),
        (SMALL.read_bytes() + b"\n", "line 9: not a JSON object"),
        (b"[" * 100_000 + b"\n", "line 1: not a JSON object"),
        (gzip.compress(SMALL.read_bytes())[:-9], "damaged or cut short"),
        (b"\x1f\x8bnonsense", "damaged or cut short"),
    ],
)
def test_what_is_no_schedule_file(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "any.jsonl.gz"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"any\.jsonl\.gz") as refused:
        read_schedule(path)
    assert words in str(refused.value)


def test_the_last_line_needs_no_end(tmp_path: Path) -> None:
    path = tmp_path / "one.jsonl"
    path.write_bytes(SMALL.read_bytes()[:-1])
    assert read_rows(path) == read_rows(SMALL)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_schedule(tmp_path / "none.jsonl")


# --- writing --------------------------------------------------------------------------------------------


def test_a_run_writes_the_file_it_was_read_from(tmp_path: Path) -> None:
    schedule = read_schedule(SMALL)
    path = tmp_path / "again.jsonl"
    write_schedule(schedule, record(schedule.requests, schedule.replica, schedule.ids), path)
    assert path.read_bytes() == SMALL.read_bytes()


def test_checksums_are_those_of_the_format() -> None:
    rows = read_rows(SMALL)
    assert rows.steps[1]["crc"] == zlib.crc32(b"a:1,b:3")
    assert rows.results[0]["crc"] == zlib.crc32(b"215,375,519,")


def test_compressed_bytes_hold_no_clock_and_no_name(tmp_path: Path) -> None:
    rows = read_rows(SMALL)
    for name in ("one.jsonl.gz", "other.jsonl.gz"):
        write_rows(rows, tmp_path / name)
    content = (tmp_path / "one.jsonl.gz").read_bytes()
    assert content == (tmp_path / "other.jsonl.gz").read_bytes()
    assert content[4:8] == b"\0\0\0\0"
    assert gzip.decompress(content) == SMALL.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.jsonl.gz", "other.jsonl.gz"]


def test_nothing_stays_where_writing_fails(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="taken"):
        write_rows(read_rows(SMALL), tmp_path / "taken")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_a_summary_lists_only_what_is_not_one_token(lines: list[Line], save: Callable[[list[Line]], Path]) -> None:
    lines[0]["steps_mode"] = "summary"
    for line in lines[3:6]:
        line["multi"] = [pair for pair in line.pop("sched") if pair[1] != 1]
    schedule = read_schedule(save(lines))
    found = written(schedule, record(schedule.requests, schedule.replica, schedule.ids))
    assert found == schedule.rows
    assert [step["multi"] for step in found.steps] == [[["a", 6]], [["b", 3]], []]


def test_a_time_between_two_ticks_is_refused() -> None:
    schedule = read_schedule(SMALL)
    was = record(schedule.requests, schedule.replica, schedule.ids)
    odd = replace(was, steps=(replace(was.steps[0], t_ps=50_001), *was.steps[1:]))
    with pytest.raises(InputError, match="50001 ps is no whole number of the 1000 ps"):
        written(schedule, odd)


# --- runs of our own ------------------------------------------------------------------------------------


def own_replica(**changed: Any) -> Replica:
    settings = EngineSettings(
        max_num_seqs=4,
        max_num_batched_tokens=16,
        max_model_len=64,
        gpu_memory_utilization=0.9,
        block_size=4,
        async_scheduling=False,
    )
    step = StepTable(
        decode_ps=1001 * np.arange(1, 6, dtype=np.int64),
        mixed_ps=777 * np.arange(1, 18, dtype=np.int64),
        context_ps_per_token=3,
        prefill_ps_per_pair=1,
    )
    return replace(Replica(settings=settings, step=step, num_gpu_blocks=40), **changed)


def own_requests(**changed: Any) -> Requests:
    requests = Requests(
        arrive_s=np.array([0.0, 1e-12, 1e-7]),
        isl_tokens=int_column(6, 5, 13),
        osl_tokens=int_column(7, 3, 2),
        # row 2 repeats prompt and outputs of row 0: blocks 4, 5 and 6 hold 6 prompt tokens, then 6 outputs
        prefix=PrefixRuns(
            block_tokens=4,
            offsets=int_column(0, 1, 2, 3),
            first_ids=int_column(4, 9, 4),
            counts=int_column(3, 1, 3),
        ),
    )
    return replace(requests, **changed)


def test_tokens_are_made_up_so_that_blocks_are_shared_as_given() -> None:
    schedule = schedule_of(own_requests(), own_replica(), name="own")
    prompts = [row["prompt"] for row in schedule.rows.requests]
    assert prompts == [
        [["b", 16, 6]],
        [["b", 36, 4], ["u1", 4, 1]],
        [["b", 16, 6], ["o:0", 0, 6], ["u2", 12, 1]],
    ]
    assert [row["arr"] for row in schedule.rows.requests] == [0, 1, 100_000]
    assert schedule.meta["tick_ps"] == 1


def test_our_own_run_is_read_back_and_run_again(tmp_path: Path) -> None:
    requests = own_requests(
        priority=int_column(0, 3, 1), adapter_id=int_column(-1, 0, -1), abort_s=np.array([np.nan, 2e-9, np.nan])
    )
    schedule = schedule_of(requests, own_replica(), name="own")
    path = tmp_path / "own.jsonl.gz"
    write_schedule(schedule, record(schedule.requests, schedule.replica, schedule.ids), path)
    back = read_schedule(path)
    assert back.requests.adapter_id is not None and back.requests.adapter_id.tolist() == [-1, 1, -1]
    again = written(back, record(back.requests, back.replica, back.ids))
    assert list(differences(back.rows, again)) == []
    assert back.meta["totals"]["first_cached_tokens"] == 12, "two blocks of row 0, its outputs among them"


def test_speculation_transfers_and_groups_are_written(tmp_path: Path) -> None:
    replica = own_replica(
        speculation=Speculation(method="draft_model", num_speculative_tokens=2, accepted=(1, 2)),
        kv_groups=(KvGroup(layers=2), KvGroup(layers=6, window_tokens=32)),
        kv_transfer=KvTransfer(base_ps=5, ps_per_token=7, kv_role="kv_both"),
    )
    requests = own_requests(
        remote_prefill=np.array([True, False, False]), hold_s=np.array([np.nan, 4e-12, np.nan]), prefix=None
    )
    path = tmp_path / "own.jsonl"
    schedule = schedule_of(requests, replica, name="own")
    endings = [line | {"id": name} for name in schedule.ids for line in [dict(read_rows(SMALL).results[0])]]
    totals = read_rows(SMALL).meta["totals"]
    write_rows(replace(schedule.rows, meta=schedule.meta | {"totals": totals}, results=tuple(endings)), path)
    back = read_schedule(path)
    assert back.replica.speculation == replica.speculation
    assert back.replica.kv_groups == replica.kv_groups
    assert back.replica.kv_transfer == replica.kv_transfer
    assert back.requests.remote_prefill is not None and back.requests.remote_prefill.tolist() == [True, False, False]
    assert back.requests.hold_s is not None and back.requests.hold_s[1] == 4e-12


def test_settings_of_another_engine_are_written(tmp_path: Path) -> None:
    own = SglangSettings(chunked_prefill_size=8, schedule_policy="lpm", schedule_conservativeness=0.5)
    settings = replace(own_replica().settings, engine="sglang", version="0.5.5", block_size=1, own=own)
    schedule = schedule_of(own_requests(), own_replica(settings=settings), name="own")
    path = tmp_path / "own.jsonl"
    small = read_rows(SMALL)
    results = tuple(small.results[0] | {"id": name} for name in schedule.ids)
    write_rows(replace(schedule.rows, meta=schedule.meta | {"totals": small.meta["totals"]}, results=results), path)
    back = read_schedule(path)
    assert replace(back.replica.settings, gpu_memory_utilization=0.9) == settings
    assert back.requests.prefix is not None and back.requests.prefix.block_tokens == 4, "finer than a page of SGLang"
    for name, value, words in (("schedule_policy", 3, "something like 'fcfs'"), ("prefill_max_requests", "x", "None")):
        bad = schedule.meta | {"totals": small.meta["totals"], "own": {name: value}}
        write_rows(replace(schedule.rows, meta=bad, results=results), path)
        with pytest.raises(InputError, match=f"line 1, own.{name}: expected something like") as refused:
            read_schedule(path)
        assert words in str(refused.value)


def test_stop_tokens_for_all_or_none() -> None:
    stopped = schedule_of(own_requests(max_tokens=int_column(9, 9, 9)), own_replica(), name="own")
    assert stopped.meta["stop"] == "eos"
    assert schedule_of(own_requests(max_tokens=int_column(7, 3, 2)), own_replica(), name="own").meta["stop"] == "length"
    with pytest.raises(InputError, match=r"max_tokens, row 1: .* ends by length"):
        schedule_of(own_requests(max_tokens=int_column(9, 3, 9)), own_replica(), name="own")


def test_one_block_under_two_adapters_is_refused() -> None:
    with pytest.raises(InputError, match="row 2: shares block 4 with a request under another adapter"):
        schedule_of(own_requests(adapter_id=int_column(0, 0, 1)), own_replica(), name="own")


def test_an_output_given_to_two_requests_goes_to_the_first() -> None:
    twice = PrefixRuns(
        block_tokens=4, offsets=int_column(0, 1, 1, 2), first_ids=int_column(4, 4), counts=int_column(2, 2)
    )
    given = own_requests(prefix=twice, isl_tokens=int_column(6, 5, 6))
    schedule = schedule_of(given, own_replica(), name="own")
    first, last = (blocks_of(schedule.requests.prefix, row) for row in (0, 2))
    assert first[0] == last[0]
    assert first[1] != last[1]


# --- differences ----------------------------------------------------------------------------------------


def test_a_schedule_does_not_differ_from_itself() -> None:
    rows = read_rows(SMALL)
    assert list(differences(rows, copy.deepcopy(rows))) == []
    assert side_by_side(rows, rows) == ""


def fields_of_rows() -> list[tuple[str, int, str]]:
    rows = read_rows(SMALL)
    kinds = (("requests", rows.requests), ("steps", rows.steps), ("results", rows.results))
    return [(kind, index, field) for kind, listed in kinds for index, row in enumerate(listed) for field in row]


@pytest.mark.parametrize(("kind", "index", "field"), fields_of_rows())
def test_every_field_of_every_row_counts(kind: str, index: int, field: str) -> None:
    rows = read_rows(SMALL)
    listed = copy.deepcopy(getattr(rows, kind))
    was = listed[index][field]
    more = {"prompt": ["x", 0, 1], "sched": ["x", 1], "adm": ["x", 1]}.get(field, "x")
    listed[index][field] = was + 1 if isinstance(was, int) else [*was, more] if isinstance(was, list) else f"{was}x"
    found = replace(rows, **{kind: listed})
    (only,) = differences(rows, found)
    assert (only.index, only.field, only.expected, only.found) == (index, field, was, listed[index][field])
    assert field in side_by_side(rows, found)


@pytest.mark.parametrize("field", ["n_steps", "stop", "totals.makespan_ns", "effective.watermark", "cost_ns.d"])
def test_counts_totals_and_settings_count(field: str) -> None:
    rows = read_rows(SMALL)
    meta = copy.deepcopy(rows.meta)
    *outer, inner = field.split(".")
    (meta[outer[0]] if outer else meta)[inner] = 99
    (only,) = differences(rows, replace(rows, meta=meta))
    assert (only.kind, only.field, only.found) == ("meta", field, 99)
    assert side_by_side(rows, replace(rows, meta=meta)) == f"first difference: {only}\n"


def test_names_do_not_count() -> None:
    rows = read_rows(SMALL)
    assert not list(differences(rows, replace(rows, meta=rows.meta | {"name": "x", "description": ""})))


def test_missing_added_and_swapped_rows_count() -> None:
    rows = read_rows(SMALL)
    cut = replace(rows, steps=rows.steps[:-1])
    assert [str(one) for one in differences(rows, cut)] == ["step 2: missing"]
    assert [str(one) for one in differences(cut, rows)] == ["step 2: not expected"]
    swapped = replace(rows, results=rows.results[::-1])
    assert {one.kind for one in differences(rows, swapped)} == {"res"}
    assert next(differences(rows, swapped)).field == "id"


def test_nothing_is_not_zero_but_an_empty_list_is() -> None:
    rows = read_rows(SMALL)

    def with_first(**fields: object) -> Rows:
        return replace(rows, results=(rows.results[0] | fields, *rows.results[1:]))

    assert [one.field for one in differences(with_first(cached=0), with_first(cached=None))] == ["cached"]
    empty = replace(rows, steps=(rows.steps[0] | {"pre": []}, *rows.steps[1:]))
    assert not list(differences(rows, empty))
