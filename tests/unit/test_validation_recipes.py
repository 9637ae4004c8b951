"""What InferenceX ran: the recipe a row takes, checked against entries of its lists read by hand."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from itertools import pairwise

import pytest

from headway.catalog import load
from headway.validation.measurements import Measurement, Tokens
from headway.validation.names import Assumption
from headway.validation.recipes import Recipe, Workers, _recipes, _sweeps, candidates, recipe_of
from headway.validation.sources import harness_of
from headway.validation.spread import Spreader

GB200, B200, H200 = "gb200", "b200-sxm", "h200-sxm"
ENGINES = {"tensorrt-llm": "TensorRT-LLM", "sglang": "SGLang", "vllm": "vLLM"}


def row(
    said: str,
    *,
    hardware: str = GB200,
    engine: str = "tensorrt-llm",
    version: str = "0.8.1.post2",
    lengths: tuple[int, int] = (1024, 1024),
    clients: int,
    tp: int | None = None,
    gpus: int | None = None,
    ep: int | None = None,
    dtype: str = "fp4",
    features: str = "disagg",
    name: str = "dump_1",
    model: str = "deepseek-r1",
) -> Measurement:
    """A row of the dump as the table holds it; `said` is its note."""
    return Measurement(
        row=name,
        line=2,
        model=model,
        hardware=hardware,
        engine=ENGINES[engine],
        engine_version=version,
        isl_tokens=Tokens(low=lengths[0], high=lengths[0]),
        osl_tokens=Tokens(low=lengths[1], high=lengths[1]),
        concurrency=clients,
        tp=tp,
        gpus=gpus,
        ep=ep,
        weight_dtype=dtype,
        features=features,
        note=said,
        source=f"aiconfigurator_core==0.12.0 systems/silicon_sample.csv id={name}",
        measured={"tpot_s": {"mean": 0.01}},
    )


def found(one: Measurement, engine: str = "tensorrt-llm") -> tuple[Recipe | None, list[str]]:
    said: list[Assumption] = []
    recipe = recipe_of(one, load().accelerator(one.hardware), engine, said)
    return recipe, [assumption.code for assumption in said]


def spread(workers: Workers) -> tuple[int, int, int, bool]:
    return workers.count, workers.gpus, workers.ep, workers.attention_dp


def unknown(prefill: int, decode: int, ep: int, day: str) -> str:
    return f"prefill ? workers x (tp{prefill},dp1,ep{ep}); decode ? x (tp{decode},dp1,ep{ep}); measured {day};"


def test_a_concurrency_that_one_entry_lists_gives_its_workers_and_drafts() -> None:
    # dsr1-fp4-b200-dynamo-trt, 1k/1k, conc-list [875]: ctx1_gen5_dep8_batch16_eplb0_mtp3
    one = row(unknown(4, 8, 4, "2026-01-29"), hardware=B200, version="0.8.1.post1", clients=875)
    recipe, codes = found(one)
    assert codes == ["recipe"]
    assert recipe.drafts == 3
    assert spread(recipe.prefill) == (1, 4, 4, True)
    assert spread(recipe.decode) == (5, 8, 8, True)
    assert recipe.decode.max_num_seqs == 16
    assert recipe.decode.kv_dtype == "fp8"
    assert recipe.gpus == 44


def test_a_concurrency_that_both_kinds_list_is_taken_without_drafts_and_says_so() -> None:
    one = row(unknown(4, 8, 4, "2026-01-29"), hardware=B200, version="0.8.1.post1", clients=45)
    recipe, codes = found(one)
    assert recipe.drafts == 0
    assert codes == ["recipe", "speculation_unknown"]
    assert {each.drafts for each in candidates(one, load().accelerator(B200), "tensorrt-llm")} == {0, 3}


def test_a_dump_that_holds_runs_without_drafts_settles_it() -> None:
    said = "prefill 1 workers x (tp1,dp4,ep4); decode 5 x (tp8,dp1,ep8); measured 2026-01-29;"
    one = row(said, hardware=B200, version="0.8.1.post1", clients=45, name="dsr1_disagg_c45_cfg320")
    recipe, codes = found(one)
    assert (recipe.drafts, codes) == (0, ["recipe"])


def test_the_day_of_a_run_tells_sweeps_apart() -> None:
    # c512 at DEP8 was listed with and without drafts; on 2026-02-13 only the sweep with drafts was run
    rows = {
        day: row(
            unknown(8, 8, 8, day), hardware=B200, engine="sglang", version="0.5.8.post1", clients=2048, dtype="fp8"
        )
        for day in ("2026-02-07", "2026-02-13", "2026-03-18")
    }
    kinds = {
        day: {each.drafts > 0 for each in candidates(one, load().accelerator(B200), "sglang")}
        for day, one in rows.items()
    }
    assert kinds == {"2026-02-07": {False}, "2026-02-13": {True}, "2026-03-18": {False, True}}


def test_the_version_tells_days_apart() -> None:
    note = unknown(4, 8, 4, "2026-02-20")
    old = row(note, version="0.5.1-rc0.pre3", clients=8)
    new = replace(old, engine_version="0.8.1.post2")
    assert found(old)[0].until == "2026-01-31"
    assert found(new)[0].since == "2026-01-31"


def test_a_launcher_that_gives_each_decode_worker_its_clients_counts_all_of_them() -> None:
    # conc-list [1, 2, 4, 8, 16, 36] on four decode workers with drafts; [..., 32, 64, 141] without
    drafts = {
        clients: found(row(unknown(36, 36, 1, "2025-12-05"), version="nan", tp=36, ep=1, clients=clients))[0].drafts
        for clients in (144, 564)
    }
    assert drafts == {144: 3, 564: 0}


def test_a_total_of_gpus_is_split_as_listed() -> None:
    one = row(
        "moe_tp=72; measured 2025-11-17;", engine="sglang", version="nan", tp=72, gpus=72, ep=1, dtype="fp8",
        clients=4608, features="aggregated",
    )  # fmt: skip
    recipe, _ = found(one, "sglang")
    assert spread(recipe.prefill) == (3, 8, 8, True)
    assert spread(recipe.decode) == (1, 48, 48, True)


@pytest.mark.parametrize(("gpus", "ep"), [(8, 8), (64, 8), (64, 64)])
def test_gpus_counted_as_tp_times_ep_are_recognised(gpus: int, ep: int) -> None:
    one = row(
        "moe_tp=8; measured 2025-11-18;", hardware=B200, engine="sglang", version="nan", tp=gpus, gpus=gpus, ep=ep,
        dtype="fp8", clients=16, features="aggregated",
    )  # fmt: skip
    recipe, _ = found(one, "sglang")
    assert (recipe.prefill, recipe.decode.gpus, recipe.decode.ep) == (None, 8, 8)


def test_nothing_listed_gives_nothing() -> None:
    assert found(row(unknown(4, 8, 4, "2026-01-29"), hardware=B200, clients=7)) == (None, [])
    assert found(row(unknown(4, 8, 4, "2026-01-29"), model="llama-3-8b", clients=45)) == (None, [])


def test_no_figure_is_looked_at() -> None:
    one = row(unknown(4, 8, 4, "2026-01-29"), hardware=B200, version="0.8.1.post1", clients=45)
    other = replace(one, measured={"tpot_s": {"mean": 99.0}, "ttft_s": {"mean": 0.0}})
    assert candidates(one, load().accelerator(B200), "tensorrt-llm") == candidates(
        other, load().accelerator(B200), "tensorrt-llm"
    )


def test_listed_tensor_parallelism_across_nodes_stays_that() -> None:
    said: list[Assumption] = []
    catalog = load()
    one = row("prefill 1 workers x (tp1,dp16,ep16); decode 3 x (tp16,dp1,ep16); measured 2026-02-08;",
              hardware="h100-sxm", version="0.8.1.post3", clients=6, lengths=(8192, 1024), dtype="fp8",
              name="dsr1_disagg_c6_cfg494")  # fmt: skip
    recipe, _ = found(one)
    spreader = Spreader(
        row=one,
        model=catalog.model("deepseek-ai/DeepSeek-R1"),
        accelerator=catalog.accelerator("h100-sxm"),
        dtype="fp8_block",
        harness=harness_of(one),
        said=said,
    )
    prefill, decode = spreader.spreads(recipe)
    assert (str(prefill.parallelism), prefill.replicas) == ("TP1·EP16·DP16", 1)
    assert (str(decode.parallelism), decode.replicas) == ("TP16·EP16", 3)
    assert decode.listed is recipe.decode
    assert said == []


def test_tables_agree_with_each_other_and_with_time() -> None:
    for recipes in _recipes().values():
        for recipe in recipes:
            sweep = _sweeps()[recipe.sweep]
            assert not recipe.until or recipe.since <= recipe.until
            assert all(run <= later for run, later in pairwise(sweep.days))
            assert all(date(2025, 11, 1) <= run for run in sweep.days)
            for workers in filter(None, (recipe.prefill, recipe.decode)):
                assert 1 <= workers.ep <= workers.gpus or not recipe.prefill
                assert workers.count >= 1
                assert workers.kv_dtype in ("", "fp8", "bf16")


def test_what_was_listed_much_later_is_not_taken() -> None:
    early = row(unknown(4, 8, 4, "2025-11-15"), hardware=B200, version="0.8.1.post1", clients=875)
    assert found(early) == (None, [])
