"""The settings of a schedule file as a `Replica`, and back."""

from __future__ import annotations

from dataclasses import asdict, fields, is_dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from headway.errors import InputError, nearest
from headway.simulator.checks import check_replica
from headway.simulator.policies import POLICIES, check_engine
from headway.simulator.profiles import READS_AHEAD, profile_of
from headway.types import EngineSettings, KvGroup, KvTransfer, Replica, Speculation, StepTable

if TYPE_CHECKING:
    from pathlib import Path

    from headway.simulator.schedules.rows import Row

#: Picoseconds of the unit of time where a file does not say: a nanosecond.
TICK_PS = 1000
#: `meta.effective` names these as `EngineSettings` does.
_SAME = (
    "max_num_seqs",
    "max_num_active_seqs",
    "max_num_batched_tokens",
    "max_num_scheduled_tokens",
    "enable_chunked_prefill",
    "long_prefill_token_threshold",
    "long_prefill_token_threshold_adaptive",
    "async_scheduling",
    "watermark",
    "scheduler_reserve_full_isl",
    "prefill_schedule_interval",
    "max_model_len",
    "block_size",
    "enable_prefix_caching",
    "pipeline_parallel_size",
    "max_loras",
)
#: Speculation that drafts from the text itself needs no KV; that with a model of its own a slot per request.
_WITHOUT_KV, _WITH_SLOT = ("ngram",), ("draft_model",)


def replica_of(meta: Row, path: str | Path) -> Replica:
    """Return what a schedule file says of its replica.

    Raises:
        InputError: settings that contradict each other.
    """
    effective, tick_ps = meta["effective"], meta.get("tick_ps", TICK_PS)
    settings = EngineSettings(
        **{name: effective[name] for name in _SAME if effective[name] is not None},
        gpu_memory_utilization=1.0,  # num_gpu_blocks says what came of it
        scheduling_policy=effective["policy"],
        engine=meta.get("engine", "vllm"),
        version=meta["vllm"],
        own=_own(meta, path),
    )
    groups = meta["kv_groups"] or ()
    replica = Replica(
        settings=settings,
        step=_table(meta, tick_ps, path),
        num_gpu_blocks=effective["num_gpu_blocks"] - 1,  # without the null block
        speculation=_speculation(meta, path),
        kv_groups=tuple(KvGroup(layers=group[1], window_tokens=(*group, None)[2]) for group in groups),
        kv_transfer=_transfer(meta, tick_ps),
    )
    try:
        check_engine(replica)
        check_replica(replica)
    except InputError as error:
        raise InputError(error.problem, file=path, place=f"line 1, {error.place}", hint=error.hint) from None
    for name, value in implied(replica).items():
        if effective[name] not in (None, value):
            raise InputError(
                f"{effective[name]}, but the other settings make it {value}",
                file=path,
                place=f"line 1, effective.{name}",
            )
    return replica


def _own(meta: Row, path: str | Path) -> Any:
    """The settings that only this engine has; None for its defaults."""
    given, policy = meta.get("own"), POLICIES.get(meta.get("engine", "vllm"))
    if given is None or policy is None:  # `check_engine` names the engines there are
        return None
    usual = {field.name: field.default for field in fields(policy.own)} if is_dataclass(policy.own) else {}
    for name, value in given.items():
        place = f"line 1, own.{name}"
        if name not in usual:
            raise InputError("no such setting of this engine", file=path, place=place, hint=nearest(name, usual))
        if not _is_like(value, usual[name]):
            raise InputError(f"expected something like {usual[name]!r}, got {value!r}", file=path, place=place)
    return policy.own(**given)


def _is_like(value: object, usual: object) -> bool:
    if usual is None:
        return value is None or type(value) is int
    return type(value) is type(usual) or (type(usual) is float and type(value) is int)


def _transfer(meta: Row, tick_ps: int) -> KvTransfer | None:
    transfer, given = meta["kv_transfer"], meta["engine_args"].get("kv_transfer_config", {})
    return transfer and KvTransfer(
        base_ps=transfer["base_ns"] * tick_ps,
        ps_per_token=transfer["ns_per_token"] * tick_ps,
        kv_role=given.get("kv_role", "kv_consumer"),
    )


def _table(meta: Row, tick_ps: int, path: str | Path) -> StepTable:
    """The durations of steps: a table, or a + b·T + c·C + d·S."""
    effective, cost, table = meta["effective"], meta["cost_ns"], meta.get("step_ps")
    if (cost is None) == (table is None):
        raise InputError("expected either cost_ns or step_ps", file=path, place="line 1, cost_ns")
    if table is not None:
        columns: dict[str, Any] = {n: np.array(v, np.int64) if isinstance(v, list) else v for n, v in table.items()}
        return StepTable(**columns)
    a, b, c, d = (tick_ps * cost[name] for name in "abcd")
    return StepTable(
        decode_ps=a + (b + d) * np.arange(effective["max_num_seqs"] + 1),
        mixed_ps=a + b * np.arange(effective["max_num_batched_tokens"] + 1),
        sequence_ps=d,
        context_ps_per_token=c,
        prefill_context_ps_per_token=c,
        prefill_ps_per_pair=0,
    )


def _speculation(meta: Row, path: str | Path) -> Speculation | None:
    method, count = meta["effective"]["spec_method"], meta["effective"]["num_spec_tokens"]
    pattern = meta["accept_pattern"]
    if method is None and not count and pattern is None:
        return None
    if method is None or not count or pattern is None:
        raise InputError(
            "effective.spec_method, effective.num_spec_tokens and accept_pattern go together",
            file=path,
            place="line 1, effective.spec_method",
        )
    return Speculation(method=method, num_speculative_tokens=count, accepted=tuple(pattern))


def implied(replica: Replica) -> Row:
    """Return the entries of `meta.effective` that follow from the other settings."""
    settings, speculation = replica.settings, replica.speculation
    method = speculation.method if speculation else None
    drafts = speculation.num_speculative_tokens if speculation else 0
    stages, extra = settings.pipeline_parallel_size, settings.async_scheduling
    return {
        "num_lookahead_tokens": 0 if method in _WITHOUT_KV else drafts,
        "num_hash_lookahead_tokens": _hash_lookahead_tokens(replica),
        "draft_slots": int(method in _WITH_SLOT),
        "batch_queue_size": stages + extra,
    }


def _hash_lookahead_tokens(replica: Replica) -> int:
    settings, speculation = replica.settings, replica.speculation
    reads_ahead = speculation is not None and speculation.method in READS_AHEAD
    caching = settings.enable_prefix_caching and replica.kv_transfer is None
    return int(reads_ahead and caching and profile_of(settings.version).lookahead_hashes)


def effective_of(replica: Replica) -> Row:
    """Return `meta.effective` of a replica."""
    settings, speculation = replica.settings, replica.speculation
    return {
        **{name: getattr(settings, name) for name in _SAME},
        "policy": settings.scheduling_policy,
        "num_gpu_blocks": replica.num_gpu_blocks + 1,
        "num_spec_tokens": speculation.num_speculative_tokens if speculation else 0,
        "spec_method": speculation.method if speculation else None,
        **implied(replica),
    }


def step_ps_of(table: StepTable) -> Row:
    """Return a step table as a JSON object."""
    return {name: v.tolist() if isinstance(v, np.ndarray) else v for name, v in asdict(table).items()}
