"""Runs to fit to: what was sent, when, and what came of it, request by request or in figures."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from headway.calibration.clients import read_clients
from headway.errors import EvidenceError, InputError
from headway.workload.readers import read_trace
from headway.workload.selection import take

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from headway.probe.nouns import Sent
    from headway.types import BoolColumn, FloatColumn, Metric, Requests
    from headway.workload.trace import Trace

#: Fewer answered requests than these say nothing.
LEAST_REQUESTS = 5
#: A run in which more failed than this share says little of those that did not.
MOST_FAILED_FRAC = 0.1
#: Why a request never was the engine's (codes of `headway.probe.nouns.ERRORS`): it is no load.
_OUTSIDE = (
    "refused",
    "tls",
    "redirected",
    "connection",
    "status-4xx",
    "status-429",
    "status-5xx",
    "status-503",
    "not-sent",
)
#: Nobody failed: the load, or the end of the run, had the client hang up; or it never sent.
_MEANT = ("interrupted", "cancelled", "not-sent")
#: Of what another tool says of a failure (vLLM's has the whole traceback) so many characters are told.
_LONGEST_WORDS = 60
#: A closed loop's client sends its next within this share of a median E2E after its last ended, nearly always.
_PROMPT_FRAC, _CLOSED_FRAC = 0.1, 0.9
#: Times in files are rounded.
_CLOCK_S = 1e-3


class TooFewError(EvidenceError):
    """A run in which too few requests were answered to say anything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StatedFigure:
    """One figure that is known of a run.

    Attributes:
        metric: `ttft`, `tpot` or `e2e`.
        frac: of its quantile; None: it is the mean.
        value_s: measured.
        log_sd: how coarsely it is stated: standard deviation of its logarithm, chance left out.
        weighed: a request counts as often as it has gaps.
    """

    metric: Metric
    frac: float | None
    value_s: float
    log_sd: float
    weighed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Stated:
    """What is known of a run of which no requests were kept.

    Attributes:
        evidence: `summary` of a load generator, by the client's clock; `metrics` of the server, by its own: the front
            end is not in them.
        requests: answered.
        figures: what was measured.
        draws: requests such as were sent. They differ by chance, and by what is not said of the lengths: how far their
            figures lie apart is how far the measured ones may lie from their expectation.
        skipped: the first so many of each draw fill the server, and are not in the figures.
        notes: what was taken for granted, in words.
    """

    evidence: Literal["summary", "metrics"]
    requests: int
    figures: tuple[StatedFigure, ...]
    draws: tuple[Requests, ...] = field(repr=False)
    skipped: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run of an endpoint.

    Attributes:
        name: of the run.
        requests: as sent, in that order; lengths are those the server counted. In a closed loop the first of each
            client stand at the times they were sent, and all others at the last of these: they wait for a client.
        concurrency: clients of a closed loop; None: open.
        turnaround_s: of a closed loop.
        ttft_s: by request; NaN where it failed.
        tpot_s: likewise; NaN too where it had one token.
        started: wall clock, ISO; empty where unknown.
        sha256: of the file; empty where there is none.
        failed: requests of it that were not answered in full; they load the model like the others.
        faults: why requests failed, and how many, those left out among them; what was cut off on purpose is none.
        sends_s: of a closed loop, when each request was sent; None: not known. In an open one `requests` say it.
        stated: of a run known in figures alone, these: it is fitted to them. Its `requests` are then the first draw,
            its latencies those of a typical request, by which nothing is fitted.
        group: of runs that are not independent of one another, such as the windows of one file of metrics, the same;
            empty: it stands alone.
    """

    name: str
    requests: Requests
    ttft_s: FloatColumn = field(repr=False)
    tpot_s: FloatColumn = field(repr=False)
    concurrency: int | None = None
    turnaround_s: float = 0.0
    started: str = ""
    sha256: str = ""
    failed: int = 0
    faults: Mapping[str, int] = field(default_factory=dict)
    sends_s: FloatColumn | None = field(default=None, repr=False)
    stated: Stated | None = None
    group: str = ""

    def __len__(self) -> int:
        return len(self.requests)

    @property
    def sent(self) -> int:
        """How many requests were sent."""
        return len(self) if self.stated is None else self.stated.requests + self.failed

    @property
    def evidence(self) -> str:
        """What it is known by: `requests`, a `summary` or `metrics`."""
        return "requests" if self.stated is None else self.stated.evidence


def independent(runs: Sequence[Run]) -> list[set[int]]:
    """Return the places of runs that are independent of all others: those of one group count as one."""
    found: dict[str, set[int]] = {}
    for k, run in enumerate(runs):
        found.setdefault(run.group or f"\0{k}", set()).add(k)
    return list(found.values())


def run_of(sent: Sent) -> Run:
    """Return what was sent as a run to fit to.

    Raises:
        EvidenceError: too few requests were answered, or too many failed.
    """
    load = sent.load
    found = _run(load.name, sent.trace, started=sent.started)
    return found if load.concurrency is None else closed(found, load.concurrency, load.turnaround_s)


def closed(run: Run, concurrency: int, turnaround_s: float = 0.0) -> Run:
    """Return the same run as a closed loop: its clients begin when they did, and send again when they are free."""
    sends_s = run.requests.arrive_s
    free = _moved(run.requests, np.minimum(sends_s, sends_s[min(concurrency, len(run)) - 1]))
    return replace(run, requests=free, concurrency=concurrency, turnaround_s=turnaround_s, sends_s=sends_s)


def clients_of(run: Run) -> int | None:
    """Return how many clients sent a run, if it looks like a closed loop.

    A file does not say so; its times do: with C clients, the k-th request is sent right after the (k − C)-th ended.
    What was cut off when the run ended never did.
    """
    sends_s, e2e_s = run.requests.arrive_s, _e2e_s(run)
    ends_s = np.sort(np.where(np.isfinite(e2e_s), sends_s + e2e_s, np.inf))
    ended = np.searchsorted(ends_s, sends_s + _CLOCK_S, side="right")
    most = int((np.arange(1, len(run) + 1) - ended).max(initial=0))
    if run.failed > most or len(run) < 2 * most + LEAST_REQUESTS:
        return None
    pauses_s = sends_s[most:] - ends_s[: len(run) - most]
    prompt = (pauses_s >= -_CLOCK_S) & (pauses_s <= _PROMPT_FRAC * float(np.nanmedian(e2e_s)))
    return most if float(prompt.mean()) >= _CLOSED_FRAC else None


def _moved(requests: Requests, arrive_s: FloatColumn) -> Requests:
    """Return requests at other times, each as patient as it was."""
    abort_s = None if requests.abort_s is None else requests.abort_s - requests.arrive_s + arrive_s
    return replace(requests, arrive_s=arrive_s, abort_s=abort_s)


def _e2e_s(run: Run) -> FloatColumn:
    gaps = run.requests.osl_tokens - 1
    found: FloatColumn = run.ttft_s + np.where(gaps > 0, np.nan_to_num(run.tpot_s) * gaps, 0.0)
    return found


def read_run(path: str | Path, *, part: int | None = None) -> Run:
    """Read a run from a file: what `headway replay` wrote, or a result of AIPerf, GuideLLM or `vllm bench serve`.

    Args:
        path: the file, or the folder of a replay, or of a run that `calibrate endpoint --keep` kept: that one says how
            many clients there were; elsewhere the times do.
        part: which of several benchmarks in it, from 1.

    Raises:
        InputError: it cannot be read, or has no latencies.
        EvidenceError: too few requests were answered, or too many failed.
    """
    file = Path(path)
    if file.is_dir():
        file /= "requests.parquet"
    trace = read_trace(file, part=part, result=True)
    try:
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", file=path) from None
    name = file.parent.name if file.name == "requests.parquet" else file.stem
    found = _run(name, trace, sha256=digest)
    said = read_clients(file.parent) if file.name == "requests.parquet" else None
    if said is not None:
        return closed(found, *said)
    clients = clients_of(found)
    return found if clients is None else closed(found, clients)


def _run(name: str, trace: Trace, *, started: str = "", sha256: str = "") -> Run:
    """Return a run in the order of sending; what was never sent, or never was the engine's, is left out."""
    measured, requests = trace.measured, trace.requests
    if measured is None or measured.ttft_s is None or measured.e2e_s is None:
        raise InputError("no latencies in it: TTFT and E2E are needed", file=trace.file or name)
    why = _why(trace)
    answered, faults = why == "", _faults(name, why)
    if int(answered.sum()) < LEAST_REQUESTS:
        raise TooFewError(f"{name}: {int(answered.sum())} answered requests; at least {LEAST_REQUESTS} are needed")
    counted = _counted(requests, trace, answered)
    tokens, never = counted.osl_tokens, np.full(len(requests), np.nan)
    sent_s = np.zeros(len(requests)) if measured.sent_s is None else measured.sent_s
    ttft_s = np.where(answered, measured.ttft_s - np.nan_to_num(sent_s), never)
    with np.errstate(invalid="ignore", divide="ignore"):
        tpot_s = np.where(answered & (tokens > 1), (measured.e2e_s - measured.ttft_s) / (tokens - 1), never)
    at_s = requests.arrive_s + sent_s
    index = np.flatnonzero(np.isfinite(at_s) & ~np.isin(why, _OUTSIDE))
    index = index[np.argsort(at_s[index], kind="stable")]
    return Run(
        name=name,
        requests=_moved(take(counted, index), at_s[index] - at_s[index].min()),
        ttft_s=ttft_s[index],
        tpot_s=tpot_s[index],
        started=started,
        sha256=sha256,
        failed=int((~answered[index]).sum()),
        faults=faults,
    )


def _why(trace: Trace) -> np.ndarray:
    """Return why each request was not answered in full, in the words of the file; empty where it was."""
    measured = trace.measured
    assert measured is not None  # asked of no other
    assert measured.ttft_s is not None
    assert measured.e2e_s is not None
    timed = np.isfinite(measured.e2e_s) & np.isfinite(measured.ttft_s)
    codes = np.zeros(len(timed), np.int64) if measured.error is None else measured.error
    told = [" ".join(word.split())[:_LONGEST_WORDS] for word in trace.names.get("error", ("",))]
    words = np.array(told, dtype=object)[codes]
    found: np.ndarray = np.where((words == "") & ~timed, "no latency", words)
    return found


def _faults(name: str, why: np.ndarray) -> dict[str, int]:
    """Count why requests failed.

    Raises:
        EvidenceError: too many did.
    """
    counts = Counter(word for word in why.tolist() if word and word not in _MEANT)
    failed, sent = counts.total(), int((why != "not-sent").sum())
    if failed > MOST_FAILED_FRAC * sent:
        told = ", ".join(f"{count} × {word}" for word, count in counts.most_common())
        raise EvidenceError(
            f"{name}: {failed} of {sent} requests failed ({told}): more than {100 * MOST_FAILED_FRAC:.0f} %, and the "
            "others say little of the server"
        )
    return dict(counts.most_common())


def _counted(requests: Requests, trace: Trace, answered: BoolColumn) -> Requests:
    """Return the requests with the lengths the server counted, where it did; who was answered did not hang up."""
    measured = trace.measured
    assert measured is not None

    def column(asked: np.ndarray, counts: np.ndarray | None) -> np.ndarray:
        return asked if counts is None else np.where(answered & (counts > 0), counts, asked)

    return replace(
        requests,
        isl_tokens=column(requests.isl_tokens, measured.input_tokens),
        osl_tokens=column(requests.osl_tokens, measured.output_tokens),
        abort_s=None if requests.abort_s is None else np.where(answered, np.nan, requests.abort_s),
    )
