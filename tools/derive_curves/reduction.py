"""Reduces thousands of timed shapes to a small grid: the best multilinear surface in the logarithms.

The values at the grid points are fitted by least squares in log time, so that a curve reproduces the shapes between its
points best, not those that happen to lie on one. Points that few rows reach follow their neighbours.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from tools.derive_curves.tables import ORIGIN

from headway.perf.curves import Curve

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    Column = NDArray[np.float64]

ENGINES_DIFFER_FRAC = 0.05  # engines none of which is off the pooled curve by more, at the median, share it
FIXED_FRAC = 0.9
SMOOTHNESS = 0.02  # weight of one difference of neighbours beside one row at a point
HELD_OUT_FOLDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Timed kernels of one kind: shapes by axis, the roofline and the time of each, and what belongs together."""

    axes: Mapping[str, Column]
    roofline_s: Column
    time_s: Column
    group: NDArray[np.int64]  # rows that are held out together

    def take(self, kept: NDArray[np.bool_]) -> Rows:
        """Return some of the rows."""
        axes = {name: values[kept] for name, values in self.axes.items()}
        return Rows(axes=axes, roofline_s=self.roofline_s[kept], time_s=self.time_s[kept], group=self.group[kept])


def join(parts: Sequence[Rows]) -> Rows:
    """Return the rows of all parts."""
    return Rows(
        axes={name: np.concatenate([part.axes[name] for part in parts]) for name in parts[0].axes},
        roofline_s=np.concatenate([part.roofline_s for part in parts]),
        time_s=np.concatenate([part.time_s for part in parts]),
        group=np.concatenate([part.group for part in parts]),
    )


def by_engine(key: str, engines: Mapping[str, Rows], grid: Mapping[str, Sequence[float]]) -> dict[str, Curve]:
    """Return one curve over all engines, and one for each where some engine is materially off it."""
    pooled = join(list(engines.values()))
    found = {key: reduce_rows(pooled, grid)}
    if len(engines) > 1 and any(_median_off(found[key], rows) > ENGINES_DIFFER_FRAC for rows in engines.values()):
        found |= {f"{key}/{engine}": reduce_rows(rows, grid) for engine, rows in engines.items()}
    return found


def _median_off(pooled: Curve, rows: Rows) -> float:
    off = rows.time_s / pooled.time_s(rows.roofline_s, **rows.axes)
    return abs(float(np.median(off)) - 1)


def fixed_s(rows: Rows) -> float:
    """Return what of any time does not depend on the shape: most of what the shortest takes."""
    return FIXED_FRAC * float(np.quantile(rows.time_s, 0.001))


def reduce_rows(rows: Rows, grid: Mapping[str, Sequence[float]], smoothness: float = SMOOTHNESS) -> Curve:
    """Fit a curve to all rows, and state its error on rows that a fit to the others never saw."""
    errors = np.concatenate([_held_out_error(rows, grid, smoothness, fold) for fold in range(HELD_OUT_FOLDS)])
    return replace(
        fit_curve(rows, grid, smoothness),
        rows=len(rows.time_s),
        error_median_frac=float(np.median(errors)),
        error_p90_frac=float(np.quantile(errors, 0.9)),
    )


def _held_out_error(rows: Rows, grid: Mapping[str, Sequence[float]], smoothness: float, fold: int) -> Column:
    held = rows.group % HELD_OUT_FOLDS == fold
    if not held.any() or held.all():
        return np.zeros(0)
    fitted, others = fit_curve(rows.take(~held), grid, smoothness), rows.take(held)
    error: Column = np.abs(fitted.time_s(others.roofline_s, **others.axes) / others.time_s - 1)
    return error


def fit_curve(rows: Rows, grid: Mapping[str, Sequence[float]], smoothness: float) -> Curve:
    """Fit the efficiencies at the grid points.

    A row weighs by how much of its time depends on the efficiency: (1 − fixed / time)².
    """
    points = [np.array(values, dtype=float) for values in grid.values()]
    busy_s = np.maximum(rows.time_s - fixed_s(rows), 0.05 * rows.time_s)
    log_efficiency = np.log(rows.roofline_s / busy_s)
    weights = (busy_s / rows.time_s) ** 2
    shape = tuple(len(values) for values in points)
    matrix, vector = smoothness * _differences(shape), np.zeros(np.prod(shape))
    corners = _corners(points, [rows.axes[name] for name in grid])
    for (index, share), (other, other_share) in itertools.product(corners, corners):
        pairs = np.bincount(index * len(vector) + other, weights * share * other_share, minlength=matrix.size)
        matrix += pairs.reshape(matrix.shape)
    for index, share in corners:
        vector += np.bincount(index, weights * share * log_efficiency, minlength=len(vector))
    table = np.exp(np.linalg.solve(matrix, vector)).reshape(shape)
    return Curve(axes=tuple(grid), grid=tuple(points), table=table, fixed_s=fixed_s(rows), provenance=ORIGIN)


def _corners(points: list[Column], columns: list[Column]) -> list[tuple[NDArray[np.int64], Column]]:
    """Return (index into the flat table, share) of each corner of the cell each row lies in."""
    cells = []
    for values, column in zip(points, columns, strict=True):
        place = np.interp(np.log(column), np.log(values), np.arange(len(values)))
        lower = np.minimum(place.astype(np.int64), max(len(values) - 2, 0))
        cells.append((lower, place - lower))
    shape, found = tuple(len(values) for values in points), []
    for corner in itertools.product((0, 1), repeat=len(points)):
        index = [np.minimum(lower + up, size - 1) for up, (lower, _), size in zip(corner, cells, shape, strict=True)]
        share = np.prod([part if up else 1 - part for up, (_, part) in zip(corner, cells, strict=True)], axis=0)
        found.append((np.ravel_multi_index(index, shape), share))
    return found


def _differences(shape: tuple[int, ...]) -> Column:
    """Return the penalty on differences of neighbours, so that every point is determined."""
    flat = np.arange(np.prod(shape)).reshape(shape)
    matrix = np.zeros((flat.size, flat.size))
    for axis, size in enumerate(shape):
        below = np.take(flat, range(size - 1), axis).ravel()
        above = np.take(flat, range(1, size), axis).ravel()
        np.add.at(matrix, (below, below), 1.0)
        np.add.at(matrix, (above, above), 1.0)
        np.add.at(matrix, (below, above), -1.0)
        np.add.at(matrix, (above, below), -1.0)
    return matrix
