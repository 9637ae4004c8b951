"""A calibration held against windows: what is expected, and the rule that says it has drifted."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.calibration.watching import (
    Detector,
    Expectation,
    Traffic,
    deciding_windows,
    expect,
    measured_of,
    traffic_of,
)
from headway.cli.calibrate import endpoint_command
from headway.cli.watch import recalibrating
from headway.errors import EvidenceError, InputError
from headway.perf.endpoint import EndpointCalibration, StepTerms, Uncertainty
from headway.probe.observed import Observed, distribution
from headway.types import EngineSettings

TERMS = StepTerms(
    decode_s={1: 0.010, 4: 0.016, 8: 0.024},
    mixed_s={1: 0.010, 512: 0.2},
    context_s_per_token=1e-8,
    prefill_s_per_pair=0.0,
    prefill_context_s_per_token=0.0,
    sequence_s=0.0,
    frontend_s=0.001,
)


def calibration(terms: StepTerms = TERMS) -> EndpointCalibration:
    return EndpointCalibration(
        name="here",
        made="2026-11-21",
        engine="vllm",
        engine_version="0.32.0",
        model="m",
        hardware="cpu",
        tp=1,
        weight_dtype="bf16",
        kv_dtype="bf16",
        settings=EngineSettings(
            max_num_seqs=8, max_num_batched_tokens=512, max_model_len=1024, gpu_memory_utilization=0.9
        ),
        num_gpu_blocks=1000,
        terms=terms,
        uncertainty=Uncertainty(terms=("decode_s.1",), covariance=((1e-4,),), drift_log_sd=0.02),
        bands_frac={},
        valid={},
        runs=(),
    )


def window(**increases: float) -> Observed:
    return Observed(
        start_s=0.0,
        end_s=60.0,
        scrapes=30,
        restarted_s=(),
        increases=increases,
        means={"running": 1.0, "waiting": 0.0},
        changes={},
        distributions={},
    )


#: One request in flight at every look.
ALONE = np.ones(30)
LLAMA = window(prompt_tokens=6000.0, cached_tokens=3000.0, generation_tokens=3000.0, decode_busy_s=30.0)


def test_a_server_that_counts_no_requests_needs_the_output_length() -> None:
    with pytest.raises(InputError, match="counts no requests"):
        traffic_of(LLAMA)
    traffic = traffic_of(LLAMA, 50)
    assert (traffic.requests, traffic.isl_tokens, traffic.osl_tokens, traffic.cached_frac) == (60, 100.0, 50.0, 0.5)
    assert measured_of(LLAMA, traffic) == {"itl": pytest.approx(30 / (3000 - 60)), "e2e": 1.0}  # Little's law


def test_seconds_in_the_engine_and_in_the_queue_are_latencies() -> None:
    seen = replace(LLAMA, increases=LLAMA.increases | {"prefill_busy_s": 12.4}, changes={"running": 2.0})
    seen = replace(seen, means={"running": 1.0, "waiting": 0.5})
    traffic = traffic_of(seen, 50)
    found = measured_of(seen, traffic)
    assert found["ttft"] == pytest.approx(12.4 / 62 + 0.5 / (62 / 60))
    assert found["e2e"] == pytest.approx(found["ttft"] + 30 / 60)
    assert traffic.isl_tokens == pytest.approx(6000 / 62)


def test_requests_that_pile_up_have_come() -> None:
    seen = replace(LLAMA, changes={"running": 2.0, "waiting": 7.0})
    assert traffic_of(seen, 50).requests == 69
    assert traffic_of(seen, 50).ended == 60


def test_histograms_tell_lengths_and_latencies() -> None:
    lengths = distribution(np.array([50.0, 100.0]), np.array([10.0, 20.0, 20.0]), 1400.0)
    seen = replace(
        window(requests=20.0, prompt_tokens=1400.0), distributions={"isl_tokens": lengths, "ttft_s": lengths}
    )
    assert traffic_of(seen).isl_tokens == 70
    assert measured_of(seen, traffic_of(seen))["ttft"] == 70


def test_expected_is_what_the_terms_say() -> None:
    seen = replace(LLAMA, increases=LLAMA.increases | {"decode_busy_s": 0.0101 * 2940})
    found = expect(calibration(), seen, traffic_of(seen, 50), ALONE)["itl"]
    assert found.expected == pytest.approx(0.010, rel=0.03)  # alone in the batch
    assert found.low < 0.0101 < found.high
    assert found.terms_sd == pytest.approx(math.hypot(0.02, 0.01), rel=0.5)
    slow = expect(calibration(replace(TERMS, decode_s={1: 0.02, 8: 0.048})), seen, traffic_of(seen, 50), ALONE)["itl"]
    assert slow.expected > 0.019


def window_off(off: float, sampling_sd: float = 0.05) -> dict[str, Expectation]:
    one = Expectation(
        measured=math.exp(off), expected=1.0, low=0.9, high=1.1, sampling_sd=sampling_sd, terms_sd=0.03, range_log=0.0
    )
    return {"itl": one, "e2e": replace(one, measured=1.0)}


def test_within_tolerance_it_holds_for_ever() -> None:
    detector = Detector()
    for number in range(2000):
        detector.take(window_off(0.09), str(number))
    assert detector.state == "holds" and detector.part == ""


@pytest.mark.parametrize(("off", "words"), [(math.log(2), "slower"), (math.log(0.5), "faster")])
def test_what_is_off_is_found_and_named_and_dated(off: float, words: str) -> None:
    detector = Detector()
    for number in range(20):
        detector.take(window_off(0.0), f"before {number}")
    states = []
    for number in range(6):
        detector.take(window_off(off), f"after {number}")
        states.append(detector.state)
    assert states[0] != "drifted since after 0", "no window decides alone"
    assert "drifting" in states
    assert states[-1] == "drifted since after 0"
    assert detector.part == f"decode steps: {words} than calibrated"


def test_an_e_value_is_one_on_average_while_the_calibration_holds() -> None:
    """E[e] ≤ 1 under a standard normal is all the guarantee rests on; the clipping takes a little of it."""
    expected, width = 0.0, 0.001
    for z in np.arange(-8.0, 8.0, width) + width / 2:
        detector = exact()
        detector.take({"itl": off_by(z)}, "")
        expected += detector.evidence["itl", 1] * math.exp(-z * z / 2) / math.sqrt(2 * math.pi) * width
    assert 0.6 < expected <= 1.0


def exact() -> Detector:
    """A detector for which nothing but the expected itself is in order."""
    return Detector(tolerance_frac=1e-12, windows_per_false_alarm=100.0)


def off_by(z: float) -> Expectation:
    return Expectation(
        measured=math.exp(0.05 * z), expected=1.0, low=0.9, high=1.1, sampling_sd=0.05, terms_sd=0.0, range_log=0.0
    )


@pytest.mark.parametrize(("spread", "rare"), [(1.0, True), (2.0, False)])
def test_alarms_are_as_rare_as_said(spread: float, rare: bool) -> None:
    """Within n windows an alarm has a chance of n ÷ c at most; errors twice as wide as said would raise more."""
    chance, alarms, detectors, length = np.random.default_rng(1), 0, 200, 50
    for _ in range(detectors):
        detector = exact()
        for itl, ttft in chance.normal(0.0, spread, (length, 2)).tolist():
            detector.take({"itl": off_by(itl), "ttft": off_by(ttft)}, "then")
        alarms += bool(detector.drifted)
    assert (alarms <= detectors * length / 100.0) is rare
    assert alarms > 0


@given(st.floats(1.0, 1e6), st.lists(st.floats(-3.0, 3.0), min_size=1, max_size=4))
def test_fewer_windows_than_decide_never_do(c: float, offs: list[float]) -> None:
    least, detector, utmost = deciding_windows(c), Detector(windows_per_false_alarm=c), Detector(0.1, c)
    for number in range(least):
        assert not detector.drifted
        assert not utmost.drifted
        detector.take(window_off(offs[number % len(offs)]), "then")
        utmost.take({"itl": window_off(9.0)["itl"]}, "then")
    assert utmost.drifted


def test_a_figure_that_some_simulation_lacks_silences_no_other() -> None:
    """Where hardly an answer has a second token, there are no gaps to compare; the rest is compared on."""
    seen = window(requests=60.0, prompt_tokens=6000.0, generation_tokens=61.0, decode_busy_s=0.5)
    traffic = traffic_of(seen)
    assert set(measured_of(seen, traffic)) == {"itl", "e2e"}
    expected = expect(calibration(), seen, traffic, ALONE)
    assert set(expected) == {"e2e"}
    slow = {"e2e": replace(expected["e2e"], measured=3 * expected["e2e"].high)}
    detector = Detector()
    for number in range(5):
        detector.take(slow, str(number))
    assert detector.state == "drifted since 0"


def test_what_traffic_may_do_is_no_drift() -> None:
    detector, wide = Detector(), replace(window_off(0.5)["itl"], range_log=0.5)
    for number in range(100):
        detector.take({"itl": wide}, str(number))
    assert detector.state == "holds"


def test_where_nobody_says_how_many_are_in_flight_nothing_is_expected() -> None:
    seen = replace(LLAMA, means={})
    with pytest.raises(EvidenceError, match="how many requests are in flight"):
        expect(calibration(), seen, traffic_of(seen, 50), np.zeros(0))


@pytest.mark.parametrize(
    ("strong", "part"), [("itl", "decode steps"), ("ttft", "prefill or queueing"), ("e2e", "steps")]
)
def test_the_part_is_that_of_the_figures_that_are_off(strong: str, part: str) -> None:
    detector = Detector()
    for number in range(6):
        detector.take({"ttft": window_off(0.0)["itl"], **window_off(0.0), strong: window_off(1.0)["itl"]}, str(number))
    assert detector.part == f"{part}: slower than calibrated"


def test_traffic_says_its_rate() -> None:
    assert Traffic(window_s=10.0, requests=5, ended=5, isl_tokens=1, osl_tokens=1, cached_frac=0).per_s == 0.5


@pytest.mark.parametrize("url", ["http://10.0.0.7:8000", None])
def test_what_is_said_to_do_next_can_be_done(url: str | None) -> None:
    tensor = replace(calibration(), tp=2, hardware="my box", weight_dtype="fp8")
    head, *words = recalibrating(tensor, url, "MY_KEY", None, allow_public=True)
    group, command, *options = words
    assert (head, group, command) == ("headway", "calibrate", "endpoint")
    parsed = endpoint_command.make_context(command, options).params
    assert parsed["url"] == (url or "URL")
    assert {"file": "here-again.yaml", "name": "here", "hardware": "my box", "tp": 2}.items() <= parsed.items()
    assert {
        "weight_dtype": "fp8",
        "kv_dtype": None,
        "key_env": "MY_KEY",
        "allow_public": True,
    }.items() <= parsed.items()
