"""What the rooms of a live endpoint speak of: the endpoint itself, a load to send, and what came of sending it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headway.types import EngineSettings, FloatColumn, IntColumn, Requests
    from headway.workload.trace import Trace

#: Why a request was not answered in full; position 0 is: it was. The codes of `Measured.error`.
ERRORS = (
    "",
    "refused",  # nobody listens
    "tls",  # the certificate or the handshake
    "redirected",  # the server points elsewhere; not followed
    "connection",  # broken while sending, or before the first byte of an answer
    "status-4xx",
    "status-429",
    "status-5xx",
    "status-503",
    "disconnected",  # in the middle of the stream
    "malformed",  # a chunk that is no JSON, or none of the API's
    "server-error",  # an error inside the stream, or in place of one
    "no-tokens",  # an answer without a single token
    "stopped-early",  # fewer tokens than asked for, though told to ignore stop tokens
    "too-long",  # more tokens than max_tokens
    "timeout",  # the whole request took too long
    "stalled",  # no byte for too long
    "cancelled",  # hung up as asked for (`Requests.abort_s`)
    "interrupted",  # the run ended first: Ctrl-C, or a budget
    "not-sent",  # the run ended before its time came, or an earlier turn of its session failed
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """An OpenAI-compatible server, as far as it tells about itself.

    Attributes:
        url: where its API is, without `/v1`; never with credentials.
        engine: `vllm`, `sglang`, `tgi`, `llama-cpp`, `tensorrt-llm`, or empty where it does not tell.
        version: as it says; empty where it does not.
        model: the served model's name.
        settings: what is known of its scheduler, over the engine's defaults; None: the engine is not known.
        num_gpu_blocks: KV blocks of one replica; 0 where it does not tell.
        tokenizer: how prompts of exact length are made: "ids" (prompts may be lists of token ids), or empty: lengths
            are estimated from its usage blocks.
        metrics: whether it exposes Prometheus metrics.
        told: setting -> where it says so (`/props`, `/metrics`, `/v1/models`, …).
        assumed: setting -> why its value was taken though nothing told it.
    """

    url: str
    engine: str
    version: str
    model: str
    settings: EngineSettings | None
    num_gpu_blocks: int
    tokenizer: Literal["ids", ""]
    metrics: bool
    told: Mapping[str, str] = field(default_factory=dict)
    assumed: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is sent, and when.

    Open loop: each request at its `arrive_s`, whatever is in flight. Closed loop: `concurrency` clients, each with one
    request in flight, taking the rows in order, each not before its `arrive_s`; a client sends its next `turnaround_s`
    after its last one ended. A later turn of a session is never sent before the turn before it ended.

    Attributes:
        name: what it is called in reports and files.
        requests: in order of arrival.
        concurrency: clients of a closed loop; None: open.
        turnaround_s: of a closed loop.
        stage: by request, which step of a ramp it belongs to; None: there is one.
    """

    name: str
    requests: Requests
    concurrency: int | None = None
    turnaround_s: float = 0.0
    stage: FloatColumn | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientReport:
    """What the client itself cost and how well it kept time, in seconds unless the name says otherwise.

    Attributes:
        send_error_s: by quantile, how long after it was due a request was written.
        cpu_s: processor time of the client during the run.
        cpu_per_token_s: of it, for one streamed chunk.
        loop_lag_s: by quantile, how late the client's event loop ran: the resolution of every time it took.
        most_in_flight: requests in flight at once, at most.
        retried: how often a request was sent again: as the server asked, or because a connection that had served before
            was closed.
        clock_jump_s: how far the wall clock and the steady clock moved apart during the run.
        limited: whether the client, not the server, may have decided the figures; why stands in `warnings`.
        warnings: what a reader of the figures must know, in whole sentences.
    """

    duration_s: float
    send_error_s: Mapping[float, float]
    cpu_s: float
    cpu_per_token_s: float
    chunks: int
    loop_lag_s: Mapping[float, float]
    most_in_flight: int
    retried: int
    clock_jump_s: float
    limited: bool
    coalesced: int = 0  # chunks with tokens that came in one read with the one before: the gap between them reads 0
    interrupted: str = ""  # why the run ended before all was sent; empty: it did not
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Scrape:
    """The server's own metrics over a run, on the clock of the requests' arrivals.

    Attributes:
        time_s: (n,) when each scrape was taken: the middle of asking and answer.
        values: canonical signal (`headway.probe.signals`) -> (n,) value in base units; NaN where absent. Counters as
            they stood.
        histograms: canonical signal -> (upper bounds, (n, bounds + 1) cumulative counts, (n,) sums).
        names: canonical signal -> the engine's own name of the metric.
        failed: scrapes that got no answer.
    """

    time_s: FloatColumn
    values: Mapping[str, FloatColumn]
    histograms: Mapping[str, tuple[FloatColumn, FloatColumn, FloatColumn]]
    names: Mapping[str, str]
    failed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What came of a load.

    Attributes:
        endpoint: whom it was sent to.
        load: what was asked for.
        trace: what was sent, and when, with what was measured (`Trace.measured`); in a closed loop, `arrive_s` is when
            a client was free to send. Times start at the start of the run.
        client: the client's own figures.
        scrape: the server's metrics meanwhile; None where it has none.
        started: wall-clock time at time 0, ISO 8601 in UTC.
    """

    endpoint: Endpoint
    load: Load
    trace: Trace
    client: ClientReport
    scrape: Scrape | None
    started: str
    rows: (
        IntColumn  # of `load.requests`, for each row of the trace: a turn that waited for the one before arrived later
    )
