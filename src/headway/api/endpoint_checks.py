"""What is given to `calibrate endpoint` and `calibrate fit`, checked before anything takes long."""

from __future__ import annotations

import datetime as dt
import math
from pathlib import Path
from typing import get_args

from headway.errors import InputError, nearest
from headway.types import Dtype


def about_of(
    file: str | Path, name: str | None, hardware: str, tp: int, weight_dtype: str, kv_dtype: str
) -> dict[str, str]:
    """Return what a calibration says of itself, in the words of its file.

    Raises:
        InputError: what is written could not be read again.
    """
    _check_file(Path(file))
    if tp < 1:
        raise InputError(f"expected at least 1, got {tp}", place="--tp")
    for place, dtype in (("--weights", weight_dtype), ("--kv", kv_dtype)):
        if dtype not in get_args(Dtype):
            raise InputError(f"{dtype!r} is no number format", place=place, hint=nearest(dtype, get_args(Dtype)))
    for place, word in (("--name", name), ("--hardware", hardware)):
        if word is not None and not word.strip():
            raise InputError("expected a name, got nothing", place=place)
    if name is not None and ("/" in name or name.endswith(".yaml")):
        raise InputError(f"{name!r} would be taken for a file", place="--name", hint=f"--name {_plain(name)}")
    return {
        "name": name or Path(file).stem,
        "made": dt.datetime.now(dt.UTC).date().isoformat(),
        "hardware": hardware,
        "tp": str(tp),
        "weight_dtype": weight_dtype,
        "kv_dtype": kv_dtype,
    }


def _plain(name: str) -> str:
    return name.removesuffix(".yaml").strip("/").rpartition("/")[2] or "mine"


def _check_file(file: Path) -> None:
    """Make sure that a calibration will be written, and be found by its name."""
    if file.suffix != ".yaml":
        hint = f"--out {file.stem or 'mine'}.yaml"
        raise InputError("expected a file that ends in .yaml", file=file, place="--out", hint=hint)
    if file.is_dir():
        raise InputError("is a folder", file=file, place="--out", hint="name a file")
    if not file.absolute().parent.is_dir():
        raise InputError("its folder is not there", file=file, place="--out")


def kept_folder(keep: str | Path) -> Path:
    """Return a folder for runs to keep, made where it is not there.

    Raises:
        InputError: it holds something, is a file, or cannot be made.
    """
    folder = Path(keep)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise InputError("is not empty", file=keep, place="--keep", hint="name a new or empty folder")
    except OSError as error:
        raise InputError(f"cannot be made: {error.strerror}", file=keep, place="--keep") from None
    return folder


def checked_part(part: int | None, osl_tokens: float | None) -> None:
    """Make sure that numbers are what they count.

    Raises:
        InputError: one is not.
    """
    if part is not None and part < 1:
        raise InputError(f"expected at least 1, got {part}", place="--part")
    if osl_tokens is not None and not 1 <= osl_tokens < math.inf:
        raise InputError(f"expected at least one token, got {osl_tokens:g}", place="--osl")
