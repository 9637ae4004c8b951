"""What the client of `headway replay` costs, and how well it keeps time, against a server that computes nothing.

    python benchmarks/client.py [--part fidelity] [--part streams] [--part cost] [--peers aiperf,guidellm] [--json]

* fidelity: 200 requests a second for 30 s; how late each was sent, by the client's clock and as the server saw it
  arrive, against the schedule. The server's view is the same for all clients: the earliest request counts as in time.
* streams: a thousand streams and more at once; whether the client keeps up with the chunks offered, and what it says
  may be its own doing.
* cost: CPU seconds of the whole process tree for a streamed token, headway beside AIPerf and GuideLLM where they are
  asked for (`make bench-client` installs them, about 3 GB). Each replays one trace twice, with few and with many tokens
  a request: the difference is the tokens', and what starting up costs falls out.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from load_generators import GENERATORS, command, write_tokenizer
from peer_environments import UnavailableError, last_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

HERE = Path(__file__).parent
PARTS = ("fidelity", "streams", "cost")
STEP_S = 0.02  # one chunk for every stream
ISL_TOKENS = 64
#: requests a second, requests, tokens of each
FIDELITY = (200.0, 6000, 8)
#: seconds in which streams begin: a thousand requests due in one instant cannot all be written in it
RAMP_S = 2.0
#: streams at once, seconds a step, steps: 5,000 to 40,000 chunks a second
STREAMS = ((250, 0.05, 200), (1000, 0.1, 120), (1000, 0.05, 200), (2000, 0.1, 120), (2000, 0.05, 200))
COST_RATE, COST_REQUESTS, COST_TOKENS = 50.0, 500, (16, 256)


@dataclass(frozen=True, slots=True)
class Answers:
    """Bodies of a chat that wants so many tokens."""

    osl_tokens: np.ndarray[Any, np.dtype[np.int64]]
    path: str = "/v1/chat/completions"
    forced: bool = True

    def body(self, row: int, answers: Mapping[int, Any]) -> bytes:
        del answers  # no sessions
        asked = {
            "model": "paced",
            "messages": [{"role": "user", "content": "word " * ISL_TOKENS}],
            "max_tokens": int(self.osl_tokens[row]),
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        return json.dumps(asked).encode()


def send(url: str, trace: str, concurrency: int | None) -> None:
    """Replay a trace and print what the client tells of itself; run in a process of its own."""
    from headway.probe.client import send as send_load
    from headway.probe.nouns import Endpoint, Load
    from headway.workload.readers import read_trace

    requests = read_trace(Path(trace)).requests
    endpoint = Endpoint(
        url=url, engine="", version="", model="paced", settings=None, num_gpu_blocks=0, tokenizer="", metrics=False
    )
    load = Load(name="benchmark", requests=requests, concurrency=concurrency)
    sent = send_load(load, endpoint, Answers(requests.osl_tokens))
    measured = sent.trace.measured
    assert measured is not None
    assert measured.error is not None
    assert measured.itl_s is not None
    failed = int((measured.error != 0).sum())
    itl_s = [float(value) for value in np.quantile(measured.itl_s, (0.5, 0.99))] if len(measured.itl_s) else []
    print(json.dumps(asdict(sent.client) | {"failed": failed, "itl_s": itl_s}))


@contextmanager
def served(step_s: float) -> Iterator[str]:
    """The paced server in a process of its own."""
    words = [sys.executable, str(HERE / "paced_server.py"), str(step_s)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.communicate()  # closes its standard input, which ends it


def report(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{url}/report", timeout=30) as answer:
        return dict(json.load(answer))


def write_trace(path: Path, requests: int, requests_per_s: float, osl_tokens: int) -> list[float]:
    """Evenly spaced requests that share nothing, in Mooncake's format; return when they are due."""
    due_ms = [round(1000 * number / requests_per_s) for number in range(requests)]
    rows = [
        {"timestamp": due, "input_length": ISL_TOKENS, "output_length": osl_tokens, "hash_ids": [number]}
        for number, due in enumerate(due_ms)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [due / 1000 for due in due_ms]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A client against the server, and what either says."""

    client: str
    cpu_s: float
    wall_s: float
    told: dict[str, Any]  # by headway's client; empty for others
    server: dict[str, Any]

    def late_s(self, due_s: list[float], frac: float) -> float:
        """How late requests arrived at the server, against the schedule and the one that was earliest."""
        arrived_s = np.sort(np.array(self.server["arrived_s"]))
        late_s = arrived_s - np.array(due_s[: len(arrived_s)])
        return float(np.quantile(late_s - late_s.min(), frac)) if len(late_s) else float("nan")


def run(client: str, step_s: float, trace: Path, concurrency: int | None = None) -> Run:
    """Run one client on a trace against a fresh server.

    Raises:
        UnavailableError: the client is not there, or failed.
    """
    with tempfile.TemporaryDirectory() as name, served(step_s) as url:
        folder = Path(name)
        if client == "headway":
            words = [sys.executable, __file__, "send", url, str(trace), str(concurrency or 0)]
        else:
            words = command(client, url, trace, folder)
        environment = os.environ | write_tokenizer(folder / "cache")
        begun_s = time.perf_counter()
        metered = [sys.executable, str(HERE / "metered.py"), str(folder / "cpu"), *words]
        done = subprocess.run(metered, capture_output=True, text=True, check=False, env=environment, cwd=folder)
        wall_s = time.perf_counter() - begun_s
        if done.returncode:
            raise UnavailableError(last_line(done.stderr) or f"{client} ended with {done.returncode}")
        told = json.loads(last_line(done.stdout)) if client == "headway" else {}
        cpu_s = float((folder / "cpu").read_text())
        return Run(client=client, cpu_s=cpu_s, wall_s=wall_s, told=told, server=report(url))


def fidelity(clients: list[str], trace: Path) -> list[dict[str, Any]]:
    requests_per_s, requests, tokens = FIDELITY
    due_s = write_trace(trace, requests, requests_per_s, tokens)
    rows = []
    for client in clients:
        try:
            done = run(client, STEP_S, trace)
        except UnavailableError as error:
            rows.append({"client": client, "skipped": str(error)})
            continue
        late_ms = {f"p{100 * frac:g} ms": 1000 * done.late_s(due_s, frac) for frac in (0.5, 0.99, 1.0)}
        told = {f"own p{100 * float(frac):g} ms": 1000 * value for frac, value in _errors(done.told).items()}
        arrived = len(done.server["arrived_s"])
        rows.append({"client": client, "arrived": arrived, **late_ms, **told, "CPU s": done.cpu_s})
    return rows


def _errors(told: dict[str, Any]) -> dict[str, float]:
    return {frac: value for frac, value in told.get("send_error_s", {}).items() if float(frac) in (0.5, 0.99, 1.0)}


def streams(trace: Path) -> list[dict[str, Any]]:
    rows = []
    for at_once, step_s, steps in STREAMS:
        write_trace(trace, at_once, at_once / RAMP_S, steps)
        done = run("headway", step_s, trace, at_once)
        told, server = done.told, done.server
        rows.append(
            {
                "streams": at_once,
                "chunks/s offered": at_once / step_s,
                "most at once": server["most_streams"],
                "client CPU share": told["cpu_s"] / told["duration_s"],
                "μs/chunk": 1e6 * told["cpu_per_token_s"],
                "loop lag p99 ms": 1000 * _quantile(told["loop_lag_s"], 0.99),
                "ITL p50 ms": 1000 * told["itl_s"][0],
                "ITL p99 ms": 1000 * told["itl_s"][1],
                "server late p99 ms": 1000 * server["late_p99_s"],
                "server CPU share": server["cpu_s"] / told["duration_s"],
                "failed": told["failed"],
                "limited": told["limited"],
                "warnings": told["warnings"],
            }
        )
    return rows


def _quantile(values: dict[str, float], frac: float) -> float:
    return {float(key): value for key, value in values.items()}.get(frac, float("nan"))


def cost(clients: list[str], trace: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for client in clients:
        try:
            runs = []
            for tokens in COST_TOKENS:
                due_s = write_trace(trace, COST_REQUESTS, COST_RATE, tokens)
                runs.append(run(client, STEP_S, trace))
        except UnavailableError as error:
            rows.append({"client": client, "skipped": str(error)})
            continue
        few, many = runs
        chunks = many.server["chunks"] - few.server["chunks"]
        rows.append(
            {
                "client": client,
                "CPU s, few": few.cpu_s,
                "CPU s, many": many.cpu_s,
                "tokens more": chunks,
                "μs/token": 1e6 * (many.cpu_s - few.cpu_s) / max(chunks, 1),
                "late p50 ms": 1000 * many.late_s(due_s, 0.5),
                "late p99 ms": 1000 * many.late_s(due_s, 0.99),
                "late max ms": 1000 * many.late_s(due_s, 1.0),
            }
        )
    return rows


def shown(rows: list[dict[str, Any]]) -> str:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[_cell(row.get(name, "")) for name in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    lines = [columns, *cells]
    return "\n".join(
        "  ".join(
            text.ljust(width) if place == 0 else text.rjust(width)
            for place, (text, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def _cell(value: Any) -> str:
    return f"{value:,.2f}" if isinstance(value, float) else f"{value:,}" if type(value) is int else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description="What headway's client costs, and how well it keeps time.")
    parser.add_argument("--part", action="append", choices=PARTS)
    parser.add_argument("--peers", default="", help=f"of {','.join(GENERATORS)}; installed when first wanted")
    parser.add_argument("--only-peers", action="store_true", help="without headway's own runs")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    clients = [] if asked.only_peers else ["headway"]
    clients += [name for name in asked.peers.split(",") if name]
    found: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.jsonl"
        for part in asked.part or PARTS:
            made = {
                "fidelity": lambda: fidelity(clients, trace),
                "streams": lambda: streams(trace),
                "cost": lambda: cost(clients, trace),
            }[part]()
            found[part] = made
            if not asked.json:
                print(f"{part}\n{shown(made)}\n", flush=True)
    if asked.json:
        print(json.dumps(found, indent=1))


if __name__ == "__main__":
    if sys.argv[1:2] == ["send"]:
        send(sys.argv[2], sys.argv[3], int(sys.argv[4]) or None)
    else:
        main()
