"""headway's simulator on the same workload: the least CPU time of several runs, since one takes milliseconds.

What is timed: the columns of the requests, the step table, `simulate`; and beside it the percentiles of TTFT, TPOT,
E2E and (exact) ITL, which some peers cannot leave out. The CPU clock of the thread is read, since the process's is
coarser than what is timed.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
from common import cpu_s, say, workload

from headway.simulator import simulate
from headway.types import EngineSettings, Replica, Requests, StepTable

if TYPE_CHECKING:
    from collections.abc import Callable

    from headway.simulator import Simulation
    from headway.types import IntColumn

#: runs go on until so much CPU time is spent, and there are at least so many
REPEAT_S, REPEATS = 1.0, 5
PERCENTILES = (0.5, 0.75, 0.9, 0.95, 0.99)


def make_replica(given: dict[str, Any]) -> Replica:
    """A step costs step + token · T + context · C: the same for prompts and outputs."""
    engine, step_ns = given["engine"], given["step_ns"]
    per_step, per_token, per_context = (1000 * step_ns[name] for name in ("step", "token", "context"))
    settings = EngineSettings(
        max_num_seqs=engine["max_num_seqs"],
        max_num_batched_tokens=engine["max_num_batched_tokens"],
        max_model_len=engine["max_model_len"],
        block_size=engine["block_size"],
        gpu_memory_utilization=0.92,
        enable_prefix_caching=False,
        async_scheduling=False,
    )
    table = StepTable(
        decode_ps=per_step + per_token * np.arange(engine["max_num_seqs"] + 1),
        mixed_ps=per_step + per_token * np.arange(engine["max_num_batched_tokens"] + 1),
        context_ps_per_token=per_context,
        prefill_context_ps_per_token=per_context,
        prefill_ps_per_pair=0,
    )
    return Replica(settings=settings, step=table, num_gpu_blocks=engine["num_gpu_blocks"])


def percentiles(simulation: Simulation, osl: IntColumn) -> list[Any]:
    generation_ps = simulation.last_ps - simulation.first_ps
    columns = (
        simulation.first_ps - simulation.arrive_ps,
        simulation.last_ps - simulation.arrive_ps,
        generation_ps / np.maximum(1, osl - 1),
    )
    return [*(np.quantile(column, PERCENTILES) for column in columns), simulation.gaps.quantiles_ps(PERCENTILES)]


def least_s(timed: Callable[[], object]) -> float:
    """The least CPU seconds of several calls."""
    found: list[float] = []
    while len(found) < REPEATS or sum(found) < REPEAT_S:
        begun = time.thread_time()
        timed()
        found.append(time.thread_time() - begun)
    return min(found)


def main() -> None:
    given = workload()
    arrive_ns, isl, osl = (np.array(given[name], np.int64) for name in ("arrive_ns", "isl_tokens", "osl_tokens"))
    setup_s = cpu_s()

    def whole() -> Simulation:
        requests = Requests(arrive_s=arrive_ns * 1e-9, isl_tokens=isl, osl_tokens=osl)
        return simulate(requests, make_replica(given), replicas=given["replicas"], router="round-robin")

    simulation = whole()
    generation_ps = simulation.last_ps - simulation.first_ps
    say(
        {
            "setup_cpu_s": setup_s,
            "cpu_s": least_s(whole),
            "percentiles_cpu_s": least_s(lambda: percentiles(simulation, osl)),
            "steps": simulation.counters.steps,
            "preemptions": simulation.counters.preemptions,
            "makespan_s": float(simulation.last_ps.max() * 1e-12),
            "mean_ttft_s": float((simulation.first_ps - simulation.arrive_ps).mean() * 1e-12),
            "mean_tpot_s": float((generation_ps / np.maximum(1, osl - 1)).mean() * 1e-12),
        }
    )


if __name__ == "__main__":
    main()
