"""Watching judges the server, not its traffic: however requests come, it holds; a server slowed by half is found."""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from headway.calibration.levels import in_flight
from headway.calibration.watching import Detector, expect, traffic_of
from headway.perf.endpoint_reader import read_calibration
from headway.perf.endpoint_steps import DRIFT, replica_of, terms_at
from headway.probe.nouns import Scrape
from headway.probe.observed import observed
from headway.simulator import simulate
from headway.types import Requests

if TYPE_CHECKING:
    from headway.perf.endpoint import EndpointCalibration
    from headway.types import FloatColumn, IntColumn

LLAMA = Path(__file__).parents[2] / "examples" / "calibrations" / "llama-cpu.yaml"
LOOKS = 30
#: Windows in which a server is to hold, and within which a slower one is to be found.
HOLDS, FOUND = 8, 20


@dataclass(frozen=True)
class Came:
    """How requests came; rates and pauses in terms of what one request alone takes: clients, or a load."""

    clients: int | None = None
    pause: float = 0.0
    load: float = math.inf
    evenly: bool = False
    burst: int = 1

    def times_s(self, n: int, alone_s: float, chance: np.random.Generator) -> FloatColumn:
        """Return when; clients of a closed loop begin at once."""
        if self.clients is not None:
            return np.zeros(n)
        gap_s, bursts = self.burst * alone_s / self.load, -(-n // self.burst)
        gaps_s = np.full(bursts, gap_s) if self.evenly else chance.exponential(gap_s, bursts)
        return np.repeat(np.cumsum(gaps_s), self.burst)[:n]


CAME = {
    "1 client": Came(clients=1),
    "2 clients": Came(clients=2),
    "4 clients": Came(clients=4),
    "8 clients": Came(clients=8),
    "12 clients, 8 seats": Came(clients=12),
    "1 client that pauses": Came(clients=1, pause=3),
    "4 clients that pause": Came(clients=4, pause=5.5),
    "8 clients that pause": Came(clients=8, pause=8),
    "evenly, rarely": Came(load=0.35, evenly=True),
    "evenly": Came(load=0.7, evenly=True),
    "evenly, two at a time": Came(load=1.05, evenly=True),
    "Poisson, rarely": Came(load=0.35),
    "Poisson": Came(load=0.7),
    "Poisson, often": Came(load=1.05),
    "bursts of 4": Came(load=0.7, burst=4),
    "bursts of 8": Came(load=0.35, burst=8),
}


def slowed(known: EndpointCalibration, factor: float) -> EndpointCalibration:
    """Return the same server with every step longer."""
    return replace(known, terms=terms_at(known, {DRIFT: math.log(factor)}))


def scraped(known: EndpointCalibration, came: Came, lengths: IntColumn, alone_s: float, time_s: FloatColumn) -> Scrape:
    """Return what such a server says of itself while it is sent such requests."""
    n, chance = len(lengths), np.random.default_rng(7)
    requests = Requests(
        arrive_s=came.times_s(n, alone_s, chance), isl_tokens=np.full(n, 40), osl_tokens=chance.permutation(lengths)
    )
    done = simulate(requests, replica_of(known), concurrency=came.clients, turnaround_s=came.pause * alone_s)
    arrive, first, last = (column / 1e12 for column in (done.arrive_ps, done.first_ps, done.last_ps))
    begun = seated(arrive, last, known.settings.max_num_seqs)
    assert last.max() > time_s[-1], "too few requests for all windows"

    def summed(values: FloatColumn, when: FloatColumn) -> FloatColumn:
        order = np.argsort(when)
        return np.concatenate([[0.0], np.cumsum(values[order])])[np.searchsorted(when[order], time_s, side="right")]

    def between(start: FloatColumn, end: FloatColumn) -> FloatColumn:
        return summed(np.ones(n), start) - summed(np.ones(n), end)

    tokens, gaps = done.output_tokens.astype(float), done.output_tokens - 1.0
    values = {
        "running": between(begun, last),
        "waiting": between(arrive, begun),
        "prompt_tokens": summed(np.full(n, 40.0), first),
        "generation_tokens": summed(tokens, last),
    }
    histograms = {}
    if known.engine == "llama.cpp":
        values |= {"prefill_busy_s": summed(first - begun, first), "decode_busy_s": summed(last - first, last)}
    else:
        values["requests"] = summed(np.ones(n), last)
        ones = summed(np.ones(n), last)
        for name, one in (("ttft", first - arrive), ("tpot", (last - first) / gaps), ("e2e", last - arrive)):
            histograms[f"{name}_s"] = (np.array([1e9]), np.stack([ones, ones], axis=1), summed(one, last))
        edges = np.arange(0.0, 101.0, 10.0)
        counts = np.stack([summed((tokens <= edge) * 1.0, last) for edge in (*edges, math.inf)], axis=1)
        histograms["osl_tokens"] = (edges, counts, summed(tokens, last))
    return Scrape(time_s=time_s, values=values, histograms=histograms, names={}, failed=0)


def seated(arrive: FloatColumn, last: FloatColumn, seats: int) -> FloatColumn:
    """Return when each request had a seat: first come, first served."""
    begun, taken = arrive.copy(), list[float]()
    for k in np.argsort(arrive, kind="stable"):
        if len(taken) == seats:
            begun[k] = max(begun[k], heapq.heappop(taken))
        heapq.heappush(taken, last[k])
    return begun


def watched(known: EndpointCalibration, came: Came, factor: float, windows: int) -> Detector:
    """Hold a server's windows against a calibration, until it has drifted or they end; the fill comes before."""
    alike = known.engine == "llama.cpp"  # it does not tell how lengths spread
    lengths = np.full(6000, 20) if alike else np.random.default_rng(1).integers(5, 96, 6000)
    one = Requests(arrive_s=np.zeros(1), isl_tokens=np.array([40]), osl_tokens=np.array([int(lengths.mean())]))
    alone_s = simulate(one, replica_of(known)).last_ps[0] / 1e12
    time_s = 84 * alone_s * (0.5 + np.arange(windows * LOOKS + 1) / LOOKS)
    scrape = scraped(slowed(known, factor), came, lengths, alone_s, time_s)
    detector = Detector()
    for number in range(windows):
        seen = observed(scrape, *scrape.time_s[[number * LOOKS, (number + 1) * LOOKS]])
        traffic = traffic_of(seen, 20.0)
        if traffic.ended and traffic.requests >= 5:
            detector.take(expect(known, seen, traffic, in_flight(scrape, seen), seed=1000 * number), str(number))
        if detector.drifted:
            break
    return detector


@pytest.fixture(params=["llama.cpp", pytest.param("vllm", marks=pytest.mark.nightly)])
def known(request: pytest.FixtureRequest) -> EndpointCalibration:
    """The example's server, and one with histograms that is several times as fast."""
    found = read_calibration(LLAMA)
    if request.param == "llama.cpp":
        return found
    settings = replace(found.settings, engine="vllm", version="0.32.0", block_size=16, own=None)
    quick = slowed(found, 0.2)
    return replace(quick, engine="vllm", settings=settings)


@pytest.mark.parametrize("came", CAME.values(), ids=CAME.keys())
def test_traffic_is_no_drift(known: EndpointCalibration, came: Came) -> None:
    found = watched(known, came, 1.0, HOLDS)
    assert found.state == "holds", (found.part, found.evidence)


@pytest.mark.parametrize("came", CAME.values(), ids=CAME.keys())
def test_a_server_slowed_by_half_is_found_in_any_traffic(known: EndpointCalibration, came: Came) -> None:
    found = watched(known, came, 1.5, FOUND)
    assert found.drifted, found.evidence
    assert "slower" in found.part
