"""What a recorded schedule says, computed from its rows: slots, waits, recomputed tokens, wasted slots."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from headway.errors import InputError, nearest
from headway.simulator.schedules import read_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from headway.simulator.schedules import Rows

Kind = Literal["prefill", "decode", "recompute", "wasted"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """The place of one request in one batch.

    Attributes:
        request: its id.
        tokens: scheduled for it.
        kind: `prefill` where a token of the prompt is computed for the first time, `recompute` where tokens are that a
            preemption had thrown away, `wasted` where the request had ended before the batch was through.
        after: tokens of the request computed when the batch is through.
        again: tokens of this slot that had been computed before.
    """

    request: str
    tokens: int
    kind: Kind
    after: int
    again: int = 0


@dataclass(frozen=True)
class Recording:
    """One recording; times in milliseconds."""

    rows: Rows

    @property
    def name(self) -> str:
        """The recording's own name."""
        return str(self.rows.meta["name"])

    @property
    def settings(self) -> Mapping[str, Any]:
        """The engine's settings as it resolved them."""
        found: Mapping[str, Any] = self.rows.meta["effective"]
        return found

    @property
    def title(self) -> str:
        """Name, engine and version."""
        engine = self.rows.meta.get("engine", "vLLM")
        return f"{self.name} · {engine} {self.rows.meta['vllm']}"

    @property
    def budget_tokens(self) -> int:
        """Tokens a batch may hold."""
        return int(self.settings["max_num_scheduled_tokens"] or self.settings["max_num_batched_tokens"])

    @property
    def usable_blocks(self) -> int:
        """Blocks there are; block 0 is never used."""
        return int(self.settings["num_gpu_blocks"]) - 1

    def at(self, tick: int) -> float:
        """Return a clock reading in milliseconds."""
        return tick * int(self.rows.meta.get("tick_ps", 1000)) / 1e9

    def column(self, name: str) -> list[float]:
        """Return one time of each batch, in milliseconds."""
        return [self.at(step[name]) for step in self.rows.steps]

    @cached_property
    def requests(self) -> dict[str, dict[str, Any]]:
        """Requests by id, in order of arrival."""
        return {row["id"]: row for row in sorted(self.rows.requests, key=lambda row: row["arr"])}

    @cached_property
    def results(self) -> dict[str, dict[str, Any]]:
        """What became of each request, by id."""
        return {row["id"]: row for row in self.rows.results}

    @cached_property
    def slots(self) -> list[list[Slot]]:
        """The slots of each batch, in the order of scheduling.

        Drafts of speculation count as scheduled, not as computed: a preemption may throw away a few more tokens than
        are counted as recomputed.
        """
        computed: Counter[str] = Counter()
        reached: Counter[str] = Counter()
        ended: set[str] = set()
        found = []
        for step in self.rows.steps:
            computed.update({one: at - computed[one] for one, at in step.get("adm", ())})
            drafts = dict(step.get("spec", ()))
            found.append(
                [self._slot(one, n, n - drafts.get(one, 0), computed, reached, ended) for one, n in step["sched"]]
            )
            ended.update(step.get("fin", ()))
        return found

    def _slot(
        self, one: str, tokens: int, own: int, computed: Counter[str], reached: Counter[str], ended: set[str]
    ) -> Slot:
        before = computed[one]
        computed[one] = after = before + own
        again = max(min(reached[one], after) - before, 0)
        reached[one] = max(reached[one], after)
        if one in ended:
            return Slot(request=one, tokens=tokens, kind="wasted", after=after)
        fresh: Kind = "prefill" if before < self.requests[one]["plen"] else "decode"
        return Slot(request=one, tokens=tokens, kind="recompute" if again else fresh, after=after, again=again)

    def count(self, kind: Kind | None = None) -> int:
        """Return how many slots there were, of one kind or of all."""
        return sum(kind in (None, slot.kind) for slots in self.slots for slot in slots)

    @property
    def again(self) -> int:
        """Tokens that were computed before, and thrown away."""
        return sum(slot.again for slots in self.slots for slot in slots)

    @property
    def preemptions(self) -> int:
        """How often a request was thrown back."""
        return sum(len(step.get("pre", ())) for step in self.rows.steps)

    def latency(self, until: str, percent: int) -> float:
        """Return a percentile of the milliseconds from arrival to `first` or `fin`: a nearest rank, NaN of none."""
        rising = sorted(self.at(row[until] - row["arr"]) for row in self.rows.results if row[until] is not None)
        return rising[math.ceil(percent / 100 * len(rising)) - 1] if rising else math.nan

    def mean_latency(self, until: str) -> float:
        """Return the mean of the milliseconds from arrival to `first` or `fin`, NaN of none."""
        found = [self.at(row[until] - row["arr"]) for row in self.rows.results if row[until] is not None]
        return sum(found) / len(found) if found else math.nan

    def waits(self) -> dict[str, list[tuple[float, float]]]:
        """Return when each request waited: from its arrival or preemption to the start of its next batch."""
        since = {one: self.at(row["arr"]) for one, row in self.requests.items()}
        found: dict[str, list[tuple[float, float]]] = {one: [] for one in since}
        for step in self.rows.steps:
            since |= dict.fromkeys(step.get("pre", ()), self.at(step["t"]))
            for one, _ in step.get("adm", ()):
                found[one].append((since.pop(one, self.at(step["t"])), self.at(step["b"])))
        for one, start in since.items():
            if (result := self.results[one])["fin"] is not None:
                found[one].append((start, self.at(result["fin"])))
        return found

    @cached_property
    def needed(self) -> list[float]:
        """Blocks for all known tokens of the head of the waiting line after each call; NaN where nobody waits.

        What the head would find in the prefix cache is not taken off.
        """
        known = {one: row["plen"] for one, row in self.requests.items()}
        found, line, coming = [], list[str](), list(self.requests)
        for step, slots in zip(self.rows.steps, self.slots, strict=True):
            while coming and self.requests[coming[0]]["arr"] <= step["t"]:
                line.append(coming.pop(0))
            line = [*step.get("pre", ()), *line]
            if self.settings["policy"] == "priority":
                line.sort(key=lambda one: (self.requests[one].get("prio", 0), self.requests[one]["arr"]))
            gone = {one for one, _ in step.get("adm", ())}
            line = [one for one in line if one not in gone and not self._over(one, step["t"])]
            known |= {slot.request: max(known[slot.request], slot.after + 1) for slot in slots}
            found.append(math.ceil(known[line[0]] / self.settings["block_size"]) if line else math.nan)
        return found

    def prompt_blocks(self, one: str) -> int:
        """Return the blocks a request's prompt fills."""
        return math.ceil(int(self.requests[one]["plen"]) / int(self.settings["block_size"]))

    def _over(self, one: str, tick: int) -> bool:
        end = self.results[one]["fin"]
        return end is not None and end <= tick


def read(path: str | Path) -> Recording:
    """Read a schedule file that lists every batch.

    Raises:
        InputError: not a schedule file, or one that only sums its batches up.
    """
    rows = read_rows(path)
    if rows.meta["steps_mode"] != "full":
        raise InputError("its batches are only summed up", file=path, hint='draw a recording with steps_mode "full"')
    if not rows.steps:
        raise InputError("there is no batch in it", file=path)
    _check_named(rows, path)
    return Recording(rows)


def _check_named(rows: Rows, path: str | Path) -> None:
    """Refuse a batch of unknown requests, and a request without result."""
    known = {row["id"] for row in rows.requests}
    if missing := known - {row["id"] for row in rows.results}:
        raise InputError(f"no result of request {min(missing)!r}", file=path, place="res")
    for number, step in enumerate(rows.steps, 2 + len(rows.requests)):
        if "sched" not in step:
            raise InputError(
                "missing; expected [request id, tokens] of each slot", file=path, place=f"line {number}, sched"
            )
        named = {one for key in ("sched", "adm") for one, _ in step.get(key, ())}
        for one in sorted(named.union(step.get("pre", ()), step.get("fin", ())) - known):
            raise InputError(f"no request {one!r}", file=path, place=f"line {number}", hint=nearest(one, known))


def differences(first: Recording, other: Recording) -> str:
    """Say which settings of the second recording are not those of the first."""
    return ", ".join(
        f"{name} {_worded(value)}" for name, value in other.settings.items() if value != first.settings.get(name)
    )


def _worded(value: object) -> str:
    return (
        {True: "on", False: "off", None: "none"}.get(value, str(value))
        if isinstance(value, bool | None)
        else str(value)
    )


#: The figures of the table, by the name it is asked for: heading, digits after the point, and how it is found.
FIGURES: dict[str, tuple[str, int, Callable[[Recording], float]]] = {
    "requests": ("requests", 0, lambda r: len(r.requests)),
    "batches": ("batches", 0, lambda r: sum(bool(step["S"]) for step in r.rows.steps)),
    "slots": ("slots", 0, lambda r: r.count()),
    "wasted": ("wasted slots", 0, lambda r: r.count("wasted")),
    "preemptions": ("preemptions", 0, lambda r: r.preemptions),
    "tokens": ("tokens scheduled", 0, lambda r: sum(step["T"] for step in r.rows.steps)),
    "recomputed": ("recomputed", 0, lambda r: r.again),
    "cached": ("from prefix cache", 0, lambda r: sum(row["cached"] or 0 for row in r.rows.results)),
    "ttft-mean": ("TTFT mean (ms)", 1, lambda r: r.mean_latency("first")),
    "ttft-p50": ("TTFT p50 (ms)", 1, lambda r: r.latency("first", 50)),
    "ttft-p99": ("TTFT p99 (ms)", 1, lambda r: r.latency("first", 99)),
    "e2e-p50": ("E2E p50 (ms)", 1, lambda r: r.latency("fin", 50)),
    "e2e-p99": ("E2E p99 (ms)", 1, lambda r: r.latency("fin", 99)),
    "makespan": ("makespan (s)", 2, lambda r: max(r.column("e")) / 1e3),
}


def table(recordings: Sequence[Recording], figures: Sequence[str]) -> str:
    """Return figures of several recordings, one recording a line.

    Raises:
        InputError: no figure has that name.
    """
    for name in figures:
        if name not in FIGURES:
            raise InputError(f"no figure {name!r}", place="--figures", hint=nearest(name, FIGURES))
    chosen = [FIGURES[name] for name in figures]
    cells = [["recording", *(heading for heading, _, _ in chosen)]]
    cells += [[r.name, *(f"{find(r):,.{digits}f}" for _, digits, find in chosen)] for r in recordings]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(_aligned(line, widths)) for line in cells)


def _aligned(line: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [line[0].ljust(widths[0])] + [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
