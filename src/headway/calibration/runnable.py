"""Whether the simulator can run what the server ran: settings that are not the server's show in what it answered."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from headway.errors import InputError
from headway.perf.endpoint import SCALARS, StepTerms
from headway.perf.endpoint_steps import step_table
from headway.simulator import FINISHED, simulate
from headway.types import Replica

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from headway.calibration.runs import Run
    from headway.types import BoolColumn, EngineSettings

#: Of requests that were drawn some may be longer than any that was sent.
_MOST_DRAWN_FRAC = 0.5
#: A step where no run tells how long one takes.
_STEP_S = 0.02


def check_runnable(runs: Sequence[Run], settings: EngineSettings, num_gpu_blocks: int) -> None:
    """Make sure that what was answered is answered under the settings too: who was not has no latency to compare.

    Args:
        runs: to fit to.
        settings: the engine's.
        num_gpu_blocks: its KV blocks.

    Raises:
        InputError: some of it is not; the run, its longest such request and the setting are named.
    """
    found = [lost for run in runs for lost in _lost(run, settings, num_gpu_blocks)]
    if not found:
        return
    worst = max(found, key=lambda lost: lost.isl_tokens + lost.osl_tokens)
    longest = worst.isl_tokens + worst.osl_tokens
    if longest > settings.max_model_len:
        limit, hint = f"max_model_len={settings.max_model_len}", f"--set max_model_len={longest} or more"
    elif not settings.enable_chunked_prefill and worst.isl_tokens > settings.max_num_batched_tokens:
        limit = f"max_num_batched_tokens={settings.max_num_batched_tokens} with chunked prefill off"
        hint = f"--set max_num_batched_tokens={worst.isl_tokens} or more"
    else:
        limit = f"num_gpu_blocks={num_gpu_blocks} of {settings.block_size} tokens"
        hint = "--set num_gpu_blocks=… as many as the server has"
    told = f"{worst.run}: a request of {worst.isl_tokens} + {worst.osl_tokens} tokens"
    raise InputError(f"{told} was {worst.which}, and cannot be under {limit}", place="--set", hint=hint)


class _Lost(NamedTuple):
    """The longest request of a run that is not answered in full under the settings."""

    run: str
    which: str  # `answered`, or `drawn`
    isl_tokens: int
    osl_tokens: int


def _lost(run: Run, settings: EngineSettings, num_gpu_blocks: int) -> Iterator[_Lost]:
    """Walk what is lost of a run: nothing, or its longest; of one that is drawn, of each draw that lost most of it."""
    if run.stated is None:
        lost = np.isfinite(run.ttft_s) & ~_in_full(run, settings, num_gpu_blocks)
        if lost.any():
            yield _longest(run, lost, "answered")
        return
    for requests in run.stated.draws:
        drawn = replace(run, requests=requests)
        lost = ~_in_full(drawn, settings, num_gpu_blocks)
        if lost[run.stated.skipped :].mean() > _MOST_DRAWN_FRAC:
            yield _longest(drawn, lost, "drawn")


def _longest(run: Run, lost: BoolColumn, which: str) -> _Lost:
    requests = run.requests
    at = int(np.where(lost, requests.isl_tokens + requests.osl_tokens, 0).argmax())
    return _Lost(run.name, which, int(requests.isl_tokens[at]), int(requests.osl_tokens[at]))


def _in_full(run: Run, settings: EngineSettings, num_gpu_blocks: int) -> BoolColumn:
    """Return which requests get all their tokens, at step times about as long as the run's."""
    gaps_s = run.tpot_s[np.isfinite(run.tpot_s) & (run.tpot_s > 0)]
    step_s = float(np.median(gaps_s)) if len(gaps_s) else _STEP_S
    terms = StepTerms(decode_s={1: step_s}, mixed_s={1: step_s}, **dict.fromkeys(SCALARS, 0.0))
    replica = Replica(settings=settings, step=step_table(terms, settings), num_gpu_blocks=num_gpu_blocks)
    found = simulate(run.requests, replica, concurrency=run.concurrency, turnaround_s=run.turnaround_s)
    whole: BoolColumn = (found.state == FINISHED) & (found.output_tokens == run.requests.osl_tokens)
    return whole
