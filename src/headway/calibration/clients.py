"""How many clients sent a kept run: `clients.json` beside its requests, which do not say so themselves."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from headway.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from headway.probe.nouns import Load

_FILE = "clients.json"


def write_clients(folder: Path, load: Load) -> None:
    """Write how a closed loop was sent; nothing for an open one."""
    if load.concurrency is not None:
        said = {"concurrency": load.concurrency, "turnaround_s": load.turnaround_s}
        (folder / _FILE).write_text(json.dumps(said) + "\n", encoding="utf-8")


def read_clients(folder: Path) -> tuple[int, float] | None:
    """Return the clients of a closed loop, and how long each takes from an end to its next; None where nobody says.

    Raises:
        InputError: the file says something else.
    """
    file = folder / _FILE
    if not file.is_file():
        return None
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
        clients, turnaround_s = said["concurrency"], float(said["turnaround_s"])
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError('expected {"concurrency": 4, "turnaround_s": 0.0}', file=file) from None
    if not (isinstance(clients, int) and clients >= 1 and turnaround_s >= 0):
        raise InputError("expected at least 1 client, and no time below zero", file=file)
    return clients, turnaround_s
