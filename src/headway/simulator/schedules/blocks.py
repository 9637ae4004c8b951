"""Numbers the KV blocks of requests: one number per distinct content, with everything before it."""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np

from headway.types import PrefixRuns

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping

#: The stream of the stop token, the same for every request; no prompt can name it, as no request's id is empty.
_STOP = "o:"

_Pieces = list[tuple[str, int, int]]  # stream, start, number of tokens; no two neighbours continue each other


def number_blocks(
    rows: Iterable[Mapping[str, Any]], *, block_size: int, lookahead_tokens: int, max_model_len: int, stops: bool
) -> PrefixRuns:
    """Give each distinct block an id, consecutive along a request where it is new.

    A block's key is the block before it, its tokens and the `lookahead_tokens` after them, the adapter, and on the
    first block the salt. Outputs count as tokens: `stops` says that each request's last one is the stop token.

    Args:
        rows: of requests, in the order of `Requests`.
        block_size: tokens of a block.
        lookahead_tokens: tokens after a block that its key covers.
        max_model_len: no request grows longer.
        stops: whether a stop token ends each request.
    """
    numbers: dict[Hashable, int] = {}
    offsets, first, counts = [0], list[int](), list[int]()
    for row in rows:
        pieces = _tokens(row, max_model_len, stops=stops)
        adapter = row.get("lora", 0)
        parent: Hashable = (row.get("salt"),)
        for content in _blocks(pieces, block_size, lookahead_tokens):
            number = numbers.setdefault((parent, content, adapter), len(numbers))
            if len(counts) > offsets[-1] and first[-1] + counts[-1] == number:
                counts[-1] += 1
            else:
                first.append(number)
                counts.append(1)
            parent = number
        offsets.append(len(first))
    return PrefixRuns(
        block_tokens=block_size,
        offsets=np.array(offsets, np.int64),
        first_ids=np.array(first, np.int64),
        counts=np.array(counts, np.int64),
    )


def _tokens(row: Mapping[str, Any], max_model_len: int, *, stops: bool) -> _Pieces:
    """Prompt and outputs, those that continue each other joined."""
    outputs = min(row["out"], max_model_len - row["plen"])
    stopped = stops and outputs == row["out"]
    own = (f"o:{row['id']}", 0, outputs - stopped)
    joined: _Pieces = []
    for stream, start, count in (*row["prompt"], own, (_STOP, 0, int(stopped))):
        if joined and count and joined[-1][0] == stream and joined[-1][1] + joined[-1][2] == start:
            joined[-1] = (stream, joined[-1][1], joined[-1][2] + count)
        elif count:
            joined.append((stream, start, count))
    return joined


def _blocks(pieces: _Pieces, block_size: int, lookahead_tokens: int) -> Iterable[tuple[Hashable, ...]]:
    """The tokens of each full block, with those after it that its key covers, as pieces."""
    ends = list(accumulate(count for _, _, count in pieces))
    length = block_size + lookahead_tokens
    for begin in range(0, ends[-1] - length + 1, block_size):
        at, left, content = bisect_right(ends, begin), length, []
        skipped = begin - (ends[at - 1] if at else 0)
        while left:
            stream, start, count = pieces[at]
            taken = min(left, count - skipped)
            content.append((stream, start + skipped, taken))
            at, left, skipped = at + 1, left - taken, 0
        yield tuple(content)
