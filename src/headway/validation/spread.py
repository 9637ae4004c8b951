"""How a row's GPUs are spread: replicas of tp · pp · dp, experts over ep; prefill and decode apart or together."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from headway.perf.formats import WEIGHT_BYTES
from headway.types import Parallelism
from headway.validation.flags import attention_dp
from headway.validation.names import Assumption

if TYPE_CHECKING:
    from headway.types import Accelerator, Dtype, Model
    from headway.validation.measurements import Measurement

#: Of one GPU's memory, what weights may take where nobody says how a model is spread: the rest holds KV.
MOST_WEIGHTS_FRAC = 0.8
#: Tensor parallelism beyond the eight GPUs of a node is attention data parallelism wearing its number.
_MOST_TP = 8
_WORKERS = re.compile(
    r"prefill (\?|\d+) workers? x \(tp(\d+),dp(\d+),ep(\d+)\); decode (\?|\d+) x \(tp(\d+),dp(\d+),ep(\d+)\)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """One pool: its role, how each replica is spread, and how many there are."""

    role: Literal["mixed", "prefill", "decode"]
    parallelism: Parallelism
    replicas: int


def spreads_of(
    row: Measurement, model: Model, accelerator: Accelerator, dtype: Dtype, said: list[Assumption]
) -> tuple[Spread, ...]:
    """Return the pools of a row: one, or a prefill and a decode pool."""
    if found := _WORKERS.search(row.note):
        return _apart(row, found, model, said)
    if "disagg" in row.features:
        return _halves(row, model, accelerator, dtype, said)
    whole = _whole(row, model, accelerator, dtype, said)
    return (Spread(role="mixed", parallelism=whole, replicas=_replicas(row, whole, said)),)


def _whole(
    row: Measurement, model: Model, accelerator: Accelerator, dtype: Dtype, said: list[Assumption]
) -> Parallelism:
    tp, pp, dp = row.tp, row.pp or 1, row.dp or 1
    if row.gpus and dp * (tp or 1) * pp > row.gpus >= dp:  # each GPU is counted as a rank of both
        tp = row.gpus // dp
    if tp is None and dp > 1:
        tp = max((row.gpus or dp * pp) // (dp * pp), 1)
    if tp is None:
        tp = _smallest(row, model, accelerator, dtype, pp, said)
    if (row.ep or 1) > 1 and dp == 1 and attention_dp(row.note):
        tp, dp = 1, tp
    return _possible(model, tp, pp, dp, row.ep or 1, said)


def _smallest(
    row: Measurement, model: Model, accelerator: Accelerator, dtype: Dtype, pp: int, said: list[Assumption]
) -> int:
    """Return the fewest GPUs that hold the weights with room for KV; all of them where they are fewer still."""
    weights = model.params * WEIGHT_BYTES[dtype] / pp
    most = row.gpus or 64
    tp = 1
    while tp * 2 <= most and (
        weights / tp > MOST_WEIGHTS_FRAC * accelerator.hbm_bytes or model.num_attention_heads % tp
    ):
        tp *= 2
    said.append(Assumption(code="tp_smallest_that_fits", text=f"tp {tp}: the fewest GPUs that hold the weights"))
    return tp


def _possible(model: Model, tp: int, pp: int, dp: int, ep: int, said: list[Assumption]) -> Parallelism:
    """Return the nearest spread the model's shape allows."""
    kv = model.num_key_value_heads
    divides = model.num_attention_heads % tp == 0 and (model.is_mla or kv % tp == 0 or tp % kv == 0)
    if (tp > _MOST_TP and model.is_moe) or not divides:
        inner = 1 if model.is_moe else _divisor(model, tp)
        text = f"tp {tp} as attention data parallelism over {tp // inner} ranks: {model.num_attention_heads} heads"
        said.append(Assumption(code="tp_as_attention_dp", text=text))
        tp, dp, ep = inner, dp * tp // inner, max(ep, tp)
    return Parallelism(tp=tp, pp=pp, dp=dp, ep=_experts(model, tp * dp, ep))


def _divisor(model: Model, tp: int) -> int:
    fits = [n for n in range(1, tp + 1) if tp % n == 0 and model.num_attention_heads % n == 0]
    return max(n for n in fits if model.num_key_value_heads % n == 0 or n % model.num_key_value_heads == 0)


def _experts(model: Model, gpus: int, ep: int) -> int:
    """Return the largest number of ranks, at most `ep`, that divides the GPUs and finds an expert for each."""
    if not model.is_moe:
        return 1
    return max(n for n in range(1, gpus + 1) if gpus % n == 0 and n <= max(min(ep, model.num_experts), 1))


def _replicas(row: Measurement, whole: Parallelism, said: list[Assumption]) -> int:
    if not row.gpus or row.gpus == whole.gpus:
        return 1
    if row.gpus % whole.gpus == 0:
        count = row.gpus // whole.gpus
        said.append(Assumption(code="data_parallel_replicas", text=f"{count} replicas on {row.gpus} GPUs"))
        return count
    said.append(Assumption(code="gpus_contradict", text=f"{row.gpus} GPUs are no multiple of {whole}: one replica"))
    return 1


def _apart(row: Measurement, found: re.Match[str], model: Model, said: list[Assumption]) -> tuple[Spread, ...]:
    words = found.groups()
    prefill = _possible(model, int(words[1]), 1, int(words[2]), int(words[3]), said)
    decode = _possible(model, int(words[5]), 1, int(words[6]), int(words[7]), said)
    counts = [None if words[i] == "?" else int(words[i]) for i in (0, 4)]
    workers, servers = _counts(row, prefill, decode, counts[0], counts[1], said)
    return (
        Spread(role="prefill", parallelism=prefill, replicas=workers),
        Spread(role="decode", parallelism=decode, replicas=servers),
    )


def _counts(
    row: Measurement,
    prefill: Parallelism,
    decode: Parallelism,
    workers: int | None,
    servers: int | None,
    said: list[Assumption],
) -> tuple[int, int]:
    """Complete how many there are: from the GPUs of the whole where they are known, else one of each."""
    if workers and servers:
        return workers, servers
    if row.gpus and row.gpus > decode.gpus:
        servers = servers or 1
        workers = workers or max((row.gpus - servers * decode.gpus) // prefill.gpus, 1)
        said.append(
            Assumption(code="workers_from_gpus", text=f"{workers} prefill and {servers} decode of {row.gpus} GPUs")
        )
        return workers, servers
    said.append(Assumption(code="workers_unknown", text="the row does not count its workers: one of each"))
    return workers or 1, servers or 1


def _halves(
    row: Measurement, model: Model, accelerator: Accelerator, dtype: Dtype, said: list[Assumption]
) -> tuple[Spread, ...]:
    """Prefill and decode of the same spread, on half of the GPUs each."""
    whole = _whole(row, model, accelerator, dtype, said)
    each = max((row.gpus or 0) // (2 * whole.gpus), 1)
    said.append(
        Assumption(code="halves", text=f"{each} × {whole} for prefill and as much for decode: the row says no more")
    )
    return (
        Spread(role="prefill", parallelism=whole, replicas=each),
        Spread(role="decode", parallelism=whole, replicas=each),
    )
