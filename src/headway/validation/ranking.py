"""What the figures are for and what they are up against: is the better of two called, and how well can one know.

Ranking: of two rows of the same publication, model, lengths and way of asking whose output tokens per second and GPU
differ by more than `APART_FRAC`, is the one the replay says is better the better one? Hardware, engine, version,
parallelism and precision may differ, as may the load; `same_load` counts only pairs asked the same. A row that could
not be predicted is never called right. Closed-loop rows that give no throughput have it by Little's law:
concurrency · OSL / (TTFT + (OSL − 1) · TPOT), on either side. Rows whose number of GPUs is unknown are left out.

Noise: rows that agree in all that is asked and deployed were measured again, mostly on another day; their spread is
what no model can go below.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from headway.validation.measurements import source_family

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

    from headway.validation.measurements import Measurement
    from headway.validation.scoring import RowScore

#: Two configurations nearer than this are equally good.
APART_FRAC = 0.1
#: Metrics whose spread is reported.
_NOISY = ("ttft_s", "tpot_s", "output_tokens_per_s")
#: What may differ between the notes of rows that are the same configuration: the day.
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PairScore:
    """Pairs of configurations that are more than 10 % apart, and how often the better one is called."""

    pairs: int
    called_frac: float | None  # None where there are no pairs


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """Whether the better of two measured configurations is called."""

    any_load: PairScore  # the same publication, model, lengths and mode
    same_load: PairScore  # and asked with the same concurrency or rate


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseFloor:
    """By how much configurations differ that were measured again: (largest − smallest) / mean."""

    configurations: int  # measured at least twice
    p50_frac: float
    p75_frac: float
    p90_frac: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ranked:
    measured: float  # output tokens per second and GPU
    predicted: float  # NaN: not predicted


def rank(measurements: Sequence[Measurement], rows: Sequence[RowScore]) -> Ranking:
    """Score how often the better of two is called.

    Args:
        measurements: the rows of the table.
        rows: each replayed, in the same order.
    """
    return Ranking(
        any_load=_pairs(measurements, rows, _asked),
        same_load=_pairs(measurements, rows, lambda one: (*_asked(one), one.concurrency, one.request_rate_per_s)),
    )


def _asked(one: Measurement) -> tuple[Hashable, ...]:
    return (source_family(one.source), one.model, one.isl_tokens, one.osl_tokens, one.mode)


def _pairs(
    measurements: Sequence[Measurement],
    rows: Sequence[RowScore],
    key: Callable[[Measurement], Hashable],
) -> PairScore:
    members: dict[Hashable, list[_Ranked]] = {}
    for one, row in zip(measurements, rows, strict=True):
        ranked = _ranked(one, row)
        if ranked is not None:
            members.setdefault(key(one), []).append(ranked)
    counts = [_called(group) for group in members.values() if len(group) > 1]
    pairs, called = (sum(column) for column in zip(*counts, strict=True)) if counts else (0, 0)
    return PairScore(pairs=pairs, called_frac=called / pairs if pairs else None)


def _ranked(one: Measurement, row: RowScore) -> _Ranked | None:
    measured, gpus = throughput(one, one.measured), row.gpus
    if measured is None or not gpus:
        return None
    predicted = throughput(one, row.predicted)
    return _Ranked(measured=measured / gpus, predicted=float("nan") if predicted is None else predicted / gpus)


def throughput(one: Measurement, figures: Mapping[str, Mapping[str, float]]) -> float | None:
    """Return output tokens per second: as given, or by Little's law in a closed loop; None where neither is known."""
    given = figures.get("output_tokens_per_s", {}).get("mean")
    if given or one.mode != "concurrency" or one.concurrency is None or one.osl_tokens is None:
        return given or None
    ttft_s, tpot_s = (_usual(figures.get(metric, {})) for metric in ("ttft_s", "tpot_s"))
    if ttft_s is None or tpot_s is None:
        return None
    lasted_s = ttft_s + (one.osl_tokens.mean - 1) * tpot_s
    return one.concurrency * one.osl_tokens.mean / lasted_s if lasted_s > 0 else None


def _usual(statistics: Mapping[str, float]) -> float | None:
    return statistics.get("p50", statistics.get("mean"))


def _called(group: Sequence[_Ranked]) -> tuple[int, int]:
    """Return (pairs apart, of them called right) among rows asked the same."""
    import numpy as np

    measured, predicted = (np.array([getattr(one, name) for one in group]) for name in ("measured", "predicted"))
    better = measured[:, None] > measured[None, :] * (1 + APART_FRAC)
    with np.errstate(invalid="ignore"):
        called = better & (predicted[:, None] > predicted[None, :])
    return int(better.sum()), int(called.sum())


# --- noise ----------------------------------------------------------------------------------------------


def noise(measurements: Iterable[Measurement]) -> dict[str, NoiseFloor]:
    """Return how far rows of the same configuration and load lie apart, by metric."""
    again: dict[Hashable, list[Measurement]] = {}
    for one in measurements:
        if one.gpus is not None:  # otherwise pools of unknown size may differ
            again.setdefault(_configuration(one), []).append(one)
    found = {metric: _spreads([group for group in again.values() if len(group) > 1], metric) for metric in _NOISY}
    return {metric: spread for metric, spreads in found.items() if (spread := _spread(spreads)) is not None}


def _configuration(one: Measurement) -> tuple[Hashable, ...]:
    deployed = (one.model, one.hardware, one.engine, one.engine_version, one.gpus, one.tp, one.pp, one.ep, one.dp)
    formats = (one.weight_dtype, one.kv_dtype, one.features)
    load = (one.isl_tokens, one.osl_tokens, one.mode, one.concurrency, one.request_rate_per_s)
    return (source_family(one.source), *deployed, *formats, *load, _DATE.sub("", one.note))


def _spreads(groups: Iterable[Sequence[Measurement]], metric: str) -> list[float]:
    found = []
    for group in groups:
        # one place states one run: a second figure from it is of something else that the table does not tell apart
        runs = {one.source: one for one in group}.values()
        values = [value for one in runs if (value := one.value(metric))]
        if len(values) > 1:
            found.append((max(values) - min(values)) * len(values) / sum(values))
    return found


def _spread(spreads: Sequence[float]) -> NoiseFloor | None:
    import numpy as np

    if not spreads:
        return None
    p50, p75, p90 = np.quantile(spreads, (0.5, 0.75, 0.9)).tolist()
    return NoiseFloor(configurations=len(spreads), p50_frac=p50, p75_frac=p75, p90_frac=p90)
