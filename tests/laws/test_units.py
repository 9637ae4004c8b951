"""Laws of quantities: a unit scales, a missing unit is refused, what is shown reads back."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.units import EXAMPLE, UNITS, parse_quantity, show_bytes, show_count, show_frac, show_s, show_usd

WRITTEN = st.sampled_from([(d, u, f) for d, units in UNITS.items() for u, f in units.items()])


@given(WRITTEN, st.floats(-1e6, 1e6))
def test_a_unit_scales_to_the_base_unit(written: tuple[str, str, float], value: float) -> None:
    dimension, unit, factor = written
    assert parse_quantity(f"{value!r} {unit}", dimension) == pytest.approx(value * factor, rel=1e-12)


@given(st.sampled_from([d for d, units in UNITS.items() if "" not in units]), st.floats(-1e6, 1e6))
def test_a_bare_number_is_refused_where_a_unit_is_needed(dimension: str, value: float) -> None:
    with pytest.raises(ValueError, match="has no unit"):
        parse_quantity(str(value), dimension)


@given(st.sampled_from(sorted(UNITS)), st.text(max_size=20) | st.none() | st.booleans() | st.lists(st.integers()))
def test_anything_else_is_refused_with_an_example(dimension: str, value: object) -> None:
    try:
        assert math.isfinite(parse_quantity(value, dimension))
    except ValueError as error:
        assert EXAMPLE[dimension] in str(error)


@pytest.mark.parametrize("text", ["1e999 s", "nan s", "inf s", "-inf s", "1 parsec", "", "s", "1 2 s", "0x10 s"])
def test_what_is_not_a_finite_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="500 ms"):
        parse_quantity(text, "time")


@given(st.floats(1e-11, 1e6))
def test_a_time_shown_reads_back(value_s: float) -> None:
    assert parse_quantity(show_s(value_s, digits=12), "time") == pytest.approx(value_s, rel=5e-3)


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (show_s(0.0283), "28.3 ms"),
        (show_s(0), "0 s"),
        (show_bytes(80 * 1024**3), "80 GiB"),
        (show_count(1.98e15, "FLOP/s"), "1.98 PFLOP/s"),
        (show_frac(0.305), "30.5 %"),
        (show_usd(1234.5), "$1,234.50"),
        (show_usd(0.000123), "$0.000123"),
    ],
)
def test_what_people_read(shown: str, expected: str) -> None:
    assert shown == expected


@pytest.mark.parametrize(
    ("text", "dimension", "value"),
    [
        ("$2.50/h", "usd_per_hour", 2.5),
        ("2.50 $/h", "usd_per_hour", 2.5),
        ("1,000 req/min", "rate", 1000 / 60),
        ("30 %", "frac", 0.3),
    ],
)
def test_spellings(text: str, dimension: str, value: float) -> None:
    assert parse_quantity(text, dimension) == pytest.approx(value)
