"""What prompts consist of: told from the tokens themselves, so that shared beginnings are found whoever made them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

Pieces = list[tuple[str, int, int]]  # stream, start, number of tokens


def common(one: Sequence[object], other: Sequence[object]) -> int:
    """Count the tokens with which both begin."""
    shorter = min(len(one), len(other))
    return next((at for at in range(shorter) if one[at] != other[at]), shorter)


def cut(pieces: Pieces, length: int) -> Pieces:
    """Return the first `length` tokens of a text."""
    kept: Pieces = []
    for stream, start, count in pieces:
        if length <= 0:
            break
        kept.append((stream, start, min(count, length)))
        length -= count
    return kept


def told_apart(
    names: Sequence[str], prompts: Sequence[Sequence[int]], outputs: Sequence[Sequence[int]]
) -> list[Pieces]:
    """Say of each prompt, in order of arrival, which of its tokens began an earlier text, and which are its own.

    A text is a prompt and its outputs (stream `o:NAME`). The longest common beginning with an earlier one counts.
    Because outputs are streams of their own, two outputs that began alike could not be told: that is refused.

    Raises:
        ValueError: outputs of two requests with the same text before them begin with the same token.
    """
    texts: list[tuple[list[int], Pieces]] = []
    found: list[Pieces] = []
    for name, prompt, output in zip(names, prompts, outputs, strict=True):
        length, pieces = max(
            ((common(prompt, text), whole) for text, whole in texts), key=lambda each: each[0], default=(0, [])
        )
        own: Pieces = [(f"p:{name}", length, len(prompt) - length)] if length < len(prompt) else []
        found.append(cut(pieces, length) + own)
        text = [*prompt, *output]
        if any(common(text, other) > len(prompt) for other, _ in texts):
            raise ValueError(f"the output of {name} begins like an earlier text: let the model be more random")
        texts.append((text, found[-1] + ([(f"o:{name}", 0, len(output))] if output else [])))
    return found
