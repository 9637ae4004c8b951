"""The folder of a blind test: what stands in it, and how a later run starts over there."""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING

from headway.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

#: Everything `blind.py` writes beside the folders of the points, by its path within the folder.
_OWN = re.compile(
    r"server\.log|predictions\.json|blind\.(json|txt|png)|calibration-traffic\.parquet|calibration\.yaml"
    r"|calibration/\d+-[^/]+/(requests\.parquet|clients\.json)"
)
_OF_POINT = re.compile(r"([^/]+)/(asked|requests(-\d+)?)\.parquet")


def point_folder(name: str) -> str:
    """Return the name of a load point's folder."""
    return name.replace(" ", "-")


def check_own(folder: Path, points: Iterable[str]) -> None:
    """Make sure that a folder may be started over in: it is not there, empty, or holds an earlier run and no more.

    Raises:
        InputError: it holds anything a blind test does not write, is a file, or cannot be read.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError("is a file", file=folder, place="--out", hint="name a folder")
    known = {point_folder(name) for name in points}
    foreign = sorted(path for path in _files(folder) if not _is_own(path, known))
    if foreign:
        some = ", ".join(foreign[:3]) + ", …" * (len(foreign) > 3)
        raise InputError(
            f"holds what no blind test writes, and is not replaced: {some}",
            file=folder,
            place="--out",
            hint="name a new or empty folder",
        )


def start_over(folder: Path, points: Iterable[str]) -> None:
    """Make a folder, or empty it of an earlier run.

    Raises:
        InputError: as `check_own`, or it cannot be made or emptied.
    """
    check_own(folder, points)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for entry in folder.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    except OSError as error:
        raise InputError(f"cannot be made anew: {error.strerror}", file=folder, place="--out") from None


def _files(folder: Path) -> Iterator[str]:
    """Yield the path of everything within that is no plain folder: links too, wherever they lead."""
    for path in folder.rglob("*"):
        if path.is_symlink() or not path.is_dir():
            yield path.relative_to(folder).as_posix() + " (a link)" * path.is_symlink()


def _is_own(path: str, points: set[str]) -> bool:
    of_point = _OF_POINT.fullmatch(path)
    return bool(_OWN.fullmatch(path)) or (of_point is not None and of_point[1] in points)
