"""The client against a real llama-server: tokens, sessions, closed loops, hang-ups, budgets.

Needs build/witness-llama (`make witness-llama`); skipped where it is absent.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
from collections.abc import Iterator, Mapping

import numpy as np
import pytest
from llama import llama_server, needs_llama

from headway.errors import InputError
from headway.probe.bodies import Answer
from headway.probe.client import send
from headway.probe.flight import Flight
from headway.probe.keys import Key
from headway.probe.limits import Limits
from headway.probe.nouns import ERRORS, Endpoint, Load, Sent
from headway.types import Requests

pytestmark = needs_llama

#: Answers of plain letters: a token that ends inside a character has no chunk of its own.
LETTERS = {"grammar": "root ::= [a-z ]+"}


class Prompts:
    """Prompts of token ids, each with a beginning of its own."""

    def __init__(self, requests: Requests, *, chat: bool = False, **extra: object) -> None:
        self.requests, self.chat, self.extra, self.forced = requests, chat, extra, True
        self.path = "/v1/chat/completions" if chat else "/v1/completions"
        self.answers: dict[int, Mapping[int, Answer]] = {}

    def body(self, row: int, answers: Mapping[int, Answer]) -> bytes:
        self.answers[row] = answers
        ids = [1000 + (7 * row + k) % 5000 for k in range(int(self.requests.isl_tokens[row]))]
        text = {"messages": [{"role": "user", "content": f"Say {row}"}]} if self.chat else {"prompt": ids}
        most = {"max_tokens": int(self.requests.osl_tokens[row]), "ignore_eos": True}
        options = {"stream": True, "stream_options": {"include_usage": True}}
        return json.dumps(text | most | options | self.extra).encode()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with llama_server() as address:
        yield address


def endpoint(url: str) -> Endpoint:
    return Endpoint(
        url=url, engine="", version="", model="", settings=None, num_gpu_blocks=0, tokenizer="ids", metrics=False
    )


def requests_of(n: int, *, gap_s: float = 0.0, isl: int = 12, osl: int = 5, **more: object) -> Requests:
    column = np.full(n, 1, np.int64)
    return Requests(arrive_s=np.arange(n) * gap_s, isl_tokens=column * isl, osl_tokens=column * osl, **more)


def sent_to(url: str, load: Load, *, chat: bool = False, key: Key | None = None, **limits: object) -> Sent:
    return send(load, endpoint(url), Prompts(load.requests, chat=chat, **LETTERS), Limits(**limits), key=key)


def errors(sent: Sent) -> list[str]:
    return [ERRORS[code] for code in sent.trace.measured.error]


@pytest.mark.parametrize("chat", [False, True], ids=["completions", "chat"])
def test_every_token_is_timed(url: str, chat: bool) -> None:
    sent = sent_to(url, Load(name="open", requests=requests_of(6, gap_s=0.05)), chat=chat)
    measured = sent.trace.measured
    assert errors(sent) == [""] * 6
    assert (measured.output_tokens == 5).all()
    assert (np.diff(measured.itl_offsets) == 4).all()
    assert (measured.sent_s >= 0).all() and (measured.sent_s < measured.ttft_s).all()
    gaps = np.add.reduceat(measured.itl_s, measured.itl_offsets[:-1])
    assert np.allclose(measured.ttft_s + gaps, measured.e2e_s)
    assert chat or (measured.input_tokens == 12).all()
    assert (measured.cached_tokens >= 0).all()
    assert sent.client.chunks == 30 and sent.client.interrupted == ""


def test_a_closed_loop_keeps_so_many_in_flight(url: str) -> None:
    load = Load(name="closed", requests=requests_of(8), concurrency=2, turnaround_s=0.05)
    sent = sent_to(url, load)
    arrive_s, end_s = sent.trace.requests.arrive_s, sent.trace.requests.arrive_s + sent.trace.measured.e2e_s
    assert sent.client.most_in_flight == 2
    assert (arrive_s[:2] == 0).all()
    for row in range(2, 8):  # free again a pause after an end (the [DONE] behind the last token is what ends it)
        assert any(0.05 <= arrive_s[row] - one < 0.1 for one in end_s[:row])


def test_a_later_turn_waits_for_the_earlier_one_and_knows_its_answer(url: str) -> None:
    requests = requests_of(3, session_id=np.array([7, 8, 7]))
    prompts = Prompts(requests)
    sent = send(Load(name="s", requests=requests), endpoint(url), prompts)
    turns = {int(row): place for place, row in enumerate(sent.rows)}
    arrive_s, e2e_s = sent.trace.requests.arrive_s, sent.trace.measured.e2e_s
    assert arrive_s[turns[2]] >= arrive_s[turns[0]] + e2e_s[turns[0]]
    assert list(prompts.answers[2]) == [0] and prompts.answers[2][0].text
    assert not prompts.answers[0] and not prompts.answers[1]
    assert errors(sent) == [""] * 3


def test_it_hangs_up_when_the_load_says_so(url: str) -> None:
    requests = requests_of(2, osl=200, abort_s=np.array([0.4, np.nan]))
    sent = sent_to(url, Load(name="abort", requests=requests))
    assert sorted(errors(sent)) == ["", "cancelled"]
    assert np.isnan(sent.trace.measured.e2e_s).tolist() == [code != "" for code in errors(sent)]


def test_budgets_end_a_run(url: str) -> None:
    load = Load(name="budget", requests=requests_of(4, gap_s=0.3, osl=900))
    sent = sent_to(url, load, duration_s=0.5, requests=3)
    assert errors(sent) == ["interrupted", "interrupted", "not-sent", "not-sent"]
    assert "time budget" in sent.client.interrupted and sent.client.duration_s < 2


def test_ctrl_c_keeps_what_there_is_so_far(url: str) -> None:
    async def slow_scrape(_now_s: object, ended: asyncio.Event) -> None:
        await ended.wait()
        await asyncio.sleep(0.4)  # the second Ctrl-C comes while the run is finishing

    load = Load(name="ctrl-c", requests=requests_of(3, gap_s=0.6, osl=5))
    for delay_s in (0.8, 1.0):
        threading.Timer(delay_s, os.kill, (os.getpid(), signal.SIGINT)).start()
    sent = send(load, endpoint(url), Prompts(load.requests), scrape=slow_scrape)
    assert errors(sent)[0] == "" and errors(sent)[2] == "not-sent"
    assert sent.client.interrupted == "Ctrl-C"


def test_ctrl_c_within_a_burst_sends_no_more_of_it(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted_at_10(row: int) -> Flight:
        if row == 10:
            os.kill(os.getpid(), signal.SIGINT)
        return Flight(row)

    monkeypatch.setattr("headway.probe.client.Flight", interrupted_at_10)
    sent = sent_to(url, Load(name="burst", requests=requests_of(30)))
    assert set(errors(sent)) <= {"interrupted", "not-sent"}
    assert errors(sent)[10:] == ["not-sent"] * 20
    assert sent.client.interrupted == "Ctrl-C"


def test_it_works_outside_the_main_thread(url: str) -> None:
    found: list[Sent] = []
    load = Load(name="thread", requests=requests_of(1))
    worker = threading.Thread(target=lambda: found.append(sent_to(url, load)))
    worker.start()
    worker.join()
    assert errors(found[0]) == [""]


def test_a_timeout_and_a_stall_are_told_apart(url: str) -> None:
    long = Load(name="long", requests=requests_of(1, osl=900))
    assert errors(sent_to(url, long, request_timeout_s=0.5)) == ["timeout"]
    slow = Load(name="slow", requests=requests_of(1, isl=900))
    assert errors(sent_to(url, slow, stall_timeout_s=0.3)) == ["stalled"]


def test_what_the_server_refuses_is_explained(url: str) -> None:
    sent = sent_to(url, Load(name="long", requests=requests_of(2, isl=5000)))
    assert errors(sent) == ["status-4xx"] * 2
    assert any("2 × status-4xx" in line and "context" in line for line in sent.client.warnings)


def test_nobody_listens() -> None:
    sent = sent_to("http://127.0.0.1:9", Load(name="none", requests=requests_of(2)))
    assert errors(sent) == ["refused"] * 2 and np.isnan(sent.trace.measured.ttft_s).all()


def test_a_public_address_is_refused() -> None:
    with pytest.raises(InputError, match=r"192\.0\.2\.1.*--allow-public"):
        sent_to("http://192.0.2.1:8000", Load(name="none", requests=requests_of(1)))


def test_the_key_is_nowhere_in_the_result(url: str) -> None:
    sent = sent_to(url, Load(name="key", requests=requests_of(1)), key=Key("sk-very-secret", "test"))
    assert errors(sent) == [""] and "secret" not in repr(sent)
