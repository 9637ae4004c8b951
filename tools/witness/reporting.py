"""The command line that both witnesses have, and what they print."""

from __future__ import annotations

import argparse
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What came of one run: the first difference in one line, empty where there is none, and at length."""

    name: str
    steps: int
    problem: str
    shown: str

    def __str__(self) -> str:
        """Return the run's line."""
        return f"{self.name:<16} {self.steps:>5,} steps  {f'differs: {self.problem}' if self.problem else 'equal'}"


def parser_of(text: str | None, names: Sequence[str]) -> argparse.ArgumentParser:
    """Return a parser of what both take: scenarios by name, and a folder."""
    parser = argparse.ArgumentParser(description=(text or "").splitlines()[0])
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"of {', '.join(names)}; default: all")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep recordings and logs there")
    return parser


def parsed(parser: argparse.ArgumentParser, names: Sequence[str]) -> argparse.Namespace:
    """Read the command line; without a scenario all are meant."""
    chosen = parser.parse_args()
    if unknown := set(chosen.scenarios) - set(names):
        parser.error(f"no scenario {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    chosen.scenarios = chosen.scenarios or list(names)
    return chosen


@contextmanager
def folder_of(keep: Path | None) -> Iterator[Path]:
    """Make the folder to keep things in, or one for a while."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        yield folder


def told(verdicts: Iterable[Verdict]) -> int:
    """Print each run as it ends, then the count; return the exit code."""
    problems = []
    for verdict in verdicts:
        print(f"{verdict}\n{verdict.shown}", end="", flush=True)
        problems.append(verdict.problem)
    print(f"{problems.count('')} of {len(problems)} equal")
    return int(any(problems))
