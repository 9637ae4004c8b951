"""Laws of results in other tools' forms: what headway writes, its own readers read back the same; and a summary of a
file is the summary of its requests."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headway.errors import InputError
from headway.types import Requests
from headway.workload import Measured, RunAbout, Trace, read_summary, read_trace, write_result

FORMS = ("vllm-bench", "aiperf", "guidellm")
WORDS = ("", "timeout", "status-503", "interrupted")
SHARED = Path(__file__).parents[2].parent / "shared"
#: 2026-11-21: seconds since 1970 in a double are good to a quarter of a microsecond.
ABOUT = RunAbout(model="m", url="http://127.0.0.1:8000", started_s=1795227646.0)


@st.composite
def runs(draw: st.DrawFn) -> Trace:
    n = draw(st.integers(2, 25))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    asked = rng.integers(1, 60, n)
    error = rng.integers(1, 4, n) * (rng.random(n) < draw(st.sampled_from([0.0, 0.3])))
    error[0] = 0
    got = np.maximum(asked - rng.integers(0, 3, n), 1)
    gaps = [rng.uniform(0, 0.05, int(rng.integers(0, count))) for count in got]  # several tokens in a chunk: fewer gaps
    late_s = rng.uniform(0, 0.01, n)
    ttft_s = late_s + rng.uniform(0.001, 2, n)
    answered = error == 0
    return Trace(
        requests=Requests(
            arrive_s=np.concatenate([[0.0], np.cumsum(rng.exponential(0.2, n - 1))]),
            isl_tokens=rng.integers(1, 3000, n),
            osl_tokens=asked,
        ),
        format="",
        file="",
        measured=Measured(
            ttft_s=np.where(answered, ttft_s, np.nan),
            e2e_s=np.where(answered, ttft_s + [one.sum() for one in gaps], np.nan),
            sent_s=late_s - late_s[0],
            itl_s=np.concatenate(gaps),
            itl_offsets=np.concatenate([[0], np.cumsum([len(one) for one in gaps])]),
            cached_tokens=rng.integers(0, 50, n),
            output_tokens=np.where(answered, got, -1),
            error=error,
        ),
        names={"error": WORDS},
    )


def errors(trace: Trace) -> list[str]:
    assert trace.measured is not None and trace.measured.error is not None
    return [trace.names["error"][code] for code in trace.measured.error.tolist()]


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=40, deadline=None)
@given(trace=runs())
def test_what_is_written_for_another_tool_reads_back_the_same(
    trace: Trace, form: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("result") / "result.json"
    write_result(trace, path, form, ABOUT)
    again = read_trace(path, result=True)
    before, after = trace.measured, again.measured
    assert before is not None and after is not None
    assert again.format == form
    assert errors(again) == errors(trace)
    np.testing.assert_array_equal(again.requests.isl_tokens, trace.requests.isl_tokens)
    # of a failed request, AIPerf's records do not have the length asked for
    told = (before.error == 0) | (form != "aiperf")
    np.testing.assert_array_equal(again.requests.osl_tokens[told], trace.requests.osl_tokens[told])
    np.testing.assert_allclose(again.requests.arrive_s, trace.requests.arrive_s, atol=2e-6)
    for name in ("ttft_s", "e2e_s", "sent_s"):
        np.testing.assert_allclose(getattr(after, name), getattr(before, name), atol=2e-6, err_msg=name)
    answered = before.error == 0
    np.testing.assert_array_equal(after.output_tokens[answered], before.output_tokens[answered])
    if form != "vllm-bench":  # it does not keep what was cached
        np.testing.assert_array_equal(after.cached_tokens[answered], before.cached_tokens[answered])
    if form == "vllm-bench":
        np.testing.assert_array_equal(after.itl_s, before.itl_s)
        np.testing.assert_array_equal(after.itl_offsets, before.itl_offsets)
    assert [one.name for one in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=20, deadline=None)
@given(trace=runs())
def test_as_traffic_the_same_file_has_answered_requests_only(
    trace: Trace, form: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("result") / "result.json"
    write_result(trace, path, form, ABOUT)
    answered = [not word for word in errors(trace)]
    traffic = read_trace(path)
    assert len(traffic.requests) == sum(answered)
    assert sum(one.rows for one in traffic.treatments) == len(answered) - sum(answered)
    assert trace.measured is not None
    np.testing.assert_array_equal(traffic.requests.osl_tokens, trace.measured.output_tokens[answered])  # type: ignore[index]


@pytest.mark.parametrize("form", ["vllm-bench", "guidellm"])
@settings(max_examples=20, deadline=None)
@given(trace=runs(), clients=st.integers(1, 64))
def test_a_summary_is_that_of_the_requests(
    trace: Trace, form: str, clients: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("result") / "result.json"
    write_result(trace, path, form, dataclasses.replace(ABOUT, concurrency=clients))
    found = read_summary(path)
    measured = trace.measured
    assert measured is not None and measured.e2e_s is not None and measured.sent_s is not None
    answered = measured.error == 0
    e2e_s = (measured.e2e_s - measured.sent_s)[answered]
    assert (found.tool, found.concurrency) == (form, clients)
    assert (found.requests, found.failed) == (len(answered), int((~answered).sum()))
    assert found.isl_tokens == pytest.approx(trace.requests.isl_tokens[answered].mean())
    assert found.osl_tokens == pytest.approx(measured.output_tokens[answered].mean())  # type: ignore[index]
    assert found.output_tokens_per_s * found.duration_s == pytest.approx(measured.output_tokens[answered].sum())  # type: ignore[index]
    assert found.latency["e2e"].mean_s == pytest.approx(e2e_s.mean(), abs=1e-6)
    assert found.latency["e2e"].samples == answered.sum()
    assert e2e_s.min() - 1e-6 <= found.latency["e2e"].at(0.99) <= e2e_s.max() + 1e-6


# --- published samples -----------------------------------------------------------------------------------


@pytest.fixture
def samples() -> Path:
    if not (SHARED / "samples").is_dir():
        pytest.skip("needs ../shared/samples")
    return SHARED / "samples"


def test_vllms_own_figures_come_out_of_its_own_requests(samples: Path, tmp_path: Path) -> None:
    """Every figure that tool computes from requests alone; its duration has the client's setup in it."""
    said = json.loads((samples / "vllm_bench.json").read_text(encoding="utf-8"))
    write_result(read_trace(samples / "vllm_bench.json", result=True), tmp_path / "again.json", "vllm-bench")
    again = json.loads((tmp_path / "again.json").read_text(encoding="utf-8"))
    assert set(again) - set(said) == {"asked_output_lens"}
    assert set(said) <= set(again)
    figures = [
        key for key in said if key.endswith("_ms") or key.startswith(("max_o", "max_concurrent", "total_i", "total_o"))
    ]
    assert len(figures) == 20
    for key in figures:
        assert again[key] == pytest.approx(said[key], rel=1e-12), key


def test_guidellms_own_distributions_come_out_of_its_own_requests(samples: Path, tmp_path: Path) -> None:
    path = samples / "guidellm/bench.json"
    write_result(read_trace(path, result=True), tmp_path / "again.json", "guidellm", ABOUT)
    said, again = (
        json.loads(one.read_text(encoding="utf-8"))["benchmarks"][0]["metrics"]
        for one in (path, tmp_path / "again.json")
    )
    for name in ("request_latency", "time_to_first_token_ms", "prompt_token_count", "output_token_count"):
        before, after = said[name]["successful"], again[name]["successful"]
        for key in ("mean", "median", "std_dev", "min", "max", "count", "total_sum"):
            assert after[key] == pytest.approx(before[key], rel=1e-4), (name, key)
        for key in ("p50", "p75", "p90", "p99"):
            assert after["percentiles"][key] == pytest.approx(before["percentiles"][key], rel=1e-4), (name, key)


@pytest.mark.parametrize(
    ("full", "table"),
    [
        ("aiperf/profile_export_aiperf.json", "aiperf/profile_export_aiperf.csv"),
        ("guidellm/bench.json", "guidellm/bench.csv"),
    ],
)
def test_a_tools_csv_says_what_its_json_says(samples: Path, full: str, table: str) -> None:
    one, other = read_summary(samples / full), read_summary(samples / table)
    assert (one.tool, one.requests, one.failed) == (other.tool, other.requests, other.failed) == (one.tool, 30, 0)
    for name in ("isl_tokens", "osl_tokens", "duration_s", "requests_per_s", "output_tokens_per_s"):
        assert getattr(one, name) == pytest.approx(getattr(other, name), rel=2e-3), name
    assert set(one.latency) == set(other.latency)
    for metric, latency in one.latency.items():
        assert latency.mean_s == pytest.approx(other.latency[metric].mean_s, rel=2e-3)
        for frac, value_s in other.latency[metric].quantiles_s.items():
            assert latency.at(frac) == pytest.approx(value_s, rel=2e-3, abs=1e-5), (metric, frac)


def test_a_summary_names_what_its_figures_hide(samples: Path) -> None:
    notes = read_summary(samples / "vllm_bench.json").notes
    assert any("chunks came together" in one for one in notes)
    assert any("ITL is not told" in one for one in read_summary(samples / "guidellm/bench.json").notes)


def test_what_is_no_summary_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text('{"a": 1}\n', encoding="utf-8")
    with pytest.raises(InputError, match="of no known summary"):
        read_summary(path)


def test_nothing_measured_and_unknown_forms_are_refused(tmp_path: Path) -> None:
    requests = Requests(arrive_s=np.zeros(1), isl_tokens=np.ones(1, dtype=int), osl_tokens=np.ones(1, dtype=int))
    bare = Trace(requests=requests, format="", file="")
    with pytest.raises(InputError, match="nothing was measured"):
        write_result(bare, tmp_path / "a", "aiperf")
    with pytest.raises(InputError, match="no result format is called 'aiprf'"):
        write_result(bare, tmp_path / "a", "aiprf")
    assert not list(tmp_path.iterdir())
