"""The tool that draws recorded schedules: its figures by hand, its pictures' bytes, its refusals."""

from __future__ import annotations

import gzip
import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from headway.errors import InputError

ROOT = Path(__file__).parents[2]
GOLDENS = ROOT.parent / "shared" / "goldens"
sys.path.insert(0, str(ROOT / "tools"))

import draw_schedules  # noqa: E402 - a tool is a script, found once its folder is on the path
import schedule_facts  # noqa: E402

EFFECTIVE = {
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
    "num_gpu_blocks": 6,
    "enable_prefix_caching": False,
    "pipeline_parallel_size": 1,
    "num_spec_tokens": 0,
    "num_lookahead_tokens": 0,
    "num_hash_lookahead_tokens": 0,
    "draft_slots": 0,
    "spec_method": None,
    "max_loras": None,
    "batch_queue_size": 1,
}

MS = 1_000_000

#: what each batch schedules, and what else happens: b is thrown out by the third batch, and has a slot after its end
BATCHES: tuple[dict[str, Any], ...] = (
    {"sched": [["a", 6]], "adm": [["a", 0]]},
    {"sched": [["a", 1], ["b", 7]], "adm": [["b", 0]]},
    {"sched": [["a", 1]], "pre": ["b"], "fin": ["a"], "wait": 1},
    {"sched": [["b", 8]], "adm": [["b", 0]]},
    {"sched": [["b", 1]]},
    {"sched": [["b", 1]], "fin": ["b"]},
    {"sched": [["b", 1]]},
)


def step(k: int, **more: Any) -> dict[str, Any]:
    """The k-th batch, of 10 ms."""
    counts = {"T": sum(n for _, n in more["sched"]), "S": len(more["sched"]), "C": 0, "run": 1, "wait": 0}
    times = {"t": 10 * MS * k, "b": 10 * MS * k, "e": 10 * MS * (k + 1)}
    return {"type": "step", "k": k, **times, **counts, "free": 5 - k % 3, "freeu": 5, "crc": 0} | more


def result(one: str, arr: int, first: int, fin: int, nout: int) -> dict[str, Any]:
    times = {"arr": arr * MS, "sched": arr * MS, "start": arr * MS, "first": first * MS, "fin": fin * MS}
    return {"type": "res", "id": one, **times, "cached": 0, "reason": "length", "nout": nout, "npre": 0, "crc": 0}


def rows(batches: tuple[dict[str, Any], ...] = BATCHES, **meta: Any) -> list[dict[str, Any]]:
    """The rows of a file with two requests."""
    head = {
        "type": "meta",
        "format": 1,
        "name": "tiny",
        "description": "",
        "vllm": "0.33.0",
        "engine_args": {},
        "effective": EFFECTIVE,
        "num_gpu_blocks": 6,
        "cost_ns": {"a": 10 * MS, "b": 0, "c": 0, "d": 0},
        "stop": "length",
        "accept_pattern": None,
        "kv_groups": None,
        "kv_transfer": None,
        "steps_mode": "full",
        "n_requests": 2,
        "n_steps": len(batches),
        "totals": dict.fromkeys(
            ("preemptions", "scheduled_tokens", "makespan_ns", "first_cached_tokens", "prompt_tokens"), 0
        ),
    }
    requests = [
        {"type": "req", "id": one, "arr": arr * MS, "prompt": [[one, 0, plen]], "plen": plen, "out": out}
        for one, arr, plen, out in (("a", 0, 6, 3), ("b", 1, 9, 2))
    ]
    results = [result("a", 0, 10, 30, 3), result("b", 1, 50, 60, 2)]
    return [head | meta, *requests, *(step(k, **batch) for k, batch in enumerate(batches)), *results]


def written(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.write_bytes(gzip.compress("".join(json.dumps(line) + "\n" for line in lines).encode(), mtime=0))
    return path


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return written(tmp_path / "tiny.jsonl.gz", rows())


# --- figures --------------------------------------------------------------------------------------------


def test_slots_are_told_apart(tiny: Path) -> None:
    found = [[(slot.request, slot.kind, slot.again) for slot in batch] for batch in schedule_facts.read(tiny).slots]
    assert found == [
        [("a", "prefill", 0)],
        [("a", "decode", 0), ("b", "prefill", 0)],
        [("a", "decode", 0)],
        [("b", "recompute", 7)],  # eight of nine prompt tokens, seven of them for the second time
        [("b", "prefill", 0)],
        [("b", "decode", 0)],
        [("b", "wasted", 0)],
    ]


def test_waits_run_from_arrival_or_preemption_to_the_next_batch(tiny: Path) -> None:
    assert schedule_facts.read(tiny).waits() == {"a": [(0, 0)], "b": [(1, 10), (20, 30)]}


def test_the_head_of_the_line_needs_blocks_for_all_it_knows(tiny: Path) -> None:
    needed = schedule_facts.read(tiny).needed
    assert needed[2] == math.ceil(9 / 4)
    assert all(math.isnan(blocks) for i, blocks in enumerate(needed) if i != 2)


def test_a_clock_in_picoseconds_is_read_as_one(tmp_path: Path) -> None:
    recording = schedule_facts.read(written(tmp_path / "ps.jsonl.gz", rows(tick_ps=1)))
    assert recording.column("e")[0] == pytest.approx(0.01)  # ten million picoseconds


def test_the_table_is_what_a_hand_counts(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert draw_schedules.main(["table", str(tiny)]) == 0
    heading, line = capsys.readouterr().out.splitlines()
    names = [name for name, _, _ in schedule_facts.FIGURES.values()]
    assert heading.split() == " ".join(["recording", *names]).split()
    counts = ["2", "7", "8", "1", "1", "26", "7", "0"]  # requests … slots, wasted, preemptions, tokens, recomputed …
    latencies = ["29.5", "10.0", "49.0", "30.0", "59.0", "0.07"]
    assert line.split() == ["tiny", *counts, *latencies]


def test_settings_that_differ_are_named(tmp_path: Path, tiny: Path) -> None:
    other = EFFECTIVE | {"watermark": 0.05, "enable_prefix_caching": True}
    second = schedule_facts.read(written(tmp_path / "other.jsonl.gz", rows(effective=other)))
    assert schedule_facts.differences(schedule_facts.read(tiny), second) == "watermark 0.05, enable_prefix_caching on"
    assert schedule_facts.differences(second, second) == ""


@pytest.mark.parametrize(
    "name",
    [
        "budget_chunked",
        "multi_turn",
        "kv_thrash_watermark",
        "async_kv_pressure_eos",
        "pp2_sync",
        "async_priority_preempt",
    ],
)
def test_every_token_scheduled_is_new_from_before_or_wasted(name: str) -> None:
    path = GOLDENS / f"{name}.jsonl.gz"
    if not path.exists():
        pytest.skip("needs ../shared/goldens")
    recording = schedule_facts.read(path)
    slots = [slot for batch in recording.slots for slot in batch]
    # the last output token is sampled and never computed
    computed = sum(r["plen"] - q["cached"] + q["nout"] - 1 for r, q in _with_results(recording))
    wasted = sum(slot.tokens for slot in slots if slot.kind == "wasted")
    assert sum(slot.tokens for slot in slots) == computed + recording.again + wasted
    assert recording.preemptions == recording.rows.meta["totals"]["preemptions"]


def _with_results(recording: schedule_facts.Recording) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    return [(request, recording.results[one]) for one, request in recording.requests.items()]


# --- pictures -------------------------------------------------------------------------------------------

VERBS = {
    "timeline": ["timeline"],
    "line": ["timeline", "--line", "--from-step", "1", "--steps", "3"],
    "storm": ["storm"],
    "flight": ["flight", "--from-ms", "0", "--to-ms", "70"],
}


@pytest.mark.parametrize("verb", VERBS)
def test_the_same_schedule_is_the_same_bytes(verb: str, tiny: Path, tmp_path: Path) -> None:
    for name in ("one.svg", "two.svg"):
        assert draw_schedules.main([*VERBS[verb], str(tiny), "-o", str(tmp_path / name)]) == 0
    drawn = (tmp_path / "one.svg").read_bytes()
    assert drawn == (tmp_path / "two.svg").read_bytes()
    assert drawn.startswith(b"<?xml") and b"<dc:date>" not in drawn and str(tmp_path).encode() not in drawn
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.svg", "tiny.jsonl.gz", "two.svg"]


@pytest.mark.parametrize("verb", VERBS)
def test_another_schedule_is_another_picture(verb: str, tiny: Path, tmp_path: Path) -> None:
    other = written(tmp_path / "other.jsonl.gz", rows((*BATCHES[:2], {"sched": [["b", 2]]}, *BATCHES[3:])))
    for file in (tiny, other):
        assert draw_schedules.main([*VERBS[verb], str(file), "-o", str(file.with_suffix(".svg"))]) == 0
    assert tiny.with_suffix(".svg").read_bytes() != other.with_suffix(".svg").read_bytes()


def test_a_picture_may_be_png(tiny: Path, tmp_path: Path) -> None:
    assert draw_schedules.main(["storm", str(tiny), str(tiny), "-o", str(tmp_path / "out.png")]) == 0
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")


# --- refusals -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["timeline", "absent.gz", "-o", "out.svg"], "absent.gz: cannot be read"),
        (["timeline", "tiny.jsonl.gz", "-o", "out.gif"], "out.gif: cannot draw '.gif' (use .svg or .png)"),
        (
            ["timeline", "tiny.jsonl.gz", "-o", "out.svg", "--from-step", "7"],
            "--from-step: no batch 7; the recording has 7",
        ),
        (["timeline", "tiny.jsonl.gz", "-o", "out.svg", "--steps", "0"], "--steps: expected 1 or more, got 0"),
        (["flight", "tiny.jsonl.gz", "-o", "out.svg", "--from-ms", "9", "--to-ms", "9"], "--to-ms: expected more than"),
        (
            ["table", "tiny.jsonl.gz", "--figures", "ttft-p5"],
            "--figures: no figure 'ttft-p5' (did you mean 'ttft-p50'?)",
        ),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_one_line(
    arguments: list[str], said: str, tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tiny.parent)
    assert draw_schedules.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and said in error and error.count("\n") == 1
    assert [path.name for path in tiny.parent.iterdir()] == ["tiny.jsonl.gz"]


def test_the_need_of_the_line_is_not_told_with_several_kv_groups(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path / "groups.jsonl.gz", rows(kv_groups=[["full", 2], ["swa", 2, 8]]))
    assert draw_schedules.main(["timeline", str(file), "--line", "-o", str(tmp_path / "out.svg")]) == 2
    assert capsys.readouterr().err.startswith("error: --line: the layers have several KV groups")


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (rows(steps_mode="summary"), "its batches are only summed up"),
        (rows(batches=()), "there is no batch in it"),
        (rows(batches=({"sched": [["c", 1]]},)), "no request 'c'"),
        (rows(batches=({"sched": [["a", 1]], "pre": ["d"]},)), "no request 'd'"),
        ([*rows()[:-1], rows()[-2]], "result"),
        ([{k: v for k, v in line.items() if k != "sched"} for line in rows()], "sched"),
    ],
)
def test_a_file_that_is_no_full_schedule_is_refused(lines: list[dict[str, Any]], said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        schedule_facts.read(written(tmp_path / "bad.jsonl.gz", lines))


# --- the page -------------------------------------------------------------------------------------------

PAGE = (ROOT / "docs" / "concepts" / "scheduler.md").read_text(encoding="utf-8")


def test_the_page_shows_each_picture_that_is_drawn_for_it() -> None:
    shown = re.findall(r"\{figure\} pictures/([\w-]+)\.svg", PAGE)
    assert sorted(shown) == sorted(draw_schedules.DOCS)
    assert {f"{name}.svg" for name in shown} <= {path.name for path in draw_schedules.PICTURES.iterdir()}


SHOWN = re.findall(r"<!-- run -->\n```console\n\$ python tools/draw_schedules\.py (table .*)\n((?:.*\n)*?)```\n", PAGE)


@pytest.mark.parametrize(("line", "printed"), SHOWN)
def test_the_page_prints_what_the_recordings_say(
    line: str, printed: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if not GOLDENS.is_dir():
        pytest.skip("needs ../shared/goldens")
    monkeypatch.chdir(GOLDENS.parent)
    words = [sorted(map(str, Path().glob(word))) if word.endswith(".gz") else [word] for word in line.split()]
    assert draw_schedules.main([part for word in words for part in word]) == 0
    assert [text.rstrip() for text in capsys.readouterr().out.splitlines()] == printed.splitlines()


def test_the_pages_pictures_are_small() -> None:
    assert {path.name for path in draw_schedules.PICTURES.glob("*.svg") if path.stat().st_size > 150_000} == set()
