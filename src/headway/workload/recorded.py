"""Repeats recorded requests at other times."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from headway.types import FloatColumn, IntColumn, PrefixRuns, Requests


def repeat(recorded: Requests, arrive_s: FloatColumn) -> Requests:
    """Return the recorded requests in their order at the given times, round after round.

    Every round has session ids and block ids of its own, so that no round finds another's prefixes in a cache.

    Args:
        recorded: at least one request.
        arrive_s: (n,) never falling.
    """
    laps, row = np.divmod(np.arange(len(arrive_s)), len(recorded))
    columns = {
        name: column[row]
        for name in ("isl_tokens", "osl_tokens", "adapter_id", "tenant_id", "class_id", "priority", "max_tokens")
        if (column := getattr(recorded, name)) is not None
    }
    if recorded.session_id is not None:
        columns["session_id"] = recorded.session_id[row] + laps * (int(recorded.session_id.max()) + 1)
    if recorded.abort_s is not None:
        columns["abort_s"] = (recorded.abort_s - recorded.arrive_s)[row] + arrive_s
    prefix = _repeated(recorded.prefix, laps, row) if recorded.prefix is not None else None
    return dataclasses.replace(recorded, arrive_s=arrive_s, prefix=prefix, **columns)


def _repeated(prefix: PrefixRuns, laps: IntColumn, row: IntColumn) -> PrefixRuns:
    """The runs of the chosen rows, with ids lifted above those of the rounds before."""
    counts = np.diff(prefix.offsets)[row]
    offsets = np.concatenate(([0], np.cumsum(counts)))
    run = np.arange(offsets[-1]) + np.repeat(prefix.offsets[row] - offsets[:-1], counts)
    ids = int((prefix.first_ids + prefix.counts).max(initial=0))
    return dataclasses.replace(
        prefix,
        offsets=offsets,
        first_ids=prefix.first_ids[run] + np.repeat(laps, counts) * ids,
        counts=prefix.counts[run],
    )
