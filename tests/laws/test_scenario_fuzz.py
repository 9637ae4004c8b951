"""Whatever a scenario file holds, it is read or refused by one error in one line."""

from __future__ import annotations

import contextlib
import random
import string
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headway.catalog import load
from headway.errors import InputError
from headway.scenario import new_scenario, read_scenario
from headway.scenario.reader import ALLOW_KEYS, KEYS, POLICY_KEYS, PRICE_KEYS

CATALOG = load()
EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))
QUIET = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

words = st.sampled_from(
    [*KEYS, *ALLOW_KEYS, *POLICY_KEYS, *PRICE_KEYS, "ttft", "p95", "profile", "rate", "trace", "config"]
)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(string.printable, max_size=12),
    st.sampled_from(["500 ms", "40 req/s", "30 %", "h100-sxm", "azure-conv", "1 node", "vllm@", "9e999 s", "p95", "."]),
    st.dates(),
)
trees = st.recursive(
    scalars, lambda node: st.lists(node, max_size=4) | st.dictionaries(words, node, max_size=5), max_leaves=25
)


def read(folder: Path, text: str | bytes) -> None:
    file = folder / "scenario.yaml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    try:
        read_scenario(file, catalog=CATALOG)
    except InputError as error:
        assert "\n" not in str(error)
        assert str(error)


@QUIET
@given(tree=trees)
def test_any_tree_is_read_or_refused(tmp_path: Path, tree: object) -> None:
    with contextlib.suppress(yaml.YAMLError):
        read(tmp_path, yaml.safe_dump(tree))


@QUIET
@given(parts=st.dictionaries(st.sampled_from([k for k in KEYS if k != "headway"]), trees, max_size=6))
def test_a_scenario_with_any_sections_is_read_or_refused(tmp_path: Path, parts: dict[str, object]) -> None:
    whole = yaml.safe_load(new_scenario()) | parts
    read(tmp_path, yaml.safe_dump(whole))


@QUIET
@given(blob=st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(tmp_path: Path, blob: bytes) -> None:
    read(tmp_path, blob)


def mutated(text: str, chance: random.Random) -> str:
    """Cut, double, swap or replace a few stretches of a text."""
    for _ in range(chance.randint(1, 4)):
        i, j = sorted(chance.randrange(len(text) + 1) for _ in range(2))
        j = min(j, i + 12)
        piece = text[i:j]
        middle = chance.choice(["", piece * 2, piece[::-1], chance.choice("{}[]:,-#&*!|>'\"%@`\t\n 9")])
        text = text[:i] + middle + text[j:]
    return text


@QUIET
@given(example=st.sampled_from(EXAMPLES), seed=st.integers(0, 2**32))
def test_a_mutated_example_is_read_or_refused(tmp_path: Path, example: Path, seed: int) -> None:
    read(tmp_path, mutated(example.read_text(encoding="utf-8"), random.Random(seed)))


@pytest.mark.nightly
def test_many_mutated_examples_are_read_or_refused(tmp_path: Path) -> None:
    for seed in range(20_000):
        chance = random.Random(seed)
        read(tmp_path, mutated(chance.choice(EXAMPLES).read_text(encoding="utf-8"), chance))
