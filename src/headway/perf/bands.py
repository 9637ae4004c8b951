"""How far a figure may be off: intervals learnt from predictions of measurements that no fit had seen.

`data/bands.json` (`tools/fit_bands.py`) holds quantiles of log(measured / predicted) by cell. A cell is what a
deployment has in common with others that were measured, from the particular to the general:

    metric × kind of serving × what was measured of its like × load region
    metric × kind of serving × load region
    metric × kind of serving × what was measured of its like
    metric × kind of serving
    metric

Prefill and decode together and apart are kinds of serving of their own, and so is an engine before it was rebuilt
(`corrections.era`): what prototypes did in 2023 says little of today's. Measurements that do not say what was
deployed or asked (`validation.configuration.UNCLEAR`) are a kind apart: their errors are theirs. The most particular
cell that has enough residuals of enough groups decides. What was measured (`Likeness`): this model on this
accelerator under this engine; the accelerator under the engine; the accelerator; or nothing of it.

Two things hold by construction: a band is no narrower than that of a deployment of which more was measured, and none
narrower than that of the same deployment under less load (`REGIONS`). A percentile from p90 up has residuals of its own
and is no narrower than its metric. Every band holds the prediction itself.

Six sets are stored: of all groups, and five more, each without one fold of the groups: a row's band is of a set that
never saw its group (`band_fold`).
"""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Literal

from headway.errors import EvidenceError, InputError, nearest
from headway.perf.corrections import era, group_name, shape
from headway.perf.endpoint_pools import endpoint_band, endpoint_of
from headway.perf.regions import REGIONS
from headway.types import TAIL_FRAC, Band

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from headway.perf.regions import Region
    from headway.types import Pool

_FILE = Path(__file__).parent / "data" / "bands.json"

#: What was measured of a deployment's kind, from the most to the least.
Likeness = Literal["this deployment", "accelerator and engine", "accelerator", "nothing alike"]
LIKENESSES: tuple[Likeness, ...] = ("this deployment", "accelerator and engine", "accelerator", "nothing alike")

#: What a band holds of the measurements unless asked otherwise.
CONFIDENCE_FRAC = 0.9
#: The largest one-sided confidence that stored quantiles reach.
MOST_CONFIDENCE_FRAC = 0.975


def kin(pool: Pool) -> tuple[str, str, str]:
    """Return what a deployment is known by: as a whole, its accelerator under its engine, its accelerator."""
    accelerator, engine = pool.accelerator.name, era(pool.engine, pool.engine_version)
    return f"{shape(pool.model)} | {accelerator} | {engine}", f"{accelerator} | {engine}", accelerator


def serving_of(pool: Pool, *, unclear: bool = False) -> str:
    """Return the kind of serving: prefill and decode `together`, `apart`, an `earlier` engine, or `unclear`."""
    if unclear:
        return "unclear"
    if era(pool.engine, pool.engine_version) != pool.engine:
        return "earlier"
    return "together" if pool.role == "mixed" else "apart"


def cells(metric: str, likeness: str, region: str | None, serving: str) -> tuple[str, ...]:
    """Return the names of the cells, the most particular first."""
    of_serving = f"{metric} | {serving}"
    alike = f"{of_serving} | {likeness}"
    if region is None:
        return alike, of_serving, metric
    return f"{alike} | {region}", f"{of_serving} | any | {region}", alike, of_serving, metric


def figure_of(name: str) -> tuple[str, float | None]:
    """Return metric and percentile by the name a scorecard has for a figure: `ttft_p99_s` → `ttft`, 0.99."""
    if name.endswith("_per_s"):
        return name, None
    metric, _, percentile = name.removesuffix("_s").partition("_p")
    return metric, float(percentile) / 100 if percentile else None


def kind_of(metric: str, percentile_frac: float | None) -> str:
    """Return what residuals of a figure are kept under: its metric, or `METRIC tail` from `TAIL_FRAC` up."""
    return f"{metric} tail" if percentile_frac is not None and percentile_frac >= TAIL_FRAC else metric


def likeness_of(pool: Pool, fold: int | None = None) -> Likeness:
    """Return what was measured of a deployment's kind, one fold's groups left out."""
    if pool.calibration:
        return LIKENESSES[0]
    measured: Mapping[str, str] = stored()["measured"]
    for name, key in zip(LIKENESSES, kin(pool), strict=False):
        if any(at != str(fold) for at in measured.get(key, "")):
            return name
    return LIKENESSES[-1]


def band_fold(group: Sequence[str]) -> int | None:
    """Return the fold whose bands left the group out; None where no band saw it: then those of all are fair."""
    fold: int | None = stored()["groups"].get(group_name(group))
    return fold


def band(
    metric: str,
    pool: Pool,
    *,
    percentile_frac: float | None = None,
    region: Region | None = None,
    fold: int | None = None,
    confidence_frac: float = CONFIDENCE_FRAC,
    unclear: bool = False,
) -> Band:
    """Return the error band of one figure: the truth lies in it for a share `confidence_frac` of measurements.

    A pool that names a calibrated endpoint has the bands of that calibration, where it has any.

    Args:
        metric: `ttft`, `tpot`, `itl`, `e2e`, `output_tokens_per_s`, `requests_per_s` or `total_tokens_per_s`.
        pool: what is deployed.
        percentile_frac: of a latency; from `TAIL_FRAC` up the band is that of the tail.
        region: of the load, where known; a figure of unknown load has the band of all loads.
        fold: leave this fold's groups out (`band_fold`); None: of all groups.
        confidence_frac: 0 < … ≤ 0.95; the ends leave out as much each.
        unclear: a measurement that leaves open what was deployed or asked.

    Raises:
        EvidenceError: no residuals are known for that metric.
        InputError: no quantiles are stored for that confidence.
    """
    endpoint = endpoint_of(pool)
    own = endpoint and endpoint_band(endpoint, metric, percentile_frac, confidence_frac)
    if own:
        return own
    known = _known(fold)
    if metric not in known:
        metrics = [name for name in known if "|" not in name and "tail" not in name]
        raise EvidenceError(f"no error band for {metric!r} ({nearest(metric, metrics)})")
    names = [name for name in dict.fromkeys((metric, kind_of(metric, percentile_frac))) if name in known]
    likeness = likeness_of(pool, fold)
    serving = serving_of(pool, unclear=unclear)
    found = [edges for name in names for edges in _no_wider(known, name, likeness, region, serving)]
    upper = (1 + confidence_frac) / 2
    low = min(_at(edges["low"], upper) for _, edges in found)
    high = max(_at(edges["high"], upper) for _, edges in found)
    source = _source(*_cell(known, names[-1], likeness, region, serving))
    return Band(
        low_frac=math.expm1(min(low, 0.0)),
        high_frac=math.expm1(max(high, 0.0)),
        confidence_frac=confidence_frac,
        source=source,
    )


def band_named(
    name: str, pool: Pool, *, region: Region | None = None, fold: int | None = None, unclear: bool = False
) -> Band:
    """Return the band of a figure by the name a scorecard has for it, such as `ttft_p99_s`.

    Raises:
        EvidenceError: no residuals are known for that metric.
    """
    metric, percentile_frac = figure_of(name)
    return band(metric, pool, percentile_frac=percentile_frac, region=region, fold=fold, unclear=unclear)


def _no_wider(
    known: Mapping[str, Any], metric: str, likeness: Likeness, region: Region | None, serving: str
) -> Iterator[tuple[str, Any]]:
    """Walk the cells that a band may not be narrower than: where more was measured, under no more load; itself last."""
    loads = (None,) if region is None else REGIONS[: REGIONS.index(region) + 1]
    for load in loads:
        for alike in LIKENESSES[: LIKENESSES.index(likeness) + 1]:
            yield _cell(known, metric, alike, load, serving)


def _cell(known: Mapping[str, Any], metric: str, likeness: str, region: str | None, serving: str) -> tuple[str, Any]:
    return next((name, known[name]) for name in cells(metric, likeness, region, serving) if name in known)


def _at(edge: Sequence[float], upper_frac: float) -> float:
    """Return an edge at a one-sided confidence: between those stored, straight over the normal deviate; 0 at a half."""
    shares: list[float] = [(1 + c) / 2 for c in stored()["confidences"]]
    if not 0.5 <= upper_frac <= shares[-1] + 1e-9:
        raise InputError(f"no band of {100 * upper_frac:.4g} % on one side", hint=f"at most {100 * shares[-1]:g} %")
    deviates = [0.0, *(NormalDist().inv_cdf(share) for share in shares)]
    at, values = NormalDist().inv_cdf(min(upper_frac, shares[-1])), [0.0, *edge]
    right = next(i for i, deviate in enumerate(deviates) if deviate >= at - 1e-12 and i)
    share = (at - deviates[right - 1]) / (deviates[right] - deviates[right - 1])
    return values[right - 1] + share * (values[right] - values[right - 1])


def _source(name: str, found: Any) -> str:
    metric, *where = name.split(" | ")
    about = ", ".join(where) or "all"
    return f"{found['rows']:,} rows in {found['groups']} groups ({metric}: {about})"


@cache
def _known(fold: int | None) -> dict[str, Any]:
    """Return the cells of one set: name -> {"rows", "groups", "low": one per confidence, "high": likewise}."""
    found = stored()["sets"]["all" if fold is None else str(fold)]
    width = len(stored()["confidences"])
    return {
        name: {"rows": rows, "groups": groups, "low": edges[:width], "high": edges[width:]}
        for name, (rows, groups, *edges) in found.items()
    }


@cache
def stored() -> dict[str, Any]:
    """Return the stored bands: {"confidences", "groups": {group_name: fold}, "measured": {key: folds}, "sets", …}."""
    found: dict[str, Any] = json.loads(_FILE.read_text(encoding="utf-8"))
    return found


def unsafe_frac(metric: str, pool: Pool, confidence_frac: float, *, percentile_frac: float, region: Region) -> float:
    """Return by how much a latency may exceed its prediction: with that confidence, on one side, it is no more.

    At one half and below it is 0: the prediction itself.

    Raises:
        InputError: no quantiles are stored for that confidence.
    """
    if confidence_frac <= 0.5:
        return 0.0
    two_sided = 2 * confidence_frac - 1
    return band(metric, pool, percentile_frac=percentile_frac, region=region, confidence_frac=two_sided).high_frac
