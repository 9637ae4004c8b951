"""What the client cost, how well it kept time, and whether it, not the server, decided the figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from headway.probe.columns import quantiles
from headway.probe.faults import EXPLAINED
from headway.probe.nouns import ClientReport

if TYPE_CHECKING:
    from headway.probe.clock import Clock
    from headway.probe.columns import Columns
    from headway.types import FloatColumn

#: The client may have decided the figures where it used so much of the one core it runs on,
CPU_FRAC = 0.9
#: or where it alone may have moved a quantile of the latencies by such a share. headway holds its own predictions to
#: 10 % at the median and 20 % in the tail: a client that moves figures by less does not decide between hit and miss.
MOVED_FRAC = {0.5: 0.1, 0.99: 0.2}
#: More than clocks that are slewed to the right time move apart in an hour (500 ppm is 1.8 s): a step.
JUMP_S, SLEW_FRAC = 0.1, 5e-4
#: Share of the gaps that may read 0 because their chunks came in one read.
COALESCED_FRAC = 0.01


def client_report(
    columns: Columns, clock: Clock, *, duration_s: float, cpu_s: float, most_in_flight: int, interrupted: str
) -> ClientReport:
    """Sum up a run."""
    send_error_s, lag_s = quantiles(columns.sent_s), quantiles(np.array(clock.lag_s))
    gaps_s = np.concatenate([np.empty(0), *columns.gaps_s.values()])
    cpu_frac = cpu_s / max(duration_s, 1e-9)
    limiting = limits(cpu_frac, columns.ttft_s, columns.sent_s, gaps_s, np.array(clock.lag_s))
    return ClientReport(
        duration_s=duration_s,
        send_error_s=send_error_s,
        cpu_s=cpu_s,
        cpu_per_token_s=cpu_s / max(columns.chunks, 1),
        chunks=columns.chunks,
        loop_lag_s=lag_s,
        most_in_flight=most_in_flight,
        retried=columns.retried + columns.resent,
        clock_jump_s=clock.jump_s,
        limited=bool(limiting),
        coalesced=columns.coalesced,
        interrupted=interrupted,
        warnings=(*limiting, *_remarks(columns, len(gaps_s), clock.jump_s, duration_s), *_faults(columns)),
    )


def limits(
    cpu_frac: float, ttft_s: FloatColumn, late_s: FloatColumn, gaps_s: FloatColumn, lag_s: FloatColumn
) -> list[str]:
    """Say why the client may have decided the figures; nothing where it did not.

    What counts is how much the client may have added to what was measured, quantile by quantile. To a TTFT: what its
    quantile is more than it would be, counted from when requests were written; and how late the first token was read.
    To a gap between tokens: how late they were read (the difference of two such times, so no more than one). Of
    reading only the lag of the event loop is known, not by token: its quantile is added whole, the most it can be. E2E
    is longer than TTFT and holds the same, TPOT is a mean of gaps: both are moved by a smaller share. Milliseconds
    alone say nothing: 5 ms late is much of a TTFT of 20 ms, and nothing of one of 2 s; and on a machine that a server
    shares, somebody is always a few milliseconds late.

    Args:
        cpu_frac: share of one core the client used.
        ttft_s: (n,) TTFT of each request from when it was due; NaN: it had none.
        late_s: (n,) how long after it was due each was written; NaN: it was not.
        gaps_s: between tokens; a quantile of 0 is of chunks that came in one read, and nothing is added to it.
        lag_s: samples of how late the event loop ran.
    """
    found = [f"The client used {100 * cpu_frac:.0f} % of the one core it can use."] if cpu_frac > CPU_FRAC else []
    lag, ttft, gap = quantiles(lag_s), quantiles(ttft_s), quantiles(gaps_s)
    written = quantiles(ttft_s - late_s)
    added = {"TTFT": (ttft, {at: ttft[at] - written[at] + lag[at] for at in MOVED_FRAC}), "ITL": (gap, lag)}
    return found + [
        f"The client may have added {1e3 * by_s[at]:.3g} ms to the p{100 * at:.0f} of {name}, "
        f"{1e3 * figures_s[at]:.3g} ms: more than the {100 * frac:.0f} % that do not matter."
        for name, (figures_s, by_s) in added.items()
        for at, frac in MOVED_FRAC.items()
        if by_s[at] > frac * figures_s[at] > 0
    ]


def _remarks(columns: Columns, gaps: int, jump_s: float, duration_s: float) -> list[str]:
    """Say what else a reader of the figures must know."""
    found = []
    if columns.coalesced > COALESCED_FRAC * gaps:
        share = 100 * columns.coalesced / gaps
        found.append(
            f"{columns.coalesced:,} chunks ({share:.0f} % of the gaps) came with the chunk before: ITL reads 0."
        )
    if columns.at_once:
        found.append(
            f"{columns.at_once:,} answers of several tokens came all at once: something on the way gathers the stream. "
            "They have no TPOT, and their TTFT is when all of it was there."
        )
    if columns.joined:
        found.append(f"{columns.joined:,} answers had more tokens than chunks: ITL there is between groups of tokens.")
    if columns.without_usage:
        found.append(
            f"{columns.without_usage:,} answers had no usage block: their output tokens are counted as chunks."
        )
    if abs(jump_s) > JUMP_S + SLEW_FRAC * duration_s:
        found.append(f"The wall clock moved by {jump_s:+.2f} s during the run; latencies are by a steady clock.")
    if columns.retried:
        found.append(f"{columns.retried:,} times a request was sent again, as the server asked (Retry-After).")
    if columns.resent:
        found.append(
            f"{columns.resent:,} times a request was sent again: the connection had served before and was closed."
        )
    return found


def _faults(columns: Columns) -> list[str]:
    """Say what went wrong, each kind once with what the first of its kind said."""
    return [
        f"{count:,} × {code}: {EXPLAINED[code]}"
        + (f" The first: {columns.messages[code]}" if columns.messages.get(code) else "")
        for code, count in columns.counts.most_common()
    ]
