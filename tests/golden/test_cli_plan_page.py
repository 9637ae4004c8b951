"""A plan on one screen, to the letter."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import pytest
import reference
from samples import CHOSEN, LOST, OTHERS, PLAN

from headway.cli.plan import next_commands
from headway.cli.terminal import rendered
from headway.pictures.plans import plan_page
from headway.planner import Plan


def printed(plan: Plan, *, whole: bool = False) -> str:
    return rendered(plan_page(plan, next_commands(plan, "chat.yaml", "day one.csv"), whole=whole), io.StringIO())


@pytest.fixture(autouse=True)
def width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")


def test_page() -> None:
    reference.agree(Path(__file__).parent / "plan.txt", printed(PLAN))


def test_page_fits_one_screen() -> None:
    lines = printed(PLAN).splitlines()
    assert len(lines) <= 60
    pasted = [line for line in lines if line.startswith("headway ")]
    assert max(len(line) for line in lines if line not in pasted) <= 100


def test_everything_is_shown_where_there_is_room() -> None:
    text = printed(PLAN, whole=True)
    assert all(a.name in text for a in PLAN.assumptions)
    assert "more: --json" not in text


def test_commands_can_be_pasted() -> None:
    commands = next_commands(PLAN, "chat.yaml", "day one.csv")
    assert all(command in printed(PLAN).splitlines() for command in commands)
    assert "--trace 'day one.csv'" in commands[0]


def test_lost_requests_are_never_finite() -> None:
    lost = dataclasses.replace(CHOSEN, outcome=LOST)
    text = printed(dataclasses.replace(PLAN, chosen=lost, candidates=(lost,)))
    assert "never" in text
    assert "inf" not in text
    assert "nan" not in text


def test_what_uncertainty_costs_is_said() -> None:
    sure = PLAN.certainty
    plain = dict.fromkeys(sure.over_frac, 0.0)
    said = {
        "takes 1 replica, $27.52/hour; measure TTFT and TPOT on": sure,
        "Certainty costs nothing here": dataclasses.replace(sure, point=None),
        "nothing alike was measured": dataclasses.replace(sure, likeness="nothing alike"),
        "a confidence of 90 %: this one does with 80 %": dataclasses.replace(sure, asked_frac=0.9),
        "Planned by the prediction itself": dataclasses.replace(sure, over_frac=plain, point=None),
        "fewer, $27.52/hour": dataclasses.replace(sure, gpus=-1, point=OTHERS[0]),
    }
    for text, certainty in said.items():
        page = " ".join(printed(dataclasses.replace(PLAN, certainty=certainty)).split())
        assert text in page
        assert ("confidence. Candidates" in page) == any(certainty.over_frac.values())


def test_the_choice_is_shown_even_where_it_is_not_among_the_cheapest() -> None:
    dear = dataclasses.replace(CHOSEN, binds="tpot p99")
    text = printed(dataclasses.replace(PLAN, chosen=dear))
    assert text.count("▶") == 1
