"""The text of a new scenario: complete, commented, and valid as it is."""

from __future__ import annotations

from string import Template

_TEXT = Template("""\
# A headway scenario: what is known before a fleet is planned. `headway scenario check FILE` reads it,
# `headway plan FILE` plans from it. Quantities carry their unit; every line left out has a documented default.
headway: 1                          # scenario format

# What is served: a name from `headway catalog list models`, a list of them, or {config: ./config.json}.
model: $model

# What arrives: a shipped profile (`headway catalog list profiles`) at a mean rate, or {trace: FILE}.
workload: {profile: $profile, rate: $rate_per_s req/s}

# What is promised. TTFT: arrival to first token; TPOT: mean time per output token after the first.
slo:
  ttft: {p95: $ttft_ms ms}
  tpot: {p95: $tpot_ms ms}
  success: 99 %                     # share of requests that must be served at all

# What it may be built of.
allow:
  accelerators: [$accelerators]
  engines: [vllm]                   # or vllm@VERSION
  precisions: [published]           # weights as published; bf16, fp8, int4, … where quality allows
  kv_precisions: [bf16]             # add fp8 to let the planner choose an 8-bit KV cache
  tp: [1, 2, 4, 8]
  max_num_batched_tokens: [2048, 4096, 8192, 16384]
  max_num_seqs: [64, 128, 256, 512]
  routers: [least-outstanding]

# How much more than today the fleet must carry, and what it must survive.
policy:
  growth: 1                         # traffic expected ÷ traffic given
  burst: 1                          # beyond the bursts of the traffic itself, which are replayed
  headroom: 30 %                    # share of the capacity kept free
  survive: none                     # or 1 node, 2 nodes, 1 replica
  confidence: 60 %                  # with which each limit is held, by the error of the model; none: the prediction

prices:
  region: us-east-1                 # any: wherever it is cheapest
  terms: [on-demand]                # also reserved-1y, reserved-3y, spot

seed: 0
""")


def new_scenario(
    *,
    model: str = "meta-llama/Llama-3.1-8B-Instruct",
    accelerators: tuple[str, ...] = ("h100-sxm", "l40s"),
    profile: str = "azure-conv",
    rate_per_s: float = 10.0,
    ttft_s: float = 0.5,
    tpot_s: float = 0.05,
) -> str:
    """Return the text of a commented scenario that `read_scenario` reads without change.

    Args:
        model: a name of the catalogue.
        accelerators: names of the catalogue.
        profile: a shipped workload profile.
        rate_per_s: mean rate of requests.
        ttft_s: limit of TTFT p95.
        tpot_s: limit of TPOT p95.
    """
    return _TEXT.substitute(
        model=model,
        accelerators=", ".join(accelerators),
        profile=profile,
        rate_per_s=f"{rate_per_s:g}",
        ttft_ms=f"{1000 * ttft_s:g}",
        tpot_ms=f"{1000 * tpot_s:g}",
    )
