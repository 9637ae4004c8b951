"""One simulation of benchmarks/core_speed.py's loads and nothing else, for a profiler to look at.

    valgrind --tool=cachegrind --cache-sim=yes python benchmarks/one_run.py REQUESTS REPLICAS [ROUTER]

Two runs of different length, subtracted, leave what a request costs.
"""

from __future__ import annotations

import sys

from core_speed import Case, replica, requests

from headway.simulator import simulate

#: what a replica carries of these requests, per second; measured, so that a run need not
CARRIED_PER_S = 12.587
LOAD = 0.8


def main() -> None:
    count, replicas, *router = sys.argv[1:]
    case = Case(
        "", requests=int(count), replicas=int(replicas), kind="spread", router=(*router, "least-outstanding")[0]
    )
    traffic = requests(case, CARRIED_PER_S * LOAD * case.replicas)
    simulate(traffic, replica(case), replicas=case.replicas, router=case.router)


if __name__ == "__main__":
    main()
