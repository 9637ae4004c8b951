"""How a row's GPUs are spread: replicas of tp · pp · dp, experts over ep; prefill and decode apart or together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from headway.perf.formats import WEIGHT_BYTES
from headway.types import Parallelism
from headway.validation.flags import attention_dp
from headway.validation.names import Assumption
from headway.validation.recipes import apart, side, stated_workers

if TYPE_CHECKING:
    from headway.types import Accelerator, Dtype, Model
    from headway.validation.measurements import Measurement
    from headway.validation.recipes import Recipe, Workers
    from headway.validation.sources import Harness

#: Of one GPU's memory, what weights may take where nobody says how a model is spread: the rest holds KV.
MOST_WEIGHTS_FRAC = 0.8
#: Tensor parallelism beyond the eight GPUs of a node is attention data parallelism wearing its number.
_MOST_TP = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """One pool: its role, how each replica is spread, and how many there are; the workers a recipe lists for it."""

    role: Literal["mixed", "prefill", "decode"]
    parallelism: Parallelism
    replicas: int
    listed: Workers | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Spreader:
    """Spreads one row; what it takes for granted it adds to `said`."""

    row: Measurement
    model: Model
    accelerator: Accelerator
    dtype: Dtype
    harness: Harness
    said: list[Assumption]

    def spreads(self, recipe: Recipe | None) -> tuple[Spread, ...]:
        """Return the pools of the row: one, or a prefill and a decode pool."""
        if recipe is not None:
            if recipe.prefill is None:
                return (self._listed("mixed", recipe.decode),)
            return (self._listed("prefill", recipe.prefill), self._listed("decode", recipe.decode))
        if stated := stated_workers(self.row.note):
            return self._apart(stated)
        if apart(self.row) and (self.row.tp or 0) > _MOST_TP:
            return self._halves_of(self.row.tp or 0)
        whole = self._whole()
        if "disagg" in self.row.features:
            return self._halves(whole)
        return (Spread(role="mixed", parallelism=whole, replicas=self._replicas(whole)),)

    def _listed(self, role: Literal["mixed", "prefill", "decode"], workers: Workers) -> Spread:
        tp, dp = (1, workers.gpus) if workers.attention_dp else (workers.gpus, 1)
        spread = self._possible(tp, 1, dp, workers.ep, listed=True)
        return Spread(role=role, parallelism=spread, replicas=workers.count, listed=workers)

    # -- one pool ----------------------------------------------------------------------------------
    def _whole(self) -> Parallelism:
        row = self.row
        tp, pp, dp, ep = row.tp or None, row.pp or 1, row.dp or 1, row.ep or 1
        gpus = self._gpus()
        if gpus and gpus != row.gpus:
            tp, dp, ep = (1, gpus, gpus) if tp == 1 else (gpus, 1, gpus)
        if gpus and dp * (tp or 1) * pp > gpus >= dp:  # each GPU is counted as a rank of both
            tp = gpus // dp
        if tp is None:
            tp = max((gpus or dp * pp) // (dp * pp), 1) if dp > 1 else self._smallest(pp)
        if tp > 1 and dp == 1 and attention_dp(row.note):
            tp, dp = 1, tp
        if tp > 1 and dp == pp == 1 and self.harness.experts_attention_dp and self.model.is_moe:
            text = f"attention data parallelism over {tp} GPUs, as its harness runs models with experts"
            self.said.append(Assumption(code="attention_dp_of_harness", text=text))
            tp, dp, ep = 1, tp, tp
        return self._possible(tp, pp, dp, ep)

    def _gpus(self) -> int | None:
        """Return the GPUs of the row, where it counts n · n of them (tp × ep) those there were."""
        row = self.row
        if (
            not row.gpus
            or (row.ep or 1) == 1
            or self.accelerator.scale_up_gpus > _MOST_TP
            or row.features != "aggregated"
        ):
            return row.gpus
        if (gpus := side(row.gpus)) != row.gpus:
            text = f"{row.gpus} GPUs on nodes of eight, of tp × ep: {gpus}"
            self.said.append(Assumption(code="gpus_squared", text=text))
        return gpus

    def _smallest(self, pp: int) -> int:
        """Return the fewest GPUs that hold the weights with room for KV; all of them where they are fewer still."""
        weights = self.model.params * WEIGHT_BYTES[self.dtype] / pp
        room, most, tp = MOST_WEIGHTS_FRAC * self.accelerator.hbm_bytes, self.row.gpus or 64, 1
        while tp * 2 <= most and weights / tp > room:
            tp *= 2
        text = f"tp {tp}: the fewest GPUs that hold the weights"
        self.said.append(Assumption(code="tp_smallest_that_fits", text=text))
        return tp

    def _possible(self, tp: int, pp: int, dp: int, ep: int, *, listed: bool = False) -> Parallelism:
        """Return the nearest spread the model's shape allows."""
        model, kv = self.model, self.model.num_key_value_heads
        divides = model.num_attention_heads % tp == 0 and (model.is_mla or kv % tp == 0 or tp % kv == 0)
        if (tp > _MOST_TP and model.is_moe and not listed) or not divides:
            inner = 1 if model.is_moe else _divisor(model, tp)
            text = f"tp {tp} as attention data parallelism over {tp // inner} ranks"
            self.said.append(Assumption(code="tp_as_attention_dp", text=text))
            tp, dp, ep = inner, dp * tp // inner, max(ep, tp)
        return Parallelism(tp=tp, pp=min(pp, model.num_hidden_layers), dp=dp, ep=_experts(model, tp * dp, ep))

    def _replicas(self, whole: Parallelism) -> int:
        gpus = self.row.gpus
        if not gpus or gpus <= whole.gpus or side(gpus) == whole.gpus:
            return 1
        count = gpus // whole.gpus
        text = f"{count} replicas on {gpus} GPUs"
        self.said.append(Assumption(code="data_parallel_replicas", text=text))
        if gpus % whole.gpus:
            self.said.append(Assumption(code="gpus_contradict", text=f"{gpus} GPUs are no multiple of {whole}"))
        return count

    # -- two pools ---------------------------------------------------------------------------------
    def _apart(self, stated: tuple[tuple[int | None, int, int, int], ...]) -> tuple[Spread, ...]:
        (workers, *before), (servers, *after) = stated
        if before == after and before[0] > _MOST_TP:  # the total, counted for both
            return self._halves_of(before[0])
        prefill, decode = (self._fits(*words) for words in (before, after))
        workers, servers = self._counts(prefill, decode, workers, servers)
        return (
            Spread(role="prefill", parallelism=prefill, replicas=workers),
            Spread(role="decode", parallelism=decode, replicas=servers),
        )

    def _fits(self, tp: int, dp: int, ep: int) -> Parallelism:
        """Return what a row states, or the fewest GPUs that hold the weights where that would not."""
        weights = self.model.params * WEIGHT_BYTES[self.dtype]
        if weights / (tp * dp) > self.accelerator.hbm_bytes:
            tp, dp = self._smallest(1), 1
        return self._possible(tp, 1, dp, ep)

    def _counts(
        self, prefill: Parallelism, decode: Parallelism, workers: int | None, servers: int | None
    ) -> tuple[int, int]:
        """Complete how many there are: from the GPUs of the whole where they are known, else one of each."""
        if workers and servers:
            return workers, servers
        servers = servers or 1
        rest = (self.row.gpus or 0) - servers * decode.gpus
        workers = workers or max(rest // prefill.gpus, 1)
        text = f"{workers} prefill, {servers} decode: the row does not count them"
        self.said.append(Assumption(code="workers_unknown", text=text))
        return workers, servers

    def _halves(self, whole: Parallelism) -> tuple[Spread, ...]:
        """Prefill and decode of the same spread, on half of the GPUs each."""
        each = max((self.row.gpus or 0) // (2 * whole.gpus), 1)
        text = f"{each} × {whole} for prefill and as much for decode: the row says no more"
        self.said.append(Assumption(code="halves", text=text))
        return (
            Spread(role="prefill", parallelism=whole, replicas=each),
            Spread(role="decode", parallelism=whole, replicas=each),
        )

    def _halves_of(self, gpus: int) -> tuple[Spread, ...]:
        """Split a total: prefill workers of the fewest GPUs on half of it, the rest decodes as one."""
        prefill = self._fits(1, 1, 1)
        workers = max(gpus // 2 // prefill.gpus, 1)
        decode = self._possible(1, 1, max(gpus - workers * prefill.gpus, prefill.gpus), gpus)
        text = f"{gpus} GPUs in all: {workers} × {prefill} for prefill, {decode} for decode"
        self.said.append(Assumption(code="halves", text=text))
        return (
            Spread(role="prefill", parallelism=prefill, replicas=workers),
            Spread(role="decode", parallelism=decode, replicas=1),
        )


def _divisor(model: Model, tp: int) -> int:
    fits = [n for n in range(1, tp + 1) if tp % n == 0 and model.num_attention_heads % n == 0]
    return max(n for n in fits if model.num_key_value_heads % n == 0 or n % model.num_key_value_heads == 0)


def _experts(model: Model, gpus: int, ep: int) -> int:
    """Return the largest number of ranks, at most `ep`, that divides the GPUs and finds an expert for each."""
    if not model.is_moe:
        return 1
    return max(n for n in range(1, gpus + 1) if gpus % n == 0 and n <= max(min(ep, model.num_experts), 1))
