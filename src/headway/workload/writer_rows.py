"""A measured run as other load generators see it: times from when a request was sent, answered requests told apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from headway.errors import InputError

if TYPE_CHECKING:
    from headway.types import BoolColumn, FloatColumn, IntColumn
    from headway.workload.trace import Measured, Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class RunAbout:
    """What a file says of a run besides its requests.

    Attributes:
        model: the served model's name.
        url: where it was served.
        started_s: wall-clock time of the run's start, since 1970.
        concurrency: clients of a closed loop; None: open.
        rate_per_s: of an open loop, asked for; None: that of the arrivals.
    """

    model: str = ""
    url: str = ""
    started_s: float = 0.0
    concurrency: int | None = None
    rate_per_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SentRows:
    """The rows of a run as these tools see them: times from when a request was sent, 0 where there is none."""

    start_s: FloatColumn
    late_s: FloatColumn
    ttft_s: FloatColumn
    e2e_s: FloatColumn
    isl_tokens: IntColumn
    asked_tokens: IntColumn
    osl_tokens: IntColumn  # received
    cached_tokens: IntColumn | None
    session_id: IntColumn | None
    gaps_s: list[list[float]]
    errors: list[str]
    answered: BoolColumn

    def __len__(self) -> int:
        return len(self.start_s)

    @property
    def end_s(self) -> FloatColumn:
        """When each request ended."""
        return self.start_s + self.e2e_s

    @property
    def duration_s(self) -> float:
        """First sent to last ended."""
        return float(self.end_s.max() - self.start_s.min())

    @property
    def tpot_s(self) -> FloatColumn:
        """Of answered requests with more than one token."""
        several = self.answered & (self.osl_tokens > 1)
        tpot_s: FloatColumn = (self.e2e_s - self.ttft_s)[several] / (self.osl_tokens[several] - 1)
        return tpot_s


def sent_rows(trace: Trace) -> SentRows:
    """Return a run's rows, in order of arrival.

    Raises:
        InputError: nothing was measured.
    """
    measured = trace.measured
    if measured is None or measured.e2e_s is None:
        raise InputError("nothing was measured with these requests: there is no result to write")
    requests, n = trace.requests, len(trace.requests)
    errors = [""] * n if measured.error is None else [trace.names["error"][code] for code in measured.error.tolist()]
    answered = np.array([not one for one in errors]) & np.isfinite(measured.e2e_s)
    late_s = np.zeros(n) if measured.sent_s is None else np.nan_to_num(measured.sent_s)
    first_s = np.full(n, np.nan) if measured.ttft_s is None else measured.ttft_s
    received = requests.osl_tokens if measured.output_tokens is None else np.maximum(measured.output_tokens, 0)
    isl = requests.isl_tokens
    if measured.input_tokens is not None:
        isl = np.where(measured.input_tokens > 0, measured.input_tokens, isl)
    return SentRows(
        start_s=requests.arrive_s + late_s,
        late_s=late_s,
        ttft_s=np.where(answered, np.nan_to_num(first_s - late_s), 0.0),
        e2e_s=np.where(answered, np.nan_to_num(measured.e2e_s - late_s), 0.0),
        isl_tokens=isl,
        asked_tokens=requests.osl_tokens,
        osl_tokens=np.where(answered | (measured.output_tokens is not None), received, 0),
        cached_tokens=measured.cached_tokens,
        session_id=requests.session_id,
        gaps_s=_gaps(measured, n),
        errors=[one if ok else one or "unfinished" for one, ok in zip(errors, answered, strict=True)],
        answered=answered,
    )


def _gaps(measured: Measured, n: int) -> list[list[float]]:
    if measured.itl_s is None or measured.itl_offsets is None:
        return [[]] * n
    return [one.tolist() for one in np.split(measured.itl_s, measured.itl_offsets[1:-1])]
