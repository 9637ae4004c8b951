"""`headway calibrate`: its options and the page of a recording."""

from __future__ import annotations

import contextlib
import shlex
import sys
from typing import TYPE_CHECKING, Any

import click

from headway import units
from headway.cli.common import catalog_option, duration, examples, json_option, key_of, pairs, show
from headway.pictures.page import ABSENT, Commands, Lines, Page, Table, seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from headway.api.endpoints import Calibrated
    from headway.kernels import Recording
    from headway.perf.endpoint import EndpointCalibration
    from headway.pictures.page import Part


_SERVER_OPTIONS = (
    click.option("--out", "file", metavar="FILE", required=True, help="Where the calibration goes; ends in .yaml."),
    click.option("--name", help="What --calibration finds it by in calibrations/; the file's name if left out."),
    click.option("--model", help="Of the endpoint's models; or the model's name."),
    click.option("--engine", help="vllm, sglang, llama-cpp, tgi, tensorrt-llm: where it does not tell."),
    click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="A server setting it does not tell."),
    click.option("--hardware", help="What it runs on, by its name in the catalogue or any other."),
    click.option("--tp", type=int, help="Tensor-parallel size; 1 if left out."),
    click.option("--weights", "weight_dtype", help="Number format of the weights; bf16 if left out."),
    click.option("--kv", "kv_dtype", help="Number format of the KV cache; bf16 if left out."),
)


def _server_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(_SERVER_OPTIONS):
        command = option(command)
    return command


@click.command(
    "endpoint",
    epilog=examples(
        "headway calibrate endpoint http://127.0.0.1:8000 --out mine.yaml",
        "headway calibrate endpoint http://10.0.0.7:8000 --traffic chat.yaml --budget '10 min' --hardware h100-sxm "
        "--set max_num_seqs=256 --set max_num_batched_tokens=8192 --out h100-chat.yaml",
    ),
)
@click.argument("url")
@_server_options
@click.option("--traffic", "source", metavar="SCENARIO|TRACE", help="Whose lengths to send; a spread if left out.")
@click.option(
    "--budget", "budget_s", callback=duration, default="5 min", show_default=True, help="How long to measure."
)
@click.option("--keep", metavar="DIR", help="A new folder for the requests of every run; calibrate fit reads them.")
@click.option("--scale-isl", "isl_frac", type=float, default=1.0, show_default=True, help="Multiplies prompt lengths.")
@click.option("--scale-osl", "osl_frac", type=float, default=1.0, show_default=True, help="Multiplies output lengths.")
@click.option("--key-env", metavar="NAME", help="The environment variable with the API key.")
@click.option("--key-file", metavar="FILE", help="The file with the API key.")
@click.option("--allow-public", is_flag=True, help="Allow an address that is neither loopback nor private.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the prompts.")
@json_option
def endpoint_command(
    url: str,
    file: str,
    settings: tuple[str, ...],
    key_env: str | None,
    key_file: str | None,
    *,
    as_json: bool,
    **options: Any,
) -> None:
    """Measure an OpenAI-compatible server with a few designed runs and fit a model of it.

    Closed loops of a few sizes are sent, the next one always that which tells most about what is not known yet. The
    model is that of the simulator: the time of an engine step, with the engine's own scheduling rules. What is written
    is taken by name: `headway simulate --calibration FILE`, `headway plan --calibration FILE`.
    """
    from headway.api import calibrate_endpoint

    given = {name: value for name, value in options.items() if value is not None}
    with _progress() as progress:
        found = calibrate_endpoint(
            url, file, settings=pairs(settings, "--set"), key=key_of(key_env, key_file), progress=progress, **given
        )
    show("calibrate endpoint", found, calibration_page, as_json=as_json)


@click.command(
    "fit",
    epilog=examples(
        "headway calibrate fit replay-1 replay-2 replay-3 --like mine.yaml --out better.yaml",
        "headway calibrate fit bench-c1.json bench-c8.json bench-c32.json --engine vllm --set max_model_len=8192 "
        "--set max_num_seqs=256 --out mine.yaml",
        "headway calibrate fit day.json --like mine.yaml --out live.yaml       an answer of Prometheus",
    ),
)
@click.argument("runs", metavar="RUN…", nargs=-1, required=True)
@_server_options
@click.option("--like", metavar="NAME|FILE", help="A calibration of the same server, for what is not said here.")
@click.option("--engine-version", default="", help="Of the engine.")
@click.option("--part", type=int, help="Which of several benchmarks in a file, from 1.")
@click.option("--osl", "osl_tokens", type=float, help="Mean output length: llama-server's metrics count no requests.")
@json_option
def fit_command(runs: tuple[str, ...], file: str, settings: tuple[str, ...], *, as_json: bool, **options: Any) -> None:
    """Fit a model of a server to saved runs.

    A run is a folder or file of `headway replay --out`, or a result of AIPerf, GuideLLM or `vllm bench serve`: with
    every request, or a summary alone. Or it is the server's own metrics: `metrics.parquet` of a replay, or a saved
    answer of Prometheus to a range query, of which every window of steady load is a run. The less a file holds, the
    wider the bands.
    """
    from headway.api import calibrate_fit

    given = {name: value for name, value in options.items() if value is not None}
    with _progress() as progress:
        found = calibrate_fit(runs, file, settings=pairs(settings, "--set"), progress=progress, **given)
    show("calibrate fit", found, calibration_page, as_json=as_json)


def calibration_page(found: Calibrated) -> Page:
    """Return the page of a calibration."""
    made = found.calibration
    requests = sum(run.requests for run in made.runs)
    cut = " Measuring was stopped; this is what was measured by then." if found.interrupted else ""
    server = f"{made.engine} {made.engine_version} with {made.model} on {made.hardware}"
    told = f"{counted(len(made.runs), 'run')}, {counted(requests, 'request')}"
    headline = f"{server}, fitted to {told}, measured: {found.file}.{cut}"
    untold = tuple(f"{name}: {why}" for name, why in made.uncertainty.not_identified.items())
    known = found.endpoint.assumed if found.endpoint else {}
    if found.async_scheduling:
        known = {**known, "async_scheduling": found.async_scheduling}
    assumed = tuple(f"{name}: {why}" for name, why in known.items())
    parts: tuple[Part, ...] = (
        *((Lines(title="To be known", lines=_warnings(found)),) if found.warnings else ()),
        _terms(made),
        _left_out(made),
        *((Lines(title="Not told by these runs", lines=untold),) if untold else ()),
        *((Lines(title="Taken for granted of runs without requests", lines=found.granted),) if found.granted else ()),
        *((Lines(title="Assumed of the server; --set says otherwise", lines=assumed),) if assumed else ()),
        *((_next_runs(found),) if found.next_runs else ()),
        Commands(
            title="What to run next",
            commands=(
                f"headway simulate SCENARIO --calibration {shlex.quote(found.file)}",
                f"headway plan SCENARIO --calibration {shlex.quote(found.file)}",
            ),
        ),
    )
    return Page(headline=headline, parts=parts)


#: Lines of warnings that are shown; the document has all.
_MOST_WARNINGS = 10


def _warnings(found: Calibrated) -> tuple[str, ...]:
    rest = len(found.warnings) - _MOST_WARNINGS
    return (*found.warnings[:_MOST_WARNINGS], *((f"{rest} more: --json",) if rest > 0 else ()))


def counted(count: int, noun: str) -> str:
    """Return a count with its noun, in the plural where there is not one."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _terms(made: EndpointCalibration) -> Table:
    """Return the table of the terms."""
    from headway.perf.endpoint import SCALARS

    spread = {name: made.uncertainty.covariance[k][k] ** 0.5 for k, name in enumerate(made.uncertainty.terms)}
    rows = [
        (f"{words} of {at:,}", seconds(value), _error(spread.get(f"{table}.{at}")))
        for table, words in (("decode_s", "decode step, batch"), ("mixed_s", "step with a prompt, tokens"))
        for at, value in getattr(made.terms, table).items()
    ]
    rows += [(_WORDS[name], seconds(getattr(made.terms, name)), _error(spread.get(name))) for name in SCALARS]
    return Table(
        title="How long a step takes",
        columns=("term", "fitted", "standard error"),
        align="lrr",
        rows=tuple(rows),
        note=f"from one run to the next all steps together move by ±{units.show_frac(made.uncertainty.drift_log_sd)}"
        + (" (assumed)" if "drift_log_sd" in made.uncertainty.not_identified else ""),
    )


_WORDS = {
    "context_s_per_token": "a token of a decode's context",
    "prefill_s_per_pair": "a pair of a prompt's tokens",
    "prefill_context_s_per_token": "a token a chunk is put on",
    "sequence_s": "a sequence beside a prompt",
    "frontend_s": "front end and network, a request",
}


def _error(log_sd: float | None) -> str:
    import math

    return ABSENT if log_sd is None else f"±{units.show_frac(math.expm1(min(log_sd, 5.0)))}"


def _left_out(made: EndpointCalibration) -> Table:
    """Return how far each run was from its prediction by a fit that left it out."""
    columns = ("ttft.p50", "ttft.p95", "tpot.p50", "tpot.p95", "e2e.p50", "e2e.p95")
    rows = tuple(
        (run.name, run.evidence, f"{run.requests:,}", *(_signed(run.errors_frac.get(name)) for name in columns))
        for run in made.runs
    )
    bands = tuple(made.bands_frac.get(name) for name in columns)
    reach = ("90 % band", "", "", *(f"{_signed(b[0])} … {_signed(b[1])}" if b else ABSENT for b in bands))
    return Table(
        title="Each run predicted by a fit that left it out",
        columns=("run", "known by", "requests", *(name.upper().replace(".P", " p") for name in columns)),
        align="llr" + "r" * len(columns),
        rows=(*rows, reach),
        note="predicted ÷ measured − 1" + (_WIDER if any(run.evidence != "requests" for run in made.runs) else ""),
    )


_WIDER = "; runs known by a summary or by metrics tell less than their requests would: terms and bands are wider for it"


def _signed(frac: float | None) -> str:
    return ABSENT if frac is None else f"{100 * frac:+.0f} %"


def _next_runs(found: Calibrated) -> Table:
    rows = tuple(
        (
            one.name,
            f"{one.requests:,}",
            f"{one.isl_mean_tokens:.0f} / {one.osl_mean_tokens:.0f}",
            seconds(one.duration_s),
            units.show_frac(one.gain_frac),
        )
        for one in found.next_runs
    )
    return Table(
        title="Runs that would tell most",
        columns=("clients", "requests", "ISL / OSL", "takes", "narrower by"),
        align="lrrrr",
        rows=rows,
        note="bands by the terms; what the machine drifts by does not shrink",
    )


@click.command(
    "ops",
    epilog=examples(
        "headway calibrate ops --out h100.json",
        "headway calibrate ops --out cpu.json --device cpu --accelerator my-server --catalog mine.yaml",
    ),
)
@click.option("--out", "file", metavar="FILE", required=True, help="Where the curves go; ends in .json.")
@click.option(
    "--budget", "budget_s", callback=duration, default="3 min", show_default=True, help="How long to measure."
)
@click.option("--device", help="cuda or cpu; a GPU where there is one if left out.")
@click.option("--accelerator", help="Its entry in the catalogue; found by the device's name if left out.")
@click.option("--gpus", type=int, help="How many reduce together; all there are if left out, 1 for none.")
@catalog_option
@json_option
def ops_command(
    file: str,
    budget_s: float,
    device: str | None,
    accelerator: str | None,
    gpus: int | None,
    files: tuple[str, ...],
    *,
    as_json: bool,
) -> None:
    """Record how fast this machine runs the kernels inference is made of.

    Matrix products, attention and, with several GPUs, all-reduce are timed with PyTorch. The curves written go before
    the shipped ones: `headway estimate --curves FILE`, or `calibration: {curves: FILE}` in a scenario.
    """
    from headway.api import calibrate_ops

    with _progress() as progress:
        found = calibrate_ops(
            file,
            budget_s=budget_s,
            device=device,
            accelerator=accelerator,
            gpus=gpus,
            files=files,
            progress=progress,
        )
    show("calibrate ops", found, lambda one: recording_page(one, _next(one, file, files)), as_json=as_json)


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """Show on stderr what is timed; silent where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield lambda _what, _done, _of: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as display:
        task = display.add_task("starting", total=None)
        yield lambda what, done, of: display.update(task, description=what, completed=done, total=of)


def recording_page(found: Recording, command: str) -> Page:
    """Return the page of a recording, with the command that uses it."""
    count = f" ({found.device.count} of them)" if found.device.count > 1 else ""
    headline = (
        f"{found.device.name}{count} as {found.accelerator}, measured: {found.shapes:,} shapes in "
        f"{found.timings:,} timings, {seconds(found.duration_s)}."
    )
    skipped = tuple(f"{name}: {reason}" for name, reason in found.skipped.items())
    parts: tuple[Part, ...] = (
        _ceilings(found),
        _curves(found),
        *((Lines(title="Not recorded", lines=skipped),) if skipped else ()),
        Commands(title="What to run next", commands=(command,)),
    )
    return Page(headline=headline, parts=parts)


def _ceilings(found: Recording) -> Table:
    rows = [("memory, read and written", f"{found.copied_bytes_per_s / 1e9:,.4g} GB/s", found.copied_frac)]
    rows += [
        (f"matrices, {name}", units.show_count(rate, "FLOP/s"), found.multiplied_frac[name])
        for name, rate in found.multiplied_flops_per_s.items()
    ]
    return Table(
        title="Ceilings",
        columns=("", "measured", "of the datasheet"),
        align="lrr",
        rows=tuple((name, rate, units.show_frac(frac)) for name, rate, frac in rows),
    )


def _curves(found: Recording) -> Table:
    rows = tuple(
        (curve.name, f"{curve.shapes:,}", _shown(curve.error_median_frac), _shown(curve.error_p90_frac))
        for curve in found.curves
    )
    return Table(
        title="Curves",
        columns=("name", "shapes", "error, median", "p90"),
        align="lrrr",
        rows=rows,
        note="errors on shapes the curve was not made from; "
        f"repeats of one shape lie {units.show_frac(found.spread_median_frac)} apart (quartiles, median of all shapes)",
    )


def _shown(error_frac: float | None) -> str:
    return ABSENT if error_frac is None else units.show_frac(error_frac)


def _next(found: Recording, file: str, files: tuple[str, ...]) -> str:
    words = ["headway", "estimate", "--model", "Qwen/Qwen3-8B", "--accelerator", found.accelerator, "--curves", file]
    return shlex.join([*words, *(word for own in files for word in ("--catalog", own))])
