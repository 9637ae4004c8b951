"""How long one engine step takes and what fits in memory: pure functions of a `Pool`.

    step(pool, batch)   the reference: one step of a ragged batch, operator by operator (`headway estimate`)
    lower(pool)         the same as integer tables, for the simulator to jump over
    memory(pool)        weights, activations, graphs and KV blocks of one GPU, as vLLM computes them
    replica(pool)       both, as the simulator takes them
    calibration(…)      what is achieved of the datasheet, with provenance; applied(pool): with the curves a pool names
    band(…)             how far a figure may be off, learnt from published measurements

Read from the bottom up: `formats` (bytes and compute formats of number formats), `shapes` (the matrices one GPU holds
after sharding), `curves` (what kernels achieve, as measured), `gemm`, `experts`, `attention`, `linear` and `links` (how
long each kind of kernel or exchange takes), `operators` (all of one step, for one batch or a column of batches),
`breakdown`, `lowering`; beside them `capacity` (memory), `constants` (calibration) and `bands`. The physics is a
roofline per operator, slowed to what was measured on that accelerator where anything was, else to achievable rates;
fixed times per kernel and layer; and a host that overlaps. Curves and constants are data in `data/`, each with its
source.

Speculation, adapters and draft models are not modelled here.
"""

from headway.perf.applied import PERFDB, applied, own_curves
from headway.perf.bands import band
from headway.perf.breakdown import Batch, StepBreakdown, step
from headway.perf.capacity import MemoryPlan, memory
from headway.perf.constants import Calibration, calibration
from headway.perf.lowering import lower, replica
from headway.perf.operators import Operator

__all__ = [
    "PERFDB",
    "Batch",
    "Calibration",
    "MemoryPlan",
    "Operator",
    "StepBreakdown",
    "applied",
    "band",
    "calibration",
    "lower",
    "memory",
    "own_curves",
    "replica",
    "step",
]
