"""Whether a calibration still holds: live windows of a server's own metrics against simulations of the same traffic.

**Expectation.** A window tells how many requests came, how long they were and what share of the prompts was cached.
Traffic like it is simulated with the calibration's terms: Poisson arrivals at that rate (an assumption: burstier
traffic waits longer), lengths as the engine's histograms spread them, or all of the mean where it has none, and cached
tokens left out of the prompts. Each simulation holds as many requests as the window, so the spread over its seeds is
the sampling error; the spread over draws of the terms is how well they are known, drift from run to run included.

**Rule.** x = ln(measured ÷ expected) of each figure is held to |x| ≤ tolerance, where the tolerance is the half-width
of the terms' 90 % band and never less than asked for. What x exceeds it by, over the sampling error, is z; clipped at
3, it enters an e-value, the mean over l = ½, 1, 2, 4 of exp(l z − l²/2), whose expectation is at most 1 while the
calibration holds (if z is no heavier than a standard normal). Per figure and direction they build an e-CUSUM,
S ← max(S, 1) · e, and their mean raises the alarm at c: windows between false alarms are then at least c on average,
whatever the dependence between figures (Shin, Ramdas and Rinaldo, "E-detectors: a nonparametric framework for
sequential change detection", 2023). The clipping makes every alarm the work of several windows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from headway.errors import InputError
from headway.perf.endpoint_steps import DRIFT, replica_of, step_table, terms_at
from headway.simulator import FINISHED, simulate
from headway.types import Replica, Requests

if TYPE_CHECKING:
    from collections.abc import Mapping

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
PARTS = {"itl": "decode steps", "tpot": "decode steps", "ttft": "prefill", "e2e": "steps", "in_flight": "steps"}


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
        isl_tokens=_mean(prompts, counted.get("prompt_tokens", math.nan), ended),
        osl_tokens=_mean(outputs, generated, ended),
        cached_frac=0.0 if math.isnan(hits) else min(hits, 1.0),
    )


def _mean(spread: Distribution | None, tokens: float, ended: int) -> float:
    if spread is not None and spread.samples:
        return max(spread.mean, 1.0)
    return max(tokens / ended, 1.0) if ended else math.nan


def measured_of(seen: Observed, traffic: Traffic) -> dict[str, float]:
    """Return the window's figures by name: means in seconds, and requests in flight."""
    found = {
        name.removesuffix("_s"): seen.distributions[name].mean
        for name in ("ttft_s", "itl_s", "tpot_s", "e2e_s")
        if name in seen.distributions and seen.distributions[name].samples
    }
    gaps = seen.increases.get("generation_tokens", 0.0) - traffic.ended
    if "itl" not in found and seen.increases.get("decode_busy_s", 0.0) > 0 and gaps > 0:
        found["itl"] = seen.increases["decode_busy_s"] / gaps
    if "running" in seen.means and "e2e" not in found:
        found["in_flight"] = seen.means["running"] + seen.means.get("waiting", 0.0)
    return {name: value for name, value in found.items() if 0 < value < math.inf}


# --- what the calibration expects ------------------------------------------------------------------------------------


def expect(
    calibration: EndpointCalibration, seen: Observed, traffic: Traffic, *, seed: int = 0
) -> dict[str, Expectation]:
    """Return the window's figures beside what the calibration expects of such traffic.

    A figure that some simulated draw has not (gaps between tokens, where hardly an answer has two) is left out.
    """
    measured = measured_of(seen, traffic)
    base = replica_of(calibration)
    sampled = [_simulated(base, traffic, seen, seed + 1 + draw) for draw in range(DRAWS)]
    drawn = [_simulated(one, traffic, seen, seed) for one in _replicas(calibration, seed)]
    found = {}
    for name, value in measured.items():
        values, others = (np.array([figures[name] for figures in runs]) for runs in (sampled, drawn))
        if not all((part > 0).all() and np.isfinite(part).all() for part in (values, others)):
            continue
        logs, moved = np.log(values), np.log(others)
        middle, sampling_sd, terms_sd = float(logs.mean()), max(float(logs.std(ddof=1)), LEAST_SD), float(moved.std())
        reach = _BAND_SD * math.hypot(sampling_sd, terms_sd)
        found[name] = Expectation(
            measured=value,
            expected=math.exp(middle),
            low=math.exp(middle - reach),
            high=math.exp(middle + reach),
            sampling_sd=sampling_sd,
            terms_sd=terms_sd,
        )
    return found


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


def _simulated(replica: Replica, traffic: Traffic, seen: Observed, seed: int) -> dict[str, float]:
    """Simulate such traffic; figures are over its second half, the first fills the server."""
    chance = np.random.default_rng(seed)
    n = min(max(traffic.requests, LEAST_REQUESTS), MOST_REQUESTS)
    isl = drawn_lengths(seen.distributions.get("isl_tokens"), traffic.isl_tokens, 2 * n, chance)
    requests = Requests(
        arrive_s=np.cumsum(chance.exponential(1 / traffic.per_s, 2 * n)),
        isl_tokens=np.maximum(np.rint(isl * (1 - traffic.cached_frac)), 1).astype(np.int64),
        osl_tokens=drawn_lengths(seen.distributions.get("osl_tokens"), traffic.osl_tokens, 2 * n, chance),
    )
    done = simulate(requests, replica)
    counted = (np.arange(2 * n) >= n) & (done.state == FINISHED)
    if not counted.any():
        raise InputError("no request such as the window's fits the calibrated server", place="calibration")
    arrive, first, last = (c[counted] / 1e12 for c in (done.arrive_ps, done.first_ps, done.last_ps))
    gaps = done.output_tokens[counted] - 1
    some = gaps > 0
    e2e_s = float((last - arrive).mean())
    decode_s = (last - first)[some]
    return {
        "ttft": float((first - arrive).mean()),
        "itl": float(decode_s.sum() / gaps[some].sum()) if some.any() else math.nan,
        "tpot": float((decode_s / gaps[some]).mean()) if some.any() else math.nan,
        "e2e": e2e_s,
        "in_flight": traffic.per_s * e2e_s,  # Little's law
    }


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
            allowed = max(_BAND_SD * one.terms_sd, math.log1p(self.tolerance_frac))
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
        where = PARTS[name]
        if name in ("e2e", "in_flight", "ttft"):
            decodes = any((one, way) in strong for one in ("itl", "tpot"))
            where = "decode steps" if decodes else "prefill or queueing"
        return f"{where}: {'slower' if way > 0 else 'faster'} than calibrated"
