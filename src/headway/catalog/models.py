"""Builds a `Model` from an entry: its `config` holds the words of the published config.json."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from headway.catalog.config_json import build_model
from headway.catalog.words import plain

if TYPE_CHECKING:
    from headway.catalog.facts import Entry
    from headway.types import Model

FIELDS = ("aliases", "config")
GROUPS = ("config",)


def build(entry: Entry) -> Model:
    """Build the noun.

    Raises:
        InputError: a word is missing or wrong.
    """
    figures = {key.removeprefix("config."): f for key, f in entry.figures.items() if key.startswith("config.")}
    if not figures:
        entry.node.fail(f"{entry.name!r} has no 'config'", "give the words of its config.json")
    words = {key: plain(figure.node) for key, figure in figures.items()}
    source = next(iter(figures.values())).provenance
    model = build_model(entry.name, words, file=entry.node.file, source=source, place=entry.node.place)
    stated = {key: f.provenance for key, f in figures.items() if key in model.provenance}
    return replace(model, aliases=entry.words("aliases"), provenance={**model.provenance, **stated})
