"""How far a figure may be off: bands learnt from the residuals of published measurements, by region.

`data/bands.yaml` holds, by metric and region, the 5th and 95th percentile of measured / predicted − 1. The most
particular region that matches is taken: accelerator with engine, accelerator, vendor, everybody.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from headway.errors import EvidenceError, nearest
from headway.reading import Node, read_yaml
from headway.types import Band

if TYPE_CHECKING:
    from headway.types import Accelerator

_FILE = Path(__file__).parent / "data" / "bands.yaml"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Region:
    metric: str
    accelerator: str
    engine: str
    vendor: str
    experts: bool
    band: Band

    @property
    def rank(self) -> int:
        """How particular: accelerator before vendor before engine."""
        return 4 * bool(self.accelerator) + 2 * bool(self.vendor) + bool(self.engine)


def band(metric: str, accelerator: Accelerator, engine: str, *, experts: bool = False) -> Band:
    """Return the error band of one metric: `ttft`, `tpot`, `itl`, `e2e` or `output_tokens_per_s`.

    Args:
        metric: what is shown.
        accelerator: what it runs on.
        engine: the engine's name.
        experts: whether the model routes tokens to experts (`Model.is_moe`); its bands are wider.

    Raises:
        EvidenceError: no residuals are known for that metric.
    """
    known = _regions()
    found = [
        region
        for region in known
        if region.metric == metric
        and region.experts == experts
        and region.accelerator in ("", accelerator.name)
        and region.vendor in ("", accelerator.vendor.casefold())
        and region.engine in ("", engine)
    ]
    if not found:
        raise EvidenceError(f"no error band for {metric!r} ({nearest(metric, {region.metric for region in known})})")
    return max(found, key=lambda region: region.rank).band


@cache
def _regions() -> tuple[_Region, ...]:
    root = read_yaml(_FILE).entries({"confidence", "bands"})
    confidence = root["confidence"].quantity("frac", least=0.5, most=1.0)
    return tuple(_region(node, confidence) for node in root["bands"].items())


def _region(node: Node, confidence: float) -> _Region:
    parts = node.entries({"metric", "for", "experts", "low", "high", "source"})
    scope = parts["for"].entries({"accelerator", "engine", "vendor"}) if "for" in parts else {}
    names = {name: child.text() for name, child in scope.items()}
    return _Region(
        metric=parts["metric"].text(),
        accelerator=names.get("accelerator", ""),
        engine=names.get("engine", ""),
        vendor=names.get("vendor", ""),
        experts=parts["experts"].flag(),
        band=Band(
            low_frac=parts["low"].quantity("frac", least=-1.0, most=0.0),
            high_frac=parts["high"].quantity("frac", least=0.0),
            confidence_frac=confidence,
            source=parts["source"].text(),
        ),
    )
