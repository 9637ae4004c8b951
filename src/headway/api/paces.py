"""What `replay` sends and when: the requests of a scenario, a trace or a profile, at a pace."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from headway.errors import InputError

if TYPE_CHECKING:
    from headway.probe.nouns import Load
    from headway.types import Requests, Slo
    from headway.workload import WorkloadSpec
    from headway.workload.trace import Treatment

#: Requests drawn where the traffic is no trace and nobody says how many.
REQUESTS = 200
#: A client of a closed loop that runs for a time is given so many requests for each second of it: no more can be used.
_CLIENT_MOST_PER_S = 20
#: How a profile is told from a file.
PROFILE = "profile:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """When requests are sent; nothing given: at their own times.

    Attributes:
        rate_factor: by how much faster than recorded, in an open loop.
        rate_per_s: or the mean rate they are brought to.
        rates_per_s: rising rates, each held for `step_s`.
        ramp_per_s: a rate that rises evenly from the first to the second within `step_s`.
        clients: of a closed loop; several: one after the other, each for `step_s`.
        turnaround_s: from the end of a client's request to its next.
        step_s: how long a step lasts, or the ramp.
        duration_s: nothing is sent after so long; None: until all are sent.
    """

    rate_factor: float = 1.0
    rate_per_s: float | None = None
    rates_per_s: tuple[float, ...] = ()
    ramp_per_s: tuple[float, float] | None = None
    clients: tuple[int, ...] = ()
    turnaround_s: float = 0.0
    step_s: float | None = None
    duration_s: float | None = None

    def __post_init__(self) -> None:
        ways = {
            "rate_factor": self.rate_factor != 1.0,
            "rate_per_s": self.rate_per_s is not None,
            "rates_per_s": bool(self.rates_per_s),
            "ramp_per_s": self.ramp_per_s is not None,
            "clients": bool(self.clients),
        }
        chosen = [name for name, given in ways.items() if given]
        if len(chosen) > 1:
            raise InputError(f"one pace at a time, got {' and '.join(chosen)}", place=chosen[1])
        if self.in_stages and self.step_s is None:
            raise InputError("steps and ramps take a time", place="step_s", hint="e.g. --step-duration '30 s'")
        if self.step_s is not None and not self.in_stages:
            raise InputError("there are no steps it could be the length of", place="step_s", hint="give the steps")
        self._check_figures()
        if any(b <= a for a, b in zip(self.clients, self.clients[1:], strict=False)):
            raise InputError("expected rising numbers of clients", place="clients")

    def _check_figures(self) -> None:
        singles = {name: getattr(self, name) for name in ("step_s", "duration_s", "rate_per_s", "rate_factor")}
        lists = {"rates_per_s": self.rates_per_s, "ramp_per_s": self.ramp_per_s or ()}
        given = {name: (value,) for name, value in singles.items() if value is not None} | lists
        for name, values in given.items():
            for value in values:
                if not 0 < value < math.inf:
                    raise InputError(f"expected a number above zero, got {value!r}", place=name)
        for count in self.clients:
            if count < 1:
                raise InputError(f"expected a concurrency of at least one client, got {count}", place="clients")
        if not 0 <= self.turnaround_s < math.inf:
            raise InputError(f"expected a time from 0, got {self.turnaround_s!r}", place="turnaround_s")
        if self.turnaround_s and not self.closed:
            hint = "--concurrency says how many clients there are"
            raise InputError("only clients of a closed loop pause", place="turnaround_s", hint=hint)

    @property
    def in_stages(self) -> bool:
        """Whether the load rises in stages."""
        return bool(self.rates_per_s) or self.ramp_per_s is not None or len(self.clients) > 1

    @property
    def closed(self) -> bool:
        """Whether clients wait for their answers."""
        return bool(self.clients)

    def stages(self) -> tuple[float, ...]:
        """Return what each stage offers: req/s, or clients; empty where there is one stage only."""
        if self.ramp_per_s is not None:
            from headway.probe.loads import RAMP_STAGES

            low, high = self.ramp_per_s
            return tuple(low + (high - low) * (k + 0.5) / RAMP_STAGES for k in range(RAMP_STAGES))
        return tuple(map(float, self.clients)) if len(self.clients) > 1 else self.rates_per_s

    def stage_s(self) -> float:
        """Return how long each stage lasts."""
        assert self.step_s is not None
        return self.step_s / (len(self.stages()) if self.ramp_per_s is not None else 1)

    def needs(self, rate_per_s: float, most: int) -> int | None:
        """Return how many requests to draw, at most those that may be sent; None: nothing says."""
        if self.rates_per_s or self.ramp_per_s is not None:
            return math.ceil(min(1.1 * sum(self.stages()) * self.stage_s() + 50, most))
        lasts_s = (self.step_s or 0.0) if len(self.clients) > 1 else (self.duration_s or 0.0)
        if self.closed and lasts_s:
            return math.ceil(min(sum(self.clients) * lasts_s * _CLIENT_MOST_PER_S, most))
        if self.duration_s is not None and math.isfinite(rate_per_s):
            wanted = 1.5 * self.duration_s * (self.rate_per_s or rate_per_s * self.rate_factor) + 50
            return math.ceil(min(wanted, most))
        return None

    def load(self, name: str, requests: Requests) -> Load:
        """Return the load; of several numbers of clients the first.

        Raises:
            InputError: the requests cannot be sent at this pace.
        """
        from headway.probe import loads

        if self.rates_per_s:
            return loads.steps(name, requests, self.rates_per_s, step_s=self.stage_s())
        if self.ramp_per_s is not None:
            assert self.step_s is not None
            return loads.ramp(name, requests, *self.ramp_per_s, duration_s=self.step_s)
        if self.clients:
            return loads.closed_loop(name, requests, concurrency=self.clients[0], turnaround_s=self.turnaround_s)
        factor = self.rate_factor if self.rate_per_s is None else self.rate_per_s / loads.mean_rate_per_s(requests)
        return _until(loads.open_loop(name, requests, rate_factor=factor), self.duration_s)


def _until(load: Load, duration_s: float | None) -> Load:
    """The part of an open loop that is due before a time."""
    import dataclasses

    import numpy as np

    from headway.workload import take

    if duration_s is None:
        return load
    return dataclasses.replace(load, requests=take(load.requests, np.flatnonzero(load.requests.arrive_s < duration_s)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What a source says is to be sent."""

    name: str
    requests: Requests
    slo: Slo  # without objectives where it is no scenario
    treatments: tuple[Treatment, ...] = ()


def traffic_of(
    source: str | Path,
    pace: Pace,
    *,
    requests: int | None,
    window_s: tuple[float, float] | None,
    seed: int,
    most: int | None = None,
) -> Traffic:
    """Return what a source says is to be sent, before any change of pace.

    Args:
        source: a scenario (`.yaml`, `.yml`), a trace of any known format, or `profile:NAME`.
        pace: says how many are drawn where `requests` does not.
        requests: the first so many; a trace's own number, or 200, if None.
        window_s: of a trace: only what arrives within.
        seed: of what is drawn.
        most: requests that may be sent at all: no more are drawn; as `Limits` has it if None.

    Raises:
        InputError: the source is not known, or has something wrong in it.
    """
    from headway.probe.limits import Limits
    from headway.types import Slo

    if requests is not None and requests < 1:
        raise InputError(f"expected at least 1, got {requests}", place="requests")
    none, most = Slo(objectives=()), most or Limits().requests
    if str(source).startswith(PROFILE):
        from headway.workload import profile

        spec = profile(str(source).removeprefix(PROFILE)).spec
        return Traffic(name=spec.name, requests=_drawn(spec, pace, requests, window_s, seed, most), slo=none)
    if Path(source).suffix in (".yaml", ".yml"):
        from headway.scenario import read_scenario

        known = read_scenario(source)
        drawn = _drawn(known.workload, pace, requests, window_s, seed, most)
        return Traffic(name=known.workload.name, requests=drawn, slo=known.slo)
    return _recorded(source, pace, requests, window_s, seed, most)


def _drawn(
    spec: WorkloadSpec, pace: Pace, requests: int | None, window_s: tuple[float, float] | None, seed: int, most: int
) -> Requests:
    from headway.types import Requests
    from headway.workload import generate

    if window_s is not None:
        raise InputError("only a trace has a window", place="window_s", hint="say how many requests")
    own = len(spec.content) if isinstance(spec.content, Requests) else REQUESTS
    drawn: Requests = generate(spec, requests=requests or pace.needs(spec.rate_per_s, most) or own, seed=seed)
    return drawn


def _recorded(
    source: str | Path, pace: Pace, requests: int | None, window_s: tuple[float, float] | None, seed: int, most: int
) -> Traffic:
    import numpy as np

    from headway.types import Slo
    from headway.workload import read_trace, take
    from headway.workload.recorded import repeat
    from headway.workload.trace import Treatment

    trace = read_trace(source, window_s=window_s, seed=seed)
    arriving = take(trace.requests, np.arange(min(requests or len(trace.requests), len(trace.requests))))
    treatments = trace.treatments
    wanted = pace.needs(math.inf, most) if pace.closed and requests is None else None
    if wanted is not None and wanted > len(arriving):
        arriving = repeat(arriving, np.zeros(wanted))
        treatments += (Treatment(rows=wanted, text="request of the trace, begun anew with prefixes of its own"),)
    return Traffic(name=Path(trace.file).name, requests=arriving, slo=Slo(objectives=()), treatments=treatments)
