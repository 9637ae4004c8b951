"""`headway workload`: its options, the page of a workload and its picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from headway import units
from headway.cli.common import (
    duration,
    emit,
    examples,
    json_option,
    out_option,
    rate_option,
    seed_option,
    show,
    working,
    write_out,
)
from headway.pictures.page import ABSENT, Lines, Page, Plot, Table, percentile, seconds

if TYPE_CHECKING:
    from collections.abc import Callable

    from headway.api.traffic import Described
    from headway.pictures.page import Part
    from headway.workload.description import Description, PrefixShare, SessionShape, Spread

#: Quantiles a screen shows.
_FRACS = (0.05, 0.5, 0.9, 0.95, 0.99, 0.999)


@click.command(
    "describe",
    epilog=examples(
        "headway workload describe day.csv",
        "headway workload describe profile:azure-conv --out azure-conv",
    ),
)
@click.argument("source", metavar="TRACE|profile:NAME")
@click.option("--format", "form", help="Of the trace; recognised from its content if left out.")
@click.option("--requests", type=int, help="How many to draw of a profile; 50000 if left out.")
@seed_option
@out_option
@json_option
def describe_command(
    source: str, form: str | None, requests: int | None, seed: int | None, out: str | None, *, as_json: bool
) -> None:
    """Describe a workload: lengths, rate over time, burstiness, shared prefixes, sessions, the long tail."""
    from headway.api import workload_describe

    with working("reading"):
        found = workload_describe(source, format=form, requests=requests, seed=seed or 0)
    write_out(out, lambda: described_files(found))
    show("workload describe", found, described_page, as_json=as_json)


@click.command(
    "synthesize",
    epilog=examples(
        "headway workload synthesize profile:azure-conv --requests 100000 -o day.parquet",
        "headway workload synthesize chat.yaml --duration '1 h' --rate '40 req/s' -o hour.csv.gz",
    ),
)
@click.argument("source", metavar="profile:NAME|SCENARIO")
@click.option("-o", "--output", metavar="FILE", required=True, help="Ends in .parquet, .csv or .csv.gz.")
@click.option("--requests", type=int, help="How many; or else --duration.")
@click.option("--duration", "duration_s", callback=duration, metavar="TIME", help="All that arrive in it, e.g. '1 h'.")
@rate_option
@seed_option
@json_option
def synthesize_command(
    source: str,
    output: str,
    requests: int | None,
    duration_s: float | None,
    rate_per_s: float | None,
    seed: int | None,
    *,
    as_json: bool,
) -> None:
    """Draw a trace from a profile or a scenario's workload, and write it: one seed, the same bytes."""
    from headway.api import workload_synthesize
    from headway.api.documents import dumps

    made = workload_synthesize(
        source, output, requests=requests, duration_s=duration_s, rate_per_s=rate_per_s, seed=seed or 0
    )
    if as_json:
        emit(dumps("workload synthesize", made))
    else:
        emit(f"wrote {made.file}: {made.requests:,} requests of {made.name} in {seconds(made.duration_s)}\n")


def described_files(found: Described) -> dict[str, bytes]:
    """Return what `--out` writes: the document and the picture."""
    from pathlib import Path

    from headway.api.documents import dumps
    from headway.pictures.charts import workload
    from headway.pictures.files import picture_files

    r = found.requests
    figure = workload(r.arrive_s, r.isl_tokens, r.osl_tokens, found.source, title=Path(found.name).name)
    return {"workload.json": dumps("workload describe", found).encode(), **picture_files({"workload": figure})}


# --- the page -------------------------------------------------------------------------------------------


def described_page(found: Described) -> Page:
    """Return the page of a workload."""
    d = found.description
    per_s = f"{d.requests_per_s:.4g} req/s" if d.requests_per_s else "all at once"
    headline = (
        f"{found.name} ({found.format}, {found.source}): {d.requests:,} requests in {seconds(d.duration_s)}, {per_s}."
    )
    parts: tuple[Part, ...] = (
        _lengths(d),
        _facts(d),
        *_shared(d.prefix),
        *_sessions(d.sessions),
        _rate(d),
    )
    treated = Lines(title="What was done to rows", lines=tuple(str(t) for t in found.treatments))
    return Page(headline=headline, parts=(*parts, treated) if found.treatments else parts)


def _lengths(d: Description) -> Table:
    rows = (_spread("ISL", d.isl_tokens, _count), _spread("OSL", d.osl_tokens, _count))
    return Table(title="Lengths (tokens)", columns=_columns(), align="l" + "r" * 9, rows=rows)


def _columns() -> tuple[str, ...]:
    return ("", "mean", "least", *(percentile(f) for f in _FRACS), "most")


def _spread(name: str, spread: Spread | None, shown: Callable[[float], str]) -> tuple[str, ...]:
    if spread is None:
        return (name, *(ABSENT for _ in range(len(_FRACS) + 3)))
    quantiles = (shown(spread.quantiles[f]) for f in _FRACS)
    return (name, shown(spread.mean), shown(spread.least), *quantiles, shown(spread.most))


def _count(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.1f}"


def _facts(d: Description) -> Lines:
    b, tail = d.burstiness, d.tail
    fano = ", ".join(f"{value:.3g} by {seconds(window_s)}" for window_s, value in b.fano.items())
    cv = f"CV of the gaps {b.gap_cv:.3g}" if b.gap_cv is not None else "no gaps"
    over = ", ".join(f"{units.show_frac(share)} over {tokens:,}" for tokens, share in tail.prompts_over_frac.items())
    rank = d.joint.rank_correlation
    longest = [units.show_frac(share[0.01]) for share in (tail.input_share_frac, tail.output_share_frac)]
    lines = [
        f"burstiness (1 is Poisson): {cv}" + f"; Fano {fano}" * bool(fano),
        f"the longest 1 % hold {longest[0]} of the input tokens, {longest[1]} of the output tokens",
        f"prompts: {over} tokens",
    ]
    if rank is not None:
        lines.append(f"ISL and OSL go together with rank correlation {rank:.2f}")
    if d.input_tokens_per_s is not None and d.output_tokens_per_s is not None:
        lines.append(f"{d.input_tokens_per_s:,.0f} input and {d.output_tokens_per_s:,.0f} output tokens/s")
    return Lines(title="Shape", lines=tuple(lines))


def _shared(prefix: PrefixShare | None) -> tuple[Lines, ...]:
    if prefix is None:
        return ()
    line = (
        f"{units.show_frac(prefix.share_frac)} of the prompt tokens were seen before "
        f"(in {units.show_frac(prefix.requests_frac)} of the requests); holding everything takes "
        f"{units.show_count(prefix.distinct_tokens)} tokens of cache"
    )
    return (Lines(title=f"Shared prefixes, in blocks of {prefix.block_tokens} tokens", lines=(line,)),)


def _sessions(shape: SessionShape | None) -> tuple[Table, ...]:
    if shape is None:
        return ()
    rows = (
        _spread("turns", shape.turns, _count),
        _spread("first ISL", shape.first_isl_tokens, _count),
        _spread("growth a turn", shape.growth_tokens, _count),
        _spread("between turns", shape.turn_gap_s, seconds),
        _spread("think time", shape.think_s, seconds),
        _spread("length", shape.length_s, seconds),
    )
    return (Table(title=f"{shape.sessions:,} sessions", columns=_columns(), align="l" + "r" * 9, rows=rows),)


def _rate(d: Description) -> Plot:
    s = d.series
    per_s = [count / s.window_s for count in s.requests]
    return Plot(
        title=f"Rate over time, by {seconds(s.window_s)}",
        series=(
            ("requests", per_s, "0", f"{max(per_s):.3g}/s"),
            (
                "input",
                [float(n) for n in s.input_tokens],
                "0",
                f"{units.show_count(max(s.input_tokens) / s.window_s)}/s",
            ),
            (
                "output",
                [float(n) for n in s.output_tokens],
                "0",
                f"{units.show_count(max(s.output_tokens) / s.window_s)}/s",
            ),
        ),
        start="0 s",
        end=seconds(d.duration_s),
    )
