"""How fast the simulator's jump core is, on one core.

    python benchmarks/core_speed.py [WORDS OF TITLES]

Every row is a process of its own: CPU seconds of `simulate` (the best of several), ns of CPU per request, what
happened, and the growth of the resident set beyond the given columns, at its peak (as Linux counts it). Load is
relative to what the replicas carry when all requests are there at once.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from headway.simulator import compiled, simulate
from headway.types import EngineSettings, PrefixRuns, Replica, Requests, StepTable


@dataclass(frozen=True)
class Case:
    title: str
    requests: int = 1_000_000
    replicas: int = 1
    load: float = 0.8
    kind: str = "fixed"  # of lengths, see `lengths`
    seqs: int = 256
    blocks: int = 30_000
    router: str = "least-outstanding"
    features: frozenset[str] = frozenset()  # ahead, priority, hashes, stops
    target_ns: int = 0  # 0: none stated


ALL_ON = frozenset({"ahead", "priority", "hashes"})
BATCHES = (4, 64, 1024, 16384)
SESSIONS = {"kind": "sessions", "replicas": 4, "load": 0.5, "router": "session-affinity"}
CASES = [
    Case("ISL 2000, OSL 300, one replica", target_ns=200),
    Case("the same, lengths ± 50 %", kind="spread"),
    Case("the same, light load", kind="spread", requests=300_000, load=0.2),
    Case("asynchronous", features=frozenset({"ahead"})),
    Case("asynchronous, stop tokens", features=frozenset({"ahead", "stops"})),
    Case("prefix hashes", features=frozenset({"hashes"})),
    Case("priorities", features=frozenset({"priority"})),
    Case("hashes, priorities, asynchronous", features=ALL_ON, target_ns=1000),
    Case("the same, lengths ± 50 %, 64 replicas", kind="spread", replicas=64, features=ALL_ON),
    Case("sessions of 20 turns, prefix cache", **SESSIONS),
    Case("the same, asynchronous", **SESSIONS, features=frozenset({"ahead"})),
    Case("overload with preemption", 200_000, load=1.5, kind="long outputs"),
    Case("the same, priorities, asynchronous", 200_000, load=1.5, kind="long outputs", features=ALL_ON),
    *(Case(f"max_num_seqs {n}", 300_000, kind="decodes", seqs=n, blocks=150 * n) for n in BATCHES),
    *(
        Case(f"max_num_seqs {n}, all on", 300_000, kind="decodes", seqs=n, blocks=150 * n, features=ALL_ON)
        for n in BATCHES
    ),
    *(Case(f"{n} replicas, least-outstanding", kind="spread", replicas=n) for n in (1, 16, 256)),
    *(Case(f"{n} replicas, round-robin", kind="spread", replicas=n, router="round-robin") for n in (1, 16, 256)),
    *(Case(f"10^{n} requests", 10**n, kind="spread") for n in (5, 6, 7)),
]


def lengths(kind: str, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    if kind == "spread":
        return rng.integers(1000, 3000, count), rng.integers(150, 450, count)
    if kind == "decodes":  # prompts so short that thousands of sequences decode at once
        return rng.integers(10, 30, count), rng.integers(750, 2250, count)
    if kind == "long outputs":
        return rng.integers(50, 150, count), rng.integers(500, 4000, count)
    if kind == "sessions":
        return 500 + 400 * (np.arange(count) % 20), np.full(count, 200)
    return np.full(count, 2000), np.full(count, 300)


def requests(case: Case, per_s: float) -> Requests:
    rng, count = np.random.default_rng(0), case.requests
    isl, osl = lengths(case.kind, count, rng)
    arrive_s = np.cumsum(rng.exponential(1 / per_s, count))
    prefix = session = None
    if case.kind == "sessions":
        # 64 sessions in turn; a turn repeats the one before, its output included, and adds to it
        turn = np.arange(count) // 64 % 20
        session = np.arange(count) // (64 * 20) * 64 + np.arange(count) % 64
        isl = 500 + 400 * turn
        prefix = runs(session * 1024, (isl + osl) // 16)
    elif "hashes" in case.features:
        prefix = system_prompts(rng, isl, osl)
    return Requests(
        arrive_s=arrive_s,
        isl_tokens=isl,
        osl_tokens=osl,
        prefix=prefix,
        session_id=session,
        priority=rng.integers(0, 3, count) if "priority" in case.features else None,
        max_tokens=osl + 1 if "stops" in case.features else None,
    )


def runs(first_ids: np.ndarray, counts: np.ndarray) -> PrefixRuns:
    return PrefixRuns(block_tokens=16, offsets=np.arange(len(counts) + 1), first_ids=first_ids, counts=counts)


def system_prompts(rng: np.random.Generator, isl: np.ndarray, osl: np.ndarray) -> PrefixRuns:
    """One of 50 system prompts of up to 30 blocks or half the prompt, then blocks of its own, the output's too."""
    count, blocks = len(isl), (isl + osl) // 16
    prompt = rng.integers(0, 50, count)
    shared = np.minimum(isl // 32, prompt % 30 + 1)
    own = 100_000 + 1024 * np.arange(count)
    return PrefixRuns(
        block_tokens=16,
        offsets=2 * np.arange(count + 1),
        first_ids=np.column_stack([prompt * 100, own]).ravel(),
        counts=np.column_stack([shared, blocks - shared]).ravel(),
    )


def replica(case: Case) -> Replica:
    """About an 8B model on an H100: 6 ms floor, 18 µs per prompt token, 10 µs per sequence, 40 ns per context token."""
    budget = max(8192, case.seqs)
    settings = EngineSettings(
        max_num_seqs=case.seqs,
        max_num_batched_tokens=budget,
        max_model_len=16384,
        gpu_memory_utilization=0.92,
        async_scheduling="ahead" in case.features,
        scheduling_policy="priority" if "priority" in case.features else "fcfs",
    )
    step = StepTable(
        decode_ps=6_000_000_000 + 28_000_000 * np.arange(case.seqs + 1),
        mixed_ps=6_000_000_000 + 18_000_000 * np.arange(budget + 1),
        sequence_ps=10_000_000,
        context_ps_per_token=40_000,
        prefill_ps_per_pair=3,
    )
    return Replica(settings=settings, step=step, num_gpu_blocks=case.blocks)


def carried_per_s(case: Case) -> float:
    burst = max(5000, 8 * case.seqs)
    isl, osl = lengths(case.kind, burst, np.random.default_rng(1))
    given = Requests(arrive_s=np.zeros(burst), isl_tokens=isl, osl_tokens=osl)
    return burst / (simulate(given, replica(case)).end_ps * 1e-12)


def resident_kib(which: str) -> int:
    """Return the resident set now (VmRSS) or at its peak (VmHWM)."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split(which + ":")[1].split()[0])


def measure(case: Case) -> dict[str, float]:
    given, one = requests(case, case.load * case.replicas * carried_per_s(case)), replica(case)
    ctypes.CDLL(None).malloc_trim(0)  # give back what making the columns left free
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # and forget its peak
    before_kib = resident_kib("VmRSS")
    cpu_s, wall_s, simulation = [], [], None
    for _ in range(3 if case.requests > 2_000_000 else 5):
        simulation = None
        cpu, wall = time.thread_time(), time.perf_counter()
        simulation = simulate(given, one, replicas=case.replicas, router=case.router)
        cpu_s.append(time.thread_time() - cpu)
        wall_s.append(time.perf_counter() - wall)
        peak_kib = resident_kib("VmHWM")
    counters, count = simulation.counters, case.requests
    stay_ps = (simulation.last_ps - simulation.first_ps).sum(dtype=float)
    return {
        "cpu_s": min(cpu_s),
        "wall_s": min(wall_s),
        "ns": 1e9 * min(cpu_s) / count,
        "batch": stay_ps / counters.busy_ps.sum(),
        "steps": counters.steps / count,
        "gaps": sum(len(part.k) for part in simulation.gaps.parts) / count,
        "preemptions": counters.preemptions,
        "hit": counters.prefix_hit_tokens / given.isl_tokens.sum(),
        "bytes": 1024 * (peak_kib - before_kib) / count,
    }


def main() -> None:
    if sys.argv[1:2] == ["--row"]:
        print(json.dumps(measure(CASES[int(sys.argv[2])])))
        return
    words = " ".join(sys.argv[1:])
    print(f"core {'compiled' if compiled else 'interpreted'}")
    print(
        f"{'':40}{'requests':>10}{'CPU s':>8}{'wall s':>8}{'ns/request':>12}{'target':>8}{'batch':>8}"
        f"{'steps/r':>9}{'segments/r':>12}{'preempted':>11}{'hits':>7}{'B/r':>6}"
    )
    for index, case in enumerate(CASES):
        if words not in case.title:
            continue
        command = [sys.executable, __file__, "--row", str(index)]
        row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(
            f"{case.title:40}{case.requests:10}{row['cpu_s']:8.2f}{row['wall_s']:8.2f}{row['ns']:12.0f}"
            f"{case.target_ns or '':>8}{row['batch']:8.0f}{row['steps']:9.1f}{row['gaps']:12.2f}"
            f"{row['preemptions']:11.0f}{row['hit']:7.1%}{row['bytes']:6.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
