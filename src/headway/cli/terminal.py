"""Shows a page in a terminal, or as plain text where there is none: no colour, no figure ever cut."""

from __future__ import annotations

import os
import shutil
import sys
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from headway.pictures.page import Commands, Lines, Page, Plot, Table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import IO

    from rich.console import RenderableType

    from headway.pictures.page import Part

#: Columns where nothing says how wide the output is.
PLAIN_WIDTH = 100

_BLOCKS = "▁▂▃▄▅▆▇█"


def console(file: IO[str] | None = None) -> Console:
    """Return a console as wide as the terminal (or `COLUMNS`, or 100), coloured only on a terminal."""
    file = file or sys.stdout
    width = shutil.get_terminal_size().columns if file.isatty() else int(os.environ.get("COLUMNS") or PLAIN_WIDTH)
    return Console(file=file, width=max(width, 40), highlight=False, emoji=False, markup=False)


def rendered(page: Page, file: IO[str] | None = None) -> str:
    """Return a page as it is printed on that stream (stdout if None)."""
    out = console(file)
    with out.capture() as printed:
        out.print(Text(page.headline, style="bold"))
        for part in page.parts:
            for piece in _pieces(part, out.width):
                _print(out, piece)
    return "".join(f"{line.rstrip()}\n" for line in printed.get().splitlines())


def _print(out: Console, piece: RenderableType) -> None:
    """Print one piece; a table wider than the terminal runs over its edge, as a cut figure would be a wrong one."""
    width = out.width
    out.width = _needed(piece, width)
    out.print(piece, crop=False, soft_wrap=isinstance(piece, Text) and bool(piece.no_wrap))
    out.width = width


def _pieces(part: Part, width: int) -> Iterator[RenderableType]:
    yield Text()
    if part.title:
        yield Text(part.title, style="bold cyan")
    if isinstance(part, Table):
        yield _grid(part)
        if part.note:
            yield Text(part.note, style="dim")
    elif isinstance(part, Lines):
        yield _listed(part.lines)
    elif isinstance(part, Commands):
        yield Text("\n".join(part.commands), no_wrap=True, overflow="ignore")
    else:
        yield _plotted(part, width)


def _grid(table: Table) -> Grid:
    grid = Grid(
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        show_header=any(table.columns),
        padding=(0, 1, 0, 0),
        header_style="dim",
    )
    for index, (name, align) in enumerate(zip(table.columns, table.align, strict=True)):
        if align == "r":
            grid.add_column(name, justify="right", no_wrap=True, min_width=_widest(table, index))
        else:
            grid.add_column(name, overflow="fold", min_width=min(_widest(table, index), 12))
    for row in table.rows:
        grid.add_row(*(Text(cell) for cell in row))
    return grid


def _widest(table: Table, index: int) -> int:
    cells = (table.columns[index], *(row[index] for row in table.rows))
    return max(len(line) for cell in cells for line in (cell.splitlines() or [""]))


def _listed(lines: Sequence[str]) -> Grid:
    grid = Grid.grid(padding=(0, 1))
    grid.add_column()
    grid.add_column(overflow="fold")
    for line in lines:
        grid.add_row("•", Text(line))
    return grid


def _needed(piece: RenderableType, width: int) -> int:
    """The width a piece needs to show every figure whole, at least the terminal's."""
    if not isinstance(piece, Grid):
        return width
    least = sum(column.min_width or 1 for column in piece.columns)
    return max(width, least + 3 * len(piece.columns))


def _plotted(plot: Plot, width: int) -> Grid:
    """A row of blocks per series, between its least and most value; time runs to the right."""
    labels = max(len(f"{name}{low}{high}") for name, _, low, high in plot.series)
    columns = max(width - labels - 6, 20)
    grid = Grid.grid(padding=(0, 1))
    for name, values, low, high in plot.series:
        grid.add_row(name, Text(low, justify="right"), Text(_blocks(values, columns), style="cyan"), high)
    grid.add_row("", "", f"{plot.start}{plot.end:>{columns - len(plot.start)}}", "")
    return grid


def _blocks(values: Sequence[float], columns: int) -> str:
    """Draw values as blocks; where several share a column, the highest is shown, so that no peak is lost."""
    n = len(values)
    if not n:
        return ""
    peaks = [max(values[i * n // columns : max((i + 1) * n // columns, i * n // columns + 1)]) for i in range(columns)]
    low, high = min(*values, 0), max(values)
    span = (high - low) or 1
    return "".join(_BLOCKS[min(int(8 * (v - low) / span), 7)] for v in peaks)
