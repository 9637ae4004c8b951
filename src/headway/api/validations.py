"""`validate`: how far predictions are from a table of measurements."""

from __future__ import annotations

import csv
import io
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from headway.errors import InputError, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from headway.validation.executing import Executor
    from headway.validation.explaining import Explanation
    from headway.validation.measurements import Measurement
    from headway.validation.predicting import Job
    from headway.validation.ranking import NoiseFloor, Ranking
    from headway.validation.scoring import MetricScore, RowScore

#: Fields of a row that `only` can ask for.
FIELDS = ("row", "model", "hardware", "engine", "mode", "source", "fold")


@dataclass(frozen=True, slots=True, kw_only=True)
class Validated:
    """A table of measurements, each row replayed and scored with constants that were fitted without its group."""

    slices: Mapping[str, Mapping[str, MetricScore]]  # slice -> metric -> score; `all` first
    ranking: Ranking
    noise: Mapping[str, NoiseFloor]  # by metric: what the measurements themselves leave open
    rows: int  # of the table, as far as they were asked for
    replayed: int  # of them, predicted
    findings: Mapping[str, int]  # what is wrong with rows, by code: how many
    refusals: Mapping[str, int]  # why rows could not be predicted: how many
    assumptions: Mapping[str, int]  # what rows do not say, by code: how many
    worst: tuple[Explanation, ...]
    scores: tuple[RowScore, ...]  # every row that could be read


def validate(
    table: str | Path,
    *,
    catalog: Sequence[str | Path] = (),
    only: Iterable[str] = (),
    executor: Executor = "local",
    workers: int | None = None,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> Validated:
    """Replay every row of a table of measurements and score the predictions.

    Args:
        table: CSV or Parquet, one measured configuration and load a row.
        catalog: files with facts of your own, over the shipped ones.
        only: `FIELD=VALUE`, each narrows the rows; one of `FIELDS`.
        executor: `local` or `ray`.
        workers: how many at once; as many as there are cores if None. It does not change the result.
        progress: called with the rows done and all rows.

    Raises:
        InputError: the table cannot be read, an option is unknown, or no row is left.
    """
    from headway.validation.executing import execute
    from headway.validation.explaining import worst
    from headway.validation.predicting import explain, predict, put_aside
    from headway.validation.ranking import noise, rank
    from headway.validation.reader import read_table
    from headway.validation.scoring import score

    known = read_table(table)
    wanted = [_wanted(word) for word in only]
    jobs = _jobs(known.measurements, wanted, tuple(str(file) for file in catalog))
    if not jobs:
        why = "; ".join(f"{one.finding.row}: {one.finding.reason}" for one in known.aside[:3])
        raise InputError("no row is left to validate", file=table, place="only" if wanted else "", hint=why)
    done = Counter[str]()

    def count(more: int) -> None:
        done["rows"] += more
        progress(done["rows"], len(jobs))

    replayed = execute(predict, jobs, executor=executor, workers=workers, progress=count)
    scores = replayed + ([] if wanted else [put_aside(one) for one in known.aside if one.measured])
    by_line = {job.measurement.line: job for job in jobs}  # two rows may have one id
    explained = [(by_line[one.line], one, figure) for one, figure in worst(scores)]
    measurements = [job.measurement for job in jobs]
    return Validated(
        slices=score(scores),
        ranking=rank(measurements, replayed),
        noise=noise(measurements),
        rows=len(jobs) if wanted else known.rows,
        replayed=sum(not one.refused for one in scores),
        findings=_counted(one.code for one in (*known.findings, *(f for score in scores for f in score.findings))),
        refusals=_counted(one.refused for one in scores if one.refused),
        assumptions=_counted(code for one in scores for code in dict.fromkeys(one.codes)),
        worst=tuple(execute(explain, explained, executor=executor, workers=workers)),
        scores=tuple(scores),
    )


def _wanted(word: str) -> tuple[str, str]:
    name, sign, value = word.partition("=")
    if not sign or name not in FIELDS:
        raise InputError(f"{word!r}: expected FIELD=VALUE", place="only", hint=nearest(name, FIELDS))
    return name, value.strip().casefold()


def _jobs(
    measurements: Sequence[Measurement], wanted: Sequence[tuple[str, str]], catalog: tuple[str, ...]
) -> list[Job]:
    from headway.validation.checks import duplicates
    from headway.validation.predicting import Job

    twice = {finding.line: finding for finding in duplicates(measurements)}
    return [
        Job(measurement=one, findings=(twice[one.line],) if one.line in twice else (), catalog=catalog)
        for one in measurements
        if all(_said(one, name).casefold() == value for name, value in wanted)
    ]


def _said(one: Measurement, name: str) -> str:
    from headway.validation.measurements import source_family

    return source_family(one.source) if name == "source" else str(getattr(one, name))


def _counted(words: Iterable[str]) -> dict[str, int]:
    """Count words, the commonest first."""
    return dict(sorted(Counter(words).items(), key=lambda item: (-item[1], item[0])))


def rows_csv(found: Validated) -> str:
    """Return a line per row and figure: what was measured, what was predicted, its band, and what is wrong with it."""
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    about = ("mode", "engine", "accelerator", "family", "precision", "region", "source")
    figure = ("metric", "statistic", "measured", "predicted", "low", "high", "error_frac")
    out.writerow(("row", "line", "group", "fold", *about, *figure, "refused", "findings", "assumed"))
    for row in found.scores:
        head = (row.row, row.line, row.group, row.fold, *(row.axes.get(axis, "") for axis in about))
        tail = (row.refused, "; ".join(f"{one.code}: {one.reason}" for one in row.findings), "; ".join(row.assumed))
        out.writerows((*head, *(_cell(getattr(one, name)) for name in figure), *tail) for one in row.comparisons)
    return text.getvalue()


def _cell(value: str | float | None) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else value
