"""Laws of the YAML reader: every refusal is an InputError that names file and place."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from headway.errors import InfeasibleError, InputError, nearest
from headway.reading import Node, parse_yaml, read_yaml

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
TREES = st.recursive(
    SCALARS,
    lambda c: st.lists(c, max_size=4) | st.dictionaries(st.text(min_size=1, max_size=6), c, max_size=4),
    max_leaves=20,
)


def touch(node: Node) -> None:
    """Ask a node for everything it can be."""
    for ask in (node.text, node.flag, node.integer, node.number, lambda: node.quantity("time")):
        try:
            ask()
        except InputError as error:
            assert error.file == "f.yaml"
            assert error.place.startswith("line ")
            assert "\n" not in str(error)
    if node.is_mapping:
        for child in node.entries().values():
            touch(child)
    elif node.is_list:
        for child in node.items():
            touch(child)


@given(TREES)
def test_any_yaml_tree_can_be_walked(tree: object) -> None:
    text = yaml.safe_dump(tree, allow_unicode=True)
    try:
        root = parse_yaml(text, file="f.yaml")
    except InputError:
        assert not text.strip()
        return
    touch(root)


@given(st.text(max_size=80))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        root = parse_yaml(text, file="f.yaml")
        touch(root)
    except InputError as error:
        assert error.file == "f.yaml"


def test_the_place_is_named() -> None:
    root = parse_yaml("slo:\n  ttft:\n    p95: 500\n", file="s.yaml")
    node = root.entries({"slo"})["slo"].entries()["ttft"].entries()["p95"]
    with pytest.raises(InputError, match=r"s\.yaml: line 3, slo\.ttft\.p95: '500' has no unit"):
        node.quantity("time")


def test_an_unknown_key_offers_the_nearest() -> None:
    root = parse_yaml("modle: x\n", file="s.yaml")
    with pytest.raises(InputError, match=r"line 1, modle: unknown key 'modle' \(did you mean 'model'\?\)"):
        root.entries({"model", "slo"})


def test_a_key_twice_is_refused() -> None:
    with pytest.raises(InputError, match="line 2, a: the key 'a' stands twice"):
        parse_yaml("a: 1\na: 2\n").entries()


@pytest.mark.parametrize(
    ("text", "bound", "message"),
    [("5 s", {"most": 1.0}, "above the most"), ("-1 s", {"least": 0.0}, "below the least")],
)
def test_bounds(text: str, bound: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_yaml(text).quantity("time", **bound)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"missing\.yaml: cannot be read: No such file"):
        read_yaml(tmp_path / "missing.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"a: \xff\n")
    with pytest.raises(InputError, match=r"not UTF-8 text \(byte 3\)"):
        read_yaml(tmp_path / "latin.yaml")
    (tmp_path / "bad.yaml").write_text("a: [1\nb: 2\n")
    with pytest.raises(InputError, match=r"bad\.yaml: line 2: not valid YAML"):
        read_yaml(tmp_path / "bad.yaml")
    with pytest.raises(InputError, match="cannot be read"):
        read_yaml(tmp_path)


def test_scalars() -> None:
    entries = parse_yaml("a: yes\nb: 3\nc: 2.5\nd: [x, y]\ne: .nan\nf:\n").entries()
    assert entries["a"].flag() is True
    assert entries["b"].integer(least=0) == 3
    assert entries["c"].number() == 2.5
    assert [n.text() for n in entries["d"].items()] == ["x", "y"]
    assert [n.text() for n in entries["b"].items()] == ["3"]
    for node, message in ((entries["e"], "finite"), (entries["a"], "number"), (entries["d"], "a list")):
        with pytest.raises(InputError, match=message):
            node.number()
    with pytest.raises(InputError, match="expected a text, got nothing"):
        entries["f"].text()


@pytest.mark.parametrize("text", ["=", "!mine 3", "!!python/name:os 3", "2001-99-99", "!!int x", "!!float x"])
def test_a_scalar_of_no_known_kind_is_refused(text: str) -> None:
    node = parse_yaml(text)
    for ask in (node.flag, node.integer, node.number):
        with pytest.raises(InputError, match="line 1: expected"):
            ask()


def test_nearest_names_a_few_where_none_is_near() -> None:
    assert nearest("H100-SMX", ["h100-sxm", "l4"]) == "did you mean 'h100-sxm'?"
    assert nearest("zzz", ["b", "a"]) == "known: a, b"


def test_infeasible_names_what_binds() -> None:
    error = InfeasibleError("does not fit", binding="hbm_bytes", relaxation="tp 4", shortfall={"missing_bytes": 1.0})
    assert str(error) == "does not fit; hbm_bytes binds; nearest feasible: tp 4"
    assert error.exit_code == 3
