"""The fit of the corrections: it finds what was planted, shrinks what is little known, and leaves groups out."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import fit_corrections as tool

from headway.perf.corrections import LEVELS, PARTS
from headway.validation.measurements import FOLDS, Measurement


def seen(effects: dict[str, float], *, series: int = 8, rows: int = 12, noise: float = 0.02) -> list[tool.Observation]:
    """TPOTs that hang on the base part alone, of several series for each engine."""
    rng = np.random.default_rng(0)
    found = []
    for engine, log in effects.items():
        for number in range(series):
            keys = {level: f"{engine} {number if level == 'version' else ''}" for level in LEVELS}
            group = ("source", "gpu", engine, str(number))
            parts = tuple(1.0 if part == "base" else 0.0 for part in PARTS)
            for row in range(rows):
                left = log + noise * float(rng.standard_normal())
                name = f"{engine} {number} {row}"
                found.append(tool.Observation(name, "tpot_s", group, number % FOLDS, keys, 4, left=left, parts=parts))
    return found


def total(problem: tool.Problem, effects: np.ndarray, engine: str) -> float:
    one = next(k for k, o in enumerate(problem.seen) if o.levels["engine"].startswith(engine))
    return float(problem.predicted(effects)[one])


def solved(observations: list[tool.Observation], use: np.ndarray | None = None) -> tuple[tool.Problem, np.ndarray]:
    problem = tool.Problem(observations)
    everything = np.ones(len(observations), bool) if use is None else use
    return problem, problem.solve(everything, tool.prior(), rounds=3)


def test_planted_effects_are_found_and_shrunk() -> None:
    problem, effects = solved(seen({"slow": 0.2, "plain": 0.0}))
    assert 0.05 < total(problem, effects, "slow") < 0.2
    assert abs(total(problem, effects, "plain")) < 0.05


def test_more_series_shrink_less() -> None:
    few, many = (total(*solved(seen({"slow": 0.2}, series=number)), "slow") for number in (1, 30))
    assert abs(few) < abs(many) < 0.2


def test_a_long_series_is_no_crowd() -> None:
    """A hundred rows of one series say little more than ten: what they share may be their own."""
    short, long = (total(*solved(seen({"slow": 0.2}, series=1, rows=number)), "slow") for number in (10, 300))
    assert long < 1.2 * short


def test_an_absurd_series_hardly_moves_the_others() -> None:
    plain = seen({"fine": 0.05})
    odd = [
        tool.Observation(f"odd {k}", "tpot_s", ("odd",), 0, plain[0].levels, 4, left=3.0, parts=plain[0].parts)
        for k in range(9)
    ]
    without, beside = total(*solved(plain), "fine"), total(*solved(plain + odd), "fine")
    assert abs(beside - without) < 0.03


def test_what_a_fold_holds_does_not_reach_its_own_fit() -> None:
    """Whatever the rows of a fold say, the fit without it stays the same, to the last digit."""
    plain = seen({"slow": 0.2, "plain": 0.0})
    moved = [
        tool.Observation(
            o.row, o.metric, o.group, o.fold, o.levels, o.gpus, left=5.0 if o.fold == 1 else o.left, parts=o.parts
        )
        for o in plain
    ]
    use = np.array([o.fold != 1 for o in plain])
    one, other = (tool.fitted(tool.Problem(rows), use) for rows in (plain, moved))
    assert one == other
    assert one != tool.fitted(tool.Problem(moved), np.ones(len(moved), bool))


def test_cross_validation_predicts_each_part_without_it() -> None:
    rows = seen({"slow": 0.2})
    problem = tool.Problem(rows)
    everything = np.ones(len(rows), bool)
    parts = np.zeros(len(rows), np.int64)  # one part: nothing is left to learn from
    assert tool.cross_validated(problem, everything, tool.prior(), parts) == pytest.approx(problem.left)


@pytest.fixture
def twice() -> list[Measurement]:
    figures = {"ttft_s": {"p50": 0.2}, "tpot_s": {"p50": 0.02}}

    def row(name: str, version: str) -> Measurement:
        about = {"model": "m", "hardware": "h", "engine": "vLLM", "engine_version": version, "source": "a/b"}
        return Measurement(row=name, line=2, measured=figures, concurrency=4, **about)  # type: ignore[arg-type]

    versions = [str(number) for number in range(40)]
    first = row("first", versions[0])
    same = next(row("same", v) for v in versions[1:] if row("", v).fold == first.fold)
    other = next(row("other", v) for v in versions[1:] if row("", v).fold != first.fold)
    return [first, same, other]


def test_a_measurement_is_fitted_once_or_not_at_all_where_folds_share_it(twice: list[Measurement]) -> None:
    first, same, other = twice
    assert tool.fair_rows([first, same]) == {"first"}
    assert tool.fair_rows([first, other]) == set()
