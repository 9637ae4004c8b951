"""Bodies of requests: prompts of exactly the lengths asked for, that share exactly what their ids say they share."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from headway.errors import InputError
from headway.probe.asking import Server
from headway.probe.contents import Contents, spliced
from headway.probe.vocabulary import Frame, Tokenizer, Vocabulary, chat_frame, estimated_frame, vocabulary
from headway.workload.trace import Treatment

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headway.probe.bodies import Answer
    from headway.probe.keys import Key
    from headway.probe.nouns import Endpoint
    from headway.types import BoolColumn, IntColumn, Requests

Api = Literal["completions", "chat"]
Messages = list[dict[str, str]]

_PATHS: dict[str, str] = {"completions": "/v1/completions", "chat": "/v1/chat/completions"}
#: Engines that go on after a stop token when told to. TGI does not: its router sends `ignore_eos_token: false` whatever
#: was asked for (huggingface/text-generation-inference, router/src/validation.rs).
_FORCIBLE = ("vllm", "sglang", "llama-cpp", "tensorrt-llm")
#: Engines that return the tokens of an answer when asked to (`return_token_ids`).
_TELLING = ("vllm", "sglang")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompts:
    """The bodies of one load; see `client.Bodies`.

    Attributes:
        path: the route they are for.
        forced: whether the server is told to go on for exactly `osl_tokens`.
        exact: whether prompts are exactly as long as asked for.
        frame: what the server puts around the words of a prompt.
        notes: what a reader of the figures must know, in whole sentences.
    """

    path: str
    forced: bool
    exact: bool
    frame: Frame
    notes: tuple[str, ...]
    endpoint: Endpoint
    requests: Requests
    contents: Contents
    words: Vocabulary
    tokenizer: Tokenizer
    continued: BoolColumn  # (n,) whether a later turn of its session follows

    def body(self, row: int, answers: Mapping[int, Answer]) -> bytes:
        """Return the JSON body of a row; `answers`: what the earlier turns of its session were answered."""
        return json.dumps(self._content(row, answers) | self._options(row), separators=(",", ":")).encode()

    def tokens(self, row: int, answers: Mapping[int, Answer]) -> IntColumn:
        """Return the (isl_tokens,) tokens of a prompt."""
        earlier = {
            turn: (start, shared, self._answered(answer))
            for turn, answer in sorted(answers.items())
            if (shared := self._shared_tokens(row, turn)) > (start := int(self.requests.isl_tokens[turn]))
        }
        return spliced(np.asarray(self.words.ids)[self.contents.numbers(row)], earlier)

    def _content(self, row: int, answers: Mapping[int, Answer]) -> dict[str, Any]:
        if "chat" in self.path:
            return {"messages": self._messages(row, answers)}
        if self.endpoint.tokenizer == "ids":
            return {"prompt": self.tokens(row, answers).tolist()}
        return {"prompt": "\n".join(message["content"] for message in self._messages(row, answers))}

    def _options(self, row: int) -> dict[str, Any]:
        """Say how to answer.

        Temperature 1 without a seed: two requests with the same prompt are answered differently, so that nothing is
        found in a cache through outputs that the ids tell apart; a seed of its own for each would cost some engines
        time in every step. `ignore_eos` alone forces the length: vLLM then puts no id of its generation config among
        the stop tokens, and `min_tokens` would only add a mask to every step.
        """
        asked = self.requests.osl_tokens if self.forced else self.requests.max_tokens
        most = self.requests.osl_tokens if asked is None else asked
        options: dict[str, Any] = {
            "model": self.endpoint.model,
            "max_tokens": int(most[row]),
            "temperature": 1.0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self.forced:
            options["ignore_eos"] = True
        if self.endpoint.engine == "llama-cpp":
            options["cache_prompt"] = True
        if self.continued[row] and self.endpoint.engine in _TELLING and "chat" not in self.path:
            options["return_token_ids"] = True
        return options

    def _messages(self, row: int, answers: Mapping[int, Answer]) -> Messages:
        """Return the conversation so far and a message that fills it up to the length asked for."""
        history = self._history(row, answers)
        isl = int(self.requests.isl_tokens[row])
        taken = self._taken(row, max(answers), history, answers[max(answers)]) if history else self.frame.tokens
        numbers = self.contents.numbers(row)
        start = taken - (self.frame.tokens - self.frame.head_tokens)
        count = max(round((isl - taken) / self.frame.per_word), 1)
        own = (
            np.resize(numbers[min(start, isl - 1) :], count) if count > isl - start else numbers[start : start + count]
        )
        return [*history, {"role": "user", "content": self.words.text(own.tolist())}]

    def _history(self, row: int, answers: Mapping[int, Answer]) -> Messages:
        """Return the messages of the turn before and its answer, where the ids say that this one goes on from it."""
        before = max(answers, default=-1)
        if before < 0 or self._shared_tokens(row, before) < int(self.requests.isl_tokens[before]):
            return []
        earlier = {turn: answer for turn, answer in answers.items() if turn < before}
        return [*self._messages(before, earlier), {"role": "assistant", "content": answers[before].text}]

    def _taken(self, row: int, before: int, history: Messages, last: Answer) -> int:
        """Count the tokens of a conversation so far; estimate them where nobody counts."""
        if self.exact:
            if last.until_tokens is None:
                asked = [*history, {"role": "user", "content": ""}]
                last.until_tokens = len(self._counted(self.tokenizer.chat_ids(asked)))
            return last.until_tokens
        return min(
            int(self.requests.isl_tokens[before] + self.requests.osl_tokens[before]) + self.frame.tokens,
            int(self.requests.isl_tokens[row]) - 1,
        )

    def _shared_tokens(self, row: int, other: int) -> int:
        prefix = self.requests.prefix
        if prefix is None:
            return 0
        return self.contents.common_blocks(row, other, prefix) * prefix.block_tokens

    def _answered(self, answer: Answer) -> tuple[int, ...]:
        if answer.token_ids is None:
            found = self.tokenizer.ids(answer.text) if answer.text else []
            answer.token_ids = tuple(self._counted(found) if answer.text and self.words.exact else found)
        return answer.token_ids

    def _counted(self, ids: list[int]) -> list[int]:
        """Refuse the silence of a server that did count when it was first asked."""
        if not ids:
            raise InputError("it does not count tokens any more", file=self.endpoint.url)
        return ids


def prompts(
    endpoint: Endpoint,
    requests: Requests,
    *,
    api: Api = "completions",
    seed: int = 0,
    salt: str = "",
    key: Key | None = None,
) -> Prompts:
    """Make the bodies of a load for an endpoint; asks it for its vocabulary and its template.

    Args:
        endpoint: whom they are for.
        requests: lengths, prefix ids, sessions; those `fitting` keeps.
        api: text completions (prompts as token ids where the server takes them), or chat.
        seed: of everything drawn.
        salt: another one makes other prompts, so that a run finds nothing of an earlier one in the server's cache.
        key: sent as a bearer token.

    Raises:
        InputError: prompts of known length cannot be made for it.
    """
    server = Server(endpoint.url, key)
    tokenizer = Tokenizer(server, endpoint)
    words = vocabulary(tokenizer, ids=_by_ids(endpoint, api))
    frame, exact = _framed(server, endpoint, tokenizer, words, api)
    forced = endpoint.engine in _FORCIBLE
    return Prompts(
        path=_PATHS[api],
        forced=forced,
        exact=exact,
        frame=frame,
        notes=tuple(_notes(exact=exact, forced=forced)),
        endpoint=endpoint,
        requests=requests,
        contents=Contents(requests, len(words.words), (seed, zlib.crc32(salt.encode()))),
        words=words,
        tokenizer=tokenizer,
        continued=_continued(requests),
    )


def _by_ids(endpoint: Endpoint, api: Api) -> bool:
    return endpoint.tokenizer == "ids" and api == "completions"


def _framed(
    server: Server, endpoint: Endpoint, tokenizer: Tokenizer, words: Vocabulary, api: Api
) -> tuple[Frame, bool]:
    """Return what the server puts around the words of a prompt, and whether that is exactly known."""
    if _by_ids(endpoint, api):
        if not words.exact:  # nothing it answered so far says that it would answer us
            asked = {"model": endpoint.model, "prompt": [int(words.ids[0])], "max_tokens": 1}
            server.post(_PATHS[api], asked, needed=True)
        return Frame(), True
    known = chat_frame(tokenizer, words) if words.exact and api == "chat" else None
    return known or estimated_frame(server, endpoint, words, _PATHS[api]), known is not None


def least_tokens(endpoint: Endpoint, *, api: Api, key: Key | None = None) -> int:
    """Return how long the shortest prompt is that can be made: with chat, what the template takes and one word.

    Raises:
        InputError: prompts of known length cannot be made for it.
    """
    if _by_ids(endpoint, api):
        return 1
    server = Server(endpoint.url, key)
    tokenizer = Tokenizer(server, endpoint)
    frame, _ = _framed(server, endpoint, tokenizer, vocabulary(tokenizer, ids=False), api)
    return frame.tokens + 1


def fitting(
    endpoint: Endpoint, requests: Requests, *, least_tokens: int = 1
) -> tuple[BoolColumn, tuple[Treatment, ...]]:
    """Say which requests the endpoint can serve at all; a session ends where one of its turns cannot be.

    Args:
        endpoint: whom they are for.
        requests: all that are wanted.
        least_tokens: the shortest prompt that can be made (`least_tokens`).

    Returns:
        (n,) which to send, and what was left out, counted.
    """
    kept = requests.isl_tokens >= least_tokens
    short = f"left out: a prompt of fewer than {least_tokens} tokens, the shortest that can be made here"
    found = [Treatment(rows=int((~kept).sum()), text=short)]
    if endpoint.settings is not None:
        most = endpoint.settings.max_model_len
        fits = requests.isl_tokens + requests.osl_tokens <= most
        text = f"left out: prompt and output of more than {most:,} tokens, the longest this endpoint serves"
        found.append(Treatment(rows=int((kept & ~fits).sum()), text=text))
        kept = kept & fits
    if requests.session_id is not None:
        ended = _after_a_gap(requests.session_id, kept)
        found.append(Treatment(rows=int((kept & ended).sum()), text="left out: a later turn of one left out"))
        kept = kept & ~ended
    return kept, tuple(each for each in found if each.rows)


def _after_a_gap(session: IntColumn, kept: BoolColumn) -> BoolColumn:
    order = np.argsort(session, kind="stable")
    starts = np.concatenate(([True], session[order][1:] != session[order][:-1])) if len(order) else np.zeros(0, bool)
    lost = np.cumsum(~kept[order])
    before = np.maximum.accumulate(np.where(starts, lost - ~kept[order], 0))
    ended = np.empty(len(session), bool)
    ended[order] = lost > before
    return ended


def _continued(requests: Requests) -> BoolColumn:
    session = requests.session_id
    follows = np.zeros(len(requests), bool)
    if session is None or requests.prefix is None or not len(session):
        return follows
    order = np.argsort(session, kind="stable")
    follows[order[:-1]] = session[order][1:] == session[order][:-1]
    return follows


def _notes(*, exact: bool, forced: bool) -> list[str]:
    found = []
    if not exact:
        found.append(
            "The server has no tokenizer to ask: prompts are as long as two short requests let expect, not exactly so."
        )
    if not forced:
        found.append("This server cannot be told to go on after a stop token: answers may be shorter than asked for.")
    return found
