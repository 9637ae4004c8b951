"""Loads from recorded or drawn requests: at their own times, faster, in steps, along a ramp, or by so many clients.

A change of the rate is a change of clock: what arrives, in which order and how bursty it is stays as it was. Of
requests whose mean gap is one, the j-th with operational time u_j arrives when the cumulated rate reaches u_j (time
change of a renewal process; Cox and Isham 1980, Point Processes, section 4.2), so no request is sent twice and no step
finds the prefixes of another in a cache, unless the traffic itself repeats them.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import TYPE_CHECKING

import numpy as np

from headway.errors import InputError
from headway.probe.nouns import Load
from headway.types import PrefixRuns
from headway.workload import take
from headway.workload.prefixes import maximal_runs
from headway.workload.recorded import repeat

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headway.types import FloatColumn, IntColumn, Requests

#: Pieces of constant rate a ramp is made of, and the stages its figures are shown in.
RAMP_PIECES, RAMP_STAGES = 240, 8


# --- when ----------------------------------------------------------------------------------------------


def open_loop(name: str, requests: Requests, *, rate_factor: float = 1.0) -> Load:
    """Return a load that sends each request at its time, the first at 0, whatever is in flight.

    Args:
        name: what it is called.
        requests: what is sent.
        rate_factor: by how much faster than recorded.

    Raises:
        InputError: the factor is not above zero.
    """
    _check(rate_factor, "rate_factor")
    return Load(name=name, requests=_at(requests, (requests.arrive_s - requests.arrive_s[0]) / rate_factor))


def closed_loop(name: str, requests: Requests, *, concurrency: int, turnaround_s: float = 0.0) -> Load:
    """Return a load of so many clients that take the requests in order, whenever those were recorded.

    Args:
        name: what it is called.
        requests: what is sent, in this order.
        concurrency: clients.
        turnaround_s: from the end of a client's request to its next.

    Raises:
        InputError: fewer than one client, or a negative pause.
    """
    if concurrency < 1:
        raise InputError(f"expected at least one client, got {concurrency}", place="concurrency")
    if not 0 <= turnaround_s < math.inf:
        raise InputError(f"expected a time from 0, got {turnaround_s!r}", place="turnaround_s")
    at_once = _at(requests, np.zeros(len(requests)))
    return Load(name=name, requests=at_once, concurrency=concurrency, turnaround_s=turnaround_s)


def staggered(load: Load, over_s: float) -> Load:
    """Return a closed loop whose clients begin one after the other, evenly over a time.

    Clients that begin at once race for the first step: how many prompts it takes is decided by milliseconds on the way,
    which nobody can predict.

    Args:
        load: a closed loop.
        over_s: the last client has begun by then.
    """
    assert load.concurrency is not None  # a closed loop
    count = len(load.requests)
    begun = np.minimum(np.arange(count), load.concurrency - 1)
    return dataclasses.replace(load, requests=_at(load.requests, begun * (over_s / load.concurrency)))


def steps(name: str, requests: Requests, rates_per_s: Sequence[float], *, step_s: float) -> Load:
    """Return an open loop whose rate rises in steps of equal length; each request knows its step.

    Args:
        name: what it is called.
        requests: what is sent; begun anew, with sessions and prefixes of their own, where the steps need more.
        rates_per_s: mean rate of each step, rising.
        step_s: how long each lasts.

    Raises:
        InputError: the rates do not rise, a figure is not above zero, or no rate can be given to the requests because
            they all arrive at once.
    """
    _check_rising(rates_per_s)
    _check(step_s, "step_s")
    load = _paced(name, requests, np.asarray(rates_per_s, dtype=np.float64), step_s)
    return dataclasses.replace(load, stage=np.floor(load.requests.arrive_s / step_s))


def ramp(name: str, requests: Requests, first_per_s: float, last_per_s: float, *, duration_s: float) -> Load:
    """Return an open loop whose rate rises evenly; its figures are shown in `RAMP_STAGES` stages of equal length.

    Raises:
        InputError: as `steps`.
    """
    _check_rising((first_per_s, last_per_s))
    _check(duration_s, "duration_s")
    middles = (np.arange(RAMP_PIECES) + 0.5) / RAMP_PIECES
    load = _paced(name, requests, first_per_s + (last_per_s - first_per_s) * middles, duration_s / RAMP_PIECES)
    return dataclasses.replace(load, stage=np.floor(load.requests.arrive_s / duration_s * RAMP_STAGES))


def _paced(name: str, requests: Requests, rates_per_s: FloatColumn, piece_s: float) -> Load:
    """The requests under a rate that is constant for pieces of equal length."""
    cumulated = np.concatenate(([0.0], np.cumsum(rates_per_s * piece_s)))
    whole = _with_unit_gaps(requests, cumulated[-1])
    sent = take(whole, np.flatnonzero(whole.arrive_s < cumulated[-1]))
    edges_s = np.arange(len(cumulated)) * piece_s
    return Load(name=name, requests=_at(sent, np.interp(sent.arrive_s, cumulated, edges_s)))


def _with_unit_gaps(requests: Requests, until: float) -> Requests:
    """The requests with a mean gap of one, from 0 to `until`, begun anew as often as that takes."""
    span_s = float(requests.arrive_s[-1] - requests.arrive_s[0])
    if span_s <= 0:
        raise InputError("all requests arrive at once: there is no rate that could rise", place="steps")
    unit = (requests.arrive_s - requests.arrive_s[0]) * ((len(requests) - 1) / span_s)
    if unit[-1] >= until:
        return _at(requests, unit)
    laps = math.ceil(until / len(requests)) + 1
    return repeat(requests, (unit[None, :] + len(requests) * np.arange(laps)[:, None]).ravel())


def _at(requests: Requests, arrive_s: FloatColumn) -> Requests:
    """The requests at other times; a client hangs up as long after its request as before."""
    if requests.abort_s is None:
        return dataclasses.replace(requests, arrive_s=arrive_s)
    return dataclasses.replace(requests, arrive_s=arrive_s, abort_s=requests.abort_s - requests.arrive_s + arrive_s)


def mean_rate_per_s(requests: Requests) -> float:
    """Return how many requests arrive per second; infinite where all arrive at once."""
    span_s = float(requests.arrive_s[-1] - requests.arrive_s[0])
    return (len(requests) - 1) / span_s if span_s > 0 else math.inf


def _check(value: float, place: str) -> None:
    if not 0 < value < math.inf:
        raise InputError(f"expected a number above zero, got {value!r}", place=place)


def _check_rising(rates_per_s: Sequence[float]) -> None:
    for rate_per_s in rates_per_s:
        _check(rate_per_s, "rates_per_s")
    if not len(rates_per_s) or any(b <= a for a, b in itertools.pairwise(rates_per_s)):
        shown = ", ".join(f"{rate:g}" for rate in rates_per_s)
        raise InputError(f"expected rising steps, got {shown or 'none'}", place="rates_per_s")


# --- how long ------------------------------------------------------------------------------------------


def scaled_lengths(requests: Requests, *, isl_frac: float = 1.0, osl_frac: float = 1.0) -> Requests:
    """Return the requests with shorter (or longer) prompts and outputs, at least one token each.

    Shared prefixes shrink with the prompts: what was found in a cache before is found again, scaled and rounded to a
    token. What an earlier output gives to a later prompt of its session shrinks as a prompt does.

    Raises:
        InputError: a factor is not above zero.
    """
    _check(isl_frac, "isl_frac")
    _check(osl_frac, "osl_frac")
    isl = _scaled(requests.isl_tokens, isl_frac)
    osl = _scaled(requests.osl_tokens, osl_frac)
    limit = None if requests.max_tokens is None else np.maximum(_scaled(requests.max_tokens, osl_frac), osl)
    prefix = requests.prefix
    if prefix is not None and isl_frac != 1.0:
        prefix = _scaled_runs(prefix, isl_frac)
    return dataclasses.replace(requests, isl_tokens=isl, osl_tokens=osl, max_tokens=limit, prefix=prefix)


def _scaled(tokens: IntColumn, frac: float) -> IntColumn:
    scaled: IntColumn = np.maximum(np.rint(tokens * frac), 1).astype(np.int64)
    return scaled


def _scaled_runs(prefix: PrefixRuns, frac: float) -> PrefixRuns:
    """Blocks of one token: block p of a prompt becomes the tokens from p·B·frac to (p + 1)·B·frac, rounded down.

    An id stands for all that is before it, so it is at the same place in every prompt that has it, and two prompts that
    had k blocks in common have the same floor(k·B·frac) tokens in common.
    """
    runs = maximal_runs(prefix)
    size = prefix.block_tokens * frac
    ends = np.cumsum(runs.counts)
    request = np.repeat(np.arange(len(runs.offsets) - 1), np.diff(runs.offsets))
    before = np.concatenate(([0], ends))[runs.offsets[:-1]][request]
    start = np.floor((ends - runs.counts - before) * size).astype(np.int64)
    end = np.floor((ends - before) * size).astype(np.int64)
    kept = end > start
    offsets = np.concatenate(([0], np.cumsum(kept)))[runs.offsets]
    room = math.ceil(size) + 1  # ids of one block never run into those of the next
    return PrefixRuns(
        block_tokens=1, offsets=offsets, first_ids=runs.first_ids[kept] * room, counts=(end - start)[kept]
    )


# --- who hangs up --------------------------------------------------------------------------------------


def with_cancelled(requests: Requests, *, share_frac: float, after_s: float, seed: int) -> Requests:
    """Return the requests with clients that hang up: a share of them, drawn, so long after the request was due.

    Raises:
        InputError: the share is no share, or the time not above zero.
    """
    if not 0 <= share_frac <= 1:
        raise InputError(f"expected a share from 0 to 1, got {share_frac!r}", place="cancel")
    _check(after_s, "cancel_after_s")
    gone = np.random.default_rng(seed).random(len(requests)) < share_frac
    return dataclasses.replace(requests, abort_s=np.where(gone, requests.arrive_s + after_s, np.nan))
