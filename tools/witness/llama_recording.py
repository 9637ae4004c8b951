"""What a real llama-server did, from its own debug log, as a schedule file of the simulator.

The server tells every decision at verbosity 5: which slot a task got and why, who had to wait, what each slot put
into each batch, every token sampled and every release. Its prompts it does not tell; the number of each request in
the scenario travels as `n_keep`, which the server repeats and, without context shift, does nothing with.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from logical import TICK, Seen, rows_of

from headway.simulator.records import Step
from headway.simulator.schedules.replicas import TICK_PS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from headway.simulator.schedules import Rows

_STEP_PS = TICK * TICK_PS

_TASK = r"id +\d+ \| task (?P<task>-?\d+) \| "
_EVENTS = {
    "chosen": re.compile(r"get_availabl: .* selected slot by (?P<why>LCP|LRU)"),
    "launched": re.compile(r"launch_slot_: id +(?P<slot>\d+) \| task (?P<task>\d+) \| processing task"),
    "deferred": re.compile(r"defer: defer task, id = (?P<task>\d+)"),
    "opened": re.compile(
        rf"{_TASK}new prompt, n_ctx_slot = (?P<n_ctx>\d+), n_keep = (?P<keep>\d+), task.n_tokens = (?P<n>\d+)"
    ),
    "chunk": re.compile(rf"{_TASK}cached n_tokens = (?P<n>\d+), memory_seq_rm"),
    "decode": re.compile(rf"{_TASK}slot decode token, .* n_tokens = (?P<n>\d+),"),
    "executed": re.compile(r"decode: n_batch \(effective\) = \d+, off = (?P<off>\d+)"),
    "token": re.compile(rf"process_toke: {_TASK}n_gen = (?P<n>\d+), .*next token: +(?P<token>\d+) "),
    "released": re.compile(rf"release: {_TASK}stop processing: .* truncated = (?P<cut>\d)"),
}


@dataclass(slots=True)
class Task(Seen):
    """One request, with what only this server says of it."""

    number: int = -1  # in the scenario
    slot: int = -1
    why: str = ""  # LCP or LRU: how its slot was chosen
    waited: bool = False  # in the line of those deferred
    length: int = 0  # of the prompt
    cut: bool = False  # by the end of the context
    reason: str = "length"


@dataclass(slots=True)
class Batch:
    """One iteration: (task, where it begins, tokens), the tokens of a prompt's part known when the next begins."""

    parts: list[list[int]] = field(default_factory=list)
    admitted: list[tuple[int, int]] = field(default_factory=list)
    finished: list[int] = field(default_factory=list)
    busy: tuple[int, ...] = ()
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

    @property
    def now(self) -> int:
        """The logical clock: every batch lasts one tick."""
        return len(self.batches) * TICK

    def take(self, line: str) -> None:
        """Take in the next line."""
        for event, pattern in _EVENTS.items():
            if match := pattern.search(line):
                found = {name: text if name == "why" else int(text) for name, text in match.groupdict().items()}
                getattr(self, f"_{event}")(**found)

    def _task(self, task: int) -> Task:
        one = self.tasks.setdefault(task, Task())
        if one.arrive < 0:
            one.arrive = self.now
        return one

    def _chosen(self, why: str) -> None:
        self.why = why

    def _launched(self, slot: int, task: int) -> None:
        one = self._task(task)
        one.slot, one.why = slot, self.why
        self.busy.add(task)
        self.line.discard(task)

    def _deferred(self, task: int) -> None:
        self._task(task).waited = True
        self.line.add(task)

    def _opened(self, task: int, n_ctx: int, keep: int, n: int) -> None:
        one = self.tasks[task]
        one.number, one.length, self.n_ctx = keep, n, n_ctx

    def _chunk(self, task: int, n: int) -> None:
        if task in self.open_parts:
            self._close(task, n)
        else:
            one = self.tasks[task]
            one.cached, one.scheduled, one.begun = n, self.now, self.now
            self.forming.admitted.append((task, n))
        self.open_parts[task] = [task, n, 0]
        self.forming.parts.append(self.open_parts[task])

    def _close(self, task: int, end: int) -> None:
        self.open_parts[task][2] = end - self.open_parts[task][1]

    def _decode(self, task: int, n: int) -> None:
        self.forming.parts.append([task, n, 1])

    def _executed(self, off: int) -> None:
        if off:
            raise ValueError("a batch was computed in several calls: n_batch is too small for these slots")
        self.forming.busy, self.forming.waiting = tuple(self.busy), len(self.line)
        self.batches.append(self.forming)
        self.forming = Batch()

    def _token(self, task: int, n: int, token: int) -> None:
        one = self.tasks[task]
        if n == 1:
            self._close(task, one.length)
        one.tokens.append(token)
        one.delivered.append(self.now)

    def _released(self, task: int, cut: int) -> None:
        self.tasks[task].ended, self.tasks[task].cut = self.now, bool(cut)
        self.batches[-1].finished.append(task)
        self.busy.remove(task)

    def steps(self, slots: int) -> Iterator[Step]:
        """Tell the iterations in the simulator's words; free is what no busy slot holds of the slots' contexts."""
        rows = {task: row for row, task in enumerate(self.tasks)}
        held = dict.fromkeys(range(slots), 0)  # tokens, by slot
        for number, batch in enumerate(self.batches):
            held.update((self.tasks[task].slot, begin + count) for task, begin, count in batch.parts)
            still = [task for task in batch.busy if task not in batch.finished]
            free, after = (
                slots * self.n_ctx - sum(held[self.tasks[task].slot] for task in tasks) for tasks in (batch.busy, still)
            )
            yield Step(
                k=number,
                t_ps=number * _STEP_PS,
                b_ps=number * _STEP_PS,
                e_ps=(number + 1) * _STEP_PS,
                tokens=sum(count for _, _, count in batch.parts),
                context=sum(begin for _, begin, _ in batch.parts),
                running=len(batch.busy),
                waiting=batch.waiting,
                free=free,
                free_after=after,
                scheduled=tuple((rows[task], count) for task, _, count in batch.parts),
                admitted=tuple((rows[task], cached) for task, cached in batch.admitted),
                finished=tuple(rows[task] for task in batch.finished),
            )


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
    prompts: Sequence[list[int]],
    outputs: Sequence[int],
    settings: dict[str, int],
    **meta: str,
) -> Rows:
    """Return a log as the rows of a schedule file.

    Args:
        walk: the log.
        prompts: of the requests, by their number in the scenario.
        outputs: tokens each asked for.
        settings: the server's; of them n_parallel and n_batch count.
        meta: name and description of the file, and vllm, the version.

    Raises:
        ValueError: two outputs cannot be told apart.
    """
    for task in walk.tasks.values():
        task.prompt, task.out = prompts[task.number], outputs[task.number]
    names = [f"r{task.number}" for task in walk.tasks.values()]
    steps = list(walk.steps(settings["n_parallel"]))
    effective = _effective(settings["n_parallel"], settings["n_batch"], walk.n_ctx)
    return rows_of(names, list(walk.tasks.values()), steps, effective, engine="llama.cpp", **meta)


def _effective(slots: int, n_batch: int, context: int) -> dict[str, Any]:
    """The server's settings in the words of the format: a slot's context is a share of the blocks, each one token."""
    return {
        "max_num_seqs": slots,
        "max_num_active_seqs": None,
        "max_num_batched_tokens": n_batch,
        "max_num_scheduled_tokens": None,
        "enable_chunked_prefill": True,
        "long_prefill_token_threshold": None,
        "long_prefill_token_threshold_adaptive": None,
        "policy": "fcfs",
        "async_scheduling": False,
        "watermark": None,
        "scheduler_reserve_full_isl": None,
        "prefill_schedule_interval": None,
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
