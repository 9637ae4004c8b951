"""What the reference pages say of the code, generated from it: help texts, and the fields of every result.

`HEADWAY_UPDATE=1 python -m pytest tests/golden` writes the pages and the golden texts anew.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import io
import os
import re
import tokenize
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path

from headway import api
from headway.cli import main

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"
UPDATE = bool(os.environ.get("HEADWAY_UPDATE"))


def agree(path: Path, expected: str) -> None:
    """Hold a file to a text; write it where that is asked for."""
    if UPDATE:
        path.write_text(expected, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == expected, f"{path.name} is stale: HEADWAY_UPDATE=1 writes it anew"


def help_of(path: str) -> str:
    printed = io.StringIO()
    with redirect_stdout(printed):
        assert main([*path.split(), "--help"]) == 0
    return printed.getvalue()


def with_help(page: str) -> str:
    """The page with the block under each `## headway …` heading replaced by that command's help."""
    section = re.compile(
        r"(?m)^(## headway(?P<path>[a-z ]*)\n(?:(?!^## |^```text).*\n)*```text\n)(?:(?!^```).*\n)*```\n"
    )
    return section.sub(lambda found: f"{found[1]}{help_of(found['path'])}```\n", page)


# --- the fields of a result -----------------------------------------------------------------------------


def result_of(verb: str) -> type:
    """The dataclass a verb returns, from its annotation."""
    module, name = api.VERBS[verb].split(":")
    function = getattr(importlib.import_module(module), name)
    return named(str(inspect.signature(function).return_annotation), module)


def named(word: str, module: str) -> type | None:
    """The dataclass a word means in a module's annotations: defined there, or imported (for the type checker too)."""
    home = importlib.import_module(module)
    found = getattr(home, word, None) if word in vars(home) else None
    origin = imports_of(module).get(word)
    if found is None and origin:
        found = getattr(importlib.import_module(origin), word, None)
    return found if isinstance(found, type) and dataclasses.is_dataclass(found) else None


@cache
def imports_of(module: str) -> dict[str, str]:
    tree = ast.parse(inspect.getsource(importlib.import_module(module)))
    froms = (node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module)
    return {alias.name: node.module for node in froms for alias in node.names if node.module}


def comments_of(noun: type) -> dict[str, str]:
    """The comment at the end of each field's line, or the line of the class docstring that explains the field."""
    source = inspect.getsource(noun)
    found = {}
    tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    for token in tokens:
        match = re.match(r"\s+(\w+):.*#", token.line)
        if token.type == tokenize.COMMENT and match and "noqa" not in token.string:
            found[match[1]] = token.string.lstrip("# ")
    section = re.search(r"(?:Attributes|Args):\n(.*)", inspect.getdoc(noun) or "", re.DOTALL)
    for name, text in re.findall(r"(?m)^    (\w+): (.*(?:\n     +.*)*)", section[1] if section else ""):
        found.setdefault(name, " ".join(text.split()))
    return found


def shown_fields(noun: type) -> list[dataclasses.Field[object]]:
    return [f for f in dataclasses.fields(noun) if f.metadata.get("document", True)]


def reachable(noun: type, found: dict[str, type]) -> None:
    """Gather the dataclasses a noun is made of."""
    key = noun.__name__
    if key in found:
        return
    found[key] = noun
    for field in shown_fields(noun):
        for word in re.findall(r"[A-Z]\w+", str(field.type)):
            inner = named(word, noun.__module__)
            if inner is not None:
                assert found.get(word, inner) is inner, f"two nouns in documents are called {word}"
                reachable(inner, found)


def table_of(noun: type) -> str:
    comments = comments_of(noun)
    rows = [f"| `{f.name}` | {type_text(noun, str(f.type))} | {comments.get(f.name, '')} |" for f in shown_fields(noun)]
    return "\n".join(["| key | type | meaning |", "| --- | --- | --- |", *rows])


def type_text(noun: type, text: str) -> str:
    def linked(match: re.Match[str]) -> str:
        return f"[{match[0]}](#{match[0].lower()})" if named(match[0], noun.__module__) else match[0]

    plain = (
        text.replace("None", "null")
        .replace("FloatColumn", "list[float]")
        .replace("IntColumn", "list[int]")
        .replace("Mapping[", "map[")
    )
    return re.sub(r"\b[A-Z]\w+", linked, plain.replace("tuple[", "list[").replace(", ...]", "]").replace("|", "or"))


#: verb -> the module and noun of the lines its `--json` prints before the whole result, and the schema's name
LINES = {"watch": ("headway.api.watches", "WatchedWindow", "watch window")}


def lines_of(verb: str, nouns: dict[str, type]) -> list[str]:
    """The section of the lines a verb prints as it goes on."""
    if verb not in LINES:
        return []
    module, name, schema = LINES[verb]
    noun = named(name, module)
    assert noun is not None
    reachable(noun, nouns)
    what = f"`headway {verb} --json` prints a line of it each time, and `{verb}/1` as its last line."
    return [f"## {schema.replace(' ', '-')}/1\n\n{what}\n\nThe keys are those of [{name}](#{name.lower()}).\n"]


def data_dictionary() -> str:
    """Every document's keys, then every noun they are made of."""
    nouns: dict[str, type] = {}
    parts = []
    for verb in api.VERBS:
        result = result_of(verb)
        reachable(result, nouns)
        summary = (inspect.getdoc(result) or "").splitlines()[0]
        parts.append(f"## {verb.replace(' ', '-')}/1\n\n`headway {verb} --json`. {summary}\n\n{table_of(result)}\n")
        parts += lines_of(verb, nouns)
        nouns[result.__name__] = result
    tops = {result_of(verb).__name__ for verb in api.VERBS}
    inner = sorted(name for name in nouns if name not in tops)
    parts.append("## Nouns\n")
    parts += [
        f"### {name}\n\n{(inspect.getdoc(nouns[name]) or '').splitlines()[0]}\n\n{table_of(nouns[name])}\n"
        for name in inner
    ]
    return "\n".join(parts)
