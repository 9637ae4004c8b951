"""The llama-server witness without a server: its reading of the server's log, and that it can tell a difference."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "tools" / "witness"))  # tools are no package

from llama_recording import Walk, as_rows, read_log
from logical import judged
from witness_llama import Said, contradictions, counters

from headway.simulator.schedules import read_schedule
from headway.simulator.schedules.writing import write_rows

#: What a real server said of three requests at two slots, 16 tokens a batch: the lines that matter, without times.
LOG = """\
I slot get_availabl: id  1 | task -1 | selected slot by LRU, t_last = -1
I slot launch_slot_: id  1 | task 0 | processing task, is_child = 0
I slot   operator(): id  1 | task 0 | new prompt, n_ctx_slot = 256, n_keep = 0, task.n_tokens = 20
I slot   operator(): id  1 | task 0 | cached n_tokens = 0, memory_seq_rm [0, end)
D srv        decode: n_batch (effective) = 16, off = 0
I slot get_availabl: id  0 | task -1 | selected slot by LRU, t_last = -1
I slot launch_slot_: id  0 | task 2 | processing task, is_child = 0
D que         defer: defer task, id = 3
I slot   operator(): id  0 | task 2 | new prompt, n_ctx_slot = 256, n_keep = 1, task.n_tokens = 6
I slot   operator(): id  0 | task 2 | cached n_tokens = 0, memory_seq_rm [0, end)
I slot   operator(): id  1 | task 0 | cached n_tokens = 16, memory_seq_rm [16, end)
D srv        decode: n_batch (effective) = 16, off = 0
D slot process_toke: id  0 | task 2 | n_gen = 1, n_remaining = 0, next token: 12593 '"):'
I slot      release: id  0 | task 2 | stop processing: n_tokens = 6, truncated = 0
D slot process_toke: id  1 | task 0 | n_gen = 1, n_remaining = 1, next token: 45234 ' Stake'
I slot get_availabl: id  0 | task -1 | selected slot by LRU, t_last = 14783972342
I slot launch_slot_: id  0 | task 3 | processing task, is_child = 0
D slot handle_last_: id  1 | task 0 | slot decode token, id=45234, n_ctx = 256, n_tokens = 20, truncated = 0
I slot   operator(): id  0 | task 3 | new prompt, n_ctx_slot = 256, n_keep = 2, task.n_tokens = 8
I slot   operator(): id  0 | task 3 | cached n_tokens = 0, memory_seq_rm [0, end)
D srv        decode: n_batch (effective) = 16, off = 0
D slot process_toke: id  0 | task 3 | n_gen = 1, n_remaining = 1, next token: 19242 ' stub'
D slot process_toke: id  1 | task 0 | n_gen = 2, n_remaining = 0, next token:  2016 'let'
I slot      release: id  1 | task 0 | stop processing: n_tokens = 21, truncated = 0
D slot handle_last_: id  0 | task 3 | slot decode token, id=19242, n_ctx = 256, n_tokens = 8, truncated = 0
D srv        decode: n_batch (effective) = 16, off = 0
D slot process_toke: id  0 | task 3 | n_gen = 2, n_remaining = 0, next token: 30918 'oppy'
I slot      release: id  0 | task 3 | stop processing: n_tokens = 9, truncated = 0
""".splitlines()
PROMPTS = [list(range(20)), list(range(40, 46)), [0, 1, 2, 3, 4, 60, 61, 62]]
OUTPUTS = [2, 1, 2]
SETTINGS = {"n_parallel": 2, "n_ctx": 512, "n_batch": 16, "n_ubatch": 16}


def rows(walk: Walk) -> Any:
    return as_rows(walk, PROMPTS, OUTPUTS, SETTINGS, name="small", description="", vllm="2026.10.11549")


def answer(slot: int, length: int, tokens: list[int], **timings: int) -> dict[str, Any]:
    usual = {"cache_n": 0, "prompt_n": length, "predicted_n": len(tokens)}
    return {"id_slot": slot, "tokens": tokens, "truncated": False, "timings": usual | timings}


def told(**changes: Any) -> Said:
    said = Said(
        answers={0: answer(1, 20, [45234, 2016]), 1: answer(0, 6, [12593]), 2: answer(0, 8, [19242, 30918])},
        metrics={"n_decode_total": 4.0, "n_busy_slots_per_decode": 1.5},
        slots=[{"is_processing": False}],
    )
    for name, value in changes.items():
        setattr(said, name, value)
    return said


def test_the_log_says_who_got_which_slot_and_who_waited() -> None:
    tasks = read_log(LOG).tasks
    assert [(task.number, task.slot, task.why, task.waited) for task in tasks.values()] == [
        (0, 1, "LRU", False),
        (1, 0, "LRU", False),
        (2, 0, "LRU", True),
    ]


def test_the_log_becomes_a_schedule_on_the_logical_clock() -> None:
    found = rows(read_log(LOG))
    assert [(row["id"], row["arr"], row["prompt"]) for row in found.requests] == [
        ("r0", 0, [["p:r0", 0, 20]]),
        ("r1", 1_000_000, [["p:r1", 0, 6]]),
        ("r2", 1_000_000, [["p:r0", 0, 5], ["p:r2", 5, 3]]),
    ]
    assert [(row["sched"], row["C"], row["run"], row["wait"], row["free"], row["freeu"]) for row in found.steps] == [
        ([["r0", 16]], 0, 1, 0, 496, 496),
        ([["r1", 6], ["r0", 4]], 16, 2, 1, 486, 492),
        ([["r0", 1], ["r2", 8]], 20, 2, 0, 483, 504),
        ([["r2", 1]], 8, 1, 0, 503, 512),
    ]


def test_the_simulator_agrees_with_the_server(tmp_path: Path) -> None:
    write_rows(rows(read_log(LOG)), tmp_path / "small.jsonl")
    assert judged(read_schedule(tmp_path / "small.jsonl")) == ("", "")


def test_another_choice_of_the_server_is_told(tmp_path: Path) -> None:
    """Had the server taken the prompts in order of arrival, the simulator would differ."""
    other = [*LOG[:9], LOG[10], LOG[9], *LOG[11:]]
    write_rows(rows(read_log(other)), tmp_path / "small.jsonl")
    problem, shown = judged(read_schedule(tmp_path / "small.jsonl"))
    assert problem.startswith("step 1, crc")
    assert "r1" in shown


def test_a_server_that_does_not_contradict_itself() -> None:
    assert contradictions(read_log(LOG), told()) == []


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"metrics": {"n_decode_total": 5.0, "n_busy_slots_per_decode": 1.5}}, "(5.0, 6) counted, (4, 6) logged"),
        ({"slots": [{"is_processing": True}]}, "slots are busy at the end"),
        ({"answers": told().answers | {1: answer(1, 6, [12593])}}, "request 1, slot: 1 answered, 0 logged"),
        ({"answers": told().answers | {1: answer(0, 6, [1])}}, "request 1, tokens: [1] answered, [12593] logged"),
        ({"answers": told().answers | {2: answer(0, 8, [19242, 30918], cache_n=5)}}, "request 2, cached tokens: 5"),
    ],
)
def test_contradictions_are_named(changes: dict[str, Any], problem: str) -> None:
    assert any(problem in one for one in contradictions(read_log(LOG), told(**changes)))


def test_a_batch_in_several_calls_is_refused() -> None:
    with pytest.raises(ValueError, match="n_batch is too small"):
        read_log([*LOG[:4], LOG[4].replace("off = 0", "off = 16")])


def test_counters_are_read_without_their_comments() -> None:
    page = "# HELP llamacpp:n_decode_total Calls.\n# TYPE llamacpp:n_decode_total counter\nllamacpp:n_decode_total 13\n"
    assert counters(page) == {"n_decode_total": 13.0}
