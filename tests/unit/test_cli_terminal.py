"""Plain where there is no terminal, never a cut figure."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.cli import terminal
from headway.cli.terminal import console, rendered
from headway.pictures.page import Commands, Lines, Page, Plot, Table

FIGURES = ("1,234,567.89 ms (1,100–1,400)", "98.76 $/hour", "61/82/97 %")
TABLE = Table(
    title="Figures",
    columns=("name", "a long heading", "b", "c"),
    align="lrrr",
    rows=(("some words that may wrap where it is narrow", *FIGURES),),
    note="a note",
)


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def printed(page: Page, file: io.StringIO | None = None) -> str:
    return rendered(page, file or io.StringIO())


@pytest.mark.parametrize("columns", ["40", "60", "100", "300"])
def test_no_figure_is_ever_cut(monkeypatch: pytest.MonkeyPatch, columns: str) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    text = printed(Page(headline="h", parts=(TABLE,)))
    assert all(figure in text for figure in FIGURES)
    assert "…" not in text


@pytest.mark.parametrize("columns", ["40", "100"])
def test_no_word_of_a_text_is_lost(monkeypatch: pytest.MonkeyPatch, columns: str) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    text = printed(Page(headline="h", parts=(TABLE, Lines(title="", lines=("x" * 250,)))))
    assert all(word in text for word in ("some", "words", "may", "wrap", "narrow", "a note"))
    assert text.count("x") == 250


def test_plain_without_a_terminal() -> None:
    text = printed(Page(headline="h", parts=(TABLE,)))
    assert "\x1b" not in text
    assert all(line == line.rstrip() for line in text.splitlines())


def test_coloured_on_a_terminal_unless_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    page = Page(headline="h", parts=(TABLE,))
    assert "\x1b[1;36m" in printed(page, Terminal()), "titles are bold cyan"
    monkeypatch.setenv("NO_COLOR", "1")
    assert "36m" not in printed(page, Terminal())


def test_commands_stay_on_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    command = "headway simulate " + "--set a=1 " * 20
    assert command.rstrip() in printed(Page(headline="h", parts=(Commands(title="Next", commands=(command,)),)))


def test_markup_in_a_text_is_text() -> None:
    assert "[red]x[/red] :smile:" in printed(Page(headline="[red]x[/red] :smile:", parts=()))


@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=500), st.integers(1, 200))
def test_blocks_keep_every_peak(values: list[float], columns: int) -> None:
    drawn = terminal._blocks(values, columns)
    assert len(drawn) == columns
    assert set(drawn) <= set("▁▂▃▄▅▆▇█")
    if max(values) > 0:
        assert "█" in drawn, "the highest value is drawn highest, however many share its column"


def test_an_empty_series_draws_nothing() -> None:
    assert terminal._blocks([], 10) == ""


def test_a_plot_names_its_range() -> None:
    text = printed(
        Page(headline="h", parts=(Plot(title="t", series=(("queue", [0, 5.0], "0", "5"),), start="0 s", end="9 s"),))
    )
    line = next(line for line in text.splitlines() if line.startswith("queue"))
    assert line.split()[1] == "0" and line.split()[-1] == "5"
    assert "0 s" in text and "9 s" in text


def test_a_table_without_headings_has_no_rule() -> None:
    bare = Table(title="", columns=("", ""), align="ll", rows=(("a", "b"),))
    assert printed(Page(headline="h", parts=(bare,))).splitlines() == ["h", "", "a  b"]


def test_width_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "123")
    assert console(io.StringIO()).width == 123
    monkeypatch.delenv("COLUMNS")
    assert console(io.StringIO()).width == terminal.PLAIN_WIDTH
