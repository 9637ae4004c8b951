"""A page and its charts as one HTML file: nothing beside it is needed, nothing is fetched, no script runs."""

from __future__ import annotations

import base64
from html import escape
from string import Template
from typing import TYPE_CHECKING

from headway.pictures.page import Commands, Lines, Table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headway.pictures.page import Page, Part

_PAGE = Template("""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.25rem; font-weight: 600; line-height: 1.4; }
h2 { font-size: 1rem; margin: 2rem 0 .5rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .75rem .25rem 0; text-align: left; vertical-align: top; white-space: pre-line; }
th { font-weight: 500; color: #666; border-bottom: 1px solid #bbb; }
td { border-bottom: 1px solid #eee; }
.r { text-align: right; white-space: pre; }
.note, footer { color: #666; font-size: .85rem; }
pre { overflow-x: auto; background: #f6f6f6; padding: .75rem; }
img { max-width: 100%; height: auto; }
</style>
</head>
<body>
<h1>$headline</h1>
$body
<footer>headway $version</footer>
</body>
</html>
""")


def report(page: Page, pictures: Mapping[str, tuple[str, bytes]], *, title: str) -> str:
    """Return a page with its pictures as HTML.

    Args:
        page: what is said.
        pictures: SVG by the title of the part it comes after, with the text that stands for it; those of no part
            stand at the end.
        title: of the browser's window.
    """
    from headway import __version__

    left = dict(pictures)
    pieces = []
    for part in page.parts:
        pieces.append(_part(part))
        if part.title in left:
            pieces.append(_picture(*left.pop(part.title)))
    pieces += [_picture(*picture) for picture in left.values()]
    return _PAGE.substitute(
        title=escape(title), headline=escape(page.headline), body="\n".join(pieces), version=escape(__version__)
    )


def _part(part: Part) -> str:
    head = f"<h2>{escape(part.title)}</h2>" if part.title else ""
    if isinstance(part, Table):
        return f"{head}\n{_table(part)}"
    if isinstance(part, Lines):
        return f"{head}\n<ul>{''.join(f'<li>{escape(line)}</li>' for line in part.lines)}</ul>"
    if isinstance(part, Commands):
        return f"{head}\n<pre>{escape(chr(10).join(part.commands))}</pre>"
    return ""  # a plot is the terminal's stand-in for a chart


def _table(table: Table) -> str:
    head = "".join(_cell("th", text, align) for text, align in zip(table.columns, table.align, strict=True))
    rows = "".join(
        f"<tr>{''.join(_cell('td', text, align) for text, align in zip(row, table.align, strict=True))}</tr>\n"
        for row in table.rows
    )
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead>\n<tbody>{rows}</tbody></table></div>{note}'


def _cell(tag: str, text: str, align: str) -> str:
    return f'<{tag} class="r">{escape(text)}</{tag}>' if align == "r" else f"<{tag}>{escape(text)}</{tag}>"


def _picture(alternative: str, svg: bytes) -> str:
    """A picture as an image of its own: ids inside one SVG never meet those of another."""
    data = base64.b64encode(svg).decode("ascii")
    return f'<p><img alt="{escape(alternative)}" src="data:image/svg+xml;base64,{data}"></p>'
