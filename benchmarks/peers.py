"""Headway's simulator beside its peers: the same requests, the same step times, the same machine, one run.

    python benchmarks/peers.py [--peers dynamo,blis,vidur,vidur-trained,vllm] [--quick] [--json] [--program blis=FILE]

Each peer runs in an environment and a process of its own; a round is the peer and then headway, and the least CPU
seconds (user + system) of some rounds count. Imports and reading the workload are not in them. A second table holds
what both computed from the same step time, step + token · T + context · C over T tokens scheduled and C computed
before: where the policies are the same, so are the figures. The last column of the first adds to headway's time
that of the percentiles of TTFT, TPOT, E2E and ITL, which dynamo.replay and BLIS cannot leave out.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from peer_environments import DRIVERS, PEERS, QUIET, UnavailableError, command, last_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

#: about an 8B model on an H100: 480,000 tokens of KV; 6 ms a step, 18 µs a token, 40 ns a token of context
ENGINE = {
    "max_num_seqs": 256,
    "max_num_batched_tokens": 8192,
    "max_model_len": 16384,
    "block_size": 16,
    "num_gpu_blocks": 30_000,
}
STEP_NS = {"step": 6_000_000, "token": 18_000, "context": 40}
BURST = 5000  # requests that are there at once, to see what a replica carries
ROUNDS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """Poisson arrivals and lengths evenly spread by half their mean."""

    requests: int
    isl_tokens: int  # mean
    osl_tokens: int  # mean
    load: float  # of what the replicas carry when all requests are there at once; 0: they are
    replicas: int = 1

    def __str__(self) -> str:
        lengths = f"{self.isl_tokens}/{self.osl_tokens}"
        load = f"at {self.load:.0%}" if self.load else "all at once"
        return f"{lengths} {load}" + (f", {self.replicas} workers" if self.replicas > 1 else "")


PLAIN = Trace(requests=2000, isl_tokens=2000, osl_tokens=300, load=0.8)
BURSTY = Trace(requests=2000, isl_tokens=2000, osl_tokens=300, load=0.0)
#: trace, peer, and how many times its requests per CPU second headway is to reach
CASES: list[tuple[Trace, str, int]] = [
    (Trace(requests=20_000, isl_tokens=1000, osl_tokens=220, load=0.8), "dynamo", 100),
    (Trace(requests=10_000, isl_tokens=1000, osl_tokens=2200, load=0.8), "dynamo", 1000),
    (Trace(requests=4_000, isl_tokens=1000, osl_tokens=8000, load=0.8), "dynamo", 3000),
    (Trace(requests=20_000, isl_tokens=1000, osl_tokens=220, load=0.8, replicas=8), "dynamo", 100),
    (PLAIN, "dynamo", 100),
    (PLAIN, "blis", 300),
    (PLAIN, "vidur", 3000),
    (PLAIN, "vidur-trained", 3000),
    (PLAIN, "vllm", 4000),
    (BURSTY, "dynamo", 100),
    (BURSTY, "blis", 300),
    (BURSTY, "vllm", 4000),  # not Vidur: an assertion of its own fails at the first preemption
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A peer and headway on one trace; `skipped` says why where there is nothing else."""

    peer: str
    trace: str
    requests: int
    target: int
    theirs: Mapping[str, float] | None = None
    ours: Mapping[str, float] | None = None
    skipped: str = ""

    def per_s(self, who: Mapping[str, float]) -> float:
        """Requests per CPU second."""
        return self.requests / who["cpu_s"]

    def ratio(self, *, percentiles: bool = False) -> float:
        """How many times the peer's requests per CPU second headway's are; its percentiles counted if asked."""
        if self.theirs is None or self.ours is None:
            return 0.0
        return self.theirs["cpu_s"] / (self.ours["cpu_s"] + percentiles * self.ours["percentiles_cpu_s"])


def lengths(trace: Trace, count: int, rng: np.random.Generator) -> dict[str, list[int]]:
    means = {"isl_tokens": trace.isl_tokens, "osl_tokens": trace.osl_tokens}
    return {name: rng.integers(mean // 2, mean * 3 // 2, count).tolist() for name, mean in means.items()}


def workload(trace: Trace, carried_per_s: float) -> dict[str, Any]:
    """The file that every driver reads; times are whole nanoseconds. A load of 0 needs no rate."""
    rng = np.random.default_rng(0)
    gaps_ns = np.zeros(trace.requests)
    if trace.load:
        gaps_ns = rng.exponential(1e9 / (trace.load * trace.replicas * carried_per_s), trace.requests)
    return {
        "engine": ENGINE,
        "step_ns": STEP_NS,
        "replicas": trace.replicas,
        "arrive_ns": np.cumsum(gaps_ns).astype(np.int64).tolist(),
        **lengths(trace, trace.requests, rng),
    }


def run(arguments: list[str], given: dict[str, Any], environment: Mapping[str, str]) -> dict[str, float]:
    """One driver on one workload, in its own process.

    Raises:
        UnavailableError: it failed; the message is the last thing it said.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "workload.json"
        file.write_text(json.dumps(given), encoding="utf-8")
        interpreter, driver, *rest = arguments
        done = subprocess.run(
            [interpreter, driver, str(file), *rest],
            capture_output=True,
            text=True,
            check=False,
            cwd=folder,
            env=os.environ | QUIET | environment,
        )
    if done.returncode:
        raise UnavailableError(last_line(done.stderr) or f"ended with {done.returncode}")
    return dict(json.loads(last_line(done.stdout)))


def headway(given: dict[str, Any]) -> dict[str, float]:
    try:
        return run([sys.executable, str(DRIVERS / "headway_core.py")], given, {})
    except UnavailableError as reason:
        raise SystemExit(f"headway itself failed: {reason}") from None


def carried_per_s(trace: Trace) -> float:
    """Requests per second that one replica carries when all are there at once."""
    if not trace.load:
        return 0.0
    burst = Trace(requests=BURST, isl_tokens=trace.isl_tokens, osl_tokens=trace.osl_tokens, load=0.0)
    return BURST / headway(workload(burst, 0.0))["makespan_s"]


def least(answers: Iterable[dict[str, float]]) -> dict[str, float]:
    """The answer of the round that took the least CPU time."""
    return min(answers, key=lambda answer: answer["cpu_s"])


def measure(case: tuple[Trace, str, int], rounds: int, programs: Mapping[str, str]) -> Row:
    trace, name, target = case
    peer = PEERS[name]
    row = {"peer": peer.title, "trace": str(trace), "requests": trace.requests, "target": target}
    print(f"{peer.title}: {trace}", file=sys.stderr, flush=True)
    try:
        arguments = [*command(peer, programs), *peer.arguments]
        given = workload(trace, carried_per_s(trace))
        pairs = [(run(arguments, given, peer.environment), headway(given)) for _ in range(rounds)]
    except UnavailableError as reason:
        return Row(**row, skipped=str(reason))
    theirs, ours = zip(*pairs, strict=True)
    return Row(**row, theirs=least(theirs), ours=least(ours))


def speed_table(rows: list[Row]) -> str:
    head = f"{'peer':40}{'trace':29}{'requests':>9}{'setup s':>9}{'CPU s':>8}{'/CPU s':>8}"
    lines = [head + f"{'headway: s':>12}{'/CPU s':>12}{'ratio':>9}{'target':>9}{'+ quantiles':>13}"]
    for row in rows:
        line = f"{row.peer:40}{row.trace:29}{row.requests:9}"
        if row.skipped or row.theirs is None or row.ours is None:
            lines.append(f"{line}  skipped: {row.skipped}")
            continue
        line += f"{row.theirs['setup_cpu_s']:9.2f}{row.theirs['cpu_s']:8.2f}{row.per_s(row.theirs):8,.0f}"
        line += f"{row.ours['cpu_s']:12.6f}{row.per_s(row.ours):12,.0f}"
        line += f"{f'{row.ratio():,.0f}×':>9}{f'≥ {row.target:,}×':>9}"
        lines.append(line + f"{f'{row.ratio(percentiles=True):,.0f}×':>13}")
    return "\n".join(lines)


def with_training(row: Row) -> list[Row]:
    """The row; and one more, its training counted, where the peer trained a model before it simulated."""
    if row.theirs is None or "training_cpu_s" not in row.theirs:
        return [row]
    trained = {**row.theirs, "cpu_s": row.theirs["cpu_s"] + row.theirs["training_cpu_s"]}
    trained["setup_cpu_s"] -= row.theirs["training_cpu_s"]
    return [row, replace(row, peer=f"{row.peer} + training", theirs=trained)]


#: heading: figure, unit, decimals
FIGURES = {
    "mean TTFT ms": ("mean_ttft_s", 1e3, 3),
    "mean TPOT ms": ("mean_tpot_s", 1e3, 4),
    "makespan s": ("makespan_s", 1.0, 3),
    "steps": ("steps", 1.0, 0),
    "preempted": ("preemptions", 1.0, 0),
}


def both(figure: str, scale: float, decimals: int, row: Row) -> str:
    """Theirs and ours, or one where they do not differ as shown; nothing where the peer does not say."""
    assert row.theirs is not None
    assert row.ours is not None
    if figure not in row.theirs:
        return "—"
    shown = [f"{scale * who[figure]:.{decimals}f}" for who in (row.theirs, row.ours)]
    return "=" + shown[0] if shown[0] == shown[1] else "/".join(shown)


def result_table(rows: list[Row]) -> str:
    lines = [f"{'peer':32}{'trace':29}" + "".join(f"{heading:>22}" for heading in FIGURES)]
    for row in rows:
        if row.theirs is not None:
            cells = (both(figure, scale, decimals, row) for figure, scale, decimals in FIGURES.values())
            lines.append(f"{row.peer:32}{row.trace:29}" + "".join(f"{cell:>22}" for cell in cells))
    return "\n".join(lines)


def chosen(names: str | None, *, quick: bool) -> list[tuple[Trace, str, int]]:
    """The cases of the peers named (all where none is); quick ones have a tenth of the requests."""
    wanted = names.split(",") if names else list(PEERS)
    unknown = sorted(set(wanted) - set(PEERS))
    if unknown:
        raise SystemExit(f"unknown peers {', '.join(unknown)}: expected some of {', '.join(PEERS)}")
    cases = [case for case in CASES if case[1] in wanted]
    if not quick:
        return cases
    return [
        (Trace(**asdict(trace) | {"requests": trace.requests // 10}), name, target) for trace, name, target in cases
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", metavar="NAME,…", help=f"some of {', '.join(PEERS)}")
    parser.add_argument("--quick", action="store_true", help="a tenth of the requests, one round; fixed costs show")
    parser.add_argument("--json", action="store_true", help="print everything measured as JSON")
    parser.add_argument(
        "--program", action="append", default=[], metavar="NAME=FILE", help="a program built beforehand"
    )
    given = parser.parse_args()
    programs = dict(entry.split("=", 1) for entry in given.program)
    cases = chosen(given.peers, quick=given.quick)
    rows = [measure(case, 1 if given.quick else ROUNDS, programs) for case in cases]
    if given.json:
        print(json.dumps([asdict(row) | {"ratio": row.ratio()} for row in rows], indent=1))
    else:
        print(f"{speed_table([line for row in rows for line in with_training(row)])}\n\n{result_table(rows)}")


if __name__ == "__main__":
    main()
