"""A schedule file as what the simulator takes: requests and a replica, beside the rows that are expected of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from headway.errors import InputError
from headway.simulator.schedules.blocks import number_blocks
from headway.simulator.schedules.replicas import TICK_PS, replica_of
from headway.simulator.schedules.rows import Rows, read_rows
from headway.types import Requests

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from headway.simulator.schedules.rows import Row
    from headway.types import FloatColumn, IntColumn, PrefixRuns, Replica

_PS_PER_S = 10**12
#: Where a stop token ends a request, this is what the client allowed; no model length reaches it.
MOST_TOKENS = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """A recorded schedule.

    Attributes:
        name: the file's name for it.
        ids: the file's id of each row of `requests`.
        requests: what arrived, in order of arrival.
        replica: what it ran on.
        rows: the file itself, with what is expected to come of it.
    """

    name: str
    ids: tuple[str, ...]
    requests: Requests
    replica: Replica
    rows: Rows

    @property
    def meta(self) -> Row:
        """The file's first row."""
        return self.rows.meta

    @property
    def tick_ps(self) -> int:
        """Picoseconds of the file's unit of time."""
        return int(self.meta.get("tick_ps", TICK_PS))


def read_schedule(path: str | Path) -> Schedule:
    """Read a recorded schedule, plain or gzip-compressed.

    Raises:
        InputError: anything wrong with it, naming the file, the line and the field.
    """
    rows = read_rows(path)
    replica = replica_of(rows.meta, path)
    _check_lengths(rows, path)
    # stable: requests that arrive together stay in the file's order
    order = sorted(range(len(rows.requests)), key=lambda index: rows.requests[index]["arr"])
    arriving = [rows.requests[index] for index in order]
    places = [f"line {index + 2}" for index in order]
    return Schedule(
        name=rows.meta["name"],
        ids=tuple(row["id"] for row in arriving),
        requests=_requests(rows.meta, arriving, _Clock(rows.meta.get("tick_ps", TICK_PS), path, places)),
        replica=replica,
        rows=rows,
    )


def _check_lengths(rows: Rows, path: str | Path) -> None:
    most = rows.meta["effective"]["max_model_len"]
    for number, row in enumerate(rows.requests, 2):
        total = sum(count for _, _, count in row["prompt"])
        if total != row["plen"]:
            _refuse(path, number, "plen", f"{row['plen']}, but the pieces of the prompt add up to {total}")
        if row["plen"] >= most:
            _refuse(path, number, "plen", f"{row['plen']}, which leaves no room for an output: max_model_len is {most}")
        if row.get("abort", row["arr"]) < row["arr"]:
            _refuse(path, number, "abort", f"{row['abort']} is before the arrival, {row['arr']}")
        if row.get("kv") and rows.meta["kv_transfer"] is None:
            _refuse(path, number, "kv", "transfers, but meta.kv_transfer is null")


def _refuse(path: str | Path, number: int, field: str, problem: str) -> None:
    raise InputError(problem, file=path, place=f"line {number}, {field}")


def _requests(meta: Row, rows: list[Row], clock: _Clock) -> Requests:
    transfers = [row.get("kv", {}) for row in rows]
    return Requests(
        arrive_s=clock.seconds("arr", (row["arr"] for row in rows)),
        isl_tokens=_whole(row["plen"] for row in rows),
        osl_tokens=_whole(row["out"] for row in rows),
        prefix=prefix_of(meta, rows),
        adapter_id=_some(rows, "lora", _whole(row.get("lora", 0) or -1 for row in rows)),
        priority=_some(rows, "prio", _whole(row.get("prio", 0) for row in rows)),
        max_tokens=np.full(len(rows), MOST_TOKENS, np.int64) if meta["stop"] == "eos" else None,
        abort_s=_some(rows, "abort", clock.seconds("abort", (row.get("abort") for row in rows))),
        remote_prefill=_some(
            transfers, "do_remote_prefill", np.array(["do_remote_prefill" in t for t in transfers], bool)
        ),
        hold_s=_some(transfers, "hold_ns", clock.seconds("kv.hold_ns", (t.get("hold_ns") for t in transfers))),
    )


def _whole(values: Iterable[int]) -> IntColumn:
    return np.fromiter(values, np.int64)


def _some(rows: list[Row], field: str, column: Any) -> Any:
    """The column, or None where no row has the field."""
    return column if any(field in row for row in rows) else None


def prefix_of(meta: Row, rows: Sequence[Row]) -> PrefixRuns | None:
    """Return the KV blocks of requests, in this order; None where the replica does not look for them."""
    effective = meta["effective"]
    if not effective["enable_prefix_caching"]:
        return None
    return number_blocks(
        rows,
        block_size=meta.get("block_tokens", effective["block_size"]),
        lookahead_tokens=effective["num_hash_lookahead_tokens"] or 0,
        max_model_len=effective["max_model_len"],
        stops=meta["stop"] == "eos",
    )


@dataclass(frozen=True, slots=True)
class _Clock:
    """Turns a file's times into seconds that the simulator turns back into the same picoseconds."""

    tick_ps: int
    path: str | Path
    places: list[str]  # of the requests, by row

    def seconds(self, field: str, ticks: Iterable[int | None]) -> FloatColumn:
        """Return times in seconds, NaN where there is none.

        Raises:
            InputError: a time for which there is no such number.
        """
        return np.array([np.nan if t is None else self._seconds(field, row, t) for row, t in enumerate(ticks)], float)

    def _seconds(self, field: str, row: int, ticks: int) -> float:
        exact_ps = ticks * self.tick_ps
        nearest_s = np.float64(exact_ps / _PS_PER_S)
        for candidate_s in (nearest_s, np.nextafter(nearest_s, 0), np.nextafter(nearest_s, np.inf)):
            if np.rint(candidate_s * 1e12) == exact_ps:
                return float(candidate_s)
        raise InputError(
            f"{ticks} is too late: no floating-point number of seconds stands for this time exactly",
            file=self.path,
            place=f"{self.places[row]}, {field}",
        )
