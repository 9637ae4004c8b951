"""`headway catalog`: its options, and the pages of a listing and of one entry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from headway import units
from headway.cli.common import catalog_option, examples, json_option, names_of, show
from headway.pictures.page import ABSENT, Lines, Page, Table

if TYPE_CHECKING:
    from collections.abc import Callable

    from headway.api.facts import Fact, Listing, Sheet
KINDS = ("accelerators", "models", "engines", "links", "prices", "profiles")

Cell = tuple[str, "Callable[[Any], str]"]


@click.command(
    "list",
    epilog=examples(
        'headway catalog list accelerators --where vendor=AMD --where "hbm_bytes>=192 GB"',
        "headway catalog list prices --where accelerator=h100-sxm --where term=spot",
    ),
)
@click.argument("kind", type=click.Choice(KINDS))
@click.option(
    "--where", multiple=True, metavar="CONDITION", help="Only entries such as vendor=NVIDIA, hbm_bytes>='80 GB'."
)
@catalog_option
@json_option
def list_command(kind: Any, where: tuple[str, ...], files: tuple[str, ...], *, as_json: bool) -> None:
    """List the accelerators, models, engines, links, prices or workload profiles that are known."""
    from headway.api import catalog_list

    show("catalog list", catalog_list(kind, where=where, files=files), listing_page, as_json=as_json)


@click.command(
    "show",
    epilog=examples(
        "headway catalog show H100",
        "headway catalog show Qwen/Qwen3-32B",
    ),
)
@click.argument("name", shell_complete=names_of("accelerators", "models", "engines", "links"))
@click.option(
    "--kind", type=click.Choice([k for k in KINDS if k != "prices"]), help="Where to look; everywhere if left out."
)
@catalog_option
@json_option
def show_command(name: str, kind: Any, files: tuple[str, ...], *, as_json: bool) -> None:
    """Show one entry: every figure as its source gives it, with the source and its date."""
    from headway.api import catalog_show

    show("catalog show", catalog_show(name, kind=kind, files=files), sheet_page, as_json=as_json)


# --- pages ----------------------------------------------------------------------------------------------


def listing_page(listing: Listing) -> Page:
    """Return the page of a listing: one row per entry."""
    columns, align, cells = _COLUMNS[listing.kind]
    rows = tuple(tuple(cell(entry) for cell in cells) for entry in listing.entries)
    count = f"{len(rows)} {listing.kind if len(rows) != 1 else listing.kind.removesuffix('s')}"
    return Page(headline=count, parts=(Table(title="", columns=columns, align=align, rows=rows),) if rows else ())


def sheet_page(sheet: Sheet) -> Page:
    """Return the page of one entry: its figures, and the sources they point to."""
    sources: dict[str, int] = {}
    rows = tuple((f.name, f.value, str(_number(sources, f)), f.note) for f in sheet.facts if f.name != "title")
    table = Table(title="", columns=(sheet.kind, "as its source gives it", "source", "note"), align="llrl", rows=rows)
    listed = Lines(title="Sources", lines=tuple(f"[{number}] {source}" for source, number in sources.items()))
    return Page(headline=f"{sheet.name}: {sheet.title}", parts=(table, listed))


def _number(sources: dict[str, int], fact: Fact) -> int:
    """The number of a fact's source, a new one where it is new."""
    return sources.setdefault(f"{fact.source}, {fact.as_of}", len(sources) + 1)


def _flops(name: str) -> Callable[[Any], str]:
    def cell(accelerator: Any) -> str:
        peak = accelerator.peak_flops_per_s.get(name)
        return f"{peak / 1e12:,.0f}" if peak else ABSENT

    return cell


def _accelerator_cells() -> tuple[tuple[str, ...], str, tuple[Callable[[Any], str], ...]]:
    columns = ("name", "vendor", "memory", "GB/s", "bf16 TFLOP/s", "fp8", "fp4", "scale-up GPUs", "GB/s", "W")
    cells = (
        lambda a: a.name,
        lambda a: a.vendor,
        lambda a: units.show_bytes(a.hbm_bytes),
        lambda a: f"{a.hbm_bytes_per_s / 1e9:,.0f}",
        *(_flops(name) for name in ("bf16", "fp8", "fp4")),
        lambda a: str(a.scale_up_gpus),
        lambda a: f"{a.scale_up_bytes_per_s / 1e9:,.0f}",
        lambda a: f"{a.board_power_w:,.0f}" if a.board_power_w else ABSENT,
    )
    return columns, "llrrrrrrrr", cells


def _attention(model: Any) -> str:
    kind = "MLA" if model.is_mla else f"{model.num_attention_heads}/{model.num_key_value_heads} heads"
    parts = [kind]
    if model.sliding_window_layers:
        parts.append(f"window {model.sliding_window}")
    if model.linear_attention_layers:
        parts.append("linear")
    return ", ".join(parts)


def _experts(model: Any) -> str:
    return f"{model.num_experts_per_tok} of {model.num_experts}" if model.is_moe else ABSENT


def _model_cells() -> tuple[tuple[str, ...], str, tuple[Callable[[Any], str], ...]]:
    columns = ("name", "params", "active", "layers", "attention", "experts", "context", "weights")
    cells = (
        lambda m: m.name,
        lambda m: units.show_count(m.params),
        lambda m: units.show_count(m.params_active),
        lambda m: str(m.num_hidden_layers),
        _attention,
        _experts,
        lambda m: f"{m.max_position_embeddings:,}",
        lambda m: m.weight_dtype,
    )
    return columns, "lrrrllrl", cells


_COLUMNS: dict[str, tuple[tuple[str, ...], str, tuple[Callable[[Any], str], ...]]] = {
    "accelerators": _accelerator_cells(),
    "models": _model_cells(),
    "engines": (
        ("name", "version", "vendors", "memory share", "block", "simulated"),
        "lllrrl",
        (
            lambda e: e.name,
            lambda e: e.version,
            lambda e: ", ".join(e.vendors),
            lambda e: ABSENT if e.gpu_memory_utilization is None else f"{e.gpu_memory_utilization:g}",
            lambda e: ABSENT if e.block_size is None else str(e.block_size),
            lambda e: "yes" if e.simulated else "no",
        ),
    ),
    "links": (
        ("name", "title", "GB/s each way", "latency"),
        "llrr",
        (
            lambda link: link.name,
            lambda link: link.title,
            lambda link: f"{link.bytes_per_s / 1e9:,.4g}",
            lambda link: units.show_s(link.latency_s) if link.latency_s is not None else ABSENT,
        ),
    ),
    "prices": (
        ("accelerator", "$/GPU-hour", "term", "provider", "region", "instance", "GPUs", "as of"),
        "lrllllrr",
        (
            lambda p: p.accelerator,
            lambda p: f"{p.usd_per_gpu_hour:,.3f}",
            lambda p: p.term,
            lambda p: p.provider,
            lambda p: p.zone or p.region,
            lambda p: p.instance,
            lambda p: f"{p.gpus_per_instance:g}",
            lambda p: p.as_of,
        ),
    ),
    "profiles": (
        ("name", "title", "req/s", "from requests", "source"),
        "llrrl",
        (
            lambda p: p.name,
            lambda p: p.title,
            lambda p: f"{p.rate_per_s:.3g}",
            lambda p: f"{p.rows:,}",
            lambda p: p.source,
        ),
    ),
}
