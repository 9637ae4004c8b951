"""The engine's own metrics: names, expositions, windows, files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from headway.api import replay, watch
from headway.errors import EvidenceError, InputError
from headway.probe import scrape_files
from headway.probe.nouns import Scrape
from headway.probe.observed import beside_client, increase, observed, restarted_s
from headway.probe.scrape import Scraper, scrape_of
from headway.probe.scrape_files import from_prometheus, read_scrape, write_scrape
from headway.probe.signals import Sample, engine_of, reading_of, samples_of, table
from headway.workload.trace import Measured

SAMPLES = Path(__file__).parents[2].parent / "shared" / "samples"
VLLM = "vllm-0.32.0-metrics.txt"


def sample(name: str) -> str:
    if not (SAMPLES / name).is_file():
        pytest.skip(f"needs ../shared/samples/{name}")
    return (SAMPLES / name).read_text()


def counters(**values: list[float]) -> Scrape:
    columns = {name: np.array(column) for name, column in values.items()}
    n = len(next(iter(columns.values())))
    return Scrape(time_s=np.arange(n) * 1.0, values=columns, histograms={}, names=dict.fromkeys(columns, "x"), failed=0)


# --- names ----------------------------------------------------------------------------------------------------------


def test_every_recipe_is_of_a_known_signal_and_every_engine_has_a_source() -> None:
    for engine, recipes in table().engines.items():
        assert recipes.keys() <= table().signals.keys(), engine
        assert {"running", "waiting", "requests" if engine != "llama-cpp" else "steps"} <= recipes.keys()
    assert table().sources.keys() == table().engines.keys()
    assert all(source.endswith(tuple(f"-{day:02}" for day in range(1, 32))) for source in table().sources.values())


def test_units_in_names_are_those_of_the_table() -> None:
    for name, signal in table().signals.items():
        assert name.endswith("_s") == (signal.unit == "seconds"), name
        assert name.endswith("_frac") == (signal.unit == "fraction"), name


def test_vllm_exposes_every_signal_it_is_said_to() -> None:
    samples = samples_of(sample(VLLM))
    assert engine_of(samples) == "vllm"
    reading = reading_of(samples, "vllm")
    assert reading.names.keys() == table().engines["vllm"].keys()
    assert reading.values["requests"] == reading.values["requests.length"] == 97
    assert reading.values["prompt_tokens"] == reading.histograms["isl_tokens"].total == 18975
    assert reading.values["generation_tokens"] == reading.histograms["osl_tokens"].total == 5640
    assert reading.histograms["e2e_s"].total == pytest.approx(43.482436656951904)


def test_preemptions_are_counted() -> None:
    reading = reading_of(samples_of(sample("vllm-lora-spec-preempt-metrics.txt")), "vllm")
    assert reading.values["preemptions"] == 10


def test_another_exporter_is_no_engine() -> None:
    assert engine_of(samples_of(sample("dynamo-1.6.1-frontend-metrics.txt"))) == ""


def test_the_names_ray_gives_are_read_too() -> None:
    text = sample(VLLM)
    samples = samples_of(text.replace("vllm:", "ray_vllm_"))
    assert reading_of(samples, "vllm").names.keys() == table().engines["vllm"].keys()


def test_an_older_name_is_read_where_the_newer_is_absent() -> None:
    old = [Sample("vllm:gpu_cache_usage_perc", {}, 0.25), Sample("vllm:num_requests_running", {}, 3)]
    reading = reading_of(old, "vllm")
    assert reading.values["kv_used_frac"] == 0.25
    assert reading.names["kv_used_frac"] == "vllm:gpu_cache_usage_perc"


def test_llama_counts_cached_tokens_apart_and_busy_slots_as_a_mean() -> None:
    text = """llamacpp:prompt_tokens_total 102
llamacpp:prompt_tokens_cached_total 100
llamacpp:n_decode_total 40
llamacpp:n_busy_slots_per_decode 1.5
llamacpp:requests_processing 2
"""
    values = reading_of(samples_of(text), "llama-cpp").values
    assert values["prompt_tokens"] == 202 and values["cached_tokens"] == 100
    assert values["busy_slots"] == 60 and values["running"] == 2


def test_ranks_add_up_unless_they_report_the_same_requests() -> None:
    def rank(dp: str, tp: str, value: float) -> list[Sample]:
        labels = {"dp_rank": dp, "tp_rank": tp}
        return [Sample("sglang:num_running_reqs", labels, value), Sample("sglang:token_usage", labels, value / 10)]

    samples = [*rank("0", "0", 4), *rank("0", "1", 4), *rank("1", "0", 2), *rank("1", "1", 2)]
    values = reading_of(samples, "sglang").values
    assert values["running"] == 6
    assert values["kv_used_frac"] == pytest.approx(0.3)


def test_histograms_add_up_at_the_bounds_all_have() -> None:
    def buckets(engine: str, **counts: float) -> list[Sample]:
        return [
            Sample("vllm:time_to_first_token_seconds_bucket", {"engine": engine, "le": le.strip("_")}, count)
            for le, count in counts.items()
        ]

    found = reading_of([*buckets("0", _1=2, _2=3, **{"+Inf": 4}), *buckets("1", _1=1, **{"+Inf": 5})], "vllm")
    assert found.histograms["ttft_s"].bounds.tolist() == [1.0]
    assert found.histograms["ttft_s"].cumulative.tolist() == [3.0, 9.0]


def test_lines_of_others_cost_nothing_and_spoil_nothing() -> None:
    text = "other{ this is no exposition\n" * 10 + "vllm:num_requests_running 3\n"
    assert samples_of(text) == [Sample("vllm:num_requests_running", {}, 3)]
    with pytest.raises(ValueError, match="three"):
        samples_of("vllm:num_requests_running three\n")


# --- windows --------------------------------------------------------------------------------------------------------


def test_a_window_goes_from_scrape_to_scrape() -> None:
    scrape = counters(generation_tokens=[0, 10, 30, 60, 100], running=[0, 2, 4, 4, 0])
    seen = observed(scrape, 0.5, 3.5)
    assert (seen.start_s, seen.end_s, seen.scrapes) == (1.0, 3.0, 3)
    assert seen.increases == {"generation_tokens": 50}
    assert seen.per_s("generation_tokens") == 25
    assert seen.means["running"] == pytest.approx((3 + 4) / 2)
    with pytest.raises(EvidenceError, match="there are 1"):
        observed(scrape, 0.5, 1.5)


def test_a_restart_is_found_and_what_came_after_counts() -> None:
    scrape = counters(generation_tokens=[100, 150, 20, 30], started=[7, 7, 9, 9])
    assert restarted_s(scrape) == (2.0,)
    seen = observed(scrape)
    assert seen.restarted_s == (2.0,)
    assert seen.increases["generation_tokens"] == 50 + 30


def test_a_counter_that_appears_later_began_at_nothing() -> None:
    assert increase(np.array([np.nan, np.nan, 5.0, 9.0])) == 9
    assert increase(np.array([4.0, np.nan, 9.0])) == 5
    assert increase(np.array([np.nan, np.nan])) == 0


def test_rounding_is_no_restart() -> None:
    assert restarted_s(counters(busy_slots=[123456.0, 123455.9])) == ()
    assert increase(np.array([123456.0, 123455.9])) == 0


def test_hits_and_tokens_by_step() -> None:
    seen = observed(counters(prompt_tokens=[0, 100], cached_tokens=[0, 25], generation_tokens=[0, 45], steps=[0, 60]))
    assert seen.prefix_hit_frac == 0.25
    assert seen.tokens_per_step == 2.0


def test_the_difference_to_the_client_is_what_lies_between() -> None:
    scrape = from_pages(VLLM)
    server_s = observed(scrape).distributions["ttft_s"].mean
    measured = Measured(ttft_s=np.array([0.5, 0.7, np.nan]), sent_s=np.array([0.1, 0.1, np.nan]))
    beside = beside_client(observed(scrape), measured)["ttft_s"]
    assert beside.client_s == pytest.approx(0.5)
    assert beside.difference_s == pytest.approx(0.5 - server_s)


# --- files ----------------------------------------------------------------------------------------------------------


def from_pages(name: str) -> Scrape:
    """What a server counted from its start to this page."""
    samples = samples_of(sample(name))
    zero = [one._replace(value=one.value if "start_time" in one.name else 0.0) for one in samples]
    found = scrape_of([(0.0, zero), (60.0, samples)])
    assert found is not None
    return found


def test_a_scrape_comes_back_as_it_was_written(tmp_path: Path) -> None:
    scrape = from_pages(VLLM)
    write_scrape(scrape, tmp_path / "metrics.parquet")
    again = read_scrape(tmp_path / "metrics.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.parquet"]
    assert again.names == scrape.names
    np.testing.assert_array_equal(again.time_s, scrape.time_s)
    for name, column in scrape.values.items():
        np.testing.assert_array_equal(again.values[name], column)
    for name, columns in scrape.histograms.items():
        for one, other in zip(again.histograms[name], columns, strict=True):
            np.testing.assert_array_equal(one, other)


def test_what_is_no_scrape_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "metrics.parquet"
    with pytest.raises(InputError, match="Parquet"):
        read_scrape(path)
    pl.DataFrame({"a": [1]}).write_parquet(path)
    with pytest.raises(InputError, match="expected the columns"):
        read_scrape(path)


def test_two_pages_are_a_scrape() -> None:
    page = samples_of(sample(VLLM))
    scrape = scrape_of([(0.0, page), (10.0, page)])
    assert scrape is not None
    assert observed(scrape).increases["requests"] == 0
    assert scrape_of([(0.0, samples_of("nothing 1\n"))]) is None


def test_no_prometheus_server_is_one_error() -> None:
    with pytest.raises(InputError, match="nobody answers"):
        from_prometheus("http://127.0.0.1:9", 0.0, 1.0, 1.0)
    with pytest.raises(InputError, match="http or https"):
        from_prometheus("file:///etc/passwd", 0.0, 1.0, 1.0)


def test_public_addresses_are_not_asked_without_the_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.create_connection", lambda *_what: pytest.fail("nobody may be asked"))
    with pytest.raises(InputError, match="--allow-public"):
        from_prometheus("http://8.8.8.8:9090", 0.0, 1.0, 1.0)
    with pytest.raises(InputError, match="--allow-public"):
        Scraper("http://8.8.8.8/v1")
    assert Scraper("http://8.8.8.8/v1/", allow_public=True).url == "http://8.8.8.8/metrics"
    assert Scraper("http://127.0.0.1:9/metrics").url == "http://127.0.0.1:9/metrics"
    for where in ({"url": "http://8.8.8.8"}, {"prometheus": "http://8.8.8.8"}):
        with pytest.raises(InputError, match="--allow-public"):
            watch("no matter", **where)


@pytest.mark.parametrize("interval_s", [0.0, -1.0, float("nan"), float("inf")])
def test_an_interval_in_which_nobody_can_look_is_refused_first(interval_s: float) -> None:
    with pytest.raises(InputError, match="above 0"):
        Scraper("http://127.0.0.1:9", interval_s=interval_s)
    with pytest.raises(InputError, match="scrape interval"):
        replay("no-such.csv", "http://127.0.0.1:9", scrape_interval_s=interval_s)


BAD = [5, {"data": {"result": 5}}, {"data": {"result": [5]}}, {"data": {"result": [{"metric": {"a": "b"}}]}}]


@pytest.mark.parametrize("said", BAD)
def test_a_prometheus_server_that_says_something_else_is_refused(said: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrape_files, "opened", lambda *_what: json.dumps(said).encode())
    with pytest.raises(InputError, match="Prometheus"):
        from_prometheus("http://127.0.0.1:9", 0.0, 60.0, 5.0)


def test_what_is_no_number_is_absent() -> None:
    bucket = "vllm:time_to_first_token_seconds_bucket"
    counts = [Sample(bucket, {"le": le}, n) for le, n in (("1", 2.0), ("x", 3.0), ("+Inf", 4.0))]
    reading = reading_of([*counts, Sample("vllm:num_requests_running", {}, float("nan"))], "vllm")
    assert "running" not in reading.values
    assert reading.histograms["ttft_s"].bounds.tolist() == [1.0]
    assert "ttft_s" not in reading_of([*counts[:2], Sample(bucket, {"le": "+Inf"}, float("inf"))], "vllm").histograms
