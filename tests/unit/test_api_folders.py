"""What is written is whole or not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from headway.api import folders
from headway.api.folders import new_file, write_file, write_folder
from headway.errors import InputError

FILES = {"plan.json": b"{}\n", "latency.png": b"\x89PNG"}


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_a_folder_is_made_with_its_parents(tmp_path: Path) -> None:
    write_folder(tmp_path / "a" / "b", FILES)
    assert content(tmp_path / "a" / "b") == FILES
    assert names(tmp_path / "a") == ["b"], "nothing temporary is left"


def test_a_folder_of_the_same_names_is_replaced(tmp_path: Path) -> None:
    write_folder(tmp_path / "out", FILES)
    newer = {"plan.json": b"[]\n", "latency.png": b""}
    write_folder(tmp_path / "out", newer)
    assert content(tmp_path / "out") == newer
    assert names(tmp_path) == ["out"]


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    write_folder(tmp_path / "out", FILES)
    assert content(tmp_path / "out") == FILES


def test_somebody_elses_file_is_never_deleted(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.md").write_text("mine")
    with pytest.raises(InputError, match=r"notes\.md.*new or empty folder"):
        write_folder(tmp_path / "out", FILES)
    assert content(tmp_path / "out") == {"notes.md": b"mine"}


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, OSError(28, "No space left on device")])
@pytest.mark.parametrize("nth", [1, 2])
def test_interrupted_writing_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interruption: BaseException, nth: int
) -> None:
    write_folder(tmp_path / "out", FILES)
    write, calls = Path.write_bytes, []

    def failing(path: Path, data: bytes) -> int:
        calls.append(path)
        if len(calls) == nth:
            raise interruption
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", failing)
    with pytest.raises((KeyboardInterrupt, InputError)):
        write_folder(tmp_path / "out", {"plan.json": b"new", "latency.png": b"new"})
    assert content(tmp_path / "out") == FILES
    assert names(tmp_path) == ["out"]


def test_a_swap_that_fails_puts_the_old_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "out", FILES)
    rename = Path.rename

    def failing(path: Path, target: Path) -> Path:
        if path.name == "new":
            raise OSError(5, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(InputError, match="Input/output error"):
        write_folder(tmp_path / "out", FILES)
    assert content(tmp_path / "out") == FILES


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(InputError):
        write_folder(tmp_path / "out", FILES)
    assert (tmp_path / "out").read_text() == "mine"


def test_a_file_is_written_whole_or_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_file(tmp_path / "a", b"old")
    monkeypatch.setattr(folders.Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(5, "Input/output error")))
    with pytest.raises(InputError, match="Input/output error"):
        write_file(tmp_path / "a", b"new")
    assert content(tmp_path) == {"a": b"old"}


def test_a_new_file_never_overwrites(tmp_path: Path) -> None:
    new_file(tmp_path / "a", b"first")
    with pytest.raises(InputError, match="not overwritten"):
        new_file(tmp_path / "a", b"second")
    assert (tmp_path / "a").read_bytes() == b"first"


def test_a_missing_parent_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        new_file(tmp_path / "no" / "a", b"x")
