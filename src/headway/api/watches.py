"""`watch`: does a calibration still hold for the server it was made of?"""

from __future__ import annotations

import asyncio
import datetime as dt
import functools
import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from headway.errors import EvidenceError, HeadwayError, InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from headway.calibration.watching import Detector, Expectation, Traffic
    from headway.perf.endpoint import EndpointCalibration
    from headway.probe.keys import Key
    from headway.probe.nouns import Scrape

WINDOW_S = 60.0
#: The state of a window that nothing is known of, while nothing has drifted.
UNJUDGED = "not judged"
#: Scrapes of one window.
_SCRAPES = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchedWindow:
    """One window.

    Attributes:
        began: UTC.
        traffic: None where the window said nothing, or could not be seen; why stands in `note`.
        figures: by name, seconds; none where nothing was judged.
        state: `holds`, `drifting`, `drifted since HH:MM:SS`; `not judged` where there are no figures, unless drifted.
        part: which part of the model it looks like.
        note: what is to be known of it.
    """

    began: str
    traffic: Traffic | None
    figures: Mapping[str, Expectation]
    state: str
    part: str
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """All that was watched.

    Attributes:
        calibration: its name.
        drifted: whether it no longer holds.
        windows: in order of time.
        judged: of them.
        assumed: what the comparison takes for granted.
        known: the calibration itself.
    """

    calibration: str
    drifted: bool
    windows: tuple[WatchedWindow, ...]
    judged: int
    assumed: tuple[str, ...]
    known: EndpointCalibration = field(repr=False, metadata={"document": False})


ASSUMED = (
    "a server answers as fast as it does clients that ask at once and again, as many as are in flight",
    "cached tokens of prompts cost nothing",
    "lengths are spread as the engine's histograms say, or equal where it has none",
    "the front end's time is left out: the server's own times are compared",
)


def watch(
    calibration: str | Path,
    *,
    url: str | None = None,
    prometheus: str | None = None,
    selector: str = "",
    window_s: float = WINDOW_S,
    windows: int | None = None,
    osl_tokens: float | None = None,
    tolerance_frac: float = 0.1,
    windows_per_false_alarm: float = 1000.0,
    must_decide: bool = False,
    key: Key | None = None,
    allow_public: bool = False,
    told: Callable[[WatchedWindow], None] = lambda _window: None,
) -> Watch:
    """Compare a server's own metrics, window by window, with what its calibration expects.

    What goes wrong in the first window is an error; later it is the note of that window, and the next one follows.

    Args:
        calibration: its name or file.
        url: of the server, whose `/metrics` are scraped; or else
        prometheus: of a Prometheus server that scrapes it.
        selector: label matchers in PromQL that pick the server there.
        window_s: length of a window.
        windows: how many; None: until interrupted.
        osl_tokens: mean output length, for llama-server, which counts no requests.
        tolerance_frac: a figure off by less is in order.
        windows_per_false_alarm: on average, at least.
        must_decide: whether so few windows that none could raise the alarm are refused.
        key: sent as a bearer token.
        allow_public: whether an address that is neither loopback nor private may be asked.
        told: each window as it ends.

    Raises:
        InputError: no calibration, not exactly one of `url` and `prometheus`, an argument out of range, an address
            that is not allowed, metrics of another engine, or no Prometheus server answers there.
        EvidenceError: the server has no metrics of an engine.
    """
    from headway.api.replays import live

    live()
    from headway.calibration.watching import Detector
    from headway.perf.endpoint_reader import read_calibration
    from headway.probe.address import checked_address

    if (url is None) == (prometheus is None):
        raise InputError("say where the metrics are: exactly one of url and prometheus", place="url")
    _check_above_0(window=window_s, tolerance=tolerance_frac, false_alarm=windows_per_false_alarm)
    _check_1_at_least(windows=windows, osl=osl_tokens)
    if must_decide:
        _check_deciding(windows, windows_per_false_alarm)
    look = functools.partial(_asked, str(prometheus), selector) if url is None else functools.partial(_live, url)
    checked_address(str(prometheus if url is None else url), allow_public=allow_public)
    known = read_calibration(calibration)
    detector, seen = Detector(tolerance_frac, windows_per_false_alarm), list[WatchedWindow]()
    watcher = _Watcher(
        functools.partial(look, window_s, key, allow_public=allow_public), known, detector, osl_tokens, window_s
    )
    try:
        while windows is None or len(seen) < windows:
            seen.append(watcher.window(len(seen)))
            told(seen[-1])
    except KeyboardInterrupt:
        pass
    return Watch(
        calibration=known.name,
        drifted=bool(detector.drifted),
        windows=tuple(seen),
        judged=sum(bool(window.figures) for window in seen),
        assumed=ASSUMED,
        known=known,
    )


def _check_above_0(**given: float) -> None:
    for name, value in given.items():
        if not 0 < value < math.inf:
            raise InputError(f"expected a number above 0, got {value:g}", place=name.replace("_", " "))


def _check_1_at_least(**given: float | None) -> None:
    for name, value in given.items():
        if value is not None and not 1 <= value < math.inf:
            raise InputError(f"expected a number of 1 at least, got {value:g}", place=name)


def _check_deciding(windows: int | None, windows_per_false_alarm: float) -> None:
    """Refuse so few windows that none could raise the alarm."""
    from headway.calibration.watching import deciding_windows

    least = deciding_windows(windows_per_false_alarm)
    if windows is not None and windows < least:
        raise InputError(
            f"{windows} decide nothing: with a false alarm in {windows_per_false_alarm:g} windows, {least} are needed",
            place="windows",
            hint="--windows 5 --check" if least <= 5 else f"--windows {least} --check",
        )


@dataclass(frozen=True, slots=True)
class _Watcher:
    """Takes window after window."""

    look: Callable[[], Scrape]  # takes as long as a window
    known: EndpointCalibration
    detector: Detector
    osl_tokens: float | None
    window_s: float

    def window(self, number: int) -> WatchedWindow:
        """Look for the length of a window; what goes wrong in any but the first is its note."""
        began, start_s = dt.datetime.now(dt.UTC).strftime("%H:%M:%S"), time.perf_counter()
        traffic: Traffic | None = None
        figures: Mapping[str, Expectation] = {}
        try:
            traffic, figures, note = self._judged(self.look(), began, seed=1000 * number)
        except HeadwayError as error:
            if not number:
                raise
            note = str(error)
            time.sleep(max(self.window_s - (time.perf_counter() - start_s), 0.0))
        told = bool(figures) or bool(self.detector.drifted)
        state, part = (self.detector.state, self.detector.part) if told else (UNJUDGED, "")
        return WatchedWindow(began=began, traffic=traffic, figures=figures, state=state, part=part, note=note)

    def _judged(
        self, scrape: Scrape, began: str, *, seed: int
    ) -> tuple[Traffic | None, Mapping[str, Expectation], str]:
        """Hold a window against the calibration: its traffic and figures, or none and why."""
        from headway.calibration.from_metrics import check_engine
        from headway.calibration.levels import in_flight
        from headway.calibration.watching import LEAST_REQUESTS, expect, measured_of, traffic_of
        from headway.probe.observed import observed

        hint = "name the calibration of this server, or pick the server with a selector"
        check_engine(scrape, self.known.settings.engine, repr(self.known.name), place="calibration", hint=hint)
        try:
            seen = observed(scrape)
        except EvidenceError as error:
            return None, {}, str(error)
        found = traffic_of(seen, self.osl_tokens)
        if seen.restarted_s:
            return None, {}, "the server was restarted within the window: left out"
        if found.requests < LEAST_REQUESTS or not found.ended:
            return None, {}, f"{found.requests} requests came, {found.ended} ended: too few to judge"
        figures = expect(self.known, seen, found, in_flight(scrape, seen), seed=seed)
        self.detector.take(figures, began)
        missing = sorted(measured_of(seen, found).keys() - figures.keys())
        return found, figures, f"not every simulation of such traffic has {', '.join(missing)}" if missing else ""


def _live(url: str, window_s: float, key: Key | None, *, allow_public: bool) -> Scrape:
    from headway.probe.scrape import Scraper

    scraper = Scraper(url, interval_s=max(window_s / _SCRAPES, 0.1), key=key, allow_public=allow_public)

    async def window() -> Scrape | None:
        ended, start_s = asyncio.Event(), time.perf_counter()
        task = asyncio.create_task(scraper(lambda: time.perf_counter() - start_s, ended))
        await asyncio.wait([task], timeout=window_s)
        ended.set()
        return await task

    found = asyncio.run(window())
    if found is None:
        why = "; ".join(scraper.problems) or f"{scraper.url} has no metrics of a known engine"
        raise EvidenceError(why)
    return found


def _asked(url: str, selector: str, window_s: float, key: Key | None, *, allow_public: bool) -> Scrape:
    from headway.probe.scrape_files import from_prometheus

    time.sleep(window_s)
    end_s = time.time()
    start_s, step_s = end_s - window_s, window_s / _SCRAPES
    return from_prometheus(url, start_s, end_s, step_s, selector=selector, key=key, allow_public=allow_public)
