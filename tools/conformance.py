"""Hold the simulator to recorded schedules, field by field.

    python tools/conformance.py FOLDER|FILE [--show N] [--json]
    python tools/conformance.py EXPECTED FOUND

Each file of a folder (`*.jsonl`, `*.jsonl.gz`; docs/reference/schedules.md says the format), or the one file, is
simulated again, step by step, and everything in it must come out the same: steps, transfers, results, totals. Where the
engine that jumps applies, so must its times, cached tokens and preemptions. A line says so of each file, and which of
its fields are unknown here; the first step that differs is shown in both versions. Two files are compared with each
other. The last line is `N of M equal`; the exit code is 0 where all are, 1 where some are not, 2 where there is nothing
to compare.
"""

from __future__ import annotations

import argparse
import json
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from headway.errors import InputError
from headway.simulator import record, simulate
from headway.simulator.dispatch import jumpable
from headway.simulator.schedules import differences, features, read_rows, read_schedule, side_by_side, unread, written

if TYPE_CHECKING:
    from collections.abc import Iterator

    from headway.simulator.schedules import Rows, Schedule

ENDINGS = (".jsonl", ".jsonl.gz")
#: The suite's own machines have two cores.
PROCESSES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What came of one file."""

    file: str
    features: str
    steps: int
    problem: str  # empty: equal; otherwise the first difference, or why there is nothing to compare
    jumped: bool = False  # whether the engine that jumps was held to it, too
    shown: str = ""  # that difference at length

    def __str__(self) -> str:
        """Return the file's line."""
        verdict = f"not equal: {self.problem}" if self.problem else "equal, both engines" if self.jumped else "equal"
        return f"{self.file:<40} {self.steps:>6,} steps  {'; '.join(filter(None, (verdict, self.features)))}"


def judged(path: Path) -> Verdict:
    """Simulate a recording again and compare."""
    try:
        schedule = read_schedule(path)
    except InputError as error:
        return Verdict(file=path.name, features="", steps=0, problem=str(error))
    jumping = jumpable(schedule.replica.settings, schedule.requests, schedule.replica) is None and ties_by_row(schedule)
    try:
        problem, shown = compared(schedule.rows, again(schedule))
        problem = problem or (jumped(schedule) if jumping else "")
    except Exception as error:  # noqa: BLE001 - whatever ends a simulation, this file is not equal
        problem, shown = f"{type(error).__name__}: {error}", ""
    return Verdict(
        file=path.name,
        features="; not read: ".join(filter(None, (features(schedule), ", ".join(unread(schedule.rows))))),
        steps=len(schedule.rows.steps),
        problem=problem,
        shown=shown,
        jumped=jumping,
    )


def ties_by_row(schedule: Schedule) -> bool:
    """Return whether equals by priority and arrival are named in the order of their rows: `simulate` knows no names."""
    if schedule.replica.settings.scheduling_policy != "priority":
        return True
    given = {row["id"]: (row.get("prio", 0), row["arr"]) for row in schedule.rows.requests}
    by_row = sorted(schedule.ids, key=lambda name: given[name])  # stable
    return by_row == sorted(schedule.ids, key=lambda name: (*given[name], name))


def again(schedule: Schedule) -> Rows:
    """Simulate a recording's requests, step by step."""
    return written(schedule, record(schedule.requests, schedule.replica, schedule.ids))


def compared(expected: Rows, found: Rows) -> tuple[str, str]:
    """Return the first difference in one line and at length; both empty where there is none."""
    first = next(differences(expected, found), None)
    return (str(first), side_by_side(expected, found)) if first else ("", "")


def jumped(schedule: Schedule) -> str:
    """Return the first difference of the engine that jumps: its columns, by request."""
    found = simulate(schedule.requests, schedule.replica)
    results = {row["id"]: row for row in schedule.rows.results}
    for field, column, unit in (
        ("first", found.first_ps, schedule.tick_ps),
        ("fin", found.last_ps, schedule.tick_ps),
        ("cached", found.cached_tokens, 1),
        ("npre", found.preemptions, 1),
    ):
        for name, value in zip(schedule.ids, column.tolist(), strict=True):
            expected = results[name][field]
            if value != expected * unit:
                return f"jumping, request {name}, {field}: expected {expected}, found {value / unit:g}"
    return ""


def files_of(folder: Path) -> list[Path]:
    """Return the schedules of a folder."""
    return sorted(path for path in folder.iterdir() if path.name.endswith(ENDINGS))


def walked(files: list[Path]) -> Iterator[Verdict]:
    """Judge all files, in order, with a counter on a terminal's standard error."""
    with ProcessPoolExecutor(PROCESSES) as pool:
        for number, verdict in enumerate(pool.map(judged, files), 1):
            if sys.stderr.isatty():
                sys.stderr.write(f"\r{number} of {len(files)}" + "\r\033[K" * (number == len(files)))
            yield verdict


def told(verdicts: list[Verdict], most: int | None) -> str:
    """Return the report: the differences at length, then the count."""
    wrong = [verdict for verdict in verdicts if verdict.problem]
    shown = [f"\n{verdict.file}\n{verdict.shown}" for verdict in wrong if verdict.shown][:most]
    return "".join(f"{part.rstrip()}\n" for part in shown) + count(verdicts)


def count(verdicts: list[Verdict]) -> str:
    """Return the last line."""
    return f"{sum(not verdict.problem for verdict in verdicts)} of {len(verdicts)} equal"


def pair(expected: Path, found: Path) -> Verdict:
    """Compare two files with each other."""
    rows = read_rows(expected), read_rows(found)
    problem, shown = compared(*rows)
    return Verdict(file=found.name, features="", steps=len(rows[1].steps), problem=problem, shown=shown)


def options() -> argparse.Namespace:
    """Read the command line."""
    lines = (__doc__ or "").splitlines()
    parser = argparse.ArgumentParser(description=lines[0])
    parser.add_argument("expected", type=Path, help="a folder of recordings, or one")
    parser.add_argument("found", type=Path, nargs="?", help="a second one, compared with the first")
    parser.add_argument(
        "--show", type=int, metavar="N", help="show at most so many differences at length (default: all)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document in place of the text")
    return parser.parse_args()


def verdicts_of(expected: Path, found: Path | None) -> Iterator[Verdict]:
    """Judge a folder, a file, or a pair of files.

    Raises:
        InputError: there is nothing to compare.
    """
    if found is not None:
        return iter([pair(expected, found)])
    files = files_of(expected) if expected.is_dir() else [expected] * expected.is_file()
    if not files:
        raise InputError(f"expected a recording, or a folder with files *{' or *'.join(ENDINGS)}", file=expected)
    return walked(files)


def main() -> int:
    """Judge what is given, and say what came of it."""
    chosen, verdicts = options(), []
    try:
        for verdict in verdicts_of(chosen.expected, chosen.found):
            verdicts.append(verdict)
            if not chosen.json:
                print(verdict, flush=True)
    except InputError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    if chosen.json:
        print(json.dumps({"verdict": count(verdicts), "files": [asdict(one) for one in verdicts]}, indent=2))
    else:
        print(told(verdicts, chosen.show))
    return int(any(verdict.problem for verdict in verdicts))


if __name__ == "__main__":
    sys.exit(main())
