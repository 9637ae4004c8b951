"""What prompts consist of, as numbers below the size of a vocabulary: equal ids, equal numbers; else none in common.

An id stands for its block and everything before it (`types.PrefixRuns`). The first number of a block tells it from
every other block (and every unnamed rest of a prompt) that follows the same one, its second helps where there are more
of them than numbers; the others are drawn by a hash of the id. So two prompts have exactly the blocks in common whose
ids they have in common, whether a server looks for blocks or for tokens.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from headway.workload.prefixes import expand_ids, maximal_runs, take_runs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from headway.types import IntColumn, PrefixRuns, Requests

#: Of the blocks that nothing comes before.
_ROOT = -1


class Contents:
    """The contents of all prompts of a load; nothing is kept of those that were made."""

    def __init__(self, requests: Requests, size: int, seed: Sequence[int]) -> None:
        """Look at who follows whom.

        Args:
            requests: `isl_tokens` and `prefix` are used; ids must be prefix-chained.
            size: of the vocabulary.
            seed: what everything is drawn by.
        """
        self._isl, self._size = requests.isl_tokens, size
        self._key = np.random.SeedSequence(list(seed)).generate_state(3, np.uint64)
        self._prefix = _in_prompts(requests)
        self._runs, self._rests = _ranks(self._prefix, len(requests))

    def numbers(self, row: int) -> IntColumn:
        """Return the (isl_tokens,) numbers of a prompt, as if nothing earlier had been answered."""
        isl, block = int(self._isl[row]), self._prefix.block_tokens
        ids, ranks = self._blocks(row)
        named = min(isl, len(ids) * block)
        at = np.arange(isl)
        owner = np.full(isl, row, np.int64)
        owner[:named] = ids[at[:named] // block]
        inside = np.where(at < named, at % block, at - named)
        drawn = self._hash(owner, inside, np.where(at < named, 0, 1))
        parents = np.concatenate(([_ROOT], ids))
        starts = np.arange(0, named, block)
        tails = [named] if named < isl else []
        first = np.concatenate((starts, tails)).astype(np.int64)
        parent = parents[: len(first)]
        rank = np.concatenate((ranks[: len(starts)], [self._rests[row]] * len(tails))).astype(np.int64)
        second = (first + 1 < isl) & ((first >= named) | (block > 1))
        shift = self._hash(parent, np.zeros_like(parent), np.full_like(parent, 2))
        drawn[first] = (shift + rank) % self._size
        drawn[first[second] + 1] = (shift[second] + rank[second] // self._size) % self._size
        return drawn

    def common_blocks(self, row: int, other: int, all_ids: PrefixRuns) -> int:
        """Return how many leading ids two requests have in common, those of outputs included."""
        one, two = (expand_ids(take_runs(all_ids, np.array([each])))[0] for each in (row, other))
        most = min(len(one), len(two))
        differ = np.flatnonzero(one[:most] != two[:most])
        return int(differ[0]) if len(differ) else most

    def _blocks(self, row: int) -> tuple[IntColumn, IntColumn]:
        """Return the ids of a prompt's blocks and their ranks among those with the same block before them."""
        low, high = self._prefix.offsets[row : row + 2]
        counts = self._prefix.counts[low:high]
        ids = expand_ids(take_runs(self._prefix, np.array([row])))[0]
        ranks = np.zeros(len(ids), np.int64)
        ranks[np.cumsum(counts) - counts] = self._runs[low:high]
        return ids, ranks

    def _hash(self, *columns: IntColumn) -> IntColumn:
        """Draw numbers by columns of numbers (the finaliser of SplitMix64: Steele, Lea and Flood 2014)."""
        mixed = np.full(columns[0].shape, self._key[0])
        for column in columns:
            mixed = (mixed ^ column.astype(np.uint64)) + np.uint64(0x9E3779B97F4A7C15)
            mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            mixed = mixed ^ (mixed >> np.uint64(31))
        return (mixed % np.uint64(self._size)).astype(np.int64)


def spliced(prompt: IntColumn, earlier: Mapping[int, tuple[int, int, Sequence[int]]]) -> IntColumn:
    """Put what was answered where a prompt repeats it.

    Args:
        prompt: the tokens of a prompt.
        earlier: earlier turn -> the length of its prompt, the tokens both begin with, and the tokens of its answer.
    """
    spliced_in = prompt.copy()
    for start, shared, answer in earlier.values():
        end = min(shared, start + len(answer), len(prompt))
        if end > start:
            spliced_in[start:end] = answer[: end - start]
    return spliced_in


def _in_prompts(requests: Requests) -> PrefixRuns:
    """Return the ids of the prompts alone, in the fewest runs."""
    from headway.types import PrefixRuns

    if requests.prefix is None:
        none = np.zeros(0, np.int64)
        return PrefixRuns(block_tokens=1, offsets=np.zeros(len(requests) + 1, np.int64), first_ids=none, counts=none)
    runs = maximal_runs(requests.prefix)
    row = np.repeat(np.arange(len(requests)), np.diff(runs.offsets))
    before = np.cumsum(runs.counts) - runs.counts
    starts = before - np.concatenate((before, [runs.counts.sum()]))[runs.offsets[:-1]][row]
    blocks = -(-requests.isl_tokens // runs.block_tokens)
    counts = np.clip(blocks[row] - starts, 0, runs.counts)
    kept = counts > 0
    offsets = np.concatenate(([0], np.cumsum(np.bincount(row[kept], minlength=len(requests)))))
    return replace(runs, offsets=offsets, first_ids=runs.first_ids[kept], counts=counts[kept])


def _ranks(prefix: PrefixRuns, rows: int) -> tuple[IntColumn, IntColumn]:
    """Number what follows the same block, runs and rests of rows, from 1 (0: the block whose id is the next)."""
    row = np.repeat(np.arange(rows), np.diff(prefix.offsets))
    last = prefix.first_ids + prefix.counts - 1
    before = np.full(len(last), _ROOT)
    before[1:] = np.where(row[1:] == row[:-1], last[:-1], _ROOT)
    ends = np.full(rows, _ROOT)
    ends[row] = last  # of several runs of a row the last is written last
    parents = np.concatenate((before, ends))
    children = np.concatenate((prefix.first_ids, -1 - np.arange(rows)))
    pairs, which = np.unique(np.stack((parents, children)), axis=1, return_inverse=True)
    starts = np.concatenate(([True], pairs[0, 1:] != pairs[0, :-1])) if pairs.size else np.zeros(0, bool)
    index = np.arange(pairs.shape[1])
    rank = 1 + index - np.maximum.accumulate(np.where(starts, index, 0))
    ranks = rank[which.ravel()].astype(np.int64)
    return ranks[: len(last)], ranks[len(last) :]
