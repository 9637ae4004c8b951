"""What kernels achieve, as measured: efficiency curves on a grid, reduced from tables of timed kernels.

    measured time = fixed_s + roofline time / efficiency

The roofline is the datasheet's, and the operator that uses a curve says which (`operators` for matrices and
collectives). An efficiency may exceed 1 where a cache serves what the roofline reads from memory. Between grid points
the logarithm of the efficiency is linear in the logarithm of each axis; beyond the grid its edge is held.

A file of curves is JSON:

    {
      "as_of": "2026-11-21",                    when it was measured or published
      "source": "…",                            who measured what, with which versions
      "curves": {
        "gemm/h100-sxm/fp8/vllm": {             operator / accelerator of the catalogue / keys, general to particular
          "axes": ["n", "k", "m"],
          "grid": [[128, 512], [256], [1, 16]],  one ascending row per axis, all above zero
          "efficiency": [[0.1, 0.5],            one row per point of the leading axes (the last varies fastest),
                         [0.2, 0.7]],           one entry per point of the last axis
          "fixed_s": 2.5e-06,
          "rows": 35742,                        measurements it was reduced from
          "error_median_frac": 0.04,            of the reduction, on measurements left out of it
          "error_p90_frac": 0.11,
          "note": ""
        }
      }
    }

Ours lie in `data/curves/`, one file per operator, named after it. A file a user measured has the same form, for any
operators; its curves stand before ours (`read_curves`, and `extra` of `curve`). Of the keys asked for, the most
particular curve stored wins: asked for gemm/h100-sxm/fp8/vllm, gemm/h100-sxm/fp8 answers where no engine is told apart.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from headway.errors import InputError, nearest
from headway.types import Provenance

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import ArrayLike, NDArray

    from headway.types import Accelerator, FloatColumn

_DATA = Path(__file__).parent / "data" / "curves"
#: Operators that take curves: the names of the files.
OPERATORS = tuple(sorted(path.stem for path in _DATA.glob("*.json")))
_FIELDS = ("axes", "grid", "efficiency", "fixed_s", "rows", "error_median_frac", "error_p90_frac", "note")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Curve:
    """Efficiency of one operator on one accelerator, over a grid of its shapes."""

    axes: tuple[str, ...]
    grid: tuple[FloatColumn, ...]  # by axis, ascending
    table: NDArray[np.float64]  # efficiency at each grid point, one dimension per axis
    fixed_s: float = 0.0
    rows: int = 0
    error_median_frac: float = math.nan  # of the reduction, on measurements left out of it
    error_p90_frac: float = math.nan
    provenance: Provenance

    def at(self, **fixed: float) -> Curve:
        """Return the curve over the remaining axes with these held: evaluate a column over one axis through it."""
        held, log_table = {name: math.log(value) for name, value in fixed.items()}, np.log(self.table)
        for axis in reversed(range(len(self.axes))):  # from the back, so that the axes before keep their place
            if self.axes[axis] in held:
                log_table = _held(log_table, axis, np.log(self.grid[axis]), held[self.axes[axis]])
        kept = [axis for axis, name in enumerate(self.axes) if name not in held]
        axes = tuple(self.axes[axis] for axis in kept)
        return replace(self, axes=axes, grid=tuple(self.grid[axis] for axis in kept), table=np.exp(log_table))

    def efficiency(self, **axes: ArrayLike) -> NDArray[np.float64]:
        """Return efficiencies, one for each entry of the axes' values broadcast together, all above zero."""
        columns = {name: np.asarray(value, dtype=float) for name, value in axes.items()}
        fixed = {name: float(value) for name, value in columns.items() if not value.ndim}
        rest = self.at(**fixed) if fixed else self
        if not rest.axes:
            return rest.table
        logs = [np.log(columns[name]) for name in rest.axes]
        log_grid = [np.log(values) for values in rest.grid]
        interpolated = _multilinear(np.log(rest.table), log_grid, logs)
        efficiency: NDArray[np.float64] = np.exp(interpolated)
        return efficiency

    def time_s(self, roofline_s: ArrayLike, **axes: ArrayLike) -> NDArray[np.float64]:
        """Return the time of kernels whose roofline and shapes these are."""
        time_s: NDArray[np.float64] = self.fixed_s + np.asarray(roofline_s) / self.efficiency(**axes)
        return time_s


def _cell(log_grid: FloatColumn, log_value: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return (lower grid point, weight of the next one): inside a cell, edges held."""
    place = np.interp(log_value, log_grid, np.arange(len(log_grid)))
    lower = np.minimum(place.astype(np.int64), max(len(log_grid) - 2, 0))
    return lower, place - lower


def _held(log_table: NDArray[np.float64], axis: int, log_grid: FloatColumn, log_value: float) -> NDArray[np.float64]:
    lower, weight = _cell(log_grid, np.array(log_value))
    upper = min(int(lower) + 1, len(log_grid) - 1)
    below, above = np.take(log_table, int(lower), axis), np.take(log_table, upper, axis)
    held: NDArray[np.float64] = below + (above - below) * weight
    return held


def _multilinear(
    log_table: NDArray[np.float64], log_grid: list[FloatColumn], logs: list[NDArray[np.float64]]
) -> NDArray[np.float64]:
    """Return the weighted sum over the corners of each entry's cell."""
    if len(logs) == 1:
        line: NDArray[np.float64] = np.interp(logs[0], log_grid[0], log_table)
        return line
    cells = [_cell(grid, values) for grid, values in zip(log_grid, logs, strict=True)]
    total = np.zeros(np.broadcast_shapes(*(values.shape for values in logs)))
    for corner in np.ndindex(*(2,) * len(cells)):
        weight = np.ones(())
        index = []
        for upper, (lower, share), size in zip(corner, cells, log_table.shape, strict=True):
            weight = weight * (share if upper else 1 - share)
            index.append(np.minimum(lower + upper, size - 1))
        total += weight * log_table[tuple(index)]
    return total


def rising(knots: FloatColumn, knots_s: FloatColumn, values: ArrayLike) -> NDArray[np.float64]:
    """Return times at `values`, linear between knots and in proportion beyond the last; they never fall as work grows.

    Where more work was timed faster, less is taken to be as fast: it could be padded.
    """
    floor_s = np.minimum.accumulate(knots_s[::-1])[::-1]
    beyond = np.maximum(np.asarray(values) / knots[-1], 1.0)
    time_s: NDArray[np.float64] = np.interp(np.asarray(values), knots, floor_s) * beyond
    return time_s


def curve(operator: str, accelerator_name: str, *keys: str, extra: Mapping[str, Curve] | None = None) -> Curve | None:
    """Return the most particular curve there is, or None: then constants of `calibration` stand in.

    Any of `extra` goes before all of ours: an engine's own kernel that we know says less than the user's device does.

    Args:
        operator: the name of its file in `data/curves`.
        accelerator_name: as the catalogue names it.
        keys: number formats, engine and so on, from general to particular; trailing ones may be unknown to the data.
        extra: curves that stand before ours (`read_curves`).
    """
    names = ["/".join((operator, accelerator_name, *keys[:length])) for length in range(len(keys), -1, -1)]
    for known in (extra or {}, _stored(operator)):
        for name in names:
            if name in known:
                return known[name]
    return None


#: Whose curves an accelerator takes that was not timed itself, by compute capability: one of the same architecture.
_ARCHITECTURES = {
    "8.0": "a100-80-sxm",
    "8.9": "l40s",
    "9.0": "h100-sxm",
    "10.0": "b200",
    "10.3": "b300",
    "12.0": "rtx-pro-6000",
}


def stand_in(accelerator: Accelerator) -> str:
    """Return whose curves stand in for those an accelerator lacks, or its own name where nobody's do.

    Efficiencies carry over between cards of one architecture, times do not: the roofline stays the accelerator's own.
    """
    return _ARCHITECTURES.get(accelerator.compute_capability, accelerator.name)


def curve_for(accelerator: Accelerator, operator: str, *keys: str, extra: Mapping[str, Curve]) -> Curve | None:
    """Return the accelerator's own curve, or else that of its architecture (see `curve` and `stand_in`)."""
    own = curve(operator, accelerator.name, *keys, extra=extra)
    return own or curve(operator, stand_in(accelerator), *keys, extra=extra)


@cache
def _stored(operator: str) -> Mapping[str, Curve]:
    path = _DATA / f"{operator}.json"
    return read_curves(path) if path.exists() else {}


def read_curves(path: str | Path) -> dict[str, Curve]:
    """Read a file of curves, ours or a user's, by name.

    Raises:
        InputError: not readable, not JSON, or a curve whose parts do not fit; the curve and the part are named.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", file=path) from None
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8 text (byte {error.start})", file=path) from None
    except json.JSONDecodeError as error:
        raise InputError(f"not JSON: {error.msg}", file=path, place=f"line {error.lineno}") from None
    if not isinstance(content, dict) or not isinstance(content.get("curves"), dict):
        raise InputError("expected an object with `source`, `as_of` and `curves`", file=path)
    origin = Provenance(source=str(content.get("source", "")), as_of=str(content.get("as_of", "")))
    found = {}
    for name, entry in content["curves"].items():
        try:
            found[name] = _read_curve(entry, origin)
        except ValueError as error:
            raise InputError(str(error), file=path, place=f"curves, {name}") from None
    return found


def read_own_curves(path: str | Path) -> dict[str, Curve]:
    """Read a user's file of curves: of operators that take any, over the axes they take.

    Raises:
        InputError: as `read_curves`, or an operator or axes that nothing asks for.
    """
    found = read_curves(path)
    for name, own in found.items():
        operator, kind = name.partition("/")[0], name.split("/")[2:3]
        if operator not in OPERATORS:
            hint = nearest(operator, OPERATORS)
            raise InputError(f"no curves of {operator!r} are asked for", file=path, place=f"curves, {name}", hint=hint)
        ours = {stored.axes for stored in _stored(operator).values()}
        wanted = {stored.axes for other, stored in _stored(operator).items() if other.split("/")[2:3] == kind} or ours
        if all(set(axes) != set(own.axes) for axes in wanted):
            expected = " or ".join(", ".join(axes) for axes in sorted(wanted))
            problem = f"expected the axes {expected}, got {', '.join(own.axes)}"
            raise InputError(problem, file=path, place=f"curves, {name}")
    return found


def _read_curve(entry: Any, origin: Provenance) -> Curve:
    if not isinstance(entry, dict):
        raise ValueError("expected an object")  # noqa: TRY004 - one kind of refusal, for the caller to place
    for key in entry:
        if key not in _FIELDS:
            raise ValueError(f"unknown key {key!r}. {nearest(key, _FIELDS)}".strip())
    axes, grid = _read_grid(entry.get("axes"), entry.get("grid"))
    table, sizes = _numbers("efficiency", entry.get("efficiency")), tuple(len(values) for values in grid)
    if table.shape != (math.prod(sizes[:-1]), sizes[-1]):
        raise ValueError(f"efficiency: expected {math.prod(sizes[:-1])} rows of {sizes[-1]} entries")
    return Curve(
        axes=axes,
        grid=grid,
        table=table.reshape(sizes),
        fixed_s=_number(entry, "fixed_s", 0.0),
        rows=int(_number(entry, "rows", 0)),
        error_median_frac=_number(entry, "error_median_frac", math.nan),
        error_p90_frac=_number(entry, "error_p90_frac", math.nan),
        provenance=replace(origin, note=str(entry.get("note", ""))),
    )


def _read_grid(axes: Any, grid: Any) -> tuple[tuple[str, ...], tuple[FloatColumn, ...]]:
    if not isinstance(axes, list) or not axes or not all(isinstance(name, str) for name in axes):
        raise ValueError("axes: expected a list of names")
    if not isinstance(grid, list) or len(grid) != len(axes):
        raise ValueError(f"grid: expected one list for each of {', '.join(axes)}")
    columns = tuple(_numbers(f"grid, {name}", values) for name, values in zip(axes, grid, strict=True))
    for name, values in zip(axes, columns, strict=True):
        if values.ndim != 1 or (np.diff(values) <= 0).any():
            raise ValueError(f"grid, {name}: expected numbers that rise")
    return tuple(axes), columns


def _numbers(what: str, values: Any) -> NDArray[np.float64]:
    try:
        column = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        column = np.empty(0)
    if not column.size or not (np.isfinite(column) & (column > 0)).all():
        raise ValueError(f"{what}: expected finite numbers above zero, in rows of one length")
    return column


def _number(entry: dict[str, Any], key: str, default: float) -> float:
    value = entry.get(key, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
        raise ValueError(f"{key}: expected a number, zero or above, got {value!r}")
    return float(value)


def write_curves(
    path: str | Path, curves: Mapping[str, Curve], origin: Provenance, about: Mapping[str, object] | None = None
) -> None:
    """Write a file of curves: sorted, three significant digits, one row of the grid a line, the same bytes every time.

    Args:
        path: the file; it appears whole or not at all.
        curves: by name, `operator/accelerator/key…`; the note of each curve's provenance is kept.
        origin: source and date of them all.
        about: what else is known of how they came to be, for people; nothing reads it.
    """
    body = ",\n".join(f"    {json.dumps(name)}: {_curve_text(curves[name])}" for name in sorted(curves))
    parts = {
        "about": about and json.dumps(about, ensure_ascii=False, sort_keys=True),
        "as_of": json.dumps(origin.as_of),
        "curves": f"{{\n{body}\n  }}",
        "source": json.dumps(origin.source, ensure_ascii=False),
    }
    text = "{\n" + ",\n".join(f'  "{key}": {value}' for key, value in parts.items() if value) + "\n}\n"
    whole = Path(path)
    part = whole.with_name(whole.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(whole)


def _curve_text(found: Curve) -> str:
    rows = found.table.reshape(-1, found.table.shape[-1])
    values: dict[str, str] = {
        "axes": json.dumps(found.axes),
        "efficiency": _rows_text(rows),
        "grid": _rows_text(found.grid),
        "note": json.dumps(found.provenance.note, ensure_ascii=False),
        "rows": str(found.rows),
    }
    for key in ("fixed_s", "error_median_frac", "error_p90_frac"):
        value = getattr(found, key)
        if not math.isnan(value):
            values[key] = _short(value)
    return "{\n" + ",\n".join(f'      "{key}": {values[key]}' for key in sorted(values)) + "\n    }"


def _rows_text(rows: Iterable[FloatColumn]) -> str:
    lines = ("        [" + ", ".join(_short(value) for value in row) + "]" for row in rows)
    return "[\n" + ",\n".join(lines) + "\n      ]"


def _short(value: float) -> str:
    """Return a number in three significant digits, whole ones in full."""
    return str(int(value)) if float(value).is_integer() else f"{float(value):.3g}"
