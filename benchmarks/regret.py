"""How much dearer the planner's choice is than the cheapest of all: every candidate simulated, on six scenarios.

    python benchmarks/regret.py [--quick]

The exhaustive search shares no screening with the planner: no bound, no estimate, no first look. It gives every
candidate that fits in memory its own search for the fewest replicas, by full simulations alone: one that misses the SLO
even as a fleet of three times the planner's cost is out; the others grow from one replica until they hold.
Regret = planner's $/hour ÷ cheapest $/hour − 1.
"""

from __future__ import annotations

import math
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from headway.planner import plan
from headway.planner.fleet import Fleets, missed
from headway.planner.price import choose_prices
from headway.planner.search import spares
from headway.planner.space import Space
from headway.scenario import read_scenario

if TYPE_CHECKING:
    from headway.planner.space import Option
    from headway.scenario import Scenario

_COMMON = "headway: 1\nprices: {region: any, terms: [on-demand]}\n"
SCENARIOS = {
    "chat, dense 70B": """
model: meta-llama/Llama-3.1-70B-Instruct
workload: {profile: azure-conv, rate: 30 req/s}
slo: {ttft: {p95: 500 ms, p99: 1.5 s}, tpot: {p95: 45 ms}}
allow: {accelerators: [h100-sxm, h200-sxm, b200], precisions: [fp8, bf16], kv_precisions: [bf16, fp8], tp: [1, 2, 4],
        max_num_batched_tokens: [2048, 8192], max_num_seqs: [64, 256]}
policy: {survive: 1 replica}
""",
    "code, dense 8B, bursts": """
model: meta-llama/Llama-3.1-8B-Instruct
workload: {profile: azure-code}
slo: {ttft: {p95: 1 s}, e2e: {p95: 3 s}}
allow: {accelerators: [l4, a10g, l40s, a100-80-sxm, h100-sxm], precisions: [bf16, fp8], tp: [1, 2, 4],
        max_num_batched_tokens: [2048, 8192], max_num_seqs: [64, 256]}
""",
    "long context, dense 70B, shared prefixes": """
model: meta-llama/Llama-3.1-70B-Instruct
workload: {profile: mooncake-conversation, rate: 2 req/s}
slo: {ttft: {p90: 10 s}, tpot: {p90: 80 ms}}
allow: {accelerators: [h100-sxm, h200-sxm, b200], precisions: [fp8], kv_precisions: [bf16, fp8], tp: [2, 4, 8],
        max_num_batched_tokens: [4096, 16384], max_num_seqs: [64, 128], enable_prefix_caching: [true, false]}
""",
    "mixture of experts": """
model: openai/gpt-oss-120b
workload: {profile: azure-conv, rate: 80 req/s}
slo: {ttft: {p95: 500 ms}, tpot: {p95: 25 ms}}
allow: {accelerators: [h100-sxm, h200-sxm, b200, mi300x], kv_precisions: [bf16, fp8], tp: [1, 2, 4],
        enable_expert_parallel: [false, true], max_num_batched_tokens: [2048, 8192], max_num_seqs: [64, 256]}
""",
    "summarisation, dense 8B": """
model: meta-llama/Llama-3.1-8B-Instruct
workload: {profile: arxiv-summarisation, rate: 40 req/s}
slo: {ttft: {p95: 2 s}, e2e: {p95: 15 s}}
allow: {accelerators: [l40s, a100-80-sxm, h100-sxm, h200-sxm], precisions: [bf16, fp8],
        kv_precisions: [bf16, fp8], tp: [1, 2], max_num_batched_tokens: [2048, 8192], max_num_seqs: [64, 256]}
""",
    "reasoning, long answers, dense 32B": """
model: Qwen/Qwen2.5-32B-Instruct
workload: {profile: servegen-reasoning, rate: 10 req/s}
slo: {ttft: {p95: 2 s}, tpot: {p95: 50 ms}}
allow: {accelerators: [h100-sxm, h200-sxm, a100-80-sxm], precisions: [bf16, fp8],
        kv_precisions: [bf16, fp8], tp: [1, 2, 4], max_num_batched_tokens: [2048, 8192], max_num_seqs: [128, 512]}
""",
}


def scenario_of(text: str) -> Scenario:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "scenario.yaml"
        file.write_text(_COMMON + text, encoding="utf-8")
        return read_scenario(file)


def candidates(scenario: Scenario, fleets: Fleets) -> list[Option]:
    """Every option that fits in memory, and those only."""
    requests = fleets.traffic(fleets.design_factor)
    longest = int((requests.isl_tokens + requests.osl_tokens).max())
    space = Space(scenario, choose_prices(scenario), longest_tokens=longest, context_tokens=fleets.context_tokens)
    return [option for shape in space.shapes() for option in space.options(shape)]


def cheapest_fleet(option: Option, scenario: Scenario, fleets: Fleets, limit: float) -> float:
    """$/hour of the smallest fleet of one option that meets the SLO, by full simulation of each size in turn."""
    pool = option.pool
    extra = spares(scenario.policy, pool.gpus, pool.accelerator.gpus_per_node)
    price = pool.gpus * option.shape.price.usd_per_gpu_hour
    most = math.floor(limit / price) - extra
    if most < 1 or missed(fleets.run(option, most), scenario.slo):
        return math.inf  # not even the largest fleet of interest
    count = 1
    while missed(fleets.run(option, count), scenario.slo):
        count += max(1, most // 50)  # sizes in steps of 2 % of the largest
    while count > 1 and not missed(fleets.run(option, count - 1), scenario.slo):
        count -= 1
    return (count + extra) * price


def regret(text: str) -> tuple[int, float, float, float, float]:
    scenario = scenario_of(text)
    begun = time.perf_counter()
    chosen = plan(scenario).chosen.cost.usd_per_hour
    planned_s = time.perf_counter() - begun
    fleets = Fleets(scenario)
    options = candidates(scenario, fleets)
    begun = time.perf_counter()
    best = min(cheapest_fleet(option, scenario, fleets, 3.0 * chosen) for option in options)
    return len(options), chosen, best, planned_s, time.perf_counter() - begun


def main() -> int:
    names = list(SCENARIOS)[: 2 if "--quick" in sys.argv else None]
    head = f"{'scenario':42} {'tried':>6} {'planned $/h':>12} {'cheapest $/h':>13} {'regret':>8}"
    print(f"{head} {'plan s':>7} {'all s':>7}")
    worst = 0.0
    for name in names:
        tried, chosen, best, planned_s, all_s = regret(SCENARIOS[name])
        share = chosen / best - 1.0
        worst = max(worst, share)
        print(
            f"{name:42} {tried:6d} {chosen:12.2f} {best:13.2f} {share:8.2%} {planned_s:7.2f} {all_s:7.1f}", flush=True
        )
    print(f"worst regret {worst:.2%} (target: at most 1 %)")
    return 0 if worst <= 0.01 else 1


if __name__ == "__main__":
    raise SystemExit(main())
