"""What a client asks of whoever makes the prompts, and what it tells them of earlier turns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What an earlier turn of the same session was answered."""

    text: str
    token_ids: tuple[int, ...] = ()  # where the server told them


class Bodies(Protocol):
    """The bodies of the requests of one load."""

    @property
    def path(self) -> str:
        """Return the route they are for: `/v1/completions` or `/v1/chat/completions`."""

    @property
    def forced(self) -> bool:
        """Whether they tell the server to go on for exactly `osl_tokens`, whatever stop token it meets."""

    def body(self, row: int, answers: Mapping[int, Answer]) -> bytes:
        """Return the JSON body of a row of the load.

        Called once for each row that is sent, from the thread that sends, shortly before the row is due; ahead of
        time where it is no later turn of a session.

        Args:
            row: of `Load.requests`.
            answers: by row, what the earlier turns of its session were answered; empty for a first turn.
        """
