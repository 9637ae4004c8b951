"""Replays a disaggregated deployment: a prefill pool and a decode pool, each a closed loop that waits for the other.

A client's request spends T in the prefill pool and on the way, then D in the decode pool. To the prefill pool a client
comes back D after it left, to the decode pool T after: two simulations, each with the other's mean as the clients'
turnaround. D is first taken from the decode pool's step time at n = C · D / (D + T) sequences, in turn with T, then
the decode pool is simulated once with the T that came of it.

TTFT is that of the prefill pool and the transfer of the prompt's KV; TPOT, ITL and throughput are the decode pool's.
On a decode replica a prompt costs nothing but its room: its KV comes from elsewhere (`_decoding`).

Where a row does not say how many workers there are, there are as many decode workers as its clients need at their
seats and KV, and as few prefill workers as keep up with them `KEEP_UP_FRAC` of the time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from headway.perf.formats import KV_BYTES
from headway.perf.regions import decode_ps
from headway.perf.shapes import kv_elements
from headway.simulator import simulate
from headway.types import SglangSettings, StepTable
from headway.validation.figures import answers, figures, later
from headway.validation.loads import Lengths, share

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headway.types import Pool, Replica
    from headway.validation.figures import Figures
    from headway.validation.loads import Load

#: Busy share of prefill workers at which they still keep up with bursts: a usual sizing target.
KEEP_UP_FRAC = 0.8
#: Turns after which T and D change by less than the noise of a measurement.
_TURNS = 4
#: Prompts a decode replica can take in one step.
_ADMITTED = 32
_PS_PER_S = 1e12


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired:
    """What a decode pool has to know of its prefill pool."""

    pools: tuple[Pool, Pool]  # their workers counted
    wait_s: float  # from a client's request to its first decode, on average
    moved_s: float  # of it, the transfer of the KV
    prefilled: Figures  # of the prefill pool
    assumed: tuple[str, ...] = ()


def balance(
    pools: Sequence[Pool], ones: Sequence[Replica], load: Load, *, seed: int, counted: bool, speed: float = 1.0
) -> Paired:
    """Find what requests spend before they decode.

    Args:
        pools: prefill and decode.
        ones: a replica of each.
        load: what was asked.
        seed: of what is drawn.
        counted: whether the pools' replicas are the row's own; otherwise they are chosen, as said above.
        speed: output tokens of a step.

    Raises:
        InfeasibleError: no request could be served.
        InputError: the simulator cannot run it.
    """
    (prefill, decode), (first, second) = pools, ones
    steps = load.osl_tokens.mean / speed
    assumed: tuple[str, ...] = ()
    if not counted:
        prefill, decode = _sized(prefill, decode, first, second, load, steps)
        assumed = (f"{prefill.replicas} prefill and {decode.replicas} decode workers: the row does not say",)
    moved_s = _transfer_s(prefill, load)
    prompts = replace(load, osl_tokens=Lengths(low=1, high=1))
    drawn = share(prompts, prefill.replicas, prefill.settings.max_num_seqs, seed)
    clients = max(_clients(load, second, steps) / decode.replicas, 1.0)
    known: Figures = {}
    sequences, wait_s = clients, 0.0
    for _ in range(_TURNS):
        decode_s = _decode_s(second, sequences, load, steps)
        away_s = decode_s + moved_s if drawn.clients else 0.0
        found = simulate(drawn.requests, first, concurrency=drawn.clients, turnaround_s=away_s)
        known = figures(answers(drawn, found, first), drawn, found, prefill.replicas)
        wait_s = known["ttft_s"]["mean"] + moved_s
        sequences = max(clients * decode_s / (decode_s + wait_s), 1.0)
    return Paired(pools=(prefill, decode), wait_s=wait_s, moved_s=moved_s, prefilled=known, assumed=assumed)


def _clients(load: Load, one: Replica, steps: float) -> float:
    """Return the requests in flight: the loop's, or by Little's law those of a stream; a batch fills the seats."""
    if load.concurrency:
        return load.concurrency
    if load.rate_per_s is None:
        return one.settings.max_num_seqs
    return load.rate_per_s * _decode_s(one, 1.0, load, steps)


def _decode_s(one: Replica, sequences: float, load: Load, steps: float) -> float:
    """Return how long a request decodes in a batch of so many, as far as there are seats."""
    batch = max(min(round(sequences), one.settings.max_num_seqs), 1)
    context = load.isl_tokens.mean + load.osl_tokens.mean / 2
    return steps * decode_ps(one.step, batch, context) / _PS_PER_S


def _prefill_s(one: Replica, load: Load) -> float:
    """Return how long one prompt takes by itself."""
    tokens, most = round(load.isl_tokens.mean), one.settings.max_num_batched_tokens
    whole, rest = divmod(tokens, most)
    steps_ps = whole * int(one.step.mixed_ps[most]) + (int(one.step.mixed_ps[rest]) if rest else 0)
    return (steps_ps + one.step.prefill_ps_per_pair * tokens * tokens) / _PS_PER_S


def _sized(prefill: Pool, decode: Pool, first: Replica, second: Replica, load: Load, steps: float) -> tuple[Pool, Pool]:
    """Choose how many workers there are, as said above."""
    clients = max(round(_clients(load, second, steps)), 1)
    longest = load.isl_tokens.high + load.osl_tokens.high
    room = second.num_gpu_blocks * second.settings.block_size // longest
    workers = -(-clients // max(min(second.settings.max_num_seqs, room), 1))
    rate_per_s = clients / _decode_s(second, clients / workers, load, steps)
    keeping_up = -(-rate_per_s * _prefill_s(first, load) // KEEP_UP_FRAC)
    return replace(prefill, replicas=max(int(keeping_up), 1)), replace(decode, replicas=workers)


def _transfer_s(prefill: Pool, load: Load) -> float:
    """Return how long the KV of a prompt travels: every GPU of a worker sends what it holds, over its own link."""
    model, accelerator = prefill.model, prefill.accelerator
    layers = (model.full_attention_layers + model.sliding_window_layers) / prefill.parallelism.pp
    held_bytes = layers * kv_elements(model, prefill.parallelism.tp) * KV_BYTES[prefill.kv_dtype]
    near = accelerator.scale_up_gpus > accelerator.gpus_per_node  # racks in one domain, such as NVL72
    link_bytes_per_s = accelerator.scale_up_bytes_per_s if near else accelerator.scale_out_bytes_per_s
    return load.isl_tokens.mean * held_bytes / link_bytes_per_s


def decoding(one: Replica, load: Load) -> Replica:
    """Return a replica to which prompts come computed: they take their room, and ride along with the decodes.

    In an engine that runs prompts apart from decodes (SGLang), such a step takes no time at all.
    """
    most = load.isl_tokens.high * _ADMITTED + one.settings.max_num_seqs
    clients = min(load.concurrency or 1, one.settings.max_num_seqs)
    apart = one.settings.engine == "sglang"
    ride_ps = 1 if apart else int(one.step.decode_ps[clients])
    step = StepTable(
        decode_ps=one.step.decode_ps,
        mixed_ps=np.full(most + 1, ride_ps, np.int64),
        context_ps_per_token=one.step.context_ps_per_token,
        window_ps_per_token=one.step.window_ps_per_token,
        window_tokens=one.step.window_tokens,
        prefill_ps_per_pair=0,
    )
    own = SglangSettings(chunked_prefill_size=-1, max_prefill_tokens=most) if apart else one.settings.own
    settings = replace(one.settings, max_num_batched_tokens=most, own=own)
    return replace(one, settings=settings, step=step)


def joined(known: Figures, paired: Paired) -> Figures:
    """Return the decode pool's figures with the prefill pool's TTFT; a mean E2E is the sum of means."""
    ttft = later(paired.prefilled, paired.moved_s)["ttft_s"]
    return later(known, paired.wait_s) | {"ttft_s": ttft}
