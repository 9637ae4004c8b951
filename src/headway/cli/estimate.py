"""`headway estimate`: its options and its page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from headway import units
from headway.cli.common import catalog_option, choice_from, choice_options, examples, json_option, show
from headway.errors import InputError
from headway.pictures.page import ABSENT, Lines, Page, Table, in_band, seconds

if TYPE_CHECKING:
    from headway.api.steps import Estimate


@click.command(
    epilog=examples(
        "headway estimate --model Qwen/Qwen3-32B --accelerator h100 --tp 2 --batch 64 --context 4000",
        "headway estimate chat.yaml --accelerator l40s --batch 0 --prefill 2048@0",
    )
)
@click.argument("scenario", required=False)
@choice_options
@click.option("--batch", "decodes", type=int, default=64, show_default=True, help="Sequences that decode in the step.")
@click.option("--context", "context_tokens", type=int, default=2000, show_default=True, help="Tokens each has in KV.")
@click.option(
    "--prefill", "chunks", multiple=True, metavar="NEW@DONE", help="A prefill chunk: 2048@0 is 2048 new tokens on none."
)
@catalog_option
@json_option
def command(
    scenario: str | None,
    decodes: int,
    context_tokens: int,
    chunks: tuple[str, ...],
    files: tuple[str, ...],
    *,
    as_json: bool,
    **chosen: Any,
) -> None:
    """Estimate one engine step: where time and memory go.

    Model, accelerator and settings are those of the options, or the scenario's where it allows one only.
    """
    from headway.api import estimate

    found = estimate(
        scenario,
        choice_from(chosen),
        decodes=decodes,
        context_tokens=context_tokens,
        chunks=[_chunk(text) for text in chunks],
        files=files,
    )
    show("estimate", found, estimate_page, as_json=as_json)


def _chunk(text: str) -> tuple[int, int]:
    new, _, computed = text.partition("@")
    if not (new.isdecimal() and (computed or "0").isdecimal()):
        raise InputError(f"expected NEW@DONE such as 2048@0, got {text!r}", place="--prefill")
    return int(new), int(computed or "0")


def estimate_page(found: Estimate) -> Page:
    """Return the page of an estimate."""
    pool, step = found.pool, found.step
    headline = (
        f"{pool.model.name} on {pool.parallelism} {pool.accelerator.name}, {pool.weight_dtype} weights, "
        f"{pool.kv_dtype} KV, {pool.engine} {pool.engine_version}: a step takes "
        f"{in_band(step.total_s, found.band)}, {found.source}."
    )
    return Page(headline=headline, parts=(_operators(found), _summary(found), _memory(found), _sources(found)))


def _operators(found: Estimate) -> Table:
    step = found.step
    rows = [
        (
            op.name,
            f"{op.count:,.0f}",
            units.show_count(float(op.flops), "FLOP") if op.flops else ABSENT,
            units.show_bytes(float(op.moved_bytes)) if op.moved_bytes else ABSENT,
            seconds(float(op.time_s)),
            units.show_frac(float(op.time_s) / step.total_s),
            _bound(op),
        )
        for op in step.operators
    ]
    rows.append(
        (
            "host and launch, exposed",
            "",
            "",
            "",
            seconds(step.exposed_s),
            units.show_frac(step.exposed_s / step.total_s),
            "host",
        )
    )
    if step.correction_s:
        share = units.show_frac(step.correction_s / step.total_s)
        rows.append(("whole engines, measured", "", "", "", seconds(step.correction_s), share, ABSENT))
    return Table(
        title=f"One step on one GPU, {found.source}: {_batch(found)}",
        columns=("operator", "count", "FLOPs", "HBM bytes", "time", "share", "bound by"),
        align="lrrrrrl",
        rows=tuple(rows),
    )


def _batch(found: Estimate) -> str:
    parts = [f"{found.decodes} decodes at {found.context_tokens:,} tokens"] if found.decodes else []
    parts += [f"prefill of {new:,} on {computed:,}" for new, computed in found.chunks]
    return ", ".join(parts)


def _bound(operator: Any) -> str:
    shares = {
        "compute": float(operator.compute_s),
        "memory": float(operator.memory_s),
        "link": float(operator.communication_s),
        "launch": float(operator.fixed_s),
    }
    return max(shares, key=lambda name: shares[name])


def _summary(found: Estimate) -> Lines:
    step, pool = found.step, found.pool
    launched = "a CUDA graph is replayed" if step.graph else "kernels are launched one by one"
    achieved = [units.show_frac(found.achieved_flops_frac), units.show_frac(found.achieved_bytes_frac)]
    where = "beside the GPU" if pool.settings.async_scheduling else "before the GPU"
    padding = f", padded to {step.padded_tokens:,}" if step.padded_tokens != step.tokens else ""
    lines = (
        f"{step.tokens:,} tokens{padding}; {launched}",
        f"{achieved[0]} of peak FLOP/s and {achieved[1]} of peak HBM bandwidth",
        f"GPU {seconds(step.gpu_s)}, host {seconds(step.host_s)} ({where}), exposed {seconds(step.exposed_s)}",
        f"{_tokens(found)} output tokens/s of one replica, if every step were this one",
        f"in brackets: what holds {units.show_frac(found.band.confidence_frac)} of {found.band.source}",
    )
    return Lines(title="In all", lines=lines)


def _tokens(found: Estimate) -> str:
    value, band = found.output_tokens_per_s, found.output_tokens_per_s_band
    return f"{value:,.0f} ({value * (1 + band.low_frac):,.0f}–{value * (1 + band.high_frac):,.0f})"


def _memory(found: Estimate) -> Table:
    plan, total = found.memory, found.pool.accelerator.hbm_bytes
    parts = (
        ("weights", plan.weights_bytes),
        ("activations, peak", plan.activation_bytes),
        ("CUDA graphs", plan.cuda_graph_bytes),
        ("process and communicators", plan.other_bytes),
        ("KV cache", plan.available_kv_bytes),
        ("left free", total - plan.requested_bytes),
    )
    per_token = units.show_bytes(plan.kv_bytes_per_token)
    blocks = f"{plan.num_gpu_blocks:,} blocks of {plan.block_size} tokens, {per_token} per token"
    return Table(
        title="Memory of one GPU, estimated",
        columns=("", "bytes", "share"),
        align="lrr",
        rows=tuple((name, units.show_bytes(size), units.show_frac(size / total)) for name, size in parts),
        note=f"KV: {blocks}; {plan.max_concurrency:,.1f} sequences of {plan.max_model_len:,} tokens fit at once",
    )


def _sources(found: Estimate) -> Lines:
    layers: dict[str, list[str]] = {}
    for name, p in found.calibration.provenance.items():
        layers.setdefault(", ".join(filter(None, (p.source, p.as_of))), []).append(name)
    lines = tuple(f"{source}: {_some(names)}" for source, names in layers.items())
    return Lines(title="Calibrated with", lines=lines)


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
