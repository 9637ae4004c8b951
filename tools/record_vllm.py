"""Record schedules of the real vLLM: its own engine core, unmodified, in virtual time and without a GPU.

    VLLM_ENVIRONMENT/bin/python tools/record_vllm.py SCENARIO... --out FOLDER
    VLLM_ENVIRONMENT/bin/python tools/record_vllm.py - < SCENARIOS > RECORDINGS

A scenario is a schedule file of which only `meta` and the `req` rows are read (docs/reference/schedules.md); a
recording is the same file with all its rows. On standard input and output, one scenario or recording is one line, a
JSON list of rows; one that cannot be recorded becomes {"error": …}. To be run by the Python of an environment with
vllm installed (0.32 and 0.33 are known to work); nothing of headway is imported.

What is vLLM's: the way from EngineArgs to VllmConfig as on an H100, EngineCore with its scheduler, KV cache manager,
block hashes, and its step functions. What stands in: the platform's answers about the device, a model class without
layers, an executor that knows how long a batch takes and how many tokens come out, a KV connector that knows when a
transfer is complete. The clock counts nanoseconds; scheduling takes no time.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import sys
import tempfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import vllm_recorder  # noqa: F401 - first: it says what machine this is
from vllm import __version__
from vllm_recorder.core import effective_of, engine_core, engine_request, write_models
from vllm_recorder.machine import free_blocks
from vllm_recorder.world import World

if TYPE_CHECKING:
    from vllm_recorder.world import Row

FORMAT = 1
#: calls of the scheduler without anything scheduled or any time passed: more than any queue of batches is long
IDLE_CALLS = 16


class Recording:
    """One scenario, from the first arrival to the last end."""

    def __init__(self, meta: Row, requests: list[Row]) -> None:
        self.world = World(meta, {row["id"]: row for row in requests})
        self.core = engine_core(self.world)
        self.world.stages = [0] * self.core.vllm_config.parallel_config.pipeline_parallel_size
        self.given = requests
        self.arriving = sorted(requests, key=lambda row: row["arr"])  # stable: requests in input order
        self.arrived = 0
        self.aborting = sorted((row for row in requests if "abort" in row), key=lambda row: row["abort"])
        self.results = {row["id"]: Ending(row) for row in requests}
        self.steps: list[Row] = []

    def run(self) -> list[Row]:
        """Live through it; return the rows of the recording."""
        idle = 0
        while True:
            self.deliver()
            if not (self.core.scheduler.has_requests() or self.core.batch_queue):
                if not self.sleep(transfers=False):
                    return self.rows()
                continue
            before, recorded = self.world.now, self.world.recorded
            self.step()
            idle = 0 if (self.world.now, self.world.recorded) != (before, recorded) else idle + 1
            if idle > IDLE_CALLS:
                idle = 0
                if not self.sleep(transfers=True):
                    raise RuntimeError(f"nothing will ever be scheduled again after {self.world.now} ns")

    def deliver(self) -> None:
        """Hand over the requests that have arrived, then the clients that have gone."""
        while self.arrived < len(self.arriving) and self.arriving[self.arrived]["arr"] <= self.world.now:
            request = engine_request(self.world, self.arriving[self.arrived])
            self.core.add_request(*self.core.preprocess_add_request(request))
            self.arrived += 1
        while self.aborting and self.aborting[0]["abort"] <= self.world.now:
            ending = self.results[self.aborting.pop(0)["id"]]
            if not ending.reason:
                self.core.abort_requests([ending.row["id"]])
                ending.end(self.world.now, "abort")

    def sleep(self, *, transfers: bool) -> bool:
        """Let time pass until something comes; return whether anything does."""
        coming = [row["arr"] for row in self.arriving[self.arrived : self.arrived + 1]]
        if transfers:
            coming += [row["t1"] for _, row in self.world.under_way]
        if coming:
            self.world.now = max(self.world.now, min(coming))
        return bool(coming)

    def step(self) -> None:
        """One turn of the engine core's loop."""
        self.world.popped = None
        outputs, executed = self.core.step_fn()
        self.core.post_step(executed)
        finished = []
        for output in (one for made in (outputs or {}).values() for one in made.outputs):
            ending = self.results[output.request_id]
            ending.hear(self.world.now, len(output.new_token_ids))
            if output.finish_reason is not None:
                ending.end(self.world.now, str(output.finish_reason))
                finished.append(output.request_id)
        if self.world.popped is not None and (row := self.world.popped.row) is not None:
            row["freeu"] = free_blocks(self.core.scheduler)
            row["fin"] = finished
            if not finished:
                del row["fin"]
            self.steps.append(row)

    def rows(self) -> list[Row]:
        """The whole recording."""
        world = self.world
        results = [self.results[row["id"]].result(world) for row in self.arriving]
        meta = world.meta | {
            "format": FORMAT,
            "vllm": __version__,
            "effective": effective_of(self.core),
            "n_requests": len(self.given),
            "n_steps": len(self.steps),
            "totals": {
                "preemptions": sum(world.preemptions.values()),
                "scheduled_tokens": sum(row["T"] for row in self.steps),
                "makespan_ns": max((row["e"] for row in self.steps), default=0),
                "first_cached_tokens": sum(row["cached"] or 0 for row in results),
                "prompt_tokens": sum(row["plen"] for row in self.given),
            },
        }
        return [meta, *self.given, *self.steps, *world.transfers, *results]


class Ending:
    """What became of a request."""

    def __init__(self, row: Row) -> None:
        self.row, self.reason = row, ""
        self.finished: int | None = None
        self.first: int | None = None
        self.count = self.crc = 0

    def hear(self, now: int, tokens: int) -> None:
        """Tokens are delivered."""
        if tokens and self.first is None:
            self.first = now
        for _ in range(tokens):
            self.crc = zlib.crc32(b"%d," % now, self.crc)
        self.count += tokens

    def end(self, now: int, reason: str) -> None:
        """It is over."""
        self.finished, self.reason = now, reason

    def result(self, world: World) -> Row:
        """Its row."""
        name = self.row["id"]
        scheduled, start = world.first.get(name, (None, None))
        return {
            "type": "res",
            "id": name,
            "arr": self.row["arr"],
            "sched": scheduled,
            "start": start,
            "first": self.first,
            "fin": self.finished,
            "cached": world.cached.get(name),
            "npre": world.preemptions.get(name, 0),
            "nout": self.count,
            "reason": self.reason or None,
            "crc": self.crc,
        }


def recorded(rows: list[Row]) -> list[Row]:
    """Record a scenario."""
    meta, requests = rows[0], [row for row in rows if row["type"] == "req"]
    recording = Recording(meta, requests)
    try:
        return recording.run()
    finally:
        recording.core.scheduler.shutdown()


def text_of(rows: list[Row]) -> str:
    """Rows as the lines of a file."""
    return "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows)


def record_file(path: Path, folder: Path) -> None:
    """Record the scenario of a file into a file of the same name in a folder."""
    content = path.read_bytes()
    lines = (gzip.decompress(content) if path.suffix == ".gz" else content).splitlines()
    content = text_of(recorded([json.loads(line) for line in lines])).encode()
    part = folder / f"{path.name}.part"
    part.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
    part.replace(folder / path.name)


def record_lines() -> None:
    """Record scenario after scenario of standard input."""
    for line in sys.stdin:
        try:
            answer: Any = recorded(json.loads(line))
        except Exception as error:  # noqa: BLE001 - whatever it is, the next scenario may be fine
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer, separators=(",", ":")), flush=True)


def main() -> None:
    """Record what the command line names."""
    parser = argparse.ArgumentParser(description="record schedules of the real vLLM scheduler")
    parser.add_argument("scenario", nargs="+", type=Path, help="schedule files; - for standard input")
    parser.add_argument("--out", type=Path, help="the folder to write to")
    given = parser.parse_args()
    paths, folder = [path.absolute() for path in given.scenario], given.out and given.out.absolute()
    with tempfile.TemporaryDirectory() as models:
        write_models(Path(models))
        os.chdir(models)
        if folder is None:
            record_lines()
        else:
            folder.mkdir(parents=True, exist_ok=True)
            for path in paths:
                record_file(path, folder)


if __name__ == "__main__":
    main()
