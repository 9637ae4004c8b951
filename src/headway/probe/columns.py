"""What came of each request, as the columns of a trace."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from headway.probe.nouns import ERRORS
from headway.workload import take
from headway.workload.trace import Measured, Trace

if TYPE_CHECKING:
    from headway.probe.flight import Flight
    from headway.probe.nouns import Load
    from headway.types import FloatColumn, IntColumn

_CODE = {name: code for code, name in enumerate(ERRORS)}


class Columns:
    """Filled request after request, in the order of the load; what nothing was heard of stays `not-sent`."""

    def __init__(self, load: Load, *, forced: bool) -> None:
        requests, n = load.requests, len(load.requests)
        self.load, self._forced = load, forced
        self.most_tokens = requests.osl_tokens if requests.max_tokens is None else requests.max_tokens
        self.arrive_s = requests.arrive_s.astype(np.float64)
        self.ttft_s, self.e2e_s, self.sent_s, self.over_s = (np.full(n, np.nan) for _ in range(4))
        self.input_tokens, self.output_tokens, self.cached_tokens = (np.full(n, -1, np.int64) for _ in range(3))
        self.error = np.full(n, _CODE["not-sent"], np.int64)
        self.gaps_s: dict[int, FloatColumn] = {}
        self.chunks = self.coalesced = self.without_usage = self.retried = self.resent = self.failed = self.joined = 0
        self.at_once = 0  # answers of several tokens, all read at the same time
        self.messages: dict[str, str] = {}
        self.counts: Counter[str] = Counter()

    def add(self, flight: Flight, zero_s: float) -> str:
        """Take in a request that was sent, with its reading; return why it was not answered in full."""
        row, reading = flight.row, flight.reading
        code = self._code(flight)
        self.arrive_s[row] = flight.due_s - zero_s
        self.sent_s[row] = flight.sent_s - flight.due_s
        self.over_s[row] = flight.end_s - flight.due_s
        tokens_s = _token_times_s(flight)
        if len(tokens_s):
            self.ttft_s[row] = tokens_s[0] - flight.due_s
            self.gaps_s[row] = np.diff(tokens_s)
            self.coalesced += int((self.gaps_s[row] == 0).sum())
        if not code:
            self.e2e_s[row] = tokens_s[-1] - flight.due_s
        self._count(row, flight, code)
        if code:
            self.counts[code] += 1
            self.failed += code != "cancelled"
            self.messages.setdefault(code, flight.message or reading.message)
        return code

    def _count(self, row: int, flight: Flight, code: str) -> None:
        reading, chunks = flight.reading, len(flight.reading.ends)
        told = reading.output_tokens >= 0
        self.input_tokens[row], self.cached_tokens[row] = reading.input_tokens, reading.cached_tokens
        self.output_tokens[row] = reading.output_tokens if told else chunks
        self.without_usage += not told and not code
        self.at_once += not code and self.output_tokens[row] > 1 and self.e2e_s[row] == self.ttft_s[row]
        self.joined += told and reading.output_tokens > chunks + 1
        self.chunks += chunks
        self.retried += flight.retried
        self.resent += flight.resent
        self.error[row] = _CODE[code]

    def _code(self, flight: Flight) -> str:
        """Return why it was not answered in full: an answer that came to its end counts, whatever broke afterwards."""
        reading = flight.reading
        if flight.code.startswith(("status", "redirected")):
            return flight.code
        if reading.code and (reading.code == "server-error" or not flight.code):
            return reading.code
        if reading.finished:
            return self._length_code(flight)
        return flight.code or ("disconnected" if reading.ends else "malformed")

    def _length_code(self, flight: Flight) -> str:
        reading = flight.reading
        if not reading.ends:
            return "no-tokens"
        got = reading.output_tokens if reading.output_tokens >= 0 else len(reading.ends)
        if got > self.most_tokens[flight.row]:
            return "too-long"
        wanted = min(self.load.requests.osl_tokens[flight.row], self.most_tokens[flight.row])
        early = self._forced and reading.output_tokens >= 0 and got < wanted
        return "stopped-early" if early else ""

    def trace(self, end_s: float) -> tuple[Trace, IntColumn]:
        """Return all rows in order of arrival, and which rows of the load they are.

        Args:
            end_s: when the run ended; no client of a closed loop was free before for what it did not send.
        """
        if self.load.concurrency is not None:
            unsent = self.error == _CODE["not-sent"]
            self.arrive_s[unsent] = np.maximum(self.arrive_s[unsent], end_s)
        rows = np.argsort(self.arrive_s, kind="stable").astype(np.int64)
        requests = self.load.requests
        if requests.abort_s is not None:
            requests = dataclasses.replace(requests, abort_s=requests.abort_s - requests.arrive_s + self.arrive_s)
        taken = take(dataclasses.replace(requests, arrive_s=self.arrive_s), rows)
        gaps = [self.gaps_s.get(int(row), np.empty(0)) for row in rows]
        measured = Measured(
            ttft_s=self.ttft_s[rows],
            e2e_s=self.e2e_s[rows],
            itl_s=np.concatenate([np.empty(0), *gaps]),
            itl_offsets=np.concatenate(([0], np.cumsum([len(g) for g in gaps]))).astype(np.int64),
            cached_tokens=self.cached_tokens[rows],
            sent_s=self.sent_s[rows],
            over_s=self.over_s[rows],
            input_tokens=self.input_tokens[rows],
            output_tokens=self.output_tokens[rows],
            error=self.error[rows],
        )
        trace = Trace(requests=taken, format="headway-parquet", file="", measured=measured, names={"error": ERRORS})
        return trace, rows


def _token_times_s(flight: Flight) -> FloatColumn:
    """When the chunks with tokens were complete: with the piece that held their last byte."""
    if not flight.reading.ends:
        return np.empty(0)
    held = np.cumsum([len(piece) for piece in flight.arrivals.pieces])
    return np.frombuffer(flight.arrivals.times_s)[np.searchsorted(held, flight.reading.ends)]


def quantiles(values: FloatColumn) -> dict[float, float]:
    """Return the usual ones and the greatest; NaN where there are no values."""
    known = values[~np.isnan(values)]
    fractions = (0.5, 0.9, 0.95, 0.99, 1.0)
    if not len(known):
        return dict.fromkeys(fractions, math.nan)
    return {f: float(np.quantile(known, f, method="inverted_cdf")) for f in fractions}
