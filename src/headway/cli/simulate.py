"""`headway simulate`: its options, its page and its pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from headway import units
from headway.cli.common import (
    choice_from,
    choice_options,
    examples,
    json_option,
    out_option,
    seed_option,
    show,
    working,
    write_out,
)
from headway.pictures.page import (
    Lines,
    Page,
    Plot,
    Table,
    counted,
    latency_at,
    latency_table,
    money,
    percentile,
    seconds,
    shares,
)

if TYPE_CHECKING:
    from headway.api.simulations import Simulated
    from headway.types import Cost, Objective, Outcome


@click.command(
    epilog=examples(
        "headway simulate chat.yaml --accelerator h100 --tp 2 --replicas 4",
        "headway simulate chat.yaml --accelerator h100 --replicas 8 --rate-factor 3",
        "headway simulate chat.yaml --accelerator l40s --trace day.csv --set max_num_seqs=128 --out sim",
    )
)
@click.argument("scenario")
@choice_options
@click.option("--replicas", type=int, default=1, show_default=True, help="How many.")
@click.option("--router", help="The scenario's first if left out: least-outstanding, round-robin, …")
@click.option("--trace", metavar="FILE", help="Recorded traffic in place of the scenario's.")
@click.option("--rate-factor", type=float, default=1.0, show_default=True, help="Multiplies the mean rate.")
@click.option("--requests", type=int, help="How many arrive: a trace's own number, or 20000, if left out.")
@click.option(
    "--record", metavar="FILE", help="Write the schedule of the first replica, step by step (.jsonl, .jsonl.gz)."
)
@click.option("--series", is_flag=True, help="Print the series over time as a table too.")
@seed_option
@out_option
@json_option
def command(
    scenario: str,
    replicas: int,
    router: str | None,
    trace: str | None,
    rate_factor: float,
    requests: int | None,
    seed: int | None,
    record: str | None,
    out: str | None,
    *,
    series: bool,
    as_json: bool,
    **chosen: Any,
) -> None:
    """Simulate one deployment under a scenario's traffic.

    The scenario says model, workload, objectives and prices; the options say what is deployed. What they leave open is
    the scenario's, where it allows one only.
    """
    from headway.api import simulate

    with working("simulating"):
        found = simulate(
            scenario,
            choice_from(chosen),
            replicas=replicas,
            router=router,
            trace=trace,
            rate_factor=rate_factor,
            requests=requests,
            seed=seed,
            record=record,
        )
    write_out(out, lambda: simulated_files(found))
    show("simulate", found, lambda one: simulated_page(one, series=series), as_json=as_json)


def simulated_files(found: Simulated) -> dict[str, bytes]:
    """Return what `--out` writes: the document, every request, the latency CDF and the timeline."""
    from headway.api.documents import dumps
    from headway.pictures.files import picture_files
    from headway.pictures.plans import short_name
    from headway.pictures.runs import run_figures
    from headway.workload.columnar import parquet_bytes

    title = f"{short_name(found.deployment)}, {found.workload} at {found.rate_per_s:.3g} req/s"
    figures = run_figures(found.latencies_s, found.outcome, found.slo, found.series, title)
    return {
        "simulate.json": dumps("simulate", found).encode(),
        "requests.parquet": parquet_bytes(found.trace),
        **picture_files(figures),
    }


# --- the page -------------------------------------------------------------------------------------------


def simulated_page(found: Simulated, *, series: bool = False) -> Page:
    """Return the page of a simulation."""
    parts = (
        _objectives(found),
        latency_table(found.outcome, ("ttft", "tpot", "itl", "e2e")),
        _figures(found),
        _over_time(found),
        *((_series_table(found),) if series else ()),
    )
    return Page(headline=headline(found), parts=parts)


def headline(found: Simulated) -> str:
    """Return what came of it in a sentence."""
    from headway.pictures.plans import in_words

    verdict = "meets the SLO" if found.outcome.meets_slo else f"misses {', '.join(found.missed) or 'the SLO'}"
    gpus = counted(found.deployment.gpus, "GPU")
    return (
        f"{in_words(found.deployment)} ({gpus}) {verdict} at {found.rate_per_s:.3g} req/s "
        f"of {found.workload}, simulated."
    )


def _objectives(found: Simulated) -> Table:
    rows = tuple(_objective(found, o) for o in found.slo.objectives)
    return Table(title="Objectives", columns=("", "simulated", "limit", "", ""), align="lrrll", rows=rows)


def _objective(found: Simulated, objective: Objective) -> tuple[str, ...]:
    latency = found.outcome.latency.get(objective.metric)
    over = found.missed.get(str(objective))
    name = f"{objective.metric.upper()} {percentile(objective.percentile_frac)}"
    missed = "" if over is None else f"by {units.show_frac(over, 0)}" if over < 1e9 else "some request never gets there"
    verdict = "missed" if over is not None else "met"
    return name, latency_at(latency, objective.percentile_frac), seconds(objective.limit_s), verdict, missed


def _figures(found: Simulated) -> Lines:
    beyond = (f"warning: extrapolated: {one}" for one in found.beyond)
    cost = _priced(found.cost)
    lines = (_counted(found), _carried(found.outcome), _used(found), _cached(found.outcome), *cost, *beyond)
    return Lines(title="In all, simulated", lines=lines)


def _counted(found: Simulated) -> str:
    o = found.outcome
    return (
        f"{o.arrived:,} requests in a window of {seconds(o.window_s)}: {o.finished:,} finished, {o.failed:,} failed, "
        + f"{o.cancelled:,} cancelled by their clients, " * bool(o.cancelled)
        + f"{o.unfinished:,} unfinished ({found.requests:,} simulated in {found.steps:,} engine steps)"
    )


def _carried(o: Outcome) -> str:
    return (
        f"goodput {o.goodput_per_s:.4g} of {o.requests_per_s:.4g} req/s ({units.show_frac(o.slo_attainment_frac)} of "
        f"the requests met every objective); {o.input_tokens_per_s:,.0f} input and {o.output_tokens_per_s:,.0f} output "
        "tokens/s"
    )


def _used(found: Simulated) -> str:
    o = found.outcome
    return (
        f"busy {shares(o.busy_frac, 0.1, 0.5, 0.95)}, KV in use {shares(o.kv_used_frac, 0.1, 0.5, 0.95)} "
        f"(p10 / p50 / p95 over time) of {found.num_gpu_blocks:,} blocks a replica"
    )


def _cached(o: Outcome) -> str:
    found = units.show_frac(o.prefix_hit_frac)
    return f"{counted(o.preemptions, 'preemption')}; {found} of the prompt tokens found in the prefix cache"


def _priced(cost: Cost | None) -> tuple[str, ...]:
    if cost is None:
        return ()
    p = cost.price
    terms = ", ".join(part for part in (p.term, p.provider, p.region, p.as_of) if part)
    per_m = f"${money(cost.usd_per_m_input_tokens)} and ${money(cost.usd_per_m_output_tokens)}"
    good = f"${money(cost.usd_per_good_request)} per good request"
    return (f"${money(cost.usd_per_hour)}/hour ({terms}): {per_m} per M input and output tokens, {good}",)


def _over_time(found: Simulated) -> Plot:
    s = found.series
    return Plot(
        title="Over time, simulated (all replicas)",
        series=(
            ("running", s.running.tolist(), "0", f"{s.running.max():,.0f}"),
            ("waiting", s.waiting.tolist(), "0", f"{s.waiting.max():,.0f}"),
            ("KV in use", s.kv_used_frac.tolist(), "0", units.show_frac(float(s.kv_used_frac.max()), 0)),
            ("busy", s.busy_frac.tolist(), "0", units.show_frac(float(s.busy_frac.max()), 0)),
        ),
        start="0 s",
        end=seconds(float(s.time_s[-1])),
    )


def _series_table(found: Simulated) -> Table:
    s = found.series
    columns = (s.time_s, s.running, s.waiting, s.kv_used_frac, s.busy_frac)
    return Table(
        title="Series, simulated",
        columns=("time", "running", "waiting", "KV in use", "busy"),
        align="rrrrr",
        rows=tuple(_sample(*row) for row in zip(*(column.tolist() for column in columns), strict=True)),
    )


def _sample(time_s: float, running: float, waiting: float, kv_used_frac: float, busy_frac: float) -> tuple[str, ...]:
    used = (units.show_frac(kv_used_frac), units.show_frac(busy_frac))
    return (f"{time_s:,.2f} s", f"{running:.0f}", f"{waiting:.0f}", *used)
