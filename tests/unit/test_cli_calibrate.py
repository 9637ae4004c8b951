"""`headway calibrate endpoint` and `fit` through the command line: pages of saved runs, and what is refused at once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headway.cli import main
from headway.perf import read_calibration
from headway.perf.endpoint import StepTerms
from headway.perf.endpoint_steps import step_table
from headway.probe.nouns import ERRORS
from headway.simulator import simulate
from headway.types import EngineSettings, Replica, Requests
from headway.workload import Measured, Trace, write_trace

pytest.importorskip("scipy", reason="needs the extra live")

SETTINGS = EngineSettings(
    engine="llama.cpp", version="1", max_num_seqs=4, max_num_batched_tokens=2048, max_model_len=1024,
    gpu_memory_utilization=1.0, block_size=1, async_scheduling=False,
)  # fmt: skip
TRUTH = StepTerms(
    decode_s={1: 0.012, 4: 0.034},
    mixed_s={1: 0.012, 128: 0.62},
    context_s_per_token=3e-6,
    prefill_s_per_pair=1e-7,
    prefill_context_s_per_token=1e-7,
    sequence_s=5e-4,
    frontend_s=0.006,
)
SERVER = (
    "--engine", "llama-cpp", "--model", "SmolLM2-135M", "--hardware", "cpu-1", "--set", "max_model_len=1024",
    "--set", "max_num_seqs=4",
)  # fmt: skip
NOBODY = "http://127.0.0.1:9"  # discard: nothing listens


def keep(folder: Path, clients: int, *, failed: int = 0) -> None:
    """A closed loop of the truth as `--keep` keeps it; the last requests failed on their way."""
    rng = np.random.default_rng(clients)
    asked = Requests(arrive_s=np.zeros(30), isl_tokens=rng.integers(8, 200, 30), osl_tokens=rng.integers(4, 24, 30))
    one = Replica(settings=SETTINGS, step=step_table(TRUTH, SETTINGS), num_gpu_blocks=4096, frontend_s=TRUTH.frontend_s)
    done = simulate(asked, one, concurrency=clients, turnaround_s=one.frontend_s)
    order = np.argsort(done.arrive_ps, kind="stable")
    arrive_s, first_s, last_s = (c[order] / 1e12 for c in (done.arrive_ps, done.first_ps, done.last_ps))
    noise = rng.lognormal(0, 0.02, 30)
    lost = np.arange(30) >= 30 - failed
    measured = Measured(
        ttft_s=np.where(lost, np.nan, (first_s - arrive_s) * noise + one.frontend_s),
        e2e_s=np.where(lost, np.nan, (last_s - arrive_s) * noise + one.frontend_s),
        error=np.where(lost, ERRORS.index("status-503"), 0),
    )
    sent = Requests(arrive_s=arrive_s, isl_tokens=asked.isl_tokens[order], osl_tokens=asked.osl_tokens[order])
    folder.mkdir()
    trace = Trace(requests=sent, format="headway-parquet", file="", measured=measured, names={"error": ERRORS})
    write_trace(trace, folder / "requests.parquet")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    folder = tmp_path_factory.mktemp("runs")
    for clients in (1, 2, 4):
        keep(folder / f"loop-{clients}", clients, failed=2 if clients == 2 else 0)
    return [str(path) for path in sorted(folder.iterdir())]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")


# --- pages -----------------------------------------------------------------------------------------------


def test_the_page_of_a_fit_and_its_document(runs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", "fit", *runs, *SERVER, "--out", "mine.yaml"]) == 0, capsys.readouterr().err
    page = capsys.readouterr().out
    flat = " ".join(page.split())
    assert flat.startswith("llama.cpp with SmolLM2-135M on cpu-1, fitted to 3 runs, 88 requests, measured: mine.yaml.")
    parts = ["To be known", "How long a step takes", "Each run predicted", "What to run next"]
    assert sorted(parts, key=page.index) == parts
    assert "loop-2: 2 × status-503" in page
    assert "headway simulate SCENARIO --calibration mine.yaml" in page
    made = read_calibration("mine.yaml")
    assert made.name == "mine"
    assert {run.name for run in made.runs} == {"loop-1", "loop-2", "loop-4"}
    assert set(made.uncertainty.misfit_log_sd) == set(made.bands_frac)
    assert "output_tokens_per_s" in made.bands_frac

    more = ["--like", "mine.yaml", "--out", "again.yaml", "--tp", "2", "--json"]
    assert main(["calibrate", "fit", *runs, *more]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert found["schema"] == "calibrate-fit/1"
    assert found["warnings"] == ["loop-2: 2 × status-503"]
    assert found["calibration"]["terms"] == json.loads(json.dumps(found["calibration"]["terms"]))
    again = read_calibration("again.yaml")
    assert (again.model, again.hardware, again.tp, again.terms) == (made.model, made.hardware, 2, made.terms)


# --- what is refused before anything is measured or fitted ---------------------------------------------------


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err


WRONG = [
    (("--weights", "bf61"), "--weights: 'bf61' is no number format (did you mean 'bf16'?)"),
    (("--kv", "fp9"), "--kv: 'fp9' is no number format"),
    (("--tp", "0"), "--tp: expected at least 1, got 0"),
    (("--out", "mine.yml"), "mine.yml: --out: expected a file that ends in .yaml (--out mine.yaml)"),
    (("--out", ""), "expected a file that ends in .yaml (--out mine.yaml)"),
    (("--out", "none/mine.yaml"), "its folder is not there"),
    (("--out", "full.yaml"), "full.yaml: --out: is a folder"),
    (("--name", " "), "--name: expected a name, got nothing"),
    (("--name", "dc/box.yaml"), "--name: 'dc/box.yaml' would be taken for a file (--name box)"),
]


@pytest.mark.parametrize(("words", "said"), WRONG, ids=lambda one: " ".join(one) if isinstance(one, tuple) else "")
@pytest.mark.parametrize("verb", [("endpoint", NOBODY), ("fit", "none.parquet")], ids=lambda verb: verb[0])
def test_what_could_not_be_written_is_refused_first(
    verb: tuple[str, str], words: tuple[str, str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("full.yaml").mkdir()
    server = SERVER if verb[0] == "fit" else ()
    assert said in refusal(capsys, "calibrate", *verb, *server, "--out", "mine.yaml", *words)


def test_where_runs_are_kept_is_made_first(capsys: pytest.CaptureFixture[str]) -> None:
    Path("file").write_text("mine")
    Path("full").mkdir()
    (Path("full") / "notes").write_text("mine")
    measure = ("calibrate", "endpoint", NOBODY, "--out", "mine.yaml", "--keep")
    assert "file: --keep: cannot be made" in refusal(capsys, *measure, "file")
    assert "full: --keep: is not empty (name a new or empty folder)" in refusal(capsys, *measure, "full")
    assert "nobody answers" in refusal(capsys, *measure, "deep/runs").lower()
    assert Path("deep/runs").is_dir()
    assert Path("full/notes").read_text() == "mine"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--part", "0"), "--part: expected at least 1, got 0"),
        (("--osl", "0"), "--osl: expected at least one token, got 0"),
        (("--osl", "nan"), "--osl: expected at least one token, got nan"),
        (("--osl", "inf"), "--osl: expected at least one token, got inf"),
        (("--set", "num_gpu_blocks=abc"), "--set num_gpu_blocks: expected a whole number of at least 1, got 'abc'"),
        (("--set", "max_num_batched_tokens=abc"), "expected a whole number of at least 1, got 'abc'"),
        (("--set", "block_size=2.5"), "--set block_size: expected a whole number of at least 1, got '2.5'"),
        (("--set", "parallel=0"), "--set parallel: expected a whole number of at least 1, got '0'"),
        (("--set", "enable_prefix_caching=2"), "expected true or false, got '2'"),
        (("--set", "slot_prompt_similarity=nan"), "expected a number of at least 0, got 'nan'"),
        (("--set", "slots=4"), "no such setting"),
        (("--set", "num_gpu_blocks=100"), "tokens was answered, and cannot be under num_gpu_blocks=100 of 1 tokens"),
    ],
)
def test_what_a_fit_is_told_wrongly(
    words: tuple[str, str], said: str, runs: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in refusal(capsys, "calibrate", "fit", *runs, *SERVER, "--out", "mine.yaml", *words)
    assert not Path("mine.yaml").exists()


def test_settings_under_which_the_answers_could_not_be(runs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    server = ("--engine", "vllm", "--set", "max_num_seqs=4", "--set", "max_model_len=64", "--out", "mine.yaml")
    said = refusal(capsys, "calibrate", "fit", *runs, *server)
    assert "tokens was answered, and cannot be under max_model_len=64 (--set max_model_len=2" in said
    assert not Path("mine.yaml").exists()


def test_settings_are_read_as_their_types(runs: list[str]) -> None:
    words = (
        "--set",
        "enable_prefix_caching=FALSE",
        "--set",
        "slot_prompt_similarity=0.5",
        "--set",
        "num_gpu_blocks=900",
    )
    assert main(["calibrate", "fit", runs[0], *SERVER, "--out", "mine.yaml", *words]) == 0
    made = read_calibration("mine.yaml")
    assert made.settings.enable_prefix_caching is False
    assert made.settings.own is not None
    assert (made.settings.own.slot_prompt_similarity, made.num_gpu_blocks) == (0.5, 900)  # type: ignore[union-attr]
