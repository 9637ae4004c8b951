"""The calibration of one pool: the stored constants, and before the stored curves those that the pool names.

A pool names a file of curves (`headway calibrate ops` writes one), or `perfdb` for the tables of an installed package.
What these lack for the pool's accelerator is the stored curve, or the constant; the provenance tells which is which.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from headway.errors import InputError
from headway.perf import perfdb
from headway.perf.constants import Calibration, calibration
from headway.perf.corrections import NONE, Correction, correction
from headway.perf.curves import OPERATORS, read_own_curves
from headway.types import Provenance

if TYPE_CHECKING:
    from headway.perf.curves import Curve
    from headway.types import Accelerator, Pool

PERFDB = "perfdb"


def applied(pool: Pool, fold: int | None = None, nudge: Correction = NONE) -> Calibration:
    """Return the calibration of a pool.

    Args:
        pool: what is deployed.
        fold: a correction fitted without that fold of the measurements; None: fitted on all.
        nudge: a correction on top, to learn what a figure depends on.

    Raises:
        InputError: the curves it names cannot be read, or are of other accelerators.
    """
    constants = _corrected(calibration(pool.accelerator, pool.engine), correction(pool, fold).plus(nudge))
    if not pool.curves:
        return constants
    others = set(perfdb.ENGINES.values()) - {pool.engine}
    every = own_curves(pool.curves, pool.accelerator)
    own = {name: curve for name, curve in every.items() if name.rpartition("/")[2] not in others}
    origins = {name: curve.provenance for name, curve in own.items()}
    lacking = set(OPERATORS) - {name.partition("/")[0] for name in own}
    shipped = Provenance(
        source=f"headway's own: {Path(pool.curves).name} has none of {pool.accelerator.name}", as_of=""
    )
    origins |= {f"{operator} curves": shipped for operator in sorted(lacking)}
    return replace(constants, curves=own, provenance={**constants.provenance, **origins})


def _corrected(constants: Calibration, by: Correction) -> Calibration:
    return replace(
        constants,
        correction=by,
        sequence_fixed_s=constants.sequence_fixed_s * math.exp(by.sequence_log),
        frontend_s=constants.frontend_s * math.exp(by.frontend_log),
    )


def own_curves(source: str, accelerator: Accelerator) -> dict[str, Curve]:
    """Return the curves a source has of an accelerator, by name.

    Args:
        source: a file, or `perfdb`.
        accelerator: as the catalogue has it.

    Raises:
        InputError: the source cannot be read, or has none.
    """
    if source == PERFDB:
        return perfdb.measured_curves(accelerator)
    known = read_own(source)
    found = {name: curve for name, curve in known.items() if name.split("/")[1:2] == [accelerator.name]}
    if not found:
        others = sorted({name.split("/")[1] for name in known if "/" in name})
        raise InputError(
            f"has no curves of {accelerator.name}", file=source, place="curves", hint=f"it has {', '.join(others)}"
        )
    return found


def read_own(source: str) -> dict[str, Curve]:
    """Read a user's file of curves, once until it changes.

    Raises:
        InputError: it cannot be read, or something is wrong in it.
    """
    path = Path(source)
    try:
        state = path.stat()
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", file=source) from None
    return _read(path, (state.st_mtime_ns, state.st_size))


@lru_cache(maxsize=16)
def _read(path: Path, _state: tuple[int, int]) -> dict[str, Curve]:
    return read_own_curves(path)
