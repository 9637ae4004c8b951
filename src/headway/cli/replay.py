"""`headway replay`: its options, its progress and the files of `--out`."""

from __future__ import annotations

import contextlib
import math
import sys
from typing import TYPE_CHECKING, Any

import click

from headway.cli.common import (
    duration,
    examples,
    json_option,
    key_of,
    out_option,
    pairs,
    rate_option,
    show,
    write_out,
)
from headway.errors import EvidenceError, InputError
from headway.units import parse_quantity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from headway.api.paces import Pace
    from headway.api.replays import Replayed
    from headway.probe.client import Progress
    from headway.probe.limits import Limits

#: What a run that somebody stopped returns, as everywhere on the command line.
INTERRUPTED = 130
#: Another tool's format -> its file in the folder.
FORMATS = {"aiperf": "profile_export.jsonl", "guidellm": "guidellm.json", "vllm-bench": "vllm-bench.json"}


def _window(_context: click.Context, option: click.Parameter, text: str | None) -> tuple[float, float] | None:
    return None if text is None else _pair(text, "time", option.opts[0])


def _ramp(_context: click.Context, option: click.Parameter, text: str | None) -> tuple[float, float] | None:
    return None if text is None else _pair(text, "count", option.opts[0])


def _pair(text: str, dimension: str, option: str) -> tuple[float, float]:
    try:
        low, high = (parse_quantity(word, dimension) for word in text.split(".."))
    except ValueError as error:
        raise InputError(f"expected FROM..TO: {error}", place=option) from None
    return low, high


def _numbers(_context: click.Context, option: click.Parameter, text: str | None) -> tuple[float, ...]:
    try:
        found = tuple(float(word) for word in text.split(",")) if text else ()
    except ValueError:
        found = (math.nan,)
    if not all(map(math.isfinite, found)):
        raise InputError(f"expected numbers with commas between, got {text!r}", place=option.opts[0])
    return found


def _share(_context: click.Context, option: click.Parameter, text: str) -> float:
    try:
        return parse_quantity(text, "frac")
    except ValueError as error:
        raise InputError(str(error), place=option.opts[0]) from None


_OPTIONS = (
    click.option("--url", required=True, help="The endpoint, e.g. http://127.0.0.1:8000."),
    click.option("--model", help="Which of its models; the only one if left out."),
    click.option(
        "--api", type=click.Choice(("completions", "chat")), default="completions", show_default=True, help="Its route."
    ),
    click.option("--engine", help="vllm, sglang, llama-cpp, tgi, tensorrt-llm: where it does not tell."),
    click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="A server setting it does not tell."),
    click.option("--key-env", metavar="NAME", help="The environment variable with the API key."),
    click.option("--key-file", metavar="FILE", help="The file with the API key."),
    click.option("--allow-public", is_flag=True, help="Allow an address that is neither loopback nor private."),
    click.option("--requests", type=int, help="The first so many: a trace's own number, or 200, if left out."),
    click.option(
        "--window", callback=_window, metavar="FROM..TO", help="Of a trace, what arrives within: '0 s..60 s'."
    ),
    click.option("--duration", callback=duration, metavar="TIME", help="Send nothing after so long."),
    click.option("--scale", "rate_factor", type=float, default=1.0, show_default=True, help="Multiplies the rate."),
    rate_option,
    click.option(
        "--concurrency", callback=_numbers, metavar="N[,N…]", help="Closed loop of so many clients, or in steps."
    ),
    click.option("--turnaround", callback=duration, metavar="TIME", help="A client's pause before its next request."),
    click.option("--steps", callback=_numbers, metavar="R,R,…", help="Rising rates in req/s, one after the other."),
    click.option("--ramp", callback=_ramp, metavar="R..R", help="A rate that rises evenly, in req/s."),
    click.option("--step-duration", callback=duration, metavar="TIME", help="Length of a step, or of the ramp."),
    click.option(
        "--scale-isl", "isl_frac", type=float, default=1.0, show_default=True, help="Multiplies prompt lengths."
    ),
    click.option(
        "--scale-osl", "osl_frac", type=float, default=1.0, show_default=True, help="Multiplies output lengths."
    ),
    click.option("--cancel", callback=_share, default="0 %", show_default=True, help="Share of clients that hang up."),
    click.option("--cancel-after", callback=duration, default="1 s", show_default=True, help="When they do."),
    click.option(
        "--calibration",
        metavar="NAME|FILE",
        help="Predict the load before it is sent, by this calibration of the server.",
    ),
    click.option("--timeout", callback=duration, default="10 min", show_default=True, help="For one request."),
    click.option(
        "--stall", callback=duration, default="2 min", show_default=True, help="Without a byte from the server."
    ),
    click.option("--retries", type=int, default=3, show_default=True, help="After 429 or 503 with Retry-After."),
    click.option("--budget", callback=duration, default="1 h", show_default=True, help="The run ends after so long."),
    click.option(
        "--scrape/--no-scrape", default=True, show_default=True, help="Look at the server's metrics meanwhile."
    ),
    click.option("--scrape-interval", callback=duration, default="1 s", show_default=True, help="How often."),
    click.option("--seed", type=int, default=0, show_default=True, help="Seed of everything drawn."),
    click.option(
        "--format",
        "form",
        type=click.Choice(tuple(FORMATS)),
        help="Write the requests in another tool's format too (--out).",
    ),
)


def replay_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of a replay."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.command(
    epilog=examples(
        "headway replay chat.yaml --url http://127.0.0.1:8000 --out replay",
        "headway replay day.csv --url http://127.0.0.1:8000 --requests 200 --scale 2",
        "headway replay chat.yaml --url http://127.0.0.1:8000 --steps 1,2,4,8 --step-duration '60 s'",
        "headway replay chat.yaml --url http://127.0.0.1:8000 --calibration mycluster.yaml",
        "headway replay profile:azure-code --url http://127.0.0.1:8000 --concurrency 16 --duration '2 min'",
    )
)
@click.argument("source", metavar="SCENARIO|TRACE")
@replay_options
@out_option
@json_option
def command(source: str, out: str | None, form: str | None, *, as_json: bool, **chosen: Any) -> int:
    """Send traffic to a real endpoint and time every token.

    A scenario gives traffic and SLO, a trace of any known format (or `profile:NAME`) traffic alone. Latencies count
    from when a request was due, so that neither a slow client nor a full server hides what waited.
    """
    from headway.api import replay
    from headway.cli.replay_page import replay_page

    key, pace, limits = key_of(chosen["key_env"], chosen["key_file"]), _pace(chosen), _limits(chosen)
    _check_out(out, form)
    with _progress() as progress:
        found = replay(
            source,
            chosen["url"],
            pace,
            model=chosen["model"],
            api=chosen["api"],
            engine=chosen["engine"],
            settings=pairs(chosen["settings"], "--set"),
            key=key,
            limits=limits,
            requests=chosen["requests"],
            window_s=chosen["window"],
            isl_frac=chosen["isl_frac"],
            osl_frac=chosen["osl_frac"],
            cancel_frac=chosen["cancel"],
            cancel_after_s=chosen["cancel_after"],
            calibration=chosen["calibration"],
            scrape_interval_s=chosen["scrape_interval"] if chosen["scrape"] else None,
            seed=chosen["seed"],
            progress=progress,
        )
    write_out(out, lambda: replayed_files(found, form))
    show("replay", found, replay_page, as_json=as_json)
    return _code(found)


def _code(found: Replayed) -> int:
    if "Ctrl-C" in found.client.interrupted:
        return INTERRUPTED
    return 0 if found.answered else EvidenceError.exit_code


def _pace(chosen: dict[str, Any]) -> Pace:
    from headway.api.paces import Pace

    clients = chosen["concurrency"]
    if any(one != int(one) for one in clients):
        raise InputError("expected whole numbers of clients", place="--concurrency")
    return Pace(
        rate_factor=chosen["rate_factor"],
        rate_per_s=chosen["rate_per_s"],
        rates_per_s=chosen["steps"],
        ramp_per_s=chosen["ramp"],
        clients=tuple(int(one) for one in clients),
        turnaround_s=chosen["turnaround"] or 0.0,
        step_s=chosen["step_duration"],
        duration_s=chosen["duration"],
    )


def _limits(chosen: dict[str, Any]) -> Limits:
    from headway.probe.limits import Limits

    return Limits(
        duration_s=chosen["budget"],
        request_timeout_s=chosen["timeout"],
        stall_timeout_s=chosen["stall"],
        retries=chosen["retries"],
        allow_public=chosen["allow_public"],
    )


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[Progress], None] | None]:
    """Show on stderr how far a run is; silent where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich import progress as rich
    from rich.console import Console

    text = rich.TextColumn("{task.completed:,} of {task.total:,} done")
    more = rich.TextColumn("{task.fields[in_flight]:,} in flight, {task.fields[failed]:,} failed")
    columns = (rich.SpinnerColumn(), rich.BarColumn(), text, more, rich.TimeElapsedColumn())
    with rich.Progress(*columns, console=Console(stderr=True), transient=True) as display:
        task = display.add_task("", total=1, in_flight=0, failed=0)

        def told(now: Progress) -> None:
            display.update(task, total=now.of, completed=now.ended, in_flight=now.in_flight, failed=now.failed)

        yield told


# --- --out ----------------------------------------------------------------------------------------------

_PICTURES = tuple(f"{name}.{end}" for name in ("latency", "timeline", "over-time", "stages") for end in ("png", "svg"))
_FILES = ("replay.json", "report.html", "requests.parquet", "metrics.parquet", *_PICTURES)


def _check_out(out: str | None, form: str | None) -> None:
    """Refuse before anything is measured what could not be written afterwards."""
    if form and out is None:
        raise InputError("say with --out where it is written", place="--format")
    if out is None:
        return
    from headway.api.folders import check_folder
    from headway.pictures.files import drawing

    check_folder(out, (*_FILES, *FORMATS.values()))
    with drawing():
        return


def replayed_files(found: Replayed, form: str | None = None) -> dict[str, bytes]:
    """Return what `--out` writes: document, report, every request, the server's metrics, pictures."""
    from headway.api.documents import dumps
    from headway.cli.replay_page import replay_page
    from headway.pictures.files import picture_files
    from headway.pictures.replays import replay_figures
    from headway.pictures.report import report
    from headway.probe.scrape_files import scrape_bytes
    from headway.workload.columnar import parquet_bytes

    engine = " ".join(word for word in (found.endpoint.engine, found.endpoint.version) if word)
    title = f"{found.workload} against {engine or found.endpoint.url}"
    figures = replay_figures(found.latencies_s, found.due_s, found.slo, found.series, found.stages, found.knee, title)
    pictures = picture_files(figures)
    shown = {
        "Latency (measured)": ("Latency over requests", pictures["latency.svg"]),
        "Stages, measured": ("Output and latency by stage", pictures.get("stages.svg", b"")),
        "Client and server": ("Requests in flight, and the server's own metrics", pictures["timeline.svg"]),
        "Sent as asked for?": ("Each request's latencies", pictures["over-time.svg"]),
    }
    text = report(replay_page(found), {k: v for k, v in shown.items() if v[1]}, title=f"headway replay: {title}")
    return {
        "replay.json": dumps("replay", found).encode(),
        "report.html": text.encode(),
        "requests.parquet": parquet_bytes(found.trace),
        **({"metrics.parquet": scrape_bytes(found.scrape)} if found.scrape else {}),
        **({FORMATS[form]: _exported(found, form)} if form else {}),
        **pictures,
    }


def _exported(found: Replayed, form: str) -> bytes:
    """The requests as another tool writes them."""
    import datetime as dt

    from headway.workload.writer_results import WRITERS
    from headway.workload.writer_rows import RunAbout, sent_rows

    about = RunAbout(
        model=found.endpoint.model,
        started_s=dt.datetime.fromisoformat(found.started).timestamp(),
        concurrency=found.load.clients,
    )
    return WRITERS[form](sent_rows(found.trace), about).encode()
