"""Replays one row as what it was: the deployment, asked as the harness asked, on the simulator.

    found = replay(pools, load, seed=seed_of(row), fold=fold)
    found.figures["ttft_s"]["p50"], found.region

One replica is simulated with its share of the load; equal replicas do the same. A disaggregated deployment is two
simulations that wait for each other (`pairs`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from headway.errors import InfeasibleError
from headway.perf import calibration, lower
from headway.perf import replica as lowered
from headway.simulator import simulate
from headway.types import Replica
from headway.validation.figures import Figures, answers, figures
from headway.validation.loads import share
from headway.validation.regions import Occupancy, Region, occupancy, region

if TYPE_CHECKING:
    from headway.perf import Calibration
    from headway.types import Pool
    from headway.validation.loads import Load


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """What the simulator says of one row."""

    figures: Figures
    region: Region
    occupancy: Occupancy
    replica: Replica  # what the decodes ran on
    requests: int  # simulated
    gpus: int
    assumed: tuple[str, ...] = ()


def calibrated(pool: Pool, fold: int | None) -> Calibration:
    """Return the constants a row is predicted with: the one place where they are chosen.

    Args:
        pool: what is deployed.
        fold: constants fitted without this fold; None: with all rows, as `plan` and `simulate` use them.
    """
    del fold  # the stored constants were fitted on no row of a table
    return calibration(pool.accelerator, pool.engine)


def replay(pool: Pool, load: Load, *, seed: int, fold: int | None) -> Replay:
    """Replay a deployment of equal replicas that do both prefill and decode.

    Raises:
        InfeasibleError: the model cannot be spread that way.
        InputError: the simulator cannot run it.
    """
    one, assumed = ready(pool, load, fold)
    drawn = share(load, pool.replicas, pool.settings.max_num_seqs, seed)
    found = simulate(drawn.requests, one, concurrency=drawn.clients)
    became = answers(drawn, found, one)
    where = occupancy(became, load, found, one)
    return Replay(
        figures=figures(became, drawn, found, pool.replicas),
        region=region(where, one.step),
        occupancy=where,
        replica=one,
        requests=len(drawn.requests),
        gpus=pool.gpus,
        assumed=assumed,
    )


def ready(pool: Pool, load: Load, fold: int | None) -> tuple[Replica, tuple[str, ...]]:
    """Return one replica as the simulator takes it, and what had to be assumed.

    What was measured did fit. Where the memory model says otherwise, there is KV for one of the longest requests per
    client, and the row says so.
    """
    constants = calibrated(pool, fold)
    context = max(round(load.isl_tokens.mean + load.osl_tokens.mean / 2), 1)
    try:
        return lowered(pool, constants, context_tokens=context), ()
    except InfeasibleError as error:
        if error.binding != "hbm_bytes":
            raise
    longest = load.isl_tokens.high + load.osl_tokens.high
    sequences = min(load.concurrency or pool.settings.max_num_seqs, pool.settings.max_num_seqs)
    blocks = -(-longest // pool.settings.block_size) * max(sequences // pool.replicas, 1)
    one = Replica(
        settings=pool.settings,
        step=lower(pool, constants),
        num_gpu_blocks=blocks + 1,
        frontend_s=constants.frontend_s,
    )
    return one, ("KV for one of the longest requests per client: by the memory model it does not fit",)
