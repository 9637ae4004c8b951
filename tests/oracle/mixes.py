"""Random mixes of all that the general engine knows of vLLM, by stratum, and the comparison with the naive twin.

A stratum makes some features certain; the others come with the chance they have everywhere. What a version does not
have is left at its default.

Some mixes never end in the real scheduler either: with few blocks, requests throw each other out for ever. The twin's
clock is therefore stopped after a few times what all tokens would take one by one; a mix that is not over by then is
not compared, but counted: there are a few in ten thousand.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import naive
import numpy as np
from cases import lengths, make_prefix

from headway.simulator import record, simulate
from headway.simulator.dispatch import jumpable
from headway.simulator.schedules import Rows, Schedule, side_by_side, written
from headway.types import EngineSettings, KvGroup, KvTransfer, PrefixRuns, Replica, Requests, Speculation, StepTable

if TYPE_CHECKING:
    from headway.simulator.records import Record

VERSIONS = ("0.11.0", "0.20.0", "0.32.0", "0.33.0")
PATIENCE = 3  # times what all tokens would take one by one
METHODS = ("ngram", "eagle", "draft_model")
ROLES = ("kv_consumer", "kv_producer", "kv_both")

#: what a mix may have -> how likely it is where a stratum does not say
CHANCES = {
    "asynchronous": 0.5,
    "priority": 0.3,
    "threshold": 0.25,
    "adaptive": 0.1,
    "paced": 0.15,
    "active": 0.15,
    "scheduled": 0.15,
    "whole": 0.08,
    "no_gate": 0.3,
    "watermark": 0.2,
    "caching": 0.75,
    "contents": 0.6,
    "turns": 0.5,
    "adapters": 0.2,
    "stops": 0.3,
    "aborts": 0.2,
    "edges": 0.15,
    "tight": 0.4,
    "together": 0.3,
    "speculation": 0.2,
    "pipeline": 0.15,
    "transfer": 0.15,
    "windows": 0.15,
}

#: stratum -> its certain features: True, False, or the value itself
STRATA: dict[str, dict[str, Any]] = {
    "synchronous": {"asynchronous": False},
    "asynchronous": {"asynchronous": True},
    "thresholds": {"threshold": True},
    "adaptive thresholds": {"threshold": True, "adaptive": True, "version": "0.33.0"},
    "one prefill in so many steps": {"paced": True, "version": "0.33.0"},
    "fewer active sequences": {"active": True, "version": "0.33.0"},
    "fewer scheduled tokens": {"scheduled": True},
    "chunking off": {"whole": True},
    "pressure": {"tight": True, "together": True},
    "pressure without the gate": {"tight": True, "no_gate": True, "together": True},
    "watermark": {"tight": True, "watermark": True, "edges": True, "version": "0.33.0"},
    "priority": {"priority": True, "tight": True},
    "priority, asynchronous": {"priority": True, "tight": True, "asynchronous": True, "together": True},
    "shared contents": {"caching": True, "contents": True, "turns": False},
    "conversations": {"caching": True, "contents": True, "turns": True, "tight": True},
    "adapters": {"adapters": True, "version": "0.33.0"},
    "adapters of a step": {"adapters": True, "version": "0.32.0"},
    "stop tokens": {"stops": True, "asynchronous": True},
    "hang-ups": {"aborts": True},
    "max_model_len": {"edges": True},
    "ngram": {"speculation": "ngram"},
    "EAGLE": {"speculation": "eagle", "caching": True, "contents": True, "turns": True, "version": "0.33.0"},
    "draft model": {"speculation": "draft_model"},
    "speculation under pressure": {"speculation": True, "tight": True, "stops": True},
    "pipeline": {"pipeline": True, "asynchronous": False},
    "pipeline, asynchronous": {"pipeline": True, "asynchronous": True},
    "KV consumer": {"transfer": "kv_consumer"},
    "KV producer": {"transfer": "kv_producer"},
    "KV of both kinds": {"transfer": "kv_both", "asynchronous": True, "tight": True},
    "window groups": {"windows": True, "caching": True, "contents": True},
    "window groups under pressure": {
        "windows": True,
        "caching": True,
        "contents": True,
        "tight": True,
        "together": True,
    },
    "vLLM 0.32": {"version": "0.32.0", "tight": True},
    "vLLM 0.20": {"version": "0.20.0", "tight": True, "adapters": True},
    "vLLM 0.11": {"version": "0.11.0", "tight": True},
    "what the jump core knows": {"jumped": True},
}

#: what the jump core leaves to the general engine, at its default
_JUMPED: dict[str, Any] = {
    "version": "0.33.0",
    "tight": True,
    **dict.fromkeys(
        ("threshold", "adaptive", "paced", "scheduled", "adapters", "aborts", "speculation", "pipeline", "transfer"),
        False,
    ),
    "windows": False,
}


class Draw:
    """A mix being drawn: its random numbers, and which features it has."""

    def __init__(self, stratum: str, seed: int) -> None:
        self.rng = np.random.default_rng([seed, *stratum.encode()])
        certain = STRATA[stratum]
        if certain.get("jumped"):
            certain = _JUMPED
        self.version = certain.get("version") or self.pick(*VERSIONS, "0.33.0", "0.33.0", "0.33.0", "0.33.0")
        self.has = {name: certain.get(name, self.rng.random() < chance) for name, chance in CHANCES.items()}
        if not self.since(0, 32):
            self.has |= dict.fromkeys(("adaptive", "paced", "active", "watermark"), False)
        if not self.has["asynchronous"] and self.has["pipeline"] and self.has["speculation"]:
            # drafts would be asked for before the batch has run
            self.has["pipeline" if certain.get("speculation") else "speculation"] = False

    def since(self, *version: int) -> bool:
        return tuple(map(int, self.version.split(".")[:2])) >= version

    def pick(self, *values: Any) -> Any:
        return values[int(self.rng.integers(len(values)))]

    def whole(self, least: int, most: int) -> int:
        return int(self.rng.integers(least, most + 1))


def mix(stratum: str, seed: int) -> tuple[Requests, Replica]:
    """Draw requests and a replica."""
    draw = Draw(stratum, seed)
    replica = make_replica(draw)
    return make_requests(draw, replica), replica


# --- the replica ------------------------------------------------------------------------------------------


def make_replica(draw: Draw) -> Replica:
    speculation, groups, transfer = make_speculation(draw), make_groups(draw), make_transfer(draw)
    drafts = speculation.num_speculative_tokens if speculation else 0
    if speculation and groups and speculation.method == "eagle" and (transfer or not draw.since(0, 33)):
        groups = ()  # a hit that loses its last block in window groups is refused
    settings = make_settings(draw, drafts)
    each = -(-settings.max_model_len // settings.block_size)
    few, many = (0.0, 0.2 if groups else 1.0) if draw.has["tight"] else (1.0, 8.0)
    blocks = int((each + 2) * max(1, len(groups)) * (1 + draw.rng.uniform(few, many)))
    return Replica(
        settings=settings,
        step=make_table(draw, settings),
        num_gpu_blocks=blocks,
        speculation=speculation,
        kv_groups=groups,
        kv_transfer=transfer,
    )


def make_speculation(draw: Draw) -> Speculation | None:
    method = draw.has["speculation"]
    if not method:
        return None
    count = draw.pick(1, 2, 4)
    accepted = tuple(draw.whole(0, count) for _ in range(draw.pick(1, 5, 7)))
    return Speculation(
        method=method if isinstance(method, str) else draw.pick(*METHODS),
        num_speculative_tokens=count,
        accepted=accepted,
    )


def make_groups(draw: Draw) -> tuple[KvGroup, ...]:
    if not draw.has["windows"]:
        return ()
    full = KvGroup(layers=2)
    one, other = (KvGroup(layers=2, window_tokens=draw.pick(8, 20, 33, 64)) for _ in range(2))
    return draw.pick((full, one), (full, one), (one,), (full, one, other), (one, other))


def make_transfer(draw: Draw) -> KvTransfer | None:
    role = draw.has["transfer"]
    if not role:
        return None
    return KvTransfer(
        base_ps=draw.whole(0, 300_000),
        ps_per_token=draw.pick(0, 1000, 20_000),
        kv_role=role if isinstance(role, str) else draw.pick(*ROLES),
    )


def make_settings(draw: Draw, drafts: int) -> EngineSettings:
    seqs, has = draw.pick(1, 2, 3, 4, 8, 16), draw.has
    max_model_len = draw.pick(48, 64, 128, 200)
    budget = seqs * (2 + drafts) + draw.pick(0, 3, 16, 40, 150)
    if has["whole"]:
        budget = max(budget, max_model_len + 8)
    return EngineSettings(
        max_num_seqs=seqs,
        max_num_batched_tokens=budget,
        max_model_len=max_model_len,
        gpu_memory_utilization=0.9,
        block_size=draw.pick(1, 4, 8, 16),
        enable_prefix_caching=has["caching"],
        enable_chunked_prefill=not has["whole"],
        scheduler_reserve_full_isl=not has["no_gate"],
        async_scheduling=has["asynchronous"],
        version=draw.version,
        scheduling_policy="priority" if has["priority"] else "fcfs",
        max_num_active_seqs=draw.whole(1, seqs) if has["active"] else None,
        max_num_scheduled_tokens=draw.whole(1, budget) if has["scheduled"] and not has["whole"] else None,
        long_prefill_token_threshold=draw.pick(3, 5, 16, 30) if has["threshold"] else 0,
        long_prefill_token_threshold_adaptive=has["adaptive"],
        prefill_schedule_interval=draw.pick(2, 3, 8) if has["paced"] else 1,
        watermark=draw.pick(0.02, 0.1, 0.3) if has["watermark"] else 0.0,
        max_loras=draw.pick(1, 1, 2) if has["adapters"] else None,
        pipeline_parallel_size=draw.pick(2, 2, 3) if has["pipeline"] else 1,
    )


def make_table(draw: Draw, settings: EngineSettings) -> StepTable:
    coarse = draw.rng.random() < 0.2  # steps of equal length: events coincide
    rise = 1 if coarse else 2000
    return StepTable(
        decode_ps=100_000 + np.cumsum(draw.rng.integers(0, rise, settings.max_num_seqs + 1)),
        mixed_ps=100_000 + np.cumsum(draw.rng.integers(0, rise, settings.max_num_batched_tokens + 1)),
        context_ps_per_token=0 if coarse else draw.pick(0, 7, 40),
        prefill_ps_per_pair=0 if coarse else draw.pick(0, 1),
        sequence_ps=draw.pick(0, 11),
        prefill_context_ps_per_token=draw.pick(0, 5),
    )


# --- the requests -----------------------------------------------------------------------------------------


def make_requests(draw: Draw, replica: Replica) -> Requests:
    rng, has, settings, count = draw.rng, draw.has, replica.settings, draw.whole(1, 24)
    longest = settings.max_model_len
    isl = lengths(rng, count, draw.pick(2, 12, 30, longest // 2), has["edges"], longest)
    osl = lengths(rng, count, draw.pick(1, 3, 10, 30), has["edges"], longest)
    if not has["edges"]:
        isl = np.minimum(isl, longest - 1)
    step_s = float(replica.step.mixed_ps[-1]) * 1e-12
    between = step_s * draw.pick(0.3, 1, 4, 12)
    arrive_s = np.cumsum(rng.exponential(between, count))
    if has["together"]:
        arrive_s = np.floor(arrive_s / (4 * between)) * 4 * between
    if rng.random() < 0.2:  # while a batch runs or just as it ends
        arrive_s = np.rint(arrive_s * 1e7) * 1e-7
    return dataclasses.replace(
        Requests(arrive_s=arrive_s, isl_tokens=isl, osl_tokens=osl),
        prefix=make_contents(draw, settings.block_size, isl, osl),
        max_tokens=osl + rng.integers(0, 3, count) * rng.integers(0, 50, count) if has["stops"] else None,
        priority=rng.integers(0, 3, count) if has["priority"] else None,
        adapter_id=rng.integers(-1, 4, count) if has["adapters"] else None,
        abort_s=some(draw, arrive_s + rng.exponential(step_s * draw.pick(1, 5, 30), count), 0.3 * has["aborts"]),
        **make_moves(draw, replica, count, step_s),
    )


def make_contents(draw: Draw, block_size: int, isl: np.ndarray, osl: np.ndarray) -> PrefixRuns | None:
    """Contents that requests share; of conversations outputs come again, too."""
    if not draw.has["contents"]:
        return None
    return make_prefix(draw.rng, len(isl), block_size * draw.pick(1, 1, 2), isl, osl, draw.has["turns"])


def make_moves(draw: Draw, replica: Replica, count: int, step_s: float) -> dict[str, Any]:
    """Where KV comes from and goes to."""
    role = replica.kv_transfer.kv_role if replica.kv_transfer else None
    moves: dict[str, Any] = {}
    remote = draw.rng.random(count) < 0.7
    if role in ("kv_consumer", "kv_both"):
        moves["remote_prefill"] = remote
    if role in ("kv_producer", "kv_both"):
        holds = some(draw, draw.rng.exponential(3 * step_s, count), 0.8)
        moves["hold_s"] = np.where(remote & (role == "kv_both"), np.nan, holds)
    return moves


def some(draw: Draw, times_s: np.ndarray, share: float) -> np.ndarray:
    """So large a share of the times, NaN in place of the others."""
    return np.where(draw.rng.random(len(times_s)) < share, times_s, np.nan)


# --- the comparison ---------------------------------------------------------------------------------------


def twins_record(requests: Requests, replica: Replica) -> Record | None:
    """Return the twin's schedule, None where it does not end."""
    tokens = int((requests.isl_tokens + requests.osl_tokens).sum())
    step_ps = 4 * int(replica.step.mixed_ps[-1])
    until_ps = round(requests.arrive_s[-1] * 1e12) + PATIENCE * step_ps * (tokens + 100)
    result = naive.naive(requests, replica, choice=[0] * len(requests), until_ps=until_ps)
    return None if result.engines[0].sleep.until_ps is not None else naive.recorded(result)


def compare(requests: Requests, replica: Replica) -> tuple[str, Record] | None:
    """Return where general engine and twin first differ (empty: nowhere) and the former's schedule; None: no end."""
    expected = twins_record(requests, replica)
    if expected is None:
        return None
    found = record(requests, replica)
    if expected != found:
        return told(requests, replica, expected, found), found
    return jumps_differ(requests, replica, found), found


def jumps_differ(requests: Requests, replica: Replica, found: Record) -> str:
    """What `simulate` says of a request, where it jumps, and the schedule does not."""
    if jumpable(replica.settings, requests, replica) is not None:
        return ""
    simulation = simulate(requests, replica)
    columns = ("first_ps", "last_ps", "cached_tokens", "preemptions", "state")
    jumped = zip(*(getattr(simulation, name).tolist() for name in columns), strict=True)
    for row, (one, ending) in enumerate(zip(jumped, found.endings, strict=True)):
        first_ps = ending.delivered_ps[0] if ending.delivered_ps else -1
        stepped = first_ps, ending.end_ps, max(ending.cached, 0), ending.preemptions, 1 if ending.reason else 2
        if one != stepped:
            return f"request {row}: {columns} by jumps {one}, by steps {stepped}"
    return ""


def told(requests: Requests, replica: Replica, expected: Record, found: Record) -> str:
    """The first difference of two schedules, side by side: the twin's is expected."""
    ids = tuple(map(str, range(len(requests))))
    lengths_of = zip(ids, requests.isl_tokens.tolist(), requests.osl_tokens.tolist(), strict=True)
    rows = Rows(
        meta={"steps_mode": "full", "accept_pattern": (), "tick_ps": 1},
        requests=tuple({"id": name, "plen": isl, "out": osl} for name, isl, osl in lengths_of),
        steps=(),
        transfers=(),
        results=(),
    )
    schedule = Schedule(name="mix", ids=ids, requests=requests, replica=replica, rows=rows)
    shown = side_by_side(written(schedule, expected), written(schedule, found))
    return f"{replica.settings}\n{replica.speculation} {replica.kv_groups} {replica.kv_transfer}\n{shown}"
