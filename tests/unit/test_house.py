"""The house rules, as tests: units in names, light imports, files of bounded size."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "headway"
FILES = sorted(p for p in SOURCE.rglob("*.py"))

#: A number that is named by one of these words alone has lost its unit.
BARE = re.compile(
    r"(^|_)(latency|duration|timeout|delay|interval|elapsed|bandwidth|throughput|memory|cost|power|ratio|percent|pct|rate)$"
)
#: Units that are not the base units.
FOREIGN = re.compile(
    r"_(ms|us|ns|sec|secs|seconds|minutes|hours|kb|mb|gb|tb|kib|mib|gib|tflops|gflops|mhz|ghz|percent|pct)$"
)
#: Settings of engines, which keep the engine's own names.
SETTINGS = {
    "prefill_schedule_interval",
    "waiting_served_ratio",
    "scheduler_recv_interval",
    "batch_wait_max_tokens_ratio",
}
NUMBER = re.compile(r"\b(int|float|IntColumn|FloatColumn|Column|NDArray|ndarray)\b")


def names_of(tree: ast.AST) -> list[tuple[str, str, int]]:
    """Arguments of functions and annotated fields of classes: name, annotation, line."""
    found: list[tuple[str, ast.expr | None, int]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            args = node.args
            found += [(a.arg, a.annotation, a.lineno) for a in (*args.posonlyargs, *args.args, *args.kwonlyargs)]
        elif isinstance(node, ast.ClassDef):
            fields = [s for s in node.body if isinstance(s, ast.AnnAssign) and isinstance(s.target, ast.Name)]
            found += [(s.target.id, s.annotation, s.lineno) for s in fields]
    return [(name, ast.unparse(note) if note else "float", line) for name, note, line in found]


def without_unit(name: str, annotation: str) -> bool:
    """Whether a number's name lacks its unit; a noun (`cost: Cost`) carries its units inside."""
    return name not in SETTINGS and bool(FOREIGN.search(name) or (BARE.search(name) and NUMBER.search(annotation)))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_names_carry_base_units(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    wrong = [f"{name} (line {line})" for name, note, line in names_of(tree) if without_unit(name, note)]
    assert not wrong, f"{path.name}: a unit is missing or not the base unit: {', '.join(wrong)}"


@pytest.mark.parametrize("name", ["timeout", "rate", "ttft_ms", "memory", "hbm_gb", "usage_percent"])
def test_the_unit_rule_can_fail(name: str) -> None:
    assert without_unit(name, "float | None")


@pytest.mark.parametrize(
    ("name", "annotation"),
    [("ttft_s", "float"), ("hbm_bytes_per_s", "float"), ("max_num_seqs", "int"), ("cost", "Cost | None")],
)
def test_the_unit_rule_can_pass(name: str, annotation: str) -> None:
    assert not without_unit(name, annotation)


def loaded_by(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(' '.join(sys.modules))"],
        capture_output=True,
        text=True,
        check=True,
    )
    return {module.split(".")[0] for module in done.stdout.splitlines()[-1].split()}


HEAVY = {"numpy", "polars", "matplotlib", "plotext", "pandas", "scipy", "pyarrow", "numba", "fastapi", "httpx", "mcp"}


def test_importing_headway_loads_nothing_heavy() -> None:
    assert not loaded_by("import headway") & HEAVY


def test_showing_help_loads_nothing_heavy() -> None:
    code = "from headway.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass"
    assert not loaded_by(code) & HEAVY


def test_the_light_import_rule_can_fail() -> None:
    assert "numpy" in loaded_by("import numpy") & HEAVY


def test_all_that_is_no_module_is_packaged() -> None:
    project = tomllib.loads((SOURCE.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = project["tool"]["setuptools"]["package-data"]["headway"]
    packaged = {path for pattern in patterns for path in SOURCE.glob(pattern)}
    built = {".py", ".pyc", ".so", ".pyd"}
    assert {path for path in SOURCE.rglob("*") if path.is_file() and path.suffix not in built} == packaged
    assert any(path.suffix == ".pxd" for path in packaged), "the declarations that compiling needs"


def test_constants_of_c_are_the_same_in_every_module() -> None:
    declared: dict[str, set[str]] = {}
    for path in (SOURCE / "simulator").glob("*.py"):
        text = path.read_text(encoding="utf-8")
        for name, value in re.findall(r"^([A-Z]\w*) = cython\.declare\([\w.]+, (.*?)\)", text, re.MULTILINE):
            declared.setdefault(name, set()).add(value)
    assert {"WAITING", "ENDED", "NEVER"} <= declared.keys()
    assert not {name: values for name, values in declared.items() if len(values) > 1}
