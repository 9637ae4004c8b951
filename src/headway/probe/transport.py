"""Connections that note when each piece of an answer came, in the event loop, before anybody reads it."""

from __future__ import annotations

import contextvars
import functools
import resource
import ssl
from array import array
from contextlib import suppress
from time import perf_counter
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.client_proto import ResponseHandler

if TYPE_CHECKING:
    import asyncio

    from headway.probe.address import Address
    from headway.probe.keys import Key

#: Less than the 5 s after which llama-server and uvicorn close a connection nobody uses.
KEEPALIVE_S = 3.0
#: Files beside connections: the program's own, and those of its libraries.
_OTHER_FILES = 64


class Arrivals:
    """The pieces of one answer as they came, and when (`perf_counter`)."""

    __slots__ = ("pieces", "reused", "sent_s", "shaking", "times_s")

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.times_s = array("d")
        self.sent_s = float("nan")  # when the last of the request was written
        self.reused = False  # whether the connection had served before
        self.shaking = False  # whether the other side was reached, and its TLS handshake is not done


#: Of the request that a task is sending.
CURRENT: contextvars.ContextVar[Arrivals] = contextvars.ContextVar("arrivals")


class _Timed(ResponseHandler):
    """aiohttp's own protocol; what it has taken off the wire is put aside with the time it came."""

    arrivals: Arrivals | None = None

    def data_received(self, data: bytes) -> None:
        now_s = perf_counter()
        super().data_received(data)
        payload, arrivals = self._payload, self.arrivals
        # without data it is the payload itself that asks for more, in the middle of `read_nowait` below
        if data and payload is not None and arrivals is not None and payload.exception() is None:
            while piece := payload.read_nowait():
                arrivals.times_s.append(now_s)
                arrivals.pieces.append(piece)


class Resolved(AbstractResolver):
    """Knows the addresses that were checked, whatever the name stands for by now."""

    def __init__(self, address: Address) -> None:
        self._address = address

    async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[ResolveResult]:  # noqa: ARG002 - the protocol
        """Return the addresses that were checked."""
        return [
            ResolveResult(hostname=host, host=text, port=port, family=kind, proto=0, flags=0)
            for kind, text in self._address.resolved
        ]

    async def close(self) -> None:
        """Nothing is kept open."""


class _Connector(aiohttp.TCPConnector):
    def __init__(self, address: Address, loop: asyncio.AbstractEventLoop) -> None:
        tls = address.url.startswith("https:")
        super().__init__(
            limit=0,
            keepalive_timeout=KEEPALIVE_S,
            resolver=Resolved(address),
            ttl_dns_cache=None,
            use_dns_cache=True,
            ssl=ssl.create_default_context() if tls else False,
        )
        self._factory = functools.partial(_reached, loop, tls=tls)  # type: ignore[assignment] # it is one

    async def connect(self, *args: Any, **keywords: Any) -> Any:
        connection = await super().connect(*args, **keywords)
        timed: Any = connection.protocol
        arrivals = CURRENT.get()
        arrivals.shaking = False
        arrivals.reused = timed.arrivals is not None
        timed.arrivals = arrivals
        return connection


def _reached(loop: asyncio.AbstractEventLoop, *, tls: bool) -> _Timed:
    """Return a protocol: the event loop asks for one once the other side is reached, before any handshake."""
    CURRENT.get().shaking = tls
    return _Timed(loop=loop)


async def _written(_session: object, _context: object, _sent: object) -> None:
    CURRENT.get().sent_s = perf_counter()


def session(address: Address, key: Key | None, loop: asyncio.AbstractEventLoop) -> aiohttp.ClientSession:
    """Return a session without a limit of connections, that follows no proxy and keeps no cookies."""
    trace = aiohttp.TraceConfig()
    trace.on_request_chunk_sent.append(_written)
    headers = {"Content-Type": "application/json", "Accept": "text/event-stream", "Accept-Encoding": "identity"}
    return aiohttp.ClientSession(
        connector=_Connector(address, loop),
        headers=headers | ({"Authorization": key.authorization} if key else {}),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=30),
        cookie_jar=aiohttp.DummyCookieJar(),
        trace_configs=[trace],
        trust_env=False,
        auto_decompress=False,
    )


def allow_connections(most: int) -> int:
    """Raise the number of files the process may open, where that is allowed; return how many connections fit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = most + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return most if soft == resource.RLIM_INFINITY else max(soft - _OTHER_FILES, 1)
