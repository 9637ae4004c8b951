"""How long one engine step takes and what fits in memory: pure functions of a `Pool`.

    step(pool, batch)   the reference: one step of a ragged batch, operator by operator (`headway estimate`)
    lower(pool)         the same as integer tables, for the simulator to jump over
    memory(pool)        weights, activations, graphs and KV blocks of one GPU, as vLLM computes them
    replica(pool)       both, as the simulator takes them
    calibration(…)      what is achieved of the datasheet, with provenance; applied(pool): with the curves a pool names
    band(…)             how far a figure may be off, learnt from published measurements
    read_calibration(…) what was fitted to one endpoint, by name: it stands in for all of these where a pool names it

Read from the bottom up: `formats` (bytes and compute formats of number formats), `shapes` (the matrices one GPU holds
after sharding), `curves` (what kernels achieve, as measured), `gemm`, `experts`, `attention`, `linear` and `links` (how
long each kind of kernel or exchange takes), `operators` (all of one step, for one batch or a column of batches),
`breakdown`, `lowering`; beside them `capacity` (memory), `constants` (calibration) and `bands`. The physics is a
roofline per operator, slowed to what was measured on that accelerator where anything was, else to achievable rates;
fixed times per kernel and layer; and a host that overlaps. Curves and constants are data in `data/`, each with its
source.

`endpoint` has the nouns of a calibrated endpoint, `endpoint_reader` and `endpoint_writer` its file, `endpoint_steps`
its step tables.

Speculation, adapters and draft models are not modelled here.
"""

from headway.perf.applied import PERFDB, applied, own_curves
from headway.perf.bands import band
from headway.perf.breakdown import Batch, StepBreakdown, step
from headway.perf.capacity import MemoryPlan, memory
from headway.perf.constants import Calibration, calibration
from headway.perf.endpoint import EndpointCalibration, StepTerms, term_names
from headway.perf.endpoint_pools import (
    beyond,
    endpoint_of,
    endpoint_pool,
    is_called,
    known_endpoint,
    leaves,
    measured_nouns,
    unlike,
)
from headway.perf.endpoint_reader import calibration_folders, find_calibration, read_calibration
from headway.perf.endpoint_steps import replica_of, step_table, terms_at
from headway.perf.endpoint_writer import write_calibration
from headway.perf.lowering import lower, replica
from headway.perf.operators import Operator

__all__ = [
    "PERFDB",
    "Batch",
    "Calibration",
    "EndpointCalibration",
    "MemoryPlan",
    "Operator",
    "StepBreakdown",
    "StepTerms",
    "applied",
    "band",
    "beyond",
    "calibration",
    "calibration_folders",
    "endpoint_of",
    "endpoint_pool",
    "find_calibration",
    "is_called",
    "known_endpoint",
    "leaves",
    "lower",
    "measured_nouns",
    "memory",
    "own_curves",
    "read_calibration",
    "replica",
    "replica_of",
    "step",
    "step_table",
    "term_names",
    "terms_at",
    "unlike",
    "write_calibration",
]
