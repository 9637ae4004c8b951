"""A proxy on loopback before a real server, that misbehaves as told: one fault per request, by its number.

Only requests for completions are numbered, in the order they come; other routes have one fault for all. A fault is a
coroutine of an `Exchange`: it says what the client gets in place of, or of, the server's true answer.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from typing import Any

import aiohttp

STREAM = {"Content-Type": "text/event-stream"}
#: One thing a client can hang in: longer than any time limit of a test, and ended with the proxy.
FOR_EVER_S = 3600.0
#: How a client begins that speaks TLS; uvicorn, and so vLLM, answers it in plain words.
TLS_HANDSHAKE = b"\x16"


class HungUpError(Exception):
    """The fault ended the connection; nothing more is said on it."""


@dataclass(slots=True)
class Exchange:
    """One request, and what is said to the client."""

    target: str  # the real server's URL of the route
    headers: dict[str, str]
    body: dict[str, Any]
    session: aiohttp.ClientSession
    writer: asyncio.StreamWriter

    async def events(self) -> AsyncIterator[bytes]:
        """The real server's answer, one whole server-sent event after the other, its blank line included."""
        async with self.session.post(self.target, json=self.body, headers=self.headers) as answer:
            event = b""
            async for line in answer.content:
                event += line
                if event.endswith(b"\n\n"):
                    yield event
                    event = b""

    async def whole(self) -> bytes:
        return b"".join([event async for event in self.events()])

    async def head(self, status: int = 200, headers: Mapping[str, str] = STREAM, *, chunked: bool = True) -> None:
        lines = [f"HTTP/1.1 {status} Whatever", *(f"{name}: {value}" for name, value in headers.items())]
        lines += ["Transfer-Encoding: chunked"] * chunked
        await self.raw(("\r\n".join(lines) + "\r\n\r\n").encode())

    async def send(self, data: bytes) -> None:
        await self.raw(b"%x\r\n%s\r\n" % (len(data), data))

    async def raw(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def end(self) -> None:
        await self.raw(b"0\r\n\r\n")

    def hang_up(self, *, reset: bool = False) -> None:
        """End the connection: as one does who has said all, or with a reset (RST) that tears it."""
        if reset:
            held: socket.socket = self.writer.get_extra_info("socket")
            held.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.writer.transport.abort()
        raise HungUpError


Fault = Callable[[Exchange], Awaitable[None]]


# --- no faults, though a careless client stumbles over some ------------------------------------------------


async def passed(exchange: Exchange) -> None:
    await rewritten(lambda event: event)(exchange)


async def told(exchange: Exchange) -> None:
    """What the real server answers to a question beside the API."""
    asked = ("POST", {"json": exchange.body}) if exchange.body else ("GET", {})
    async with exchange.session.request(asked[0], exchange.target, headers=exchange.headers, **asked[1]) as answer:
        await exchange.head(answer.status, {"Content-Type": answer.headers.get("Content-Type", "")})
        if said := await answer.read():
            await exchange.send(said)
        await exchange.end()


def rewritten(change: Callable[[bytes], bytes]) -> Fault:
    """Each event of the server changed."""

    async def fault(exchange: Exchange) -> None:
        await exchange.head()
        async for event in exchange.events():
            if changed := change(event):
                await exchange.send(changed)
        await exchange.end()

    return fault


def in_pieces(size_bytes: int, pause_s: float = 0.0) -> Fault:
    """The stream cut at every so many bytes, wherever that is."""

    async def fault(exchange: Exchange) -> None:
        await exchange.head()
        async for event in exchange.events():
            for start in range(0, len(event), size_bytes):
                await exchange.send(event[start : start + size_bytes])
                await asyncio.sleep(pause_s)
        await exchange.end()

    return fault


async def at_once(exchange: Exchange) -> None:
    """All events in one piece, in the end."""
    await exchange.head()
    await exchange.send(await exchange.whole())
    await exchange.end()


async def gzipped(exchange: Exchange) -> None:
    await exchange.head(headers=STREAM | {"Content-Encoding": "gzip"})
    await exchange.send(gzip.compress(await exchange.whole()))
    await exchange.end()


async def closed_after(exchange: Exchange) -> None:
    """A whole answer, after which the connection is closed though the client may want to use it again."""
    await passed(exchange)
    exchange.hang_up()


def asking(**changes: Any) -> Fault:
    """The server is asked for something else than the client wanted; its answer passes."""

    async def fault(exchange: Exchange) -> None:
        exchange.body |= {name: change(exchange.body[name]) for name, change in changes.items()}
        await passed(exchange)

    return fault


# --- what fails -------------------------------------------------------------------------------------------


def status(code: int, **headers: str) -> Fault:
    """An error as OpenAI's API words it; `Retry_After="1"` becomes a header."""

    async def fault(exchange: Exchange) -> None:
        said = json.dumps({"error": {"message": f"told to say {code}", "type": "server_error", "code": code}}).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        length = {"Content-Type": "application/json", "Content-Length": str(len(said))}
        await exchange.head(code, named | length, chunked=False)
        await exchange.raw(said)

    return fault


def without_stream(said: bytes, *, code: int = 200) -> Fault:
    """All that is said, in place of a stream; `%s` in it is the key that was sent."""

    async def fault(exchange: Exchange) -> None:
        full = said.replace(b"%s", exchange.headers.get("Authorization", "").encode())
        await exchange.head(code, {"Content-Length": str(len(full))}, chunked=False)
        await exchange.raw(full)

    return fault


#: A refusal that repeats the key it refuses, as some servers' do.
quoting_the_key = without_stream(b'{"error": {"message": "Incorrect API key: %s"}}', code=401)


async def later(exchange: Exchange) -> None:
    """Too much to do until a date, which is between one and two seconds from now."""
    until = formatdate(time.time() + 2, usegmt=True)
    await status(503, Retry_After=until)(exchange)


def cut(after: int, *, reset: bool = False, politely: bool = False) -> Fault:
    """The stream ends after so many events: torn, closed, or politely, as if it were whole."""

    async def fault(exchange: Exchange) -> None:
        await exchange.head()
        await _first(exchange, after)
        if politely:
            await exchange.end()
        else:
            exchange.hang_up(reset=reset)

    return fault


def then(after: int, *said: bytes) -> Fault:
    """After so many events something else, and no more of the server."""

    async def fault(exchange: Exchange) -> None:
        await exchange.head()
        await _first(exchange, after)
        for data in said:
            await exchange.send(data)
        await exchange.end()

    return fault


def hang(after: int | None) -> Fault:
    """Nothing more after so many events; None: not even a status."""

    async def fault(exchange: Exchange) -> None:
        if after is not None:
            await exchange.head()
            await _first(exchange, after)
        await asyncio.sleep(FOR_EVER_S)

    return fault


async def refused_after_reading(exchange: Exchange) -> None:
    """The request is taken and the connection closed without a word."""
    exchange.hang_up()


async def reset_at_once(exchange: Exchange) -> None:
    exchange.hang_up(reset=True)


async def _first(exchange: Exchange, count: int) -> None:
    sent = 0
    async for event in exchange.events():
        if sent == count:
            break
        await exchange.send(event)
        sent += 1


# --- the proxy --------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Proxy:
    """A running proxy.

    Attributes:
        script: number of a request for a completion, from 0, or another route -> its fault; others pass.
        seen: the headers of every request, in the order they came.
    """

    upstream: str
    script: Mapping[int | str, Fault]
    url: str = ""
    seen: list[dict[str, str]] = field(default_factory=list)
    asked: int = 0
    connections: set[asyncio.Task[None]] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.connections.add(task)
        try:
            # a connection for each request: llama-server closes those that idle
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
                while True:
                    await self._answer(reader, writer, session)
        except (HungUpError, OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client's end, the fault's, or the test's
        finally:
            self.connections.discard(task)
            writer.close()
            with suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()

    async def _answer(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, session: aiohttp.ClientSession
    ) -> None:
        start = await reader.readexactly(1)
        if start == TLS_HANDSHAKE:
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            raise HungUpError
        head = start + await reader.readuntil(b"\r\n\r\n")
        first, *rest = head.decode("latin-1").strip().split("\r\n")
        method, path, _ = first.split(" ")
        headers = dict(line.split(": ", 1) for line in rest)
        self.seen.append(headers)
        lower = defaultdict(str, {name.lower(): value for name, value in headers.items()})
        body = await reader.readexactly(int(lower["content-length"] or 0))
        kept = {name: value for name, value in headers.items() if name.lower() == "authorization"}
        if method == "POST" and path.endswith("/completions"):
            number, self.asked = self.asked, self.asked + 1
            exchange = Exchange(self.upstream + path, kept, json.loads(body), session, writer)
            await self.script.get(number, passed)(exchange)
            return
        if path in self.script:
            asked = json.loads(body) if lower["content-type"] == "application/json" else {}
            await self.script[path](Exchange(self.upstream + path, kept, asked, session, writer))
            return
        kept |= {"Content-Type": lower["content-type"]} if body else {}
        async with session.request(method, self.upstream + path, data=body, headers=kept) as answer:
            exchange = Exchange("", {}, {}, session, writer)
            await exchange.head(answer.status, {"Content-Type": answer.headers.get("Content-Type", "")})
            if said := await answer.read():
                await exchange.send(said)
            await exchange.end()


@contextmanager
def proxy(upstream: str, script: Mapping[int | str, Fault], tls: tuple[Path, Path] | None = None) -> Iterator[Proxy]:
    """Run a proxy in a thread of its own; `tls`: its certificate and key."""
    made = Proxy(upstream, script)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        server = asyncio.run_coroutine_threadsafe(_started(made, tls), loop).result()
        try:
            yield made
        finally:
            asyncio.run_coroutine_threadsafe(_ended(made, server), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _started(made: Proxy, tls: tuple[Path, Path] | None) -> asyncio.Server:
    secured = None
    if tls is not None:
        secured = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        secured.load_cert_chain(*tls)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0, ssl=secured)
    port = server.sockets[0].getsockname()[1]
    made.url = f"http{'s' if tls else ''}://127.0.0.1:{port}"
    return server


async def _ended(made: Proxy, server: asyncio.Server) -> None:
    server.close()
    for task in list(made.connections):
        task.cancel()
    await asyncio.gather(*made.connections, return_exceptions=True)


AUTHORITY = """\
[ca]
default_ca = itself
[itself]
database = index.txt
new_certs_dir = .
default_md = sha256
rand_serial = yes
policy = named
[named]
commonName = supplied
"""


def self_signed(folder: Path, *, host: str = "IP:127.0.0.1", until: str = "20991231000000Z") -> tuple[Path, Path]:
    """Return a certificate that nobody has signed but itself, and its key."""
    (folder / "authority").write_text(AUTHORITY)
    (folder / "names").write_text(f"subjectAltName={host}\n")
    (folder / "index.txt").write_text("")

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], check=True, capture_output=True, cwd=folder)

    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl("req", *curve, "-subj", "/CN=a test", "-keyout", "key.pem", "-out", "request.pem")
    dated = ("-startdate", "20200101000000Z", "-enddate", until)
    signed = ("-selfsign", "-keyfile", "key.pem", "-in", "request.pem", "-extfile", "names", *dated)
    openssl("ca", "-batch", "-config", "authority", *signed, "-notext", "-out", "certificate.pem")
    return folder / "certificate.pem", folder / "key.pem"
