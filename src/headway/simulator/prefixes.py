"""Block ids of requests, in the blocks of the engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from headway.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from headway.types import IntColumn, PrefixRuns

_LARGEST_KEY = 1 << 62

#: (stride, offsets, first_keys, counts): block j of a run has the key first + j · stride
EngineRuns = tuple[int, "IntColumn", "IntColumn", "IntColumn"]


def engine_runs(prefix: PrefixRuns, block_size: int) -> EngineRuns:
    """Translate ids of `block_tokens` tokens into keys of engine blocks of `block_size` tokens.

    One id that covers f engine blocks becomes f consecutive keys. Where f ids make one engine block, the block has
    the key of its last id, which stands for everything before it; ids that end within a block name nothing.
    Runs that continue each other become one.

    Raises:
        InputError: neither size is a multiple of the other, the columns disagree, or an id is negative or too large.
    """
    _check(prefix)
    if prefix.block_tokens % block_size == 0:
        scale, stride = prefix.block_tokens // block_size, 1
        first, count = prefix.first_ids, prefix.counts
        if scale > 1:
            first, count = first * scale, count * scale
        if len(first) and int(prefix.first_ids.max()) >= _LARGEST_KEY // scale:
            raise InputError("ids are too large to be split into engine blocks", file="requests", place="prefix")
    elif block_size % prefix.block_tokens == 0:
        stride = block_size // prefix.block_tokens
        first, count = _every(stride, prefix)
    else:
        raise InputError(
            f"block_tokens {prefix.block_tokens} and block_size {block_size}: one must be a multiple of the other",
            file="requests",
            place="prefix",
        )
    return _joined(stride, prefix.offsets, first, count)


def _check(prefix: PrefixRuns) -> None:
    first, count, offsets = prefix.first_ids, prefix.counts, prefix.offsets
    consistent = len(first) == len(count) and offsets[0] == 0 and offsets[-1] == len(first)
    if not consistent or (np.diff(offsets) < 0).any():
        raise InputError("offsets, first_ids and counts disagree", file="requests", place="prefix")
    if prefix.block_tokens < 1 or (first < 0).any() or (count < 0).any() or (first + count >= _LARGEST_KEY).any():
        raise InputError("ids and counts must be ≥ 0 and < 2^62", file="requests", place="prefix")


def _every(stride: int, prefix: PrefixRuns) -> tuple[IntColumn, IntColumn]:
    """Keep of each request's ids every `stride`-th, by run."""
    before = np.concatenate([[0], np.cumsum(prefix.counts)])
    start = before[:-1] - np.repeat(before[prefix.offsets[:-1]], np.diff(prefix.offsets))
    skipped = start // stride
    first = prefix.first_ids + (skipped + 1) * stride - 1 - start
    return first, (start + prefix.counts) // stride - skipped


def _joined(stride: int, offsets: IntColumn, first: IntColumn, count: IntColumn) -> EngineRuns:
    """Drop empty runs and join those that continue the one before, so that keys differ where runs end.

    Columns in which there is nothing to do are returned as they are.
    """
    kept = count > 0
    if not kept.all():
        offsets, first, count = _counted(kept)[offsets], first[kept], count[kept]
    begins = np.ones(len(first), bool)
    begins[1:] = first[1:] != first[:-1] + count[:-1] * stride
    begins[offsets[:-1][offsets[:-1] < len(first)]] = True
    if not begins.all():
        starts = np.flatnonzero(begins)
        offsets, first, count = _counted(begins)[offsets], first[starts], np.add.reduceat(count, starts)
    offsets, first, count = (
        np.require(column, np.int64, ["C", "W"]) for column in (offsets, first, count)
    )  # as C has it
    return stride, offsets, first, count


def _counted(kept: NDArray[np.bool_]) -> IntColumn:
    """Return how many are kept before each place, and in all."""
    return np.concatenate([[0], np.cumsum(kept)])
