"""The reference pages say what the code does: they are generated from it, and compared."""

from __future__ import annotations

import pytest
import reference

from headway.errors import EvidenceError, HeadwayError, InfeasibleError, InputError


def test_help_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    page = reference.REFERENCE / "cli.md"
    text = page.read_text(encoding="utf-8")
    assert text.count("```text\n") == text.count("\n## headway")
    reference.agree(page, reference.with_help(text))


def test_data_dictionary() -> None:
    page = reference.REFERENCE / "json.md"
    head, mark, _ = page.read_text(encoding="utf-8").partition("<!-- generated from here on -->\n")
    assert mark
    reference.agree(page, f"{head}{mark}\n{reference.data_dictionary()}")


@pytest.mark.parametrize("error", [HeadwayError, InputError, InfeasibleError, EvidenceError])
def test_exit_codes_are_documented(error: type[HeadwayError]) -> None:
    page = (reference.REFERENCE / "cli.md").read_text(encoding="utf-8")
    assert f"\n| {error.exit_code} |" in page
