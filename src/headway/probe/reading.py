"""What the stream of an answer says: which chunks are tokens, when they came, the usage block, and what went wrong."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from headway.probe.sse import events

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Parts of a chat chunk that are output.
_SAID = ("content", "reasoning_content", "reasoning", "tool_calls", "refusal")
#: Events read at a stretch: about half a millisecond, so that nothing that is due waits longer.
SLICE = 64
#: Characters of a message that are shown.
MOST_SAID = 200


@dataclass(slots=True)
class Reading:
    """One answer.

    `ends` are the positions in the stream at which the chunks with tokens were complete; `code` and `message` say what
    went wrong inside the stream. Counts are -1 where the server did not say.
    """

    ends: list[int] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    input_tokens: int = -1
    output_tokens: int = -1
    cached_tokens: int = -1
    finished: bool = False  # it said so: a finish reason, or [DONE]
    code: str = ""
    message: str = ""

    def slices(self, raw: bytes) -> Iterator[None]:
        """Read a stream to its end or its first error; pauses every `SLICE` events."""
        number = 0
        for number, (end, data) in enumerate(events(raw), start=1):
            if data == b"[DONE]":
                self.finished = True
                return
            self._chunk(end, data)
            if self.code:
                if self.code == "malformed" and end == len(raw):
                    self.code = self.message = ""  # no empty line behind it: it was cut off
                return
            if number % SLICE == 0:
                yield
        if raw and not number:
            self.code, self.message = _of_no_stream(raw)

    def _chunk(self, end: int, data: bytes) -> None:
        try:
            chunk = json.loads(data)
        except (ValueError, RecursionError):  # also one nested without end
            chunk = None
        if not isinstance(chunk, dict):
            self.code, self.message = "malformed", f"no JSON object: {said(data)}"
        elif chunk.get("error"):
            self.code, self.message = "server-error", said(chunk)
        elif not isinstance(chunk.get("choices", []), list):
            self.code, self.message = "malformed", "`choices` is no list"
        else:
            try:
                self._take(end, chunk)
            except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
                self.code, self.message = "malformed", f"{type(error).__name__}: {error}"

    def _take(self, end: int, chunk: dict[str, Any]) -> None:
        tokens = False
        for choice in chunk.get("choices") or ():
            delta = choice.get("delta")
            said_here = choice.get("text") if delta is None else delta.get("content")
            ids = choice.get("token_ids") or ()
            self.text.append(said_here if isinstance(said_here, str) else "")
            self.token_ids.extend(_count(token) for token in ids)
            self.finished |= choice.get("finish_reason") is not None
            tokens |= bool(ids) or _is_token(choice)
        if tokens:
            self.ends.append(end)
        self._usage(chunk.get("usage") or {}, chunk.get("timings") or {})

    def _usage(self, usage: dict[str, Any], timings: dict[str, Any]) -> None:
        """Take the counts of a usage block; of llama-server's timings what it lacks."""
        if timings and "completion_tokens" not in usage:
            cached = _count(timings.get("cache_n", 0))
            self.input_tokens, self.cached_tokens = _count(timings.get("prompt_n", -1 - cached)) + cached, cached
            self.output_tokens = _count(timings.get("predicted_n", -1))
        if usage:
            self.input_tokens = _count(usage.get("prompt_tokens", self.input_tokens))
            self.output_tokens = _count(usage.get("completion_tokens", self.output_tokens))
            found = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
            self.cached_tokens = self.cached_tokens if found is None else _count(found)


def _count(value: Any) -> int:
    """Return a number of tokens, or of a token; a column cannot hold more than these."""
    found = int(value)
    if abs(found) >= 2**62:
        raise ValueError(f"no number of tokens: {value}")
    return found


def _is_token(choice: dict[str, Any]) -> bool:
    """Whether a chunk holds output.

    An empty text counts where the stream goes on: it is a token whose characters are not complete. Not so the role
    with which a chat begins, nor an end without a text.
    """
    delta = choice.get("delta")
    ended = choice.get("finish_reason") is not None
    if delta is None:
        return bool(choice["text"]) or not ended
    if any(delta.get(name) for name in _SAID):
        return True
    return not ended and "role" not in delta and any(delta.get(name) == "" for name in _SAID)


def _of_no_stream(raw: bytes) -> tuple[str, str]:
    """Return the code and the words of an answer without a single event: some servers say in plain JSON what failed."""
    answer = decoded(raw)
    if isinstance(answer, dict) and answer.get("error"):
        return "server-error", said(answer)
    return "malformed", f"no stream of events: {said(answer)}"


def decoded(raw: bytes) -> object:
    """Return an answer as the JSON it is, else its bytes."""
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return raw


def said(answer: object) -> str:
    """Return the server's own words in an answer, in full: who shows them hides what must not be seen and shortens."""
    words = answer.get("error", answer) if isinstance(answer, dict) else answer
    if isinstance(words, dict):
        words = words.get("message", words)
    return words.decode("utf-8", errors="backslashreplace") if isinstance(words, bytes) else str(words)


def shortened(words: str) -> str:
    """Return a message on one line of bounded length, without characters that a terminal would obey."""
    return "".join(each if each.isprintable() else "�" for each in " ".join(words.split())[:MOST_SAID])
