"""Reads calibrations of endpoints: by name or from a file, checked whole."""

from __future__ import annotations

import calendar
import dataclasses
import math
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from headway.errors import InputError, nearest
from headway.metrics import PERCENTILES_FRAC
from headway.perf.endpoint import (
    EVIDENCE,
    FORMAT,
    SCALARS,
    EndpointCalibration,
    FittedRun,
    StepTerms,
    Uncertainty,
    term_names,
)
from headway.reading import read_yaml
from headway.types import (
    METRICS,
    Dtype,
    EngineSettings,
    LlamaCppSettings,
    SglangSettings,
    TensorRtLlmSettings,
    TgiSettings,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from headway.reading import Node

#: Names a folder of one's own that is searched after `./calibrations`.
FOLDER_VARIABLE = "HEADWAY_CALIBRATIONS"
#: The file's own keys, in the order they are written; the fields of `ENDPOINT` stand together under `endpoint`.
KEYS = (
    "headway_calibration",
    "name",
    "made",
    "endpoint",
    "settings",
    "num_gpu_blocks",
    "terms",
    "uncertainty",
    "bands_frac",
    "valid",
    "runs",
)
ENDPOINT = ("engine", "engine_version", "model", "hardware", "tp", "weight_dtype", "kv_dtype")
TERMS = tuple(field.name for field in dataclasses.fields(StepTerms))
UNCERTAINTY = tuple(field.name for field in dataclasses.fields(Uncertainty))
RUN = tuple(field.name for field in dataclasses.fields(FittedRun) if field.name != "evidence")
SETTINGS = tuple(field.name for field in dataclasses.fields(EngineSettings))
VALID = ("batch", "tokens", "context")
#: What engines other than vLLM say of their own.
OWN: Mapping[str, type] = {
    "sglang": SglangSettings,
    "tensorrt-llm": TensorRtLlmSettings,
    "tgi": TgiSettings,
    "llama.cpp": LlamaCppSettings,
}
ENGINES = ("vllm", *OWN)
#: Figures that bands, misfits and errors are of.
FIGURES = (*(f"{metric}.p{100 * frac:g}" for metric in METRICS for frac in PERCENTILES_FRAC), "output_tokens_per_s")

_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
#: A step takes less than an hour, and a table has no more entries than an engine's largest setting.
_LONGEST_S, _MOST_ENTRIES = 3600.0, 2**24
#: What scatters by more than a factor of twenty, a standard deviation of the logarithm, predicts nothing.
_MOST_LOG_SD = 3.0
#: A covariance's least eigenvalue may be below zero by so much of its largest: rounding.
_ROUNDING_FRAC = 1e-9


# --- by name --------------------------------------------------------------------------------------------


def read_calibration(name_or_path: str | Path) -> EndpointCalibration:
    """Read a calibration.

    Args:
        name_or_path: a file where it has a slash or ends in .yaml, else a name (`find_calibration`).

    Raises:
        InputError: there is none of that name, or anything in the file is wrong: its line and key are named.
    """
    return _calibration(read_yaml(find_calibration(name_or_path)))


def find_calibration(name_or_path: str | Path) -> Path:
    """Return the file of a calibration: of a name, the first NAME.yaml in `calibration_folders`, else `name: NAME`.

    Raises:
        InputError: no folder has it (the nearest names and the folders are named), or two files of one are called so.
    """
    text = str(name_or_path)
    if isinstance(name_or_path, Path) or os.sep in text or "/" in text or text.endswith(".yaml"):
        return Path(text)
    folders = calibration_folders()
    for folder in folders:
        if (path := folder / f"{text}.yaml").is_file():
            return path
    called = [_called(folder) for folder in folders]
    for found in called:
        if len(paths := found.get(text, [])) > 1:
            both = " and ".join(map(str, paths))
            hint = f"name the file: {paths[0]}"
            raise InputError(f"two calibrations are called {text!r}: {both}", place="calibration", hint=hint)
        if paths:
            return paths[0]
    known = {path.stem for folder in folders for path in folder.glob("*.yaml")}.union(*called)
    looked = f"looked in {' and '.join(map(str, folders))}"
    hint = f"{nearest(text, known)}; {looked}" if known else f"{looked}, which have none"
    raise InputError(f"there is no calibration {text!r}", place="calibration", hint=hint)


def _called(folder: Path) -> dict[str, list[Path]]:
    """Return the calibrations of a folder by what they call themselves; a file that is none, or broken, is no one's."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*.yaml")):
        try:
            entries = read_yaml(path).entries()
            name = entries["name"].text() if "headway_calibration" in entries else ""
        except (InputError, KeyError):
            continue
        found.setdefault(name, []).append(path)
    return found


def calibration_folders() -> tuple[Path, Path]:
    """Return where calibrations are looked for by name: beside one's work, then the user's own folder."""
    home = os.environ.get("XDG_DATA_HOME") or str(Path("~/.local/share").expanduser())
    own = os.environ.get(FOLDER_VARIABLE) or str(Path(home) / "headway" / "calibrations")
    return Path("calibrations"), Path(own)


# --- the whole ------------------------------------------------------------------------------------------


def _calibration(root: Node) -> EndpointCalibration:
    _check_format(root)
    top = _all_of(root, KEYS)
    endpoint = _all_of(top["endpoint"], ENDPOINT)
    terms = _terms(top["terms"])
    engine, engine_settings = endpoint["engine"].choice(ENGINES), _settings(top["settings"])
    if engine_settings.engine != engine:
        endpoint["engine"].fail(
            f"{engine!r}, and the settings are of {engine_settings.engine!r}", "they are one engine's"
        )
    valid = {key: _range(node, least=0.0) for key, node in top["valid"].entries(VALID).items()}
    return EndpointCalibration(
        name=top["name"].text(),
        made=_day(top["made"]),
        engine=engine,
        **{key: endpoint[key].text() for key in ("model", "hardware")},
        engine_version=_text_if_any(endpoint["engine_version"]),
        tp=endpoint["tp"].integer(least=1),
        weight_dtype=endpoint["weight_dtype"].choice(get_args(Dtype)),
        kv_dtype=endpoint["kv_dtype"].choice(get_args(Dtype)),
        settings=engine_settings,
        num_gpu_blocks=_blocks(top["num_gpu_blocks"], engine_settings.block_size, valid),
        terms=terms,
        uncertainty=_uncertainty(top["uncertainty"], terms),
        bands_frac={key: _range(node, least=-1.0) for key, node in top["bands_frac"].entries(FIGURES).items()},
        valid=valid,
        runs=tuple(map(_run, top["runs"].items())),
    )


def _check_format(root: Node) -> None:
    """Refuse another kind of file and another version before any other word of it is judged."""
    if not root.is_mapping or "headway_calibration" not in (entries := root.entries()):
        root.fail("this is no calibration: it has no 'headway_calibration'", "`headway calibrate endpoint` writes one")
    version = entries["headway_calibration"]
    if (found := version.integer()) != FORMAT:
        newer = "; update headway, or calibrate again" if found > FORMAT else ""
        version.fail(f"calibration format {found} is not known", f"this version reads format {FORMAT}{newer}")


def _all_of(node: Node, keys: Iterable[str]) -> dict[str, Node]:
    """Return a mapping's entries: these keys, all of them."""
    entries = node.entries(tuple(keys))
    for key in keys:
        if key not in entries:
            node.fail(f"has no {key!r}")
    return entries


def _matching(node: Node, pattern: re.Pattern[str], expected: str) -> str:
    text = node.text()
    return text if pattern.fullmatch(text) else node.fail(f"expected {expected}, got {text!r}")


def _day(node: Node) -> str:
    text = _matching(node, _DAY, "a day, such as 2026-11-21")
    year, month, day = map(int, text.split("-"))
    there = 1 <= month <= 12 and 1 <= day <= calendar.monthrange(year, month)[1]
    return text if there else node.fail(f"there is no day {text}")


def _blocks(node: Node, block_size: int, valid: Mapping[str, tuple[float, float]]) -> int:
    """Return the KV blocks, which held the longest request of those that were measured but for its last token."""
    blocks = node.integer(least=1)
    least = math.ceil((valid.get("context", (0.0, 0.0))[1] - 1) / block_size)
    if blocks < least:
        node.fail(f"{blocks} blocks do not hold the longest context under `valid`", f"that takes {least} at least")
    return blocks


def _text_if_any(node: Node) -> str:
    empty = node.is_null or (not node.is_mapping and not node.is_list and not node.raw.value.strip())
    return "" if empty else node.text()


def _pair(node: Node) -> tuple[Node, Node]:
    found = list(node.items()) if node.is_list else []
    if len(found) != 2:
        node.fail("expected two numbers, [least, most]")
    return found[0], found[1]


def _range(node: Node, *, least: float) -> tuple[float, float]:
    low, high = (one.number(least=least) for one in _pair(node))
    return (low, high) if low <= high else node.fail(f"the least, {low:g}, is above the most, {high:g}")


# --- its parts ------------------------------------------------------------------------------------------


def _terms(node: Node) -> StepTerms:
    entries = _all_of(node, TERMS)
    return StepTerms(
        decode_s=_knots(entries["decode_s"]),
        mixed_s=_knots(entries["mixed_s"]),
        **{key: entries[key].number(least=0.0, most=_LONGEST_S) for key in SCALARS},
    )


def _knots(node: Node) -> dict[int, float]:
    """Return a table by number of sequences or tokens, which rise; what their times do is the measurement's."""
    found: dict[int, float] = {}
    for key, value in node.entries().items():
        if not key.isdecimal() or not 1 <= int(key) <= _MOST_ENTRIES:
            value.fail(f"expected a whole number above zero before the colon, got {key!r}")
        if found and int(key) <= max(found):
            value.fail(f"{key} stands after {max(found)}", "write them in rising order")
        found[int(key)] = value.number(least=1e-12, most=_LONGEST_S)
    return found or node.fail("expected at least one number of sequences or tokens and its seconds")


def _uncertainty(node: Node, terms: StepTerms) -> Uncertainty:
    entries = _all_of(node, UNCERTAINTY)
    known = term_names(terms)
    names = [item.choice(known) for item in entries["terms"].items()] if not entries["terms"].is_null else []
    if len(set(names)) < len(names):
        entries["terms"].fail("a term stands twice")
    return Uncertainty(
        terms=tuple(names),
        covariance=_covariance(entries["covariance"], len(names)),
        drift_log_sd=entries["drift_log_sd"].number(least=0.0, most=_MOST_LOG_SD),
        misfit_log_sd=_misfits(entries["misfit_log_sd"]),
        not_identified=_reasons(entries["not_identified"], (*known, "drift_log_sd")),
    )


def _covariance(node: Node, size: int) -> tuple[tuple[float, ...], ...]:
    """Read the lower triangle, row by row, and return the whole."""
    rows = [[one.number() for one in row.items()] for row in node.items()] if node.is_list else []
    if [len(row) for row in rows] != list(range(1, size + 1)):
        node.fail(f"expected {size} rows of 1, 2, … {size} numbers: a lower triangle in the order of the terms")
    if any(row[-1] < 0.0 for row in rows):
        node.fail("a variance, the last number of a row, is below zero")
    whole = tuple(tuple(rows[max(i, j)][min(i, j)] for j in range(size)) for i in range(size))
    if size:
        _check_covariance(node, whole)
    return whole


def _check_covariance(node: Node, matrix: tuple[tuple[float, ...], ...]) -> None:
    """Refuse what nothing can scatter like: more in common than on its own."""
    import numpy as np

    found = np.linalg.eigvalsh(matrix)
    if found[0] < -_ROUNDING_FRAC * np.abs(found).max():
        node.fail("no covariance: some terms have more in common than their variances allow")


def _misfits(node: Node) -> dict[str, float]:
    entries = {} if node.is_null else node.entries(FIGURES)
    return {key: value.number(least=0.0, most=_MOST_LOG_SD) for key, value in entries.items()}


def _reasons(node: Node, known: Iterable[str]) -> dict[str, str]:
    return {} if node.is_null else {key: reason.text() for key, reason in node.entries(tuple(known)).items()}


def _run(node: Node) -> FittedRun:
    entries = node.entries((*RUN, "evidence"))
    for key in RUN:
        if key not in entries:
            node.fail(f"has no {key!r}")
    errors = {key: one.number(least=-1.0) for key, one in entries["errors_frac"].entries(FIGURES).items()}
    sha256 = entries["sha256"]
    return FittedRun(
        name=entries["name"].text(),
        requests=entries["requests"].integer(least=0),
        started=_text_if_any(entries["started"]),
        sha256=_text_if_any(sha256) and _matching(sha256, _SHA256, "a SHA-256 of 64 hexadecimal digits, or nothing"),
        errors_frac=errors,
        evidence=entries["evidence"].choice(EVIDENCE) if "evidence" in entries else "requests",
    )


# --- settings, read by the types of their fields --------------------------------------------------------

_READERS: Mapping[str, Callable[[Node, int], Any]] = {
    "int": lambda node, least: node.integer(least=least),
    "float": lambda node, _: node.number(least=0.0),
    "bool": lambda node, _: node.flag(),
    "str": lambda node, _: _text_if_any(node),
    "tuple[int, ...]": lambda node, _: tuple(item.integer(least=1) for item in node.items()),
}
#: The least a whole number may be where that is not 0 (SGLang's chunked_prefill_size: -1 is none).
_LEAST = {
    "max_num_seqs": 1,
    "max_num_batched_tokens": 1,
    "max_model_len": 2,
    "block_size": 1,
    "pipeline_parallel_size": 1,
    "chunked_prefill_size": -1,
}


def _settings(node: Node) -> EngineSettings:
    given = _fields(node, EngineSettings)
    engine, own = given.get("engine", "vllm"), node.entries().get("own")
    if own is not None and not own.is_null:
        kind = OWN.get(engine) or own.fail(f"{engine} has no settings of its own here")
        given["own"] = kind(**_fields(own, kind))
    return EngineSettings(**given)


def _fields(node: Node, kind: type) -> dict[str, Any]:
    """Return what a mapping says of a class's fields but `own`; a field it leaves out has the class's default."""
    known = {field.name: field for field in dataclasses.fields(kind)}
    entries = node.entries(tuple(known))
    for name, field in known.items():
        if name not in entries and field.default is dataclasses.MISSING:
            node.fail(f"has no {name!r}")
    return {name: _field(entry, name, str(known[name].type)) for name, entry in entries.items() if name != "own"}


def _field(node: Node, name: str, kind: str) -> Any:
    bare = kind.removesuffix(" | None")
    return None if node.is_null and bare != kind else _READERS[bare](node, _LEAST.get(name, 0))
