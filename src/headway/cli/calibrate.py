"""`headway calibrate`: its options and the page of a recording."""

from __future__ import annotations

import contextlib
import shlex
import sys
from typing import TYPE_CHECKING

import click

from headway import units
from headway.cli.common import catalog_option, duration, examples, json_option, show
from headway.pictures.page import ABSENT, Commands, Lines, Page, Table, seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from headway.kernels import Recording
    from headway.pictures.page import Part


@click.command(
    "ops",
    epilog=examples(
        "headway calibrate ops --out h100.json",
        "headway calibrate ops --out cpu.json --device cpu --accelerator my-server --catalog mine.yaml",
    ),
)
@click.option("--out", "file", metavar="FILE", required=True, help="Where the curves go; ends in .json.")
@click.option("--budget", "budget_s", callback=duration, default="3 min", show_default=True, help="When to be done.")
@click.option("--device", help="cuda or cpu; a GPU where there is one if left out.")
@click.option("--accelerator", help="Its entry in the catalogue; found by the device's name if left out.")
@click.option("--gpus", type=int, help="How many reduce together; all there are if left out, 1 for none.")
@catalog_option
@json_option
def ops_command(
    file: str,
    budget_s: float,
    device: str | None,
    accelerator: str | None,
    gpus: int | None,
    files: tuple[str, ...],
    *,
    as_json: bool,
) -> None:
    """Record how fast this machine runs the kernels inference is made of.

    Matrix products, attention and, with several GPUs, all-reduce are timed with PyTorch. The curves written go before
    the shipped ones: `headway estimate --curves FILE`, or `calibration: {curves: FILE}` in a scenario.
    """
    from headway.api import calibrate_ops

    with _progress() as progress:
        found = calibrate_ops(
            file,
            budget_s=budget_s,
            device=device,
            accelerator=accelerator,
            gpus=gpus,
            files=files,
            progress=progress,
        )
    show("calibrate ops", found, lambda one: recording_page(one, _next(one, file, files)), as_json=as_json)


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """Show on stderr what is timed; silent where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield lambda _what, _done, _of: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as display:
        task = display.add_task("starting", total=None)
        yield lambda what, done, of: display.update(task, description=what, completed=done, total=of)


def recording_page(found: Recording, command: str) -> Page:
    """Return the page of a recording, with the command that uses it."""
    count = f" ({found.device.count} of them)" if found.device.count > 1 else ""
    headline = (
        f"{found.device.name}{count} as {found.accelerator}, measured: {found.shapes:,} shapes in "
        f"{found.timings:,} timings, {seconds(found.duration_s)}."
    )
    skipped = tuple(f"{name}: {reason}" for name, reason in found.skipped.items())
    parts: tuple[Part, ...] = (
        _ceilings(found),
        _curves(found),
        *((Lines(title="Not recorded", lines=skipped),) if skipped else ()),
        Commands(title="What to run next", commands=(command,)),
    )
    return Page(headline=headline, parts=parts)


def _ceilings(found: Recording) -> Table:
    rows = [("memory, read and written", f"{found.copied_bytes_per_s / 1e9:,.4g} GB/s", found.copied_frac)]
    rows += [
        (f"matrices, {name}", units.show_count(rate, "FLOP/s"), found.multiplied_frac[name])
        for name, rate in found.multiplied_flops_per_s.items()
    ]
    return Table(
        title="Ceilings",
        columns=("", "measured", "of the datasheet"),
        align="lrr",
        rows=tuple((name, rate, units.show_frac(frac)) for name, rate, frac in rows),
    )


def _curves(found: Recording) -> Table:
    rows = tuple(
        (curve.name, f"{curve.shapes:,}", _shown(curve.error_median_frac), _shown(curve.error_p90_frac))
        for curve in found.curves
    )
    return Table(
        title="Curves",
        columns=("name", "shapes", "error, median", "p90"),
        align="lrrr",
        rows=rows,
        note="errors on shapes the curve was not made from; "
        f"repeats of one shape lie {units.show_frac(found.spread_median_frac)} apart (quartiles, median of all shapes)",
    )


def _shown(error_frac: float | None) -> str:
    return ABSENT if error_frac is None else units.show_frac(error_frac)


def _next(found: Recording, file: str, files: tuple[str, ...]) -> str:
    words = ["headway", "estimate", "--model", "Qwen/Qwen3-8B", "--accelerator", found.accelerator, "--curves", file]
    return shlex.join([*words, *(word for own in files for word in ("--catalog", own))])
