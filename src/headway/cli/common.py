"""What the commands share: common options, and showing a result as text or as JSON."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any, TypeVar

import click

from headway.errors import InputError
from headway.units import parse_quantity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from headway.api.pools import Choice
    from headway.pictures.page import Page
    from headway.probe.keys import Key

    T = TypeVar("T")

json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON document.")
out_option = click.option("--out", metavar="DIR", help="Write the result and its pictures into this folder.")
catalog_option = click.option(
    "--catalog",
    "files",
    multiple=True,
    metavar="FILE",
    help="Your own facts or prices (YAML, CSV), over the shipped ones.",
)
seed_option = click.option("--seed", type=int, help="Seed of everything drawn; the same seed gives the same bytes.")
calibration_option = click.option(
    "--calibration", metavar="NAME|FILE", help="A calibrated endpoint in place of the physics: `headway calibrate`."
)
rate_option = click.option(
    "--rate",
    "rate_per_s",
    callback=lambda _context, _option, text: _quantity(text, "rate", "--rate"),
    metavar="RATE",
    help="Mean rate, e.g. '40 req/s'.",
)


def names_of(*kinds: str) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    """Return a completion of the catalogue's names, for the shell."""

    def complete(_context: click.Context, _parameter: click.Parameter, begun: str) -> list[str]:
        from headway.catalog import load

        catalog = load()
        names = (name for kind in kinds for name in catalog.entries(kind))
        return [name for name in names if name.casefold().startswith(begun.casefold())]

    return complete


_CHOICE_OPTIONS = (
    click.option("--model", help="A name of `headway catalog list models`.", shell_complete=names_of("models")),
    click.option(
        "--accelerator",
        help="A name of `headway catalog list accelerators`.",
        shell_complete=names_of("accelerators"),
    ),
    click.option("--engine", help="vllm, or a version of it: vllm@0.33.0."),
    click.option("--tp", type=int, default=1, show_default=True, help="Tensor-parallel size."),
    click.option("--pp", type=int, default=1, show_default=True, help="Pipeline stages."),
    click.option("--dp", type=int, default=1, show_default=True, help="Data-parallel attention ranks in one replica."),
    click.option("--expert-parallel", is_flag=True, help="Spread experts over all GPUs of the replica."),
    click.option("--weights", "weight_dtype", help="Number format of the weights; as published if left out."),
    click.option("--kv", "kv_dtype", default="bf16", show_default=True, help="Number format of the KV cache."),
    click.option("--curves", metavar="FILE|perfdb", help="Measured kernels, before headway's own: `calibrate ops`."),
    calibration_option,
    click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="An engine setting: max_num_seqs=256."),
)


def choice_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that say what a replica is made of."""
    for option in reversed(_CHOICE_OPTIONS):
        command = option(command)
    return command


def choice_from(chosen: Mapping[str, Any]) -> Choice:
    """Return what those options chose; settings are read as YAML would: `true`, `256`, `0.9`.

    Raises:
        InputError: a setting without `=`, given twice, or with a value YAML does not know.
    """
    from headway.api.pools import Choice

    settings = {name: _setting(name, value) for name, value in pairs(chosen["settings"], "--set").items()}
    return Choice(**(dict(chosen) | {"settings": settings}))


def _setting(name: str, text: str) -> object:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise InputError(f"{text!r} is no value for {name}", place="--set") from None


def duration(_context: click.Context, option: click.Parameter, text: str | None) -> float | None:
    """Read a time with its unit, as a callback of an option."""
    return _quantity(text, "time", option.opts[0])


def _quantity(text: str | None, dimension: str, option: str) -> float | None:
    if text is None:
        return None
    try:
        return parse_quantity(text, dimension)
    except ValueError as error:
        raise InputError(str(error), place=option) from None


def examples(*lines: str) -> str:
    """Return examples as an epilog of a command's help, line for line: a backspace keeps click from filling them."""
    return "\n".join(("\b", "Examples:", *(f"  {line}" for line in lines)))


class ReaderGoneError(Exception):
    """Whoever read stdout has left. An exception of its own: click takes a broken pipe for success."""


def emit(text: str) -> None:
    """Write a result on stdout, all of it.

    Raises:
        ReaderGoneError: nobody reads it any more.
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise ReaderGoneError from None


def show(verb: str, result: T, page: Callable[[T], Page], *, as_json: bool) -> None:
    """Print a verb's result on stdout: as a page, or as its JSON document."""
    if as_json:
        from headway.api.documents import dumps

        emit(dumps(verb, result))
    else:
        from headway.cli.terminal import rendered

        emit(rendered(page(result)))


def write_out(directory: str | None, files: Callable[[], Mapping[str, bytes]]) -> None:
    """Write the files of `--out`, where it was given, and say so on stderr."""
    if directory is None:
        return
    from headway.api.folders import write_folder

    written = files()
    write_folder(directory, written)
    click.echo(f"wrote {directory}/: {', '.join(written)}", err=True)


def key_of(variable: str | None, file: str | None) -> Key | None:
    """Return the API key named by `--key-env` or `--key-file`.

    Raises:
        InputError: both are given, or there is none there.
    """
    if variable and file:
        raise InputError("one key: by --key-env or by --key-file", place="--key-file")
    if not variable and not file:
        return None
    from pathlib import Path

    from headway.probe.keys import Key

    return Key.from_environment(variable) if variable else Key.from_file(Path(str(file)))


def pairs(items: Iterable[str], option: str) -> dict[str, str]:
    """Split `NAME=VALUE` options.

    Raises:
        InputError: one has no `=`, or a name stands twice.
    """
    found: dict[str, str] = {}
    for item in items:
        name, sign, value = item.partition("=")
        if not sign or not name or name in found:
            problem = "stands twice" if name in found else "expected NAME=VALUE"
            raise InputError(f"{item!r}: {problem}", place=option)
        found[name] = value
    return found


@contextlib.contextmanager
def working(what: str) -> Iterator[None]:
    """Show on stderr that something takes its time; silent where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as display:
        display.add_task(what, total=None)
        yield
