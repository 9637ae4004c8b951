"""The page of a plan: the choice in a sentence, and what it rests on, on one screen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headway.perf import endpoint_of
from headway.pictures.page import (
    ABSENT,
    Commands,
    Lines,
    Page,
    Table,
    counted,
    latency_at,
    money,
    percentile,
    seconds,
    shares,
)
from headway.units import show_usd

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from matplotlib.figure import Figure

    from headway.pictures.charts import Point
    from headway.planner import Plan
    from headway.planner.nouns import Certainty, Lever, Step, Stress
    from headway.scenario import Assumption
    from headway.types import Belief, Candidate, Cost, Deployment, Outcome, Pool, Slo

#: How many of each a screen has room for; the JSON document and the report have all.
CANDIDATES, LEVERS, ASSUMPTIONS, REASONS = 4, 7, 2, 2


def plan_page(plan: Plan, commands: Sequence[str], *, whole: bool = False) -> Page:
    """Return the page of a plan.

    Args:
        plan: what was planned.
        commands: what to run next.
        whole: show every candidate, lever and assumption, not just a screenful.
    """
    most = len(plan.candidates) if whole else CANDIDATES
    parts = (
        _candidates(plan, most),
        _steps(plan),
        _levers(plan.levers if whole else plan.levers[:LEVERS]),
        _certainty(plan),
        _breaks(plan),
        _assumptions(plan.assumptions, len(plan.assumptions) if whole else ASSUMPTIONS),
        Commands(title="Next", commands=tuple(commands)),
    )
    return Page(headline=headline(plan), parts=tuple(part for part in parts if part))


# --- the choice -----------------------------------------------------------------------------------------


def headline(plan: Plan) -> str:
    """Return the choice in a sentence."""
    chosen, model = plan.chosen, plan.chosen.deployment.pools[0].model.name
    cost = f" at {show_usd(chosen.cost.usd_per_hour)}/hour" if chosen.cost else ""
    spares = f", {chosen.spare_replicas} of them spare" if chosen.spare_replicas else ""
    limits = ", ".join(
        f"{o.metric.upper()} {percentile(o.percentile_frac)} ≤ {seconds(o.limit_s)}" for o in plan.slo.objectives
    )
    return (
        f"Serve {model} with {in_words(chosen.deployment)}{spares}: {counted(chosen.deployment.gpus, 'GPU')}{cost}. "
        f"It holds {limits} up to {plan.design_rate_per_s:.3g} req/s "
        f"({plan.base_rate_per_s:.3g} req/s today), {_belief(chosen)}{_confidence(plan)}."
    )


def _confidence(plan: Plan) -> str:
    """With which confidence it holds; nothing where it is planned by the prediction itself."""
    sure = plan.certainty
    return f", with {_share(sure.confidence_frac)} confidence" if any(sure.over_frac.values()) else ""


def _belief(candidate: Candidate) -> Belief:
    return candidate.outcome.source if candidate.outcome else "estimated"


def in_words(deployment: Deployment) -> str:
    """Describe a deployment: `1 replica of TP2 h100-sxm, fp8 weights, bf16 KV, vllm 0.33.0`, and its router."""
    pools = (
        f"{counted(p.replicas, 'replica')} of {p.parallelism} {p.accelerator.name}, "
        f"{p.weight_dtype} weights, {p.kv_dtype} KV, {p.engine} {p.engine_version}"
        for p in deployment.pools
    )
    router = f", behind a {deployment.router} router" if routed(deployment) else ""
    return " and ".join(pools) + router


def routed(deployment: Deployment) -> bool:
    """Whether there is anything to choose between for a router."""
    return sum(p.replicas for p in deployment.pools) > 1


def short_name(deployment: Deployment) -> str:
    """Name a deployment in a few signs: `4× TP2 h100-sxm fp8`."""
    return " + ".join(f"{p.replicas}× {p.parallelism} {p.accelerator.name} {p.weight_dtype}" for p in deployment.pools)


# --- candidates -----------------------------------------------------------------------------------------


def _candidates(plan: Plan, most: int) -> Table:
    metrics = tuple(dict.fromkeys(o.metric for o in plan.slo.objectives))
    shown = plan.candidates[:most]
    if plan.chosen not in shown:
        shown = (plan.chosen, *shown[: most - 1])
    latencies = tuple(_heading(plan.slo, m) for m in metrics)
    return Table(
        title=f"Candidates, {_belief(plan.chosen)} at {plan.design_rate_per_s:.3g} req/s; "
        f"cost for {plan.base_rate_per_s:.3g} req/s",
        columns=(
            "deployment",
            "GPUs\nspare",
            *latencies,
            "good/s\nbusy %",
            "$/hour\n$/good",
            "$/M in\n$/M out",
            "binds",
        ),
        align="lr" + "r" * len(metrics) + "rrrl",
        rows=tuple(_candidate(c, plan, metrics) for c in shown),
        note=_counted(plan),
    )


def _heading(slo: Slo, metric: str) -> str:
    fracs = [percentile(o.percentile_frac) for o in slo.objectives if o.metric == metric]
    return "\n".join(f"{metric.upper()} {frac}" for frac in fracs)


def _candidate(candidate: Candidate, plan: Plan, metrics: Sequence[str]) -> tuple[str, ...]:
    outcome, deployment = candidate.outcome, candidate.deployment
    mark = "▶" if candidate is plan.chosen else " "
    name = "\n".join(_named(pool, mark) for pool in deployment.pools)
    latencies = (_latencies(outcome, plan.slo, metric) for metric in metrics)
    binds = candidate.binds or candidate.rejected_because
    return (
        name,
        f"{deployment.gpus}\n{_spare_gpus(candidate)}",
        *latencies,
        _carried(outcome),
        *_priced(candidate.cost),
        binds.replace(" ", "\n", 1),
    )


def _named(pool: Pool, mark: str) -> str:
    """Name a pool; one whose steps are a calibration's, and not the physics', says so."""
    found = endpoint_of(pool)
    measured = f"\n  calibration {found.name}" if found else ""
    what = f"{pool.replicas}× {pool.parallelism} {pool.accelerator.name}"
    return f"{mark} {what}\n  {pool.weight_dtype}, KV {pool.kv_dtype}{measured}"


def _spare_gpus(candidate: Candidate) -> int:
    return candidate.spare_replicas * candidate.deployment.pools[0].parallelism.gpus


def _latencies(outcome: Outcome | None, slo: Slo, metric: str) -> str:
    found = [o for o in slo.objectives if o.metric == metric]
    if outcome is None:
        return ABSENT
    return "\n".join(latency_at(outcome.latency.get(o.metric), o.percentile_frac) for o in found)


def _carried(outcome: Outcome | None) -> str:
    if outcome is None:
        return ABSENT
    return f"{outcome.goodput_per_s:.3g}\n{shares(outcome.busy_frac, 0.1, 0.5, 0.95).removesuffix(' %')}"


def _priced(cost: Cost | None) -> tuple[str, str]:
    if cost is None:
        return ABSENT, ABSENT
    return (
        f"{money(cost.usd_per_hour)}\n{money(cost.usd_per_good_request)}",
        f"{money(cost.usd_per_m_input_tokens)}\n{money(cost.usd_per_m_output_tokens)}",
    )


def _counted(plan: Plan) -> str:
    search = plan.search
    refused = sum(r.candidates for r in search.refused)
    reasons = "; ".join(f"{r.candidates:,} {r.reason}" for r in search.refused[:REASONS])
    return (
        f"{search.enumerated:,} looked at: {refused:,} cannot{f' ({reasons})' if reasons else ''}, "
        f"{search.bounded:,} dearer (proved or estimated), {search.simulated:,} simulated. "
        "Busy: p10/p50/p95 over time"
    )


# --- the evidence ---------------------------------------------------------------------------------------


def _steps(plan: Plan) -> Table:
    needed = plan.chosen.deployment.gpus - _spare_gpus(plan.chosen)
    how = f"whole replicas that meet every objective at {plan.design_rate_per_s:.3g} req/s"
    judged = ("", f"{_belief(plan.chosen)}: the fewest", counted(needed, "GPU"), how)
    return Table(
        title="The capacity method, estimated, beside the simulation",
        columns=("", "step", "figure", "how"),
        align="llrl",
        rows=(*(_step(number, step) for number, step in enumerate(plan.steps, start=1)), judged),
    )


def _step(number: int, step: Step) -> tuple[str, ...]:
    belief = "" if step.belief == "estimated" else f"{step.belief}: "
    return str(number), step.name, _figure(step), f"{belief}{step.how}"


def _figure(step: Step) -> str:
    if step.unit == "GPUs" and step.figure == int(step.figure):
        return counted(int(step.figure), "GPU")
    shown = f"{step.figure:,.0f}" if abs(step.figure) >= 1000 else f"{step.figure:.4g}"
    return f"{shown} {step.unit}".rstrip()


#: Levers on the page, the cheapest first: it fits one screen.
_LEVERS = 4


def _levers(levers: Sequence[Lever]) -> Table:
    left = len(levers) - _LEVERS
    more = [(f"{left} more", ABSENT, ABSENT, "--json has them")] if left > 0 else []
    return Table(
        title="Levers: one change to the choice, planned again",
        columns=("change", "GPUs", "$/hour", "what it does"),
        align="lrrl",
        rows=(*(_lever(lever) for lever in levers[:_LEVERS]), *more),
    )


def _lever(lever: Lever) -> tuple[str, str, str, str]:
    if lever.candidate is None:
        return lever.name, ABSENT, ABSENT, lever.why_not
    moved = [
        _moved(name, before, after) for name, (before, after) in lever.tail.items() if seconds(before) != seconds(after)
    ]
    return lever.name, f"{lever.gpus:+d}", f"{lever.usd_per_hour:+,.2f}", ", ".join(moved) or "latency unchanged"


def _moved(name: str, before_s: float, after_s: float) -> str:
    """A change; a unit that stays is said once: `tpot p95 31 → 28 ms`."""
    before, after = seconds(before_s), seconds(after_s)
    same = before.partition(" ")[2] == after.partition(" ")[2]
    return f"{name} {before.partition(' ')[0] if same else before} → {after}"


def _breaks(plan: Plan) -> Lines:
    first = plan.breaking
    holds, breaks = f"{first.holds_factor:.3g}×", f"{first.breaks_factor:.3g}×"
    lead = f"Holds to {holds} today's rate; at {breaks} {first.breaks} gives way first."
    if first.holds_factor > 1:
        gpus = plan.chosen.deployment.gpus
        idle = gpus * (1 - 1 / first.holds_factor)
        lead += f" Today's rate needs {gpus - idle:.3g} of {gpus} GPU-hours an hour; {idle:.3g} are spare."
    stressed = (_stress(s) for s in plan.stress)
    return Lines(title="What breaks first", lines=(lead, *stressed))


def _certainty(plan: Plan) -> Lines:
    """What the error of the model costs, and what would make it smaller."""
    sure = plan.certainty
    lines = (*_lowered(sure), *_over(sure), *_beside(plan))
    known = "nothing alike was measured" if sure.likeness == "nothing alike" else f"measured before: {sure.likeness}"
    return Lines(title=f"What uncertainty costs ({known})", lines=lines)


def _lowered(sure: Certainty) -> tuple[str, ...]:
    if sure.confidence_frac >= sure.asked_frac:
        return ()
    return (f"No fleet holds the SLO with a confidence of {_share(sure.asked_frac)}: this one does {_how(sure)}",)


def _how(sure: Certainty) -> str:
    return f"with {_share(sure.confidence_frac)}" if any(sure.over_frac.values()) else "by the prediction itself"


def _over(sure: Certainty) -> tuple[str, ...]:
    if not any(sure.over_frac.values()):
        return ("Planned by the prediction itself: policy.confidence holds the limits on the safe side of its error",)
    shares = ", ".join(f"{name} {_share(over)}" for name, over in sure.over_frac.items())
    return (f"With {_share(sure.confidence_frac)} confidence above the prediction by at most: {shares}",)


def _beside(plan: Plan) -> tuple[str, ...]:
    """The fleet by the prediction itself, and what to measure."""
    sure, pool = plan.certainty, plan.chosen.deployment.pools[0]
    if not any(sure.over_frac.values()):
        return ()
    if sure.point is None or sure.point.cost is None:
        return ("Certainty costs nothing here: the prediction itself asks for as much",)
    hourly = f"{show_usd(sure.point.cost.usd_per_hour)}/hour"
    what = " and ".join(metric.upper() for metric in sure.measure)
    lead = f"By the prediction itself {short_name(sure.point.deployment)} at {hourly} would do"
    advice = f"measure {what} on {pool.accelerator.name} to shrink it"
    return (f"{lead}: certainty takes {_beyond(plan, sure)}; {advice}",)


def _beyond(plan: Plan, sure: Certainty) -> str:
    """What the choice has beyond that fleet: replicas where it is of the same kind, else GPUs."""
    assert sure.point is not None
    chosen, point = plan.chosen.deployment.pools[0], sure.point.deployment.pools[0]
    same = chosen.accelerator == point.accelerator and chosen.parallelism == point.parallelism
    more = counted(chosen.replicas - point.replicas, "replica") if same else _gpus(sure.gpus)
    return f"{more}, {show_usd(sure.usd_per_hour)}/hour"


def _gpus(more: int) -> str:
    return f"{counted(abs(more), 'GPU')} {'more' if more > 0 else 'fewer'}" if more else "other GPUs"


def _share(frac: float) -> str:
    return f"{100 * frac:.3g} %"


def _stress(stress: Stress) -> str:
    found = "holds" if stress.holds else f"{', '.join(stress.breaks) or 'the SLO'} missed"
    if stress.gpus is None:
        return f"{stress.factor:g}×: {found}; no size of this deployment was found that holds"
    cost = f" at {show_usd(stress.cost.usd_per_hour)}/hour" if stress.cost else ""
    return f"{stress.factor:g}×: {found}; planned for it this deployment takes {stress.gpus} GPUs{cost}"


def _assumptions(assumptions: Iterable[Assumption], most: int) -> Lines:
    stated = [f"{a.name} = {a.value} ({a.source})" for a in assumptions]
    rest = len(stated) - most
    more = (f"{rest} more: --json or --out",) if rest > 0 else ()
    return Lines(title="Assumed, because nobody said otherwise", lines=(*stated[:most], *more))


def pareto_figure(plan: Plan, title: str) -> Figure:
    """Draw cost against tail: the front and the best few, the choice marked."""
    from headway.pictures.charts import pareto

    front = {id(p.candidate): p.tail_s for p in plan.front}
    points = [_point(p.candidate, p.tail_s, plan, front=True) for p in plan.front]
    for candidate in plan.candidates:
        tail = candidate.outcome.latency.get("e2e") if candidate.outcome else None
        if id(candidate) not in front and tail is not None:
            points.append(_point(candidate, tail.at(0.99), plan, front=False))
    return pareto([p for p in points if p is not None], _belief(plan.chosen), tail="E2E p99", title=title)


def _point(candidate: Candidate, tail_s: float, plan: Plan, *, front: bool) -> Point | None:
    from headway.pictures.charts import Point

    if candidate.cost is None:
        return None
    chosen = candidate.deployment == plan.chosen.deployment
    name = short_name(candidate.deployment)
    return Point(label=name, usd_per_hour=candidate.cost.usd_per_hour, tail_s=tail_s, front=front, chosen=chosen)
