"""Whether a calibration still holds: live windows of a server's own metrics against simulations of the same traffic.

**Expectation.** A window tells how many requests came, how long they were, what share of the prompts was cached and, at
each look, how many were in flight. A server in which so many are in flight is simulated with the calibration's terms,
whatever brought them there (`levels`); lengths are as the engine's histograms spread them, or anything from all alike
to evenly up to twice the mean where it has none, and cached tokens are left out of the prompts. Each simulation holds
as many requests as the window, and as many looks drawn from its own, so the spread over its seeds is the sampling
error; the spread over draws of the terms is how well they are known, drift from run to run included; and between the
ways requests may come and share steps lies a range in which nothing can be told.

**Rule.** x = ln(measured ÷ expected) of each figure is held to |x| ≤ tolerance: half of that range, and the half-width
of the terms' 90 % band, never less than asked for. What x exceeds it by, over the sampling error, is z; clipped at 3,
it enters an e-value, the mean over l = ½, 1, 2, 4 of exp(l z − l²/2), whose expectation is at most 1 while the
calibration holds (if z is no heavier than a standard normal). Per figure and direction they build an e-CUSUM,
S ← max(S, 1) · e, and their mean raises the alarm at c: windows between false alarms are then at least c on average,
whatever the dependence between figures (Shin, Ramdas and Rinaldo, "E-detectors: a nonparametric framework for
sequential change detection", 2023). The clipping makes every alarm the work of several windows.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from headway.calibration.levels import FIGURES, Lengths, levels_of, redrawn, simulated_levels, steady
from headway.errors import EvidenceError, InputError
from headway.perf.endpoint_steps import DRIFT, replica_of, step_table, terms_at
from headway.types import Replica

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from headway.perf.endpoint import EndpointCalibration
    from headway.probe.observed import Distribution, Observed
    from headway.types import FloatColumn, IntColumn

#: Simulations for the sampling error, and as many for the terms'.
DRAWS = 16
#: A window with fewer requests says nothing.
LEAST_REQUESTS = 5
#: More requests than these are not simulated: the sampling error is then overstated, and the rule slower.
MOST_REQUESTS = 400
#: No sampling error is taken for smaller: figures are read from counters at scrapes that are not instants.
LEAST_SD = 0.03
#: How lengths may lie within the buckets of a histogram: towards the lower edge, evenly, towards the upper one.
_POWERS = np.geomspace(0.05, 20.0, 41)
_TILTS = np.array([0.5, 1.0, 2.0, 4.0])
_CLIP = 3.0
_BAND_SD = 1.645  # half-width of a 90 % band of a normal

#: figure -> which part of the model it speaks of first
PARTS = {"itl": "decode steps", "tpot": "decode steps", "ttft": "prefill or queueing", "e2e": "steps"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What a window's traffic was.

    Attributes:
        window_s: from its first scrape to its last.
        requests: that came: those that ended, and by how many more are in flight at the end than at the start.
        ended: of them.
        isl_tokens: mean, cached tokens included.
        osl_tokens: mean.
        cached_frac: of the prompts' tokens.
    """

    window_s: float
    requests: int
    ended: int
    isl_tokens: float
    osl_tokens: float
    cached_frac: float

    @property
    def per_s(self) -> float:
        """Requests per second."""
        return self.requests / self.window_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """A figure measured and expected: `low` to `high` holds 90 % of what the calibration would give."""

    measured: float
    expected: float
    low: float
    high: float
    sampling_sd: float  # of the logarithm
    terms_sd: float  # likewise
    range_log: float  # likewise: half of what may be, as nobody tells how requests came and shared steps


def traffic_of(seen: Observed, osl_tokens: float | None = None) -> Traffic:
    """Return what a window's traffic was.

    Args:
        seen: the window.
        osl_tokens: mean output length, for an engine that counts no requests.

    Raises:
        InputError: the engine counts no requests and no output length was given.
    """
    counted, generated = seen.increases, seen.increases.get("generation_tokens", 0.0)
    outputs = seen.distributions.get("osl_tokens")
    if "requests" in counted:
        ended = round(counted["requests"])
    elif "e2e_s" in seen.distributions:
        ended = seen.distributions["e2e_s"].samples
    elif osl_tokens is None:
        raise InputError("this engine counts no requests", place="osl", hint="say the mean output length: --osl 128")
    else:
        ended = round(generated / osl_tokens)
    prompts = seen.distributions.get("isl_tokens")
    hits = seen.prefix_hit_frac
    return Traffic(
        window_s=seen.end_s - seen.start_s,
        requests=max(ended + round(sum(seen.changes.get(name, 0.0) for name in ("running", "waiting"))), 0),
        ended=ended,
        isl_tokens=_mean(prompts, counted.get("prompt_tokens", math.nan), _begun(seen, ended)),
        osl_tokens=_mean(outputs, generated, ended),
        cached_frac=0.0 if math.isnan(hits) else min(hits, 1.0),
    )


def _mean(spread: Distribution | None, tokens: float, ended: int) -> float:
    if spread is not None and spread.samples:
        return max(spread.mean, 1.0)
    return max(tokens / ended, 1.0) if ended else math.nan


def measured_of(seen: Observed, traffic: Traffic) -> dict[str, float]:
    """Return the window's figures by name: means in seconds.

    Where there are no histograms: from the time that requests spent in the engine (llama-server counts it) and, by
    Little's law, in the queue; and else E2E from all in flight.
    """
    found = {
        name.removesuffix("_s"): seen.distributions[name].mean
        for name in ("ttft_s", "itl_s", "tpot_s", "e2e_s")
        if name in seen.distributions and seen.distributions[name].samples
    }
    found = _counted(seen, traffic) | found
    if "e2e" not in found and "running" in seen.means and traffic.requests:
        found["e2e"] = (seen.means["running"] + seen.means.get("waiting", 0.0)) / traffic.per_s
    return {name: value for name, value in found.items() if 0 < value < math.inf}


def _counted(seen: Observed, traffic: Traffic) -> dict[str, float]:
    """Return figures from the seconds that an engine counts over all its requests."""
    prefill_s, decode_s = (seen.increases.get(name, 0.0) for name in ("prefill_busy_s", "decode_busy_s"))
    gaps, begun = seen.increases.get("generation_tokens", 0.0) - traffic.ended, _begun(seen, traffic.ended)
    found = {}
    if decode_s > 0 and gaps > 0:
        found["itl"] = decode_s / gaps
    if prefill_s > 0 and begun > 0 and traffic.ended:
        found["ttft"] = prefill_s / begun + seen.means.get("waiting", 0.0) / traffic.per_s
        found["e2e"] = found["ttft"] + decode_s / traffic.ended
    return found


def _begun(seen: Observed, ended: int) -> int:
    """Return how many requests had their prompt processed: those that ended, and by how many more are running."""
    return max(ended + round(seen.changes.get("running", 0.0)), 0)


# --- what the calibration expects ------------------------------------------------------------------------------------


def expect(
    calibration: EndpointCalibration, seen: Observed, traffic: Traffic, looks: FloatColumn, *, seed: int = 0
) -> dict[str, Expectation]:
    """Return the window's figures beside what the calibration expects of such traffic.

    A figure that some simulated draw has not (gaps between tokens, where hardly an answer has two) is left out.

    Args:
        calibration: of the server.
        seen: the window.
        traffic: in it.
        looks: requests in flight at each look.
        seed: of the draws.

    Raises:
        EvidenceError: nobody says how many requests were in flight.
        InputError: no such request fits the calibrated server.
    """
    measured = measured_of(seen, traffic)
    base = replica_of(calibration)
    evenest = [steady(traffic.per_s * measured["e2e"])] if "e2e" in measured else []  # Little's law
    if not len(looks) and not evenest:
        raise EvidenceError("these metrics do not tell how many requests are in flight: nothing can be expected")
    levels = levels_of([looks, *evenest], base.settings.max_num_seqs)
    count = min(max(traffic.requests, LEAST_REQUESTS), MOST_REQUESTS) // len(levels) + 1
    alike, spread = (_lengths(seen, traffic, alike=one) for one in (True, False))

    def logs(replica: Replica, seed: int, looked: FloatColumn) -> FloatColumn:
        """Return the figures' logarithms: (ways to share steps and courses of requests in flight, figures)."""
        courses = ([looked] if len(looked) else []) + evenest
        ways = simulated_levels(replica, levels, alike, spread, count, seed)
        rows = [way.means(course) for way in ways for course in courses]
        rows += [ways[0].bunched(course) for course in courses]
        with np.errstate(divide="ignore"):
            found: FloatColumn = np.log(rows)
        return found

    chance = np.random.default_rng(seed)
    sampled = np.array([logs(base, seed + 1 + k, redrawn(looks, chance)) for k in range(DRAWS)])
    drawn = np.array([logs(one, seed, looks) for one in _replicas(calibration, seed)])
    found = {}
    for name, value in measured.items():
        values, moved = (part[:, :, FIGURES.index(name)] for part in (sampled, drawn))
        if np.isfinite(values).all() and np.isfinite(moved).all():
            found[name] = _expectation(value, values, moved)
    return found


def _lengths(seen: Observed, traffic: Traffic, *, alike: bool) -> Lengths:
    """Return how requests are drawn: as histograms spread them, or where there are none alike or spread evenly."""
    computed = 1 - traffic.cached_frac

    def tokens(name: str, mean: float) -> Callable[[int, np.random.Generator], IntColumn]:
        spread = seen.distributions.get(name)
        if alike or (spread is not None and spread.samples):
            return functools.partial(drawn_lengths, spread, mean)
        return functools.partial(_evenly, mean)

    def computed_isl(n: int, chance: np.random.Generator) -> IntColumn:
        drawn = tokens("isl_tokens", traffic.isl_tokens)(n, chance)
        found: IntColumn = np.maximum(np.rint(drawn * computed), 1).astype(np.int64)
        return found

    return Lengths(isl=computed_isl, osl=tokens("osl_tokens", traffic.osl_tokens))


def _evenly(mean: float, n: int, chance: np.random.Generator) -> IntColumn:
    """Draw lengths from 1 to about twice the mean, every one as often: their mean is the mean."""
    places = (chance.permutation(n) + 0.5) / n
    return np.maximum(np.rint(0.5 + places * (2 * mean - 1)), 1).astype(np.int64)


def _expectation(value: float, sampled: FloatColumn, moved: FloatColumn) -> Expectation:
    """Put together a figure's logarithms: (draws, ways and courses). Its errors are those at the nearer end."""
    middles = sampled.mean(axis=0)
    middle, range_log = float(middles.max() + middles.min()) / 2, float(np.ptp(middles)) / 2
    end = int(middles.argmax() if math.log(value) > middle else middles.argmin())
    sampling_sd, terms_sd = max(float(sampled[:, end].std(ddof=1)), LEAST_SD), float(moved[:, end].std())
    reach = _BAND_SD * math.hypot(sampling_sd, terms_sd) + range_log
    return Expectation(
        measured=value,
        expected=math.exp(middle),
        low=math.exp(middle - reach),
        high=math.exp(middle + reach),
        sampling_sd=sampling_sd,
        terms_sd=terms_sd,
        range_log=range_log,
    )


def _replicas(calibration: EndpointCalibration, seed: int) -> list[Replica]:
    """Return replicas with terms drawn from their uncertainty, drift included."""
    known, chance = calibration.uncertainty, np.random.default_rng(seed)
    found = []
    for _ in range(DRAWS):
        offsets = {DRIFT: float(chance.normal(0.0, known.drift_log_sd))}
        if known.terms:
            logs = chance.multivariate_normal(
                np.zeros(len(known.terms)), np.array(known.covariance), check_valid="ignore"
            )
            offsets |= dict(zip(known.terms, logs.tolist(), strict=True))
        terms = terms_at(calibration, offsets)
        base = replica_of(calibration)
        found.append(
            Replica(settings=base.settings, step=step_table(terms, base.settings), num_gpu_blocks=base.num_gpu_blocks)
        )
    return found


def drawn_lengths(spread: Distribution | None, mean: float, n: int, chance: np.random.Generator) -> IntColumn:
    """Draw lengths as a histogram spreads them, brought to the measured mean; all of the mean where there is none."""
    if spread is None or not spread.samples:
        drawn: FloatColumn = np.full(n, mean)
    else:
        edges = np.concatenate([[0.0], spread.bounds, spread.bounds[-1:]])
        at = chance.choice(len(spread.counts), n, p=spread.counts / spread.counts.sum())
        places = chance.uniform(0.0, 1.0, n)
        drawn = min(
            (edges[at] + (edges[at + 1] - edges[at]) * places**power for power in _POWERS),
            key=lambda lengths: abs(float(lengths.mean()) - mean),
        )
        drawn *= mean / drawn.mean()
    return np.maximum(np.rint(drawn), 1).astype(np.int64)


# --- the rule --------------------------------------------------------------------------------------------------------


def _e_value(z: float) -> float:
    """Return the mean over the tilts of exp(l z − l²/2): of a standard normal, its expectation is 1."""
    return float(np.exp(_TILTS * z - _TILTS**2 / 2).mean())


def deciding_windows(windows_per_false_alarm: float) -> int:
    """Return how many windows it takes to raise the alarm, at the fewest.

    Every figure is then off by as much as counts in every window: half of the evidence, that of the one direction,
    grows by the largest e-value each time, and the other half is next to nothing.
    """
    return max(math.ceil(math.log(2 * windows_per_false_alarm) / math.log(_e_value(_CLIP))), 1)


@dataclass(slots=True)
class Detector:
    """Takes in window after window and says whether the calibration holds.

    Attributes:
        tolerance_frac: a figure off by less is in order.
        windows_per_false_alarm: on average, at least.
        evidence: (figure, direction) -> its e-CUSUM; direction 1 is slower (more) than expected.
        since: the same -> when its evidence last began to grow.
    """

    tolerance_frac: float = 0.1
    windows_per_false_alarm: float = 1000.0
    evidence: dict[tuple[str, int], float] = field(default_factory=dict)
    since: dict[tuple[str, int], str] = field(default_factory=dict)
    drifted: str = ""

    def take(self, window: Mapping[str, Expectation], began: str) -> None:
        """Take in a window that began at a time."""
        for name, one in window.items():
            off = math.log(one.measured / one.expected)
            allowed = max(_BAND_SD * one.terms_sd, math.log1p(self.tolerance_frac)) + one.range_log
            for way in (1, -1):
                z = min((way * off - allowed) / one.sampling_sd, _CLIP)
                before = self.evidence.get((name, way), 0.0)
                if before <= 1.0:
                    self.since[name, way] = began
                self.evidence[name, way] = max(before, 1.0) * _e_value(z)
        if not self.drifted and self.level >= self.windows_per_false_alarm:
            self.drifted = self.since[self.worst]

    @property
    def level(self) -> float:
        """The mean of the evidence: the alarm is raised at `windows_per_false_alarm`."""
        return sum(self.evidence.values()) / len(self.evidence) if self.evidence else 0.0

    @property
    def worst(self) -> tuple[str, int]:
        """The figure and direction with most evidence."""
        return max(self.evidence, key=lambda key: self.evidence[key])

    @property
    def state(self) -> str:
        """Return `holds`, `drifting` or `drifted since …`."""
        if self.drifted:
            return f"drifted since {self.drifted}"
        return "drifting" if self.level >= math.sqrt(self.windows_per_false_alarm) else "holds"

    @property
    def part(self) -> str:
        """Say which part of the model it looks like; empty while it holds."""
        if self.state == "holds":
            return ""
        name, way = self.worst
        strong = {key for key, value in self.evidence.items() if value >= math.sqrt(self.windows_per_false_alarm)}
        where = next((PARTS[one] for one in ("itl", "tpot", "e2e") if (one, way) in strong), PARTS[name])
        return f"{where}: {'slower' if way > 0 else 'faster'} than calibrated"
