"""What a row's harness asked for: lengths, arrivals, how many; what the row leaves out is assumed, and said."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

from headway.validation.loads import Lengths, Load
from headway.validation.names import Assumption
from headway.validation.sources import data_set_of

if TYPE_CHECKING:
    from headway.validation.measurements import Measurement, Tokens
    from headway.validation.sources import Harness

_SHARED = re.compile(r"sys(?:tem)? (\d+)|prefix (\d+) tok")
_DURATION = re.compile(r"duration=([\d.]+)s")
_SENT = re.compile(r"([\d,]+) requests\b|total_requests: (\d+)")


def load_of(row: Measurement, harness: Harness, said: list[Assumption]) -> Load:
    """Return what was asked of the whole deployment.

    Args:
        row: what was measured.
        harness: how.
        said: takes what the row does not say.
    """
    usual = data_set_of(row)
    isl, osl = (_lengths(row, name, harness, said) for name in ("isl", "osl"))
    arrivals = _arrivals(row)
    rate = row.request_rate_per_s or _rate(row, usual.rate_per_s, said) if arrivals == "poisson" else None
    return Load(
        arrivals=arrivals,
        isl_tokens=isl,
        osl_tokens=osl,
        concurrency=_clients(row, arrivals, said),
        rate_per_s=rate,
        requests=_requests(row, harness, arrivals, rate),
        prefix_tokens=min(_prefix(row) or usual.prefix_tokens, isl.low),
    )


def _arrivals(row: Measurement) -> Literal["closed", "poisson", "batch"]:
    if "static batch" in row.features or row.mode == "offline":
        return "batch"
    if row.mode in ("rate", "server") and (row.request_rate_per_s or row.mode == "rate"):
        return "poisson"
    return "closed"


def _lengths(row: Measurement, side: str, harness: Harness, said: list[Assumption]) -> Lengths:
    stated: Tokens | None = getattr(row, f"{side}_tokens")
    if stated and stated.high > stated.low:
        return Lengths(low=max(round(stated.low), 1), high=round(stated.high))
    low, high = getattr(harness, side)
    mean = stated.mean if stated else _unstated(row, side, said)
    return Lengths(low=max(round(low * mean), 1), high=max(round(high * mean), 1))


def _unstated(row: Measurement, side: str, said: list[Assumption]) -> float:
    if side == "osl" and "prefill only" in row.features:
        return 1.0
    usual = data_set_of(row)
    mean = getattr(usual, f"{side}_tokens")
    said.append(Assumption(code=f"{side}_unknown", text=f"{side} {mean:g} tokens: {usual.note}"))
    return float(mean)


def _rate(row: Measurement, usual: float | None, said: list[Assumption]) -> float:
    """Return what came through where nobody says what was asked for: an open loop below saturation serves its rate."""
    served = row.value("requests_per_s")
    rate = served or usual or 1.0
    said.append(Assumption(code="rate_unknown", text=f"{rate:g} requests per second"))
    return rate


def _clients(row: Measurement, arrivals: str, said: list[Assumption]) -> int | None:
    if arrivals == "poisson":
        return None
    if row.concurrency:
        return row.concurrency
    if arrivals == "batch":
        return None
    clients = 1
    latency, served = row.value("e2e_s"), row.value("requests_per_s")
    if latency and served:
        clients = max(round(latency * served), 1)  # Little's law
    said.append(Assumption(code="concurrency_unknown", text=f"{clients} in flight"))
    return clients


def _requests(row: Measurement, harness: Harness, arrivals: str, rate_per_s: float | None) -> int | None:
    if "static batch" in row.features and row.concurrency:
        return row.concurrency
    if sent := _SENT.search(row.note):
        return int((sent[1] or sent[2]).replace(",", "")) or None
    if arrivals == "poisson" and rate_per_s and (lasted := _DURATION.search(row.note)):
        return max(round(rate_per_s * float(lasted[1])), 1)
    if arrivals == "closed" and harness.requests_per_client and row.concurrency:
        return harness.requests_per_client * row.concurrency
    if arrivals == "batch" and harness.requests_per_client == 1 and row.concurrency:
        return row.concurrency
    lengths = "/".join(f"{tokens.mean:g}" for tokens in (row.isl_tokens, row.osl_tokens) if tokens)
    return harness.requests_by_lengths.get(lengths, harness.requests)


def _prefix(row: Measurement) -> int:
    found = _SHARED.search(row.note) if "shared" in row.note else None
    return int(found[1] or found[2]) if found else 0
