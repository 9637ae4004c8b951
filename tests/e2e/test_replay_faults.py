"""Every fault a real endpoint may show, between a real llama-server and the client: counted, explained, survived."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import faults
import numpy as np
import pytest
from faults import Fault
from llama import llama_server, needs_llama
from servers import free_port
from stories import IMPATIENT, OSL_TOKENS, PATIENT, SECRET, Stories, codes, explained, load, sent

from headway.errors import InputError
from headway.metrics import outcome
from headway.probe.client import send
from headway.probe.endpoint import discover
from headway.probe.faults import EXPLAINED
from headway.probe.keys import Key
from headway.probe.nouns import ERRORS, Endpoint, Sent
from headway.probe.scrape_files import from_prometheus
from headway.types import Outcome, Slo
from headway.workload.served import served_of

pytestmark = needs_llama


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Endpoint]:
    with llama_server() as url:
        yield discover(url)


def scored(done: Sent) -> Outcome:
    assert done.trace.measured is not None
    requests = done.trace.requests
    return outcome(requests, served_of(requests, done.trace.measured), Slo(objectives=()), "measured")


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
    "an error in plain JSON": (faults.without_stream(b'{"error": {"message": "the engine is dead"}}'), "server-error"),
    "a page": (faults.without_stream(b"<html>Bad gateway</html>"), "malformed"),
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
