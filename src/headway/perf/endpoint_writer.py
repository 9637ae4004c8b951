"""Writes calibrations of endpoints as YAML for people: one figure a line, how sure it is beside it."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from headway.perf.endpoint import FORMAT, SCALARS
from headway.perf.endpoint_reader import ENDPOINT, SETTINGS, VALID

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from headway.perf.endpoint import EndpointCalibration, FittedRun, Uncertainty

_WORDS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-/")
#: Said of each term, after a `#`: people read the file, and correct it.
_MEANING = {
    "decode_s": "a step in which so many sequences decode: seconds, contexts left out",
    "mixed_s": "a step of so many tokens with a prompt among them: seconds, contexts and sequences left out",
    "context_s_per_token": "for each token of context of each decoding sequence",
    "prefill_s_per_pair": "times m (2x + m) for a chunk of m tokens on top of x",
    "prefill_context_s_per_token": "for each token a chunk is put on top of",
    "sequence_s": "for each sequence in a step with a prompt",
    "frontend_s": "on every request: to the engine and back to the client",
}


def write_calibration(path: str | Path, calibration: EndpointCalibration) -> None:
    """Write a calibration: the same bytes for the same calibration, and `read_calibration` returns it again.

    Args:
        path: the file; it appears whole or not at all.
        calibration: figures are written in full, so that what is simulated from the file is what was fitted.
    """
    whole = Path(path)
    whole.parent.mkdir(parents=True, exist_ok=True)
    part = whole.with_name(whole.name + ".part")
    part.write_text(calibration_text(calibration), encoding="utf-8")
    part.replace(whole)


def calibration_text(calibration: EndpointCalibration) -> str:
    """Return the text of a calibration's file."""
    return "\n".join(_lines(calibration)) + "\n"


def _lines(found: EndpointCalibration) -> Iterator[str]:
    yield "# A calibration of one endpoint: what its engine's steps take, fitted to what it did, and how sure that is."
    yield f"# headway simulate --calibration {_text(found.name)} …; headway plan --calibration {_text(found.name)} …"
    yield f"headway_calibration: {FORMAT}"
    yield f"name: {_text(found.name)}"
    yield f"made: {_text(found.made)}"
    yield "endpoint:"
    yield from (f"  {key}: {_value(getattr(found, key))}" for key in ENDPOINT)
    yield "settings:  # of the engine, as it ran"
    yield from (f"  {key}: {_value(getattr(found.settings, key))}" for key in SETTINGS)
    yield f"num_gpu_blocks: {found.num_gpu_blocks}  # KV blocks of one replica"
    yield from _terms(found)
    yield from _uncertainty(found.uncertainty)
    yield "bands_frac:  # 90 % of runs left out of the fit lie within prediction × (1 + low) … prediction × (1 + high)"
    yield from _ranges(found.bands_frac, found.bands_frac)
    yield "valid:  # the least and the most that was measured"
    yield from _ranges(found.valid, VALID)
    yield f"runs:{'' if found.runs else ' []'}  # fitted to these; errors: predicted ÷ measured − 1, that run left out"
    for run in found.runs:
        yield from _run(run)


def _ranges(pairs: Mapping[str, tuple[float, float]], order: Iterable[str]) -> Iterator[str]:
    yield from (f"  {_text(key)}: {_value(pairs[key])}" for key in order if key in pairs)
    if not pairs:
        yield "  {}"


def _terms(found: EndpointCalibration) -> Iterator[str]:
    uncertainty = found.uncertainty
    sure = {name: math.sqrt(uncertainty.covariance[i][i]) for i, name in enumerate(uncertainty.terms)}
    unsaid = dict.fromkeys(uncertainty.not_identified, "assumed: not identified")
    notes = {name: f"± {100 * sd:.2g} %" for name, sd in sure.items()} | unsaid
    yield "terms:  # ±: standard error of the logarithm, as a share"
    for table in ("decode_s", "mixed_s"):
        yield f"  {table}:  # {_MEANING[table]}"
        for at, seconds in getattr(found.terms, table).items():
            yield _noted(f"    {at}: {_number(seconds)}", notes.get(f"{table}.{at}", ""))
    for key in SCALARS:
        said = "; ".join(filter(None, (_MEANING[key], notes.get(key, ""))))
        yield _noted(f"  {key}: {_number(getattr(found.terms, key))}", said)


def _noted(line: str, note: str) -> str:
    return f"{line}  # {note}" if note else line


def _uncertainty(found: Uncertainty) -> Iterator[str]:
    yield "uncertainty:"
    yield f"  terms: {_value(found.terms)}"
    yield f"  covariance:{'' if found.terms else ' []'}  # of the terms' logarithms, in that order: the lower triangle"
    yield from (f"    - {_value(row[: i + 1])}" for i, row in enumerate(found.covariance))
    yield f"  drift_log_sd: {_number(found.drift_log_sd)}  # all step times together, from one run to the next"
    misfits = ", ".join(f"{_text(key)}: {_number(value)}" for key, value in found.misfit_log_sd.items())
    yield f"  misfit_log_sd: {{{misfits}}}  # of a figure, beyond terms and drift"
    yield f"  not_identified:{'' if found.not_identified else ' {}'}"
    yield from (f"    {name}: {_text(why)}" for name, why in found.not_identified.items())


def _run(run: FittedRun) -> Iterator[str]:
    yield f"  - name: {_text(run.name)}"
    yield f"    requests: {run.requests}"
    yield f"    evidence: {run.evidence}"
    yield f"    started: {_text(run.started)}"
    yield f"    sha256: {_text(run.sha256)}"
    errors = ", ".join(f"{_text(key)}: {_number(value)}" for key, value in run.errors_frac.items())
    yield f"    errors_frac: {{{errors}}}"


# --- values ---------------------------------------------------------------------------------------------


def _value(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, str)):
        return str(value) if isinstance(value, int) else _text(value)
    if isinstance(value, float):
        return _number(value)
    if dataclasses.is_dataclass(value):
        pairs = ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
        return "{" + ", ".join(f"{key}: {_value(one)}" for key, one in pairs) + "}"
    assert isinstance(value, tuple)
    return "[" + ", ".join(map(_value, value)) + "]"


def _number(value: float) -> str:
    """Return the shortest text that reads as the same number: with a point, as YAML 1.1 wants before an exponent."""
    text = repr(float(value))
    mantissa, sign, exponent = text.partition("e")
    return text if not sign or "." in mantissa else f"{mantissa}.0e{exponent}"


def _text(text: str) -> str:
    """Return a text in quotes unless it is a plain word that YAML reads as text or our reader as it is written."""
    plain = text and set(text) <= _WORDS and text[0] not in "-." and text.casefold() != "null"
    return text if plain else yaml.safe_dump(text, default_style='"', allow_unicode=True, width=math.inf).rstrip("\n")
