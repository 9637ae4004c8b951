"""The file of a recording: whole or not at all, and known to be writable before minutes are spent on it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from headway.errors import InputError
from headway.perf.curves import write_curves

if TYPE_CHECKING:
    from headway.kernels.recording import Recording

_SUFFIX = ".json"


def check_writable(path: str | Path) -> None:
    """Refuse a file that could not be written in the end.

    Raises:
        InputError: not named .json, a folder, or in a folder that is not there or takes no files.
    """
    file = Path(path)
    if file.suffix.lower() != _SUFFIX:
        raise InputError("expected a name that ends in .json", file=path, place="--out")
    if file.is_dir():
        raise InputError("is a folder", file=path, place="--out")
    try:
        trial = file.with_name(f"{file.name}.part")
        trial.touch()
        trial.unlink()
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror}", file=path, place="--out") from None


def write_recording(path: str | Path, recording: Recording) -> None:
    """Write a recording's curves in the form `perf.curves` reads, with what else is known of them.

    Raises:
        InputError: the file cannot be written.
    """
    told = {
        field.name: getattr(recording, field.name)
        for field in dataclasses.fields(recording)
        if field.name not in ("measured", "curves", "as_of")
    }
    about = told | {"device": dataclasses.asdict(recording.device)}
    try:
        write_curves(path, recording.measured, recording.origin, about)
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror}", file=path, place="--out") from None
