"""What is asked beside the requests, and said of them: tokenizers that fail, routes that are guarded, keys in messages.

All between a real llama-server and the client, through a proxy that misbehaves.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import faults
import numpy as np
import pytest
from faults import Fault
from llama import llama_server, needs_llama
from stories import OSL_TOKENS, PATIENT, SECRET, codes, explained, sent

from headway.errors import InputError
from headway.probe.client import send
from headway.probe.endpoint import discover
from headway.probe.keys import Key
from headway.probe.nouns import Endpoint, Load
from headway.probe.prompts import prompts
from headway.types import PrefixRuns, Requests

pytestmark = needs_llama


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Endpoint]:
    with llama_server() as url:
        yield discover(url)


#: so long that wherever a message is cut, a piece of it may be left
LONG_SECRET = "sk-" + "".join(f"{number:03}Qz" for number in range(34))
PADS = (0, 40, 150, 390)
QUOTES: dict[str, tuple[bytes, int]] = {
    "a refusal": (b'{"error": {"message": "Received PAD%s"}}', 400),
    "a refusal in words": (b"Received PAD%s", 401),
    "an error in plain JSON": (b'{"error": {"message": "Received PAD%s"}}', 200),
    "a page": (b"<html>PAD%s</html>", 200),
    "a chunk that is no JSON": (b"data: {Received PAD%s\n\n", 200),
    "an error inside": (b'data: {"error": {"message": "Received PAD%s"}}\n\n', 200),
}


@pytest.mark.parametrize("name", QUOTES)
def test_no_piece_of_a_long_key_is_left(endpoint: Endpoint, name: str) -> None:
    said, code = QUOTES[name]
    for pad in PADS:
        quoting = faults.without_stream(said.replace(b"PAD", b"x" * pad), code=code)
        done = sent(endpoint, {0: quoting}, count=1, key=Key(LONG_SECRET, "test"))
        assert codes(done) != [""]
        assert "xxx" in repr(done) or not pad, "the server's words are shown"
        assert not [at for at in range(len(LONG_SECRET) - 8) if LONG_SECRET[at : at + 8] in repr(done)]


def test_a_server_says_in_plain_words_what_it_lacks(endpoint: Endpoint) -> None:
    said = b'{"error": {"message": "the engine is dead"}}'
    done = sent(endpoint, {1: faults.without_stream(said)})
    assert "the engine is dead" in explained(done)


# --- what is asked beside the requests ---------------------------------------------------------------------


def sessions(turns: int, *, alone: int = 0, linked: bool = True) -> Load:
    """One session whose every turn goes on from the answer before, all due at once; and requests of no session."""
    block, n = 8, turns + alone
    session = np.concatenate((np.zeros(turns, np.int64), np.full(alone, -1)))
    isl = np.where(session == 0, 2 * block * np.arange(1, n + 1), 5)
    prefix = PrefixRuns(
        block_tokens=block,
        offsets=np.minimum(np.arange(n + 1), turns),
        first_ids=np.zeros(turns, np.int64),
        counts=2 * np.arange(1, turns + 1) + 1,  # the prompt, and its answer of one block
    )
    requests = Requests(
        arrive_s=np.zeros(n),
        isl_tokens=isl,
        osl_tokens=np.where(session == 0, block, OSL_TOKENS),
        session_id=session,
        prefix=prefix if linked else None,
    )
    return Load(name="a talk", requests=requests, concurrency=2)


@dataclass(slots=True)
class Counter:
    """A question that passes and is counted."""

    asked: int = 0

    async def __call__(self, exchange: faults.Exchange) -> None:
        self.asked += 1
        await faults.told(exchange)


@pytest.mark.parametrize("api", ["completions", "chat"])
@pytest.mark.parametrize(("linked", "asked"), [(True, 3), (False, 0)])
def test_an_answer_is_counted_once_and_only_where_it_comes_again(
    endpoint: Endpoint, api: str, linked: bool, asked: int
) -> None:
    talk = sessions(4, linked=linked)
    script: dict[int | str, Fault] = {}
    with faults.proxy(endpoint.url, script) as between:
        whom = replace(endpoint, url=between.url)
        bodies = prompts(whom, talk.requests, api=api)  # type: ignore[arg-type]
        assert bodies.exact
        script["/tokenize"] = counter = Counter()
        done = send(talk, whom, bodies, PATIENT)
    assert codes(done) == [""] * 4
    assert counter.asked == asked
    if api == "completions":
        assert done.trace.measured is not None and done.trace.measured.input_tokens is not None
        assert done.trace.measured.input_tokens.tolist() == talk.requests.isl_tokens[done.rows].tolist()


@pytest.mark.parametrize("api", ["completions", "chat"])
@pytest.mark.parametrize(
    "fault",
    [faults.status(403), faults.status(500), faults.reset_at_once, faults.hang(None)],
    ids=["403", "500", "reset", "hung"],
)
def test_a_tokenizer_that_fails_costs_the_turn_that_needs_it(
    endpoint: Endpoint, api: str, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headway.probe.asking.PATIENCE_S", 0.5)
    talk = sessions(3, alone=4)
    script: dict[int | str, Fault] = {}
    with faults.proxy(endpoint.url, script) as between:
        whom = replace(endpoint, url=between.url)
        bodies = prompts(whom, talk.requests, api=api)  # type: ignore[arg-type]
        script["/tokenize"] = fault
        done = send(talk, whom, bodies, PATIENT)
    found = dict(zip(done.rows.tolist(), codes(done), strict=True))
    assert [found[row] for row in range(7)] == ["", "connection", "not-sent", "", "", "", ""]
    assert between.url in explained(done)


def test_others_are_sent_while_a_tokenizer_is_slow(endpoint: Endpoint) -> None:
    talk = sessions(2, alone=5)

    async def slow(exchange: faults.Exchange) -> None:
        # the first turn and four that have nothing to do with it
        while between.asked < 5:  # noqa: ASYNC110 - no event: they come in the thread of the proxy
            await asyncio.sleep(0.01)
        await faults.told(exchange)

    script: dict[int | str, Fault] = {}
    with faults.proxy(endpoint.url, script) as between:
        whom = replace(endpoint, url=between.url)
        bodies = prompts(whom, talk.requests)
        script["/tokenize"] = slow
        assert codes(send(talk, whom, bodies, PATIENT)) == [""] * 7


def test_nobody_waits_for_a_tokenizer_when_the_run_is_over(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headway.probe.asking.PATIENCE_S", 120.0)
    talk = sessions(2)
    script: dict[int | str, Fault] = {}
    with faults.proxy(endpoint.url, script) as between:
        whom = replace(endpoint, url=between.url)
        bodies = prompts(whom, talk.requests)
        script["/tokenize"] = faults.hang(None)
        begun_s = time.monotonic()
        assert codes(send(talk, whom, bodies, replace(PATIENT, duration_s=3)))[1] == "not-sent"
        assert time.monotonic() - begun_s < 60


def test_a_guarded_side_route_is_as_if_absent(endpoint: Endpoint) -> None:
    guarded = {route: faults.status(code) for route, code in {"/metrics": 403, "/props": 401, "/tokenize": 403}.items()}
    with faults.proxy(endpoint.url, guarded) as between:
        found = discover(between.url)
        assert (found.engine, found.model, found.metrics) == (endpoint.engine, endpoint.model, False)
        talk = sessions(2)
        done = send(talk, found, prompts(found, talk.requests), PATIENT)
    assert codes(done) == ["", ""]


def test_a_guarded_api_is_one_error_that_names_the_route(endpoint: Endpoint) -> None:
    talk = sessions(1)
    for key, hint in ((None, "give an API key"), (Key(SECRET, "$SOME_KEY"), "the key of \\$SOME_KEY is refused")):
        with (
            faults.proxy(endpoint.url, {"/v1/models": faults.status(401)}) as between,
            pytest.raises(InputError, match=rf"{between.url}/v1/models: refuses to answer \(401\).*{hint}"),
        ):
            discover(between.url, key=key)
        with (
            faults.proxy(endpoint.url, {0: faults.status(401), "/tokenize": faults.status(401)}) as between,
            pytest.raises(InputError, match=rf"{between.url}/v1/completions: refuses to answer \(401\).*{hint}"),
        ):
            prompts(replace(endpoint, url=between.url), talk.requests, key=key)
