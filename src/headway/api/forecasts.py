"""A load predicted by a calibration before anything of it is sent, and how that held."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING

from headway.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from headway.api.paces import Pace
    from headway.calibration.predicting import Prediction
    from headway.perf.endpoint import EndpointCalibration
    from headway.probe.nouns import Endpoint, Load, Sent

#: Settings that change what a server does under the same load.
_SETTINGS = ("max_num_seqs", "max_num_batched_tokens", "max_model_len", "block_size", "enable_prefix_caching")


@dataclass(frozen=True, slots=True, kw_only=True)
class ForetoldFigure:
    """One figure of a run, predicted before it and measured in it; latencies in seconds."""

    figure: str  # `ttft.p50`, …, `output_tokens_per_s`
    predicted: float
    low: float  # of the 90 % band
    high: float
    measured: float
    error_frac: float  # predicted ÷ measured − 1
    held: bool  # what was measured lies in the band


@dataclass(frozen=True, slots=True, kw_only=True)
class Foretold:
    """What a calibration said of a load before anything of it was sent, beside what was measured."""

    calibration: str
    made: str  # the day it was, ISO
    figures: tuple[ForetoldFigure, ...]
    saturated_frac: float  # share of the draws in which the queue grows until the arrivals end
    outside: tuple[str, ...]  # what of load, server and run the calibration is not of

    @property
    def held(self) -> int:
        """How many figures lie in their bands."""
        return sum(figure.held for figure in self.figures)


@dataclass(frozen=True, slots=True)
class Forecast:
    """What will be measured, as far as a calibration knows."""

    known: EndpointCalibration
    prediction: Prediction
    outside: tuple[str, ...]

    def beside(self, sent: Sent) -> Foretold:
        """Return it beside what was measured."""
        from headway.calibration.predicting import FIGURES, measured_figures

        measured = measured_figures(sent)
        stopped = sent.client.interrupted
        cut = (f"the run was stopped early ({stopped}): what was measured is of a part",) if stopped else ()
        return Foretold(
            calibration=self.known.name,
            made=self.known.made,
            figures=tuple(self._figure(name, measured[name]) for name in FIGURES),
            saturated_frac=self.prediction.saturated_frac,
            outside=(*self.outside, *cut),
        )

    def _figure(self, name: str, measured: float) -> ForetoldFigure:
        said = self.prediction.figures[name]
        return ForetoldFigure(
            figure=name,
            predicted=said.value,
            low=said.low,
            high=said.high,
            measured=measured,
            error_frac=said.value / measured - 1 if 0 < measured < math.inf else math.nan,
            held=said.low <= measured <= said.high,
        )


def calibration_for(name_or_path: str | Path, pace: Pace) -> EndpointCalibration:
    """Read the calibration that is to predict a load.

    Raises:
        InputError: there is none, or what will be sent is not known before: the clock decides it, or each stage does.
    """
    from headway.perf.endpoint_reader import read_calibration

    if pace.in_stages:
        hint = "one run for each: --rate '2 req/s', or --concurrency 4"
        raise InputError("a load in stages is not predicted", place="calibration", hint=hint)
    if pace.closed and pace.duration_s is not None:
        hint = "--requests N in place of --duration"
        raise InputError(
            "how many requests a closed loop sends in a time is not known before", place="calibration", hint=hint
        )
    return read_calibration(name_or_path)


def forecast(known: EndpointCalibration, load: Load, endpoint: Endpoint) -> Forecast:
    """Predict a load.

    Args:
        known: the calibration.
        load: what will be sent, and when.
        endpoint: whom it will be sent to.

    Raises:
        InputError: the endpoint's engine is another, or not known; or the load cannot be run as calibrated.
    """
    from headway.calibration.predicting import predict

    there = endpoint.settings.engine if endpoint.settings else ""
    if there != known.settings.engine:
        raise InputError(
            f"{known.name} is of {known.settings.engine}, the endpoint is {there or 'of an unknown engine'}",
            place="calibration",
            hint="calibrate it: headway calibrate endpoint" if there else "name it: --engine vllm, llama-cpp, …",
        )
    prediction = predict(known, load)
    return Forecast(known, prediction, (*prediction.outside, *_unlike(known, load, endpoint)))


def _unlike(known: EndpointCalibration, load: Load, endpoint: Endpoint) -> Iterator[str]:
    """Say in what the server, or what will be done to it, differs from what was calibrated."""
    assert endpoint.settings is not None  # its engine is known
    pairs = [(name, getattr(endpoint.settings, name), getattr(known.settings, name)) for name in _SETTINGS]
    pairs.append(("KV blocks", endpoint.num_gpu_blocks or known.num_gpu_blocks, known.num_gpu_blocks))
    pairs.append(("model", _short(endpoint.model), _short(known.model)))
    pairs.append(("version", endpoint.version or known.engine_version, known.engine_version or endpoint.version))
    for name, here, then in pairs:
        if here != then:
            yield f"{name} {here}: calibrated on {then}"
    sessions = load.requests.session_id
    if sessions is not None and len(set(sessions.tolist())) < len(sessions):
        yield "turns of a session: predicted at their own times, sent when the turn before has ended"


def _short(model: str) -> str:
    """A model without its folder: llama-server names it by its file, others by its publisher too."""
    return PurePath(model).name.removesuffix(".gguf")
