"""How `replay` sends a load: in one run, or for several numbers of clients in one after the other."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from headway.errors import EvidenceError, InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from headway.api.paces import Pace, Traffic
    from headway.probe.client import Progress
    from headway.probe.keys import Key
    from headway.probe.limits import Limits
    from headway.probe.nouns import Endpoint, Load, Sent
    from headway.probe.scrape import Scraper
    from headway.types import FloatColumn, Requests


@dataclass(frozen=True, slots=True, kw_only=True)
class Came:
    """What came of a load.

    Attributes:
        sent: what is scored: without what the end of a closed loop cut off.
        whole: with it.
        cut_off: how many requests that were.
        bounds_s: when each stage began and ended.
        notes: warnings beside the client's own.
    """

    sent: Sent
    whole: Sent
    cut_off: int = 0
    bounds_s: tuple[tuple[float, float], ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Sender:
    """How loads are sent."""

    endpoint: Endpoint
    pace: Pace
    limits: Limits
    api: Literal["completions", "chat"]
    key: Key | None
    scrape_interval_s: float | None
    seed: int
    progress: Callable[[Progress], None] | None

    def load(self, wanted: Traffic) -> Load:
        """Return what is sent; of several numbers of clients the first.

        Raises:
            EvidenceError: nothing.
        """
        found = self.pace.load(wanted.name, wanted.requests)
        if not len(found.requests):
            raise EvidenceError("no request is due in that time")
        return found

    def of(self, wanted: Traffic) -> Came:
        """Send it all."""
        from headway.probe.joining import without_cut_off

        if self.pace.closed and self.pace.in_stages:
            return self._client_steps(wanted)
        load = self.load(wanted)
        lasts_s = self.pace.duration_s if self.pace.closed else None
        whole, notes = self._sent(load, lasts_s, self.limits)
        sent, cut_off = (whole, 0) if lasts_s is None else without_cut_off(whole)
        count, length_s = len(self.pace.stages()), self.pace.stage_s() if self.pace.in_stages else 0.0
        bounds_s = tuple((k * length_s, (k + 1) * length_s) for k in range(count))
        return Came(sent=sent, whole=whole, cut_off=cut_off, bounds_s=bounds_s, notes=notes)

    def _client_steps(self, wanted: Traffic) -> Came:
        """One run per number of clients; `limits` bounds them together."""
        import numpy as np

        from headway.probe.joining import joined, without_cut_off

        runs, notes = self._runs(wanted)
        whole, starts_s = joined(runs)
        kept, cut_off = zip(*map(without_cut_off, runs), strict=True)
        lengths_s = np.minimum([run.client.duration_s for run in runs], self.pace.stage_s())
        return Came(
            sent=joined(kept)[0],
            whole=whole,
            cut_off=sum(cut_off),
            bounds_s=tuple(zip(starts_s.tolist(), (starts_s + lengths_s).tolist(), strict=True)),
            notes=notes,
        )

    def _runs(self, wanted: Traffic) -> tuple[list[Sent], tuple[str, ...]]:
        """Each run goes on in the requests where the one before stopped; what ends the rest keeps what is measured.

        Raises:
            InputError: nothing can be sent.
            KeyboardInterrupt: before anything was measured.
        """
        import numpy as np

        from headway.workload import take

        end_s = time.monotonic() + self.limits.duration_s
        left = take(wanted.requests, np.arange(min(len(wanted.requests), self.limits.requests)))
        runs: list[Sent] = []
        notes: list[str] = []
        for clients in self.pace.clients:
            why = self._exhausted(clients, left, wanted.requests, end_s - time.monotonic())
            if why:
                break
            try:
                sent, said = self._step(clients, wanted.name, left, end_s - time.monotonic())
            except (KeyboardInterrupt, InputError) as error:
                if not runs:
                    raise
                why = "Ctrl-C" if isinstance(error, KeyboardInterrupt) else f"no step of {clients} clients: {error}"
                break
            runs.append(sent)
            notes += said
            why = self._as_a_whole(sent.client.interrupted)
            if why:
                break
            left = take(left, np.arange(1 + int(sent.rows[np.isfinite(_sent_s(sent))].max(initial=-1)), len(left)))
        runs[-1] = dataclasses.replace(runs[-1], client=dataclasses.replace(runs[-1].client, interrupted=why))
        return runs, tuple(dict.fromkeys(notes))

    def _step(self, clients: int, name: str, left: Requests, budget_s: float) -> tuple[Sent, tuple[str, ...]]:
        pace = dataclasses.replace(self.pace, clients=(clients,), step_s=None)
        limits = dataclasses.replace(self.limits, duration_s=max(budget_s, 1e-3))
        return self._sent(pace.load(name, left), self.pace.step_s, limits)

    def _exhausted(self, clients: int, left: Requests, asked: Requests, budget_s: float) -> str:
        """Why there is no next step; empty: there is."""
        if budget_s <= 0:
            return self._time_budget
        if len(left):
            return ""
        if len(asked) > self.limits.requests:
            return f"the budget of {self.limits.requests:,} requests"
        return f"no requests are left for {clients} clients"

    @property
    def _time_budget(self) -> str:
        return f"the time budget of {self.limits.duration_s:g} s"

    def _as_a_whole(self, interrupted: str) -> str:
        """Why a step ended early, told of all steps: its own budget was what the others left of it."""
        return self._time_budget if interrupted.startswith("the time budget") else interrupted

    def _sent(self, load: Load, lasts_s: float | None, limits: Limits) -> tuple[Sent, tuple[str, ...]]:
        from headway.probe.client import send
        from headway.probe.prompts import prompts

        # prompts of its own for each run, so that it finds nothing of an earlier one in the server's cache
        salt = _now()
        bodies = prompts(self.endpoint, load.requests, api=self.api, seed=self.seed, salt=salt, key=self.key)
        scrape = self._scraper()
        sent = send(
            load,
            self.endpoint,
            bodies,
            limits,
            lasts_s=lasts_s,
            key=self.key,
            scrape=scrape,
            progress=self.progress,
        )
        problems = tuple(f"Server metrics: {text}." for text in scrape.problems) if scrape else ()
        return sent, (*bodies.notes, *problems)

    def _scraper(self) -> Scraper | None:
        from headway.probe.scrape import Scraper

        if self.scrape_interval_s is None or not self.endpoint.metrics:
            return None
        return Scraper(
            self.endpoint.url,
            interval_s=self.scrape_interval_s,
            key=self.key,
            engine=self.endpoint.engine,
            allow_public=self.limits.allow_public,
        )


def _now() -> str:
    import datetime as dt

    return dt.datetime.now(dt.UTC).isoformat()


def _sent_s(sent: Sent) -> FloatColumn:
    assert sent.trace.measured is not None
    assert sent.trace.measured.sent_s is not None
    return sent.trace.measured.sent_s
