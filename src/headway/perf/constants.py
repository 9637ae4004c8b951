"""What is achieved of the datasheet: data with provenance, inherited by a visible rule.

`data/calibration.yaml` is a list of layers. A layer names whom it is for (an engine, a vendor, an accelerator, an
accelerator with an engine, or everybody) and sets some of the constants. For one deployment all layers that apply are
laid over each other from the general to the particular: everybody, engine, vendor, accelerator, accelerator with
engine. A mapping (by number format) is overlaid entry by entry.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headway.perf.corrections import NONE, Correction
from headway.reading import Node, read_yaml
from headway.types import Provenance

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headway.perf.curves import Curve
    from headway.types import Accelerator

_DATA = Path(__file__).parent / "data"


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Achievable fractions of the datasheet peaks, fixed times and overheads of one accelerator under one engine."""

    gemm_compute_frac: Mapping[str, float]  # by compute format: bf16, fp8, int8, fp4
    gemm_memory_frac: Mapping[str, float]  # by weight format
    gemm_fixed_s: float
    attention_memory_frac: Mapping[str, float]  # decode, by KV format
    attention_compute_frac: float  # decode
    prefill_attention_frac: float
    attention_fixed_s: float
    expert_compute_frac: float
    expert_memory_frac: float
    expert_fixed_s: float
    layer_fixed_s: float  # what the kernels above leave unexplained, per layer
    scale_up_frac: float
    scale_up_fixed_s: float
    scale_out_frac: float
    scale_out_fixed_s: float
    launch_layer_s: float  # time to launch one layer's kernels from the host where no CUDA graph is replayed
    sequence_fixed_s: float  # what each sequence adds to a step and nothing hides: sampling, output handling
    host_step_s: float  # scheduling and input preparation; hidden behind the GPU where scheduling is asynchronous
    frontend_s: float
    context_bytes: float  # held by the process beside weights, activations and KV, per GPU
    communicator_bytes: float  # the same for buffers of collectives, where there are any
    logit_bytes: float  # the sampler's working memory per entry of the logits
    graph_bytes: float  # of capturing CUDA graphs at all
    graph_layer_bytes: float  # of one captured CUDA graph, per layer
    provenance: Mapping[str, Provenance]  # by field name: the layer that decided it; by name, a curve of the user's own
    correction: Correction = NONE  # of whole steps, learnt from measurements of whole engines (`applied`)
    #: a user's own, which stand before ours (`curves.curve`)
    curves: Mapping[str, Curve] = field(default_factory=dict, metadata={"document": False})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    accelerators: tuple[str, ...]
    engine: str
    vendor: str
    values: Mapping[str, Any]
    provenance: Provenance

    @property
    def rank(self) -> int:
        """How particular: accelerator before vendor before engine."""
        return 4 * bool(self.accelerators) + 2 * bool(self.vendor) + bool(self.engine)

    def applies(self, accelerator: Accelerator, engine: str) -> bool:
        """Whether every key it names matches."""
        return (
            (not self.accelerators or accelerator.name in self.accelerators)
            and self.vendor in ("", accelerator.vendor.casefold())
            and self.engine in ("", engine)
        )


_MAPPINGS = ("gemm_compute_frac", "gemm_memory_frac", "attention_memory_frac")
_CONSTANTS = tuple(f.name for f in fields(Calibration) if f.name not in ("provenance", "curves", "correction"))


def _value(name: str, node: Node) -> object:
    if name in _MAPPINGS:
        return {key: child.quantity("frac", least=0.01, most=1.0) for key, child in node.entries().items()}
    if name.endswith("_frac"):
        return node.quantity("frac", least=0.01, most=1.0)
    return node.quantity("bytes" if name.endswith("_bytes") else "time", least=0.0)


def _layer(node: Node) -> _Layer:
    parts = node.entries({"for", "set", "source", "as_of", "note"})
    scope = parts["for"].entries({"accelerator", "engine", "vendor"}) if "for" in parts else {}
    values = {name: _value(name, child) for name, child in parts["set"].entries(_CONSTANTS).items()}
    return _Layer(
        accelerators=tuple(name.text() for name in scope["accelerator"].items()) if "accelerator" in scope else (),
        engine=scope["engine"].text() if "engine" in scope else "",
        vendor=scope["vendor"].text().casefold() if "vendor" in scope else "",
        values=values,
        provenance=Provenance(
            source=parts["source"].text(),
            as_of=parts["as_of"].text(),
            note=parts["note"].text() if "note" in parts else "",
        ),
    )


@cache
def _layers() -> tuple[_Layer, ...]:
    root = read_yaml(_DATA / "calibration.yaml").entries({"layers"})
    return tuple(sorted((_layer(node) for node in root["layers"].items()), key=lambda layer: layer.rank))


def calibration(accelerator: Accelerator, engine: str) -> Calibration:
    """Return the constants for one accelerator under one engine, each with the layer it was inherited from.

    Unknown accelerators and engines inherit from their vendor and from everybody; the provenance shows it.
    """
    values: dict[str, Any] = {}
    provenance: dict[str, Provenance] = {}
    for layer in _layers():
        if not layer.applies(accelerator, engine):
            continue
        for name, value in layer.values.items():
            values[name] = {**values.get(name, {}), **value} if name in _MAPPINGS else value
            provenance[name] = layer.provenance
    return Calibration(**values, provenance=provenance)
