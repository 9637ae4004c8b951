"""What `simulate` refuses, and why."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from headway.errors import InputError, nearest
from headway.simulator.policies import check_columns, check_engine
from headway.simulator.profiles import METHODS, READS_AHEAD, profile_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from headway.types import (
        EngineSettings,
        FloatColumn,
        IntColumn,
        KvTransfer,
        Replica,
        Requests,
        Speculation,
        StepTable,
    )

LONGEST_PS = 1 << 62  # 53 days: the clock and every sum stay below twice this, the range of int64
_MOST = 1 << 30  # requests, and tokens of one request
_MOST_SEQS = 1 << 20
_MOST_STAGES = 1 << 10  # every batch in flight takes memory
_POLICIES = ("fcfs", "priority")
#: what `kv_role` may be
KV_ROLES = ("kv_consumer", "kv_producer", "kv_both")
#: setting -> the least and the most it may be, unless it is None
_RANGES = {
    "pipeline_parallel_size": (1, _MOST_STAGES),
    "prefill_schedule_interval": (1, _MOST - 1),
    "long_prefill_token_threshold": (0, _MOST - 1),
    "max_loras": (1, _MOST - 1),
}
#: what vLLM has had since 0.32, at its default
_LATER_SETTINGS = {
    "watermark": 0.0,
    "long_prefill_token_threshold_adaptive": False,
    "max_num_active_seqs": None,
    "prefill_schedule_interval": 1,
}


def check_run(requests: Requests, replica: Replica) -> None:
    """Refuse what the simulator cannot run.

    Raises:
        InputError: naming the column or the field.
    """
    _check_requests(requests)
    check_replica(replica)
    check_columns(requests, replica.settings)
    _check_transfers(requests, replica.kv_transfer)
    _check_range(requests, replica)


def _check_requests(requests: Requests) -> None:
    """Refuse columns of unequal length, times that are negative or out of order or range, and lengths below 1."""
    count = len(requests)
    for name in (field.name for field in fields(requests) if field.name != "prefix"):
        column = getattr(requests, name)
        if column is not None and len(column) != count:
            raise InputError(f"{len(column)} rows, expected {count}", file="requests", place=name)
    if requests.prefix is not None and len(requests.prefix.offsets) != count + 1:
        raise InputError(f"expected {count + 1} offsets", file="requests", place="prefix")
    if count >= _MOST:
        raise InputError(f"{count} requests, at most 2^30 fit one run", file="requests")
    if count:
        _check_times(requests.arrive_s)
        _check_ends(requests)
        _check_lengths(requests)


def _check_times(arrive_s: FloatColumn) -> None:
    if not 0 <= arrive_s.min() <= arrive_s.max() < np.inf:  # false with NaN, too
        _refuse(~np.isfinite(arrive_s) | (arrive_s < 0), "arrive_s", "expected a time ≥ 0")
    if (arrive_s[1:] < arrive_s[:-1]).any():
        _refuse(np.diff(arrive_s, prepend=0.0) < 0, "arrive_s", "earlier than the row before")
    if arrive_s[-1] >= LONGEST_PS / 2e12:
        _refuse(arrive_s >= LONGEST_PS / 2e12, "arrive_s", "later than 26 days, half of what the clock can show")


def _check_ends(requests: Requests) -> None:
    """Check when clients hang up, and how long KV is held afterwards; NaN stands for never."""
    longest_s = LONGEST_PS / 2e12
    if requests.abort_s is not None and (bad := requests.abort_s < requests.arrive_s).any():
        _refuse(bad, "abort_s", "earlier than the arrival")
    if requests.abort_s is not None and (bad := requests.abort_s >= longest_s).any():
        _refuse(bad, "abort_s", "later than 26 days; expected NaN where the client never hangs up")
    if requests.hold_s is not None and (bad := (requests.hold_s < 0) | (requests.hold_s >= longest_s)).any():
        _refuse(bad, "hold_s", "expected a time ≥ 0, at most 26 days, or NaN")


def _check_lengths(requests: Requests) -> None:
    for name in ("isl_tokens", "osl_tokens", "max_tokens"):
        column = getattr(requests, name)
        if column is not None and not 1 <= column.min() <= column.max() < _MOST:
            _refuse((column < 1) | (column >= _MOST), name, "expected a length of 1 to 2^30 tokens")


def check_clients(requests: Requests, concurrency: int | None, turnaround_s: float) -> None:
    """Refuse a closed loop that cannot be run.

    Raises:
        InputError: naming the argument or the column.
    """
    if concurrency is None:
        if turnaround_s:
            raise InputError("expected concurrency with it", file="simulate", place="turnaround_s")
        return
    if concurrency < 1:
        raise InputError("expected at least 1 client", file="simulate", place="concurrency")
    if not 0 <= turnaround_s < LONGEST_PS / 2e12:
        raise InputError(f"{turnaround_s} is not within 0 and 26 days", file="simulate", place="turnaround_s")
    if requests.abort_s is not None and (bad := requests.abort_s - requests.arrive_s < 1e-12).any():
        _refuse(bad, "abort_s", "at once; in a closed loop, expected later than the arrival")


def _refuse(bad: NDArray[np.bool_], column: str, problem: str) -> NoReturn:
    raise InputError(problem, file="requests", place=f"{column}, row {int(np.argmax(bad))}")


def check_replica(replica: Replica) -> None:
    """Refuse settings under which the engine would not start or the tables do not fit.

    Raises:
        InputError: naming the field.
    """
    settings, table = replica.settings, replica.step
    for name in ("max_num_seqs", "max_num_batched_tokens", "max_model_len", "block_size"):
        if getattr(settings, name) < 1:
            raise InputError("expected at least 1", file="replica", place=f"settings.{name}")
    check_engine(replica)
    _check_ranges(settings)
    _check_limits(settings)
    if replica.num_gpu_blocks < 1:
        raise InputError("expected at least 1", file="replica", place="num_gpu_blocks")
    if max(settings.max_num_seqs, settings.block_size) >= _MOST_SEQS or settings.max_model_len >= _MOST:
        raise InputError(
            "max_num_seqs and block_size must be < 2^20, max_model_len < 2^30", file="replica", place="settings"
        )
    if settings.max_num_batched_tokens < settings.max_num_seqs:
        raise InputError(
            f"{settings.max_num_batched_tokens} is less than max_num_seqs {settings.max_num_seqs}",
            file="replica",
            place="settings.max_num_batched_tokens",
        )
    whole = settings.engine == "vllm" and not settings.enable_chunked_prefill
    if whole and settings.max_num_batched_tokens < settings.max_model_len:
        raise InputError(
            f"must be ≥ max_model_len {settings.max_model_len} where chunked prefill is off",
            file="replica",
            place="settings.max_num_batched_tokens",
        )
    _check_parts(replica)
    _check_table(table, "decode_ps", table.decode_ps, settings.max_num_seqs)
    _check_table(table, "mixed_ps", table.mixed_ps, settings.max_num_batched_tokens)


def _check_parts(replica: Replica) -> None:
    settings = replica.settings
    if replica.speculation is not None:
        _check_speculation(replica.speculation, settings.max_model_len)
        _check_drafts(replica, replica.speculation.method)
    if replica.kv_transfer is not None:
        _check_transfer(replica.kv_transfer)
    for row, group in enumerate(replica.kv_groups):
        if group.window_tokens is not None and not 1 <= group.window_tokens < _MOST:
            raise InputError("expected 1 to 2^30", file="replica", place=f"kv_groups[{row}].window_tokens")
    if settings.engine == "vllm":
        _check_version(settings)


def _check_ranges(settings: EngineSettings) -> None:
    for name, (least, most) in _RANGES.items():
        value = getattr(settings, name)
        if value is not None and not least <= value <= most:
            raise InputError(f"expected {least} to {most}", file="replica", place=f"settings.{name}")


def _check_limits(settings: EngineSettings) -> None:
    for name, most in (
        ("max_num_active_seqs", settings.max_num_seqs),
        ("max_num_scheduled_tokens", settings.max_num_batched_tokens),
    ):
        limit = getattr(settings, name)
        if limit is not None and not 1 <= limit <= most:
            raise InputError(f"expected 1 to {most}", file="replica", place=f"settings.{name}")
    if not 0 <= settings.watermark < 1:
        raise InputError("expected a share from 0 to below 1", file="replica", place="settings.watermark")
    if settings.scheduling_policy not in _POLICIES:
        raise InputError(
            f"there is no policy {settings.scheduling_policy!r}",
            file="replica",
            place="settings.scheduling_policy",
            hint=nearest(settings.scheduling_policy, _POLICIES),
        )


def _check_speculation(speculation: Speculation, max_model_len: int) -> None:
    """Refuse drafters nobody knows, and numbers of drafts that cannot be."""
    drafts = speculation.num_speculative_tokens
    if speculation.method not in METHODS:
        raise _wrong_draft("method", f"there is no {speculation.method!r}", nearest(speculation.method, METHODS))
    if not 1 <= drafts <= max_model_len:
        raise _wrong_draft("num_speculative_tokens", f"expected 1 to max_model_len {max_model_len}")
    if not speculation.accepted or not all(0 <= count <= drafts for count in speculation.accepted):
        raise _wrong_draft("accepted", f"expected numbers from 0 to num_speculative_tokens {drafts}, one at least")


def _wrong_draft(field: str, problem: str, hint: str = "") -> InputError:
    return InputError(problem, file="replica", place=f"speculation.{field}", hint=hint)


def _check_transfer(transfer: KvTransfer) -> None:
    for name in ("base_ps", "ps_per_token"):
        if getattr(transfer, name) < 0:
            raise InputError("expected ≥ 0", file="replica", place=f"kv_transfer.{name}")
    if transfer.kv_role not in KV_ROLES:
        raise InputError(
            f"there is no role {transfer.kv_role!r}",
            file="replica",
            place="kv_transfer.kv_role",
            hint=nearest(transfer.kv_role, KV_ROLES),
        )


def _check_transfers(requests: Requests, transfer: KvTransfer | None) -> None:
    """Refuse KV that comes or is held where nothing carries it, and transfers beyond the clock."""
    comes = requests.remote_prefill is not None and requests.remote_prefill.any()
    held = requests.hold_s is not None and not np.isnan(requests.hold_s).all()
    if transfer is None:
        for name, used in (("remote_prefill", comes), ("hold_s", held)):
            if used:
                raise InputError("needs a replica with kv_transfer", file="requests", place=name)
    elif comes and transfer.base_ps + transfer.ps_per_token * int(requests.isl_tokens.max()) >= LONGEST_PS // 2:
        raise InputError("a transfer may last longer than 26 days", file="replica", place="kv_transfer")


def _check_drafts(replica: Replica, method: str) -> None:
    """Refuse the two mixes whose rules are not known here."""
    settings = replica.settings
    if settings.pipeline_parallel_size > 1 and not settings.async_scheduling:
        raise InputError(
            "speculation in a pipeline is simulated with asynchronous scheduling only",
            file="replica",
            place="settings.async_scheduling",
        )
    hashed_ahead = profile_of(settings.version).lookahead_hashes and replica.kv_transfer is None
    if method in READS_AHEAD and not hashed_ahead and any(g.window_tokens for g in replica.kv_groups):
        raise InputError(
            f"{method} with window groups is simulated from vLLM 0.33 on, and without KV transfers",
            file="replica",
            place="speculation.method",
        )


def _check_version(settings: EngineSettings) -> None:
    """Refuse settings that this version of vLLM does not have."""
    if profile_of(settings.version).later_settings:
        return
    for name, default in _LATER_SETTINGS.items():
        if getattr(settings, name) != default:
            raise InputError(
                f"vLLM {settings.version} has no {name}; expected {default}", file="replica", place=f"settings.{name}"
            )


def _check_table(table: StepTable, name: str, column: IntColumn, largest: int) -> None:
    if len(column) != largest + 1:
        raise InputError(f"{len(column)} entries, expected {largest + 1}", file="replica", place=f"step.{name}")
    if (column[1:] < 1).any():
        raise InputError("a step lasts at least 1 ps", file="replica", place=f"step.{name}")
    coefficients = (
        "context_ps_per_token",
        "prefill_ps_per_pair",
        "sequence_ps",
        "prefill_context_ps_per_token",
        "window_ps_per_token",
        "window_tokens",
    )
    for coefficient in coefficients:
        if getattr(table, coefficient) < 0:
            raise InputError("expected ≥ 0", file="replica", place=f"step.{coefficient}")


def _check_range(requests: Requests, replica: Replica) -> None:
    """Refuse step times whose sums could leave int64: the longest stretch of steps must stay below 2^62 ps."""
    if not len(requests):
        return
    settings, table = replica.settings, replica.step
    context = min(int((requests.isl_tokens + requests.osl_tokens).max()), settings.max_model_len)
    steps = min(int(requests.osl_tokens.max()), settings.max_model_len)
    contexts = settings.max_num_seqs * context
    new = settings.max_num_batched_tokens
    attention = (table.context_ps_per_token + table.window_ps_per_token + table.prefill_context_ps_per_token) * contexts
    pairs = table.prefill_ps_per_pair * new * (2 * context + new)
    flat = max(int(table.decode_ps.max()), int(table.mixed_ps.max())) + table.sequence_ps * settings.max_num_seqs
    if (flat + attention + pairs) * steps >= LONGEST_PS:
        raise InputError(
            f"a step may last {(flat + attention + pairs) / 1e12:.3g} s; {steps} of them exceed the clock (53 days)",
            file="replica",
            place="step",
        )
