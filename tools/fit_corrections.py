"""Fit the corrections of whole steps to a table of measurements, and write `perf/data/corrections.json`.

    python tools/fit_corrections.py MEASUREMENTS.csv [--observations FILE] [--half 0|1] [--dry]

Every row is replayed under the stored corrections, and again with each part of a step a tenth slower, which says how
much its TTFT, its TPOT and its output tokens per second depend on that part; the host's and the front end's shares
follow from the sequences in flight. The logarithm of measured / replayed is
then a linear function of the effects (`perf/corrections.py`), with weights that tell outliers from the rest:

    log(measured / replayed) = Σ_part sensitivity · Σ_level effect(level, key, part) + group + noise

Effects are Gaussian around zero with a standard deviation per level and part; the group term, one for each publication,
hardware, engine, version, model, format and metric, is what one series of measurements has for itself: it keeps a
long series from being taken for many independent ones. The solution is the ridge regression these priors make (the best
linear unbiased prediction of a mixed model). The standard deviations are stated, not fitted (`PRIOR`): chosen by
cross-validation, they fitted the groups at hand better and others worse than no correction at all.

That is done six times: on all rows, and with each fold of groups left out. Run again after the corrections have been
written, it linearises where they are (a Gauss–Newton step).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import pickle
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from headway import catalog
from headway.errors import HeadwayError
from headway.perf.corrections import LEVELS, PARTS, Correction, group_name, levels
from headway.validation.checks import repeats
from headway.validation.configuration import configure
from headway.validation.executing import execute
from headway.validation.loads import seed_of
from headway.validation.measurements import FOLDS, Measurement
from headway.validation.predicting import told
from headway.validation.reader import read_table
from headway.validation.replaying import calibrated, replay

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from headway.validation.configuration import Configured

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

TARGET = Path(__file__).parents[1] / "src/headway/perf/data/corrections.json"

#: metric -> the noise of one row (standard deviation of a logarithm), the scale beyond which an error counts less
METRICS = {"tpot_s": (0.06, 0.10), "ttft_s": (0.15, 0.20), "output_tokens_per_s": (0.08, 0.10)}
GROUP_SD = 0.15
_KINDS = ("engine", "accelerator, engine", "format", "family", "family, engine")
#: part -> level -> the standard deviation of an effect before anything was measured: a few per cent for what kernels
#: were timed for, more for prompts (whose shapes vary most), much for the host's and the front end's assumed times
PRIOR = {
    "base": dict.fromkeys((*_KINDS, "version", "model", "model, engine", "model, accelerator, engine"), 0.03),
    "batch": dict.fromkeys(_KINDS, 0.05),
    "prefill": {
        **dict.fromkeys(("role", "engine", "family", "family, engine"), 0.1),
        **dict.fromkeys(("accelerator, engine", "format", "model"), 0.05),
    },
    "sequence": dict.fromkeys(("engine", "minor version"), 0.5),
    "frontend": {
        **dict.fromkeys(("role", "engine"), 0.5),
        **dict.fromkeys(("accelerator, engine", "minor version", "family, engine"), 0.3),
    },
}
_NUDGE = 0.1
_PROBED = ("base", "batch", "prefill")


@dataclass(frozen=True, slots=True)
class Observation:
    """One figure of one row: what is left to explain, and what it depends on."""

    row: str
    metric: str
    group: tuple[str, ...]
    fold: int
    levels: dict[str, str]
    gpus: int
    left: float  # log(measured / replayed) + what the corrections it was replayed with explain
    parts: tuple[float, ...]  # d log(figure) / d log-factor, in the order of PARTS


# --- replays ---------------------------------------------------------------------------------------------------


def observe(row: Measurement) -> list[Observation]:
    """Replay one row as it is and with each part slower; none where it cannot be replayed."""
    one = configure(row, _catalog())
    measured = told(row, one)
    try:
        plain = replay(one, seed=seed_of(row.row), fold=None)
        slower = {
            part: replay(one, seed=seed_of(row.row), fold=None, nudge=Correction(**{f"{part}_log": _NUDGE})).figures
            for part in _PROBED
        }
    except HeadwayError:
        return []
    pool, found = one.pool, []
    constants = calibrated(pool, None)
    for metric in METRICS:
        statistics = measured.get(metric, {})
        name = next((name for name in ("p50", "mean") if statistics.get(name, 0) > 0), None)
        figure = plain.figures.get(metric, {}).get(name or "", math.nan)
        if name is None or not (math.isfinite(figure) and figure > 0):
            continue
        by = {part: math.log(slower[part][metric][name] / figure) / _NUDGE for part in _PROBED}
        shares = pool.parallelism.pp * pool.parallelism.dp
        waiting_s = plain.occupancy.in_flight / shares * constants.sequence_fixed_s
        step_s = plain.figures["tpot_s"]["p50"]
        share = min(waiting_s / step_s, 1.0) if step_s > 0 else 0.0
        by["sequence"] = {"tpot_s": share, "ttft_s": 0.0, "output_tokens_per_s": -share}[metric]
        by["frontend"] = min(constants.frontend_s / figure, 1.0) if metric == "ttft_s" else 0.0
        by["spread"] = by["base"] * (math.log2(pool.parallelism.gpus) - 2) / 2
        there = sum(by[part] * getattr(constants.correction, f"{part}_log") for part in PARTS if part != "spread")
        parts = tuple(by[part] for part in PARTS)
        left = math.log(statistics[name] / figure) + there
        about = (row.row, metric, row.group, row.fold, levels_of(one), pool.parallelism.gpus)
        found.append(Observation(*about, left=left, parts=parts))
    return found


def levels_of(one: Configured) -> dict[str, str]:
    """Return a row's levels; a version nobody stated is no evidence about the one it is replayed as."""
    found = levels(one.pool)
    if any(said.code == "version_unknown" for said in one.assumptions):
        found |= {"version": "not stated", "minor version": "not stated"}
    return found


@cache
def _catalog() -> catalog.Catalog:
    return catalog.load()


# --- the regression --------------------------------------------------------------------------------------------


class Problem:
    """All observations, summed up by configuration so that a fit costs what its effects cost, not its rows.

    A configuration is a set of levels' keys; its observations share one vector of log-factors θ = Σ_level effect.
    """

    def __init__(self, seen: Sequence[Observation]) -> None:
        self.seen = seen
        self.left = np.array([one.left for one in seen])
        self.parts = np.array([one.parts for one in seen])
        self.noise = np.array([METRICS[one.metric][0] for one in seen])
        self.scale = np.array([METRICS[one.metric][1] for one in seen])
        self.of, configurations = _numbered([tuple(one.levels[level] for level in LEVELS) for one in seen])
        self.series, _ = _numbered([(one.group, one.levels["model"], one.levels["format"], one.metric) for one in seen])
        self.keys: list[tuple[int, str]] = sorted({(a, keys[a]) for keys in configurations for a in range(len(LEVELS))})
        place = {key: k for k, key in enumerate(self.keys)}
        self.effects = np.array([[place[a, keys[a]] for a in range(len(LEVELS))] for keys in configurations])
        self.level = np.array([a for a, _ in self.keys])
        self.share = 1 / np.sqrt(np.bincount(self.series))[self.series]  # of a row in how well a fit predicts
        self.restart()

    def restart(self) -> None:
        """Take no row or series for an outlier."""
        self.weight = np.ones(len(self.seen))
        self.variance = np.full(self.series.max() + 1, GROUP_SD**2)

    def solve(self, use: NDArray[np.bool_], sd: Floats, *, rounds: int = 1) -> Floats:
        """Return the effects, (keys, parts), fitted to the observations used.

        Each round, rows and whole series that lie far out weigh less (both have heavy tails: Student's t).
        """
        effects = np.zeros((len(self.keys), len(PARTS)))
        for _ in range(rounds):
            effects = self._once(use, sd)
            error = self.left - self.predicted(effects)
            mean = self._series_mean(use, error)
            self.variance = GROUP_SD**2 + mean**2
            self.weight = 1 / (1 + ((error - mean[self.series]) / (2 * self.noise)) ** 2)
        return effects

    def _once(self, use: NDArray[np.bool_], sd: Floats) -> Floats:
        precision = np.where(use, self.weight / self.noise**2, 0.0)
        weighted = self.parts * precision[:, None]
        shrink = self.variance / (1 + self.variance * np.bincount(self.series, precision))
        count, parts = len(self.effects), len(PARTS)
        square, right = np.zeros((count, parts, parts)), np.zeros((count, parts))
        np.add.at(square, self.of, weighted[:, :, None] * self.parts[:, None, :])
        np.add.at(right, self.of, weighted * self.left[:, None])
        # each series of one configuration has an intercept of its own, taken out here
        pair = self.series * count + self.of
        pairs, inverse = np.unique(pair, return_inverse=True)
        sums = np.zeros((len(pairs), parts))
        np.add.at(sums, inverse, weighted)
        total = np.bincount(self.series, precision * self.left)
        series, where = pairs // count, pairs % count
        return self._normal(square, right, sums, series, where, shrink, total, sd)

    def _normal(
        self,
        square: Floats,
        right: Floats,
        sums: Floats,
        series: Ints,
        where: Ints,
        shrink: Floats,
        total: Floats,
        sd: Floats,
    ) -> Floats:
        """Assemble and solve the normal equations in the effects that have a prior above zero."""
        scale = sd[self.level]  # (keys, parts)
        index = np.full(scale.shape, -1)
        active = scale > 0
        index[active] = np.arange(active.sum())
        size = int(active.sum())
        columns = index[self.effects]  # (configurations, levels, parts)
        scales = scale[self.effects]
        matrix, vector = np.zeros((size + 1, size + 1)), np.zeros(size + 1)
        for c in range(len(self.effects)):
            at, s = columns[c].ravel(), scales[c].ravel()
            block = np.tile(square[c], (len(LEVELS), len(LEVELS))) * s[:, None] * s[None, :]
            matrix[np.ix_(at, at)] += block
            vector[at] += np.tile(right[c], len(LEVELS)) * s
        spans = np.zeros((len(shrink), size + 1))
        for k in range(len(where)):
            at, s = columns[where[k]].ravel(), scales[where[k]].ravel()
            np.add.at(spans[series[k]], at, np.tile(sums[k], len(LEVELS)) * s)
        matrix -= spans.T @ (spans * shrink[:, None])
        vector -= spans.T @ (shrink * total)
        matrix, vector = matrix[:size, :size], vector[:size]
        matrix[np.diag_indices(size)] += 1.0
        effects = np.zeros(scale.shape)
        if size:
            effects[active] = np.linalg.solve(matrix, vector) * scale[active]
        return effects

    def _series_mean(self, use: NDArray[np.bool_], error: Floats) -> Floats:
        precision = np.where(use, self.weight / self.noise**2, 0.0)
        sums = np.bincount(self.series, precision)
        return np.asarray(self.variance * np.bincount(self.series, precision * error) / (1 + self.variance * sums))

    def predicted(self, effects: Floats) -> Floats:
        """Return what the effects explain of each observation."""
        theta = effects[self.effects].sum(axis=1)
        return np.asarray((theta[self.of] * self.parts).sum(axis=1))

    def loss(self, error: Floats, use: NDArray[np.bool_]) -> float:
        """Return how bad errors are: one twice as far out costs little more; long series count as their root."""
        return float(np.average(np.log1p((error[use] / self.scale[use]) ** 2), weights=self.share[use]))


def _numbered(keys: Sequence[Any]) -> tuple[Ints, list[Any]]:
    found: dict[Any, int] = {}
    numbers = np.array([found.setdefault(key, len(found)) for key in keys], np.int64)
    return numbers, list(found)


def _part(group: Sequence[str], salt: str, number: int) -> int:
    return int(hashlib.sha256("\x1f".join((salt, *group)).encode()).hexdigest(), 16) % number


def cross_validated(problem: Problem, use: NDArray[np.bool_], sd: Floats, parts: Ints) -> Floats:
    """Return errors, each from a fit without its part."""
    error = np.zeros(len(problem.left))
    for part in np.unique(parts[use]):
        out = parts == part
        error[out] = (problem.left - problem.predicted(problem.solve(use & ~out, sd)))[out]
    return error


def prior() -> Floats:
    """Return the standard deviations of all effects, (levels, parts)."""
    sd = np.zeros((len(LEVELS), len(PARTS)))
    for part, by_level in PRIOR.items():
        for level, size in by_level.items():
            sd[LEVELS.index(level), PARTS.index(part)] = size
    return sd


# --- the file --------------------------------------------------------------------------------------------------


def fitted(problem: Problem, use: NDArray[np.bool_]) -> dict[str, Any]:
    """Fit, and return the fit as stored."""
    sd = prior()
    problem.restart()
    effects = problem.solve(use, sd, rounds=3)
    rows: list[set[str]] = [set() for _ in problem.keys]
    for k in np.flatnonzero(use):
        for place in problem.effects[problem.of[k]]:
            rows[place].add(problem.seen[k].row)
    by_level: dict[str, dict[str, list[float]]] = {}
    for (level, key), seen, logs in zip(problem.keys, rows, effects, strict=True):
        if seen:
            by_level.setdefault(LEVELS[level], {})[key] = [len(seen), *(_short(float(log)) for log in logs)]
    scale = {LEVELS[a]: [_short(float(x)) for x in sd[a]] for a in range(len(LEVELS)) if sd[a].any()}
    groups = sorted({group_name(problem.seen[k].group) for k in np.flatnonzero(use)})
    return {"groups": groups, "sd": scale, "effects": by_level}


def _short(value: float) -> float:
    """Return three digits behind the point: a thousandth of a logarithm is a tenth of a percent."""
    rounded = round(value, 3)
    return rounded or 0


def report(problem: Problem, error: Floats, name: str) -> dict[str, list[float]]:
    """Print and return [rows, median APE, p90 APE, bias] by metric."""
    found = {}
    for metric in METRICS:
        of = np.array([one.metric == metric for one in problem.seen])
        signed = np.expm1(-error[of])
        figures = [float(x) for x in (np.median(np.abs(signed)), np.quantile(np.abs(signed), 0.9), np.median(signed))]
        found[metric] = [int(of.sum()), *(round(x, 4) for x in figures)]
        median, ninth, bias = figures
        print(f"{name:25s} {metric:20s} n {of.sum():5d}  median {median:6.1%}  p90 {ninth:6.1%}  bias {bias:+6.1%}")
    return found


def leave_out(problem: Problem, name: str, keys: Sequence[str]) -> dict[str, list[float]]:
    """Score with each of these left out in turn, whole."""
    parts, _ = _numbered(keys)
    problem.restart()
    everything = np.ones(len(problem.left), bool)
    problem.solve(everything, prior(), rounds=3)
    return report(problem, cross_validated(problem, everything, prior(), parts), f"leave one {name} out")


def write(document: dict[str, Any], path: Path) -> None:
    """Write the file, one effect on a line."""
    text = json.dumps(document, indent=1, sort_keys=True)
    text = re.sub(r"\[([^\[\]]*)\]", lambda found: "[" + " ".join(found[1].split()) + "]", text)
    fresh = path.with_suffix(".new")
    fresh.write_text(text + "\n", encoding="utf-8")
    fresh.replace(path)


def main() -> None:
    """Observe, fit, say how good it is, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path)
    parser.add_argument("--observations", type=Path, help="keep the replays here, or take them from there")
    parser.add_argument("--half", type=int, default=0, choices=(0, 1), help="which half of the rows is replayed")
    parser.add_argument("--dry", action="store_true", help="write nothing")
    args = parser.parse_args()
    kept = fair_rows(read_table(args.table).measurements)
    seen = [one for one in observations(args.table, args.observations, args.half) if one.row in kept]
    problem = Problem(seen)
    everything = np.ones(len(seen), bool)
    report(problem, problem.left, "uncorrected")
    fits, error = {"all": fitted(problem, everything)}, np.zeros(len(seen))
    folds = np.array([one.fold for one in seen])
    for fold in range(FOLDS):
        fits[str(fold)] = fitted(problem, folds != fold)
        error[folds == fold] = (problem.left - problem.predicted(_stored(problem, fits[str(fold)])))[folds == fold]
    scores = {
        "uncorrected": report(problem, problem.left, "uncorrected"),
        "groups left out": report(problem, error, "groups left out"),
        "model left out": leave_out(problem, "model", [one.levels["model"] for one in seen]),
        "accelerator left out": leave_out(problem, "accelerator", [one.group[1] for one in seen]),
        "source left out": leave_out(problem, "source", [one.group[0] for one in seen]),
    }
    if not args.dry:
        groups = {group_name(one.group): one.fold for one in seen}
        about = {"version": 1, "fitted": f"{datetime.now(UTC):%Y-%m-%d}", "rows": len({one.row for one in seen})}
        write({**about, "parts": list(PARTS), "scores": scores, "groups": groups, "fits": fits}, TARGET)


def _stored(problem: Problem, fit: dict[str, Any]) -> Floats:
    """Return a stored fit's effects, by place."""
    nothing = [0] * (1 + len(PARTS))
    return np.array([fit["effects"].get(LEVELS[a], {}).get(key, nothing)[1:] for a, key in problem.keys], float)


def fair_rows(rows: Sequence[Measurement]) -> set[str]:
    """Return the rows to fit: of a measurement that stands twice the first, or none where its rows are in two folds."""
    kept = {row.row for row in rows}
    for first, *others in repeats(rows):
        kept -= {row.row for row in others}
        if {row.fold for row in others} != {first.fold}:
            kept.discard(first.row)
    return kept


def observations(table: Path, kept: Path | None, half: int) -> list[Observation]:
    """Replay half the rows of the table, or take what was kept of an earlier run."""
    if kept and kept.exists():
        found: list[Observation] = pickle.loads(kept.read_bytes())
        return found
    rows = [row for row in read_table(table).measurements if _part((row.row,), "sample", 2) == half]
    done = 0

    def progress(number: int) -> None:
        nonlocal done
        done += number
        print(f"\r{done} of {len(rows)}", end="", flush=True)

    seen = [one for found in execute(observe, rows, progress=progress) for one in found]
    print()
    if kept:
        kept.write_bytes(pickle.dumps(seen))
    return seen


if __name__ == "__main__":
    main()
