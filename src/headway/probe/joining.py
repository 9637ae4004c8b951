"""Several runs one after the other as one: the steps of a closed loop."""

from __future__ import annotations

import dataclasses
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np

from headway.probe.knee import taken
from headway.probe.nouns import ClientReport, Scrape, Sent
from headway.types import PrefixRuns
from headway.workload import take
from headway.workload.trace import Measured

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from headway.types import FloatColumn, IntColumn, Requests


def without_cut_off(run: Sent) -> tuple[Sent, int]:
    """Return a run without the requests its end cut off or left unsent, and how many it cut off.

    A closed loop that runs for a time always ends in the middle of its clients' requests: that is no fault of theirs.
    """
    names, measured = run.trace.names["error"], run.trace.measured
    assert measured is not None
    assert measured.error is not None
    words = np.array(names)[measured.error]
    kept = np.flatnonzero(~np.isin(words, ("interrupted", "not-sent")))
    asked = take(run.load.requests, np.sort(run.rows[kept]))
    stage = None if run.load.stage is None else run.load.stage[np.sort(run.rows[kept])]
    places = np.empty(len(kept), dtype=np.int64)
    places[np.argsort(run.rows[kept])] = np.arange(len(kept))
    one = dataclasses.replace(
        run,
        trace=taken(run.trace, kept),
        rows=places,
        load=dataclasses.replace(run.load, requests=asked, stage=stage),
    )
    return one, int((words == "interrupted").sum())


def joined(runs: Sequence[Sent]) -> tuple[Sent, FloatColumn]:
    """Return runs as one on the clock of the first, and when each began on it; the stage of a request is its run.

    A run begins where the one before it ended. What the server's metrics say is kept where all runs have it.

    Args:
        runs: of one endpoint; at least one.
    """
    lengths_s = [run.client.duration_s for run in runs]
    starts_s = np.concatenate(([0.0], np.cumsum(lengths_s)))[:-1]
    traces = [run.trace for run in runs]
    requests = _requests([trace.requests for trace in traces], starts_s)
    measured = _measured([trace.measured for trace in traces if trace.measured is not None])
    trace = dataclasses.replace(
        traces[0],
        requests=requests,
        measured=measured,
        treatments=tuple(treatment for trace in traces for treatment in trace.treatments),
    )
    counts = [len(run.load.requests) for run in runs]
    stage = np.repeat(np.arange(len(runs), dtype=np.float64), counts)
    rows = np.concatenate([run.rows + before for run, before in zip(runs, np.cumsum([0, *counts]), strict=False)])
    asked = _requests([run.load.requests for run in runs], starts_s)
    load = dataclasses.replace(runs[0].load, requests=asked, stage=stage)
    client = _client([run.client for run in runs])
    one = dataclasses.replace(
        runs[0],
        load=load,
        trace=trace,
        client=client,
        rows=rows,
        scrape=_scrape([run.scrape for run in runs], starts_s),
    )
    return one, starts_s


def _requests(parts: Sequence[Requests], starts_s: FloatColumn) -> Requests:
    columns: dict[str, Any] = {}
    for field in fields(parts[0]):
        values = [getattr(part, field.name) for part in parts]
        if field.name == "prefix" or any(value is None for value in values):
            continue
        on_clock = field.name in ("arrive_s", "abort_s")
        columns[field.name] = np.concatenate(
            [value + start_s if on_clock else value for value, start_s in zip(values, starts_s, strict=True)]
        )
    runs = [part.prefix for part in parts if part.prefix is not None]
    return dataclasses.replace(parts[0], **columns, prefix=_runs(runs) if len(runs) == len(parts) else None)


def _runs(parts: Sequence[PrefixRuns]) -> PrefixRuns:
    return PrefixRuns(
        block_tokens=parts[0].block_tokens,
        offsets=_offsets([part.offsets for part in parts]),
        first_ids=np.concatenate([part.first_ids for part in parts]),
        counts=np.concatenate([part.counts for part in parts]),
    )


def _offsets(parts: Sequence[IntColumn]) -> IntColumn:
    lengths = np.concatenate([np.diff(part) for part in parts])
    return np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)


def _measured(parts: Sequence[Measured]) -> Measured:
    columns: dict[str, Any] = {}
    for field in fields(Measured):
        values = [getattr(part, field.name) for part in parts]
        if all(value is not None for value in values):
            columns[field.name] = _offsets(values) if field.name == "itl_offsets" else np.concatenate(values)
    return Measured(**columns)


def _client(parts: Sequence[ClientReport]) -> ClientReport:
    """Sums of what adds up, and the worst of the rest: no run's trouble is averaged away."""

    def total(name: str) -> Any:
        return sum(getattr(part, name) for part in parts)

    def worst(name: str) -> dict[float, float]:
        each = [getattr(part, name) for part in parts]
        return {at: max(one.get(at, 0.0) for one in each) for at in each[0]}

    chunks = total("chunks")
    return ClientReport(
        duration_s=total("duration_s"),
        send_error_s=worst("send_error_s"),
        cpu_s=total("cpu_s"),
        cpu_per_token_s=total("cpu_s") / chunks if chunks else 0.0,
        chunks=chunks,
        loop_lag_s=worst("loop_lag_s"),
        most_in_flight=max(part.most_in_flight for part in parts),
        retried=total("retried"),
        clock_jump_s=max((part.clock_jump_s for part in parts), key=abs),
        limited=any(part.limited for part in parts),
        coalesced=total("coalesced"),
        interrupted=next((part.interrupted for part in parts if part.interrupted), ""),
        warnings=tuple(dict.fromkeys(text for part in parts for text in part.warnings)),
    )


def _scrape(parts: Sequence[Scrape | None], starts_s: FloatColumn) -> Scrape | None:
    known = [(part, start_s) for part, start_s in zip(parts, starts_s, strict=True) if part is not None]
    if len(known) < len(parts):
        return None
    scrapes = [part for part, _ in known]

    def common(table: Callable[[Scrape], Any]) -> list[str]:
        return [name for name in table(scrapes[0]) if all(name in table(one) for one in scrapes)]

    return Scrape(
        time_s=np.concatenate([part.time_s + start_s for part, start_s in known]),
        values={n: np.concatenate([one.values[n] for one in scrapes]) for n in common(lambda one: one.values)},
        histograms={
            n: (bounds, *_stacked([one.histograms[n] for one in scrapes]))
            for n in common(lambda one: one.histograms)
            for bounds in [scrapes[0].histograms[n][0]]
            if all(len(one.histograms[n][0]) == len(bounds) for one in scrapes)
        },
        names=scrapes[0].names,
        failed=sum(one.failed for one in scrapes),
    )


def _stacked(parts: Sequence[tuple[FloatColumn, FloatColumn, FloatColumn]]) -> tuple[FloatColumn, FloatColumn]:
    """Counts and sums of one histogram, run after run."""
    return np.concatenate([counts for _, counts, _ in parts]), np.concatenate([totals for _, _, totals in parts])
