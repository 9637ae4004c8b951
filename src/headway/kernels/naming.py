"""Which entry of the catalogue a device is, by the name its driver tells and the memory it has."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from headway.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from headway.kernels.torch_bench import Device
    from headway.types import Accelerator

#: What drivers leave out of a name: an H100 module is called "NVIDIA H100 80GB HBM3".
_UNSAID = {"sxm"}
_SAME_MEMORY_FRAC = 0.1
_GIB = 2**30


def accelerator_of(device: Device, known: Iterable[Accelerator]) -> Accelerator:
    """Return the entry of this memory whose name's parts all stand in the device's name, the one with most parts.

    Raises:
        InputError: there is none, or several; they are named.
    """
    words = set(_words(device.name))
    as_large = [one for one in known if _same(device.memory_bytes, one.hbm_bytes)]
    fitting = [(len(parts), one) for one in as_large if (parts := _parts(one)) <= words]
    most = max((count for count, _ in fitting), default=0)
    best = [one for count, one in fitting if count == most]
    if len(best) == 1:
        return best[0]
    problem = f"could be {' or '.join(one.name for one in best)}" if best else "is no entry of the catalogue"
    hint = "name the entry whose datasheet it has; --catalog FILE adds one of your own"
    raise InputError(f"{device.name!r} {problem}", place="--accelerator", hint=hint)


def _words(name: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", name.casefold())


def _parts(accelerator: Accelerator) -> set[str]:
    """The words of an entry's name, without its memory's size, which is compared as such."""
    words = (word for word in _words(accelerator.name) if word not in _UNSAID)
    return {word for word in words if not (word.isdecimal() and _same(int(word) * _GIB, accelerator.hbm_bytes))}


def _same(one_bytes: float, other_bytes: float) -> bool:
    return abs(one_bytes / other_bytes - 1) <= _SAME_MEMORY_FRAC
