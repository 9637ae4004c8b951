"""The `workload:` section of a scenario.

Three forms; each may also carry `rate`, `tenants`, `adapters` and `classes`:

```yaml
workload: {profile: azure-conv, rate: 40 req/s}      # a shipped profile, at another mean rate
workload: {trace: day.csv, scale: 1.5}               # a recorded trace, its times compressed by 1.5
workload:                                            # spelled out; the parts below may also replace a profile's
  lengths: ...
  arrivals: ...
```

`profile` - a name from `headway.workload.profile_names()`. `rate` scales the mean rate; how long bursts, days and think
times last stays as it is.

`trace` - a file, relative to the scenario's folder; `format` names the reader where the file does not tell it. The
requests come in their order; used up, they are repeated with fresh prefixes. `scale` multiplies the rate by compressing
time; or else `rate` sets the mean rate; or `arrivals` replaces the recorded times. No sessions or system prompts: the
trace has its own.

`lengths` - one of

```yaml
lengths: {profile: azure-conv}                       # a profile's lengths
lengths: {isl: DIST, osl: DIST, correlation: 0.2}    # correlation: Spearman's, -1 ... 1; 0 where absent
lengths:                                             # a joint table
  joint:
    percentiles: [0, 50, 90, 99, 100]                # rising
    isl: [1, 1000, 3000, 4000, 9000]                 # tokens at those percentiles
    osl: [[...], [...], ...]                         # a row for each slice; slices are equal shares by rising ISL
```

DIST, for tokens (bare or `2000 tokens`), times (`10 s`: with their unit) and counts:

```yaml
2000 tokens                                          # always this; also {constant: 2000}
{p50: 150, p90: 400, p99: 1200}                      # quantiles, also {quantiles: {...}}: joined by lognormal pieces,
                                                     # the outermost going on into the tails; p0, p100 are bounds
{mean: 5}                                            # geometric (counts), exponential (tokens, times)
{mean: 2000, cv: 0.8}                                # gamma; also {gamma: {mean: ..., cv: ...}}
{lognormal: {mean: 2000, cv: 0.8}}
{uniform: {low: 100, high: 4000}}
{pareto: {least: 100, alpha: 1.2, most: 100000}}     # power-law tail
```

`arrivals` - a rate (Poisson), or one of

```yaml
{process: poisson, rate: 40 req/s}
{process: gamma, rate: 40 req/s, cv: 2}              # renewal: coefficient of variation of the gaps
{process: mmpp, states: [{rate: 2 req/s, stay: 60 s}, {rate: 50 req/s, stay: 5 s, next: [1, 0]}], rate: 10 req/s}
                                                     # stay: mean, exponential; next: probabilities of the state after
                                                     # (evenly among the others where absent); rate: scales the mean
{process: diurnal, rate: 40 req/s, swing: 60 %, peak: 14 h, period: 24 h, start: 9 h, cv: 1}
{process: diurnal, table: [10 req/s, 30 req/s, ...]} # equal slices of the period; rate, period, start, cv as above
{process: step, steps: [{at: 0 s, rate: 10 req/s}, {at: 10 min, rate: 30 req/s}], cv: 1}
{process: replay, trace: day.csv, scale: 2}          # a trace's times; format, rate as for a trace
```

`sessions` - conversations whose prompts grow. `rate` still counts requests, not sessions; sessions start at the rate
over the mean number of turns. Every turn's prompt holds the prompt and the output before it.

```yaml
sessions:
  turns: {mean: 5}                                   # DIST of counts
  think_time: {p50: 10 s, p90: 60 s}                 # DIST: from an answer's end to the next turn
  response_time: 10 s                                # DIST: ASSUMED from a turn's arrival to its answer's end, as it
                                                     # is not known before the simulation (6.13 s where absent)
  growth: {mean: 300 tokens}                         # DIST: new tokens per turn; lengths then describe the first prompt
  alike: 60 %                                        # or this: lengths describe all prompts, and this part of their
                                                     # variance (of normal scores) is between sessions, the rest within
```

`system_prompts: [{tokens: 1200 tokens, share: 60 %}]` - beginnings shared by that share of requests (of sessions, where
there are any), inside the prompt's length. `tenants: [{name: a, share: 70 %}]`, `adapters` likewise, or
`{count: 50, zipf: 1.1, share: 80 %}` for many of Zipf popularity; `classes: [{name: interactive, priority: 0,
share: 80 %}]`, smaller priorities first. Shares sum to at most 100 %; what they leave over has none (id -1,
priority 0).
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headway.errors import InputError
from headway.workload import parse_arrivals
from headway.workload.arrivals import Arrivals, Replay
from headway.workload.parse_lengths import lengths, rate, require
from headway.workload.profiles import profile
from headway.workload.spec import WorkloadSpec

if TYPE_CHECKING:
    from headway.reading import Node
    from headway.types import Requests

_LABELS = ("tenants", "adapters", "classes")
_SHAPE = ("lengths", "arrivals", "sessions", "system_prompts")


def spec_from_node(node: Node) -> WorkloadSpec:
    """Read a `workload:` section; the module's docstring describes its forms.

    Raises:
        InputError: an unknown key, a wrong unit or value, a missing part, an unknown profile, or an unreadable trace.
    """
    entries = node.entries(("profile", "trace", "scale", "format", "rate", *_SHAPE, *_LABELS))
    if "trace" in entries:
        spec = _traced(node)
    elif "profile" in entries:
        entries = node.entries(("profile", "rate", *_SHAPE, *_LABELS))
        spec = dataclasses.replace(_profile_spec(entries["profile"]), **_shape(entries))
    else:
        entries = require(node, ("rate", "sessions", "system_prompts", *_LABELS), ("lengths", "arrivals"))
        spec = WorkloadSpec(name="workload", **_shape(entries))
    spec = dataclasses.replace(spec, **_labels(entries))
    return spec.at_rate(rate(entries["rate"])) if "rate" in entries else spec


def _profile_spec(node: Node) -> WorkloadSpec:
    try:
        return profile(node.text()).spec
    except InputError as error:
        node.fail(error.problem, error.hint)


def _shape(entries: dict[str, Node]) -> dict[str, Any]:
    """The parts of a synthetic workload that are spelled out here."""
    parts: dict[str, Any] = {}
    if "lengths" in entries:
        parts["content"] = _lengths(entries["lengths"])
    if "arrivals" in entries:
        parts["arrivals"] = _arrivals(entries["arrivals"])
    if "sessions" in entries:
        parts["sessions"] = parse_arrivals.sessions(entries["sessions"])
    if "system_prompts" in entries:
        parts["system_prompts"] = parse_arrivals.system_prompts(entries["system_prompts"])
    return parts


def _labels(entries: dict[str, Node]) -> dict[str, Any]:
    return {
        name: parse_arrivals.labels(entries[name], priority=name == "classes") for name in _LABELS if name in entries
    }


def _lengths(node: Node) -> Any:
    if "profile" not in node.entries():
        return lengths(node)
    return _profile_spec(node.entries(("profile",))["profile"]).content


def _arrivals(node: Node) -> Arrivals:
    """Any process: the replay is read here, as it reads a file."""
    if not node.is_mapping or "process" not in (entries := node.entries()) or entries["process"].text() != "replay":
        return parse_arrivals.arrivals(node)
    entries = require(node, ("scale", "format", "rate"), ("process", "trace"))
    process = _replay(entries, _recorded(entries))
    return dataclasses.replace(process, factor=_factor(entries, process)) if "rate" in entries else process


def _traced(node: Node) -> WorkloadSpec:
    entries = node.entries(("trace", "scale", "format", "rate", "arrivals", *_LABELS))
    recorded = _recorded(entries)
    if "arrivals" in entries:
        if "scale" in entries:
            entries["scale"].fail("the recorded times, which it scales, are replaced by 'arrivals'")
        arrivals = _arrivals(entries["arrivals"])
    else:
        arrivals = _replay(entries, recorded)
    return WorkloadSpec(name=Path(entries["trace"].text()).name, content=recorded, arrivals=arrivals)


def _recorded(entries: dict[str, Node]) -> Requests:
    """Read the trace beside the scenario's file."""
    from headway.workload.readers import read_trace

    node = entries["trace"]
    form = entries["format"].text() if "format" in entries else None
    return read_trace(Path(node.file).parent / node.text(), format=form).requests


def _replay(entries: dict[str, Node], recorded: Requests) -> Arrivals:
    if len(recorded) < 2 or recorded.arrive_s[-1] <= recorded.arrive_s[0]:
        entries["trace"].fail("its requests all arrive at one time: say 'arrivals'")
    if "scale" in entries and "rate" in entries:
        entries["scale"].fail("expected either a scale or a rate")
    scale = entries["scale"].number(least=1e-6, most=1e6) if "scale" in entries else 1.0
    return Arrivals(pattern=Replay(recorded.arrive_s), gap_cv=0.0, factor=scale)


def _factor(entries: dict[str, Node], process: Arrivals) -> float:
    return rate(entries["rate"]) / process.mean_per_s
