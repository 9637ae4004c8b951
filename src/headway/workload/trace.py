"""What reading a trace gives: the requests, what was measured with them, and every treatment of the rows, counted."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from headway.errors import InputError, nearest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headway.types import FloatColumn, IntColumn, Requests

#: What to do with rows out of order of time: sort and count them, or refuse the file.
Order = Literal["sort", "refuse"]
#: What to do with requests that gave no token: count them as one token (an engine cannot emit less once it has paid
#: for the prefill), leave them out, or refuse the file.
EmptyOutput = Literal["one", "drop", "refuse"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Treatment:
    """Something done to the rows of a file so that they became requests, and to how many."""

    rows: int
    text: str

    def __str__(self) -> str:
        return f"{self.rows:,} × {self.text}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What became of each request, in the order of `Requests`; None where it is not known of any.

    All times are measured from the arrival in `Requests`, which is when the request was due, not when a slow client got
    round to it. Latencies are NaN where a request has none. TPOT follows from these and the tokens received, by its one
    definition in `metrics`.
    """

    ttft_s: FloatColumn | None = None
    e2e_s: FloatColumn | None = None  # to the last token; NaN where the answer was not complete
    itl_s: FloatColumn | None = None  # (n_gaps,) gaps between the chunks of the stream, request after request
    itl_offsets: IntColumn | None = None  # (n_requests + 1,) request i has itl_s[itl_offsets[i]:itl_offsets[i + 1]]
    cached_tokens: IntColumn | None = None  # prompt tokens the server found in its cache; -1: not known
    sent_s: FloatColumn | None = None  # from the arrival to the last byte of the request written; NaN: not sent
    over_s: FloatColumn | None = None  # to when nothing more could come, answered or not; NaN: not sent; in no file
    input_tokens: IntColumn | None = None  # of the prompt, as the server counted; -1: it did not say
    output_tokens: IntColumn | None = None  # received, as the server counted (else chunks); -1: not known
    error: IntColumn | None = None  # 0: answered in full; k: why not, `Trace.names["error"][k]`


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """A trace file as requests."""

    requests: Requests
    format: str  # a key of `readers.FORMATS`
    file: str
    treatments: tuple[Treatment, ...] = ()
    measured: Measured | None = None
    #: what the codes of `tenant_id`, `class_id`, `adapter_id`, `error` stand for: code k is `names[column][k]`
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOptions:
    """How to read, as `readers.read_trace` explains it."""

    order: Order = "sort"
    empty_output: EmptyOutput = "one"
    window_s: tuple[float, float] | None = None
    block_tokens: int | None = None
    sessions_per_s: float | None = None
    part: int | None = None
    seed: int = 0
    result: bool = False

    def __post_init__(self) -> None:
        _check_word("order", self.order, ("sort", "refuse"))
        _check_word("empty_output", self.empty_output, ("one", "drop", "refuse"))
        if self.window_s is not None and not 0 <= self.window_s[0] < self.window_s[1]:
            raise InputError(f"expected a start and a later end in seconds, got {self.window_s}", place="window_s")
        for name in ("block_tokens", "part"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"expected at least 1, got {value}", place=name)
        if self.sessions_per_s is not None and not self.sessions_per_s > 0:
            raise InputError(f"expected a rate above 0, got {self.sessions_per_s}", place="sessions_per_s")
        if self.seed < 0:
            raise InputError(f"expected at least 0, got {self.seed}", place="seed")

    @property
    def window(self) -> tuple[float, float]:
        """The window asked for, or all of time."""
        return self.window_s or (0.0, math.inf)


def _check_word(name: str, word: str, known: tuple[str, ...]) -> None:
    if word not in known:
        raise InputError(f"{word!r} is not known here", place=name, hint=nearest(word, known))
