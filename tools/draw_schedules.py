"""Draw recorded schedules, and print what they add up to.

    python tools/draw_schedules.py timeline FILE -o OUT.svg [--from-step N] [--steps N] [--line]
    python tools/draw_schedules.py storm FILE [FILE...] -o OUT.svg
    python tools/draw_schedules.py flight FILE [FILE...] -o OUT.svg [--from-ms T] [--to-ms T]
    python tools/draw_schedules.py table FILE [FILE...] [--figures NAME,NAME...]
    python tools/draw_schedules.py docs FOLDER

FILE is a schedule as the recordings of real engines and `headway simulate --record` have it, plain or gzip-compressed.
`docs` draws the pictures of docs/concepts/scheduler.md from a folder of recordings.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from schedule_charts import flight, storm, timeline
from schedule_facts import FIGURES, read, table

from headway.errors import HeadwayError, InputError
from headway.pictures.files import png, svg

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure

PICTURES = Path(__file__).parents[1] / "docs" / "concepts" / "pictures"

#: The pictures of docs/concepts/scheduler.md, as arguments; a recording is named without folder and ending.
DOCS = {
    "scheduler-timeline": "timeline budget_chunked --from-step 27 --steps 48",
    "scheduler-head-of-line": "timeline aborts_sync --from-step 430 --steps 39 --line",
    "scheduler-storm": "storm kv_thrash kv_thrash_prefix_cache kv_thrash_watermark",
    "scheduler-async": "flight basic_low_load async_low_load async_low_load_eos --from-ms 126 --to-ms 204",
}


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    top = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = top.add_subparsers(dest="verb", required=True)
    verb = {name: verbs.add_parser(name) for name in ("timeline", "storm", "flight", "table", "docs")}
    verb["timeline"].add_argument("files", nargs=1, metavar="FILE")
    verb["timeline"].add_argument("--from-step", type=int, default=0, help="first batch drawn")
    verb["timeline"].add_argument("--steps", type=int, default=60, help="how many batches")
    verb["timeline"].add_argument("--line", action="store_true", help="the waiting line, and its blocks")
    for name in ("storm", "flight", "table"):
        verb[name].add_argument("files", nargs="+", metavar="FILE")
    verb["flight"].add_argument("--from-ms", type=float, default=0.0, help="begin of the window")
    verb["flight"].add_argument("--to-ms", type=float, default=100.0, help="end of the window")
    verb["table"].add_argument("--figures", default=",".join(FIGURES), help="which figures, by name")
    verb["docs"].add_argument("folder", type=Path)
    for name in ("timeline", "storm", "flight"):
        verb[name].add_argument("-o", "--out", type=Path, required=True, help="OUT.svg or OUT.png")
    return top


def drawn(args: argparse.Namespace) -> Figure:
    """Return the picture that was asked for."""
    recordings = [read(file) for file in args.files]
    if args.verb == "storm":
        return storm(recordings)
    if args.verb == "flight":
        if not args.from_ms < args.to_ms:
            raise InputError(f"expected more than --from-ms, {args.from_ms:g}; got {args.to_ms:g}", place="--to-ms")
        return flight(recordings, args.from_ms, args.to_ms)
    count = len(recordings[0].rows.steps)
    if not 0 <= args.from_step < count:
        raise InputError(f"no batch {args.from_step}; the recording has {count}, from 0", place="--from-step")
    if args.line and recordings[0].rows.meta["kv_groups"]:
        raise InputError("the layers have several KV groups: what the head needs is not one number", place="--line")
    if args.steps < 1:
        raise InputError(f"expected 1 or more, got {args.steps}", place="--steps")
    return timeline(recordings[0], args.from_step, args.steps, line=args.line)


def save(figure: Figure, path: Path) -> None:
    """Write a picture as its name's ending says, whole or not at all."""
    form = {".svg": svg, ".png": png}.get(path.suffix)
    if form is None:
        raise InputError(f"cannot draw {path.suffix or 'a file without ending'!r}", file=path, hint="use .svg or .png")
    part = path.with_name(path.name + ".part")
    part.write_bytes(form(figure))
    part.replace(path)


def draw_docs(folder: Path) -> None:
    """Draw the pictures of the documentation."""
    PICTURES.mkdir(exist_ok=True)
    for name, line in DOCS.items():
        args = parser().parse_args([*line.split(), "-o", str(PICTURES / f"{name}.svg")])
        args.files = [folder / f"{file}.jsonl.gz" for file in args.files]
        save(drawn(args), args.out)


def main(argv: Sequence[str] | None = None) -> int:
    """Draw or print; return the exit status."""
    args = parser().parse_args(argv)
    try:
        if args.verb == "docs":
            draw_docs(args.folder)
        elif args.verb == "table":
            print(table([read(file) for file in args.files], args.figures.split(",")))
        else:
            save(drawn(args), args.out)
    except HeadwayError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
