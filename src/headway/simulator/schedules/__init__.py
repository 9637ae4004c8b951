"""Schedules as files: read one, write one, compare two, show where they part.

The format is that of the recordings the simulator is held to (docs/reference/schedules.md): JSON lines with the
settings, the requests, every step of the scheduler and what became of each request.

    fields     what each field must look like
    rows       the file, row by row, every field checked
    blocks     KV blocks numbered by content
    replicas   the settings as a `Replica`, and back
    reading    `read_schedule`: the file as requests and a replica
    prompts    `schedule_of`: requests and a replica of our own as a schedule
    writing    `write_schedule`: a `Record` as a file
    comparing  `differences`, field by field
    features   what a schedule makes use of, in a few words
    showing    `side_by_side`: the first of them as text
"""

from __future__ import annotations

from headway.simulator.schedules.comparing import Difference, differences
from headway.simulator.schedules.features import features
from headway.simulator.schedules.prompts import schedule_of
from headway.simulator.schedules.reading import Schedule, read_schedule
from headway.simulator.schedules.rows import Row, Rows, read_rows, unread
from headway.simulator.schedules.showing import side_by_side
from headway.simulator.schedules.writing import write_rows, write_schedule, written

__all__ = [
    "Difference",
    "Row",
    "Rows",
    "Schedule",
    "differences",
    "features",
    "read_rows",
    "read_schedule",
    "schedule_of",
    "side_by_side",
    "unread",
    "write_rows",
    "write_schedule",
    "written",
]
