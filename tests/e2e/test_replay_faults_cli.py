"""`headway replay` against a real llama-server behind a proxy that misbehaves: what a user reads, what lies on disk."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import faults
import pytest
from llama import llama_server, needs_llama

from headway.cli import main

pytestmark = needs_llama

SECRET = "sk-a-key-that-nobody-may-see"
TRACE = "arrive_s,isl_tokens,osl_tokens\n" + "".join(f"{0.2 * row:.1f},12,6\n" for row in range(8))
SCRIPT = {2: faults.quoting_the_key, 4: faults.cut(2, reset=True), 5: faults.then(1, b"data: {\n\n"), 6: faults.hang(1)}
CODES = {"status-4xx", "disconnected", "malformed", "stalled"}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with llama_server() as url:
        yield url


@pytest.fixture
def replay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADWAY_TEST_KEY", SECRET)
    monkeypatch.setenv("COLUMNS", "100")
    Path("few.csv").write_text(TRACE)
    return ["replay", "few.csv", "--stall", "1 s", "--timeout", "5 s", "--key-env", "HEADWAY_TEST_KEY"]


def test_faults_are_counted_and_the_key_is_nowhere(
    server: str, replay: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    with faults.proxy(server, SCRIPT) as between:
        code = main([*replay, "--url", between.url, "--out", "run", "--json"])
        numbered = [headers for headers in between.seen if headers.get("Authorization") == f"Bearer {SECRET}"]
    out, err = capfd.readouterr()
    assert code == 0, err
    assert numbered
    assert SECRET not in out + err
    written = [path for path in Path("run").rglob("*") if path.is_file()]
    assert written
    assert not [path for path in written if SECRET.encode() in path.read_bytes()]
    assert all(word in out for word in CODES)
    assert isinstance(json.loads(out), dict)


def test_the_page_explains_every_fault(server: str, replay: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    with faults.proxy(server, SCRIPT) as between:
        assert main([*replay, "--url", between.url]) == 0
    out = capfd.readouterr().out
    assert "4 of 8 requests" in " ".join(out.split())
    assert "4 failed" in out
    assert all(word in out for word in CODES)
    assert SECRET not in out


def test_a_run_of_nothing_but_failures_is_still_a_page(
    server: str, replay: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    with faults.proxy(server, dict.fromkeys(range(8), faults.status(500))) as between:
        code = main([*replay, "--url", between.url])
    out, err = capfd.readouterr()
    assert "Traceback" not in out + err
    assert code == 4, err
    assert "status-5xx" in out + err


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "http://headway.invalid:1", "http://user:secret@127.0.0.1:1"])
def test_an_address_that_cannot_be_asked_is_one_line(
    replay: list[str], url: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main([*replay, "--url", url]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert "Traceback" not in err
    assert "secret" not in err
