"""`headway plan`: its options, what to run next, and the files of `--out`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from headway.cli.common import (
    calibration_option,
    examples,
    json_option,
    out_option,
    rate_option,
    show,
    working,
    write_out,
)

if TYPE_CHECKING:
    from headway.api.simulations import Simulated
    from headway.planner import Plan
    from headway.scenario import Scenario
    from headway.types import Deployment


@click.command(
    epilog=examples(
        "headway plan chat.yaml",
        "headway plan chat.yaml --trace day.csv --out plan",
        "headway plan chat.yaml --json | jq .chosen.cost.usd_per_hour",
    )
)
@click.argument("scenario")
@click.option("--trace", metavar="FILE", help="Recorded traffic in place of the scenario's.")
@rate_option
@calibration_option
@out_option
@json_option
def command(
    scenario: str,
    trace: str | None,
    rate_per_s: float | None,
    calibration: str | None,
    out: str | None,
    *,
    as_json: bool,
) -> None:
    """Say what to deploy for a scenario.

    The answer is the cheapest fleet that meets every objective, with what it costs, what binds, what would change it,
    and everything it rests on.
    """
    from headway.api import plan
    from headway.api.simulations import read
    from headway.pictures.plans import plan_page

    known = read(scenario, trace=trace, rate_per_s=rate_per_s, calibration=calibration)
    with working("planning"):
        found = plan(known)
    commands = next_commands(found, scenario, trace, models=len(known.models))
    write_out(out, lambda: plan_files(found, known, commands))
    show("plan", found, lambda one: plan_page(one, commands), as_json=as_json)


def next_commands(found: Plan, scenario: str, trace: str | None, *, models: int = 1) -> tuple[str, ...]:
    """Return what to run next on the choice, ready to be pasted.

    Args:
        found: the plan.
        scenario: its file.
        trace: the recorded traffic it was planned for.
        models: how many the scenario allows; one need not be named.
    """
    from headway.pictures.plans import routed

    deployment = found.chosen.deployment
    pool = deployment.pools[0]
    model = ["--model", pool.model.name] if models > 1 else []
    replica = [*model, *_replica_options(deployment)]
    source = [scenario, *(["--trace", trace] if trace else [])]
    fleet = ["--replicas", str(pool.replicas), *(["--router", deployment.router] if routed(deployment) else [])]
    simulate = ["simulate", *source, *replica, *fleet, "--rate-factor", "3"]
    estimate = ["estimate", scenario, *replica, "--batch", "32"]
    price = ["price", pool.accelerator.name, "--gpus", str(deployment.gpus)]
    runs = (simulate,) if pool.calibration else (simulate, estimate, price)
    return tuple(shlex.join(["headway", *words]) for words in runs)


def _replica_options(deployment: Deployment) -> list[str]:
    """The options that name one replica of a deployment; what is a default is left out."""
    pool = deployment.pools[0]
    if pool.calibration:
        movable = ("max_num_seqs", "max_num_batched_tokens")
        sets = [w for name in movable for w in ("--set", f"{name}={getattr(pool.settings, name)}")]
        return ["--calibration", pool.calibration, *sets]
    named = {
        "--accelerator": pool.accelerator.name,
        "--tp": str(pool.parallelism.tp) if pool.parallelism.tp > 1 else "",
        "--pp": str(pool.parallelism.pp) if pool.parallelism.pp > 1 else "",
        "--dp": str(pool.parallelism.dp) if pool.parallelism.dp > 1 else "",
        "--weights": pool.weight_dtype if pool.weight_dtype != pool.model.weight_dtype else "",
        "--kv": pool.kv_dtype if pool.kv_dtype != "bf16" else "",
    }
    words = [word for option, value in named.items() if value for word in (option, value)]
    expert = ["--expert-parallel"] if pool.parallelism.ep > 1 else []
    swept = ("max_num_seqs", "max_num_batched_tokens", "max_model_len")
    return [*words, *expert, *(w for name in swept for w in ("--set", f"{name}={getattr(pool.settings, name)}"))]


# --- --out ----------------------------------------------------------------------------------------------


def plan_files(found: Plan, scenario: Scenario, commands: tuple[str, ...]) -> dict[str, bytes]:
    """Return what `--out` writes: the document, the report, and the pictures as PNG and SVG."""
    from headway.api.documents import dumps
    from headway.api.plans import chosen_run
    from headway.pictures.files import picture_files
    from headway.pictures.plans import pareto_figure, plan_page, short_name
    from headway.pictures.report import report
    from headway.pictures.runs import run_figures

    run: Simulated = chosen_run(found, scenario)
    name = Path(scenario.file).stem
    title = f"{short_name(run.deployment)}, {run.rate_per_s:.3g} req/s of {run.workload}"
    figures = run_figures(run.latencies_s, run.outcome, run.slo, run.series, title)
    pictures = picture_files({**figures, "pareto": pareto_figure(found, name)})
    page = plan_page(found, commands, whole=True)
    shown = {
        page.parts[0].title: ("Cost of each candidate against its tail", pictures["pareto.svg"]),
        page.parts[1].title: ("Latency of the choice, with its limits", pictures["latency.svg"]),
        "What breaks first": ("The chosen fleet over time", pictures["timeline.svg"]),
    }
    text = report(page, shown, title=f"headway plan: {name}")
    return {"plan.json": dumps("plan", found).encode(), "report.html": text.encode(), **pictures}
