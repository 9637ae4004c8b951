"""`calibrate ops`: what the user's own device achieves, recorded as calibration data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headway.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from headway.kernels import Device, Recording
    from headway.types import Accelerator

#: Seconds a recording takes unless told otherwise.
BUDGET_S = 180.0
_LEAST_BUDGET_S = 5.0
DEVICES = ("cuda", "cpu")


def calibrate_ops(
    file: str | Path,
    *,
    budget_s: float = BUDGET_S,
    device: str | None = None,
    accelerator: str | None = None,
    gpus: int | None = None,
    files: Iterable[str | Path] = (),
    progress: Callable[[str, int, int], None] = lambda _what, _done, _of: None,
) -> Recording:
    """Record how fast this machine's GPU (or CPU) runs the kernels that inference is made of.

    Matrix products in bf16 and, where the GPU has it, fp8; attention of decodes and of prompts; with several GPUs
    all-reduce; the ceilings of memory and matrices. What is written is read back by `curves=` of `estimate`, and by
    `calibration: {curves: FILE}` of a scenario. Needs PyTorch: the extra `torch`. With several GPUs it starts
    processes, so a script that calls it needs a main guard.

    Args:
        file: where to; ends in `.json`; it appears whole or not at all.
        budget_s: when to be done; every shape is timed a few times at least, so a slow device takes longer.
        device: `cuda` or `cpu`; a GPU where there is one if None.
        accelerator: the catalogue's entry whose datasheet it has; found by the device's name and memory if None.
        gpus: how many reduce together; all there are if None, 1 leaves collectives out.
        files: your own catalogue files.
        progress: told what is timed, how many of its shapes are done, and how many there are.

    Raises:
        InputError: torch is missing or sees no such device, the device is no entry of the catalogue, an argument is
            out of range, or the file cannot be written.
        EvidenceError: no kernel could be timed.
    """
    from headway.catalog import load
    from headway.kernels import Recorder, TorchBench, check_writable, record, write_recording

    _check(budget_s, device)
    check_writable(file)
    catalog = load(*files)
    bench = TorchBench(device)
    known = _named(bench.device, accelerator, catalog.accelerators, catalog.accelerator)
    found = record(Recorder(bench, known, budget_s, progress), _count(gpus, bench.device))
    write_recording(file, found)
    return found


def _named(
    device: Device, name: str | None, known: Iterable[Accelerator], find: Callable[[str], Accelerator]
) -> Accelerator:
    from headway.kernels import accelerator_of

    return accelerator_of(device, known) if name is None else find(name)


def _check(budget_s: float, device: str | None) -> None:
    if not budget_s >= _LEAST_BUDGET_S:
        raise InputError(f"expected at least {_LEAST_BUDGET_S:g} s, got {budget_s:g} s", place="--budget")
    if device not in (None, *DEVICES):
        raise InputError(f"unknown device {device!r}", place="--device", hint=f"known: {', '.join(DEVICES)}")


def _count(gpus: int | None, device: Device) -> int:
    """Return how many devices reduce together; processes on a CPU share it, so any number goes."""
    count = device.count if gpus is None else gpus
    if count < 1 or (device.kind == "cuda" and count > device.count):
        raise InputError(f"expected 1 to {device.count}, got {count}", place="--gpus")
    return count
