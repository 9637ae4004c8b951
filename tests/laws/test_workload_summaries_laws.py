"""Laws of summaries of benchmark runs: whatever stands in any place of one, it is read in full or refused in words."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from headway.errors import InputError
from headway.workload.summaries import holds_no_requests, read_summary
from headway.workload.summary import Summary

TIMES = {"avg": 20.5, "p50": 20.0, "p99": 90.0, "max": 99.0, "count": 8, "unit": "ms"}
SPREAD = {"successful": {"mean": 20.5, "std_dev": 2.0, "max": 99.0, "percentiles": {"p50": 20.0, "p99": 90.0}}}
#: One whole summary of each tool.
WHOLE: dict[str, dict[str, Any]] = {
    "vllm-bench": {
        "num_prompts": 9,
        "completed": 8,
        "failed": 1,
        "request_rate": 4.0,
        "max_concurrency": 3,
        "duration": 2.5,
        "total_input_tokens": 80,
        "total_output_tokens": 40,
        "request_throughput": 3.2,
        "output_throughput": 16.0,
        "mean_ttft_ms": 20.5,
        "median_ttft_ms": 20.0,
        "p99_ttft_ms": 90.0,
    },
    "aiperf": {
        "time_to_first_token": TIMES,
        "request_count": {"avg": 8},
        "error_request_count": {"avg": 1},
        "input_sequence_length": {"avg": 10.0, "std": 1.0},
        "request_throughput": {"avg": 3.2},
        "input_config": {"loadgen": {"concurrency": 3, "request_rate": 4.0}},
    },
    "guidellm": {
        "benchmarks": [
            {
                "config": {"strategy": {"type_": "throughput", "max_concurrency": 3, "streams": 3, "rate": 4.0}},
                "duration": 2.5,
                "requests": {"successful": []},
                "metrics": {
                    "request_totals": {"successful": 8, "errored": 1, "incomplete": 0},
                    "prompt_token_count": SPREAD,
                    "output_token_count": SPREAD,
                    "time_to_first_token_ms": SPREAD,
                },
            }
        ]
    },
}
NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.just(10**400)
ANYTHING = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=5) | st.sampled_from(["inf", "nan", "1e999", "concurrent"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
#: requests and clients nobody has
MOST = 10**9
INFINITE = "what JSON writes as 1e999"


def places(value: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a document, the inner ones too."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inside:
        yield (*before, key)
        yield from places(one, (*before, key))


def changed(tool: str, place: tuple[Any, ...], value: Any) -> str:
    document = copy.deepcopy(WHOLE[tool])
    inner: Any = document
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return json.dumps(document).replace(json.dumps(INFINITE), "1e999")


def figures(found: Summary) -> list[float]:
    alone = [found.isl_tokens, found.osl_tokens, found.duration_s, found.requests_per_s, found.output_tokens_per_s]
    spreads = [(one.mean_s, one.max_s, *one.quantiles_s.values()) for one in found.latency.values()]
    return [*alone, found.isl_sd_tokens, found.osl_sd_tokens, *(each for one in spreads for each in one)]


def refused_or_sane(path: Path) -> None:
    try:
        assert holds_no_requests(path) in (True, False)
        found = read_summary(path)
    except InputError as error:
        assert "\n" not in str(error) and len(str(error)) < 500
        return
    assert all(math.isnan(one) or 0 <= one < math.inf for one in figures(found))
    assert 0 <= found.failed <= 3 * MOST and 0 <= found.requests <= 4 * MOST
    assert found.concurrency is None or 0 <= found.concurrency <= MOST
    assert all(0 <= at <= 1 for one in found.latency.values() for at in one.quantiles_s)


@pytest.mark.parametrize("tool", WHOLE)
def test_a_whole_one_is_read(tool: str, tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    path.write_text(json.dumps(WHOLE[tool]))
    assert holds_no_requests(path)
    found = read_summary(path)
    assert (found.tool, found.requests, found.failed, found.concurrency) == (tool, 9, 1, 3)
    assert found.latency["ttft"].quantiles_s == {0.5: pytest.approx(0.02), 0.99: pytest.approx(0.09)}


@pytest.mark.parametrize("tool", WHOLE)
@settings(deadline=None)
@example(data=None, value=INFINITE)
@example(data=None, value=10**400)
@example(data=None, value=-1)
@example(data=None, value=1e308)
@example(data=None, value=5e-324)
@example(data=None, value=[1])
@example(data=None, value={"successful": 7})
@given(data=st.data(), value=ANYTHING)
def test_whatever_stands_in_any_place_it_is_read_or_refused(
    tool: str, data: st.DataObject | None, value: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("summary") / "summary.json"
    everywhere = list(places(WHOLE[tool]))
    for place in everywhere if data is None else [data.draw(st.sampled_from(everywhere))]:
        path.write_text(changed(tool, place, value))
        refused_or_sane(path)


@given(at=st.text("0123456789.", min_size=1, max_size=400).filter(lambda one: one.count(".") <= 1))
def test_a_quantile_is_at_most_all_there_is(at: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("summary") / "summary.json"
    path.write_text(json.dumps(WHOLE["vllm-bench"] | {f"p{at}_ttft_ms": 5.0}))
    refused_or_sane(path)
