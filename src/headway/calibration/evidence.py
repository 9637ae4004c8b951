"""Reads runs of every kind: requests, a load generator's summary, or the server's own metrics."""

from __future__ import annotations

import hashlib
from pathlib import Path

from headway.calibration.from_metrics import check_engine, runs_of_scrape
from headway.calibration.from_summary import run_of_summary
from headway.calibration.runs import Run, read_run
from headway.errors import EvidenceError
from headway.probe.scrape_files import is_scrape, read_metrics
from headway.workload.summaries import holds_no_requests, read_summary


def read_runs(
    path: str | Path,
    max_model_len: int,
    *,
    part: int | None = None,
    osl_tokens: float | None = None,
    engine: str | None = None,
) -> list[Run]:
    """Read a file as runs: one of requests or of a summary, or the steady windows of metrics.

    Args:
        path: the file, or the folder of a replay.
        max_model_len: the longest request the engine takes: none longer is drawn.
        part: which of several benchmarks in a file, from 1.
        osl_tokens: mean output length, for metrics of an engine that counts no requests.
        engine: whose metrics they must be, as `EngineSettings.engine` names it; anybody's if None.

    Raises:
        InputError: it cannot be read, lacks what a run needs, or has another engine's metrics.
        EvidenceError: too little in it was answered, or no load was steady.
    """
    file = Path(path)
    if file.is_dir():
        whole = file / "requests.parquet"
        file = whole if whole.exists() or not (file / "metrics.parquet").exists() else file / "metrics.parquet"
    if file.name == "metrics.parquet" or is_scrape(file):
        scrape = read_metrics(file)
        if len(scrape.time_s) < 2:
            raise EvidenceError(f"{file}: {len(scrape.time_s)} scrape in it; a window of load has two at least")
        if engine is not None:
            check_engine(scrape, engine, "the fit", file=file, hint="--engine says whose they are")
        named, digest = _name(file), _digest(file)
        return runs_of_scrape(named, scrape, max_model_len, digest, osl_tokens=osl_tokens, group=str(file))
    if file.suffix != ".parquet" and holds_no_requests(file):
        return [run_of_summary(read_summary(file, part=part), max_model_len, _digest(file))]
    return [read_run(file, part=part)]


def _digest(file: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _name(file: Path) -> str:
    return file.parent.name if file.stem == "metrics" else file.stem
