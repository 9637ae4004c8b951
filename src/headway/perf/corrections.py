"""What whole engines add to or take from the sum of their kernels: log-factors learnt from published measurements.

A step has three parts, and each has a factor of its own:

    base      what a decode step of one sequence costs: reading the weights, launches, collectives' latency, the host
    batch     what more sequences add to a decode step, and attention over their contexts
    prefill   what a step with prompt tokens takes beyond that

the host has a time per sequence of a step (sampling, handing tokens on), and a request has the front end's time. The
logarithm of each factor is a sum of effects, from the general to the particular (`LEVELS`): engine, accelerator,
engine version, number format, model family, model, and the combinations that matter. Effects were estimated together,
each shrunk towards zero by how much of its kind the measurements show (`tools/fit_corrections.py`), so that what was
never measured inherits what is known of its kind, and what is known of nothing stays as the kernels say.

`data/corrections.json` holds the effects fitted on all groups of rows, and five more sets, each fitted without one
fold of the groups: a row is scored with a set that never saw its group (`unseen_fold`).
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from headway.types import IntColumn, Model, Pool, StepTable

_FILE = Path(__file__).parent / "data" / "corrections.json"

#: The parts a log-factor belongs to; `spread` is added to `base` for every two doublings of the GPUs beyond 4.
PARTS = ("base", "spread", "batch", "prefill", "sequence", "frontend")
_GPUS_LOG2 = 2.0  # of 4 GPUs, where `spread` is centred

#: No correction goes beyond these factors: a model that far off has to be mended, not scaled. The host's and the front
#: end's times are assumptions to begin with.
_LARGEST = {"base": 4.0, "spread": 4.0, "batch": 4.0, "prefill": 4.0, "sequence": 30.0, "frontend": 30.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """Log-factors of one deployment's step times and front end; all zero: the kernels alone."""

    base_log: float = 0.0
    batch_log: float = 0.0
    prefill_log: float = 0.0
    sequence_log: float = 0.0
    frontend_log: float = 0.0
    known: tuple[str, ...] = ()  # the levels that say something of it, as "level key (rows)"

    @property
    def factors(self) -> tuple[float, float, float]:
        """Of base, batch and prefill."""
        return math.exp(self.base_log), math.exp(self.batch_log), math.exp(self.prefill_log)

    @property
    def is_none(self) -> bool:
        """Whether it changes nothing."""
        return not any(getattr(self, f"{part}_log") for part in PARTS if part != "spread")

    def plus(self, other: Correction) -> Correction:
        """Return both at once: factors multiply."""
        return replace(
            self,
            base_log=self.base_log + other.base_log,
            batch_log=self.batch_log + other.batch_log,
            prefill_log=self.prefill_log + other.prefill_log,
            sequence_log=self.sequence_log + other.sequence_log,
            frontend_log=self.frontend_log + other.frontend_log,
        )


NONE = Correction()


def family(model: Model) -> str:
    """Return the model's family: the architecture of its config.json."""
    return model.architecture


def shape(model: Model) -> str:
    """Return what the weights of one model have in common, whatever checkpoint they come in: family and size."""
    return f"{model.architecture} {model.params / 1e9:.3g}B"


def minor(version: str) -> str:
    """Return the first two numbers of a version, "" where there are none."""
    found = re.search(r"(\d+)\.(\d+)", version)
    return f"{found[1]}.{found[2]}" if found else ""


#: Where an engine became another one: vLLM's V1 core is the default from 0.8, TensorRT-LLM's PyTorch backend from 1.0.
_REBUILT = {"vllm": (0, 8), "tensorrt-llm": (1, 0)}


def era(engine: str, version: str) -> str:
    """Return the engine, told apart from what it was before it was rebuilt."""
    found = minor(version)
    first = _REBUILT.get(engine)
    if not found or first is None or tuple(map(int, found.split("."))) >= first:
        return engine
    return f"{engine} before {first[0]}.{first[1]}"


def levels(pool: Pool) -> dict[str, str]:
    """Return the key of a deployment at each level, from the general to the particular."""
    accelerator, model, version = pool.accelerator.name, pool.model, pool.engine_version
    engine, role = era(pool.engine, version), "apart" if pool.role != "mixed" else "mixed"
    on = f"{accelerator} {engine} {role}"
    return {
        "role": role,
        "engine": f"{engine} {role}",
        "accelerator": f"{accelerator} {role}",
        "accelerator, engine": on,
        "minor version": f"{pool.engine} {minor(version)} {role}",
        "version": f"{pool.engine} {version} {role}",
        "format": f"{pool.weight_dtype} {accelerator} {engine}",
        "family": family(model),
        "family, engine": f"{family(model)} {engine}",
        "model": shape(model),
        "model, engine": f"{shape(model)} {engine}",
        "model, accelerator, engine": f"{shape(model)} {on}",
        "model, format, accelerator, engine": f"{shape(model)} {pool.weight_dtype} {on}",
    }


LEVELS = (
    "role",
    "engine",
    "accelerator",
    "accelerator, engine",
    "minor version",
    "version",
    "format",
    "family",
    "family, engine",
    "model",
    "model, engine",
    "model, accelerator, engine",
    "model, format, accelerator, engine",
)


def group_name(group: Sequence[str]) -> str:
    """Return the short hash a group of rows is known by in the stored fits."""
    return hashlib.sha256("\x1f".join(group).encode()).hexdigest()[:16]


def unseen_fold(group: Sequence[str]) -> int | None:
    """Return the fold whose fit left the group out, or None where no fit ever saw it (then the fit on all is fair)."""
    fold: int | None = stored()["groups"].get(group_name(group))
    return fold


def correction(pool: Pool, fold: int | None = None) -> Correction:
    """Return the correction of a deployment.

    Args:
        pool: what is deployed.
        fold: leave this fold's groups out (`unseen_fold`); None: fitted on all.
    """
    return corrected_by(stored()["fits"]["all" if fold is None else str(fold)], pool)


def corrected_by(fit: Mapping[str, Any], pool: Pool) -> Correction:
    """Return the sum of a fit's effects for a deployment.

    Args:
        fit: {"effects": {level: {key: [rows, *log-factors in the order of PARTS]}}, "scale": {level: {part: sd}}}.
        pool: what is deployed.
    """
    total, known = np.zeros(len(PARTS)), []
    for level, key in levels(pool).items():
        found = fit["effects"].get(level, {}).get(key)
        if found is not None:
            total += found[1:]
            known.append(f"{level}: {key} ({found[0]})")
    total[0] += total[1] * (math.log2(pool.parallelism.gpus) - _GPUS_LOG2) / 2
    most = np.log([_LARGEST[part] for part in PARTS])
    base, _, batch, prefill, sequence, frontend = np.clip(total, -most, most).tolist()
    return Correction(
        base_log=base,
        batch_log=batch,
        prefill_log=prefill,
        sequence_log=sequence,
        frontend_log=frontend,
        known=tuple(known),
    )


def corrected(table: StepTable, by: Correction) -> StepTable:
    """Return a step table with each part scaled by its factor; it stays monotone where it was."""
    if by.is_none or len(table.decode_ps) < 2:
        return table
    base, batch, prefill = by.factors
    first = int(table.decode_ps[1])
    return replace(
        table,
        decode_ps=_scaled(table.decode_ps, first, base, batch),
        mixed_ps=_scaled(table.mixed_ps, first, base, prefill),
        context_ps_per_token=round(table.context_ps_per_token * batch),
        window_ps_per_token=round(table.window_ps_per_token * batch),
        prefill_ps_per_pair=round(table.prefill_ps_per_pair * prefill),
        prefill_context_ps_per_token=round(table.prefill_context_ps_per_token * prefill),
        sequence_ps=round(table.sequence_ps * prefill),
    )


def _scaled(column: IntColumn, first: int, base: float, growth: float) -> IntColumn:
    scaled: IntColumn = np.maximum(np.rint(base * first + growth * (column - first)), 1).astype(np.int64)
    scaled[0] = 0
    return scaled


@cache
def stored() -> dict[str, Any]:
    """Return the stored fits: {"groups": {group_name: fold}, "fits": {"all" or a fold: fit}, …}."""
    found: dict[str, Any] = json.loads(_FILE.read_text(encoding="utf-8"))
    return found
