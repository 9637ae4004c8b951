"""Results as JSON documents: one encoding for the command line, for scripts and for what is written to a folder.

A document is `{"headway": version, "schema": "plan/1", …the result's own fields…}`. The number after the schema's name
rises when a key changes its meaning or goes; keys may be added without it.

* Keys are the nouns' field names, so they carry their base unit (`_s`, `_bytes`, `_usd_per_hour`).
* JSON has no infinity and no NaN: such a figure is `null`, and `not_finite` says which it was, by JSON pointer
  (RFC 6901): `{"/outcome/latency/ttft/quantiles_s/0.99": "inf"}`.
* A model, an accelerator or an engine stands as its name; its facts and where each is from stand once, under `facts`.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import math
import numbers
from collections.abc import Mapping
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from headway import __version__
from headway.types import Accelerator, Engine, Model

if TYPE_CHECKING:
    from collections.abc import Iterable

#: The version of every verb's document.
SCHEMA_VERSION = 1

#: Nouns that stand as their name where they occur; where in `facts` they are spelled out.
_NAMED: dict[type, str] = {Model: "models", Accelerator: "accelerators", Engine: "engines"}


class _Encoder:
    """Walks one result; gathers the named nouns and the figures JSON cannot write."""

    def __init__(self) -> None:
        self.facts: dict[str, dict[str, Any]] = {}
        self.not_finite: dict[str, str] = {}

    def data(self, value: object, pointer: str) -> Any:
        """Return the value as dicts, lists, texts and finite numbers."""
        if value is None or isinstance(value, (bool, str)):
            return value
        if isinstance(value, numbers.Number):
            return self._number(value, pointer)
        if isinstance(value, (PurePath, dt.date)):
            return str(value)
        return self._whole(value, pointer)

    def _whole(self, value: object, pointer: str) -> Any:
        """Return what has parts."""
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return self._noun(value, pointer)
        if isinstance(value, Mapping):
            return self._entries(((_key(k), v) for k, v in value.items()), pointer)
        if hasattr(value, "tolist"):  # a numpy array or scalar, without loading numpy
            return self.data(value.tolist(), pointer)
        if isinstance(value, (list, tuple)):
            return [self.data(item, f"{pointer}/{index}") for index, item in enumerate(value)]
        raise TypeError(f"{pointer}: a {type(value).__name__} has no form in JSON")

    def _noun(self, noun: Any, pointer: str) -> Any:
        kind = _NAMED.get(type(noun))
        if kind is None:
            return self._entries(_fields(noun), pointer)
        known, name = self.facts.setdefault(kind, {}), _named(noun)
        if name not in known:
            known[name] = self._entries(_fields(noun), f"/facts/{kind}/{_escaped(name)}")
        return name

    def _entries(self, entries: Iterable[tuple[str, object]], pointer: str) -> dict[str, Any]:
        return {key: self.data(value, f"{pointer}/{_escaped(key)}") for key, value in entries}

    def _number(self, value: Any, pointer: str) -> int | float | None:
        if isinstance(value, numbers.Integral):
            return int(value)
        number = float(value)
        if math.isfinite(number):
            return number
        self.not_finite[pointer] = repr(number)
        return None


def _fields(noun: Any) -> Iterable[tuple[str, object]]:
    """A noun's fields, those left out that say so: `field(metadata={"document": False})`."""
    return ((f.name, getattr(noun, f.name)) for f in dataclasses.fields(noun) if f.metadata.get("document", True))


def _named(noun: Any) -> str:
    """A noun's name; an engine's comes with its version."""
    return f"{noun.name} {noun.version}" if isinstance(noun, Engine) else str(noun.name)


def _key(key: object) -> str:
    """A mapping's key as text: fractions keep their shortest spelling, `0.95`."""
    return f"{key:g}" if isinstance(key, float) else str(key)


def _escaped(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")


def document(verb: str, result: object) -> dict[str, Any]:
    """Return a verb's result as the document `--json` prints.

    Args:
        verb: the command's path, e.g. `catalog show`; the schema's name is it with hyphens.
        result: the frozen dataclass the verb returned.

    Raises:
        TypeError: the result holds something that has no form in JSON (the pointer to it is named).
    """
    encoder = _Encoder()
    body = {key: encoder.data(value, f"/{_escaped(key)}") for key, value in _fields(result)}
    head = {"headway": __version__, "schema": f"{verb.replace(' ', '-')}/{SCHEMA_VERSION}"}
    facts = {"facts": encoder.facts} if encoder.facts else {}
    return head | body | facts | {"not_finite": encoder.not_finite}


def dumps(verb: str, result: object) -> str:
    """Return the document as text: UTF-8, two spaces deep, one newline at the end; the same result gives the same text.

    Raises:
        TypeError: the result holds something that has no form in JSON.
    """
    return json.dumps(document(verb, result), ensure_ascii=False, allow_nan=False, indent=2) + "\n"
