"""headway's simulator on the same workload: the least CPU time of several runs, since one takes milliseconds.

What is timed: the columns of the requests, the step table, `simulate`. The CPU clock of the thread is read, since
the process's has no more than microseconds.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from common import cpu_s, say, workload

from headway.simulator import simulate
from headway.types import EngineSettings, Replica, Requests, StepTable

#: runs go on until so much CPU time is spent, and there are at least so many
REPEAT_S, REPEATS = 1.0, 3


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


def main() -> None:
    given = workload()
    arrive_ns, isl, osl = (np.array(given[name], np.int64) for name in ("arrive_ns", "isl_tokens", "osl_tokens"))
    setup_s, cpus_s, walls_s = cpu_s(), [], []
    while len(cpus_s) < REPEATS or sum(cpus_s) < REPEAT_S:
        cpu, wall = time.thread_time(), time.perf_counter()
        requests = Requests(arrive_s=arrive_ns * 1e-9, isl_tokens=isl, osl_tokens=osl)
        simulation = simulate(requests, make_replica(given), replicas=given["replicas"], router="round-robin")
        cpus_s.append(time.thread_time() - cpu)
        walls_s.append(time.perf_counter() - wall)
    generation_ps = simulation.last_ps - simulation.first_ps
    say(
        {
            "setup_cpu_s": setup_s,
            "cpu_s": min(cpus_s),
            "wall_s": min(walls_s),
            "steps": simulation.counters.steps,
            "preemptions": simulation.counters.preemptions,
            "makespan_s": float(simulation.last_ps.max() * 1e-12),
            "mean_ttft_s": float((simulation.first_ps - simulation.arrive_ps).mean() * 1e-12),
            "mean_tpot_s": float((generation_ps / np.maximum(1, osl - 1)).mean() * 1e-12),
            "busy_frac": float(simulation.counters.busy_ps.mean() / simulation.end_ps),
        }
    )


if __name__ == "__main__":
    main()
