"""Clock times as logs write them, as seconds from the first: texts of ISO 8601, or numbers since 1970."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

if TYPE_CHECKING:
    from collections.abc import Callable

_NAIVE = "%Y-%m-%d %H:%M:%S%.f"
#: Beyond these years nanoseconds since 1970 leave 64 bits.
_YEARS = r"^(19[7-9]|20\d|21\d|22[0-5])\d-"
#: A number since 1970 is seconds below the first bound (the year 5138), then ms, µs, ns: a factor of 1,000 apart.
_UNITS = ((1e11, 1.0), (1e14, 1e3), (1e17, 1e6), (float("inf"), 1e9))


def iso_ns(texts: pl.Series) -> pl.Series:
    """Return nanoseconds since 1970 of ISO 8601 texts; no zone means UTC; null where unreadable."""
    texts = texts.str.strip_chars().str.replace("T", " ", literal=True).str.replace(r"[Zz]$", "+00:00")
    texts = pl.select(pl.when(texts.str.contains(_YEARS)).then(texts)).to_series()
    naive = texts.str.to_datetime(_NAIVE, time_unit="ns", strict=False, cache=False).dt.timestamp("ns")
    if not naive.is_null().any():
        return naive
    zoned = texts.str.to_datetime(f"{_NAIVE}%:z", time_unit="ns", strict=False, cache=False).dt.timestamp("ns")
    return naive.fill_null(zoned)


def from_first(ns: pl.Series) -> pl.Series:
    """Return seconds since the earliest, exact to the nanosecond within 100 days."""
    first = ns.min()
    return divided(ns - (first if isinstance(first, int) else 0), 1e9)


def divided(numbers: pl.Series, by: float) -> pl.Series:
    """Return true quotients; Polars multiplies by the reciprocal, which is off by a bit in places."""
    return pl.Series(numbers.name, numbers.cast(pl.Float64).to_numpy() / by, nan_to_null=True)


def clock_s(texts: pl.Series, refuse: Callable[[int], object]) -> pl.Series:
    """Return seconds since the earliest, of times as texts in any of the accepted forms; null where a row has none.

    A text is ISO 8601 or a number; numbers are seconds, milliseconds, microseconds or nanoseconds since 1970 by their
    size (one unit for the file, that of its largest).

    Args:
        texts: the times.
        refuse: called with the first row that is neither; it raises.
    """
    numbers = texts.cast(pl.Float64, strict=False)
    if texts.null_count() == numbers.null_count():
        return _from_number(numbers)
    ns = iso_ns(texts)
    bad = texts.is_not_null() & ns.is_null()
    if bad.any():
        refuse(int(bad.arg_true()[0]))
    return from_first(ns)


def _from_number(numbers: pl.Series) -> pl.Series:
    known = numbers.filter(numbers.is_finite())
    if known.is_empty():
        return numbers
    first, last = float(known.min()), float(known.max())  # type: ignore[arg-type]
    return divided(numbers - first, next(per_s for bound, per_s in _UNITS if last < bound))
