"""The vLLM witness without a vLLM: its reading of logs and recordings, and that it can tell a difference."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

TOOLS = Path(__file__).parents[2] / "tools"
sys.path.insert(0, str(TOOLS / "witness"))  # tools are no package

from iterations import Composition, compositions, logged, side_by_side_of  # noqa: E402 - found once on the path
from prompts import common, told_apart  # noqa: E402
from vllm_recording import as_rows, read_recording  # noqa: E402
from vllm_scenarios import SCENARIOS  # noqa: E402
from witness_vllm import command, verdict  # noqa: E402

from headway.simulator.schedules.writing import write_rows  # noqa: E402

LOG = """\
(APIServer pid=1) INFO 11-21 06:50:08 [api_utils.py:286] non-default args: {}
(APIServer pid=1) INFO [loggers.py:199] Engine 000: Iteration(0): 1 context requests, 8 context tokens, 0 generation \
requests, 0 generation tokens, iteration elapsed time: 63.89 ms, CPU KV cache usage: 0.3%
(APIServer pid=1) INFO [loggers.py:199] Engine 000: Iteration(1): 1 context requests, 7 context tokens, 1 generation \
requests, 1 generation tokens, iteration elapsed time: 30.92 ms, CPU KV cache usage: 0.3%
"""

CONFIG = {
    "event": "config",
    "at_ns": 0,
    "max_num_seqs": 4,
    "max_num_active_seqs": None,
    "max_num_batched_tokens": 8,
    "max_num_scheduled_tokens": None,
    "enable_chunked_prefill": True,
    "long_prefill_token_threshold": 0,
    "long_prefill_token_threshold_adaptive": False,
    "policy": "fcfs",
    "async_scheduling": False,
    "watermark": 0.0,
    "scheduler_reserve_full_isl": True,
    "prefill_schedule_interval": 1,
    "max_model_len": 64,
    "block_size": 4,
    "num_gpu_blocks": 21,
    "enable_prefix_caching": True,
    "num_spec_tokens": 0,
    "max_loras": None,
}


def add(name: str, prompt: list[int], out: int, **more: Any) -> dict[str, Any]:
    usual = {"priority": 0, "adapter": 0, "arrival_s": 0.0}
    return {"event": "add", "id": name, "prompt": prompt, "max_tokens": out} | usual | more


def schedule(call: int, scheduled: list[Any], **more: Any) -> dict[str, Any]:
    usual = {"context": 0, "admitted": [], "preempted": [], "running": 1, "waiting": 0, "free": 20}
    return {"event": "schedule", "call": call, "scheduled": scheduled} | usual | more


def update(
    call: int, new: dict[str, list[int]], *finished: str, reason: str = "length", free: int = 20
) -> dict[str, Any]:
    ends = [[name, reason] for name in finished]
    return {"event": "update", "call": call, "new": new, "finished": ends, "free": free}


#: Ten tokens in two parts; a second request that begins alike comes during the first batch.
EVENTS = [
    CONFIG,
    add("a", list(range(10)), 2),
    schedule(0, [["a", 8]], admitted=[["a", 0]], free=18),
    add("b", [0, 1, 2, 3, 4, 5, 6, 7, 88], 1, arrival_s=1.0),
    update(0, {}, free=18),
    schedule(1, [["a", 2], ["b", 1]], context=16, admitted=[["b", 8]], running=2, free=16),
    update(1, {"a": [50], "b": [60]}, "b", free=17),
    schedule(2, [["a", 1]], context=10, free=17),
    update(2, {"a": [51]}, "a", free=20),
    schedule(3, [], running=0),
    update(3, {}),
]


def rows(events: list[dict[str, Any]]) -> Any:
    lines = [json.dumps(event) for event in events]
    return as_rows(read_recording(lines), name="small", description="", version="0.32.0")


def test_reads_iterations_from_the_engines_log() -> None:
    assert logged(LOG.splitlines()) == [Composition(1, 8, 0, 0), Composition(1, 7, 1, 1)]


def test_a_log_with_a_gap_is_refused() -> None:
    with pytest.raises(ValueError, match="from iteration -1 to 1"):
        logged(LOG.splitlines()[2:])


def test_compositions_are_those_the_engine_would_log() -> None:
    assert compositions(rows(EVENTS)) == [Composition(1, 8, 0, 0), Composition(2, 3, 0, 0), Composition(0, 0, 1, 1)]


def test_a_resumed_request_counts_as_generation() -> None:
    events = [
        CONFIG,
        add("a", list(range(6)), 3),
        schedule(0, [["a", 6]], admitted=[["a", 0]]),
        update(0, {"a": [50]}),
        schedule(1, [], preempted=["a"], running=0, waiting=1),
        update(1, {}),
        schedule(2, [["a", 3]], context=4, admitted=[["a", 4]]),
        update(2, {"a": [51]}),
        schedule(3, [["a", 1]], context=7),
        update(3, {"a": [52]}, "a"),
    ]
    found = rows(events)
    assert compositions(found) == [Composition(1, 6, 0, 0), Composition(0, 0, 1, 3), Composition(0, 0, 1, 1)]
    assert found.results[0]["npre"] == 1
    assert found.results[0]["cached"] == 0


def test_a_recording_becomes_a_schedule_on_the_logical_clock() -> None:
    found = rows(EVENTS)
    assert [(row["id"], row["arr"], row["prompt"]) for row in found.requests] == [
        ("r000", 1_000_000, [["p:r000", 0, 10]]),
        ("r001", 2_000_000, [["p:r000", 0, 8], ["p:r001", 8, 1]]),
    ]
    assert [(row["b"], row["e"], row["sched"]) for row in found.steps] == [
        (1_000_000, 2_000_000, [["r000", 8]]),
        (2_000_000, 3_000_000, [["r000", 2], ["r001", 1]]),
        (3_000_000, 4_000_000, [["r000", 1]]),
    ]
    assert found.meta["effective"]["batch_queue_size"] == 1


def test_the_simulator_agrees_with_it_and_a_changed_one_is_told(tmp_path: Path) -> None:
    log = tmp_path / "log"
    lines = [
        f"Iteration({n}): {c[0]} context requests, {c[1]} context tokens, "
        f"{c[2]} generation requests, {c[3]} generation tokens"
        for n, c in enumerate(compositions(rows(EVENTS)))
    ]
    log.write_text("\n".join(lines))
    write_rows(rows(EVENTS), tmp_path / "small.jsonl")
    assert verdict(tmp_path / "small.jsonl", log).problem == ""
    changed = [
        event | {"free": 15} if event.get("call") == 1 and event["event"] == "schedule" else event for event in EVENTS
    ]
    write_rows(rows(changed), tmp_path / "small.jsonl")
    assert "free: expected 15, found 16" in verdict(tmp_path / "small.jsonl", log).problem
    log.write_text("\n".join(lines[:-1]))
    assert "log of iterations" in verdict(tmp_path / "small.jsonl", log).problem


def test_batches_in_flight_overlap_on_the_logical_clock() -> None:
    events = [
        CONFIG | {"async_scheduling": True},
        add("a", list(range(4)), 2),
        schedule(0, [["a", 4]], admitted=[["a", 0]]),
        schedule(1, [["a", 1]], context=4),
        update(0, {"a": [50]}),
        schedule(2, []),
        update(1, {"a": [51]}, "a"),
        update(2, {}),
    ]
    found = rows(events)
    assert [(row["t"], row["b"], row["e"]) for row in found.steps] == [
        (1_000_000, 1_000_000, 2_000_000),
        (1_000_000, 2_000_000, 3_000_000),
    ]
    assert found.meta["effective"]["batch_queue_size"] == 2


def test_requests_that_one_call_saw_first_arrive_one_after_the_other() -> None:
    events = [*EVENTS[:4], add("c", [7], 1, arrival_s=2.0), *EVENTS[4:]]
    walk = read_recording(json.dumps(event) for event in events)
    assert [one.arrive for one in walk.seen.values()] == [1_000_000, 1_999_999, 2_000_000]


@pytest.mark.parametrize(
    ("events", "problem"),
    [
        ([*EVENTS[:3], add("b", [1], 1), schedule(1, [])], "one moment, 1000000 ns, on the logical clock"),
        ([*EVENTS[:3], {"event": "abort", "ids": ["a"]}], "aborted from outside"),
        (
            [CONFIG | {"policy": "priority"}, add("a", [1], 1), add("b", [2], 1), schedule(0, [])],
            "a priority cannot tell apart",
        ),
    ],
)
def test_what_the_logical_clock_cannot_say_is_refused(events: list[dict[str, Any]], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        read_recording(json.dumps(event) for event in events)


def test_ends_of_two_kinds_are_refused() -> None:
    events = [*EVENTS]
    events[6] = update(1, {"a": [50], "b": [60]}, "b", reason="stop", free=17)
    with pytest.raises(ValueError, match=r"\['length', 'stop'\]"):
        rows(events)


def test_a_stop_token_ends_at_the_tokens_that_came() -> None:
    events = [CONFIG, add("a", [1, 2], 30), schedule(0, [["a", 2]], admitted=[["a", 0]])]
    found = rows([*events, update(0, {"a": [9]}, "a", reason="stop")])
    assert (found.meta["stop"], found.requests[0]["out"], found.results[0]["reason"]) == ("eos", 1, "stop")


def test_priority_and_adapter_travel_with_their_request() -> None:
    events = [
        CONFIG | {"policy": "priority", "max_loras": 2},
        add("a", [1], 1, priority=-2, adapter=3),
        schedule(0, [["a", 1]], admitted=[["a", 0]]),
        update(0, {"a": [9]}, "a"),
    ]
    found = rows(events)
    assert (found.requests[0]["prio"], found.requests[0]["lora"], found.meta["effective"]["max_loras"]) == (-2, 3, 2)


def test_the_first_difference_is_shown_with_what_came_before() -> None:
    same = [Composition(1, 8, 0, 0)] * 9
    shown = side_by_side_of([*same, Composition(0, 0, 1, 1)], same)
    assert shown.splitlines()[0].startswith("    6")
    assert shown.splitlines()[-1].endswith("|  None")


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_servers_listen_on_loopback_and_record(scenario: Any) -> None:
    parts = command(scenario, "async", 1234)
    assert parts[parts.index("--host") + 1] == "127.0.0.1"
    assert "recording_scheduler.Async" in parts
    assert set(scenario.arguments) <= set(parts)


def test_a_continued_conversation_is_told_by_its_outputs() -> None:
    first, answer = [1, 2, 3], [7, 8]
    pieces = told_apart(["x", "y"], [first, [*first, *answer, 5]], [answer, [9]])
    assert pieces == [[("p:x", 0, 3)], [("p:x", 0, 3), ("o:x", 0, 2), ("p:y", 5, 1)]]


def test_outputs_that_begin_alike_are_refused() -> None:
    with pytest.raises(ValueError, match="the output of y begins like an earlier text"):
        told_apart(["x", "y"], [[1, 2], [1, 2]], [[3], [3]])


@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.lists(st.integers(0, 2), min_size=1, max_size=6), st.integers(0, 3)), max_size=7
    )
)
def test_pieces_are_equal_as_far_as_tokens_are(drawn: list[tuple[int, list[int], int]]) -> None:
    """However prompts continue one another or share their beginnings, their pieces share just as much."""
    prompts: list[list[int]] = []
    outputs: list[list[int]] = []
    for number, (after, own, count) in enumerate(drawn):
        before = prompts[after] + outputs[after] if after < number else []
        prompts.append(before + own)
        outputs.append([10 * number + at + 10 for at in range(count)])
    spelled = [
        [(stream, start + at) for stream, start, count in pieces for at in range(count)]
        for pieces in told_apart([f"n{number}" for number in range(len(drawn))], prompts, outputs)
    ]
    for one, other in ((i, j) for i in range(len(drawn)) for j in range(i)):
        assert common(spelled[one], spelled[other]) == common(prompts[one], prompts[other])
