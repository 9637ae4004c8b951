"""Sends a load to an OpenAI-compatible server and times every chunk that comes back."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import math
import signal
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from headway.errors import InputError
from headway.probe.address import checked_address
from headway.probe.clock import Clock
from headway.probe.columns import Columns
from headway.probe.costs import client_report
from headway.probe.flight import Flight
from headway.probe.handshake import spoken_instead
from headway.probe.limits import Limits
from headway.probe.nouns import Sent
from headway.probe.reading import shortened
from headway.probe.transport import allow_connections, session
from headway.probe.turns import Ready, Turns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from headway.probe.bodies import Bodies
    from headway.probe.keys import Key
    from headway.probe.nouns import Endpoint, Load, Scrape

#: How often progress is told, and how long the last look at the server's metrics may take.
TELL_S, SCRAPE_PATIENCE_S = 0.5, 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a run is; told about twice a second."""

    time_s: float
    of: int
    sent: int
    ended: int
    failed: int  # of those that ended

    @property
    def in_flight(self) -> int:
        """Requests under way."""
        return self.sent - self.ended


class Scraping(Protocol):
    """Somebody who looks at the server meanwhile, in the event loop of the client.

    `now_s()` is the time of the run, 0 at its start; once `ended` is set, return what was seen. Take pages as they
    come and read them after the end: whatever takes long in the loop makes the client late.
    """

    async def __call__(self, now_s: Callable[[], float], ended: asyncio.Event) -> Scrape | None:
        """Look until it ended; None: there was nothing to see."""


def send(
    load: Load,
    endpoint: Endpoint,
    bodies: Bodies,
    limits: Limits | None = None,
    *,
    lasts_s: float | None = None,
    key: Key | None = None,
    scrape: Scraping | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Sent:
    """Send a load and time every chunk of every answer.

    Args:
        load: what to send, and when.
        endpoint: whom to send it to.
        bodies: of its requests.
        limits: budgets, patience, and whether public addresses are allowed; None: the defaults.
        lasts_s: a closed loop's own length: what is in flight then is cut off (`interrupted`), the run is not.
        key: sent as a bearer token.
        scrape: looks at the server's metrics meanwhile.
        progress: told how far it is.

    Raises:
        InputError: an address that is not allowed or has no name; a load that cannot be sent.
    """
    run = _Run(load, endpoint, bodies, limits or Limits(), lasts_s=lasts_s, key=key, progress=progress)
    with _interrupts(run), _quiet_collector():
        asyncio.run(run.all(scrape))
        return run.result()


class _Run:
    """One run, while it lasts."""

    def __init__(
        self,
        load: Load,
        endpoint: Endpoint,
        bodies: Bodies,
        limits: Limits,
        *,
        lasts_s: float | None,
        key: Key | None,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        check_load(load)
        self.load, self.endpoint, self.bodies, self.limits = load, endpoint, bodies, limits
        self.address = checked_address(endpoint.url, allow_public=limits.allow_public)
        self.lasts_s, self.key, self.progress = lasts_s, key, progress
        self.rows = min(len(load.requests), limits.requests)
        self.columns = Columns(load, forced=bodies.forced)
        self.flights: dict[int, Flight] = {}
        self.sent = self.ended = self.next_row = self.most_in_flight = 0
        self.interrupted = "" if self.rows == len(load.requests) else f"the budget of {self.rows:,} requests"
        self.stopped = False
        self.scrape: Scrape | None = None
        self.trouble: list[str] = []
        self.loop: asyncio.AbstractEventLoop | None = None
        self.spoken: asyncio.Future[str] | None = None

    # --- from start to end

    async def all(self, scraping: Scraping | None) -> None:
        """Send everything, and look around meanwhile."""
        self.loop = asyncio.get_running_loop()
        self.turns, self.desk = Turns(self.load.requests), asyncio.Lock()
        self.ready = Ready(self.bodies, self.turns, self.rows)
        self.ready.fill()
        fits = allow_connections(self.rows if self.load.concurrency is None else self.load.concurrency)
        async with session(self.address, self.key, self.loop) as self.session:
            self.clock = Clock()
            over = asyncio.Event()
            watching = asyncio.create_task(self._watched(scraping, over)) if scraping is not None else None
            around = [
                asyncio.create_task(work) for work in (self.clock.watch(), self._tell(), self.ready.keep_filling())
            ]
            budget = self.loop.call_later(self.limits.duration_s, self.stop, self._time_budget)
            end = None if self.lasts_s is None else self.loop.call_later(self.lasts_s, self.stop, "")
            try:
                await self._send_all()
            finally:
                budget.cancel()
                if end is not None:
                    end.cancel()
                self.end_s, self.cpu_s = self.clock.now_s(), self.clock.cpu_s()
                for task in around:
                    task.cancel()
                over.set()
            await self._look_back(watching)
        if self.most_in_flight > fits:
            self.trouble.append(f"The process may open {fits:,} connections only (RLIMIT_NOFILE): more were needed.")

    @property
    def _time_budget(self) -> str:
        return f"the time budget of {self.limits.duration_s:g} s"

    async def _send_all(self) -> None:
        """Start every request in its time and wait until all ended."""
        self.senders: list[asyncio.Task[None]] = []
        try:
            async with asyncio.TaskGroup() as self.group:
                if self.load.concurrency is None:
                    work = [self._open()]
                else:
                    work = [self._client() for _ in range(min(self.load.concurrency, self.rows))]
                self.senders = [self.group.create_task(one) for one in work]
                if self.stopped:
                    self.stop(self.interrupted)
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None

    def stop(self, why: str) -> None:
        """Send nothing more, and hang up what is in flight; says why once, nothing where the load was to end."""
        self.interrupted = why if not self.stopped else self.interrupted
        self.stopped = True
        for task in getattr(self, "senders", ()):
            task.cancel()
        for flight in tuple(self.flights.values()):
            flight.hang_up("interrupted")

    # --- who sends what when

    async def _open(self) -> None:
        """Each at its time, whatever is in flight."""
        due_s = self.load.requests.arrive_s.tolist()
        for row in range(self.rows):
            if due_s[row] > self.clock.now_s():
                await self.clock.until(due_s[row])
            self._launch(row, 0.0)

    async def _client(self) -> None:
        """One client of a closed loop: takes the next row as often as it comes free."""
        free_s = 0.0
        while self.next_row < self.rows:
            row, self.next_row = self.next_row, self.next_row + 1
            await self.clock.until(float(self.load.requests.arrive_s[row]))
            ended_s = await self._launch(row, free_s).landed
            free_s = ended_s - self.clock.zero_s + self.load.turnaround_s
            await self.clock.until(free_s)

    def _launch(self, row: int, free_s: float) -> Flight:
        flight = self.flights[row] = Flight(row)
        self.group.create_task(self._turn(flight, free_s))
        return flight

    async def _turn(self, flight: Flight, free_s: float) -> None:
        """A request from when it may be sent until its answer was read."""
        row = flight.row
        hang_up = None
        with flight.hanging_up():
            # a task may begin when the run has been stopped since it was made
            before_s = None if self.stopped else await self.turns.before(row)
            if before_s is None:
                flight.code = "not-sent"
            else:
                zero_s, scheduled_s = self.clock.zero_s, float(self.load.requests.arrive_s[row])
                flight.due_s = max(zero_s + max(scheduled_s, free_s), before_s)
                if (body := await self._body(flight)) is not None:
                    await self.clock.until(flight.due_s - zero_s)
                    hang_up = self._patience(flight, scheduled_s)
                    self.sent += 1
                    self.most_in_flight = max(self.most_in_flight, self.sent - self.ended)
                    await flight.exchange(self.session, self.address.url + self.bodies.path, body, self.limits)
        if hang_up is not None:
            hang_up.cancel()
            self.ended += 1
        flight.land()
        await self._doubt(flight)
        await self._read(flight)
        del self.flights[row]

    async def _body(self, flight: Flight) -> bytes | None:
        """Return the body; None where the server does not tell what it takes, which is the fault of this one alone."""
        try:
            return await self.ready.take(flight.row)
        except InputError as error:
            flight.code, flight.message = "connection", str(error)
            self.sent, self.ended = self.sent + 1, self.ended + 1
            return None

    def _patience(self, flight: Flight, scheduled_s: float) -> asyncio.TimerHandle | None:
        """Hang up when the load says so, as long after the request was due as there."""
        abort_s = self.load.requests.abort_s
        assert self.loop is not None
        patience_s = math.inf if abort_s is None else float(abort_s[flight.row]) - scheduled_s
        wait_s = flight.due_s + patience_s - time.perf_counter() if math.isfinite(patience_s) else 365 * 86400.0
        return self.loop.call_later(wait_s, flight.hang_up, "cancelled")

    async def _doubt(self, flight: Flight) -> None:
        """Where nothing was ever answered, ask once whether the server speaks what its address says."""
        if flight.code not in ("tls", "connection", "malformed") or flight.arrivals.times_s or self.columns.chunks:
            return
        if self.spoken is None:
            asked = (self.address.url.partition(":")[0], self.address.resolved[0][1], self.address.port)
            self.spoken = asyncio.ensure_future(asyncio.to_thread(spoken_instead, *asked))
        if other := await self.spoken:
            flight.code, flight.message = "tls", f"The server speaks {other} there: give {other}://…"

    async def _read(self, flight: Flight) -> None:
        """Read the answer, one at a time and in slices, so that nothing that is due waits for it."""
        code = "not-sent"
        if not math.isnan(flight.sent_s) or flight.code not in ("not-sent", "interrupted"):
            async with self.desk:
                for _ in flight.reading.slices(b"".join(flight.arrivals.pieces)):
                    await asyncio.sleep(0)
            flight.message, flight.reading.message = map(self._shown, (flight.message, flight.reading.message))
            code = self.columns.add(flight, self.clock.zero_s)
        reading = flight.reading
        self.turns.over(flight.row, code, flight.end_s, "".join(reading.text), reading.token_ids)
        flight.arrivals.pieces.clear()

    def _shown(self, message: str) -> str:
        """Hide the key, and only then shorten: of a key that was cut nobody could tell any more that it is one."""
        return shortened(message if self.key is None else self.key.hidden_in(message))

    # --- beside it

    async def _tell(self) -> None:
        while self.progress is not None:
            self.progress(self._progress())
            await asyncio.sleep(TELL_S)

    def _progress(self) -> Progress:
        return Progress(
            time_s=self.clock.now_s(),
            of=len(self.load.requests),
            sent=self.sent,
            ended=self.ended,
            failed=self.columns.failed,
        )

    async def _watched(self, scraping: Scraping, over: asyncio.Event) -> None:
        self.scrape = await scraping(self.clock.now_s, over)

    async def _look_back(self, watching: asyncio.Task[None] | None) -> None:
        """Wait for who looked at the server; what goes wrong there does not cost the run."""
        if self.progress is not None:
            self.progress(self._progress())
        if watching is None:
            return
        try:
            await asyncio.wait_for(watching, SCRAPE_PATIENCE_S)
        except Exception as error:  # noqa: BLE001 - whatever it is, the requests were sent and timed
            self.trouble.append(f"The server's metrics were lost: {type(error).__name__} {error}.")

    def result(self) -> Sent:
        """Return what came of it."""
        trace, rows = self.columns.trace(self.end_s)
        if self.stopped and not self.interrupted:  # at the end of a closed loop: no fault
            del self.columns.counts["interrupted"]
        report = client_report(
            self.columns,
            self.clock,
            duration_s=self.end_s,
            cpu_s=self.cpu_s,
            most_in_flight=self.most_in_flight,
            interrupted=self.interrupted,
        )
        return Sent(
            endpoint=self.endpoint,
            load=self.load,
            trace=trace,
            client=dataclasses.replace(report, warnings=(*report.warnings, *self.trouble)),
            scrape=self.scrape,
            started=self.clock.started,
            rows=rows,
        )


def check_load(load: Load) -> None:
    """Refuse a load that cannot be sent.

    Raises:
        InputError: naming the field.
    """
    if not len(load.requests):
        raise InputError("expected at least one request", place="requests")
    if load.concurrency is not None and load.concurrency < 1:
        raise InputError(f"expected at least 1 client, got {load.concurrency}", place="concurrency")
    if not 0 <= load.turnaround_s < math.inf:
        raise InputError(f"expected a time from 0, got {load.turnaround_s}", place="turnaround_s")
    arrive_s = load.requests.arrive_s
    if not (math.isfinite(arrive_s[-1]) and arrive_s[0] >= 0 and (arrive_s[1:] >= arrive_s[:-1]).all()):
        raise InputError("expected times from 0 that never decrease", place="arrive_s")


@contextmanager
def _interrupts(run: _Run) -> Iterator[None]:
    """Take Ctrl-C, as often as it comes, as the end of sending; only the main thread is told of it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_number: int, _frame: object) -> None:
        if run.loop is not None and not run.loop.is_closed():
            run.loop.call_soon_threadsafe(run.stop, "Ctrl-C")
        elif run.loop is None:
            run.stop("Ctrl-C")

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _quiet_collector() -> Iterator[None]:
    """Keep the garbage collector from walking all there was before the run in the middle of it."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
