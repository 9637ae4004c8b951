"""The loop of `watch`: what ends it and what does not, what is refused before it begins, and the lines it prints."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from test_watching import calibration

from headway.api import watch, watches
from headway.cli import main
from headway.errors import EvidenceError, HeadwayError, InputError
from headway.perf.endpoint_writer import write_calibration
from headway.probe.nouns import Scrape
from headway.probe.settings import DEFAULTS
from headway.probe.signals import table

if TYPE_CHECKING:
    from collections.abc import Callable

URL = "http://127.0.0.1:9"
REFERENCE = Path(__file__).parents[2] / "docs" / "reference"
#: Seconds from arrival to end as the calibration has them of one request alone, and of a far slower server.
AS_EXPECTED, SLOW = 0.55, 4.0


def looked(e2e_s: float, engine: str = "vllm") -> Scrape:
    """A minute of one request per second, 100 tokens in and 50 out; one was in flight at both looks."""
    counted = {"requests": 60.0, "prompt_tokens": 6000.0, "generation_tokens": 3000.0}
    values = {name: np.array([0.0, increase]) for name, increase in counted.items()} | {"running": np.ones(2)}
    counts = np.array([[0.0, 0.0], [60.0, 60.0]])
    histograms = {"e2e_s": (np.array([100.0]), counts, np.array([0.0, 60.0 * e2e_s]))}
    names = {name: recipe.names[0] for name, recipe in table().engines[engine].items() if name in values}
    return Scrape(time_s=np.array([0.0, 60.0]), values=values, histograms=histograms, names=names, failed=0)


@pytest.fixture
def file(tmp_path: Path) -> str:
    write_calibration(tmp_path / "here.yaml", calibration())
    return str(tmp_path / "here.yaml")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[float]]:
    """Let the server's windows be these; returns what was slept meanwhile."""

    def windows(*these: Scrape | HeadwayError) -> list[float]:
        left, slept = list(these), list[float]()

        def look(*_what: object, **_more: object) -> Scrape:
            found = left.pop(0)
            if isinstance(found, HeadwayError):
                raise found
            return found

        monkeypatch.setattr(watches, "_live", look)
        monkeypatch.setattr(watches.time, "sleep", slept.append)
        return slept

    return windows


def test_only_the_first_window_may_fail(file: str, server: Callable[..., list[float]]) -> None:
    server(EvidenceError("does not answer"))
    with pytest.raises(EvidenceError, match="does not answer"):
        watch(file, url=URL, windows=2)


def test_a_window_that_fails_later_is_noted_and_the_evidence_kept(
    file: str, server: Callable[..., list[float]]
) -> None:
    down, refused = EvidenceError("does not answer"), InputError("the Prometheus server answers 500")
    slept = server(looked(AS_EXPECTED), looked(SLOW), looked(SLOW), down, refused, looked(SLOW))
    found = watch(file, url=URL, windows=6)
    assert [one.state for one in found.windows[:2]] == ["holds", "holds"]
    assert [one.state for one in found.windows[2:5]] == ["drifting", "not judged", "not judged"]
    assert found.judged == 4
    assert [one.note for one in found.windows] == ["", "", "", str(down), str(refused), ""]
    assert [one.traffic is None for one in found.windows] == [False, False, False, True, True, False]
    assert found.windows[-1].state == f"drifted since {found.windows[1].began}"
    assert len(slept) == 2 and min(slept) > watches.WINDOW_S - 10, "a window that fails lasts as long as any"


def test_the_metrics_of_another_engine_are_refused(file: str, server: Callable[..., list[float]]) -> None:
    server(looked(AS_EXPECTED, "sglang"))
    with pytest.raises(InputError, match="metrics of sglang, and 'here' is of vllm"):
        watch(file, url=URL, windows=1)
    server(looked(AS_EXPECTED), looked(SLOW, "sglang"))
    assert "metrics of sglang" in watch(file, url=URL, windows=2).windows[1].note


def test_every_engine_with_metrics_has_a_policy() -> None:
    assert table().engines.keys() <= DEFAULTS.keys()


REFUSED = {
    "--once --check": "3 are needed",
    "--windows 2 --check": "3 are needed",
    "--once --windows 4": "one of the two",
    "--windows 0": "windows",
    "--windows -3": "windows",
    "--osl 0": "osl",
    "--osl 0.5": "osl",
    "--osl nan": "osl",
    "--osl inf": "osl",
    "--tolerance inf": "tolerance",
    "--window 0s": "window",
}


@pytest.mark.parametrize(("options", "words"), REFUSED.items())
def test_what_cannot_be_is_refused_first(options: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["watch", "--calibration", "none-such", "--url", URL, *options.split()]) == 2
    assert words in capsys.readouterr().err


def test_a_short_check_is_possible_where_it_can_fail(file: str, server: Callable[..., list[float]]) -> None:
    server(looked(SLOW))
    words = ["watch", "--calibration", file, "--url", URL, "--once", "--check", "--false-alarm-windows", "10"]
    assert main(words) == 1


@pytest.mark.parametrize(("judged", "code"), [(0, 4), (2, 4), (3, 0)])
def test_a_check_of_a_server_that_says_nothing_does_not_pass(
    judged: int, code: int, file: str, server: Callable[..., list[float]], capsys: pytest.CaptureFixture[str]
) -> None:
    down = EvidenceError("does not answer")
    idle = replace(looked(AS_EXPECTED), values={"requests": np.zeros(2), "running": np.zeros(2)}, histograms={})
    server(idle, *[looked(AS_EXPECTED)] * judged, *[down] * (4 - judged))
    assert main(["watch", "--calibration", file, "--url", URL, "--windows", "5", "--check"]) == code
    said = capsys.readouterr()
    lines = [line.split("  ")[1] for line in said.out.splitlines() if not line.startswith(" ")]
    assert lines == ["not judged", *["holds"] * judged, *["not judged"] * (4 - judged)]
    assert (f"{judged} of 5 windows could be judged, 3 are needed" in said.err) is bool(code)


def test_what_has_drifted_stays_so_where_nothing_is_judged(file: str, server: Callable[..., list[float]]) -> None:
    server(*[looked(SLOW)] * 4, EvidenceError("does not answer"))
    found = watch(file, url=URL, windows=5)
    assert found.drifted and found.windows[4].state == found.windows[3].state


def test_the_lines_of_json_are_the_documents_of_the_reference(
    file: str, server: Callable[..., list[float]], capsys: pytest.CaptureFixture[str]
) -> None:
    server(looked(AS_EXPECTED), EvidenceError("does not answer"))
    assert main(["watch", "--calibration", file, "--url", URL, "--windows", "2", "--json"]) == 0
    *windows, last = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["schema"] for one in windows] == ["watch-window/1"] * 2
    assert last["schema"] == "watch/1"
    own = [{key: one[key] for key in one if key not in ("headway", "schema", "not_finite")} for one in windows]
    assert last["windows"] == own
    page = (REFERENCE / "json.md").read_text(encoding="utf-8")
    for heading, keys in (("### WatchedWindow", own[0]), ("## watch/1", last)):
        section = re.split(r"(?m)^##", page.partition(f"\n{heading}\n")[2])[0]
        documented = set(re.findall(r"(?m)^\| `(\w+)` ", section))
        assert documented == keys.keys() - {"headway", "schema", "not_finite"}
    assert "\n## watch-window/1\n" in page


def test_a_note_stands_below_the_figures(
    file: str, monkeypatch: pytest.MonkeyPatch, server: Callable[..., list[float]], capsys: pytest.CaptureFixture[str]
) -> None:
    from headway.calibration import watching

    server(looked(AS_EXPECTED))
    monkeypatch.setattr(watching, "expect", lambda *_what, **_more: {})
    assert main(["watch", "--calibration", file, "--url", URL, "--once"]) == 0
    assert "not every simulation of such traffic has e2e" in capsys.readouterr().out
