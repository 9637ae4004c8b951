"""What of a load lies beyond what was calibrated on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from test_watching import calibration

from headway.calibration.predicting import most_running, predict
from headway.perf.endpoint_steps import replica_of
from headway.probe.nouns import Load
from headway.types import Requests

SEATS = 8


def load(gap_s: float, clients: int | None = None) -> Load:
    """Forty requests that take half a second each, alone."""
    n = 40
    requests = Requests(arrive_s=np.arange(n) * gap_s, isl_tokens=np.full(n, 40), osl_tokens=np.full(n, 50))
    return Load(name="x", requests=requests, concurrency=clients)


@pytest.mark.parametrize(
    ("sent", "most"), [(load(1.0), 1), (load(0.4), 2), (load(0.01), SEATS), (load(0.0, 3), 3), (load(0.0, 20), SEATS)]
)
def test_a_load_that_runs_more_at_once_than_was_calibrated_is_told(sent: Load, most: int) -> None:
    assert most_running(sent, replica_of(calibration())) == most
    for calibrated in (1.0, 2.0, 7.0, 8.0):
        known = replace(calibration(), valid={"batch": (1.0, calibrated)})
        outside = predict(known, sent, draws=2).outside
        assert outside == ((f"{most} at once: calibrated up to {calibrated:.0f}",) if most > calibrated else ())


def test_longer_contexts_than_were_calibrated_are_told() -> None:
    known = replace(calibration(), valid={"context": (0.0, 60.0)})
    assert predict(known, load(1.0), draws=2).outside == ("contexts of 90 tokens: calibrated up to 60",)
