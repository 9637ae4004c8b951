"""Pools that name a calibration: which they may, and what they take from it in place of the physics.

A calibration is of one engine, model, accelerator, tensor-parallel size and number formats, and of the settings it ran
with. `max_num_seqs` and `max_num_batched_tokens` may be set to what was measured (`valid`) and no further; everything
else is as it ran.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache
from statistics import NormalDist
from typing import TYPE_CHECKING

from headway.errors import InputError
from headway.perf.endpoint_reader import find_calibration, read_calibration
from headway.types import TAIL_FRAC, Accelerator, Band, Model, Parallelism, Pool

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from headway.perf.endpoint import EndpointCalibration
    from headway.types import Dtype

#: The confidence of a calibration's bands.
_GIVEN_FRAC = 0.9
_LEAST_LOG = math.log(1e-3)  # no figure is thought to be less than a thousandth of its prediction


def endpoint_of(pool: Pool) -> EndpointCalibration | None:
    """Return the calibration a pool names, None where it names none.

    Raises:
        InputError: there is none of that name, or something is wrong in its file.
    """
    return known_endpoint(pool.calibration) if pool.calibration else None


def known_endpoint(name_or_path: str) -> EndpointCalibration:
    """Read a calibration, once until its file changes.

    Raises:
        InputError: there is none of that name, or something is wrong in its file.
    """
    path = find_calibration(name_or_path)
    try:
        state = path.stat()
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", file=path) from None
    return _read(path.absolute(), (state.st_mtime_ns, state.st_size))


@lru_cache(maxsize=16)
def _read(path: Path, _state: tuple[int, int]) -> EndpointCalibration:
    return read_calibration(path)


# --- what it is of --------------------------------------------------------------------------------------


def unlike(pool: Pool, found: EndpointCalibration) -> str:
    """Return in what a pool differs from the endpoint measured; empty where the calibration is of it."""
    spread = pool.parallelism
    alike: dict[str, tuple[object, object, bool]] = {
        "model": (pool.model.name, found.model, is_called(pool.model, found.model)),
        "accelerator": (pool.accelerator.name, found.hardware, is_called(pool.accelerator, found.hardware)),
        "engine": (pool.engine, found.engine, pool.engine == found.engine),
        "tp": (spread.tp, found.tp, spread.tp == found.tp),
        "weights": (pool.weight_dtype, found.weight_dtype, pool.weight_dtype == found.weight_dtype),
        "KV": (pool.kv_dtype, found.kv_dtype, pool.kv_dtype == found.kv_dtype),
    }
    for name, (one, other, same) in alike.items():
        if not same:
            return f"{name} {one}: the calibration {found.name} is of {other}"
    if spread.pp > 1 or spread.dp > 1:
        return f"{spread}: the calibration {found.name} is of tensor parallelism alone"
    return ""


def is_called(noun: Accelerator | Model, name: str) -> bool:
    """Return whether a noun answers to a name, as in the catalogue: its own, the last part of it, or an alias."""
    names = (noun.name, noun.name.rpartition("/")[2], *noun.aliases)
    return name.casefold() in map(str.casefold, names)


def beyond(max_num_seqs: int, max_num_batched_tokens: int, found: EndpointCalibration) -> str:
    """Return which setting goes beyond what was measured; empty where both are inside."""
    settings = found.settings
    for name, value, ran, what in (
        ("max_num_seqs", max_num_seqs, settings.max_num_seqs, "batch"),
        ("max_num_batched_tokens", max_num_batched_tokens, settings.max_num_batched_tokens, "tokens"),
    ):
        most = max(found.valid.get(what, (0.0, 0.0))[1], ran)
        if value > most:
            return f"{name} beyond the {most:,.0f} that the calibration {found.name} is of"
    return ""


# --- hardware and models that no catalogue has ----------------------------------------------------------


def measured_nouns(found: EndpointCalibration) -> tuple[Accelerator, Model]:
    """Return what was measured as nouns without any datasheet: figures nobody claims are NaN, or none.

    They answer to their names where the catalogue has no entry (`catalog.load(beside=…)`). One box is one accelerator:
    a node of its own with no link beyond it.
    """
    unknown = math.nan
    accelerator = Accelerator(
        name=found.hardware,
        title=f"{found.hardware} (known by the calibration {found.name} alone)",
        vendor="",
        hbm_bytes=unknown,
        hbm_bytes_per_s=unknown,
        peak_flops_per_s={},
        scale_up_gpus=found.tp,
        scale_up_bytes_per_s=unknown,
        scale_out_bytes_per_s=unknown,
        gpus_per_node=found.tp,
        board_power_w=None,
    )
    model = Model(
        name=found.model,
        architecture="",
        num_hidden_layers=0,
        hidden_size=0,
        vocab_size=0,
        num_attention_heads=0,
        num_key_value_heads=0,
        head_dim=0,
        intermediate_size=0,
        max_position_embeddings=found.settings.max_model_len,
        tie_word_embeddings=False,
        weight_dtype=_dtype(found.weight_dtype),
        params=unknown,
        params_active=unknown,
    )
    return accelerator, model


def _dtype(name: str) -> Dtype:
    return name  # type: ignore[return-value] # the reader checked it


def endpoint_pool(
    source: str, model: Model, accelerator: Accelerator, *, replicas: int = 1, **settings: object
) -> Pool:
    """Return the endpoint that was measured as a pool.

    Args:
        source: the calibration's name or file.
        model: of that name, as the catalogue has it or `measured_nouns`.
        accelerator: likewise.
        replicas: equal ones.
        settings: of the engine, in place of those it ran with.

    Raises:
        InputError: there is no such calibration, or a setting goes beyond what was measured.
    """
    found = known_endpoint(source)
    set_to = replace(found.settings, **settings)  # type: ignore[arg-type] # names and types are the caller's
    if problem := beyond(set_to.max_num_seqs, set_to.max_num_batched_tokens, found):
        raise InputError(problem, place="settings", hint="measure more of it: `headway calibrate`")
    return Pool(
        name="main",
        model=model,
        accelerator=accelerator,
        engine=found.engine,
        engine_version=found.engine_version,
        settings=set_to,
        parallelism=Parallelism(tp=found.tp),
        weight_dtype=_dtype(found.weight_dtype),
        kv_dtype=_dtype(found.kv_dtype),
        replicas=replicas,
        calibration=str(find_calibration(source)),
    )


# --- bands ----------------------------------------------------------------------------------------------


def endpoint_band(
    found: EndpointCalibration, metric: str, percentile_frac: float | None, confidence_frac: float
) -> Band | None:
    """Return the error band of one figure of a calibrated endpoint, None where the calibration says nothing of bands.

    A latency's band is that of its percentiles below p90, and from p90 up no narrower than that of its tail. A metric
    without a band has the widest there is. Bands are given for 90 %; at another confidence each end's logarithm is
    scaled by the deviates of a normal distribution.
    """
    if not found.bands_frac:
        return None
    pairs = [pair for name, pair in found.bands_frac.items() if _is_of(name, metric, percentile_frac)]
    pairs = pairs or list(found.bands_frac.values())
    scale = NormalDist().inv_cdf((1 + confidence_frac) / 2) / NormalDist().inv_cdf((1 + _GIVEN_FRAC) / 2)
    return Band(
        low_frac=math.expm1(scale * _log(min(low for low, _ in pairs), -1)),
        high_frac=math.expm1(scale * _log(max(high for _, high in pairs), 1)),
        confidence_frac=confidence_frac,
        source=f"calibration {found.name} of {found.made}: {_counted(len(found.runs))} left out of the fit in turn",
    )


def _counted(runs: int) -> str:
    return f"{runs} run{'' if runs == 1 else 's'}"


def _is_of(name: str, metric: str, percentile_frac: float | None) -> bool:
    stem, _, percentile = name.partition(".p")
    tail = bool(percentile) and float(percentile) >= 100 * TAIL_FRAC
    return stem == metric and (not tail or (percentile_frac is not None and percentile_frac >= TAIL_FRAC))


def _log(frac: float, side: int) -> float:
    """Return the logarithm of an end, at least the prediction itself on its side."""
    log = math.log1p(frac) if frac > -1.0 else _LEAST_LOG
    return max(log, 0.0) if side > 0 else max(min(log, 0.0), _LEAST_LOG)


def leaves(found: EndpointCalibration, *, batch: float, context_tokens: float) -> Iterable[str]:
    """Walk what a simulation used of a calibration beyond what was measured."""
    for name, value, what in (("batch", batch, "sequences at once"), ("context", context_tokens, "tokens of context")):
        least, most = found.valid.get(name, (0.0, math.inf))
        if value > most * (1 + 1e-9):
            yield f"up to {value:,.0f} {what}: the calibration {found.name} saw {least:,.0f} to {most:,.0f}"
