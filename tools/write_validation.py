"""Write the figures of docs/validation from what `headway validate TABLE --out DIR` left in DIR.

    headway validate ../shared/measurements/measurements.csv --out /tmp/scorecard
    python tools/write_validation.py /tmp/scorecard [--check]

The page's prose is written by hand; the tables between `<!-- NAME -->` and `<!-- /NAME -->` and the two charts are
written here. `--check` changes nothing and fails where the page differs.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[1] / "docs" / "validation" / "index.md"
PICTURES = ("scatter.png", "residuals.png")
#: Slices shown of each axis: the largest.
SLICES = {"mode": 9, "region": 3, "engine": 9, "accelerator": 14, "family": 14, "precision": 9}
MAIN = {"ttft_s": "TTFT", "tpot_s": "TPOT", "output_tokens_per_s": "output tokens/s"}


def table(columns: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table; the first column is text, the others are figures."""
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def percent(frac: float | None, sign: str = "") -> str:
    """Return a share in percent."""
    return "–" if frac is None else f"{100 * frac:{sign}.1f} %"


def scorecard(found: dict[str, Any]) -> str:
    """Return the scores over all rows."""
    columns = ["metric", "rows", "predicted", "median error", "p90 error", "bias", "in the 90 % band"]
    rows = [
        [
            f"`{metric}`",
            f"{one['n_rows']:,}",
            percent(one["coverage_frac"]),
            percent(one["ape_median_frac"]),
            percent(one["ape_p90_frac"]),
            percent(one["bias_frac"], "+"),
            percent(one["band_coverage_frac"]),
        ]
        for metric, one in found["slices"]["all"].items()
    ]
    return table(columns, rows)


def aims(found: dict[str, Any]) -> str:
    """Return what was aimed at beside what is reached."""
    whole, offline = found["slices"]["all"], found["slices"].get("mode=offline", {})

    def errors(one: dict[str, Any], *, tail: bool = True) -> str:
        median = percent(one.get("ape_median_frac"))
        return f"{median} / {percent(one.get('ape_p90_frac'))}" if tail else median

    called = percent(found["ranking"]["same_load"]["called_frac"])
    bands = [percent(whole.get(metric, {}).get("band_coverage_frac")) for metric in MAIN]
    rows = [
        ["TPOT, median / p90 error", "9 % / 28 %", errors(whole.get("tpot_s", {}))],
        ["TTFT, median / p90 error", "20 % / 60 %", errors(whole.get("ttft_s", {}))],
        ["output tokens/s, offline rows, median", "7 %", errors(offline.get("output_tokens_per_s", {}), tail=False)],
        ["better of two called, same load", "93 %", called],
        ["90 % band holds: TTFT, TPOT, tokens/s", "85–95 %", ", ".join(bands)],
    ]
    return table(["figure", "aim", "reached"], rows)


def slices(found: dict[str, Any]) -> str:
    """Return median and p90 error of the largest slices of each axis."""
    names = [
        name
        for axis, most in SLICES.items()
        for name in [key for key in found["slices"] if key.startswith(f"{axis}=") and "," not in key][:most]
    ]
    rows = []
    for name in names:
        known = [found["slices"][name].get(metric) for metric in MAIN]
        cells = [
            f"{percent(one['ape_median_frac'])} / {percent(one['ape_p90_frac'])} ({one['n_rows']:,})" if one else "–"
            for one in known
        ]
        rows.append([name.replace("=", " ", 1), *cells])
    return table(["slice", *(f"{name}: median / p90 (rows)" for name in MAIN.values())], rows)


def ranking(found: dict[str, Any]) -> str:
    """Return how often the better of two is called."""
    kinds = {"any_load": "any load", "same_load": "asked with the same concurrency or rate"}
    rows = [
        [text, f"{one['pairs']:,}", percent(one["called_frac"])]
        for name, text in kinds.items()
        for one in [found["ranking"][name]]
    ]
    return table(["pairs of one publication, model and lengths", "pairs", "better one called"], rows)


def noise(found: dict[str, Any]) -> str:
    """Return the spread of configurations that were measured again."""
    rows = [
        [f"`{metric}`", f"{one['configurations']:,}", *(percent(one[f"{at}_frac"]) for at in ("p50", "p75", "p90"))]
        for metric, one in found["noise"].items()
    ]
    return table(["metric", "configurations", "p50", "p75", "p90"], rows)


def counts(found: dict[str, Any]) -> str:
    """Return what is wrong with rows, what could not be predicted and what was assumed, with counts."""
    kinds = {"findings": "in doubt", "refusals": "not predicted", "assumptions": "assumed"}
    rows = [[reason, kind, f"{number:,}"] for name, kind in kinds.items() for reason, number in found[name].items()]
    return table(["reason", "", "rows"], rows)


def worst(found: dict[str, Any]) -> str:
    """Return the worst rows, explained."""
    rows = [
        [
            f"{one['row']}: {one['about']}",
            f"{one['metric']}: {one['predicted']:.3g} for {one['measured']:.3g}",
            one["region"],
            ", ".join(f"{name} {percent(share)}" for name, share in list(one["parts"].items())[:3]),
            one["reason"],
        ]
        for one in found["worst"]
    ]
    return table(["row", "predicted for measured", "region", "of which", "likeliest reason"], rows)


BLOCKS = {
    "aims": aims,
    "scorecard": scorecard,
    "slices": slices,
    "ranking": ranking,
    "noise": noise,
    "counts": counts,
    "worst": worst,
}


def written(page: str, found: dict[str, Any]) -> str:
    """Return the page with its blocks written anew.

    Raises:
        ValueError: the page lacks a block.
    """
    for name, block in BLOCKS.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        page, times = pattern.subn(lambda match, block=block: f"{match[1]}{block(found)}\n{match[2]}", page)  # type: ignore[misc]
        if times != 1:
            raise ValueError(f"the page has {times} blocks {name!r}, expected one")
    return page


def main() -> int:
    """Write or check the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="what `headway validate --out` wrote")
    parser.add_argument("--check", action="store_true", help="only say whether the page differs")
    args = parser.parse_args()
    found = json.loads((args.folder / "validate.json").read_text(encoding="utf-8"))
    old = PAGE.read_text(encoding="utf-8")
    new = written(old, found)
    if args.check:
        print("the page is as the command says" if old == new else "the page is stale")
        return int(old != new)
    PAGE.write_text(new, encoding="utf-8")
    for name in PICTURES:
        (PAGE.parent / name).write_bytes((args.folder / name).read_bytes())
    print(f"wrote {PAGE.name} and {', '.join(PICTURES)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
