"""How much may be sent, for how long, and how patient the client is."""

from __future__ import annotations

import math
from dataclasses import dataclass

from headway.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The bounds of a run: it ends by itself, whatever the server does.

    Attributes:
        requests: at most so many are sent; the rest stay `not-sent`.
        duration_s: after so long nothing more is sent and what is in flight is hung up as `interrupted`.
        request_timeout_s: a request that takes longer, from when it is written, is hung up as `timeout`.
        stall_timeout_s: so is one whose server sends no byte for so long, as `stalled`.
        retries: how often a request answered with 429 or 503 and a Retry-After is sent again, after the time told.
        allow_public: whether addresses may be sent to that are neither loopback nor private.
    """

    requests: int = 100_000
    duration_s: float = 3600.0
    request_timeout_s: float = 600.0
    stall_timeout_s: float = 120.0
    retries: int = 3
    allow_public: bool = False

    def __post_init__(self) -> None:
        if self.requests < 1:
            raise InputError(f"expected at least 1, got {self.requests}", place="requests")
        if self.retries < 0:
            raise InputError(f"expected at least 0, got {self.retries}", place="retries")
        for name in ("duration_s", "request_timeout_s", "stall_timeout_s"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise InputError(f"expected a time above 0, got {value}", place=name)
