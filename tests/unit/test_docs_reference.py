"""The reference pages name every key, default, format and column that the code knows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from headway.catalog.accelerators import FIELDS as ACCELERATOR_FIELDS
from headway.catalog.engines import FIELDS as ENGINE_FIELDS
from headway.catalog.facts import LABELS
from headway.catalog.prices import COLUMNS as PRICE_COLUMNS
from headway.catalog.prices import TERMS
from headway.scenario import reader
from headway.scenario.sections import defaults
from headway.simulator import ROUTERS
from headway.types import METRICS
from headway.workload import section
from headway.workload.columnar import COLUMNS
from headway.workload.parse_arrivals import PROCESSES
from headway.workload.parse_lengths import _FORMS
from headway.workload.readers import FORMATS

if TYPE_CHECKING:
    from collections.abc import Iterable

DOCS = Path(__file__).parents[2] / "docs"


def words(page: str, heading: str) -> set[str]:
    """Return the words in literals and code blocks of the section under a heading."""
    text = (DOCS / page).read_text(encoding="utf-8").partition(f"\n{heading}\n")[2]
    level = heading.partition(" ")[0]
    text = re.split(rf"\n#{{1,{len(level)}}} ", text)[0]
    literals = re.findall(r"```.*?```|`[^`\n]+`", text, flags=re.DOTALL)
    return set(re.findall(r"[\w.-]+", " ".join(literals)))


def rows(page: str, heading: str) -> set[str]:
    """Return the words in the first column of the tables under a heading."""
    text = (DOCS / page).read_text(encoding="utf-8").partition(f"\n{heading}\n")[2]
    text = re.split(r"\n## ", text)[0]
    return {
        word
        for row in re.findall(r"^\| (`.*?) \|", text, flags=re.MULTILINE)
        for word in re.findall(r"`([\w.-]+)`", row)
    }


@pytest.mark.parametrize(
    ("heading", "known"),
    [
        ("## Top level", reader.KEYS),
        ("## `allow`", reader.ALLOW_KEYS),
        ("## `policy`", reader.POLICY_KEYS),
        ("## `prices`", reader.PRICE_KEYS),
        ("## `settings`", reader.SETTINGS),
        ("## `slo`", (*METRICS, "success")),
    ],
)
def test_each_key_of_a_scenario_has_a_row_and_no_row_is_of_another(heading: str, known: Iterable[str]) -> None:
    assert rows("reference/scenario.md", heading) == set(known)


def test_each_key_of_a_workload_is_there() -> None:
    known = {"profile", "trace", "scale", "format", "rate", *section._SHAPE, *section._LABELS}
    assert known <= rows("reference/scenario.md", "## `workload`")


@pytest.mark.parametrize(
    ("heading", "known"),
    [
        ("### `arrivals`", {*PROCESSES, "replay"}),
        ("### `lengths`", _FORMS),
        ("## `allow`", (*reader.DTYPES, *reader.KV_DTYPES, *ROUTERS)),
        ("## `prices`", TERMS),
    ],
)
def test_each_word_a_key_may_hold_is_there(heading: str, known: Iterable[str]) -> None:
    assert set(known) <= words("reference/scenario.md", heading)


def test_the_defaults_are_shown_from_where_they_stand() -> None:
    text = (DOCS / "reference/scenario.md").read_text(encoding="utf-8")
    assert "{headway-table} defaults" in text
    sections = {
        "allow": reader.ALLOW_KEYS,
        "policy": reader.POLICY_KEYS,
        "prices": reader.PRICE_KEYS,
        "slo": ("success",),
    }
    for path in defaults():
        name, dot, key = path.partition(".")
        assert key in sections[name] if dot else name in reader.KEYS


def test_each_trace_format_has_a_row() -> None:
    assert rows("guides/your-traffic.md", "## Formats") == set(FORMATS)


def test_each_column_of_a_trace_has_a_row() -> None:
    text = (DOCS / "reference/trace-format.md").read_text(encoding="utf-8")
    found = re.findall(r"^\| (`.*?) \|", text, flags=re.MULTILINE)
    assert {word for row in found for word in re.findall(r"`(\w+)`", row)} == set(COLUMNS)


def test_each_figure_of_the_catalogue_is_there() -> None:
    assert set(ACCELERATOR_FIELDS) - set(LABELS) == rows("reference/catalogue-format.md", "## `accelerators`")
    assert set(ENGINE_FIELDS) - set(LABELS) == rows("reference/catalogue-format.md", "## `engines`")
    assert set(PRICE_COLUMNS) <= words("reference/catalogue-format.md", "## Prices")
