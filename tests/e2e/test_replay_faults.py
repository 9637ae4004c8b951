"""Every fault a real endpoint may show, between a real llama-server and the client: counted, explained, survived."""

from __future__ import annotations

import asyncio
import json
import math
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import faults
import numpy as np
import pytest
from faults import Fault
from llama import llama_server, needs_llama
from servers import free_port

from headway.errors import InputError
from headway.metrics import outcome
from headway.probe.client import send
from headway.probe.endpoint import discover
from headway.probe.faults import EXPLAINED
from headway.probe.keys import Key
from headway.probe.limits import Limits
from headway.probe.nouns import ERRORS, Endpoint, Load, Sent
from headway.probe.prompts import prompts
from headway.probe.scrape_files import from_prometheus
from headway.types import Outcome, PrefixRuns, Requests, Slo
from headway.workload.served import served_of

pytestmark = needs_llama

OSL_TOKENS = 6
SECRET = "sk-a-key-that-nobody-may-see"
PATIENT = Limits(request_timeout_s=20, stall_timeout_s=5)
IMPATIENT = Limits(request_timeout_s=1.5, stall_timeout_s=0.7)


@dataclass(frozen=True, slots=True)
class Stories:
    """Bodies of text completions, all different."""

    path: str = "/v1/completions"
    forced: bool = True

    def body(self, row: int, answers: object) -> bytes:
        asked = {"prompt": f"Story number {row} begins", "max_tokens": OSL_TOKENS, "ignore_eos": True}
        return json.dumps(asked | {"stream": True, "stream_options": {"include_usage": True}}).encode()


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Endpoint]:
    with llama_server() as url:
        yield discover(url)


def load(count: int, concurrency: int | None = None) -> Load:
    requests = Requests(
        arrive_s=np.arange(count) * (0.0 if concurrency else 0.15),
        isl_tokens=np.full(count, 5),
        osl_tokens=np.full(count, OSL_TOKENS),
    )
    return Load(name="a few", requests=requests, concurrency=concurrency)


def sent(
    endpoint: Endpoint,
    script: Mapping[int | str, Fault],
    count: int = 3,
    limits: Limits = PATIENT,
    *,
    concurrency: int | None = None,
    key: Key | None = None,
    tls: tuple[Path, Path] | None = None,
) -> Sent:
    with faults.proxy(endpoint.url, script, tls) as between:
        whom = replace(endpoint, url=between.url)
        return send(load(count, concurrency), whom, Stories(), limits, key=key)


def codes(done: Sent) -> list[str]:
    assert done.trace.measured is not None and done.trace.measured.error is not None
    names = done.trace.names["error"]
    return [names[code] for code in done.trace.measured.error.tolist()]


def scored(done: Sent) -> Outcome:
    assert done.trace.measured is not None
    requests = done.trace.requests
    return outcome(requests, served_of(requests, done.trace.measured), Slo(objectives=()), "measured")


def explained(done: Sent) -> str:
    return " ".join(done.client.warnings)


def secured(url: str) -> str:
    return url.replace("http:", "https:")


def plain(url: str) -> str:
    return url.replace("https:", "http:")


def replaced(old: bytes, new: bytes) -> Fault:
    return faults.rewritten(lambda event: event.replace(old, new))


def without_usage(event: bytes) -> bytes:
    if event.startswith(b"data: [DONE]"):
        return event
    chunk = json.loads(event[6:])
    kept = {name: value for name, value in chunk.items() if name not in ("usage", "timings")}
    return b"data: " + json.dumps(kept).encode() + b"\n\n"


LEGAL = {
    "as it is": faults.passed,
    "byte by byte": faults.in_pieces(1),
    "seven bytes at a time": faults.in_pieces(7),
    "all in one piece": faults.at_once,
    "CR LF": replaced(b"\n", b"\r\n"),
    "CR": replaced(b"\n", b"\r"),
    "comments": faults.rewritten(lambda event: b": still there\n\n" + event),
    "comments inside": faults.rewritten(lambda event: b": still there\n" + event),
    "event, id and retry": faults.rewritten(lambda event: b"event: message\nid: 7\nretry: 10\n" + event),
    "no blank after the colon": replaced(b"data: ", b"data:"),
    "data in two lines": replaced(b',"model"', b',\ndata: "model"'),
    "no [DONE]": faults.rewritten(lambda event: b"" if b"[DONE]" in event else event),
    "no usage": faults.rewritten(without_usage),
    "closed afterwards": faults.closed_after,
}


@pytest.mark.parametrize("name", LEGAL)
def test_what_is_legal_is_no_error(endpoint: Endpoint, name: str) -> None:
    done = sent(endpoint, {1: LEGAL[name]})
    assert codes(done) == ["", "", ""]
    measured = done.trace.measured
    assert measured is not None and measured.output_tokens is not None and measured.e2e_s is not None
    assert measured.output_tokens.tolist() == [OSL_TOKENS] * 3
    assert np.isfinite(measured.e2e_s).all()


def without_stream(said: bytes) -> Fault:
    async def fault(exchange: faults.Exchange) -> None:
        await exchange.head(headers={"Content-Type": "application/json"})
        await exchange.send(said)
        await exchange.end()

    return fault


BAD: dict[str, tuple[Fault, str]] = {
    "400": (faults.status(400), "status-4xx"),
    "401": (faults.status(401), "status-4xx"),
    "404": (faults.status(404), "status-4xx"),
    "429": (faults.status(429), "status-429"),
    "429, later in words": (faults.status(429, Retry_After="soon"), "status-429"),
    "500": (faults.status(500), "status-5xx"),
    "503": (faults.status(503), "status-503"),
    "cut": (faults.cut(3), "disconnected"),
    "cut before the first token": (faults.cut(0), "connection"),
    "cut by a reset": (faults.cut(3, reset=True), "disconnected"),
    "cut politely": (faults.cut(3, politely=True), "disconnected"),
    "closed without a word": (faults.refused_after_reading, "connection"),
    "reset without a word": (faults.reset_at_once, "connection"),
    "no JSON": (faults.then(2, b'data: {"choices": [\n\n'), "malformed"),
    "JSON, but a list": (faults.then(2, b"data: [1, 2]\n\n"), "malformed"),
    "choices of another kind": (faults.then(2, b'data: {"choices": 7}\n\n'), "malformed"),
    "a choice that is a number": (faults.then(2, b'data: {"choices": [7]}\n\n'), "malformed"),
    "usage that is a word": (
        faults.then(2, b'data: {"choices": [], "usage": {"prompt_tokens": "x"}}\n\n'),
        "malformed",
    ),
    "broken UTF-8": (faults.then(2, b'data: {"choices": [{"text": "\xff\xfe"}]}\n\n'), "malformed"),
    "gzip, though it was not asked for": (faults.gzipped, "malformed"),
    "an end without a blank line": (replaced(b"\n\n", b"\n"), "malformed"),
    "an error inside": (faults.then(2, b'data: {"error": {"message": "out of memory"}}\n\n'), "server-error"),
    "an error in plain JSON": (without_stream(b'{"error": {"message": "the engine is dead"}}'), "server-error"),
    "a page": (without_stream(b"<html>Bad gateway</html>"), "malformed"),
    "a text that is a number, and no end": (faults.then(1, b'data: {"choices": [{"text": 7}]}\n\n'), "disconnected"),
    "usage beyond all bounds": (
        faults.then(2, b'data: {"choices": [], "usage": {"completion_tokens": 1e999}}\n\n'),
        "malformed",
    ),
    "nested without end": (faults.then(2, b"data: " + b"[" * 200_000 + b"\n\n"), "malformed"),
    "not a token": (faults.then(0, b'data: {"choices": [{"text": "", "finish_reason": "stop"}]}\n\n'), "no-tokens"),
    "nothing at all": (faults.then(0), "malformed"),
    "more tokens than allowed": (faults.asking(max_tokens=lambda tokens: tokens + 5), "too-long"),
    "fewer tokens than forced": (faults.asking(max_tokens=lambda tokens: tokens - 2), "stopped-early"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_fault_costs_one_request_and_is_named(endpoint: Endpoint, name: str) -> None:
    fault, code = BAD[name]
    place = 0 if code == "connection" else 1  # what breaks on a connection used before is sent on another
    done = sent(endpoint, {place: fault})
    assert codes(done) == [code if row == place else "" for row in range(3)]
    assert code in ERRORS and EXPLAINED[code].endswith(".")
    figures = scored(done)
    assert (figures.arrived, figures.finished, figures.failed) == (3, 2, 1)
    assert figures.latency["e2e"].quantiles_s[0.99] == math.inf
    measured = done.trace.measured
    assert measured is not None and measured.e2e_s is not None
    assert np.isfinite(measured.e2e_s).tolist() == [row != place for row in range(3)]


def test_a_connection_that_the_server_gave_up_is_not_the_requests_fault(endpoint: Endpoint) -> None:
    # one after the other: a request that came before the last one's answer had ended would open a connection of its own
    done = sent(endpoint, {1: faults.reset_at_once, 3: faults.refused_after_reading}, concurrency=1)
    assert codes(done) == ["", "", ""]
    assert done.client.retried == 2
    assert "2 times a request was sent again: the connection had served before" in explained(done)


SLOW: dict[str, tuple[Fault, str]] = {
    "no answer": (faults.hang(None), "stalled"),
    "no first token": (faults.hang(0), "stalled"),
    "in the middle": (faults.hang(2), "stalled"),
    "a byte now and then": (faults.in_pieces(1, 0.05), "timeout"),
}


@pytest.mark.parametrize("name", SLOW)
def test_a_hung_server_is_given_up(endpoint: Endpoint, name: str) -> None:
    fault, code = SLOW[name]
    begun_s = time.monotonic()
    assert codes(sent(endpoint, {1: fault}, limits=IMPATIENT)) == ["", code, ""]
    assert time.monotonic() - begun_s < 8


def test_nothing_is_told_of_what_a_failed_request_did_to_others(endpoint: Endpoint) -> None:
    bad = {1: faults.status(500), 3: faults.cut(2), 4: faults.cut(0, reset=True), 6: faults.then(1, b"data: {\n\n")}
    done = sent(endpoint, bad, count=9)
    assert [place for place, code in enumerate(codes(done)) if code] == list(bad)
    good = [place for place in range(9) if place not in bad]
    measured = done.trace.measured
    assert measured is not None and measured.ttft_s is not None and measured.e2e_s is not None
    figures = scored(done)
    assert figures.latency["e2e"].mean_s == pytest.approx(measured.e2e_s[good].mean())
    assert figures.latency["e2e"].quantiles_s[0.5] == np.sort(measured.e2e_s[good])[4]  # rank 5 of 9, 4 infinite
    assert figures.latency["ttft"].quantiles_s[0.99] == math.inf
    assert measured.itl_offsets is not None
    assert np.diff(measured.itl_offsets)[good].tolist() == [OSL_TOKENS - 1] * len(good)


@pytest.mark.parametrize("later", [faults.status(429, Retry_After="1"), faults.later], ids=["seconds", "date"])
def test_who_is_told_to_come_later_does_and_has_waited(endpoint: Endpoint, later: Fault) -> None:
    done = sent(endpoint, {1: later}, concurrency=1)
    assert codes(done) == ["", "", ""]
    assert done.client.retried == 1
    assert done.trace.measured is not None and done.trace.measured.ttft_s is not None
    assert 0.9 < done.trace.measured.ttft_s[1] < 5


def test_waiting_as_told_is_no_stall(endpoint: Endpoint) -> None:
    limits = replace(IMPATIENT, request_timeout_s=5)
    assert codes(sent(endpoint, {1: faults.status(503, Retry_After="2")}, limits=limits)) == ["", "", ""]


def test_retries_end(endpoint: Endpoint) -> None:
    always = faults.status(503, Retry_After="0")
    done = sent(endpoint, dict.fromkeys(range(9), always), count=2, limits=replace(PATIENT, retries=2))
    assert codes(done) == ["status-503"] * 2
    assert done.client.retried == 4


def test_nobody_waits_longer_than_the_run(endpoint: Endpoint) -> None:
    begun_s = time.monotonic()
    done = sent(endpoint, {0: faults.status(429, Retry_After="86400")}, limits=replace(PATIENT, duration_s=2))
    assert codes(done)[0] != ""
    assert codes(done)[1:] == ["", ""]
    assert time.monotonic() - begun_s < 6


def test_nobody_listens(endpoint: Endpoint) -> None:
    nowhere = replace(endpoint, url=f"http://127.0.0.1:{free_port()}")
    assert codes(send(load(3), nowhere, Stories(), PATIENT)) == ["refused"] * 3


def test_a_name_that_nobody_has(endpoint: Endpoint) -> None:
    nowhere = replace(endpoint, url="http://headway.invalid:8000")
    with pytest.raises(InputError, match=r"headway\.invalid"):
        send(load(1), nowhere, Stories(), PATIENT)


#: what is wrong with a certificate -> how it is made, whether its authority is trusted, what is said of it
CERTIFICATES: dict[str, tuple[dict[str, str], bool, str]] = {
    "nobody signed": ({}, False, "self-signed certificate"),
    "made out to another": ({"host": "DNS:elsewhere.example"}, True, "mismatch"),
    "expired": ({"until": "20200102000000Z"}, True, "has expired"),
}


@pytest.mark.parametrize("name", CERTIFICATES)
def test_a_certificate_that_is_not_good(
    endpoint: Endpoint, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, trusted, words = CERTIFICATES[name]
    tls = faults.self_signed(tmp_path, **made)
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(tls[0]))
    done = sent(endpoint, {}, tls=tls)
    assert codes(done) == ["tls"] * 3
    assert re.search(f"certificate is refused: .*{words}", explained(done))


def test_a_private_authority_can_be_trusted(
    endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tls = faults.self_signed(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(tls[0]))
    assert codes(sent(endpoint, {}, tls=tls)) == [""] * 3


def test_no_tls_where_it_is_asked_for(endpoint: Endpoint) -> None:
    with faults.proxy(endpoint.url, {}) as between:
        done = send(load(2), replace(endpoint, url=secured(between.url)), Stories(), PATIENT)
    assert codes(done) == ["tls"] * 2
    assert "speaks http there: give http://" in explained(done)


def test_a_handshake_that_nobody_answers(endpoint: Endpoint) -> None:
    # llama-server waits for a line of HTTP
    done = send(load(2), replace(endpoint, url=secured(endpoint.url)), Stories(), IMPATIENT)
    assert codes(done) == ["tls"] * 2
    assert "speaks http there: give http://" in explained(done)


def test_tls_where_it_is_not_asked_for(endpoint: Endpoint, tmp_path: Path) -> None:
    with faults.proxy(endpoint.url, {}, faults.self_signed(tmp_path)) as between:
        done = send(load(2), replace(endpoint, url=plain(between.url)), Stories(), PATIENT)
    assert codes(done) == ["tls"] * 2
    assert "speaks https there: give https://" in explained(done)


def test_discovery_says_what_is_wrong_with_tls(
    endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headway.probe.asking.PATIENCE_S", 1.0)
    with pytest.raises(InputError, match=r"speaks http, not https.*give http://127"):
        discover(secured(endpoint.url))
    with faults.proxy(endpoint.url, {}, faults.self_signed(tmp_path)) as between:
        with pytest.raises(InputError, match=r"speaks https, not http.*give https://127"):
            discover(plain(between.url))
        with pytest.raises(InputError, match=r"certificate is refused: self-signed.*SSL_CERT_FILE"):
            discover(between.url)


def test_a_redirect_is_not_followed(endpoint: Endpoint) -> None:
    with faults.proxy(endpoint.url, {}) as elsewhere:
        away = faults.status(307, Location=f"{elsewhere.url}/v1/completions")
        done = sent(endpoint, {1: away}, key=Key(SECRET, "test"))
        assert codes(done) == ["", "redirected", ""]
        assert elsewhere.seen == []


@pytest.mark.parametrize("route", ["/v1/models", "/metrics", "/props"])
def test_a_redirected_question_is_not_asked_elsewhere(endpoint: Endpoint, route: str) -> None:
    with faults.proxy(endpoint.url, {}) as elsewhere:
        away = faults.status(307, Location=f"{elsewhere.url}{route}?token=1")
        with (
            faults.proxy(endpoint.url, {route: away}) as between,
            pytest.raises(InputError, match=rf"points elsewhere \(307\).*itself: {elsewhere.url}\)$"),
        ):
            discover(between.url, key=Key(SECRET, "test"))
        assert {headers.get("Authorization") for headers in between.seen} == {f"Bearer {SECRET}"}
        assert elsewhere.seen == []


@pytest.mark.parametrize("code", [301, 303, 307])
def test_a_redirected_question_to_prometheus_is_not_asked_elsewhere(endpoint: Endpoint, code: int) -> None:
    with faults.proxy(endpoint.url, {}) as elsewhere:
        away = faults.status(code, Location=elsewhere.url)
        with (
            faults.proxy(endpoint.url, {"/api/v1/query_range": away}) as between,
            pytest.raises(InputError, match="points elsewhere"),
        ):
            from_prometheus(between.url, 0.0, 1.0, 1.0, key=Key(SECRET, "test"))
        assert between.seen
        assert elsewhere.seen == []


def test_the_key_is_sent_and_shown_to_nobody(endpoint: Endpoint, capfd: pytest.CaptureFixture[str]) -> None:
    script = {1: faults.quoting_the_key, 2: faults.cut(1)}
    with faults.proxy(endpoint.url, script) as between:
        done = send(load(4), replace(endpoint, url=between.url), Stories(), PATIENT, key=Key(SECRET, "test"))
        assert {headers["Authorization"] for headers in between.seen} == {f"Bearer {SECRET}"}
    assert codes(done) == ["", "status-4xx", "disconnected", ""]
    assert SECRET not in repr(done)
    assert SECRET not in "".join(capfd.readouterr())


def test_the_wall_clock_jumps(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    begun_s, real = time.monotonic(), time.time
    monkeypatch.setattr(time, "time", lambda: real() + (3600 if time.monotonic() > begun_s + 0.3 else 0))
    done = send(load(6), endpoint, Stories(), PATIENT)
    assert codes(done) == [""] * 6
    assert done.client.clock_jump_s == pytest.approx(3600, abs=1)
    assert any("clock" in warning for warning in done.client.warnings)
    measured = done.trace.measured
    assert measured is not None and measured.e2e_s is not None
    assert (measured.e2e_s < 30).all()


def test_tokens_that_come_together_are_no_gaps_of_zero_in_a_tpot(endpoint: Endpoint) -> None:
    done = sent(endpoint, {1: faults.at_once})
    measured = done.trace.measured
    assert measured is not None and measured.output_tokens is not None
    assert measured.output_tokens.tolist() == [OSL_TOKENS] * 3


def test_an_answer_that_comes_all_at_once_has_a_tpot_that_nobody_can_tell(endpoint: Endpoint) -> None:
    tpot = scored(sent(endpoint, dict.fromkeys(range(3), faults.at_once))).latency["tpot"]
    assert (tpot.samples, tpot.unknown) == (0, 3)
    done = sent(endpoint, {0: faults.at_once, 1: faults.in_pieces(40, 0.01), 2: faults.in_pieces(40, 0.01)})
    tpot = scored(done).latency["tpot"]
    assert (tpot.samples, tpot.unknown) == (2, 1)
    assert tpot.at(0.5) > 0
    assert "1 answers of several tokens came all at once" in explained(done)
    assert codes(done) == ["", "", ""]


def test_a_closed_loop_goes_on_after_faults(endpoint: Endpoint) -> None:
    script = {0: faults.reset_at_once, 1: faults.status(500), 2: faults.hang(1), 5: faults.cut(2, reset=True)}
    done = sent(endpoint, script, count=8, limits=IMPATIENT, concurrency=2)
    assert sorted(code for code in codes(done) if code) == ["connection", "disconnected", "stalled", "status-5xx"]


#: so long that wherever a message is cut, a piece of it may be left
LONG_SECRET = "sk-" + "".join(f"{number:03}Qz" for number in range(34))
PADS = (0, 40, 150, 390)
QUOTES: dict[str, tuple[bytes, bytes, int]] = {
    "a refusal": (b'{"error": {"message": "Received ', b'"}}', 400),
    "a refusal in words": (b"Received ", b"", 401),
    "an error in plain JSON": (b'{"error": {"message": "Received ', b'"}}', 200),
    "a page": (b"<html>", b"</html>", 200),
    "a chunk that is no JSON": (b"data: {Received ", b"\n\n", 200),
    "an error inside": (b'data: {"error": {"message": "Received ', b'"}}\n\n', 200),
}


@pytest.mark.parametrize("name", QUOTES)
def test_no_piece_of_a_long_key_is_left(endpoint: Endpoint, name: str) -> None:
    before, after, code = QUOTES[name]
    for pad in PADS:
        quoting = faults.saying(before + b"x" * pad, after, code=code)
        done = sent(endpoint, {0: quoting}, count=1, key=Key(LONG_SECRET, "test"))
        assert codes(done) != [""]
        assert "xxx" in repr(done) or not pad, "the server's words are shown"
        assert not [at for at in range(len(LONG_SECRET) - 8) if LONG_SECRET[at : at + 8] in repr(done)]


def test_a_server_says_in_plain_words_what_it_lacks(endpoint: Endpoint) -> None:
    said = b'{"error": {"message": "the engine is dead"}}'
    done = sent(endpoint, {1: without_stream(said)})
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
