"""Quantities as people write them, at the edges only; inside, base units stand in every name.

Base units: seconds, bytes, tokens, FLOP, USD, watt, fractions of one.
"""

from __future__ import annotations

import math
import re

_TIME = {
    "ps": 1e-12,
    "ns": 1e-9,
    "us": 1e-6,
    "µs": 1e-6,
    "μs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "min": 60.0,
    "h": 3600.0,
    "d": 86400.0,
}
_DECIMAL = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
_BYTES = {f"{p}B": f for p, f in _DECIMAL.items() if p != "K"} | {
    f"{p}iB": 1024.0**i for i, p in enumerate(("K", "M", "G", "T", "P"), start=1)
}

#: dimension -> {unit as written: factor to the base unit}
UNITS: dict[str, dict[str, float]] = {
    "time": _TIME,
    "bytes": _BYTES,
    "bytes_per_s": {f"{unit}/s": factor for unit, factor in _BYTES.items()},
    "flops_per_s": {f"{p}{word}": f for p, f in _DECIMAL.items() for word in ("FLOP/s", "FLOPS", "OP/s", "OPS")},
    "tokens": {"tokens": 1.0, "token": 1.0, "k tokens": 1e3, "M tokens": 1e6},
    "rate": {
        f"{noun}/{per}": 1.0 / seconds
        for noun in ("req", "requests", "rps")
        for per, seconds in (("s", 1.0), ("min", 60.0), ("h", 3600.0))
    }
    | {"rps": 1.0},
    "tokens_per_s": {"tokens/s": 1.0, "tok/s": 1.0},
    "frac": {"%": 0.01, "": 1.0},
    "power": {"W": 1.0, "kW": 1e3},
    "usd_per_hour": {"$/h": 1.0, "USD/h": 1.0, "$/hour": 1.0, "USD/hour": 1.0},
    "usd": {"$": 1.0, "USD": 1.0},
    "count": {"": 1.0},
}

_QUANTITY = re.compile(r"^\s*(\$?)\s*([-+]?(?:\d[\d_,]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(.*?)\s*$")

#: dimension -> an example for error messages
EXAMPLE = {
    "time": "500 ms",
    "bytes": "80 GB",
    "bytes_per_s": "450 GB/s",
    "flops_per_s": "989 TFLOP/s",
    "tokens": "2000 tokens",
    "rate": "40 req/s",
    "tokens_per_s": "100 tokens/s",
    "frac": "30 %",
    "power": "700 W",
    "usd_per_hour": "2.50 $/h",
    "usd": "1000 USD",
    "count": "4",
}


def parse_quantity(text: object, dimension: str) -> float:
    """Turn `500 ms`, `40 req/s`, `80 GB`, `30 %` into the base unit of `dimension`.

    Args:
        text: what was written; a bare number is refused where the dimension has a unit.
        dimension: a key of `UNITS`.

    Raises:
        ValueError: the text is no quantity of that dimension, or not finite; the message says what was expected.
    """
    units = UNITS[dimension]
    expected = f"expected a quantity such as {EXAMPLE[dimension]!r}"
    if isinstance(text, bool) or not isinstance(text, (str, int, float)):
        raise ValueError(f"{expected}, got {text!r}")  # noqa: TRY004 - the caller turns it into an InputError
    match = _QUANTITY.match(str(text))
    if not match:
        raise ValueError(f"{expected}, got {text!r}")
    dollar, digits, unit = match.groups()
    if dollar:
        unit = f"${unit}"
    if unit not in units:
        problem = "has no unit" if not unit else f"has an unknown unit {unit!r}"
        raise ValueError(f"{text!r} {problem}; {expected} (units: {', '.join(u for u in units if u)})")
    value = float(digits.replace("_", "").replace(",", "")) * units[unit]
    if not math.isfinite(value):
        raise ValueError(f"{expected}, got {text!r}, which is not finite")
    return value


def _scaled(value: float, steps: tuple[tuple[float, str], ...], digits: int) -> str:
    if value == 0 or not math.isfinite(value):
        base = next(unit for factor, unit in steps if factor == 1.0)
        return f"{value:g} {base}"
    factor, unit = next(((f, u) for f, u in steps if abs(value) >= f), steps[-1])
    return f"{value / factor:.{digits}g} {unit}" if abs(value / factor) < 1000 else f"{value / factor:,.0f} {unit}"


def show_s(value_s: float, digits: int = 3) -> str:
    """Show a duration: `0.0283` → `28.3 ms`."""
    return _scaled(
        value_s,
        ((86400.0, "d"), (3600.0, "h"), (1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"), (1e-12, "ps")),
        digits,
    )


def show_bytes(value_bytes: float, digits: int = 3) -> str:
    """Show a size in binary units: `85899345920` → `80 GiB`."""
    return _scaled(
        value_bytes, ((1024.0**4, "TiB"), (1024.0**3, "GiB"), (1024.0**2, "MiB"), (1024.0, "KiB"), (1.0, "B")), digits
    )


def show_count(value: float, unit: str = "", digits: int = 3) -> str:
    """Show a count with decimal prefixes: `1.98e15, "FLOP/s"` → `1.98 PFLOP/s`."""
    steps = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))
    return _scaled(value, tuple((f, f"{p}{unit}") for f, p in steps), digits).rstrip()


def show_frac(value_frac: float, digits: int = 1) -> str:
    """Show a fraction as per cent: `0.305` → `30.5 %`."""
    return f"{100 * value_frac:.{digits}f} %"


def show_usd(value_usd: float) -> str:
    """Show money: two places from a dollar up, three significant digits below."""
    return f"${value_usd:,.2f}" if abs(value_usd) >= 1 or value_usd == 0 else f"${value_usd:.3g}"
