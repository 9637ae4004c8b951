"""`headway watch`: its options, and a line for each window."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING

import click

from headway.cli.common import duration, emit, examples, key_of
from headway.errors import EvidenceError, InputError

if TYPE_CHECKING:
    from headway.api.watches import Watch, WatchedWindow
    from headway.perf.endpoint import EndpointCalibration


@click.command(
    "watch",
    epilog=examples(
        "headway watch --calibration my-gpu --url http://127.0.0.1:8000",
        "headway watch --calibration my-gpu --prometheus http://127.0.0.1:9090 --selector 'job=\"llm\"'",
        "headway watch --calibration my-gpu --url http://127.0.0.1:8000 --windows 5 --check",
    ),
)
@click.option("--calibration", required=True, metavar="NAME|FILE", help="What the server is held to.")
@click.option("--url", help="Of the server; its /metrics are scraped.")
@click.option("--prometheus", metavar="URL", help="Of a Prometheus server that scrapes it, in place of --url.")
@click.option("--selector", default="", metavar="MATCHERS", help="Labels that pick the server there: 'job=\"llm\"'.")
@click.option("--window", "window_s", callback=duration, default="60 s", show_default=True, help="Length of a window.")
@click.option("--windows", type=int, help="So many windows; until Ctrl-C if left out.")
@click.option("--once", is_flag=True, help="One window.")
@click.option("--osl", "osl_tokens", type=float, help="Mean output tokens, for llama-server: it counts no requests.")
@click.option(
    "--tolerance", "tolerance_frac", type=float, default=0.1, show_default=True, help="Off by less is in order."
)
@click.option(
    "--false-alarm-windows",
    "windows_per_false_alarm",
    type=float,
    default=1000,
    show_default=True,
    help="Windows between two false alarms, on average, at least.",
)
@click.option("--key-env", metavar="VARIABLE", help="The environment variable with the API key.")
@click.option("--key-file", metavar="FILE", help="The file with the API key.")
@click.option("--allow-public", is_flag=True, help="Allow an address that is neither loopback nor private.")
@click.option(
    "--check",
    is_flag=True,
    help="Exit with 1 where the calibration has drifted, with 4 where too little could be judged.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines: one per window, then all of it.")
def command(
    calibration: str,
    url: str | None,
    prometheus: str | None,
    selector: str,
    window_s: float,
    windows: int | None,
    osl_tokens: float | None,
    tolerance_frac: float,
    windows_per_false_alarm: float,
    key_env: str | None,
    key_file: str | None,
    *,
    allow_public: bool,
    once: bool,
    check: bool,
    as_json: bool,
) -> None:
    """Compare a server's own metrics, window by window, with what its calibration expects.

    Each window's traffic is simulated with the calibration's terms; a sequential rule with a stated rate of false
    alarms says `holds`, `drifting` or `drifted since`, and which part of the model it looks like.
    """
    from headway.api import watch

    if once and windows is not None:
        raise InputError("--once is one window", place="--windows", hint="give one of the two")
    found = watch(
        calibration,
        url=url,
        prometheus=prometheus,
        selector=selector,
        window_s=window_s,
        windows=1 if once else windows,
        osl_tokens=osl_tokens,
        tolerance_frac=tolerance_frac,
        windows_per_false_alarm=windows_per_false_alarm,
        must_decide=check,
        key=key_of(key_env, key_file),
        allow_public=allow_public,
        told=lambda window: emit(_json("watch window", window) if as_json else _line(window)),
    )
    if as_json:
        emit(_json("watch", found))
    elif found.drifted:
        words = recalibrating(found.known, url, key_env, key_file, allow_public=allow_public)
        emit(f"recalibrate: {shlex.join(words)}\n")
    if found.drifted and check:
        click.get_current_context().exit(1)
    if check:
        _check_decided(found, windows_per_false_alarm)


def _check_decided(found: Watch, windows_per_false_alarm: float) -> None:
    """Refuse to say that a calibration holds where too few windows told anything.

    Raises:
        EvidenceError: they could not have raised the alarm.
    """
    from headway.calibration.watching import deciding_windows

    least = deciding_windows(windows_per_false_alarm)
    if found.judged < least:
        raise EvidenceError(
            f"{found.judged} of {len(found.windows)} windows could be judged, {least} are needed: nothing is decided"
        )


def recalibrating(
    known: EndpointCalibration, url: str | None, key_env: str | None, key_file: str | None, *, allow_public: bool
) -> list[str]:
    """Return the command that calibrates the same server again, into a file beside."""
    named = {
        "--name": known.name,
        "--hardware": known.hardware if known.hardware != "unnamed" else "",
        "--tp": str(known.tp) if known.tp > 1 else "",
        "--weights": known.weight_dtype if known.weight_dtype != "bf16" else "",
        "--kv": known.kv_dtype if known.kv_dtype != "bf16" else "",
        "--key-env": key_env,
        "--key-file": key_file,
    }
    options = [word for option, value in named.items() if value for word in (option, value)]
    public = ["--allow-public"] if allow_public else []
    file = f"{known.name}-again.yaml"
    return ["headway", "calibrate", "endpoint", url or "URL", "--out", file, *options, *public]


def _json(verb: str, found: WatchedWindow | Watch) -> str:
    """Return a document as one line."""
    from headway.api.documents import document

    return json.dumps(document(verb, found), ensure_ascii=False, allow_nan=False) + "\n"


def _line(window: WatchedWindow) -> str:
    """Return a window as a line, and one below it for each figure."""
    head = f"{window.began}  {window.state}{f' ({window.part})' if window.part else ''}"
    if window.traffic is None:
        return f"{head}  {window.note}\n"
    load = window.traffic
    lengths = f"ISL {load.isl_tokens:.0f} ({load.cached_frac:.0%} cached), OSL {load.osl_tokens:.0f}"
    lines = [f"{head}  {load.requests} requests, {load.per_s:.3g}/s, {lengths}"]
    for name, one in window.figures.items():
        lines.append(
            f"    {name:<4} measured {1e3 * one.measured:.4g} ms, expected {1e3 * one.expected:.4g} ms "
            f"(90 %: {1e3 * one.low:.4g} to {1e3 * one.high:.4g}), {one.measured / one.expected - 1:+.0%}"
        )
    lines += [f"    {window.note}"] if window.note else []
    return "\n".join(lines) + "\n"
