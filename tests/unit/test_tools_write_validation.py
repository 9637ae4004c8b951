"""The tool that writes the validation page: its tables, and that the page has a place for each."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SCORE = {
    "n_rows": 1200,
    "coverage_frac": 1.0,
    "ape_median_frac": 0.123,
    "ape_p90_frac": 0.4,
    "bias_frac": -0.05,
    "band_coverage_frac": None,
}
FOUND: dict[str, Any] = {
    "slices": {"all": {"ttft_s": SCORE}, "engine=vLLM": {"tpot_s": SCORE}, "engine=vLLM,mode=rate": {"tpot_s": SCORE}},
    "ranking": {"any_load": {"pairs": 9, "called_frac": 0.9}, "same_load": {"pairs": 0, "called_frac": None}},
    "noise": {"tpot_s": {"configurations": 3, "p50_frac": 0.01, "p75_frac": 0.02, "p90_frac": 0.3}},
    "findings": {"duplicate": 2},
    "refusals": {},
    "assumptions": {"isl_unknown": 7},
    "worst": [
        {"row": "T1", "about": "m, h, e", "metric": "ttft_s", "measured": 2.0, "predicted": 1.0, "region": "middle"}
        | {"parts": {"mlp_up": 0.6}, "reason": "mostly mlp_up"}
    ],
}


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("write_validation", ROOT / "tools" / "write_validation.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_block_of_the_page_is_written_and_stays(tool: ModuleType) -> None:
    page = tool.PAGE.read_text(encoding="utf-8")
    once = tool.written(page, FOUND)
    assert once != page
    assert tool.written(once, FOUND) == once
    for line in (
        "| `ttft_s` | 1,200 | 100.0 % | 12.3 % | 40.0 % | -5.0 % | – |",
        "| engine vLLM | – | 12.3 % / 40.0 % (1,200) | – |",
        "| any load | 9 | 90.0 % |",
        "| `tpot_s` | 3 | 1.0 % | 2.0 % | 30.0 % |",
        "| duplicate | in doubt | 2 |",
        "| T1: m, h, e | ttft_s: 1 for 2 | middle | mlp_up 60.0 % | mostly mlp_up |",
    ):
        assert f"\n{line}\n" in once, line


def test_a_page_without_a_place_for_a_table_is_refused(tool: ModuleType) -> None:
    with pytest.raises(ValueError, match="0 blocks '"):
        tool.written("# Validation\n", FOUND)


def test_crosses_are_left_to_the_document(tool: ModuleType) -> None:
    assert "mode=rate" not in tool.slices(FOUND)
