"""How fast the machine is, learnt from one load to the next.

A core of a shared machine has no constant speed: it moves by some percent from one half minute to the next, and now and
then by a third for minutes. No calibration knows that beforehand; but every load that was sent tells it for the next
one. The logarithm of the speed is taken for a random walk, seen with an error at each load: a Kalman filter of one
number.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from headway.calibration.runs import run_of
from headway.calibration.simulated import simulated_run
from headway.perf.endpoint_steps import DRIFT, replica_of, terms_at

if TYPE_CHECKING:
    from headway.perf import EndpointCalibration
    from headway.probe.nouns import Sent

#: By how much the logarithm moves from one load of half a minute to the next, and what one load errs by: assumed, as
#: seen on virtual machines.
WALK, ERROR = 0.05, 0.04
#: Where a load's own slowness is looked for.
_PLACES = np.linspace(-0.7, 0.7, 57)


@dataclass(frozen=True, slots=True)
class Speed:
    """What is known: by how much slower than calibrated the machine is, as a logarithm, and its variance."""

    slower: float
    variance: float

    @classmethod
    def at_first(cls, calibration: EndpointCalibration) -> Speed:
        """Return what a calibration alone says: the speed it was made at, give or take its drift."""
        return cls(0.0, calibration.uncertainty.drift_log_sd**2)

    def after(self, seen: float) -> Speed:
        """Return what is known of the next load, once one was seen to run so much slower."""
        weight = self.variance / (self.variance + ERROR**2)
        return Speed(self.slower + weight * (seen - self.slower), (1 - weight) * self.variance + WALK**2)


def at_speed(calibration: EndpointCalibration, speed: Speed) -> EndpointCalibration:
    """Return the calibration at a speed; the bands stay as they were."""
    return replace(calibration, terms=terms_at(calibration, {DRIFT: speed.slower}))


def slowness(calibration: EndpointCalibration, sent: Sent) -> float:
    """Return by how much slower than calibrated a load ran, as a logarithm: where its requests' latencies lie nearest.

    The sum of the absolute logarithms of TTFT and TPOT, measured over simulated, is least there.
    """
    run = run_of(sent)
    columns = (np.isfinite(run.ttft_s), np.isfinite(run.tpot_s) & (run.tpot_s > 0))

    def off(slower: float) -> float:
        found = simulated_run(run, replica_of(at_speed(calibration, Speed(slower, 0.0))))
        pairs = zip((run.ttft_s, run.tpot_s), found, columns, strict=True)
        return sum(float(np.abs(np.log(measured[kept] / made[kept])).sum()) for measured, made, kept in pairs)

    return float(min(_PLACES, key=off))
