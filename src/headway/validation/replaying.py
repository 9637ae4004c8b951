"""Replays a row as what it was: the deployment, asked as the harness asked, on the simulator.

    found = replay(configure(row, catalog), seed=seed_of(row.row), fold=row.fold)
    found.figures["ttft_s"]["p50"], found.region

One replica is simulated with its share of the load; equal replicas do the same. A disaggregated deployment is two
simulations that wait for each other (`pairs`).

Drafts (MTP, EAGLE) are a step that verifies all of them and yields the tokens accepted: `tokens_per_step` of them, as
the row's configuration assumes. Such a step computes 1 + k tokens of each sequence and, to draft, k more layers.

A static batch, and a single stream of llama-bench, are told phase by phase: TTFT is the prompt phase of the whole
batch, and output tokens per second are those of the decode phase.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from headway.errors import EvidenceError
from headway.perf import applied, lower
from headway.perf import replica as lowered
from headway.perf.bands import band_fold, band_named
from headway.perf.corrections import NONE, Correction
from headway.simulator import simulate
from headway.validation.figures import Figures, answers, figures
from headway.validation.loads import Share, share
from headway.validation.pairs import Paired, balance, decoding, joined
from headway.validation.regions import Occupancy, occupancy, region

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headway.perf import Calibration
    from headway.perf.regions import Region
    from headway.types import Pool, Replica, Speculation
    from headway.validation.configuration import Configured
    from headway.validation.loads import Load


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """What the simulator says of one row."""

    figures: Figures
    region: Region
    occupancy: Occupancy  # of a replica that decodes
    pools: tuple[Pool, ...]  # as replayed: their workers counted
    assumed: tuple[str, ...] = ()  # beyond the configuration's assumptions


def calibrated(pool: Pool, fold: int | None, nudge: Correction = NONE) -> Calibration:
    """Return the constants a row is predicted with: the one place where they are chosen.

    Args:
        pool: what is deployed.
        fold: constants fitted without this fold; None: with all rows, as `plan` and `simulate` use them.
        nudge: a correction on top, to learn what a figure depends on.
    """
    return applied(pool, fold, nudge)


def banded(row: Configured, metric: str, where: Region, group: Sequence[str]) -> tuple[float, float] | None:
    """Return the edges of a figure's band as fractions of the prediction: the one place where a row's band is chosen.

    Args:
        row: what was deployed and asked.
        metric: as a scorecard names it.
        where: on the load curve.
        group: the row's; its band is of residuals of other groups.

    Returns:
        (low, high): the truth lies in value · (1 + low) … value · (1 + high); None where no residuals are known.
    """
    try:
        found = band_named(metric, row.pool, region=where, fold=band_fold(group), unclear=row.is_unclear)
    except EvidenceError:
        return None
    return found.low_frac, found.high_frac


def replay(row: Configured, *, seed: int, fold: int | None, nudge: Correction = NONE) -> Replay:
    """Replay a row.

    Args:
        row: what was deployed and asked.
        seed: of what is drawn.
        fold: constants fitted without it.
        nudge: a correction on top of the fitted one.

    Raises:
        InfeasibleError: the model cannot be spread that way, or no request could be served.
        InputError: the simulator cannot run it.
    """
    load = row.load
    ones = [ready(pool, load, row.speculation, fold, nudge) for pool in row.pools]
    paired = _paired(row, ones, seed) if len(row.pools) > 1 else None
    pools = paired.pools if paired else row.pools
    pool, one = pools[-1], ones[-1]
    running = decoding(one, load) if paired else one
    drawn = _drawn(load, pool, row.speculation, seed)
    wait_s = paired.wait_s if paired else 0.0
    found = simulate(drawn.requests, running, concurrency=drawn.clients, turnaround_s=wait_s if drawn.clients else 0.0)
    became = answers(drawn, found, running)
    where = occupancy(became, load, found, running)
    known = figures(became, drawn, found, pool.replicas)
    return Replay(
        figures=_as_told(joined(known, paired) if paired else known, row),
        region=region(where, one.step),
        occupancy=where,
        pools=pools,
        assumed=paired.assumed if paired else (),
    )


def ready(pool: Pool, load: Load, drafts: Speculation | None, fold: int | None, nudge: Correction = NONE) -> Replica:
    """Return one replica as the simulator takes it; drafts change how long its steps take.

    Raises:
        InfeasibleError: the model cannot be spread that way.
    """
    constants = calibrated(pool, fold, nudge)
    context = max(round(load.isl_tokens.mean + load.osl_tokens.mean / 2), 1)
    one = lowered(pool, constants, context_tokens=context)
    if drafts is None:
        return one
    width = 1 + drafts.num_speculative_tokens
    seats, tokens = pool.settings.max_num_seqs * width, pool.settings.max_num_batched_tokens
    graphs = tuple(size * width for size in pool.settings.cuda_graph_sizes)  # captured by sequences
    wide = replace(
        pool.settings, max_num_seqs=seats, max_num_batched_tokens=max(seats, tokens), cuda_graph_sizes=graphs
    )
    step = lower(replace(pool, settings=wide), constants)
    layers = 1 + drafts.num_speculative_tokens / pool.model.num_hidden_layers
    longer = context / max(load.isl_tokens.mean + load.osl_tokens.mean / tokens_per_step(drafts) / 2, 1)
    return replace(
        one,
        step=replace(
            one.step,
            decode_ps=(step.decode_ps[::width] * layers).astype(step.decode_ps.dtype),
            context_ps_per_token=round(step.context_ps_per_token * longer),
        ),
        num_gpu_blocks=int(one.num_gpu_blocks / longer),
    )


def tokens_per_step(drafts: Speculation | None) -> float:
    """Return the tokens a verification yields on average: the accepted drafts and one of its own."""
    return 1.0 if drafts is None else 1 + sum(drafts.accepted) / len(drafts.accepted)


def _drawn(load: Load, pool: Pool, drafts: Speculation | None, seed: int) -> Share:
    drawn = share(load, pool.replicas, pool.settings.max_num_seqs, seed)
    if drafts is None:
        return drawn
    steps = (drawn.requests.osl_tokens / tokens_per_step(drafts)).round().astype("int64").clip(min=1)
    return replace(drawn, requests=replace(drawn.requests, osl_tokens=steps), tokens_per_step=tokens_per_step(drafts))


def _paired(row: Configured, ones: list[Replica], seed: int) -> Paired:
    counted = all(one.code != "workers_unknown" for one in row.assumptions)
    return balance(row.pools, ones, row.load, seed=seed, counted=counted, speed=tokens_per_step(row.speculation))


def _as_told(known: Figures, row: Configured) -> Figures:
    """Return figures as the row tells them: of one GPU, or phase by phase."""
    told = dict(known)
    if row.static_batch:
        told["ttft_s"] = dict.fromkeys(known["ttft_s"], known["ttft_s"]["max"])
        told["output_tokens_per_s"] = {"mean": (row.load.concurrency or 1) / known["tpot_s"]["p50"]}
    if row.per_gpu:
        for metric in ("output_tokens_per_s", "total_tokens_per_s"):
            told[metric] = {"mean": known[metric]["mean"] / row.gpus}
    return told
