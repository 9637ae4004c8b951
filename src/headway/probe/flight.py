"""One request under way: sent, sent again where the server asks for it, and hung up when something says so."""

from __future__ import annotations

import asyncio
import math
import time
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

import aiohttp

from headway.probe.faults import code_of, code_of_status, message_of
from headway.probe.reading import Reading, decoded, said
from headway.probe.transport import CURRENT, Arrivals

if TYPE_CHECKING:
    from collections.abc import Iterator

    from headway.probe.limits import Limits


class Flight:
    """A request and what came of it; all times are `perf_counter`.

    `code` is why it was not answered in full, as far as the connection tells; `landed` is set to the time it ended.
    """

    def __init__(self, row: int) -> None:
        self.row = row
        self.due_s = self.sent_s = self.end_s = math.nan
        self.code = self.message = ""
        self.retried = 0  # because it was told to come again
        self.resent = 0  # because a connection used before broke before any answer
        self.again_s = -math.inf  # when the server told it to come again
        self.arrivals = Arrivals()
        self.reading = Reading()
        self.landed: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._task: asyncio.Task[object] | None = None

    @contextmanager
    def hanging_up(self) -> Iterator[None]:
        """While this lasts `hang_up` ends what the task does, and the task goes on behind it."""
        self._task = asyncio.current_task()
        try:
            yield
        except asyncio.CancelledError:
            if not self.code or self._task is None:
                raise
            self._task.uncancel()
        finally:
            self._task = None

    def hang_up(self, code: str) -> None:
        """End it now, if it has not ended; patience that ends in the middle of a TLS handshake is a fault of TLS."""
        if self._task is not None and not self.code:
            if code in ("stalled", "timeout") and self.arrivals.shaking:
                code, self.message = "tls", "Nobody answered the TLS handshake."
            self.code = code
            self._task.cancel()

    async def exchange(self, session: aiohttp.ClientSession, url: str, body: bytes, limits: Limits) -> None:
        """Send it and wait for the end of the answer, or of patience; never raises what the network does."""
        loop = asyncio.get_running_loop()
        timer = loop.call_later(limits.request_timeout_s, self.hang_up, "timeout")
        stall = asyncio.ensure_future(self._stalls(limits.stall_timeout_s))
        try:
            while not await self._once(session, url, body, limits):
                pass
        except (aiohttp.ClientError, OSError, ValueError) as error:  # ValueError: an answer that is no HTTP
            self.code = code_of(error, answered=bool(self.arrivals.times_s), shaking=self.arrivals.shaking)
            self.message = message_of(error)
        finally:
            timer.cancel()
            stall.cancel()

    async def _once(self, session: aiohttp.ClientSession, url: str, body: bytes, limits: Limits) -> bool:
        """Send it once; whether that was the last time."""
        arrivals = self.arrivals = Arrivals()
        CURRENT.set(arrivals)
        try:
            async with session.post(url, data=body, allow_redirects=False) as response:
                content = response.content
                if (error := content.exception()) is not None:
                    raise error
                await content.wait_eof()
                if response.status == 200:
                    return True
                wait_s = retry_after_s(response.headers.get("Retry-After", ""))
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
            # servers close connections that idle: what breaks before any answer on a used one is sent on another
            if arrivals.reused and not arrivals.times_s:
                self.resent += 1
                return False
            raise
        finally:
            if math.isnan(self.sent_s):
                self.sent_s = arrivals.sent_s
        if response.status in (429, 503) and wait_s is not None and self.retried < limits.retries:
            self.retried += 1
            self.again_s = time.perf_counter() + wait_s
            await asyncio.sleep(wait_s)
            return False
        self.code, self.message = code_of_status(response.status), said(decoded(b"".join(arrivals.pieces)))
        return True

    async def _stalls(self, patience_s: float) -> None:
        """Hang up once nothing came for so long; waiting as told is not counted."""
        last_s = time.perf_counter()
        while (wait_s := last_s + patience_s - time.perf_counter()) > 0:
            await asyncio.sleep(wait_s)
            last_s = max(self.again_s, self.arrivals.times_s[-1] if self.arrivals.times_s else last_s)
        self.hang_up("stalled")

    def land(self) -> None:
        """Note that it ended: with the last that came, or now if nothing did."""
        times_s = self.arrivals.times_s
        self.end_s = times_s[-1] if times_s and not self.code else time.perf_counter()
        if not self.landed.done():  # a stopped run cancels the clients that wait for it, and it with them
            self.landed.set_result(self.end_s)


def retry_after_s(header: str) -> float | None:
    """Return how long a Retry-After says to wait (RFC 9110, section 10.2.3); None: it does not say."""
    told = header.strip()
    if told.isascii() and told.isdigit():
        return float(told)
    try:
        return max(0.0, parsedate_to_datetime(told).timestamp() - time.time())
    except (TypeError, ValueError, OverflowError):
        return None
