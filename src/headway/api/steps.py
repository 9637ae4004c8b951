"""`estimate`: where one engine step's time goes, and where the memory goes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from headway.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from headway.api.pools import Choice
    from headway.perf import Calibration, MemoryPlan, StepBreakdown
    from headway.types import Band, Belief, Pool


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """One step of one replica, in closed form."""

    source: Belief
    pool: Pool
    decodes: int
    context_tokens: int  # of each decode, before the step
    chunks: tuple[tuple[int, int], ...]  # (new, already computed) tokens of each prefill chunk
    step: StepBreakdown  # of one GPU
    memory: MemoryPlan  # of one GPU
    calibration: Calibration
    achieved_flops_frac: float  # of the GPU's peak in the weights' compute format, over the step
    achieved_bytes_frac: float  # of the HBM's peak, over the step
    output_tokens_per_s: float  # of the replica, if every step were this one
    band: Band  # of the step's time
    output_tokens_per_s_band: Band


def estimate(
    scenario: str | Path | None = None,
    choice: Choice | None = None,
    *,
    decodes: int = 64,
    context_tokens: int = 2000,
    chunks: Sequence[tuple[int, int]] = (),
    files: Iterable[str | Path] = (),
) -> Estimate:
    """Estimate one engine step: time, FLOPs and bytes by operator, and the memory plan.

    Args:
        scenario: where model, accelerator, engine and settings come from unless chosen.
        choice: what the replica is made of.
        decodes: sequences that decode in the step.
        context_tokens: what each of them has in KV before the step.
        chunks: prefill chunks, each (new tokens, tokens already computed).
        files: your own catalogue files; with a scenario, its own are read instead.

    Raises:
        InputError: a name is unknown, something is left open, or the step has no tokens or too many.
        InfeasibleError: the model does not fit, or cannot be spread that way; what is missing is said.
    """
    from headway.api.pools import Choice, build_pool
    from headway.catalog import load
    from headway.perf import Batch, applied, band, memory, step
    from headway.scenario import read_scenario

    known = read_scenario(scenario) if scenario is not None else None
    catalog = known.catalog if known else load(*files)
    pool = build_pool(choice or Choice(), catalog=catalog, scenario=known)
    if pool.calibration:
        raise InputError(
            "a calibrated endpoint has no operators to show", place="calibration", hint="`headway simulate` takes it"
        )
    _check_batch(pool, decodes, context_tokens, chunks)
    constants = applied(pool)
    found = step(pool, Batch.of([context_tokens] * decodes, chunks), constants)
    return Estimate(
        source="estimated",
        pool=pool,
        decodes=decodes,
        context_tokens=context_tokens,
        chunks=tuple((new, computed) for new, computed in chunks),
        step=found,
        memory=memory(pool, constants),
        calibration=constants,
        achieved_flops_frac=found.flops / found.total_s / _peak_flops_per_s(pool),
        achieved_bytes_frac=found.moved_bytes / found.total_s / pool.accelerator.hbm_bytes_per_s,
        output_tokens_per_s=decodes / found.total_s,
        band=band("tpot" if decodes else "ttft", pool),
        output_tokens_per_s_band=band("output_tokens_per_s", pool),
    )


def _peak_flops_per_s(pool: Pool) -> float:
    from headway.perf.formats import compute_format

    peaks = pool.accelerator.peak_flops_per_s
    return peaks[compute_format(pool.weight_dtype, pool.accelerator)]


def _check_batch(pool: Pool, decodes: int, context_tokens: int, chunks: Sequence[tuple[int, int]]) -> None:
    """Refuse what no scheduler would put into one step of this engine."""
    settings = pool.settings
    tokens, sequences = decodes + sum(new for new, _ in chunks), decodes + len(chunks)
    if decodes < 0 or context_tokens < 1 or any(new < 1 or computed < 0 for new, computed in chunks) or not sequences:
        raise InputError("expected decodes or prefill chunks with at least one token each", place="batch")
    longest = max([context_tokens + 1 if decodes else 0, *(new + computed for new, computed in chunks)])
    for value, name in ((sequences, "max_num_seqs"), (tokens, "max_num_batched_tokens"), (longest, "max_model_len")):
        if value > getattr(settings, name):
            problem = f"the step needs {value:,}, {pool.engine} resolves {getattr(settings, name):,}"
            raise InputError(problem, place=name, hint=f"raise it with --set {name}={value}")
