"""The pure parts of benchmarks/peers.py: the workload, the ratios, the tables, what is skipped. Not the speed."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def peers() -> Any:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield importlib.import_module("peers")
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def environments(peers: Any) -> Any:
    return sys.modules["peer_environments"]


@pytest.fixture
def row(peers: Any) -> Any:
    theirs = {"setup_cpu_s": 1.5, "cpu_s": 2.0, "makespan_s": 10.0, "mean_ttft_s": 0.05, "mean_tpot_s": 0.01}
    ours = theirs | {
        "cpu_s": 0.0005,
        "percentiles_cpu_s": 0.0015,
        "mean_ttft_s": 0.0501,
        "steps": 900,
        "preemptions": 0,
    }
    return peers.Row(peer="Another", trace="10/20 at 80%", requests=1000, target=4000, theirs=theirs, ours=ours)


def test_a_ratio_is_of_requests_per_cpu_second(row: Any) -> None:
    assert row.per_s(row.theirs) == 500.0
    assert row.per_s(row.ours) == 2_000_000.0
    assert row.ratio() == pytest.approx(row.per_s(row.ours) / row.per_s(row.theirs)) == 4000.0
    assert row.ratio(percentiles=True) == pytest.approx(1000.0)


def test_the_speed_table_shows_both_and_the_target(peers: Any, row: Any) -> None:
    head, line = peers.speed_table([row]).splitlines()
    assert head.split()[-4:] == ["ratio", "target", "+", "quantiles"]
    shown = ["1000", "1.50", "2.00", "500", "0.000500", "2,000,000", "4,000×", "≥", "4,000×", "1,000×"]
    assert line.split()[-10:] == shown


def test_a_peer_that_is_not_there_keeps_its_row_and_says_why(peers: Any, row: Any) -> None:
    gone = replace(row, theirs=None, ours=None, skipped="no such package")
    assert gone.ratio() == 0.0
    assert peers.speed_table([gone]).splitlines()[1].endswith("skipped: no such package")
    assert len(peers.result_table([gone]).splitlines()) == 1


def test_equal_results_are_shown_once_and_unknown_ones_not_at_all(peers: Any, row: Any) -> None:
    assert peers.both("makespan_s", 1.0, 3, row) == "=10.000"
    assert peers.both("mean_ttft_s", 1e3, 3, row) == "50.000/50.100"
    assert peers.both("steps", 1.0, 0, row) == "—"
    shown = peers.result_table([row]).splitlines()[1]
    assert "=10.000" in shown
    assert "50.000/50.100" in shown


def test_training_counts_in_a_row_of_its_own(peers: Any, row: Any) -> None:
    assert peers.with_training(row) == [row]
    learnt = replace(row, theirs=row.theirs | {"setup_cpu_s": 21.5, "training_cpu_s": 20.0})
    plain, trained = peers.with_training(learnt)
    assert plain is learnt
    assert trained.theirs["cpu_s"] == 22.0
    assert trained.theirs["setup_cpu_s"] == 1.5
    assert trained.ratio() == pytest.approx(44_000.0)


def test_the_round_with_the_least_cpu_time_counts(peers: Any) -> None:
    assert peers.least([{"cpu_s": 2.0}, {"cpu_s": 1.0, "steps": 3}, {"cpu_s": 1.5}]) == {"cpu_s": 1.0, "steps": 3}


def test_a_workload_has_the_lengths_and_the_load_of_its_trace(peers: Any) -> None:
    trace = peers.Trace(requests=4000, isl_tokens=1000, osl_tokens=220, load=0.8, replicas=2)
    given = peers.workload(trace, carried_per_s=10.0)
    assert given == peers.workload(trace, carried_per_s=10.0)
    assert given == json.loads(json.dumps(given))
    arrive_ns = np.array(given["arrive_ns"])
    assert (np.diff(arrive_ns) >= 0).all()
    assert 4000 / (arrive_ns[-1] * 1e-9) == pytest.approx(0.8 * 2 * 10.0, rel=0.05)
    for name, mean in (("isl_tokens", 1000), ("osl_tokens", 220)):
        column = np.array(given[name])
        assert column.min() >= mean // 2
        assert column.max() < mean * 3 // 2
        assert column.mean() == pytest.approx(mean, rel=0.02)


def test_without_a_load_all_are_there_at_once(peers: Any) -> None:
    trace = peers.Trace(requests=5, isl_tokens=100, osl_tokens=20, load=0.0)
    assert str(trace) == "100/20 all at once"
    assert peers.carried_per_s(trace) == 0.0
    assert peers.workload(trace, 0.0)["arrive_ns"] == [0] * 5


def test_cases_are_chosen_by_peer_and_shortened(peers: Any) -> None:
    assert peers.chosen(None, quick=False) == peers.CASES
    few = peers.chosen("vllm,blis", quick=True)
    assert {name for _, name, _ in few} == {"vllm", "blis"}
    assert {trace.requests for trace, _, _ in few} == {200}
    with pytest.raises(SystemExit, match="unknown peers sglang: expected some of dynamo"):
        peers.chosen("sglang", quick=False)


def test_every_case_has_a_peer_and_every_peer_a_driver_and_pins(peers: Any, environments: Any) -> None:
    assert {name for _, name, _ in peers.CASES} == set(environments.PEERS)
    for peer in environments.PEERS.values():
        assert (environments.DRIVERS / peer.driver).is_file()
        assert bool(peer.requirements) != bool(peer.program)
        if peer.requirements:
            lines = (environments.DRIVERS / peer.requirements).read_text(encoding="utf-8").splitlines()
            assert all(line.startswith("#") or line.count("==") == 1 for line in lines)


def test_a_program_that_is_missing_says_how_to_name_one(peers: Any, environments: Any) -> None:
    with pytest.raises(environments.UnavailableError, match=r"--program blis=FILE"):
        environments.command(environments.PEERS["blis"], {"blis": "/nowhere/blis"})
    command = environments.command(environments.PEERS["blis"], {"blis": sys.executable})
    assert command == [sys.executable, str(environments.DRIVERS / "blis.py"), sys.executable]


def test_an_installation_that_fails_is_told_by_its_last_line(
    environments: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(arguments: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(arguments, 1, "", "WARNING: old\nERROR: No matching distribution\n\n")

    monkeypatch.setattr(environments.subprocess, "run", fail)
    with pytest.raises(environments.UnavailableError, match=r"^ERROR: No matching distribution$"):
        environments._run(["pip"])


def test_an_environment_is_made_once_for_its_requirements(
    environments: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ran: list[list[str]] = []

    def make(arguments: list[str]) -> None:
        ran.append(arguments)
        (tmp_path / "dynamo").mkdir(exist_ok=True)

    monkeypatch.setattr(environments, "CACHE", tmp_path)
    monkeypatch.setattr(environments, "_run", make)
    peer = environments.PEERS["dynamo"]
    assert environments.installed(peer) == tmp_path / "dynamo" / "bin" / "python"
    assert [command[1:3] for command in ran] == [["-m", "venv"], ["-m", "pip"]]
    environments.installed(peer)
    assert len(ran) == 2
    environments.installed(replace(peer, before=("torch==2.13.0",)))
    assert len(ran) == 5


def test_a_driver_that_fails_makes_the_peer_unavailable(peers: Any, environments: Any, tmp_path: Path) -> None:
    driver = tmp_path / "driver.py"
    driver.write_text("import json, sys\nprint('noise')\nprint(json.dumps({'cpu_s': len(open(sys.argv[1]).read())}))")
    assert peers.run([sys.executable, str(driver)], {"a": 1}, {}) == {"cpu_s": len('{"a": 1}')}
    driver.write_text("raise ValueError('no GPU')")
    with pytest.raises(environments.UnavailableError, match=r"^ValueError: no GPU$"):
        peers.run([sys.executable, str(driver)], {}, {})
    found = peers.measure((peers.PLAIN, "blis", 300), 1, {"blis": "/nowhere/blis"})
    assert found.theirs is None
    assert "no program `blis`" in found.skipped


def test_headway_computes_the_workload_it_is_given(peers: Any) -> None:
    """One request alone: its prompt is one step, every later token another."""
    given = peers.workload(peers.Trace(requests=1, isl_tokens=100, osl_tokens=20, load=0.0), 0.0)
    (isl,), (osl,) = given["isl_tokens"], given["osl_tokens"]
    found = peers.headway(given)
    step, token, context = (1e-9 * peers.STEP_NS[name] for name in ("step", "token", "context"))
    first_s = step + token * isl
    later_s = sum(step + token + context * (isl + done) for done in range(osl - 1))
    assert found["steps"] == osl
    assert found["mean_ttft_s"] == pytest.approx(first_s, abs=1e-12)
    assert found["makespan_s"] == pytest.approx(first_s + later_s, abs=1e-12)
    assert found["mean_tpot_s"] == pytest.approx(later_s / (osl - 1), abs=1e-12)
