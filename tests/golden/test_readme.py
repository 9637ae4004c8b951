"""The README shows what the command prints: the example and its plan, to the letter."""

from __future__ import annotations

import io
import re
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import reference

from headway.cli import main

ROOT = Path(__file__).parents[2]
EXAMPLE = "examples/chat-70b.yaml"


def printed() -> str:
    out = io.StringIO()
    with redirect_stdout(out):
        assert main(["plan", EXAMPLE]) == 0
    return out.getvalue()


def test_the_tour_is_what_a_run_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("COLUMNS", "100")
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = {"yaml": Path(EXAMPLE).read_text(encoding="utf-8"), "text": printed()}
    for language, text in blocks.items():
        page = re.sub(rf"(?ms)^```{language}\n.*?^```$", lambda _, t=text, n=language: f"```{n}\n{t}```", page, count=1)
    reference.agree(ROOT / "README.md", page)
