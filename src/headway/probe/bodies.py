"""What a client asks of whoever makes the prompts, and what it tells them of earlier turns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(slots=True, kw_only=True)
class Answer:
    """What an earlier turn of the same session was answered.

    All later turns are given the same object: whoever makes their bodies asks the server once and notes it here.

    Attributes:
        text: of the answer.
        token_ids: of the text; None: neither told nor asked for yet.
        until_tokens: of the conversation up to this answer and of an empty message behind it, as a chat template writes
            them; None: not counted yet.
    """

    text: str
    token_ids: tuple[int, ...] | None = None
    until_tokens: int | None = None


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

        Called once for each row that is sent: ahead of time, from the thread that sends; where there are answers, as
        soon as the last of them has come and from a thread of its own, so that it may ask the server.

        Args:
            row: of `Load.requests`.
            answers: by row, what the earlier turns of its session were answered; empty for a first turn.

        Raises:
            InputError: it cannot be made: the server does not answer what must be asked. It costs this request alone.
        """
