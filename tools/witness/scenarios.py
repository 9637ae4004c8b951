"""What the real engines are asked: phases of requests, one phase after the other."""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    Send = Callable[["Ask", list[int]], list[int]]

#: The words a prompt is made of; small numbers are special tokens.
WORDS = range(100, 2000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One request.

    Attributes:
        at_s: when it is sent, after the start of its phase.
        prompt: (stream, tokens): the first so many tokens of a numbered text; several pieces follow each other.
        out: output tokens.
        after: the prompt and output of this request (its number in the scenario) go before the prompt.
        fields: more fields of the request's body.
    """

    at_s: float = 0.0
    prompt: tuple[tuple[str, int], ...]
    out: int
    after: int | None = None
    fields: dict[str, Any] = field(default_factory=dict)


Phase = tuple[Ask, ...]


def words(stream: str, count: int) -> list[int]:
    """Return the first tokens of a text, the same in every process."""
    return random.Random(stream).choices(WORDS, k=count)


def play(phases: tuple[Phase, ...], send: Send, pause_s: float = 0.05) -> None:
    """Send the requests of each phase at their times, each from a thread of its own; phases wait for each other.

    Args:
        phases: what to ask.
        send: takes a request and its prompt and returns the tokens that came.
        pause_s: between phases, for the engine to come to rest.

    Raises:
        Exception: the first that `send` raised.
    """
    texts: list[list[int]] = []
    for phase in phases:
        answers: dict[int, list[int]] = {}
        errors: list[Exception] = []
        prompts = [_prompt(ask, texts) for ask in phase]
        threads = [
            threading.Thread(target=_ask, args=(number, ask, prompt, send, answers, errors), daemon=True)
            for number, (ask, prompt) in enumerate(zip(phase, prompts, strict=True))
        ]
        start_s = time.monotonic()
        for ask, thread in zip(phase, threads, strict=True):
            time.sleep(max(0.0, start_s + ask.at_s - time.monotonic()))
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        texts += [[*prompt, *answers.get(number, [])] for number, prompt in enumerate(prompts)]
        time.sleep(pause_s)


def _prompt(ask: Ask, texts: list[list[int]]) -> list[int]:
    before = texts[ask.after] if ask.after is not None else []
    return before + [token for stream, count in ask.prompt for token in words(stream, count)]


def _ask(
    number: int, ask: Ask, prompt: list[int], send: Send, answers: dict[int, list[int]], errors: list[Exception]
) -> None:
    try:
        answers[number] = send(ask, prompt)
    except Exception as error:  # noqa: BLE001 - raised again where the threads are waited for
        errors.append(error)
