"""Writes a result's files so that what is seen is always whole: under a temporary name first, then renamed."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from headway.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


def write_folder(directory: str | Path, files: Mapping[str, bytes]) -> Path:
    """Write files as the whole content of a folder, all or none.

    A folder that is there is replaced, provided it holds only files of these names: nobody's own file is deleted.

    Args:
        directory: the folder; made where absent, with its parents.
        files: content by file name.

    Returns:
        The folder.

    Raises:
        InputError: the folder holds other files, is a file, or cannot be written.
    """
    target = Path(os.path.abspath(directory))  # noqa: PTH100 - `resolve` would follow a link and rename its target
    try:
        _refuse_foreign(target, files)
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as scratch:
            fresh = Path(scratch) / "new"
            fresh.mkdir()
            for name, content in files.items():
                (fresh / name).write_bytes(content)
            _swap(fresh, target, Path(scratch) / "old")
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror or error}", file=directory, place="--out") from None
    return Path(directory)


def check_folder(directory: str | Path, names: Iterable[str]) -> None:
    """Make sure, before something takes long, that `write_folder` may replace a folder afterwards.

    Raises:
        InputError: the folder holds other files than these, or is a file.
    """
    target = Path(os.path.abspath(directory))  # noqa: PTH100 - as `write_folder`
    if target.exists() and not target.is_dir():
        raise InputError("is a file", file=directory, place="--out", hint="name a folder")
    _refuse_foreign(target, names)


def _refuse_foreign(target: Path, files: Iterable[str]) -> None:
    if not target.is_dir():
        return
    known = set(files)
    foreign = sorted(entry.name for entry in target.iterdir() if entry.name not in known)
    if foreign:
        raise InputError(
            f"holds what this command does not write: {', '.join(foreign[:3])}{', …' if len(foreign) > 3 else ''}",
            file=target.name,
            place="--out",
            hint="name a new or empty folder",
        )


def _swap(fresh: Path, target: Path, old: Path) -> None:
    """Put `fresh` in the place of `target`; where that fails, `target` is as it was."""
    if not target.is_dir():
        fresh.rename(target)
        return
    target.rename(old)
    try:
        fresh.rename(target)
    except OSError:
        old.rename(target)
        raise
    shutil.rmtree(old)


def write_file(path: str | Path, content: bytes) -> Path:
    """Write one file, whole or not at all.

    Raises:
        InputError: it cannot be written.
    """
    target = Path(path)
    scratch = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        scratch.write_bytes(content)
        scratch.replace(target)
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror or error}", file=path) from None
    finally:
        with contextlib.suppress(OSError):
            scratch.unlink()
    return target


def new_file(path: str | Path, content: bytes) -> Path:
    """Write a file that is not there yet, whole or not at all.

    Raises:
        InputError: it is there, or cannot be written.
    """
    if Path(path).exists():
        raise InputError("is there already, and is not overwritten", file=path, hint="name another file")
    return write_file(path, content)
