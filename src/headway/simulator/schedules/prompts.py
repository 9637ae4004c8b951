"""A run of our own as a schedule: the tokens its requests would have to have the KV blocks they were given."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import numpy as np

from headway.errors import InputError
from headway.simulator.schedules.reading import MOST_TOKENS, Schedule, prefix_of
from headway.simulator.schedules.replicas import effective_of, step_ps_of
from headway.simulator.schedules.rows import Rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from headway.simulator.schedules.rows import Row
    from headway.types import FloatColumn, PrefixRuns, Replica, Requests

#: Our own runs are written in picoseconds, the simulator's unit of time, so that nothing is rounded.
_TICK_PS = 1

_Piece = tuple[str, int, int]  # stream, start, number of tokens
#: By block: the request whose output makes it, and how many tokens of its prompt come after the block's begin.
_Makers = dict[int, tuple[int, int]]


def schedule_of(requests: Requests, replica: Replica, *, name: str, description: str = "") -> Schedule:
    """Return requests on a replica as a schedule that nothing is expected of yet.

    Requests are named by their row. Tokens are made up so that two requests share exactly the blocks that have the
    same ids: block b is positions b·n to (b+1)·n of one stream `b`, or outputs of the request that made them. An
    output belongs to one request: where ids give it to several (as traces do whose last id covers a part of a block,
    for equal prompts), the first has it, and `requests` of what is returned have the blocks that come of that.

    Raises:
        InputError: what the format cannot say: stop tokens for some requests only, or one block under two adapters.
    """
    ids = tuple(map(str, range(len(requests))))
    makers, ambiguous = _makers(requests.isl_tokens.tolist(), requests.prefix) if requests.prefix else ({}, False)
    rows = tuple(_request_rows(requests, makers))
    meta = _meta(requests, replica) | {"name": name, "description": description}
    if ambiguous or meta["effective"]["num_hash_lookahead_tokens"]:
        requests = replace(requests, prefix=prefix_of(meta, rows))
    return Schedule(
        name=name,
        ids=ids,
        requests=requests,
        replica=replica,
        rows=Rows(meta=meta, requests=rows, steps=(), transfers=(), results=()),
    )


def _meta(requests: Requests, replica: Replica) -> Row:
    settings, speculation, transfer = replica.settings, replica.speculation, replica.kv_transfer
    role = {"kv_transfer_config": {"kv_role": transfer.kv_role}} if transfer else {}
    # the others compare prompts token by token, so that the workload's blocks are what decides
    finer = {"block_tokens": requests.prefix.block_tokens} if requests.prefix and settings.engine != "vllm" else {}
    return {
        "type": "meta",
        "format": 1,
        "name": "",
        "description": "",
        "engine": settings.engine,
        "vllm": settings.version,
        **({"own": asdict(settings.own)} if settings.own else {}),
        **finer,
        "engine_args": role,
        "effective": effective_of(replica),
        "num_gpu_blocks": replica.num_gpu_blocks + 1,
        "tick_ps": _TICK_PS,
        "cost_ns": None,
        "step_ps": step_ps_of(replica.step),
        "stop": "eos" if _stops(requests) else "length",
        "accept_pattern": list(speculation.accepted) if speculation else None,
        "kv_groups": [
            ["full", group.layers] if group.window_tokens is None else ["swa", group.layers, group.window_tokens]
            for group in replica.kv_groups
        ]
        or None,
        "kv_transfer": transfer and {"base_ns": transfer.base_ps, "ns_per_token": transfer.ps_per_token},
        "steps_mode": "full",
        "n_requests": len(requests),
        "n_steps": 0,
        "totals": {},
    }


def _stops(requests: Requests) -> bool:
    if requests.max_tokens is None:
        return False
    stopped = requests.max_tokens > requests.osl_tokens
    if stopped.any() and not (stopped.all() and (requests.osl_tokens < MOST_TOKENS).all()):
        row = int(np.argmin(stopped))
        raise InputError(
            "a schedule ends all requests by a stop token or none; this one ends by length",
            file="requests",
            place=f"max_tokens, row {row}",
        )
    return bool(stopped.any())


def _request_rows(requests: Requests, makers: _Makers) -> Iterator[Row]:
    prompts = _prompts(requests, makers)
    for row in range(len(requests)):
        yield {
            "type": "req",
            "id": str(row),
            "arr": _ticks(requests.arrive_s, row),
            "prompt": [list(piece) for piece in prompts[row]],
            "plen": int(requests.isl_tokens[row]),
            "out": int(requests.osl_tokens[row]),
            **_extras(requests, row),
        }


def _extras(requests: Requests, row: int) -> Row:
    found: Row = {}
    if requests.priority is not None and requests.priority[row]:
        found["prio"] = int(requests.priority[row])
    if requests.adapter_id is not None and requests.adapter_id[row] >= 0:
        found["lora"] = int(requests.adapter_id[row]) + 1  # 0 means none there
    if requests.abort_s is not None and not np.isnan(requests.abort_s[row]):
        found["abort"] = _ticks(requests.abort_s, row)
    if requests.remote_prefill is not None and requests.remote_prefill[row]:
        found["kv"] = {"do_remote_prefill": True}
    if requests.hold_s is not None and not np.isnan(requests.hold_s[row]):
        found["kv"] = {"do_remote_decode": True, "hold_ns": _ticks(requests.hold_s, row)}
    return found


def _ticks(column: FloatColumn, row: int) -> int:
    return round(float(column[row]) * 1e12)


# --- prompts --------------------------------------------------------------------------------------------


def _prompts(requests: Requests, makers: _Makers) -> list[list[_Piece]]:
    if requests.prefix is None:
        return [[(f"u{row}", 0, int(length))] for row, length in enumerate(requests.isl_tokens)]
    _check_adapters(requests, requests.prefix)
    return [_prompt(requests, requests.prefix, row, makers) for row in range(len(requests))]


def _runs(prefix: PrefixRuns, row: int) -> Iterator[tuple[int, int, int]]:
    """First id, number of ids, and number of ids before, of each run of a request."""
    before = 0
    for run in range(int(prefix.offsets[row]), int(prefix.offsets[row + 1])):
        count = int(prefix.counts[run])
        yield int(prefix.first_ids[run]), count, before
        before += count


def _check_adapters(requests: Requests, prefix: PrefixRuns) -> None:
    """Under two adapters the same tokens make different blocks: refuse ids that say otherwise."""
    if requests.adapter_id is None:
        return
    seen: dict[int, int] = {}
    for row, adapter in enumerate(requests.adapter_id.tolist()):
        for first, _, before in _runs(prefix, row):
            if before == 0 and seen.setdefault(first, adapter) != adapter:
                raise InputError(
                    f"shares block {first} with a request under another adapter", file="requests", place=f"row {row}"
                )


def _makers(lengths: list[int], prefix: PrefixRuns) -> tuple[_Makers, bool]:
    """Say which request's output makes a block, and whether several would."""
    makers: _Makers = {}
    ambiguous = False
    for row, length in enumerate(lengths):
        prompt_blocks = length // prefix.block_tokens
        for first, count, before in _runs(prefix, row):
            for index in range(max(before, prompt_blocks), before + count):
                mine = (row, length - index * prefix.block_tokens)
                ambiguous |= makers.setdefault(first + index - before, mine) != mine
    return makers, ambiguous


def _prompt(requests: Requests, prefix: PrefixRuns, row: int, makers: _Makers) -> list[_Piece]:
    length, size = int(requests.isl_tokens[row]), prefix.block_tokens
    pieces: list[_Piece] = []
    left = length
    for first, count, _ in _runs(prefix, row):
        for block in range(first, first + count):
            for stream, start, tokens in _block(block, size, makers):
                taken = min(tokens, left)
                _append(pieces, stream, start, taken)
                left -= taken
    _append(pieces, f"u{row}", length - left, left)
    return pieces


def _block(block: int, size: int, makers: _Makers) -> tuple[_Piece, ...]:
    if block not in makers:
        return (("b", block * size, size),)
    maker, prompt_tokens = makers[block]
    if prompt_tokens <= 0:
        return ((f"o:{maker}", -prompt_tokens, size),)
    return (("b", block * size, prompt_tokens), (f"o:{maker}", 0, size - prompt_tokens))


def _append(pieces: list[_Piece], stream: str, start: int, count: int) -> None:
    """Add tokens, as part of the last piece where they continue it."""
    if pieces and pieces[-1][0] == stream and pieces[-1][1] + pieces[-1][2] == start:
        _, start, before = pieces.pop()
        count += before
    if count:
        pieces.append((stream, start, count))
