"""Keys that nobody sees, addresses, Retry-After, and the chunks of engines."""

from __future__ import annotations

import asyncio
import json
import pickle
import pkgutil
import re
import socket
import threading
import time
from email.utils import formatdate
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("aiohttp")

from headway import probe
from headway.errors import InputError
from headway.probe.address import base_of, checked_address
from headway.probe.apart import apart
from headway.probe.bodies import Answer
from headway.probe.costs import limits
from headway.probe.faults import EXPLAINED, code_of_status
from headway.probe.flight import retry_after_s
from headway.probe.handshake import spoken_instead
from headway.probe.keys import Key
from headway.probe.nouns import ERRORS
from headway.probe.reading import Reading, shortened
from headway.probe.turns import Ready, Turns
from headway.types import Requests


def test_a_key_shows_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SOME_KEY", " sk-1234 \n")
    (tmp_path / "key").write_text("sk-1234\n")
    for key in (Key.from_environment("SOME_KEY"), Key.from_file(tmp_path / "key")):
        assert key.authorization == "Bearer sk-1234"
        assert "1234" not in f"{key!r} {key} {key.source}"
        assert key.hidden_in("no such key: sk-1234!") == "no such key: …!"
        with pytest.raises(TypeError):
            pickle.dumps(key)


@pytest.mark.parametrize("secret", ["", "  ", "sk-12\n34", "sk 12", "schlüssel"])
def test_a_bad_key_is_not_quoted(secret: str) -> None:
    with pytest.raises(InputError) as error:
        Key(secret, "$SOME_KEY")
    assert "$SOME_KEY" in str(error.value) and (not secret.strip() or secret not in str(error.value))


def test_keys_that_are_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SOME_KEY", raising=False)
    with pytest.raises(InputError, match=r"SOME_KEY.*not set"):
        Key.from_environment("SOME_KEY")
    with pytest.raises(InputError, match="cannot read"):
        Key.from_file(tmp_path / "absent")


@pytest.mark.parametrize(
    ("url", "base", "port"),
    [
        ("http://127.0.0.1:8000/", "http://127.0.0.1:8000", 8000),
        ("http://localhost:8000/v1", "http://localhost:8000", 8000),
        ("https://host/some/v1/", "https://host/some", 443),
        ("http://[::1]:80/v1", "http://[::1]:80", 80),
    ],
)
def test_addresses_are_told_without_v1(url: str, base: str, port: int) -> None:
    assert (base_of(url)[0], base_of(url)[2]) == (base, port)


@pytest.mark.parametrize(
    "url", ["", "host:8000", "ftp://host", "http://", "http://u:secret@127.0.0.1", "http://h?k=1", "http://h:99999"]
)
def test_bad_addresses_are_refused(url: str) -> None:
    with pytest.raises(InputError) as error:
        base_of(url)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    "host", ["8.8.8.8", "169.254.169.254", "[2001:4860:4860::8888]", "[::ffff:8.8.8.8]", "100.64.0.1", "134744072"]
)
def test_public_addresses_need_the_flag(host: str) -> None:
    with pytest.raises(InputError, match="--allow-public"):
        checked_address(f"http://{host}:8000")
    assert checked_address(f"http://{host}:8000", allow_public=True).resolved


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "10.1.2.3", "192.168.0.9", "172.31.0.1", "[fd00::1]", "0.0.0.0"]
)
def test_private_addresses_need_none(host: str) -> None:
    assert checked_address(f"http://{host}:8000").port == 8000


def test_a_name_nobody_knows() -> None:
    with pytest.raises(InputError, match="has no address"):
        checked_address("http://nobody.invalid:8000")


def test_retry_after() -> None:
    assert retry_after_s("3") == 3
    assert retry_after_s(formatdate(time.time() + 100, usegmt=True)) == pytest.approx(100, abs=2)
    assert retry_after_s(formatdate(time.time() - 100, usegmt=True)) == 0
    assert retry_after_s("") is None and retry_after_s("soon") is None
    assert retry_after_s("²") is None and retry_after_s("٣") is None, "digits to Python, none to HTTP"
    assert retry_after_s("1 Jan 99999999999999999999 00:00:00 GMT") is None


def test_a_few_milliseconds_late_limit_nothing_but_what_lasts_milliseconds() -> None:
    late_s, lag_s, gaps_s = np.linspace(0.0, 0.0053, 50), np.append(np.zeros(49), 0.002), np.full(50, 0.02)
    slow_s = np.linspace(0.2, 0.9, 50)
    assert limits(0.3, slow_s, late_s, gaps_s, lag_s) == []
    (found,) = limits(0.3, np.linspace(0.025, 0.03, 50), late_s, gaps_s, lag_s)
    assert found == (
        "The client may have added 7 ms to the p99 of TTFT, 30 ms: more than the 20 % that do not matter."
    ), "the latest were the slowest"
    assert limits(0.3, np.linspace(0.035, 0.025, 50), late_s, gaps_s, lag_s) == [], "the latest were the quickest"
    found, _ = limits(0.3, slow_s, late_s, gaps_s, np.linspace(0.0, 0.005, 50))
    assert found.startswith("The client may have added 2.45 ms to the p50 of ITL, 20 ms")


def test_chunks_that_came_together_are_no_fault_of_the_client() -> None:
    slow_s, none_s, lag_s = np.full(50, 0.5), np.zeros(50), np.full(50, 0.002)
    assert limits(0.3, slow_s, none_s, np.zeros(50), lag_s) == []
    assert limits(0.3, slow_s, none_s, np.append(np.zeros(40), np.full(10, 0.02)), lag_s) == [], "p50 is 0, p99 20 ms"
    assert len(limits(0.3, slow_s, none_s, np.full(50, 0.004), lag_s)) == 2


def test_nobody_speaks_where_nobody_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        assert spoken_instead("http", "127.0.0.1", taken.getsockname()[1]) == ""


def test_every_code_is_explained() -> None:
    assert set(EXPLAINED) == set(ERRORS) - {""}
    assert {code_of_status(s) for s in (302, 400, 429, 500, 503)} <= set(ERRORS)


def read(*chunks: Any) -> Reading:
    reading = Reading()
    raw = b"".join(b"data: " + (c if isinstance(c, bytes) else json.dumps(c).encode()) + b"\n\n" for c in chunks)
    for _ in reading.slices(raw):
        pass
    return reading


def chat(finish: str | None = None, **delta: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


def test_chunks_of_a_chat() -> None:
    role = chat(role="assistant", content="")
    usage = {"choices": [], "usage": {"prompt_tokens": 4, "completion_tokens": 4, "prompt_tokens_details": None}}
    reading = read(
        role, chat(reasoning_content="hm"), chat(content="a"), chat(content=""), chat("stop", content="b"), usage
    )
    assert (len(reading.ends), "".join(reading.text), reading.output_tokens) == (4, "ab", 4)
    assert reading.finished and not reading.code and reading.cached_tokens == -1


def test_a_completion_of_llama_server() -> None:
    text = {"choices": [{"text": "a", "finish_reason": None}]}
    last = {
        "choices": [{"text": "", "finish_reason": "length"}],
        "timings": {"cache_n": 7, "prompt_n": 3, "predicted_n": 2},
    }
    reading = read(text, text, last, b"[DONE]")
    assert len(reading.ends) == 2
    assert (reading.input_tokens, reading.cached_tokens, reading.output_tokens) == (10, 7, 2)


def test_token_ids_are_kept() -> None:
    reading = read({"choices": [{"text": "", "token_ids": [5, 6], "finish_reason": "length"}]})
    assert reading.token_ids == [5, 6] and len(reading.ends) == 1


@pytest.mark.parametrize(
    ("chunk", "code"),
    [
        (b"{nonsense", "malformed"),
        (b"[1]", "malformed"),
        ({"choices": 3}, "malformed"),
        ({"choices": [3]}, "malformed"),
        ({"choices": [{}]}, "malformed"),
        ({"error": {"message": "out of\nmemory"}}, "server-error"),
    ],
)
def test_bad_chunks(chunk: Any, code: str) -> None:
    good = {"choices": [{"text": "a", "finish_reason": None}]}
    reading = read(good, chunk, good)
    assert reading.code == code and reading.message and len(reading.ends) == 1


@pytest.mark.parametrize(
    "chunk",
    [
        b"[" * 200_000,
        b'{"choices": [], "usage": {"prompt_tokens": 1e999}}',
        b'{"choices": [], "usage": {"completion_tokens": 1' + b"0" * 30 + b"}}",
        b'{"choices": [{"text": "a", "token_ids": [1e999]}]}',
    ],
)
def test_a_chunk_beyond_all_bounds_is_malformed(chunk: bytes) -> None:
    assert read(chunk, chat(content="a")).code == "malformed"


def test_a_text_that_is_none_is_a_token_without_a_text() -> None:
    reading = read({"choices": [{"text": 7, "finish_reason": "length"}]})
    assert ("".join(reading.text), len(reading.ends), reading.code) == ("", 1, "")


@pytest.mark.parametrize(
    ("raw", "code", "words"),
    [
        (b'{"error": {"message": "the engine is dead"}}', "server-error", "the engine is dead"),
        (b'{"error": "out of memory"}', "server-error", "out of memory"),
        (b"<html>Bad gateway</html>", "malformed", "Bad gateway"),
        (b'{"choices": []}', "malformed", "choices"),
        (b"", "", ""),
    ],
)
def test_an_answer_that_is_no_stream_is_quoted(raw: bytes, code: str, words: str) -> None:
    reading = Reading()
    for _ in reading.slices(raw):
        pass
    assert reading.code == code
    assert words in reading.message


def test_what_is_shown_of_a_message_is_one_line_that_no_terminal_obeys() -> None:
    assert shortened("out of\nmemory \x1b[2J\r\n") == "out of memory �[2J"
    assert len(shortened("x" * 1000)) == 200


def test_a_key_is_found_where_it_was_escaped() -> None:
    key = Key('a/b"c\\d', "test")
    for quoted in ('a/b"c\\d', r"a\/b\"c\\d", repr('a/b"c\\d'), json.dumps({"key": 'a/b"c\\d'})):
        assert "b" not in key.hidden_in(quoted)


def test_what_goes_apart_comes_back_and_is_waited_for_by_nobody_who_left() -> None:
    def fails() -> None:
        raise InputError("nobody answers")

    async def run() -> None:
        assert await apart(divmod, 7, 2) == (3, 1)
        assert await apart(threading.get_ident) != threading.get_ident()
        with pytest.raises(InputError, match="nobody answers"):
            await apart(fails)
        waiting = asyncio.create_task(apart(for_ever.wait))
        await asyncio.sleep(0)
        waiting.cancel()

    for_ever = threading.Event()
    asyncio.run(run())  # to end, it must not wait for the thread
    for_ever.set()


def test_all_later_turns_share_what_was_noted_of_an_answer() -> None:
    ones, seen = np.ones(3, np.int64), []

    class Bodies:
        path, forced = "/v1/completions", True

        def body(self, row: int, answers: dict[int, Answer]) -> bytes:
            seen.append([answers[turn].token_ids for turn in sorted(answers)])
            for turn, answer in answers.items():
                answer.token_ids = (turn,)
            return b""

    async def run() -> None:
        turns = Turns(Requests(arrive_s=np.zeros(3), isl_tokens=ones, osl_tokens=ones, session_id=np.zeros(3)))
        ready = Ready(Bodies(), turns, 3)
        for row in range(3):
            await ready.take(row)
            turns.over(row, "", 0.0, "said", [])

    asyncio.run(run())
    assert seen == [[], [None], [(0,), None]]


def test_the_room_names_its_modules() -> None:
    said = probe.__doc__ or ""
    modules = [one.name for one in pkgutil.iter_modules(probe.__path__)]
    assert len(modules) > 25
    assert [name for name in modules if not re.search(rf"`{name}[`.]", said)] == []
