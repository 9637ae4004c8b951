"""`headway validate`: its options, its scorecard and its files."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

import click

from headway.cli.common import catalog_option, examples, json_option, out_option, show, write_out
from headway.pictures.page import ABSENT, Lines, Page, Table, counted
from headway.units import show_s

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from headway.api.validations import Validated
    from headway.pictures.page import Part
    from headway.validation.executing import Executor
    from headway.validation.explaining import Explanation
    from headway.validation.scoring import MetricScore

#: Metrics whose slices stand on the page, and slices of each axis: the largest.
_MAIN = {"ttft_s": "TTFT", "tpot_s": "TPOT", "output_tokens_per_s": "tokens/s"}
_AXES = {"mode": 4, "region": 3, "engine": 4, "accelerator": 6, "family": 6, "precision": 4}
#: Reasons of a kind that are listed.
_REASONS = 6


@click.command(
    epilog=examples(
        "headway validate measurements.csv",
        "headway validate measurements.csv --only engine=vLLM --out scorecard",
        "headway validate mine.csv --catalog my-model.yaml --json",
    )
)
@click.argument("table")
@catalog_option
@click.option(
    "--only",
    multiple=True,
    metavar="FIELD=VALUE",
    help="Rows where a field (row, model, hardware, engine, mode, source, fold) has this value.",
)
@click.option("--worst", type=int, default=5, show_default=True, help="Worst rows to explain on the page; 20 at most.")
@click.option(
    "--executor", default="local", show_default=True, help="local: processes; ray: the cluster RAY_ADDRESS names."
)
@click.option("--workers", type=int, help="How many at once: all cores if left out. The result is the same.")
@out_option
@json_option
def command(
    table: str,
    files: tuple[str, ...],
    only: tuple[str, ...],
    worst: int,
    executor: Executor,
    workers: int | None,
    out: str | None,
    *,
    as_json: bool,
) -> None:
    """Score predictions against a table of measurements.

    Each row is replayed as it was measured: clients that wait, a Poisson stream, all at once, MLPerf's server. It is
    predicted with constants fitted without any row of its group: publication, hardware, engine and version.
    """
    from headway.api import validate

    with _progress() as progress:
        found = validate(table, catalog=files, only=only, executor=executor, workers=workers, progress=progress)
    write_out(out, lambda: validated_files(found))
    show("validate", found, lambda one: validated_page(one, worst=worst), as_json=as_json)


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """Show rows done on stderr; silent where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield lambda _done, _all: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("replaying"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as display:
        task = display.add_task("replaying", total=None)
        yield lambda done, rows: display.update(task, completed=done, total=rows)


def validated_files(found: Validated) -> dict[str, bytes]:
    """Return what `--out` writes: the document, a line per row, the scatter plots and the errors by slice."""
    from headway.api.documents import dumps
    from headway.api.validations import rows_csv
    from headway.pictures.files import picture_files
    from headway.pictures.validation import validation_figures

    document = {"validate.json": dumps("validate", found).encode(), "rows.csv": rows_csv(found).encode()}
    return document | picture_files(validation_figures(found.scores))


# --- the page -------------------------------------------------------------------------------------------


def validated_page(found: Validated, *, worst: int) -> Page:
    """Return the scorecard."""
    parts: tuple[Part, ...] = (
        _overall(found),
        _by_slice(found),
        Lines(title="Beside", lines=tuple(_beside(found))),
        _reasons(found),
        _worst(found.worst[: max(worst, 0)]),
    )
    return Page(headline=headline(found), parts=tuple(part for part in parts if part))


def headline(found: Validated) -> str:
    """Return the scorecard in a sentence."""
    known = {name: score for metric, name in _MAIN.items() if (score := found.slices["all"].get(metric))}
    errors = ", ".join(f"{name} {_percent(score.ape_median_frac)}" for name, score in known.items())
    rows = f"{found.replayed:,} of {found.rows:,} rows"
    return f"{rows} predicted by constants that never saw their group; median error {errors}."


def _overall(found: Validated) -> Table:
    rows = tuple(
        (
            metric,
            f"{score.n_rows:,}",
            _percent(score.coverage_frac),
            _percent(score.ape_median_frac),
            _percent(score.ape_p90_frac),
            _signed(score.bias_frac),
            _percent(score.band_coverage_frac),
        )
        for metric, score in found.slices["all"].items()
    )
    columns = ("cross-validated", "rows", "predicted", "median error", "p90 error", "bias", "in band")
    return Table(title="All rows", columns=columns, align="lrrrrrr", rows=rows)


def _by_slice(found: Validated) -> Table:
    names = [
        name
        for axis, most in _AXES.items()
        for name in [key for key in found.slices if key.startswith(f"{axis}=") and "," not in key][:most]
    ]
    rows = tuple((name.replace("=", " ", 1), *_cells(found.slices[name])) for name in names)
    return Table(
        title="By slice",
        columns=("", *(f"{name} med/p90" for name in _MAIN.values()), "rows"),
        align="lrrrr",
        rows=rows,
        note="Absolute percentage errors of the largest slices; --json has all of them.",
    )


def _cells(scores: Mapping[str, MetricScore]) -> tuple[str, ...]:
    known = [scores.get(metric) for metric in _MAIN]
    errors = (f"{_percent(s.ape_median_frac)} / {_percent(s.ape_p90_frac)}" if s else ABSENT for s in known)
    return (*errors, f"{max((score.n_rows for score in scores.values()), default=0):,}")


def _beside(found: Validated) -> Iterator[str]:
    for name, score in (("at any load", found.ranking.any_load), ("at the same load", found.ranking.same_load)):
        if score.called_frac is not None:
            yield f"better of two called, {name}: {_percent(score.called_frac)} of {counted(score.pairs, 'pair')}"
    for metric, spread in found.noise.items():
        fracs = (spread.p50_frac, spread.p75_frac, spread.p90_frac)
        shares = "/".join(f"{100 * frac:.1f}" for frac in fracs)
        again = counted(spread.configurations, "configuration")
        yield f"noise floor of {metric}: {shares} % at p50/p75/p90 over {again} measured again"


def _reasons(found: Validated) -> Table:
    kinds = (("in doubt", found.findings), ("not predicted", found.refusals), ("assumed", found.assumptions))
    rows = tuple(
        (kind, reason, f"{number:,}") for kind, counts in kinds for reason, number in list(counts.items())[:_REASONS]
    )
    return Table(title="Rows in doubt", columns=("", "reason", "rows"), align="llr", rows=rows)


def _worst(explanations: tuple[Explanation, ...]) -> Table:
    rows = tuple(
        (
            one.row,
            one.about,
            f"{_MAIN[one.metric]} {_figure(one.metric, one.predicted)} for {_figure(one.metric, one.measured)}",
            ", ".join(f"{name} {_percent(share)}" for name, share in list(one.parts.items())[:3]),
            one.reason,
        )
        for one in explanations
    )
    columns = ("row", "", "predicted", "of which", "likeliest reason")
    return Table(title="Worst rows", columns=columns, align="lllll", rows=rows)


def _figure(metric: str, value: float) -> str:
    return show_s(value) if metric.endswith("_s") and "per" not in metric else f"{value:,.0f}"


def _percent(frac: float | None) -> str:
    return ABSENT if frac is None else f"{100 * frac:.1f} %" if frac < 0.1 else f"{100 * frac:.0f} %"


def _signed(frac: float | None) -> str:
    return ABSENT if frac is None else f"{100 * frac:+.1f} %"
