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

#: The client may have decided the figures beyond one of these: a request written so late, so much of one core (it
#: runs on one), an event loop as late as such a share of the median gap between tokens.
SEND_ERROR_S, CPU_FRAC, LAG_FRAC = 0.005, 0.9, 0.1
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
    limits = _limits(send_error_s[0.99], cpu_s / max(duration_s, 1e-9), lag_s[0.99], gaps_s)
    return ClientReport(
        duration_s=duration_s,
        send_error_s=send_error_s,
        cpu_s=cpu_s,
        cpu_per_token_s=cpu_s / max(columns.chunks, 1),
        chunks=columns.chunks,
        loop_lag_s=lag_s,
        most_in_flight=most_in_flight,
        retried=columns.retried,
        clock_jump_s=clock.jump_s,
        limited=bool(limits),
        coalesced=columns.coalesced,
        interrupted=interrupted,
        warnings=(*limits, *_remarks(columns, len(gaps_s), clock.jump_s, duration_s), *_faults(columns)),
    )


def _limits(send_error_s: float, cpu_frac: float, lag_s: float, gaps_s: np.ndarray) -> list[str]:
    """Say why the client may have decided the figures."""
    found = []
    if send_error_s > SEND_ERROR_S:
        found.append(
            f"The client was late: 1 % of the requests were written more than {1e3 * send_error_s:.1f} ms late."
        )
    if cpu_frac > CPU_FRAC:
        found.append(f"The client used {100 * cpu_frac:.0f} % of the one core it can use.")
    gap_s = float(np.median(gaps_s)) if len(gaps_s) else np.inf
    if lag_s > LAG_FRAC * gap_s:
        found.append(
            f"The client's event loop was {1e3 * lag_s:.2f} ms late (p99) at {1e3 * gap_s:.2f} ms between tokens."
        )
    return found


def _remarks(columns: Columns, gaps: int, jump_s: float, duration_s: float) -> list[str]:
    """Say what else a reader of the figures must know."""
    found = []
    if columns.coalesced > COALESCED_FRAC * gaps:
        share = 100 * columns.coalesced / gaps
        found.append(
            f"{columns.coalesced:,} chunks ({share:.0f} % of the gaps) came with the chunk before: ITL reads 0."
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
    return found


def _faults(columns: Columns) -> list[str]:
    """Say what went wrong, each kind once with what the first of its kind said."""
    return [
        f"{count:,} × {code}: {EXPLAINED[code]}"
        + (f" The first: {columns.messages[code]}" if columns.messages.get(code) else "")
        for code, count in columns.counts.most_common()
    ]
