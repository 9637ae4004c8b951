"""Laws of the safe side: certainty is never cheaper, nothing is bought for nothing, and what it costs is said."""

from __future__ import annotations

import itertools
import math
import tempfile
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headway.catalog import load
from headway.errors import InfeasibleError, InputError
from headway.perf.regions import REGIONS
from headway.planner import Plan, plan
from headway.planner.fleet import missed
from headway.planner.safety import over_fracs, safe_slo
from headway.planner.study import Study
from headway.scenario import Scenario, read_scenario

CATALOG = load()
UNSAFE = "headway.planner.safety.unsafe_frac"


def scenario(confidence: str, *, tpot_ms: float = 40.0, ttft_ms: float = 400.0, rate: float = 20.0) -> Scenario:
    text = f"""
headway: 1
model: meta-llama/Llama-3.1-8B-Instruct
workload: {{profile: azure-conv, rate: {rate} req/s}}
slo: {{ttft: {{p95: {ttft_ms} ms}}, tpot: {{p95: {tpot_ms} ms}}}}
allow: {{accelerators: [l40s, h100-sxm], precisions: [bf16, fp8], tp: [1, 2],
        max_num_batched_tokens: [2048, 8192], max_num_seqs: [64, 256]}}
policy: {{{confidence}}}
prices: {{region: any}}
"""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "scenario.yaml"
        file.write_text(text, encoding="utf-8")
        return read_scenario(file, catalog=CATALOG)


def planned(confidence: str, width: float, **changed: float) -> Plan:
    """Plan with bands of one width: by confidence c a latency may exceed its prediction by (2 c - 1) of it."""

    def over(_metric: str, _pool: object, frac: float, *, percentile_frac: float, region: str) -> float:
        assert 0 < percentile_frac < 1
        return max(2 * frac - 1, 0.0) * width * (1 + REGIONS.index(region) / 4)  # type: ignore[arg-type]

    with patch(UNSAFE, over):
        return plan(scenario(confidence, **changed))


def cost(found: Plan) -> float:
    assert found.chosen.cost is not None
    return found.chosen.cost.usd_per_hour


def test_a_wider_band_never_buys_less() -> None:
    costs = [cost(planned("confidence: 90 %", width)) for width in (0.0, 0.5, 1.0, 3.0)]
    assert costs == sorted(costs)
    assert costs[-1] > costs[0]


def test_more_confidence_never_costs_less() -> None:
    costs = [cost(planned(f"confidence: {c}", 0.8)) for c in ("none", "50 %", "70 %", "90 %")]
    assert costs == sorted(costs)
    assert costs[0] == costs[1]


def test_the_choice_holds_on_the_safe_side_and_the_fleet_beside_it_by_the_prediction() -> None:
    found = planned("confidence: 90 %", 3.0)
    sure, outcome = found.certainty, found.chosen.outcome
    assert outcome is not None
    for objective in found.slo.objectives:
        figure_s = outcome.latency[objective.metric].at(objective.percentile_frac)
        assert figure_s * (1 + sure.over_frac[str(objective)]) <= objective.limit_s * (1 + 1e-9)
    assert sure.point is not None
    assert sure.point.cost is not None
    assert sure.point.outcome is not None
    assert not missed(sure.point.outcome, found.slo)
    assert sure.usd_per_hour == pytest.approx(cost(found) - sure.point.cost.usd_per_hour)
    assert cost(planned("confidence: none", 1.0)) == pytest.approx(sure.point.cost.usd_per_hour)
    assert set(sure.measure) <= {o.metric for o in found.slo.objectives}


def test_where_certainty_is_free_there_is_no_other_fleet() -> None:
    sure = planned("confidence: 90 %", 0.0).certainty
    assert (sure.point, sure.gpus, sure.usd_per_hour, sure.measure) == (None, 0, 0.0, ())


def test_what_no_fleet_holds_is_refused_with_the_nearest_confidence_that_works() -> None:
    with pytest.raises(InfeasibleError, match=r"with a confidence of 95 %; one does by the prediction") as caught:
        planned("confidence: 95 %", 10.0)
    assert caught.value.binding == "policy.confidence"
    nearest = caught.value.relaxation.removeprefix("policy.confidence: ")
    found = planned(f"confidence: {nearest}", 10.0)
    assert f"{100 * found.certainty.confidence_frac:g} %" == nearest


def test_a_confidence_that_nobody_asked_for_gives_way() -> None:
    sure = planned("headroom: 30 %", 100.0).certainty
    assert 0.5 <= sure.confidence_frac < sure.asked_frac == 0.6


def test_what_does_not_hold_by_the_prediction_either_is_refused_as_ever() -> None:
    with pytest.raises(InfeasibleError) as caught:
        planned("confidence: 90 %", 1.0, tpot_ms=1.0)
    assert caught.value.binding == "tpot p95"


def test_bounds_are_of_the_least_loaded_region() -> None:
    """What a bound refuses, no region would allow: the limits it works with are the widest."""
    study = Study(scenario("confidence: 90 %"))
    option = study.rated()[0].option
    limits = [[o.limit_s for o in study.fleets.safe(option, region).objectives] for region in REGIONS]
    assert all(a >= b for less, more in itertools.pairwise(limits) for a, b in zip(less, more, strict=True))
    assert study.demand_on(option).slo == study.fleets.safe(option, REGIONS[0])


@settings(max_examples=50, deadline=None)
@given(confidence=st.floats(0.5, 0.975), region=st.sampled_from(REGIONS))
def test_limits_shrink_by_what_a_figure_may_be_off(confidence: float, region: str) -> None:
    study = Study(scenario("confidence: none"))
    pool, slo = next(iter(study.rated())).option.pool, study.slo
    over = over_fracs(slo, pool, region, confidence)  # type: ignore[arg-type]
    for old, new in zip(slo.objectives, safe_slo(slo, pool, region, confidence).objectives, strict=True):  # type: ignore[arg-type]
        assert new.limit_s * (1 + over[str(old)]) == pytest.approx(old.limit_s)
        assert replace(new, limit_s=old.limit_s) == old
        assert math.isfinite(new.limit_s)


@pytest.mark.parametrize("text", ["40 %", "99 %", "sure", "-1 %"])
def test_a_confidence_no_band_knows_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="confidence"):
        scenario(f"confidence: {text}")
