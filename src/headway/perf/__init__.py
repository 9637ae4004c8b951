"""How long one engine step takes, and what fits in memory: pure functions of a `Pool`."""

from headway.perf.calibration import Calibration, calibration
from headway.perf.lowering import lower, replica
from headway.perf.memory import MemoryPlan, memory
from headway.perf.operators import Operator
from headway.perf.step import Batch, StepBreakdown, step

__all__ = ["Batch", "Calibration", "MemoryPlan", "Operator", "StepBreakdown", "calibration", "lower", "memory", "replica", "step"]
