"""The load points of the blind test: what is sent, and when, said before anything of it is measured.

A point is a traffic and a pressure. The pressure is a share of what the calibration believes the server can do, so the
same points load a fast machine and a slow one alike: clients as a share of its seats, or a Poisson rate as a share of
the rate at which it would answer such requests with every seat taken.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from headway.calibration.predicting import simulated_figures
from headway.perf.endpoint_steps import replica_of
from headway.probe.loads import staggered
from headway.probe.nouns import Load
from headway.workload import WorkloadSpec, generate
from headway.workload.arrivals import Arrivals, Steady
from headway.workload.distributions import Constant, Uniform
from headway.workload.lengths import Copula
from headway.workload.sessions import Sessions
from headway.workload.spec import SystemPrompt

if TYPE_CHECKING:
    from headway.perf import EndpointCalibration
    from headway.types import Requests

#: Share of a point in which the clients of a closed loop begin, one after the other.
_RAMP_FRAC = 0.1
#: Requests from which the rate of full seats is simulated.
_FULL = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """A traffic: lengths in tokens, the least and the most, all equally likely.

    Attributes:
        shared_tokens: every prompt begins with the same so many; part of `isl_tokens`.
        turns: of each conversation; later prompts hold all that was said before. 1: every request stands alone.
    """

    isl_tokens: tuple[int, int]
    osl_tokens: tuple[int, int]
    shared_tokens: int = 0
    turns: int = 1

    def spec(self, rate_per_s: float) -> WorkloadSpec:
        """Return the traffic at a mean rate."""
        isl, osl = Uniform(*self.isl_tokens), Uniform(*self.osl_tokens)
        talk = Sessions(
            turns=Constant(self.turns), think_s=Constant(1.0), response_s=Constant(4.0), growth_tokens=Uniform(8, 24)
        )
        return WorkloadSpec(
            name="blind",
            content=Copula(isl=isl, osl=osl),
            arrivals=Arrivals(pattern=Steady(rate_per_s)),
            sessions=talk if self.turns > 1 else None,
            system_prompts=(SystemPrompt(prompt_tokens=self.shared_tokens, share_frac=1.0),) * bool(self.shared_tokens),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A load point; exactly one of `clients_frac` and `rate_frac` is given.

    Attributes:
        name: of it.
        mix: what is sent.
        clients_frac: a closed loop of this share of the seats;
        rate_frac: an open loop at this share of the rate that full seats answer at.
        time_frac: how long it lasts, as a share of the usual.
    """

    name: str
    mix: Mix
    clients_frac: float | None = None
    rate_frac: float | None = None
    time_frac: float = 1.0

    @property
    def saturated(self) -> bool:
        """Whether it is meant to be more than the server can do."""
        return self.rate_frac is not None and self.rate_frac > 1


_SHORT = Mix(isl_tokens=(8, 32), osl_tokens=(8, 24))
_PROMPTS = Mix(isl_tokens=(32, 96), osl_tokens=(4, 12))
_OUTPUTS = Mix(isl_tokens=(8, 16), osl_tokens=(24, 48))
_SHARED = Mix(isl_tokens=(72, 112), osl_tokens=(8, 24), shared_tokens=64)
_TALK = Mix(isl_tokens=(16, 40), osl_tokens=(8, 20), turns=3)

#: No calibration run has these concurrencies, none is an open loop, none shares a prefix.
POINTS = (
    Point(name="few clients", mix=_SHORT, clients_frac=3 / 8),
    Point(name="many clients", mix=_SHORT, clients_frac=6 / 8),
    Point(name="long prompts", mix=_PROMPTS, clients_frac=3 / 8),
    Point(name="long outputs", mix=_OUTPUTS, clients_frac=5 / 8),
    Point(name="open 0.3", mix=_SHORT, rate_frac=0.3, time_frac=1.5),
    Point(name="open 0.6", mix=_SHORT, rate_frac=0.6, time_frac=1.25),
    Point(name="shared prefix", mix=_SHARED, clients_frac=3 / 8),
    Point(name="conversations", mix=_TALK, rate_frac=0.4, time_frac=1.25),
    Point(name="over by half", mix=_SHORT, rate_frac=1.5),
    Point(name="over twice", mix=_PROMPTS, rate_frac=2.0),
)


def load_of(point: Point, calibration: EndpointCalibration, duration_s: float) -> Load:
    """Return what is sent for a point, and when, of about a length.

    Args:
        point: of `POINTS`.
        calibration: says how much the server can do.
        duration_s: of a usual point.
    """
    seats = calibration.settings.max_num_seqs
    clients = seats if point.clients_frac is None else max(round(seats * point.clients_frac), 1)
    rate_per_s = answered_per_s(point.mix, calibration, clients) * (point.rate_frac or 1.0)
    requests = drawn(point, rate_per_s, max(round(rate_per_s * duration_s * point.time_frac), 10))
    if point.rate_frac:
        return Load(name=point.name, requests=requests)
    return staggered(Load(name=point.name, requests=requests, concurrency=clients), _RAMP_FRAC * duration_s)


def answered_per_s(mix: Mix, calibration: EndpointCalibration, clients: int) -> float:
    """Return the rate at which a calibrated server would answer so many clients that ask at once and again."""
    requests = generate(mix.spec(1.0), requests=_FULL, seed=0)
    load = Load(name="full", requests=_at_once(requests), concurrency=clients)
    per_s = simulated_figures(load, replica_of(calibration))["output_tokens_per_s"]
    return per_s / float(requests.osl_tokens.mean())


def drawn(point: Point, rate_per_s: float, count: int) -> Requests:
    """Return the requests of a point; every point has a seed of its own, made from its name."""
    seed = int.from_bytes(hashlib.sha256(point.name.encode()).digest()[:4], "big")
    requests = generate(point.mix.spec(rate_per_s), requests=count, seed=seed)
    return requests if point.rate_frac else _at_once(requests)


def _at_once(requests: Requests) -> Requests:
    from dataclasses import replace

    return replace(requests, arrive_s=np.zeros(len(requests)))
