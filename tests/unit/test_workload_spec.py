"""The workload section of a scenario: what it means and what is refused, with its place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from headway.errors import InputError
from headway.reading import parse_yaml, read_yaml
from headway.workload import generate, profile, spec_from_node
from headway.workload.arrivals import Cycle, Modulated, Steady, Steps
from headway.workload.distributions import Constant, Gamma, Geometric, Lognormal, Pareto, Quantiles, Uniform
from headway.workload.lengths import Copula, JointTable
from headway.workload.spec import WorkloadSpec

LENGTHS = "lengths: {isl: 100, osl: 10}\n"


def spec(text: str) -> WorkloadSpec:
    return spec_from_node(parse_yaml(text, file="s.yaml"))


def refused(text: str) -> InputError:
    with pytest.raises(InputError) as caught:
        spec(text)
    assert caught.value.file == "s.yaml"
    assert "\n" not in str(caught.value)
    return caught.value


def test_everything_spelled_out_is_read() -> None:
    read = spec("""
lengths: {isl: {lognormal: {mean: 2000 tokens, cv: 0.8}}, osl: {quantiles: {p50: 150, p90: 400, p99: 1200}},
          correlation: 0.2}
arrivals: {process: gamma, rate: 40 req/s, cv: 2}
sessions: {turns: {mean: 5}, think_time: {p50: 10 s, p90: 60 s}, response_time: 8 s, growth: {mean: 300 tokens}}
system_prompts: [{tokens: 1200 tokens, share: 60 %}]
tenants: [{name: a, share: 70 %}]
adapters: {count: 3, zipf: 1, share: 50 %}
classes: [{name: interactive, priority: 0, share: 80 %}, {name: batch, priority: 5, share: 20 %}]
""")
    assert isinstance(read.content, Copula)
    assert read.content.isl == Lognormal(2000.0, 0.8)
    assert read.content.osl == Quantiles((0.5, 0.9, 0.99), (150.0, 400.0, 1200.0))
    assert read.content.rank_correlation == 0.2
    assert read.arrivals.pattern == Steady(40.0)
    assert read.arrivals.gap_cv == 2.0
    assert read.sessions is not None
    assert read.sessions.turns == Geometric(5.0)
    assert read.sessions.think_s == Quantiles((0.5, 0.9), (10.0, 60.0))
    assert read.sessions.response_s == Constant(8.0)
    assert read.sessions.growth_tokens == Gamma(300.0, 1.0)
    assert read.system_prompts[0].prompt_tokens == 1200
    assert read.tenants[0].share_frac == pytest.approx(0.7)
    # Zipf with exponent 1 over 3: weights 1, 1/2, 1/3 of 11/6
    assert [label.share_frac for label in read.adapters] == pytest.approx([0.5 * 6 / 11, 0.5 * 3 / 11, 0.5 * 2 / 11])
    assert [label.priority for label in read.classes] == [0, 5]


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("7", Constant(7.0)),
        ("2 k tokens", Constant(2000.0)),
        ("{constant: 7}", Constant(7.0)),
        ("{uniform: {low: 1, high: 9 tokens}}", Uniform(1.0, 9.0)),
        ("{gamma: {mean: 100, cv: 0.5}}", Gamma(100.0, 0.5)),
        ("{mean: 100, cv: 0.5}", Gamma(100.0, 0.5)),
        ("{mean: 100}", Gamma(100.0, 1.0)),
        ("{pareto: {least: 10, alpha: 1.5, most: 10000}}", Pareto(10.0, 1.5, 10000.0)),
        ("{p50: 5, p99.9: 70}", Quantiles((0.5, 0.9990000000000001), (5.0, 70.0))),
    ],
)
def test_each_form_of_a_distribution(text: str, meant: object) -> None:
    content = spec(f"lengths: {{isl: {text}, osl: 1}}\narrivals: 1 req/s").content
    assert isinstance(content, Copula)
    if isinstance(meant, Quantiles):
        assert isinstance(content.isl, Quantiles)
        assert content.isl.probabilities == pytest.approx(meant.probabilities)
        assert content.isl.values == meant.values
    else:
        assert content.isl == meant


def test_a_joint_table_is_read() -> None:
    content = spec(
        "lengths: {joint: {percentiles: [0, 50, 100], isl: [1, 10, 90], osl: [[1, 2, 3], [4, 5, 6]]}}\narrivals: 1 rps"
    ).content
    at = (0.0, 0.5, 1.0)
    assert content == JointTable(
        isl=Quantiles(at, (1.0, 10.0, 90.0)), osl=(Quantiles(at, (1.0, 2.0, 3.0)), Quantiles(at, (4.0, 5.0, 6.0)))
    )


def test_each_arrival_process_is_read() -> None:
    step = spec(LENGTHS + "arrivals: {process: step, steps: [{at: 0 s, rate: 0 req/s}, {at: 2 min, rate: 3 req/s}]}")
    assert step.arrivals.pattern == Steps(at_s=(0.0, 120.0), rates_per_s=(0.0, 3.0))
    table = spec(LENGTHS + "arrivals: {process: diurnal, table: [2 req/s, 4 req/s], period: 1 h, rate: 6 req/s}")
    assert table.arrivals.pattern == Cycle(period_s=3600.0, rates_per_s=(2.0, 4.0))
    assert table.rate_per_s == pytest.approx(6.0)
    mmpp = spec(
        LENGTHS
        + "arrivals: {process: mmpp, rate: 9 req/s, states: [{rate: 1 rps, stay: 3 s}, {rate: 9 rps, stay: 1 s}]}"
    )
    assert mmpp.arrivals.pattern == Modulated(
        rates_per_s=(1.0, 9.0), stays_s=(3.0, 1.0), moves=((0.0, 1.0), (1.0, 0.0))
    )
    # three quarters of the time at 1, one quarter at 9: mean 3; scaled to 9
    assert mmpp.arrivals.pattern.mean_per_s == pytest.approx(3.0)
    assert mmpp.arrivals.factor == pytest.approx(3.0)


def test_a_swing_has_its_peak_where_it_says() -> None:
    pattern = spec(
        LENGTHS + "arrivals: {process: diurnal, rate: 10 req/s, swing: 50 %, peak: 14 h, start: 9 h}"
    ).arrivals.pattern
    assert isinstance(pattern, Cycle)
    rates = np.asarray(pattern.rates_per_s)
    assert rates.max() / rates.mean() == pytest.approx(1.5, rel=1e-3)
    assert rates.min() / rates.mean() == pytest.approx(0.5, rel=1e-3)
    assert (rates.argmax() + 0.5) / len(rates) * 24 == pytest.approx(14.0, abs=0.1)
    assert pattern.start_s == 9 * 3600


def test_a_profile_at_another_rate_and_with_parts_replaced() -> None:
    read = spec("profile: azure-conv\nrate: 40 req/s\narrivals: 3 req/s\ntenants: [{name: a, share: 1}]")
    assert read.rate_per_s == pytest.approx(40.0)
    assert read.content == profile("azure-conv").spec.content
    assert read.name == "azure-conv"
    assert read.tenants[0].name == "a"
    assert spec("lengths: {profile: azure-code}\narrivals: 1 req/s").content == profile("azure-code").spec.content


TRACE = "TIMESTAMP,ContextTokens,GeneratedTokens\n" + "".join(
    f"2023-11-16 18:17:{second:02d}.0000000,{100 + second},{second + 1}\n" for second in (0, 1, 3, 9)
)


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    (tmp_path / "day.csv").write_text(TRACE)
    return tmp_path / "s.yaml"


def test_a_trace_is_found_beside_the_scenario_and_compressed(scenario: Path) -> None:
    scenario.write_text("{trace: day.csv, scale: 2}")
    drawn = generate(spec_from_node(read_yaml(scenario)), requests=6, seed=0)
    # four requests in 9 s; the fifth follows a mean gap (3 s) after the fourth; all at twice the rate
    assert drawn.arrive_s.tolist() == pytest.approx([0.0, 0.5, 1.5, 4.5, 6.0, 6.5])
    assert drawn.isl_tokens.tolist() == [100, 101, 103, 109, 100, 101]


def test_a_trace_at_a_rate_or_with_other_arrivals(scenario: Path) -> None:
    scenario.write_text("{trace: day.csv, rate: 4 req/s}")
    assert spec_from_node(read_yaml(scenario)).rate_per_s == pytest.approx(4.0)
    scenario.write_text("{trace: day.csv, arrivals: 7 req/s, format: azure}")
    read = spec_from_node(read_yaml(scenario))
    assert read.arrivals.pattern == Steady(7.0)
    assert generate(read, requests=4, seed=0).osl_tokens.tolist() == [1, 2, 4, 10]


def test_the_times_of_a_trace_with_other_lengths(scenario: Path) -> None:
    scenario.write_text(LENGTHS + "arrivals: {process: replay, trace: day.csv, rate: 4 req/s}")
    read = spec_from_node(read_yaml(scenario))
    assert read.rate_per_s == pytest.approx(4.0)
    assert generate(read, requests=3, seed=0).isl_tokens.tolist() == [100, 100, 100]


@pytest.mark.parametrize(
    ("text", "problem", "place"),
    [
        ("profile: azure-con", "did you mean 'azure-conv'?", "profile"),
        ("profile: azure-conv\nrte: 3 req/s", "did you mean 'rate'?", "rte"),
        ("profile: azure-conv\nrate: 40", "has no unit", "rate"),
        ("profile: azure-conv\nrate: -1 req/s", "below the least", "rate"),
        ("profile: azure-conv\nrate: 0 req/s", "above zero", "rate"),
        ("profile: azure-conv\nrate: 40 tokens/s", "unknown unit", "rate"),
        ("profile: azure-conv\nscale: 2", "unknown key 'scale'", "scale"),
        ("trace: day.csv\nsessions: {}", "unknown key 'sessions'", "sessions"),
        ("[1]", "expected a mapping", "line 1"),
        ("rate: 3 req/s", "'lengths' is missing", "line 1"),
        ("lengths: {isl: 1}\narrivals: 1 req/s", "'osl' is missing", "lengths"),
        ("lengths: {isl: 10 s, osl: 1}\narrivals: 1 req/s", "unknown unit", "lengths.isl"),
        (
            "lengths: {isl: {lognormal: {mean: 0, cv: 1}}, osl: 1}\narrivals: 1 req/s",
            "more than zero",
            "lognormal.mean",
        ),
        ("lengths: {isl: {p50: 9, p90: 8}, osl: 1}\narrivals: 1 req/s", "p90 is below p50", "lengths.isl"),
        ("lengths: {isl: {p50: 9}, osl: 1}\narrivals: 1 req/s", "at least two", "lengths.isl"),
        ("lengths: {isl: {p50: 9, p101: 8}, osl: 1}\narrivals: 1 req/s", "expected a percentile", "lengths.isl.p101"),
        ("lengths: {isl: {p50: 9, p50.0: 9}, osl: 1}\narrivals: 1 req/s", "the same percentile", "lengths.isl"),
        ("lengths: {isl: {normal: 9}, osl: 1}\narrivals: 1 req/s", "did you mean 'lognormal'?", "isl.normal"),
        ("lengths: {isl: {uniform: {low: 9, high: 1}}, osl: 1}\narrivals: 1 req/s", "low is above high", "uniform"),
        ("lengths: {isl: 1, osl: 1, correlation: 2}\narrivals: 1 req/s", "above the most", "correlation"),
        (
            "lengths: {joint: {percentiles: [0, 100], isl: [1, 2], osl: [[1, 2], [1]]}}\narrivals: 1 req/s",
            "at least two",
            "osl[1]",
        ),
        (
            "lengths: {joint: {percentiles: [0, 100], isl: [2, 1], osl: [[1, 2]]}}\narrivals: 1 req/s",
            "expected rising",
            "isl[1]",
        ),
        (
            "lengths: {joint: {percentiles: [0, 50, 100], isl: [1, 2], osl: [[1, 2]]}}\narrivals: 1 req/s",
            "expected 3 values",
            "joint.isl",
        ),
        (LENGTHS + "arrivals: {process: poison, rate: 1 req/s}", "did you mean 'poisson'?", "process"),
        (LENGTHS + "arrivals: {rate: 1 req/s}", "'process' is missing", "arrivals"),
        (LENGTHS + "arrivals: {process: gamma, rate: 1 req/s}", "'cv' is missing", "arrivals"),
        (LENGTHS + "arrivals: {process: mmpp, states: [{rate: 1 req/s, stay: 1 s}]}", "at least 2", "states"),
        (
            LENGTHS
            + "arrivals: {process: mmpp, states: [{rate: 1 rps, stay: 1 s, next: [1, 0]}, {rate: 1 rps, stay: 1 s}]}",
            "probabilities that sum to 1",
            "states[0].next",
        ),
        (
            LENGTHS + "arrivals: {process: mmpp, states: [{rate: 0 req/s, stay: 1 s}, {rate: 0 req/s, stay: 1 s}]}",
            "zero everywhere",
            "arrivals",
        ),
        (LENGTHS + "arrivals: {process: diurnal, rate: 1 req/s}", "either a table", "arrivals"),
        (LENGTHS + "arrivals: {process: diurnal, swing: 10 %}", "'rate' is missing", "arrivals"),
        (
            LENGTHS + "arrivals: {process: step, steps: [{at: 1 s, rate: 1 req/s}]}",
            "the first of them 0 s",
            "steps[0].at",
        ),
        (LENGTHS + "arrivals: {process: step, steps: [{at: 0 s, rate: 0 req/s}]}", "above zero", "steps[0].rate"),
        (LENGTHS + "arrivals: 1 req/s\nsessions: {turns: 3, think_time: 1 s}", "either 'growth'", "sessions"),
        (LENGTHS + "arrivals: 1 req/s\nsessions: {turns: 3, think_time: 1, alike: 1}", "has no unit", "think_time"),
        (
            LENGTHS + "arrivals: 1 req/s\ntenants: [{name: a, share: 70 %}, {name: b, share: 40 %}]",
            "sum to 110 %",
            "tenants",
        ),
        (
            LENGTHS + "arrivals: 1 req/s\ntenants: [{name: a, share: 7 %}, {name: a, share: 4 %}]",
            "twice",
            "tenants[1].name",
        ),
        (LENGTHS + "arrivals: 1 req/s\nclasses: [{name: a, share: 170 %}]", "above the most", "classes[0].share"),
        (LENGTHS + "arrivals: 1 req/s\nsystem_prompts: [{tokens: 0 tokens, share: 1 %}]", "below the least", "tokens"),
        ("trace: nowhere.csv\nscale: 0", "", ""),
    ],
)
def test_a_slip_is_refused_with_its_place(text: str, problem: str, place: str) -> None:
    if problem:
        error = refused(text)
        assert problem in str(error)
        assert place in error.place
    else:
        with pytest.raises(InputError, match="nowhere"):
            spec(text)


def test_a_trace_whose_times_stand_still_needs_arrivals(scenario: Path) -> None:
    (scenario.parent / "day.csv").write_text(TRACE[: TRACE.index("\n2023", 60) + 1])
    scenario.write_text("{trace: day.csv}")
    with pytest.raises(InputError, match="arrive at one time"):
        spec_from_node(read_yaml(scenario))


def test_a_scale_beside_a_rate_or_arrivals_is_refused(scenario: Path) -> None:
    for text in ("{trace: day.csv, scale: 2, rate: 1 req/s}", "{trace: day.csv, scale: 2, arrivals: 1 req/s}"):
        scenario.write_text(text)
        with pytest.raises(InputError) as caught:
            spec_from_node(read_yaml(scenario))
        assert "scale" in caught.value.place


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({}, "exactly one"),
        ({"requests": 1, "duration_s": 1.0}, "exactly one"),
        ({"requests": 0}, "above zero"),
        ({"duration_s": float("nan")}, "above zero"),
        ({"requests": 1, "rate_factor": 0.0}, "above zero"),
        ({"requests": 1, "seed": -1}, "whole number from 0"),
        ({"requests": 10**9}, "more than the"),
        ({"duration_s": 1e12}, "more than the"),
    ],
)
def test_generate_refuses_what_it_cannot_draw(arguments: dict[str, float], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        generate(spec(LENGTHS + "arrivals: 1 req/s"), **{"seed": 0} | arguments)
