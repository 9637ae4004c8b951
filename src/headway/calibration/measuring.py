"""Measures an endpoint within a budget of time: a warm-up, a few fixed runs, then those that tell the most.

All runs are closed loops cut off by the clock: they need no guess of how fast the server is, and cannot flood it. Their
prompts share nothing, so that what is learnt is the cost of work, not of luck with a cache.
"""

from __future__ import annotations

import datetime as dt
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from headway.calibration.design import Proposal, candidates, propose
from headway.calibration.fitting import fit
from headway.calibration.runnable import check_runnable
from headway.calibration.runs import TooFewError, run_of
from headway.errors import EvidenceError
from headway.probe.client import send
from headway.probe.limits import Limits
from headway.probe.loads import staggered
from headway.probe.nouns import Load
from headway.probe.prompts import prompts

if TYPE_CHECKING:
    from collections.abc import Callable

    from headway.calibration.fitting import Fit
    from headway.calibration.runs import Run
    from headway.probe.keys import Key
    from headway.probe.nouns import Endpoint, Sent
    from headway.types import Requests

#: Runs a budget is divided into, and the fewest before measuring may end early: the spread between runs is one of the
#: things to learn.
SLOTS, LEAST_RUNS = 8, 6
#: Clients of the fixed runs, as a share of the seats.
_FIXED_FRACS = (0.0, 1.0, 0.5, 0.25)
#: A run at its slot's end waits for nobody: what is in flight is cut off, and stays in the run as load without latency.
_MOST_CLIENTS = 64
#: How the client tells of what was in flight at the end of a run.
_CUT = " × interrupted: "
#: Share of a run in which its clients begin, one after the other.
_RAMP_FRAC = 0.1
#: Length of the warm-up, as a share of a run: the first steps of each size may compile, or fill caches of kernels.
_WARM_FRAC = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Measuring:
    """Everything that measuring an endpoint needs to know.

    Attributes:
        endpoint: whom to measure.
        num_gpu_blocks: its KV blocks.
        traffic: lengths to send; enough of them for every run.
        budget_s: how long it may take in all.
        key: sent as a bearer token.
        allow_public: whether a public address may be sent to.
        seed: of the prompts.
        progress: told what is done now, how many runs are done, and of how many.
        ended: told each run as soon as it has ended, with its number from 1, before anything is made of it.
    """

    endpoint: Endpoint
    num_gpu_blocks: int
    traffic: Requests
    budget_s: float
    key: Key | None = None
    allow_public: bool = False
    seed: int = 0
    progress: Callable[[str, int, int], None] = lambda _what, _done, _of: None
    ended: Callable[[int, Sent], None] = lambda _number, _sent: None

    @property
    def slot_s(self) -> float:
        """How long one run may take."""
        return self.budget_s / SLOTS

    @property
    def seats(self) -> int:
        """The most clients of a run."""
        assert self.endpoint.settings is not None  # checked by who calibrates
        return min(self.endpoint.settings.max_num_seqs, _MOST_CLIENTS)


@dataclass(slots=True)
class Taken:
    """What measuring gave so far: what was sent, the runs that it makes, why the rest makes none, who ended it."""

    sent: list[Sent] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    between: bool = False  # somebody stopped it while the next run was chosen

    @property
    def stopped(self) -> bool:
        """Whether somebody stopped it, in the last run or after it."""
        return self.between or (bool(self.sent) and _stopped(self.sent[-1]))

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader must know: runs that are none, and what went wrong in a run; its end cuts off every one."""
        told = [f"{sent.load.name}: {text}" for sent in self.sent for text in sent.client.warnings if _CUT not in text]
        return (*(f"Left out: {text}." for text in self.dropped), *told)


def measure(about: Measuring) -> Taken:
    """Measure an endpoint, run by run, each chosen by what those before left open.

    Raises:
        EvidenceError: too little was answered in the first run, or somebody stopped it before its end.
        InputError: the address is not allowed, a load cannot be sent, or was answered and could not have been under
            the settings.
    """
    ended_s = time.monotonic() + about.budget_s
    taken = Taken()
    _warm(about)
    for clients in _fixed(about.seats):
        if not taken.stopped:
            load = Load(name=f"closed {clients}", requests=_alone(about.traffic), concurrency=clients)
            _add(about, load, taken)
    while time.monotonic() + about.slot_s <= ended_s and not taken.stopped:
        try:
            proposals = next_runs(about, taken.runs, most=1)
        except KeyboardInterrupt:
            taken.between = True
            break
        if not proposals and len(taken.runs) >= LEAST_RUNS:
            break
        load = proposals[0].load if proposals else _again(about, len(taken.runs))
        _add(about, replace(load, name=_name(load, taken.runs)), taken)
    return taken


def next_runs(about: Measuring, runs: list[Run], *, most: int, found: Fit | None = None) -> list[Proposal]:
    """Return the runs worth doing next, best first."""
    settings = about.endpoint.settings
    assert settings is not None  # checked by who calibrates
    found = found or fit(runs, settings, about.num_gpu_blocks)
    blocks = about.num_gpu_blocks
    traffic = _alone(about.traffic)
    choices = candidates(traffic, settings, seconds=about.slot_s, found=found, blocks=blocks)
    choices = [load for load in choices if (load.concurrency or 0) <= about.seats]
    wanted = [load for load in choices if not load.name.endswith(("short", "long"))]
    return propose(found, wanted, choices, settings, blocks, most=most) if wanted else []


def _fixed(seats: int) -> list[int]:
    """Return the clients of the fixed runs: one alone, then full, half and a quarter."""
    found: list[int] = []
    for frac in _FIXED_FRACS:
        clients = max(int(seats * frac), 1)
        if clients not in found:
            found.append(clients)
    return found


def _again(about: Measuring, done: int) -> Load:
    """Return a run like an earlier one: the spread between equal runs is the machine's own."""
    clients = _fixed(about.seats)
    return Load(name="", requests=_alone(about.traffic), concurrency=clients[done % len(clients)])


def _name(load: Load, runs: list[Run]) -> str:
    base = load.name or f"closed {load.concurrency}"
    taken = {run.name for run in runs}
    return base if base not in taken else next(f"{base} #{k}" for k in range(2, 1000) if f"{base} #{k}" not in taken)


def _alone(requests: Requests) -> Requests:
    """Return the lengths alone: sent when a client is free, sharing nothing."""
    count = len(requests)
    return replace(requests, arrive_s=np.zeros(count), prefix=None, session_id=None, abort_s=None)


def _stopped(sent: Sent) -> bool:
    return sent.client.interrupted == "Ctrl-C"


def _warm(about: Measuring) -> None:
    """Send a load of all seats that nobody looks at.

    Raises:
        EvidenceError: somebody stopped it.
    """
    about.progress("warming up", 0, SLOTS)
    load = Load(name="warm-up", requests=_alone(about.traffic), concurrency=about.seats)
    if _stopped(_sent(about, load, _WARM_FRAC)):
        raise EvidenceError("stopped before anything was measured")


def _add(about: Measuring, load: Load, taken: Taken) -> None:
    """Send a load for the length of a slot and take it in; without a first run there is no point in a second."""
    about.progress(load.name, len(taken.runs), SLOTS)
    shift = len(taken.runs) * 37 % max(len(load.requests), 1)  # other prompts and lengths than the runs before
    sent = _sent(about, _rolled(load, shift), 1.0)
    taken.sent.append(sent)
    about.ended(len(taken.sent), sent)
    try:
        run = run_of(sent)
    except EvidenceError as error:
        more = f" in {about.slot_s:.0f} s; a longer --budget, or shorter prompts (--scale-isl), would give more"
        if not taken.runs:
            raise EvidenceError(f"{error}{more if isinstance(error, TooFewError) else ''}") from None
        taken.dropped.append(str(error))
        return
    settings = about.endpoint.settings
    assert settings is not None  # checked by who calibrates
    check_runnable([run], settings, about.num_gpu_blocks)
    taken.runs.append(run)


def _sent(about: Measuring, load: Load, slots: float) -> Sent:
    """Send a load for so many slots' time, to a server with nothing left to do.

    What the clock cut off of the load before may still be in a step nobody can stop: a short request is waited for.
    """
    _send(about, replace(load, name="drain", requests=_shortest(load), concurrency=1), about.slot_s)
    return _send(about, staggered(load, about.slot_s * slots * _RAMP_FRAC), about.slot_s * slots)


def _send(about: Measuring, load: Load, duration_s: float) -> Sent:
    salt = dt.datetime.now(dt.UTC).isoformat()
    bodies = prompts(about.endpoint, load.requests, seed=about.seed, salt=salt, key=about.key)
    limits = Limits(duration_s=duration_s, allow_public=about.allow_public)
    return send(load, about.endpoint, bodies, limits, key=about.key)


def _shortest(load: Load) -> Requests:
    from headway.workload.selection import take

    requests = load.requests
    return take(requests, np.array([np.argmin(requests.isl_tokens + requests.osl_tokens)]))


def _rolled(load: Load, shift: int) -> Load:
    """Return the load with its first requests moved to its end."""
    from headway.workload.selection import take

    order = np.roll(np.arange(len(load.requests)), -shift)
    return replace(load, requests=take(load.requests, order))
