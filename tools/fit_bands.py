"""Learn error bands from predictions of measurements, each made by constants that never saw its group.

    python tools/fit_bands.py ../shared/measurements/measurements.csv                    # replays the table first
    python tools/fit_bands.py ../shared/measurements/measurements.csv --rows card/rows.csv

`rows.csv` is what `headway validate TABLE --out card` writes. The result is `src/headway/perf/data/bands.json`
(`headway.perf.bands` says how it is read); the coverage of the bands, each row's by a set without its fold, is printed.

Split conformal prediction, by cell (Mondrian): with residuals r = log(measured / predicted), an edge at a one-sided
confidence u is the least r below which a share u of the weights lies, one more residual at infinity counted with them
(the finite-sample correction n + 1). A group of rows weighs as many rows as it has, `MOST_ROWS` at most, so that one
large publication does not decide. A cell is kept where every edge is finite and `LEAST_GROUPS` groups stand in it; a
metric's own cell always is, its outermost edges then those of the residuals.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from headway.perf import bands
from headway.perf.corrections import group_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from headway.types import Pool

CONFIDENCES = (0.5, 0.8, 0.9, 0.95)
MOST_ROWS = 50
LEAST_GROUPS = 8
FOLDS = 5
FILE = Path(__file__).parents[1] / "src" / "headway" / "perf" / "data" / "bands.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Residual:
    """One figure of one row, predicted by constants that never saw its group."""

    metric: str
    log: float  # of measured / predicted
    likeness: str  # what was measured of its kind, its own fold left out
    region: str
    serving: str
    group: str
    fold: int
    axes: Mapping[str, str]
    pool: Pool | None = None

    @property
    def cells(self) -> tuple[str, ...]:
        """Every cell it stands in."""
        return bands.cells(self.metric, self.likeness, self.region, self.serving)


# --- the fit --------------------------------------------------------------------------------------------


def weights(groups: Sequence[str]) -> np.ndarray:
    """Return the weight of each row: 1, less where its group has more than `MOST_ROWS`."""
    sizes = Counter(groups)
    return np.array([min(1.0, MOST_ROWS / sizes[group]) for group in groups])


def upper_edge(logs: np.ndarray, weight: np.ndarray, share: float) -> float:
    """Return the conformal quantile: infinite where there are too few residuals to say."""
    order = np.argsort(logs, kind="stable")
    below = np.cumsum(weight[order]) / (weight.sum() + 1.0)
    at = int(np.searchsorted(below, share - 1e-12))
    return float(logs[order][at]) if at < len(logs) else math.inf


def fit_cell(residuals: Sequence[Residual], *, always: bool) -> list[float] | None:
    """Return [rows, groups, low edges, high edges], or None where they are too few."""
    logs = np.array([r.log for r in residuals])
    weight = weights([r.group for r in residuals])
    groups = len({r.group for r in residuals})
    shares = [(1 + c) / 2 for c in CONFIDENCES]
    low = [-upper_edge(-logs, weight, share) for share in shares]
    high = [upper_edge(logs, weight, share) for share in shares]
    if not all(map(math.isfinite, (*low, *high))) or groups < LEAST_GROUPS:
        if not always:
            return None
        low, high = [max(e, float(logs.min())) for e in low], [min(e, float(logs.max())) for e in high]
    return [len(residuals), groups, *(round(min(e, 0.0), 4) for e in low), *(round(max(e, 0.0), 4) for e in high)]


def fit(residuals: Iterable[Residual]) -> dict[str, list[float]]:
    """Return the edges of every cell with enough residuals."""
    by_cell: dict[str, list[Residual]] = defaultdict(list)
    for residual in residuals:
        for name in residual.cells:
            by_cell[name].append(residual)
    fitted = {name: fit_cell(members, always="|" not in name) for name, members in sorted(by_cell.items())}
    return {name: edges for name, edges in fitted.items() if edges is not None}


# --- residuals ------------------------------------------------------------------------------------------


def replayed(table: str, rows: str | None) -> list[dict[str, str]]:
    """Return the lines of `rows.csv`; the table is replayed where there are none yet."""
    if rows is not None:
        return list(csv.DictReader(Path(rows).read_text(encoding="utf-8").splitlines()))
    from headway.api.validations import rows_csv, validate

    def progress(done: int, of: int) -> None:
        sys.stderr.write(f"\r{done} of {of} rows")

    return list(csv.DictReader(rows_csv(validate(table, progress=progress)).splitlines()))


def residuals_of(
    table: str, lines: Iterable[Mapping[str, str]]
) -> tuple[list[Residual], dict[str, str], dict[str, int]]:
    """Return the residuals, the folds every kind of deployment was measured in, and the fold of each group."""
    from headway.catalog import load
    from headway.validation.configuration import configure
    from headway.validation.reader import read_table

    catalog = load()
    rows = {one.row: one for one in read_table(table).measurements}
    lines = [line for line in lines if line["predicted"] and line["row"] in rows]
    configured = {name: configure(rows[name], catalog) for name in dict.fromkeys(line["row"] for line in lines)}
    pools = {name: one.pool for name, one in configured.items()}
    folds: dict[str, set[int]] = defaultdict(set)
    for name, pool in pools.items():
        for key in bands.kin(pool):
            folds[key].add(rows[name].fold)
    found = [
        Residual(
            metric=bands.kind_of(*bands.figure_of(line["metric"])),
            log=math.log(float(line["measured"]) / float(line["predicted"])),
            likeness=_likeness(pools[line["row"]], folds, rows[line["row"]].fold),
            region=line["region"],
            serving=bands.serving_of(pools[line["row"]], unclear=configured[line["row"]].is_unclear),
            group=line["group"],
            fold=rows[line["row"]].fold,
            axes={"metric": line["metric"], **{a: line[a] for a in ("region", "engine", "accelerator", "mode")}},
            pool=pools[line["row"]],
        )
        for line in lines
        if 0 < float(line["predicted"]) < math.inf
    ]
    groups = {group_name(rows[name].group): rows[name].fold for name in pools}
    return found, {key: "".join(map(str, sorted(at))) for key, at in sorted(folds.items())}, groups


def _likeness(pool: Pool, folds: Mapping[str, set[int]], fold: int) -> str:
    known = (name for name, key in zip(bands.LIKENESSES, bands.kin(pool), strict=False) if folds[key] - {fold})
    return next(known, bands.LIKENESSES[-1])


# --- the document ---------------------------------------------------------------------------------------


def document(
    residuals: Sequence[Residual], measured: Mapping[str, str], groups: Mapping[str, int], *, table: str, as_of: str
) -> dict[str, Any]:
    """Return what is stored."""
    sets = {"all": fit(residuals)} | {str(k): fit(r for r in residuals if r.fold != k) for k in range(FOLDS)}
    return {
        "about": "quantiles of log(measured / predicted) by cell: [rows, groups, low edges, high edges]",
        "source": f"{Path(table).name}, replayed by headway validate; {Path(__file__).name}",
        "as_of": as_of,
        "rows": len({id(r.pool) for r in residuals}),
        "residuals": len(residuals),
        "confidences": list(CONFIDENCES),
        "groups": dict(sorted(groups.items())),
        "measured": measured,
        "sets": sets,
    }


def text_of(found: Mapping[str, Any]) -> str:
    """Return the document as JSON, a cell a line."""
    text = json.dumps(found, indent=1, ensure_ascii=False)
    for cells in found["sets"].values():
        for edges in cells.values():
            text = text.replace(json.dumps(edges, indent=1).replace("\n", "\n   "), json.dumps(edges), 1)
    return text + "\n"


# --- coverage -------------------------------------------------------------------------------------------


def inside(residual: Residual) -> bool:
    """Return whether the 90 % band of a set without its fold holds a residual."""
    assert residual.pool is not None
    region: Any = residual.region
    found = bands.band_named(
        residual.axes["metric"],
        residual.pool,
        region=region,
        fold=residual.fold,
        unclear=residual.serving == "unclear",
    )
    return math.log1p(found.low_frac) - 1e-9 <= residual.log <= math.log1p(found.high_frac) + 1e-9


def report(residuals: Sequence[Residual], write: Callable[[str], Any] = sys.stdout.write) -> None:
    """Print the coverage overall and by axis."""
    held = [(residual, inside(residual)) for residual in residuals]
    axes: dict[str, Callable[[Residual], str]] = {
        "all": lambda _: "",
        "metric": lambda r: r.axes["metric"],
        "likeness": lambda r: r.likeness,
        **{name: (lambda r, name=name: r.axes[name]) for name in ("region", "mode", "engine", "accelerator")},  # type: ignore[misc]
    }
    for axis, of in axes.items():
        found: dict[str, list[bool]] = defaultdict(list)
        for residual, ok in held:
            found[of(residual)].append(ok)
        for name, oks in sorted(found.items(), key=lambda item: (-len(item[1]), item[0])):
            write(f"{axis:12} {name:34} {len(oks):6,} {100 * sum(oks) / len(oks):5.1f} %\n")


def main() -> None:
    """Fit, store, and print the coverage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table")
    parser.add_argument("--rows", help="what `headway validate TABLE --out` wrote")
    parser.add_argument("--date", default=datetime.now(UTC).date().isoformat(), help="of the fit; today unless said")
    given = parser.parse_args()
    residuals, measured, groups = residuals_of(given.table, replayed(given.table, given.rows))
    FILE.write_text(
        text_of(document(residuals, measured, groups, table=given.table, as_of=given.date)), encoding="utf-8"
    )
    bands.stored.cache_clear()
    report(residuals)


if __name__ == "__main__":
    main()
