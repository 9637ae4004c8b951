"""Looks at a server's own metrics while a run goes on, and reads what it saw after the run.

The pages are fetched in the client's event loop, kept compressed, and parsed when all is over: a run does not feel it.
"""

from __future__ import annotations

import asyncio
import math
import zlib
from typing import TYPE_CHECKING

import numpy as np

from headway.errors import InputError
from headway.probe.address import checked_address
from headway.probe.nouns import Scrape
from headway.probe.reading import shortened
from headway.probe.signals import Reading, engine_of, reading_of, samples_of

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence

    import aiohttp

    from headway.probe.keys import Key
    from headway.probe.signals import Buckets, Sample
    from headway.types import FloatColumn

#: A larger exposition counts as failed: a metrics page of an engine has some 50 kB.
MOST_BYTES = 32 * 2**20
#: So much is kept of a run, compressed; then no more is fetched, and `problems` says so.
MOST_KEPT_BYTES = 256 * 2**20
#: An engine answers between two batches, which may take seconds.
PATIENCE_S = 30.0
#: but what it says of itself after a run is not waited for longer than this.
LAST_S = 2.0
#: Answers that say there are no metrics: asking again is of no use (llama-server without --metrics: 501).
_NONE = (401, 403, 404, 405, 501)


def check_interval(interval_s: float) -> None:
    """Refuse an interval in which nobody can look.

    Raises:
        InputError: it is not above 0, or without end.
    """
    if not 0 < interval_s < math.inf:
        raise InputError(f"expected a time above 0, got {interval_s:g} s", place="scrape interval", hint="'1 s'")


class Scraper:
    """Fetches a metrics page at equal intervals, once before the run and once after it (a `client.Scraping`).

    Attributes:
        failed: fetches that gave no page.
        problems: why, each reason once.
        pages: when each was taken, and the page, compressed.
    """

    def __init__(
        self,
        url: str,
        *,
        interval_s: float = 1.0,
        key: Key | None = None,
        engine: str = "",
        allow_public: bool = False,
    ) -> None:
        """Prepare.

        Args:
            url: of the server without `/v1`, or of the page where it ends in `/metrics`.
            interval_s: between two fetches.
            key: sent as a bearer token.
            engine: whose names to read; empty: the one whose names occur.
            allow_public: whether an address that is neither loopback nor private may be asked.

        Raises:
            InputError: it is no address, its name is not known, or it is not allowed; an interval of no length.
        """
        check_interval(interval_s)
        self._address = checked_address(url, allow_public=allow_public)
        base = self._address.url
        self.url = base if base.endswith("/metrics") else f"{base}/metrics"
        self.interval_s, self._key, self._engine = interval_s, key, engine
        self.failed, self.problems = 0, list[str]()
        self.pages: list[tuple[float, bytes]] = []
        self._kept_bytes, self._over = 0, False

    async def __call__(self, now_s: Callable[[], float], ended: asyncio.Event) -> Scrape | None:
        """Look until the run has ended; None where there was no page at all."""
        import aiohttp

        from headway.probe.transport import Resolved

        # compressing an answer would cost the server's time
        headers = {"Accept": "text/plain", "Accept-Encoding": "identity"}
        if self._key is not None:
            headers["Authorization"] = self._key.authorization
        timeout = aiohttp.ClientTimeout(total=max(PATIENCE_S, self.interval_s))
        connector = aiohttp.TCPConnector(resolver=Resolved(self._address))
        async with aiohttp.ClientSession(connector=connector, headers=headers, timeout=timeout) as session:
            await _until(ended, self._rounds(session, now_s))
            if not self._over:
                await self._last(session, now_s)
        return await asyncio.to_thread(self.scrape)

    async def _rounds(self, session: aiohttp.ClientSession, now_s: Callable[[], float]) -> None:
        while not self._over:
            await self.fetch(session, now_s)
            await asyncio.sleep(self.interval_s - now_s() % self.interval_s)

    async def _last(self, session: aiohttp.ClientSession, now_s: Callable[[], float]) -> None:
        try:
            async with asyncio.timeout(LAST_S):
                await self.fetch(session, now_s)
        except TimeoutError:
            self._problem(f"{self.url} did not answer within {LAST_S:g} s of the end")

    async def fetch(self, session: aiohttp.ClientSession, now_s: Callable[[], float]) -> None:
        """Fetch the page once and keep it."""
        import aiohttp

        asked_s = now_s()
        try:
            async with session.get(self.url, allow_redirects=False) as answer:
                if answer.status != 200:
                    self._over = answer.status in _NONE
                    return self._problem(f"{self.url} answers {answer.status}")
                page = await _bounded(answer)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            return self._problem(f"{self.url} does not answer: {type(error).__name__}")
        if page is None:
            return self._problem(f"{self.url} is larger than {MOST_BYTES:,} bytes")
        kept = await asyncio.to_thread(zlib.compress, page, 1)
        self.pages.append(((asked_s + now_s()) / 2, kept))
        self._kept_bytes += len(kept)
        if self._kept_bytes > MOST_KEPT_BYTES:
            self._over = True
            self._problem(f"no more metrics were fetched after {now_s():.0f} s: {MOST_KEPT_BYTES:,} bytes were kept")
        return None

    def _problem(self, text: str) -> None:
        self.failed += 1
        if text not in self.problems:
            self.problems.append(text)

    def scrape(self) -> Scrape | None:
        """Read the pages kept; None where none has an engine's metrics."""
        read: list[tuple[float, list[Sample]]] = []
        for time_s, page in self.pages:
            try:
                read.append((time_s, samples_of(zlib.decompress(page).decode())))
            except ValueError as error:  # also no UTF-8
                words = str(error) if self._key is None else self._key.hidden_in(str(error))
                self._problem(f"{self.url} is no exposition: {shortened(words)}")
        return scrape_of(read, engine=self._engine, failed=self.failed)


async def _bounded(answer: aiohttp.ClientResponse) -> bytes | None:
    """Return the body; None where it is too large."""
    page = bytearray()
    async for chunk in answer.content.iter_any():
        page += chunk
        if len(page) > MOST_BYTES:
            return None
    return bytes(page)


async def _until(ended: asyncio.Event, work: Coroutine[None, None, None]) -> None:
    """Do something, but not beyond the end of the run."""
    tasks = [asyncio.ensure_future(work), asyncio.ensure_future(ended.wait())]
    try:
        for done in (await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED))[0]:
            done.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


# --- from samples to columns ---------------------------------------------------------------------------------------


def scrape_of(pages: Sequence[tuple[float, list[Sample]]], *, engine: str = "", failed: int = 0) -> Scrape | None:
    """Return scrapes as columns: what is absent from one is NaN there.

    Args:
        pages: time and samples of each, in order of time.
        engine: whose names to read; empty: the one whose names occur.
        failed: scrapes that are not among them.
    """
    engine = engine or engine_of(sample for _, samples in pages for sample in samples)
    if not engine:
        return None
    readings = [reading_of(samples, engine) for _, samples in pages]
    names: dict[str, str] = {}
    for reading in readings:
        names |= reading.names
    values = sorted({name for reading in readings for name in reading.values})
    histograms = sorted({name for reading in readings for name in reading.histograms})
    return Scrape(
        time_s=np.array([time_s for time_s, _ in pages], dtype=np.float64),
        values={name: np.array([reading.values.get(name, np.nan) for reading in readings]) for name in values},
        histograms={name: _columns(name, readings) for name in histograms},
        names=names,
        failed=failed,
    )


def _columns(name: str, readings: Iterable[Reading]) -> tuple[FloatColumn, FloatColumn, FloatColumn]:
    """Stack a histogram at the bounds it always had: a restarted server may have others."""
    found: list[Buckets | None] = [reading.histograms.get(name) for reading in readings]
    bounds = np.array(sorted(set.intersection(*(set(one.bounds) for one in found if one is not None))))
    wide = np.append(bounds, np.inf)
    counts = np.full((len(found), len(wide)), np.nan)
    totals = np.full(len(found), np.nan)
    for row, one in enumerate(found):
        if one is not None:
            counts[row] = one.cumulative[np.searchsorted(np.append(one.bounds, np.inf), wide)]
            totals[row] = one.total
    return bounds, counts, totals


# --- beside requests.parquet ---------------------------------------------------------------------------------------


def rows_of(scrape: Scrape) -> Mapping[str, list[object]]:
    """Return the long form: time_s, signal, le, value, name.

    `le` is null but for a histogram's buckets (inf: all); the sum of its samples stands under the signal's name with
    `.sum` behind.
    """
    rows: dict[str, list[object]] = {"time_s": [], "signal": [], "le": [], "value": [], "name": []}

    def add(signal: str, bound: float | None, column: FloatColumn) -> None:
        for time_s, value in zip(scrape.time_s, column, strict=True):
            if not np.isnan(value):
                own = scrape.names[signal.removesuffix(".sum")]
                for key, cell in zip(rows, (float(time_s), signal, bound, float(value), own), strict=True):
                    rows[key].append(cell)

    for name, column in scrape.values.items():
        add(name, None, column)
    for name, (bounds, counts, totals) in scrape.histograms.items():
        for bound, column in zip([*bounds, np.inf], counts.T, strict=True):
            add(name, float(bound), column)
        add(f"{name}.sum", None, totals)
    return rows
