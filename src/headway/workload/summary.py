"""A benchmark run in figures: what its tool said of it where no requests were kept."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from headway.types import Latency

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headway.types import Metric
    from headway.workload.source import Source

NAN = float("nan")
#: Requests and clients of a run: whoever says more has another number in that place.
MOST = 10**9
#: A median gap below this share of the mean: most chunks came together with the one before.
_COALESCED_FRAC = 0.02
_FROM_SENT = "latencies are from when a request was sent: a client that sends late hides that wait"
_CAPPED = "an open loop behind a cap on requests in flight: where the cap was reached, the load was a closed loop"
_COALESCED = (
    "the median gap between chunks is next to nothing: chunks came together (several tokens in one, or a client "
    "without processor time); ITL quantiles are not the server's"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """One run in figures, as its tool summed it up; NaN and None: it does not say.

    Attributes:
        tool: `vllm-bench`, `aiperf` or `guidellm`.
        file: where it stands.
        requests: sent.
        failed: of them, not answered.
        concurrency: clients of a closed loop, or the cap on requests in flight of an open one.
        rate_per_s: of an open loop, as asked for; infinite: all at once, or as fast as the cap lets.
        isl_tokens: mean, of answered requests.
        osl_tokens: mean received, likewise.
        isl_sd_tokens: standard deviation,
        osl_sd_tokens: likewise.
        evenly: an open loop's requests came at equal gaps, not at random.
        duration_s: of the whole run.
        requests_per_s: answered.
        output_tokens_per_s: received.
        latency: of answered requests; samples are requests, and of ITL 0: not told.
        weighed: TPOT counts a request as often as it has gaps.
        notes: what a reader of these figures must know, in whole sentences.
    """

    tool: str
    file: str
    requests: int
    failed: int
    concurrency: int | None
    rate_per_s: float | None
    isl_tokens: float
    osl_tokens: float
    duration_s: float
    requests_per_s: float
    output_tokens_per_s: float
    latency: Mapping[Metric, Latency]
    notes: tuple[str, ...]
    isl_sd_tokens: float = NAN
    osl_sd_tokens: float = NAN
    evenly: bool = False
    weighed: bool = False


def number(source: Source, value: Any, place: str) -> float:
    """Return a number from 0 on, NaN where there is none."""
    if value is None or value == "":
        return NAN
    try:
        found = float(value)
    except OverflowError:  # a whole number of hundreds of digits
        found = math.inf
    except (TypeError, ValueError):
        source.fail(f"expected a number, got {str(value)[:40]!r}", place)
    if found < 0 or found == math.inf:
        source.fail("expected a finite number from 0 on", place)
    return found


def needed(source: Source, value: Any, place: str) -> float:
    """Return a number from 0 on that must be there."""
    found = number(source, value, place)
    if math.isnan(found):
        source.fail("expected a number from 0 on", place)
    return found


def count(source: Source, value: Any, place: str) -> int | None:
    """Return how many, None where it does not say."""
    found = number(source, value, place)
    if found > MOST:
        source.fail(f"expected at most {MOST:,}, got {found:g}", place)
    return None if math.isnan(found) else int(found)


def counted(source: Source, value: Any, place: str) -> int:
    """Return how many, which must be there."""
    needed(source, value, place)
    found = count(source, value, place)
    assert found is not None
    return found


def part(value: Any, *keys: str) -> dict[str, Any]:
    """Return the object at those keys; an empty one where there is none."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


def latency_of(samples: int, mean: float, most: float, quantiles: Mapping[float, float], unit_s: float) -> Latency:
    """Return a latency given in units of `unit_s`; quantiles it does not say (NaN) are left out."""
    scaled = {frac: value * unit_s for frac, value in sorted(quantiles.items()) if not math.isnan(value)}
    return Latency(samples=samples, mean_s=mean * unit_s, max_s=most * unit_s, quantiles_s=scaled)


def notes_of(latency: Mapping[Metric, Latency], concurrency: int | None, rate_per_s: float | None) -> list[str]:
    """Return what is to be known of every tool's figures."""
    found = [_FROM_SENT]
    if concurrency is not None and rate_per_s is not None and math.isfinite(rate_per_s):
        found.append(_CAPPED)
    itl = latency.get("itl")
    if itl is not None and itl.quantiles_s.get(0.5, math.inf) < _COALESCED_FRAC * itl.mean_s:
        found.append(_COALESCED)
    return found


def csv_rows(source: Source) -> list[list[str]]:
    """Return the rows of a CSV file."""
    try:
        return list(csv.reader(io.StringIO(source.read().decode())))
    except (UnicodeDecodeError, csv.Error) as error:
        source.fail(f"not readable as CSV: {error}")
