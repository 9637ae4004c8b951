"""A page: what a result says, as text in tables, before it is known where it will be shown."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from headway.units import show_s

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from headway.types import Band, Latency, Metric, Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table; `align` has one letter per column, `l` (text, may wrap) or `r` (figures, never broken)."""

    title: str
    columns: tuple[str, ...]
    align: str
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    def __bool__(self) -> bool:
        return bool(self.rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lines:
    """A titled list of sentences."""

    title: str
    lines: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class Commands:
    """Commands to paste: never broken over lines."""

    title: str
    commands: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.commands)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """Series over one axis, drawn small: each has a name, its values at even steps, and its least and most as text."""

    title: str
    series: tuple[tuple[str, Sequence[float], str, str], ...]
    start: str
    end: str


Part: TypeAlias = Table | Lines | Commands | Plot


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One result: what it says in a sentence, then the evidence."""

    headline: str
    parts: tuple[Part, ...]


#: What a figure that is not there looks like.
ABSENT = "–"


def percentile(percentile_frac: float) -> str:
    """Name a percentile: `0.95` → `p95`, `0.999` → `p99.9`."""
    return f"p{100 * percentile_frac:g}"


def seconds(value_s: float) -> str:
    """Show a time; a latency that some request never got is `never`, one nobody had is a dash."""
    if math.isnan(value_s):
        return ABSENT
    return "never" if math.isinf(value_s) else show_s(value_s)


def money(amount_usd: float) -> str:
    """Show USD without the sign, for a column: two places from a dollar up, three significant digits below."""
    if not math.isfinite(amount_usd):
        return ABSENT
    return f"{amount_usd:,.2f}" if abs(amount_usd) >= 1 or amount_usd == 0 else f"{amount_usd:#.3g}"


def latency_at(latency: Latency | None, percentile_frac: float) -> str:
    """Show a percentile with its band: `28.1 ms (25–33)`; the band is in the unit of the figure."""
    if latency is None or percentile_frac not in latency.quantiles_s:
        return ABSENT
    return in_band(latency.at(percentile_frac), latency.band_at(percentile_frac))


def in_band(value_s: float, band: Band | None) -> str:
    """Show a time with its band: `28.1 ms (25–33)`."""
    text = seconds(value_s)
    if band is None or not math.isfinite(value_s) or value_s == 0:
        return text
    figure, unit = text.split(" ", 1)
    per_unit = float(figure.replace(",", "")) / value_s if float(figure.replace(",", "")) else 1.0
    low, high = (value_s * (1 + edge) * per_unit for edge in (band.low_frac, band.high_frac))
    return f"{figure} {unit} ({_short(low)}–{_short(high)})"


def _short(value: float) -> str:
    """A band's edge: two digits, three from 100 up; a band is not known better."""
    return f"{value:.0f}" if abs(value) >= 10 else f"{value:.2g}"


def shares(quantiles_frac: Mapping[float, float] | None, *fracs: float) -> str:
    """Show quantiles of a share: `62/81/95 %`."""
    known = [quantiles_frac[f] for f in fracs if f in quantiles_frac] if quantiles_frac else []
    return f"{'/'.join(f'{100 * v:.0f}' for v in known)} %" if known else ABSENT


def latency_table(outcome: Outcome, metrics: Sequence[Metric]) -> Table:
    """Return the table of an outcome's latencies: a row per metric, a column per percentile."""
    shown = [m for m in metrics if m in outcome.latency]
    fracs = sorted({f for m in shown for f in outcome.latency[m].quantiles_s})
    return Table(
        title=f"Latency ({outcome.source})",
        columns=("", *(percentile(f) for f in fracs), "max"),
        align="l" + "r" * (len(fracs) + 1),
        rows=tuple(_latency_row(m, outcome.latency[m], fracs) for m in shown),
        note=_band_note(outcome),
    )


def _latency_row(metric: Metric, latency: Latency, fracs: Sequence[float]) -> tuple[str, ...]:
    figures = (latency_at(latency, f) for f in fracs)
    return (metric.upper(), *figures, seconds(latency.max_s))


def _band_note(outcome: Outcome) -> str:
    band = next((latency.band for latency in outcome.latency.values() if latency.band), None)
    return f"Bands hold {100 * band.confidence_frac:g} % of measurements alike; --json says which" if band else ""


def counted(number: int, noun: str) -> str:
    """Count a noun: `1 GPU`, `8 GPUs`."""
    return f"{number:,} {noun}{'s' * (number != 1)}"
