"""What each field of a schedule file must look like: one table per kind of row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from headway.simulator.checks import KV_ROLES

if TYPE_CHECKING:
    from collections.abc import Callable

#: Clock readings and sums of tokens stay in the range of int64.
_LARGEST = (1 << 62) - 1
#: Largest setting or length in tokens, blocks or sequences.
_MOST = 1 << 22


@dataclass(frozen=True, slots=True)
class Field:
    """What a value must be, in words and as a test."""

    expected: str
    fits: Callable[[Any], bool]
    optional: bool = False

    def or_absent(self) -> Field:
        """The same, in a field that may be missing."""
        return Field(self.expected, self.fits, optional=True)

    def or_null(self) -> Field:
        """The same, or null."""
        return Field(f"{self.expected} or null", lambda value: value is None or self.fits(value))


def _whole(least: int, most: int) -> Field:
    return Field(f"a whole number of {least} to {most}", lambda value: type(value) is int and least <= value <= most)


def _one_of(*words: object) -> Field:
    kinds = {type(word) for word in words}
    return Field(" or ".join(map(repr, words)), lambda value: type(value) in kinds and value in words)


def _list_of(what: str, fits: Callable[[Any], bool]) -> Field:
    return Field(f"a list of {what}", lambda value: type(value) is list and all(map(fits, value)))


def _object(**fields: Field) -> Field:
    def fits(value: object) -> bool:
        return (
            isinstance(value, dict)
            and value.keys() <= fields.keys()
            and all(field.fits(value[name]) if name in value else field.optional for name, field in fields.items())
        )

    return Field(f"an object with {', '.join(fields)}", fits)


def _is_pair(value: object) -> bool:
    return type(value) is list and len(value) == 2 and type(value[0]) is str and _COUNT.fits(value[1])


def _is_piece(value: object) -> bool:
    return (
        type(value) is list
        and len(value) == 3
        and type(value[0]) is str
        and _COUNT.fits(value[1])
        and _LENGTH.fits(value[2])
    )


def _is_group(value: object) -> bool:
    if type(value) is not list or len(value) not in {2, 3} or not _LENGTH.fits(value[1]):
        return False
    return value[0] == "full" if len(value) == 2 else value[0] == "swa" and _LENGTH.fits(value[2])


def _are_arguments(value: object) -> bool:
    if not isinstance(value, dict):
        return False
    transfer = value.get("kv_transfer_config", {"kv_role": KV_ROLES[0]})
    return isinstance(transfer, dict) and transfer.get("kv_role") in KV_ROLES


_TEXT = Field("a text", lambda value: type(value) is str)
_NAME = Field("a text that is not empty", lambda value: type(value) is str and value != "")
_FLAG = Field("true or false", lambda value: type(value) is bool)
_ANY = Field("an object", lambda value: type(value) is dict)
_COUNT = _whole(0, _LARGEST)
_TIME = _COUNT
_CRC = _whole(0, (1 << 32) - 1)
_LENGTH = _whole(1, _MOST)
_SIZE = _whole(0, _MOST)
_SHARE = Field("a number of 0 to below 1", lambda value: type(value) in {int, float} and 0 <= value < 1)
_PAIRS = _list_of("[request id, number]", _is_pair)
_IDS = _list_of("request ids", lambda value: type(value) is str)
_PER_UNIT = _whole(0, 10**9)  # times 2^22 tokens stays within int64 in picoseconds
_PS_COLUMN = _list_of("picoseconds", _COUNT.fits)
_PS = _COUNT

#: `meta`. Beyond these it may carry whatever its writer wants to say.
META: dict[str, Field] = {
    "format": _one_of(1),
    "name": _TEXT,
    "vllm": _NAME,
    "engine": _NAME.or_absent(),
    "own": _ANY.or_absent(),
    "tick_ps": _one_of(1, 1000).or_absent(),
    "block_tokens": _LENGTH.or_absent(),
    "engine_args": Field("an object, kv_transfer_config with a kv_role", _are_arguments),
    "effective": _ANY,
    "cost_ns": _object(a=_whole(0, 10**12), b=_PER_UNIT, c=_PER_UNIT, d=_PER_UNIT).or_null(),
    "step_ps": _object(
        decode_ps=_PS_COLUMN,
        mixed_ps=_PS_COLUMN,
        context_ps_per_token=_PS,
        prefill_ps_per_pair=_PS,
        sequence_ps=_PS,
        prefill_context_ps_per_token=_PS,
        window_ps_per_token=_PS,
        window_tokens=_PS,
    ).or_absent(),
    "stop": _one_of("length", "eos"),
    "accept_pattern": Field(
        "a list of one or more counts",
        lambda value: type(value) is list and value != [] and all(map(_SIZE.fits, value)),
    ).or_null(),
    "kv_groups": Field(
        "a list of [kind, layers, window]",
        lambda value: type(value) is list and value != [] and all(map(_is_group, value)),
    ).or_null(),
    "kv_transfer": _object(base_ns=_whole(0, 10**12), ns_per_token=_PER_UNIT).or_null(),
    "steps_mode": _one_of("full", "summary"),
    "n_requests": _COUNT,
    "n_steps": _COUNT,
    "totals": _ANY,
}

#: `meta.totals`.
TOTALS: dict[str, Field] = dict.fromkeys(
    ("preemptions", "scheduled_tokens", "makespan_ns", "first_cached_tokens", "prompt_tokens"), _COUNT
)

#: `meta.effective`: the engine's settings as it resolved them; null: this version has no such setting.
EFFECTIVE: dict[str, Field] = {
    "max_num_seqs": _whole(1, (1 << 20) - 1),
    "max_num_active_seqs": _LENGTH.or_null(),
    "max_num_batched_tokens": _LENGTH,
    "max_num_scheduled_tokens": _LENGTH.or_null(),
    "enable_chunked_prefill": _FLAG,
    "long_prefill_token_threshold": _SIZE.or_null(),
    "long_prefill_token_threshold_adaptive": _FLAG.or_null(),
    "policy": _one_of("fcfs", "priority"),
    "async_scheduling": _FLAG,
    "watermark": _SHARE.or_null(),
    "scheduler_reserve_full_isl": _FLAG.or_null(),
    "prefill_schedule_interval": _LENGTH.or_null(),
    "max_model_len": _LENGTH,
    "block_size": _whole(1, (1 << 20) - 1),
    "num_gpu_blocks": _whole(2, 1 << 40),
    "enable_prefix_caching": _FLAG,
    "pipeline_parallel_size": _LENGTH,
    "num_spec_tokens": _SIZE,
    "num_lookahead_tokens": _SIZE,
    "num_hash_lookahead_tokens": _SIZE.or_null(),
    "draft_slots": _SIZE.or_null(),
    "spec_method": _NAME.or_null(),
    "max_loras": _LENGTH.or_null(),
    "batch_queue_size": _LENGTH,
    "scheduler_class": _NAME.or_absent(),
    "use_v2_model_runner": _FLAG.or_absent(),
}

_TYPE = {"type": _NAME}


def _is_transfer(value: object) -> bool:
    if value == {"do_remote_prefill": True}:
        return True
    held = isinstance(value, dict) and value.keys() == {"do_remote_decode", "hold_ns"}
    return held and value["do_remote_decode"] is True and _TIME.fits(value["hold_ns"])  # type: ignore[index]


_KV = Field('{"do_remote_prefill": true} or {"do_remote_decode": true, "hold_ns": time}', _is_transfer)

#: The other kinds of rows. All but `req` carry nothing else.
FIELDS: dict[str, dict[str, Field]] = {
    "req": _TYPE
    | {
        "id": _NAME,
        "arr": _TIME,
        "prompt": _list_of("[stream, start, number]", _is_piece),
        "plen": _LENGTH,
        "out": _LENGTH,
        "prio": _whole(-(1 << 31), (1 << 31) - 1).or_absent(),
        "lora": _whole(0, (1 << 31) - 1).or_absent(),
        "salt": _NAME.or_absent(),
        "abort": _TIME.or_absent(),
        "kv": _KV.or_absent(),
    },
    "step": _TYPE
    | dict.fromkeys(("k", "t", "b", "e", "T", "S", "C", "run", "wait", "free", "freeu"), _COUNT)
    | {"crc": _CRC}
    | dict.fromkeys(("sched", "multi", "adm", "spec"), _PAIRS.or_absent())
    | dict.fromkeys(("pre", "fin"), _IDS.or_absent()),
    "kv": _TYPE | {"id": _NAME, "kind": _one_of("recv", "send"), "t0": _TIME, "t1": _TIME, "n": _COUNT},
    "res": _TYPE
    | {"id": _NAME, "arr": _TIME}
    | dict.fromkeys(("sched", "start", "cached", "first", "fin"), _TIME.or_null())
    | {"reason": _one_of("length", "stop", "abort").or_null(), "nout": _COUNT, "npre": _COUNT, "crc": _CRC},
}
