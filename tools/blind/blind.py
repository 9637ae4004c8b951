"""Calibrate on a real engine, predict loads it was not calibrated on, measure them, and hold one to the other.

    python tools/blind/blind.py llama|vllm [--out DIR] [--json] [--budget S] [--seconds S] [--rounds N] [--points …]

A real server with a small real model is started (real_servers.py); `headway calibrate endpoint` measures it within a
budget of time, with closed loops of a few concurrencies and prompts that share nothing. Then all load points
(points.py) are drawn and predicted: their very requests, at their very times. The predictions are written to a file and
its digest is printed before the first of those requests is sent. Then each is sent, in rounds some minutes apart, and
what was measured stands beside what was predicted.

The last lines are the table and `N of M within target`; the exit code is 0, or 1 where a target is missed by more than
the band or a queue goes the other way than predicted, 2 where the engine cannot be had or went away.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from kept_files import check_own, point_folder, start_over
from picture import drawn_figures
from points import POINTS, Point, load_of
from real_servers import ENVIRONMENTS, UNTOLD, serving
from verdict import COLUMNS, SUMMARY, Verdict, aligned, by_figure, figures_of, rows_of

import headway
from headway.calibration.predicting import Prediction, measured_figures, predict
from headway.probe.client import send
from headway.probe.endpoint import discover
from headway.probe.limits import Limits
from headway.probe.prompts import prompts
from headway.types import Requests
from headway.workload import write_trace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headway.perf import EndpointCalibration
    from headway.probe.nouns import Load

NAMES = [point.name for point in POINTS]
#: Lengths of the calibration's requests, evenly spread over their logarithms: they cover all points.
ISL_TOKENS, OSL_TOKENS = (8, 128), (4, 48)
#: Seconds for the calibration, and for a usual point in each round.
BUDGET_S, SECONDS = 120.0, 14.0
#: Times that all points are sent.
ROUNDS = 2
#: A point that takes so many times as long as its arrivals is given up: what is in flight then counts as failed.
PATIENCE = 6.0


@dataclass(slots=True)
class Run:
    """One blind test.

    Attributes:
        engine: a name in `real_servers.ENVIRONMENTS`.
        out: the folder for everything that is kept; an earlier run there is replaced.
        budget_s: of the calibration.
        seconds: of a usual point in a round.
        rounds: times that all points are sent.
        quiet: say nothing meanwhile.
    """

    engine: str
    out: Path
    budget_s: float
    seconds: float
    rounds: int = ROUNDS
    quiet: bool = False
    started_s: float = field(default_factory=time.monotonic)

    def say(self, text: str) -> None:
        """Tell how far it is."""
        if not self.quiet:
            print(f"{time.monotonic() - self.started_s:5.0f} s  {text}", flush=True)

    def of(self, points: Sequence[Point]) -> Verdict:
        """Run it."""
        start_over(self.out, NAMES)
        with serving(self.engine, self.out / "server.log") as url:
            self.say(f"{self.engine} serves at {url}")
            calibration = self.calibrated(url)
            loads = [load_of(point, calibration, self.seconds) for point in points]
            predictions = self.predicted(calibration, loads)
            measured = [[self.measured(url, load, number) for load in loads] for number in range(1, self.rounds + 1)]
        return _verdict(points, predictions, measured)

    def calibrated(self, url: str) -> EndpointCalibration:
        """Calibrate on the server."""
        write_trace(_lengths(), self.out / "calibration-traffic.parquet")
        seen: set[str] = set()

        def told(what: str, done: int, of: int) -> None:
            if what not in seen:
                seen.add(what)
                self.say(f"calibration: {what} ({done + 1} of {of})")

        found = headway.calibrate_endpoint(
            url,
            self.out / "calibration.yaml",
            name=f"blind-{self.engine}",
            hardware="one-cpu-thread",
            source=self.out / "calibration-traffic.parquet",
            budget_s=self.budget_s,
            keep=self.out / "calibration",
            settings=UNTOLD[self.engine],
            progress=told,
        )
        drift = found.calibration.uncertainty.drift_log_sd
        self.say(f"calibrated on {len(found.calibration.runs)} runs; the machine's speed moves by {100 * drift:.0f} %")
        return found.calibration

    def predicted(self, calibration: EndpointCalibration, loads: Sequence[Load]) -> list[Prediction]:
        """Predict all loads, keep what was predicted, and print its digest."""
        found = [predict(calibration, load) for load in loads]
        text = json.dumps([asdict(one) for one in found], indent=1)
        (self.out / "predictions.json").write_text(text)
        for load in loads:
            write_trace(load.requests, self._folder(load) / "asked.parquet")
        self.say(f"predicted {len(loads)} load points, none sent yet: sha256 {_digest(text)} of predictions.json")
        return found

    def measured(self, url: str, load: Load, number: int) -> dict[str, float]:
        """Send a load in a round and return its figures; no round finds the prompts of another in the cache."""
        endpoint = discover(url)
        bodies = prompts(endpoint, load.requests, salt=f"{load.name}, round {number}")
        limits = Limits(duration_s=PATIENCE * max(float(load.requests.arrive_s[-1]), 4 * self.seconds))
        sent = send(load, endpoint, bodies, limits)
        write_trace(sent.trace, self._folder(load) / f"requests-{number}.parquet")
        took = f"{len(load.requests)} requests in {sent.client.duration_s:.0f} s"
        warned = "".join(f"; {warning}" for warning in sent.client.warnings)
        self.say(f"{load.name} ({number} of {self.rounds}): {took}{warned}")
        return measured_figures(sent)

    def _folder(self, load: Load) -> Path:
        folder = self.out / point_folder(load.name)
        folder.mkdir(exist_ok=True)
        return folder


def _lengths() -> Requests:
    """Return lengths for the calibration: every decile is as likely as any other on a logarithmic scale."""
    rng = np.random.default_rng(0)
    isl, osl = (np.exp(rng.uniform(*np.log(ends), 500)).astype(np.int64) for ends in (ISL_TOKENS, OSL_TOKENS))
    return Requests(arrive_s=np.zeros(500), isl_tokens=isl, osl_tokens=osl)


def _verdict(
    points: Sequence[Point], predictions: Sequence[Prediction], measured: Sequence[Sequence[dict[str, float]]]
) -> Verdict:
    """Put together what was predicted for each point and what each round measured of it."""
    told = zip(points, predictions, *measured, strict=True)
    return Verdict(
        figures=tuple(
            figure
            for point, prediction, *rounds in told
            for figure in figures_of(point.name, _triples(prediction), rounds, saturated=point.saturated)
        )
    )


def _triples(prediction: Prediction) -> dict[str, tuple[float, float, float]]:
    return {name: (figure.value, figure.low, figure.high) for name, figure in prediction.figures.items()}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def document(run: Run, verdict: Verdict) -> dict[str, Any]:
    """Return everything that came of a run, as plain data."""
    return {
        "engine": run.engine,
        "took_s": round(time.monotonic() - run.started_s, 1),
        "predictions_sha256": _digest((run.out / "predictions.json").read_text()),
        "figures": [
            asdict(figure) | {"measured": figure.measured, "error_frac": figure.error_frac, "verdict": figure.verdict}
            for figure in verdict.figures
        ],
        "within_target": verdict.within,
        "in_band": verdict.held,
        "of": len(verdict.figures),
        "exit_code": verdict.exit_code,
    }


def kept(run: Run, verdict: Verdict) -> None:
    """Write table, JSON and picture."""
    (run.out / "blind.json").write_text(json.dumps(document(run, verdict), indent=1) + "\n")
    (run.out / "blind.txt").write_text(report(verdict) + "\n")
    (run.out / "blind.png").write_bytes(drawn_figures(verdict.figures, title=f"{run.engine}: predicted, then measured"))


def report(verdict: Verdict) -> str:
    """Return the tables and the last line."""
    summary = aligned([(*SUMMARY, ""), *((*row, "") for row in by_figure(verdict.figures))])
    return "\n\n".join((summary, aligned([COLUMNS, *rows_of(verdict.figures)]), verdict.last_line))


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", choices=sorted(ENVIRONMENTS))
    parser.add_argument(
        "--out", type=Path, help="folder for everything kept (out/blind-ENGINE); an earlier run there is replaced"
    )
    parser.add_argument("--json", action="store_true", help="print JSON in place of tables")
    parser.add_argument("--budget", type=float, default=BUDGET_S, help="seconds for the calibration (%(default)g)")
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, help="length of a usual point in a round (%(default)g)"
    )
    parser.add_argument("--rounds", type=_times, default=ROUNDS, help="times that all points are sent (%(default)d)")
    parser.add_argument("--points", nargs="+", choices=NAMES, default=NAMES, metavar="NAME", help="only these")
    return parser.parse_args(arguments)


def _times(text: str) -> int:
    times = int(text)
    if times < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {text}")
    return times


def main() -> int:
    """Run the test and say what came of it."""
    chosen = parsed()
    run = Run(
        engine=chosen.engine,
        out=chosen.out or Path("out") / f"blind-{chosen.engine}",
        budget_s=chosen.budget,
        seconds=chosen.seconds,
        rounds=chosen.rounds,
        quiet=chosen.json,
    )
    try:
        check_own(run.out, NAMES)
        ENVIRONMENTS[chosen.engine].install()
        verdict = run.of([point for point in POINTS if point.name in chosen.points])
    except (subprocess.CalledProcessError, RuntimeError, headway.HeadwayError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    kept(run, verdict)
    print(json.dumps(document(run, verdict), indent=1) if chosen.json else report(verdict))
    return verdict.exit_code


if __name__ == "__main__":
    sys.exit(main())
