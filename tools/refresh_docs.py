"""Run the commands that documentation pages show, and put what they print in place of what stood there.

    python tools/refresh_docs.py [--check] PAGE...

A block to be run is a `console` fence below `<!-- run -->`, with one command after `$ `; `<!-- run: 3-12 -->` shows
these lines of its output only, and says so by `…`. Commands run one after another in an empty folder per page, which
holds `examples/`, `tools/`, the recordings of ../shared/goldens as `goldens/`, and the traces of ../shared/traces by
their own names. `--check` changes nothing and fails where a page differs.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"
BLOCK = re.compile(r"(<!-- run(?:: (\d+)-(\d+))? -->\n```console\n\$ ([^\n]*)\n)(.*?)(```\n)", re.DOTALL)
WIDTH = "100"


def ready(folder: Path) -> None:
    """Put what the commands read into a folder."""
    for name, place in (("examples", ROOT), ("tools", ROOT), ("goldens", SHARED)):
        (folder / name).symlink_to(place / name)
    for trace in sorted(SHARED.glob("traces/*/*.*")):
        (folder / trace.name).symlink_to(trace)


def output_of(command: str, folder: Path) -> list[str]:
    """Return the lines a command prints, errors and all."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "COLUMNS": WIDTH}
    done = subprocess.run(
        command, shell=True, cwd=folder, env=environment, text=True, stdout=-1, stderr=subprocess.STDOUT, check=False
    )
    return [line.rstrip() for line in done.stdout.rstrip().splitlines()]


def excerpt(lines: list[str], first: str | None, last: str | None) -> str:
    """Return the lines to show, with a sign where some were left out."""
    if first is None or last is None:
        return "".join(f"{line}\n" for line in lines)
    start, end = int(first) - 1, int(last)
    shown = ["…"] * (start > 0) + lines[start:end] + ["…"] * (end < len(lines))
    return "".join(f"{line}\n" for line in shown)


def refreshed(text: str) -> str:
    """Return a page with the output of its commands as it is now."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ready(folder)

        def run(block: re.Match[str]) -> str:
            head, first, last, command, _, end = block.groups()
            return head + excerpt(output_of(command, folder), first, last) + end

        return BLOCK.sub(run, text)


def main() -> int:
    """Refresh or check the pages named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pages", nargs="+", type=Path)
    parser.add_argument("--check", action="store_true", help="only say what differs")
    args = parser.parse_args()
    stale = 0
    for page in args.pages:
        before = page.read_text(encoding="utf-8")
        after = refreshed(before)
        stale += before != after
        if args.check:
            sys.stdout.writelines(
                difflib.unified_diff(*(text.splitlines(keepends=True) for text in (before, after)), str(page))
            )
        else:
            page.write_text(after, encoding="utf-8")
    return int(args.check and stale > 0)


if __name__ == "__main__":
    sys.exit(main())
