"""`simulate` on the general engine is `simulate` on the engine that jumps: columns, gaps, counters, series, fleets."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headway.errors import InputError
from headway.simulator import Simulation, simulate
from headway.simulator.routers import ROUTERS
from headway.types import Replica, Requests

sys.path.insert(0, str(Path(__file__).parents[1] / "oracle"))  # tests are no package

from cases import STRATA, expand, make_case

RUN = importlib.import_module("headway.simulator.run")
COLUMNS = ("arrive_ps", "output_tokens", "first_ps", "last_ps", "state", "replica", "cached_tokens", "preemptions")


def outcome(requests: Requests, replica: Replica, **keywords: Any) -> dict[str, Any]:
    """All that `simulate` says, and whether it jumped; or why it refuses."""
    try:
        found = simulate(requests, replica, **keywords)
    except InputError as error:
        return {"refused": str(error)}
    counters, series = asdict(found.counters), asdict(found.series) if found.series else {}
    jumped = counters.pop("jumps") > 0
    columns = {name: getattr(found, name) for name in COLUMNS} | {
        f"sum.{name}": sum_ for name, sum_ in counters.items()
    }
    columns |= {f"series.{name}": column for name, column in series.items()} | {"end_ps": found.end_ps}
    said = {name: np.asarray(column).tolist() for name, column in columns.items()}
    return said | {"gaps": expand(found.gaps), "jumped": jumped}


def both(monkeypatch: pytest.MonkeyPatch, requests: Requests, replica: Replica, **keywords: Any) -> list[Any]:
    """What each engine says."""
    jumping = outcome(requests, replica, **keywords)
    with monkeypatch.context() as patched:
        patched.setattr(RUN, "jumpable", lambda *_: "asked for")
        stepping = outcome(requests, replica, **keywords)
    return [jumping, stepping]


def differing(monkeypatch: pytest.MonkeyPatch, cases: Iterable[tuple[Requests, Replica, dict[str, Any]]]) -> int:
    """Hold the engines to each other; return in how many cases the first one jumped."""
    jumped = 0
    for requests, replica, keywords in cases:
        jumping, stepping = both(monkeypatch, requests, replica, **keywords)
        jumped += jumping.pop("jumped", False)
        assert not stepping.pop("jumped", False)
        wrong = [name for name in {**jumping, **stepping} if jumping.get(name) != stepping.get(name)]
        assert not wrong, (wrong[0], jumping.get(wrong[0]), stepping.get(wrong[0]), keywords)
    return jumped


@pytest.mark.parametrize("stratum", STRATA)
def test_both_engines_say_the_same(stratum: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = (make_case(seed, **STRATA[stratum]) for seed in range(3_000_000, 3_000_100))
    assert differing(monkeypatch, cases) > 0


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("router", ROUTERS)
def test_both_engines_say_the_same_behind_every_router(router: str, cut: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def case(seed: int) -> tuple[Requests, Replica, dict[str, Any]]:
        requests, replica, _ = make_case(seed, load=1.5, shared=1.0, ahead=bool(seed % 2), long_outputs=True)
        sessions = np.random.default_rng(seed).integers(0, 8, len(requests))
        until_s = float(requests.arrive_s[-1]) * 0.7 if cut else None
        keywords = {"replicas": 3, "router": router, "seed": seed, "record_series": 7, "until_s": until_s}
        return replace(requests, session_id=sessions), replica, keywords

    assert differing(monkeypatch, map(case, range(40))) > 0


@pytest.mark.nightly
@pytest.mark.parametrize("stratum", STRATA)
def test_both_engines_say_the_same_in_many_cases(stratum: str, monkeypatch: pytest.MonkeyPatch) -> None:
    differing(monkeypatch, (make_case(seed, **STRATA[stratum]) for seed in range(4_000_000, 4_000_400)))


def test_a_difference_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    requests, replica, keywords = make_case(0, **STRATA["fleet"])
    real = simulate

    def late(requests: Requests, replica: Replica, **keywords: Any) -> Simulation:
        found = real(requests, replica, **keywords)
        later = found.counters.jumps == 0
        return replace(found, counters=replace(found.counters, busy_ps=found.counters.busy_ps + later))

    monkeypatch.setitem(globals(), "simulate", late)
    with pytest.raises(AssertionError, match="busy_ps"):
        differing(monkeypatch, [(requests, replica, keywords)])
