"""What is known of the harness behind a row: how many requests, of which lengths, arriving how, counted how.

The facts stand in `data/sources.yaml`, each harness with its source.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from headway.catalog.words import plain_mapping
from headway.reading import read_yaml
from headway.validation.measurements import source_family
from headway.validation.names import DATA

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headway.validation.measurements import Measurement


@dataclass(frozen=True, slots=True, kw_only=True)
class Harness:
    """How a publication measured.

    Attributes:
        name: of the harness.
        source: where that is known from.
        requests: sent in all; None: `requests_per_client` times the clients.
        requests_by_lengths: sent in all, by `isl/osl`; goes before `requests`.
        requests_per_client: in a closed loop.
        isl: lengths are drawn from the stated one times low … high.
        osl: likewise.
        cv: coefficient of variation of the gaps between arrivals of an open loop; 1: Poisson.
        statistic: what the table's p50 of a latency is: `median` or `mean`.
        kv_dtype: of its servers, where nothing else says.
        weight_dtype: of its servers, where the table states another that was not run; empty: as the table says.
        experts_attention_dp: whether models with experts run with attention data parallelism over all their GPUs.
        settings: what its servers are started with, by the names of `EngineSettings`.
        note: what else is known.
    """

    name: str
    source: str
    requests: int | None = None
    requests_by_lengths: Mapping[str, int] = field(default_factory=dict)
    requests_per_client: int | None = None
    isl: tuple[float, float] = (1.0, 1.0)
    osl: tuple[float, float] = (1.0, 1.0)
    cv: float = 1.0
    statistic: str = "median"
    kv_dtype: str = ""
    weight_dtype: str = ""
    experts_attention_dp: bool = False
    settings: Mapping[str, object] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSet:
    """Mean lengths and rate of what a publication replays, where its rows leave them out."""

    isl_tokens: float
    osl_tokens: float
    rate_per_s: float | None
    prefix_tokens: int
    note: str


@cache
def _facts() -> dict[str, Any]:
    return plain_mapping(read_yaml(DATA / "sources.yaml"))


@cache
def _harness(name: str) -> Harness:
    facts, words = _facts(), dict(_facts()["harnesses"][name])
    words.pop("warm_up", None)
    return Harness(
        name=name,
        **words
        | {"source": facts["sources"][words["source"]]["title"]}
        | {side: tuple(words[side]) for side in ("isl", "osl") if side in words},
    )


def harness_of(row: Measurement) -> Harness:
    """Return the harness behind a row; that of the field's own scripts where the publication is not known."""
    found = _facts()["families"].get(source_family(row.source), _facts()["default"])
    if isinstance(found, str):
        return _harness(found)
    return _harness(next(entry["harness"] for entry in found if entry.get("quality", row.quality) == row.quality))


def data_set_of(row: Measurement) -> DataSet:
    """Return what the publication replays, for what a row leaves out."""
    family = source_family(row.source)
    found = next(entry for entry in _facts()["data_sets"] if _is_for(entry, family, row))
    return DataSet(
        isl_tokens=found["isl"],
        osl_tokens=found["osl"],
        rate_per_s=found.get("rate_per_s"),
        prefix_tokens=found.get("prefix", 0),
        note=found["note"],
    )


def _is_for(entry: Mapping[str, Any], family: str, row: Measurement) -> bool:
    return (
        family.startswith(entry["family"])
        and row.model.startswith(entry.get("model", ""))
        and entry.get("note_has", "") in row.note
    )
