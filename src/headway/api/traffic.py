"""`workload describe` and `workload synthesize`: what arrives, measured or drawn."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from headway.errors import InputError

if TYPE_CHECKING:
    from headway.types import Requests
    from headway.workload import Description, WorkloadSpec
    from headway.workload.trace import Treatment

#: How a profile is told from a file.
PROFILE = "profile:"
#: Requests drawn of a profile to describe it: enough for two digits of its p99.
DRAWN_REQUESTS = 50_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """A workload in figures."""

    name: str
    format: str  # of the file; `profile` where the requests were drawn
    source: Literal["measured", "synthesised"]
    treatments: tuple[Treatment, ...]  # what was done to rows so that they became requests
    description: Description
    requests: Requests = field(repr=False, metadata={"document": False})  # for pictures, not in the document


@dataclass(frozen=True, slots=True, kw_only=True)
class Synthesis:
    """A trace that was drawn and written."""

    name: str
    file: str
    requests: int
    duration_s: float
    requests_per_s: float | None  # None where all arrive at once
    input_tokens: int
    output_tokens: int
    seed: int


def workload_describe(
    source: str | Path,
    *,
    format: str | None = None,  # noqa: A002 - the reader's own word
    requests: int | None = None,
    seed: int = 0,
) -> Described:
    """Describe a workload: lengths, rate over time, burstiness, shared prefixes, sessions, the long tail.

    Args:
        source: a trace of any known format, or `profile:NAME`.
        format: of the trace; recognised from its content if None.
        requests: how many to draw of a profile; a trace is read whole.
        seed: of what is drawn.

    Raises:
        InputError: the file or the profile is not known, or has something wrong in it.
    """
    from headway.workload import describe, generate, read_trace

    if str(source).startswith(PROFILE):
        spec = _profile(str(source))
        drawn = generate(spec, requests=DRAWN_REQUESTS if requests is None else requests, seed=seed)
        return Described(
            name=spec.name,
            format="profile",
            source="synthesised",
            treatments=(),
            description=describe(drawn),
            requests=drawn,
        )
    _check_is_file(source)
    trace = read_trace(source, format=format, seed=seed)
    return Described(
        name=trace.file,
        format=trace.format,
        source="measured",
        treatments=trace.treatments,
        description=describe(trace),
        requests=trace.requests,
    )


def workload_synthesize(
    source: str | Path,
    file: str | Path,
    *,
    requests: int | None = None,
    duration_s: float | None = None,
    rate_per_s: float | None = None,
    seed: int = 0,
) -> Synthesis:
    """Draw a trace and write it in headway's columnar form; one seed gives the same bytes.

    Args:
        source: `profile:NAME`, or a YAML file with a `workload:` section, such as a scenario.
        file: ends in `.parquet`, `.csv` or `.csv.gz`.
        requests: how many; or else
        duration_s: all that arrive in so many seconds.
        rate_per_s: mean rate; the workload's own if None.
        seed: of everything drawn.

    Raises:
        InputError: the source is wrong, not exactly one of `requests` and `duration_s` is given, a figure is out of
            bounds, or the file cannot be written.
    """
    from headway.workload import generate, write_trace

    if rate_per_s is not None and not 0 < rate_per_s < float("inf"):
        raise InputError(f"expected a rate above zero, got {rate_per_s!r}", place="rate")
    spec = _profile(str(source)) if str(source).startswith(PROFILE) else _section(source)
    drawn = generate(
        spec if rate_per_s is None else spec.at_rate(rate_per_s), requests=requests, duration_s=duration_s, seed=seed
    )
    if not len(drawn):
        raise InputError("no request arrives in that time", place="duration", hint="ask for a longer one")
    write_trace(drawn, file)
    span_s = float(drawn.arrive_s[-1] - drawn.arrive_s[0])
    return Synthesis(
        name=spec.name,
        file=str(file),
        requests=len(drawn),
        duration_s=span_s,
        requests_per_s=(len(drawn) - 1) / span_s if span_s > 0 else None,
        input_tokens=int(drawn.isl_tokens.sum()),
        output_tokens=int(drawn.osl_tokens.sum()),
        seed=seed,
    )


def _profile(source: str) -> WorkloadSpec:
    from headway.workload import profile

    return profile(source.removeprefix(PROFILE)).spec


def _section(source: str | Path) -> WorkloadSpec:
    from headway.reading import read_yaml
    from headway.workload import spec_from_node

    _check_is_file(source)
    root = read_yaml(source)
    entries = root.entries()
    return spec_from_node(entries["workload"] if "workload" in entries else root.fail("there is no 'workload' section"))


def _check_is_file(source: str | Path) -> None:
    from headway.workload import profile_names

    if not Path(source).exists() and str(source) in profile_names():
        raise InputError("there is no such file", file=source, hint=f"did you mean {PROFILE}{source}?")
