"""The page of a replay, in the terminal and in the report."""

from __future__ import annotations

import math
from pathlib import PurePath
from typing import TYPE_CHECKING

from headway import units
from headway.pictures.page import (
    ABSENT,
    Lines,
    Page,
    Plot,
    Table,
    counted,
    latency_at,
    latency_table,
    percentile,
    seconds,
)

if TYPE_CHECKING:
    from headway.api.forecasts import Foretold, ForetoldFigure
    from headway.api.replays import Replayed
    from headway.probe.knee import Knee, Stage
    from headway.types import FloatColumn, Objective

#: Lines of warnings that are shown; the document has all.
_MOST_WARNINGS = 6


def replay_page(found: Replayed) -> Page:
    """Return the page of a replay."""
    parts = (
        _objectives(found),
        latency_table(found.outcome, ("ttft", "tpot", "itl", "e2e")),
        _answered(found),
        Lines(title="In all, measured", lines=_in_all(found)),
        *((_foretold(found.predicted),) if found.predicted else ()),
        _stages(found),
        _errors(found),
        Lines(title="Client and server", lines=(*_client(found), *_server(found))),
        Lines(title="Sent as asked for?", lines=_fidelity(found)),
        _over_time(found),
        Lines(title="To be known", lines=_warnings(found)),
    )
    return Page(headline=headline(found), parts=tuple(part for part in parts if part))


def headline(found: Replayed) -> str:
    """Say in a sentence what was measured, and what was the limit."""
    o, endpoint = found.outcome, found.endpoint
    engine = " ".join(word for word in (endpoint.engine, endpoint.version) if word) or "the server"
    model = PurePath(endpoint.model).name or endpoint.model  # llama-server calls its model by its file
    if found.client.interrupted:
        engine = f"Stopped early ({found.client.interrupted}): {engine}"
    answered = f"answered {found.answered:,} of {len(found.trace.requests):,} requests of {found.workload}"
    ttft, tpot = (o.latency[m].at(0.5) if m in o.latency else math.nan for m in ("ttft", "tpot"))
    return (
        f"{engine} with {model} {answered} {_pace(found)}: TTFT p50 {seconds(ttft)}, TPOT p50 "
        f"{seconds(tpot)}{_verdict(found)}; {_limit(found)}, measured."
    )


def _verdict(found: Replayed) -> str:
    """Whether the SLO holds; an objective whose value nobody can tell is neither met nor missed."""
    if not found.slo.objectives:
        return ""
    missed = [name for name, over in found.missed.items() if not math.isnan(over)]
    untold = [name for name, over in found.missed.items() if math.isnan(over)]
    said = [f"{what} {', '.join(names)}" for what, names in (("misses", missed), ("cannot tell", untold)) if names]
    return f", {' and '.join(said)}" if said else ", meets the SLO"


def _pace(found: Replayed) -> str:
    load = found.load
    if found.stages:
        first, last = found.stages[0].offered, found.stages[-1].offered
        return f"at {first:.3g} to {last:.3g} {'clients' if load.loop == 'closed' else 'req/s'}"
    if load.loop == "closed":
        return f"from {counted(load.clients or 0, 'client')}"
    return "all at once" if load.rate_per_s is None else f"at {load.rate_per_s:.3g} req/s"


def _limit(found: Replayed) -> str:
    """Who decided the figures."""
    if found.client.limited:
        return f"the client, {seconds(_late_s(found))} late at p99, may have decided them, not the server"
    if found.knee is not None:
        return knee_sentence(found.knee)
    whole = found.whole
    if whole is None or whole.delay_growth_frac is None:
        return "the client kept up"
    if whole.falls_behind:
        wait = f"{seconds(whole.delay_growth_frac)} longer for each second they were due later"
        fell = "fell" if whole.sure else "may have fallen"
        return f"the server {fell} behind: requests took {wait}; the client kept up"
    if not whole.keeps_up:
        return f"the client kept up, {counted(whole.failed, 'request')} failed"
    return "server and client kept up" if whole.sure else "the client kept up, and the server as far as so few tell"


def _late_s(found: Replayed) -> float:
    """How late the client was, and how coarse its clock, at p99 together."""
    client = found.client
    return client.send_error_s.get(0.99, 0.0) + client.loop_lag_s.get(0.99, 0.0)


def knee_sentence(knee: Knee) -> str:
    """Say where the knee is and how surely."""
    low, high = (f"{edge:.3g}" if edge is not None else None for edge in (knee.low, knee.high))
    if knee.at is None:
        return f"no knee up to {low or '?'} {knee.unit}" if low else "no stage was long enough to tell the knee"
    if low and high:
        return f"the knee is at {knee.at:.3g} {knee.unit} (90 %: {low} to {high})"
    between = f"above {low}" if low else f"below {high}" if high else "not sure: longer stages tell more"
    return f"the knee is at {knee.at:.3g} {knee.unit} ({between})"


def _objectives(found: Replayed) -> Table:
    rows = tuple(_objective(found, o) for o in found.slo.objectives)
    return Table(title="Objectives", columns=("", "measured", "limit", "", ""), align="lrrll", rows=rows)


def _objective(found: Replayed, objective: Objective) -> tuple[str, ...]:
    over = found.missed.get(str(objective))
    name = f"{objective.metric.upper()} {percentile(objective.percentile_frac)}"
    value = latency_at(found.outcome.latency.get(objective.metric), objective.percentile_frac)
    return name, value, seconds(objective.limit_s), *_met(over)


def _met(over: float | None) -> tuple[str, str]:
    """Whether an objective is met, and by how much it is missed."""
    if over is None:
        return "met", ""
    if math.isnan(over):
        return "not known", "every answer came all at once"
    return "missed", f"by {units.show_frac(over, 0)}" if over < 1e9 else "some request never gets there"


def _answered(found: Replayed) -> Table:
    """The same percentiles over the answered requests alone, where failed ones make some of them infinite."""
    o = found.outcome
    shown = {
        m: one for m, one in found.answered_latency.items() if any(map(math.isinf, o.latency[m].quantiles_s.values()))
    }
    fracs = sorted({frac for one in shown.values() for frac in one.quantiles_s})
    rows = tuple((m.upper(), *(latency_at(one, frac) for frac in fracs)) for m, one in shown.items())
    columns = ("", *map(percentile, fracs))
    note = "An SLO is held against the figures above, in which what failed or did not end never gets there."
    title = "Of the answered requests alone, measured"
    return Table(title=title, columns=columns, align="l" + "r" * len(fracs), rows=rows, note=note if rows else "")


def _in_all(found: Replayed) -> tuple[str, ...]:
    o, load = found.outcome, found.load
    window = (
        f"{o.arrived:,} requests in a window of {seconds(o.window_s)}: {o.finished:,} answered, {o.failed:,} failed, "
        + f"{o.cancelled:,} cancelled by their clients, " * bool(o.cancelled)
        + f"{o.unfinished:,} unfinished"
    )
    rest = [
        f"{counted(number, 'request')} {what}"
        for number, what in (
            (found.cut_off, "in flight when the time was up: left out"),
            (found.unsent, "never due before the end"),
        )
        if number
    ]
    offered = "" if load.rate_per_s is None else f" of {load.rate_per_s:.3g} offered"
    carried = (
        f"while requests came: {found.completed_per_s:.3g} req/s completed{offered}, "
        f"{found.output_tokens_per_s:,.4g} output tokens/s received"
    )
    if found.whole is not None and found.whole.completed_frac is not None:
        carried += f"; by how E2E grows, {units.show_frac(found.whole.completed_frac, 0)} of the offered is completed"
    lengths = f"mean ISL {load.isl_mean_tokens:,.0f}, OSL {load.osl_mean_tokens:,.0f} tokens; {_cached(found)}"
    goodput = f"goodput {o.goodput_per_s:.3g} req/s ({units.show_frac(o.slo_attainment_frac)} met every objective)"
    return (
        "; ".join([window, *rest]),
        carried,
        *((goodput,) if found.slo.objectives else ()),
        lengths,
        *(str(treatment) for treatment in found.treatments),
    )


def _cached(found: Replayed) -> str:
    """What of the prompts was in the server's cache: as its answers tell, and as its metrics do."""
    told, server = found.outcome.prefix_hit_frac, None if found.server is None else found.server.prefix_hit_frac
    own = "" if server is None else f" ({units.show_frac(server)} by its own metrics)"
    if not math.isnan(told):
        return f"{units.show_frac(told)} of the prompt tokens found in the server's cache{own}"
    hint = ": --enable-prompt-tokens-details makes vLLM tell" if found.endpoint.engine == "vllm" else ""
    return f"its answers do not tell what of the prompts was found in the server's cache{own}{hint}"


# --- predicted before -----------------------------------------------------------------------------------


def _foretold(said: Foretold) -> Table:
    note = f"by {said.calibration} of {said.made}; {said.held} of {len(said.figures)} in their bands"
    if said.saturated_frac:
        note += f"; the queue was to grow until the end in {units.show_frac(said.saturated_frac, 0)} of the draws"
    return Table(
        title="Predicted before it was sent",
        columns=("", "predicted", "90 % band", "measured", "error", ""),
        align="lrrrrl",
        rows=tuple(map(_foretold_figure, said.figures)),
        note="; ".join([note, *said.outside]),
    )


def _foretold_figure(figure: ForetoldFigure) -> tuple[str, ...]:
    metric, _, at = figure.figure.partition(".")
    show = seconds if at else _number
    return (
        f"{metric.upper()} {at}" if at else "output tokens/s",
        show(figure.predicted),
        f"{show(figure.low)} to {show(figure.high)}" if math.isfinite(figure.high) else ABSENT,
        show(figure.measured),
        f"{round(100 * figure.error_frac):+d} %" if math.isfinite(figure.error_frac) else ABSENT,
        "in the band" if figure.held else "outside",
    )


# --- stages --------------------------------------------------------------------------------------------


def _stages(found: Replayed) -> Table:
    closed = found.load.loop == "closed"
    what = "clients" if closed else "req/s"
    columns = (what, "requests", "failed", "completed", "output tok/s", "TTFT p50", "TTFT p95", "TPOT p50", "")
    rows = tuple(_stage(stage, closed=closed) for stage in found.stages)
    note = "" if found.knee is None else f"{knee_sentence(found.knee)}; rule: {found.knee.rule}{_slo(found.knee)}"
    return Table(title="Stages, measured", columns=columns, align="rrrrrrrrl", rows=rows, note=note)


def _stage(stage: Stage, *, closed: bool) -> tuple[str, ...]:
    ttft, tpot = stage.latency.get("ttft"), stage.latency.get("tpot")
    keeps_up = {True: "keeps up", False: "falls behind", None: "not known"}[stage.keeps_up]
    verdict = "" if closed else keeps_up + " (?)" * (stage.keeps_up is not None and not stage.sure)
    slo = "" if stage.meets_slo is None else " · SLO met" if stage.meets_slo else " · SLO missed"
    return (
        f"{stage.offered:g}" if closed else f"{stage.offered:.3g}",
        f"{stage.requests:,}",
        f"{stage.failed:,}",
        f"{stage.completed_per_s:.3g}/s",
        f"{stage.output_tokens_per_s:,.3g}",
        latency_at(ttft, 0.5),
        latency_at(ttft, 0.95),
        latency_at(tpot, 0.5),
        f"{verdict}{slo}".removeprefix(" · "),
    )


def _slo(knee: Knee) -> str:
    if knee.meets_slo_to is None and knee.misses_slo_at is None:
        return ""
    held = "in no stage" if knee.meets_slo_to is None else f"up to {knee.meets_slo_to:.3g} {knee.unit}"
    missed = "" if knee.misses_slo_at is None else f", missed at {knee.misses_slo_at:.3g}"
    return f"; the SLO holds {held}{missed}"


def _errors(found: Replayed) -> Table:
    rows = tuple((error.kind, f"{error.requests:,}", error.means) for error in found.errors)
    return Table(title="Not answered in full", columns=("", "requests", ""), align="lrl", rows=rows)


# --- client and server ---------------------------------------------------------------------------------


def _client(found: Replayed) -> tuple[str, ...]:
    client = found.client
    late, lag = client.send_error_s, client.loop_lag_s
    told = (
        f"client: sent {seconds(late.get(0.5, math.nan))} late at p50, {seconds(late.get(0.99, math.nan))} at p99; "
        f"its clock told {seconds(lag.get(0.99, math.nan))} apart at p99; {seconds(client.cpu_per_token_s)} of CPU for "
        f"a token, {units.show_frac(client.cpu_s / max(client.duration_s, 1e-9))} of a core; "
        f"{counted(client.most_in_flight, 'request')} in flight at most, {client.retried:,} sent again"
    )
    return (told,)


def _server(found: Replayed) -> tuple[str, ...]:
    endpoint, server = found.endpoint, found.server
    lines = [f"{endpoint.url}: {_settings(found)}"]
    if server is None:
        return (*lines, "server: its own metrics were not seen")
    figures = [
        f"{name} {show}"
        for name, show in (
            ("running", _mean_most(server.running_mean, server.running_most)),
            ("waiting", _mean_most(server.waiting_mean, server.waiting_most)),
            ("KV in use at most", _share(server.kv_used_most_frac)),
            ("output tokens/s", _number(server.output_tokens_per_s)),
            ("preemptions", _number(server.preemptions)),
        )
        if show
    ]
    lines.append(f"server, by its own metrics: {', '.join(figures) or 'nothing'} ({server.scrapes} scrapes)")
    beside = [
        f"{m.name.removesuffix('_s').upper()} {seconds(m.client_s)} / {seconds(m.server_s)}" for m in server.beside
    ]
    return (*lines, *((f"means from when a request was sent, client / server: {', '.join(beside)}",) if beside else ()))


def _settings(found: Replayed) -> str:
    endpoint = found.endpoint
    if endpoint.settings is None:
        return "it does not tell its settings"
    s = endpoint.settings
    known = (
        f"max_num_seqs {s.max_num_seqs}, max_num_batched_tokens {s.max_num_batched_tokens:,}, max_model_len "
        f"{s.max_model_len:,}, prefix cache {'on' if s.enable_prefix_caching else 'off'}"
    )
    return f"{known} ({len(endpoint.told)} settings told, {len(endpoint.assumed)} assumed: --json says which)"


def _mean_most(mean: float | None, most: float | None) -> str:
    return "" if mean is None else f"{mean:.3g} (at most {_number(most)})"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.4g}"


def _share(value: float | None) -> str:
    return "" if value is None else units.show_frac(value, 0)


def _fidelity(found: Replayed) -> tuple[str, ...]:
    fidelity = found.fidelity
    if fidelity is None:
        return ("nothing was sent",)
    names = {"gap_s": "gaps", "isl_tokens": "ISL", "osl_tokens": "OSL"}
    told = ", ".join(
        f"{names.get(one.column, one.column)} KS {one.ks:.3f}, Wasserstein {_distance(one.column, one.wasserstein)}"
        for one in fidelity.columns
    )
    verdict = "yes" if fidelity.same else "not quite"
    return (f"{verdict}: {told or ABSENT}", *fidelity.off[:3])


def _distance(column: str, value: float) -> str:
    return seconds(value) if column.endswith("_s") else f"{value:.3g} tokens"


def _warnings(found: Replayed) -> tuple[str, ...]:
    rest = len(found.warnings) - _MOST_WARNINGS
    return (*found.warnings[:_MOST_WARNINGS], *((f"{rest} more: --json",) if rest > 0 else ()))


def _over_time(found: Replayed) -> Plot:
    s = found.series
    rows = (("in flight", s.in_flight), ("running", s.running), ("waiting", s.waiting))
    shown = tuple(_line(name, column) for name, column in rows if _known(column))
    return Plot(
        title="Over time (in flight: client; the others: server)",
        series=shown,
        start="0 s",
        end=seconds(float(s.time_s[-1])),
    )


def _known(column: FloatColumn) -> bool:
    return any(math.isfinite(value) for value in column.tolist())


def _line(name: str, column: FloatColumn) -> tuple[str, list[float], str, str]:
    values = [value if math.isfinite(value) else 0.0 for value in column.tolist()]
    return name, values, "0", f"{max(values):,.0f}"
