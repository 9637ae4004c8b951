"""Reads prices paid from a FOCUS 1.x export: what an instance-hour cost, by instance type, place and terms.

FOCUS (FinOps Open Cost and Usage Specification, versions 1.0 to 1.4): each row is a charge. Usage rows priced by the
hour are grouped; a group's price is Σ EffectiveCost / Σ PricingQuantity. The instance type is looked for in
SkuPriceDetails, ResourceType and SkuMeter; rows that name no instance type known to have accelerators are left out.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

from headway.errors import InputError
from headway.types import Price
from headway.units import parse_quantity

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from headway.catalog.prices import Row

#: PricingCategory of the specification -> our price term
_TERMS = {"standard": "on-demand", "dynamic": "spot", "committed": "committed", "other": ""}
_NEEDED = ("RegionId", "PricingCategory", "PricingQuantity", "PricingUnit", "EffectiveCost", "ChargePeriodStart")
_PROVIDERS = ("ServiceProviderName", "ProviderName")  # the first since 1.3, the second before
_HOURS = ("hour", "hours", "hr", "hrs")


class _Group(NamedTuple):
    provider: str
    region: str
    instance: str
    term: str


def is_focus(header: Iterable[str]) -> bool:
    """Whether a CSV's header is that of a FOCUS export."""
    return {"PricingQuantity", "PricingCategory"} <= set(header)


def read_focus(path: Path, header: list[str], rows: Iterable[Row], known: Iterable[Price]) -> list[Price]:
    """Return what each accelerator-hour cost, by provider, region, instance type and terms.

    Args:
        path: the export, for errors and as the source.
        header: its columns.
        rows: its rows, numbered from 2.
        known: prices that say which instance type has which accelerators.

    Raises:
        InputError: a column missing, a figure that is none, money other than USD, or no row with a known accelerator.
    """
    provider = _check_columns(path, header)
    instances = {price.instance.casefold(): price for price in known if price.instance}
    cost: dict[_Group, float] = {}
    hours: dict[_Group, float] = {}
    last: dict[_Group, str] = {}
    for number, row in enumerate(rows, start=2):
        instance = _instance(row, instances)
        term = _TERMS.get(row["PricingCategory"].casefold(), "")
        if not (instance and term and _is_hourly_usage(row)):
            continue
        place = f"row {number}"
        _check_currency(path, place, row)
        group = _Group(row[provider], row["RegionId"], instance, term)
        cost[group] = cost.get(group, 0.0) + _figure(path, place, row, "EffectiveCost")
        hours[group] = hours.get(group, 0.0) + _figure(path, place, row, "PricingQuantity")
        last[group] = max(last.get(group, ""), row["ChargePeriodStart"][:10])
    paid = [
        _price(path, group, instances, cost[group] / hours[group], last[group])
        for group in cost
        if hours[group] > 0 and cost[group] > 0
    ]
    if not paid:
        hint = "name its instance types in a price file of your own first"
        raise InputError("no hourly usage of an instance type known to have accelerators", file=path, hint=hint)
    return paid


def _check_columns(path: Path, header: list[str]) -> str:
    """Return the provider's column."""
    for column in _NEEDED:
        if column not in header:
            raise InputError(f"the FOCUS column {column!r} is missing", file=path)
    for column in _PROVIDERS:
        if column in header:
            return column
    raise InputError(f"neither FOCUS column {' nor '.join(_PROVIDERS)} is there", file=path)


def _instance(row: Row, instances: Mapping[str, Price]) -> str:
    """Return the row's instance type if it is known to have accelerators."""
    for word in (_detail(row.get("SkuPriceDetails", "")), row.get("ResourceType", ""), row.get("SkuMeter", "")):
        if word.casefold() in instances:
            return instances[word.casefold()].instance
    return ""


def _detail(text: str) -> str:
    """Return `InstanceType` of the JSON object in SkuPriceDetails, empty where there is none."""
    try:
        details = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        return ""
    return str(details.get("InstanceType", details.get("x_InstanceType", ""))) if isinstance(details, dict) else ""


def _is_hourly_usage(row: Row) -> bool:
    usage = row.get("ChargeCategory", "Usage") == "Usage" and row.get("ChargeClass", "") != "Correction"
    return usage and row["PricingUnit"].casefold() in _HOURS


def _check_currency(path: Path, place: str, row: Row) -> None:
    if (currency := row.get("BillingCurrency", "USD")) not in ("USD", ""):
        raise InputError(f"expected USD, got {currency!r}", file=path, place=f"{place}, BillingCurrency")


def _figure(path: Path, place: str, row: Row, column: str) -> float:
    try:
        return parse_quantity(row[column], "count")
    except ValueError as error:
        raise InputError(str(error), file=path, place=f"{place}, {column}") from None


def _price(path: Path, group: _Group, instances: Mapping[str, Price], usd_per_hour: float, as_of: str) -> Price:
    known = instances[group.instance.casefold()]
    return Price(
        accelerator=known.accelerator,
        usd_per_gpu_hour=usd_per_hour / known.gpus_per_instance,
        term=group.term,
        provider=group.provider,
        region=group.region,
        instance=group.instance,
        gpus_per_instance=known.gpus_per_instance,
        as_of=as_of,
        source=f"{path}: FOCUS export, effective cost per hour used",
    )
