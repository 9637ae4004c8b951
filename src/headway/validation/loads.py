"""What was asked of a deployment, and the requests that stand for it.

A harness asks in one of three ways: clients that wait for their answers (a burst of as many as there are clients, then
one in, one out), a Poisson stream, or everything at once. A replay asks one replica the same: its share of the clients
or of the rate, and its share of the requests, or fewer where those would take too long to simulate.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from headway.types import PrefixRuns, Requests

if TYPE_CHECKING:
    from headway.types import FloatColumn, IntColumn

#: Output and prompt tokens a replay simulates at most; where a harness asked for more, a part stands for the whole.
MOST_TOKENS = 2_000_000
#: A prompt token costs the simulator far less than an output token: whole chunks are one step.
_PROMPT_TOKENS_PER_OUTPUT_TOKEN = 50
#: Of a closed loop at least so many times the clients: a burst, one in the steady state, and the end. Of a batch at
#: least so many times the seats: a start and an end.
LEAST_ROUNDS = {"closed": 3, "batch": 2, "poisson": 0}
#: Requests where no source says how many: of a Poisson stream, and per client of a closed loop (the habit of
#: InferenceMAX and of vLLM's `benchmark_serving` scripts: 10 prompts per client).
USUAL_REQUESTS, USUAL_ROUNDS = 1000, 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Lengths drawn uniformly from low … high, both included; equal: all the same."""

    low: int
    high: int

    @property
    def mean(self) -> float:
        """The mean length."""
        return (self.low + self.high) / 2

    def draw(self, chance: np.random.Generator, number: int) -> IntColumn:
        """Draw that many lengths."""
        return chance.integers(self.low, self.high + 1, number, dtype=np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a harness asked of a whole deployment."""

    arrivals: Literal["closed", "poisson", "batch"]
    isl_tokens: Lengths
    osl_tokens: Lengths
    concurrency: int | None = None  # clients of a closed loop; of a stream, the most in flight
    rate_per_s: float | None = None  # of a stream
    requests: int | None = None  # as many as the harness sent; None where no source says
    prefix_tokens: int = 0  # the first of each prompt, the same for all


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What one replica gets of a load."""

    requests: Requests
    clients: int | None  # of a closed loop
    whole: int  # requests of its share; of them `requests` are simulated
    tokens_per_step: float = 1.0  # output tokens that each token of `requests` stands for


def seed_of(row: str) -> int:
    """Return the seed of a row: the same wherever and in whatever order it is replayed."""
    return int.from_bytes(hashlib.sha256(row.encode()).digest()[:8], "big")


def share(load: Load, replicas: int, seats: int, seed: int) -> Share:
    """Draw one replica's share of a load.

    Args:
        load: what was asked.
        replicas: how many share it evenly.
        seats: sequences a replica runs at once.
        seed: of what is drawn.
    """
    clients = None if load.concurrency is None else max(round(load.concurrency / replicas), 1)
    whole = _whole(load, replicas, clients)
    round_ = clients if load.arrivals == "closed" and clients else seats
    number = min(whole, max(_affordable(load), LEAST_ROUNDS[load.arrivals] * round_, 1))
    chance = np.random.default_rng(seed)
    arrive_s = _arrivals(load, replicas, number, chance)
    isl = load.isl_tokens.draw(chance, number)
    drawn = Requests(
        arrive_s=arrive_s,
        isl_tokens=isl,
        osl_tokens=load.osl_tokens.draw(chance, number),
        prefix=_shared(load.prefix_tokens, isl) if load.prefix_tokens else None,
    )
    return Share(requests=drawn, clients=clients if load.arrivals == "closed" else None, whole=whole)


def _whole(load: Load, replicas: int, clients: int | None) -> int:
    if load.requests is not None:
        return max(round(load.requests / replicas), 1)
    return USUAL_ROUNDS * clients if load.arrivals == "closed" and clients else USUAL_REQUESTS


def _affordable(load: Load) -> int:
    tokens = load.osl_tokens.mean + load.isl_tokens.mean / _PROMPT_TOKENS_PER_OUTPUT_TOKEN
    return int(MOST_TOKENS / tokens)


def _arrivals(load: Load, replicas: int, number: int, chance: np.random.Generator) -> FloatColumn:
    if load.arrivals != "poisson":
        return np.zeros(number)
    assert load.rate_per_s
    return np.cumsum(chance.exponential(replicas / load.rate_per_s, number))


def _shared(tokens: int, isl: IntColumn) -> PrefixRuns:
    """Return prompts whose first tokens are the same, in blocks of one token."""
    counts = np.minimum(isl, tokens)
    return PrefixRuns(
        block_tokens=1, offsets=np.arange(len(isl) + 1), first_ids=np.zeros(len(isl), np.int64), counts=counts
    )
