"""What arrives: recorded traces read, and traffic synthesised.

- Recorded: `read_trace(path)` reads a file of any known format into a `Trace`; `describe(trace)` measures it.
- Synthesised: a `WorkloadSpec` says what arrives (joint lengths, arrival process, sessions, shared system prompts,
  labels); `generate(spec, requests=…, seed=…)` draws it: the same bytes for the same seed. A specification comes from a
  scenario's `workload:` section (`spec_from_node`; `section.py` describes the form) or from a shipped `profile(name)`,
  which holds figures derived from a real trace.

Both give `headway.types.Requests`. From the bottom up: `distributions` (one quantity), `lengths` (two, joint),
`arrivals` (time), `sessions` (turns), `blocks` (shared prefixes), `spec` (all of it as a noun), `synthesis` (drawing);
`parse_lengths` and `parse_arrivals` read them from YAML, `profiles` and `section` put them together.
`take` gives some of the requests.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_PUBLIC = {
    "Profile": "profiles",
    "WorkloadSpec": "spec",
    "generate": "synthesis",
    "profile": "profiles",
    "profile_names": "profiles",
    "spec_from_node": "section",
    "take": "selection",
    # recorded traffic
    "Trace": "trace",
    "Description": "description",
    "Measured": "trace",
    "describe": "description",
    "read_trace": "readers",
    "write_trace": "columnar",
    # results of runs
    "RunAbout": "writer_rows",
    "Summary": "summary",
    "read_summary": "summaries",
    "served_of": "served",
    "write_result": "writer_results",
}

__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)
