"""Laws of calibrations of endpoints: files hold what was written, tables never fall, bands hold the prediction."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headway.errors import InputError
from headway.perf import read_calibration, step_table, term_names, terms_at, write_calibration
from headway.perf.endpoint import EVIDENCE, SCALARS, EndpointCalibration, FittedRun, StepTerms, Uncertainty
from headway.perf.endpoint_pools import endpoint_band
from headway.perf.endpoint_reader import OWN
from headway.perf.endpoint_writer import calibration_text
from headway.types import EngineSettings

SECONDS = st.floats(1e-9, 100.0)
TEXTS = st.text(min_size=1, max_size=20).filter(lambda text: bool(text.strip()))
KNOTS = st.dictionaries(st.integers(1, 4096), SECONDS, min_size=1, max_size=6).map(lambda d: dict(sorted(d.items())))
FRACS = st.floats(-0.9, 3.0)
METRICS = ("ttft.p50", "ttft.p95", "tpot.p50", "tpot.p95", "itl.p50", "e2e.p50", "e2e.p99", "output_tokens_per_s")


def pairs(least: float, most: float) -> st.SearchStrategy[tuple[float, float]]:
    return st.tuples(st.floats(least, most), st.floats(least, most)).map(lambda pair: (min(pair), max(pair)))


SPANS = pairs(0.0, 1e6)
TERMS = st.builds(
    StepTerms, decode_s=KNOTS, mixed_s=KNOTS, **dict.fromkeys(SCALARS, st.just(0.0) | st.floats(1e-12, 1.0))
)
RUNS = st.builds(
    FittedRun,
    name=TEXTS,
    requests=st.integers(0, 10**6),
    started=st.sampled_from(["", "2026-11-21T12:00:00Z"]),
    sha256=st.sampled_from(["", "0123456789abcdef" * 4]),
    errors_frac=st.dictionaries(st.sampled_from(METRICS), FRACS),
    evidence=st.sampled_from(EVIDENCE),
)


@st.composite
def engine_settings(draw: st.DrawFn) -> EngineSettings:
    engine = draw(st.sampled_from(["vllm", *OWN]))
    return EngineSettings(
        max_num_seqs=draw(st.integers(1, 300)),
        max_num_batched_tokens=draw(st.integers(1, 9000)),
        max_model_len=draw(st.integers(2, 10**6)),
        gpu_memory_utilization=draw(st.floats(0.1, 1.0)),
        engine=engine,
        version=draw(st.sampled_from(["0.33.0", "server", "", "1.10"])),
        max_loras=draw(st.none() | st.integers(1, 9)),
        watermark=draw(st.floats(0.0, 0.9)),
        enable_prefix_caching=draw(st.booleans()),
        cuda_graph_sizes=draw(st.sampled_from([(), (1,), (1, 2, 4)])),
        own=OWN[engine]() if engine in OWN and draw(st.booleans()) else None,
    )


@st.composite
def calibrations(draw: st.DrawFn) -> EndpointCalibration:
    terms = draw(TERMS)
    known = draw(st.lists(st.sampled_from(term_names(terms)), unique=True, max_size=4))
    width = len(known)
    half = np.array([[draw(st.floats(-0.3, 0.3)) for _ in known] for _ in known]).reshape(width, width)
    covariance = half @ half.T
    whole = np.tril(covariance) + np.tril(covariance, -1).T
    uncertainty = Uncertainty(
        terms=tuple(known),
        covariance=tuple(tuple(row) for row in whole.tolist()),
        drift_log_sd=draw(st.floats(0.0, 1.0)),
        misfit_log_sd=draw(st.dictionaries(st.sampled_from(METRICS), st.floats(0.0, 1.0))),
        not_identified=draw(st.dictionaries(st.sampled_from(SCALARS), TEXTS, max_size=2)),
    )
    texts = {key: draw(TEXTS) for key in ("name", "engine_version", "model", "hardware")}
    ran, valid = draw(engine_settings()), draw(st.dictionaries(st.sampled_from(["batch", "tokens", "context"]), SPANS))
    return EndpointCalibration(
        **texts,
        engine=ran.engine,
        made="2026-11-21",
        tp=draw(st.integers(1, 8)),
        weight_dtype=draw(st.sampled_from(["bf16", "int4"])),
        kv_dtype="bf16",
        settings=ran,
        num_gpu_blocks=draw(st.integers(math.ceil(max(valid.get("context", (0, 0))[1], 1) / ran.block_size), 10**7)),
        terms=terms,
        uncertainty=uncertainty,
        bands_frac=draw(st.dictionaries(st.sampled_from(METRICS), pairs(-0.9, 3.0))),
        valid=valid,
        runs=tuple(draw(st.lists(RUNS, max_size=3))),
    )


@given(calibrations())
@settings(max_examples=60)
def test_what_is_read_is_what_was_written(tmp_path_factory: pytest.TempPathFactory, known: EndpointCalibration) -> None:
    path = tmp_path_factory.mktemp("calibrations") / "one.yaml"
    write_calibration(path, known)
    assert read_calibration(path) == known
    assert path.read_text(encoding="utf-8") == calibration_text(known)


@given(calibrations(), st.data())
@settings(max_examples=60)
def test_a_file_with_a_line_lost_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, known: EndpointCalibration, data: st.DataObject
) -> None:
    lines = calibration_text(known).splitlines()
    del lines[data.draw(st.integers(0, len(lines) - 1))]
    path = tmp_path_factory.mktemp("calibrations") / "one.yaml"
    path.write_text("\n".join(lines), encoding="utf-8")
    try:
        read_calibration(path)
    except InputError as error:
        assert str(path) in str(error)


@given(TERMS, st.integers(1, 400), st.integers(1, 5000))
def test_tables_never_fall_and_pass_through_rising_knots(terms: StepTerms, seqs: int, tokens: int) -> None:
    limits = EngineSettings(
        max_num_seqs=seqs, max_num_batched_tokens=tokens, max_model_len=100, gpu_memory_utilization=0.9
    )
    table = step_table(terms, limits)
    for column, knots, most in ((table.decode_ps, terms.decode_s, seqs), (table.mixed_ps, terms.mixed_s, tokens)):
        assert len(column) == most + 1
        assert (np.diff(column[1:]) >= 0).all()
        highest = 0.0
        for at, seconds in knots.items():
            highest = max(highest, seconds)
            if at <= most:
                assert column[at] == pytest.approx(highest * 1e12, rel=1e-9, abs=1)


@given(TERMS)
def test_a_longer_table_begins_with_the_shorter_one(terms: StepTerms) -> None:
    short = EngineSettings(max_num_seqs=9, max_num_batched_tokens=90, max_model_len=100, gpu_memory_utilization=0.9)
    long = dataclasses.replace(short, max_num_seqs=99, max_num_batched_tokens=990)
    one, other = step_table(terms, short), step_table(terms, long)
    assert np.array_equal(one.decode_ps, other.decode_ps[:10])
    assert np.array_equal(one.mixed_ps, other.mixed_ps[:91])


@given(calibrations(), st.floats(-0.5, 0.5))
@settings(max_examples=40)
def test_drift_moves_every_step_and_not_the_front_end(known: EndpointCalibration, drift: float) -> None:
    moved = terms_at(known, {"drift": drift})
    assert moved.frontend_s == known.terms.frontend_s
    for at, seconds in known.terms.decode_s.items():
        assert moved.decode_s[at] == pytest.approx(seconds * math.exp(drift))
    each = {name: drift for name in term_names(known.terms) if name != "frontend_s"}
    assert terms_at(known, each) == moved


@given(calibrations(), st.sampled_from(METRICS), st.sampled_from([None, 0.5, 0.95]))
@settings(max_examples=60)
def test_bands_hold_the_prediction_and_grow_with_confidence(
    known: EndpointCalibration, name: str, percentile_frac: float | None
) -> None:
    metric = name.partition(".")[0]
    wide = endpoint_band(known, metric, percentile_frac, 0.9)
    if wide is None:
        assert not known.bands_frac
        return
    narrow = endpoint_band(known, metric, percentile_frac, 0.5)
    assert narrow is not None
    assert wide.low_frac <= narrow.low_frac <= 0.0 <= narrow.high_frac <= wide.high_frac
    tail = endpoint_band(known, metric, 0.99, 0.9)
    if any(other.startswith(f"{metric}.p5") for other in known.bands_frac):
        assert tail is not None
        body = endpoint_band(known, metric, 0.5, 0.9)
        assert body is not None
        assert tail.low_frac <= body.low_frac
        assert tail.high_frac >= body.high_frac
