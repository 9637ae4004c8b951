"""Sends a load to an OpenAI-compatible server and times every chunk that comes back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from headway.probe.limits import Limits

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from headway.probe.bodies import Bodies
    from headway.probe.keys import Key
    from headway.probe.nouns import Endpoint, Load, Scrape, Sent


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a run is; told about twice a second."""

    time_s: float
    of: int
    sent: int
    ended: int
    failed: int  # of those that ended

    @property
    def in_flight(self) -> int:
        """Requests under way."""
        return self.sent - self.ended


class Scraping(Protocol):
    """Somebody who looks at the server meanwhile, in the event loop of the client.

    `now_s()` is the time of the run, 0 at its start; once `ended` is set, return what was seen. Take pages as they
    come and read them after the end: whatever takes long in the loop makes the client late.
    """

    async def __call__(self, now_s: Callable[[], float], ended: asyncio.Event) -> Scrape | None:
        """Look until it ended; None: there was nothing to see."""


def send(
    load: Load,
    endpoint: Endpoint,
    bodies: Bodies,
    limits: Limits | None = None,
    *,
    key: Key | None = None,
    scrape: Scraping | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Sent:
    """Send a load and time every chunk of every answer.

    Args:
        load: what to send, and when.
        endpoint: whom to send it to.
        bodies: of its requests.
        limits: budgets, patience, and whether public addresses are allowed; None: the defaults.
        key: sent as a bearer token.
        scrape: looks at the server's metrics meanwhile.
        progress: told how far it is.

    Raises:
        InputError: an address that is not allowed or has no name; a load that cannot be sent.
    """
    raise NotImplementedError
