"""Each format: the values that come out, what is measured, and what is treated."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from headway.workload import read_trace
from headway.workload.prefixes import expand_ids, hit_tokens

if TYPE_CHECKING:
    from headway.workload import Trace


@pytest.fixture(scope="module")
def shared() -> Path:
    folder = Path(__file__).parents[2].parent / "shared"
    if not folder.is_dir():
        pytest.skip("needs ../shared")
    return folder


def write(tmp_path: Path, *records: object, name: str = "trace.jsonl") -> Path:
    path = tmp_path / name
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def treatments(trace: Trace) -> dict[str, int]:
    return {one.text: one.rows for one in trace.treatments}


# --- Azure -----------------------------------------------------------------------------------------------


def test_azure_counts_from_the_first_row_to_100_ns(tmp_path: Path) -> None:
    path = tmp_path / "azure.csv"
    path.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:17:03.9799600,4808,10\n2023-11-16 18:17:04.0319601,3180,8\n",
        encoding="utf-8",
    )
    requests = read_trace(path).requests
    assert requests.arrive_s.tolist() == [0.0, 0.0520001]
    assert requests.isl_tokens.tolist() == [4808, 3180]
    assert requests.osl_tokens.tolist() == [10, 8]


def test_azure_of_2024_has_zones(tmp_path: Path) -> None:
    path = tmp_path / "azure.csv"
    path.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2024-05-10 00:00:00.009930+00:00,1,1\n2024-05-10 02:00:01+02:00,2,2\n",
        encoding="utf-8",
    )
    assert read_trace(path).requests.arrive_s.tolist() == [0.0, 0.99007]


@pytest.mark.parametrize(
    ("file", "rows", "isl", "osl"), [("code", 8819, 2048, 28), ("conv", 19366, 1155, 211)], ids=["code", "conv"]
)
def test_azure_published(shared: Path, file: str, rows: int, isl: int, osl: int) -> None:
    trace = read_trace(
        shared / f"traces/azure/AzureLLMInferenceTrace_{file}.csv", order="refuse", empty_output="refuse"
    )
    assert trace.format == "azure"
    assert len(trace.requests) == rows
    assert round(trace.requests.isl_tokens.mean()) == isl
    assert round(trace.requests.osl_tokens.mean()) == osl
    assert trace.treatments == ()


# --- Mooncake --------------------------------------------------------------------------------------------


def test_mooncake_has_milliseconds_and_blocks_of_512(tmp_path: Path) -> None:
    trace = read_trace(
        write(
            tmp_path,
            {"timestamp": 0, "input_length": 1100, "output_length": 5, "hash_ids": [0, 1, 2]},
            {"timestamp": 1500, "input_length": 900, "output_length": 5, "hash_ids": [0, 7]},
            {"timestamp": 1500, "input_length": 9, "output_length": 5},
        )
    )
    prefix = trace.requests.prefix
    assert prefix is not None
    assert trace.requests.arrive_s.tolist() == [0.0, 1.5, 1.5]
    assert prefix.block_tokens == 512
    assert prefix.offsets.tolist() == [0, 1, 3, 3]
    assert (prefix.first_ids.tolist(), prefix.counts.tolist()) == ([0, 0, 7], [3, 1, 1])
    assert list(treatments(trace).values()) == [1]
    assert "coarse clock" in str(trace.treatments[0])


def test_mooncake_block_size_can_be_said(tmp_path: Path) -> None:
    path = write(tmp_path, {"timestamp": 0, "input_length": 40, "output_length": 5, "hash_ids": [3, 4, 5]})
    prefix = read_trace(path, block_tokens=16).requests.prefix
    assert prefix is not None
    assert prefix.block_tokens == 16


def test_mooncake_without_hash_ids_shares_nothing(tmp_path: Path) -> None:
    assert read_trace(write(tmp_path, {"timestamp": 0, "input_length": 4, "output_length": 5})).requests.prefix is None


def test_mooncake_published(shared: Path) -> None:
    path = shared / "traces/mooncake/conversation_trace.jsonl"
    trace = read_trace(path)
    prefix = trace.requests.prefix
    assert prefix is not None
    assert len(trace.requests) == 12031
    ids, offsets = expand_ids(prefix)
    assert np.array_equal(np.diff(offsets), -(-trace.requests.isl_tokens // 512))
    with path.open(encoding="utf-8") as stream:
        assert ids.tolist() == [one for line in stream for one in json.loads(line)["hash_ids"]]
    hits = hit_tokens(prefix, trace.requests.isl_tokens)
    assert round(hits.sum() / trace.requests.isl_tokens.sum(), 3) == 0.374  # traces/README.md: 37.4 %


# --- sessions --------------------------------------------------------------------------------------------


def turn(t: float, runs: list[list[int]], **other: object) -> dict[str, object]:
    return {"t": t, "type": "n", "model": "big", "in": 200, "out": 7, "hash_rle": runs} | other


SESSIONS = (
    {
        "block_size": 64,
        "requests": [
            turn(0, [[1, 3]], api_time=2.0),
            turn(10, [[1, 2], [9, 1]], type="s", ttft=0.5, api_time=3.0),
            {"type": "subagent", "t": 20, "requests": [turn(0, [[20, 3]], model="small"), turn(5, [[20, 3]])]},
        ],
    },
    {"block_size": 64, "requests": [turn(0, [[1, 3]]), turn(30, [[1, 3]], out=0)]},
)


def test_sessions_all_at_once(tmp_path: Path) -> None:
    trace = read_trace(write(tmp_path, *SESSIONS), sessions_per_s=math.inf)
    requests, prefix, measured = trace.requests, trace.requests.prefix, trace.measured
    assert requests.arrive_s.tolist() == [0, 0, 10, 20, 25, 30]
    assert requests.session_id is not None
    assert requests.session_id.tolist() == [0, 2, 0, 1, 1, 2]  # the subagent is one of its own
    assert requests.osl_tokens.tolist() == [7, 7, 7, 7, 7, 1]
    assert requests.class_id is not None
    assert [trace.names["class_id"][one] for one in requests.class_id] == ["big", "big", "big", "small", "big", "big"]
    assert prefix is not None
    assert prefix.block_tokens == 64
    # ids of the second session stand above all of the first, whose last is 22
    assert prefix.first_ids.tolist() == [1, 24, 1, 9, 20, 20, 24]
    assert hit_tokens(prefix, requests.isl_tokens).tolist() == [0, 0, 128, 0, 192, 192]
    assert measured is not None
    assert measured.e2e_s is not None
    assert measured.ttft_s is not None
    np.testing.assert_array_equal(measured.e2e_s, [2, np.nan, 3, np.nan, np.nan, np.nan])
    np.testing.assert_array_equal(measured.ttft_s, [np.nan, np.nan, 0.5, np.nan, np.nan, np.nan])
    assert set(treatments(trace).values()) == {2, 1}


def test_sessions_start_apart_at_the_rate_asked_for(tmp_path: Path) -> None:
    many = [{"block_size": 64, "requests": [turn(0, [[1, 3]])]} for _ in range(2000)]
    starts_s = read_trace(write(tmp_path, *many), sessions_per_s=4.0, seed=1).requests.arrive_s
    assert starts_s[0] == 0
    gaps_s = np.diff(starts_s)
    assert gaps_s.mean() == pytest.approx(0.25, rel=0.07)  # 3 standard errors of 2,000 exponential gaps
    assert gaps_s.std() / gaps_s.mean() == pytest.approx(1, rel=0.1)
    again = read_trace(tmp_path / "trace.jsonl", sessions_per_s=4.0, seed=1).requests.arrive_s
    other = read_trace(tmp_path / "trace.jsonl", sessions_per_s=4.0, seed=2).requests.arrive_s
    assert np.array_equal(starts_s, again)
    assert not np.array_equal(starts_s, other)


def test_sessions_with_global_ids_share_them(tmp_path: Path) -> None:
    one = {"block_size": 64, "hash_id_scope": "global", "requests": [turn(0, [[1, 3]])]}
    requests = read_trace(write(tmp_path, one, one), sessions_per_s=math.inf).requests
    assert requests.prefix is not None
    assert hit_tokens(requests.prefix, requests.isl_tokens).tolist() == [0, 192]


def test_sessions_published(shared: Path) -> None:
    trace = read_trace(shared / "traces/agentic/kvct_sessions.jsonl.gz")
    requests = trace.requests
    assert len(requests) == 49334
    assert round(requests.isl_tokens.mean()) == 122379
    assert round(requests.osl_tokens.mean()) == 440
    assert requests.session_id is not None
    assert len(np.unique(requests.session_id)) == 710 + 63
    assert requests.prefix is not None
    share = hit_tokens(requests.prefix, requests.isl_tokens).sum() / requests.isl_tokens.sum()
    assert round(share, 2) == 0.96  # traces/README.md: 96 % of prompt tokens cacheable within a session
    assert treatments(trace)["request without output: counted as one token"] == 27


# --- ServeGen --------------------------------------------------------------------------------------------


def test_servegen_published_reasoning(shared: Path) -> None:
    path = shared / "traces/servegen/servegen_deepseek-r1.tar.gz"
    trace = read_trace(path, window_s=(36000, 37200))
    requests = trace.requests
    assert requests.arrive_s[-1] < 1200
    assert len(requests) == 14_909  # Σ rate × 600 s of the two windows, exactly
    assert requests.tenant_id is not None
    assert len(np.unique(requests.tenant_id)) > 10
    assert requests.isl_tokens.max() <= 10**6


def test_servegen_whole_day(shared: Path) -> None:
    requests = read_trace(shared / "traces/servegen/servegen_deepseek-r1.tar.gz").requests
    assert len(requests) == 1_383_669  # Σ rate × 600 s of all windows
    isl, osl = requests.isl_tokens, requests.osl_tokens
    # traces/README.md: mean 1268 and 1527, p50 208 and 792, p90 2092 and 3432
    assert isl.mean() == pytest.approx(1268, rel=0.01)
    assert osl.mean() == pytest.approx(1527, rel=0.01)
    assert np.quantile(isl, [0.5, 0.9]) == pytest.approx([208, 2092], rel=0.02)
    assert np.quantile(osl, [0.5, 0.9]) == pytest.approx([792, 3432], rel=0.02)


# --- load generators -------------------------------------------------------------------------------------


def test_vllm_bench_published(shared: Path) -> None:
    path = shared / "samples/vllm_bench.json"
    trace, said = read_trace(path), json.loads(path.read_text(encoding="utf-8"))
    measured = trace.measured
    assert len(trace.requests) == said["completed"]
    assert trace.requests.isl_tokens.sum() == said["total_input_tokens"]
    assert measured is not None
    assert measured.ttft_s is not None
    assert measured.e2e_s is not None
    assert measured.itl_s is not None
    assert measured.ttft_s.mean() * 1e3 == pytest.approx(said["mean_ttft_ms"])
    assert measured.e2e_s.mean() * 1e3 == pytest.approx(said["mean_e2el_ms"])
    assert measured.itl_s.mean() * 1e3 == pytest.approx(said["mean_itl_ms"])
    tpot_s = (measured.e2e_s - measured.ttft_s) / (trace.requests.osl_tokens - 1)
    assert tpot_s.mean() * 1e3 == pytest.approx(said["mean_tpot_ms"])


def vllm(**other: object) -> dict[str, object]:
    return {
        "num_prompts": 2,
        "completed": 2,
        "request_rate": "inf",
        "input_lens": [5, 6],
        "output_lens": [2, 3],
    } | other


def test_vllm_bench_leaves_failed_requests_out(tmp_path: Path) -> None:
    result = vllm(start_times=[7.0, 9.5], errors=["timeout", ""], ttfts=[0.0, 0.5], itls=[[], [0.25, 0.5]])
    trace = read_trace(write(tmp_path, result))
    assert trace.requests.isl_tokens.tolist() == [6]
    assert trace.measured is not None
    assert trace.measured.e2e_s is not None
    assert trace.measured.e2e_s.tolist() == [1.25]
    assert treatments(trace) == {"failed request: left out": 1}


def test_vllm_bench_as_a_result_keeps_failed_requests(tmp_path: Path) -> None:
    result = vllm(
        start_times=[7.0, 9.5],
        queue_times=[0.0, 1.5],
        errors=["Service Unavailable", ""],
        ttfts=[0.0, 0.5],
        itls=[[], [0.25, 0.5]],
        latencies=[0.0, 1.375],
        output_lens=[0, 3],
    )
    closed, open_loop = write(tmp_path, result), tmp_path / "open.json"
    open_loop.write_text(json.dumps(result | {"request_rate": 2.0}), encoding="utf-8")
    trace = read_trace(closed, result=True)
    measured = trace.measured
    assert measured is not None
    assert trace.names["error"] == ("", "Service Unavailable")
    np.testing.assert_array_equal(measured.error, [1, 0])
    np.testing.assert_array_equal(measured.e2e_s, [np.nan, 1.375])
    np.testing.assert_array_equal(measured.output_tokens, [-1, 3])
    assert trace.requests.arrive_s.tolist() == [0, 2.5]
    # an open loop behind a cap: the wait for the cap is the request's own
    capped = read_trace(open_loop, result=True)
    assert capped.measured is not None
    assert capped.requests.arrive_s.tolist() == [0, 1.0]
    np.testing.assert_array_equal(capped.measured.e2e_s, [np.nan, 2.875])
    np.testing.assert_array_equal(capped.measured.ttft_s, [np.nan, 2.0])


def test_vllm_bench_at_infinite_rate_needs_no_times(tmp_path: Path) -> None:
    assert read_trace(write(tmp_path, vllm())).requests.arrive_s.tolist() == [0, 0]


def test_vllm_bench_appended_results_have_parts(tmp_path: Path) -> None:
    path = write(tmp_path, vllm(), vllm(output_lens=[9, 9]))
    assert read_trace(path, part=2).requests.osl_tokens.tolist() == [9, 9]


def test_guidellm_published(shared: Path) -> None:
    path = shared / "samples/guidellm/bench.json"
    trace = read_trace(path)
    done = json.loads(path.read_text(encoding="utf-8"))["benchmarks"][0]["requests"]["successful"]
    done.sort(key=lambda one: one["info"]["timings"]["targeted_start"])
    assert trace.measured is not None
    assert trace.measured.e2e_s is not None
    assert trace.measured.ttft_s is not None
    assert trace.requests.isl_tokens.tolist() == [one["prompt_tokens"] for one in done]
    # its own word for the time since a request was due
    assert trace.measured.e2e_s == pytest.approx([one["request_scheduled_latency"] for one in done])
    assert trace.measured.sent_s == pytest.approx([one["request_dispatch_delay"] for one in done])
    late_s = trace.measured.ttft_s - trace.measured.sent_s
    assert late_s == pytest.approx([one["time_to_first_token_ms"] / 1e3 for one in done])
    as_result = read_trace(path, result=True)
    assert as_result.requests.osl_tokens.tolist() == [one["output_tokens"] for one in done]  # all were forced
    assert as_result.measured is not None and as_result.measured.error is not None
    assert not as_result.measured.error.any()


def test_aiperf_published(shared: Path) -> None:
    path = shared / "samples/aiperf/profile_export.jsonl"
    trace = read_trace(path)
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    records.sort(key=lambda one: one["metadata"]["credit_issued_ns"])
    late_s = [(one["metadata"]["request_start_ns"] - one["metadata"]["credit_issued_ns"]) / 1e9 for one in records]
    measured = trace.measured
    assert measured is not None
    assert measured.itl_s is not None
    assert measured.itl_offsets is not None
    assert measured.sent_s == pytest.approx(late_s)
    latencies_s = [one["metrics"]["request_latency"]["value"] / 1e3 for one in records]
    assert measured.e2e_s == pytest.approx(np.array(latencies_s) + late_s)
    summary = json.loads((path.parent / "profile_export_aiperf.json").read_text(encoding="utf-8"))
    assert measured.e2e_s.mean() * 1e3 == pytest.approx(summary["effective_latency"]["avg"], rel=1e-4)
    gaps = records[3]["metrics"]["inter_chunk_latency"]["value"]
    assert measured.itl_s[measured.itl_offsets[3] : measured.itl_offsets[4]] * 1e3 == pytest.approx(gaps)
    first_ns = records[0]["metadata"]["credit_issued_ns"]
    assert trace.requests.arrive_s[-1] == (records[-1]["metadata"]["credit_issued_ns"] - first_ns) / 1e9


def test_aiperf_leaves_warm_up_and_failed_records_out(tmp_path: Path) -> None:
    value = {"value": 3}
    done = {"input_sequence_length": value, "output_sequence_length": value}
    trace = read_trace(
        write(
            tmp_path,
            {"metadata": {"request_start_ns": 0, "benchmark_phase": "warmup"}, "metrics": done},
            {"metadata": {"request_start_ns": 5, "benchmark_phase": "profiling"}, "metrics": done},
            {"metadata": {"request_start_ns": 6, "was_cancelled": True}, "metrics": done},
            {"metadata": {"request_start_ns": 7}, "metrics": {"input_sequence_length": value}},
        )
    )
    assert len(trace.requests) == 1
    assert treatments(trace) == {"request of the warm-up: left out": 1, "failed request: left out": 2}


def test_aiperf_as_a_result_keeps_failed_records(tmp_path: Path) -> None:
    value = {"value": 30.0}
    done = {"input_sequence_length": value, "output_sequence_length": value, "osl_mismatch_diff_pct": {"value": -50.0}}
    trace = read_trace(
        write(
            tmp_path,
            {"metadata": {"request_start_ns": 5}, "metrics": done},
            {"metadata": {"request_start_ns": 6, "was_cancelled": True}, "metrics": done},
            {"metadata": {"request_start_ns": 7}, "metrics": {}, "error": {"type": "TimeoutError", "message": "…"}},
        ),
        result=True,
    )
    assert trace.measured is not None and trace.measured.error is not None
    assert [trace.names["error"][code] for code in trace.measured.error] == ["", "cancelled", "TimeoutError"]
    np.testing.assert_array_equal(trace.measured.output_tokens, [30, 30, -1])
    assert trace.requests.osl_tokens.tolist() == [60, 60, 1]
    assert trace.requests.isl_tokens.tolist() == [30, 30, 1]


# --- logs of servers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (1700000000, 1700000001.5),
        (1700000000000, 1700000001500),
        (1700000000000000, 1700000001500000),
        (1700000000000000000, 1700000001500000000),
        ("1700000000", "1700000001.5"),
        ("2023-11-14T22:13:20Z", "2023-11-14T22:13:21.5Z"),
        ("2023-11-14 22:13:20", "2023-11-14T23:13:21.500+01:00"),
    ],
    ids=["s", "ms", "µs", "ns", "text", "iso", "mixed-iso"],
)
@pytest.mark.parametrize("key", ["created", "timestamp", "ts", "time"])
def test_openai_log_times(tmp_path: Path, key: str, first: object, second: object) -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 4}
    path = write(tmp_path, {key: first, "usage": usage}, {key: second, "usage": usage})
    assert read_trace(path).requests.arrive_s == pytest.approx([0, 1.5], abs=1e-6)


def test_openai_log_columns(tmp_path: Path) -> None:
    trace = read_trace(
        write(
            tmp_path,
            {
                "created": 10,
                "model": "m",
                "user": "u",
                "conversation_id": "c",
                "usage": {"prompt_tokens": 30, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 16}},
            },
            {"created": 12, "model": "n", "usage": {"input_tokens": 5, "output_tokens": 6}, "choices": [{"text": "…"}]},
            {"created": 13, "model": "m", "user": "v", "session_id": 7, "prompt_tokens": 8, "completion_tokens": 9},
            {"created": 14, "model": "m", "usage": None, "error": "overloaded"},
        )
    )
    requests = trace.requests
    assert requests.isl_tokens.tolist() == [30, 5, 8]
    assert requests.osl_tokens.tolist() == [4, 6, 9]
    assert requests.session_id is not None
    assert len(set(requests.session_id.tolist())) == 3
    assert requests.tenant_id is not None
    assert requests.tenant_id.tolist() == [0, -1, 1]
    assert requests.class_id is not None
    assert requests.class_id.tolist() == [0, 1, 0]
    assert trace.names == {"tenant_id": ("u", "v"), "class_id": ("m", "n")}
    assert trace.measured is not None
    assert trace.measured.cached_tokens is not None
    assert trace.measured.cached_tokens.tolist() == [16, -1, -1]
    assert treatments(trace) == {"row without lengths (failed, or no usage): left out": 1}


# --- headway's own columns -------------------------------------------------------------------------------


def test_own_columns_of_other_names_are_mentioned(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("arrive_s,isl_tokens,osl_tokens,sesion_id\n0,1,1,5\n1,1,1,5\n", encoding="utf-8")
    (note,) = read_trace(path).treatments
    assert str(note) == "2 × value of the column 'sesion_id', which is not known: ignored (did you mean 'session_id'?)"


def test_own_columns_may_have_measurements(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("arrive_s,isl_tokens,osl_tokens,ttft_s,e2e_s\n1,1,1,,0.5\n0,1.0,2e0,0.25,\n", encoding="utf-8")
    measured = read_trace(path).measured
    assert measured is not None
    assert measured.ttft_s is not None
    assert measured.e2e_s is not None
    np.testing.assert_array_equal(measured.ttft_s, [0.25, np.nan])
    np.testing.assert_array_equal(measured.e2e_s, [np.nan, 0.5])


# --- treatments ------------------------------------------------------------------------------------------

ROWS = "arrive_s,isl_tokens,osl_tokens\n0,5,0\n1,0,3\n2,7,0\n3,9,4\n"


@pytest.mark.parametrize(
    ("treatment", "osl", "notes"),
    [
        (
            "one",
            [1, 1, 4],
            {"request without a prompt: left out": 1, "request without output: counted as one token": 2},
        ),
        ("drop", [4], {"request without a prompt: left out": 1, "request without output: left out": 2}),
    ],
)
def test_empty_prompts_and_outputs(tmp_path: Path, treatment: str, osl: list[int], notes: dict[str, int]) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(ROWS, encoding="utf-8")
    trace = read_trace(path, empty_output=treatment)  # type: ignore[arg-type]
    assert trace.requests.osl_tokens.tolist() == osl
    assert treatments(trace) == notes


def test_a_window_shifts_time_and_counts_what_it_leaves_out(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(ROWS, encoding="utf-8")
    trace = read_trace(path, window_s=(2, 3))
    assert trace.requests.arrive_s.tolist() == [0]
    assert treatments(trace)["request outside the window asked for: left out"] == 2
