"""All-reduce between the devices of one machine, timed: one process for each, started for the purpose.

Every process must take part in every call, so how often a size repeats is agreed before: from the slowest first call of
all. What is sent are zeros, as sums of anything else would overflow.
"""

from __future__ import annotations

import datetime as dt
import json
import math
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headway.errors import EvidenceError
from headway.kernels.timing import LEAST_REPEATS, timing
from headway.kernels.torch_bench import clocked, graphed, load_torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headway.kernels.timing import Timing

_BF16_BYTES = 2
_REPEATS = 30
_CALLS = 16  # of one graph: as many in every process
_BACKENDS = {"cuda": "nccl", "cpu": "gloo"}
_START_S = 120.0  # processes and libraries need to start


def all_reduce_timings(kind: str, gpus: int, message_bytes: Sequence[int], budget_s: float) -> list[Timing]:
    """Time all-reduce among the first devices of a machine, one timing for each size of message.

    Args:
        kind: cuda or cpu.
        gpus: how many take part.
        message_bytes: what each of them contributes.
        budget_s: what all sizes together may take, the start of the processes left out.

    Raises:
        EvidenceError: the processes failed, or did not come to an end.
    """
    torch = load_torch()
    with tempfile.TemporaryDirectory() as folder:
        arguments = (gpus, kind, message_bytes, budget_s / len(message_bytes), folder)
        started = torch.multiprocessing.spawn(_take_part, arguments, nprocs=gpus, join=False)
        _wait(started, time.monotonic() + _START_S + 3 * budget_s)
        samples = json.loads((Path(folder) / "samples.json").read_text(encoding="utf-8"))
    return [timing(found) for found in samples]


def _wait(started: Any, ends_s: float) -> None:
    try:
        while not started.join(timeout=1.0):
            if time.monotonic() > ends_s:
                raise EvidenceError("the processes of an all-reduce did not come to an end")
    except RuntimeError as error:
        raise EvidenceError(f"all-reduce failed: {str(error).strip().splitlines()[-1]}") from None
    finally:
        for process in started.processes:
            process.kill()


def _take_part(rank: int, gpus: int, kind: str, message_bytes: Sequence[int], share_s: float, folder: str) -> None:
    """Be one of the processes; the first writes down its samples."""
    torch = load_torch()
    device = torch.device(kind, rank) if kind == "cuda" else torch.device(kind)
    if kind == "cuda":
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(1)
    torch.distributed.init_process_group(
        _BACKENDS[kind],
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=gpus,
        timeout=dt.timedelta(seconds=_START_S),
    )
    samples = [_samples(torch, device, size, share_s) for size in message_bytes]
    if rank == 0:
        (Path(folder) / "samples.json").write_text(json.dumps(samples), encoding="utf-8")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def _samples(torch: Any, device: Any, size_bytes: int, share_s: float) -> Sequence[float]:
    message = torch.zeros(size_bytes // _BF16_BYTES, dtype=torch.bfloat16, device=device)
    calls = [lambda: torch.distributed.all_reduce(message)]
    sample = graphed(torch, calls, _CALLS) if device.type == "cuda" else clocked(calls, 1)
    once = torch.tensor([sample()], dtype=torch.float64, device=device)
    torch.distributed.all_reduce(once, op=torch.distributed.ReduceOp.MAX)
    repeats = min(max(math.floor(share_s / float(once)), LEAST_REPEATS), _REPEATS)
    return [sample() for _ in range(repeats)]
