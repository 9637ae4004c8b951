"""What real hardware does, measured: kernels timed on the user's own device become calibration data.

    TorchBench(kind)             one device, ready to time kernels: the only module that touches torch
    accelerator_of(device, …)    which entry of the catalogue it is
    record(Recorder(…), …)       ceilings, then curves operator by operator, within a budget
    write_recording(path, …)     the file that `perf.curves` reads

Read from the bottom up: `timing` (when a median is known well enough), `ops` (which shapes, cut to what the device has
time and memory for), `torch_bench` and `collectives` (kernels and clocks), `reduce` (timings to curves, against the
rooflines of `perf`), `recording`. Everything but the two modules of kernels runs without torch.
"""

from headway.kernels.files import check_writable, write_recording
from headway.kernels.naming import accelerator_of
from headway.kernels.recording import CurveSummary, Recorder, Recording, record
from headway.kernels.torch_bench import Device, TorchBench

__all__ = [
    "CurveSummary",
    "Device",
    "Recorder",
    "Recording",
    "TorchBench",
    "accelerator_of",
    "check_writable",
    "record",
    "write_recording",
]
