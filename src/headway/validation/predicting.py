"""One row from end to end: configured, replayed, set beside what was measured. What cannot be replayed says why."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

from headway.catalog import load as load_catalog
from headway.errors import HeadwayError
from headway.perf.corrections import unseen_fold
from headway.validation.checks import findings_of
from headway.validation.configuration import Configured, configure
from headway.validation.explaining import Explanation, parts, reason
from headway.validation.loads import seed_of
from headway.validation.measurements import source_family
from headway.validation.replaying import Replay, banded, calibrated, replay
from headway.validation.scoring import Comparison, RowScore, compare

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headway.catalog import Catalog
    from headway.types import Model
    from headway.validation.measurements import Aside, Finding, Measurement

#: Numbers nobody meant overflow somewhere on their way: such a row is refused, the table is not.
_IMPOSSIBLE = (ArithmeticError, ValueError, MemoryError)

#: What `architectures` of a config.json ends in, whatever the model.
_ENDINGS = re.compile(r"(For(CausalLM|ConditionalGeneration)|LMHeadModel)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One row to be predicted, wherever that happens."""

    measurement: Measurement
    findings: tuple[Finding, ...] = ()  # that take the whole table to find
    catalog: tuple[str, ...] = ()  # files with facts of one's own


def predict(job: Job) -> RowScore:
    """Replay one row with constants fitted without its fold, and set the figures beside what was measured."""
    row = job.measurement
    try:
        configured = configure(row, _catalog(job.catalog))
    except (HeadwayError, *_IMPOSSIBLE) as error:
        return _unpredicted(job, str(error))
    found: Replay | None = None
    refused = ""
    try:
        found = replay(configured, seed=seed_of(row.row), fold=unseen_fold(row.group))
    except (HeadwayError, *_IMPOSSIBLE) as error:
        refused = str(error) or type(error).__name__
    predicted = found.figures if found else {}
    return RowScore(
        row=row.row,
        line=row.line,
        group=" | ".join(row.group),
        fold=unseen_fold(row.group),
        gpus=row.gpus,
        axes=axes(row, configured) | ({"region": found.region} if found else {}),
        comparisons=compare(
            told(row, configured),
            predicted,
            lambda name: banded(configured, name, found.region, row.group) if found else None,
        ),
        refused=refused,
        assumed=(*(one.text for one in configured.assumptions), *(found.assumed if found else ())),
        codes=tuple(one.code for one in configured.assumptions),
        findings=(*findings_of(row, configured), *job.findings),
        predicted=predicted,
    )


def _unpredicted(job: Job, refused: str) -> RowScore:
    row = job.measurement
    return RowScore(
        row=row.row,
        line=row.line,
        group=" | ".join(row.group),
        fold=unseen_fold(row.group),
        gpus=row.gpus,
        axes={"mode": row.mode, "engine": row.engine, "source": source_family(row.source)},
        comparisons=compare(row.measured, {}, lambda _: None),
        refused=refused,
        findings=job.findings,
    )


def put_aside(one: Aside) -> RowScore:
    """Score a row that could not be read as a measurement: what it gives counts, as not predicted."""
    return RowScore(
        row=one.finding.row,
        line=one.finding.line,
        group="",
        fold=None,
        gpus=None,
        axes={},
        comparisons=compare(one.measured, {}, lambda _: None),
        refused=f"put aside: {one.finding.reason}",
    )


@cache
def _catalog(files: tuple[str, ...]) -> Catalog:
    return load_catalog(*files)


def told(row: Measurement, configured: Configured) -> Mapping[str, Mapping[str, float]]:
    """What was measured; where the harness reports means under the name of medians, they are means."""
    if configured.harness.statistic == "median":
        return row.measured
    return {
        metric: {"mean" if name == "p50" else name: value for name, value in statistics.items()}
        for metric, statistics in row.measured.items()
    }


def axes(row: Measurement, configured: Configured) -> dict[str, str]:
    """Return what a row is counted under, its region apart."""
    return {
        "mode": row.mode,
        "engine": row.engine,
        "accelerator": configured.pool.accelerator.name,
        "family": family(configured.pool.model),
        "precision": configured.pool.weight_dtype,
        "source": source_family(row.source),
    }


def family(model: Model) -> str:
    """Return a model's family: what its `config.json` names its architecture, without the ending all have."""
    return _ENDINGS.sub("", model.architecture) or model.name


def explain(job: tuple[Job, RowScore, Comparison]) -> Explanation:
    """Say what a prediction consists of and why it may be off."""
    (task, score, one) = job
    row = task.measurement
    configured = configure(row, _catalog(task.catalog))
    found = replay(configured, seed=seed_of(row.row), fold=unseen_fold(row.group))
    index = 0 if one.metric == "ttft_s" else -1
    pool = found.pools[index]
    assert one.predicted is not None  # the worst rows were predicted
    shares = parts(
        one, pool, replace(configured, pools=found.pools), found.occupancy, calibrated(pool, unseen_fold(row.group))
    )
    return Explanation(
        row=row.row,
        about=f"{row.model}, {row.hardware}, {row.engine}",
        metric=one.metric,
        measured=one.measured,
        predicted=one.predicted,
        region=found.region,
        parts=shares,
        reason=reason(score, one, shares),
    )
