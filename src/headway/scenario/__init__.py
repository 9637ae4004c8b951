"""The scenario: one YAML file that says what is known, read into nouns that every verb takes.

    headway: 1                                  # scenario format
    model: meta-llama/Llama-3.1-70B-Instruct    # or a list; {config: ./config.json} for one not in the catalogue
    workload: {profile: azure-conv, rate: 40 req/s}
    slo: {ttft: {p95: 500 ms}, tpot: {p95: 45 ms}, success: 99 %}
    allow: {accelerators: [h100-sxm, h200-sxm], precisions: [bf16, fp8]}
    policy: {growth: 1.5, headroom: 30 %, survive: 1 node}
    prices: {region: us-east-1, terms: [on-demand, reserved-1y]}
    settings: {gpu_memory_utilization: 0.92}    # engine settings you fix, by the engine's names
    catalog: [mine.yaml]                        # entries of your own
    seed: 0

- `nouns.py`: `Scenario` and its parts; quantities in base units, names resolved in the catalogue.
- `defaults.yaml`: what a scenario means where it says nothing, and why; the only place. Each default taken is listed in
  `Scenario.assumptions` (`sections.py` records them).
- `reader.py`: `read_scenario`; an unknown key, a wrong unit or a misspelt name is refused with file, line and key path.
- `template.py`: `new_scenario`, the commented text that `headway scenario new` writes.
"""

from headway.scenario.nouns import Allow, Assumption, Policy, PriceTerms, Scenario
from headway.scenario.reader import read_scenario, with_trace
from headway.scenario.template import new_scenario

__all__ = [
    "Allow",
    "Assumption",
    "Policy",
    "PriceTerms",
    "Scenario",
    "new_scenario",
    "read_scenario",
    "with_trace",
]
