"""A `Record` as the rows of a schedule file, and those rows as a file."""

from __future__ import annotations

import gzip
import io
import zlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from headway.errors import InputError
from headway.simulator.schedules.rows import lines_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from headway.simulator.records import Ending, Record, Step, Transfer
    from headway.simulator.schedules.reading import Schedule
    from headway.simulator.schedules.rows import Row, Rows


def written(schedule: Schedule, record: Record) -> Rows:
    """Return what came of a schedule's requests as the rows of a file.

    Args:
        schedule: settings and requests; what came of them is taken from the record alone.
        record: of these requests on this replica.

    Raises:
        InputError: a time is no whole number of the file's unit.
    """
    pen = _Pen(schedule)
    steps = pen.steps(record.steps)
    results = tuple(pen.result(ending) for ending in record.endings)
    totals = {
        "preemptions": sum(row["npre"] for row in results),
        "scheduled_tokens": sum(row["T"] for row in steps),
        "makespan_ns": max((row["e"] for row in steps), default=0),
        "first_cached_tokens": sum(row["cached"] or 0 for row in results),
        "prompt_tokens": sum(row["plen"] for row in schedule.rows.requests),
    }
    counts = {"n_requests": len(results), "n_steps": len(steps), "totals": schedule.meta.get("totals", {}) | totals}
    transfers = tuple(pen.transfer(transfer) for transfer in record.transfers)
    return replace(schedule.rows, meta=schedule.meta | counts, steps=steps, transfers=transfers, results=results)


class _Pen:
    """Writes with the names and the clock of one schedule."""

    def __init__(self, schedule: Schedule) -> None:
        self.ids, self.tick_ps = schedule.ids, schedule.tick_ps
        self.full = schedule.meta["steps_mode"] == "full"

    def steps(self, steps: Iterable[Step]) -> tuple[Row, ...]:
        rows, before, work = [], None, dict[str, object]()
        for step in steps:
            if step.scheduled != before:  # a batch mostly does what the one before it did
                before, work = step.scheduled, self._work(step.scheduled)
            rows.append(self._step(step, work))
        return tuple(rows)

    def _work(self, scheduled: Sequence[tuple[int, int]]) -> Row:
        text = ",".join(f"{self.ids[request]}:{count}" for request, count in scheduled)
        listed = self._pairs(pair for pair in scheduled if self.full or pair[1] != 1)
        return {"crc": zlib.crc32(text.encode()), "sched" if self.full else "multi": listed}

    def _step(self, step: Step, work: Row) -> Row:
        lists = {
            "adm": self._pairs(step.admitted),
            "pre": [self.ids[request] for request in step.preempted],
            "fin": [self.ids[request] for request in step.finished],
            "spec": self._pairs(step.drafts) if self.full else [],
        }
        return {
            "type": "step",
            "k": step.k,
            "t": self.ticks(step.t_ps),
            "b": self.ticks(step.b_ps),
            "e": self.ticks(step.e_ps),
            "T": step.tokens,
            "S": len(step.scheduled),
            "C": step.context,
            "run": step.running,
            "wait": step.waiting,
            "free": step.free,
            "freeu": step.free_after,
            **work,
            **{name: content for name, content in lists.items() if content},
        }

    def transfer(self, transfer: Transfer) -> Row:
        return {
            "type": "kv",
            "id": self.ids[transfer.request],
            "kind": transfer.kind,
            "t0": self.ticks(transfer.start_ps),
            "t1": self.ticks(transfer.end_ps),
            "n": transfer.tokens,
        }

    def result(self, ending: Ending) -> Row:
        delivered = [self.ticks(time_ps) for time_ps in ending.delivered_ps]
        return {
            "type": "res",
            "id": self.ids[ending.request],
            "arr": self.ticks(ending.arrive_ps),
            "sched": self._ticks_or_null(ending.scheduled_ps),
            "start": self._ticks_or_null(ending.start_ps),
            "first": delivered[0] if delivered else None,
            "fin": self._ticks_or_null(ending.end_ps),
            "cached": ending.cached if ending.cached >= 0 else None,
            "npre": ending.preemptions,
            "nout": len(delivered),
            "reason": ending.reason or None,
            "crc": zlib.crc32("".join(f"{time}," for time in delivered).encode()),
        }

    def ticks(self, time_ps: int) -> int:
        count, rest = divmod(time_ps, self.tick_ps)
        if rest:
            raise InputError(f"{time_ps} ps is no whole number of the {self.tick_ps} ps that a schedule counts in")
        return count

    def _ticks_or_null(self, time_ps: int) -> int | None:
        return self.ticks(time_ps) if time_ps >= 0 else None

    def _pairs(self, pairs: Iterable[tuple[int, int]]) -> list[list[object]]:
        return [[self.ids[request], count] for request, count in pairs]


def write_schedule(schedule: Schedule, record: Record, path: str | Path) -> None:
    """Write what came of a schedule's requests; gzip-compressed where the name ends in `.gz`.

    The same record gives the same bytes. The file appears under its name when it is whole.

    Raises:
        InputError: a time is no whole number of the file's unit.
        OSError: the file cannot be written.
    """
    write_rows(written(schedule, record), path)


def write_rows(rows: Rows, path: str | Path) -> None:
    """Write the rows of a schedule file.

    Raises:
        OSError: the file cannot be written.
    """
    content = "".join(lines_of(rows)).encode()
    if str(path).endswith(".gz"):
        content = _compressed(content)
    part = Path(f"{path}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _compressed(content: bytes) -> bytes:
    packed = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=packed, mtime=0) as stream:
        stream.write(content)
    return packed.getvalue()
