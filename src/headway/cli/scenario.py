"""`headway scenario`: its options and pages."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from headway import units
from headway.cli.common import emit, examples, json_option, rate_option, show
from headway.pictures.page import Page, Table

if TYPE_CHECKING:
    from headway.api.scenarios import Resolved


@click.command(
    "check",
    epilog=examples(
        "headway scenario check chat.yaml",
    ),
)
@click.argument("scenario")
@json_option
def check_command(scenario: str, *, as_json: bool) -> None:
    """Read a scenario and show what it comes to: names resolved, defaults filled in."""
    from headway.api import scenario_check

    show("scenario check", scenario_check(scenario), resolved_page, as_json=as_json)


@click.command(
    "new",
    epilog=examples(
        "headway scenario new --model Qwen/Qwen3-32B --accelerator h100 --accelerator l40s -o chat.yaml",
    ),
)
@click.option("--model", help="A name of `headway catalog list models`.")
@click.option("--accelerator", "accelerators", multiple=True, help="What may be bought; give it several times.")
@click.option("--profile", help="A name of `headway catalog list profiles`.")
@rate_option
@click.option("-o", "--output", metavar="FILE", help="Where to write it; stdout if left out. Never overwrites.")
@json_option
def new_command(
    model: str | None,
    accelerators: tuple[str, ...],
    profile: str | None,
    rate_per_s: float | None,
    output: str | None,
    *,
    as_json: bool,
) -> None:
    """Start a scenario: commented, complete, valid as it is."""
    from headway.api import scenario_new
    from headway.api.documents import dumps

    made = scenario_new(model=model, accelerators=accelerators, profile=profile, rate_per_s=rate_per_s, file=output)
    if as_json:
        emit(dumps("scenario new", made))
    elif output is None:
        emit(made.text)
    else:
        click.echo(f"wrote {output}; next: headway scenario check {output}, headway plan {output}", err=True)


def resolved_page(resolved: Resolved) -> Page:
    """Return the page of a resolved scenario."""
    assumed = Table(
        title="Left out, so taken by default",
        columns=("key", "value", "why"),
        align="lll",
        rows=tuple((a.name, a.value, a.source.removeprefix("default: ")) for a in resolved.assumptions),
    )
    headline = f"{resolved.file} is a valid scenario."
    return Page(headline=headline, parts=(_meaning(resolved), _prices(resolved), assumed))


def _meaning(r: Resolved) -> Table:
    allow = r.allow
    survive = f"{r.policy.survive_count} {r.policy.survive_what}" if r.policy.survive_count else "no failure"
    limits = ", ".join(f"{o} ≤ {units.show_s(o.limit_s)}" for o in r.slo.objectives)
    rows = (
        ("models", ", ".join(m.name for m in r.models)),
        ("workload", f"{r.workload} at {r.base_rate_per_s:.4g} req/s, designed for {r.design_rate_per_s:.4g} req/s"),
        ("objectives", f"{limits}, success ≥ {units.show_frac(r.slo.success_frac)}"),
        ("accelerators", ", ".join(a.name for a in allow.accelerators)),
        ("engines", ", ".join(f"{e.name} {e.version}" for e in allow.engines)),
        ("weights, KV", f"{', '.join(allow.precisions)}; {', '.join(allow.kv_precisions)}"),
        ("parallelism", f"TP {_listed(allow.tp)}, PP {_listed(allow.pp)}, DP {_listed(allow.dp)}"),
        (
            "swept",
            f"seqs {_listed(allow.max_num_seqs)}; batched tokens {_listed(allow.max_num_batched_tokens)}",
        ),
        ("survives", survive),
        ("seed", str(r.seed)),
    )
    return Table(title="What it comes to", columns=("", ""), align="ll", rows=rows)


def _listed(counts: tuple[int, ...]) -> str:
    return " ".join(str(count) for count in counts)


def _prices(r: Resolved) -> Table:
    return Table(
        title="Prices that count: the cheapest allowed",
        columns=("accelerator", "$/GPU-hour", "term", "provider", "region", "as of"),
        align="lrlllr",
        rows=tuple(
            (p.accelerator, f"{p.usd_per_gpu_hour:,.3f}", p.term, p.provider, p.region or "any", p.as_of)
            for p in r.prices
        ),
    )
