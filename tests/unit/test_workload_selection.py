"""Some of the requests: every column goes along."""

from __future__ import annotations

from dataclasses import fields

import numpy as np

from headway.types import PrefixRuns, Requests
from headway.workload import take
from headway.workload.prefixes import expand_ids


def test_every_column_goes_along() -> None:
    names = [field.name for field in fields(Requests) if field.name != "prefix"]
    columns = {name: np.arange(4) + 10 * place for place, name in enumerate(names)}
    prefix = PrefixRuns(
        block_tokens=4,
        offsets=np.array([0, 2, 2, 3, 4]),
        first_ids=np.array([1, 9, 5, 7]),
        counts=np.array([1, 2, 2, 1]),
    )
    rows = np.array([3, 0])
    some = take(Requests(**columns, prefix=prefix), rows)
    for name in names:
        assert getattr(some, name).tolist() == columns[name][rows].tolist()
    assert some.prefix is not None
    ids, offsets = expand_ids(some.prefix)
    assert (ids.tolist(), offsets.tolist()) == ([7, 1, 9, 10], [0, 1, 4])


def test_what_is_not_there_stays_away() -> None:
    requests = Requests(arrive_s=np.zeros(3), isl_tokens=np.array([1, 2, 3]), osl_tokens=np.ones(3, int))
    some = take(requests, np.array([2]))
    assert (some.isl_tokens.tolist(), some.prefix, some.abort_s) == ([3], None, None)
