"""`price`: what accelerators cost, by provider, region and terms, per hour, per month and per million tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from headway.errors import InputError, nearest

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from headway.catalog import Catalog, PriceSpread
    from headway.types import Accelerator, Price

#: A month as the providers' own calculators count it: 8,760 hours a year over twelve.
HOURS_PER_MONTH = 730.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """One price, for the GPUs asked for."""

    price: Price
    usd_per_hour: float
    usd_per_month: float
    usd_per_m_tokens: float | None  # at the rate asked for, all GPUs together; None where none was


@dataclass(frozen=True, slots=True, kw_only=True)
class SpotSpread:
    """How spot prices of one provider differ over its zones."""

    provider: str
    spread: PriceSpread


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """What so many GPUs of one kind cost."""

    accelerator: Accelerator
    gpus: int
    tokens_per_s: float | None
    offers: tuple[Offer, ...]  # cheapest first, but for your own prices, which go before
    spot: tuple[SpotSpread, ...]  # over all regions


def price(
    accelerator: str,
    *,
    gpus: int = 1,
    tokens_per_s: float | None = None,
    region: str | None = None,
    terms: Iterable[str] = (),
    provider: str | None = None,
    files: Iterable[str | Path] = (),
) -> Quote:
    """Price GPUs of one kind: every offer known, cheapest first.

    Args:
        accelerator: any name or alias of the catalogue.
        gpus: how many.
        tokens_per_s: what all of them together serve, for the cost per million tokens.
        region: only there.
        terms: only these: on-demand, reserved-1y, reserved-3y, spot, capacity-block.
        provider: only this one.
        files: your own prices (CSV, or a FOCUS export) and catalogue files.

    Raises:
        InputError: an unknown accelerator, region, provider or term, a figure out of bounds, a wrong file, or no price
            is known under these conditions.
    """
    from headway.catalog import load

    if gpus < 1:
        raise InputError(f"expected at least 1, got {gpus}", place="gpus")
    if tokens_per_s is not None and not 0 < tokens_per_s < math.inf:
        raise InputError(f"expected a rate above zero, got {tokens_per_s!r}", place="tokens_per_s")
    catalog = load(*files)
    found = catalog.accelerator(accelerator)
    wanted = tuple(terms) or None
    prices = catalog.prices(found, region=region, terms=wanted, provider=provider)
    if not prices:
        _refuse(catalog, found, region, provider)
    return Quote(
        accelerator=found,
        gpus=gpus,
        tokens_per_s=tokens_per_s,
        offers=tuple(_offer(one, gpus, tokens_per_s) for one in prices),
        spot=_spot(catalog, found, provider),
    )


def _offer(one: Price, gpus: int, tokens_per_s: float | None) -> Offer:
    usd_per_hour = one.usd_per_gpu_hour * gpus
    return Offer(
        price=one,
        usd_per_hour=usd_per_hour,
        usd_per_month=usd_per_hour * HOURS_PER_MONTH,
        usd_per_m_tokens=usd_per_hour / 3600 / tokens_per_s * 1e6 if tokens_per_s else None,
    )


def _spot(catalog: Catalog, accelerator: Accelerator, provider: str | None) -> tuple[SpotSpread, ...]:
    from headway.catalog import spread

    prices = catalog.prices(accelerator, terms=("spot",), provider=provider)
    by_provider = {
        name: spread(p for p in prices if p.provider == name) for name in sorted({p.provider for p in prices})
    }
    return tuple(SpotSpread(provider=name, spread=found) for name, found in by_provider.items() if found)


def _refuse(catalog: Catalog, accelerator: Accelerator, region: str | None, provider: str | None) -> None:
    """Say which condition leaves nothing, with the nearest that does not.

    Raises:
        InputError: always.
    """
    known = catalog.prices(accelerator)
    places = {p.region for p in known if p.region}
    sellers = {p.provider for p in known}
    if provider and provider.casefold() not in {name.casefold() for name in sellers}:
        raise InputError(
            f"no price of {accelerator.name} is known at {provider!r}",
            place="provider",
            hint=nearest(provider, sellers),
        )
    if region and region not in places:
        raise InputError(
            f"no price of {accelerator.name} is known in {region!r}", place="region", hint=nearest(region, places)
        )
    raise InputError(
        f"no price of {accelerator.name} is known under these terms",
        hint=f"known: {', '.join(sorted({p.term for p in known})) or 'none'}",
    )
