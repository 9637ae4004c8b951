"""A directive that shows what the code knows as a table at build time, so that no page can fall behind it.

`{headway-table} accelerators` (or models, engines, links, profiles, formats, defaults) shows that list;
`{headway-noun} headway.types.Outcome` shows a dataclass: its fields with the comments beside them.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import math
from importlib import import_module
from statistics import median
from typing import TYPE_CHECKING, Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList

from headway.units import show_bytes, show_count

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from sphinx.application import Sphinx

Rows = list[tuple[str, ...]]


def accelerators() -> Rows:
    from headway.catalog import load

    head = ("name", "memory", "HBM", "bf16 dense", "fp8 dense", "fp4 dense", "scale-up", "per GPU, one way", "power")
    return [head, *(_accelerator(one) for one in load().accelerators)]


def _accelerator(one: Any) -> tuple[str, ...]:
    peaks = (one.peak_flops_per_s.get(name) for name in ("bf16", "fp8", "fp4"))
    return (
        one.name,
        show_bytes(one.hbm_bytes),
        show_count(one.hbm_bytes_per_s, "B/s"),
        *(show_count(peak, "FLOP/s") if peak else "–" for peak in peaks),
        f"{one.scale_up_gpus} GPUs" if one.scale_up_gpus > 1 else "–",
        show_count(one.scale_up_bytes_per_s, "B/s"),
        f"{one.board_power_w:g} W" if one.board_power_w else "–",
    )


def models() -> Rows:
    from headway.catalog import load

    head = ("name", "parameters", "active", "layers", "attention", "experts", "context", "published in")
    return [head, *(_model(one) for one in load().models)]


def _model(one: Any) -> tuple[str, ...]:
    kind = "MLA" if one.is_mla else f"{one.num_attention_heads}/{one.num_key_value_heads} heads"
    window = f", window {one.sliding_window:,} in {one.sliding_window_layers}" if one.sliding_window_layers else ""
    linear = f", linear in {one.linear_attention_layers}" if one.linear_attention_layers else ""
    return (
        one.name,
        show_count(one.params),
        show_count(one.params_active) if one.is_moe else "all",
        str(one.num_hidden_layers),
        kind + window + linear,
        f"{one.num_experts_per_tok} of {one.num_experts}" if one.is_moe else "–",
        f"{one.max_position_embeddings:,}",
        one.weight_dtype,
    )


def engines() -> Rows:
    from headway.catalog import load

    head = ("engine", "simulated", "vendors", "memory share", "block", "prefix cache", "reserves the prompt", "async")
    return [head, *(_engine(one) for one in load().engines)]


def _engine(one: Any) -> tuple[str, ...]:
    share = "–" if one.gpu_memory_utilization is None else f"{one.gpu_memory_utilization:g}"
    flags = (one.enable_prefix_caching, one.scheduler_reserve_full_isl, one.async_scheduling)
    said = ("on" if flag else "off" for flag in flags)
    simulated = "yes" if one.simulated else "no"
    return (f"{one.name} {one.version}", simulated, ", ".join(one.vendors), share, str(one.block_size), *said)


def links() -> Rows:
    from headway.catalog import load

    rows = ((one.name, one.title, show_count(one.bytes_per_s, "B/s")) for one in load().links)
    return [("name", "what it is", "per accelerator, one way"), *rows]


def profiles() -> Rows:
    from headway.workload import profile, profile_names

    head = ("name", "traffic", "rate", "requests it was derived from", "source", "licence")
    return [head, *(_profile(profile(name)) for name in profile_names())]


def _profile(one: Any) -> tuple[str, ...]:
    return (one.name, one.title, f"{one.spec.rate_per_s:.3g} req/s", f"{one.rows:,}", one.source, one.licence)


def profile_facts() -> Rows:
    from headway.workload import profile, profile_names

    rows = [("profile", "figure", "trace", "synthesised", "off by")]
    for name in profile_names():
        facts = profile(name).facts
        for figure, real in facts["trace"].items():
            drawn = facts["synthesised"].get(figure)
            if drawn is not None:
                rows.append((name, figure, f"{real:g}", f"{drawn:g}", f"{100 * (drawn / real - 1):+.1f} %"))
    return rows


def formats() -> Rows:
    from headway.workload.readers import FORMATS

    return [("format", "what it is"), *((name, one.title) for name, one in FORMATS.items())]


def defaults() -> Rows:
    from headway.scenario.sections import defaults as known

    rows = ((key, ", ".join(i.text() for i in node.items()), why) for key, (node, why) in known().items())
    return [("key", "default", "why"), *rows]


def calibration() -> Rows:
    from headway.catalog import load
    from headway.perf import calibration as constants

    found = constants(load().accelerator("h100-sxm"), "vllm")
    rows = [("constant", "H100 SXM under vLLM", "from")]
    for one in dataclasses.fields(found):
        if one.name in found.provenance:
            origin = found.provenance[one.name]
            rows.append((one.name, _constant(one.name, getattr(found, one.name)), f"{origin.source} ({origin.as_of})"))
    return rows


def _constant(name: str, value: Any) -> str:
    if not isinstance(value, (int, float)):
        return ", ".join(f"{key} {100 * part:.3g} %" for key, part in value.items())
    if name.endswith("_frac"):
        return f"{100 * value:.3g} %"
    return f"{1e6 * value:g} µs" if name.endswith("_s") else show_bytes(value)


def curves() -> Rows:
    from headway.perf.curves import OPERATORS, _stored

    head = ("operator", "axes", "curves", "accelerators", "median error", "p90 error", "the worst curve's")
    return [head, *(_curves_of(operator, _stored(operator)) for operator in OPERATORS)]


def _curves_of(operator: str, found: Mapping[str, Any]) -> tuple[str, ...]:
    medians = [one.error_median_frac for one in found.values() if not math.isnan(one.error_median_frac)]
    ninths = [one.error_p90_frac for one in found.values() if not math.isnan(one.error_p90_frac)]
    accelerators = {name.split("/")[1] for name in found}
    axes = dict.fromkeys(axis for one in found.values() for axis in one.axes)
    return (
        operator,
        ", ".join(axes),
        str(len(found)),
        str(len(accelerators)),
        f"{100 * median(medians):.1f} %",
        f"{100 * median(ninths):.0f} %",
        f"{100 * max(medians):.0f} %, {100 * max(ninths):.0f} %",
    )


def corrections() -> Rows:
    from headway.perf.corrections import stored

    rows = [("figure", "left out", "rows", "median error", "p90 error", "bias")]
    scores = stored().get("scores", {})
    order = sorted(scores, key=lambda name: name != "uncorrected")
    for metric in scores.get("uncorrected", {}):
        for name in order:
            count, middle, ninth, bias = scores[name][metric]
            said = "no corrections at all" if name == "uncorrected" else name.removesuffix(" left out")
            errors = (f"{100 * middle:.1f} %", f"{100 * ninth:.1f} %", f"{100 * bias:+.1f} %")
            rows.append((metric, said, f"{count:,}", *errors))
    return rows


def correction_levels() -> Rows:
    from headway.perf.corrections import LEVELS, PARTS, stored

    fit = stored()["fits"]["all"]
    rows: Rows = [("level", "keys seen", *PARTS)]
    for level in LEVELS:
        sizes = fit.get("sd", {}).get(level, [0.0] * len(PARTS))
        found = fit["effects"].get(level, {})
        rows.append((level, str(len(found)), *(f"{size:g}" if size else "–" for size in sizes)))
    return rows


def bands() -> Rows:
    """The 90 % band of each metric by what was measured of a deployment's kind, over all loads."""
    from headway.perf.bands import LIKENESSES, stored

    known, at = stored(), stored()["confidences"].index(0.9)
    rows = [("figure", "measured before", "truth lies within", "rows", "groups")]
    for metric in (name for name in known["sets"]["all"] if "|" not in name):
        for likeness in LIKENESSES:
            if found := known["sets"]["all"].get(f"{metric} | {likeness}"):
                low, high = found[2 + at], found[2 + len(known["confidences"]) + at]
                spread = f"{100 * math.expm1(low):+.0f} % … {100 * math.expm1(high):+.0f} %"
                rows.append((metric, likeness, spread, f"{found[0]:,}", f"{found[1]:,}"))
    return rows


TABLES: dict[str, Callable[[], Rows]] = {
    "accelerators": accelerators,
    "models": models,
    "engines": engines,
    "links": links,
    "profiles": profiles,
    "profile-facts": profile_facts,
    "formats": formats,
    "defaults": defaults,
    "calibration": calibration,
    "curves": curves,
    "corrections": corrections,
    "correction-levels": correction_levels,
    "bands": bands,
}


def fields(path: str) -> Rows:
    """The fields of a dataclass: name, type, and the comment beside it."""
    module, _, name = path.rpartition(".")
    noun = getattr(import_module(module), name)
    return [("field", "type", "what it is"), *_fields(noun)]


def _fields(noun: type) -> Iterator[tuple[str, str, str]]:
    lines = inspect.getsource(noun).splitlines()
    body = ast.parse("\n".join(lines)).body[0]
    assert isinstance(body, ast.ClassDef)
    for statement in body.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            _, _, comment = lines[(statement.end_lineno or 1) - 1].partition("  # ")
            yield statement.target.id, ast.unparse(statement.annotation), comment


def table(rows: Rows) -> nodes.table:
    """Return rows as a table; the first is the head."""
    group = nodes.tgroup(cols=len(rows[0]))
    group += [nodes.colspec(colwidth=1) for _ in rows[0]]
    head, body = nodes.thead(), nodes.tbody()
    head += _row(rows[0], literal=False)
    body += [_row(row, literal=True) for row in rows[1:]]
    group += [head, body]
    whole = nodes.table()
    whole += group
    return whole


def _row(cells: tuple[str, ...], *, literal: bool) -> nodes.row:
    row = nodes.row()
    for index, cell in enumerate(cells):
        text = nodes.literal(cell, cell) if literal and index == 0 else nodes.Text(cell)
        row += nodes.entry("", nodes.paragraph("", "", text))
    return row


class Table(Directive):
    """One of `TABLES`."""

    required_arguments = 1
    option_spec: ClassVar[dict[str, Any]] = {}

    def run(self) -> list[nodes.Node]:
        return [table(TABLES[self.arguments[0]]())]


class Noun(Directive):
    """A dataclass: its name, which other pages may link to, what its docstring says first, and its fields."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        path = self.arguments[0]
        module, _, name = path.rpartition(".")
        summary = (inspect.getdoc(getattr(import_module(module), name)) or "").partition("\n\n")[0].replace("\n", " ")
        text = [f".. py:class:: {path}", "", f"   {summary.replace('`', '``')}"]
        holder = nodes.container()
        self.state.nested_parse(StringList(text, source=path), self.content_offset, holder)
        return [*holder.children, table(fields(path))]


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("headway-table", Table)
    app.add_directive("headway-noun", Noun)
    return {"parallel_read_safe": True}
