"""A server of OpenAI's API that computes nothing: it streams as many chunks as asked for, one a step, to all at once.

    python benchmarks/paced_server.py [STEP_S]

Prints its address as one line and ends with standard input. `GET /report` tells what happened since the last report:
when each request had arrived (on the steady clock all processes share), chunks sent, its own CPU time, and how late its
steps were: whether the server, not the client, was the bottleneck. Listens on loopback only.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import Any

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
CHAT, TEXT = "chat.completion.chunk", "text_completion"
#: what is asked for where nothing is said
DEFAULT_TOKENS = 16


def event(document: dict[str, Any]) -> bytes:
    """One server-sent event as one HTTP chunk."""
    said = b"data: " + json.dumps(document).encode() + b"\n\n"
    return b"%x\r\n%s\r\n" % (len(said), said)


def token(kind: str) -> bytes:
    content = {"delta": {"content": " word"}} if kind == CHAT else {"text": " word"}
    choice = {"index": 0, **content, "logprobs": None, "finish_reason": None}
    return event({"id": "c-1", "object": kind, "created": 1, "model": "paced", "choices": [choice]})


def farewell(kind: str, prompt_tokens: int, tokens: int) -> bytes:
    choice = {"index": 0, **({"delta": {}} if kind == CHAT else {"text": ""}), "finish_reason": "length"}
    usage = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": tokens,
        "total_tokens": prompt_tokens + tokens,
        "prompt_tokens_details": {"cached_tokens": 0},
    }
    common = {"id": "c-1", "object": kind, "created": 1, "model": "paced"}
    done = b"data: [DONE]\n\n"
    return (
        event(common | {"choices": [choice]})
        + event(common | {"choices": [], "usage": usage})
        + b"%x\r\n%s\r\n0\r\n\r\n" % (len(done), done)
    )


TOKENS = {kind: token(kind) for kind in (CHAT, TEXT)}


@dataclass(slots=True)
class Stream:
    """One answer on its way."""

    transport: asyncio.Transport
    kind: str
    prompt_tokens: int
    tokens: int
    left: int


@dataclass(slots=True)
class Server:
    """All streams, moved on together, and what is told of them."""

    step_s: float
    streams: list[Stream] = field(default_factory=list)
    arrived_s: list[float] = field(default_factory=list)
    late_s: list[float] = field(default_factory=list)
    chunks: int = 0
    most_streams: int = 0
    cpu_s: float = 0.0

    async def run(self) -> None:
        due_s = time.perf_counter()
        while True:
            due_s += self.step_s
            await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
            self.late_s.append(time.perf_counter() - due_s)
            self.step()
            due_s = max(due_s, time.perf_counter() - self.step_s)  # what was missed is not made up for

    def step(self) -> None:
        self.most_streams = max(self.most_streams, len(self.streams))
        for stream in self.streams:
            stream.transport.write(TOKENS[stream.kind])
            stream.left -= 1
            if not stream.left:
                stream.transport.write(farewell(stream.kind, stream.prompt_tokens, stream.tokens))
        self.chunks += len(self.streams)
        self.streams = [stream for stream in self.streams if stream.left and not stream.transport.is_closing()]

    def report(self) -> dict[str, Any]:
        """What happened since the last report."""
        late_s = sorted(self.late_s) or [0.0]
        told = {
            "arrived_s": self.arrived_s,
            "chunks": self.chunks,
            "most_streams": self.most_streams,
            "cpu_s": time.process_time() - self.cpu_s,
            "late_p99_s": late_s[int(0.99 * (len(late_s) - 1))],
        }
        self.arrived_s, self.late_s, self.chunks, self.most_streams = [], [], 0, 0
        self.cpu_s = time.process_time()
        return told


class Connection(asyncio.Protocol):
    """A client: HTTP as far as load generators speak it."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.data += data
        head, found, rest = self.data.partition(b"\r\n\r\n")
        if not found:
            return
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        length = int(headers.get("content-length", 0))
        if len(rest) < length:
            return
        self.data = rest[length:]
        self.answer(first.split(" ")[1], rest[:length])

    def answer(self, path: str, body: bytes) -> None:
        if path.endswith("/completions"):
            self.stream(CHAT if "/chat/" in path else TEXT, json.loads(body))
        elif path == "/report":
            self.say(self.server.report())
        elif path == "/v1/models":
            self.say({"object": "list", "data": [{"id": "paced", "object": "model", "owned_by": "nobody"}]})
        elif path == "/health":
            self.say({"status": "ok"})
        else:
            self.say({"error": {"message": "not served here"}}, "404 Not Found")

    def stream(self, kind: str, asked: dict[str, Any]) -> None:
        self.server.arrived_s.append(time.perf_counter())
        words = json.dumps(asked.get("messages") or asked.get("prompt")).count(" ")
        tokens = asked.get("max_completion_tokens") or asked.get("max_tokens") or DEFAULT_TOKENS
        self.transport.write(HEAD)
        self.server.streams.append(Stream(self.transport, kind, words, tokens, tokens))

    def say(self, document: dict[str, Any], status: str = "200 OK") -> None:
        said = json.dumps(document).encode()
        head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(said)}\r\n\r\n"
        self.transport.write(head.encode() + said)


def end_with_standard_input() -> None:
    sys.stdin.read()
    os._exit(0)


async def main(step_s: float) -> None:
    server = Server(step_s)
    listener = await asyncio.get_running_loop().create_server(lambda: Connection(server), "127.0.0.1", 0, backlog=4096)
    print(f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}", flush=True)
    threading.Thread(target=end_with_standard_input, daemon=True).start()
    await server.run()


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1]) if len(sys.argv) > 1 else 0.02))
