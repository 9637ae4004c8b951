"""What every driver of a peer shares: the workload file, the CPU clock, the answer. Standard library only."""

from __future__ import annotations

import json
import resource
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


def workload() -> dict[str, Any]:
    """The workload named on the command line: engine, replicas, step_ns, arrive_ns, isl_tokens, osl_tokens."""
    return dict(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))


def cpu_s() -> float:
    """User and system seconds of this process, its threads and its ended children."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


@contextmanager
def metered(answer: dict[str, Any]) -> Iterator[None]:
    """Put what the process used until here in `setup_cpu_s`, and what the body uses in `cpu_s` and `wall_s`."""
    answer["setup_cpu_s"] = begun = cpu_s()
    wall = time.perf_counter()
    yield
    answer["wall_s"] = time.perf_counter() - wall
    answer["cpu_s"] = cpu_s() - begun


def say(answer: dict[str, Any]) -> None:
    """Print the answer as the last line of standard output."""
    sys.stdout.write("\n" + json.dumps(answer) + "\n")
