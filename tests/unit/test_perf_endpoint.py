"""Calibrations of endpoints: names, errors in files, what planner and simulator take from them."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from headway import api
from headway.api.documents import dumps
from headway.api.pools import Choice, build_pool
from headway.catalog import load
from headway.cli import main
from headway.errors import InputError
from headway.perf import find_calibration, read_calibration, replica, write_calibration
from headway.perf.bands import band, unsafe_frac
from headway.pictures.plans import plan_page
from headway.planner.study import Study
from headway.scenario import read_scenario

EXAMPLES = Path(__file__).parents[2] / "examples"
#: A calibration with round figures, made up; a scenario with it, and its prices.
DATA = Path(__file__).parents[1] / "data" / "calibrated"
SAMPLE = DATA / "calibrations" / "llama-cpu.yaml"


# --- by name --------------------------------------------------------------------------------------------


def test_a_name_is_looked_up_here_and_then_in_the_users_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADWAY_CALIBRATIONS", str(tmp_path / "own"))
    (tmp_path / "own").mkdir()
    (tmp_path / "calibrations").mkdir()
    shutil.copy(SAMPLE, tmp_path / "own" / "box.yaml")
    assert find_calibration("box") == tmp_path / "own" / "box.yaml"
    shutil.copy(SAMPLE, tmp_path / "calibrations" / "box.yaml")
    assert find_calibration("box") == Path("calibrations/box.yaml")
    with pytest.raises(InputError, match=r"did you mean 'box'\?; looked in calibrations and .*own"):
        find_calibration("bx")


def called(path: Path, name: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(
        SAMPLE.read_text(encoding="utf-8").replace("\nname: llama-cpu\n", f"\nname: {name}\n"), encoding="utf-8"
    )


def test_a_name_is_also_what_a_file_calls_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADWAY_CALIBRATIONS", str(tmp_path / "own"))
    called(tmp_path / "own/theirs.yaml", '"box"')
    called(tmp_path / "calibrations/other.yaml", "rack")
    (tmp_path / "calibrations/prices.yaml").write_text("name: box\n", encoding="utf-8")
    (tmp_path / "calibrations/broken.yaml").write_text("name: [box\n", encoding="utf-8")
    (tmp_path / "calibrations/list.yaml").write_text("- box\n", encoding="utf-8")
    (tmp_path / "calibrations/unnamed.yaml").write_text("headway_calibration: 1\n", encoding="utf-8")
    assert find_calibration("box") == tmp_path / "own/theirs.yaml"
    called(tmp_path / "calibrations/mine.yaml", "box")
    assert find_calibration("box") == Path("calibrations/mine.yaml")
    assert read_calibration("box").name == "box"
    with pytest.raises(InputError, match=r"no calibration 'boxx' \(did you mean 'box'\?"):
        find_calibration("boxx")
    called(tmp_path / "calibrations/new.yaml", "box")
    with pytest.raises(InputError, match=r"two .* called 'box': calibrations/mine.yaml and calibrations/new.yaml"):
        find_calibration("box")
    called(tmp_path / "own/box.yaml", "third")
    assert find_calibration("box") == tmp_path / "own/box.yaml"


def test_the_users_folder_is_the_data_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HEADWAY_CALIBRATIONS", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    (tmp_path / "data/headway/calibrations").mkdir(parents=True)
    shutil.copy(SAMPLE, tmp_path / "data/headway/calibrations/box.yaml")
    assert read_calibration("box").name == "llama-cpu"


def test_a_slash_or_yaml_makes_it_a_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_calibration(str(tmp_path / "none"))


# --- what is wrong in a file ----------------------------------------------------------------------------

WRONG = [
    ("headway_calibration: 1", "headway_calibration: 2", "line 3.*format 2 is not known.*update headway"),
    ("headway_calibration: 1", "calibration: 1", "no calibration"),
    ("  tp: 1", "  tp: 0", "endpoint.tp.*below the least"),
    ("drift_log_sd:", "drift_log_std:", "unknown key 'drift_log_std'.*did you mean 'drift_log_sd'"),
    ("num_gpu_blocks: 16384", "num_gpu_block: 16384", "did you mean 'num_gpu_blocks'"),
    ("weight_dtype: int4", "weight_dtype: int5", "weight_dtype.*did you mean 'int"),
    ("    4: 0.035", "    4: fast", "terms.decode_s.4.*expected a finite number|expected a number|finite"),
    ("    4: 0.035", "    1: 0.035", "stands twice"),
    ("    4: 0.035", "    -4: 0.035", "whole number above zero"),
    ("    4: 0.035", "    9: 0.035", "rising order"),
    ("terms: [decode_s.1,", "terms: [decode_s.3,", "did you mean 'decode_s"),
    ("ttft.p50: [-0.25, 0.3]", "ttft.p50: [0.3, -0.25]", "above the most"),
    ("ttft.p50: [-0.25, 0.3]", "ttft.p50: 0.3", r"\[least, most\]"),
    ('    sha256: ""', "    sha256: abc", "64 hexadecimal digits"),
    ('    sha256: ""', '    sha256: ""\n    evidence: summry', "evidence.*did you mean 'summary'"),
    ("made: 2026-11-21", "made: today", "expected a day"),
    ("made: 2026-11-21", "made: 2026-02-30", "there is no day 2026-02-30"),
    ("made: 2026-11-21", "made: 2026-13-45", "there is no day 2026-13-45"),
    ("  engine: llama.cpp", "  engine: vllm", "endpoint.engine: 'vllm', and the settings are of 'llama.cpp'"),
    ("  engine: llama.cpp", "  engine: lama.cpp", "endpoint.engine: .*did you mean 'llama.cpp'"),
    ("drift_log_sd: 0.05", "drift_log_sd: 50", "drift_log_sd: '50' is above the most"),
    ("misfit_log_sd: {}", "misfit_log_sd: {ttft.p55: 0.1}", "unknown key 'ttft.p55'.*did you mean 'ttft.p95'"),
    ("misfit_log_sd: {}", "misfit_log_sd: {ttft.p50: 9}", "'9' is above the most"),
    ("  ttft.p50: [-0.25", "  tttft.p50: [-0.25", "bands_frac.*did you mean 'ttft.p50'"),
    ("errors_frac: {}", "errors_frac: {e2e.p05: 0.1}", "errors_frac.*did you mean 'e2e.p95'"),
    ("    - [0.0, 0.0009]", "    - [0.1, 0.0009]", "covariance: no covariance: some terms have more in common"),
    ("num_gpu_blocks: 16384", "num_gpu_blocks: 1098", "1098 blocks do not hold the longest .*takes 1099 at least"),
]


@pytest.mark.parametrize(("right", "wrong", "message"), WRONG, ids=[wrong for _, wrong, _ in WRONG])
def test_what_is_wrong_is_named(tmp_path: Path, right: str, wrong: str, message: str) -> None:
    text = SAMPLE.read_text(encoding="utf-8")
    assert right in text
    path = tmp_path / "one.yaml"
    path.write_text(text.replace(right, wrong, 1), encoding="utf-8")
    with pytest.raises(InputError, match=message) as caught:
        read_calibration(path)
    assert str(path) in str(caught.value)


def test_a_triangle_of_another_size_is_refused(tmp_path: Path) -> None:
    text = SAMPLE.read_text(encoding="utf-8")
    path = tmp_path / "one.yaml"
    first = text.index("    - [")
    path.write_text(text[:first] + text[text.index("\n", first) + 1 :], encoding="utf-8")
    with pytest.raises(InputError, match="lower triangle"):
        read_calibration(path)


# --- what is taken from it ------------------------------------------------------------------------------


def test_a_pool_takes_table_blocks_front_end_and_bands_from_it() -> None:
    scenario = read_scenario(DATA / "calibrated.yaml")
    known = read_calibration(SAMPLE)
    pool = build_pool(Choice(), catalog=scenario.catalog, scenario=scenario)
    one = replica(pool)
    assert one.step.decode_ps[1] == round(known.terms.decode_s[1] * 1e12)
    assert len(one.step.mixed_ps) == known.settings.max_num_batched_tokens + 1
    assert one.num_gpu_blocks == known.num_gpu_blocks
    assert one.frontend_s == known.terms.frontend_s
    found = band("tpot", pool)
    assert (found.low_frac, found.high_frac) == pytest.approx(known.bands_frac["tpot.p50"])
    assert "calibration llama-cpu" in found.source
    assert unsafe_frac("tpot", pool, 0.95, percentile_frac=0.5, region="middle") == pytest.approx(0.2)
    assert 0 < unsafe_frac("tpot", pool, 0.6, percentile_frac=0.5, region="middle") < 0.2


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (Choice(calibration=str(SAMPLE), tp=2), "^tp: the calibration llama-cpu is of llama.cpp"),
        (Choice(calibration=str(SAMPLE), engine="vllm"), "^engine: "),
        (Choice(calibration=str(SAMPLE), settings={"max_num_seqs": 9}), "max_num_seqs beyond the 8"),
        (Choice(calibration=str(SAMPLE), settings={"max_num_seqs": True}), "whole number above zero"),
        (Choice(calibration=str(SAMPLE), settings={"block_size": 4}), "as the calibration llama-cpu ran it"),
        (Choice(tp=2), "known by a calibration alone"),
    ],
)
def test_what_was_not_measured_is_refused(choice: Choice, message: str) -> None:
    scenario = read_scenario(DATA / "calibrated.yaml")
    with pytest.raises(InputError, match=message):
        build_pool(choice, catalog=scenario.catalog, scenario=scenario)


def test_an_estimate_of_operators_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimate", str(DATA / "calibrated.yaml"), "--calibration", str(SAMPLE)]) == 2
    said = capsys.readouterr().err
    assert "has no operators to show" in said and "headway simulate" in said


def test_a_scenario_of_another_model_is_refused() -> None:
    with pytest.raises(InputError, match="is of 'SmolLM2-135M-Instruct'; the scenario has meta-llama"):
        read_scenario(EXAMPLES / "azure-conv.yaml", endpoints=(str(SAMPLE),))


def test_hardware_that_no_catalogue_knows_claims_no_peaks() -> None:
    box = read_scenario(DATA / "calibrated.yaml").allow.accelerators[0]
    assert box.name == "cpu-1-thread"
    assert not box.peak_flops_per_s
    with pytest.raises(InputError, match="unknown accelerator"):
        load().accelerator("cpu-1-thread")


def test_a_simulation_says_where_it_left_what_was_measured(tmp_path: Path) -> None:
    known = read_calibration(SAMPLE)
    path = tmp_path / "short.yaml"
    write_calibration(path, dataclasses.replace(known, valid={**known.valid, "context": (1.0, 200.0)}))
    inside = api.simulate(DATA / "calibrated.yaml", replicas=30, requests=500)
    beyond = api.simulate(DATA / "calibrated.yaml", Choice(calibration=str(path)), replicas=30, requests=500)
    assert not [one for one in inside.beyond if "context" in one]
    assert any("tokens of context: the calibration llama-cpu saw 1 to 200" in one for one in beyond.beyond)
    assert inside.outcome.latency["ttft"].at(0.5) == beyond.outcome.latency["ttft"].at(0.5)


# --- planning -------------------------------------------------------------------------------------------


def test_how_many_boxes(tmp_path: Path) -> None:
    known = read_calibration(SAMPLE)
    slower = {at: 2 * seconds for at, seconds in known.terms.mixed_s.items()}
    path = tmp_path / "slow.yaml"
    write_calibration(path, dataclasses.replace(known, terms=dataclasses.replace(known.terms, mixed_s=slower)))
    found = api.plan(DATA / "calibrated.yaml")
    slow = api.plan(DATA / "calibrated.yaml", calibration=str(path))
    assert found.chosen.deployment.pools[0].calibration == str(SAMPLE)
    assert slow.chosen.deployment.gpus > 1.5 * found.chosen.deployment.gpus
    said = {one.name: one for one in found.assumptions}
    assert "llama-cpu" in said["step times"].value
    assert said["scheduler"].source == "the simulator follows llama-server's slots and batches; one batch in flight"
    assert "synchronous" in said["scheduler"].value and "asynchronous" not in said["scheduler"].value
    assert all("calibration llama-cpu" in row[0] for row in plan_page(found, ()).parts[0].rows)
    candidates = json.loads(dumps("plan", found))["candidates"]
    assert {one["deployment"]["pools"][0]["calibration"] for one in candidates} == {str(SAMPLE)}
    assert found.certainty.likeness == "this deployment"
    assert found.chosen.cost is not None
    assert found.chosen.cost.usd_per_hour == pytest.approx(0.02 * found.chosen.deployment.gpus)


def test_settings_beyond_what_was_measured_are_refused_and_counted(tmp_path: Path) -> None:
    text = (DATA / "calibrated.yaml").read_text(encoding="utf-8")
    shutil.copytree(DATA / "calibrations", tmp_path / "calibrations")
    path = tmp_path / "wide.yaml"
    path.write_text(text.replace("allow:\n", "allow:\n  max_num_seqs: [4, 8, 64]\n"), encoding="utf-8")
    found = api.plan(path)
    assert found.chosen.deployment.pools[0].settings.max_num_seqs <= 8
    assert any("max_num_seqs beyond the 8" in one.reason for one in found.search.refused)


def test_what_was_measured_replaces_the_physics_of_the_same_deployment_alone(tmp_path: Path) -> None:
    known = read_calibration(SAMPLE)
    path = tmp_path / "l40s.yaml"
    settings = dataclasses.replace(known.settings, engine="vllm", own=None, max_num_seqs=64, block_size=16)
    quick = {at: seconds / 100 for at, seconds in known.terms.mixed_s.items()}
    terms = dataclasses.replace(known.terms, mixed_s=quick)
    on = {"engine": "vllm", "hardware": "l40s", "weight_dtype": "bf16", "settings": settings, "terms": terms}
    write_calibration(path, dataclasses.replace(known, **on))
    text = (DATA / "calibrated.yaml").read_text(encoding="utf-8")
    mixed = text.replace("[cpu-1-thread]", "[l40s]\n  precisions: [bf16, fp8]").replace(
        "file: calibrations/prices.csv, ", ""
    )
    scenario = tmp_path / "mixed.yaml"
    scenario.write_text(mixed.replace("calibrations/llama-cpu.yaml", str(path)), encoding="utf-8")
    space = Study(read_scenario(scenario)).space
    found = {(shape.weight_dtype, bool(shape.calibration)) for shape in space.shapes() if shape.parallelism.tp == 1}
    assert found == {("bf16", True), ("fp8", False)}
