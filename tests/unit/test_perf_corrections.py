"""Corrections: which effects a deployment gets, what they do to a step, and which fold a row is scored with."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from headway import catalog
from headway.perf import Batch, applied, calibration, lower, step
from headway.perf.corrections import (
    LEVELS,
    NONE,
    PARTS,
    Correction,
    corrected,
    corrected_by,
    levels,
    minor,
    stored,
    unseen_fold,
)
from headway.types import EngineSettings, Parallelism, Pool, StepTable


def pool(**changes: object) -> Pool:
    facts = catalog.load()
    settings = EngineSettings(
        max_num_seqs=64, max_num_batched_tokens=2048, max_model_len=4096, gpu_memory_utilization=0.9
    )
    one = Pool(
        name="one",
        model=facts.model("meta-llama/Llama-3.1-8B-Instruct"),
        accelerator=facts.accelerator("h100-sxm"),
        engine="vllm",
        engine_version="0.33.0",
        settings=settings,
        parallelism=Parallelism(tp=2),
        weight_dtype="bf16",
        kv_dtype="bf16",
        replicas=1,
    )
    return replace(one, **changes)  # type: ignore[arg-type]


def fit_with(**effects: float) -> dict[str, object]:
    """A fit with one effect for the engine vllm."""
    return {"effects": {"engine": {"vllm mixed": [7, *(effects.get(part, 0.0) for part in PARTS)]}}}


def test_effects_of_all_levels_that_fit_add_up() -> None:
    one = pool()
    keys = levels(one)
    fit = {"effects": {level: {keys[level]: [3, *([0.01] * len(PARTS))]} for level in LEVELS}}
    found = corrected_by(fit, one)
    assert found.batch_log == pytest.approx(0.01 * len(LEVELS))
    assert found.base_log == pytest.approx(0.01 * len(LEVELS) * (1 + (1 - 2) / 2))  # two GPUs: one doubling below four
    assert len(found.known) == len(LEVELS)


def test_what_was_never_measured_keeps_what_the_kernels_say() -> None:
    assert corrected_by(fit_with(base=0.3), pool(engine="sglang")) == NONE


def test_no_correction_goes_beyond_a_factor_of_four() -> None:
    found = corrected_by(fit_with(base=5.0, prefill=-5.0), pool())
    assert (found.base_log, found.prefill_log) == (pytest.approx(math.log(4)), pytest.approx(-math.log(4)))


def test_each_part_of_a_table_has_its_factor() -> None:
    table = StepTable(
        decode_ps=np.array([0, 100, 110, 120]),
        mixed_ps=np.array([0, 105, 125, 145]),
        context_ps_per_token=10,
        prefill_ps_per_pair=20,
        sequence_ps=4,
        prefill_context_ps_per_token=6,
        window_ps_per_token=8,
        window_tokens=5,
    )
    by = Correction(base_log=math.log(2), batch_log=math.log(3), prefill_log=math.log(0.5))
    found = corrected(table, by)
    assert found.decode_ps.tolist() == [0, 200, 230, 260]
    assert found.mixed_ps.tolist() == [0, 202, 212, 222]  # 200 + (105 - 100) / 2, rounded to even
    assert (found.context_ps_per_token, found.window_ps_per_token) == (30, 24)
    assert (found.prefill_ps_per_pair, found.sequence_ps, found.prefill_context_ps_per_token) == (10, 2, 3)
    assert corrected(table, NONE) is table


def test_a_step_and_its_table_are_corrected_alike() -> None:
    one = pool()
    by = Correction(base_log=0.2, batch_log=-0.1, prefill_log=0.4)
    constants = replace(calibration(one.accelerator, one.engine), correction=by)
    table, found = lower(one, constants), step(one, Batch.of([500] * 8), constants)
    in_table_s = (table.decode_ps[8] + table.context_ps_per_token * 4000) * 1e-12
    assert found.total_s == pytest.approx(in_table_s, rel=1e-6)
    parts_s = sum(op.time_s for op in found.operators) + found.exposed_s + found.correction_s
    assert found.total_s == pytest.approx(parts_s)


def test_a_nudge_comes_on_top_of_what_is_stored() -> None:
    plain, slower = applied(pool()), applied(pool(), nudge=Correction(sequence_log=math.log(2), frontend_log=1.0))
    assert slower.sequence_fixed_s == pytest.approx(2 * plain.sequence_fixed_s)
    assert slower.frontend_s == pytest.approx(math.e * plain.frontend_s)
    assert slower.correction == plain.correction.plus(Correction(sequence_log=math.log(2), frontend_log=1.0))


def test_versions_share_their_first_two_numbers() -> None:
    assert [minor(word) for word in ("0.33.0", "1.2.0rc6.post2", "nan", "v1.0 docs")] == ["0.33", "1.2", "", "1.0"]


def test_no_fold_s_fit_saw_a_group_that_is_scored_with_it() -> None:
    found = stored()
    assert found["groups"]
    for name, fold in found["groups"].items():
        assert name not in found["fits"][str(fold)]["groups"]
        assert name in found["fits"]["all"]["groups"]
    everything = set(found["groups"])
    for name, fit in found["fits"].items():
        assert set(fit["groups"]) <= everything, name


def test_a_group_no_fit_saw_is_scored_with_all() -> None:
    assert unseen_fold(("nobody/nothing", "X", "Y", "Z")) is None


def test_the_stored_fits_say_when_from_what_and_how_well() -> None:
    found = stored()
    assert found["fitted"][:2] == "20"
    assert found["parts"] == list(PARTS)
    assert {"uncorrected", "groups left out", "model left out", "accelerator left out"} <= set(found["scores"])
    size = (Path(__file__).parents[2] / "src/headway/perf/data/corrections.json").stat().st_size
    assert size < 600_000
    assert json.dumps(found)
