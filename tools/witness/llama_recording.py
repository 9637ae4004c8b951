"""What a real llama-server did, from its own debug log, as a schedule file of the simulator.

The server tells every decision at verbosity 5: which slot a task got and why, who had to wait, what each slot put
into each batch, every token sampled and every release. Its prompts it does not tell; the number of each request in
the scenario travels as `n_keep`, which the server repeats and, without context shift, does nothing with.

Times are put on a logical clock: every batch lasts one TICK, a request arrives when the server first looked at it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from prompts import told_apart

from headway.simulator.records import Ending, Record, Step
from headway.simulator.schedules import Rows, Schedule, written
from headway.simulator.schedules.replicas import TICK_PS, replica_of
from headway.types import Requests

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

#: How long a step takes on the logical clock, in the nanoseconds of schedule files.
TICK = 1_000_000

_SLOT = r"id +(?P<slot>\d+) \| task (?P<task>-?\d+) \| "
_EVENTS = {
    "launched": re.compile(rf"launch_slot_: {_SLOT}processing task"),
    "deferred": re.compile(r"defer: defer task, id = (?P<task>\d+)"),
    "chosen": re.compile(rf"get_availabl: {_SLOT}selected slot by (?P<why>LCP|LRU)"),
    "opened": re.compile(rf"{_SLOT}new prompt, n_ctx_slot = (?P<n_ctx>\d+), n_keep = (?P<keep>\d+), task.n_tokens = (?P<n>\d+)"),
    "chunk": re.compile(rf"{_SLOT}cached n_tokens = (?P<n>\d+), memory_seq_rm"),
    "decode": re.compile(rf"{_SLOT}slot decode token, .* n_tokens = (?P<n>\d+),"),
    "executed": re.compile(r"decode: n_batch \(effective\) = \d+, off = (?P<off>\d+)"),
    "token": re.compile(rf"process_toke: {_SLOT}n_gen = (?P<n>\d+), .*next token: +(?P<token>\d+) "),
    "released": re.compile(rf"release: {_SLOT}stop processing: n_tokens = (?P<n>\d+), truncated = (?P<cut>\d)"),
}


@dataclass(slots=True)
class Task:
    """One request, as the server saw it."""

    number: int = -1  # in the scenario
    arrive: int = -1
    slot: int = -1
    why: str = ""  # LCP or LRU: how its slot was chosen
    waited: bool = False
    length: int = 0  # of the prompt
    cached: int = -1
    begun: int = -1  # the step of its first tokens
    ended: int = -1
    cut: bool = False  # by the end of the context
    tokens: list[int] = field(default_factory=list)
    delivered: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Batch:
    """One iteration: (task, where it begins, tokens), the tokens of a prompt's part known when the next begins."""

    parts: list[list[int]] = field(default_factory=list)
    admitted: list[tuple[int, int]] = field(default_factory=list)
    finished: list[int] = field(default_factory=list)
    running: int = 0
    waiting: int = 0


@dataclass(slots=True)
class Walk:
    """Goes through the log's lines."""

    tasks: dict[int, Task] = field(default_factory=dict)  # by the server's number, in order of arrival
    batches: list[Batch] = field(default_factory=list)
    forming: Batch = field(default_factory=Batch)
    open_parts: dict[int, list[int]] = field(default_factory=dict)  # by task: the latest part of its prompt
    busy: set[int] = field(default_factory=set)
    line: set[int] = field(default_factory=set)
    why: str = ""
    n_ctx: int = 0

    def take(self, line: str) -> None:
        """Take in the next line."""
        for event, pattern in _EVENTS.items():
            if match := pattern.search(line):
                found = {name: text if name == "why" else int(text) for name, text in match.groupdict().items()}
                getattr(self, f"_{event}")(**found)

    def _task(self, task: int) -> Task:
        one = self.tasks.setdefault(task, Task())
        if one.arrive < 0:
            one.arrive = len(self.batches)
        return one

    def _chosen(self, slot: int, task: int, why: str) -> None:
        self.why = why

    def _launched(self, slot: int, task: int) -> None:
        one = self._task(task)
        one.slot, one.why = slot, self.why
        self.busy.add(task)
        self.line.discard(task)

    def _deferred(self, task: int) -> None:
        self._task(task).waited = True
        self.line.add(task)

    def _opened(self, slot: int, task: int, n_ctx: int, keep: int, n: int) -> None:
        one = self.tasks[task]
        one.number, one.length, self.n_ctx = keep, n, n_ctx

    def _chunk(self, slot: int, task: int, n: int) -> None:
        if task in self.open_parts:
            self._close(task, n)
        else:
            self.tasks[task].cached, self.tasks[task].begun = n, len(self.batches)
            self.forming.admitted.append((task, n))
        self.open_parts[task] = [task, n, 0]
        self.forming.parts.append(self.open_parts[task])

    def _close(self, task: int, end: int) -> None:
        self.open_parts[task][2] = end - self.open_parts[task][1]

    def _decode(self, slot: int, task: int, n: int) -> None:
        self.forming.parts.append([task, n, 1])

    def _executed(self, off: int) -> None:
        if off:
            raise ValueError("a batch was computed in several calls: n_batch is too small for these slots")
        self.forming.running, self.forming.waiting = len(self.busy), len(self.line)
        self.batches.append(self.forming)
        self.forming = Batch()

    def _token(self, slot: int, task: int, n: int, token: int) -> None:
        one = self.tasks[task]
        if n == 1:
            self._close(task, one.length)
        one.tokens.append(token)
        one.delivered.append(len(self.batches))

    def _released(self, slot: int, task: int, n: int, cut: int) -> None:
        self.tasks[task].ended, self.tasks[task].cut = len(self.batches), bool(cut)
        self.batches[-1].finished.append(task)
        self.busy.remove(task)


def read_log(lines: Iterable[str]) -> Walk:
    """Read a llama-server's debug log.

    Raises:
        ValueError: a batch was computed in several calls.
    """
    walk = Walk()
    for line in lines:
        walk.take(line)
    return walk


def as_rows(
    walk: Walk,
    prompts: Sequence[Sequence[int]],
    outputs: Sequence[int],
    *,
    name: str,
    description: str,
    version: str,
    settings: dict[str, int],
) -> Rows:
    """Return a log as the rows of a schedule file.

    Args:
        walk: the log.
        prompts: of the requests, by their number in the scenario.
        outputs: tokens each asked for.
        name: of the file.
        description: of the file.
        version: of the package that holds the server.
        settings: the server's, of the names n_parallel and n_batch.

    Raises:
        ValueError: two outputs cannot be told apart.
    """
    tasks = list(walk.tasks.values())
    names = [f"r{task.number}" for task in tasks]
    pieces = told_apart(names, [prompts[task.number] for task in tasks], [task.tokens for task in tasks])
    requests = tuple(
        {
            "type": "req",
            "id": name,
            "arr": task.arrive * TICK,
            "prompt": [list(piece) for piece in made_of],
            "plen": task.length,
            "out": outputs[task.number],
        }
        for name, task, made_of in zip(names, tasks, pieces, strict=True)
    )
    meta = _meta(settings | {"n_ctx": walk.n_ctx}, name=name, description=description, version=version)
    schedule = Schedule(
        name=name,
        ids=tuple(names),
        requests=Requests(
            arrive_s=np.array([task.arrive * TICK * 1e-9 for task in tasks]),
            isl_tokens=np.array([task.length for task in tasks], np.int64),
            osl_tokens=np.array([outputs[task.number] for task in tasks], np.int64),
        ),
        replica=replica_of(meta, name),
        rows=Rows(meta=meta, requests=requests, steps=(), transfers=(), results=()),
    )
    return written(schedule, _record(walk))


def _record(walk: Walk) -> Record:
    rows = {task: row for row, task in enumerate(walk.tasks)}
    steps = tuple(_step(number, batch, rows) for number, batch in enumerate(walk.batches))
    endings = tuple(_ending(row, task) for row, task in enumerate(walk.tasks.values()))
    return Record(steps=steps, transfers=(), endings=endings)


def _step(number: int, batch: Batch, rows: dict[int, int]) -> Step:
    return Step(
        k=number,
        t_ps=number * TICK * TICK_PS,
        b_ps=number * TICK * TICK_PS,
        e_ps=(number + 1) * TICK * TICK_PS,
        tokens=sum(count for _, _, count in batch.parts),
        context=sum(begin for _, begin, _ in batch.parts),
        running=batch.running,
        waiting=batch.waiting,
        free=0,
        free_after=0,
        scheduled=tuple((rows[task], count) for task, _, count in batch.parts),
        admitted=tuple((rows[task], cached) for task, cached in batch.admitted),
        finished=tuple(rows[task] for task in batch.finished),
    )


def _ending(row: int, task: Task) -> Ending:
    step_ps = TICK * TICK_PS
    return Ending(
        request=row,
        arrive_ps=task.arrive * step_ps,
        scheduled_ps=task.begun * step_ps,
        start_ps=task.begun * step_ps,
        cached=task.cached,
        reason="length",
        preemptions=0,
        delivered_ps=tuple(at * step_ps for at in task.delivered),
        end_ps=task.ended * step_ps,
    )


def _meta(settings: dict[str, int], *, name: str, description: str, version: str) -> dict[str, Any]:
    slots, context = settings["n_parallel"], settings["n_ctx"]
    effective = {
        "max_num_seqs": slots,
        "max_num_active_seqs": None,
        "max_num_batched_tokens": settings["n_batch"],
        "max_num_scheduled_tokens": None,
        "enable_chunked_prefill": True,
        "long_prefill_token_threshold": 0,
        "long_prefill_token_threshold_adaptive": False,
        "policy": "fcfs",
        "async_scheduling": False,
        "watermark": 0.0,
        "scheduler_reserve_full_isl": False,
        "prefill_schedule_interval": 1,
        "max_model_len": context,
        "block_size": 1,
        "num_gpu_blocks": slots * context + 1,
        "enable_prefix_caching": True,
        "pipeline_parallel_size": 1,
        "num_spec_tokens": 0,
        "num_lookahead_tokens": 0,
        "num_hash_lookahead_tokens": 0,
        "draft_slots": 0,
        "spec_method": None,
        "max_loras": None,
        "batch_queue_size": 1,
    }
    return {
        "type": "meta",
        "format": 1,
        "name": name,
        "description": description,
        "vllm": version,
        "engine": "llama.cpp",
        "engine_args": {},
        "effective": effective,
        "num_gpu_blocks": effective["num_gpu_blocks"],
        "cost_ns": {"a": TICK, "b": 0, "c": 0, "d": 0},
        "stop": "length",
        "accept_pattern": None,
        "kv_groups": None,
        "kv_transfer": None,
        "steps_mode": "full",
    }
