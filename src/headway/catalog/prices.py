"""Prices per accelerator-hour: shipped ones, the user's own, and what a year's commitment takes off.

A price file is a CSV with the columns of `COLUMNS`, one row per instance type, place and terms; `usd_per_hour` is that
of the whole instance. A row without `region` holds wherever its provider is; `as_of` is an ISO date, or begins with
`undated`. A CSV with the columns of a FOCUS export is read by `focus.py`.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

from headway.catalog.facts import DATA
from headway.errors import InputError, nearest
from headway.types import Price
from headway.units import parse_quantity

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator
    from pathlib import Path

COLUMNS = ("provider", "region", "zone", "instance", "accelerator", "gpus", "term", "usd_per_hour", "as_of", "source")
_OPTIONAL = ("region", "zone", "instance")
#: `committed` is a commitment whose length the bill does not say
TERMS = ("on-demand", "reserved-1y", "reserved-3y", "spot", "capacity-block", "committed")

Row = dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceSpread:
    """How one price differs over zones: USD per accelerator-hour."""

    least_usd_per_gpu_hour: float
    median_usd_per_gpu_hour: float
    most_usd_per_gpu_hour: float
    zones: int


def spread(prices: Iterable[Price]) -> PriceSpread | None:
    """Return how these prices spread; None where there are none.

    Args:
        prices: for instance the spot prices of one accelerator at one provider.
    """
    import statistics

    costs = [price.usd_per_gpu_hour for price in prices]
    if not costs:
        return None
    return PriceSpread(
        least_usd_per_gpu_hour=min(costs),
        median_usd_per_gpu_hour=statistics.median(costs),
        most_usd_per_gpu_hour=max(costs),
        zones=len(costs),
    )


def by_cost(price: Price) -> tuple[float, str, str, str, str]:
    """Return the order prices are shown in: cheapest first, then by name so that the order is always the same."""
    return (price.usd_per_gpu_hour, price.provider, price.region, price.zone, price.instance)


def check_terms(terms: Iterable[str] | None) -> frozenset[str] | None:
    """Return the terms wanted, None for all.

    Raises:
        InputError: an unknown term.
    """
    if terms is None:
        return None
    wanted = frozenset([terms] if isinstance(terms, str) else terms)
    for term in sorted(wanted - set(TERMS)):
        raise InputError(f"unknown price term {term!r}", hint=nearest(term, TERMS))
    return wanted


def select(
    prices: Iterable[Price],
    *,
    accelerator: str | None = None,
    region: str | None = None,
    terms: Iterable[str] | None = None,
    provider: str | None = None,
    everywhere: Collection[str] = (),
) -> tuple[Price, ...]:
    """Return those of these prices that are meant; `Catalog.prices` says how.

    Args:
        prices: to choose from.
        accelerator: of this accelerator only.
        region: in this region only.
        terms: under these terms only.
        provider: of this provider only.
        everywhere: providers whose prices without region hold in every region.

    Raises:
        InputError: an unknown term.
    """
    wanted, known = check_terms(terms), tuple(prices)
    there = {price.provider for price in known if price.region == region}.union(everywhere)
    return tuple(
        price
        for price in known
        if (accelerator is None or price.accelerator == accelerator)
        and (region is None or price.region == region or (not price.region and price.provider in there))
        and (wanted is None or price.term in wanted)
        and (provider is None or price.provider.casefold() == provider.casefold())
    )


# --- shipped --------------------------------------------------------------------------------------------


@cache
def shipped() -> tuple[Price, ...]:
    """Return the shipped prices, and what commitments make of the on-demand ones among them."""
    prices = [_price(row, row["accelerator"]) for row in _shipped_rows("prices.csv")]
    return (*prices, *_reserved(prices))


def _shipped_rows(name: str) -> list[Row]:
    return list(csv.DictReader((DATA / name).read_text(encoding="utf-8").splitlines()))


def _reserved(prices: Iterable[Price]) -> Iterator[Price]:
    """Derive committed prices: on-demand × (1 − the provider's published discount). The source says so."""
    discounts = _shipped_rows("reserved_discounts.csv")
    for price in prices:
        for row in discounts:
            if price.term == "on-demand" and row["provider"] == price.provider:
                off = parse_quantity(row["discount"], "frac")
                source = f"on-demand less {row['discount']} ({row['source']}); {price.source}"
                cost = price.usd_per_gpu_hour * (1 - off)
                yield replace(price, term=row["term"], usd_per_gpu_hour=cost, source=source)


# --- the user's own -------------------------------------------------------------------------------------


def read_rows(path: Path) -> tuple[list[str], list[Row]]:
    """Read a CSV's header and rows.

    Raises:
        InputError: unreadable, not UTF-8, not CSV, without a row, or a row of another length than the header.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        reader = csv.DictReader(text.splitlines(keepends=True), restkey="", strict=True)
        rows, header = list(reader), list(reader.fieldnames or ())
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", file=path) from None
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8 text (byte {error.start})", file=path) from None
    except csv.Error as error:
        raise InputError(f"not valid CSV: {error}", file=path) from None
    if not rows:
        raise InputError("no price in it: expected a header and at least one row", file=path)
    for number, row in enumerate(rows, start=2):
        if "" in row or None in row.values():
            raise InputError(f"expected {len(header)} cells, as the header has", file=path, place=f"row {number}")
    return header, rows


def read_prices(path: Path, rows: Iterable[Row], resolve: Callable[[str], str]) -> list[Price]:
    """Read rows with the columns of `COLUMNS`.

    Args:
        path: what errors name.
        rows: from `read_rows`; numbered from 2, the header being row 1.
        resolve: the catalogue's name of an accelerator, from any of its names.

    Raises:
        InputError: an unknown accelerator or term, or a price or count that is none; the row is named.
    """
    return [_checked(path, f"row {number}", row, resolve) for number, row in enumerate(rows, start=2)]


def _checked(path: Path, place: str, row: Row, resolve: Callable[[str], str]) -> Price:
    for column in COLUMNS:
        if column not in _OPTIONAL and not row[column].strip():
            raise InputError(f"{column!r} is empty", file=path, place=place)
    if row["term"] not in TERMS:
        raise InputError(
            f"unknown price term {row['term']!r}", file=path, place=place, hint=nearest(row["term"], TERMS)
        )
    try:
        price = _price(row, resolve(row["accelerator"]))
    except ValueError as error:
        raise InputError(str(error), file=path, place=place) from None
    except InputError as error:
        raise InputError(error.problem, file=path, place=place, hint=error.hint) from None
    return price


def _price(row: Row, accelerator: str) -> Price:
    """Turn one row into a price.

    Raises:
        ValueError: `gpus` or `usd_per_hour` is no number above zero.
    """
    gpus, cost = (parse_quantity(row[column], "count") for column in ("gpus", "usd_per_hour"))
    if gpus <= 0 or cost <= 0:
        raise ValueError(f"expected gpus and usd_per_hour above zero, got {row['gpus']!r} and {row['usd_per_hour']!r}")
    return Price(
        accelerator=accelerator,
        usd_per_gpu_hour=cost / gpus,
        term=row["term"],
        provider=row["provider"],
        region=row["region"],
        zone=row["zone"],
        instance=row["instance"],
        gpus_per_instance=gpus,
        as_of=row["as_of"],
        source=row["source"],
    )
