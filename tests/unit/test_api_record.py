"""`simulate(record=…)`: the schedule of one replica as a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from headway.api.pools import Choice
from headway.api.simulations import simulate
from headway.cli import main
from headway.errors import InputError
from headway.simulator import record
from headway.simulator.schedules import Schedule, differences, read_schedule, written

SCENARIO = """\
headway: 1
model: meta-llama/Llama-3.1-8B-Instruct
workload: {profile: PROFILE, rate: 5 req/s}
slo: {ttft: {p95: 2 s}}
allow: {accelerators: [h100-sxm]}
"""


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    return with_profile(tmp_path, "azure-conv")


def with_profile(folder: Path, profile: str) -> Path:
    path = folder / f"{profile}.yaml"
    path.write_text(SCENARIO.replace("PROFILE", profile), encoding="utf-8")
    return path


def first_difference(schedule: Schedule) -> str | None:
    found = written(schedule, record(schedule.requests, schedule.replica, schedule.ids))
    return next(map(str, differences(schedule.rows, found)), None)


@pytest.mark.parametrize("profile", ["azure-conv", "mooncake-conversation"])
def test_the_first_replica_is_recorded_and_comes_out_the_same(tmp_path: Path, profile: str) -> None:
    path = tmp_path / "run.jsonl.gz"
    plain = simulate(with_profile(tmp_path, profile), Choice(), replicas=2, requests=200)
    found = simulate(with_profile(tmp_path, profile), Choice(), replicas=2, requests=200, record=path)
    assert found.outcome == plain.outcome, "writing changes nothing"
    schedule = read_schedule(path)
    assert 0 < len(schedule.ids) < 200
    assert schedule.name == found.workload
    assert schedule.meta["description"] == f"{len(schedule.ids)} of 200 requests, replica 0"
    assert schedule.replica.num_gpu_blocks == found.num_gpu_blocks
    assert first_difference(schedule) is None


def test_the_record_is_of_the_run_that_is_reported(scenario: Path, tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    found = simulate(scenario, Choice(), requests=300, record=path)
    schedule = read_schedule(path)
    assert len(schedule.rows.steps) == found.steps
    waited_s = {row["id"]: (row["first"] - row["arr"]) * 1e-12 for row in schedule.rows.results}
    longest_s = found.outcome.latency["ttft"].max_s - schedule_frontend_s(found)
    assert any(abs(one - longest_s) < 1e-9 for one in waited_s.values())


def schedule_frontend_s(found: object) -> float:
    from headway.perf import replica

    return replica(found.deployment.pools[0], context_tokens=1).frontend_s  # type: ignore[attr-defined]


def test_the_command(scenario: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.jsonl.gz"
    assert main(["simulate", str(scenario), "--requests", "50", "--record", str(path)]) == 0
    assert len(read_schedule(path).ids) == 50
    assert main(["simulate", str(scenario), "--requests", "50", "--record", str(tmp_path / "no" / "run.jsonl")]) == 2
    assert "run.jsonl: cannot be written: No such file or directory" in capsys.readouterr().err


def test_a_folder_is_no_file(scenario: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written: Is a directory"):
        simulate(scenario, Choice(), requests=20, record=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [scenario.name]
