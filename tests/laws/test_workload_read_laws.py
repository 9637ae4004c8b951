"""Laws of reading and writing traces: round trips, compression, order, coding of prefixes; and whatever bytes come, one
`InputError` or a sound trace."""

from __future__ import annotations

import gzip
import io
import itertools
import json
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from headway.errors import InputError
from headway.types import PrefixRuns, Requests
from headway.workload import read_trace, write_trace
from headway.workload.prefixes import encode_ids, expand_ids, hit_tokens, maximal_runs, offsets_of, unchained_request
from headway.workload.readers import FORMATS

if TYPE_CHECKING:
    from headway.workload import Trace

SHARED = Path(__file__).parents[2].parent / "shared"
CODES = ("session_id", "adapter_id", "tenant_id", "class_id", "priority")


# --- what tests are made of ------------------------------------------------------------------------------


RATES = "0,0.5,1,Gamma,1.0,2.0\n600,0,0,,0,0\n"
LENGTHS = json.dumps({"0": {"input_tokens": "{50: 0.5, 70: 0.5}", "output_tokens": "{3: 1.0}"}})


def servegen(rates: bytes | str = RATES, lengths: bytes | str = LENGTHS) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, text in (("data/chunk-3-trace.csv", rates), ("data/chunk-3-dataset.json", lengths)):
            info = tarfile.TarInfo(name)
            data = text.encode() if isinstance(text, str) else text
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return packed.getvalue()


def parquet() -> bytes:
    import polars as pl

    packed = io.BytesIO()
    frame = {"arrive_s": [0.0, 1.5], "isl_tokens": [10, 20], "osl_tokens": [1, 2], "session_id": [0, 1]}
    pl.DataFrame(frame).write_parquet(packed)
    return packed.getvalue()


def lines(*records: object) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def aiperf(start_ns: int) -> dict[str, object]:
    value = {"value": 12.0, "unit": "tokens"}
    metrics = {"input_sequence_length": value, "output_sequence_length": value, "time_to_first_token": {"value": 5.5}}
    return {"metadata": {"request_start_ns": start_ns, "was_cancelled": False}, "metrics": metrics}


def turn(t: float, runs: list[list[int]]) -> dict[str, object]:
    return {"t": t, "type": "n", "model": "m", "in": 130, "out": 7, "api_time": 1.0, "hash_rle": runs}


VALID: dict[str, bytes] = {
    "azure": b"TIMESTAMP,ContextTokens,GeneratedTokens\r\n2023-11-16 18:17:03.9799600,4808,10\r\n"
    b"2023-11-16 18:17:04.0319600,3180,8\r\n",
    "mooncake": lines(
        {"timestamp": 0, "input_length": 900, "output_length": 5, "hash_ids": [0, 1]},
        {"timestamp": 3000, "input_length": 600, "output_length": 7, "hash_ids": [0, 2]},
    ),
    "sessions": lines(
        {"id": "a", "block_size": 64, "requests": [turn(0, [[1, 2]]), turn(9.5, [[1, 2]])]},
        {"id": "b", "block_size": 64, "requests": [{"type": "subagent", "t": 3, "requests": [turn(0, [[5, 2]])]}]},
    ),
    "servegen": servegen(),
    "vllm-bench": json.dumps(
        {
            "num_prompts": 2,
            "completed": 2,
            "request_rate": "inf",
            "input_lens": [5, 6],
            "output_lens": [2, 1],
            "ttfts": [0.5, 0.25],
            "itls": [[0.125], []],
            "start_times": [10.0, 12.5],
            "errors": ["", ""],
        }
    ).encode(),
    "guidellm": json.dumps(
        {
            "benchmarks": [
                {"requests": {"successful": [{"request_start_time": 5, "prompt_tokens": 3, "output_tokens": 4}]}}
            ]
        }
    ).encode(),
    "aiperf": lines(aiperf(1795227206602557168), aiperf(1795227206702557168)),
    "openai-log": lines(
        {"created": 1700000000, "model": "m", "user": "u", "usage": {"prompt_tokens": 10, "completion_tokens": 5}},
        {"created": 1700000002, "model": "n", "usage": {"prompt_tokens": 11, "completion_tokens": 1}},
    ),
    "headway-csv": b"arrive_s,isl_tokens,osl_tokens,prefix_block_tokens,prefix_ids,tenant_id\n0,40,2,16,0 1,0\n"
    b"1.5,50,1,16,0 1 2,1\n",
    "headway-parquet": parquet(),
}


def sound(trace: Trace) -> None:
    """Assert what every trace promises."""
    requests = trace.requests
    assert len(requests) > 0
    assert np.isfinite(requests.arrive_s).all()
    assert requests.arrive_s[0] >= 0
    assert (np.diff(requests.arrive_s) >= 0).all()
    assert requests.isl_tokens.min() >= 1
    assert requests.osl_tokens.min() >= 1
    for column in (getattr(requests, name) for name in CODES):
        assert column is None or (len(column) == len(requests) and column.dtype == np.int64)
    if requests.prefix is not None:
        assert len(requests.prefix.offsets) == len(requests) + 1
        assert requests.prefix.offsets[-1] == len(requests.prefix.counts) == len(requests.prefix.first_ids)
        assert unchained_request(requests.prefix) is None


def same(a: Requests, b: Requests) -> None:
    assert np.array_equal(a.arrive_s, b.arrive_s)
    assert np.array_equal(a.isl_tokens, b.isl_tokens)
    assert np.array_equal(a.osl_tokens, b.osl_tokens)
    for name in CODES:
        x, y = getattr(a, name), getattr(b, name)
        assert (x is None) == (y is None)
        assert x is None or np.array_equal(x, y)
    assert (a.prefix is None) == (b.prefix is None)
    if a.prefix is not None and b.prefix is not None:
        assert a.prefix.block_tokens == b.prefix.block_tokens
        for name in ("offsets", "first_ids", "counts"):
            assert np.array_equal(getattr(a.prefix, name), getattr(b.prefix, name))


@st.composite
def paths(draw: st.DrawFn, most: int = 8) -> list[list[int]]:
    """Prompts as lists of prefix-chained ids: each continues the beginning of an earlier one with new ids."""
    fresh, found = 0, [[]]
    for _ in range(draw(st.integers(1, most))):
        kept = draw(st.sampled_from(found))
        kept = kept[: draw(st.integers(0, len(kept)))]
        added = draw(st.integers(0, 5))
        fresh += draw(st.integers(0, 2))  # sometimes a gap, sometimes a run that goes on
        found.append([*kept, *range(fresh, fresh + added)])
        fresh += added
    return found[1:]


def coded(ids: list[list[int]], block_tokens: int = 16) -> PrefixRuns:
    flat = np.array([one for row in ids for one in row], dtype=np.int64)
    return encode_ids(flat, offsets_of(np.array([len(row) for row in ids], dtype=np.int64)), block_tokens)


@st.composite
def requests_(draw: st.DrawFn) -> Requests:
    ids = draw(paths())
    n = len(ids)

    def column(strategy: st.SearchStrategy[int]) -> np.ndarray:
        return np.array(draw(st.lists(strategy, min_size=n, max_size=n)), dtype=np.int64)

    times = draw(st.lists(st.floats(0, 1e9), min_size=n, max_size=n))
    return Requests(
        arrive_s=np.sort(np.array(times)) + 0.0,
        isl_tokens=column(st.integers(1, 2**31 - 1)),
        osl_tokens=column(st.integers(1, 2**31 - 1)),
        prefix=coded(ids) if draw(st.booleans()) else None,
        **{name: column(st.integers(-(2**62), 2**62)) for name in CODES if draw(st.booleans())},
    )


# --- round trips -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".parquet", ".csv", ".csv.gz"])
@settings(max_examples=40, deadline=None)
@given(requests=requests_())
def test_what_is_written_reads_back_the_same(
    requests: Requests, ending: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("written") / f"trace{ending}"
    write_trace(requests, path)
    trace = read_trace(path, order="refuse")
    same(requests, trace.requests)
    assert trace.treatments == ()
    assert [one.name for one in path.parent.iterdir()] == [path.name]  # nothing half-written stays


@settings(max_examples=20, deadline=None)
@given(requests=requests_())
def test_the_same_requests_are_the_same_bytes(requests: Requests, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("bytes")
    for ending in (".parquet", ".csv", ".csv.gz"):
        write_trace(requests, folder / f"a{ending}")
        write_trace(requests, folder / f"b{ending}")
        assert (folder / f"a{ending}").read_bytes() == (folder / f"b{ending}").read_bytes()


@pytest.mark.parametrize("name", sorted(set(FORMATS) - {"headway-parquet"}))
def test_packed_reads_as_plain(name: str, tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(VALID[name])
    (tmp_path / "packed").write_bytes(gzip.compress(VALID[name]))
    plain, packed = read_trace(tmp_path / "plain"), read_trace(tmp_path / "packed")
    assert plain.format == packed.format == name
    same(plain.requests, packed.requests)
    assert plain.treatments == packed.treatments


@pytest.mark.parametrize("name", sorted(set(FORMATS) - {"headway-parquet", "servegen"}))
def test_a_byte_order_mark_and_blank_lines_at_the_end_change_nothing(name: str, tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(VALID[name])
    (tmp_path / "marked").write_bytes(b"\xef\xbb\xbf" + VALID[name])
    same(read_trace(tmp_path / "plain").requests, read_trace(tmp_path / "marked").requests)


def test_every_format_has_a_valid_sample_here_and_is_recognised(tmp_path: Path) -> None:
    assert set(VALID) == set(FORMATS)
    for name, data in VALID.items():
        (tmp_path / name).write_bytes(data)
        trace = read_trace(tmp_path / name)
        assert trace.format == name
        sound(trace)


# --- order and windows -----------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(seconds=st.lists(st.integers(0, 10**6), min_size=1, max_size=30))
def test_rows_out_of_order_are_sorted_and_counted_or_refused(
    seconds: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("order") / "trace.csv"
    rows = "".join(f"{s},{row + 1},1\n" for row, s in enumerate(seconds))
    path.write_text(f"arrive_s,isl_tokens,osl_tokens\n{rows}", encoding="utf-8")
    late = sum(s < max(seconds[: row + 1]) for row, s in enumerate(seconds))
    trace = read_trace(path)
    assert trace.requests.arrive_s.tolist() == sorted(seconds)
    assert sorted(trace.requests.isl_tokens.tolist()) == list(range(1, len(seconds) + 1))  # none lost, none twice
    assert sum(one.rows for one in trace.treatments) == late
    if late:
        with pytest.raises(InputError, match="earlier than a row before it"):
            read_trace(path, order="refuse")
    else:
        same(trace.requests, read_trace(path, order="refuse").requests)


@settings(max_examples=30, deadline=None)
@given(cut=st.integers(1, 1000))
def test_a_window_and_the_rest_are_the_whole(cut: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("window") / "archive.tar"
    path.write_bytes(servegen("0,0.5,1,Gamma,0.3,2\n600,0.2,1,Weibull,0.7,2\n"))
    whole = read_trace(path, seed=4).requests
    before = read_trace(path, seed=4, window_s=(0, cut)).requests
    after = read_trace(path, seed=4, window_s=(cut, 1e9)).requests
    assert len(before) + len(after) == len(whole) == 300 + 120
    assert np.array_equal(np.concatenate([before.arrive_s, after.arrive_s + cut]).round(6), whole.arrive_s.round(6))
    assert np.array_equal(np.concatenate([before.isl_tokens, after.isl_tokens]), whole.isl_tokens)


# --- prefixes --------------------------------------------------------------------------------------------


@given(ids=paths(most=15))
def test_coding_then_expanding_gives_the_ids_back_in_the_fewest_runs(ids: list[list[int]]) -> None:
    runs = coded(ids)
    flat, offsets = expand_ids(runs)
    assert [flat[a:b].tolist() for a, b in itertools.pairwise(offsets)] == ids
    breaks = sum(sum(b != a + 1 for a, b in itertools.pairwise(row)) + 1 for row in ids if row)
    assert len(runs.counts) == breaks
    again = maximal_runs(runs)
    assert np.array_equal(again.first_ids, runs.first_ids)
    assert np.array_equal(again.counts, runs.counts)


@given(ids=paths(most=15))
def test_joining_runs_is_coding_the_ids(ids: list[list[int]]) -> None:
    runs = coded(ids)
    flat, offsets = expand_ids(runs)
    torn = PrefixRuns(block_tokens=16, offsets=offsets, first_ids=flat, counts=np.ones_like(flat))
    joined = maximal_runs(torn)
    for name in ("offsets", "first_ids", "counts"):
        assert np.array_equal(getattr(joined, name), getattr(runs, name))


@given(ids=paths(most=15), block_tokens=st.integers(1, 64), extra=st.integers(-40, 40))
def test_hits_from_runs_are_those_of_a_set_of_ids(ids: list[list[int]], block_tokens: int, extra: int) -> None:
    isl = np.array([max(1, len(row) * block_tokens + extra) for row in ids], dtype=np.int64)
    seen: set[int] = set()
    expected = []
    for row, tokens in zip(ids, isl.tolist(), strict=True):
        leading = next((k for k, one in enumerate(row) if one not in seen), len(row))
        expected.append(min(leading * block_tokens, tokens))
        seen.update(row)
    assert hit_tokens(coded(ids, block_tokens), isl).tolist() == expected


@given(ids=st.lists(st.lists(st.integers(0, 6), max_size=5), min_size=1, max_size=6))
@example(ids=[[0, 1, 2], [1]])
@example(ids=[[0, 1], [2, 1]])
@example(ids=[[3, 3]])
@example(ids=[[0, 1, 2, 3], [1, 2]])
def test_chained_is_what_every_id_having_one_parent_means(ids: list[list[int]]) -> None:
    parents: dict[int, set[int]] = {}
    for row in ids:
        for parent, one in zip([-1, *row], row, strict=False):
            parents.setdefault(one, set()).add(parent)
    chained = all(len(found) == 1 for found in parents.values())
    assert (unchained_request(coded(ids)) is None) == chained


# --- whatever bytes come ---------------------------------------------------------------------------------

FUZZ = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
LONG = settings(max_examples=3000, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def read_or_refuse(data: bytes, folder: pytest.TempPathFactory, name: str | None) -> None:
    path = folder.getbasetemp() / "fuzzed"
    path.write_bytes(data)
    try:
        trace = read_trace(path, format=name)
    except InputError as error:
        assert str(error).startswith(str(path))
        assert "\n" not in str(error)
    else:
        sound(trace)


@st.composite
def mutated(draw: st.DrawFn, data: bytes) -> bytes:
    """A valid file with a few places overwritten, cut out or doubled, perhaps cut short, perhaps packed."""
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        to = min(len(data), at + draw(st.integers(0, 8)))
        put = draw(
            st.sampled_from([b"", b"-1", b"NaN", b"1e999", b"null", b'"', b"{", b"]", b",", b"\n", b"\xff", b"9" * 25])
        )
        data = data[:at] + (draw(st.binary(max_size=4)) if draw(st.booleans()) else put) + data[to:]
    if draw(st.booleans()):
        data = data[: draw(st.integers(0, len(data)))]
    if draw(st.integers(0, 3)) == 0:
        data = gzip.compress(data, mtime=0)
        data = data[: draw(st.integers(0, len(data)))]
    return data


@FUZZ
@given(data=st.binary(max_size=300), name=st.none() | st.sampled_from(sorted(FORMATS)))
def test_random_bytes(data: bytes, name: str | None, tmp_path_factory: pytest.TempPathFactory) -> None:
    read_or_refuse(data, tmp_path_factory, name)


@FUZZ
@given(
    text=st.text(alphabet='{}[]":,0123456789.eE-+ \nNaNtruefalsnl\\u', max_size=200),
    name=st.sampled_from(sorted(FORMATS)),
)
def test_text_like_the_formats(text: str, name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    read_or_refuse(text.encode(), tmp_path_factory, name)


@pytest.mark.parametrize("name", sorted(FORMATS))
@FUZZ
@given(data=st.data())
def test_valid_files_with_places_changed(
    name: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    read_or_refuse(data.draw(mutated(VALID[name])), tmp_path_factory, data.draw(st.sampled_from([None, name])))


@FUZZ
@given(data=st.data())
def test_archives_with_places_inside_changed(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    rates, lengths = RATES.encode(), LENGTHS.encode()
    if data.draw(st.booleans()):
        rates = data.draw(mutated(rates))
    else:
        lengths = data.draw(mutated(lengths))
    read_or_refuse(servegen(rates, lengths), tmp_path_factory, None)


@FUZZ
@given(
    rate_per_s=st.floats(0.002, 2),
    family=st.sampled_from(["Gamma", "Weibull"]),
    shape=st.floats(1e-7, 1e4) | st.floats(0.01, 1),
    span_s=st.floats(1e-6, 1e5),
)
def test_archives_give_each_window_its_count_inside_it(
    rate_per_s: float, family: str, shape: float, span_s: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "archive.tar"
    path.write_bytes(servegen(f"7,{rate_per_s!r},1,{family},{shape!r},1\n{7 + span_s!r},0,0,,0,0\n"))
    expected = round(rate_per_s * (7 + span_s - 7))
    try:
        arrive_s = read_trace(path).requests.arrive_s
    except InputError:
        assert expected == 0 or shape < (0.01 if family == "Weibull" else 1e-6)
    else:
        assert len(arrive_s) == expected
        assert 7 <= arrive_s[0] <= arrive_s[-1] <= 7 + span_s


@pytest.mark.nightly
@pytest.mark.parametrize("name", sorted(FORMATS))
@LONG
@given(data=st.data())
def test_valid_files_with_places_changed_at_length(
    name: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    read_or_refuse(data.draw(mutated(VALID[name])), tmp_path_factory, data.draw(st.sampled_from([None, name])))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.parametrize("name", ["mooncake", "sessions", "vllm-bench", "guidellm", "aiperf", "openai-log"])
@FUZZ
@given(data=st.data())
def test_json_with_a_value_of_another_kind(
    name: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Any one value, anywhere in a valid document, becomes any other JSON value."""
    records = [json.loads(line) for line in VALID[name].splitlines()]
    at: object = data.draw(st.sampled_from(records))
    while True:
        keys = list(at) if isinstance(at, dict) else list(range(len(at)))  # type: ignore[arg-type]
        key = data.draw(st.sampled_from(keys))
        if isinstance(at[key], dict | list) and at[key] and data.draw(st.integers(0, 3)):  # type: ignore[index]
            at = at[key]  # type: ignore[index]
            continue
        at[key] = data.draw(JSON)  # type: ignore[index]
        break
    read_or_refuse(lines(*records), tmp_path_factory, name)
