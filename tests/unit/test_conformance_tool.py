"""tools/conformance.py: what it says of a folder, and how it ends."""

from __future__ import annotations

import gzip
import importlib.util
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from headway.simulator import Simulation, simulate
from headway.types import Replica, Requests

ROOT = Path(__file__).parents[2]
SMALL = ROOT / "tests" / "golden" / "schedule.jsonl"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("conformance", ROOT / "tools" / "conformance.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["conformance"] = module  # what is sent to other processes is found by its name
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(
    tool: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, list[str], str]]:
    def called(*words: object) -> tuple[int, list[str], str]:
        monkeypatch.setattr(sys, "argv", ["conformance.py", *map(str, words)])
        code = tool.main()
        said = capsys.readouterr()
        return code, said.out.splitlines(), said.err

    return called


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One that is equal, one with another number, one cut short, and what is no recording."""
    content = SMALL.read_bytes()
    (tmp_path / "equal.jsonl").write_bytes(content)
    (tmp_path / "other.jsonl.gz").write_bytes(gzip.compress(content.replace(b'"free":5,', b'"free":4,')))
    (tmp_path / "short.jsonl").write_bytes(content[:-200])
    (tmp_path / "INDEX.json").write_text("[]")
    return tmp_path


def test_a_folder(run: Callable[..., tuple[int, list[str], str]], folder: Path) -> None:
    code, lines, errors = run(folder)
    assert code == 1
    assert errors == "", "no progress where nobody watches"
    assert lines[-1] == "1 of 3 equal"
    assert lines[0].split(maxsplit=3) == ["equal.jsonl", "3", "steps", "equal, both engines; sync, prefix hits"]
    assert "other.jsonl.gz" in lines[1] and "step 1, free: expected 4, found 5" in lines[1]
    assert "short.jsonl" in lines[2] and "line 7: not a JSON object" in lines[2]
    assert "first difference: step 1, free: expected 4, found 5" in lines


def test_differences_shown_can_be_limited(run: Callable[..., tuple[int, list[str], str]], folder: Path) -> None:
    _, lines, _ = run(folder, "--show", 0)
    assert len(lines) == 4
    assert lines[-1] == "1 of 3 equal"


def test_all_equal(run: Callable[..., tuple[int, list[str], str]], tmp_path: Path) -> None:
    (tmp_path / "one.jsonl").write_bytes(SMALL.read_bytes())
    code, lines, _ = run(tmp_path)
    assert (code, lines[-1]) == (0, "1 of 1 equal")


def test_as_json(run: Callable[..., tuple[int, list[str], str]], folder: Path) -> None:
    code, lines, _ = run(folder, "--json")
    found = json.loads("\n".join(lines))
    assert code == 1
    assert found["verdict"] == "1 of 3 equal"
    assert [bool(one["problem"]) for one in found["files"]] == [False, True, True]


def test_one_file(run: Callable[..., tuple[int, list[str], str]], folder: Path) -> None:
    code, lines, _ = run(SMALL)
    assert (code, lines[0].split()[0], lines[-1]) == (0, "schedule.jsonl", "1 of 1 equal")
    code, lines, _ = run(folder / "other.jsonl.gz")
    assert (code, lines[-1]) == (1, "0 of 1 equal")


def changed(path: Path, line: int, part: str, fields: dict[str, object]) -> Path:
    """Copy the small recording with more said in one line (of one of its objects)."""
    rows = [json.loads(text) for text in SMALL.read_text(encoding="utf-8").splitlines()]
    (rows[line][part] if part else rows[line]).update(fields)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize(("line", "part", "name"), [(0, "effective", ""), (0, "totals", ""), (1, "", "req")])
def test_what_a_newer_recording_says_besides_is_named_and_not_read(
    run: Callable[..., tuple[int, list[str], str]], tmp_path: Path, line: int, part: str, name: str
) -> None:
    code, lines, _ = run(changed(tmp_path / "newer.jsonl", line, part, {"later": [1]}))
    assert (code, lines[-1]) == (0, "1 of 1 equal")
    assert lines[0].endswith(f"prefix hits; not read: {part or name}.later")


def test_other_settings_are_named_before_what_came_of_them(
    run: Callable[..., tuple[int, list[str], str]], tmp_path: Path
) -> None:
    fewer = changed(tmp_path / "fewer.jsonl", 0, "effective", {"max_num_seqs": 3})
    more = changed(tmp_path / "more.jsonl", 0, "effective", {"max_num_seqs": 4})
    more.write_text(more.read_text(encoding="utf-8").replace('"free": 5,', '"free": 4,'), encoding="utf-8")
    assert "first difference: meta, effective.max_num_seqs: expected 3, found 4" in run(fewer, more)[1]


def test_other_counts_of_requests_are_said(run: Callable[..., tuple[int, list[str], str]], tmp_path: Path) -> None:
    rows = [json.loads(line) for line in SMALL.read_text(encoding="utf-8").splitlines()]
    rows[0] |= {"n_requests": 1, "n_steps": 0}
    rows = [row for row in rows if row.get("id") != "b" and row["type"] != "step"]
    (tmp_path / "one.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert "first difference: meta, n_requests: expected 2, found 1" in run(SMALL, tmp_path / "one.jsonl")[1]


def test_two_files(run: Callable[..., tuple[int, list[str], str]], folder: Path) -> None:
    assert run(SMALL, folder / "equal.jsonl")[::2] == (0, "")
    code, lines, _ = run(SMALL, folder / "other.jsonl.gz")
    assert (code, lines[-1]) == (1, "0 of 1 equal")
    code, lines, errors = run(SMALL, folder / "short.jsonl")
    assert (code, lines) == (2, [])
    assert errors.startswith(f"error: {folder / 'short.jsonl'}: ") and "line 7: not a JSON object" in errors


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_nothing_to_compare(run: Callable[..., tuple[int, list[str], str]], tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    code, lines, errors = run(tmp_path / name)
    assert (code, lines) == (2, [])
    assert errors == f"error: {tmp_path / name}: expected a recording, or a folder with files *.jsonl or *.jsonl.gz\n"


def test_whatever_ends_a_simulation_is_a_difference(
    tool: ModuleType, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_schedule: object) -> None:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(tool, "again", fails)
    assert tool.judged(folder / "equal.jsonl").problem == "ZeroDivisionError: planted"


def test_the_engine_that_jumps_is_held_to_it_too(
    tool: ModuleType, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(requests: Requests, replica: Replica) -> Simulation:
        found = simulate(requests, replica)
        return replace(found, last_ps=found.last_ps + 1000)

    monkeypatch.setattr(tool, "simulate", late)
    assert tool.judged(folder / "equal.jsonl").problem == "jumping, request a, fin: expected 519, found 520"
