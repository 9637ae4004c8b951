"""Workload profiles: figures derived from real traces, one YAML file each, read when asked for.

A file holds where its figures come from and a `workload:` section in the form scenarios use.
`tools/derive_profiles.py` writes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from headway.errors import InputError, nearest
from headway.reading import Node, read_yaml
from headway.workload import parse_arrivals
from headway.workload.parse_lengths import lengths, require
from headway.workload.spec import WorkloadSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

_FOLDER = Path(__file__).parent / "profiles"


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A workload derived from a real trace.

    Args:
        name: how scenarios call it.
        title: what traffic it is, in one line.
        source: the trace's publisher and name.
        licence: the trace's licence.
        as_of: the day the figures were derived (ISO).
        rows: requests they were derived from.
        method: how, in plain words: lengths, arrivals, prefixes.
        facts: figures of the real trace and of synthesised requests beside them, by name.
        spec: the workload.
    """

    name: str
    title: str
    source: str
    licence: str
    as_of: str
    rows: int
    method: Mapping[str, str]
    facts: Mapping[str, Mapping[str, float]]
    spec: WorkloadSpec


def profile_names() -> tuple[str, ...]:
    """Return the names of the shipped profiles, sorted."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.yaml")))


@cache
def profile(name: str) -> Profile:
    """Return a shipped profile.

    Raises:
        InputError: no profile of that name (with the nearest one).
    """
    if name not in profile_names():
        raise InputError(f"unknown workload profile {name!r}", hint=nearest(name, profile_names()))
    return read_profile(read_yaml(_FOLDER / f"{name}.yaml"), name)


def read_profile(node: Node, name: str) -> Profile:
    """Read a profile from YAML.

    Raises:
        InputError: an unknown or missing key, or a value out of bounds.
    """
    entries = require(node, (), ("title", "source", "licence", "as_of", "rows", "method", "facts", "workload"))
    facts = {
        key: {what: value.number() for what, value in child.entries().items()}
        for key, child in entries["facts"].entries().items()
    }
    return Profile(
        name=name,
        rows=entries["rows"].integer(least=1),
        method={key: child.text() for key, child in entries["method"].entries().items()},
        facts=facts,
        spec=_spec(entries["workload"], name),
        **{key: entries[key].text() for key in ("title", "source", "licence", "as_of")},
    )


def _spec(node: Node, name: str) -> WorkloadSpec:
    entries = require(node, ("sessions", "system_prompts"), ("lengths", "arrivals"))
    return WorkloadSpec(
        name=name,
        content=lengths(entries["lengths"]),
        arrivals=parse_arrivals.arrivals(entries["arrivals"]),
        sessions=parse_arrivals.sessions(entries["sessions"]) if "sessions" in entries else None,
        system_prompts=parse_arrivals.system_prompts(entries["system_prompts"]) if "system_prompts" in entries else (),
    )
