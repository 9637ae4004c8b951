"""Measuring an endpoint: what was sent is kept as it is made, whatever comes of it later."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

import pytest
from test_calibration_runs import sent

from headway.api.endpoints import _keep
from headway.calibration import measuring
from headway.calibration.evidence import read_runs
from headway.calibration.measuring import Measuring, measure
from headway.errors import EvidenceError, HeadwayError, InputError
from headway.probe.nouns import Endpoint, Load, Sent
from headway.types import EngineSettings, Requests

pytest.importorskip("scipy", reason="needs the extra live")

SETTINGS = EngineSettings(
    engine="vllm", version="0.32.0", max_num_seqs=4, max_num_batched_tokens=1024, max_model_len=1024,
    gpu_memory_utilization=0.9,
)  # fmt: skip


@pytest.fixture
def about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Measuring:
    """An endpoint of four seats, each load to which is answered by the same forty answers."""

    def answered(_about: Measuring, load: Load, _slots: float) -> Sent:
        return replace(sent({}), load=load)

    monkeypatch.setattr(measuring, "_sent", answered)
    one: Requests = sent({}).trace.requests
    endpoint: Endpoint = replace(sent({}).endpoint, settings=SETTINGS)
    keep = functools.partial(_keep, tmp_path)
    return Measuring(endpoint=endpoint, num_gpu_blocks=256, traffic=one, budget_s=60.0, ended=keep)


def raising(error: BaseException) -> object:
    def raised(*_: object, **__: object) -> None:
        raise error

    return raised


KEPT = ["01-closed-1", "02-closed-4", "03-closed-2"]


def test_a_stop_between_two_runs_ends_measuring(
    about: Measuring, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "next_runs", raising(KeyboardInterrupt()))
    taken = measure(about)
    assert taken.stopped
    assert [run.name for run in taken.runs] == ["closed 1", "closed 4", "closed 2"]
    assert sorted(path.name for path in tmp_path.iterdir()) == KEPT


@pytest.mark.parametrize("error", [EvidenceError("nothing fits"), ZeroDivisionError()])
def test_a_fit_that_fails_loses_no_run(
    error: Exception, about: Measuring, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "next_runs", raising(error))
    with pytest.raises(type(error)):
        measure(about)
    assert sorted(path.name for path in tmp_path.iterdir()) == KEPT
    assert [run.concurrency for name in KEPT for run in read_runs(tmp_path / name, 1024)] == [1, 4, 2]


def test_settings_under_which_the_answers_could_not_be_end_it_with_the_first_run(
    about: Measuring, tmp_path: Path
) -> None:
    short = replace(about.endpoint, settings=replace(SETTINGS, max_model_len=64))
    with pytest.raises(InputError, match=r"closed 1: a request of 50 .* max_model_len=64") as caught:
        measure(replace(about, endpoint=short))
    assert isinstance(caught.value, HeadwayError)
    assert [path.name for path in tmp_path.iterdir()] == KEPT[:1]


def test_a_run_that_cannot_be_written_whole_does_not_look_so(
    about: Measuring, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headway.calibration.clients.write_clients", raising(OSError("full")))
    with pytest.raises(OSError, match="full"):
        measure(about)
    assert [path.name for path in tmp_path.iterdir()] == [".01-closed-1.part"]
