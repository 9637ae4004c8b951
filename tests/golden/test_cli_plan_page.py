"""A plan on one screen, to the letter."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import pytest
import reference
from samples import CHOSEN, LOST, PLAN

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


def test_a_choice_that_does_not_hold_in_its_bands_says_so() -> None:
    assert PLAN.band_check is not None
    checks = {
        "still holds": PLAN.band_check,
        "5 replicas at $99.00/hour would hold": dataclasses.replace(
            PLAN.band_check, holds=False, replicas=5, usd_per_hour=99.0
        ),
        "no number of replicas holds": dataclasses.replace(
            PLAN.band_check, holds=False, replicas=None, usd_per_hour=None
        ),
    }
    for said, check in checks.items():
        assert said in printed(dataclasses.replace(PLAN, band_check=check))
    assert "slow end" not in printed(dataclasses.replace(PLAN, band_check=None))


def test_the_choice_is_shown_even_where_it_is_not_among_the_cheapest() -> None:
    dear = dataclasses.replace(CHOSEN, binds="tpot p99")
    text = printed(dataclasses.replace(PLAN, chosen=dear))
    assert text.count("▶") == 1
