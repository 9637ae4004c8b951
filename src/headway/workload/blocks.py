"""Block ids of synthesised prompts: a shared system prompt first, then what belongs to one session.

An id stands for its block and everything before it. Only full blocks get one: the block in which a turn's output ends
is filled up by the next turn's words, so the next turn names it; and where a system prompt ends inside a block, that
block holds the session's own words too and is the session's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from headway.types import PrefixRuns

if TYPE_CHECKING:
    from headway.types import IntColumn
    from headway.workload.spec import SystemPrompt

#: Tokens per block of a synthesised prefix: vLLM's default `block_size`.
BLOCK_TOKENS = 16


def system_blocks(prompts: tuple[SystemPrompt, ...], which: IntColumn, isl_tokens: IntColumn) -> IntColumn:
    """Return how many blocks each prompt has of its system prompt; a shorter prompt has what fits into it.

    Args:
        prompts: the system prompts.
        which: (n,) the index of each request's, −1 for none.
        isl_tokens: (n,) lengths of the prompts.
    """
    sizes = np.array([*(prompt.prompt_tokens for prompt in prompts), 0])  # −1 finds the 0
    return np.asarray(np.minimum(sizes[which], isl_tokens) // BLOCK_TOKENS, np.int64)


def system_ids(prompts: tuple[SystemPrompt, ...], which: IntColumn) -> IntColumn:
    """Return the first block id of each request's system prompt (any id where it has none)."""
    return np.concatenate(([0], _ends(prompts)))[which]


def system_room(prompts: tuple[SystemPrompt, ...]) -> int:
    """Return the first id that no system prompt uses."""
    return int(_ends(prompts)[-1]) if prompts else 0


def _ends(prompts: tuple[SystemPrompt, ...]) -> IntColumn:
    return np.cumsum([prompt.prompt_tokens // BLOCK_TOKENS for prompt in prompts], dtype=np.int64)


def prefix_runs(*runs: tuple[IntColumn, IntColumn]) -> PrefixRuns:
    """Join the runs of each request, given as columns of first ids and counts; runs of no block are left out."""
    firsts, counts = (np.column_stack(columns) for columns in zip(*runs, strict=True))
    kept = counts > 0
    offsets = np.concatenate(([0], np.cumsum(kept.sum(axis=1))))
    return PrefixRuns(block_tokens=BLOCK_TOKENS, offsets=offsets, first_ids=firsts[kept], counts=counts[kept])
