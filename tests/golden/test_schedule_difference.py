"""How the first difference of two schedules is shown."""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from pathlib import Path

import pytest
import reference

from headway.simulator.schedules import read_rows, side_by_side
from headway.simulator.schedules.fields import EFFECTIVE, FIELDS, META

HERE = Path(__file__).parent


def test_a_step_that_differs() -> None:
    """Request b comes first, gets a token less and is not said to be admitted."""
    rows = read_rows(HERE / "schedule.jsonl")
    wrong = copy.deepcopy(rows.steps)
    wrong[1].update({"T": 3, "e": 365, "sched": [["b", 2], ["a", 1]], "adm": []})
    reference.agree(HERE / "schedule_step.txt", side_by_side(rows, replace(rows, steps=wrong)))


def test_the_same_requests_in_another_order() -> None:
    rows = read_rows(HERE / "schedule.jsonl")
    wrong = copy.deepcopy(rows.steps)
    wrong[2]["sched"].reverse()
    reference.agree(HERE / "schedule_order.txt", side_by_side(rows, replace(rows, steps=wrong), before=1))


def test_a_step_too_few() -> None:
    rows = read_rows(HERE / "schedule.jsonl")
    reference.agree(HERE / "schedule_missing.txt", side_by_side(rows, replace(rows, steps=rows.steps[:2])))


def test_a_result_that_differs() -> None:
    rows = read_rows(HERE / "schedule.jsonl")
    wrong = (rows.results[0] | {"first": None, "npre": 1}, rows.results[1])
    reference.agree(HERE / "schedule_result.txt", side_by_side(rows, replace(rows, results=wrong)))


PAGE = (reference.REFERENCE / "schedules.md").read_text(encoding="utf-8")


def test_the_page_shows_what_is_shown() -> None:
    assert (HERE / "schedule_step.txt").read_text(encoding="utf-8") in PAGE
    for line in re.findall(r'(?m)^\{"type".*', PAGE):
        assert line in (HERE / "schedule.jsonl").read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", ["meta", "effective", "req", "step", "kv", "res"])
def test_the_page_names_every_field(kind: str) -> None:
    fields = {"meta": META, "effective": EFFECTIVE, **FIELDS}[kind]
    assert [name for name in fields if f"`{name}`" not in PAGE] == []
