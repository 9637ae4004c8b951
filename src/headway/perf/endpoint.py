"""A calibration of one endpoint: step times fitted to what a real server did, and how sure they are.

It stands in for the physics where a pool names it (`Pool.calibration`): the step table comes from here, so do the KV
blocks, the settings that were measured, and the error bands.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headway.types import EngineSettings

#: Version of the file format.
FORMAT = 1
#: What a run may be known by.
EVIDENCE = ("requests", "summary", "metrics")
#: The terms of `StepTerms` that are one figure each.
SCALARS = (
    "context_s_per_token",
    "prefill_s_per_pair",
    "prefill_context_s_per_token",
    "sequence_s",
    "frontend_s",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTerms:
    """A step's time as a few figures; between knots the tables are linear, beyond the last they keep its slope.

    Attributes:
        decode_s: number of sequences -> seconds of a step in which all decode, their contexts left out.
        mixed_s: tokens of a step with a prompt in it -> seconds, contexts and sequences left out.
        context_s_per_token: for each token of context of each decoding sequence.
        prefill_s_per_pair: times m (2x + m) for a chunk of m tokens on top of x.
        prefill_context_s_per_token: for each token a chunk is put on top of.
        sequence_s: for each sequence in a step with a prompt.
        frontend_s: from the arrival to the engine and from the engine to the client, together: on every request.
    """

    decode_s: Mapping[int, float]
    mixed_s: Mapping[int, float]
    context_s_per_token: float
    prefill_s_per_pair: float
    prefill_context_s_per_token: float
    sequence_s: float
    frontend_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Uncertainty:
    """How well the terms are known: natural logarithms of them are normal with this covariance.

    Attributes:
        terms: names, in the order of the matrix: `decode_s.4`, `mixed_s.256`, `frontend_s`, …
        covariance: of the logarithms.
        drift_log_sd: how far all step times together move from one run to another on that machine.
        misfit_log_sd: figure (`ttft.p50`, …) -> what its logarithm scatters by beyond terms and drift, as seen on runs
            left out of the fit.
        not_identified: term, or `drift_log_sd` -> why the runs do not tell it: it stands at its assumption.
    """

    terms: tuple[str, ...]
    covariance: tuple[tuple[float, ...], ...]
    drift_log_sd: float
    misfit_log_sd: Mapping[str, float] = field(default_factory=dict)
    not_identified: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedRun:
    """A run the terms were fitted to, and how well they say what it measured when fitted without it."""

    name: str
    requests: int
    started: str
    sha256: str  # of the file it was read from; empty where there was none
    errors_frac: Mapping[str, float]  # `ttft.p50` … -> predicted ÷ measured − 1, the run left out
    evidence: str = (
        "requests"  # what it is known by: `requests`, a load generator's `summary`, or the server's `metrics`
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointCalibration:
    """A saved calibration.

    Attributes:
        name: by which planner and simulator take it.
        made: the day, ISO.
        engine, engine_version, model, hardware: what was measured, in the words of scenario and catalogue.
        tp, weight_dtype, kv_dtype: how the model was deployed there.
        settings: of the engine, as it ran.
        num_gpu_blocks: KV blocks of one replica.
        bands_frac: `ttft.p50`, `ttft.p95`, … `output_tokens_per_s` -> (low, high): 90 % of runs left out of the fit lie
            within prediction · (1 + low) … prediction · (1 + high).
        valid: `batch`, `tokens`, `context` -> the least and the most that was measured.
    """

    name: str
    made: str
    engine: str
    engine_version: str
    model: str
    hardware: str
    tp: int
    weight_dtype: str
    kv_dtype: str
    settings: EngineSettings
    num_gpu_blocks: int
    terms: StepTerms
    uncertainty: Uncertainty
    bands_frac: Mapping[str, tuple[float, float]]
    valid: Mapping[str, tuple[float, float]]
    runs: tuple[FittedRun, ...]


def term_names(terms: StepTerms) -> list[str]:
    """Return the names of all terms as the covariance has them: `decode_s.4`, `mixed_s.256`, …, `frontend_s`."""
    knots = [f"{table}.{at}" for table in ("decode_s", "mixed_s") for at in getattr(terms, table)]
    return [*knots, *SCALARS]
