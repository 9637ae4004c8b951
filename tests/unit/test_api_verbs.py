"""One verb, one function, one command, one section of the reference: walked, not believed."""

from __future__ import annotations

import inspect
from pathlib import Path

import click
import pytest

import headway
from headway import api
from headway.cli.app import app

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"


def command_of(path: str) -> click.Command:
    command: click.Command = app
    for word in path.split():
        assert isinstance(command, click.Group)
        found = command.get_command(click.Context(command), word)
        assert found is not None, path
        command = found
    return command


def commands(group: click.Group, path: str = "") -> list[str]:
    found = []
    for word in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), word)
        name = f"{path} {word}".strip()
        found += commands(command, name) if isinstance(command, click.Group) else [name]
    return found


@pytest.mark.parametrize("path", api.VERBS)
def test_a_verb_is_a_public_function_of_its_name(path: str) -> None:
    name = path.replace(" ", "_")
    function = getattr(headway, name)
    assert function is getattr(api, name)
    assert f"{function.__module__}:{function.__name__}" == api.VERBS[path]
    assert name in headway.__all__
    doc = inspect.getdoc(function)
    assert doc and "Args:" in doc and "Raises:" in doc


@pytest.mark.parametrize("path", api.VERBS)
def test_a_verb_is_a_command_with_json_and_help(path: str) -> None:
    command = command_of(path)
    options = {option for param in command.params for option in param.opts}
    assert "--json" in options
    assert command.help
    assert all(param.help for param in command.params if isinstance(param, click.Option)), "every option is explained"


@pytest.mark.parametrize("path", api.VERBS)
def test_a_verb_has_a_section_in_the_reference(path: str) -> None:
    assert f"\n## headway {path}\n" in (REFERENCE / "cli.md").read_text(encoding="utf-8")
    assert f"\n## {path.replace(' ', '-')}/1\n" in (REFERENCE / "json.md").read_text(encoding="utf-8")


def test_every_command_is_a_verb_but_for_the_shells_own() -> None:
    assert set(commands(app)) == {*api.VERBS, "completion"}


def test_public_names_all_resolve() -> None:
    assert all(getattr(headway, name) is not None for name in headway.__all__)
    assert dir(headway) == sorted(headway.__all__)


@pytest.mark.parametrize("module", [headway, api])
def test_an_unknown_name_is_an_attribute_error(module: object) -> None:
    with pytest.raises(AttributeError, match="no attribute 'plam'"):
        module.plam  # type: ignore[attr-defined] # noqa: B018
