"""How fast the machine is just now: a short load of known cost before each point.

The speed of a shared machine moves by 10 to 20 % from one minute to the next and stays there for a while; that is no
property of the server, and no calibration can know it beforehand. A few seconds of a load like the calibration's tell
it, before the point's own requests are predicted and sent.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from headway.calibration.design import shortened
from headway.calibration.predicting import simulated_figures
from headway.perf.endpoint_steps import DRIFT, replica_of, terms_at
from headway.probe.loads import staggered
from headway.probe.nouns import Load

if TYPE_CHECKING:
    from headway.perf import EndpointCalibration
    from headway.types import Requests

#: Seconds of a glance.
SECONDS = 6.0
#: What a glance errs by, in logarithms: the spread of single steps over so short a time.
ERROR_LOG_SD = 0.04


def glance(calibration: EndpointCalibration, traffic: Requests, number: int) -> Load:
    """Return the load of a glance: half the seats taken, other requests each time.

    Args:
        calibration: says how long it takes.
        traffic: of the calibration.
        number: of the glance.
    """
    from headway.workload import take

    rows = np.roll(np.arange(len(traffic)), -53 * number)
    requests = replace(take(traffic, rows), arrive_s=np.zeros(len(traffic)))
    load = Load(name=f"glance {number}", requests=requests, concurrency=max(calibration.settings.max_num_seqs // 2, 1))
    one = replace(load, requests=take(requests, np.arange(1)))
    return staggered(shortened(load, replica_of(calibration), SECONDS, least=1) or one, SECONDS / 10)


def slowness(calibration: EndpointCalibration, load: Load, measured_per_s: float) -> float:
    """Return by how much slower than calibrated a glance saw the machine, as a logarithm.

    Args:
        calibration: at its own speed.
        load: that was sent.
        measured_per_s: output tokens per second, measured.
    """
    return math.log(simulated_figures(load, replica_of(calibration))["output_tokens_per_s"] / measured_per_s)


def at_speed(calibration: EndpointCalibration, slower: float) -> EndpointCalibration:
    """Return the calibration at the speed a glance saw; the bands stay as they were.

    The logarithm of the speed is drawn to the calibration's own as far as the glance may err: Bayes with the
    calibration's drift as the prior.

    Args:
        calibration: at its own speed.
        slower: as `slowness` has it.
    """
    variance = calibration.uncertainty.drift_log_sd**2
    drift = slower * variance / (variance + ERROR_LOG_SD**2)
    return replace(calibration, terms=terms_at(calibration, {DRIFT: drift}))
