"""Pictures are valid, the same bytes each time, and say what is believed."""

from __future__ import annotations

import struct
import sys
import xml.etree.ElementTree as ET
import zlib

import numpy as np
import pytest

from headway.errors import EvidenceError
from headway.pictures import charts, files
from headway.pictures.page import Commands, Lines, Page, Plot, Table
from headway.pictures.report import report
from headway.types import Band, Objective

pytest.importorskip("matplotlib")

RNG = np.random.default_rng(0)
TTFT_S = RNG.lognormal(-1.4, 0.7, 500)
OBJECTIVES = (
    Objective(metric="ttft", percentile_frac=0.95, limit_s=0.5),
    Objective(metric="tpot", percentile_frac=0.95, limit_s=0.05),
)
BAND = Band(low_frac=-0.1, high_frac=0.2, confidence_frac=0.9, source="rows")


def cdf() -> object:
    lost = np.concatenate((TTFT_S[:-5], np.full(5, np.inf)))
    tpot_s = np.concatenate(([np.nan], TTFT_S[1:] / 20))
    return charts.latency_cdf({"ttft": lost, "tpot": tpot_s}, OBJECTIVES, "simulated", title="T", bands={"ttft": BAND})


def timeline() -> object:
    time_s = np.arange(0, 700, 5.0)
    one = np.abs(np.sin(time_s))
    return charts.timeline(time_s, running=9 * one, waiting=one, kv_used_frac=one, belief="simulated", title="T")


def pareto() -> object:
    points = [
        charts.Point(label=f"{n} GPUs", usd_per_hour=n, tail_s=9 / n, front=n < 4, chosen=n == 2) for n in range(1, 20)
    ]
    return charts.pareto(points, "simulated", tail="E2E p99", title="T")


def workload() -> object:
    lengths = (1000 * TTFT_S).astype(np.int64) + 1
    return charts.workload(np.cumsum(TTFT_S), lengths, lengths[::-1], "measured", title="T")


CHARTS = {"cdf": cdf, "timeline": timeline, "pareto": pareto, "workload": workload}


def texts(svg: bytes) -> str:
    """An SVG's text stands in comments, as its letters are drawn."""
    parser = ET.XMLParser(target=ET.TreeBuilder(insert_comments=True))
    root = ET.fromstring(svg, parser)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    return "\n".join(str(node.text) for node in root.iter() if node.tag is ET.Comment)


def check_png(png: bytes) -> tuple[int, int]:
    """Walk the chunks of a PNG, their checksums too; return width and height."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    at, names = 8, []
    while at < len(png):
        (size,) = struct.unpack(">I", png[at : at + 4])
        body = png[at + 4 : at + 8 + size]
        assert zlib.crc32(body) == struct.unpack(">I", png[at + 8 + size : at + 12 + size])[0]
        names.append(body[:4])
        at += 12 + size
    assert names[0] == b"IHDR" and names[-1] == b"IEND"
    assert not {b"tEXt", b"tIME"} & set(names), "neither date nor program"
    return struct.unpack(">II", png[16:24])


@pytest.mark.parametrize("name", CHARTS)
def test_a_chart_is_a_valid_picture_and_the_same_twice(name: str) -> None:
    first, second = (files.picture_files({name: CHARTS[name]()}) for _ in range(2))  # type: ignore[dict-item]
    assert list(first) == [f"{name}.png", f"{name}.svg"]
    assert first == second
    width, height = check_png(first[f"{name}.png"])
    assert width > 800 and height > 300
    said = texts(first[f"{name}.svg"])
    assert "measured" in said if name == "workload" else "simulated" in said


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("cdf", ("TTFT (s)", "TPOT (ms)", "share of requests", "90 % band", "missed")),
        ("timeline", ("requests running", "requests waiting", "KV in use (%)", "(min)")),
        ("pareto", ("cost ($/hour)", "E2E p99 (s)", "Pareto front", "chosen", "2 GPUs")),
        ("workload", ("ISL (tokens)", "OSL (tokens)", "req/s", "requests per cell", "mean")),
    ],
)
def test_axes_carry_units(name: str, labels: tuple[str, ...]) -> None:
    said = texts(files.svg(CHARTS[name]()))  # type: ignore[arg-type]
    assert not [label for label in labels if label not in said]


def test_a_users_own_style_changes_nothing() -> None:
    import matplotlib as mpl

    plain = files.svg(timeline())  # type: ignore[arg-type]
    with mpl.rc_context({"axes.facecolor": "red", "font.size": 30}):
        assert files.svg(timeline()) == plain  # type: ignore[arg-type]
        assert mpl.rcParams["font.size"] == 30, "and is left as it was"


@pytest.mark.parametrize("n", [0, 1])
def test_a_chart_of_hardly_anything_is_drawn(n: int) -> None:
    nothing = np.zeros(n)
    files.png(charts.timeline(nothing, running=nothing, waiting=nothing, kv_used_frac=nothing, belief="simulated"))
    files.png(charts.latency_cdf({"ttft": np.full(n, np.inf)}, OBJECTIVES, "simulated"))
    files.png(charts.pareto([], "simulated", tail="E2E p99"))


def test_without_matplotlib_one_error_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(EvidenceError, match=r"pip install 'headway\[pictures\]'"):
        cdf()


def test_a_report_needs_nothing_beside_it() -> None:
    table = Table(title="T", columns=("a", "b"), align="lr", rows=(("<x>", "1"),), note="n & m")
    page = Page(
        headline="h <script>",
        parts=(
            table,
            Lines(title="L", lines=("one",)),
            Commands(title="C", commands=("a", "b")),
            Plot(title="P", series=(), start="", end=""),
        ),
    )
    text = report(page, {"T": ("a chart", b"<svg/>"), "elsewhere": ("another", b"<svg/>")}, title="t")
    assert text.count("data:image/svg+xml;base64,") == 2
    assert "h &lt;script&gt;" in text and "&lt;x&gt;" in text and "n &amp; m" in text and "a\nb" in text
    assert "http" not in text and "<script" not in text
    assert text.index("a chart") < text.index("<h2>L</h2>") < text.index("another")
