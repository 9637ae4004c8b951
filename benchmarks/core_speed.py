"""How fast the simulator's core is, on one core.

    python benchmarks/core_speed.py

Every row is a process of its own: CPU seconds of `simulate` (the best of several), ns of CPU per request, what
happened, and the growth of the resident set beyond the given columns, at its peak. Load is relative to what a replica
carries when all requests are there at once.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time

import numpy as np

from headway.simulator import compiled, simulate
from headway.types import EngineSettings, PrefixRuns, Replica, Requests, StepTable

SETTINGS = EngineSettings(
    max_num_seqs=256, max_num_batched_tokens=8192, max_model_len=16384, gpu_memory_utilization=0.92
)
#: about an 8B model on an H100: 6 ms floor, 18 µs per prompt token, 10 µs per sequence, 40 ns per context token
STEP = StepTable(
    decode_ps=6_000_000_000 + 28_000_000 * np.arange(257),
    mixed_ps=6_000_000_000 + 18_000_000 * np.arange(8193),
    sequence_ps=10_000_000,
    context_ps_per_token=40_000,
    prefill_ps_per_pair=3,
)
REPLICA = Replica(settings=SETTINGS, step=STEP, num_gpu_blocks=30_000)

#: title, requests, replicas, load, kind of lengths, target in ns of CPU per request (0: none stated)
ROWS = [
    ("ISL 2000, OSL 300, one replica", 1_000_000, 1, 0.8, "fixed", 200),
    ("the same, lengths ± 50 %", 1_000_000, 1, 0.8, "spread", 0),
    ("the same, light load", 300_000, 1, 0.2, "spread", 0),
    ("32 replicas, least-outstanding", 1_000_000, 32, 0.8, "spread", 500),
    ("32 replicas, round-robin", 1_000_000, 32, 0.8, "spread", 0),
    ("one replica, 10^5 requests", 100_000, 1, 0.8, "spread", 0),
    ("one replica, 10^7 requests", 10_000_000, 1, 0.8, "spread", 0),
    ("overload with preemption", 100_000, 1, 1.5, "long outputs", 0),
    ("sessions of 20 turns, prefix cache", 100_000, 4, 0.5, "sessions", 0),
]


def lengths(kind: str, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    if kind == "spread":
        return rng.integers(1000, 3000, count), rng.integers(150, 450, count)
    if kind == "long outputs":
        return rng.integers(50, 150, count), rng.integers(500, 4000, count)
    if kind == "sessions":
        return 500 + 400 * (np.arange(count) % 20), np.full(count, 200)
    return np.full(count, 2000), np.full(count, 300)


def requests(kind: str, count: int, per_s: float) -> Requests:
    rng = np.random.default_rng(0)
    isl, osl = lengths(kind, count, rng)
    arrive_s = np.cumsum(rng.exponential(1 / per_s, count))
    if kind != "sessions":
        return Requests(arrive_s=arrive_s, isl_tokens=isl, osl_tokens=osl)
    # 64 sessions in turn; a turn repeats the one before, its output included, and adds to it
    turn = np.arange(count) // 64 % 20
    session = np.arange(count) // (64 * 20) * 64 + np.arange(count) % 64
    isl = 500 + 400 * turn
    prefix = PrefixRuns(
        block_tokens=16, offsets=np.arange(count + 1), first_ids=session * 1024, counts=(isl + osl) // 16
    )
    return Requests(arrive_s=arrive_s, isl_tokens=isl, osl_tokens=osl, prefix=prefix, session_id=session)


def carried_per_s(kind: str) -> float:
    burst = 5000
    isl, osl = lengths(kind, burst, np.random.default_rng(1))
    end_ps = simulate(Requests(arrive_s=np.zeros(burst), isl_tokens=isl, osl_tokens=osl), REPLICA).end_ps
    return burst / (end_ps * 1e-12)


def measure(index: int) -> dict[str, float]:
    title, count, replicas, load, kind, _ = ROWS[index]
    given = requests(kind, count, load * replicas * carried_per_s(kind))
    router = {"sessions": "session-affinity"}.get(kind, "round-robin" if "robin" in title else "least-outstanding")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cpu_s, wall_s, simulation = [], [], None
    for _ in range(3 if count > 2_000_000 else 5):
        simulation = None
        cpu, wall = time.thread_time(), time.perf_counter()
        simulation = simulate(given, REPLICA, replicas=replicas, router=router)
        cpu_s.append(time.thread_time() - cpu)
        wall_s.append(time.perf_counter() - wall)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    counters = simulation.counters
    return {
        "cpu_s": min(cpu_s),
        "wall_s": min(wall_s),
        "ns": 1e9 * min(cpu_s) / count,
        "steps": counters.steps / count,
        "gaps": sum(len(part.k) for part in simulation.gaps.parts) / count,
        "preemptions": counters.preemptions,
        "hit": counters.prefix_hit_tokens / given.isl_tokens.sum(),
        "bytes": 1024 * (peak - before) / count,
    }


def main() -> None:
    if len(sys.argv) == 2:
        print(json.dumps(measure(int(sys.argv[1]))))
        return
    print(f"core {'compiled' if compiled else 'interpreted'}")
    print(
        f"{'':36}{'requests':>10}{'CPU s':>8}{'wall s':>8}{'ns/request':>12}{'target':>8}"
        f"{'steps/r':>9}{'segments/r':>12}{'preempted':>11}{'hits':>7}{'B/r':>6}"
    )
    for index, (title, count, *_, target) in enumerate(ROWS):
        run = subprocess.run([sys.executable, __file__, str(index)], check=True, capture_output=True, text=True)
        row = json.loads(run.stdout)
        print(
            f"{title:36}{count:10}{row['cpu_s']:8.2f}{row['wall_s']:8.2f}{row['ns']:12.0f}{target or '':>8}"
            f"{row['steps']:9.1f}{row['gaps']:12.2f}{row['preemptions']:11.0f}{row['hit']:7.1%}{row['bytes']:6.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
