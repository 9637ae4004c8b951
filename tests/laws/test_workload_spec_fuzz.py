"""Fuzz: whatever stands in a workload section, it is read and can be drawn, or is refused as an InputError."""

from __future__ import annotations

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from headway.errors import InputError
from headway.reading import parse_yaml
from headway.workload import generate, spec_from_node

WORDS = st.sampled_from([
    *("profile", "lengths", "arrivals", "sessions", "system_prompts", "tenants", "adapters", "classes", "rate"),
    "trace",
    *("isl", "osl", "correlation", "joint", "percentiles", "quantiles", "lognormal", "gamma", "uniform", "pareto"),
    "mean",
    *("cv", "p0", "p50", "p99", "low", "high", "least", "alpha", "most", "process", "states", "stay", "next", "steps"),
    *("at", "table", "swing", "peak", "period", "start", "turns", "think_time", "response_time", "growth", "alike"),
    *("name", "share", "tokens", "priority", "count", "zipf", "scale", "format", "constant"),
])  # fmt: skip
VALUES = st.sampled_from([
    *("azure-conv", "40 req/s", "0 req/s", "-1 req/s", "5 s", "0 s", "2000 tokens", "1e9 tokens", "30 %", "120 %"),
    *("poisson", "mmpp", "diurnal", "step", "replay", "nan", "p", "", ".inf", "²", "1e400"),
    *(0, 1, 2, 0.5, -1, 10**400, 100, None, True, 1e308),
])  # fmt: skip
TREES = st.recursive(
    VALUES | st.text(max_size=5) | st.floats(),
    lambda child: st.lists(child, max_size=3) | st.dictionaries(WORDS, child, max_size=4),
    max_leaves=25,
)
GOOD = {
    "lengths": {
        "isl": {"lognormal": {"mean": "2000 tokens", "cv": 0.8}},
        "osl": {"p50": 100, "p90": 300},
        "correlation": 0.1,
    },
    "arrivals": {
        "process": "mmpp",
        "states": [{"rate": "1 req/s", "stay": "3 s", "next": [0, 1]}, {"rate": "9 req/s", "stay": "1 s"}],
    },
    "sessions": {"turns": {"mean": 3}, "think_time": "5 s", "growth": {"mean": 30}},
    "system_prompts": [{"tokens": "100 tokens", "share": "30 %"}],
    "tenants": [{"name": "a", "share": "30 %"}],
    "classes": [{"name": "a", "share": "30 %", "priority": 2}],
}


def read(tree: object) -> None:
    try:
        spec = spec_from_node(parse_yaml(yaml.safe_dump(tree), file="f.yaml"))
    except InputError as error:
        assert "\n" not in str(error)
        return
    drawn = generate(spec, requests=5, seed=0)
    assert len(drawn) == 5
    assert drawn.isl_tokens.min() >= 1
    assert drawn.osl_tokens.min() >= 1


@given(st.dictionaries(WORDS, TREES, max_size=5))
@settings(max_examples=300)
def test_any_section_is_read_or_refused(tree: dict[str, object]) -> None:
    read(tree)


@st.composite
def damaged(draw: st.DrawFn) -> object:
    """The good section with one place replaced."""

    def visit(tree: object, path: list[object]) -> object:
        if not path:
            return draw(TREES)
        step, *rest = path
        if isinstance(tree, dict):
            return tree | {step: visit(tree.get(step), rest)}
        return [visit(child, rest) if index == step else child for index, child in enumerate(tree)]

    def paths(tree: object) -> list[list[object]]:
        children = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
        return [[], *([key, *path] for key, child in children for path in paths(child))]

    return visit(GOOD, draw(st.sampled_from(paths(GOOD))))


def test_the_good_section_is_read() -> None:
    assert len(generate(spec_from_node(parse_yaml(yaml.safe_dump(GOOD))), requests=5, seed=0)) == 5


@given(damaged())
@settings(max_examples=300)
def test_a_damaged_section_is_read_or_refused(tree: object) -> None:
    read(tree)
