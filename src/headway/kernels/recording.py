"""Records what a device achieves: its ceilings first, which say what there is time for; then operator by operator."""

from __future__ import annotations

import datetime as dt
import math
import statistics
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Protocol

from headway.errors import EvidenceError
from headway.kernels import ops, reduce
from headway.kernels.collectives import all_reduce_timings
from headway.kernels.ops import Copy, Gemm, Reach
from headway.kernels.timing import settle
from headway.types import Provenance

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import TypeVar

    from headway.kernels.ops import Shape
    from headway.kernels.timing import Timing
    from headway.kernels.torch_bench import Device
    from headway.perf.curves import Curve
    from headway.types import Accelerator, Dtype

    #: Told what is timed, how many of its shapes are done, and how many there are.
    Progress = Callable[[str, int, int], None]
    #: Records curves in the seconds given.
    Step = Callable[[float], Mapping[str, Curve]]
    OneShape = TypeVar("OneShape", bound=Shape)

#: What the time left is shared out by, operator for operator.
_WEIGHTS = {"gemm": 2.0, "attention": 2.0, "all-reduce": 1.0}
_PLANNED_FRAC = 0.5  # of an operator's time, for the runs every shape needs: making operands takes time, repeats more
_CEILING_FRAC = 0.05  # of the budget, for memory and for each format
_COPY_BYTES = 2**28  # more than any cache holds
_SQUARES = (1024, 2048, 4096, 8192)
_ENOUGH_RUNS = 20  # a square of which fewer fit into its share of the budget is the last
_LONGEST_REASON = 200


class Bench(Protocol):
    """A device that times kernels (`torch_bench.TorchBench`)."""

    device: Device

    def sampler(self, shape: Shape) -> Callable[[], float]:
        """Prepare a kernel and return what times one run of it in seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CurveSummary:
    """One curve that was recorded."""

    name: str
    shapes: int  # timed for it
    error_median_frac: float | None  # on shapes left out of it
    error_p90_frac: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """What a device achieves."""

    device: Device
    accelerator: str  # the catalogue's entry whose datasheet the efficiencies are of
    as_of: str
    copied_bytes_per_s: float  # memory read and written by copying, together
    copied_frac: float  # of the datasheet's
    multiplied_flops_per_s: Mapping[Dtype, float]  # the best large square matrices reach, by format
    multiplied_frac: Mapping[Dtype, float]  # of the datasheet's, by format
    shapes: int
    timings: int  # repeats of all shapes together
    spread_median_frac: float  # distance of a shape's quartiles over its median, for the middle shape
    duration_s: float
    curves: tuple[CurveSummary, ...]
    skipped: Mapping[str, str]  # what was not recorded, and why
    measured: Mapping[str, Curve] = field(repr=False, metadata={"document": False})

    @property
    def origin(self) -> Provenance:
        """Who timed what, with which versions."""
        return origin(self.device, self.as_of)


def origin(device: Device, as_of: str) -> Provenance:
    """Return the provenance of curves recorded on a device."""
    driver = f", driver {device.driver}" if device.driver else ""
    return Provenance(
        source=f"headway calibrate ops on {device.name}{driver}, torch {device.torch_version}", as_of=as_of
    )


class Recorder:
    """Times shapes within a budget and keeps count.

    Args:
        bench: the device.
        accelerator: the catalogue's entry for it.
        budget_s: when to be done; the least repeats of what was begun are always taken.
        progress: told what is being timed.
        clock: tells seconds.
    """

    def __init__(
        self,
        bench: Bench,
        accelerator: Accelerator,
        budget_s: float,
        progress: Progress = lambda _what, _done, _of: None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.bench, self.accelerator, self.skipped = bench, accelerator, dict[str, str]()
        self.timings: list[Timing] = []
        self.progress, self._clock = progress, clock
        self._begun_s, self._budget_s = clock(), budget_s

    @property
    def spent_s(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._begun_s

    def share_s(self, share_frac: float) -> float:
        """Return this share of the time left."""
        return max(self._budget_s - self.spent_s, 0.0) * share_frac

    def times(self, what: str, shapes: Sequence[OneShape], share_s: float) -> list[tuple[OneShape, float]]:
        """Time shapes, each to its share of what is left when its turn comes.

        Args:
            what: they are, for people.
            shapes: all of them are timed.
            share_s: the time there is.
        """
        ends_s, found = self._clock() + share_s, []
        for index, shape in enumerate(shapes):
            self.progress(what, index, len(shapes))
            found.append((shape, self._timed_s(shape, ends_s, len(shapes) - index)))
        return found

    def some_times(
        self, what: str, shapes: Sequence[OneShape], share_s: float, least: int
    ) -> list[tuple[OneShape, float]]:
        """Time as many shapes as there is time for, passing over those that do not run here.

        Args:
            what: they are, for people.
            shapes: in the order to time them.
            share_s: the time there is.
            least: how many are timed even beyond it.

        Raises:
            RuntimeError: none runs; what the last one said.
        """
        ends_s, found, failure = self._clock() + share_s, [], None
        for index, shape in enumerate(shapes):
            if index >= least and self._clock() > ends_s:
                break
            self.progress(what, index, len(shapes))
            try:
                found.append((shape, self._timed_s(shape, ends_s, len(shapes) - index)))
            except RuntimeError as error:  # torch's, of a kernel it lacks or memory that does not suffice
                failure = error
        if failure and not found:
            raise failure
        return found

    def _timed_s(self, shape: Shape, ends_s: float, left: int) -> float:
        """Time one shape; its operands and its graph go with it."""
        sample = self.bench.sampler(shape)
        timing = settle(sample, budget_s=(ends_s - self._clock()) / left, clock=self._clock)
        self.timings.append(timing)
        return timing.median_s


def record(recorder: Recorder, gpus: int = 1) -> Recording:
    """Record the ceilings of a device and the curves of its operators.

    Args:
        recorder: times.
        gpus: how many devices of this kind reduce together; 1: no collectives.

    Raises:
        EvidenceError: nothing could be recorded.
    """
    device, as_of = recorder.bench.device, dt.datetime.now(tz=dt.UTC).date().isoformat()
    known = _ceilings(recorder, origin(device, as_of))
    steps: list[tuple[str, float, Step]] = [
        *((f"gemm {name}", _WEIGHTS["gemm"], partial(_gemm, known, name)) for name in known.flops_per_s),
        ("attention", _WEIGHTS["attention"], partial(_attention, known)),
    ]
    if gpus > 1:
        steps.append(("all-reduce", _WEIGHTS["all-reduce"], partial(_all_reduce, known, gpus)))
    measured = _measured(recorder, steps)
    accelerator, timings = recorder.accelerator, recorder.timings
    return Recording(
        device=device,
        accelerator=accelerator.name,
        as_of=as_of,
        copied_bytes_per_s=known.bytes_per_s,
        copied_frac=known.bytes_per_s / accelerator.hbm_bytes_per_s,
        multiplied_flops_per_s=known.flops_per_s,
        multiplied_frac={name: rate / accelerator.peak_flops_per_s[name] for name, rate in known.flops_per_s.items()},
        shapes=len(timings),
        timings=sum(timing.repeats for timing in timings),
        spread_median_frac=statistics.median(timing.spread_frac for timing in timings),
        duration_s=recorder.spent_s,
        curves=tuple(_summary(name, curve) for name, curve in sorted(measured.items())),
        skipped=recorder.skipped,
        measured=measured,
    )


# --- ceilings ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ceilings:
    recorder: Recorder
    origin: Provenance
    bytes_per_s: float
    flops_per_s: Mapping[Dtype, float]

    def reach(self, dtype: Dtype, budget_s: float) -> Reach:
        return Reach(
            flops_per_s=self.flops_per_s[dtype],
            bytes_per_s=self.bytes_per_s,
            memory_bytes=self.recorder.bench.device.memory_bytes,
            budget_s=_PLANNED_FRAC * budget_s,
        )


def _ceilings(recorder: Recorder, made: Provenance) -> _Ceilings:
    peaks = recorder.accelerator.peak_flops_per_s
    formats = [name for name in recorder.bench.device.formats if name in peaks]
    return _Ceilings(
        recorder=recorder,
        origin=made,
        bytes_per_s=_copied_bytes_per_s(recorder),
        flops_per_s={name: _multiplied_flops_per_s(recorder, name) for name in formats},
    )


def _copied_bytes_per_s(recorder: Recorder) -> float:
    [(shape, time_s)] = recorder.times("memory", [Copy(size_bytes=_COPY_BYTES)], recorder.share_s(_CEILING_FRAC))
    return shape.moved_bytes / time_s


def _multiplied_flops_per_s(recorder: Recorder, dtype: Dtype) -> float:
    best, share_s = 0.0, recorder.share_s(_CEILING_FRAC)
    for size in _SQUARES:
        square = Gemm(dtype=dtype, m=size, n=size, k=size)
        [(_, time_s)] = recorder.times(f"matrices {dtype}", [square], share_s / len(_SQUARES))
        best = max(best, square.flops / time_s)
        if time_s * _ENOUGH_RUNS > share_s:
            break
    return best


# --- operators ---------------------------------------------------------------------------------------------


def _measured(recorder: Recorder, steps: Sequence[tuple[str, float, Step]]) -> dict[str, Curve]:
    """Take the steps one after another; one that fails is skipped, and its reason kept."""
    measured: dict[str, Curve] = {}
    for index, (name, weight, step) in enumerate(steps):
        share_s = recorder.share_s(weight / math.fsum(later for _, later, _ in steps[index:]))
        try:
            measured |= step(share_s)
        except (EvidenceError, RuntimeError) as error:  # what torch raises for a kernel it cannot run
            recorder.skipped[name] = " ".join(str(error).split())[:_LONGEST_REASON]
    if not measured:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in recorder.skipped.items())
        raise EvidenceError(f"nothing could be recorded on {recorder.bench.device.name}: {reasons}")
    return measured


def _gemm(known: _Ceilings, dtype: Dtype, share_s: float) -> dict[str, Curve]:
    recorder, what = known.recorder, f"gemm {dtype}"
    axes, shapes = ops.gemms(dtype, known.reach(dtype, share_s))
    checks = ops.gemm_checks(dtype, axes)
    # in one go, so that both see the device in the same state
    timed = recorder.times(what, [*shapes, *checks], share_s)
    found = reduce.gemm_curve(recorder.accelerator, axes, timed[: len(shapes)], timed[len(shapes) :], known.origin)
    return {f"gemm/{recorder.accelerator.name}/{dtype}": found}


def _attention(known: _Ceilings, share_s: float) -> dict[str, Curve]:
    recorder, reach, half_s = known.recorder, known.reach("bf16", share_s), share_s / 2
    least = ops.LEAST_SHAPES
    decoded = recorder.some_times("decode attention", ops.decodes(reach), half_s, least * len(ops.GROUPS))
    prefilled = recorder.some_times("prefill attention", ops.prefills(reach), half_s, least)
    return reduce.attention_curves(recorder.accelerator, decoded, prefilled, known.origin)


def _all_reduce(known: _Ceilings, gpus: int, share_s: float) -> dict[str, Curve]:
    recorder, groups, times_s = known.recorder, ops.groups(gpus), {}
    for count in groups:
        messages = ops.messages(count)
        recorder.progress(f"all-reduce of {count}", 0, len(messages))
        timings = all_reduce_timings(recorder.bench.device.kind, count, messages, share_s / len(groups))
        recorder.timings += timings
        times_s[count] = [(size, timing.median_s) for size, timing in zip(messages, timings, strict=True)]
    found = reduce.all_reduce_curve(recorder.accelerator, times_s, known.origin)
    return {f"collectives/{recorder.accelerator.name}/all_reduce": found}


def _summary(name: str, curve: Curve) -> CurveSummary:
    return CurveSummary(
        name=name,
        shapes=curve.rows,
        error_median_frac=None if math.isnan(curve.error_median_frac) else curve.error_median_frac,
        error_p90_frac=None if math.isnan(curve.error_p90_frac) else curve.error_p90_frac,
    )
