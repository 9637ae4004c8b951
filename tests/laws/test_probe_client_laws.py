"""Laws of the client that need no server: how a stream was cut does not matter, and who may be spoken to."""

from __future__ import annotations

import ipaddress
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headway.errors import InputError
from headway.probe.address import base_of, is_private
from headway.probe.bodies import Answer
from headway.probe.limits import Limits
from headway.probe.nouns import Load
from headway.probe.reading import Reading
from headway.probe.sse import events
from headway.probe.turns import AHEAD, Ready, Turns
from headway.types import Requests

pytest.importorskip("aiohttp")

from headway.probe.columns import Columns
from headway.probe.costs import MOVED_FRAC, limits
from headway.probe.flight import Flight, retry_after_s

TEXTS = st.lists(st.text(st.characters(exclude_characters="\r\n", codec="utf-8"), max_size=12), min_size=1, max_size=3)
ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])


@given(st.lists(TEXTS, max_size=8), ENDS, st.booleans(), st.sampled_from([b"data:", b"data: "]))
def test_what_was_sent_is_read(sent: list[list[str]], end: bytes, mark: bool, name: bytes) -> None:
    lines = [[text.encode() if name == b"data: " else text.encode().lstrip(b" ") for text in one] for one in sent]
    raw = b"".join(b": a comment" + end + b"".join(name + line + end for line in one) + end for one in lines)
    found = list(events(b"\xef\xbb\xbf" * mark + raw))
    assert [data for _, data in found] == [b"\n".join(one) for one in lines]
    assert [place for place, _ in found] == sorted(place for place, _ in found)


@given(st.binary(max_size=200))
def test_any_bytes_can_be_read(raw: bytes) -> None:
    for place, data in events(raw):
        assert 0 <= place <= len(raw) and len(data) <= len(raw)


def stream(tokens: int) -> tuple[bytes, list[int]]:
    """A completion of so many tokens and a usage block; where in it each token is complete."""
    raw, ends = b"", []
    for k in range(tokens):
        raw += b"data: " + json.dumps({"choices": [{"text": f"t{k}", "finish_reason": None}]}).encode()
        ends.append(len(raw))
        raw += b"\n\n"
    usage = {"prompt_tokens": 9, "completion_tokens": tokens, "prompt_tokens_details": {"cached_tokens": 4}}
    last = [{"choices": [{"text": "", "finish_reason": "length"}]}, {"choices": [], "usage": usage}]
    return raw + b"".join(b"data: " + json.dumps(one).encode() + b"\n\n" for one in last) + b"data: [DONE]\n\n", ends


def flown(pieces: list[bytes], *, code: str = "") -> Flight:
    """A flight whose answer came in these pieces, the k-th at second k + 1."""
    flight = Flight.__new__(Flight)
    flight.row, flight.due_s, flight.sent_s, flight.code, flight.message = 0, 0.0, 0.5, code, ""
    flight.retried = flight.resent = 0
    flight.end_s = float(len(pieces))
    from headway.probe.transport import Arrivals

    flight.arrivals, flight.reading = Arrivals(), Reading()
    flight.arrivals.pieces.extend(pieces)
    flight.arrivals.times_s.extend(float(k + 1) for k in range(len(pieces)))
    for _ in flight.reading.slices(b"".join(pieces)):
        pass
    return flight


def columns_of(osl: int, *, forced: bool = True) -> Columns:
    one = Requests(arrive_s=np.zeros(1), isl_tokens=np.array([9]), osl_tokens=np.array([osl]))
    return Columns(Load(name="one", requests=one), forced=forced)


@given(st.integers(1, 100), st.lists(st.floats(0, 1), max_size=30))
def test_each_token_has_the_time_of_the_piece_with_its_last_byte(tokens: int, at: list[float]) -> None:
    raw, ends = stream(tokens)
    cuts = sorted({int(len(raw) * share) for share in at} - {0, len(raw)})
    pieces = [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    columns = columns_of(tokens)
    assert columns.add(flown(pieces), 0.0) == ""
    times_s = [1.0 + sum(cut < end for cut in cuts) for end in ends]
    assert columns.ttft_s[0] == times_s[0]
    assert columns.e2e_s[0] == times_s[-1]
    assert columns.gaps_s[0].tolist() == np.diff(times_s).tolist()
    assert columns.coalesced == int((np.diff(times_s) == 0).sum())
    assert columns.at_once == (tokens > 1 and times_s[0] == times_s[-1])
    assert columns.over_s[0] == len(pieces)
    assert (columns.input_tokens[0], columns.output_tokens[0], columns.cached_tokens[0]) == (9, tokens, 4)


@given(st.integers(1, 30), st.floats(0, 0.999), st.sampled_from(["", "disconnected", "timeout", "cancelled"]))
def test_an_answer_cut_anywhere_is_never_whole(tokens: int, share: float, code: str) -> None:
    raw, _ = stream(tokens)
    whole = raw.index(b'"finish_reason": "length"') + len(b'"finish_reason": "length"}]}')
    raw = raw[: int((whole - 2) * share)]
    columns = columns_of(tokens)
    found = columns.add(flown([raw] if raw else [], code=code), 0.0)
    assert found == (code or ("disconnected" if columns.chunks else "malformed"))
    assert np.isnan(columns.e2e_s[0]) and columns.failed == (code != "cancelled")


@pytest.mark.parametrize(
    ("tokens", "osl", "forced", "code"),
    [
        (5, 5, True, ""),
        (4, 5, True, "stopped-early"),
        (4, 5, False, ""),
        (6, 5, True, "too-long"),
        (0, 5, True, "no-tokens"),
    ],
)
def test_lengths_that_were_not_asked_for(tokens: int, osl: int, forced: bool, code: str) -> None:
    columns = columns_of(osl, forced=forced)
    assert columns.add(flown([stream(tokens)[0]]), 0.0) == code


@given(st.ip_addresses())
def test_what_may_be_spoken_to_is_never_global(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    if is_private(str(address)):
        assert not address.is_global and not address.is_link_local and not address.is_multicast
    if address.version == 4:
        assert is_private(f"::ffff:{address}") == is_private(str(address))


@given(st.lists(st.integers(-1, 4), min_size=1, max_size=40))
def test_a_turn_follows_the_last_of_its_session(sessions: list[int]) -> None:
    n = len(sessions)
    ones = np.ones(n, np.int64)
    turns = Turns(Requests(arrive_s=np.zeros(n), isl_tokens=ones, osl_tokens=ones, session_id=np.array(sessions)))
    for row, session in enumerate(sessions):
        before = [k for k in range(row) if sessions[k] == session and session >= 0]
        assert turns.earlier.get(row) == (before[-1] if before else None)


@given(st.lists(st.integers(-1, 2), min_size=1, max_size=30), st.randoms())
def test_every_body_is_made_once(sessions: list[int], random: object) -> None:
    made: list[int] = []

    class Bodies:
        path, forced = "/v1/completions", True

        def body(self, row: int, answers: dict[int, Answer]) -> bytes:
            made.append(row)
            return str(row).encode()

    n, ones = len(sessions), np.ones(len(sessions), np.int64)
    turns = Turns(Requests(arrive_s=np.zeros(n), isl_tokens=ones, osl_tokens=ones, session_id=np.array(sessions)))

    async def run() -> None:
        ready = Ready(Bodies(), turns, n)
        for row in range(n):
            ready.fill(random.randint(0, 3))  # type: ignore[attr-defined]
            assert await ready.take(row) == str(row).encode()

    import asyncio

    asyncio.run(run())
    assert sorted(made) == list(range(n)) and AHEAD > 0


@given(st.sampled_from(["duration_s", "request_timeout_s", "stall_timeout_s"]), st.floats(max_value=0))
def test_limits_are_above_zero(name: str, value: float) -> None:
    from headway.errors import InputError

    with pytest.raises(InputError, match=name):
        Limits(**{name: value})


@given(
    st.text(max_size=30)
    | st.integers(0).map(str)
    | st.builds("{} {} {:02}:00:00 {}".format, st.integers(0, 40), st.text(), st.integers(), st.text(max_size=9))
    | st.builds("1 Jan {} 00:00:00 {}".format, st.integers(), st.integers())
)
def test_any_retry_after_is_a_time_to_wait_or_none(header: str) -> None:
    wait_s = retry_after_s(header)
    assert wait_s is None or wait_s >= 0
    assert (wait_s == float(header)) if header.isascii() and header.isdigit() else True


PARTS = st.text(st.sampled_from("ab.:/@[]?#%1 \\é"), max_size=12)


@given(st.builds("{}://{}/{}".format, st.sampled_from(["http", "https", "ftp"]), PARTS, PARTS) | PARTS)
def test_an_address_is_refused_or_reads_the_same_again(url: str) -> None:
    try:
        base, host, port = base_of(url)
    except InputError:
        return
    assert base_of(base) == (base, host, port)
    assert "@" not in base.split("/")[2] and not base.endswith(("/", "/v1")) and host and 0 <= port < 2**16


TIMES = st.lists(st.floats(1e-4, 10), min_size=1, max_size=40).map(np.array)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.floats(1e-4, 10), st.floats(0, 1)), min_size=1, max_size=40), TIMES, TIMES, st.integers(-8, 8)
)
def test_what_a_client_may_decide_is_its_share_of_what_was_measured(
    both_s: list[tuple[float, float]], gaps_s: np.ndarray, lag_s: np.ndarray, k: int
) -> None:
    """Of lateness and latency only the ratio counts; who is in time decides nothing, who is later no less."""
    server_s, late_s = np.array(both_s).T
    found = limits(0.0, server_s + late_s, late_s, gaps_s, lag_s)
    scaled = [2.0**k * column for column in (server_s + late_s, late_s, gaps_s, lag_s)]
    assert len(limits(0.0, *scaled)) == len(found)
    in_time, nothing = np.zeros(len(server_s)), np.full(len(server_s), np.nan)
    assert limits(0.9, server_s, in_time, gaps_s, np.zeros(3)) == []
    assert len(limits(0.91, server_s, in_time, gaps_s, np.zeros(3))) == 1
    assert limits(0.0, nothing, late_s, nothing, lag_s) == [], "where nothing was measured, nothing was decided"
    assert len(limits(0.0, server_s + late_s, late_s, gaps_s, 2 * lag_s)) >= len(found)


@given(TIMES, st.floats(0.001, 10))
def test_who_is_late_by_the_same_always_adds_just_that(server_s: np.ndarray, late_s: float) -> None:
    found = limits(0.0, server_s + late_s, np.full(len(server_s), late_s), np.empty(0), np.zeros(1))
    for at, frac in MOVED_FRAC.items():
        figure_s = float(np.quantile(server_s + late_s, at, method="inverted_cdf"))
        if abs(late_s / figure_s - frac) > 1e-6:
            assert any(f"p{100 * at:.0f} of TTFT" in one for one in found) == (late_s > frac * figure_s)
