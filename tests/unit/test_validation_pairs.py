"""Disaggregated deployments, drafts and polling: what a replay makes of them, by laws that must hold."""

from __future__ import annotations

import dataclasses

import pytest

from headway.catalog import load as load_catalog
from headway.validation.configuration import Configured, configure
from headway.validation.measurements import Measurement, Tokens
from headway.validation.pairs import balance
from headway.validation.replaying import Replay, ready, replay, tokens_per_step

PAIR = "prefill 2 workers x (tp4,dp1,ep4); decode 1 x (tp8,dp1,ep8)"
CATALOG = load_catalog()


def row(**changes: object) -> Measurement:
    one = Measurement(
        row="T1",
        line=2,
        model="deepseek-r1",
        hardware="B200",
        engine="TensorRT-LLM",
        engine_version="1.1",
        gpus=16,
        tp=8,
        ep=8,
        weight_dtype="fp4",
        isl_tokens=Tokens(low=1024, high=1024),
        osl_tokens=Tokens(low=256, high=256),
        concurrency=32,
        measured={"ttft_s": {"p50": 0.4}, "tpot_s": {"p50": 0.009}},
        source="lab/two:b.md",
        note=PAIR,
        features="disagg",
    )
    return dataclasses.replace(one, **changes)


def configured(**changes: object) -> Configured:
    return configure(row(**changes), CATALOG)


def run(one: Configured) -> Replay:
    return replay(one, seed=1, fold=None)


def test_a_pair_keeps_littles_law_over_both_pools() -> None:
    figures = run(configured()).figures
    in_flight = figures["requests_per_s"]["mean"] * figures["e2e_s"]["mean"]
    assert in_flight == pytest.approx(32, rel=0.15)


def test_decodes_of_a_pair_are_not_held_up_by_prompts() -> None:
    apart = run(configured()).figures
    together = run(configured(note="", features="aggregated", gpus=8)).figures
    assert apart["tpot_s"]["p99"] < together["tpot_s"]["p99"]
    assert apart["itl_s"]["p99"] < 1.5 * apart["itl_s"]["p50"]


def test_a_stream_and_a_batch_go_through_both_pools_too() -> None:
    stream = run(configured(mode="rate", request_rate_per_s=2.0, concurrency=None)).figures
    assert stream["requests_per_s"]["mean"] == pytest.approx(2.0, rel=0.2)
    batch = run(configured(mode="offline", concurrency=None)).figures
    assert batch["output_tokens_per_s"]["mean"] > stream["output_tokens_per_s"]["mean"]


def test_more_prefill_workers_shorten_the_wait() -> None:
    one = configured(concurrency=512, isl_tokens=Tokens(low=8192, high=8192), osl_tokens=Tokens(low=64, high=64))
    prefill, decode = one.pools
    more = dataclasses.replace(one, pools=(dataclasses.replace(prefill, replicas=8), decode))
    few, many = run(one).figures, run(more).figures
    assert many["ttft_s"]["mean"] < 0.7 * few["ttft_s"]["mean"]
    assert many["output_tokens_per_s"]["mean"] > few["output_tokens_per_s"]["mean"]


def test_workers_nobody_counted_are_as_many_as_are_needed() -> None:
    unknown = PAIR.replace("prefill 2", "prefill ?").replace("decode 1", "decode ?")
    counts = [run(configured(note=unknown, gpus=None, concurrency=n)).pools for n in (4, 4096)]
    few, many = ([pool.replicas for pool in pools] for pools in counts)
    assert few == [1, 1]
    assert many[0] > 1
    found = run(configured(note=unknown, gpus=None))
    assert "the row does not say" in found.assumed[0]
    assert run(configured()).assumed == ()


def test_a_prefill_pool_sees_the_clients_that_do_not_decode() -> None:
    one = configured()
    ones = [ready(pool, one.load, None, None) for pool in one.pools]
    paired = balance(one.pools, ones, one.load, seed=1, counted=True)
    assert paired.wait_s == pytest.approx(paired.prefilled["ttft_s"]["mean"] + paired.moved_s)
    assert 0 < paired.moved_s < 0.1


# --- drafts -------------------------------------------------------------------------------------------------


def drafting(share: float) -> Configured:
    plain = configured(note="", features="spec:mtp", gpus=8, concurrency=4)
    assert plain.speculation is not None
    accepted = (1,) * round(20 * share) + (0,) * round(20 * (1 - share))
    return dataclasses.replace(plain, speculation=dataclasses.replace(plain.speculation, accepted=accepted))


def test_accepted_drafts_are_tokens_of_the_same_step() -> None:
    none, half, all_ = (run(drafting(share)).figures["tpot_s"]["p50"] for share in (0.0, 0.5, 1.0))
    assert half == pytest.approx(none / 1.5, rel=0.1)
    assert all_ == pytest.approx(none / 2, rel=0.1)


def test_drafts_that_are_never_accepted_cost_time() -> None:
    plain = dataclasses.replace(drafting(0.0), speculation=None)
    assert run(drafting(0.0)).figures["tpot_s"]["p50"] > run(plain).figures["tpot_s"]["p50"]
    assert tokens_per_step(None) == 1.0
    assert tokens_per_step(drafting(0.5).speculation) == 1.5


# --- how a row tells it --------------------------------------------------------------------------------------


def test_a_static_batch_is_told_phase_by_phase() -> None:
    one = configured(note="", features="static batch profile", gpus=8, concurrency=16)
    assert one.static_batch
    figures = run(one).figures
    assert len(set(figures["ttft_s"].values())) == 1
    assert figures["output_tokens_per_s"]["mean"] == pytest.approx(16 / figures["tpot_s"]["p50"])


def test_rates_of_one_gpu_are_a_share_of_the_whole() -> None:
    one = configured(note="", features="aggregated", gpus=8)
    per_gpu = dataclasses.replace(one, per_gpu=True)
    whole, share = (run(each).figures["output_tokens_per_s"]["mean"] for each in (one, per_gpu))
    assert share == pytest.approx(whole / 8)


def test_a_server_that_looks_seldom_lets_clients_wait() -> None:
    lengths = Tokens(low=400, high=600)
    one = configured(note="", features="aggregated", gpus=8, engine="SGLang", osl_tokens=lengths)
    settings = one.pool.settings
    polled = dataclasses.replace(settings, own=dataclasses.replace(settings.own, scheduler_recv_interval=31))
    seldom = dataclasses.replace(one, pools=(dataclasses.replace(one.pool, settings=polled),))
    often, late = run(one).figures, run(seldom).figures
    waited_s = late["ttft_s"]["mean"] - often["ttft_s"]["mean"]
    assert 4 * often["tpot_s"]["p50"] < waited_s < 31 * often["tpot_s"]["p50"]


def test_a_prefix_shared_by_all_is_prefilled_once() -> None:
    one = configured(note="", features="prefix cache", gpus=8, isl_tokens=Tokens(low=32768, high=32768))
    shared = dataclasses.replace(one, load=dataclasses.replace(one.load, prefix_tokens=32000))
    assert run(shared).figures["ttft_s"]["p50"] < 0.6 * run(one).figures["ttft_s"]["p50"]
