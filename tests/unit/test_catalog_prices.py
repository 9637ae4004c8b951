"""Prices: shipped, the user's own, and paid ones from a FOCUS export."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING

import pytest

from headway.catalog import load, spread
from headway.catalog.prices import COLUMNS, TERMS
from headway.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

ROW = {
    "provider": "Mine",
    "region": "cellar",
    "zone": "",
    "instance": "box.8",
    "accelerator": "H100",
    "gpus": "8",
    "term": "on-demand",
    "usd_per_hour": "16",
    "as_of": "2026-10-01",
    "source": "contract",
}
CHARGE = {
    "ProviderName": "AWS",
    "RegionId": "us-east-1",
    "ChargeCategory": "Usage",
    "ChargeClass": "",
    "BillingCurrency": "USD",
    "PricingCategory": "Standard",
    "PricingQuantity": "2",
    "PricingUnit": "Hours",
    "EffectiveCost": "80",
    "ChargePeriodStart": "2026-10-01T00:00:00Z",
    "SkuPriceDetails": json.dumps({"InstanceType": "p5.48xlarge"}),
    "ResourceType": "Instance",
}


def write(path: Path, *rows: dict[str, str]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    path.write_text(text.getvalue(), encoding="utf-8")
    return str(path)


def test_every_shipped_price_names_a_known_accelerator_its_day_and_its_source() -> None:
    catalog = load()
    known = {accelerator.name for accelerator in catalog.accelerators}
    prices = catalog.prices()
    assert len(prices) > 150
    for price in prices:
        assert price.accelerator in known
        assert price.as_of[:4].isdecimal() or price.as_of.startswith("undated"), price
        assert price.source
        assert price.term in TERMS
        assert 0.01 < price.usd_per_gpu_hour < 30, price


def test_prices_are_filtered_and_cheapest_first() -> None:
    prices = load().prices("H100", region="us-east-1", terms=["on-demand", "spot"], provider="aws")
    assert {(p.accelerator, p.region, p.provider) for p in prices} == {("h100-sxm", "us-east-1", "AWS")}
    assert {p.term for p in prices} == {"on-demand", "spot"}
    assert [p.usd_per_gpu_hour for p in prices] == sorted(p.usd_per_gpu_hour for p in prices)


def test_a_price_without_region_belongs_where_its_provider_is() -> None:
    catalog = load()
    terms = {p.term for p in catalog.prices("h100", region="us-east-1", provider="AWS")}
    assert "capacity-block" in terms
    assert not catalog.prices("h100", region="us-east-1", provider="Crusoe")
    assert catalog.prices("a100-80-pcie", provider="Crusoe")


def test_reserved_prices_are_derived_and_say_so() -> None:
    catalog = load()
    by_term = {
        term: catalog.prices("h100", region="us-east-1", terms=[term], provider="AWS")
        for term in ("on-demand", "reserved-1y", "reserved-3y")
    }
    full = {(p.instance, p.as_of): p.usd_per_gpu_hour for p in by_term["on-demand"]}
    for term, kept in (("reserved-1y", 0.68), ("reserved-3y", 0.52)):
        assert by_term[term]
        for price in by_term[term]:
            assert price.usd_per_gpu_hour == pytest.approx(kept * full[price.instance, price.as_of])
            assert "on-demand less" in price.source


def test_spot_prices_spread_over_zones() -> None:
    got = spread(load().prices("h100", terms=["spot"], provider="AWS"))
    assert got is not None
    assert got.zones > 5
    assert got.least_usd_per_gpu_hour < got.median_usd_per_gpu_hour < got.most_usd_per_gpu_hour
    assert spread([]) is None


def test_an_unknown_term_or_accelerator_is_refused() -> None:
    with pytest.raises(InputError, match=r"unknown price term 'on demand'.*did you mean 'on-demand'"):
        load().prices("h100", terms=["on demand"])
    with pytest.raises(InputError, match="unknown accelerator 'h1000'"):
        load().prices("h1000")


def test_a_users_prices_come_before_the_shipped(tmp_path: Path) -> None:
    catalog = load(write(tmp_path / "mine.csv", ROW))
    first = catalog.prices("h100")[0]
    assert (first.provider, first.usd_per_gpu_hour, first.accelerator) == ("Mine", 2.0, "h100-sxm")
    assert catalog.prices("h100", region="cellar") == (first,)


def test_a_users_price_without_region_holds_everywhere(tmp_path: Path) -> None:
    catalog = load(write(tmp_path / "mine.csv", ROW | {"region": ""}))
    assert catalog.prices("h100", region="us-east-1")[0].provider == "Mine"
    assert {p.provider for p in catalog.prices("h100", region="nowhere")} == {"Mine"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"accelerator": "h1000"}, "row 3: unknown accelerator 'h1000'.*did you mean"),
        ({"term": "rent"}, "row 3: unknown price term 'rent'"),
        ({"gpus": "0"}, "row 3: expected gpus and usd_per_hour above zero"),
        ({"usd_per_hour": "-1"}, "row 3: expected gpus and usd_per_hour above zero"),
        ({"usd_per_hour": "cheap"}, "row 3: expected a quantity"),
        ({"usd_per_hour": "nan"}, "row 3: expected a quantity"),
        ({"as_of": ""}, "row 3: 'as_of' is empty"),
        ({"source": " "}, "row 3: 'source' is empty"),
    ],
)
def test_a_wrong_row_is_named(tmp_path: Path, changes: dict[str, str], said: str) -> None:
    path = write(tmp_path / "mine.csv", ROW, ROW | changes)
    with pytest.raises(InputError, match=said) as caught:
        load(path)
    assert path in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no price in it"),
        (",".join(COLUMNS), "no price in it"),
        ("provider,term\nx,y\n", "the column 'region' is missing"),
        (",".join(COLUMNS) + "\na,b\n", "row 2: expected 10 cells"),
        (",".join(COLUMNS) + "\n" + ",".join("x" * 12) + "\n", "row 2: expected 10 cells"),
        ('a,b\n"x', "not valid CSV"),
    ],
)
def test_what_is_no_price_file_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=said):
        load(path)


def test_a_missing_price_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        load(tmp_path / "none.csv")


def test_a_focus_export_gives_the_price_paid(tmp_path: Path) -> None:
    rows = [
        CHARGE,
        CHARGE | {"EffectiveCost": "40", "ChargePeriodStart": "2026-10-02T00:00:00Z"},
        CHARGE | {"PricingCategory": "Committed", "EffectiveCost": "48"},
        CHARGE | {"PricingCategory": "Dynamic", "EffectiveCost": "32", "RegionId": "us-west-2"},
        CHARGE | {"ChargeCategory": "Tax", "EffectiveCost": "999"},
        CHARGE | {"PricingUnit": "GB", "EffectiveCost": "999"},
        CHARGE | {"SkuPriceDetails": json.dumps({"InstanceType": "m5.large"}), "EffectiveCost": "999"},
    ]
    catalog = load(write(tmp_path / "bill.csv", *rows))
    paid = [p for p in catalog.prices("h100") if "FOCUS" in p.source]
    assert [(p.term, p.region, p.usd_per_gpu_hour, p.as_of) for p in paid] == [
        ("spot", "us-west-2", 2.0, "2026-10-01"),
        ("committed", "us-east-1", 3.0, "2026-10-01"),
        ("on-demand", "us-east-1", 3.75, "2026-10-02"),  # 120 $ for 4 hours of 8
    ]


def test_a_focus_export_may_name_the_instance_elsewhere_and_the_provider_anew(tmp_path: Path) -> None:
    row = CHARGE | {"SkuPriceDetails": "", "ResourceType": "p5.48xlarge", "ServiceProviderName": "Amazon"}
    catalog = load(write(tmp_path / "bill.csv", row))
    assert [p.provider for p in catalog.prices("h100") if "FOCUS" in p.source] == ["Amazon"]


def test_a_users_own_instances_are_known_to_a_later_bill(tmp_path: Path) -> None:
    own = write(tmp_path / "own.csv", ROW)
    bill = write(tmp_path / "bill.csv", CHARGE | {"ResourceType": "box.8", "SkuPriceDetails": ""})
    paid = [p for p in load(own, bill).prices("h100") if "FOCUS" in p.source]
    assert [(p.instance, p.usd_per_gpu_hour) for p in paid] == [("box.8", 5.0)]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"BillingCurrency": "EUR"}, "row 2, BillingCurrency: expected USD, got 'EUR'"),
        ({"EffectiveCost": "free"}, "row 2, EffectiveCost: expected a quantity"),
        ({"PricingQuantity": ""}, "row 2, PricingQuantity: expected a quantity"),
        ({"SkuPriceDetails": "{}"}, "no hourly usage of an instance type known to have accelerators"),
        ({"SkuPriceDetails": "{"}, "no hourly usage"),
        ({"SkuPriceDetails": "[1]"}, "no hourly usage"),
        ({"EffectiveCost": "0"}, "no hourly usage"),
    ],
)
def test_a_wrong_charge_is_named(tmp_path: Path, changes: dict[str, str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        load(write(tmp_path / "bill.csv", CHARGE | changes))


@pytest.mark.parametrize("column", ["RegionId", "EffectiveCost", "ProviderName"])
def test_a_focus_column_that_lacks_is_named(tmp_path: Path, column: str) -> None:
    row = {key: value for key, value in CHARGE.items() if key != column}
    with pytest.raises(InputError, match=column):
        load(write(tmp_path / "bill.csv", row))
