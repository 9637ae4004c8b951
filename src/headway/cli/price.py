"""`headway price`: its options and its page."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from headway import units
from headway.cli.common import catalog_option, examples, json_option, names_of, show
from headway.pictures.page import ABSENT, Page, Table, money

if TYPE_CHECKING:
    from headway.api.prices import Offer, Quote, SpotSpread
#: How many offers a screen has room for.
_OFFERS = 30


@click.command(
    epilog=examples(
        "headway price h100-sxm --gpus 8 --region us-east-1 --tokens-per-s 12000",
        "headway price l40s --term spot",
        "headway price h100 --catalog my-prices.csv        your CSV, or a FOCUS export",
    )
)
@click.argument("accelerator", shell_complete=names_of("accelerators"))
@click.option("--gpus", type=int, default=1, show_default=True, help="How many.")
@click.option("--tokens-per-s", type=float, help="What all of them serve together, for the cost per million tokens.")
@click.option("--region", help="Only there, e.g. us-east-1.")
@click.option(
    "--term", "terms", multiple=True, help="Only on these terms: on-demand, reserved-1y, reserved-3y, spot, …"
)
@click.option("--provider", help="Only this one.")
@catalog_option
@json_option
def command(
    accelerator: str,
    gpus: int,
    tokens_per_s: float | None,
    region: str | None,
    terms: tuple[str, ...],
    provider: str | None,
    files: tuple[str, ...],
    *,
    as_json: bool,
) -> None:
    """Price GPUs of one kind: every offer known.

    The cheapest stands first; your own prices (`--catalog FILE`, a CSV or a FOCUS export) stand before all others.
    """
    from headway.api import price

    quote = price(
        accelerator, gpus=gpus, tokens_per_s=tokens_per_s, region=region, terms=terms, provider=provider, files=files
    )
    show("price", quote, quote_page, as_json=as_json)


def quote_page(quote: Quote) -> Page:
    """Return the page of a quote."""
    # spot prices by zone are many: the spread below sums them up, unless they are all that was asked for
    listed = [o for o in quote.offers if o.price.term != "spot"] or list(quote.offers)
    offers = Table(
        title="Offers",
        columns=("$/hour", "$/month", "$/M tokens", "term", "provider", "region", "instance", "as of"),
        align="rrrllllr",
        rows=tuple(_row(offer) for offer in listed[:_OFFERS]),
        note=f"{len(listed) - _OFFERS} more: --json" if len(listed) > _OFFERS else "",
    )
    spot = Table(
        title="Spot, $/GPU-hour over zones",
        columns=("provider", "least", "median", "most", "zones"),
        align="lrrrr",
        rows=tuple(_spot_row(s) for s in quote.spot),
    )
    cheapest = min(quote.offers, key=lambda o: o.usd_per_hour)
    headline = (
        f"{quote.gpus} × {quote.accelerator.name}: from {units.show_usd(cheapest.usd_per_hour)}/hour "
        f"({cheapest.price.term}, {cheapest.price.provider})"
    )
    return Page(headline=headline, parts=(offers, spot) if quote.spot else (offers,))


def _row(offer: Offer) -> tuple[str, ...]:
    p = offer.price
    per_m = ABSENT if offer.usd_per_m_tokens is None else money(offer.usd_per_m_tokens)
    place = p.zone or p.region or "any"
    return (
        f"{offer.usd_per_hour:,.2f}",
        f"{offer.usd_per_month:,.0f}",
        per_m,
        p.term,
        p.provider,
        place,
        p.instance,
        p.as_of,
    )


def _spot_row(spot: SpotSpread) -> tuple[str, ...]:
    s = spot.spread
    figures = (s.least_usd_per_gpu_hour, s.median_usd_per_gpu_hour, s.most_usd_per_gpu_hour)
    return (spot.provider, *(f"{figure:,.3f}" for figure in figures), str(s.zones))
