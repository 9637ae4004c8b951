"""Prefixes as runs of block ids: coding lists of ids, expanding them, and what an infinite cache would find.

The convention is that of `types.PrefixRuns`: an id names a block and everything before it. Then an id always follows
the same id, the ids a cache has seen of a run that starts at `f` are the first few of it, and the longest seen part is
a running maximum per `f`: hits come from the runs alone, without expanding them to ids.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from headway.types import PrefixRuns

if TYPE_CHECKING:
    from headway.types import IntColumn

#: Ids and the sums of first id and count stay below this, so that they fit 64 bits with room to spare.
MAX_ID = 2**62


def offsets_of(lengths: IntColumn) -> IntColumn:
    """Return where each of the ragged rows starts, and the end: lengths (n,) → offsets (n + 1,)."""
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths, dtype=np.int64)])


def ragged_index(offsets: IntColumn, rows: IntColumn) -> tuple[IntColumn, IntColumn]:
    """Return where the elements of the given ragged rows stand, and the offsets of the rows so taken."""
    taken = offsets_of(np.diff(offsets)[rows])
    return np.repeat(offsets[:-1][rows] - taken[:-1], np.diff(taken)) + np.arange(taken[-1]), taken


def take_runs(prefix: PrefixRuns, rows: IntColumn) -> PrefixRuns:
    """Return the runs of the given requests, in the given order."""
    index, offsets = ragged_index(prefix.offsets, rows)
    return PrefixRuns(
        block_tokens=prefix.block_tokens,
        offsets=offsets,
        first_ids=prefix.first_ids[index],
        counts=prefix.counts[index],
    )


def encode_ids(ids: IntColumn, offsets: IntColumn, block_tokens: int) -> PrefixRuns:
    """Code lists of ids as the fewest runs.

    Args:
        ids: all ids, request after request.
        offsets: request i has `ids[offsets[i]:offsets[i + 1]]`; (n_requests + 1,).
        block_tokens: tokens of one block.
    """
    return _merge(ids, np.ones_like(ids), offsets, block_tokens)


def maximal_runs(prefix: PrefixRuns) -> PrefixRuns:
    """Join runs that continue each other within a request, so that each list of ids has one coding."""
    return _merge(prefix.first_ids, prefix.counts, prefix.offsets, prefix.block_tokens)


def _merge(first_ids: IntColumn, counts: IntColumn, offsets: IntColumn, block_tokens: int) -> PrefixRuns:
    starts = np.ones(len(first_ids), dtype=bool)
    starts[1:] = first_ids[1:] != first_ids[:-1] + counts[:-1]
    starts[offsets[:-1][np.diff(offsets) > 0]] = True
    index = np.flatnonzero(starts)
    return PrefixRuns(
        block_tokens=block_tokens,
        offsets=np.searchsorted(index, offsets).astype(np.int64),
        first_ids=first_ids[index],
        counts=np.add.reduceat(counts, index) if len(index) else counts[:0],
    )


def expand_ids(prefix: PrefixRuns) -> tuple[IntColumn, IntColumn]:
    """Return all ids, request after request, and the offsets of the requests in them."""
    bounds = offsets_of(prefix.counts)
    ids = np.repeat(prefix.first_ids - bounds[:-1], prefix.counts) + np.arange(bounds[-1])
    return ids, bounds[prefix.offsets]


def unchained_request(prefix: PrefixRuns) -> int | None:
    """Return a request with an id that follows another id elsewhere, or None where all ids are prefix-chained."""
    runs = maximal_runs(prefix)
    if not len(runs.first_ids):
        return None
    request = np.repeat(np.arange(len(runs.offsets) - 1), np.diff(runs.offsets))
    before = np.full(len(runs.first_ids), -1, dtype=np.int64)
    before[1:] = (runs.first_ids + runs.counts - 1)[:-1]
    before[runs.offsets[:-1][np.diff(runs.offsets) > 0]] = -1
    order = np.lexsort((np.arange(len(before)), runs.first_ids))
    first, end = runs.first_ids[order], (runs.first_ids + runs.counts)[order]
    same = first[1:] == first[:-1]
    other_parent = same & (before[order][1:] != before[order][:-1])
    inside_another = ~same & (first[1:] < np.maximum.accumulate(end)[:-1])
    bad = np.flatnonzero(other_parent | inside_another)
    return int(request[order][bad[0] + 1]) if len(bad) else None


def hit_tokens(prefix: PrefixRuns, isl_tokens: IntColumn) -> IntColumn:
    """Return how many prompt tokens of each request an infinite prefix cache would hold when it arrives.

    The cache has every block of every earlier request (of equal times: earlier in the columns), its output's blocks
    included where they have ids. The ids must be prefix-chained (`unchained_request`).
    """
    runs = maximal_runs(prefix)
    request = np.repeat(np.arange(len(isl_tokens)), np.diff(runs.offsets))
    found = np.minimum(runs.counts, _longest_before(runs.first_ids, runs.counts))
    blocks = np.bincount(request, weights=found, minlength=len(isl_tokens)).astype(np.int64)
    return np.minimum(blocks * prefix.block_tokens, isl_tokens)


def _longest_before(keys: IntColumn, values: IntColumn) -> IntColumn:
    """Return, for each place, the largest value of an earlier place with the same key; 0 where there is none."""
    order = np.argsort(keys, kind="stable")
    _, group = np.unique(keys[order], return_inverse=True)
    # one running maximum over all groups: each group's values are lifted above those of the groups before it
    lift = group.astype(np.int64) * (int(values.max(initial=0)) + 1)
    running = np.maximum.accumulate(values[order] + lift) - lift
    before = np.zeros_like(values)
    before[1:] = np.where(group[1:] == group[:-1], running[:-1], 0)
    longest = np.empty_like(values)
    longest[order] = before
    return longest
