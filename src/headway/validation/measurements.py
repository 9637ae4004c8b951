"""The nouns of the room: one measured row in base units, what is wrong with it, and the table it stands in."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

#: How the requests came: clients that wait for their answer (`concurrency`), a rate, all at once, or MLPerf's server.
Mode = Literal["concurrency", "rate", "offline", "server"]
MODES: tuple[Mode, ...] = ("concurrency", "rate", "offline", "server")

#: Folds of the cross-validation.
FOLDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """A number of tokens as a table gives it: a mean, or a uniform range."""

    low: float
    high: float

    @property
    def mean(self) -> float:
        """The mean of the range."""
        return (self.low + self.high) / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One measured configuration and load, in base units; None (or empty) where the row does not say.

    `measured` holds what was found: metric (`ttft_s`, `tpot_s`, `itl_s`, `e2e_s`, `output_tokens_per_s`,
    `total_tokens_per_s`, `requests_per_s`) -> statistic (`mean`, `p50`, `p90`, `p95`, `p99`) -> value.
    """

    row: str  # its id, or the line it stands on
    line: int  # of the file, the header is 1
    model: str
    hardware: str
    engine: str
    engine_version: str = ""
    params: str = ""  # as the table gives it: "47B-A13B"
    gpus: int | None = None
    tp: int | None = None
    pp: int | None = None
    ep: int | None = None
    dp: int | None = None
    weight_dtype: str = ""
    kv_dtype: str = ""
    isl_tokens: Tokens | None = None
    osl_tokens: Tokens | None = None
    mode: Mode = "concurrency"
    concurrency: int | None = None
    request_rate_per_s: float | None = None
    measured: Mapping[str, Mapping[str, float]]
    features: str = ""
    quality: str = ""
    source: str = ""
    note: str = ""

    @property
    def group(self) -> tuple[str, str, str, str]:
        """What a fit may only have whole: publication, hardware, engine and its version."""
        return (source_family(self.source), self.hardware, self.engine, self.engine_version)

    @property
    def fold(self) -> int:
        """The fold its group is scored in."""
        return fold_of(self.group)

    def value(self, metric: str) -> float | None:
        """Return a metric's median, or its mean where no median is given; None where there is neither."""
        found = self.measured.get(metric, {})
        return found.get("p50", found.get("mean"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something about one row that a reader of its score has to know; `code` is counted, `reason` is read."""

    row: str
    line: int
    code: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Aside:
    """A row that cannot be replayed: why, and the figures it gives, which count against coverage."""

    finding: Finding
    measured: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table of measurements as read: every row that can be replayed, and what was found about any row.

    `rows` counts all rows of the file; those not in `measurements` each have a finding of a code in `REFUSED`.
    """

    file: str
    rows: int
    measurements: tuple[Measurement, ...]
    findings: tuple[Finding, ...]
    aside: tuple[Aside, ...] = ()

    def counts(self) -> dict[str, int]:
        """Return the number of findings by code, most first."""
        return count(self.findings)


#: Findings that put a row aside; it counts against coverage.
REFUSED = ("missing_field", "not_a_number", "unknown_mode", "too_large")


def count(findings: tuple[Finding, ...]) -> dict[str, int]:
    """Return the number of findings by code, most first."""
    found: dict[str, int] = {}
    for finding in findings:
        found[finding.code] = found.get(finding.code, 0) + 1
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


_REPOSITORY = re.compile(
    r"(?:https?://)?(?:www\.)?(?:(?:git|hub)?hub\.com/)?([\w.-]+/[\w.-]+?)(?:\.git)?(?=[:#@?/\s]|$)"
)
_PACKAGE = re.compile(r"([\w.-]+)==[\w.]+\s+(\S+)")
_URL = re.compile(r"https?://(?:www\.)?([^/\s]+)")


def source_family(source: str) -> str:
    """Return the publication a row is from, without the place in it: `owner/repository`, a package's file, a host.

    All rows of one publication share their mistakes (the harness, the machines, the day), whatever file they stand in.
    """
    text = source.strip()
    if package := _PACKAGE.match(text):
        return f"{package[1]} {package[2]}"
    if (url := _URL.match(text)) and "github.com" not in url[1]:
        return url[1].casefold()
    if repository := _REPOSITORY.match(text):
        return repository[1]
    return re.split(r"[:#@(\s]", text, maxsplit=1)[0]


def fold_of(group: tuple[str, ...]) -> int:
    """Return a group's fold, 0 … FOLDS − 1: the same on every machine, for any table."""
    digest = hashlib.sha256("\x1f".join(group).encode()).digest()
    return int.from_bytes(digest[:8], "big") % FOLDS
