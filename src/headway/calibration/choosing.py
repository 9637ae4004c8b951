"""A setting that no server tells and every latency shows: whether steps are scheduled asynchronously.

vLLM schedules the step after next while one runs, unless its platform cannot (its CPU build turns that off without a
word). A request then waits for a whole step more before its first. Where nobody said which, both are fitted and the
likelier is kept.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from headway.calibration.fitting import fit

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from headway.calibration.fitting import Fit
    from headway.calibration.runs import Run
    from headway.types import EngineSettings

#: The engine that may be either; the others' policies have one way only.
ENGINE = "vllm"
#: A default gives way to what is likelier by more than another start of the fit would be: real runs of vLLM moved by up
#: to 40 with that (log-likelihood), and told which it was by 300 to 600.
_LEAST_GAIN = 50.0


def likelier(
    runs: Sequence[Run],
    settings: EngineSettings,
    num_gpu_blocks: int,
    *,
    progress: Callable[[int, int], None] = lambda _done, _of: None,
) -> tuple[EngineSettings, Fit, str]:
    """Fit with and without asynchronous scheduling; return settings, fit, and in words what told them.

    Args:
        runs: of one endpoint.
        settings: its scheduler's, with the default of what is in doubt.
        num_gpu_blocks: its KV blocks.
        progress: as `fit` has it.

    Raises:
        EvidenceError: there are no runs.
    """
    usual = fit(runs, settings, num_gpu_blocks, progress=progress)
    changed = replace(settings, async_scheduling=not settings.async_scheduling)
    other = fit(runs, changed, num_gpu_blocks, progress=progress)
    gain = usual.loss - other.loss
    if gain > _LEAST_GAIN:
        return changed, other, f"{changed.async_scheduling}: the runs fit it better (log-likelihood +{gain:.0f})"
    if gain < -_LEAST_GAIN:
        return settings, usual, f"{settings.async_scheduling}: the runs fit it better (log-likelihood +{-gain:.0f})"
    return settings, usual, f"{settings.async_scheduling}: the default; the runs fit either"
