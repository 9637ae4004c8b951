"""Schedules as files: read one, write one, compare two, show where they part.

The format is that of the recordings the simulator is held to (docs/reference/schedules.md): JSON lines with the
settings, the requests, every step of the scheduler and what became of each request.

    fields     what each field must look like
    rows       the file, row by row, every field checked
    blocks     KV blocks numbered by content
    replicas   the settings as a `Replica`, and back
    reading    `read_schedule`: the file as requests and a replica
"""

from __future__ import annotations

from headway.simulator.schedules.reading import Schedule, read_schedule
from headway.simulator.schedules.rows import Row, Rows, read_rows

__all__ = ["Row", "Rows", "Schedule", "read_rows", "read_schedule"]
