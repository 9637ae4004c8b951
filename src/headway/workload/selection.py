"""Some of the requests, all their columns."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING

from headway.workload.prefixes import take_runs

if TYPE_CHECKING:
    from headway.types import IntColumn, Requests


def take(requests: Requests, rows: IntColumn) -> Requests:
    """Return some of the requests, in the order of `rows`."""
    given = {field.name: getattr(requests, field.name) for field in fields(requests) if field.name != "prefix"}
    columns = {name: column[rows] for name, column in given.items() if column is not None}
    return replace(requests, **columns, prefix=requests.prefix and take_runs(requests.prefix, rows))
